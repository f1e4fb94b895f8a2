"""Orders as the book and matching see them, and the rules that an order's own terms must obey.

Not for: the order on the wire (`protocol.messages.Order`) or its id.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

from zmqex.limits import INTEGER_MAX, ORDER_LIFE_MAX_MS
from zmqex.reasons import RejectReason


class Side(enum.StrEnum):
    """What the order's owner does with the base currency."""

    BUY = "buy"
    SELL = "sell"

    @property
    def opposite(self) -> Side:
        """The side that it trades with."""
        return Side.SELL if self is Side.BUY else Side.BUY


class TimeInForce(enum.StrEnum):
    """How long what is not filled at once lives (FIX tag 59)."""

    GTC = "gtc"  # until cancelled, at most ORDER_LIFE_MAX_MS
    GTD = "gtd"  # until the given time
    IOC = "ioc"  # immediate or cancel: never rests
    FOK = "fok"  # fill or kill: all at once or nothing


class OrderFlags(enum.IntFlag):
    """Standing properties of an order; the numbers are the wire's."""

    NONE = 0
    ALL_OR_NONE = 1
    CANCEL_ON_DISCONNECT = 2


# Plain names and numbers for the hot path: enum arithmetic builds an object each time.
_FLAGS_UNKNOWN: Final = ~int(OrderFlags.ALL_OR_NONE | OrderFlags.CANCEL_ON_DISCONNECT)
_IOC: Final = TimeInForce.IOC
_FOK: Final = TimeInForce.FOK


class BookOrder(msgspec.Struct, gc=False):
    """An order that rests in a node's book.  Only the book changes it, after `place`.

    `order_id` and `maker` are 32 bytes.  `available_lots` is what can be taken now: what remains
    without what is held.  The book writes `rests`, None before and False when it is gone, so that
    an order has one life; and `key`, its level: the price, negative for asks.  It holds no
    containers, so the garbage collector need not walk 100,000 of them.
    """

    order_id: bytes
    maker: bytes
    side: Side
    price_ticks: int
    available_lots: int
    minimum_lots: int
    flags: int
    expires_at_ms: int
    rests: bool | None = None
    key: int = 0


class IncomingOrder(msgspec.Struct, frozen=True, gc=False):
    """An order that has just been given and is to be matched.

    `minimum_lots` is the smallest fill that its owner accepts.  `expires_at_ms` says how long a
    rest would live; it is not looked at where nothing can rest (IOC, FOK).
    """

    owner: bytes
    side: Side
    price_ticks: int
    quantity_lots: int
    minimum_lots: int = 1
    flags: int = 0
    post_only: bool = False
    time_in_force: TimeInForce = TimeInForce.GTC
    expires_at_ms: int = 0


def check_terms(order: IncomingOrder, now_ms: int) -> RejectReason | None:
    """Why the order is refused whatever the book holds; None if it may be matched.

    Checked in this order: price, quantity, minimum, contradictions (post-only that never rests,
    an all-or-none order with a minimum below its quantity is fine), expiry.
    """
    rests = order.time_in_force is not _IOC and order.time_in_force is not _FOK
    if (
        0 < order.price_ticks <= INTEGER_MAX
        and 0 < order.minimum_lots <= order.quantity_lots <= INTEGER_MAX
        and not order.flags & _FLAGS_UNKNOWN
        and (
            now_ms < order.expires_at_ms <= now_ms + ORDER_LIFE_MAX_MS
            if rests
            else not order.post_only
        )
    ):
        return None  # The common case, in as few steps as possible.
    return _wrong_term(order, now_ms, rests=rests)


def _wrong_term(order: IncomingOrder, now_ms: int, *, rests: bool) -> RejectReason:
    """Which of its terms is wrong, the first one that is."""
    if not 0 < order.price_ticks <= INTEGER_MAX:
        return RejectReason.INVALID_PRICE
    if not 0 < order.quantity_lots <= INTEGER_MAX or order.minimum_lots < 1:
        return RejectReason.INVALID_QUANTITY
    if order.minimum_lots > order.quantity_lots:
        return RejectReason.MINIMUM_ABOVE_QUANTITY
    if not rests or order.flags & _FLAGS_UNKNOWN:  # Of IOC and FOK only post-only is left to blame.
        return RejectReason.CONTRADICTORY_FLAGS
    return RejectReason.EXPIRED if order.expires_at_ms <= now_ms else RejectReason.EXPIRY_TOO_FAR
