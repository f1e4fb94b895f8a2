"""Items that others put here: kept for two hours, fairly shared, never replaced by older ones.

A full store makes room at the cost of the source that has most, as `store` does.
"""

from __future__ import annotations

from dataclasses import dataclass

from zmqex.dht import bencode
from zmqex.dht.address import Address, source_of
from zmqex.dht.items import Item
from zmqex.dht.krpc import Code
from zmqex.dht.limits import (
    DHT_ITEM_BYTES_MAX,
    DHT_ITEM_LIFE_MS,
    DHT_ITEMS_MAX,
    DHT_ITEMS_PER_SOURCE_MAX,
    DHT_SALT_BYTES_MAX,
)


@dataclass(slots=True)
class _Kept:
    item: Item
    source: str
    at_ms: int


class ItemStore:
    """The newest item of each key and salt, by target."""

    def __init__(self) -> None:
        # Oldest put first.
        self._kept: dict[bytes, _Kept] = {}
        self._sources: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, target: bytes, now_ms: int) -> Item | None:
        """Return the living item at `target`."""
        self._expire(now_ms)
        kept = self._kept.get(target)
        return kept.item if kept else None

    def keep(self, item: Item, now_ms: int) -> None:
        """Keep an item of our own, whatever else is here."""
        self._put(item, "", now_ms)

    def put(self, item: Item, sender: Address, now_ms: int, cas: int | None = None) -> Code | None:
        """Keep what a stranger puts; return the error of BEP 44 that refuses it.

        `cas`: refuse unless this is the sequence of what is here.
        """
        self._expire(now_ms)
        if len(bencode.encode(item.value)) > DHT_ITEM_BYTES_MAX:
            return Code.VALUE_TOO_BIG
        if len(item.where.salt) > DHT_SALT_BYTES_MAX:
            return Code.SALT_TOO_BIG
        known = self._kept.get(item.where.target)
        if known is not None:
            if cas is not None and cas != known.item.sequence:
                return Code.CAS_MISMATCH
            if _is_older(item, known.item):
                return Code.OLD_SEQUENCE
        # Who repeats another's item does not become its source.
        again = known is not None and known.item == item
        source = known.source if known is not None and again else source_of(sender)
        mine = self._sources.get(source, 0) - (known is not None and known.source == source)
        if source and mine >= DHT_ITEMS_PER_SOURCE_MAX:
            return Code.SERVER
        if not (again or item.is_genuine):
            return Code.BAD_SIGNATURE
        if known is None and len(self) >= DHT_ITEMS_MAX and not self._make_room(mine):
            return Code.SERVER
        self._put(item, source, now_ms)
        return None

    def _make_room(self, mine: int) -> bool:
        """Whether one more of a source with `mine` items fits, at the cost of who has most."""
        greedy = max(self._sources, key=lambda source: self._sources[source])
        if self._sources[greedy] <= mine + 1:
            return False
        self._remove(next(at for at, kept in self._kept.items() if kept.source == greedy))
        return True

    def _put(self, item: Item, source: str, now_ms: int) -> None:
        target = item.where.target
        if target in self._kept:
            self._remove(target)
        self._kept[target] = _Kept(item, source, now_ms)
        self._sources[source] = self._sources.get(source, 0) + 1

    def _expire(self, now_ms: int) -> None:
        while self._kept:
            target, kept = next(iter(self._kept.items()))
            if now_ms - kept.at_ms < DHT_ITEM_LIFE_MS:
                return
            self._remove(target)

    def _remove(self, target: bytes) -> None:
        source = self._kept.pop(target).source
        self._sources[source] -= 1
        if not self._sources[source]:
            del self._sources[source]


def _is_older(item: Item, known: Item) -> bool:
    """Whether `item` may not replace `known`; the same again only renews it."""
    if item.sequence == known.sequence:
        return item.value != known.value
    return item.sequence < known.sequence
