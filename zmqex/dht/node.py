"""A DHT node without I/O (BEP 5, 32, 44): datagrams and time in, datagrams and events out.

After every call that takes `now_ms` the owner must send `datagrams_to_send()`, look at
`events()`, and call `handle_timer` no later than `next_timer_ms()`.  Time is monotonic
milliseconds and chance comes from the seed, so the same calls give the same datagrams.

One node speaks one address family; the node of the other family, which has a DHT of its own, may
be paired with it, so that each hears of contacts by the other (BEP 32).
Nothing found here is trusted: eight sybils next to a name hide it, so peers are only hints.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from zmqex.dht import krpc, schedule
from zmqex.dht.address import (
    Address,
    Family,
    family_of,
    is_believable,
    scope_of,
)
from zmqex.dht.events import (
    Event,
    PeersFound,
)
from zmqex.dht.guard import RateLimit, Tokens
from zmqex.dht.items import Item, ItemKey
from zmqex.dht.krpc import NODE_ID_BYTES, Failure, Query, Reply
from zmqex.dht.limits import (
    DHT_ALPHA,
    DHT_BOOTSTRAP_MAX,
    DHT_BUCKET_REFRESH_MS,
    DHT_CHECKS_MAX,
    DHT_LOOKUPS_MAX,
)
from zmqex.dht.lookup import Purpose
from zmqex.dht.queries import Queries
from zmqex.dht.responder import Responder
from zmqex.dht.searches import Outbox, Searches
from zmqex.dht.table import RoutingTable
from zmqex.dht.wants import Wants, check_name
from zmqex.errors import LocalProtocolError, RemoteProtocolError

_SEED_BYTES_MIN: Final = 16
_SEED_BYTES_MAX: Final = 64
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
class _Bootstrap:
    """An address to start from; after a silence it is spared while others answer."""

    retry_ms: int = 0


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
        self.table = RoutingTable(node_id)
        self._rate = RateLimit()
        tokens = Tokens(self._random, now_ms)
        self._responder = Responder(node_id, family, self.table, tokens, self._random, own_host)
        self._peers, self._items = self._responder.peers, self._responder.items
        self._outbox = Outbox()
        self._wants = Wants()
        self._queries = Queries(node_id, self._random, self._outbox.datagrams.append)
        self._searches = Searches(
            node_id, family, self.table, self._responder, self._wants, self._queries, self._outbox
        )
        self._checking: dict[Address, None] = {}
        self._bootstrap: dict[Address, _Bootstrap] = {}
        self._known: list[Address] = []
        self._bootstrapped = False
        self._join = schedule.join(now_ms)
        self._upkeep = schedule.upkeep(now_ms)
        self._upkeep.ran(now_ms, self._random)
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

    def restore(self, addresses: Iterable[Address], now_ms: int) -> None:
        """Call nodes that answered in an earlier run, now and whenever nobody else answers.

        All at once, unlike bootstrap nodes, as many of them may be gone; up to `DHT_CHECKS_MAX`.
        """
        usable = [address for address in addresses if self._is_usable(address)]
        self._known = usable[:DHT_CHECKS_MAX]
        self._join.restart(now_ms)
        self.handle_timer(now_ms)

    def pair(self, other: DhtNode) -> None:
        """Answer with `other`'s contacts too where they are wanted, and let it hear of more.

        `other` is our node of the other family (BEP 32).  The owner pairs both ways, and looks
        after both nodes whenever one of them was called.
        """
        if self.family == other.family:
            raise LocalProtocolError("a node is paired with one of the other family")
        self._responder.tables[other.family] = other.table
        self._searches.pair = other

    def lookup(self, name: bytes, now_ms: int) -> None:
        """Look `name` up once: `PeersFound` as answers come in, then one `LookupDone`.

        A lookup of the same name that is under way is shared.
        """
        check_name(name)
        self._check_lookups(name, Purpose.PEERS)
        self._look_up(name, Purpose.PEERS, now_ms)

    def get(self, where: ItemKey, now_ms: int) -> None:
        """Look an item up once: `ItemFound` for each newer one, then one `ItemDone`."""
        self._check_lookups(where.target, Purpose.GET)
        self._look_up(where.target, Purpose.GET, now_ms, where)

    def follow(self, name: bytes, now_ms: int) -> None:
        """Look `name` up now and again until `unfollow`; tell at once who announces it here."""
        if self._wants.follow(name, now_ms):
            self.handle_timer(now_ms)

    def unfollow(self, name: bytes) -> None:
        """Stop following `name`."""
        self._wants.unfollow(name)

    def announce(self, name: bytes, port: int, now_ms: int) -> None:
        """Announce `port` under `name`, now and again until `withdraw`."""
        self._wants.announce(name, port, now_ms)
        self.handle_timer(now_ms)

    def withdraw(self, name: bytes) -> None:
        """Stop announcing `name`; others forget it within `DHT_PEER_LIFE_MS` (BEP 5)."""
        self._wants.withdraw(name)

    def publish(self, item: Item, now_ms: int, cas: int | None = None) -> None:
        """Put `item` now and again, in place of an earlier one of its key and salt.

        `cas`: only where an item of this sequence is (BEP 44); for keys with several writers.
        """
        self._wants.publish(item, cas, now_ms)
        # A put of the last one that is under way would tell the old value.
        self._searches.drop(item.where.target, Purpose.PUT)
        self.handle_timer(now_ms)

    def wake(self, now_ms: int) -> None:
        """Do everything anew at once: the machine slept, or the network changed."""
        self._queries.forgive()
        self._wants.restart(now_ms)
        self._join.restart(now_ms)
        for bootstrap in self._bootstrap.values():
            bootstrap.retry_ms = now_ms
        self._look_up(self.node_id, Purpose.NODES, now_ms)
        self.handle_timer(now_ms)

    # --- what the owner asks -------------------------------------------------------------

    @property
    def contacts(self) -> int:
        """How many nodes answered when they were last asked."""
        return self.table.good

    @property
    def stored_peers(self) -> int:
        """How many announces of others we keep."""
        return len(self._peers)

    @property
    def stored_items(self) -> int:
        """How many items we keep, our own among them."""
        return len(self._items)

    @property
    def last_reply_ms(self) -> int | None:
        """When any node last answered us; None if none ever did."""
        return self._last_reply_ms

    def contact_addresses(self) -> list[Address]:
        """Return who answered last, the newest first, to be given to `restore` the next time."""
        good = [contact for contact in self.table if not contact.failures]
        good.sort(key=lambda contact: -contact.seen_ms)
        return [contact.address for contact in good[:DHT_CHECKS_MAX]]

    def found(self, name: bytes, now_ms: int) -> tuple[Address, ...]:
        """Return the peers of `name` that are known at this moment."""
        running = self._searches.running(name, Purpose.PEERS)
        return running.peers() if running else tuple(self._peers.peers(name, now_ms))

    # --- the pump ------------------------------------------------------------------------

    def datagrams_to_send(self) -> list[tuple[bytes, Address]]:
        """Return, once, what must be sent now."""
        datagrams = self._outbox.datagrams.copy()
        self._outbox.datagrams.clear()
        self.counters.sent += len(datagrams)
        return datagrams

    def events(self) -> list[Event]:
        """Return, once, what happened."""
        events = self._outbox.events.copy()
        self._outbox.events.clear()
        return events

    def next_timer_ms(self) -> int:
        """Return when `handle_timer` must be called at the latest."""
        times = [self._upkeep.next_ms]
        if self._is_joining():
            times.append(self._join.next_ms)
        others = (self._wants.next_ms, self._queries.next_deadline_ms)
        return min([*times, *(one for one in others if one is not None)])

    def handle_timer(self, now_ms: int) -> None:
        """Do whatever is due; calling too early or too often does no harm."""
        self._expire_queries(now_ms)
        for name, purpose in self._wants.due(now_ms, self._random):
            self._look_up(name, purpose, now_ms)
        if self._is_joining() and self._join.next_ms <= now_ms:
            self._join.ran(now_ms, self._random)
            for address in self._known:
                self._check(address, now_ms)
            start = list(self._bootstrap)
            self._searches.start(self.node_id, Purpose.NODES, now_ms, bootstrap=start)
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
        self._queries.heard(sender)
        response = self._responder.answer(query, sender, now_ms, self._wants)
        self._outbox.datagrams.append((response.datagram, sender))
        if response.announced is not None:
            name, peer = response.announced
            if self._wants.cares_for(name):
                self._outbox.events.append(PeersFound(name, (peer,)))
        if not query.read_only and self.table.wants(query.sender, sender):
            self._check(sender, now_ms)

    def _check(self, address: Address, now_ms: int) -> None:
        """Ping `address`: only who answers becomes a contact."""
        if address in self._checking or len(self._checking) >= DHT_CHECKS_MAX:
            return
        self._checking[address] = None
        self._queries.ask(address, b"ping", {}, now_ms)

    # --- asking --------------------------------------------------------------------------

    def _look_up(
        self, name: bytes, purpose: Purpose, now_ms: int, where: ItemKey | None = None
    ) -> None:
        start: list[Address] = []
        if self.table.good < DHT_ALPHA:
            lonely = self.table.is_deserted
            start = [
                address
                for address, bootstrap in self._bootstrap.items()
                if lonely or bootstrap.retry_ms <= now_ms
            ]
        self._searches.start(name, purpose, now_ms, where, start)

    # --- being answered ------------------------------------------------------------------

    def _on_answer(self, answer: Reply | Failure, sender: Address, now_ms: int) -> None:
        pending = self._queries.answered(answer.transaction, sender)
        if pending is None:
            self.counters.dropped_unasked += 1
            return
        self._checking.pop(sender, None)
        self._last_reply_ms = now_ms
        bootstrap = self._bootstrap.get(sender)
        if bootstrap is not None:
            bootstrap.retry_ms = now_ms + DHT_BUCKET_REFRESH_MS
            self._bootstrapped = True
        if isinstance(answer, Failure) or answer.sender == self.node_id:
            self._searches.settled(pending, now_ms, stored=False)
            return
        if self.table.replied(answer.sender, sender, now_ms) and self.table.good == 1:
            # The first contact: what was announced to nobody, it shall know at once.
            self._wants.restart(now_ms)
            self._look_up(self.node_id, Purpose.NODES, now_ms)
        if pending.lookup is None:
            self._searches.settled(pending, now_ms, stored=True)
        else:
            self._searches.replied(pending, pending.lookup, answer, sender, now_ms)

    def consider(
        self, contacts: Iterable[tuple[bytes, Address]], teller: Address, now_ms: int
    ) -> None:
        """Call those that our table lacks; for the node that is paired with us."""
        for node_id, address in contacts:
            if (
                is_believable(address[0], teller[0])
                and self._is_usable(address)
                and self.table.wants(node_id, address)
            ):
                self._check(address, now_ms)

    def _expire_queries(self, now_ms: int) -> None:
        for pending in self._queries.expired(now_ms):
            self.counters.timeouts += 1
            self._checking.pop(pending.address, None)
            bootstrap = self._bootstrap.get(pending.address)
            if bootstrap is not None:
                bootstrap.retry_ms = now_ms + schedule.UPKEEP_EVERY_MS
            first = pending.lookup is not None and self._queries.silences(pending.address) == 1
            if self.table.failed(pending.address) or first:
                # One datagram may be lost; a second silence counts.
                self._check(pending.address, now_ms)
            if self.table.is_deserted:
                self._queries.forgive()
            self._searches.settled(pending, now_ms, stored=False)

    # --- housekeeping --------------------------------------------------------------------

    def _is_joining(self) -> bool:
        """Whether nobody answers, or at first only others than our bootstrap nodes do.

        Whoever knows nodes that came by it, and has not got through itself, is on an island.
        """
        if self.table.is_deserted:
            return bool(self._bootstrap or self._known)
        quick = self._join.runs <= len(schedule.JOIN_PAUSES_MS)
        return quick and bool(self._bootstrap) and not self._bootstrapped

    def _tend(self, now_ms: int) -> None:
        self._peers.expire(now_ms)
        self.table.forget(now_ms)
        for contact in self.table.doubtful(_RECHECKS):
            self._check(contact.address, now_ms)
        self._call_bootstrap_nodes(now_ms)
        target = self.table.refresh_target(now_ms, self._random(NODE_ID_BYTES))
        if target is not None:
            self._look_up(target, Purpose.NODES, now_ms)

    def _call_bootstrap_nodes(self, now_ms: int) -> None:
        """Ask those that are no contacts for our neighbours, now and then, whoever else we know.

        Nodes that found only each other, because packets were lost or the bootstrap node was down,
        would stay an island otherwise.
        """
        due = [
            address
            for address, bootstrap in self._bootstrap.items()
            if bootstrap.retry_ms <= now_ms and address not in self.table
        ]
        if due:
            self._searches.start(self.node_id, Purpose.NODES, now_ms, bootstrap=due)

    def _is_usable(self, address: Address) -> bool:
        host, port = address
        return bool(scope_of(host)) and family_of(host) == self.family and 1 <= port <= _PORT_MAX

    def _check_lookups(self, name: bytes, purpose: Purpose) -> None:
        if len(self._searches) >= DHT_LOOKUPS_MAX and not self._searches.running(name, purpose):
            raise LocalProtocolError("too many lookups at once")

    def _random(self, count: int) -> bytes:
        """Draw the next `count` (up to 64) unpredictable bytes from the seed."""
        self._draws += 1
        draw = self._draws.to_bytes(8, "big")
        return hashlib.blake2b(draw, key=self._seed, digest_size=count).digest()
