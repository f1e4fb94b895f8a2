"""The book against a flat reference with the same features, and against a C++ peer.

The stream: 50 % new orders, 40 % cancels, 10 % crossing orders, prices clustered near the middle,
32-byte ids, every flag, minimum and time in force, and orders that expire on the way.  The
reference is one class without layers: bisect over prices, a deque per level with lazy deletion, a
heap of expiries, a match that plans and applies in one function.  It also draws the stream, and
book and reference must end with the same orders and the same fills, or there is no result.

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
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple

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
LIFE_MAX_MS = 7 * 24 * HOUR_MS
NOBODY: frozenset[bytes] = frozenset()
BUY, IOC, FOK = Side.BUY, TimeInForce.IOC, TimeInForce.FOK

ADD, CANCEL, CROSS, EXPIRE = range(4)
AON = int(OrderFlags.ALL_OR_NONE)
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


# --- the floor: the same features, written flat --------------------------------------------------

# A resting order is a list of these.
ID, MAKER, SIDE, PRICE, LOTS, MINIMUM, FLAGS, EXPIRES, LIVE = range(9)
# A level is a list of these: lots that can be taken, orders that rest, orders among them that are
# hidden, and the deque, with the dead still in it.
SUM, COUNT, HIDDEN, QUEUE = range(4)
LOTS_MAX = 2**63 - 1
ORDERS_MAX = 1_000_000
SLACK = 1_024


class FlatBook:
    """The same features in one class: lists for orders and levels, cancelled orders die in place.

    Like the program's book it checks ranges, duplicates and capacity, hides and shows orders,
    counts each level's lots and orders, and sweeps the dead before they outnumber the living.
    """

    def __init__(self) -> None:
        self.orders: dict[bytes, list[Any]] = {}
        self.bids: list[int] = []
        self.asks: list[int] = []
        self.bid_levels: dict[int, list[Any]] = {}
        self.ask_levels: dict[int, list[Any]] = {}
        self.expiries: list[tuple[int, bytes]] = []
        self.sweep_at = SLACK

    def add(  # noqa: PLR0913, PLR0917 - flat on purpose: it is the floor
        self,
        order_id: bytes,
        maker: bytes,
        side: Side,
        price: int,
        lots: int,
        minimum: int,
        flags: int,
        expires_at_ms: int,
        now_ms: int,
    ) -> bool:
        """Rest an order."""
        orders = self.orders
        if (
            expires_at_ms <= now_ms
            or order_id in orders
            or not 0 < price <= LOTS_MAX
            or not 0 <= lots <= LOTS_MAX
            or len(orders) >= ORDERS_MAX
        ):
            return False
        if side is BUY:
            key, keys, levels = price, self.bids, self.bid_levels
        else:
            key, keys, levels = -price, self.asks, self.ask_levels
        order = [order_id, maker, side, price, lots, minimum, flags, expires_at_ms, True]
        orders[order_id] = order
        level = levels.get(key)
        if level is None:
            levels[key] = [lots, 1, int(not lots), deque((order,))]
            if lots:
                insort(keys, key)
        else:
            if not lots:
                level[HIDDEN] += 1
            elif not level[SUM]:
                insort(keys, key)
            level[SUM] += lots
            level[COUNT] += 1
            level[QUEUE].append(order)
        expiries = self.expiries
        heappush(expiries, (expires_at_ms, order_id))
        if len(expiries) > self.sweep_at:
            self.expiries = [
                entry
                for entry in expiries
                if (found := orders.get(entry[1])) is not None and found[EXPIRES] == entry[0]
            ]
            heapify(self.expiries)
            self.sweep_at = 2 * len(self.expiries) + SLACK
        return True

    def cancel(self, order_id: bytes) -> list[Any] | None:
        """Take an order out."""
        order = self.orders.pop(order_id, None)
        if order is None:
            return None
        if order[SIDE] is BUY:
            key, keys, levels = order[PRICE], self.bids, self.bid_levels
        else:
            key, keys, levels = -order[PRICE], self.asks, self.ask_levels
        level = levels[key]
        order[LIVE] = False
        lots = order[LOTS]
        if lots:
            level[SUM] -= lots
            if not level[SUM]:
                del keys[bisect_left(keys, key)]
        else:
            level[HIDDEN] -= 1
        level[COUNT] = count = level[COUNT] - 1
        if not count:
            del levels[key]
        elif len(level[QUEUE]) > 2 * count + SLACK:
            level[QUEUE] = deque(order for order in level[QUEUE] if order[LIVE])
        return order

    def update(self, order_id: bytes, lots: int) -> bool:
        """Hide or show an order, or change what can be taken of it."""
        order = self.orders.get(order_id)
        if order is None or not 0 <= lots <= LOTS_MAX:
            return False
        if order[SIDE] is BUY:
            key, keys, level = order[PRICE], self.bids, self.bid_levels[order[PRICE]]
        else:
            key, keys, level = -order[PRICE], self.asks, self.ask_levels[-order[PRICE]]
        before = level[SUM]
        level[SUM] = after = before + lots - order[LOTS]
        level[HIDDEN] += (not lots) - (not order[LOTS])
        order[LOTS] = lots
        if after and not before:
            insort(keys, key)
        elif before and not after:
            del keys[bisect_left(keys, key)]
        return True

    def expire(self, now_ms: int) -> list[list[Any]]:
        """Drop what is over."""
        expiries = self.expiries
        expired = []
        while expiries and expiries[0][0] <= now_ms:
            expires_at_ms, order_id = heappop(expiries)
            order = self.orders.get(order_id)
            if order is not None and order[EXPIRES] == expires_at_ms:
                self.cancel(order_id)
                expired.append(order)
        return expired

    def cross(  # noqa: C901, PLR0912, PLR0913, PLR0917 - flat on purpose: it is the floor
        self,
        order_id: bytes,
        owner: bytes,
        side: Side,
        price: int,
        quantity: int,
        own_minimum: int,
        flags: int,
        post_only: bool,  # noqa: FBT001
        time_in_force: TimeInForce,
        expires_at_ms: int,
        now_ms: int,
        skip: frozenset[bytes] = NOBODY,
    ) -> tuple[list[tuple[bytes, bytes, int, int]], int]:
        """Match an order, take its fills, rest what is left; answer the fills and the rest."""
        rests = time_in_force is not IOC and time_in_force is not FOK
        if (
            not 0 < price <= LOTS_MAX
            or not 0 < quantity <= LOTS_MAX
            or not 0 < own_minimum <= quantity
            or (post_only and not rests)
            or flags & ~3
            or (rests and not now_ms < expires_at_ms <= now_ms + LIFE_MAX_MS)
        ):
            return [], 0
        if side is BUY:
            keys, levels, limit = self.asks, self.ask_levels, -price
        else:
            keys, levels, limit = self.bids, self.bid_levels, price
        left = quantity
        fills: list[tuple[list[Any], int]] = []
        for key in reversed(keys):
            if key < limit or not left:
                break
            queue = levels[key][QUEUE]
            while not queue[0][LIVE]:
                queue.popleft()
            for order in queue:
                lots = order[LOTS]
                if not lots or not order[LIVE] or order[EXPIRES] <= now_ms:
                    continue
                maker = order[MAKER]
                if skip and (maker in skip or order[ID] in skip):
                    continue
                if maker == owner:
                    return [], 0
                if left < lots:
                    if order[FLAGS] & AON:
                        continue
                    lots = min(left, lots - order[MINIMUM])
                    if lots < order[MINIMUM]:
                        continue
                if lots < own_minimum and lots < left:
                    continue
                fills.append((order, lots))
                left -= lots
                if not left:
                    break
        if post_only and fills:
            return [], 0
        if left and (flags & AON or time_in_force is FOK):
            if not rests:
                return [], 0
            fills, left = [], quantity
        if left and rests:
            rested = self.add(
                order_id, owner, side, price, left, own_minimum, flags, expires_at_ms, now_ms
            )
            if not rested:
                return [], 0
        answer = []
        for order, lots in fills:
            answer.append((order[ID], order[MAKER], lots, order[PRICE]))
            if lots == order[LOTS]:
                self.cancel(order[ID])
            else:
                order[LOTS] -= lots
                levels[-order[PRICE] if side is BUY else order[PRICE]][SUM] -= lots
        return answer, left


# --- the stream ----------------------------------------------------------------------------------


def draw_order(rng: random.Random, now_ms: int, makers: list[bytes]) -> Operation:
    """A resting order near the middle; one in fifty ends before the stream does."""
    side = rng.choice((Side.BUY, Side.SELL))
    away = 1 + int(rng.expovariate(1 / 25))
    lots = rng.randint(1, 100)
    life = rng.randint(1, 60_000) if rng.random() < 0.02 else rng.randint(1, 168) * HOUR_MS  # noqa: PLR2004
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
    rng: random.Random, now_ms: int, makers: list[bytes], book: FlatBook
) -> Operation:
    """An order a few ticks through the other side's best."""
    order = draw_order(rng, now_ms, makers)
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


def draw_stream(resting: int, seed: int = 1) -> tuple[list[Operation], list[Operation]]:
    """The orders that rest before, and the steps that are timed."""
    rng = random.Random(seed)  # noqa: S311 - a repeatable history, not a secret
    makers = [rng.randbytes(32) for _ in range(200)]
    book = FlatBook()
    before = [draw_order(rng, 0, makers) for _ in range(resting)]
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
            op = draw_order(rng, now_ms, makers)
        elif dice < 0.9 and book.orders:  # noqa: PLR2004
            op = Operation(CANCEL, now_ms, draw_resting(rng, ids, book))
        else:
            op = draw_crossing(rng, now_ms, makers, book)
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
        return CROSS, op.now_ms, (*terms, *how)
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
        for fill in book.cross(*arguments)[0]:
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


def measure(resting: int) -> dict[str, Subject]:
    """Run every book through the same stream, in turns, for some rounds."""
    before, timed = draw_stream(resting)
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
    for resting in RESTING:
        subjects = measure(resting)
        cost[resting] = subjects[OURS]
        name = f"{resting} resting"
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
