#!/usr/bin/env python3
"""The program's side of the stream's figures: a node's kernel, gate, journal, verifier and sockets.

    bench_stream_node.py FOLDER PORT KEY MAKERS     receives the stream of FOLDER from one peer

Prints one JSON object.  It is what `serve` runs, without the sockets that nobody talks to here.
Not for: anything but `bench_stream`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from pathlib import Path

import nacl.bindings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bench_flat_stream as flat

from zmqex.adapters.holds.redis_holds import RedisHolds
from zmqex.adapters.storage.journal import Journal
from zmqex.adapters.transport.control import ControlSocket
from zmqex.adapters.transport.zeromq import ZeroMqTransport
from zmqex.kernel.core import Settings
from zmqex.kernel.events import Event, Started
from zmqex.kernel.kernel import Kernel
from zmqex.kernel.logs import Maker
from zmqex.market.instruments import Currencies
from zmqex.protocol.identity import IdentityKey
from zmqex.runtime.faults import open_play
from zmqex.runtime.node import Node
from zmqex.runtime.outside import HoldCalls, KernelWire, LightningCalls


async def ingest(folder: Path, port: int, key: bytes, makers: list[bytes]) -> dict[str, float]:
    """Follow the publisher until its whole stream is in the book."""
    batches = len(flat.read_stream(folder)[1])
    gc.collect()
    events: list[Event] = []
    public, secret = nacl.bindings.crypto_box_keypair()
    transport = ZeroMqTransport(
        lambda event: node.post(event) if events else events.append(event),
        curve_public=public,
        curve_secret=secret,
        hello_port=0,
        rpc_port=0,
        orders_port=0,
    )
    work = folder / f"node-{port}"
    work.mkdir(mode=0o700)
    transport.start()
    control = ControlSocket(events.append, work / "c")
    control.start()
    journal = Journal(work / "journal.sqlite3")
    play = open_play(work)
    kernel = Kernel(Settings(), IdentityKey(bytes(32)), Currencies(), journal.load())
    async with asyncio.TaskGroup() as tasks:
        node = Node(kernel, journal, tasks)
        wire = KernelWire(node.post)
        holds = RedisHolds.in_memory(identity=kernel.core.identity)
        node.attach(
            transport,
            control,
            HoldCalls(holds, node.post),
            LightningCalls(play, node.post, node.spawn),
            wire,
            play.receive,
        )
        events.append(Started())
        node.post(Started())
        for maker in makers:
            kernel.replicas.makers[maker] = Maker(maker, trusted=True)
        transport.connect(
            b"publisher", key, ("127.0.0.1", port), ("127.0.0.1", port), (flat.TOPIC,)
        )
        figures = await measure(node, makers, batches)
        node.cancel_calls()
        node.verifier.close()
    await play.close()
    await holds.close()
    control.close()
    transport.close()
    journal.close()
    return figures


async def measure(node: Node, makers: list[bytes], batches: int) -> dict[str, float]:
    """Wait for the first batch, then for the last; the root of every log is part of the work."""
    logs = [node.kernel.replicas.makers[maker].logs for maker in makers]

    def applied() -> int:
        return sum(log.fold.sequence for of in logs for log in of.values())

    while not applied():
        await a_moment()
    cpu, wall, first = time.process_time(), time.perf_counter(), applied()
    while applied() < batches:
        await a_moment()
    for of in logs:
        for log in of.values():
            log.fold.root()
    share = (batches - first) / batches
    orders = len(node.kernel.replicas.book(flat.MARKET))
    return {
        "cpu_s": (time.process_time() - cpu) / share,
        "wall_s": (time.perf_counter() - wall) / share,
        "orders": orders,
    }


async def a_moment() -> None:
    """Let the node work for a while."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    loop.call_later(0.001, over.set_result, None)
    await over


def main(arguments: list[str]) -> None:
    """Run it and print the figures."""
    folder, port, key, *makers = arguments
    figures = asyncio.run(
        ingest(Path(folder), int(port), bytes.fromhex(key), [bytes.fromhex(one) for one in makers])
    )
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
