"""What a command to place, replace or take asks for, checked before anything changes.

Not for the book (`market.matching`) or for what becomes of the order (`desk`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from zmqex.kernel.commands import PlaceOrder, ReplaceOrder, TakeOrder
from zmqex.kernel.core import Core
from zmqex.kernel.orders import OwnOrders
from zmqex.kernel.records import OwnOrder
from zmqex.kernel.replicas import FoundOrder, Replicas
from zmqex.kernel.trades import other_side
from zmqex.limits import (
    INTEGER_MAX,
    ORDER_LIFE_DEFAULT_MS,
    ORDERS_PER_MAKER_MAX,
    PRICE_BAND_LOOKS_MAX,
    SWAP_LEG_MSAT_MIN,
)
from zmqex.market.book import Book
from zmqex.market.instruments import BASE
from zmqex.market.orders import BookOrder, IncomingOrder, OrderFlags, Side, TimeInForce
from zmqex.market.units import check_notional, format_price
from zmqex.reasons import RejectReason
from zmqex.trading import swap
from zmqex.trading.blocks import lock_blocks
from zmqex.trading.settlement import HTLC, QUOTE_UNIT_MSAT, SWAP, amounts
from zmqex.trading.states import TradeRole
from zmqex.trading.tables import TABLES

RESTS: Final = (TimeInForce.GTC, TimeInForce.GTD)
PAY_MODES: Final = ("auto", "manual")
_PERCENT: Final = 100


def incoming(
    core: Core, orders: OwnOrders, command: PlaceOrder, replaced: bytes = b""
) -> IncomingOrder | RejectReason:
    """The order that a command asks for, or why there can be none.

    `replaced` is the open order whose place it takes, which then does not count any more.
    """
    if command.market not in core.settings.markets:
        return RejectReason.WRONG_MARKET
    instrument = core.currencies.instrument(command.market)
    reason = check_notional(command.quantity_lots, command.price_ticks, instrument)
    if reason is not None:
        return reason
    try:
        side, time_in_force = Side(command.side), TimeInForce(command.time_in_force)
    except ValueError:
        return RejectReason.MALFORMED
    if command.pay_mode not in PAY_MODES:
        return RejectReason.MALFORMED
    rests = time_in_force in RESTS
    if command.renew and (not rests or command.cancel_on_disconnect):
        return RejectReason.CONTRADICTORY_FLAGS
    if rests and orders.live_count() - bool(replaced) >= ORDERS_PER_MAKER_MAX:
        return RejectReason.MAKER_FULL
    flags = OrderFlags.ALL_OR_NONE if command.all_or_none else OrderFlags.NONE
    if command.cancel_on_disconnect:
        flags |= OrderFlags.CANCEL_ON_DISCONNECT
    # What never rests has no life of its own; the terms name one all the same.
    life_ms = command.expires_in_ms if rests and command.expires_in_ms else 0
    life_ms = life_ms or ORDER_LIFE_DEFAULT_MS
    return IncomingOrder(
        owner=core.identity,
        side=side,
        price_ticks=command.price_ticks,
        quantity_lots=command.quantity_lots,
        minimum_lots=max(command.minimum_lots, 1),
        flags=int(flags),
        post_only=command.post_only,
        time_in_force=time_in_force,
        expires_at_ms=core.now.wall_ms + life_ms,
    )


def replacement(core: Core, orders: OwnOrders, row: OwnOrder, command: ReplaceOrder) -> PlaceOrder:
    """The command that places what an open order is to be replaced by.

    All but quantity and price stays: the end too, unless the order renews itself.
    """
    old = orders.terms(row.order_id)
    started_ms = row.created_ms if row.renew else core.now.wall_ms
    return PlaceOrder(
        row.market,
        old.side.value,
        command.quantity_lots,
        command.price_ticks,
        minimum_lots=min(old.minimum_lots, command.quantity_lots),
        expires_in_ms=max(old.expires_at_ms - started_ms, 1),
        time_in_force=row.time_in_force,
        post_only=row.post_only,
        all_or_none=bool(old.flags & OrderFlags.ALL_OR_NONE),
        renew=row.renew,
        cancel_on_disconnect=bool(old.flags & OrderFlags.CANCEL_ON_DISCONNECT),
        pay_mode=command.pay_mode or row.pay_mode,
        any_price=command.any_price,
        settlements=old.settlements,
        key=command.key,
    )


def why_not_take(
    core: Core, replicas: Replicas, found: FoundOrder, command: TakeOrder
) -> RejectReason | None:
    """Why this quantity of that order cannot be asked for, or None."""
    if command.pay_mode not in PAY_MODES:
        return RejectReason.MALFORMED
    if found.maker == core.identity:
        return RejectReason.OWN_ORDER
    if not choose_settlement(core, (command.settlement,), found):
        return RejectReason.UNSUPPORTED_SETTLEMENT
    if replicas.is_stale(found.maker):
        return RejectReason.STALE_MAKER
    if command.quantity_lots < 1:
        return RejectReason.INVALID_QUANTITY
    if command.quantity_lots > found.available_lots:
        return RejectReason.INSUFFICIENT_QUANTITY
    return None


def why_not_settle(core: Core, settlement: str, role: TradeRole, our_side: str, market: str) -> str:
    """Why this node cannot settle so in that role, as a part of a sentence; "" where it can."""
    if (settlement, role, our_side) not in TABLES:
        known = sorted(
            {one for one, its_role, side in TABLES if (its_role, side) == (role, our_side)}
        )
        return f"this node settles by {' or '.join(known)} only"
    if settlement == HTLC and our_side == "buy":
        if not core.settings.can_hold:
            return "its Lightning node cannot hold payments, which a buyer by htlc needs"
        if not lock_blocks(core.settings.auto_cancel_blocks):
            return "its Lightning node gives held payments back too early for htlc"
    if settlement == SWAP:
        return _why_not_swap(core, role, our_side, market)
    return ""


def _why_not_swap(core: Core, role: TradeRole, our_side: str, market: str) -> str:
    quote = swap.quote_of(market)
    networks = {"buy": core.settings.backend(BASE), "sell": core.settings.backend(quote)}
    if networks["sell"] is None:
        return f"a swap moves {quote} over Lightning too: see `serve --quote-lightning`"
    held = networks[our_side]
    if role is TradeRole.MAKER and (held is None or not held.can_hold):
        asset = BASE if our_side == "buy" else quote
        return (
            f"its Lightning node for {asset} cannot hold payments, which the maker of a swap needs"
        )
    return ""


def why_unsettled(core: Core, command: PlaceOrder) -> str:
    """Why this node cannot settle an order as it says, or "".

    What rests must be settled with whoever takes it; for what it takes, a way is chosen later.
    """
    rests = command.time_in_force in RESTS
    role = TradeRole.MAKER if rests else TradeRole.TAKER
    whys = (
        why_not_settle(core, one, role, command.side, command.market) for one in command.settlements
    )
    return next(filter(None, whys), "") or _why_not_swapped(core, command)


def _why_not_swapped(core: Core, command: PlaceOrder) -> str:
    """Why a whole order is too small or too large for a swap; its parts are judged one by one."""
    instrument = core.currencies.instrument(command.market)
    both = amounts(instrument, command.quantity_lots, command.price_ticks)
    legs = swap.legs(command.side, command.market, both.base_msat, both.quote_units)
    if SWAP not in command.settlements or swap.why_not_amounts(*legs) is None:
        return ""
    least = SWAP_LEG_MSAT_MIN // QUOTE_UNIT_MSAT
    return f"a swap needs at least {least} of the smallest units on each leg, and no absurd amount"


def choose_settlement(core: Core, wanted: tuple[str, ...], found: FoundOrder) -> str:
    """The first wanted settlement by which an order of another maker can be taken, or ""."""
    our_side = other_side(found.order.side)
    for one in wanted:
        offered = one in found.order.settlements
        if offered and not why_not_settle(core, one, TradeRole.TAKER, our_side, found.order.market):
            return one
    return ""


def how_to_settle(core: Core, found: FoundOrder | None) -> str:
    """How an order of another maker is settled, and what to say to take it, if anything helps."""
    if found is None:
        return ""
    order, our_side = found.order, other_side(found.order.side)
    whys = {
        one: why_not_settle(core, one, TradeRole.TAKER, our_side, order.market)
        for one in order.settlements
    }
    way = next((one for one, why in whys.items() if not why), "")
    hint = f"take it with --settlement {way}" if way else next(iter(whys.values()))
    return f"it is settled by {' or '.join(whys)}; {hint}"


def outside_band(
    core: Core, book: Book, order: IncomingOrder, usable: Callable[[BookOrder], bool]
) -> str:
    """How far an order lies from the best price on the other side, if that is too far; else "".

    Beyond it the order costs its owner more than need be.  Short of it nobody may ever take it,
    which matters to one that rests.
    """
    band, best = core.settings.price_band_percent, _best(core, book, order, usable)
    if not band or best is None:
        return ""
    price, buys = order.price_ticks, order.side is Side.BUY
    beyond = price - best if buys else best - price
    short = beyond < 0
    if abs(beyond) * _PERCENT <= best * band or (short and order.time_in_force not in RESTS):
        return ""
    instrument = core.currencies.instrument(book.symbol)
    doing, name = ("buying", "ask") if buys else ("selling", "bid")
    where = "above" if price > best else "below"
    at, than = format_price(price, instrument), format_price(best, instrument)
    percent = abs(beyond) * _PERCENT // best
    sentence = f"{doing} at {at} is {percent} % {where} the best {name} of {than}"
    return f"{sentence}: it would rest far from the market" if short else sentence


def _best(
    core: Core, book: Book, order: IncomingOrder, usable: Callable[[BookOrder], bool]
) -> int | None:
    """The best price that an order of this side could have now.

    Where what it would meet is of no use, the next few orders are looked at, not a whole book.
    """
    now_ms, buys = core.now.wall_ms, order.side is Side.BUY
    looks = PRICE_BAND_LOOKS_MAX
    for other in book.crossing(order.side, INTEGER_MAX if buys else 1):
        price = other.price_ticks
        if other.available_lots and other.expires_at_ms > now_ms and usable(other):
            return price
        looks -= price > order.price_ticks if buys else price < order.price_ticks
        if not looks:
            break
    return None
