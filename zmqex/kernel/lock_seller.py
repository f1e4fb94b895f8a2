"""The seller of an `htlc` trade: its payment is locked until it gives the preimage away.

The preimage leaves this node by one way only: our operator says that the quote has arrived, and the
lock, looked up just then, still leaves the buyer time to use it.  After that it would be a gift for
nothing.  Only Lightning's word ends the payment.  Up to the payment a trade is the maker's
(maker.py) or the taker's (taker.py).
"""

from __future__ import annotations

from typing import Final

from zmqex.kernel.asked import Asked
from zmqex.kernel.core import Core
from zmqex.kernel.effects import LookupPayment
from zmqex.kernel.events import InvoiceCreated, InvoiceSeen, LightningFailed, PaymentSeen
from zmqex.kernel.invoices import lock_floor, pay_invoice
from zmqex.kernel.maker import Maker
from zmqex.kernel.records import Trade
from zmqex.kernel.taker import Taker
from zmqex.kernel.trades import Trades
from zmqex.limits import AUTO_CANCEL_BLOCKS_MAX, RETRY_LAST_MS
from zmqex.protocol.messages import (
    QuoteSent,
    TradeCancel,
    TradeInvoice,
    TradeReleased,
    TradeSettled,
)
from zmqex.reasons import RejectReason
from zmqex.trading.blocks import may_release
from zmqex.trading.settlement import Expected, proves_payment, why_not_pay
from zmqex.trading.states import Input, State, TradeRole

_SAID: Final = frozenset({State.QUOTE_SENT, State.RELEASED})
_LEAVES: Final = frozenset({State.ACCEPTED, State.ABANDONING})  # a taker with nothing locked


class LockSeller:
    """Carries trades in which we have locked base to an end."""

    def __init__(self, core: Core, trades: Trades, maker: Maker, taker: Taker) -> None:
        """Carry on what either of them has begun."""
        self._core = core
        self._trades = trades
        self._maker = maker
        self._taker = taker
        self._asked = Asked(core, trades, "release")
        # Trades whose payment was seen under way since this node has started.
        self._seen: set[bytes] = set()

    def is_asking(self, trade: Trade) -> bool:
        """Whether Lightning's next word of a trade is for our operator's release."""
        return trade.attempt == 1 and trade.trade_id in self._asked

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
                if trade.role is TradeRole.MAKER:
                    self._maker.sold(trade)
                trade = self._trades.say(trade, TradeSettled)
                self._asked.answer(trade)
        elif event.state == "in_flight":
            self._locked(trade, event)
        elif trade.state in _SAID:
            reason = RejectReason.PAYMENT_FAILED
            trade = self._trades.move(trade, Input.PAY_FAILED, reason=reason.value)
            self._asked.refuse(trade, reason, "what was locked is yours again")
        else:
            self._asked.refuse(trade, RejectReason.PAYMENT_FAILED, "nothing is locked any more")
            if trade.role is TradeRole.TAKER:
                self._taker.on_payment_seen(trade, event)
            elif trade.state is State.PAYING:
                self._not_locked(trade, event)

    def _locked(self, trade: Trade, event: PaymentSeen) -> None:
        self._seen.add(trade.trade_id)
        expiry = max(trade.htlc_expiry_height, event.htlc_expiry_height or 0)
        if expiry != trade.htlc_expiry_height:
            trade = self._trades.amend(trade, htlc_expiry_height=expiry)
        if trade.trade_id in self._asked and self._trades.can(trade, Input.PREIMAGE):
            self._decide(trade, max(event.height, self._core.height))

    def _not_locked(self, trade: Trade, event: PaymentSeen) -> None:
        """A maker's payment has come back, or was never sent: once more, as long as it may be."""
        reason = event.reason or RejectReason.PAYMENT_FAILED
        if event.state == "none":
            never = self._why_not_lock(trade, trade.invoice, trade.counterparty_node)
            if never is None:
                self._core.emit(pay_invoice(trade))
                return
            reason = never
        self._came_back(trade, reason)

    def _came_back(self, trade: Trade, reason: RejectReason) -> None:
        trade = self._trades.move(trade, Input.PAY_FAILED, reason=reason.value)
        self._maker.returned(trade)

    def on_lightning_failed(self, trade: Trade, event: LightningFailed) -> None:
        """A call failed; what may have happened is looked up again."""
        paying = trade.role is TradeRole.MAKER and trade.state is State.PAYING
        if trade.role is TradeRole.TAKER:
            self._taker.on_lightning_failed(trade, event)
        elif paying and event.call == "pay" and not event.indeterminate:
            self._came_back(trade, event.reason)

    # --- what our operator says ----------------------------------------------------------------

    def release(self, client: bytes, request_id: int, trade: Trade) -> bool:
        """The quote has arrived; the lock is looked up first.  False where that cannot be said."""
        if not self._trades.can(trade, Input.PREIMAGE):
            return False
        self._asked.wait(trade.trade_id, client, request_id)
        self._core.emit(LookupPayment(trade.trade_id, trade.payment_hash))
        return True

    def _decide(self, trade: Trade, height: int) -> None:
        if not self._is_of_use(trade, height):
            if self._trades.can(trade, Input.QUOTE_SAID):
                # Our operator has the quote, though the buyer has not said a word: when the lock
                # comes back, the trade has not come to nothing.
                trade = self._trades.move(trade, Input.QUOTE_SAID)
                self._poll(trade)
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

    def _is_of_use(self, trade: Trade, height: int) -> bool:
        """Whether the buyer can still use a preimage that is given away now."""
        margin = max(self._core.settings.auto_cancel_blocks, AUTO_CANCEL_BLOCKS_MAX)
        return may_release(trade.htlc_expiry_height, height, margin)

    def ask_back(self, trade: Trade) -> Trade:
        """Ask the buyer to give the lock back, which it does as long as it has sent nothing."""
        return self._trades.say(
            trade,
            TradeCancel,
            take_id=trade.take_id,
            taker=trade.taker,
            reason=RejectReason.CANCELLED.value,
        )

    # --- locking: a selling maker ----------------------------------------------------------------

    def on_trade_invoice(
        self, trade: Trade, message: TradeInvoice, envelope: bytes
    ) -> RejectReason | None:
        """The taker's hold invoice on our hash: check it, write the intent down, lock."""
        if trade.invoice == message.invoice:
            return None
        if not self._trades.can(trade, Input.PAY_STARTED):
            return RejectReason.WRONG_STATE
        reason = self._why_not_lock(trade, message.invoice, message.lightning_node)
        if reason is not None:
            return reason
        trade = self._trades.heard(trade, envelope)
        trade = self._trades.amend(
            trade, invoice=message.invoice, counterparty_node=message.lightning_node
        )
        floor = lock_floor(self._core, trade)
        trade = self._trades.move(trade, Input.PAY_STARTED, reason="", htlc_expiry_height=floor)
        self._core.emit(pay_invoice(trade))
        self._maker.extend(trade)
        self._poll(trade)
        return None

    def _why_not_lock(self, trade: Trade, invoice: str, node: bytes) -> RejectReason | None:
        prefix = self._core.settings.invoice_prefix
        expected = Expected(prefix, trade.base_msat, trade.payment_hash, node)
        return why_not_pay(invoice, expected, now_ms=self._core.now.wall_ms)

    # --- what the buyer says -------------------------------------------------------------------

    def on_quote_sent(
        self, trade: Trade, message: QuoteSent, envelope: bytes
    ) -> RejectReason | None:
        """The buyer says that the quote is on its way, or was when the lock came back."""
        if not self._trades.can(trade, Input.QUOTE_SAID):
            leaving = trade.state in _LEAVES
            return RejectReason.UNAVAILABLE if leaving else RejectReason.WRONG_STATE
        late = trade.state is State.CANCELLED
        if not late and trade.trade_id not in self._seen:
            # Its word is faster than Lightning: it says it again.
            self._core.emit(LookupPayment(trade.trade_id, trade.payment_hash))
            return RejectReason.UNAVAILABLE
        trade = self._trades.heard(trade, envelope)
        trade = self._trades.move(trade, Input.QUOTE_SAID, reference=message.reference, late=late)
        if not late:
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
        makes = trade.role is TradeRole.MAKER
        if trade.state in _SAID or (makes and trade.state is State.PAYING):
            self.look(trade.trade_id)
            if makes:
                self._maker.extend(trade)
        elif makes:
            self._maker.resume(trade)
        else:
            self._taker.resume(trade)
