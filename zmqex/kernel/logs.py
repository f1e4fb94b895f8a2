"""One maker and one of its logs as this node keeps them.

Not for deciding anything about them (`replicas`, `sync`).
"""

from __future__ import annotations

import enum

import msgspec

from zmqex.market.orders import BookOrder
from zmqex.protocol.log import Fold, Row, Tail
from zmqex.protocol.messages import Batch, Order


class Repair(enum.StrEnum):
    """What is being done about a log that is behind."""

    IDLE = "idle"
    WAITING = "waiting"  # the missing batch may just be late
    ASKING = "asking"


class Waiting(msgspec.Struct, frozen=True):
    """A verified batch that came before its predecessor."""

    batch: Batch
    digest: bytes
    envelope: bytes


class MakerLog(msgspec.Struct):
    """The log of one maker in one market."""

    fold: Fold
    tail: Tail
    gap: dict[int, Waiting] = msgspec.field(default_factory=dict)
    target: tuple[int, int] = (0, 0)  # the newest (epoch, sequence) that its maker signed
    forked: bool = False  # its maker said two things at once: this epoch is void
    refused: bool = False  # its maker broke the rules: nothing can follow in this epoch
    proof: bytes = b""
    repair: Repair = Repair.IDLE
    probe: int = 0  # a sequence number where the maker's chain differs from ours
    tried: dict[bytes, None] = msgspec.field(default_factory=dict)
    hint: bytes = b""  # who told us of the target

    @property
    def at(self) -> tuple[int, int]:
        """The (epoch, sequence) that we have."""
        return self.fold.epoch, self.fold.sequence

    @property
    def behind(self) -> bool:
        """Whether there is more that could be fetched."""
        return not (self.forked or self.refused) and self.at < self.target

    @property
    def state(self) -> str:
        """One word for the operator."""
        if self.forked:
            return "forked"
        if self.refused:
            return "refused"
        if self.behind:
            return "behind"
        return "head_only" if self.fold.head_only else "current"


class Maker(msgspec.Struct):
    """What is known of one maker."""

    identity: bytes
    heard_ms: int | None = None  # monotonic; None: not since we started or slept
    sent_at_ms: int = 0  # by its own clock
    heartbeat: bytes = b""  # the newest one, verbatim
    trusted: bool = False
    logs: dict[str, MakerLog] = msgspec.field(default_factory=dict)


class FoundOrder(msgspec.Struct, frozen=True):
    """One open order of anybody, as its maker last spoke of it."""

    order_id: bytes
    maker: bytes
    order: Order
    remaining_lots: int
    held_lots: int

    @property
    def available_lots(self) -> int:
        """What can be taken."""
        return self.remaining_lots - self.held_lots


def resting(order_id: bytes, maker: bytes, row: Row) -> BookOrder:
    """A row of a fold as the book takes it."""
    order = row.order
    return BookOrder(
        order_id=order_id,
        maker=maker,
        side=order.side,
        price_ticks=order.price_ticks,
        available_lots=row.available_lots,
        minimum_lots=order.minimum_lots,
        flags=order.flags,
        expires_at_ms=order.expires_at_ms,
    )


def kept(log: MakerLog, sequence: int) -> tuple[bytes, bytes] | None:
    """Digest and envelope of a verified batch of the log's epoch, applied or waiting."""
    waiting = log.gap.get(sequence)
    if waiting is not None:
        return waiting.digest, waiting.envelope
    return log.tail.get(sequence)
