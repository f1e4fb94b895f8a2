"""What a DHT node tells its owner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from zmqex.dht.address import Address
from zmqex.dht.items import Item, ItemKey


@dataclass(frozen=True, slots=True)
class PeersFound:
    """Peers of `name` just became known; hints only, any of them may be invented."""

    name: bytes
    peers: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class LookupDone:
    """A lookup of `name` ended: all its peers, the most credible first."""

    name: bytes
    peers: tuple[Address, ...]
    answers: int
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Announced:
    """An announce of `port` under `name` went round; `stored` nodes other than us took it."""

    name: bytes
    port: int
    stored: int


@dataclass(frozen=True, slots=True)
class ItemFound:
    """A newer genuine item than any before in this lookup; its value is still a stranger's word."""

    item: Item


@dataclass(frozen=True, slots=True)
class ItemDone:
    """A lookup of an item ended with the newest one that anybody had."""

    where: ItemKey
    item: Item | None
    answers: int


@dataclass(frozen=True, slots=True)
class ItemStored:
    """Our item went round; `stored` nodes other than us took it."""

    item: Item
    stored: int


Event: TypeAlias = PeersFound | LookupDone | Announced | ItemFound | ItemDone | ItemStored
