"""Two ends of a transport on loopback, raw sockets for strangers, and bounded waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import nacl.bindings
import zmq
import zmq.utils.z85

from zmqex.adapters.transport.socks import Proxy
from zmqex.adapters.transport.zeromq import ZeroMqTransport
from zmqex.kernel.events import (
    Event,
    ReplyReceived,
    RequestReceived,
    StreamReceived,
)

E = TypeVar("E", bound=Event)


HOST = "127.0.0.1"


PATIENCE_S = 8.0


DESCRIPTORS = Path("/proc/self/fd")


class Side:
    """A transport, its keys, and everything that it delivered."""

    def __init__(
        self,
        keys: tuple[bytes, bytes] | None = None,
        proxy: Proxy | None = None,
        **ports: int | None,
    ) -> None:
        """Ports are free ones unless given."""
        self.public, secret = keys or nacl.bindings.crypto_box_keypair()
        self.events: list[Event] = []
        self.on_event: Callable[[Event], None] = lambda _event: None
        self._more = asyncio.Event()
        wanted: dict[str, int | None] = {"hello_port": 0, "rpc_port": 0, "orders_port": 0, **ports}
        self.transport = ZeroMqTransport(
            self._deliver,
            curve_public=self.public,
            curve_secret=secret,
            hello_port=wanted["hello_port"],
            rpc_port=wanted["rpc_port"],
            orders_port=wanted["orders_port"],
            proxy=proxy,
        )

    def _deliver(self, event: Event) -> None:
        self.events.append(event)
        self._more.set()
        self.on_event(event)

    def of(self, kind: type[E]) -> list[E]:
        """The events of a kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on the events holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._more.clear()
                await self._more.wait()

    async def first(self, kind: type[E]) -> E:
        """Wait for the first event of a kind."""
        await self.until(lambda: bool(self.of(kind)))
        return self.of(kind)[0]

    def connect(self, name: bytes, other: Side, *topics: bytes) -> None:
        """Open the sockets to another side, known here by `name`."""
        rpc, orders = (HOST, other.transport.rpc_port), (HOST, other.transport.orders_port)
        self.transport.connect(name, other.public, rpc, orders, topics)

    async def counted(self, word: str, at_least: int = 1) -> None:
        """Wait until the transport has counted something."""
        async with asyncio.timeout(PATIENCE_S):
            while self.transport.counters().get(word, 0) < at_least:
                await a_turn()


@asynccontextmanager
async def started(*sides: Side) -> AsyncIterator[None]:
    """Start the sides and close them at the end."""
    try:
        for side in sides:
            side.transport.start()
        yield
    finally:
        for side in sides:
            side.transport.close()


@contextmanager
def raw_socket(kind: int, port: int, **options: Any) -> Iterator[zmq.Socket[bytes]]:  # noqa: ANN401 - option values
    """A stranger's own ZeroMQ socket, connected, with options by their names."""
    context = zmq.Context()
    with closing(context.socket(kind)) as sock:
        sock.setsockopt(zmq.LINGER, 0)
        for name, value in options.items():
            sock.set(getattr(zmq, name), value)
        sock.connect(f"tcp://{HOST}:{port}")
        yield sock
    context.term()


def open_descriptors() -> int:
    """How many descriptors this process has."""
    return len(list(DESCRIPTORS.iterdir()))


async def a_turn() -> None:
    """Let the loop and the threads of ZeroMQ do something."""
    loop = asyncio.get_running_loop()
    turned = loop.create_future()
    loop.call_later(0.001, turned.set_result, None)
    await turned


def curve(server: bytes, keys: tuple[bytes, bytes] | None = None) -> dict[str, bytes]:
    """The options of a CURVE client with fresh keys."""
    public, secret = keys or nacl.bindings.crypto_box_keypair()
    return {
        "CURVE_SERVERKEY": zmq.utils.z85.encode(server),
        "CURVE_PUBLICKEY": zmq.utils.z85.encode(public),
        "CURVE_SECRETKEY": zmq.utils.z85.encode(secret),
    }


async def answer_of(sock: zmq.Socket[bytes]) -> list[bytes]:
    """Wait for a message on a stranger's socket while the loop goes on."""
    async with asyncio.timeout(PATIENCE_S):
        while not sock.poll(0):
            await a_turn()
    return sock.recv_multipart()


async def served(side: Side, asker: Side) -> None:
    """Claim: `side` still answers an honest peer that connects now."""
    before = len(asker.of(ReplyReceived))

    def answer(event: Event) -> None:
        if isinstance(event, RequestReceived) and event.frame == b"are you well?":
            side.transport.reply(event.route.connection, b"yes")

    side.on_event = answer
    asker.connect(b"side", side)
    assert asker.transport.send(b"side", b"are you well?")
    await asker.until(lambda: len(asker.of(ReplyReceived)) > before)
    assert asker.of(ReplyReceived)[-1] == ReplyReceived(b"side", b"yes")


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's story on a fresh loop."""
    asyncio.run(story())


def streamed(side: Side, topic: bytes) -> list[tuple[bytes, bytes]]:
    """All messages of a topic that a side received."""
    return [one for event in side.of(StreamReceived) for one in event.messages if one[0] == topic]


async def until_subscribed(reader: Side, maker: Side, topic: bytes) -> None:
    """Publish until the reader hears it: a subscription travels like everything else."""
    async with asyncio.timeout(PATIENCE_S):
        while not streamed(reader, topic):
            maker.transport.publish(topic, b"heartbeat")
            await a_turn()
