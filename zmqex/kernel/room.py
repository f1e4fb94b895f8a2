"""Room for one more maker: which one is followed no longer where there are too many.

Anybody can make up makers, so an entry that is of no use must not keep a new one out.
Not for: how much is kept of one maker (`replicas`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from zmqex.kernel.core import Core
from zmqex.kernel.logs import Maker, MakerLog, Repair
from zmqex.kernel.sessions import Sessions
from zmqex.kernel.shown import Shown
from zmqex.limits import MAKERS_EVICT_EVERY_MS, MAKERS_MAX
from zmqex.protocol.identity import short


class Room:
    """The places of makers; whoever is silent, and nobody to us, gives its place up."""

    def __init__(
        self,
        core: Core,
        sessions: Sessions,
        makers: dict[bytes, Maker],
        shown: Shown,
        is_stale: Callable[[bytes], bool],
        is_void: Callable[[MakerLog], bool],
    ) -> None:
        """Watch over `makers`; nobody need go yet."""
        self._core = core
        self._sessions = sessions
        self._makers = makers
        self._shown = shown
        self._is_stale = is_stale
        self._is_void = is_void
        self._idle: list[bytes] = []  # who may go, as last searched; the first to go is the last
        self._searched_ms: int | None = None
        # Set by the kernel: the makers in whose orders trades of ours run.
        self.dealing: Callable[[], Collection[bytes]] = tuple

    def is_full(self) -> bool:
        """Whether there is no place for a new maker, and nobody who could give one up."""
        return len(self._makers) >= MAKERS_MAX and self._first_to_go() is None

    def make(self) -> bool:
        """Have a place for a new maker; False where there is none."""
        if len(self._makers) < MAKERS_MAX:
            return True
        gone = self._first_to_go()
        if gone is None:
            return False
        for log in self._makers.pop(gone).logs.values():
            self._shown.hide(log)
        self._core.count("makers_evicted")
        self._core.log("info", "maker_evicted", maker=short(gone))
        return True

    def _first_to_go(self) -> bytes | None:
        """Who has been silent for longest, of those who were idle at the last search and are."""
        now_ms = self._core.now.monotonic_ms
        if self._searched_ms is None or now_ms - self._searched_ms >= MAKERS_EVICT_EVERY_MS:
            self._searched_ms = now_ms
            self._idle = self._search()
        while self._idle:
            maker = self._makers.get(self._idle[-1])
            if maker is not None and self._is_idle(maker):
                return maker.identity
            self._idle.pop()
        return None

    def _search(self) -> list[bytes]:
        """All who may go; whoever was never heard goes first, then the longest silent."""
        needed = {*self._sessions.live_peers(), *self.dealing()}
        found = [
            maker
            for maker in self._makers.values()
            if maker.identity not in needed and self._is_idle(maker)
        ]
        found.sort(key=lambda maker: -1 if maker.heard_ms is None else maker.heard_ms, reverse=True)
        return [maker.identity for maker in found]

    def _is_idle(self, maker: Maker) -> bool:
        peer = self._sessions.peers.get(maker.identity)
        return (
            not maker.trusted
            and self._is_stale(maker.identity)
            and not (peer is not None and peer.pinned)
            and not any(map(self._is_needed, maker.logs.values()))
        )

    def _is_needed(self, log: MakerLog) -> bool:
        """Whether a log is being fetched, or what is void in it must stay so."""
        return log.repair is not Repair.IDLE or self._is_void(log)
