"""The DHT's rows of bench.py discovery: twenty real nodes on loopback, and one without sockets.

Floors: a plain asyncio datagram there and back for what waits for the network, and the reading and
writing of the same bencoding for what only computes.
"""

from __future__ import annotations

import asyncio
import hashlib
import statistics
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from zmqex.adapters.discovery.candidate import Candidate
from zmqex.adapters.discovery.dht import DhtDiscovery
from zmqex.dht import bencode, krpc
from zmqex.dht.node import DhtNode

Row = Mapping[str, object]

NAME = b"zmqex:v1:play:btcusd"
NODES = 20
PORT = 500  # announced by the first node, the next by the next
ROUNDS = 7
LOOKUPS = 100
JOINERS = 20
IDLE_S = 35
CONTACTS = 200
ANSWERS = 2_000
HOST = "127.0.0.1"


def rows() -> list[Row]:
    """Measure everything."""
    return [*asyncio.run(_network_rows()), *_answer_rows()]


# --- real sockets ------------------------------------------------------------------------------


class _Found:
    """The ports that a node still waits for."""

    def __init__(self, wanted: set[int]) -> None:
        self.missing = wanted
        self.done = asyncio.Event()

    def __call__(self, candidates: list[Candidate]) -> None:
        self.missing = self.missing - {one.port for one in candidates}
        if not self.missing:
            self.done.set()


@asynccontextmanager
async def _network() -> AsyncIterator[tuple[list[DhtDiscovery], list[_Found]]]:
    """Nodes that know only the first one's port, announcing and following one name."""
    ports = set(range(PORT, PORT + NODES))
    found = [_Found(ports - {port}) for port in sorted(ports)]
    async with AsyncExitStack() as stack:
        nodes: list[DhtDiscovery] = []
        for number, seen in enumerate(found):
            node = DhtDiscovery(seen)
            bootstrap = [(HOST, nodes[0].udp_port)] if nodes else []
            await node.start(HOST, 0, bootstrap)
            stack.push_async_callback(node.close)
            node.announce(NAME, PORT + number)
            node.follow(NAME)
            nodes.append(node)
        yield nodes, found


async def _network_rows() -> list[Row]:
    meshes = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        async with _network() as (_, found):
            await asyncio.gather(*(one.done.wait() for one in found))
            meshes.append(time.perf_counter() - started)
    floor: list[float] = []
    lookups: list[float] = []
    async with _network() as (nodes, _):
        for _ in range(ROUNDS):
            floor += await _round_trips()
            lookups += await _lookups(nodes)
        joins = [await _join(nodes[0].udp_port) for _ in range(JOINERS)]
        idle = await _idle(nodes)
    lookup_ms, floor_ms = _ms(statistics.median(lookups)), _ms(statistics.median(floor))
    return [
        _row(f"{NODES} nodes, all find all", _ms(statistics.median(meshes)), "ms", "< 3000"),
        _row("start to first candidate, p95", _ms(_p95(joins)), "ms", "< 300"),
        {
            **_row(f"lookup among {NODES} nodes, p50", lookup_ms, "ms", "< 5"),
            "floor": "datagram there and back",
            "floor_value": floor_ms,
            "ratio": round(floor_ms / lookup_ms, 3),
        },
        *idle,
    ]


async def _round_trips() -> list[float]:
    """Times of plain datagrams to an echo on the same loop, each after the answer to the last."""
    loop = asyncio.get_running_loop()

    class Echo(asyncio.DatagramProtocol):
        transport: asyncio.DatagramTransport

        def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
            self.transport = transport

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            self.transport.sendto(data, addr)

    class Asker(asyncio.DatagramProtocol):
        answered: asyncio.Future[None]

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            del data, addr
            self.answered.set_result(None)

    echo, _ = await loop.create_datagram_endpoint(Echo, local_addr=(HOST, 0))
    target = echo.get_extra_info("sockname")
    mine, asker = await loop.create_datagram_endpoint(Asker, remote_addr=target)
    times = []
    for _ in range(LOOKUPS):
        asker.answered = loop.create_future()
        started = time.perf_counter()
        mine.sendto(b"x" * 100)
        await asker.answered
        times.append(time.perf_counter() - started)
    mine.abort()
    echo.abort()
    return times


async def _lookups(nodes: Sequence[DhtDiscovery]) -> list[float]:
    times = []
    for number in range(LOOKUPS):
        started = time.perf_counter()
        await nodes[number % NODES].lookup(NAME, 2_000)
        times.append(time.perf_counter() - started)
    return times


async def _join(bootstrap: int) -> float:
    found = _Found({PORT})
    started = time.perf_counter()
    node = DhtDiscovery(found)
    await node.start(HOST, 0, [(HOST, bootstrap)])
    node.follow(NAME)
    await found.done.wait()
    took = time.perf_counter() - started
    await node.close()
    return took


async def _idle(nodes: Sequence[DhtDiscovery]) -> list[Row]:
    """CPU and datagrams of nodes that only keep their places, over more than one period."""

    def sent() -> int:
        return sum(node.health()["sent"] or 0 for node in nodes)

    before, used = sent(), time.process_time()
    await asyncio.sleep(IDLE_S)
    share = (time.process_time() - used) / IDLE_S / len(nodes)
    per_minute = (sent() - before) * 60 / IDLE_S / len(nodes)
    return [
        _row(f"idle CPU of a node among {NODES}", round(100 * share, 3), "% of a core", "< 0.5"),
        _row(f"idle datagrams of a node among {NODES}", round(per_minute), "a minute", ""),
    ]


# --- no sockets --------------------------------------------------------------------------------


def _answer_rows() -> list[Row]:
    """How many questions of strangers a node answers in a second."""
    node = _full_node()
    sender = (HOST, 9)
    found: list[Row] = []
    for method, arguments in ((b"ping", {}), (b"get_peers", {b"info_hash": NAME})):
        raw = krpc.encode_query(b"tt", method, _chance(0), dict(arguments))

        def answer(raw: bytes = raw) -> None:
            node.receive_datagram(raw, sender, 0)
            node.datagrams_to_send()

        node.receive_datagram(raw, sender, 0)
        answers = node.datagrams_to_send()[0][0]

        def codec(raw: bytes = raw, answers: bytes = answers) -> None:
            bencode.decode(raw)
            bencode.encode(bencode.decode(answers))

        ours, floor = [], []
        for _ in range(ROUNDS):
            ours.append(_rate(answer))
            floor.append(_rate(codec))
        rate, floor_rate = statistics.median(ours), statistics.median(floor)
        found.append(
            {
                "name": f"{method.decode()} answered at {CONTACTS} contacts",
                "value": round(rate),
                "unit": "a second",
                "best": round(max(ours)),
                "floor": "its bencoding alone",
                "floor_value": round(floor_rate),
                "floor_best": round(max(floor)),
                "ratio": round(rate / floor_rate, 3),
            }
        )
    return found


def _full_node() -> DhtNode:
    """A node whose table holds contacts from all over the network."""
    node = DhtNode(_chance(0), 0, bytes(32))
    ids: dict[tuple[str, int], bytes] = {}
    port = 0
    while node.contacts < CONTACTS:
        port += 1
        # Ever nearer to the node, so that the near buckets fill up as well.
        own, away = (int.from_bytes(one, "big") for one in (node.node_id, _chance(port)))
        near = own ^ (away >> port % 16)
        ids[HOST, port] = near.to_bytes(20, "big")
        ping = krpc.encode_query(b"tt", b"ping", ids[HOST, port], {})
        node.receive_datagram(ping, (HOST, port), 0)
        for raw, target in node.datagrams_to_send():
            message = krpc.decode_message(raw)
            if isinstance(message, krpc.Query):
                reply = krpc.encode_reply(message.transaction, ids[target], {}, target)
                node.receive_datagram(reply, target, 0)
    return node


def _chance(number: int) -> bytes:
    """Twenty bytes that are spread like a random id and always the same."""
    return hashlib.blake2b(number.to_bytes(4, "big"), digest_size=20).digest()


def _rate(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    for _ in range(ANSWERS):
        call()
    return ANSWERS / (time.perf_counter() - started)


# --- printing ----------------------------------------------------------------------------------


def _row(name: str, value: float, unit: str, goal: str) -> Row:
    row: dict[str, object] = {"name": f"DHT: {name}", "value": value, "unit": unit}
    return {**row, "goal": goal} if goal else row


def _ms(seconds: float) -> float:
    return round(seconds * 1_000, 2)


def _p95(times: Sequence[float]) -> float:
    return sorted(times)[len(times) * 95 // 100]
