"""Which orders end next: a calendar of minutes for the far future, a sorted list for the near one.

Adding is one append, and an order is moved to the list only when its minute comes, so that the list
stays short however many orders rest, and is sorted once.  Orders that left the book meanwhile are
passed over when they are met; `sweep` forgets them, a part at a time.  Not for: removing orders
from a book, or reading a clock.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from heapq import heappop, heappush
from itertools import count

from zmqex.market.orders import BookOrder

# A slot of the calendar is 2^16 ms, about a minute: a week has some 9,000 of them.
SLOT_BITS = 16


class ExpiryQueue:
    """Orders by the time at which they end."""

    __slots__ = ("_begun", "_near", "_serial", "_slots", "_unswept", "far", "forgotten")

    def __init__(self) -> None:
        self.far: dict[int, list[BookOrder]] = {}  # slot -> its orders, in order of arrival
        self._slots: list[int] = []  # heap of the keys of `far`
        self._begun = 0  # slots below this one are in the list of near ends
        self._near: list[tuple[int, bytes, int, BookOrder]] = []  # sorted
        self._serial = count()  # where an id came back with the same end
        self._unswept: list[int] = []  # the slots that `sweep` will look at next
        self.forgotten = 0  # how many entries are here no more, of all that came

    def add(self, order: BookOrder) -> None:
        """Queue an order that has just come to rest."""
        slot = order.expires_at_ms >> SLOT_BITS
        if slot < self._begun:
            insort(self._near, self._entry(order))
        elif slot in self.far:
            self.far[slot].append(order)
        else:
            self.far[slot] = [order]
            heappush(self._slots, slot)

    def sweep(self, entries: int) -> None:
        """Forget orders that left the book, among the next so many entries or a few more.

        All entries have their turn, and none of the calls takes long.
        """
        while entries > 0:
            if self._unswept:
                orders = self.far.get(self._unswept.pop(), [])
                before = len(orders)
                orders[:] = [order for order in orders if order.rests]
                self.forgotten += before - len(orders)
            else:
                self._unswept = list(self.far)
                before = len(self._near)
                self._near = [entry for entry in self._near if entry[3].rests]
                self.forgotten += before - len(self._near)
            entries -= before + 1

    def first(self) -> BookOrder | None:
        """The order that ends first, by id among equals; None if nothing rests."""
        while True:
            for index, (_, _, _, order) in enumerate(self._near):
                if order.rests:
                    self._drop(index)
                    return order
            self._drop(len(self._near))
            if not self._slots:
                return None
            self._begin_slot()

    def take_due(self, now_ms: int) -> list[BookOrder]:
        """Take out and return what ends by now, earliest first, by id among equals."""
        due: list[BookOrder] = []
        while True:
            ended = bisect_left(self._near, (now_ms + 1,))
            due += [order for _, _, _, order in self._near[:ended] if order.rests]
            self._drop(ended)
            # What is left in the list ends later, and so does every slot behind it.
            if not self._slots or self._slots[0] > now_ms >> SLOT_BITS:
                return due
            self._begin_slot()

    def _entry(self, order: BookOrder) -> tuple[int, bytes, int, BookOrder]:
        return order.expires_at_ms, order.order_id, next(self._serial), order

    def _drop(self, entries: int) -> None:
        """Take out the first entries of the list."""
        del self._near[:entries]
        self.forgotten += entries

    def _begin_slot(self) -> None:
        """Sort the next slot of the calendar into the list, which is empty."""
        slot = heappop(self._slots)
        self._begun = slot + 1
        orders = self.far.pop(slot)
        self._near = sorted(self._entry(order) for order in orders if order.rests)
        self.forgotten += len(orders) - len(self._near)
