"""What a kernel could write into a journal, and how it is compared."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st

from zmqex.adapters.storage.journal import Journal
from zmqex.errors import StorageError
from zmqex.kernel.records import (
    ArchiveOrder,
    ArchiveTrade,
    DropFork,
    DropOutbox,
    DropPeer,
    ForkedLog,
    KnownPeer,
    OutboxLine,
    OwnBatch,
    OwnCheckpoint,
    OwnOrder,
    PutBatch,
    PutCheckpoint,
    PutCommand,
    PutCounter,
    PutFork,
    PutLine,
    PutOrder,
    PutOutbox,
    PutPeer,
    PutTrade,
    Snapshot,
    Trade,
    TradeLine,
    Write,
)
from zmqex.trading.states import State, TradeRole

ORDER = OwnOrder(b"o" * 32, "BTC/USD", b"terms", "open", 1, 1_000)
TRADE = Trade(
    trade_id=b"t" * 32,
    role=TradeRole.MAKER,
    take_id=b"i" * 32,
    order_id=b"o" * 32,
    own_order_id=b"o" * 32,
    market="BTC/USD",
    side="buy",
    maker=b"m" * 32,
    taker=b"k" * 32,
    quantity_lots=10,
    price_ticks=100,
    settlement="plain",
    state=State.RESERVED,
    revision=1,
    created_ms=1_000,
    updated_ms=1_000,
    payment_hash=b"h" * 32,
    fence=1,
)


def trade(number: int, **changes: Any) -> Trade:  # noqa: ANN401
    """Another trade, equal but for its ids and the changes."""
    mark = bytes([number]) * 32
    ids: dict[str, Any] = {
        "trade_id": mark,
        "take_id": mark,
        "payment_hash": mark,
        "own_order_id": mark,
    }
    ids |= {"fence": 2 + number}
    return msgspec.structs.replace(TRADE, **{**ids, **changes})


def later(record: Any, **changes: Any) -> Any:  # noqa: ANN401
    """A record with changes."""
    return msgspec.structs.replace(record, **changes)


def commit(journal: Journal, *writes: Write) -> StorageError | None:
    """Commit and wait for the answer."""
    told = threading.Event()
    answers: list[StorageError | None] = []

    def done(error: StorageError | None) -> None:
        answers.append(error)
        told.set()

    journal.commit(writes, done)
    assert told.wait(10)
    return answers[0]


def reopened(path: Path) -> Snapshot:
    """What a new process finds."""
    journal = Journal(path)
    try:
        return journal.load()
    finally:
        journal.close()


def same(one: Snapshot, other: Snapshot) -> bool:
    """Equal, where only orders, trades, peers have no order of their own."""

    def key(record: Any) -> bytes:  # noqa: ANN401
        return msgspec.msgpack.encode(record)

    loose = {"orders", "trades", "peers"}
    return all(
        (sorted(getattr(one, name), key=key) == sorted(getattr(other, name), key=key))
        if name in loose
        else getattr(one, name) == getattr(other, name)
        for name in Snapshot.__struct_fields__
    )


# --- histories ---------------------------------------------------------------------------------

IDS = st.integers(0, 3).map(lambda number: bytes([number]) * 32)
TEXT = st.text(max_size=8)
BLOB = st.binary(max_size=40)
NUMBER = st.integers(0, 2**63 - 1)


class Past:
    """What was written so far: a kernel never contradicts it, so neither does a history."""

    def __init__(self, draw: st.DrawFn) -> None:
        """Nothing was written."""
        self.draw = draw
        self.revisions: dict[bytes, int] = {}
        self.outbox: set[bytes] = set()
        self.commands: set[str] = set()
        self.batches = 0

    def revise(self, key: bytes) -> int:
        """The next revision of a row."""
        self.revisions[key] = self.revisions.get(key, 0) + 1
        return self.revisions[key]

    def order(self, mark: bytes) -> Write:
        """A new or changed order."""
        draw = self.draw
        changes = {"order": draw(BLOB), "state": draw(TEXT), "filled_lots": draw(NUMBER)}
        revision = self.revise(b"order" + mark)
        return PutOrder(later(ORDER, order_id=mark, revision=revision, **changes))

    def trade(self, mark: bytes) -> Write:
        """A new or changed trade."""
        draw = self.draw
        made = trade(
            mark[0],
            revision=self.revise(mark),
            state=draw(st.sampled_from(State)),
            invoice=draw(TEXT),
            preimage=draw(BLOB),
            hold_expires_ms=draw(NUMBER),
            counted=draw(st.booleans()),
        )
        claimed = draw(st.sampled_from([0, made.quantity_lots]))
        return PutTrade(made, claimed, 4 * made.quantity_lots)

    def batch(self, mark: bytes) -> Write:
        """The next batch, or a checkpoint that drops some before it."""
        if self.batches and self.draw(st.booleans()):
            first = self.draw(st.integers(1, self.batches))
            rows = ((self.draw(BLOB), self.draw(NUMBER), 0),)
            return PutCheckpoint(OwnCheckpoint("BTC/USD", 1, self.batches, mark, rows), first)
        self.batches += 1
        return PutBatch(OwnBatch("BTC/USD", 1, self.batches, mark, self.draw(BLOB)))

    def message(self, mark: bytes) -> Write:
        """A message of a trade that is there, said again or delivered; it names its trade."""
        if mark not in self.revisions:
            return self.trade(mark)
        digest = mark[:31] + bytes([self.draw(st.integers(0, 9))])
        if self.draw(st.booleans()):
            return PutLine(TradeLine(mark, digest, b"s" * 32, digest))
        if digest in self.outbox:
            self.outbox.discard(digest)
            return DropOutbox(mark, digest)
        self.outbox.add(digest)
        return PutOutbox(OutboxLine(mark, digest, b"p" * 32, "trade", self.draw(BLOB)))

    def archive(self, mark: bytes) -> Write:
        """A trade or an order that is loaded no more until it changes."""
        if self.draw(st.booleans()):
            return ArchiveOrder(mark) if b"order" + mark in self.revisions else self.order(mark)
        friend = self.draw(st.sampled_from([b"", b"f" * 32]))
        return ArchiveTrade(mark, mark, friend) if mark in self.revisions else self.trade(mark)

    def peer(self, mark: bytes) -> Write:
        """A peer that is met or forgotten."""
        draw = self.draw
        known = KnownPeer(mark, draw(BLOB), draw(TEXT), draw(NUMBER), draw(st.booleans()))
        return PutPeer(known) if draw(st.booleans()) else DropPeer(mark)

    def fork(self, mark: bytes) -> Write:
        """A log that is proven to be forked, again or anew, or goes on."""
        market = self.draw(st.sampled_from(["BTC/USD", "BTC/EUR"]))
        if self.draw(st.booleans()):
            return DropFork(mark, market)
        return PutFork(ForkedLog(mark, market, self.draw(NUMBER), self.draw(BLOB)))

    def number(self, mark: bytes) -> Write:
        """A counter, or a command that was not heard yet."""
        key = self.draw(TEXT)
        if key in self.commands or self.draw(st.booleans()):
            name = self.draw(st.sampled_from(["fence", "epoch/x"]))
            return PutCounter(name, self.draw(NUMBER))
        self.commands.add(key)
        return PutCommand(key, mark)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[Write, ...]]:
    """Transactions that a kernel could write, over few ids, so that rows are replaced often."""
    past = Past(draw)
    kinds = [past.order, past.trade, past.batch, past.message, past.peer, past.fork, past.number]
    kinds += [past.archive, past.archive]
    return [
        tuple(draw(st.sampled_from(kinds))(draw(IDS)) for _ in range(draw(st.integers(1, 4))))
        for _ in range(draw(st.integers(0, 12)))
    ]
