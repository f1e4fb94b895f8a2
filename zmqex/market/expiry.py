"""Which orders end next: a calendar of minutes for the far future, a heap for the near one.

Adding is one append, and an order is moved to the heap only when its minute comes, so that the heap
stays small however many orders rest.  Orders that left the book meanwhile are passed over when they
are met; `rebuild` forgets them all.  Not for: removing orders from a book, or reading a clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush

from zmqex.market.orders import BookOrder

# A slot of the calendar is 2^16 ms, about a minute: a week has some 9,000 of them.
SLOT_BITS = 16


class ExpiryQueue:
    """Orders by the time at which they end."""

    __slots__ = ("_begun", "_near", "_slots", "far")

    def __init__(self) -> None:
        self.far: dict[int, list[BookOrder]] = {}  # slot -> its orders, in order of arrival
        self._slots: list[int] = []  # heap of the keys of `far`
        self._begun = 0  # slots below this one are in the heap of near ends
        self._near: list[tuple[int, bytes, int, BookOrder]] = []

    def add(self, order: BookOrder) -> None:
        """Queue an order that has just come to rest."""
        slot = order.expires_at_ms >> SLOT_BITS
        if slot < self._begun:
            entry = (order.expires_at_ms, order.order_id, order.arrival, order)
            heappush(self._near, entry)
        elif slot in self.far:
            self.far[slot].append(order)
        else:
            self.far[slot] = [order]
            heappush(self._slots, slot)

    def __len__(self) -> int:
        """How many entries there are, those of orders that left included."""
        return len(self._near) + sum(map(len, self.far.values()))

    def rebuild(self, orders: Iterable[BookOrder]) -> None:
        """Forget everything but these orders."""
        self.far.clear()
        self._slots.clear()
        self._begun = 0
        self._near.clear()
        for order in orders:
            self.add(order)

    def first(self) -> BookOrder | None:
        """The order that ends first, by id among equals; None if nothing rests."""
        while True:
            near = self._near
            while near:
                _, _, arrival, order = near[0]
                if order.arrival == arrival:
                    return order
                heappop(near)
            if not self._slots:
                return None
            self._begin_slot()

    def _begin_slot(self) -> None:
        """Move the next slot of the calendar into the heap."""
        slot = heappop(self._slots)
        self._begun = slot + 1
        for order in self.far.pop(slot):
            if order.arrival >= 0:
                self.add(order)
