"""A maker played by a test: it signs whatever batches and heartbeats it likes."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.unit.stranger import Stranger
from tests.wire import MARKET, NETWORK, Wire, order
from zmqex.protocol.codec import encode
from zmqex.protocol.identity import digest, order_id, seal
from zmqex.protocol.log import Fold, Plan, topic
from zmqex.protocol.messages import Batch, Head, Heartbeat, Operation, Place


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

    def publish(self, *operations: Operation) -> bytes:
        """The next batch as envelope bytes, appended to the log."""
        raw = self.sign(*operations)
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
