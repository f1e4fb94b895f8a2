"""The asking half of a node: lookups under way, and what is told to the nodes that they find.

What comes back is believed only as far as its teller can be; see `address.is_believable`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from zmqex.dht import krpc
from zmqex.dht.address import Address, Family, is_believable, unspecified
from zmqex.dht.bencode import Value
from zmqex.dht.events import (
    Announced,
    Event,
    ItemDone,
    ItemFound,
    ItemStored,
    LookupDone,
    PeersFound,
)
from zmqex.dht.items import Item, ItemKey, read_item
from zmqex.dht.krpc import Reply
from zmqex.dht.lookup import Lookup, Purpose, Round
from zmqex.dht.queries import Pending, Queries
from zmqex.dht.responder import Responder
from zmqex.dht.table import RoutingTable, position_of
from zmqex.dht.wants import Wants


class Pair(Protocol):
    """Our node of the other family."""

    family: Family

    def consider(
        self, contacts: Iterable[tuple[bytes, Address]], teller: Address, now_ms: int
    ) -> None:
        """Hear of contacts of its family that `teller` named."""


@dataclass(slots=True)
class Outbox:
    """What leaves a node at the next chance."""

    datagrams: list[tuple[bytes, Address]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


class Searches:
    """All lookups of a node; each (name, purpose) runs at most once at a time."""

    def __init__(
        self,
        own_id: bytes,
        family: Family,
        table: RoutingTable,
        responder: Responder,
        wants: Wants,
        queries: Queries,
        outbox: Outbox,
    ) -> None:
        self.pair: Pair | None = None
        self._own_id = own_id
        self._family: Family = family
        self._table = table
        self._peers, self._items = responder.peers, responder.items
        self._wants = wants
        self._queries = queries
        self._outbox = outbox
        self._running: dict[tuple[bytes, Purpose], Lookup] = {}

    def __len__(self) -> int:
        return len(self._running)

    def running(self, name: bytes, purpose: Purpose) -> Lookup | None:
        """Return the lookup that is under way."""
        return self._running.get((name, purpose))

    def start(
        self,
        name: bytes,
        purpose: Purpose,
        now_ms: int,
        where: ItemKey | None = None,
        bootstrap: Iterable[Address] = (),
    ) -> None:
        """Look `name` up from the nearest contacts and `bootstrap`, unless that is under way."""
        if (name, purpose) in self._running:
            return
        lookup = Lookup(name, purpose, now_ms, where)
        if purpose is Purpose.PUT:
            own = self._wants.items[name].item
            self._items.keep(own, now_ms)
            lookup.where = own.where
            lookup.round = Round(name, own, waiting=1)
        self._running[name, purpose] = lookup
        near = self._table.closest(position_of(name))
        lookup.add((contact.node_id, contact.address) for contact in near)
        lookup.add((None, address) for address in bootstrap)
        if lookup.where is not None:
            self._shown(lookup, self._items.get(name, now_ms))
        elif purpose is not Purpose.NODES:
            self._found(lookup, lookup.found(self._peers.peers(name, now_ms)))
        self._advance(lookup, now_ms)

    def drop(self, name: bytes, purpose: Purpose) -> None:
        """Forget a lookup: what it would tell has changed."""
        self._running.pop((name, purpose), None)

    def replied(
        self, pending: Pending, lookup: Lookup, reply: Reply, sender: Address, now_ms: int
    ) -> None:
        """Take one node's answer to a question of `lookup`."""
        told = krpc.read_answer(reply, self._family)
        lookup.add(
            (node_id, address)
            for node_id, address in told.contacts
            if node_id != self._own_id
            and is_believable(address[0], sender[0])
            and not self._queries.is_dead(address, now_ms)
        )
        here = unspecified(self._family)
        peers = [(sender[0], port) if host == here else (host, port) for host, port in told.peers]
        peers = [peer for peer in peers if is_believable(peer[0], sender[0])]
        new = lookup.replied(pending.address, reply.sender, told.token, peers)
        if lookup.where is not None:
            self._shown(lookup, read_item(reply.values, lookup.where.salt))
        elif lookup.purpose is not Purpose.NODES:
            self._found(lookup, new)
        if self.pair is not None:
            theirs = krpc.read_answer(reply, self.pair.family).contacts
            self.pair.consider(theirs, sender, now_ms)
        running = self._running.get((lookup.name, lookup.purpose)) is lookup
        if running and lookup.round and told.token and lookup.is_near(pending.address):
            # At once: a node that has gone would hold up all others until the lookup's end.
            self._tell(lookup, lookup.round, [(pending.address, told.token)], now_ms)
        self._advance(lookup, now_ms)

    def settled(self, pending: Pending, now_ms: int, *, stored: bool) -> None:
        """End a query that brought nothing to a lookup."""
        if pending.lookup is not None:
            pending.lookup.failed(pending.address)
            self._advance(pending.lookup, now_ms)
        if pending.round is not None:
            pending.round.waiting -= 1
            pending.round.stored += stored
            self._close(pending.round)

    def _advance(self, lookup: Lookup, now_ms: int) -> None:
        key = (lookup.name, lookup.purpose)
        if self._running.get(key) is not lookup:
            return  # it ended while its last answers were still under way
        for address in lookup.next_queries(now_ms):
            arguments: dict[bytes, Value] = {lookup.purpose.argument: lookup.name}
            if lookup.purpose is Purpose.PUT and lookup.item is not None:
                # Who has this one, or an older one, need not show it.
                arguments[b"seq"] = lookup.item.sequence
            if self.pair is not None:
                arguments[b"want"] = krpc.WANT_BOTH
            self._queries.ask(address, lookup.purpose.method, arguments, now_ms, lookup=lookup)
        if not lookup.is_done(now_ms):
            return
        del self._running[key]
        if lookup.purpose is Purpose.PEERS:
            took_ms = now_ms - lookup.started_ms
            done = LookupDone(lookup.name, lookup.peers(), lookup.answers, took_ms)
            self._outbox.events.append(done)
        elif lookup.purpose is Purpose.GET and lookup.where is not None:
            self._outbox.events.append(ItemDone(lookup.where, lookup.item, lookup.answers))
        elif lookup.round is not None:
            lookup.round.waiting -= 1
            self._close(lookup.round)
        elif lookup.purpose is Purpose.ANNOUNCE and lookup.name in self._wants.ports:
            round_ = Round(lookup.name, self._wants.ports[lookup.name])
            self._tell(lookup, round_, lookup.holders(), now_ms)
            self._close(round_)

    def _tell(
        self, lookup: Lookup, round_: Round, holders: Iterable[tuple[Address, bytes]], now_ms: int
    ) -> None:
        """Send our announce or item to nodes that gave a token for it."""
        method, telling = self._wants.telling(lookup.name, lookup.purpose)
        for address, token in holders:
            round_.waiting += 1
            arguments = {**telling, b"token": token}
            self._queries.ask(address, method, arguments, now_ms, round_=round_)

    def _close(self, round_: Round) -> None:
        if round_.waiting:
            return
        if isinstance(round_.told, Item):
            self._outbox.events.append(ItemStored(round_.told, round_.stored))
        else:
            self._outbox.events.append(Announced(round_.name, round_.told, round_.stored))

    def _found(self, lookup: Lookup, new: list[Address]) -> None:
        if new:
            self._outbox.events.append(PeersFound(lookup.name, tuple(new)))

    def _shown(self, lookup: Lookup, item: Item | None) -> None:
        if lookup.shown(item) and lookup.item is not None and lookup.purpose is Purpose.GET:
            self._outbox.events.append(ItemFound(lookup.item))
