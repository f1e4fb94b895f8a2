"""One market's book: an id index, price levels, an expiry queue.

Price-time priority, where time is this book's own arrival number: a level is a queue in order of
arrival.  The best level is the last of a sorted list of keys, so most inserts and removals touch
only its end.  A removed order stays in its queue, marked dead, until the dead outnumber the living:
removal costs the same wherever the order stands.  The book rests, hides, changes and removes
orders; it never matches (`matching`), reads no clock, and cannot fail after its first write.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

import msgspec

from zmqex.limits import INTEGER_MAX, ORDERS_TOTAL_MAX
from zmqex.market.expiry import SLOT_BITS, ExpiryQueue
from zmqex.market.orders import BookOrder, Side
from zmqex.reasons import RejectReason

# Dead entries are swept when they outnumber the living and these: so each pays for itself once.
_SWEEP_MIN: Final = 1_024  # of the ends of orders
_DEAD_MIN: Final = 32  # of one level, of which a maker may keep thousands alive by an order each
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
        self._queues: Final[dict[int, _Queue]] = {}  # by key; every level of both sides
        self._bids: Final[list[int]] = []  # the sorted keys of levels where something can be taken
        self._asks: Final[list[int]] = []
        self._expiries: Final = ExpiryQueue()
        self._far: Final = self._expiries.far
        self._gone = 0

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

        The book owns the order from here on (a copy, if the order was in a book before).  With 0
        available lots it rests hidden.
        """
        orders = self._orders
        lots = order.available_lots
        price_ticks = order.price_ticks
        expires_at_ms = order.expires_at_ms
        if (
            expires_at_ms <= now_ms
            or not 0 < price_ticks <= INTEGER_MAX
            or not 0 <= lots <= INTEGER_MAX
            or len(orders) >= self._orders_max
        ):
            return self.why_not(order, now_ms)
        if order.rests is not None:  # A queue may still have it among its dead.
            order = msgspec.structs.replace(order)
        if orders.setdefault(order.order_id, order) is not order:
            return RejectReason.DUPLICATE_ORDER
        key = price_ticks if order.side is _BUY else -price_ticks
        try:
            queue = self._queues[key]
        except KeyError:
            queue = self._queues[key] = _Queue(key)
        order.key = queue.key  # one number for all of the level, so that it stays in the cache
        before = queue.lots
        if not lots:
            queue.hidden += 1
        elif not before:
            insort(self._bids if key > 0 else self._asks, key)
        queue.lots = before + lots
        queue.orders.append(order)
        order.rests = True
        try:
            self._far[expires_at_ms >> SLOT_BITS].append(order)
        except KeyError:
            self._expiries.add(order)
        return None

    def place_all(
        self, new: Iterable[BookOrder], now_ms: int
    ) -> list[tuple[BookOrder, RejectReason]]:
        """Do as `place` does with each of them, in order; those that are refused, and why."""
        place = self.place
        return [(one, why) for one in new if (why := place(one, now_ms)) is not None]

    def cancel(self, order_id: bytes) -> BookOrder | None:
        """Remove the order and return it; None if it does not rest here."""
        order = self._orders.pop(order_id, None)
        if order is None:
            return None
        self._gone = gone = self._gone + 1
        if not gone % _SWEEP_MIN:
            self._sweep_expiries()
        queue = self._queues[order.key]
        order.rests = False
        lots = order.available_lots
        if lots:
            queue.lots = after = queue.lots - lots
            if not after:
                self._hide_level(queue.key)
        else:
            queue.hidden -= 1
            after = queue.lots
        if not after and not queue.hidden:
            del self._queues[queue.key]
            return order
        queue.dead = dead = queue.dead + 1
        if dead > _DEAD_MIN and 2 * dead > len(queue.orders):
            queue.orders = deque([order for order in queue.orders if order.rests])
            queue.dead = 0
        return order

    def update(self, order_id: bytes, available_lots: int) -> bool:
        """Set what can be taken of an order; its place in the queue stays.

        0 hides it from matching and levels but keeps it.  False (and nothing changes) if the order
        does not rest here or the number is out of range.
        """
        order = self._orders.get(order_id)
        if order is None or not 0 <= available_lots <= INTEGER_MAX:
            return False
        queue = self._queues[order.key]
        before = queue.lots
        queue.lots = after = before + available_lots - order.available_lots
        queue.hidden += (not available_lots) - (not order.available_lots)
        order.available_lots = available_lots
        if after and not before:
            insort(self._bids if queue.key > 0 else self._asks, queue.key)
        elif before and not after:
            self._hide_level(queue.key)
        return True

    def fill(self, order_id: bytes, quantity_lots: int) -> bool:
        """Take lots out of an order, which leaves the book when nothing is left to take.

        False (and nothing changes) if the order does not rest here or has less.
        """
        order = self._orders.get(order_id)
        if order is None:
            return False
        left = order.available_lots - quantity_lots
        if left == 0:
            return quantity_lots > 0 and self.cancel(order_id) is order
        if left < 0 or quantity_lots < 1:
            return False
        order.available_lots = left
        self._queues[order.key].lots -= quantity_lots
        return True

    def expire(self, now_ms: int) -> list[BookOrder]:
        """Remove every order whose time has come; return them, earliest first, then by id."""
        expired = self._expiries.take_due(now_ms)
        for order in expired:
            self.cancel(order.order_id)
        return expired

    def next_expiry_ms(self) -> int | None:
        """When `expire` has something to do next; None when nothing rests."""
        order = self._expiries.first()
        return None if order is None else order.expires_at_ms

    def get(self, order_id: bytes) -> BookOrder | None:
        """The resting order of that id; treat it as read-only."""
        return self._orders.get(order_id)

    def best_bid(self) -> int | None:
        """Highest price in ticks at which somebody buys now."""
        keys = self._bids
        return keys[-1] if keys else None

    def best_ask(self) -> int | None:
        """Lowest price in ticks at which somebody sells now."""
        keys = self._asks
        return -keys[-1] if keys else None

    def levels(self, side: Side, depth: int | None = None) -> list[Level]:
        """The best `depth` levels (all without it) of the orders of `side`, best first.

        Call `expire` first: the levels count every resting order.
        """
        keys = self._bids if side is _BUY else self._asks
        found: list[Level] = []
        cumulative_lots = 0
        stop = 0 if depth is None else max(0, len(keys) - depth)
        for index in range(len(keys) - 1, stop - 1, -1):
            queue = self._queues[keys[index]]
            cumulative_lots += queue.lots
            shown = len(queue.orders) - queue.dead - queue.hidden
            found.append(Level(abs(keys[index]), queue.lots, cumulative_lots, shown))
        return found

    def orders(self, side: Side) -> Iterator[BookOrder]:
        """Every resting order of `side`, best first; hidden ones in their place.

        Do not write meanwhile.
        """
        buying = side is _BUY
        for key in sorted((key for key in self._queues if (key > 0) is buying), reverse=True):
            for order in self._queues[key].orders:
                if order.rests:
                    yield order

    def crossing(self, side: Side, price_ticks: int) -> Iterator[BookOrder]:
        """Every resting order that one of `side` at that price would meet, best first.

        Hidden, expired and dead ones (which do not rest) too.  Do not write meanwhile.
        """
        if side is _BUY:
            return chain.from_iterable(self._levels_from(self._asks, -price_ticks))
        return chain.from_iterable(self._levels_from(self._bids, price_ticks))

    def state_hash(self) -> bytes:
        """BLAKE2b-256 over every order in priority order, hidden ones in their place.

        Two books that answer every question alike have the same hash, whatever their histories.
        """
        digest = hashlib.blake2b(digest_size=32)
        for side in (Side.BUY, Side.SELL):
            for order in self.orders(side):
                digest.update(_row(order))
        return digest.digest()

    def _hide_level(self, key: int) -> None:
        """Nothing can be taken at this level any more."""
        keys = self._bids if key > 0 else self._asks
        del keys[bisect_left(keys, key)]

    def _levels_from(self, keys: list[int], limit: int) -> Iterator[Iterable[BookOrder]]:
        """The queues of the levels with something to take, best first, down to the key `limit`."""
        queues = self._queues
        for key in reversed(keys):
            if key < limit:
                return
            queue = queues[key]
            orders = queue.orders
            while not orders[0].rests:  # A level with something to take has a living order.
                orders.popleft()
                queue.dead -= 1
            yield orders

    def _sweep_expiries(self) -> None:
        """Forget some of the ends of orders that rest no more, while they are the greater part."""
        if self._gone - self._expiries.forgotten > len(self._orders):
            self._expiries.sweep(2 * _SWEEP_MIN)


class _Queue:
    """The orders of one price, in order of arrival."""

    __slots__ = ("dead", "hidden", "key", "lots", "orders")

    def __init__(self, key: int) -> None:
        self.key = key  # the price, negative for asks: of each side, the best is the greatest
        self.orders: deque[BookOrder] = deque()
        self.lots = 0  # what can be taken, of all together
        self.hidden = 0  # how many have nothing to take
        self.dead = 0  # how many rest no more and are only passed over


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
