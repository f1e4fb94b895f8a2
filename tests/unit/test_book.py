"""What the property tests of the book cannot reach: large books, queues full of dead orders."""

from __future__ import annotations

import random

import msgspec

from zmqex.limits import INTEGER_MAX
from zmqex.market.book import _DEAD_MIN, _SWEEP_MIN, Book, Level
from zmqex.market.orders import BookOrder, Side
from zmqex.reasons import RejectReason

FOREVER_MS = 10**15


def order(
    number: int, *, price: int = 10, lots: int = 1, expires_at_ms: int = FOREVER_MS
) -> BookOrder:
    """A buy order of a maker of its own."""
    name = number.to_bytes(32, "big")
    return BookOrder(name, name, Side.BUY, price, lots, 1, 0, expires_at_ms)


def kept(book: Book) -> int:
    """How many ends the book remembers, of orders that rest and of others."""
    return len(book._expiries._near) + sum(map(len, book._expiries.far.values()))


def test_the_greatest_numbers_rest_and_one_more_does_not() -> None:
    """63 bits of price and of lots, both sides; `why_not` knows it beforehand."""
    book = Book()
    assert book.symbol == ""
    for number, side in enumerate(Side):
        top = msgspec.structs.replace(
            order(number, price=INTEGER_MAX, lots=INTEGER_MAX, expires_at_ms=1), side=side
        )
        assert book.why_not(top, 0) is None
        for name, reason in (
            ("price_ticks", RejectReason.INVALID_PRICE),
            ("available_lots", RejectReason.INVALID_QUANTITY),
        ):
            beyond = msgspec.structs.replace(top, **{name: INTEGER_MAX + 1})
            assert book.why_not(beyond, 0) is reason
            assert book.place(beyond, 0) is reason
        assert book.place(top, 0) is None
        assert book.levels(side) == [Level(INTEGER_MAX, INTEGER_MAX, INTEGER_MAX, 1)]


def test_a_full_book_refuses_until_an_order_leaves() -> None:
    """The bound holds exactly."""
    book = Book("BTC/USD", orders_max=2)
    assert book.symbol == "BTC/USD"
    assert [book.place(order(number), 0) for number in (1, 2)] == [None, None]
    assert book.place(order(3), 0) is RejectReason.BOOK_FULL
    book.cancel(order(1).order_id)
    assert book.place(order(3), 0) is None


def test_what_has_ended_or_rests_already_is_refused_and_changes_nothing() -> None:
    """An order ends at its very millisecond; the one that rests stays as it is."""
    book = Book()
    ended = order(1, expires_at_ms=5)
    assert book.why_not(ended, 5) is book.place(ended, 5) is RejectReason.EXPIRED
    assert book.why_not(ended, 4) is book.place(ended, 4) is None
    again = order(1, lots=2)
    assert book.why_not(again, 4) is book.place(again, 4) is RejectReason.DUPLICATE_ORDER
    assert book.levels(Side.BUY) == [Level(10, 1, 1, 1)]
    assert not again.rests


def test_of_many_orders_those_that_can_rest_do_and_the_others_are_told() -> None:
    """One call does what many would: in order, each by itself."""
    book, one_by_one = Book(orders_max=3), Book(orders_max=3)
    wrong = order(5, price=0)
    given = [order(1), order(2), order(1), wrong, order(3), order(4)]
    again = [msgspec.structs.replace(each) for each in given]
    refused = book.place_all(given, 0)
    assert [(one.order_id[-1], reason) for one, reason in refused] == [
        (1, RejectReason.DUPLICATE_ORDER),
        (5, RejectReason.INVALID_PRICE),
        (4, RejectReason.BOOK_FULL),
    ]
    assert refused[1][0] is wrong
    assert [one_by_one.place(each, 0) for each in again if each.order_id[-1] < 4].count(None) == 3
    assert book.state_hash() == one_by_one.state_hash()
    assert book.place_all([], 0) == []


def test_a_queue_full_of_dead_orders_is_rebuilt_in_order() -> None:
    """Thousands of orders leave a level from the front, and those behind keep their places."""
    book = Book()
    for number in range(5_000):
        book.place(order(number), 0)
    for number in range(4_000):
        book.cancel(order(number).order_id)
    queue = book._queues[10]
    assert len(queue.orders) < 3_000, "the level walks over the dead of long ago"
    left = [int.from_bytes(resting.order_id, "big") for resting in book.orders(Side.BUY)]
    assert left == list(range(4_000, 5_000))
    assert book.levels(Side.BUY) == [Level(10, 1_000, 1_000, 1_000)]


def dead_until_swept(orders: int) -> int:
    """How many of a level's orders leave, first to last, before it forgets those that left."""
    book = Book()
    for number in range(orders):
        book.place(order(number), 0)
    for number in range(orders):
        book.cancel(order(number).order_id)
        if len(book._queues[10].orders) < orders:
            assert len(book._queues[10].orders) == orders - number - 1
            return number
    raise AssertionError


def test_the_dead_are_swept_when_they_outnumber_the_living_and_are_worth_it() -> None:
    """No sooner: each removal costs the same, and the sweep is paid for by those it sweeps."""
    assert dead_until_swept(2 * _DEAD_MIN - 10) == _DEAD_MIN
    assert dead_until_swept(2 * _DEAD_MIN + 10) == _DEAD_MIN + 5


def test_an_order_keeps_hardly_more_of_the_dead_than_itself() -> None:
    """Whoever keeps many levels alive by an order each cannot fill them with dead ones."""
    book = Book()
    for price in range(1, 101):
        book.place(order(price, price=price), 0)
    for number in range(1_000, 51_000):
        book.place(order(number, price=1 + number % 100), 0)
        book.cancel(order(number).order_id)
    assert sum(len(queue.orders) for queue in book._queues.values()) <= 100 * 40


def test_orders_that_come_and_go_leave_nothing_behind() -> None:
    """Placing and cancelling for ever needs no more memory than what rests."""
    book = Book()
    for number in range(20_000):
        book.place(order(number, price=number + 1), 0)
        book.cancel(order(number).order_id)
    assert len(book) == 0
    assert kept(book) < 2_000
    assert not book._queues
    assert not book._bids
    assert book.next_expiry_ms() is None


def test_an_order_that_was_placed_again_expires_once_and_at_its_new_time() -> None:
    """The entry of its earlier life in the expiry queue means nothing."""
    book = Book()
    book.place(order(1, expires_at_ms=50), 0)
    book.cancel(order(1).order_id)
    book.place(order(1, expires_at_ms=90), 0)
    assert book.next_expiry_ms() == 90
    assert book.expire(60) == []
    assert [gone.expires_at_ms for gone in book.expire(90)] == [90]
    book.place(order(2, expires_at_ms=99), 0)
    book.cancel(order(2).order_id)
    book.place(order(2, expires_at_ms=99), 0)
    assert len(book.expire(99)) == 1
    assert book.expire(99) == []


def test_the_ends_of_orders_that_left_are_forgotten_little_by_little() -> None:
    """However many come and go, what is kept of them stays in proportion to what rests."""
    rng = random.Random(1)
    book = Book()
    resting = [order(number, expires_at_ms=rng.randint(1, 10**7)) for number in range(50)]
    for each in resting:
        book.place(each, 0)
    for number in range(100, 20_100):
        book.place(order(number, expires_at_ms=rng.randint(1, 10**7)), 0)
        book.cancel(order(number).order_id)
        assert len(book) + book._gone - book._expiries.forgotten <= 2 * (len(resting) + 1_024)
    assert kept(book) == len(book) + book._gone - book._expiries.forgotten
    ends = sorted(each.expires_at_ms for each in resting)
    assert book.next_expiry_ms() == ends[0]
    assert [gone.expires_at_ms for gone in book.expire(10**7)] == ends


def test_ends_are_not_swept_before_they_are_the_greater_part() -> None:
    """As many as rest may be kept of those that left; what is more is swept soon."""
    book = Book()
    for number in range(3_000):
        book.place(order(number), 0)
    for number in range(3_000, 13_000):
        book.place(order(number), 0)
        book.cancel(order(number).order_id)
        if number < 6_000:
            assert kept(book) == number + 1
        assert kept(book) <= 2 * 3_000 + 2 * _SWEEP_MIN


def test_equal_ends_come_in_the_order_of_ids() -> None:
    """What expires together is told in an order that no history can change."""
    book = Book()
    for number in (3, 1, 2):
        book.place(order(number, expires_at_ms=7, price=number), 0)
    assert [gone.price_ticks for gone in book.expire(7)] == [1, 2, 3]


def test_a_hidden_order_keeps_its_place_and_its_level_is_not_shown() -> None:
    """Time priority survives a hold; a level of hidden orders is no best price."""
    book = Book()
    book.place(order(1, price=11), 0)
    book.place(order(2, price=10), 0)
    book.place(order(3, price=10), 0)
    assert book.update(order(1).order_id, 0)
    assert book.update(order(2).order_id, 0)
    assert book.best_bid() == 10
    assert book.best_ask() is None
    assert book.levels(Side.BUY) == [Level(10, 1, 1, 1)]
    assert book.update(order(1).order_id, 5)
    assert book.update(order(2).order_id, 5)
    assert book.levels(Side.BUY) == [Level(11, 5, 5, 1), Level(10, 6, 11, 2)]
    assert [resting.available_lots for resting in book.orders(Side.BUY)] == [5, 5, 1]


def test_an_order_that_comes_hidden_is_shown_once_something_can_be_taken_of_it() -> None:
    """What a maker holds for others when its order is first heard of is no reason to refuse it."""
    book = Book()
    assert book.place(order(1, lots=0), 0) is None
    assert (len(book), book.levels(Side.BUY)) == (1, [])
    assert book.update(order(1).order_id, 3)
    assert book.levels(Side.BUY) == [Level(10, 3, 3, 1)]


def test_hiding_what_is_hidden_changes_nothing_and_the_lowest_price_is_a_bid_too() -> None:
    """Nothing to take is hidden and shown any number of times, beside a level that stays."""
    book = Book()
    book.place(order(1, price=1, lots=3), 0)
    book.place(order(2, price=2), 0)
    for _ in range(2):
        assert book.update(order(1).order_id, 0)
        assert book.levels(Side.BUY) == [Level(2, 1, 1, 1)]
    assert not book.fill(order(1).order_id, 0)
    assert book.get(order(1).order_id) is not None
    for lots in (5, 6):
        assert book.update(order(1).order_id, lots)
        assert book.levels(Side.BUY) == [Level(2, 1, 1, 1), Level(1, lots, 1 + lots, 1)]
    assert (book.best_bid(), book.best_ask()) == (2, None)


def test_a_fill_says_whether_it_was_done() -> None:
    """A part, and then all that is left, with which the order leaves."""
    book = Book()
    book.place(order(1, price=1, lots=3), 0)
    assert book.fill(order(1).order_id, 2)
    assert book.levels(Side.BUY) == [Level(1, 1, 1, 1)]
    assert book.fill(order(1).order_id, 1)
    assert book.get(order(1).order_id) is None
    assert book.best_bid() is None


def test_levels_can_be_cut_to_a_depth() -> None:
    """Depth 0 is nothing, more than there is is everything."""
    book = Book()
    for price in (1, 2, 3):
        book.place(order(price, price=price), 0)
    assert book.levels(Side.BUY, 0) == []
    assert [level.price_ticks for level in book.levels(Side.BUY, 2)] == [3, 2]
    assert len(book.levels(Side.BUY, 9)) == 3


def test_the_hash_depends_on_the_queue_and_not_on_the_history() -> None:
    """Same queue, same hash; another order within a level, another hash."""
    straight, detour, swapped = Book(), Book(), Book()
    straight.place(order(1), 0)
    straight.place(order(2), 0)
    detour.place(order(9), 0)
    detour.place(order(1), 0)
    detour.cancel(order(9).order_id)
    detour.place(order(2), 0)
    swapped.place(order(2), 0)
    swapped.place(order(1), 0)
    assert straight.state_hash() == detour.state_hash()
    assert straight.state_hash() != swapped.state_hash()
    assert len(straight.state_hash()) == 32


def test_an_order_that_was_cancelled_can_be_placed_again_at_the_end_of_the_queue() -> None:
    """The same object twice in one queue is one order, in its later place."""
    book = Book()
    first = order(1)
    book.place(first, 0)
    book.place(order(2), 0)
    assert book.cancel(first.order_id) is first
    assert book.place(first, 0) is None
    assert [resting.order_id[-1] for resting in book.orders(Side.BUY)] == [2, 1]
    met = [resting.order_id[-1] for resting in book.crossing(Side.SELL, 1) if resting.rests]
    assert met == [2, 1]
    assert book.levels(Side.BUY) == [Level(10, 2, 2, 2)]


def test_nobody_fills_more_than_an_order_has_or_less_than_a_lot() -> None:
    """Then nothing changes."""
    book = Book()
    book.place(order(1, lots=5), 0)
    assert [book.fill(order(1).order_id, lots) for lots in (6, 0, -1)] == [False, False, False]
    assert not book.fill(order(2).order_id, 1)
    assert book.levels(Side.BUY) == [Level(10, 5, 5, 1)]
