"""What the other party of a trade says: checked, given to the right side, acknowledged.

A message counts once: its digest is in the transcript.  A repeat is acknowledged again and changes
nothing; the acknowledgement is our state and our last signed message of the trade.
"""

from __future__ import annotations

from functools import partial
from typing import get_args

from zmqex.kernel.core import Core
from zmqex.kernel.records import Trade
from zmqex.kernel.sessions import Incoming, Sessions
from zmqex.kernel.sides import Sides
from zmqex.kernel.trades import Trades
from zmqex.protocol.codec import decode, decode_envelope, decode_trade_message
from zmqex.protocol.identity import digest, short, trade_id, verify
from zmqex.protocol.messages import (
    AnyTradeMessage,
    InvoiceFailed,
    QuoteConfirmed,
    QuoteSent,
    TradeCancel,
    TradeCancelled,
    TradeInvoice,
    TradeReleased,
    TradeRollover,
    TradeSaid,
    TradeSettled,
    TradeStatus,
    TradeStatusRequest,
)
from zmqex.reasons import RejectReason
from zmqex.trading.settlement import HTLC
from zmqex.trading.states import State, TradeRole

OfLocks = QuoteSent | TradeReleased | TradeCancelled | TradeInvoice | TradeRollover | InvoiceFailed
_OF_LOCKS = get_args(OfLocks)


class Dialogue:
    """Serves `trade` and `trade_status`."""

    def __init__(self, core: Core, sessions: Sessions, trades: Trades, sides: Sides) -> None:
        """Serve from now on."""
        self._core = core
        self._sessions = sessions
        self._trades = trades
        self._sides = sides
        self._lock_buyer, self._lock_seller = sides.lock_buyer, sides.lock_seller
        sessions.serve("trade", self._on_trade)
        sessions.serve("trade_status", self._on_status)

    def _on_trade(self, incoming: Incoming) -> None:
        raw = decode(incoming.body, TradeSaid).envelope
        envelope = decode_envelope(raw)
        message = decode_trade_message(envelope.body)
        trade = self._trades.by_id.get(message.trade_id)
        kind = str(message.__struct_config__.tag)
        again = partial(self._sessions.again, incoming)
        if trade is not None and self._trades.counterparty(trade) != incoming.peer:
            self._refuse(incoming, message, RejectReason.WRONG_PARTY)
        elif not verify(incoming.peer, self._core.settings.network, kind, envelope):
            self._refuse(incoming, message, RejectReason.BAD_SIGNATURE)
        elif trade is None:
            if not self._trades.recall("trade", message.trade_id, again):
                self._of_unknown_trade(incoming, message, raw)
        elif digest(raw) in self._trades.lines.get(trade.trade_id, {}):
            self._acknowledge(incoming, trade)
        else:
            reason = self._dispatch(incoming, trade, message, raw)
            if reason is not None:
                self._refuse(incoming, message, reason)
            else:
                self._acknowledge(incoming, self._trades.by_id[trade.trade_id])

    def _dispatch(
        self, incoming: Incoming, trade: Trade, message: AnyTradeMessage, raw: bytes
    ) -> RejectReason | None:
        if isinstance(message, TradeSettled):
            return self._on_receipt(trade, raw)
        if trade.settlement == HTLC and isinstance(message, _OF_LOCKS):
            return self._of_lock(trade, message, raw)
        if trade.role is TradeRole.MAKER:
            return self._to_maker(incoming, trade, message, raw)
        return self._to_taker(trade, message, raw)

    def _of_lock(self, trade: Trade, message: OfLocks, raw: bytes) -> RejectReason | None:
        """By `htlc` the buyer makes the invoice and says that it has sent; the seller releases."""
        role, buys = trade.role, self._trades.our_side(trade) == "buy"
        match message:
            case TradeReleased() if buys:
                return self._lock_buyer.on_released(trade, message, raw)
            case TradeCancelled() if buys and role is TradeRole.TAKER:
                return self._lock_buyer.on_cancelled(trade, message, raw)
            case TradeCancelled() if role is TradeRole.TAKER:
                return self._sides.taker(trade).on_cancelled(trade, message, raw)
            case QuoteSent() if not buys:
                return self._lock_seller.on_quote_sent(trade, message, raw)
            case TradeInvoice() if not buys and role is TradeRole.MAKER:
                return self._lock_seller.on_trade_invoice(trade, message, raw)
            case TradeRollover() if not buys:
                return self._sides.rollover_seller.on_rollover(trade, message, raw)
            case InvoiceFailed() if buys:
                return self._sides.rollover_buyer.on_invoice_failed(trade, message, raw)
            case _:
                return RejectReason.WRONG_PARTY

    def _on_receipt(self, trade: Trade, raw: bytes) -> RejectReason | None:
        """The other party has all that it was promised: kept as evidence, once."""
        said = self._trades.words(trade, self._trades.counterparty(trade))
        if any(isinstance(one, TradeSettled) for one in said):
            return RejectReason.WRONG_STATE
        trade = self._trades.heard(trade, raw)
        sold = trade.settlement == HTLC and self._trades.our_side(trade) == "sell"
        if sold and trade.state is State.RELEASED:
            self._lock_seller.look(trade.trade_id)  # it says that our payment has gone over
        elif sold and trade.state is State.ROLLOVER_PAYING:
            self._sides.rollover_seller.look(trade.trade_id)
        return None

    def _to_maker(
        self, incoming: Incoming, trade: Trade, message: AnyTradeMessage, raw: bytes
    ) -> RejectReason | None:
        maker = self._sides.maker(trade)
        match message:
            case TradeCancel():
                maker.on_cancel_asked(incoming, message, raw)
                return None
            case QuoteSent():
                return maker.on_quote_sent(trade, message, raw)
            case QuoteConfirmed():
                return maker.on_quote_confirmed(trade, raw)
            case TradeInvoice():
                return maker.on_trade_invoice(trade, message, raw)
            case _:
                return RejectReason.WRONG_PARTY

    def _to_taker(self, trade: Trade, message: AnyTradeMessage, raw: bytes) -> RejectReason | None:
        taker = self._sides.taker(trade)
        match message:
            case QuoteSent():
                return taker.on_quote_sent(trade, message, raw)
            case QuoteConfirmed():
                return taker.on_quote_confirmed(trade, raw)
            case TradeCancelled():
                return taker.on_cancelled(trade, message, raw)
            case InvoiceFailed():
                return taker.on_invoice_failed(trade, message, raw)
            case _:
                return RejectReason.WRONG_PARTY

    def _of_unknown_trade(self, incoming: Incoming, message: AnyTradeMessage, raw: bytes) -> None:
        """Only one thing can be said of a trade that we do not know: that it must never begin."""
        if not isinstance(message, TradeCancel):
            self._refuse(incoming, message, RejectReason.UNKNOWN_TRADE)
            return
        network, us = self._core.settings.network, self._core.identity
        if message.trade_id != trade_id(network, us, incoming.peer, message.take_id):
            self._refuse(incoming, message, RejectReason.WRONG_PARTY)
            return
        maker = self._sides.maker(None)
        self._acknowledge(incoming, maker.on_cancel_asked(incoming, message, raw))

    def _on_status(self, incoming: Incoming) -> None:
        request = decode(incoming.body, TradeStatusRequest)
        trade = self._trades.by_id.get(request.trade_id)
        again = partial(self._sessions.again, incoming)
        if trade is None:
            if not self._trades.recall("trade", request.trade_id, again):
                self._sessions.refuse(incoming, RejectReason.UNKNOWN_TRADE)
        elif self._trades.counterparty(trade) != incoming.peer:
            self._sessions.refuse(incoming, RejectReason.WRONG_PARTY)
        else:
            self._acknowledge(incoming, trade)

    def _acknowledge(self, incoming: Incoming, trade: Trade) -> None:
        last = self._trades.last_own_message(trade)
        self._sessions.answer(incoming, TradeStatus(trade.state.value, last))

    def _refuse(self, incoming: Incoming, message: AnyTradeMessage, reason: RejectReason) -> None:
        self._core.log(
            "warning",
            "trade_message_refused",
            trade_id=message.trade_id.hex(),
            peer=short(incoming.peer),
            kind=str(message.__struct_config__.tag),
            reason=reason.value,
        )
        self._sessions.refuse(incoming, reason)
