"""What the operator sees of orders and trades: plain dictionaries of integers, hex and words.

The shapes are those promised in commands.py.  Also: whose turn it is in a trade, as a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from zmqex.kernel.records import OwnOrder, Trade
from zmqex.kernel.trades import Trades
from zmqex.limits import ID_PREFIX_CHARS_MIN
from zmqex.market.orders import OrderFlags
from zmqex.protocol.codec import decode
from zmqex.protocol.identity import to_text
from zmqex.protocol.messages import Order
from zmqex.reasons import RejectReason
from zmqex.trading.settlement import HTLC, SWAP
from zmqex.trading.states import State, TradeRole

_S = State
_MAKER, _TAKER = TradeRole.MAKER, TradeRole.TAKER

# Settlement `plain`: (role, our side, state) -> (turn, command, what happens next).
_NEXT: Final[Mapping[tuple[TradeRole, str, State], tuple[str, str, str]]] = {
    (_MAKER, "buy", _S.RESERVED): ("lightning", "", "the invoice is being made"),
    (_MAKER, "buy", _S.INVOICED): ("them", "", "the taker pays our invoice"),
    (_MAKER, "buy", _S.CANCELLING): ("lightning", "", "Lightning confirms that nothing was paid"),
    (_MAKER, "buy", _S.BASE_DONE): ("you", "trade sent", "send the quote, then say so"),
    (_MAKER, "buy", _S.QUOTE_SENT): ("them", "", "the taker confirms that the quote arrived"),
    (_MAKER, "sell", _S.RESERVED): ("them", "", "the taker sends the quote"),
    (_MAKER, "sell", _S.QUOTE_SENT): ("you", "trade received", "check that the quote arrived"),
    (_MAKER, "sell", _S.PAY_INTENT): ("them", "", "the taker sends its invoice"),
    (_MAKER, "sell", _S.PAYING): ("lightning", "", "our payment is on its way"),
    (_TAKER, "sell", _S.TAKING): ("them", "", "the maker answers the take"),
    (_TAKER, "sell", _S.ACCEPTED): ("you", "trade pay", "pay the maker's invoice"),
    (_TAKER, "sell", _S.PAYING): ("lightning", "", "our payment is on its way"),
    (_TAKER, "sell", _S.BASE_DONE): ("them", "", "the maker sends the quote"),
    (_TAKER, "sell", _S.QUOTE_SENT): ("you", "trade received", "check that the quote arrived"),
    (_TAKER, "sell", _S.ABANDONING): ("them", "", "the maker confirms that the take is off"),
    (_TAKER, "buy", _S.TAKING): ("them", "", "the maker answers the take"),
    (_TAKER, "buy", _S.ACCEPTED): ("you", "trade sent", "send the quote, then say so"),
    (_TAKER, "buy", _S.QUOTE_SENT): ("them", "", "the maker confirms that the quote arrived"),
    (_TAKER, "buy", _S.CONFIRMED): ("lightning", "", "our invoice is being made"),
    (_TAKER, "buy", _S.INVOICED): ("them", "", "the maker pays our invoice"),
    (_TAKER, "buy", _S.ABANDONING): ("them", "", "the maker confirms that the take is off"),
}
# Settlement `htlc`: (our side, state) -> the same, where it is not as above.
_NEXT_HTLC: Final[Mapping[tuple[str, State], tuple[str, str, str]]] = {
    ("sell", _S.RESERVED): ("them", "", "the taker makes its hold invoice"),
    ("buy", _S.ACCEPTED): ("lightning", "", "our hold invoice is being made"),
    ("buy", _S.CANCELLING): ("lightning", "", "Lightning gives back what may be locked"),
    ("buy", _S.HTLC_ACCEPTED): (
        "you",
        "trade send",
        "the base is locked for you: ask whether the quote can still be sent, then send it",
    ),
    ("buy", _S.QUOTE_INTENT): ("you", "trade sent", "send the quote once, then say so"),
    ("buy", _S.QUOTE_SENT): ("them", "", "the seller confirms the quote and releases the base"),
    ("buy", _S.RELEASED): ("lightning", "", "the base is being taken"),
    ("sell", _S.PAYING): ("them", "", "the base is being locked; then the buyer sends the quote"),
    ("sell", _S.QUOTE_SENT): (
        "you",
        "trade release",
        "check that the quote arrived, and only then release the base",
    ),
    ("sell", _S.RELEASED): ("them", "", "the buyer takes the base"),
    ("buy", _S.ROLLOVER): ("them", "", "the seller checks the quote, then pays our fresh invoice"),
    ("sell", _S.ROLLOVER): (
        "you",
        "trade release",
        "the buyer says that it paid, and its lock ran out: check the quote, then pay its invoice",
    ),
    ("sell", _S.ROLLOVER_PAYING): ("lightning", "", "our payment is on its way"),
}
# Settlement `swap`: (role, state) -> the same; nobody has anything to confirm by hand.
_NEXT_SWAP: Final[Mapping[tuple[TradeRole, State], tuple[str, str, str]]] = {
    (_MAKER, _S.RESERVED): ("lightning", "", "the invoice is being made"),
    (_MAKER, _S.INVOICED): ("them", "", "the taker locks what it pays"),
    (_MAKER, _S.CANCELLING): ("lightning", "", "Lightning confirms that nothing was paid"),
    (_MAKER, _S.HTLC_ACCEPTED): ("them", "", "the taker sends its invoice"),
    (_MAKER, _S.PAYING): ("lightning", "", "our payment is on its way; theirs is locked for us"),
    (_MAKER, _S.RELEASED): ("lightning", "", "what is locked for us is being taken"),
    (_TAKER, _S.TAKING): ("them", "", "the maker answers the take"),
    (_TAKER, _S.ACCEPTED): ("lightning", "", "our invoice is being made"),
    (_TAKER, _S.INVOICED): ("you", "trade pay", "lock your payment; the maker gets it for theirs"),
    (_TAKER, _S.PAYING): ("lightning", "", "our payment is locked; the maker pays us for it"),
    (_TAKER, _S.RECEIVED): ("lightning", "", "we are paid; the maker takes our payment"),
    (_TAKER, _S.PAID): ("lightning", "", "our payment is taken; theirs must be here"),
    (_TAKER, _S.ABANDONING): ("them", "", "the maker confirms that the take is off"),
}
# In place of these, where the Lightning node of a trade is not there to answer.
_NODE_LOST: Final = (
    "disputed: this node was started without the Lightning node that alone knows how its payment "
    "has ended; `trade resolve` it as settled, which frees nothing"
)
_LOCK_LOST: Final = (
    "Lightning does not know of what is locked for us, and we have paid for it: see that the "
    "Lightning node has all that it had; it is asked again and again"
)
_OTHER_NODE: Final = (
    "another Lightning node answers in place of {}, which alone knows how its payment stands; let "
    "that one answer again: until then nothing is paid and nothing believed"
)
# The states in which the 15 minutes still run.
_HOLDING: Final = frozenset(
    {_S.ACCEPTED, _S.RESERVED, _S.INVOICED, _S.CANCELLING, _S.ABANDONING, _S.PAYING}
)
_ENDED: Final = {
    _S.SETTLED: "settled: both sides have what they were promised",
    _S.CANCELLED: "cancelled: nothing moved",
    _S.REFUSED: "refused by the maker",
    _S.DISPUTED: "disputed: the quantity stays committed until `trade resolve` ends it",
}

_ROLL: Final = (
    "the lock is lost: if you have sent the quote, ask to be paid anew; or `trade resolve` ends it"
)


def order_view(trades: Trades, row: OwnOrder) -> dict[str, Any]:
    """ORDER of commands.py for an own order."""
    order = decode(row.order, Order)
    taken_base = row.filled_lots + row.taken_lots
    return {
        "order_id": row.order_id.hex(),
        "market": row.market,
        "side": order.side,
        "price_ticks": order.price_ticks,
        "quantity_lots": order.quantity_lots,
        "minimum_lots": order.minimum_lots,
        "filled_lots": taken_base,
        "held_lots": trades.held_lots(row.order_id),
        "remaining_lots": order.quantity_lots - taken_base - row.dropped_lots,
        "dropped_lots": row.dropped_lots,
        "state": row.state,
        "close_reason": row.close_reason,
        "created_ms": row.created_ms,
        "expires_at_ms": order.expires_at_ms,
        "renew": row.renew,
        "all_or_none": bool(order.flags & OrderFlags.ALL_OR_NONE),
        "cancel_on_disconnect": bool(order.flags & OrderFlags.CANCEL_ON_DISCONNECT),
        "time_in_force": row.time_in_force,
        "settlements": list(order.settlements),
    }


def trade_view(trades: Trades, trade: Trade, now_ms: int) -> dict[str, Any]:
    """TRADE of commands.py."""
    side = trades.our_side(trade)
    turn, command, text = _next(trade, side)
    if trade.state is _S.PAY_INTENT and trade.invoice:
        turn, command, text = "you", "trade pay", "the payment failed; pay again"
    if trade.state is _S.DISPUTED:
        turn = "you"
        if _may_roll(trade, side) and not trades.lost_node(trade):
            command, text = "trade rollover", _ROLL
        elif trade.reason == RejectReason.LIGHTNING_UNAVAILABLE:
            text = _NODE_LOST
    if trade.settlement == SWAP and trade.state is _S.RELEASED and trade.reason:
        turn, text = "you", _LOCK_LOST
    other = trades.other_node(trade)
    if other:
        turn, command, text = "you", "", _OTHER_NODE.format(other[1].hex())
    locked = trade.settlement == HTLC and trade.state is _S.PAYING
    holds = trade.state in _HOLDING and trade.hold_expires_ms > 0 and not locked
    return {
        "trade_id": trade.trade_id.hex(),
        "money": trades.money,
        "role": trade.role.value,
        "side": side,
        "market": trade.market,
        "order_id": trade.order_id.hex(),
        "own_order_id": trade.own_order_id.hex(),
        "counterparty": to_text(trades.counterparty(trade)),
        "quantity_lots": trade.quantity_lots,
        "price_ticks": trade.price_ticks,
        "base_msat": trade.base_msat,
        "quote_units": trade.quote_units,
        "settlement": trade.settlement,
        "state": trade.state.value,
        "reason": trade.reason,
        "turn": turn,
        "next_command": f"{command} {trade.trade_id.hex()[:12]}" if command else "",
        "next_text": text or _ENDED.get(trade.state, ""),
        "hold_expires_ms": trade.hold_expires_ms,
        "hold_left_ms": max(trade.hold_expires_ms - now_ms, 0) if holds else 0,
        "htlc_expiry_height": trade.htlc_expiry_height,
        "deadline_ms": trade.deadline_ms,
        "attempt": trade.attempt,
        "payment_hash": trade.payment_hash.hex(),
        "invoice": trade.invoice,
        "taker_invoice": trade.taker_invoice,
        "lightning_nodes": [one.hex() for one in (trade.invoice_node, trade.paying_node) if one],
        "pay_mode": trade.pay_mode,
        "pay_instructions": trade.pay_instructions,
        "reference": trade.reference,
        "created_ms": trade.created_ms,
        "updated_ms": trade.updated_ms,
    }


def _may_roll(trade: Trade, side: str) -> bool:
    """Whether a buyer's lock is lost, as far as we know: it can ask to be paid anew."""
    lost = trade.attempt > 1 or trade.reason == RejectReason.PAYMENT_FAILED
    return trade.settlement == HTLC and side == "buy" and lost


def _next(trade: Trade, side: str) -> tuple[str, str, str]:
    if trade.settlement == SWAP:
        return _NEXT_SWAP.get((trade.role, trade.state), ("nobody", "", ""))
    usual = _NEXT.get((trade.role, side, trade.state), ("nobody", "", ""))
    if trade.settlement == HTLC:
        return _NEXT_HTLC.get((side, trade.state), usual)
    return usual


def find_by_prefix(text: str, ids: Iterable[bytes]) -> bytes | RejectReason | None:
    """The one id that starts with this hex text; AMBIGUOUS_ID for several, None for none.

    A prefix below 8 characters is MALFORMED.
    """
    wanted = text.lower().strip()
    if len(wanted) < ID_PREFIX_CHARS_MIN:
        return RejectReason.MALFORMED
    found = [one for one in ids if one.hex().startswith(wanted)]
    if len(found) > 1:
        return RejectReason.AMBIGUOUS_ID
    return found[0] if found else None


def id_problem(text: str, found: RejectReason | None, kind: str) -> tuple[RejectReason, str]:
    """The reason and sentence for an id that `find_by_prefix` could not resolve."""
    if found is RejectReason.MALFORMED:
        return found, f"{text!r} is too short for an id: give 8 or more of its first characters"
    if found is RejectReason.AMBIGUOUS_ID:
        return found, f"more than one {kind} starts with {text!r}: give more characters"
    unknown = RejectReason.UNKNOWN_TRADE if kind == "trade" else RejectReason.UNKNOWN_ORDER
    return unknown, f"no {kind} starts with {text!r}"
