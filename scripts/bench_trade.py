"""The trade's rows: from a take to the signed accept with its invoice, over real sockets.

The maker is `zmqex serve` in a process of its own, with its embedded Redis, its journal on the disk
and the play backend.  The takers are light ones in this process; what they sign and check is not
measured.  The floor is in a third process, asked in turn with the maker, each after a rest, so that
neither pays for what the other leaves behind: a CURVE round trip, one Redis script and one synced
SQLite transaction.  The second floor has the signatures that a take needs, and another transaction,
as where the preimage must be on the disk before there is an invoice (`htlc`).
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import nacl.bindings
import zmq
import zmq.utils.z85
from bench_trade_floor import SAFE
from light_taker import Context, LightTaker, dealer, find_maker

from zmqex.client import Client
from zmqex.config import control_path
from zmqex.errors import NodeUnavailableError
from zmqex.kernel.commands import GetStatus, PlaceOrder

Row = Mapping[str, object]

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 5
TAKES = 64  # of each subject in each round, one after the other
CROWD = 200
TAKES_EACH = 10  # of one taker in a crowd: it may have 16 holds that are not paid
LOT = 100_000
PRICE = 6_500_000
START_S = 20.0
REST_S = 0.005


def rows() -> list[Row]:
    """Measure everything."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zq-")))
        context: Context = zmq.Context()
        stack.callback(context.destroy, 0)
        client, hello_port, redis_socket = stack.enter_context(_maker(folder))
        ask_floor = stack.enter_context(_floor(folder, redis_socket, context))
        ours, floors, safes = _in_turn(context, client, hello_port, ask_floor)
        rates = [_crowd(context, client, hello_port) for _ in range(ROUNDS)]
    floor, safe = statistics.median(floors), statistics.median(safes)
    return [
        {
            "name": "take to accept with invoice, p50",
            "value": round(statistics.median(ours), 2),
            "unit": "ms",
            "floor": "RPC + Redis script + synced transaction, p50",
            "floor_value": round(floor, 2),
            "ratio": round(floor / statistics.median(ours), 2),
            "goal": 0.5,
        },
        {
            "name": "the same against a floor that signs and commits twice, p50",
            "value": round(statistics.median(ours), 2),
            "unit": "ms",
            "floor": "the floor with two transactions and its signatures",
            "floor_value": round(safe, 2),
            "ratio": round(safe / statistics.median(ours), 2),
        },
        {"name": "the same, p99 (goal 40)", "value": round(_p99(ours), 2), "unit": "ms"},
        {"name": "the floor, p99", "value": round(_p99(floors), 2), "unit": "ms"},
        {
            "name": f"{CROWD} takes at once on distinct orders (goal 300)",
            "value": round(statistics.median(rates)),
            "unit": "accepted/s",
            "best": round(max(rates)),
        },
    ]


def _p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


# --- the subjects ------------------------------------------------------------------------------


@contextmanager
def _maker(folder: Path) -> Iterator[tuple[Client, int, str]]:
    """A running node; its control client, its hello port and its Redis' socket."""
    directory = folder / "maker"
    words = [sys.executable, "-m", "zmqex", "--data-dir", str(directory), "serve", "--no-restart"]
    words += ["--log-level", "error", "--hello-port", "0", "--rpc-port", "0", "--orders-port", "0"]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "XDG_DATA_HOME": str(folder)}
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(folder)  # where `control_path` looks
    process = subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with _client(directory) as client:
            status = client.call(GetStatus())
            hello_port = int(status["endpoints"]["hello"].rpartition(":")[2])
            yield client, hello_port, status["redis"]["url"].removeprefix("unix://")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_S)
        os.environ.pop("XDG_RUNTIME_DIR")
        if before is not None:
            os.environ["XDG_RUNTIME_DIR"] = before


def _client(directory: Path) -> Client:
    end = time.monotonic() + START_S
    while True:
        try:
            return Client(control_path(directory))
        except NodeUnavailableError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


@contextmanager
def _floor(folder: Path, redis_socket: str, context: Context) -> Iterator[Callable[[bytes], None]]:
    """The floor's process; a call asks it once with a frame as long as a take that begins so."""
    public, secret = nacl.bindings.crypto_box_keypair()
    program = Path(__file__).with_name("bench_trade_floor.py")
    words = [sys.executable, str(program), str(folder), redis_socket]
    with subprocess.Popen(
        [*words, zmq.utils.z85.encode(secret).decode()], stdout=subprocess.PIPE, text=True
    ) as process:
        if process.stdout is None:
            raise RuntimeError("the floor has no output")
        try:
            socket, _ = dealer(context, public, int(process.stdout.readline()))
            frame = os.urandom(512)

            def ask(start: bytes) -> None:
                socket.send(start + frame)
                socket.recv()

            yield ask
        finally:
            process.kill()


def _orders(client: Client, count: int, lots: int) -> list[bytes]:
    """Rest bids of the maker."""
    placed = [
        client.call(PlaceOrder("BTC/USD", "buy", lots, PRICE))["order"]["order_id"]
        for _ in range(count)
    ]
    return [bytes.fromhex(one) for one in placed]


# --- one after the other -----------------------------------------------------------------------


def _in_turn(
    context: Context, client: Client, hello_port: int, ask_floor: Callable[[bytes], None]
) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds of each take and of each question to both floors, in turn; the first warm up."""
    maker = find_maker(context, hello_port)
    orders = _orders(client, 16, LOT * ROUNDS * TAKES)
    ours: list[float] = []
    floors: list[float] = []
    safes: list[float] = []
    for _ in range(ROUNDS + 1):
        for _ in range(TAKES // len(orders)):
            taker = LightTaker(context, maker)
            for order_id in orders:
                ours.append(_take(taker, order_id))
                floors.append(_timed(partial(ask_floor, b"")))
                safes.append(_timed(partial(ask_floor, SAFE)))
            taker.close()
    return ours[TAKES:], floors[TAKES:], safes[TAKES:]


def _take(taker: LightTaker, order_id: bytes) -> float:
    """Milliseconds until a take is answered; what the taker signs and checks is no part of it."""
    take, answers = taker.signed_take(order_id, LOT, PRICE), list[bytes]()

    def ask() -> None:
        taker.socket.send(take)
        answers.append(taker.answer())

    taken = _timed(ask)
    taker.checked(answers[0])
    return taken


def _timed(call: Callable[[], None]) -> float:
    time.sleep(REST_S)
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1_000


# --- a crowd -----------------------------------------------------------------------------------


def _crowd(context: Context, client: Client, hello_port: int) -> float:
    """Accepted takes per second when all are sent at once, each on an order of its own."""
    maker = find_maker(context, hello_port)
    orders = _orders(client, CROWD, LOT)
    takers = [LightTaker(context, maker) for _ in range(CROWD // TAKES_EACH)]
    begun = time.perf_counter()
    for number, order_id in enumerate(orders):
        takers[number % len(takers)].take(order_id, LOT, PRICE)
    for number in range(CROWD):
        takers[number % len(takers)].accepted()
    taken = time.perf_counter() - begun
    for taker in takers:
        taker.close()
    return CROWD / taken
