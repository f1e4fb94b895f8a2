"""One market's book: an id index, price levels, an expiry queue.

Price-time priority, where time is this book's own arrival number: a level is a dict, which keeps
its orders in the order they came.  The best level is the last of a sorted list of keys, so most
inserts and removals touch only its end.  The book rests, hides, changes and removes orders; it
never matches (`matching`), reads no clock, and cannot fail after its first write.
"""

from __future__ import annotations

import hashlib
import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Final

import msgspec

from zmqex.limits import INTEGER_MAX, ORDERS_TOTAL_MAX
from zmqex.market.orders import BookOrder, Side
from zmqex.reasons import RejectReason

# Dead entries are swept when they outnumber the living and this many, so each pays for itself once.
_SWEEP_MIN: Final = 64
_BUY: Final = Side.BUY


class Level(msgspec.Struct, frozen=True, gc=False):
    """All that can be taken at one price; `cumulative_lots` counts the better levels too."""

    price_ticks: int
    quantity_lots: int
    cumulative_lots: int
    orders: int


class Book:
    """The resting orders of one market."""

    def __init__(self, symbol: str = "", *, orders_max: int = ORDERS_TOTAL_MAX) -> None:
        """Start empty; refuse more than `orders_max` orders."""
        self.symbol: Final = symbol
        self._orders_max: Final = orders_max
        self._orders: Final[dict[bytes, BookOrder]] = {}
        self._bids: Final = _Ladder(1)
        self._asks: Final = _Ladder(-1)
        self._expiries: list[tuple[int, int, BookOrder]] = []
        self._arrivals = 0

    def __len__(self) -> int:
        """How many orders rest, hidden ones too."""
        return len(self._orders)

    def why_not(self, order: BookOrder, now_ms: int) -> RejectReason | None:
        """Why `place` would refuse this order; None if it would rest."""
        if not 0 < order.price_ticks <= INTEGER_MAX:
            return RejectReason.INVALID_PRICE
        if not 0 <= order.available_lots <= INTEGER_MAX:
            return RejectReason.INVALID_QUANTITY
        if order.expires_at_ms <= now_ms:
            return RejectReason.EXPIRED
        if order.order_id in self._orders:
            return RejectReason.DUPLICATE_ORDER
        if len(self._orders) >= self._orders_max:
            return RejectReason.BOOK_FULL
        return None

    def place(self, order: BookOrder, now_ms: int) -> RejectReason | None:
        """Rest the order behind all others of its price, without matching it.

        The book owns the order from here on.  With 0 available lots it rests hidden.
        """
        orders = self._orders
        order_id = order.order_id
        expires_at_ms = order.expires_at_ms
        if (
            order_id in orders
            or expires_at_ms <= now_ms
            or not 0 < order.price_ticks <= INTEGER_MAX
            or not 0 <= order.available_lots <= INTEGER_MAX
            or len(orders) >= self._orders_max
        ):
            return self.why_not(order, now_ms)
        arrival = self._arrivals
        self._arrivals = arrival + 1
        order.arrival = arrival
        orders[order_id] = order
        (self._bids if order.side is _BUY else self._asks).add(order)
        heapq.heappush(self._expiries, (expires_at_ms, arrival, order))
        return None

    def cancel(self, order_id: bytes) -> BookOrder | None:
        """Remove the order and return it; None if it does not rest here."""
        order = self._orders.pop(order_id, None)
        if order is None:
            return None
        (self._bids if order.side is _BUY else self._asks).remove(order)
        if len(self._expiries) > 2 * len(self._orders) + _SWEEP_MIN:
            self._sweep_expiries()
        return order

    def update(self, order_id: bytes, available_lots: int) -> bool:
        """Set what can be taken of an order; its place in the queue stays.

        0 hides it from matching and levels but keeps it.  False (and nothing changes) if the order
        does not rest here or the number is out of range.
        """
        order = self._orders.get(order_id)
        if order is None or not 0 <= available_lots <= INTEGER_MAX:
            return False
        (self._bids if order.side is _BUY else self._asks).change(order, available_lots)
        return True

    def expire(self, now_ms: int) -> list[BookOrder]:
        """Remove every order whose time has come; return them, earliest first, then by id."""
        expired: list[BookOrder] = []
        while (due := self.next_expiry_ms()) is not None and due <= now_ms:
            order = heapq.heappop(self._expiries)[2]
            self.cancel(order.order_id)
            expired.append(order)
        expired.sort(key=_by_expiry)
        return expired

    def next_expiry_ms(self) -> int | None:
        """When `expire` has something to do next; None when nothing rests."""
        expiries = self._expiries
        while expiries:
            expires_at_ms, arrival, order = expiries[0]
            if self._rests(order, arrival):
                return expires_at_ms
            heapq.heappop(expiries)
        return None

    def get(self, order_id: bytes) -> BookOrder | None:
        """The resting order of that id; treat it as read-only."""
        return self._orders.get(order_id)

    def best_bid(self) -> int | None:
        """Highest price in ticks at which somebody buys now."""
        keys = self._bids.keys
        return keys[-1] if keys else None

    def best_ask(self) -> int | None:
        """Lowest price in ticks at which somebody sells now."""
        keys = self._asks.keys
        return -keys[-1] if keys else None

    def levels(self, side: Side, depth: int | None = None) -> list[Level]:
        """The best `depth` levels (all without it) of the orders of `side`, best first.

        Call `expire` first: the levels count every resting order.
        """
        ladder = self._bids if side is _BUY else self._asks
        found: list[Level] = []
        cumulative_lots = 0
        keys = ladder.keys
        stop = 0 if depth is None else max(0, len(keys) - depth)
        for index in range(len(keys) - 1, stop - 1, -1):
            queue = ladder.queues[keys[index]]
            cumulative_lots += queue.lots
            shown = len(queue.orders) - queue.hidden
            found.append(Level(ladder.sign * keys[index], queue.lots, cumulative_lots, shown))
        return found

    def orders(self, side: Side) -> Iterator[BookOrder]:
        """Every resting order of `side` that can be taken, best first; do not write meanwhile."""
        ladder = self._bids if side is _BUY else self._asks
        for key in reversed(ladder.keys):
            for order in ladder.queues[key].orders.values():
                if order.available_lots:
                    yield order

    def crossing(self, side: Side, price_ticks: int) -> Iterator[BookOrder]:
        """What an order of `side` at that price would meet, best first; do not write meanwhile."""
        ladder, limit = (self._asks, -price_ticks) if side is _BUY else (self._bids, price_ticks)
        for key in reversed(ladder.keys):
            if key < limit:
                return
            for order in ladder.queues[key].orders.values():
                if order.available_lots:
                    yield order

    def state_hash(self) -> bytes:
        """BLAKE2b-256 over every order in priority order, hidden ones in their place.

        Two books that answer every question alike have the same hash, whatever their histories.
        """
        digest = hashlib.blake2b(digest_size=32)
        for ladder in (self._bids, self._asks):
            for key in sorted(ladder.queues, reverse=True):
                for order in ladder.queues[key].orders.values():
                    digest.update(_row(order))
        return digest.digest()

    def _rests(self, order: BookOrder, arrival: int) -> bool:
        """Whether this entry of the expiry queue still stands for a resting order."""
        return order.arrival == arrival and self._orders.get(order.order_id) is order

    def _sweep_expiries(self) -> None:
        self._expiries = [entry for entry in self._expiries if self._rests(entry[2], entry[1])]
        heapq.heapify(self._expiries)


class _Queue:
    """The orders of one price, in order of arrival."""

    __slots__ = ("hidden", "holes", "lots", "orders")

    def __init__(self) -> None:
        self.orders: dict[bytes, BookOrder] = {}
        self.lots = 0  # what can be taken, of all together
        self.hidden = 0  # how many have nothing to take
        self.holes = 0  # removals since the dict was last rebuilt: it walks over each


class _Ladder:
    """One side.  The key of a level is its price times `sign`, so that the best is the greatest."""

    __slots__ = ("keys", "queues", "sign")

    def __init__(self, sign: int) -> None:
        self.sign: Final = sign
        self.keys: Final[list[int]] = []  # sorted; levels where something can be taken
        self.queues: Final[dict[int, _Queue]] = {}  # all levels

    def add(self, order: BookOrder) -> None:
        """Put the order at the end of its level."""
        key = order.price_ticks * self.sign
        queue = self.queues.get(key)
        if queue is None:
            queue = self.queues[key] = _Queue()
        lots = order.available_lots
        if not lots:
            queue.hidden += 1
        elif not queue.lots:
            insort(self.keys, key)
        queue.lots += lots
        queue.orders[order.order_id] = order

    def remove(self, order: BookOrder) -> None:
        """Take the order out; an empty level goes with it."""
        key = order.price_ticks * self.sign
        queue = self.queues[key]
        del queue.orders[order.order_id]
        lots = order.available_lots
        if lots:
            queue.lots -= lots
            if not queue.lots:
                del self.keys[bisect_left(self.keys, key)]
        else:
            queue.hidden -= 1
        if not queue.orders:
            del self.queues[key]
            return
        queue.holes += 1
        if queue.holes > len(queue.orders) + _SWEEP_MIN:
            queue.orders = dict(queue.orders.items())
            queue.holes = 0

    def change(self, order: BookOrder, available_lots: int) -> None:
        """Set what can be taken of the order."""
        key = order.price_ticks * self.sign
        queue = self.queues[key]
        before = queue.lots
        queue.lots = after = before + available_lots - order.available_lots
        queue.hidden += (not available_lots) - (not order.available_lots)
        order.available_lots = available_lots
        if after and not before:
            insort(self.keys, key)
        elif before and not after:
            del self.keys[bisect_left(self.keys, key)]


def _by_expiry(order: BookOrder) -> tuple[int, bytes]:
    return order.expires_at_ms, order.order_id


def _row(order: BookOrder) -> bytes:
    """The order's terms as unambiguous bytes: fixed lengths first, then numbers as text."""
    numbers = (
        order.price_ticks,
        order.available_lots,
        order.minimum_lots,
        order.flags,
        order.expires_at_ms,
    )
    return b"%b%b%b %d %d %d %d %d\n" % (order.order_id, order.maker, order.side.encode(), *numbers)
