"""The book against a flat reference with the same features, and against a C++ peer.

The stream: 50 % new orders, 40 % cancels, 10 % crossing orders, prices clustered near the middle,
32-byte ids, every flag, minimum and time in force, and one order in fifty that expires on the way
(in one more row, one in twenty).
The reference (`bench_flat_book`) also draws the stream, and book and reference must end with the
same orders and the same fills, or there is no result.  The peer is given the same orders without
what it does not know: flags, minimums, expiry.

Each round fills all books anew and then gives each a few thousand steps in turn, so that whatever
else the machine does meets all of them.  What was there before is frozen for the garbage
collector, which runs as usual on the rest.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import random
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any, NamedTuple

from bench_flat_book import AON, BUY, FOK, ID, IOC, LOTS, FlatBook

from zmqex.market.book import Book
from zmqex.market.matching import match
from zmqex.market.orders import BookOrder, IncomingOrder, OrderFlags, Side, TimeInForce

OURS = "zmqex book"
FLOOR = "flat bisect + deque + expiry"
PEER = "limit-order-book"
ROUNDS = 5
OPERATIONS = 60_000
TURN = 2_000
RESTING = (1_000, 10_000, 100_000)
MIDDLE = 1_000_000
HOUR_MS = 3_600_000
SHORT_LIVED, MORE_SHORT_LIVED = 0.02, 0.05

ADD, CANCEL, CROSS, EXPIRE = range(4)
COD = int(OrderFlags.CANCEL_ON_DISCONNECT)


class Operation(NamedTuple):
    """One step of the stream; which fields count depends on the kind."""

    kind: int
    now_ms: int
    order_id: bytes = b""
    owner: bytes = b""
    side: Side = Side.BUY
    price: int = 0
    lots: int = 0
    minimum: int = 1
    flags: int = 0
    post_only: bool = False
    time_in_force: TimeInForce = TimeInForce.GTC
    expires_at_ms: int = 0


# --- the stream ----------------------------------------------------------------------------------


def draw_order(rng: random.Random, now_ms: int, makers: list[bytes], short: float) -> Operation:
    """A resting order near the middle; of these a share of `short` ends before the stream does."""
    side = rng.choice((Side.BUY, Side.SELL))
    away = 1 + int(rng.expovariate(1 / 25))
    lots = rng.randint(1, 100)
    life = rng.randint(1, 60_000) if rng.random() < short else rng.randint(1, 168) * HOUR_MS
    return Operation(
        ADD,
        now_ms,
        rng.randbytes(32),
        rng.choice(makers),
        side,
        MIDDLE - away if side is Side.BUY else MIDDLE + away,
        lots,
        rng.choice((1, 1, 1, 1 + lots // 4)),
        rng.choice((0,) * 16 + (AON, COD, COD, AON | COD)),
        expires_at_ms=now_ms + life,
    )


def draw_crossing(
    rng: random.Random, now_ms: int, makers: list[bytes], short: float, book: FlatBook
) -> Operation:
    """An order a few ticks through the other side's best."""
    order = draw_order(rng, now_ms, makers, short)
    through = rng.randint(0, 3)
    if order.side is Side.BUY:
        price = (-book.asks[-1] if book.asks else MIDDLE) + through
    else:
        price = (book.bids[-1] if book.bids else MIDDLE) - through
    kinds = (TimeInForce.GTC,) * 6 + (
        TimeInForce.GTD,
        TimeInForce.IOC,
        TimeInForce.IOC,
        TimeInForce.FOK,
    )
    time_in_force = rng.choice(kinds)
    rests = time_in_force not in {IOC, FOK}
    return order._replace(
        kind=CROSS,
        # Most takers own nothing here; one in five may meet itself.
        owner=rng.choice(makers) if rng.random() < 0.2 else rng.randbytes(32),  # noqa: PLR2004
        price=price,
        post_only=rests and rng.random() < 0.05,  # noqa: PLR2004
        time_in_force=time_in_force,
    )


def draw_stream(
    resting: int, short: float = SHORT_LIVED
) -> tuple[list[Operation], list[Operation]]:
    """The orders that rest before, and the steps that are timed."""
    rng = random.Random(1)  # noqa: S311 - a repeatable history, not a secret
    makers = [rng.randbytes(32) for _ in range(200)]
    book = FlatBook()
    before = [draw_order(rng, 0, makers, short) for _ in range(resting)]
    ids = []
    for op in before:
        do_flat(book, flat_step(op))
        ids.append(op.order_id)
    timed: list[Operation] = []
    for now_ms in range(1, OPERATIONS + 1):
        dice = rng.random()
        if now_ms % 100 == 0:
            op = Operation(EXPIRE, now_ms)
        elif dice < 0.5:  # noqa: PLR2004
            op = draw_order(rng, now_ms, makers, short)
        elif dice < 0.9 and book.orders:  # noqa: PLR2004
            op = Operation(CANCEL, now_ms, draw_resting(rng, ids, book))
        else:
            op = draw_crossing(rng, now_ms, makers, short, book)
        do_flat(book, flat_step(op))
        if op.order_id in book.orders:
            ids.append(op.order_id)
        timed.append(op)
    return before, timed


def draw_resting(rng: random.Random, ids: list[bytes], book: FlatBook) -> bytes:
    """The id of an order that rests now; forgets the dead ones that it meets."""
    while True:
        index = rng.randrange(len(ids))
        ids[index], ids[-1] = ids[-1], ids[index]
        order_id = ids.pop()
        if order_id in book.orders:
            return order_id


# --- one step on each book: (kind, when, arguments), ready to be handed over ---------------------

Step = tuple[int, int, Any]


def flat_step(op: Operation) -> Step:
    """The step as the reference takes it."""
    terms = (op.order_id, op.owner, op.side, op.price, op.lots, op.minimum, op.flags)
    if op.kind == ADD:
        return ADD, op.now_ms, (*terms, op.expires_at_ms, op.now_ms)
    if op.kind == CROSS:
        how = (op.post_only, op.time_in_force, op.expires_at_ms, op.now_ms)
        return CROSS, op.now_ms, (terms, how)
    return op.kind, op.now_ms, op.order_id


def do_flat(book: FlatBook, step: Step) -> int:
    """One step on the reference; the filled lots."""
    kind, now_ms, arguments = step
    filled = 0
    if kind == ADD:
        book.add(*arguments)
    elif kind == CANCEL:
        book.cancel(arguments)
    elif kind == CROSS:
        for fill in book.cross(arguments)[0]:
            filled += fill[2]
    else:
        book.expire(now_ms)
    return filled


def book_step(op: Operation) -> Step:
    """The step as the program's book takes it; its objects are made under the clock."""
    terms = (op.owner, op.side, op.price, op.lots, op.minimum, op.flags)
    if op.kind == ADD:
        return ADD, op.now_ms, (op.order_id, *terms, op.expires_at_ms)
    if op.kind == CROSS:
        how = (op.post_only, op.time_in_force, op.expires_at_ms)
        return CROSS, op.now_ms, (op.order_id, (*terms, *how))
    return op.kind, op.now_ms, op.order_id


def do_book(book: Book, step: Step) -> int:
    """One step on the program's book; the filled lots."""
    kind, now_ms, arguments = step
    if kind == ADD:
        book.place(BookOrder(*arguments), now_ms)
    elif kind == CANCEL:
        book.cancel(arguments)
    elif kind == CROSS:
        order_id, terms = arguments
        return match(book, IncomingOrder(*terms), now_ms, order_id=order_id).filled_lots
    else:
        book.expire(now_ms)
    return 0


# --- the peer ------------------------------------------------------------------------------------


def peer_version() -> str | None:
    """The version of the C++ peer that is installed here."""
    try:
        return importlib.metadata.version(PEER)
    except importlib.metadata.PackageNotFoundError:
        return None


def peer_book() -> Any:  # noqa: ANN401 - the peer ships no types
    """An empty book of the peer, through its own Python API: no flags, no expiry, no fills told."""
    return importlib.import_module("limit_order_book").LimitOrderBook()


def peer_steps(before: list[Operation], timed: list[Operation]) -> tuple[list[Step], list[Step]]:
    """The steps that the peer can do.

    Its ids are integers, and it must not be asked to cancel what it does not have: the stream is
    tried once, outside the clock, to find out.
    """
    trial = peer_book()
    numbers: dict[bytes, int] = {}
    both: tuple[list[Step], list[Step]] = ([], [])
    for steps, operations in zip(both, (before, timed), strict=True):
        for op in operations:
            number = numbers.setdefault(op.order_id, len(numbers) + 1)
            if op.kind in {ADD, CROSS}:
                step: Step = (ADD, 0, (op.side is BUY, number, op.lots, op.price))
            elif op.kind == CANCEL and trial.has(number):
                step = (CANCEL, 0, number)
            else:
                continue
            do_peer(trial, step)
            steps.append(step)
    return both


def do_peer(book: Any, step: Step) -> int:  # noqa: ANN401 - the peer ships no types
    """One step on the peer."""
    kind, _, arguments = step
    if kind == ADD:
        book.limit(*arguments)
    else:
        book.cancel(arguments)
    return 0


# --- the clock -----------------------------------------------------------------------------------


class Subject:
    """One book under the clock."""

    def __init__(
        self,
        make: Callable[[], Any],
        do: Callable[[Any, Step], int],
        before: list[Step],
        timed: list[Step],
    ) -> None:
        self.make, self.do, self.before, self.timed = make, do, before, timed
        self.wall_us: list[float] = []
        self.cpu_us: list[float] = []
        self.book: Any = None  # of another class in each subject
        self.filled = 0

    def fill(self) -> None:
        """Start a round: a fresh book with the orders that rest before."""
        self.book = self.make()
        for step in self.before:
            self.do(self.book, step)
        self.filled = 0
        self.wall_us.append(0.0)
        self.cpu_us.append(0.0)

    def turn(self, start: int) -> None:
        """Do the next steps of the stream under the clock."""
        do, book, filled = self.do, self.book, 0
        steps = self.timed[start : start + TURN]
        cpu, wall = time.process_time(), time.perf_counter()
        for step in steps:
            filled += do(book, step)
        self.wall_us[-1] += (time.perf_counter() - wall) * 1e6 / len(self.timed)
        self.cpu_us[-1] += (time.process_time() - cpu) * 1e6 / len(self.timed)
        self.filled += filled


def measure(resting: int, short: float = SHORT_LIVED) -> dict[str, Subject]:
    """Run every book through the same stream, in turns, for some rounds."""
    before, timed = draw_stream(resting, short)
    ours = [book_step(op) for op in before], [book_step(op) for op in timed]
    flat = [flat_step(op) for op in before], [flat_step(op) for op in timed]
    subjects = {
        OURS: Subject(Book, do_book, *ours),
        FLOOR: Subject(FlatBook, do_flat, *flat),
    }
    if peer_version() is not None:
        subjects[PEER] = Subject(peer_book, do_peer, *peer_steps(before, timed))
    for _ in range(ROUNDS):
        for subject in subjects.values():
            subject.fill()
        gc.collect()
        gc.freeze()
        for start in range(0, OPERATIONS, TURN):
            for subject in subjects.values():
                if start < len(subject.timed):
                    subject.turn(start)
        gc.unfreeze()
        check_alike(subjects[OURS], subjects[FLOOR])
    return subjects


def check_alike(ours: Subject, floor: Subject) -> None:
    """Stop if the book and its reference did not do the same work."""
    left = {o.order_id: o.available_lots for side in Side for o in ours.book.orders(side)}
    expected = {order[ID]: order[LOTS] for order in floor.book.orders.values()}
    if ours.filled != floor.filled or left != expected:
        raise SystemExit("the book and its reference disagree: no result")


def memory_mb(make: Callable[[], Any], do: Callable[[Any, Step], int], before: list[Step]) -> float:
    """What the resting orders take beyond their own ids and numbers, in MB."""
    gc.collect()
    tracemalloc.start()
    book = make()
    for step in before:
        do(book, step)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return taken / 1e6


def row(name: str, ours: Subject, floor: Subject, floor_name: str, goal: str) -> dict[str, object]:
    """Cost per step beside the floor's; the ratio is the median over the rounds, by CPU time."""
    ratios = [theirs / mine for mine, theirs in zip(ours.cpu_us, floor.cpu_us, strict=True)]
    return {
        "name": name,
        "value": round(statistics.median(ours.wall_us), 3),
        "unit": "us/step",
        "best": round(min(ours.wall_us), 3),
        "cpu": round(statistics.median(ours.cpu_us), 3),
        "floor": floor_name,
        "floor_value": round(statistics.median(floor.wall_us), 3),
        "floor_best": round(min(floor.wall_us), 3),
        "ratio": round(statistics.median(ratios), 3),
        "goal": goal,
    }


def rows() -> list[dict[str, object]]:
    """Every figure of this section."""
    found: list[dict[str, object]] = []
    cost: dict[int, Subject] = {}
    streams = [*((resting, SHORT_LIVED) for resting in RESTING), (RESTING[-1], MORE_SHORT_LIVED)]
    for resting, short in streams:
        subjects = measure(resting, short)
        cost.setdefault(resting, subjects[OURS])
        name = f"{resting} resting, {short:.0%} short-lived"
        found.append(row(name, subjects[OURS], subjects[FLOOR], FLOOR, ">= 1.0"))
        if PEER in subjects:
            peer = f"{PEER} {peer_version()}"
            found.append(row(name, subjects[OURS], subjects[PEER], peer, ">= 0.6"))
    few, many = cost[RESTING[0]], cost[RESTING[-1]]
    found.append(row(f"{RESTING[-1]} resting", many, few, f"{RESTING[0]} resting", "flat: about 1"))
    before, _ = draw_stream(RESTING[-1])
    found.append(
        {
            "name": f"memory of {RESTING[-1]} orders",
            "value": round(memory_mb(Book, do_book, list(map(book_step, before))), 1),
            "unit": "MB",
            "floor": FLOOR,
            "floor_value": round(memory_mb(FlatBook, do_flat, list(map(flat_step, before))), 1),
        }
    )
    return found
