"""One maker and one of its logs as this node keeps them.

Not for deciding anything about them (`replicas`, `sync`).
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from zmqex.kernel.events import Now
from zmqex.limits import CLOCK_SKEW_MAX_MS, PROOF_EVERY_MS, SILENT_MS
from zmqex.market.orders import BookOrder
from zmqex.protocol.log import Fold, Frozen, Row
from zmqex.protocol.messages import Batch, Order
from zmqex.protocol.snapshot import Bucket
from zmqex.protocol.tail import Tail


class Repair(enum.StrEnum):
    """What is being done about a log that is behind."""

    IDLE = "idle"
    WAITING = "waiting"  # the missing batch may just be late
    ASKING = "asking"


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """A verified batch that came before its predecessor."""

    batch: Batch
    digest: bytes
    envelope: bytes
    streamed: bool = False  # it came by itself, so others may want it from us


class Anchor(msgspec.Struct):
    """A head that its maker signed, and the orders at it, for those who ask for a snapshot."""

    heartbeat: bytes
    frozen: Frozen
    until_ms: int = 0  # monotonic; kept for its readers so long


class MakerLog(msgspec.Struct):
    """The log of one maker in one market."""

    fold: Fold
    tail: Tail = msgspec.field(default_factory=Tail)
    gap: dict[int, Waiting] = msgspec.field(default_factory=dict)
    target: tuple[int, int] = (0, 0)  # the newest (epoch, sequence) that its maker signed
    forked: bool = False  # its maker said two things at once: this epoch is void
    refused: bool = False  # its maker broke the rules: nothing can follow in this epoch
    proof: bytes = b""
    proof_said_ms: int = 0  # monotonic
    reminded_ms: int = -PROOF_EVERY_MS  # monotonic: when its maker was shown what it has forgotten
    repair: Repair = Repair.IDLE
    widening: bool = False  # head-only, and its orders may be kept again
    probe: int = 0  # a sequence number where the maker's chain differs from ours
    tried: dict[bytes, None] = msgspec.field(default_factory=dict)
    hint: bytes = b""  # who told us of the target
    hidden: dict[bytes, None] = msgspec.field(default_factory=dict)  # open, and not in the book
    open_orders: int = 0  # at the target, as its maker signed
    by_snapshot: bool = False  # what is missing comes as a snapshot
    buckets: dict[bytes, Bucket] = msgspec.field(default_factory=dict)  # fetched so far, by digest
    anchors: list[Anchor] = msgspec.field(default_factory=list)  # oldest first
    fetched: int = 0  # batches in the repair that goes on
    retries: int = 0  # of peers that were busy, in this repair
    why_not: str = ""  # the last refusal
    why: str = ""  # how it caught up last, or why it does not

    @property
    def at(self) -> tuple[int, int]:
        """The (epoch, sequence) that we have."""
        return self.fold.epoch, self.fold.sequence

    @property
    def behind(self) -> bool:
        """Whether there is more that could be fetched."""
        return not (self.forked or self.refused) and (self.at < self.target or self.widening)

    @property
    def lag(self) -> int:
        """How many signed batches are missing."""
        return self.target[1] - self.fold.sequence if self.at < self.target else 0

    @property
    def state(self) -> str:
        """One word for the operator."""
        if self.forked:
            return "forked"
        if self.refused:
            return "refused"
        if self.lag:
            return "behind"
        return "head_only" if self.fold.head_only else "current"

    def view(self) -> dict[str, Any]:
        """One line for the operator."""
        return {
            "market": self.fold.market,
            "epoch": self.fold.epoch,
            "sequence": self.fold.sequence,
            "lag": self.lag,
            "state": self.state,
            "why": self.why,
        }


class Maker(msgspec.Struct):
    """What is known of one maker."""

    identity: bytes
    heard_ms: int | None = None  # monotonic; None: not since we started or slept
    sent_at_ms: int = 0  # by its own clock
    heartbeat: bytes = b""  # the newest one, verbatim, where it speaks of a log
    trusted: bool = False
    logs: dict[str, MakerLog] = msgspec.field(default_factory=dict)

    def is_old(self, sent_at_ms: int, now: Now) -> bool:
        """Whether a heartbeat of that time is not newer than the newest.

        A newest one of the future was said or believed while a clock was wrong.  It makes nothing
        old where it lies further ahead than clocks may differ, or has been the last one for long:
        else its maker would be silent until that time has come.
        """
        ahead_ms = self.sent_at_ms - now.wall_ms
        silent = self.heard_ms is None or now.monotonic_ms - self.heard_ms >= SILENT_MS
        wrong = ahead_ms > CLOCK_SKEW_MAX_MS or (silent and ahead_ms > 0)
        return sent_at_ms <= self.sent_at_ms and not wrong


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


def resting(order_id: bytes, maker: bytes, order: Order, row: Row) -> BookOrder:
    """An order of these terms, and what is left of it, as the book takes it."""
    # By position, and without `available_lots`: it is done for every order of every maker, and a
    # number that the row has already takes no memory of its own.
    return BookOrder(
        order_id,
        maker,
        order.side,
        order.price_ticks,
        row.remaining_lots - row.held_lots if row.held_lots else row.remaining_lots,
        order.minimum_lots,
        order.flags,
        order.expires_at_ms,
    )


def kept(log: MakerLog, sequence: int) -> tuple[bytes, bytes] | None:
    """Digest and envelope of a verified batch of the log's epoch, applied or waiting."""
    waiting = log.gap.get(sequence)
    if waiting is not None:
        return waiting.digest, waiting.envelope
    return log.tail.get(sequence)
