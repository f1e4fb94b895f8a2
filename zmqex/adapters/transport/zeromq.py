"""The node's ZeroMQ sockets: hello, rpc and orders listen, a DEALER and a SUB dial each peer.

Plain sockets are drained from the event loop's descriptor callback; `zmq.asyncio` would cost ten
times as much.  The rpc and orders sockets speak CURVE, and a message without the key that ZAP
authenticated is dropped.  Nothing that arrives raises out of a callback.
Not for: what the frames mean (kernel) or who may connect for how long (limits of the sockets).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import zmq
import zmq.utils.z85

from zmqex.adapters.transport.drain import Drain
from zmqex.adapters.transport.options import CURVE_LISTENER, DIALLER, HELLO, PUBLISHER, SUBSCRIBER
from zmqex.adapters.transport.zap import DOMAIN, ZapHandler
from zmqex.errors import ConfigError
from zmqex.kernel.events import (
    Event,
    HelloAnswered,
    HelloFailed,
    ReplyReceived,
    RequestReceived,
    Route,
    StreamReceived,
)
from zmqex.limits import (
    DEFAULT_PORTS,
    FRAME_BYTES_MAX,
    HELLO_DIALS_MAX,
    HELLO_PER_SECOND,
    HELLO_WAIT_MS,
    PORTS_TRIED_MAX,
    SECOND_MS,
    STREAM_MESSAGES_MAX,
)

Deliver = Callable[[Event], None]
_HELLO_PARTS: Final = 2
_REPLY_PARTS: Final = 1
_STREAM_PARTS: Final = 2


class ZeroMqTransport:
    """Implements the Transport port; `deliver` gets what arrives, on the loop."""

    def __init__(
        self,
        deliver: Deliver,
        *,
        curve_public: bytes,
        curve_secret: bytes,
        host: str = "127.0.0.1",
        hello_port: int | None = None,
        rpc_port: int | None = None,
        orders_port: int | None = None,
    ) -> None:
        """Ports: None is the default or the next free one, 0 any free one, else exactly that."""
        self._deliver = deliver
        self._public = zmq.utils.z85.encode(curve_public)
        self._secret = zmq.utils.z85.encode(curve_secret)
        self._host = host
        self._wanted = {"hello": hello_port, "rpc": rpc_port, "orders": orders_port}
        self._ports: dict[str, int] = {}
        self._context = zmq.Context()
        self._counted: dict[str, int] = {}
        self._record = b""
        self._peers: dict[bytes, tuple[Drain, Drain]] = {}
        self._dials: dict[Drain, tuple[str, int, str, asyncio.TimerHandle]] = {}
        self._dial_queue: deque[tuple[str, int, str]] = deque()
        self._hellos_left = HELLO_PER_SECOND
        self._drains: list[Drain] = []
        self._stream: list[tuple[bytes, bytes]] = []  # of the drain that is under way

    def start(self) -> None:
        """Open the listening sockets; ConfigError names the setting whose port is taken."""
        self._zap = ZapHandler(self._context)
        self._drains.append(self._zap.drain)
        hello = self._listener(zmq.ROUTER, HELLO, "hello", secure=False)
        rpc = self._listener(zmq.ROUTER, CURVE_LISTENER, "rpc", secure=True)
        orders = self._listener(zmq.PUB, PUBLISHER, "orders", secure=True)
        self._hello = Drain(hello, self._on_hello)
        self._rpc = Drain(rpc, self._on_rpc)
        self._orders = orders
        self._drains += [self._hello, self._rpc]
        self._refill = asyncio.get_running_loop().call_later(1, self._refill_hellos)

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
        """What was dropped, and why."""
        return dict(self._counted)

    def close(self) -> None:
        """Close every socket at once."""
        self._refill.cancel()
        for peer in list(self._peers):
            self.disconnect(peer)
        for drain in list(self._dials):
            self._end_dial(drain)
        for drain in self._drains:
            drain.close()
        self._orders.close(0)
        self._context.term()

    # --- listening -----------------------------------------------------------------------------

    def _listener(
        self, kind: int, options: dict[int, int], name: str, *, secure: bool
    ) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        _configure(socket, options)
        if secure:
            socket.setsockopt(zmq.CURVE_SERVER, 1)
            socket.setsockopt(zmq.CURVE_PUBLICKEY, self._public)
            socket.setsockopt(zmq.CURVE_SECRETKEY, self._secret)
            socket.setsockopt_string(zmq.ZAP_DOMAIN, DOMAIN)
            # Without this a dead ZAP handler lets everybody in.
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        try:
            self._ports[name] = self._bind(socket, name)
        except BaseException:
            socket.close(0)
            raise
        return socket

    def _bind(self, socket: zmq.Socket[bytes], name: str) -> int:
        wanted = self._wanted[name]
        if wanted == 0:
            return socket.bind_to_random_port(f"tcp://{self._bracketed()}")
        first = DEFAULT_PORTS[name] if wanted is None else wanted
        last = first + PORTS_TRIED_MAX if wanted is None else first + 1
        problem = zmq.ZMQError(zmq.EADDRINUSE)
        for port in range(first, last):
            try:
                socket.bind(f"tcp://{self._bracketed()}:{port}")
            except zmq.ZMQError as error:
                problem = error
            else:
                return port
        msg = (
            f"{name}_port: cannot listen on {self._host}:{first} ({problem.strerror}); "
            f"choose another with --{name}-port, or 0 for any free one"
        )
        raise ConfigError(msg)

    def _bracketed(self) -> str:
        return f"[{self._host}]" if ":" in self._host else self._host

    def _on_hello(self, frames: list[zmq.Frame]) -> None:
        if len(frames) != _HELLO_PARTS:
            self._count("hello_malformed")
            return
        if self._hellos_left <= 0:
            self._count("hello_rate_limited")
            return
        self._hellos_left -= 1
        asked = frames[1].bytes
        if asked == b"hello" and self._record:
            self._hello.send([frames[0].bytes, self._record])
        elif asked == b"ping":
            self._hello.send([frames[0].bytes, b"pong"])
        else:
            self._count("hello_malformed")

    def _refill_hellos(self) -> None:
        self._hellos_left = HELLO_PER_SECOND
        self._refill = asyncio.get_running_loop().call_later(1, self._refill_hellos)

    def _on_rpc(self, frames: list[zmq.Frame]) -> None:
        if len(frames) != _HELLO_PARTS:
            self._count("rpc_malformed")
            return
        key = _user_id(frames[1])
        if key is None:
            self._count("rpc_unauthenticated")
            return
        raw = frames[1].bytes
        if len(raw) > FRAME_BYTES_MAX:
            self._count("rpc_too_big")
            return
        route = Route(key, frames[0].bytes, _address(frames[1]))
        self._deliver(RequestReceived(route, raw))

    # --- sending -------------------------------------------------------------------------------

    def set_record(self, record: bytes) -> None:
        """What the hello socket answers from now on."""
        self._record = record

    def send(self, peer: bytes, frame: bytes) -> bool:
        """Send a request frame; False where the peer is unknown or its queue is full."""
        sockets = self._peers.get(peer)
        return sockets is not None and sockets[0].send([frame])

    def reply(self, connection: bytes, frame: bytes) -> bool:
        """Send a reply frame on the rpc ROUTER; False where the connection is gone."""
        return self._rpc.send([connection, frame])

    def publish(self, topic: bytes, envelope: bytes) -> None:
        """Send on the orders PUB; a slow subscriber loses messages and catches up by the log."""
        try:
            self._orders.send_multipart([topic, envelope], zmq.NOBLOCK)
        except zmq.Again:
            self._count("publish_dropped")

    # --- dialling ------------------------------------------------------------------------------

    def dial_hello(self, host: str, port: int, source: str) -> None:
        """Ask a hello socket for its record; delivers one answer within a second."""
        if len(self._dials) >= HELLO_DIALS_MAX:
            self._dial_queue.append((host, port, source))
            return
        socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        _configure(socket, {**DIALLER, zmq.RECONNECT_IVL: -1})
        try:
            socket.connect(_endpoint(host, port))
        except zmq.ZMQError as error:
            socket.close(0)
            failed = HelloFailed(host, port, source, error.strerror or "cannot connect")
            asyncio.get_running_loop().call_soon(self._deliver, failed)
            return
        drain = Drain(socket, lambda frames: self._on_record(drain, frames))
        timer = asyncio.get_running_loop().call_later(
            HELLO_WAIT_MS / SECOND_MS, self._dial_failed, drain
        )
        self._dials[drain] = (host, port, source, timer)
        drain.send([b"hello"])

    def _on_record(self, drain: Drain, frames: list[zmq.Frame]) -> None:
        if drain not in self._dials:
            return
        host, port, source, _ = self._end_dial(drain)
        self._deliver(HelloAnswered(host, port, source, frames[0].bytes))

    def _dial_failed(self, drain: Drain) -> None:
        host, port, source, _ = self._end_dial(drain)
        self._deliver(HelloFailed(host, port, source, "no answer within a second"))

    def _end_dial(self, drain: Drain) -> tuple[str, int, str, asyncio.TimerHandle]:
        dial = self._dials.pop(drain)
        dial[3].cancel()
        drain.close()
        if self._dial_queue:
            self.dial_hello(*self._dial_queue.popleft())
        return dial

    def connect(
        self,
        peer: bytes,
        curve_key: bytes,
        rpc: tuple[str, int],
        orders: tuple[str, int],
        topics: Sequence[bytes],
    ) -> None:
        """Open (or replace) DEALER and SUB to a peer."""
        self.disconnect(peer)
        dealer = self._dialled(zmq.DEALER, DIALLER, curve_key)
        subscriber = self._dialled(zmq.SUB, SUBSCRIBER, curve_key)
        for topic in topics:
            subscriber.setsockopt(zmq.SUBSCRIBE, topic)
        try:
            dealer.connect(_endpoint(*rpc))
            subscriber.connect(_endpoint(*orders))
        except zmq.ZMQError:
            # An endpoint that libzmq cannot parse: the kernel's greeting runs into its deadline.
            self._count("endpoints_invalid")
            dealer.close(0)
            subscriber.close(0)
            return
        requests = Drain(dealer, lambda frames: self._on_reply(peer, frames))
        stream = Drain(subscriber, self._on_stream, self._stream_drained)
        self._peers[peer] = (requests, stream)

    def disconnect(self, peer: bytes) -> None:
        """Close the sockets to a peer; unknown peers are fine."""
        for drain in self._peers.pop(peer, ()):
            drain.close()

    def _dialled(self, kind: int, options: dict[int, int], curve_key: bytes) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        _configure(socket, options)
        socket.setsockopt(zmq.CURVE_SERVERKEY, zmq.utils.z85.encode(curve_key))
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self._public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._secret)
        return socket

    def _on_reply(self, peer: bytes, frames: list[zmq.Frame]) -> None:
        if len(frames) != _REPLY_PARTS:
            self._count("reply_malformed")
            return
        self._deliver(ReplyReceived(peer, frames[0].bytes))

    def _on_stream(self, frames: list[zmq.Frame]) -> None:
        if len(frames) != _STREAM_PARTS:
            self._count("stream_malformed")
            return
        self._stream.append((frames[0].bytes, frames[1].bytes))
        if len(self._stream) >= STREAM_MESSAGES_MAX:
            self._stream_drained()

    def _stream_drained(self) -> None:
        messages, self._stream = self._stream, []
        if messages:
            self._deliver(StreamReceived(tuple(messages)))

    def _count(self, word: str) -> None:
        self._counted[word] = self._counted.get(word, 0) + 1


def _configure(socket: zmq.Socket[bytes], options: dict[int, int]) -> None:
    for option, value in options.items():
        socket.setsockopt(option, value)


def _endpoint(host: str, port: int) -> str:
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _user_id(frame: zmq.Frame) -> bytes | None:
    """The CURVE key that ZAP authenticated, as 32 raw bytes."""
    text = _metadata(frame, "User-Id")
    return bytes.fromhex(text) if text else None


def _address(frame: zmq.Frame) -> str:
    return _metadata(frame, "Peer-Address")


def _metadata(frame: Any, name: str) -> str:  # noqa: ANN401 - pyzmq types Frame.get loosely
    try:
        return str(frame.get(name))
    except zmq.ZMQError:
        return ""
