"""Real ZeroMQ transports on loopback: they find, prove and hear each other, despite strangers."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import random
import select
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import nacl.bindings
import pytest
import zmq
import zmq.utils.z85

from zmqex.adapters.transport.zeromq import ZeroMqTransport
from zmqex.errors import ConfigError
from zmqex.kernel.events import (
    Event,
    HelloAnswered,
    HelloFailed,
    ReplyReceived,
    RequestReceived,
    StreamReceived,
)
from zmqex.limits import (
    DEFAULT_PORTS,
    FRAME_BYTES_MAX,
    HELLO_DIALS_MAX,
    HELLO_SOURCE_BURST,
    STREAM_MESSAGES_MAX,
)

E = TypeVar("E", bound=Event)
HOST = "127.0.0.1"
PATIENCE_S = 8.0
DESCRIPTORS = Path("/proc/self/fd")


class Side:
    """A transport, its keys, and everything that it delivered."""

    def __init__(self, keys: tuple[bytes, bytes] | None = None, **ports: int | None) -> None:
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
    await asyncio.sleep(0.001)


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


# --- honest peers ----------------------------------------------------------------------------


def test_a_hello_is_answered_with_the_record_and_a_ping_with_pong() -> None:
    """What is set as record is what others get, from the moment it is set."""

    async def story() -> None:
        alice, bob = Side(), Side()
        async with started(alice, bob):
            bob.transport.set_record(b"record of bob")
            port = bob.transport.hello_port
            alice.transport.dial_hello(HOST, port, "dht")
            assert await alice.first(HelloAnswered) == HelloAnswered(
                HOST, port, "dht", b"record of bob"
            )
            alice.transport.dial_hello("localhost", port, "name")
            await alice.until(lambda: len(alice.of(HelloAnswered)) == 2)
            with raw_socket(zmq.DEALER, port) as stranger:
                stranger.send(b"ping")
                assert await answer_of(stranger) == [b"pong"]

    run(story)


def test_more_dials_than_allowed_at_once_wait_for_their_turn() -> None:
    """Every candidate gets exactly one answer."""

    async def story() -> None:
        alice, bob = Side(), Side()
        async with started(alice, bob):
            bob.transport.set_record(b"r")
            for number in range(2 * HELLO_DIALS_MAX):
                alice.transport.dial_hello(HOST, bob.transport.hello_port, str(number))
            await alice.until(lambda: len(alice.events) == 2 * HELLO_DIALS_MAX)
            sources = {answer.source for answer in alice.of(HelloAnswered)}
            assert sources == {str(number) for number in range(2 * HELLO_DIALS_MAX)}

    run(story)


def test_whoever_does_not_answer_a_hello_has_failed_after_a_second() -> None:
    """A closed port, a silent one, and what is no address.

    Nonsense is an answer, because ZeroMQ 1.0 had no greeting; it is no record either way.
    """

    async def story() -> None:
        alice = Side()
        silent, chatty = socket.create_server((HOST, 0)), socket.create_server((HOST, 0))
        closed = socket.create_server((HOST, 0))
        ports = [one.getsockname()[1] for one in (silent, chatty, closed)]
        closed.close()
        async with started(alice):
            with silent, chatty:
                for port in ports:
                    alice.transport.dial_hello(HOST, port, "dht")
                alice.transport.dial_hello("a;b", 7100, "dht")
                loop = asyncio.get_running_loop()
                chatty.setblocking(False)  # noqa: FBT003 - the library's signature
                caller, _ = await loop.sock_accept(chatty)
                with caller:
                    await loop.sock_sendall(caller, b"HTTP/1.1 400 Bad Request\r\n\r\n" * 20)
                    await alice.until(lambda: len(alice.events) == 4)
            failed = {(one.host, one.port, one.source) for one in alice.of(HelloFailed)}
            answered = {(one.host, one.port, one.source) for one in alice.of(HelloAnswered)}
            assert answered <= {(HOST, ports[1], "dht")}
            assert failed | answered == {
                ("a;b", 7100, "dht"),
                *((HOST, port, "dht") for port in ports),
            }

    run(story)


def test_two_peers_ask_each_other_and_know_each_other_by_curve_key() -> None:
    """The key on a request is the one that its sender announces in its record."""

    async def story() -> None:
        alice, bob = Side(), Side()
        async with started(alice, bob):
            for asker, server in ((alice, bob), (bob, alice)):
                asker.connect(b"other", server)
                assert asker.transport.send(b"other", b"question")
                asked = await server.first(RequestReceived)
                assert asked.frame == b"question"
                assert asked.route.curve_key == asker.public
                assert asked.route.address == HOST
                assert server.transport.reply(asked.route.connection, b"answer")
                assert await asker.first(ReplyReceived) == ReplyReceived(b"other", b"answer")

    run(story)


def test_a_stream_arrives_in_order_in_few_events_and_only_the_topics_asked_for() -> None:
    """A thousand batches are far fewer events, none with more than the bound."""

    async def story() -> None:
        alice, bob = Side(), Side()
        async with started(alice, bob):
            alice.connect(b"bob", bob, b"o", b"h")
            await until_subscribed(alice, bob, b"h")
            count = 1_000
            for number in range(count):
                bob.transport.publish(b"p", b"not asked for")
                bob.transport.publish(b"o", number.to_bytes(4, "big") + bytes(246))
            received: list[tuple[bytes, bytes]] = []
            await alice.until(lambda: len(streamed(alice, b"o")) == count)
            received = streamed(alice, b"o")
            assert [int.from_bytes(one[:4], "big") for _, one in received] == list(range(count))
            events = alice.of(StreamReceived)
            assert max(len(event.messages) for event in events) <= STREAM_MESSAGES_MAX
            assert len(events) < count
            assert streamed(alice, b"p") == []

    run(story)


def streamed(side: Side, topic: bytes) -> list[tuple[bytes, bytes]]:
    """All messages of a topic that a side received."""
    return [one for event in side.of(StreamReceived) for one in event.messages if one[0] == topic]


async def until_subscribed(reader: Side, maker: Side, topic: bytes) -> None:
    """Publish until the reader hears it: a subscription travels like everything else."""
    async with asyncio.timeout(PATIENCE_S):
        while not streamed(reader, topic):
            maker.transport.publish(topic, b"heartbeat")
            await a_turn()


def test_streams_of_several_peers_in_one_turn_are_one_event() -> None:
    """The kernel is called once for what all peers said at the same time."""

    async def story() -> None:
        reader, makers = Side(), [Side() for _ in range(3)]
        async with started(reader, *makers):
            for number, maker in enumerate(makers):
                reader.connect(str(number).encode(), maker, b"o")
                await until_subscribed(reader, maker, b"o")
            reader.events.clear()
            together = False
            async with asyncio.timeout(PATIENCE_S):
                while not together:
                    for number, maker in enumerate(makers):
                        maker.transport.publish(b"o", str(number).encode())
                    await a_turn()
                    together = any(
                        {b"0", b"1", b"2"} <= {one for _, one in event.messages}
                        for event in reader.of(StreamReceived)
                    )
            assert together

    run(story)


def test_a_peer_that_came_back_with_another_key_is_reached_by_connecting_again() -> None:
    """Old sockets are replaced, on the same ports."""

    async def story() -> None:
        alice, bob = Side(), Side()
        async with started(alice):
            async with started(bob):
                await served(bob, alice)
                ports = bob.transport
            reborn = Side(
                hello_port=ports.hello_port,
                rpc_port=ports.rpc_port,
                orders_port=ports.orders_port,
            )
            async with started(reborn):
                await served(reborn, alice)

    run(story)


def test_sending_says_whether_there_was_room() -> None:
    """Unknown peers, gone connections and full queues are False, never a wait or an error."""

    async def story() -> None:
        alice, bob = Side(), Side()
        nobody = socket.create_server((HOST, 0))
        address = nobody.getsockname()
        with nobody:
            async with started(alice, bob):
                assert not alice.transport.send(b"bob", b"x")
                alice.transport.disconnect(b"bob")
                alice.transport.connect(b"bob", bob.public, address, address, ())
                sent = [alice.transport.send(b"bob", bytes(1_000)) for _ in range(10_000)]
                assert sent[0] is True
                assert sent[-1] is False
                alice.connect(b"bob", bob)
                alice.transport.send(b"bob", b"x")
                route = (await bob.first(RequestReceived)).route
                assert bob.transport.reply(route.connection, b"y")
                await alice.first(ReplyReceived)
                alice.transport.disconnect(b"bob")
                async with asyncio.timeout(PATIENCE_S):
                    while bob.transport.reply(route.connection, b"y"):
                        await a_turn()

    run(story)


def test_a_fault_of_the_receiver_does_not_silence_a_socket() -> None:
    """What comes after the message that it choked on is still delivered."""

    async def story() -> None:
        alice, bob = Side(), Side()
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, told_: told.append(told_))

        def choke(event: Event) -> None:
            if isinstance(event, RequestReceived) and event.frame == b"0":
                raise ZeroDivisionError

        bob.on_event = choke
        async with started(alice, bob):
            alice.connect(b"bob", bob)
            for number in range(10):
                alice.transport.send(b"bob", str(number).encode())
            await bob.until(lambda: len(bob.of(RequestReceived)) == 10)
        assert [type(one["exception"]) for one in told] == [ZeroDivisionError]

    run(story)


# --- opening and closing ---------------------------------------------------------------------


def test_a_taken_port_that_was_asked_for_is_an_error_and_a_default_one_is_not() -> None:
    """The error names the setting and leaves nothing open; defaults go on to the next free one."""

    async def story() -> None:
        first, second = Side(hello_port=None), Side(hello_port=None)
        async with started(first, second):
            ports = [side.transport.hello_port for side in (first, second)]
            assert DEFAULT_PORTS["hello"] <= ports[0] < ports[1]
            taken = first.transport.orders_port
            third = Side(orders_port=taken)
            with pytest.raises(ConfigError, match=f"orders_port: {HOST}:{taken} is taken"):
                third.transport.start()
            with pytest.raises(ConfigError, match=f"cannot listen on {HOST}:70000"):
                Side(rpc_port=70_000).transport.start()

    run(story)


def test_nothing_is_left_open_after_close() -> None:
    """Descriptors are what a process runs out of; closing again and late calls are harmless."""

    async def story() -> None:
        before = open_descriptors()
        alice, bob = Side(), Side()
        async with started(alice, bob):
            bob.transport.set_record(b"r")
            await served(bob, alice)
            alice.transport.dial_hello(HOST, bob.transport.hello_port, "dht")
            await alice.first(HelloAnswered)
            alice.transport.dial_hello(HOST, bob.transport.hello_port, "dht")
        with pytest.raises(ConfigError):
            Side(rpc_port=70_000).transport.start()
        alice.transport.close()
        alice.transport.publish(b"o", b"x")
        alice.transport.dial_hello(HOST, 7100, "dht")
        alice.connect(b"bob", bob)
        assert not alice.transport.send(b"bob", b"x")
        assert not alice.transport.reply(b"x", b"x")
        assert open_descriptors() == before

    if not DESCRIPTORS.is_dir():
        pytest.skip("this system does not list a process's descriptors")
    run(story)


# --- strangers -------------------------------------------------------------------------------


def test_without_a_zap_handler_nobody_new_gets_in() -> None:
    """ZeroMQ alone would let everybody in then; who is in stays in."""

    async def story() -> None:
        alice, bob, late = Side(), Side(), Side()
        async with started(alice, bob, late):
            await served(bob, alice)
            bob.transport._zap.close()
            late.connect(b"bob", bob, b"o")
            late.transport.send(b"bob", b"let me in")
            for _ in range(200):
                alice.transport.send(b"side", b"are you well?")
                bob.transport.publish(b"o", b"secret")
                await a_turn()
            assert all(one.route.curve_key == alice.public for one in bob.of(RequestReceived))
            assert late.events == []
            assert len(bob.of(RequestReceived)) > 1

    run(story)


def test_a_denied_key_does_not_get_in() -> None:
    """The next connection with that key ends in the handshake; others do get in."""

    async def story() -> None:
        alice, bob, mallory = Side(), Side(), Side()
        async with started(alice, bob, mallory):
            bob.transport.deny(mallory.public)
            mallory.connect(b"bob", bob)
            mallory.transport.send(b"bob", b"let me in")
            await served(bob, alice)
            await served(bob, alice)
            assert {one.route.curve_key for one in bob.of(RequestReceived)} == {alice.public}

    run(story)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"PLAIN_USERNAME": b"admin", "PLAIN_PASSWORD": b"admin"},
        curve(nacl.bindings.crypto_box_keypair()[0]),
    ],
    ids=["no security", "plain", "wrong server key"],
)
def test_who_does_not_speak_curve_to_our_key_is_not_heard(options: dict[str, Any]) -> None:
    """And honest peers do not notice."""

    async def story() -> None:
        alice, bob = Side(), Side()
        async with started(alice, bob):
            with raw_socket(zmq.DEALER, bob.transport.rpc_port, **options) as stranger:
                stranger.send(b"hear me")
                for _ in range(3):
                    await served(bob, alice)
                assert {one.frame for one in bob.of(RequestReceived)} == {b"are you well?"}
                assert not stranger.poll(0)

    run(story)


def test_garbage_on_every_port_disturbs_nobody() -> None:
    """HTTP, noise, half greetings and dropped connections."""

    async def story() -> None:
        alice, bob = Side(), Side()
        rng = random.Random(7)
        greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00"
        async with started(alice, bob):
            bob.transport.set_record(b"r")
            listening = bob.transport
            for port in (listening.hello_port, listening.rpc_port, listening.orders_port):
                for text in (
                    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                    rng.randbytes(100_000),
                    greeting,
                    greeting + b"NULL".ljust(52, b"\0") + rng.randbytes(5_000),
                    greeting + b"CURVE".ljust(52, b"\0") + b"\x04\xc8" + rng.randbytes(5_000),
                    b"",
                ):
                    with socket.create_connection((HOST, port), PATIENCE_S) as stranger:
                        stranger.setblocking(False)  # noqa: FBT003 - the library's signature
                        try:
                            stranger.send(text)
                        except (BlockingIOError, ConnectionError):
                            continue
            await served(bob, alice)
            alice.transport.dial_hello(HOST, listening.hello_port, "dht")
            await alice.first(HelloAnswered)
            assert {one.route.curve_key for one in bob.of(RequestReceived)} == {alice.public}

    run(story)


def test_a_frame_that_is_too_big_ends_its_connection_and_one_that_just_fits_arrives() -> None:
    """The bound is exact, and holds before anything is kept."""

    async def story() -> None:
        alice, bob, mallory = Side(), Side(), Side()
        async with started(alice, bob, mallory):
            mallory.connect(b"bob", bob)
            mallory.transport.send(b"bob", bytes(FRAME_BYTES_MAX))
            assert len((await bob.first(RequestReceived)).frame) == FRAME_BYTES_MAX
            mallory.transport.send(b"bob", bytes(FRAME_BYTES_MAX + 1))
            mallory.transport.send(b"bob", bytes(FRAME_BYTES_MAX * 100))
            await served(bob, alice)
            assert max(len(one.frame) for one in bob.of(RequestReceived)) == FRAME_BYTES_MAX

    run(story)


def test_messages_of_too_many_frames_are_counted_and_not_kept() -> None:
    """On requests, and on the hello socket; the same client is heard afterwards."""

    async def story() -> None:
        bob = Side()
        async with started(bob):
            with raw_socket(zmq.DEALER, bob.transport.rpc_port, **curve(bob.public)) as stranger:
                stranger.send_multipart([b"x"] * 10_000)
                stranger.send_multipart([b"one", b"two"])
                stranger.send(b"right")
                assert (await bob.first(RequestReceived)).frame == b"right"
                assert bob.transport.counters()["rpc_malformed"] == 2
            with raw_socket(zmq.DEALER, bob.transport.hello_port) as stranger:
                stranger.send_multipart([b"hello"] * 1_000)
                stranger.send(b"who are you?")
                stranger.send(b"ping")
                assert await answer_of(stranger) == [b"pong"]
                assert bob.transport.counters()["hello_malformed"] == 2

    run(story)


def test_a_burst_of_five_thousand_requests_is_answered() -> None:
    """Nothing is lost that the sender had room for."""

    async def story() -> None:
        alice, bob = Side(), Side()

        def answer(event: Event) -> None:
            if isinstance(event, RequestReceived):
                assert bob.transport.reply(event.route.connection, event.frame)

        bob.on_event = answer
        async with started(alice, bob):
            alice.connect(b"bob", bob)
            async with asyncio.timeout(PATIENCE_S):
                for number in range(5_000):
                    while not alice.transport.send(b"bob", number.to_bytes(2, "big")):
                        await a_turn()
            await alice.until(lambda: len(alice.of(ReplyReceived)) == 5_000)
            numbers = [int.from_bytes(one.frame, "big") for one in alice.of(ReplyReceived)]
            assert numbers == list(range(5_000))

    run(story)


def test_a_flood_of_hellos_is_cut_and_others_are_answered() -> None:
    """One connection's share ends; the next connection has its own."""

    async def story() -> None:
        alice, bob = Side(), Side()
        async with started(alice, bob):
            bob.transport.set_record(b"r")
            with raw_socket(zmq.DEALER, bob.transport.hello_port, SNDHWM=0, RCVHWM=0) as stranger:
                for _ in range(10 * HELLO_SOURCE_BURST):
                    stranger.send(b"hello")
                await bob.counted("hello_rate_limited", 5 * HELLO_SOURCE_BURST)
                alice.transport.dial_hello(HOST, bob.transport.hello_port, "dht")
                await alice.first(HelloAnswered)

    run(story)


def test_who_takes_a_routing_id_first_keeps_it() -> None:
    """A second comer with the same id gets nobody's answers and cuts nobody off."""

    async def story() -> None:
        alice, bob = Side(), Side()
        async with started(alice, bob):
            port = bob.transport.rpc_port
            options = {**curve(bob.public), "ROUTING_ID": b"chosen"}
            with raw_socket(zmq.DEALER, port, **options) as first:
                first.send(b"first")
                asked = await bob.first(RequestReceived)
                assert asked.route.connection == b"chosen"
                squatter_options = {**curve(bob.public), "ROUTING_ID": b"chosen"}
                with raw_socket(zmq.DEALER, port, **squatter_options) as squatter:
                    squatter.send(b"second")
                    await served(bob, alice)
                    assert bob.transport.reply(asked.route.connection, b"for the first")
                    assert await answer_of(first) == [b"for the first"]
                    first.send(b"still here")
                    await bob.until(lambda: bob.of(RequestReceived)[-1].frame == b"still here")
                    assert b"second" not in {one.frame for one in bob.of(RequestReceived)}
                    assert not squatter.poll(0)

    run(story)


def test_routing_ids_do_not_follow_from_the_state_of_the_c_library() -> None:
    """Who could guess the next one could end the process."""

    async def connection() -> bytes:
        ctypes.CDLL(None).srand(1)  # the state of every fresh process
        alice, bob = Side(), Side()
        async with started(alice, bob):
            alice.connect(b"bob", bob)
            alice.transport.send(b"bob", b"x")
            return (await bob.first(RequestReceived)).route.connection

    async def story() -> None:
        assert await connection() != await connection()

    run(story)


def test_a_request_without_an_authenticated_key_is_dropped_and_counted() -> None:
    """ZeroMQ never lets one through today; if it does one day, nobody is heard without a name."""

    async def story() -> None:
        bob = Side()
        async with started(bob):
            bob.transport._on_request([b"connection"], zmq.Frame(b"take"))
            assert bob.transport.counters() == {"rpc_unauthenticated": 1}
            assert bob.events == []

    run(story)


def test_a_message_that_comes_while_we_send_is_not_left_lying() -> None:
    """Sending takes in the news that the descriptor told of, so the socket is read again."""

    async def story() -> None:
        alice, bob = Side(), Side()
        async with started(alice, bob):
            await served(bob, alice)
            bob.on_event = lambda _event: None
            alice.transport.send(b"side", b"answer me later")
            await bob.until(lambda: bob.of(RequestReceived)[-1].frame == b"answer me later")
            drain = alice.transport._peers._peers[b"side"][0]
            assert bob.transport.reply(bob.of(RequestReceived)[-1].route.connection, b"later")
            # The answer arrives while the loop is busy, and then we send before it can read.
            readable, _, _ = select.select([drain._fd], [], [], PATIENCE_S)
            assert readable
            while select.select([drain._fd], [], [], 0)[0]:
                assert alice.transport.send(b"side", b"one more")
            await alice.until(lambda: alice.of(ReplyReceived)[-1].frame == b"later")

    run(story)


def test_a_publisher_takes_subscriptions_while_it_has_nothing_to_say() -> None:
    """Five hundred topics are in force after a moment, not after as many batches."""

    async def story() -> None:
        alice, bob = Side(), Side()
        topics = [f"o{number:07}".encode() for number in range(500)]
        async with started(alice, bob):
            alice.connect(b"bob", bob, *topics)
            for _ in range(5):
                bob.transport.publish(topics[-1], b"batch")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await alice.until(lambda: bool(alice.of(StreamReceived)))
                        break
            assert streamed(alice, topics[-1])

    run(story)


@pytest.mark.parametrize("name", ["hello_port", "rpc_port", "orders_port"])
def test_a_stranger_who_announces_a_huge_frame_is_cut_off_at_once(name: str) -> None:
    """Before it has proved anything, and before the time for a handshake is over."""

    async def story() -> None:
        bob = Side()
        async with started(bob):
            loop = asyncio.get_running_loop()
            mechanism = b"NULL" if name == "hello_port" else b"CURVE"
            greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + mechanism.ljust(20, b"\0")
            command = b"\x06" + (300 * FRAME_BYTES_MAX).to_bytes(8, "big")
            with socket.create_connection((HOST, getattr(bob.transport, name))) as stranger:
                stranger.setblocking(False)  # noqa: FBT003 - the library's signature
                await loop.sock_sendall(stranger, greeting.ljust(64, b"\0") + command)
                async with asyncio.timeout(2):
                    with contextlib.suppress(ConnectionResetError):
                        while await loop.sock_recv(stranger, 1_000):
                            pass

    run(story)


def test_connections_beyond_the_bound_are_cut_and_room_is_given_back() -> None:
    """The surplus ends at once, who was there stays, and one that leaves makes room."""

    async def story() -> None:
        alice, bob = Side(), Side()
        async with started(alice, bob), contextlib.AsyncExitStack() as stack:
            bob.transport._connections._most = 4
            loop = asyncio.get_running_loop()
            address = (HOST, bob.transport.rpc_port)

            def join() -> socket.socket:
                stranger = stack.enter_context(socket.create_connection(address))
                stranger.setblocking(False)  # noqa: FBT003 - the library's signature
                return stranger

            kept = [join() for _ in range(4)]
            async with asyncio.timeout(PATIENCE_S):
                for stranger in kept:
                    assert await loop.sock_recv(stranger, 1) == b"\xff"  # the greeting begins
                surplus = [join() for _ in range(3)]
                await bob.counted("connections_refused", 3)
                for stranger in surplus:
                    with contextlib.suppress(ConnectionResetError):
                        while await loop.sock_recv(stranger, 1_000):
                            pass
            for stranger in kept:
                stranger.close()
            await served(bob, alice)

    run(story)
