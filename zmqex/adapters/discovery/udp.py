"""One UDP socket of the DHT: feeds its node datagrams and time, sends what it says.

Everything runs on the event loop that opened it; there are no tasks, only a reader and one timer.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, TypeAlias

from zmqex.adapters.clock import monotonic_ms
from zmqex.dht.address import family_of
from zmqex.dht.events import Event
from zmqex.dht.limits import DHT_DATAGRAM_BYTES_MAX
from zmqex.dht.node import DhtNode
from zmqex.errors import ConfigError
from zmqex.limits import SECOND_MS

# Datagrams read in one go: a flood costs the loop a few milliseconds before others have a turn.
_READ_AT_ONCE: Final = 64
# The socket's own buffer: a burst of a few thousand packets is read, not lost.
_RECEIVE_BYTES: Final = 1024 * 1024

OnEvents: TypeAlias = Callable[[list[Event]], None]


class UdpNode:
    """A DHT node on its socket.  `on_events` gets what the node tells; `after` runs after input."""

    def __init__(
        self, node: DhtNode, sock: socket.socket, on_events: OnEvents, after: Callable[[], None]
    ) -> None:
        """Take the socket, which does not block; from now on the node answers."""
        self.node = node
        self.port: int = sock.getsockname()[1]
        self.socket_errors = 0
        self.dropped_sends = 0
        self._socket = sock
        self._on_events = on_events
        self._after = after
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._readable)

    def close(self) -> None:
        """Stop at once; closing twice is fine."""
        if self._socket.fileno() < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def pump(self) -> None:
        """Do what the node's contract asks for after every call."""
        if self._socket.fileno() < 0:
            return
        for datagram, address in self.node.datagrams_to_send():
            try:
                self._socket.sendto(datagram, address)
            except BlockingIOError:  # UDP may lose it; waiting bytes must not pile up
                self.dropped_sends += 1
            except OSError:  # no route: the query's time-out says the same
                self.socket_errors += 1
        events = self.node.events()
        if events:
            self._on_events(events)
        self._arm()

    def _arm(self) -> None:
        delay_ms = max(0, self.node.next_timer_ms() - monotonic_ms())
        at_s = self._loop.time() + delay_ms / SECOND_MS
        if self._timer is not None:
            if self._timer.when() <= at_s:
                return  # it fires early enough, and then arms the next one
            self._timer.cancel()
        self._timer = self._loop.call_at(at_s, self._timed)

    def _timed(self) -> None:
        self._timer = None
        self.node.handle_timer(monotonic_ms())
        self._after()

    def _readable(self) -> None:
        for _ in range(_READ_AT_ONCE):
            try:
                # One byte more than is ever read, so that what is too long shows.
                data, address = self._socket.recvfrom(DHT_DATAGRAM_BYTES_MAX + 1)
            except BlockingIOError:
                break
            except OSError:  # a port that nobody listens on, where the system tells
                self.socket_errors += 1
                break
            self.node.receive_datagram(data, (address[0], address[1]), monotonic_ms())
        self._after()


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
