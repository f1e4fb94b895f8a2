"""What others announced to us: name -> peers, for two minutes, fairly shared (BEP 5).

No source can crowd out another: a full name makes room only at the cost of whoever has most
there.
"""

from __future__ import annotations

from dataclasses import dataclass

from zmqex.dht.address import Address, Scope, scope_of, source_of
from zmqex.dht.limits import (
    DHT_PEER_LIFE_MS,
    DHT_PEERS_PER_HOST_MAX,
    DHT_PEERS_PER_LOCAL_SOCKET_MAX,
    DHT_PEERS_PER_NAME_MAX,
    DHT_PEERS_PER_SOURCE_MAX,
    DHT_PEERS_TOTAL_MAX,
)


@dataclass(slots=True)
class _Announced:
    at_ms: int
    source: str


class PeerStore:
    """Announced peers, each gone `DHT_PEER_LIFE_MS` after its last announce."""

    def __init__(self) -> None:
        self._names: dict[bytes, dict[Address, _Announced]] = {}
        # Oldest announce first.
        self._order: dict[tuple[bytes, Address], None] = {}
        self._sources: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._order)

    @property
    def names(self) -> int:
        """How many names have peers."""
        return len(self._names)

    def announce(
        self, name: bytes, peer: Address, sender: Address, now_ms: int, *, ours: bool = False
    ) -> bool | None:
        """Keep `peer` under `name`; True if it is new, False if known, None if refused.

        `ours` says that we follow the name ourselves: then a full store refuses nothing.
        """
        self.expire(now_ms)
        source = source_of(sender)
        peers = self._names.get(name, {})
        known = peers.get(peer)
        if known is not None and known.source == source:
            known.at_ms = now_ms
            del self._order[name, peer]
            self._order[name, peer] = None
            return False
        if not ours and (
            len(self) >= DHT_PEERS_TOTAL_MAX
            or self._sources.get(source, 0) >= DHT_PEERS_PER_SOURCE_MAX
        ):
            return None
        if known is None and not self._make_room(name, source, sender):
            return None
        if known is not None:
            self._remove(name, peer)
        self._names.setdefault(name, {})[peer] = _Announced(now_ms, source)
        self._order[name, peer] = None
        self._sources[source] = self._sources.get(source, 0) + 1
        return known is None

    def peers(self, name: bytes, now_ms: int) -> list[Address]:
        """Return the living peers of `name`."""
        self.expire(now_ms)
        return list(self._names.get(name, ()))

    def expire(self, now_ms: int) -> None:
        """Forget every announce that has reached its age."""
        while self._order:
            name, peer = next(iter(self._order))
            if now_ms - self._names[name][peer].at_ms < DHT_PEER_LIFE_MS:
                return
            self._remove(name, peer)

    def _make_room(self, name: bytes, source: str, sender: Address) -> bool:
        """Whether one more peer of `source` fits under `name`, if need be for another's."""
        peers = self._names.get(name, {})
        counts: dict[str, int] = {}
        for entry in peers.values():
            counts[entry.source] = counts.get(entry.source, 0) + 1
        mine = counts.get(source, 0)
        if mine >= _share_of(sender):
            return False
        if len(peers) < DHT_PEERS_PER_NAME_MAX:
            return True
        greedy = max(counts, key=lambda source: counts[source])
        if counts[greedy] <= mine + 1:
            return False
        self._remove(name, next(peer for peer in peers if peers[peer].source == greedy))
        return True

    def _remove(self, name: bytes, peer: Address) -> None:
        peers = self._names[name]
        source = peers.pop(peer).source
        if not peers:
            del self._names[name]
        del self._order[name, peer]
        self._sources[source] -= 1
        if not self._sources[source]:
            del self._sources[source]


def _share_of(sender: Address) -> int:
    if scope_of(sender[0]) is Scope.PUBLIC:
        return DHT_PEERS_PER_HOST_MAX
    return DHT_PEERS_PER_LOCAL_SOCKET_MAX
