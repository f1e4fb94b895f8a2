"""Discovery in a DHT that we are a node of: candidates by name, signed items by key.

Everything runs on the event loop that called `start`; there are no tasks, only timers and
name resolutions, all of which `close` cancels.  What is decided is decided in `zmqex.dht`.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import secrets
import socket
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any, Final, TypeAlias

from zmqex.adapters.clock import monotonic_ms
from zmqex.adapters.discovery.candidate import Candidate
from zmqex.adapters.discovery.udp import UdpNode, bind_udp
from zmqex.adapters.discovery.waiting import Waiting
from zmqex.dht.address import Address, family_of, unspecified
from zmqex.dht.events import Announced, Event, ItemDone, ItemStored, LookupDone, PeersFound
from zmqex.dht.items import Item, ItemKey
from zmqex.dht.krpc import NODE_ID_BYTES
from zmqex.dht.node import DhtNode
from zmqex.errors import ConfigError, LocalProtocolError

SOURCE: Final = "dht"
_SEED_BYTES: Final = 32
_RESOLVE_AGAIN_S: Final = 30
_EVERY_IPV6: Final = unspecified(6)
_EVERY_IPV4: Final = unspecified(4)

OnCandidates: TypeAlias = Callable[[list[Candidate]], None]
_Resolved: TypeAlias = "list[tuple[Any, Any, int, str, tuple[Any, ...]]]"


class DhtDiscovery:
    """Finds peers by name in a DHT that it is itself a node of.

    `on_candidates` is called from the loop whenever peers of a followed or announced name are
    seen, the same ones again with every lookup.  Call `start` before, `close` after anything
    else; after `close` nothing is called or sent any more.
    """

    def __init__(self, on_candidates: OnCandidates | None = None) -> None:
        self._on_candidates = on_candidates
        self._started = False
        # One for each address family that we listen on.
        self._nodes: list[UdpNode] = []
        self._retries: dict[Address, asyncio.TimerHandle] = {}
        self._resolving: dict[Address, asyncio.Future[_Resolved]] = {}
        self._lookups: Waiting[bytes, Address] = Waiting()
        self._gets: Waiting[ItemKey, Item] = Waiting()
        self._puts: Waiting[tuple[bytes, int], int] = Waiting()
        # The last published version of an item, and how many took it, family by family.
        self._stored: dict[tuple[bytes, int], list[int]] = {}
        self._announced_on: int | None = None

    async def start(
        self,
        host: str,
        port: int,
        bootstrap: Iterable[Address] = (),
        known: Iterable[Address] = (),
    ) -> None:
        """Open the UDP sockets and call the `bootstrap` nodes, and those `known` from before.

        `host` is the numeric address to listen on, of either family; ``::`` is every address of
        both (BEP 32).  `port` 0 takes any free one.  Raises `ConfigError` if it cannot be used.
        """
        if self._started:
            raise LocalProtocolError("discovery is started only once")
        sockets = _bind(host, port)
        self._started = True
        for sock in sockets:
            own_host, *_ = sock.getsockname()
            node = DhtNode(
                secrets.token_bytes(NODE_ID_BYTES),
                monotonic_ms(),
                secrets.token_bytes(_SEED_BYTES),
                family=family_of(own_host),
                own_host=None if ipaddress.ip_address(own_host).is_unspecified else own_host,
            )
            self._nodes.append(UdpNode(node, sock, self._on_events, self._pump))
        for one, other in zip(self._nodes, reversed(self._nodes), strict=True):
            if one is not other:
                one.node.pair(other.node)
        self.add_bootstrap(bootstrap)
        known = list(known)
        for udp in self._nodes:
            udp.node.restore(known, monotonic_ms())
        self._pump()

    async def close(self) -> None:
        """Stop at once; others forget what was announced within two minutes."""
        nodes, self._nodes = self._nodes, []
        for handle in self._retries.values():
            handle.cancel()
        for future in list(self._resolving.values()):
            future.cancel()
        for waiting in (self._lookups, self._gets, self._puts):
            waiting.release_all()
        for udp in nodes:
            udp.close()

    @property
    def udp_port(self) -> int:
        """The port that the DHT node listens on."""
        return self._running()[0].port

    def add_bootstrap(self, bootstrap: Iterable[Address]) -> None:
        """Call these nodes too.  Names are resolved in the background, again until it works."""
        nodes = self._running()
        numeric = []
        for host, port in bootstrap:
            if _is_numeric(host):
                numeric.append((host, port))
            else:
                self._resolve((host, port))
        for udp in nodes:
            if numeric:
                udp.node.add_bootstrap(numeric, monotonic_ms())
        self._pump()

    def announce(self, name: bytes, port: int) -> None:
        """Announce our hello `port` under `name`, again and again until `withdraw`."""
        for udp in self._running():
            udp.node.announce(name, port, monotonic_ms())
        self._pump()

    def withdraw(self, name: bytes) -> None:
        """Stop announcing `name`."""
        for udp in self._running():
            udp.node.withdraw(name)

    def follow(self, name: bytes) -> None:
        """Look `name` up at 0, 0.25, 0.5, 1, 2, 5 s and then every 30 s, for `on_candidates`."""
        for udp in self._running():
            udp.node.follow(name, monotonic_ms())
        self._pump()

    def unfollow(self, name: bytes) -> None:
        """Stop following `name`."""
        for udp in self._running():
            udp.node.unfollow(name)

    async def lookup(self, name: bytes, timeout_ms: int) -> list[Candidate]:
        """Look `name` up once; return what is found when it ends, or by `timeout_ms`."""
        nodes = self._running()
        for udp in nodes:
            udp.node.lookup(name, monotonic_ms())
        with self._lookups.wait_for(name, len(nodes)) as waiter:
            self._pump()
            await waiter.within(timeout_ms)
            found = dict.fromkeys(waiter.found)
            for udp in self._nodes:
                found |= dict.fromkeys(udp.node.found(name, monotonic_ms()))
        return _candidates(found)

    def publish(self, item: Item) -> Item:
        """Put `item` now and from now on, in place of an earlier one of its key and salt."""
        self._stored = {_version(item): []}
        for udp in self._running():
            udp.node.publish(item, monotonic_ms())
        self._pump()
        return item

    async def stored(self, item: Item, timeout_ms: int) -> int:
        """Return how many nodes other than us have taken a published item by `timeout_ms`."""
        with self._puts.wait_for(_version(item), len(self._running())) as waiter:
            for stored in self._stored.get(_version(item), ()):
                waiter.add((stored,))
            await waiter.within(timeout_ms)
            return sum(waiter.found)

    async def get(self, where: ItemKey, timeout_ms: int) -> Item | None:
        """Return the newest genuine item that anybody shows by `timeout_ms`."""
        nodes = self._running()
        with self._gets.wait_for(where, len(nodes)) as waiter:
            for udp in nodes:
                udp.node.get(where, monotonic_ms())
            self._pump()
            await waiter.within(timeout_ms)
            return max(waiter.found, key=lambda item: item.sequence, default=None)

    def wake(self) -> None:
        """Do everything anew at once: the machine slept, or the network changed."""
        for udp in self._running():
            udp.node.wake(monotonic_ms())
        self._pump()

    def contacts(self) -> list[Address]:
        """Return the DHT nodes that answered last, to be given to `start` the next time."""
        return [address for udp in self._running() for address in udp.node.contact_addresses()]

    def health(self) -> dict[str, int | None]:
        """Return counters, and `last_reply_ms`: how long ago any node answered (None: never).

        `announced_on`: how many other nodes took our last announce.
        """
        nodes = self._running()
        replies = [udp.node.last_reply_ms for udp in nodes]
        last_ms = max((one for one in replies if one is not None), default=None)
        counted: dict[str, int | None] = {
            "udp_port": self.udp_port,
            "contacts": sum(udp.node.contacts for udp in nodes),
            "last_reply_ms": None if last_ms is None else monotonic_ms() - last_ms,
            "stored_peers": sum(udp.node.stored_peers for udp in nodes),
            "stored_items": sum(udp.node.stored_items for udp in nodes),
            "announced_on": self._announced_on,
            "unresolved_bootstrap": len(self._resolving) + len(self._retries),
            "socket_errors": sum(udp.socket_errors for udp in nodes),
            "dropped_sends": sum(udp.dropped_sends for udp in nodes),
        }
        counters = [asdict(udp.node.counters) for udp in nodes]
        return counted | {name: sum(one[name] for one in counters) for name in counters[0]}

    # --- the pump ------------------------------------------------------------------------

    def _pump(self) -> None:
        # Both: what one hears may make the other speak.
        for udp in self._nodes:
            udp.pump()

    def _on_events(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case PeersFound(_, peers):
                    self._deliver(_candidates(peers))
                case LookupDone(name, peers):
                    self._lookups.add(name, peers)
                case ItemDone(where, item):
                    self._gets.add(where, () if item is None else (item,))
                case ItemStored(item, stored):
                    self._stored.setdefault(_version(item), []).append(stored)
                    self._puts.add(_version(item), (stored,))
                case Announced():
                    self._announced_on = event.stored
                case _:
                    pass  # ItemFound: whoever waits wants the newest, at the end

    def _deliver(self, candidates: list[Candidate]) -> None:
        if self._on_candidates is not None:
            # From the loop, not from here: a fault of the owner must not end the socket.
            asyncio.get_running_loop().call_soon(self._call_owner, candidates)

    def _call_owner(self, candidates: list[Candidate]) -> None:
        if self._on_candidates is not None and self._nodes:
            self._on_candidates(candidates)

    def _running(self) -> list[UdpNode]:
        if not self._nodes:
            raise LocalProtocolError("discovery is not running")
        return self._nodes

    # --- names of bootstrap nodes --------------------------------------------------------

    def _resolve(self, target: Address) -> None:
        """Ask the system's resolver in its own thread; a dead DNS never holds up anything."""
        retry = self._retries.pop(target, None)
        if retry is not None:
            retry.cancel()
        if target in self._resolving:
            return
        families = {udp.node.family for udp in self._running()}
        family = socket.AF_INET if families == {4} else socket.AF_INET6
        wanted = socket.AF_UNSPEC if len(families) > 1 else family
        ask = functools.partial(
            socket.getaddrinfo, target[0], target[1], family=wanted, type=socket.SOCK_DGRAM
        )
        future = asyncio.get_running_loop().run_in_executor(None, ask)
        self._resolving[target] = future
        future.add_done_callback(functools.partial(self._resolved, target))

    def _resolved(self, target: Address, future: asyncio.Future[_Resolved]) -> None:
        del self._resolving[target]
        if future.cancelled() or not self._nodes:
            return
        if future.exception() is not None:
            loop = asyncio.get_running_loop()
            self._retries[target] = loop.call_later(_RESOLVE_AGAIN_S, self._resolve, target)
            return
        self.add_bootstrap((str(found[4][0]), target[1]) for found in future.result())


def _bind(host: str, port: int) -> list[socket.socket]:
    """Bind `host`, and every IPv4 address beside every IPv6 one, at the same port if it is free."""
    first = bind_udp(host, port)
    if host != _EVERY_IPV6:
        return [first]
    try:
        return [first, bind_udp(_EVERY_IPV4, first.getsockname()[1])]
    except ConfigError:
        if port:
            first.close()
            raise
        return [first, bind_udp(_EVERY_IPV4, 0)]


def _version(item: Item) -> tuple[bytes, int]:
    """Name one version of an item."""
    return item.where.target, item.sequence


def _candidates(peers: Iterable[Address]) -> list[Candidate]:
    return [Candidate(host, port, SOURCE) for host, port in peers]


def _is_numeric(host: str) -> bool:
    try:
        family_of(host)
    except ValueError:
        return False
    return True
