"""What strangers send to a transport changes nothing for its peers."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import random
import select
import socket
from typing import Any

import nacl.bindings
import pytest
import zmq
import zmq.utils.z85

from tests.integration.transport_sides import (
    HOST,
    PATIENCE_S,
    Side,
    a_turn,
    answer_of,
    curve,
    raw_socket,
    run,
    served,
    started,
    streamed,
)
from zmqex.kernel.events import (
    Event,
    HelloAnswered,
    ReplyReceived,
    RequestReceived,
    StreamReceived,
)
from zmqex.limits import (
    FRAME_BYTES_MAX,
    HELLO_SOURCE_BURST,
)


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
                assert bob.transport.counters()["hello_rate_limited"] >= 5 * HELLO_SOURCE_BURST

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
                alice.transport.send(b"side", b"one more")
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
            began = loop.time()
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
            assert loop.time() - began < 2

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
