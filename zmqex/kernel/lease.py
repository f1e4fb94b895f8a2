"""Whether this process is the one running copy of its identity.

A hold server that others can reach keeps a lease for each identity: one owner at a time, for ten
seconds from when it last asked.  A copy of the data directory on another machine does not get it;
then it admits no take, places no order and publishes nothing, because it would sell what the other
one sells.  Running trades go on.  The lease catches a mistake; what protects a sale is the journal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from zmqex.kernel.core import Core
from zmqex.kernel.events import LeaseAnswered
from zmqex.limits import LEASE_TTL_MS

Standing = Literal["not_needed", "unknown", "held", "taken"]
NOT_LEADING: Final = (
    "this node does not have the lease of its shared hold server: another copy of this identity "
    "runs or ended a few seconds ago, or the server does not answer"
)
_LEADING: Final = frozenset({"not_needed", "held"})


class Lease:
    """What the hold server has said of the lease, and what may be done without asking again."""

    def __init__(self, core: Core) -> None:
        """A node with a hold server of its own needs none: its directory is locked."""
        self._core = core
        self.standing: Standing = "unknown" if core.settings.leased else "not_needed"
        self._until_ms = 0
        self.on_gained: list[Callable[[], None]] = []

    def leads(self) -> bool:
        """Whether we may speak for the identity: nobody else was heard of."""
        return self.standing in _LEADING

    def may_hold(self) -> bool:
        """Whether a take may be admitted now.

        By our own clock, so that a process that was paused does not go on where it stood while
        another one has taken over.
        """
        lasts = self._core.now.monotonic_ms < self._until_ms
        return self.standing == "not_needed" or (self.standing == "held" and lasts)

    def on_answered(self, event: LeaseAnswered) -> None:
        """The hold server was asked.

        Silence renews the lease only where the operator lets the journal decide alone, and gives
        it only to a node that was never told of another owner.
        """
        answer = event.answer
        if answer == "silent" and (self._core.settings.holds_strict or self.standing == "taken"):
            return
        if answer == "taken":
            self._lose()
            return
        self._until_ms = event.asked_ms + LEASE_TTL_MS
        if self.standing != "held":
            self.standing = "held"
            self._core.log("info", "lease_held", server_silent=answer == "silent")
            for call in self.on_gained:
                call()

    def on_woke(self) -> None:
        """The machine slept, and not every clock counts that: ask before admitting anything."""
        self._until_ms = 0

    def _lose(self) -> None:
        if self.standing != "taken":
            self.standing = "taken"
            self._core.count("leases_lost")
            self._core.log("error", "lease_taken", why="another copy of this identity runs")
