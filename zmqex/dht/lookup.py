"""One iterative lookup: asks ever nearer nodes until the nearest have all answered (BEP 5, BEP 44).

It only decides whom to ask and what was found.  Sending, time-outs and the judgement of who
may tell what are the business of `node`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from zmqex.dht.address import Address
from zmqex.dht.items import Item, ItemKey
from zmqex.dht.limits import (
    DHT_ALPHA,
    DHT_K,
    DHT_LOOKUP_CONTACTS_MAX,
    DHT_LOOKUP_LIFE_MAX_MS,
    DHT_LOOKUP_PEERS_MAX,
    DHT_LOOKUP_QUERIES_MAX,
)
from zmqex.dht.table import distance, position_of

# A node of unknown id (a bootstrap address) is asked before all others.
_UNKNOWN: Final = -1


class Purpose(enum.Enum):
    """What a lookup is for: the method that it asks, and the argument that holds its name."""

    NODES = (b"find_node", b"target", "to know them")
    PEERS = (b"get_peers", b"info_hash", "to know who announced")
    ANNOUNCE = (b"get_peers", b"info_hash", "to announce there")
    GET = (b"get", b"target", "to have the item")
    PUT = (b"get", b"target", "to put the item there")

    @property
    def method(self) -> bytes:
        """The query to each node on the way."""
        return self.value[0]

    @property
    def argument(self) -> bytes:
        """What the query calls the name."""
        return self.value[1]


class _Step(enum.Enum):
    FRESH = enum.auto()
    ASKED = enum.auto()
    REPLIED = enum.auto()
    FAILED = enum.auto()


@dataclass(slots=True)
class _Entry:
    address: Address
    distance: int
    step: _Step = _Step.FRESH
    token: bytes | None = None


@dataclass(slots=True)
class _Vote:
    """How many nodes named a peer, and how early in an answer at best."""

    tellers: int = 0
    rank: int = DHT_LOOKUP_PEERS_MAX


@dataclass(slots=True)
class Round:
    """What an announce or a put tells to the nearest nodes: a port under `name`, or an item.

    `waiting` counts the nodes that have not answered, and the lookup that may find more.
    """

    name: bytes
    told: int | Item
    waiting: int = 0
    stored: int = 0


@dataclass(slots=True)
class Lookup:
    """The state of one lookup of `name`: for nodes an id, for items a target.

    `item` is the newest genuine item that anybody showed; `round` is what a put tells on the way.
    """

    name: bytes
    purpose: Purpose
    started_ms: int
    where: ItemKey | None = None
    item: Item | None = None
    round: Round | None = None
    _entries: dict[Address, _Entry] = field(default_factory=dict)
    _votes: dict[Address, _Vote] = field(default_factory=dict)
    _queries: int = 0

    def add(self, contacts: Iterable[tuple[bytes | None, Address]]) -> None:
        """Consider more nodes; an id of None means that only the address is known."""
        position = position_of(self.name)
        for node_id, address in contacts:
            if address not in self._entries:
                away = _UNKNOWN if node_id is None else distance(node_id, position)
                self._entries[address] = _Entry(address, away)
        excess = len(self._entries) - DHT_LOOKUP_CONTACTS_MAX
        if excess > 0:
            fresh = [entry for entry in self._entries.values() if entry.step is _Step.FRESH]
            fresh.sort(key=lambda entry: entry.distance)
            for entry in fresh[-excess:]:
                del self._entries[entry.address]

    def next_queries(self, now_ms: int) -> list[Address]:
        """Return whom to ask now; each of them must be reported by `replied` or `failed`."""
        if now_ms - self.started_ms >= DHT_LOOKUP_LIFE_MAX_MS:
            return []
        waiting = sum(entry.step is _Step.ASKED for entry in self._entries.values())
        room = min(DHT_ALPHA - waiting, DHT_LOOKUP_QUERIES_MAX - self._queries)
        fresh = [entry for entry in self._nearest() if entry.step is _Step.FRESH]
        chosen = fresh[: max(0, room)]
        for entry in chosen:
            entry.step = _Step.ASKED
        self._queries += len(chosen)
        return [entry.address for entry in chosen]

    def replied(
        self, address: Address, node_id: bytes, token: bytes | None, peers: Iterable[Address]
    ) -> list[Address]:
        """Take the answer of `address`; return the peers that nobody named before."""
        entry = self._entries[address]
        entry.step = _Step.REPLIED
        entry.distance = distance(node_id, position_of(self.name))
        entry.token = token
        return self.found(peers)

    def failed(self, address: Address) -> None:
        """Note that `address` did not answer, or refused."""
        self._entries[address].step = _Step.FAILED

    def found(self, peers: Iterable[Address]) -> list[Address]:
        """Count one node's list of peers; return those that are new."""
        new = []
        for rank, peer in enumerate(dict.fromkeys(peers)):
            vote = self._votes.get(peer)
            if vote is None:
                if len(self._votes) >= DHT_LOOKUP_PEERS_MAX:
                    continue
                vote = self._votes[peer] = _Vote()
                new.append(peer)
            vote.tellers += 1
            vote.rank = min(vote.rank, rank)
        return new

    def shown(self, item: Item | None) -> bool:
        """Look at what one node has; True if it is a newer genuine item than any before."""
        if item is None or item.where != self.where:
            return False
        if self.item is not None and item.sequence <= self.item.sequence:
            return False
        if not item.is_genuine:
            return False
        self.item = item
        return True

    def is_done(self, now_ms: int) -> bool:
        """Whether the nearest nodes have all answered, or patience has ended."""
        if now_ms - self.started_ms >= DHT_LOOKUP_LIFE_MAX_MS:
            return True
        steps = [entry.step for entry in self._nearest()]
        if self._queries >= DHT_LOOKUP_QUERIES_MAX:
            return _Step.ASKED not in steps
        return all(step is _Step.REPLIED for step in steps)

    @property
    def answers(self) -> int:
        """How many nodes answered."""
        return sum(entry.step is _Step.REPLIED for entry in self._entries.values())

    def peers(self) -> tuple[Address, ...]:
        """Return what was found, the most credible first.

        That is: named by most nodes, then by its place in a list, so that one liar's long
        list never pushes a short honest one back.
        """
        votes = self._votes
        ranked = sorted(votes, key=lambda peer: (-votes[peer].tellers, votes[peer].rank))
        return tuple(ranked)

    def is_near(self, address: Address) -> bool:
        """Whether this node is among the nearest that are known so far."""
        return any(entry.address == address for entry in self._nearest())

    def holders(self) -> list[tuple[Address, bytes]]:
        """Return the nearest nodes that would take an announce, each with its token."""
        replied = [entry for entry in self._nearest() if entry.step is _Step.REPLIED]
        return [(entry.address, entry.token) for entry in replied if entry.token is not None]

    def _nearest(self) -> list[_Entry]:
        alive = [entry for entry in self._entries.values() if entry.step is not _Step.FAILED]
        alive.sort(key=lambda entry: entry.distance)
        return alive[:DHT_K]
