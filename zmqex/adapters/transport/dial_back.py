"""Dials the sockets of a peer, to tell it whether it can be reached.

A socket is reached when the handshake has succeeded: of CURVE with the key of the peer's record, or
of the plain hello.  Nothing is said beyond that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import zmq
import zmq.utils.z85

from zmqex.adapters.transport.drain import Drain
from zmqex.adapters.transport.options import (
    DIALLER,
    HELLO_DIALLER,
    PROXIED,
    configure,
    endpoint,
)
from zmqex.adapters.transport.socks import Proxy, Way
from zmqex.kernel.events import DialBackEnded, Event
from zmqex.limits import HELLO_WAIT_MS, PROXY_WAIT_MS, REQUEST_FRAMES_A_TURN, SECOND_MS

_PARTS: Final = 2  # event and value, endpoint
_NAMES: Final = ("hello", "rpc", "orders")
# A ROUTER and a PUB take a DEALER and a SUB.
_KINDS: Final = {"hello": zmq.DEALER, "rpc": zmq.DEALER, "orders": zmq.SUB}

Place = tuple[str, int]


class DialBacks:
    """The dials under way, on the running loop."""

    def __init__(
        self,
        deliver: Callable[[Event], None],
        context_for: Callable[[str], zmq.Context[zmq.Socket[bytes]]],
        curve: tuple[bytes, bytes],
        proxy: Proxy | None = None,
    ) -> None:
        """`curve`: our public and secret key as Z85."""
        self._deliver = deliver
        self._context_for = context_for
        self._curve = curve
        self._proxy = proxy
        self._wait_s = (HELLO_WAIT_MS if proxy is None else PROXY_WAIT_MS) / SECOND_MS
        self._loop = asyncio.get_running_loop()
        self._dials: dict[int, _Dial] = {}

    def dial(self, ticket: int, curve_key: bytes, places: tuple[Place, Place, Place]) -> None:
        """Try all three; delivers one DialBackEnded, never before this returns."""
        dial = self._dials[ticket] = _Dial(lambda: self._loop.call_soon(self._end, ticket))
        dial.deadline = self._loop.call_later(self._wait_s, self._end, ticket)
        for name, place in zip(_NAMES, places, strict=True):
            try:
                self._open(dial, name, curve_key, place)
            except (OSError, ValueError):  # no such address, or no descriptor left
                continue

    def close(self) -> None:
        """Give up what is under way."""
        for dial in self._dials.values():
            dial.close()
        self._dials.clear()

    def _open(self, dial: _Dial, name: str, curve_key: bytes, place: Place) -> None:
        address = endpoint(*place)
        if address is None:
            raise ValueError(place)
        options = HELLO_DIALLER if name == "hello" else {**DIALLER, zmq.RECONNECT_IVL: -1}
        if self._proxy is not None:
            dial.ways.append(self._proxy.way_to(*place))
            address, options = dial.ways[-1].endpoint, {**options, **PROXIED}
        socket: zmq.Socket[bytes] = self._context_for(place[0]).socket(_KINDS[name])
        dial.sockets.append(socket)
        configure(socket, options)
        if name != "hello":
            socket.setsockopt(zmq.CURVE_SERVERKEY, zmq.utils.z85.encode(curve_key))
            socket.setsockopt(zmq.CURVE_PUBLICKEY, self._curve[0])
            socket.setsockopt(zmq.CURVE_SECRETKEY, self._curve[1])
        monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        dial.monitors.append(
            Drain(
                monitor,
                lambda _first, _last: dial.reached(name),
                parts=_PARTS,
                turn=REQUEST_FRAMES_A_TURN,
            )
        )
        socket.connect(address)

    def _end(self, ticket: int) -> None:
        dial = self._dials.pop(ticket, None)
        if dial is not None:
            dial.close()
            self._deliver(DialBackEnded(ticket, *(name in dial.open for name in _NAMES)))


class _Dial:
    """Three sockets, and which of them have got through."""

    def __init__(self, on_all_open: Callable[[], object]) -> None:
        self.open: set[str] = set()
        self.sockets: list[zmq.Socket[bytes]] = []
        self.monitors: list[Drain] = []
        self.ways: list[Way] = []
        self.deadline: asyncio.TimerHandle | None = None
        self._on_all_open = on_all_open

    def reached(self, name: str) -> None:
        self.open.add(name)
        if len(self.open) == len(_NAMES):
            self._on_all_open()

    def close(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
        # In this order: libzmq waits for ever where it tells a monitor that is closed already.
        for socket in self.sockets:
            socket.disable_monitor()
        for monitor in self.monitors:
            monitor.close()
        for socket in self.sockets:
            socket.close(0)
        for way in self.ways:
            way.close()
