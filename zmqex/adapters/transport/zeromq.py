"""The node's ZeroMQ sockets: hello, rpc and orders listen, a DEALER and a SUB dial each peer.

The rpc and orders sockets speak CURVE, and a request without the key that ZAP authenticated is
dropped.  Nothing that a stranger sends raises out of a callback or ends the process.
Not for: what the frames mean (kernel).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import zmq
import zmq.utils.z85

from zmqex.adapters.transport.connections import Connections
from zmqex.adapters.transport.dial_back import DialBacks
from zmqex.adapters.transport.drain import Drain, Publisher
from zmqex.adapters.transport.hello import HelloDials, HelloServer, address_of, metadata
from zmqex.adapters.transport.options import (
    HELLO,
    PUBLISHER,
    RPC,
    Options,
    configure,
    hide_routing_ids,
    is_numeric,
)
from zmqex.adapters.transport.peers import PeerSockets
from zmqex.adapters.transport.socks import Proxy
from zmqex.adapters.transport.zap import DOMAIN, USER_ID, ZapHandler
from zmqex.errors import ConfigError
from zmqex.kernel.events import Event, RequestReceived, Route
from zmqex.limits import (
    DEFAULT_PORTS,
    FRAME_BYTES_MAX,
    PORTS_TRIED_MAX,
    REQUEST_FRAMES_A_TURN,
    SOCKETS_MAX,
)

_REQUEST_PARTS: Final = 2  # routing id, frame
_PORT_MAX: Final = 65_535

Context = zmq.Context[zmq.Socket[bytes]]


class ZeroMqTransport:
    """Implements the Transport port; `deliver` gets what arrives, on the loop."""

    def __init__(
        self,
        deliver: Callable[[Event], None],
        *,
        curve_public: bytes,
        curve_secret: bytes,
        host: str = "127.0.0.1",
        hello_port: int | None = None,
        rpc_port: int | None = None,
        orders_port: int | None = None,
        proxy: Proxy | None = None,
    ) -> None:
        """Ports: None is the default or the next free one, 0 any free one, else exactly that.

        The keys are 32 raw bytes each.  Everything is dialled through `proxy`, if there is one.
        """
        self._proxy = proxy
        self._deliver = deliver
        self._curve = zmq.utils.z85.encode(curve_public), zmq.utils.z85.encode(curve_secret)
        self._host = host
        self._wanted = {"hello": hello_port, "rpc": rpc_port, "orders": orders_port}
        self._ports: dict[str, int] = {}
        self._counted: Counter[str] = Counter()
        self._contexts: dict[bool, Context] = {}
        self._open: list[Callable[[], None]] = []  # what `close` calls, the last first

    def start(self) -> None:
        """Open the listening sockets on the running loop.

        Raises ConfigError, with nothing left open, that names the setting whose port is taken.
        """
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close every socket at once; repeating is fine."""
        while self._open:
            self._open.pop()()
        numeric = self._contexts.pop(True, None)
        if numeric is not None:
            numeric.term()
        named = self._contexts.pop(False, None)
        if named is not None:
            # It may be waiting for a name server, which must not hold us up.
            threading.Thread(target=named.term, name="zmqex-names", daemon=True).start()

    @property
    def hello_port(self) -> int:
        """The announced port."""
        return self._ports["hello"]

    @property
    def rpc_port(self) -> int:
        """Where peers' requests arrive."""
        return self._ports["rpc"]

    @property
    def orders_port(self) -> int:
        """Where our order stream can be subscribed to."""
        return self._ports["orders"]

    def counters(self) -> dict[str, int]:
        """What was dropped or refused, and why."""
        return dict(self._counted)

    def deny(self, curve_key: bytes) -> None:
        """Let no new connection with this CURVE key in."""
        self._zap.denied.add(curve_key)

    # --- the port ------------------------------------------------------------------------------

    def set_record(self, record: bytes) -> None:
        """What the hello socket answers from now on."""
        self._hello.record = record

    def dial_hello(self, host: str, port: int, source: str) -> None:
        """Ask a hello socket for its record; delivers one answer, a second after its turn."""
        self._dials.dial(host, port, source)

    def dial_back(
        self,
        ticket: int,
        curve_key: bytes,
        hello: tuple[str, int],
        rpc: tuple[str, int],
        orders: tuple[str, int],
    ) -> None:
        """Try three sockets of a peer; delivers one DialBackEnded."""
        self._dial_backs.dial(ticket, curve_key, (hello, rpc, orders))

    def connect(
        self,
        peer: bytes,
        curve_key: bytes,
        rpc: tuple[str, int],
        orders: tuple[str, int],
        topics: Sequence[bytes],
    ) -> None:
        """Open (or replace) DEALER and SUB to a peer."""
        if self._open:
            self._peers.connect(peer, curve_key, rpc, orders, topics)

    def follow(self, peer: bytes, topics: Sequence[bytes]) -> None:
        """From now on listen to these topics of a connected peer, and to no others."""
        self._peers.follow(peer, topics)

    def hold_streams(self, *, held: bool) -> None:
        """Read no more of what peers stream, or go on; it waits in the sockets meanwhile."""
        self._peers.hold_streams(held=held)

    def disconnect(self, peer: bytes) -> None:
        """Close the sockets to a peer; unknown peers are fine."""
        self._peers.disconnect(peer)

    def send(self, peer: bytes, frame: bytes) -> bool:
        """Send a request frame; False where the peer is unknown or its queue is full."""
        return self._peers.send(peer, frame)

    def reply(self, connection: bytes, frame: bytes) -> bool:
        """Send a reply frame on the rpc ROUTER; False where the connection is gone."""
        return self._rpc.send([connection, frame])

    def publish(self, topic: bytes, envelope: bytes) -> None:
        """Send on the orders PUB; a slow subscriber loses messages and catches up by the log."""
        if not self._orders.send([topic, envelope]):
            self._counted["publish_dropped"] += 1

    # --- listening -----------------------------------------------------------------------------

    def _start(self) -> None:
        self._zap = ZapHandler(self._context_for("0.0.0.0"))  # noqa: S104 - any numeric host
        self._open.append(self._zap.close)
        self._connections = Connections(self._counted)
        self._open.append(self._connections.close)
        self._hello = HelloServer(self._listen("hello", zmq.ROUTER, HELLO), self._counted)
        self._open.append(self._hello.close)
        rpc = self._listen("rpc", zmq.ROUTER, RPC, curve=True)
        self._rpc = Drain(
            rpc,
            self._on_request,
            parts=_REQUEST_PARTS,
            turn=REQUEST_FRAMES_A_TURN,
            on_malformed=self._malformed,
        )
        self._open.append(self._rpc.close)
        self._orders = Publisher(self._listen("orders", zmq.PUB, PUBLISHER, curve=True))
        self._open.append(self._orders.close)
        self._dials = HelloDials(self._deliver, self._context_for, self._proxy)
        self._open.append(self._dials.close)
        self._dial_backs = DialBacks(self._deliver, self._context_for, self._curve, self._proxy)
        self._open.append(self._dial_backs.close)
        self._peers = PeerSockets(
            self._deliver, self._context_for, self._curve, self._counted, self._proxy
        )
        self._open.append(self._peers.close)

    def _context_for(self, host: str) -> Context:
        """One context for addresses and one for names.

        libzmq resolves a name in the thread that moves all bytes of a context, so a slow name
        server would otherwise silence every peer.
        """
        numeric = is_numeric(host) or self._proxy is not None  # the proxy looks names up
        if numeric not in self._contexts:
            context = self._contexts[numeric] = Context()
            context.set(zmq.MAX_SOCKETS, SOCKETS_MAX)
        return self._contexts[numeric]

    def _listen(
        self, name: str, kind: int, options: Options, *, curve: bool = False
    ) -> zmq.Socket[bytes]:
        hide_routing_ids()
        socket: zmq.Socket[bytes] = self._contexts[True].socket(kind)
        try:
            configure(socket, options)
            if curve:
                socket.setsockopt(zmq.CURVE_SERVER, 1)
                socket.setsockopt(zmq.CURVE_PUBLICKEY, self._curve[0])
                socket.setsockopt(zmq.CURVE_SECRETKEY, self._curve[1])
                socket.setsockopt_string(zmq.ZAP_DOMAIN, DOMAIN)
                # Without this a dead ZAP handler lets everybody in.
                socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
            self._ports[name] = port = bind(socket, name, self._host, self._wanted[name])
            self._connections.watch(socket, port)
        except BaseException:
            socket.close(0)
            raise
        return socket

    def _on_request(self, first: list[bytes], frame: zmq.Frame) -> None:
        key = _curve_key(frame)
        if key is None:
            self._counted["rpc_unauthenticated"] += 1
            return
        if len(frame) > FRAME_BYTES_MAX:
            self._counted["rpc_too_big"] += 1
            return
        route = Route(key, first[0], address_of(frame))
        self._deliver(RequestReceived(route, frame.bytes))

    def _malformed(self) -> None:
        self._counted["rpc_malformed"] += 1


def bind(socket: zmq.Socket[Any], name: str, host: str, wanted: int | None) -> int:
    """Listen on the wanted port and answer which it is; None is the default or the next free one.

    Raises ConfigError naming the setting and what to do.
    """
    bracketed = f"[{host}]" if ":" in host else host
    first = DEFAULT_PORTS[name] if wanted is None else wanted
    tries = PORTS_TRIED_MAX if wanted is None else 1
    error: zmq.ZMQError | None = None
    for port in range(first, min(first + tries, _PORT_MAX + 1)):
        try:
            socket.bind(f"tcp://{bracketed}:{port or '*'}")
        except zmq.ZMQError as problem:
            error = problem
            if problem.errno != zmq.EADDRINUSE:
                break
        else:
            bound = socket.getsockopt_string(zmq.LAST_ENDPOINT)
            return int(bound.rpartition(":")[2])
    if error is not None and error.errno == zmq.EADDRINUSE:
        raise ConfigError(
            f"{name}_port: {bracketed}:{first} is taken; choose another port, or 0 for any free one"
        ) from error
    reason = error.strerror if error is not None else "no such port"
    raise ConfigError(
        f"cannot listen on {bracketed}:{first} ({reason}); set bind_host and {name}_port"
    )


def _curve_key(frame: zmq.Frame) -> bytes | None:
    """The CURVE key that ZAP authenticated, as 32 raw bytes."""
    text = metadata(frame, USER_ID)
    return bytes.fromhex(text) if text else None
