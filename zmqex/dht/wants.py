"""What the owner of a node wants again and again: names followed, ports announced, items put."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from zmqex.dht import schedule
from zmqex.dht.bencode import Value
from zmqex.dht.items import Item
from zmqex.dht.limits import DHT_NAME_BYTES_MAX, DHT_NAMES_MAX
from zmqex.dht.lookup import Purpose
from zmqex.dht.schedule import Repeat
from zmqex.errors import LocalProtocolError

_PORT_MAX: Final = 65_535


@dataclass(slots=True)
class Published:
    """An item of our own; `cas` as the owner gave it."""

    item: Item
    repeat: Repeat
    cas: int | None


class Wants:
    """Everything that is repeated on a schedule, by name or target."""

    def __init__(self) -> None:
        self.ports: dict[bytes, int] = {}
        self.items: dict[bytes, Published] = {}
        self._follows: dict[bytes, Repeat] = {}
        self._announces: dict[bytes, Repeat] = {}

    def follow(self, name: bytes, now_ms: int) -> bool:
        """Follow `name`; False if it is followed already."""
        self._check_room(name)
        if name in self._follows:
            return False
        self._follows[name] = schedule.follow(now_ms)
        return True

    def unfollow(self, name: bytes) -> None:
        """Stop following `name`."""
        self._follows.pop(name, None)

    def announce(self, name: bytes, port: int, now_ms: int) -> None:
        """Announce `port` under `name`."""
        self._check_room(name)
        if not 1 <= port <= _PORT_MAX:
            raise LocalProtocolError("a port is 1 to 65535")
        self.ports[name] = port
        self._announces[name] = schedule.announce(now_ms)

    def withdraw(self, name: bytes) -> None:
        """Stop announcing `name`."""
        self.ports.pop(name, None)
        self._announces.pop(name, None)

    def publish(self, item: Item, cas: int | None, now_ms: int) -> None:
        """Put `item`; it replaces an earlier one of the same key and salt."""
        target = item.where.target
        if target not in self.items and len(self.items) >= DHT_NAMES_MAX:
            raise LocalProtocolError("too many items are published")
        self.items[target] = Published(item, schedule.publish(now_ms), cas)

    def cares_for(self, name: bytes) -> bool:
        """Whether `name` is followed or announced."""
        return name in self._follows or name in self._announces

    def telling(self, name: bytes, purpose: Purpose) -> tuple[bytes, dict[bytes, Value]]:
        """Return the query that announces or puts, but for its token."""
        if purpose is Purpose.ANNOUNCE:
            port = self.ports[name]
            return b"announce_peer", {b"implied_port": 0, b"info_hash": name, b"port": port}
        published = self.items[name]
        put = published.item.arguments()
        if published.item.where.salt:
            put[b"salt"] = published.item.where.salt
        if published.cas is not None:
            put[b"cas"] = published.cas
        return b"put", put

    def due(
        self, now_ms: int, randomness: Callable[[int], bytes]
    ) -> Iterator[tuple[bytes, Purpose]]:
        """Yield what must be looked up now, and set the times of the next runs."""
        for name, purpose, repeat in list(self._repeats()):
            if repeat.next_ms <= now_ms:
                repeat.ran(now_ms, randomness)
                yield name, purpose

    def restart(self, now_ms: int) -> None:
        """Do everything now, then quickly again."""
        for _, _, repeat in self._repeats():
            repeat.restart(now_ms)

    @property
    def next_ms(self) -> int | None:
        """When anything is due next; None if nothing is wanted."""
        return min((repeat.next_ms for _, _, repeat in self._repeats()), default=None)

    def _repeats(self) -> Iterator[tuple[bytes, Purpose, Repeat]]:
        for name, repeat in self._follows.items():
            yield name, Purpose.PEERS, repeat
        for name, repeat in self._announces.items():
            yield name, Purpose.ANNOUNCE, repeat
        for target, published in self.items.items():
            yield target, Purpose.PUT, published.repeat

    def _check_room(self, name: bytes) -> None:
        check_name(name)
        names = {**self._follows, **self._announces}
        if name not in names and len(names) >= DHT_NAMES_MAX:
            raise LocalProtocolError("too many names are announced or followed")


def check_name(name: bytes) -> None:
    """Raise `LocalProtocolError` for a name that no query can hold."""
    if not 1 <= len(name) <= DHT_NAME_BYTES_MAX:
        raise LocalProtocolError(f"a name has 1 to {DHT_NAME_BYTES_MAX} bytes")
