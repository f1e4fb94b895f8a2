"""A DHT node under fire from real sockets: it goes on answering, in bounded memory."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from random import Random

import psutil
import pytest

from tests.integration.dht_nodes import NAME, PATIENCE_S, running
from tests.unit.dht_items import HERE, item
from zmqex.adapters.discovery.candidate import Candidate
from zmqex.adapters.discovery.dht import DhtDiscovery
from zmqex.dht import krpc
from zmqex.dht.bencode import Value
from zmqex.dht.limits import (
    DHT_CHECKS_MAX,
    DHT_ITEMS_PER_SOURCE_MAX,
    DHT_K,
    DHT_PEERS_PER_LOCAL_SOCKET_MAX,
)

ME = b"m" * 20
PACKETS = 100_000
BURST = 200
SOCKETS = 16
GROWTH_BYTES_MAX = 32 * 1024 * 1024


def _seeds() -> list[bytes]:
    """One valid message of every kind; some with a token that is none."""
    arguments: list[tuple[bytes, dict[bytes, Value]]] = [
        (b"ping", {}),
        (b"find_node", {b"target": ME, b"want": [b"n4", b"n6"]}),
        (b"get_peers", {b"info_hash": NAME}),
        (b"announce_peer", {b"info_hash": NAME, b"port": 5, b"token": b"guess"}),
        (b"get", {b"target": ME, b"seq": 4}),
        (b"put", {**item(5).arguments(), b"salt": b"zmqex:play", b"token": b"guess", b"cas": 1}),
        (b"unheard_of", {b"id": b"short"}),
    ]
    queries = [krpc.encode_query(b"tt", method, ME, given) for method, given in arguments]
    told: dict[bytes, Value] = {b"token": b"t", b"values": [b"\x7f\0\0\1\0\5"], b"nodes": bytes(52)}
    reply = krpc.encode_reply(b"tt", ME, told, HERE)
    failure = krpc.encode_failure(b"tt", krpc.Code.SERVER, b"no")
    return [*queries, reply, failure, b"d" * 200, b"l" * 4_000, b"i" + b"9" * 5_000 + b"e"]


def _mutated(random: Random, raw: bytes) -> bytes:
    """Change a few bytes, cut, double, or leave it as it is."""
    choice = random.randrange(4)
    if choice == 0:
        return raw
    if choice == 1:
        return raw[: random.randrange(len(raw) + 1)]
    if choice == 2:
        return raw + raw[random.randrange(len(raw)) :]
    changed = bytearray(raw)
    for _ in range(random.randrange(1, 4)):
        changed[random.randrange(len(changed))] = random.randrange(256)
    return bytes(changed)


@pytest.mark.timeout(120)
def test_a_hundred_thousand_fuzzed_packets_leave_the_node_answering_in_bounded_memory() -> None:
    """Messages of every kind, broken in every way, from many sockets; all of them are read."""

    async def story() -> None:
        random = Random(1)
        loop = asyncio.get_running_loop()
        seeds = _seeds()
        process = psutil.Process()
        async with running([]) as first:
            first.announce(NAME, 501)
            first.follow(NAME)
            with ExitStack() as stack:
                sockets = [_plain(stack, first) for _ in range(SOCKETS)]
                before = process.memory_info().rss
                for number in range(PACKETS // BURST):
                    one = sockets[number % SOCKETS]
                    for _ in range(BURST):
                        one.send(_mutated(random, seeds[random.randrange(len(seeds))]))
                    await _read_so_far(loop, one)
                grown = process.memory_info().rss - before
            async with running([("127.0.0.1", first.udp_port)]) as second:
                assert Candidate("127.0.0.1", 501, "dht") in await second.lookup(NAME, 3_000)
            health = first.health()
            assert (health["received"] or 0) >= PACKETS
            assert health["stored_peers"] == health["stored_items"] == 0
            assert (health["contacts"] or 0) <= DHT_K
            node = first._nodes[0].node
            assert len(node._checking) <= DHT_CHECKS_MAX
            assert len(node._queries._pending) <= 2 * DHT_CHECKS_MAX
            assert grown < GROWTH_BYTES_MAX

    asyncio.run(story())


def test_a_flood_with_a_valid_token_is_bounded() -> None:
    """One socket gets one socket's share, of a name's peers and of all items."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with running([]) as node:
            with ExitStack() as stack:
                one = _plain(stack, node)

                async def ask(method: bytes, arguments: dict[bytes, Value]) -> krpc.Message:
                    await loop.sock_sendall(one, krpc.encode_query(b"t", method, ME, arguments))
                    while True:
                        message = krpc.decode_message(await loop.sock_recv(one, 2_000))
                        if not isinstance(message, krpc.Query):
                            return message

                reply = await ask(b"get_peers", {b"info_hash": NAME})
                assert isinstance(reply, krpc.Reply)
                token = reply.values[b"token"]
                for port in range(1, 2 * DHT_PEERS_PER_LOCAL_SOCKET_MAX):
                    told: dict[bytes, Value] = {b"info_hash": NAME, b"port": port, b"token": token}
                    await ask(b"announce_peer", told)
                for number in range(2 * DHT_ITEMS_PER_SOURCE_MAX):
                    salt = b"%d" % number
                    put: dict[bytes, Value] = {
                        **item(1, salt=salt).arguments(),
                        b"salt": salt,
                        b"token": token,
                    }
                    await ask(b"put", put | item(1, salt=salt).arguments())
            assert node.health()["stored_peers"] == DHT_PEERS_PER_LOCAL_SOCKET_MAX
            assert node.health()["stored_items"] == DHT_ITEMS_PER_SOURCE_MAX

    asyncio.run(story())


def _plain(stack: ExitStack, node: DhtDiscovery) -> socket.socket:
    one = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    one.setblocking(False)  # noqa: FBT003 - the socket's signature
    one.connect(("127.0.0.1", node.udp_port))
    return one


async def _read_so_far(loop: asyncio.AbstractEventLoop, one: socket.socket) -> None:
    """Wait for the answer to a ping: everything before it was read then."""
    await loop.sock_sendall(one, krpc.encode_query(b"fence", b"ping", ME, {}))
    async with asyncio.timeout(PATIENCE_S):
        while b"5:fence1:v" not in await loop.sock_recv(one, 2_000):
            pass
