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
from typing import Final, NamedTuple

import msgspec

from zmqex.limits import INTEGER_MAX, ORDERS_TOTAL_MAX
from zmqex.market.expiry import SLOT_BITS, ExpiryQueue
from zmqex.market.orders import BookOrder, Side
from zmqex.reasons import RejectReason

# Dead entries are swept when they outnumber the living and this many, so each pays for itself once.
_SWEEP_MIN: Final = 1_024
_BUY: Final = Side.BUY
_NEW: Final = -1
_GONE: Final = -2


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
        self._bids: Final = _Ladder([], {})
        self._asks: Final = _Ladder([], {})
        self._expiries: Final = ExpiryQueue()
        self._far: Final = self._expiries.far
        self._arrivals = 0
        self._sweep_at = _SWEEP_MIN  # the arrival with which the expiry queue is swept next

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
        order_id = order.order_id
        price_ticks = order.price_ticks
        lots = order.available_lots
        expires_at_ms = order.expires_at_ms
        if (
            expires_at_ms <= now_ms
            or order_id in orders
            or not 0 < price_ticks <= INTEGER_MAX
            or not 0 <= lots <= INTEGER_MAX
            or len(orders) >= self._orders_max
        ):
            return self.why_not(order, now_ms)
        if order.arrival != _NEW:  # A queue may still have it among its dead.
            order = msgspec.structs.replace(order)
        orders[order_id] = order
        if order.side is _BUY:
            keys, queues = self._bids
            key = price_ticks
        else:
            keys, queues = self._asks
            key = -price_ticks
        queue = queues.get(key)
        if queue is None:
            queue = queues[key] = _Queue()
        if not lots:
            queue.hidden += 1
        elif not queue.lots:
            insort(keys, key)
        queue.lots += lots
        queue.orders.append(order)
        self._arrivals = order.arrival = arrival = self._arrivals + 1
        same_slot = self._far.get(expires_at_ms >> SLOT_BITS)
        if same_slot is None:
            self._expiries.add(order)
        else:
            same_slot.append(order)
        if arrival >= self._sweep_at:
            self._sweep_expiries()
        return None

    def cancel(self, order_id: bytes) -> BookOrder | None:
        """Remove the order and return it; None if it does not rest here."""
        order = self._orders.pop(order_id, None)
        if order is None:
            return None
        if order.side is _BUY:
            keys, queues = self._bids
            key = order.price_ticks
        else:
            keys, queues = self._asks
            key = -order.price_ticks
        queue = queues[key]
        order.arrival = _GONE
        lots = order.available_lots
        if lots:
            queue.lots = after = queue.lots - lots
            if not after:
                del keys[bisect_left(keys, key)]
        else:
            queue.hidden -= 1
            after = queue.lots
        if not after and not queue.hidden:
            del queues[key]
            return order
        queue.dead = dead = queue.dead + 1
        if dead > _SWEEP_MIN and 2 * dead > len(queue.orders):
            queue.orders = deque(order for order in queue.orders if order.arrival >= 0)
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
        if order.side is _BUY:
            keys, queues = self._bids
            key = order.price_ticks
        else:
            keys, queues = self._asks
            key = -order.price_ticks
        queue = queues[key]
        before = queue.lots
        queue.lots = after = before + available_lots - order.available_lots
        queue.hidden += (not available_lots) - (not order.available_lots)
        order.available_lots = available_lots
        if after and not before:
            insort(keys, key)
        elif before and not after:
            del keys[bisect_left(keys, key)]
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
        if order.side is _BUY:
            self._bids.queues[order.price_ticks].lots -= quantity_lots
        else:
            self._asks.queues[-order.price_ticks].lots -= quantity_lots
        return True

    def expire(self, now_ms: int) -> list[BookOrder]:
        """Remove every order whose time has come; return them, earliest first, then by id."""
        expired: list[BookOrder] = []
        while (order := self._expiries.first()) is not None and order.expires_at_ms <= now_ms:
            self.cancel(order.order_id)
            expired.append(order)
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
            shown = len(queue.orders) - queue.dead - queue.hidden
            found.append(Level(abs(keys[index]), queue.lots, cumulative_lots, shown))
        return found

    def orders(self, side: Side) -> Iterator[BookOrder]:
        """Every resting order of `side`, best first; hidden ones in their place.

        Do not write meanwhile.
        """
        ladder = self._bids if side is _BUY else self._asks
        for key in sorted(ladder.queues, reverse=True):
            for order in ladder.queues[key].orders:
                if order.arrival >= 0:
                    yield order

    def crossing(self, side: Side, price_ticks: int) -> Iterator[BookOrder]:
        """Every resting order that one of `side` at that price would meet, best first.

        Hidden, expired and dead ones (`arrival` below 0) too.  Do not write meanwhile.
        """
        if side is _BUY:
            return chain.from_iterable(_levels_from(self._asks, -price_ticks))
        return chain.from_iterable(_levels_from(self._bids, price_ticks))

    def state_hash(self) -> bytes:
        """BLAKE2b-256 over every order in priority order, hidden ones in their place.

        Two books that answer every question alike have the same hash, whatever their histories.
        """
        digest = hashlib.blake2b(digest_size=32)
        for side in (Side.BUY, Side.SELL):
            for order in self.orders(side):
                digest.update(_row(order))
        return digest.digest()

    def _sweep_expiries(self) -> None:
        """Forget the ends of orders that rest no more."""
        self._expiries.rebuild(self._orders.values())
        self._sweep_at = self._arrivals + len(self._orders) + _SWEEP_MIN


class _Queue:
    """The orders of one price, in order of arrival."""

    __slots__ = ("dead", "hidden", "lots", "orders")

    def __init__(self) -> None:
        self.orders: deque[BookOrder] = deque()
        self.lots = 0  # what can be taken, of all together
        self.hidden = 0  # how many have nothing to take
        self.dead = 0  # how many rest no more and are only passed over


class _Ladder(NamedTuple):
    """One side.  A level's key is its price, negative for asks: the best is the greatest."""

    keys: list[int]  # sorted; only levels where something can be taken
    queues: dict[int, _Queue]  # every level


def _levels_from(ladder: _Ladder, limit: int) -> Iterator[Iterable[BookOrder]]:
    """The queues of the levels with something to take, best first, down to the key `limit`."""
    queues = ladder.queues
    for key in reversed(ladder.keys):
        if key < limit:
            return
        queue = queues[key]
        orders = queue.orders
        while orders[0].arrival < 0:  # A level with something to take has a living order.
            orders.popleft()
            queue.dead -= 1
        yield orders


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
