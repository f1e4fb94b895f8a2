"""The floor of the book's figures: the same features, written flat, with the standard library only.

One class without layers: bisect over prices, a deque per level with lazy deletion, a heap of
expiries, a match that plans and writes in one function.  Not for: anything but `bench_book`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from heapq import heapify, heappop, heappush
from typing import Any

from zmqex.market.orders import OrderFlags, Side, TimeInForce

AON = int(OrderFlags.ALL_OR_NONE)
LIFE_MAX_MS = 7 * 24 * 3_600_000
NOBODY: frozenset[bytes] = frozenset()
BUY, IOC, FOK = Side.BUY, TimeInForce.IOC, TimeInForce.FOK
# An order to match: (id, owner, side, price, lots, minimum, flags) and how: (post-only, time in
# force, expires_at_ms, now_ms).
Terms = tuple[
    tuple[bytes, bytes, Side, int, int, int, int],
    tuple[bool, TimeInForce, int, int],
]

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

    def add(  # noqa: PLR0913, PLR0917 - flat on purpose
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

    def cross(  # noqa: C901, PLR0912 - flat on purpose
        self, terms: Terms, skip: frozenset[bytes] = NOBODY
    ) -> tuple[list[tuple[bytes, bytes, int, int]], int]:
        """Match an order, take its fills, rest what is left; answer the fills and the rest."""
        (order_id, owner, side, price, quantity, own_minimum, flags) = terms[0]
        (post_only, time_in_force, expires_at_ms, now_ms) = terms[1]
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
            rest = (order_id, owner, side, price, left, own_minimum, flags, expires_at_ms, now_ms)
            if not self.add(*rest):
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
