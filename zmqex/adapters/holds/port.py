"""The hold lock as the rest of the node sees it: shapes and promises, no Redis.

A hold keeps a part of an order out of other takers' reach for a while.  It is the fast "no" in
front of the journal, visible to every process that can reach the server, and lapses by itself.
It is never the truth about a sale: the journal decides, whatever this answers.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class HoldOutcome(enum.StrEnum):
    """What became of a request to hold."""

    RESERVED = "reserved"
    # The same trade with the same fence holds it already: a repeated call, or a lost answer.
    ALREADY_YOURS = "already_yours"
    FULL = "full"
    # The same trade is held under a newer fence: whoever asks is not the owner any more.
    STALE_FENCE = "stale_fence"


@dataclass(frozen=True, slots=True)
class HoldAnswer:
    """The outcome, and the lots of that order that are held after it (all trades together)."""

    outcome: HoldOutcome
    held_lots: int


@dataclass(frozen=True, slots=True)
class HoldRow:
    """A hold as the journal knows it, to be put back after the server lost its memory."""

    order_id: bytes
    trade_id: bytes
    quantity_lots: int
    fence: int
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class HoldView:
    """A live hold with the time that the server still gives it."""

    order_id: bytes
    trade_id: bytes
    quantity_lots: int
    fence: int
    remaining_ms: int


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Which server answers.  `url` never carries a password; `pid` is 0 when it is in process."""

    name: str
    version: str
    pid: int
    embedded: bool
    url: str


class Holds(Protocol):
    """The port.

    Every call raises `HoldsUnavailableError` when the server is silent for one second or refuses
    to work; nothing is retried, and the call may still have taken effect.  All changes are safe
    to repeat.  Quantities are lots, times milliseconds of the server's own clock.
    """

    async def reserve(
        self,
        *,
        order_id: bytes,
        trade_id: bytes,
        quantity_lots: int,
        capacity_lots: int,
        fence: int,
        ttl_ms: int,
    ) -> HoldAnswer:
        """Hold `quantity_lots` if all live holds of the order stay within `capacity_lots`.

        Idempotent for one (trade, fence), without renewing it.  A higher fence replaces the
        trade's hold, a lower one is refused.  `LocalProtocolError` if the same trade comes back
        with another order, or with another quantity under the same fence.
        """
        ...

    async def release(self, order_id: bytes, trade_id: bytes, fence: int) -> bool:
        """Free the hold; true if it was live and owned by exactly this fence."""
        ...

    async def extend(self, order_id: bytes, trade_id: bytes, fence: int, ttl_ms: int) -> bool:
        """Let the hold live `ttl_ms` from now; true if it was live and owned by this fence."""
        ...

    async def rebuild(self, epoch: bytes, rows: Sequence[HoldRow]) -> None:
        """Replace every hold by `rows` in one step, unless the server is at `epoch` already."""
        ...

    async def epoch(self) -> bytes | None:
        """Return the epoch of the last rebuild; None or another one means: rebuild now."""
        ...

    async def list(self) -> list[HoldView]:
        """Return the live holds, the one that lapses first in front."""
        ...

    async def lease(self, owner: bytes, ttl_ms: int) -> bool:
        """Become or stay the one running copy of this identity; false if another owner is."""
        ...

    async def end_lease(self, owner: bytes) -> bool:
        """Give the lease back; true if this owner had it."""
        ...

    async def info(self) -> ServerInfo:
        """Say which server answers."""
        ...

    async def ping(self) -> None:
        """Return if the server answers."""
        ...

    async def close(self) -> None:
        """Close the connections; holds stay."""
        ...
