"""The routing table: who else is in the DHT, most known about our own surroundings (BEP 5).

Only nodes that answered a question of ours get in, so a forged source address never does.
Old contacts that still answer are never replaced; what does not answer is kept as long as
nobody better comes, so that a network that was down for a while comes back by itself.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from zmqex.dht.address import Address, Scope, network_of, scope_of
from zmqex.dht.krpc import NODE_ID_BYTES
from zmqex.dht.limits import (
    DHT_BUCKET_REFRESH_MS,
    DHT_CONTACT_FORGET_MS,
    DHT_CONTACTS_PER_HOST_MAX,
    DHT_K,
)

_ID_BITS: Final = NODE_ID_BYTES * 8


def position_of(name: bytes) -> bytes:
    """Where a name of any length lies among the node ids: its first 20 bytes.

    Grapes compare names of other lengths in the same way, as far as the bytes go.
    """
    return name[:NODE_ID_BYTES].ljust(NODE_ID_BYTES, b"\0")


def distance(one: bytes, other: bytes) -> int:
    """Kademlia's metric: the exclusive or of two positions."""
    return int.from_bytes(one, "big") ^ int.from_bytes(other, "big")


@dataclass(slots=True)
class Contact:
    """A node that once answered; `failures` counts the silences since."""

    node_id: bytes
    address: Address
    seen_ms: int
    failures: int = 0
    number: int = field(init=False)

    def __post_init__(self) -> None:
        """Keep the id as a number too: every question compares all of them."""
        self.number = int.from_bytes(self.node_id, "big")


class RoutingTable:
    """At most `DHT_K` contacts for each length of the prefix shared with `own_id`."""

    def __init__(self, own_id: bytes) -> None:
        self._own_id = own_id
        self._buckets: dict[int, dict[bytes, Contact]] = {}
        self._changed_ms: dict[int, int] = {}
        self._contacts: dict[Address, Contact] = {}
        self._hosts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._contacts)

    def __iter__(self) -> Iterator[Contact]:
        return iter(self._contacts.values())

    def __contains__(self, address: Address) -> bool:
        return address in self._contacts

    @property
    def good(self) -> int:
        """How many contacts answered when they were last asked."""
        return sum(not contact.failures for contact in self)

    @property
    def is_deserted(self) -> bool:
        """True when nobody answered when last asked."""
        return all(contact.failures for contact in self)

    def replied(self, node_id: bytes, address: Address, now_ms: int) -> bool:
        """Note that `node_id` answered from `address`; True if it is new in the table."""
        known = self._contacts.get(address)
        if known is not None and known.node_id == node_id:
            known.seen_ms = now_ms
            known.failures = 0
            self._changed_ms[self._index(node_id)] = now_ms
            return False
        if known is not None:
            # Another id at the same place: the node was started anew.
            self._remove(known)
        room = self._room(node_id, address)
        if room is None:
            return False
        for contact in room:
            self._remove(contact)
        contact = Contact(node_id, address, now_ms)
        index = self._index(node_id)
        self._buckets.setdefault(index, {})[node_id] = contact
        self._changed_ms[index] = now_ms
        self._contacts[address] = contact
        network = network_of(address[0])
        self._hosts[network] = self._hosts.get(network, 0) + 1
        return True

    def failed(self, address: Address) -> bool:
        """Note a silence of `address`; True if it is the first one of a contact."""
        contact = self._contacts.get(address)
        if contact is None:
            return False
        contact.failures += 1
        return contact.failures == 1

    def wants(self, node_id: bytes, address: Address) -> bool:
        """Whether an answer of this node would change the table for the better."""
        known = self._contacts.get(address)
        if known is not None and known.node_id == node_id:
            return known.failures > 0
        return self._room(node_id, address) is not None

    def closest(self, target: bytes, count: int = DHT_K) -> list[Contact]:
        """Return up to `count` good contacts next to `target`, the nearest first.

        If no contact is good, doubtful ones: a guess is better than nothing.
        """
        aim = int.from_bytes(target, "big")
        good = [contact for contact in self if not contact.failures]
        return heapq.nsmallest(count, good or self, key=lambda contact: contact.number ^ aim)

    def doubtful(self, count: int) -> list[Contact]:
        """Return up to `count` contacts that were silent, the longest unseen first."""
        silent = [contact for contact in self if contact.failures]
        return heapq.nsmallest(count, silent, key=lambda contact: contact.seen_ms)

    def forget(self, now_ms: int) -> None:
        """Drop who was silent at least twice and unseen for a long time."""
        lost = [
            contact
            for contact in self
            if contact.failures > 1 and now_ms - contact.seen_ms >= DHT_CONTACT_FORGET_MS
        ]
        for contact in lost:
            self._remove(contact)

    def refresh_target(self, now_ms: int, randomness: bytes) -> bytes | None:
        """Return a random id in the bucket that is longest unchanged, if one is too long.

        The caller looks it up.  The bucket counts as changed from now on.
        """
        if not self._buckets:
            return None
        index = min(self._buckets, key=lambda index: self._changed_ms[index])
        if now_ms - self._changed_ms[index] < DHT_BUCKET_REFRESH_MS:
            return None
        self._changed_ms[index] = now_ms
        # Keep `index` bits of our own id, turn the next one, and let chance choose the rest.
        free = _ID_BITS - index - 1
        own = int.from_bytes(self._own_id, "big")
        chance = int.from_bytes(randomness, "big") & ((1 << free) - 1)
        return ((((own >> free) ^ 1) << free) | chance).to_bytes(NODE_ID_BYTES, "big")

    def _room(self, node_id: bytes, address: Address) -> tuple[Contact, ...] | None:
        """Return the contacts that must go for this one to come; None if it may not."""
        if node_id == self._own_id:
            return None
        host = address[0]
        crowd = self._hosts.get(network_of(host), 0)
        if scope_of(host) is Scope.PUBLIC and crowd >= DHT_CONTACTS_PER_HOST_MAX:
            return None
        bucket = self._buckets.get(self._index(node_id), {})
        namesake = bucket.get(node_id)
        if namesake is not None:
            # Moved, if it no longer answers at its old place; otherwise a thief of its id.
            return (namesake,) if namesake.failures else None
        if len(bucket) < DHT_K:
            return ()
        worst = max(bucket.values(), key=lambda contact: contact.failures)
        return (worst,) if worst.failures > 1 else None

    def _remove(self, contact: Contact) -> None:
        index = self._index(contact.node_id)
        bucket = self._buckets[index]
        del bucket[contact.node_id]
        if not bucket:
            del self._buckets[index], self._changed_ms[index]
        del self._contacts[contact.address]
        network = network_of(contact.address[0])
        self._hosts[network] -= 1
        if not self._hosts[network]:
            del self._hosts[network]

    def _index(self, node_id: bytes) -> int:
        return _ID_BITS - distance(self._own_id, node_id).bit_length()
