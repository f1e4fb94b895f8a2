"""A BEP 5 DHT node without I/O: datagrams and time in, datagrams and events out.

After every call that takes `now_ms` the owner must send `datagrams_to_send()`, look at
`events()`, and call `handle_timer` no later than `next_timer_ms()`.  Time is monotonic
milliseconds and chance comes from the seed, so the same calls give the same datagrams.

One node speaks one address family (BEP 32: the two DHTs are separate; run two nodes for both).
Nothing found here is trusted: eight sybils next to a name hide it, so peers are only hints.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from zmqex.dht import krpc, schedule
from zmqex.dht.address import (
    Address,
    Family,
    family_of,
    is_believable,
    scope_of,
    unspecified,
)
from zmqex.dht.bencode import Value
from zmqex.dht.events import Announced, Event, LookupDone, PeersFound
from zmqex.dht.guard import RateLimit, Tokens
from zmqex.dht.krpc import NODE_ID_BYTES, Failure, Query, Reply
from zmqex.dht.lookup import Lookup, Purpose
from zmqex.dht.responder import Responder
from zmqex.dht.store import PeerStore
from zmqex.dht.table import RoutingTable, position_of
from zmqex.errors import LocalProtocolError, RemoteProtocolError
from zmqex.limits import (
    DHT_ALPHA,
    DHT_BOOTSTRAP_MAX,
    DHT_CHECKS_MAX,
    DHT_LOOKUPS_MAX,
    DHT_NAME_BYTES_MAX,
    DHT_NAMES_MAX,
    DHT_QUERY_TIMEOUT_MS,
)

_SEED_BYTES_MIN: Final = 16
_SEED_BYTES_MAX: Final = 64
_CHANCE_BYTES: Final = 4
_COUNT_BYTES: Final = 2
_PORT_MAX: Final = 65_535
# Silent contacts that one round of upkeep calls again.
_RECHECKS: Final = 8


@dataclass(slots=True)
class Counters:
    """What went in and out since the start."""

    received: int = 0
    sent: int = 0
    queries_answered: int = 0
    timeouts: int = 0
    dropped_malformed: int = 0
    dropped_rate: int = 0
    dropped_unasked: int = 0
    dropped_source: int = 0


@dataclass(slots=True)
class _Round:
    """The second half of an announce: the nearest nodes are being told."""

    name: bytes
    port: int
    waiting: int
    stored: int = 0


@dataclass(slots=True)
class _Pending:
    """A query under way: a check (ping) if it belongs to neither a lookup nor a round."""

    address: Address
    deadline_ms: int
    lookup: Lookup | None = None
    round: _Round | None = None


@dataclass(slots=True)
class _Bootstrap:
    """An address to start from; after a silence it is spared while others answer."""

    retry_ms: int = 0


@dataclass(slots=True)
class _Outbox:
    datagrams: list[tuple[bytes, Address]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


class DhtNode:
    """A node of the DHT.

    `node_id`: 20 bytes.  `seed`: 16 to 64 random bytes, never used twice.  `own_host`: how
    others reach us, if it is known; otherwise those who ask us use what they reached us at.
    Raises `LocalProtocolError` for arguments out of range, never for what a stranger sent.
    """

    def __init__(
        self,
        node_id: bytes,
        now_ms: int,
        seed: bytes,
        *,
        family: Family = 4,
        own_host: str | None = None,
    ) -> None:
        if len(node_id) != NODE_ID_BYTES:
            raise LocalProtocolError(f"a node id has {NODE_ID_BYTES} bytes")
        if not _SEED_BYTES_MIN <= len(seed) <= _SEED_BYTES_MAX:
            raise LocalProtocolError("the seed has 16 to 64 bytes")
        self.node_id = node_id
        self.family: Family = family
        self.counters = Counters()
        self._seed = seed
        self._draws = 0
        self._queries = 0
        self._table = RoutingTable(node_id)
        self._store = PeerStore()
        self._rate = RateLimit()
        tokens = Tokens(self._random, now_ms)
        self._responder = Responder(
            node_id, family, self._table, self._store, tokens, self._random, own_host
        )
        self._pending: dict[bytes, _Pending] = {}
        self._checking: dict[Address, None] = {}
        self._lookups: dict[tuple[bytes, Purpose], Lookup] = {}
        self._bootstrap: dict[Address, _Bootstrap] = {}
        self._follows: dict[bytes, schedule.Repeat] = {}
        self._announces: dict[bytes, schedule.Repeat] = {}
        self._join = schedule.join(now_ms)
        self._upkeep = schedule.upkeep(now_ms)
        self._upkeep.ran(now_ms, self._random)
        self._outbox = _Outbox()
        self._last_reply_ms: int | None = None

    # --- what the owner wants ------------------------------------------------------------

    def add_bootstrap(self, addresses: Iterable[Address], now_ms: int) -> None:
        """Start from these nodes too; they are called again whenever nobody else answers.

        Those of the other family, and those beyond `DHT_BOOTSTRAP_MAX`, are left out.
        """
        for address in addresses:
            if self._is_usable(address) and len(self._bootstrap) < DHT_BOOTSTRAP_MAX:
                self._bootstrap.setdefault(address, _Bootstrap())
        self._join.restart(now_ms)
        self._look_up(self.node_id, Purpose.NODES, now_ms)

    def lookup(self, name: bytes, now_ms: int) -> None:
        """Look `name` up once: `PeersFound` as answers come in, then one `LookupDone`.

        A lookup of the same name that is under way is shared.
        """
        _check_name(name)
        if len(self._lookups) >= DHT_LOOKUPS_MAX and (name, Purpose.PEERS) not in self._lookups:
            raise LocalProtocolError("too many lookups at once")
        self._look_up(name, Purpose.PEERS, now_ms)

    def follow(self, name: bytes, now_ms: int) -> None:
        """Look `name` up now and again until `unfollow`; tell at once who announces it here."""
        self._check_room(name)
        if name not in self._follows:
            self._follows[name] = schedule.follow(now_ms)
            self.handle_timer(now_ms)

    def unfollow(self, name: bytes) -> None:
        """Stop following `name`."""
        self._follows.pop(name, None)

    def announce(self, name: bytes, port: int, now_ms: int) -> None:
        """Announce `port` under `name`, now and again until `withdraw`."""
        self._check_room(name)
        if not 1 <= port <= _PORT_MAX:
            raise LocalProtocolError("a port is 1 to 65535")
        self._announces[name] = schedule.announce(now_ms, port)
        self.handle_timer(now_ms)

    def withdraw(self, name: bytes) -> None:
        """Stop announcing `name`; others forget it within `DHT_PEER_LIFE_MS` (BEP 5)."""
        self._announces.pop(name, None)

    def wake(self, now_ms: int) -> None:
        """Do everything anew at once: the machine slept, or the network changed."""
        for repeat in (*self._follows.values(), *self._announces.values(), self._join):
            repeat.restart(now_ms)
        for bootstrap in self._bootstrap.values():
            bootstrap.retry_ms = now_ms
        self._look_up(self.node_id, Purpose.NODES, now_ms)
        self.handle_timer(now_ms)

    # --- what the owner asks -------------------------------------------------------------

    @property
    def contacts(self) -> int:
        """How many nodes answered when they were last asked."""
        return self._table.good

    @property
    def stored_peers(self) -> int:
        """How many announces of others we keep."""
        return len(self._store)

    @property
    def last_reply_ms(self) -> int | None:
        """When any node last answered us; None if none ever did."""
        return self._last_reply_ms

    def contact_addresses(self) -> list[Address]:
        """Return all contacts' addresses, to be given to `add_bootstrap` after a restart."""
        return [contact.address for contact in self._table]

    def found(self, name: bytes, now_ms: int) -> tuple[Address, ...]:
        """Return the peers of `name` that are known at this moment."""
        running = self._lookups.get((name, Purpose.PEERS))
        return running.peers() if running else tuple(self._store.peers(name, now_ms))

    # --- the pump ------------------------------------------------------------------------

    def datagrams_to_send(self) -> list[tuple[bytes, Address]]:
        """Return, once, what must be sent now."""
        datagrams, self._outbox.datagrams = self._outbox.datagrams, []
        self.counters.sent += len(datagrams)
        return datagrams

    def events(self) -> list[Event]:
        """Return, once, what happened."""
        events, self._outbox.events = self._outbox.events, []
        return events

    def next_timer_ms(self) -> int:
        """Return when `handle_timer` must be called at the latest."""
        repeats = (*self._follows.values(), *self._announces.values())
        times = [repeat.next_ms for repeat in repeats]
        times.append(self._upkeep.next_ms)
        if self._is_joining():
            times.append(self._join.next_ms)
        if self._pending:
            times.append(next(iter(self._pending.values())).deadline_ms)
        return min(times)

    def handle_timer(self, now_ms: int) -> None:
        """Do whatever is due; calling too early or too often does no harm."""
        self._expire_queries(now_ms)
        for name, repeat in list(self._follows.items()):
            if repeat.next_ms <= now_ms:
                repeat.ran(now_ms, self._random)
                self._look_up(name, Purpose.PEERS, now_ms)
        for name, repeat in list(self._announces.items()):
            if repeat.next_ms <= now_ms:
                repeat.ran(now_ms, self._random)
                self._look_up(name, Purpose.ANNOUNCE, now_ms)
        if self._is_joining() and self._join.next_ms <= now_ms:
            self._join.ran(now_ms, self._random)
            self._look_up(self.node_id, Purpose.NODES, now_ms)
        if self._upkeep.next_ms <= now_ms:
            self._upkeep.ran(now_ms, self._random)
            self._tend(now_ms)

    def receive_datagram(self, raw: bytes, address: Address, now_ms: int) -> None:
        """Take one datagram from the wire; whatever it holds, this does not raise."""
        self.counters.received += 1
        if not self._is_usable(address):
            self.counters.dropped_source += 1
            return
        if not self._rate.allows(address[0], now_ms):
            self.counters.dropped_rate += 1
            return
        try:
            message = krpc.decode_message(raw)
        except RemoteProtocolError:
            self.counters.dropped_malformed += 1
            return
        if isinstance(message, Query):
            self._on_query(message, address, now_ms)
        else:
            self._on_answer(message, address, now_ms)

    # --- being asked ---------------------------------------------------------------------

    def _on_query(self, query: Query, sender: Address, now_ms: int) -> None:
        self.counters.queries_answered += 1
        ports = {name: repeat.port or 0 for name, repeat in self._announces.items()}
        response = self._responder.answer(query, sender, now_ms, ports, {**ports, **self._follows})
        self._outbox.datagrams.append((response.datagram, sender))
        if response.announced is not None:
            name, peer = response.announced
            if name in self._follows or name in self._announces:
                self._outbox.events.append(PeersFound(name, (peer,)))
        if not query.read_only and self._table.wants(query.sender, sender):
            self._check(sender, now_ms)

    def _check(self, address: Address, now_ms: int) -> None:
        """Ping `address`: only who answers becomes a contact."""
        if address in self._checking or len(self._checking) >= DHT_CHECKS_MAX:
            return
        self._checking[address] = None
        self._ask(address, b"ping", {}, now_ms)

    # --- asking --------------------------------------------------------------------------

    def _look_up(self, name: bytes, purpose: Purpose, now_ms: int) -> None:
        if (name, purpose) in self._lookups:
            return
        lookup = Lookup(name, purpose, now_ms)
        self._lookups[name, purpose] = lookup
        near = self._table.closest(position_of(name))
        lookup.add((contact.node_id, contact.address) for contact in near)
        if self._table.good < DHT_ALPHA:
            lonely = self._table.is_deserted
            lookup.add(
                (None, address)
                for address, bootstrap in self._bootstrap.items()
                if lonely or bootstrap.retry_ms <= now_ms
            )
        if purpose is not Purpose.NODES:
            self._found(lookup, self._store.peers(name, now_ms))
        self._advance(lookup, now_ms)

    def _advance(self, lookup: Lookup, now_ms: int) -> None:
        key = (lookup.name, lookup.purpose)
        if self._lookups.get(key) is not lookup:
            return  # it ended while its last answers were still under way
        nodes = lookup.purpose is Purpose.NODES
        for address in lookup.next_queries(now_ms):
            if nodes:
                target: dict[bytes, Value] = {b"target": lookup.name}
                self._ask(address, b"find_node", target, now_ms, lookup=lookup)
            else:
                wanted: dict[bytes, Value] = {b"info_hash": lookup.name}
                self._ask(address, b"get_peers", wanted, now_ms, lookup=lookup)
        if not lookup.is_done(now_ms):
            return
        del self._lookups[key]
        if lookup.purpose is Purpose.PEERS:
            took_ms = now_ms - lookup.started_ms
            done = LookupDone(lookup.name, lookup.peers(), lookup.answers, took_ms)
            self._outbox.events.append(done)
        elif lookup.purpose is Purpose.ANNOUNCE:
            self._tell(lookup, now_ms)

    def _tell(self, lookup: Lookup, now_ms: int) -> None:
        """Send our announce to the nearest nodes that the lookup found."""
        repeat = self._announces.get(lookup.name)
        if repeat is None or repeat.port is None:
            return  # withdrawn meanwhile
        holders = lookup.holders()
        round_ = _Round(lookup.name, repeat.port, len(holders))
        for address, token in holders:
            arguments: dict[bytes, Value] = {
                b"implied_port": 0,
                b"info_hash": lookup.name,
                b"port": repeat.port,
                b"token": token,
            }
            self._ask(address, b"announce_peer", arguments, now_ms, round_=round_)
        self._close(round_)

    def _close(self, round_: _Round) -> None:
        if not round_.waiting:
            announced = Announced(round_.name, round_.port, round_.stored)
            self._outbox.events.append(announced)

    def _found(self, lookup: Lookup, peers: Iterable[Address]) -> None:
        new = lookup.found(peers)
        if new:
            self._outbox.events.append(PeersFound(lookup.name, tuple(new)))

    def _ask(
        self,
        address: Address,
        method: bytes,
        arguments: dict[bytes, Value],
        now_ms: int,
        *,
        lookup: Lookup | None = None,
        round_: _Round | None = None,
    ) -> None:
        # Chance, so that it cannot be guessed, and a count, so that it cannot come twice.
        self._queries = (self._queries + 1) % (1 << 8 * _COUNT_BYTES)
        transaction = self._random(_CHANCE_BYTES) + self._queries.to_bytes(_COUNT_BYTES, "big")
        deadline_ms = now_ms + DHT_QUERY_TIMEOUT_MS
        self._pending[transaction] = _Pending(address, deadline_ms, lookup, round_)
        datagram = krpc.encode_query(transaction, method, self.node_id, arguments)
        self._outbox.datagrams.append((datagram, address))

    # --- being answered ------------------------------------------------------------------

    def _on_answer(self, answer: Reply | Failure, sender: Address, now_ms: int) -> None:
        pending = self._pending.get(answer.transaction)
        if pending is None or pending.address != sender:
            self.counters.dropped_unasked += 1
            return
        del self._pending[answer.transaction]
        self._checking.pop(sender, None)
        self._last_reply_ms = now_ms
        if isinstance(answer, Failure) or answer.sender == self.node_id:
            self._settle(pending, now_ms, stored=False)
            return
        if self._table.replied(answer.sender, sender, now_ms) and self._table.good == 1:
            # The first contact: what was announced to nobody, it shall know at once.
            for repeat in (*self._follows.values(), *self._announces.values()):
                repeat.restart(now_ms)
        if pending.lookup is None:
            self._settle(pending, now_ms, stored=True)
            return
        self._learn(pending.lookup, answer, sender)
        self._advance(pending.lookup, now_ms)

    def _learn(self, lookup: Lookup, reply: Reply, sender: Address) -> None:
        told = krpc.read_answer(reply, self.family)
        lookup.add(
            (node_id, address)
            for node_id, address in told.contacts
            if node_id != self.node_id and is_believable(address[0], sender[0])
        )
        here = unspecified(self.family)
        peers = [(sender[0], port) if host == here else (host, port) for host, port in told.peers]
        peers = [peer for peer in peers if is_believable(peer[0], sender[0])]
        new = lookup.replied(sender, reply.sender, told.token, peers)
        if new and lookup.purpose is not Purpose.NODES:
            self._outbox.events.append(PeersFound(lookup.name, tuple(new)))

    def _settle(self, pending: _Pending, now_ms: int, *, stored: bool) -> None:
        """End a query that brought nothing to a lookup."""
        if pending.lookup is not None:
            pending.lookup.failed(pending.address)
            self._advance(pending.lookup, now_ms)
        if pending.round is not None:
            pending.round.waiting -= 1
            pending.round.stored += stored
            self._close(pending.round)

    def _expire_queries(self, now_ms: int) -> None:
        while self._pending:
            transaction, pending = next(iter(self._pending.items()))
            if pending.deadline_ms > now_ms:
                return
            del self._pending[transaction]
            self.counters.timeouts += 1
            self._checking.pop(pending.address, None)
            bootstrap = self._bootstrap.get(pending.address)
            if bootstrap is not None:
                bootstrap.retry_ms = now_ms + schedule.UPKEEP_EVERY_MS
            if self._table.failed(pending.address):
                # One datagram may be lost; a second silence counts.
                self._check(pending.address, now_ms)
            self._settle(pending, now_ms, stored=False)

    # --- housekeeping --------------------------------------------------------------------

    def _is_joining(self) -> bool:
        return bool(self._bootstrap) and self._table.is_deserted

    def _tend(self, now_ms: int) -> None:
        self._store.expire(now_ms)
        self._table.forget(now_ms)
        for contact in self._table.doubtful(_RECHECKS):
            self._check(contact.address, now_ms)
        target = self._table.refresh_target(now_ms, self._random(NODE_ID_BYTES))
        if target is not None:
            self._look_up(target, Purpose.NODES, now_ms)

    def _is_usable(self, address: Address) -> bool:
        host, port = address
        return bool(scope_of(host)) and family_of(host) == self.family and 1 <= port <= _PORT_MAX

    def _check_room(self, name: bytes) -> None:
        _check_name(name)
        names = {**self._follows, **self._announces}
        if name not in names and len(names) >= DHT_NAMES_MAX:
            raise LocalProtocolError("too many names are announced or followed")

    def _random(self, count: int) -> bytes:
        """Draw the next `count` (up to 64) unpredictable bytes from the seed."""
        self._draws += 1
        draw = self._draws.to_bytes(8, "big")
        return hashlib.blake2b(draw, key=self._seed, digest_size=count).digest()


def _check_name(name: bytes) -> None:
    if not 1 <= len(name) <= DHT_NAME_BYTES_MAX:
        raise LocalProtocolError(f"a name has 1 to {DHT_NAME_BYTES_MAX} bytes")
