"""The seller of an `htlc` trade: its payment is locked until it gives the preimage away.

The preimage leaves this node by one way only: our operator says that the quote has arrived, and the
lock, looked up just then, still leaves the buyer time to use it.  After that it would be a gift for
nothing.  Only Lightning's word ends the payment.  Up to the payment a trade is the taker's
(taker.py).
"""

from __future__ import annotations

from typing import Final

from zmqex.kernel.asked import Asked
from zmqex.kernel.core import Core
from zmqex.kernel.effects import LookupPayment
from zmqex.kernel.events import InvoiceCreated, InvoiceSeen, LightningFailed, PaymentSeen
from zmqex.kernel.records import Trade
from zmqex.kernel.taker import Taker
from zmqex.kernel.trades import Trades
from zmqex.limits import AUTO_CANCEL_BLOCKS_MAX, RETRY_LAST_MS
from zmqex.protocol.messages import QuoteSent, TradeCancel, TradeReleased, TradeSettled
from zmqex.reasons import RejectReason
from zmqex.trading.blocks import may_release
from zmqex.trading.settlement import proves_payment
from zmqex.trading.states import Input, State

_SAID: Final = frozenset({State.QUOTE_SENT, State.RELEASED})


class LockSeller:
    """Carries trades in which we have locked base to an end."""

    def __init__(self, core: Core, trades: Trades, taker: Taker) -> None:
        """Carry on what `taker` has paid."""
        self._core = core
        self._trades = trades
        self._taker = taker
        self._asked = Asked(core, trades, "release")

    def is_asking(self, trade: Trade) -> bool:
        """Whether Lightning's next word of a trade is for our operator's release."""
        return trade.trade_id in self._asked

    # --- what Lightning says -------------------------------------------------------------------

    def on_invoice_created(self, trade: Trade, event: InvoiceCreated) -> None:
        """We make no invoice here."""

    def on_invoice_seen(self, trade: Trade, event: InvoiceSeen) -> None:
        """The invoice is the buyer's."""

    def on_payment_seen(self, trade: Trade, event: PaymentSeen) -> None:
        """How our payment stands: locked is not paid, and only its end ends anything."""
        proven = proves_payment(event.preimage or b"", trade.payment_hash)
        if event.state == "succeeded":
            if proven and self._trades.can(trade, Input.PAY_SUCCEEDED):
                trade = self._trades.move(trade, Input.PAY_SUCCEEDED, reason="")
                self._trades.say(trade, TradeSettled)
                self._asked.answer(trade)
        elif event.state == "in_flight":
            self._locked(trade, event)
        elif trade.state in _SAID:
            reason = RejectReason.PAYMENT_FAILED
            trade = self._trades.move(trade, Input.PAY_FAILED, reason=reason.value)
            self._asked.refuse(trade, reason, "what was locked is yours again")
        else:
            self._asked.refuse(trade, RejectReason.PAYMENT_FAILED, "nothing is locked any more")
            self._taker.on_payment_seen(trade, event)

    def _locked(self, trade: Trade, event: PaymentSeen) -> None:
        expiry = max(trade.htlc_expiry_height, event.htlc_expiry_height or 0)
        if expiry != trade.htlc_expiry_height:
            trade = self._trades.amend(trade, htlc_expiry_height=expiry)
        if trade.trade_id in self._asked:
            self._decide(trade, max(event.height, self._core.height))

    def on_lightning_failed(self, trade: Trade, event: LightningFailed) -> None:
        """A call failed; what may have happened is looked up again."""
        self._taker.on_lightning_failed(trade, event)

    # --- what our operator says ----------------------------------------------------------------

    def release(self, client: bytes, request_id: int, trade: Trade) -> bool:
        """The quote has arrived; the lock is looked up first.  False where that cannot be said."""
        if not self._trades.can(trade, Input.PREIMAGE):
            return False
        self._asked.wait(trade.trade_id, client, request_id)
        self._core.emit(LookupPayment(trade.trade_id, trade.payment_hash))
        return True

    def _decide(self, trade: Trade, height: int) -> None:
        margin = max(self._core.settings.auto_cancel_blocks, AUTO_CANCEL_BLOCKS_MAX)
        if not may_release(trade.htlc_expiry_height, height, margin):
            left = max(trade.htlc_expiry_height - height, 0)
            why = (
                f"the lock ends in {left} blocks: what you release now might be of no use to the "
                "buyer any more; the base comes back to you, so pay it in another way, or give the "
                "quote back, and end the trade with `trade dispute` and `trade resolve`"
            )
            self._asked.refuse(trade, RejectReason.HOLD_ENDED, why)
            return
        trade = self._trades.move(trade, Input.PREIMAGE, reason="")
        trade = self._trades.say(trade, TradeReleased, payment_preimage=trade.preimage)
        self._poll(trade)
        self._asked.answer(trade)

    def ask_back(self, trade: Trade) -> Trade:
        """Ask the buyer to give the lock back, which it does as long as it has sent nothing."""
        return self._trades.say(
            trade,
            TradeCancel,
            take_id=trade.take_id,
            taker=trade.taker,
            reason=RejectReason.CANCELLED.value,
        )

    # --- what the buyer says -------------------------------------------------------------------

    def on_quote_sent(
        self, trade: Trade, message: QuoteSent, envelope: bytes
    ) -> RejectReason | None:
        """The buyer says that the quote is on its way."""
        if not self._trades.can(trade, Input.QUOTE_SAID):
            return RejectReason.WRONG_STATE
        trade = self._trades.heard(trade, envelope)
        trade = self._trades.move(trade, Input.QUOTE_SAID, reference=message.reference)
        self._poll(trade)
        return None

    # --- time ----------------------------------------------------------------------------------

    def _poll(self, trade: Trade) -> None:
        """Look again in half a minute: only Lightning ends this."""
        key = trade.trade_id
        self._core.call_after(("trade", key), RETRY_LAST_MS, lambda: self.look(key))

    def look(self, key: bytes) -> None:
        """Ask Lightning how our payment stands, now and again."""
        trade = self._trades.by_id[key]
        self._core.emit(LookupPayment(key, trade.payment_hash))
        self._poll(trade)

    def resume(self, trade: Trade) -> None:
        """Take a running trade up again."""
        if trade.state in _SAID:
            self.look(trade.trade_id)
        else:
            self._taker.resume(trade)
