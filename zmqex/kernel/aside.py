"""Makers that are not taken from for a time, because of what they did."""

from __future__ import annotations

from zmqex.kernel.core import Core
from zmqex.limits import PEERS_KNOWN_MAX
from zmqex.reasons import RejectReason


class Aside:
    """Who is set aside, until when, and why."""

    def __init__(self, core: Core) -> None:
        """Nobody is."""
        self._core = core
        self._until: dict[bytes, tuple[int, RejectReason]] = {}

    def set_aside(self, peer: bytes, for_ms: int, reason: RejectReason) -> None:
        """Do not take from this maker for a time."""
        self._until.pop(peer, None)
        if len(self._until) >= PEERS_KNOWN_MAX:
            del self._until[next(iter(self._until))]
        self._until[peer] = self._core.now.monotonic_ms + for_ms, reason

    def until(self, peer: bytes) -> tuple[int, RejectReason] | None:
        """Until when (monotonic) and why this maker is skipped, if it is."""
        aside = self._until.get(peer)
        if aside is not None and aside[0] <= self._core.now.monotonic_ms:
            del self._until[peer]
            aside = None
        return aside

    def take_back(self, peer: bytes) -> None:
        """Take from this maker again; one that is not set aside is fine."""
        self._until.pop(peer, None)
