"""The journal keeps everything as it was written, and nothing that contradicts itself."""

from __future__ import annotations

import sqlite3
import tempfile
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.outside import MemoryJournal
from tests.recalling import recall
from zmqex.adapters.storage.journal import MIGRATIONS, Journal
from zmqex.errors import ConfigError, StorageError
from zmqex.kernel.effects import Recall
from zmqex.kernel.records import (
    ArchiveOrder,
    ArchiveTrade,
    DropFork,
    DropOutbox,
    DropPeer,
    DropTrade,
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
from zmqex.limits import ARCHIVED_SHOWN_MAX
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


# --- what was written is there ---------------------------------------------------------------

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
        """A message of a trade, said again or delivered; of a trade that is there."""
        if mark not in self.revisions:
            return self.trade(mark)
        digest = self.draw(st.integers(0, 9)).to_bytes(32)
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


LOOKUPS = st.lists(
    st.tuples(
        st.sampled_from(["trade", "order", "hash"]),
        st.tuples(IDS, st.integers(4, 32)).map(lambda one: one[0][: one[1]]),
    )
    | TEXT.map(lambda key: ("key", key.encode())),
    min_size=1,
    max_size=2,
) | st.sampled_from([[("trades", b"")], [("orders", b"")]])


@given(histories(), st.lists(LOOKUPS, max_size=4))
@settings(max_examples=100)
def test_a_reopened_journal_has_what_was_written(
    groups: list[tuple[Write, ...]], lookups: list[list[tuple[str, bytes]]]
) -> None:
    """Compared with the model that all tests of the kernel stand on."""
    model = MemoryJournal()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite3"
        journal = Journal(path)
        for group in groups:
            model.commit(group)
            assert commit(journal, *group) is None
        assert journal.commits == len(groups)
        assert same(journal.load(), model.snapshot())
        for wanted in map(tuple, lookups):
            found = journal.recall(wanted).result()
            assert same(found, recall(model, Recall(1, wanted)).found)
        journal.close()
        assert same(reopened(path), model.snapshot())


def test_rows_come_back_in_the_order_in_which_they_count() -> None:
    """Orders and trades by their time, batches by sequence, messages as they were learnt."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.sqlite3")
        late = msgspec.structs.replace(ORDER, order_id=b"a" * 32, created_ms=2_000)
        lines = [TradeLine(TRADE.trade_id, bytes([one]) * 32, b"s" * 32, b"x") for one in (9, 1, 5)]
        batches = [
            OwnBatch("BTC/USD", epoch, one, b"d" * 32, b"e") for epoch, one in ((1, 10), (2, 1))
        ]
        writes = [PutOrder(late), PutOrder(ORDER), PutTrade(TRADE, 10, 10)]
        more = [*map(PutLine, lines), *map(PutBatch, reversed(batches))]
        assert commit(journal, *writes, *more) is None
        found = journal.load()
        assert [one.created_ms for one in found.orders] == [1_000, 2_000]
        assert list(found.lines) == lines
        assert list(found.batches) == batches
        count = "SELECT count(*) FROM trade"
        assert journal.read(lambda one: one.execute(count).fetchone()).result() == (1,)
        journal.close()


def test_no_more_of_the_archive_is_read_than_may_be_told(tmp_path: Path) -> None:
    """The newest trades of all and of one order; a start loads none of them."""
    journal = Journal(tmp_path / "journal.sqlite3")
    writes: list[Write] = [PutOrder(ORDER), ArchiveOrder(ORDER.order_id)]
    for number in range(ARCHIVED_SHOWN_MAX + 1):
        key = number.to_bytes(32)
        ids = {"trade_id": key, "take_id": key, "payment_hash": key, "fence": number + 1}
        writes.append(PutTrade(later(TRADE, created_ms=number, **ids), 0, 10))
        writes.append(ArchiveTrade(key, ORDER.order_id))
    assert commit(journal, *writes) is None
    loaded = journal.load()
    assert (loaded.trades, loaded.orders) == ((), ())
    assert len(loaded.names) == 2 * (ARCHIVED_SHOWN_MAX + 1) + 1
    for wanted in (("trades", b""), ("order", ORDER.order_id)):
        found = journal.recall((wanted,)).result()
        assert len(found.trades) == ARCHIVED_SHOWN_MAX
        assert min(one.created_ms for one in found.trades) == 1
    journal.close()


@pytest.mark.parametrize("why_not", ["", "a quantity", "something to say"])
def test_only_a_trade_of_no_quantity_is_forgotten(why_not: str) -> None:
    """With its transcript, and once nothing of it waits to be said."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite3"
        journal = Journal(path)
        empty = msgspec.structs.replace(
            TRADE, trade_id=b"e" * 32, take_id=b"e", quantity_lots=0, fence=0, payment_hash=b""
        )
        writes: list[Write] = [
            PutTrade(TRADE, 10, 10),
            PutTrade(empty, 0, 0),
            PutLine(TradeLine(empty.trade_id, b"d" * 32, b"s" * 32, b"x")),
        ]
        if why_not == "something to say":
            writes.append(
                PutOutbox(OutboxLine(empty.trade_id, b"d" * 32, b"p" * 32, "trade", b"x"))
            )
        assert commit(journal, *writes) is None
        one = TRADE if why_not == "a quantity" else empty
        refused = commit(journal, DropTrade(one.trade_id))
        journal.close()
        found = reopened(path)
        if why_not:
            assert isinstance(refused, StorageError)
            assert (len(found.trades), len(found.lines)) == (2, 1)
        else:
            assert refused is None
            assert (found.trades, found.lines) == ((TRADE,), ())


# --- what contradicts is not kept ------------------------------------------------------------

BEFORE: tuple[Write, ...] = (
    PutOrder(ORDER),
    PutTrade(TRADE, 10, 15),
    PutBatch(OwnBatch("BTC/USD", 1, 1, b"d" * 32, b"e")),
    PutOutbox(OutboxLine(TRADE.trade_id, b"d" * 32, b"p" * 32, "trade", b"e")),
    PutCommand("key", b"o" * 32),
    PutCounter("fence", 5),
)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (PutOrder(ORDER), "contradicts"),
        (PutOrder(later(ORDER, revision=3)), "what comes before order"),
        (PutOrder(later(ORDER, order_id=b"x" * 32, revision=2)), "what comes before order"),
        (PutTrade(TRADE, 10, 10), "contradicts"),
        (PutTrade(later(TRADE, revision=3), 10, 10), "what comes before trade"),
        (PutTrade(trade(1, revision=2), 0, 10), "what comes before trade"),
        (PutTrade(trade(1, take_id=TRADE.take_id), 0, 10), "contradicts"),
        (PutTrade(trade(1, payment_hash=TRADE.payment_hash), 0, 10), "belongs to another trade"),
        (PutTrade(trade(1, fence=TRADE.fence), 0, 10), "contradicts"),
        (PutTrade(trade(1, quantity_lots=6), 6, 15), "16 lots are claimed, it has 15"),
        (PutTrade(later(TRADE, revision=2), 10, 9), "10 lots are claimed, it has 9"),
        (PutTrade(trade(1), 11, 99), "contradicts"),
        (PutBatch(OwnBatch("BTC/USD", 1, 1, b"f" * 32, b"g")), "contradicts"),
        (PutLine(TradeLine(b"x" * 32, b"f" * 32, b"s" * 32, b"e")), "FOREIGN KEY"),
        (PutOutbox(OutboxLine(TRADE.trade_id, b"d" * 32, b"p" * 32, "trade", b"e")), "contradicts"),
        (PutCommand("key", b"x" * 32), "contradicts"),
    ],
)
def test_what_contradicts_the_journal_ends_it_and_leaves_nothing(
    tmp_path: Path, wrong: Write, words: str
) -> None:
    """Neither the write nor what stood beside it; nothing is taken afterwards either."""
    path = tmp_path / "journal.sqlite3"
    journal = Journal(path)
    assert commit(journal, *BEFORE) is None
    before = journal.load()
    error = commit(journal, PutCounter("fence", 9), wrong, PutCommand("more", b"x" * 32))
    assert isinstance(error, StorageError)
    assert words in str(error)
    assert commit(journal, PutCounter("fence", 99)) is error
    with pytest.raises(StorageError):
        journal.load()
    journal.close()
    assert same(reopened(path), before)


def test_a_group_is_kept_or_lost_as_a_whole(tmp_path: Path) -> None:
    """Several transactions that wait for the disk together fail together."""
    path = tmp_path / "journal.sqlite3"
    ready, go = threading.Event(), threading.Event()

    def hold(moment: str, number: int) -> None:
        if (moment, number) == ("before", 1):
            ready.set()
            go.wait(10)

    journal = Journal(path, on_commit=hold)
    answers: dict[str, StorageError | None] = {}
    journal.commit((PutCounter("a", 1),), lambda error: answers.update(first=error))
    assert ready.wait(10)
    journal.commit((PutCounter("b", 1),), lambda error: answers.update(second=error))
    wrong = PutOrder(msgspec.structs.replace(ORDER, revision=2))
    journal.commit((wrong,), lambda error: answers.update(third=error))
    go.set()
    journal.close()
    assert answers["first"] is None
    assert isinstance(answers["second"], StorageError)
    assert answers["second"] is answers["third"]
    assert reopened(path).counters == (("a", 1),)


def test_a_counter_never_falls_and_a_hash_stays_its_trades(tmp_path: Path) -> None:
    """Also when a trade has had a fresh invoice since."""
    path = tmp_path / "journal.sqlite3"
    journal = Journal(path)
    assert commit(journal, *BEFORE, PutCounter("fence", 2)) is None
    fresh = msgspec.structs.replace(TRADE, revision=2, payment_hash=b"n" * 32)
    assert commit(journal, PutTrade(fresh, 10, 15)) is None
    assert dict(journal.load().counters) == {"fence": 5}
    stolen = trade(1, payment_hash=TRADE.payment_hash)
    assert isinstance(commit(journal, PutTrade(stolen, 0, 15)), StorageError)
    journal.close()


def test_a_taker_claims_nothing_of_a_makers_order(tmp_path: Path) -> None:
    """Only what our takers claim of our orders counts against them."""
    journal = Journal(tmp_path / "journal.sqlite3")
    mine = trade(1, role=TradeRole.TAKER)
    assert commit(journal, *BEFORE, PutTrade(mine, 0, 0)) is None
    assert commit(journal, PutTrade(trade(2, quantity_lots=5), 5, 15)) is None
    journal.close()


# --- files that cannot be used ---------------------------------------------------------------


def test_a_journal_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    """And says so, with what to do."""
    path = tmp_path / "journal.sqlite3"
    Journal(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(ConfigError, match="newer zmqex"):
        Journal(path)


def test_a_journal_in_a_folder_that_is_not_there_names_it(tmp_path: Path) -> None:
    """The operator reads which path and why."""
    with pytest.raises((ConfigError, StorageError), match=r"gone|cannot"):
        Journal(tmp_path / "gone" / "journal.sqlite3")


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    """Damaged or something else: not overwritten."""
    path = tmp_path / "journal.sqlite3"
    path.write_bytes(b"not a database at all, but long enough to be read as one" * 40)
    path.chmod(0o600)
    with pytest.raises(StorageError, match="cannot open"):
        Journal(path)
    assert path.read_bytes().startswith(b"not a database")


def test_a_full_disk_ends_the_journal_and_keeps_what_was_there(tmp_path: Path) -> None:
    """SQLite's own limit on pages stands for the disk."""
    path = tmp_path / "journal.sqlite3"
    journal = Journal(path)
    assert commit(journal, *BEFORE) is None
    before = journal.load()
    full = threading.Event()

    def shrink(connection: sqlite3.Connection) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        full.set()

    journal.read(shrink).result()
    assert full.is_set()
    big = OwnBatch("BTC/USD", 1, 2, b"d" * 32, bytes(1_000_000))
    error = commit(journal, PutBatch(big))
    assert isinstance(error, StorageError)
    assert "full" in str(error)
    journal.close()
    assert same(reopened(path), before)
