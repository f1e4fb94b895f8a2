"""Real ZeroMQ transports on loopback find, prove and hear each other."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import nacl.bindings
import pytest
import zmq
import zmq.utils.z85

from tests.integration.transport_sides import (
    DESCRIPTORS,
    HOST,
    PATIENCE_S,
    Side,
    a_turn,
    answer_of,
    open_descriptors,
    raw_socket,
    run,
    served,
    started,
    streamed,
    until_subscribed,
)
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
    HELLO_DIALS_MAX,
    STREAM_BYTES_MAX,
    STREAM_MESSAGES_MAX,
)


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


def test_what_is_listened_to_can_change_while_connected() -> None:
    """Topics come and go without a new connection; of a stranger nothing does."""

    async def story() -> None:
        alice, bob = Side(), Side()
        async with started(alice, bob):
            alice.connect(b"bob", bob, b"p")
            alice.transport.follow(b"nobody", [b"h"])
            seen: list[bytes] = []

            async def hears(*topics: bytes) -> bool:
                """Publish on all topics until exactly these have come, the last one twice."""
                alice.events.clear()
                while True:
                    for topic in (b"o", b"h", b"p"):
                        bob.transport.publish(topic, b"x")
                    await a_turn()
                    events = alice.of(StreamReceived)
                    seen[:] = [topic for event in events for topic, _ in event.messages]
                    if seen.count(topics[-1]) >= 2 and set(seen[-2 * len(topics) :]) == set(topics):
                        return True

            assert await hears(b"p")
            alice.transport.follow(b"bob", [b"o", b"h", b"p"])
            assert await hears(b"o", b"h", b"p")
            alice.transport.follow(b"bob", [b"o"])
            assert await hears(b"o")

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


def test_large_messages_make_small_events() -> None:
    """Whatever else the loop has to do waits for no more than so many bytes."""

    async def story() -> None:
        alice, bob = Side(), Side()
        async with started(alice, bob):
            alice.connect(b"bob", bob, b"o")
            await until_subscribed(alice, bob, b"o")
            alice.events.clear()
            size = STREAM_BYTES_MAX // 4
            for _ in range(20):
                bob.transport.publish(b"o", bytes(size))
            await alice.until(
                lambda: sum(len(raw) == size for _, raw in streamed(alice, b"o")) == 20
            )
            largest = [sum(len(raw) for _, raw in one.messages) for one in alice.of(StreamReceived)]
            assert max(largest) < STREAM_BYTES_MAX + size

    run(story)


def test_a_slow_subscriber_slows_nobody() -> None:
    """It reads nothing of what is far more than its queue: the others get all of it, in order."""

    async def story() -> None:
        maker, reader = Side(), Side()
        async with started(maker, reader):
            public, secret = nacl.bindings.crypto_box_keypair()
            keys = {
                "CURVE_SERVERKEY": zmq.utils.z85.encode(maker.public),
                "CURVE_PUBLICKEY": zmq.utils.z85.encode(public),
                "CURVE_SECRETKEY": zmq.utils.z85.encode(secret),
            }
            port = maker.transport.orders_port
            with raw_socket(zmq.SUB, port, RCVHWM=1, RCVBUF=4_096, **keys) as slow:
                slow.setsockopt(zmq.SUBSCRIBE, b"o")
                reader.connect(b"maker", maker, b"o")
                await until_subscribed(reader, maker, b"o")
                reader.events.clear()
                for number in range(12_000):
                    maker.transport.publish(b"o", b"%6d" % number + bytes(500))
                    if number % 100 == 0:
                        await a_turn()
                await reader.until(lambda: len(streamed(reader, b"o")) >= 12_000)
            numbers = [raw[:6] for _, raw in streamed(reader, b"o") if len(raw) > 500]
            assert numbers == [b"%6d" % number for number in range(12_000)]

    run(story)


def test_streams_that_are_held_wait_in_their_sockets_and_answers_do_not() -> None:
    """Nothing of a stream is read meanwhile and nothing of it is lost; a peer may go meanwhile."""

    async def story() -> None:
        reader, makers = Side(), [Side() for _ in range(3)]
        async with started(reader, *makers):
            for number, maker in enumerate(makers):
                reader.connect(str(number).encode(), maker, b"o")
                await until_subscribed(reader, maker, b"o")
                reader.events.clear()
            await a_turn()
            reader.events.clear()
            reader.transport.hold_streams(held=True)
            for maker in makers:
                for number in range(500):
                    maker.transport.publish(b"o", b"%3d" % number)
            for _ in range(3):
                await served(makers[1], reader)
            assert streamed(reader, b"o") == []
            reader.transport.disconnect(b"0")
            reader.transport.hold_streams(held=False)
            await reader.until(lambda: len(streamed(reader, b"o")) >= 1_000)
            seen = [raw for _, raw in streamed(reader, b"o") if raw != b"heartbeat"]
            assert sorted(seen) == sorted(2 * [b"%3d" % number for number in range(500)])

    run(story)


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
                assert reborn.transport.rpc_port == ports.rpc_port

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
