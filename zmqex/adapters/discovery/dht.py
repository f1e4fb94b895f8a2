"""The UDP shell of the DHT node: feeds it datagrams and time, sends what it says.

Everything runs on the event loop that called `start`; there are no tasks, only timers and
name resolutions, all of which `close` cancels.  What is decided is decided in `zmqex.dht`.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import secrets
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any, Final, TypeAlias

from zmqex.adapters.discovery.candidate import Candidate
from zmqex.dht.address import Address, family_of
from zmqex.dht.events import Announced, LookupDone, PeersFound
from zmqex.dht.krpc import NODE_ID_BYTES
from zmqex.dht.node import DhtNode
from zmqex.errors import ConfigError, LocalProtocolError
from zmqex.limits import SECOND_MS

SOURCE: Final = "dht"
_SEED_BYTES: Final = 32
_RESOLVE_AGAIN_S: Final = 30

OnCandidates: TypeAlias = Callable[[list[Candidate]], None]
_Waiter: TypeAlias = "asyncio.Future[tuple[Address, ...]]"
_Resolved: TypeAlias = "list[tuple[Any, Any, int, str, tuple[Any, ...]]]"


class DhtDiscovery:
    """Finds peers by name in a DHT that it is itself a node of.

    `on_candidates` is called from the loop whenever peers of a followed or announced name are
    seen, the same ones again with every lookup.  Call `start` before, `close` after anything
    else; after `close` nothing is called or sent any more.
    """

    def __init__(self, on_candidates: OnCandidates | None = None) -> None:
        self._on_candidates = on_candidates
        self._transport: asyncio.DatagramTransport | None = None
        self._lost: asyncio.Future[None] | None = None
        self._node: DhtNode | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._retries: dict[Address, asyncio.TimerHandle] = {}
        self._resolving: dict[Address, asyncio.Future[_Resolved]] = {}
        self._waiting: dict[bytes, dict[_Waiter, None]] = {}
        self._choked = False
        self._announced_on: int | None = None
        self._socket_errors = 0
        self._dropped_sends = 0

    async def start(self, host: str, port: int, bootstrap: Iterable[Address] = ()) -> None:
        """Open the UDP socket and call the `bootstrap` nodes.

        `host` is the numeric address to listen on, of either family; `port` 0 takes any free
        one.  Raises `ConfigError` if the address cannot be used.
        """
        if self._node is not None:
            raise LocalProtocolError("discovery is started only once")
        loop = asyncio.get_running_loop()
        sock = _open_socket(host, port)
        self._lost = loop.create_future()
        shell = _Shell(self, self._lost)
        self._transport, _ = await loop.create_datagram_endpoint(lambda: shell, sock=sock)
        ip = ipaddress.ip_address(host)
        self._node = DhtNode(
            secrets.token_bytes(NODE_ID_BYTES),
            _now_ms(),
            secrets.token_bytes(_SEED_BYTES),
            family=family_of(host),
            own_host=None if ip.is_unspecified else str(ip),
        )
        self.add_bootstrap(bootstrap)
        self._pump()

    async def close(self) -> None:
        """Stop at once; others forget what was announced within two minutes."""
        transport, self._transport = self._transport, None
        if transport is None or self._lost is None:
            return
        for handle in (self._timer, *self._retries.values()):
            if handle is not None:
                handle.cancel()
        for future in list(self._resolving.values()):
            future.cancel()
        for name in list(self._waiting):
            self._release(name, ())
        transport.abort()
        await self._lost

    @property
    def udp_port(self) -> int:
        """The port that the DHT node listens on."""
        _, transport = self._started()
        port: int = transport.get_extra_info("sockname")[1]
        return port

    def add_bootstrap(self, bootstrap: Iterable[Address]) -> None:
        """Call these nodes too.  Names are resolved in the background, again until it works."""
        node, _ = self._started()
        numeric = []
        for host, port in bootstrap:
            if _is_numeric(host):
                numeric.append((host, port))
            else:
                self._resolve((host, port))
        if numeric:
            node.add_bootstrap(numeric, _now_ms())
        self._pump()

    def announce(self, name: bytes, port: int) -> None:
        """Announce our hello `port` under `name`, again and again until `withdraw`."""
        node, _ = self._started()
        node.announce(name, port, _now_ms())
        self._pump()

    def withdraw(self, name: bytes) -> None:
        """Stop announcing `name`."""
        node, _ = self._started()
        node.withdraw(name)

    def follow(self, name: bytes) -> None:
        """Look `name` up at 0, 0.25, 0.5, 1, 2, 5 s and then every 30 s, for `on_candidates`."""
        node, _ = self._started()
        node.follow(name, _now_ms())
        self._pump()

    def unfollow(self, name: bytes) -> None:
        """Stop following `name`."""
        node, _ = self._started()
        node.unfollow(name)

    async def lookup(self, name: bytes, timeout_ms: int) -> list[Candidate]:
        """Look `name` up once; return what is found when it ends, or by `timeout_ms`."""
        node, _ = self._started()
        node.lookup(name, _now_ms())
        done: _Waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, {})[done] = None
        self._pump()
        try:
            peers = await asyncio.wait_for(done, timeout_ms / SECOND_MS)
        except TimeoutError:
            peers = node.found(name, _now_ms())
        finally:
            waiting = self._waiting.get(name, {})
            waiting.pop(done, None)
            if not waiting:
                self._waiting.pop(name, None)
        return _candidates(peers)

    def wake(self) -> None:
        """Do everything anew at once: the machine slept, or the network changed."""
        node, _ = self._started()
        node.wake(_now_ms())
        self._pump()

    def contacts(self) -> list[Address]:
        """Return all known DHT nodes, to be given to `start` the next time."""
        node, _ = self._started()
        return node.contact_addresses()

    def health(self) -> dict[str, int | None]:
        """Return counters, and `last_reply_ms`: how long ago any node answered (None: never).

        `announced_on`: how many other nodes took our last announce.
        """
        node, _ = self._started()
        last_ms = node.last_reply_ms
        return {
            "udp_port": self.udp_port,
            "contacts": node.contacts,
            "last_reply_ms": None if last_ms is None else _now_ms() - last_ms,
            "stored_peers": node.stored_peers,
            "announced_on": self._announced_on,
            "unresolved_bootstrap": len(self._resolving) + len(self._retries),
            "socket_errors": self._socket_errors,
            "dropped_sends": self._dropped_sends,
            **asdict(node.counters),
        }

    # --- the pump ------------------------------------------------------------------------

    def _received(self, raw: bytes, address: Address) -> None:
        if self._node is not None and self._transport is not None:
            self._node.receive_datagram(raw, address, _now_ms())
            self._pump()

    def _timed(self) -> None:
        self._timer = None
        node, _ = self._started()
        node.handle_timer(_now_ms())
        self._pump()

    def _pump(self) -> None:
        """Do what the node's contract asks for after every call."""
        node, transport = self._started()
        for datagram, address in node.datagrams_to_send():
            if self._choked:  # UDP may lose it; waiting bytes must not pile up
                self._dropped_sends += 1
            else:
                transport.sendto(datagram, address)
        for event in node.events():
            match event:
                case PeersFound(_, peers):
                    self._deliver(_candidates(peers))
                case LookupDone(name, peers):
                    self._release(name, peers)
                case Announced():
                    self._announced_on = event.stored
        self._arm(node)

    def _arm(self, node: DhtNode) -> None:
        delay_ms = max(0, node.next_timer_ms() - _now_ms())
        loop = asyncio.get_running_loop()
        at_s = loop.time() + delay_ms / SECOND_MS
        if self._timer is not None:
            if self._timer.when() <= at_s:
                return  # it fires early enough, and then arms the next one
            self._timer.cancel()
        self._timer = loop.call_at(at_s, self._timed)

    def _deliver(self, candidates: list[Candidate]) -> None:
        if self._on_candidates is not None:
            # From the loop, not from here: a fault of the owner must not end the socket.
            asyncio.get_running_loop().call_soon(self._call_owner, candidates)

    def _call_owner(self, candidates: list[Candidate]) -> None:
        if self._on_candidates is not None and self._transport is not None:
            self._on_candidates(candidates)

    def _release(self, name: bytes, peers: tuple[Address, ...]) -> None:
        for done in self._waiting.pop(name, {}):
            if not done.done():
                done.set_result(peers)

    def _started(self) -> tuple[DhtNode, asyncio.DatagramTransport]:
        if self._node is None or self._transport is None:
            raise LocalProtocolError("discovery is not running")
        return self._node, self._transport

    # --- names of bootstrap nodes --------------------------------------------------------

    def _resolve(self, target: Address) -> None:
        """Ask the system's resolver in its own thread; a dead DNS never holds up anything."""
        retry = self._retries.pop(target, None)
        if retry is not None:
            retry.cancel()
        if target in self._resolving:
            return
        node, _ = self._started()
        family = socket.AF_INET if node.family == 4 else socket.AF_INET6  # noqa: PLR2004 - IPv4
        ask = functools.partial(
            socket.getaddrinfo, target[0], target[1], family=family, type=socket.SOCK_DGRAM
        )
        future = asyncio.get_running_loop().run_in_executor(None, ask)
        self._resolving[target] = future
        future.add_done_callback(functools.partial(self._resolved, target))

    def _resolved(self, target: Address, future: asyncio.Future[_Resolved]) -> None:
        del self._resolving[target]
        if future.cancelled() or self._transport is None:
            return
        if future.exception() is not None:
            loop = asyncio.get_running_loop()
            self._retries[target] = loop.call_later(_RESOLVE_AGAIN_S, self._resolve, target)
            return
        self.add_bootstrap((str(found[4][0]), target[1]) for found in future.result())


class _Shell(asyncio.DatagramProtocol):
    """Hands everything that the socket says to its owner."""

    def __init__(self, owner: DhtDiscovery, lost: asyncio.Future[None]) -> None:
        self._owner = owner
        self._lost = lost

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._owner._received(data, (addr[0], addr[1]))  # noqa: SLF001 - its other half

    def error_received(self, exc: Exception) -> None:  # noqa: ARG002 - asyncio's signature
        # A port that nobody listens on: the query's time-out says the same.
        self._owner._socket_errors += 1  # noqa: SLF001 - its other half

    def pause_writing(self) -> None:
        self._owner._choked = True  # noqa: SLF001 - its other half

    def resume_writing(self) -> None:
        self._owner._choked = False  # noqa: SLF001 - its other half

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        if not self._lost.done():
            self._lost.set_result(None)


def _open_socket(host: str, port: int) -> socket.socket:
    try:
        is_ipv4 = family_of(host) == 4  # noqa: PLR2004 - IPv4
    except ValueError as error:
        raise ConfigError(f"the DHT listens on a numeric address, not on {host!r}") from error
    sock = socket.socket(socket.AF_INET if is_ipv4 else socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        if not is_ipv4:
            # BEP 32: the DHTs of the two families are apart.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.settimeout(0)
        sock.bind((host, port))
    except (OSError, OverflowError) as error:
        sock.close()
        raise ConfigError(f"UDP {host} port {port} cannot be used: {error}") from error
    return sock


def _candidates(peers: Iterable[Address]) -> list[Candidate]:
    return [Candidate(host, port, SOURCE) for host, port in peers]


def _is_numeric(host: str) -> bool:
    try:
        family_of(host)
    except ValueError:
        return False
    return True


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
