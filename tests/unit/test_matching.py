"""The rules of matching, one small story each; random histories are in the property tests."""

from __future__ import annotations

import msgspec
import pytest

from zmqex.errors import LocalProtocolError
from zmqex.market.book import Book
from zmqex.market.matching import Plan, apply, check_fill, match, plan
from zmqex.market.orders import BookOrder, IncomingOrder, OrderFlags, Side, TimeInForce
from zmqex.reasons import RejectReason

NOW_MS = 1_000
LATER_MS = NOW_MS + 60_000
ALICE, BOB, CAROL, ME = (bytes([number]) * 32 for number in range(1, 5))
MINE = b"m" * 32
AON = int(OrderFlags.ALL_OR_NONE)


def ask(
    name: str, maker: bytes, price: int, lots: int, *, minimum: int = 1, flags: int = 0
) -> BookOrder:
    """A resting sell order."""
    return BookOrder(ident(name), maker, Side.SELL, price, lots, minimum, flags, LATER_MS)


def ident(name: str) -> bytes:
    """The id of an order by its short name."""
    return name.encode().ljust(32, b".")


def book_of(*orders: BookOrder) -> Book:
    """A book with these orders, in this order."""
    book = Book("BTC/USD")
    for order in orders:
        assert book.place(order, NOW_MS) is None
    return book


def buy(price: int, lots: int, **terms: object) -> IncomingOrder:
    """My order to buy."""
    order = IncomingOrder(
        owner=ME, side=Side.BUY, price_ticks=price, quantity_lots=lots, expires_at_ms=LATER_MS
    )
    return msgspec.structs.replace(order, **terms)


def fills(planned: Plan) -> list[tuple[bytes, int, int]]:
    """Order, lots and price of each fill."""
    return [(fill.order_id, fill.quantity_lots, fill.price_ticks) for fill in planned.fills]


def test_the_best_price_fills_first_and_earlier_orders_before_later_ones() -> None:
    """Price, then arrival; each fill at the resting order's price; the rest rests."""
    book = book_of(ask("b", BOB, 11, 5), ask("a", ALICE, 10, 5), ask("c", CAROL, 10, 5))
    planned = plan(book, buy(11, 20), NOW_MS)
    assert fills(planned) == [(ident("a"), 5, 10), (ident("c"), 5, 10), (ident("b"), 5, 11)]
    assert (planned.filled_lots, planned.resting_lots, planned.cancelled_lots) == (15, 5, 0)
    assert planned.notional_lot_ticks == 5 * 10 + 5 * 10 + 5 * 11


def test_planning_changes_nothing_and_applying_changes_everything_at_once() -> None:
    """A partial fill stays in its place; a whole one leaves; the rest goes to the other side."""
    book = book_of(ask("a", ALICE, 10, 5), ask("b", BOB, 10, 5))
    before = book.state_hash()
    order = buy(10, 7)
    planned = plan(book, order, NOW_MS)
    assert book.state_hash() == before
    assert apply(book, order, planned, NOW_MS, order_id=MINE) is None
    assert [resting.available_lots for resting in book.orders(Side.SELL)] == [3]
    assert book.best_bid() is None
    order = buy(10, 9)
    assert apply(book, order, plan(book, order, NOW_MS), NOW_MS, order_id=MINE) is None
    assert book.best_ask() is None
    assert [resting.available_lots for resting in book.orders(Side.BUY)] == [6]


def test_an_order_that_reaches_its_owners_other_order_is_refused_by_name() -> None:
    """No self-trade and no resting crossed with oneself; what fills before that point is fine."""
    book = book_of(ask("a", ALICE, 10, 5), ask("mine", ME, 11, 5))
    refused = plan(book, buy(11, 6), NOW_MS)
    assert refused == Plan((), 0, 0, 6, RejectReason.SELF_TRADE, ident("mine"))
    assert fills(plan(book, buy(11, 5), NOW_MS)) == [(ident("a"), 5, 10)]
    assert plan(book, buy(10, 6), NOW_MS).resting_lots == 1


def test_hidden_expired_skipped_and_unusable_orders_are_passed_over() -> None:
    """As if they were not there, own ones included."""
    book = book_of(ask("a", ALICE, 10, 5), ask("b", BOB, 10, 5), ask("mine", ME, 10, 5))
    book.update(ident("mine"), 0)
    everyone = [(ident("a"), 5, 10), (ident("b"), 5, 10)]
    only_b = everyone[1:]
    assert fills(plan(book, buy(10, 10), NOW_MS)) == everyone
    assert fills(plan(book, buy(10, 10), NOW_MS, skip_makers=frozenset({ALICE}))) == only_b
    assert fills(plan(book, buy(10, 10), NOW_MS, skip_orders=frozenset({ident("a")}))) == only_b
    assert fills(plan(book, buy(10, 10), NOW_MS, usable=lambda row: row.maker == BOB)) == only_b
    late = buy(10, 10, expires_at_ms=LATER_MS + 1)
    assert fills(plan(book, late, LATER_MS - 1)) == everyone
    assert fills(plan(book, late, LATER_MS)) == []


@pytest.mark.parametrize(
    ("wanted", "taken"), [(10, 10), (12, 10), (9, 7), (7, 7), (3, 3), (2, 0), (1, 0)]
)
def test_a_fill_respects_the_resting_minimum_and_leaves_no_dust(wanted: int, taken: int) -> None:
    """Of 10 with a minimum of 3: whole, or 3 to 7, since at least 3 must stay takable."""
    book = book_of(ask("a", ALICE, 10, 10, minimum=3))
    assert plan(book, buy(10, wanted), NOW_MS).filled_lots == taken


def test_an_all_or_none_order_is_taken_whole_or_passed_over() -> None:
    """The next in the queue fills instead, and the passed over one keeps its place."""
    book = book_of(ask("a", ALICE, 10, 8, flags=AON), ask("b", BOB, 10, 5))
    assert fills(plan(book, buy(10, 6), NOW_MS)) == [(ident("b"), 5, 10)]
    assert fills(plan(book, buy(10, 8), NOW_MS)) == [(ident("a"), 8, 10)]


def test_the_incoming_minimum_passes_over_small_orders() -> None:
    """No fill below it, unless it is all that is left of the order."""
    book = book_of(ask("a", ALICE, 10, 2), ask("b", BOB, 10, 4), ask("c", CAROL, 11, 9))
    planned = plan(book, buy(11, 6, minimum_lots=3), NOW_MS)
    assert fills(planned) == [(ident("b"), 4, 10), (ident("c"), 2, 11)]


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({}, (5, 3, 0, None)),
        ({"time_in_force": TimeInForce.GTD}, (5, 3, 0, None)),
        ({"time_in_force": TimeInForce.IOC}, (5, 0, 3, None)),
        ({"time_in_force": TimeInForce.FOK}, (0, 0, 8, RejectReason.NOT_FILLABLE)),
        ({"flags": AON}, (0, 8, 0, None)),
        (
            {"flags": AON, "time_in_force": TimeInForce.IOC},
            (0, 0, 8, RejectReason.NOT_FILLABLE),
        ),
        ({"post_only": True}, (0, 0, 8, RejectReason.WOULD_CROSS)),
        ({"flags": 4}, (0, 0, 8, RejectReason.CONTRADICTORY_FLAGS)),
    ],
)
def test_each_instruction_does_what_it_says_with_a_partial_fill(
    terms: dict[str, object], expected: tuple[int, int, int, RejectReason | None]
) -> None:
    """Eight wanted, five there."""
    planned = plan(book_of(ask("a", ALICE, 10, 5)), buy(10, 8, **terms), NOW_MS)
    found = (planned.filled_lots, planned.resting_lots, planned.cancelled_lots, planned.reason)
    assert found == expected
    assert planned.blocker == (ident("a") if terms == {"post_only": True} else None)


def test_post_only_rests_where_nothing_would_fill() -> None:
    """One tick away from the other side it is a maker."""
    planned = plan(book_of(ask("a", ALICE, 10, 5)), buy(9, 8, post_only=True), NOW_MS)
    assert planned == Plan((), 0, 8, 0)


@pytest.mark.parametrize(
    ("lots", "reason"),
    [
        (0, RejectReason.INVALID_QUANTITY),
        (-1, RejectReason.INVALID_QUANTITY),
        (11, RejectReason.INSUFFICIENT_QUANTITY),
        (2, RejectReason.BELOW_MINIMUM),
        (8, RejectReason.LEAVES_DUST),
        (3, None),
        (7, None),
        (10, None),
    ],
)
def test_a_single_fill_is_checked_against_the_terms(lots: int, reason: RejectReason | None) -> None:
    """Ten lots, minimum three."""
    assert check_fill(ask("a", ALICE, 10, 10, minimum=3), lots) is reason


def test_a_part_of_an_all_or_none_order_is_refused_and_so_is_nothing_of_nothing() -> None:
    """The two corners of a single fill."""
    assert check_fill(ask("a", ALICE, 10, 10, flags=AON), 5) is RejectReason.ALL_OR_NONE
    assert check_fill(ask("a", ALICE, 10, 10, flags=AON), 10) is None
    assert check_fill(ask("a", ALICE, 10, 0), 0) is RejectReason.INVALID_QUANTITY


def stale(change: str) -> tuple[Book, IncomingOrder, Plan]:
    """A plan for 5 of order a, and a book that has changed since."""
    book = book_of(ask("a", ALICE, 10, 8, minimum=2))
    order = buy(10, 5)
    planned = plan(book, order, NOW_MS)
    book.cancel(ident("a"))
    if change == "other side":
        bid = msgspec.structs.replace(ask("a", ALICE, 10, 8), side=Side.BUY)
        book.place(bid, NOW_MS)
    elif change == "other price":
        book.place(ask("a", ALICE, 11, 8), NOW_MS)
    elif change == "less there":
        book.place(ask("a", ALICE, 10, 4), NOW_MS)
    elif change == "leaves dust":
        book.place(ask("a", ALICE, 10, 6, minimum=2), NOW_MS)
    return book, order, planned


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("gone", RejectReason.UNKNOWN_ORDER),
        ("other side", RejectReason.UNKNOWN_ORDER),
        ("other price", RejectReason.PRICE_CHANGED),
        ("less there", RejectReason.INSUFFICIENT_QUANTITY),
        ("leaves dust", RejectReason.LEAVES_DUST),
    ],
)
def test_a_plan_that_no_longer_fits_is_refused_and_changes_nothing(
    change: str, reason: RejectReason
) -> None:
    """Whatever happened to the order in between."""
    book, order, planned = stale(change)
    before = book.state_hash()
    assert apply(book, order, planned, NOW_MS, order_id=MINE) is reason
    assert book.state_hash() == before


def test_an_order_that_expired_in_between_is_not_filled() -> None:
    """The clock alone can make a plan stale."""
    book = book_of(ask("a", ALICE, 10, 8))
    order = buy(10, 5, time_in_force=TimeInForce.IOC)
    planned = plan(book, order, NOW_MS)
    assert apply(book, order, planned, LATER_MS, order_id=MINE) is RejectReason.EXPIRED
    assert len(book) == 1


def test_a_replayed_order_trades_once() -> None:
    """The id that rests already is refused before anything is taken."""
    book = book_of(ask("a", ALICE, 10, 8))
    order = buy(10, 5)
    planned = plan(book, order, NOW_MS)
    rest = BookOrder(MINE, ME, Side.BUY, 9, 1, 1, 0, LATER_MS)
    book.place(rest, NOW_MS)
    before = book.state_hash()
    assert apply(book, order, planned, NOW_MS, order_id=MINE) is RejectReason.DUPLICATE_ORDER
    more = buy(10, 9)
    wider = plan(book, more, NOW_MS)
    assert apply(book, more, wider, NOW_MS, order_id=MINE) is RejectReason.DUPLICATE_ORDER
    assert book.state_hash() == before


def test_a_refused_plan_cannot_be_applied() -> None:
    """Its reason is the answer."""
    book = book_of(ask("mine", ME, 10, 8))
    order = buy(10, 5)
    planned = plan(book, order, NOW_MS)
    assert apply(book, order, planned, NOW_MS, order_id=MINE) is RejectReason.SELF_TRADE


@pytest.mark.parametrize("twist", ["other quantity", "same order twice"])
def test_a_plan_of_another_order_is_a_fault_of_the_caller(twist: str) -> None:
    """Lots are neither lost nor made by a plan that does not add up."""
    book = book_of(ask("a", ALICE, 10, 8))
    planned = plan(book, buy(10, 4), NOW_MS)
    if twist == "same order twice":
        planned = msgspec.structs.replace(planned, fills=planned.fills * 2)
        order = buy(10, 8)
    else:
        order = buy(10, 5)
    before = book.state_hash()
    with pytest.raises(LocalProtocolError, match="another order"):
        apply(book, order, planned, NOW_MS, order_id=MINE)
    assert book.state_hash() == before


def test_matching_in_one_step_plans_and_writes() -> None:
    """The same as plan and apply; what is refused changes nothing."""
    book = book_of(ask("a", ALICE, 10, 8))
    planned = match(book, buy(10, 10), NOW_MS, order_id=MINE)
    assert (planned.filled_lots, planned.resting_lots, planned.reason) == (8, 2, None)
    assert (book.best_ask(), book.best_bid()) == (None, 10)
    again = match(book, buy(9, 4), NOW_MS, order_id=MINE)
    assert again == Plan((), 0, 0, 4, RejectReason.DUPLICATE_ORDER)
    sell = msgspec.structs.replace(buy(10, 1), side=Side.SELL)
    assert match(book, sell, NOW_MS, order_id=ident("s")).reason is RejectReason.SELF_TRADE
    assert [order.available_lots for order in book.orders(Side.BUY)] == [2]


def test_a_replay_of_an_order_that_would_fill_completely_is_refused() -> None:
    """Nothing of it would rest, and still its id is looked up first."""
    book = book_of(ask("a", ALICE, 10, 8), ask("b", BOB, 12, 8))
    assert match(book, buy(10, 10), NOW_MS, order_id=MINE).resting_lots == 2
    taker = msgspec.structs.replace(buy(12, 3), owner=CAROL)
    replay = match(book, taker, NOW_MS, order_id=MINE)
    assert replay == Plan((), 0, 0, 3, RejectReason.DUPLICATE_ORDER)
    assert len(book) == 2
