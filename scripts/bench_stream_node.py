#!/usr/bin/env python3
"""The program's side of the stream's figures: a node's kernel, gate, journal, verifier and sockets.

    bench_stream_node.py FOLDER PORT KEY           receives the stream of FOLDER from a publisher
    bench_stream_node.py FOLDER PORT KEY serve     then serves it to peers until standard input ends

Prints a JSON object after each part.  It is what `zmqex serve` runs, but for the discovery, and it
follows a publisher that never says hello.  Not for: anything but the sections of `bench`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import nacl.bindings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bench_flat_stream as flat

from zmqex.adapters.holds.redis_holds import RedisHolds
from zmqex.adapters.storage.journal import Journal
from zmqex.adapters.transport.control import ControlSocket
from zmqex.adapters.transport.zeromq import ZeroMqTransport
from zmqex.kernel.core import Settings
from zmqex.kernel.events import Event, Started, StreamReceived
from zmqex.kernel.kernel import Kernel
from zmqex.limits import ORDERS_PER_MAKER_MAX
from zmqex.market.instruments import BASE, Currencies
from zmqex.protocol.identity import IdentityKey, to_text
from zmqex.runtime.faults import open_play
from zmqex.runtime.node import Node
from zmqex.runtime.outside import HoldCalls, KernelWire, LightningCalls


class CountingTransport(ZeroMqTransport):
    """Knows how many bytes its answers to peers had."""

    replied_bytes = 0

    def reply(self, connection: bytes, frame: bytes) -> bool:
        """Send a reply frame, and count it."""
        self.replied_bytes += len(frame)
        return super().reply(connection, frame)


class Receiver:
    """A node that takes in what a publisher streams; `work` is a fresh private folder."""

    def __init__(self, work: Path, stack: AsyncExitStack) -> None:
        self._work = work
        self._begun: tuple[float, float] | None = None  # CPU and wall at the first message
        self._stack = stack
        self._public, secret = nacl.bindings.crypto_box_keypair()
        self.transport = CountingTransport(
            self._deliver,
            curve_public=self._public,
            curve_secret=secret,
            hello_port=0,
            rpc_port=0,
            orders_port=0,
        )

    def _deliver(self, event: Event) -> None:
        if self._begun is None and isinstance(event, StreamReceived):
            self._begun = time.process_time(), time.perf_counter()
        self.node.post(event)

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Open everything; the stack closes it."""
        stack, work = self._stack, self._work
        self.transport.start()
        stack.callback(self.transport.close)
        control = ControlSocket(self._deliver, work / "c")
        control.start()
        stack.callback(control.close)
        journal = Journal(work / "journal.sqlite3")
        stack.callback(journal.close)
        play = open_play(work)
        stack.push_async_callback(play.close)
        settings = Settings(
            hello_port=self.transport.hello_port,
            rpc_port=self.transport.rpc_port,
            orders_port=self.transport.orders_port,
            curve_key=self._public,
            orders_per_stranger=ORDERS_PER_MAKER_MAX,
        )
        kernel = Kernel(settings, IdentityKey(bytes(32)), Currencies(), journal.load())
        self.node = Node(kernel, journal, tasks)
        holds = RedisHolds.in_memory(identity=kernel.core.identity)
        stack.push_async_callback(holds.close)
        self.node.attach(
            self.transport,
            control,
            HoldCalls(holds, self.node.post),
            {BASE: LightningCalls(play, self.node.post, self.node.spawn)},
            KernelWire(self.node.post),
            {BASE: play.receive},
        )
        stack.callback(self.node.verifier.close)
        stack.callback(self.node.cancel_calls)
        self.node.post(Started())
        gc.freeze()  # as `serve` does

    def follow(self, port: int, key: bytes) -> None:
        """Subscribe to the publisher."""
        where = ("127.0.0.1", port)
        self.transport.connect(b"publisher", key, where, where, (flat.TOPIC, b"h"))

    async def take(self, batches: int) -> dict[str, float]:
        """Wait for the last batch; every log's root is part of the work."""
        while self._begun is None or self._applied() < batches:
            await a_moment()
        for log in self._logs():
            log.fold.root()
        cpu, wall = self._begun
        return {
            "cpu_s": time.process_time() - cpu,
            "wall_s": time.perf_counter() - wall,
            "orders": len(self.node.kernel.replicas.book(flat.MARKET)),
        }

    async def heard(self, makers: int) -> None:
        """Wait until each maker has said where its log stands."""
        while sum(bool(log.anchors) for log in self._logs()) < makers:
            await a_moment()

    def _applied(self) -> int:
        return sum(log.fold.sequence for log in self._logs())

    def _logs(self) -> list[Any]:
        """The logs of all makers but ourselves."""
        replicas = self.node.kernel.replicas
        return [
            log
            for maker in replicas.makers.values()
            if maker.identity != self.node.kernel.core.identity
            for log in maker.logs.values()
        ]


async def a_moment() -> None:
    """Let the node work for a while."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    loop.call_later(0.001, over.set_result, None)
    await over


async def run(folder: Path, port: int, key: bytes, *, serve: bool) -> None:
    """Take in the stream and print what that cost; then serve it, if asked."""
    _, envelopes, ends = flat.read_stream(folder)
    work = folder / f"node-{port}"
    work.mkdir(mode=0o700)
    async with asyncio.TaskGroup() as tasks, AsyncExitStack() as stack:
        receiver = Receiver(work, stack)
        await receiver.start(tasks)
        receiver.follow(port, key)
        print(json.dumps(await receiver.take(len(envelopes))), flush=True)
        if serve:
            await receiver.heard(len(ends))
            identity = to_text(receiver.node.kernel.core.identity)
            where = {"identity": identity, "hello_port": receiver.transport.hello_port}
            print(json.dumps(where), flush=True)
            await asyncio.to_thread(sys.stdin.read)
            print(json.dumps({"replied_bytes": receiver.transport.replied_bytes}), flush=True)


def main(arguments: list[str]) -> None:
    """Run it."""
    folder, port, key, *more = arguments
    asyncio.run(run(Path(folder), int(port), bytes.fromhex(key), serve=bool(more)))


if __name__ == "__main__":
    main(sys.argv[1:])
