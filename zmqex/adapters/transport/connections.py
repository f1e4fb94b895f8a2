"""How many connections strangers may have: in all, and from one network.

No option of ZeroMQ bounds either, and a process without a free descriptor can write no journal.
The listening sockets' monitors tell of each new connection; one too many is shut down at once.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import Counter
from typing import Final

import zmq
from zmq.utils.monitor import parse_monitor_message

from zmqex.adapters.transport.drain import Drain
from zmqex.adapters.transport.options import plain_address
from zmqex.dht.address import Scope, network_of, scope_of
from zmqex.limits import CONNECTIONS_MAX, CONNECTIONS_PER_NETWORK_MAX, REQUEST_FRAMES_A_TURN

_PARTS: Final = 2  # event and value, endpoint
_WATCHED: Final = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED

_Key = tuple[int, int]  # listening port, descriptor


class Connections:
    """Watches listening sockets, on the running loop."""

    def __init__(self, counted: Counter[str], most: int = CONNECTIONS_MAX) -> None:
        self._counted = counted
        self._most = most
        self._networks: dict[_Key, str] = {}
        self._per_network: Counter[str] = Counter()
        self._watching: list[tuple[zmq.Socket[bytes], Drain]] = []

    def watch(self, listener: zmq.Socket[bytes], port: int) -> None:
        """Count the connections of a socket that has just begun to listen on this port."""
        monitor = listener.get_monitor_socket(_WATCHED)
        monitor.setsockopt(zmq.RCVHWM, 0)
        drain = Drain(
            monitor,
            lambda first, last: self._on_event(port, first, last),
            parts=_PARTS,
            turn=REQUEST_FRAMES_A_TURN,
        )
        self._watching.append((listener, drain))

    def close(self) -> None:
        """Stop watching."""
        for listener, drain in self._watching:
            if not listener.closed:
                listener.disable_monitor()
            drain.close()
        self._watching.clear()

    def admit(self, key: _Key, address: str) -> bool:
        """Count one more connection; False, and not counted, where that would be too many."""
        network = network_of(address)
        local = scope_of(address) is Scope.LOOPBACK
        if len(self._networks) >= self._most:
            return False
        if not local and self._per_network[network] >= CONNECTIONS_PER_NETWORK_MAX:
            return False
        self._networks[key] = network
        self._per_network[network] += 1
        return True

    def forget(self, key: _Key) -> None:
        """A connection has ended; ones that were never admitted are fine."""
        network = self._networks.pop(key, None)
        if network is not None:
            self._per_network[network] -= 1
            if not self._per_network[network]:
                del self._per_network[network]

    def _on_event(self, port: int, first: list[bytes], last: zmq.Frame) -> None:
        told = parse_monitor_message([first[0], last.bytes])
        key = (port, told["value"])
        if told["event"] == zmq.EVENT_DISCONNECTED:
            self.forget(key)
            return
        with contextlib.suppress(OSError), _same(told["value"]) as connection:
            # It may have ended since, and its descriptor may be another thing's by now.
            if connection.getsockname()[1] != port:
                return
            if not self.admit(key, plain_address(connection.getpeername()[0])):
                connection.shutdown(socket.SHUT_RDWR)
                self._counted["connections_refused"] += 1


def _same(descriptor: int) -> socket.socket:
    """A second handle on the connection behind a descriptor of ZeroMQ's."""
    return socket.socket(fileno=os.dup(descriptor))
