"""The maker that the small model's taker deals with: its order, accepts, lies and other words."""

from __future__ import annotations

from typing import Final

import msgspec

from tests.small_locks import LOCK
from tests.small_model import MARKET, PRICE, START_MS
from tests.small_takers import (
    MAKER,
    MAKER_NODE,
    MAKER_SECRET,
    TAKER_NODE,
    first_hash,
    heard_from,
    next_hash,
    preimage_of,
    text_of,
)
from zmqex.bolt11.invoice import DEFAULT_MIN_FINAL_CLTV
from zmqex.kernel.logs import FoundOrder
from zmqex.kernel.records import Trade
from zmqex.kernel.requests import Incoming
from zmqex.kernel.trades import other_side
from zmqex.limits import HOLD_TTL_MS
from zmqex.market.instruments import Currencies
from zmqex.market.orders import Side
from zmqex.protocol import messages
from zmqex.trading.settlement import HTLC, Amounts, amounts

# What a changed maker may put into its accept, besides the truth.
LIES: Final = ("amount", "payee", "hash", "quantity")
_INSTRUMENT: Final = Currencies().instrument(MARKET)


def legs(quantity_lots: int) -> Amounts:
    """What a quantity comes to at the price of the order."""
    return amounts(_INSTRUMENT, quantity_lots, PRICE)


def resting(takers_side: str, lots: int, settlement: str) -> FoundOrder:
    """The order that is taken."""
    order = messages.Order(
        market=MARKET,
        side=Side(other_side(takers_side)),
        price_ticks=PRICE,
        quantity_lots=lots,
        minimum_lots=1,
        time_in_force="gtd",
        flags=0,
        expires_at_ms=START_MS + 2 * HOLD_TTL_MS,
        settlements=(settlement,),
        payment_methods=(),
        nonce=bytes(16),
    )
    return FoundOrder(bytes([4]) * 32, MAKER.public_key, order, lots, 0)


def accept(trade: Trade, now_ms: int, how: str) -> msgspec.Raw:
    """The answer to a take: "" as asked, "less" of it, or with one of the `LIES`."""
    return heard_from(MAKER, "take", _accepted(trade, now_ms, how)).body


def _accepted(trade: Trade, now_ms: int, how: str) -> messages.Accept:
    lots = trade.quantity_lots - (how == "less") + (how == "quantity")
    both, buys = legs(lots), trade.side == "buy"
    return messages.Accept(
        trade.trade_id,
        bytes(32),
        now_ms,
        take_digest=trade.take_digest,
        quantity_lots=lots,
        base_msat=both.base_msat,
        quote_units=both.quote_units,
        invoice=_invoice(trade, now_ms, both.base_msat, how) if buys else None,
        payment_hash=first_hash(0) if not buys and trade.settlement == HTLC else None,
        pay_instructions="",
        hold_ttl_ms=HOLD_TTL_MS,
        hold_expires_at_ms=now_ms + HOLD_TTL_MS,
        fence=1,
        lightning_node=TAKER_NODE if how == "payee" else MAKER_NODE,
    )


def _invoice(trade: Trade, now_ms: int, base_msat: int, how: str) -> str:
    locks = trade.settlement == HTLC
    payment_hash = trade.payment_hash if locks else first_hash(0)
    if how == "again" or (how == "hash" and locks):
        payment_hash = next_hash(first_hash(0))
    amount_msat = base_msat + (how == "amount")
    lock = LOCK if locks else DEFAULT_MIN_FINAL_CLTV
    return text_of(payment_hash, now_ms, amount_msat, lock, MAKER_SECRET)


def word(trade: Trade, now_ms: int, what: str) -> Incoming:
    """Another word of the maker, which it may say whenever it likes."""
    head = (trade.trade_id, bytes(32), now_ms)
    said: messages.TradeMessage
    match what:
        case "accepted":
            said = _accepted(trade, now_ms, "again")
        case "cancelled":
            said = messages.TradeCancelled(*head, "cancelled")
        case "sent":
            said = messages.QuoteSent(*head, "")
        case "confirmed":
            said = messages.QuoteConfirmed(*head)
        case "failed":
            said = messages.InvoiceFailed(*head, trade.payment_hash or bytes(32), "payment_failed")
        case "settled":
            said = messages.TradeSettled(*head)
        case "released":
            said = messages.TradeReleased(*head, preimage_of(first_hash(0)))
        case _:
            said = messages.TradeReleased(*head, bytes(32))
    return heard_from(MAKER, "trade", said)
