"""One UDP socket of the DHT: feeds its node datagrams and time, sends what it says.

Everything runs on the event loop that called `open_udp`; there are no tasks, only one timer.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, TypeAlias

from zmqex.adapters.clock import monotonic_ms
from zmqex.dht.address import family_of
from zmqex.dht.events import Event
from zmqex.dht.node import DhtNode
from zmqex.errors import ConfigError
from zmqex.limits import SECOND_MS

# The socket's own buffer: a burst of a few thousand packets is read, not lost.
_RECEIVE_BYTES: Final = 1024 * 1024

OnEvents: TypeAlias = Callable[[list[Event]], None]


class UdpNode(asyncio.DatagramProtocol):
    """A DHT node on its socket.  `on_events` gets what the node tells; `after` runs after input."""

    def __init__(self, node: DhtNode, on_events: OnEvents, after: Callable[[], None]) -> None:
        self.node = node
        self.socket_errors = 0
        self.dropped_sends = 0
        self._on_events = on_events
        self._after = after
        self._transport: asyncio.DatagramTransport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._choked = False
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self, sock: socket.socket) -> None:
        """Take the socket; from now on the node answers."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=sock)

    async def close(self) -> None:
        """Stop at once; closing twice is fine."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        transport.abort()
        await self._lost

    @property
    def port(self) -> int:
        """The UDP port; 0 after the end."""
        if self._transport is None:
            return 0
        port: int = self._transport.get_extra_info("sockname")[1]
        return port

    def pump(self) -> None:
        """Do what the node's contract asks for after every call."""
        if self._transport is None:
            return
        for datagram, address in self.node.datagrams_to_send():
            if self._choked:  # UDP may lose it; waiting bytes must not pile up
                self.dropped_sends += 1
            else:
                self._transport.sendto(datagram, address)
        events = self.node.events()
        if events:
            self._on_events(events)
        self._arm()

    def _arm(self) -> None:
        delay_ms = max(0, self.node.next_timer_ms() - monotonic_ms())
        loop = asyncio.get_running_loop()
        at_s = loop.time() + delay_ms / SECOND_MS
        if self._timer is not None:
            if self._timer.when() <= at_s:
                return  # it fires early enough, and then arms the next one
            self._timer.cancel()
        self._timer = loop.call_at(at_s, self._timed)

    def _timed(self) -> None:
        self._timer = None
        self.node.handle_timer(monotonic_ms())
        self._after()

    # --- what asyncio calls --------------------------------------------------------------

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Give the node a packet."""
        if self._transport is not None:
            self.node.receive_datagram(data, (addr[0], addr[1]), monotonic_ms())
            self._after()

    def error_received(self, exc: Exception) -> None:
        """Count a port that nobody listens on: the query's time-out says the same."""
        del exc
        self.socket_errors += 1

    def pause_writing(self) -> None:
        """The socket is full."""
        self._choked = True

    def resume_writing(self) -> None:
        """The socket has room again."""
        self._choked = False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        del exc
        if not self._lost.done():
            self._lost.set_result(None)


def bind_udp(host: str, port: int) -> socket.socket:
    """Bind a UDP socket to a numeric address.  Raises `ConfigError` if it cannot be used."""
    try:
        is_ipv4 = family_of(host) == 4  # noqa: PLR2004 - IPv4
    except ValueError as error:
        raise ConfigError(f"the DHT listens on a numeric address, not on {host!r}") from error
    sock = socket.socket(socket.AF_INET if is_ipv4 else socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        if not is_ipv4:
            # BEP 32: the DHTs of the two families are apart.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        sock.settimeout(0)
        sock.bind((host, port))
    except (OSError, OverflowError) as error:
        sock.close()
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"dht_port: UDP {host}:{port} cannot be used ({why}); choose another port, or 0 for "
            "any free one"
        ) from error
    return sock
