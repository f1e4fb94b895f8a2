"""A maker played by a test: it signs whatever batches and heartbeats it likes."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.unit.stranger import Stranger
from tests.wire import MARKET, NETWORK, Host, Wire, order
from zmqex.kernel.logs import MakerLog, Waiting
from zmqex.market.orders import Side
from zmqex.protocol.codec import decode, encode
from zmqex.protocol.identity import digest, order_id, seal
from zmqex.protocol.log import Fold, Frozen, Plan, topic
from zmqex.protocol.messages import (
    Batch,
    Head,
    Heads,
    Heartbeat,
    Operation,
    Place,
    RowsRequest,
    Snapshot,
)
from zmqex.protocol.snapshot import serve


class Maker(Stranger):
    """A stranger with an order log."""

    def __init__(self, wire: Wire, name: str = "mallory", address: str = "10.9.9.9") -> None:
        """Start an epoch now, without a batch."""
        super().__init__(wire, name, address)
        self.fold = Fold(NETWORK, self.identity, MARKET)
        self.fold.begin(wire.wall_ms)
        self.envelopes: list[bytes] = []
        self.topic = topic(MARKET)

    def new(self, number: int, **terms: object) -> tuple[bytes, Place]:
        """An order's id and its placement."""
        raw = encode(order(number, self.wire.wall_ms, **terms))
        return order_id(NETWORK, self.identity, raw), Place(raw)

    def sign(self, *operations: Operation, **changes: object) -> bytes:
        """The next batch but for `changes`, as envelope bytes; nothing is remembered."""
        fields: dict[str, Any] = {
            "maker": self.identity,
            "market": MARKET,
            "epoch": self.fold.epoch,
            "sequence": self.fold.sequence + 1,
            "previous_hash": self.fold.head_hash,
            "sent_at_ms": self.wire.wall_ms,
            "operations": list(operations),
        }
        fields.update(changes)
        return seal(self.key, NETWORK, "batch", encode(Batch(**fields)))

    def publish(self, *operations: Operation, **changes: object) -> bytes:
        """The next batch as envelope bytes, appended to the log."""
        raw = self.sign(*operations, **changes)
        body = msgspec.msgpack.decode(raw)[0]
        plan = self.fold.check(msgspec.msgpack.decode(body, type=Batch), digest(body))
        assert isinstance(plan, Plan), plan
        self.fold.apply(plan)
        self.envelopes.append(raw)
        return raw

    def beat(self, *heads: Head, later_ms: int = 0) -> bytes:
        """A heartbeat as envelope bytes; without heads, the true one."""
        told = list(heads) or [self.fold.head()]
        beat = Heartbeat(self.identity, self.wire.wall_ms + later_ms, told)
        return seal(self.key, NETWORK, "heartbeat", encode(beat))

    def give_snapshot(self, host: Host) -> None:
        """Answer the newest questions for a snapshot and all its rows."""
        frozen = Frozen(self.fold)
        self.reply(host, "snapshot", Snapshot(self.beat(), frozen.digests))
        answered = 0
        while len(questions := self.asked(host, "rows")) > answered:
            asked, answered = decode(questions[-1].body, RowsRequest), len(questions)
            self.reply(host, "rows", serve(frozen, asked.buckets, asked.after, 1_000, 40_000))


def scene() -> tuple[Wire, Host, Maker]:
    """Return a host, and a maker that is its live peer."""
    wire = Wire()
    (host,) = wire.add("alice")
    maker = Maker(wire)
    maker.befriend(host)
    return wire, host, maker


def log_of(host: Host, maker: Maker) -> MakerLog:
    """Return the host's copy of the maker's log."""
    log = host.n.replicas.log(maker.identity, MARKET)
    assert log is not None
    return log


def counted(host: Host, word: str) -> int:
    """Return how often something was counted."""
    return host.n.core.counted.get(word, 0)


def resting(host: Host, market: str = MARKET) -> list[bytes]:
    """Return the ids of a book, hidden and shown, bids first."""
    book = host.n.replicas.book(market)
    return [order.order_id for side in (Side.BUY, Side.SELL) for order in book.orders(side)]


def waiting_of(raw: bytes) -> Waiting:
    """Return a batch as it is handed over after its signature was checked."""
    body = msgspec.msgpack.decode(raw)[0]
    return Waiting(decode(body, Batch), digest(body), raw)


def answer_heads(maker: Maker, host: Host, *heartbeats: bytes) -> None:
    """Answer the newest question for heads, and have the signatures checked."""
    maker.reply(host, "heads", Heads(list(heartbeats)))
    maker.wire.run(0)
