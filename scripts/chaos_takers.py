#!/usr/bin/env python3
"""Some of the takers of a chaos round: real kernels, journals, ledgers and sockets in one process.

    chaos_takers.py FOLDER FIRST COUNT MAKER_HELLO_PORT REDIS_URL TTL_MS PROMPT

What a node has besides is left out: no DHT, no control socket.  They take one unit of whatever can
be taken, again and again.  Of ten takes PROMPT are paid at once, half of the others late - up to
twice the hold's time, past their own kernel's checks - and half never.  On SIGTERM they take no
more, find out how their payments ended, and stop.  Killed and started again, they go on from their
files.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import secrets
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

import nacl.bindings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from zmqex.adapters.holds.redis_holds import RedisHolds
from zmqex.adapters.lightning.play import PlayLightning
from zmqex.adapters.storage.journal import Journal
from zmqex.adapters.transport.zeromq import ZeroMqTransport
from zmqex.errors import ZmqexError
from zmqex.kernel.commands import Command, GetBook, TakeOrder
from zmqex.kernel.core import Settings
from zmqex.kernel.events import CommandReceived, Event, Started
from zmqex.kernel.kernel import Kernel
from zmqex.limits import CLTV_LIMIT_BLOCKS
from zmqex.market.instruments import BASE, Currencies
from zmqex.protocol.identity import IdentityKey
from zmqex.runtime.node import Node
from zmqex.runtime.outside import HoldCalls, KernelWire, LightningCalls
from zmqex.trading import settlement

HOST = "127.0.0.1"
UNIT = 1_000_000  # lots
DRAIN_S = 20
ANSWER_S = 10


class Habits(NamedTuple):
    """How these takers pay."""

    ttl_s: float
    weights: tuple[float, float, float]  # at once, late, never


class Answers:
    """A control socket that answers this very process."""

    def __init__(self) -> None:
        """Nothing was asked."""
        self.waiting: dict[int, asyncio.Future[tuple[bool, dict[str, Any]]]] = {}

    def answer(self, client: bytes, request_id: int, *, ok: bool, result: dict[str, Any]) -> None:
        """See `ports.ControlServer`."""
        del client
        future = self.waiting.pop(request_id)
        if not future.done():
            future.set_result((ok, result))

    def announce(self, topic: str, facts: dict[str, Any]) -> None:
        """See `ports.ControlServer`."""


class OneMaker(ZeroMqTransport):
    """Talks to one maker only: fifty takers that all know each other would be another test."""

    maker_port = 0

    def dial_hello(self, host: str, port: int, source: str) -> None:
        """Dial the maker; whoever else was heard of is left alone."""
        if port == self.maker_port:
            super().dial_hello(host, port, source)


class Taker:
    """One taker and its habits."""

    def __init__(
        self, directory: Path, tasks: asyncio.TaskGroup, maker_port: int, redis: str, habits: Habits
    ) -> None:
        """Open its files, or make them."""
        directory.mkdir(mode=0o700, exist_ok=True)
        self._random = random.Random(secrets.randbits(64))  # noqa: S311 - a habit, no secret
        self._habits = habits
        self._tasks = tasks
        self._early: list[Event] = []
        self._asked = 0
        self.stopping = False
        seed = directory / "seed"
        if not seed.exists():
            seed.write_bytes(secrets.token_bytes(32))
        public, secret = nacl.bindings.crypto_box_keypair()
        self._transport = OneMaker(
            self._deliver,
            curve_public=public,
            curve_secret=secret,
            hello_port=0,
            rpc_port=0,
            orders_port=0,
        )
        self._transport.maker_port = maker_port
        self._transport.start()
        self._journal = Journal(directory / "journal.sqlite3")
        self._play = PlayLightning(directory)
        settings = Settings(
            hello_port=self._transport.hello_port,
            rpc_port=self._transport.rpc_port,
            orders_port=self._transport.orders_port,
            curve_key=public,
            lightning_node=self._play.node,
            static_peers=((b"", HOST, maker_port),),
        )
        identity = IdentityKey(seed.read_bytes())
        self._kernel = Kernel(settings, identity, Currencies(), self._journal.load())
        # They come back at once to a maker that failed them.
        self._kernel.sessions.set_aside = lambda *_: None
        self._node = Node(self._kernel, self._journal, tasks)
        self._answers = Answers()
        self._holds = RedisHolds.connect(redis, identity=identity.public_key)
        wire = KernelWire(self._node.post)
        self._play.connect(wire)
        self._node.attach(
            self._transport,
            self._answers,
            HoldCalls(self._holds, self._node.post),
            {BASE: LightningCalls(self._play, self._node.post, self._node.spawn)},
            wire,
            {BASE: self._play.receive},
        )
        self._started = False

    def start(self) -> None:
        """Begin."""
        self._started = True
        self._node.post(Started())
        for event in self._early:
            self._node.post(event)
        self._node.spawn(self._take_for_ever())
        self._node.spawn(self._drive_for_ever())

    async def close(self) -> None:
        """Find out how the payments ended, then close everything."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await self._all_ended()
        self._node.cancel_calls()
        self._node.verifier.close()
        self._transport.close()
        await self._holds.close()
        await self._play.close()
        self._journal.close()

    async def _all_ended(self) -> None:
        for pause_s in itertools.repeat(0.2):
            if not await self._drive():
                return
            await asyncio.sleep(pause_s)

    def _deliver(self, event: Event) -> None:
        if self._started:
            self._node.post(event)
        else:
            self._early.append(event)

    # --- habits ----------------------------------------------------------------------------------

    async def _take_for_ever(self) -> None:
        while not self.stopping:
            await asyncio.sleep(self._random.uniform(0.1, 0.5))
            order_id = await self._takeable()
            if order_id is None or self.stopping:
                continue
            ok, result = await self._command(TakeOrder(order_id, UNIT, pay_mode="manual"))
            for trade in result.get("trades", []) if ok else []:
                delay_s = self._random.choices(
                    (
                        self._random.uniform(0, 0.3),
                        self._random.uniform(0, 2 * self._habits.ttl_s),
                        None,
                    ),
                    weights=self._habits.weights,
                )[0]
                if delay_s is not None:
                    self._node.spawn(self._pay(bytes.fromhex(trade["trade_id"]), delay_s))

    async def _takeable(self) -> str | None:
        _, book = await self._command(GetBook("BTC/USD", orders=True))
        free = [
            one["order_id"]
            for one in book.get("orders", [])
            if not one["own"] and not one["stale"] and one["available_lots"] >= UNIT
        ]
        return self._random.choice(free) if free else None

    async def _pay(self, trade_id: bytes, delay_s: float) -> None:
        """Pay the invoice directly, whatever our kernel thinks of it by then."""
        await asyncio.sleep(delay_s)
        invoice = self._kernel.trades.by_id[trade_id].invoice
        with contextlib.suppress(ZmqexError):
            await self._play.pay(invoice, fee_limit_msat=10_000, cltv_limit=CLTV_LIMIT_BLOCKS)

    async def _drive_for_ever(self) -> None:
        while not self.stopping:
            await asyncio.sleep(1)
            await self._drive()

    async def _drive(self) -> bool:
        """Ask once how each payment stands; true while one is in flight."""
        hashes = [one.payment_hash for one in self._kernel.trades.by_id.values()]
        states = [(await self._play.payment(one)).state for one in hashes if one]
        return "in_flight" in states

    async def _command(self, command: Command) -> tuple[bool, dict[str, Any]]:
        self._asked += 1
        future: asyncio.Future[tuple[bool, dict[str, Any]]] = (
            asyncio.get_running_loop().create_future()
        )
        self._answers.waiting[self._asked] = future
        self._node.post(CommandReceived(b"taker", self._asked, command))
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(future, ANSWER_S)
        return False, {}


async def main(folder: Path, numbers: range, port: int, redis: str, habits: Habits) -> None:
    """Run until SIGTERM."""
    # A hold of seconds leaves no five of them to spare; these takers pay to the last moment.
    vars(settlement)["INVOICE_MARGIN_MS"] = 0
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with asyncio.TaskGroup() as tasks:
        takers = [
            Taker(folder / f"taker-{number}", tasks, port, redis, habits) for number in numbers
        ]
        for taker in takers:
            taker.start()
        await ended.wait()
        for taker in takers:
            taker.stopping = True
        await asyncio.gather(*(taker.close() for taker in takers))


if __name__ == "__main__":
    _, place, first, count, port, redis_url, ttl_ms, prompt = sys.argv
    others = (10 - int(prompt)) / 2
    wanted = range(int(first), int(first) + int(count))
    ways = Habits(int(ttl_ms) / 1_000, (int(prompt), others, others))
    asyncio.run(main(Path(place), wanted, int(port), redis_url, ways))
