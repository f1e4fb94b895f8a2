"""Matching as check, decide, apply: `plan` only reads, `apply` writes a plan that still holds.

The rules, in the walk from the best price on and by arrival within a price:

* hidden, expired, skipped and unusable orders are passed over as if they were not there;
* **no self-trade**: an order that would reach a resting order of its own owner is refused as a
  whole, naming that order; what fills completely before that point is fine;
* a fill takes a resting order whole, or at least its minimum while leaving at least its minimum;
  an all-or-none order is taken whole; an order whose rules leave nothing to take is passed over
  and keeps its place;
* a fill is at least the incoming order's own minimum, or all that is left of it;
* an incoming all-or-none order fills completely or rests untouched; FOK (and IOC with
  all-or-none) fills completely or is refused; IOC never rests; post-only is refused if anything
  would fill.

The walk is greedy: where minimums make a puzzle it does not search for a better combination.
Not for: talking to makers, holds, or who pays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from zmqex.errors import LocalProtocolError
from zmqex.market.book import Book
from zmqex.market.orders import (
    BookOrder,
    IncomingOrder,
    OrderFlags,
    TimeInForce,
    check_terms,
)
from zmqex.reasons import RejectReason

# Plain names for the hot path, where looking up an enum's member costs more than using it.
_ALL_OR_NONE: Final = int(OrderFlags.ALL_OR_NONE)
_IOC: Final = TimeInForce.IOC
_FOK: Final = TimeInForce.FOK
_NOBODY: Final[frozenset[bytes]] = frozenset()


class PlannedFill(msgspec.Struct, frozen=True, gc=False):
    """A quantity to take from one resting order, at that order's price."""

    order_id: bytes
    maker: bytes
    quantity_lots: int
    price_ticks: int


class Plan(msgspec.Struct, frozen=True, gc=False):
    """What would happen: filled + resting + cancelled lots are the order's quantity, always.

    With a `reason` the whole order is refused: no fills, everything cancelled.  `blocker` is then
    the resting order that it ran into (SELF_TRADE, WOULD_CROSS).
    """

    fills: tuple[PlannedFill, ...]
    filled_lots: int
    resting_lots: int
    cancelled_lots: int
    reason: RejectReason | None = None
    blocker: bytes | None = None

    @property
    def notional_lot_ticks(self) -> int:
        """Sum of quantity times price; divided by `filled_lots` it is the exact average price."""
        return sum(fill.quantity_lots * fill.price_ticks for fill in self.fills)


def plan(
    book: Book,
    incoming: IncomingOrder,
    now_ms: int,
    *,
    skip_makers: frozenset[bytes] = _NOBODY,
    skip_orders: frozenset[bytes] = _NOBODY,
    usable: Callable[[BookOrder], bool] | None = None,
) -> Plan:
    """Decide what the incoming order fills, rests and cancels; changes nothing.

    `skip_makers` and `skip_orders` are passed over, as is every order that `usable` denies.
    """
    quantity_lots = incoming.quantity_lots
    reason = check_terms(incoming, now_ms)
    if reason is not None:
        return Plan((), 0, 0, quantity_lots, reason)
    fills: list[PlannedFill] = []
    left = quantity_lots
    owner = incoming.owner
    minimum = incoming.minimum_lots
    filtered = usable is not None or skip_makers is not _NOBODY or skip_orders is not _NOBODY
    for order in book.crossing(incoming.side, incoming.price_ticks):
        lots = order.available_lots
        if not lots or not order.rests or order.expires_at_ms <= now_ms:
            continue
        maker = order.maker
        if filtered and (
            maker in skip_makers
            or order.order_id in skip_orders
            or (usable is not None and not usable(order))
        ):
            continue
        if maker == owner:
            return Plan((), 0, 0, quantity_lots, RejectReason.SELF_TRADE, order.order_id)
        if lots > left or lots < minimum:
            lots = _takable(order, left, minimum)
            if not lots:
                continue
        fills.append(PlannedFill(order.order_id, maker, lots, order.price_ticks))
        left -= lots
        if not left:
            break
    if not left and not incoming.post_only:
        return Plan(tuple(fills), quantity_lots, 0, 0)
    return _decide(incoming, tuple(fills), left)


def check_fill(order: BookOrder, quantity_lots: int) -> RejectReason | None:
    """Why this quantity cannot be taken from the order; None if its terms allow it."""
    available_lots = order.available_lots
    if quantity_lots == available_lots and quantity_lots > 0:
        return None
    if quantity_lots < 1:
        return RejectReason.INVALID_QUANTITY
    if quantity_lots > available_lots:
        return RejectReason.INSUFFICIENT_QUANTITY
    if order.flags & _ALL_OR_NONE:
        return RejectReason.ALL_OR_NONE
    if quantity_lots < order.minimum_lots:
        return RejectReason.BELOW_MINIMUM
    if available_lots - quantity_lots < order.minimum_lots:
        return RejectReason.LEAVES_DUST
    return None


def apply(
    book: Book, incoming: IncomingOrder, planned: Plan, now_ms: int, *, order_id: bytes
) -> RejectReason | None:
    """Write a plan into the book: take its fills, rest what is left under `order_id`.

    Checks first that the plan still holds; a reason means that nothing was changed.  After the
    first write nothing can fail.  Orders that are taken whole leave the book.
    """
    reason = planned.reason or _why_stale(book, incoming, planned, now_ms)
    if reason is not None:
        return reason
    return _write(book, incoming, planned, now_ms, order_id)


def match(book: Book, incoming: IncomingOrder, now_ms: int, *, order_id: bytes) -> Plan:
    """Plan and apply in one step; a reason in the answer means that nothing was changed."""
    planned = plan(book, incoming, now_ms)
    if planned.reason is None:
        reason = _write(book, incoming, planned, now_ms, order_id)
        if reason is not None:
            return Plan((), 0, 0, incoming.quantity_lots, reason)
    return planned


def _write(
    book: Book, incoming: IncomingOrder, planned: Plan, now_ms: int, order_id: bytes
) -> RejectReason | None:
    """Write a plan that holds.  Resting the remainder may be refused, and is therefore first."""
    resting_lots = planned.resting_lots
    if resting_lots:
        rest = BookOrder(
            order_id,
            incoming.owner,
            incoming.side,
            incoming.price_ticks,
            resting_lots,
            incoming.minimum_lots,
            incoming.flags,
            incoming.expires_at_ms,
        )
        reason = book.place(rest, now_ms)
        if reason is not None:
            return reason
    elif book.get(order_id) is not None:
        return RejectReason.DUPLICATE_ORDER
    for fill in planned.fills:
        book.fill(fill.order_id, fill.quantity_lots)
    return None


def _takable(order: BookOrder, wanted: int, incoming_minimum: int) -> int:
    """The most lots up to `wanted` that both orders' minimums allow; 0 if there are none."""
    lots = order.available_lots
    if wanted < lots:
        if order.flags & _ALL_OR_NONE:
            return 0
        minimum = order.minimum_lots
        lots = min(wanted, lots - minimum)
        if lots < minimum:
            return 0
    if lots < incoming_minimum and lots < wanted:
        return 0
    return lots


def _decide(incoming: IncomingOrder, fills: tuple[PlannedFill, ...], left: int) -> Plan:
    """What becomes of an order whose fills leave something, or that must not fill."""
    quantity_lots = incoming.quantity_lots
    if incoming.post_only and fills:
        return Plan((), 0, 0, quantity_lots, RejectReason.WOULD_CROSS, fills[0].order_id)
    time_in_force = incoming.time_in_force
    all_or_none = incoming.flags & _ALL_OR_NONE
    if time_in_force is _FOK or (time_in_force is _IOC and all_or_none):
        return Plan((), 0, 0, quantity_lots, RejectReason.NOT_FILLABLE)
    if time_in_force is _IOC:
        return Plan(fills, quantity_lots - left, 0, left)
    if all_or_none:
        return Plan((), 0, quantity_lots, 0)
    return Plan(fills, quantity_lots - left, left, 0)


def _why_stale(
    book: Book, incoming: IncomingOrder, planned: Plan, now_ms: int
) -> RejectReason | None:
    """Why the plan no longer fits the book; None if it still does."""
    fills = planned.fills
    side = incoming.side
    lots = planned.resting_lots + planned.cancelled_lots
    for fill in fills:
        order = book.get(fill.order_id)
        if order is None or order.side is side:
            return RejectReason.UNKNOWN_ORDER
        if order.price_ticks != fill.price_ticks:
            return RejectReason.PRICE_CHANGED
        if order.expires_at_ms <= now_ms:
            return RejectReason.EXPIRED
        quantity_lots = fill.quantity_lots
        if quantity_lots != order.available_lots:
            reason = check_fill(order, quantity_lots)
            if reason is not None:
                return reason
        lots += quantity_lots
    twice = len(fills) > 1 and len({fill.order_id for fill in fills}) < len(fills)
    if twice or lots != incoming.quantity_lots:
        raise LocalProtocolError("this plan was made for another order")
    return None
