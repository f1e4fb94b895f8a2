"""The expiry queue on its own: near and far ends, orders that left, and what it keeps of them."""

from __future__ import annotations

import random

from zmqex.market.expiry import SLOT_BITS, ExpiryQueue
from zmqex.market.orders import BookOrder, Side

SLOT_MS = 1 << SLOT_BITS


def order(number: int, expires_at_ms: int) -> BookOrder:
    """A resting order with an id of that number."""
    name = number.to_bytes(32, "big")
    return BookOrder(name, name, Side.BUY, 1, 1, 1, 0, expires_at_ms, rests=True)


def drain(queue: ExpiryQueue) -> list[int]:
    """Let every order end, first to last."""
    ends: list[int] = []
    while (first := queue.first()) is not None:
        ends.append(first.expires_at_ms)
        first.rests = False
    return ends


def test_orders_end_in_order_however_far_apart_they_are() -> None:
    """Slots of the calendar and the list of near ends make one order."""
    rng = random.Random(1)
    ends = [rng.randrange(20 * SLOT_MS) for _ in range(500)]
    queue = ExpiryQueue()
    for number, end in enumerate(ends):
        queue.add(order(number, end))
    assert drain(queue) == sorted(ends)
    assert queue.forgotten == len(ends)


def test_an_earlier_end_that_comes_later_is_first() -> None:
    """Asking for the first end does not hide what ends before it."""
    queue = ExpiryQueue()
    queue.add(order(1, 9 * SLOT_MS))
    first = queue.first()
    assert first is not None
    assert first.expires_at_ms == 9 * SLOT_MS
    queue.add(order(2, 5))
    queue.add(order(3, 9 * SLOT_MS + 1))
    queue.add(order(4, 12 * SLOT_MS))
    assert drain(queue) == [5, 9 * SLOT_MS, 9 * SLOT_MS + 1, 12 * SLOT_MS]


def test_a_slot_that_has_not_begun_keeps_its_orders_together() -> None:
    """A later end is not taken before an earlier one of the next slot."""
    queue = ExpiryQueue()
    queue.add(order(1, 9 * SLOT_MS))
    queue.add(order(2, 10 * SLOT_MS + 5))
    queue.first()
    queue.add(order(3, 10 * SLOT_MS + 7))
    assert drain(queue) == [9 * SLOT_MS, 10 * SLOT_MS + 5, 10 * SLOT_MS + 7]


def test_orders_that_left_are_passed_over_near_and_far() -> None:
    """Whether they left before their slot began or after."""
    queue = ExpiryQueue()
    orders = [order(number, number * SLOT_MS // 4) for number in range(12)]
    for each in orders:
        queue.add(each)
    queue.first()
    for number in (0, 1, 2, 5, 8, 11):
        orders[number].rests = False
    assert queue.first() is orders[3]
    assert queue.forgotten == 3
    assert drain(queue) == [orders[number].expires_at_ms for number in (3, 4, 6, 7, 9, 10)]
    assert queue.forgotten == len(orders)


def test_sweeping_forgets_those_that_left_near_and_far_a_part_at_a_time() -> None:
    """Counted, so that the book knows how many are kept; those that rest keep their order."""
    queue = ExpiryQueue()
    orders = [order(number, number * SLOT_MS // 8) for number in range(64)]
    for each in orders:
        queue.add(each)
    queue.first()
    queue.add(order(99, 3))
    for each in orders[::2]:
        each.rests = False
    forgotten = []
    for _ in range(20):
        queue.sweep(4)
        forgotten.append(queue.forgotten)
    assert forgotten == sorted(forgotten)
    assert 0 < forgotten[1] < forgotten[-1] == 32
    assert drain(queue) == [3, *(number * SLOT_MS // 8 for number in range(1, 64, 2))]
    assert queue.forgotten == 65


def test_a_sweep_looks_at_no_more_than_it_was_asked_to_and_the_slot_it_is_in() -> None:
    """The near ends first, then one slot of the calendar after the other."""
    queue = ExpiryQueue()
    orders = [order(1, 5), *(order(number, 9 * SLOT_MS) for number in (2, 3, 4))]
    queue.add(orders[0])
    queue.first()
    for each in orders[1:]:
        queue.add(each)
    for each in orders:
        each.rests = False
    forgotten = [queue.forgotten]
    for entries in (0, 1, 1):
        queue.sweep(entries)
        forgotten.append(queue.forgotten)
    assert forgotten == [0, 0, 1, 4]
    empty = ExpiryQueue()
    empty.add(orders[1])
    empty.sweep(1)
    assert empty.forgotten == 0, "looking at nothing counts for one as well"
    fresh = ExpiryQueue()
    fresh.add(orders[3])
    fresh.sweep(2)
    assert fresh.forgotten == 1


def test_what_is_due_is_taken_out_across_slots() -> None:
    """Earliest first, without those that left; later ones stay."""
    queue = ExpiryQueue()
    orders = [order(number, (40 - number) * SLOT_MS // 8) for number in range(40)]
    for each in orders:
        queue.add(each)
    orders[39].rests = orders[20].rests = False
    due = queue.take_due(4 * SLOT_MS)
    assert [one.expires_at_ms for one in due] == [
        number * SLOT_MS // 8 for number in range(2, 33) if number != 20
    ]
    assert queue.take_due(4 * SLOT_MS) == []
    assert drain(queue) == [number * SLOT_MS // 8 for number in range(33, 41)]
    assert queue.take_due(99 * SLOT_MS) == []
