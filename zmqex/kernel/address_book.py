"""The address book: where a peer was last, for the next start.

Peers that greeted, and makers that we know only by what others relay: for those there may be no
place among the connected ones, and a start without their addresses would have to find them anew.
Not for dialling (`addresses`), or for who is connected (`links`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from zmqex.kernel.core import Core
from zmqex.kernel.records import DropPeer, KnownPeer, PutPeer
from zmqex.limits import ADDRESS_BOOK_MAX, DAY_MS, PEER_FORGET_MS
from zmqex.protocol.codec import decode
from zmqex.protocol.messages import Endpoint, Envelope, PeerRecord


class AddressBook:
    """Identity -> when it was seen there; the one seen longest ago comes first."""

    def __init__(self, core: Core) -> None:
        """Know nobody."""
        self._core = core
        self._seen_ms: dict[bytes, int] = {}
        self._pinned: set[bytes] = set()
        self.is_maker: Callable[[bytes], bool] = lambda _identity: False

    def restore(self, known: Iterable[KnownPeer]) -> list[tuple[KnownPeer, Endpoint]]:
        """Take what the journal has; whom to dial, the one seen last first.

        Whoever was leaving, or was seen by nobody for too long, is dropped.
        """
        found = []
        for one in sorted(known, key=lambda one: (one.seen_ms, one.identity)):
            record = decode(decode(one.record, Envelope).body, PeerRecord)
            too_old = self._core.now.wall_ms - one.seen_ms > PEER_FORGET_MS
            if record.hello is None or (too_old and not one.pinned):
                self._core.persist(DropPeer(one.identity))
            else:
                self._add(one)
                found.append((one, record.hello))
        found.reverse()
        return found

    def note(self, identity: bytes, record: bytes, host: str, *, pinned: bool) -> None:
        """Write down that this peer is there now."""
        known = KnownPeer(identity, record, host, self._core.now.wall_ms, pinned)
        self._add(known)
        self._core.persist(PutPeer(known))
        while len(self._seen_ms) > ADDRESS_BOOK_MAX:
            oldest = next((one for one in self._seen_ms if one not in self._pinned), identity)
            self.forget(oldest)

    def hear(self, identity: bytes, record: bytes, host: str) -> None:
        """Somebody tells where a peer is: worth a line if it is a maker not seen for a day.

        A host is no part of what a record's signature covers, so where we have been counts more.
        """
        seen_ms = self._seen_ms.get(identity, 0)
        if self.is_maker(identity) and self._core.now.wall_ms - seen_ms > DAY_MS:
            self.note(identity, record, host, pinned=False)

    def forget(self, identity: bytes) -> None:
        """It is there no more."""
        self._seen_ms.pop(identity, None)
        self._pinned.discard(identity)
        self._core.persist(DropPeer(identity))

    def _add(self, known: KnownPeer) -> None:
        self._seen_ms.pop(known.identity, None)
        self._seen_ms[known.identity] = known.seen_ms
        if known.pinned:
            self._pinned.add(known.identity)
