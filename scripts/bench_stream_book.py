"""Rows of section `stream` on whole books: how fast one reaches a new node, and what it weighs.

Nodes are real processes on loopback.  Not for: what a stream of orders costs (`bench_stream`).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import bench_flat_stream as flat
import bench_stream

from tests.end_to_end.nodes import Home, Node, wait_for
from zmqex.adapters.clock import wall_ms
from zmqex.client import Client
from zmqex.config import control_path
from zmqex.kernel.commands import AddPeer, ListPeers, PlaceOrder
from zmqex.kernel.core import Settings
from zmqex.kernel.effects import Effect, Verify
from zmqex.kernel.events import Now, Started, StreamReceived, Verified
from zmqex.kernel.kernel import Kernel
from zmqex.kernel.records import Snapshot as Restored
from zmqex.limits import LOG_PAGE_BYTES_MAX, ORDERS_PER_MAKER_MAX, ROWS_PAGE_MAX
from zmqex.market.instruments import Currencies
from zmqex.protocol.codec import decode, decode_envelope, encode
from zmqex.protocol.identity import IdentityKey, digest
from zmqex.protocol.log import Fold, Frozen, Plan
from zmqex.protocol.messages import Batch, Heartbeat, LogPage, Snapshot, Update
from zmqex.protocol.snapshot import serve

JOINS = 3
PLACEMENTS = 200
RESTING = 100_000

Row = dict[str, object]


def rows(place: Path, stream: Path) -> list[Row]:
    """Every row; `stream` is a prepared stream of five makers."""
    return [
        *book_reaches_a_node(stream),
        *one_change(place),
        memory(place),
        *placed_until_seen(),
    ]


# --- a whole book to a new node ------------------------------------------------------------------


def book_reaches_a_node(stream: Path) -> list[Row]:
    """A node that has the orders of five makers serves them to one that has nothing."""
    seconds, megabytes = [], []
    for _ in range(JOINS):
        taken_s, replied = join(stream)
        seconds.append(taken_s)
        megabytes.append(replied / 1e6)
    orders = sum(end[2][4] for end in flat.read_stream(stream)[2])
    name = f"{orders} orders of 5 makers reach a new node"
    return [
        {
            "name": name,
            "value": round(statistics.median(seconds), 2),
            "best": round(min(seconds), 2),
            "unit": "s, from `peers add` to the last verified order",
            "goal": "< 2",
        },
        {"name": name, "value": round(max(megabytes), 2), "unit": "MB of answers", "goal": "<= 10"},
    ]


def join(stream: Path) -> tuple[float, int]:
    """One new node: seconds until it has the book, and bytes that it was answered."""
    orders = sum(end[2][4] for end in flat.read_stream(stream)[2])
    with tempfile.TemporaryDirectory(prefix="zq-") as name:
        home = Home(Path(name))
        try:
            late = home.node("late").start(ZMQEX_ORDERS_PER_STRANGER=str(ORDERS_PER_MAKER_MAX))
            with bench_stream.publisher(stream) as (publisher, at):
                server = subprocess.Popen(
                    [
                        sys.executable,
                        bench_stream.NODE,
                        stream,
                        str(at["port"]),
                        at["key"],
                        "serve",
                    ],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                try:
                    return _join(server, publisher, late, orders)
                finally:
                    server.kill()
                    server.wait()
        finally:
            home.close()


def _join(
    server: subprocess.Popen[str], publisher: subprocess.Popen[str], late: Node, orders: int
) -> tuple[float, int]:
    line(server)
    say(publisher, str(wall_ms()))
    where = line(server)
    with Client(control_path(late.directory)) as client:
        begun = time.perf_counter()
        client.call(AddPeer(where["identity"], "127.0.0.1", where["hello_port"]))
        wait_for(
            "the whole book",
            lambda: sum(one["open_orders"] for one in client.call(ListPeers())["makers"]) == orders,
            bench_stream.PATIENCE_S,
        )
        taken = time.perf_counter() - begun
    if server.stdin:
        server.stdin.close()
    return taken, int(line(server)["replied_bytes"])


def line(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line that a program prints."""
    found: dict[str, Any] = json.loads(process.stdout.readline() if process.stdout else "")
    return found


def say(process: subprocess.Popen[str], text: str) -> None:
    """Tell a program something."""
    if process.stdin:
        process.stdin.write(text + "\n")
        process.stdin.flush()


# --- one change ----------------------------------------------------------------------------------


def one_change(place: Path) -> list[Row]:
    """What a peer that lacks one change of 10,000 orders is answered, by log and by snapshot."""
    folder = place / "one-maker"
    folder.mkdir()
    now_ms = wall_ms()
    (maker,) = flat.make_stream(folder, 1, ORDERS_PER_MAKER_MAX, 125, now_ms)
    fold = Fold("play", maker, flat.MARKET)
    fold.begin(now_ms)
    for raw in flat.read_stream(folder)[1]:
        body = decode_envelope(raw).body
        apply(fold, decode(body, Batch), digest(body))
    before = list(fold.digests())
    secret = flat.read_stream(folder)[2][0][0]
    key, row = next(iter(fold.orders.items()))
    change = Update(key, row.remaining_lots, 1)
    batch = Batch(maker, flat.MARKET, now_ms, fold.sequence + 1, fold.head_hash, now_ms, [change])
    envelope = flat.sealed(flat.BATCH, encode(batch), secret)
    apply(fold, batch, digest(encode(batch)))
    frozen = Frozen(fold)
    head = frozen.head
    beat = encode(Heartbeat(maker, now_ms, [head]))
    heartbeat = flat.sealed(flat.HEARTBEAT, beat, secret)
    differing = bytes(n for n, one in enumerate(fold.digests()) if one != before[n])
    page = serve(frozen, differing, b"", ROWS_PAGE_MAX, LOG_PAGE_BYTES_MAX)
    by_snapshot = len(encode(Snapshot(heartbeat, frozen.digests))) + len(encode(page))
    name = f"one change among {len(fold.orders)} orders"
    return [
        {
            "name": f"{name}, by the log",
            "value": len(encode(LogPage([envelope], 0))),
            "unit": "bytes",
            "goal": "< 2000",
        },
        {
            "name": f"{name}, by a snapshot",
            "value": by_snapshot,
            "unit": "bytes",
            "goal": "< 20000",
        },
    ]


def apply(fold: Fold, batch: Batch, body_digest: bytes) -> None:
    """Fold a batch that must fit."""
    plan = fold.check(batch, body_digest)
    if not isinstance(plan, Plan):
        raise SystemExit(f"a prepared batch is refused, {plan}: no result")
    fold.apply(plan)


# --- memory --------------------------------------------------------------------------------------


def memory(place: Path) -> Row:
    """What 100,000 open orders of ten makers take in a kernel: folds, book and what is served."""
    folder = place / "ten-makers"
    folder.mkdir()
    flat.make_stream(folder, 10, RESTING // 10, 125, wall_ms())
    kernel = Kernel(
        Settings(orders_per_stranger=ORDERS_PER_MAKER_MAX),
        IdentityKey(bytes(32)),
        Currencies(),
        Restored(),
    )
    now = Now(wall_ms(), 0, bytes(32))
    kernel.handle(Started(), now)
    tracemalloc.start()
    for raw in flat.read_stream(folder)[1]:
        effects: list[Effect] = kernel.handle(StreamReceived(((flat.TOPIC, raw),)), now)
        for effect in effects:
            if isinstance(effect, Verify):
                kernel.handle(Verified(effect.ticket, (True,) * len(effect.items)), now)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    if len(kernel.replicas.book(flat.MARKET)) != RESTING:
        raise SystemExit("the book is not whole: no result")
    return {
        "name": f"{RESTING} open orders",
        "value": round(taken / 1e6, 1),
        "unit": "MB",
        "goal": "<= 100",
    }


# --- from placing to seeing ----------------------------------------------------------------------


def placed_until_seen() -> list[Row]:
    """From a command on one node's control socket to the news of it on another node's."""
    with tempfile.TemporaryDirectory(prefix="zq-") as name:
        home = Home(Path(name))
        try:
            here, there = home.start("here", "there")
            with (
                Client(control_path(here.directory)) as placing,
                Client(control_path(there.directory)) as seeing,
            ):
                changes = seeing.events(("book",))
                taken = []
                for number in range(PLACEMENTS):
                    order = PlaceOrder("BTC/USD", "buy", 1_000_000, 1_000 + number)
                    begun = time.perf_counter()
                    placing.call(order)
                    next(changes)
                    taken.append((time.perf_counter() - begun) * 1e3)
        finally:
            home.close()
    taken.sort()
    return [
        {
            "name": f"placed on one node until seen on another, p{percent}",
            "value": round(taken[len(taken) * percent // 100], 2),
            "unit": "ms",
            "goal": goal,
        }
        for percent, goal in ((50, "< 3"), (99, "< 15"))
    ]
