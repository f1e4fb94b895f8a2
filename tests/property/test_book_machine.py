"""The book and the naive book live through the same histories and must answer alike, always."""

from __future__ import annotations

import random

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.naive_book import NaiveAsk, NaiveBook, NaiveOrder, NaivePlan, allows
from zmqex.market.book import Book, Level
from zmqex.market.matching import Plan, apply, check_fill, match, plan
from zmqex.market.orders import BookOrder, IncomingOrder, Side, TimeInForce
from zmqex.reasons import RejectReason

# Small worlds, so that orders meet: few ids, makers, prices and lots, and a book that fills up.
ORDERS_MAX = 12
order_ids = st.integers(0, 15).map(lambda number: bytes([number]) * 32)
makers = st.integers(100, 102).map(lambda number: bytes([number]) * 32)
sides = st.sampled_from(["buy", "sell"])
prices = st.one_of(st.integers(4, 7), st.integers(4, 7), st.sampled_from([0, 1, 2**63]))
lots = st.one_of(st.integers(1, 12), st.integers(1, 12), st.sampled_from([0, -1, 2**63 - 1, 2**63]))
minimums = st.one_of(st.just(1), st.integers(1, 6))
flags = st.sampled_from([0, 0, 0, 1, 2, 3])
lives = st.one_of(st.integers(20, 200), st.integers(-1, 20))
instructions = st.sampled_from(["gtc", "gtc", "gtc", "gtd", "ioc", "fok"])


def resting(order: NaiveOrder) -> BookOrder:
    """The same order for the real book."""
    return BookOrder(
        order_id=order.order_id,
        maker=order.maker,
        side=Side(order.side),
        price_ticks=order.price,
        available_lots=order.lots,
        minimum_lots=order.minimum,
        flags=order.flags,
        expires_at_ms=order.expires_at_ms,
    )


def naive(order: BookOrder) -> NaiveOrder:
    """The same order for the naive book."""
    return NaiveOrder(
        order.order_id,
        order.maker,
        order.side.value,
        order.price_ticks,
        order.available_lots,
        order.minimum_lots,
        order.flags,
        order.expires_at_ms,
    )


def incoming(ask: NaiveAsk) -> IncomingOrder:
    """The same order for the real matching."""
    return IncomingOrder(
        owner=ask.owner,
        side=Side(ask.side),
        price_ticks=ask.price,
        quantity_lots=ask.lots,
        minimum_lots=ask.minimum,
        flags=ask.flags,
        post_only=ask.post_only,
        time_in_force=TimeInForce(ask.time_in_force),
        expires_at_ms=ask.expires_at_ms,
    )


def same(planned: Plan, expected: NaivePlan) -> bool:
    """Whether both plans say the same."""
    fills = [(f.order_id, f.maker, f.quantity_lots, f.price_ticks) for f in planned.fills]
    return (
        fills == expected.fills
        and planned.filled_lots == sum(fill[2] for fill in expected.fills)
        and planned.notional_lot_ticks == sum(fill[2] * fill[3] for fill in expected.fills)
        and planned.resting_lots == expected.resting
        and planned.cancelled_lots == expected.cancelled
        and planned.reason == expected.reason
        and planned.blocker == expected.blocker
    )


class BookMachine(RuleBasedStateMachine):
    """Every step is done to both books; every answer and the whole state are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.book = Book("BTC/USD", orders_max=ORDERS_MAX)
        self.naive = NaiveBook(ORDERS_MAX)
        self.now_ms = 1_000
        self.old: tuple[NaiveAsk, NaivePlan, Plan] | None = None

    @rule(
        order=st.builds(NaiveOrder, order_ids, makers, sides, prices, lots, minimums, flags, lives)
    )
    def place(self, order: NaiveOrder) -> None:
        """Rest an order without matching it, or learn why not."""
        order = NaiveOrder(**{**vars(order), "expires_at_ms": self.now_ms + order.expires_at_ms})
        foreseen = self.book.why_not(resting(order), self.now_ms)
        expected = self.naive.place(order, self.now_ms)
        assert self.book.place(resting(order), self.now_ms) == expected
        assert foreseen == expected

    @rule(order_id=order_ids)
    def cancel(self, order_id: bytes) -> None:
        """Remove any order, resting or not."""
        removed = self.book.cancel(order_id)
        assert (naive(removed) if removed else None) == self.naive.cancel(order_id)

    @rule(order_id=order_ids, quantity=st.one_of(st.integers(0, 12), lots))
    def update(self, order_id: bytes, quantity: int) -> None:
        """Hide an order, show it again, or change how much of it can be taken."""
        assert self.book.update(order_id, quantity) == self.naive.update(order_id, quantity)

    @rule(order_id=order_ids, quantity=lots)
    def fill(self, order_id: bytes, quantity: int) -> None:
        """Take a part of any order."""
        assert self.book.fill(order_id, quantity) == self.naive.fill(order_id, quantity)

    @rule(later_ms=st.integers(0, 30))
    def pass_time(self, later_ms: int) -> None:
        """Let time go by without sweeping: what is over must not match all the same."""
        self.now_ms += later_ms

    @rule()
    def expire(self) -> None:
        """Sweep what is over."""
        expired = [naive(order) for order in self.book.expire(self.now_ms)]
        assert expired == self.naive.expire(self.now_ms)

    @rule(
        ask=st.builds(
            NaiveAsk,
            makers,
            sides,
            prices,
            lots,
            minimums,
            st.one_of(flags, st.just(4)),
            st.sampled_from([False, False, False, True]),
            instructions,
            st.one_of(lives, st.just(7 * 86_400_000 + 1)),
        ),
        order_id=order_ids,
        passed_over=st.one_of(st.just(frozenset[bytes]()), st.frozensets(order_ids, max_size=3)),
        shunned=st.one_of(st.just(frozenset[bytes]()), st.frozensets(makers, max_size=1)),
        through_call=st.booleans(),
        keep=st.booleans(),
    )
    def order(
        self,
        ask: NaiveAsk,
        order_id: bytes,
        passed_over: frozenset[bytes],
        shunned: frozenset[bytes],
        *,
        through_call: bool,
        keep: bool,
    ) -> None:
        """Match an order, and write the plan now or keep it for later."""
        ask = NaiveAsk(**{**vars(ask), "expires_at_ms": self.now_ms + ask.expires_at_ms})
        expected = self.naive.plan(ask, self.now_ms, passed_over | shunned)
        if through_call:
            planned = plan(
                self.book,
                incoming(ask),
                self.now_ms,
                skip_orders=passed_over,
                usable=lambda order: order.maker not in shunned,
            )
        else:
            planned = plan(
                self.book,
                incoming(ask),
                self.now_ms,
                skip_makers=shunned,
                skip_orders=passed_over,
            )
        assert same(planned, expected)
        whole = planned.filled_lots + planned.resting_lots + planned.cancelled_lots
        assert whole == ask.lots, "a lot was lost or made"
        self.old = ask, expected, planned
        if not keep:
            self.write(order_id)

    @rule(
        ask=st.builds(
            NaiveAsk,
            makers,
            sides,
            prices,
            lots,
            minimums,
            flags,
            st.booleans(),
            instructions,
            lives,
        ),
        order_id=order_ids,
    )
    def match(self, ask: NaiveAsk, order_id: bytes) -> None:
        """Plan and write in one step."""
        ask = NaiveAsk(**{**vars(ask), "expires_at_ms": self.now_ms + ask.expires_at_ms})
        expected = self.naive.plan(ask, self.now_ms, frozenset())
        if expected.reason is None and self.refusal(ask, expected, order_id):
            resting = self.naive.find(order_id) is not None
            reason = "duplicate_order" if resting else "book_full"
            expected = NaivePlan([], 0, ask.lots, reason)
        planned = match(self.book, incoming(ask), self.now_ms, order_id=order_id)
        assert same(planned, expected)
        if expected.reason is None:
            self.write_naive(ask, expected, order_id)

    @precondition(lambda self: self.old is not None)
    @rule(order_id=order_ids)
    def write(self, order_id: bytes) -> None:
        """Write the last plan, whatever happened since: all of it or nothing."""
        assert self.old is not None
        ask, expected, planned = self.old
        before = self.naive_lots()
        refused = self.refusal(ask, expected, order_id)
        reason = apply(self.book, incoming(ask), planned, self.now_ms, order_id=order_id)
        assert (reason is not None) == refused
        if not refused:
            self.write_naive(ask, expected, order_id)
            taken = sum(fill[2] for fill in expected.fills)
            assert self.naive_lots() == before - taken + expected.resting

    def write_naive(self, ask: NaiveAsk, expected: NaivePlan, order_id: bytes) -> None:
        """Do to the naive book what the plan says."""
        for fill in expected.fills:
            assert self.naive.fill(fill[0], fill[2])
        if expected.resting:
            rest = self.remainder(ask, expected, order_id)
            assert self.naive.place(rest, self.now_ms) is None

    def refusal(self, ask: NaiveAsk, expected: NaivePlan, order_id: bytes) -> bool:
        """Whether the plan cannot be written as the book is now."""
        if expected.reason is not None or self.naive.find(order_id) is not None:
            return True
        if expected.resting:
            trial = NaiveBook(ORDERS_MAX)
            trial.rows = list(self.naive.rows)
            if trial.place(self.remainder(ask, expected, order_id), self.now_ms) is not None:
                return True
        for fill_id, _, quantity, price in expected.fills:
            row = self.naive.find(fill_id)
            if row is None or row.side == ask.side or row.price != price:
                return True
            if row.expires_at_ms <= self.now_ms or quantity > row.lots or not allows(row, quantity):
                return True
        return False

    def remainder(self, ask: NaiveAsk, expected: NaivePlan, order_id: bytes) -> NaiveOrder:
        """What of the order rests."""
        return NaiveOrder(
            order_id,
            ask.owner,
            ask.side,
            ask.price,
            expected.resting,
            ask.minimum,
            ask.flags,
            ask.expires_at_ms,
        )

    def naive_lots(self) -> int:
        """All lots in the book."""
        return sum(row.lots for row in self.naive.rows)

    @invariant()
    def both_books_are_alike(self) -> None:
        """Every question that can be asked of the whole has the same answer."""
        book, model = self.book, self.naive
        assert len(book) == len(model.rows)
        assert book.state_hash() == model.state_hash()
        for side in Side:
            assert [naive(order) for order in book.orders(side)] == model.queue(side.value)
            levels = [Level(*level) for level in model.levels(side.value)]
            assert book.levels(side) == levels
            assert book.levels(side, 2) == levels[:2]
            best = book.best_bid() if side is Side.BUY else book.best_ask()
            assert best == (levels[0].price_ticks if levels else None)
        assert book.next_expiry_ms() == model.next_expiry_ms()

    @invariant()
    def no_row_is_impossible(self) -> None:
        """The negative space: nothing beyond the limits, and every id leads to its order."""
        assert len(self.book) <= ORDERS_MAX
        for row in self.naive.rows:
            found = self.book.get(row.order_id)
            assert found is not None
            assert naive(found) == row
            assert 0 <= found.available_lots < 2**63
            if row.lots:
                assert check_fill(found, row.lots) is None
            assert check_fill(found, row.lots + 1) is RejectReason.INSUFFICIENT_QUANTITY


BookMachine.TestCase.settings = settings(stateful_step_count=40)
test_the_book_answers_like_the_naive_book = BookMachine.TestCase


def key(rng: random.Random, numbers: range) -> bytes:
    """An id or a maker from a small world."""
    return bytes([rng.choice(numbers)]) * 32


def step(machine: BookMachine, rng: random.Random) -> None:
    """Do one step that mostly makes sense, so that long histories have full books."""
    dice = rng.randrange(20)
    order_id, maker = key(rng, range(16)), key(rng, range(100, 105))
    side, price, quantity = rng.choice(("buy", "sell")), rng.randint(4, 7), rng.randint(1, 12)
    minimum, flag = rng.choice((1, 1, 2, 4)), rng.choice((0, 0, 0, 1, 2, 3))
    life_ms = rng.randint(1, 150)
    if dice < 8:
        machine.place(
            NaiveOrder(order_id, maker, side, price, quantity, minimum, flag, life_ms),
        )
    elif dice < 10:
        machine.cancel(order_id)
    elif dice < 12:
        machine.update(order_id, rng.randint(0, 12))
    elif dice < 13:
        machine.pass_time(rng.randint(0, 30))
    elif dice < 14:
        machine.expire()
    else:
        time_in_force = rng.choice(("gtc", "gtd", "ioc", "fok"))
        post_only = rng.random() < 0.1
        machine.order(
            NaiveAsk(
                maker, side, price, quantity, minimum, flag, post_only, time_in_force, life_ms
            ),
            order_id,
            frozenset({key(rng, range(16))}),
            frozenset({key(rng, range(100, 110))}),
            through_call=rng.random() < 0.5,
            keep=rng.random() < 0.2,
        )
        if rng.random() < 0.2:
            machine.write(order_id)


@pytest.mark.parametrize("seed", range(10))
def test_a_hundred_more_histories_of_each_seed_are_alike(seed: int) -> None:
    """A thousand drawn histories of forty steps end with equal books, step by step."""
    rng = random.Random(seed)
    for _ in range(100):
        machine = BookMachine()
        for _ in range(40):
            step(machine, rng)
            assert machine.book.state_hash() == machine.naive.state_hash()
        machine.both_books_are_alike()
        machine.no_row_is_impossible()
