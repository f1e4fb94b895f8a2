"""The buyer of an `htlc` trade whose lock was lost after the quote had gone: it asks for another.

A rollover is an ordinary invoice, on a preimage of our own, that takes the place of the lock.  It
is made only once Lightning has said that the invoice before it is cancelled for good, so one of
them at most is ever alive; and once it is over, the trade is disputed again.  Not for paying one
(rollover_seller.py).
"""

from __future__ import annotations

import hashlib

from zmqex.kernel.asked import Asked
from zmqex.kernel.core import Core
from zmqex.kernel.effects import CancelInvoice, LookupInvoice
from zmqex.kernel.events import InvoiceCreated, InvoiceSeen, LightningFailed, PaymentSeen
from zmqex.kernel.invoices import create_invoice
from zmqex.kernel.maker import Maker
from zmqex.kernel.records import Trade
from zmqex.kernel.trades import Trades
from zmqex.limits import ATTEMPTS_MAX, RETRY_LAST_MS, ROLLOVER_MS, SECOND_MS
from zmqex.protocol.messages import InvoiceFailed, TradeMessage, TradeRollover, TradeSettled
from zmqex.reasons import RejectReason
from zmqex.trading.states import Input, State, TradeRole


class RolloverBuyer:
    """Asks to be paid anew, and ends what it asked for."""

    def __init__(self, core: Core, trades: Trades, maker: Maker) -> None:
        """Nobody has asked for a rollover yet."""
        self._core = core
        self._trades = trades
        self._maker = maker
        self._asked = Asked(core, trades, "rollover")
        trades.on_moved.append(self._moved)
        trades.on_refused.append(self._refused)

    # --- what our operator says ----------------------------------------------------------------

    def ask(self, client: bytes, request_id: int, trade: Trade) -> bool:
        """Ask to be paid anew; the last invoice is looked up first.  False where it cannot be."""
        if not self._trades.can(trade, Input.ROLLED):
            return False
        self._asked.wait(trade.trade_id, client, request_id)
        if trade.attempt >= ATTEMPTS_MAX:
            why = f"its base was asked for {ATTEMPTS_MAX} times: find another way to be paid"
            self._asked.refuse(trade, RejectReason.PAYMENT_FAILED, why)
        else:
            self._core.emit(LookupInvoice(trade.trade_id, trade.payment_hash))
        return True

    def call_off(self, trade: Trade, reason: RejectReason) -> Trade:
        """Take the fresh invoice back; whether it was paid meanwhile is Lightning's to say."""
        now_ms = self._core.now.wall_ms
        trade = self._trades.amend(trade, deadline_ms=now_ms, reason=reason.value)
        self._look(trade.trade_id)
        return trade

    def _moved(self, before: Trade, after: Trade) -> None:
        """Whoever asked need not wait when the trade has ended meanwhile."""
        if before.state in {State.DISPUTED, State.ROLLOVER} and after.state is not State.ROLLOVER:
            self._asked.answer(after)

    # --- while the trade is disputed -----------------------------------------------------------

    def while_disputed(
        self, trade: Trade, event: InvoiceCreated | InvoiceSeen | PaymentSeen | LightningFailed
    ) -> None:
        """Lightning speaks of a trade that is disputed and stays so."""
        if event.payment_hash != trade.payment_hash:
            return
        match event:
            case InvoiceCreated() if trade.attempt > 1:
                # It turns up after the rollover was given up: nobody knows it.
                self._core.emit(CancelInvoice(trade.trade_id, trade.payment_hash))
            case InvoiceSeen(state=state) if trade.trade_id in self._asked:
                self._decide(trade, state)
            case _:
                pass

    def _decide(self, trade: Trade, state: str) -> None:
        never_made = state == "unknown" and trade.attempt > 1 and not trade.invoice
        if state == "canceled" or never_made:
            self._begin(trade)
        elif state == "accepted":
            why = "the base is still locked for you: ask the seller to release it"
            self._asked.refuse(trade, RejectReason.WRONG_STATE, why)
        else:
            why = "Lightning does not say that the last invoice is cancelled for good: try again"
            self._asked.refuse(trade, RejectReason.LIGHTNING_UNAVAILABLE, why)

    def _begin(self, trade: Trade) -> None:
        preimage = self._core.random(32)
        trade = self._trades.move(
            trade,
            Input.ROLLED,
            attempt=trade.attempt + 1,
            preimage=preimage,
            payment_hash=hashlib.sha256(preimage).digest(),
            invoice="",
            htlc_expiry_height=0,
            deadline_ms=self._core.now.wall_ms + ROLLOVER_MS,
            reason="",
        )
        self._make_invoice(trade)
        self._poll(trade)

    # --- while the fresh invoice is out --------------------------------------------------------

    def _make_invoice(self, trade: Trade) -> None:
        left_ms = max(trade.deadline_ms - self._core.now.wall_ms, SECOND_MS)
        self._core.emit(create_invoice(self._core, trade, left_ms // SECOND_MS))

    def on_invoice_created(self, trade: Trade, event: InvoiceCreated) -> None:
        """Our fresh invoice exists: send it to the seller, once."""
        if event.payment_hash != trade.payment_hash or trade.invoice:
            return
        if self._is_over(trade):
            # It was taken back before it was made: nobody knows it.
            self._core.emit(CancelInvoice(trade.trade_id, trade.payment_hash))
            return
        trade = self._trades.move(trade, Input.INVOICE_MADE, invoice=event.invoice)
        node = self._core.settings.lightning_node
        trade = self._trades.say(
            trade,
            TradeRollover,
            attempt=trade.attempt,
            invoice=trade.invoice,
            lightning_node=node,
        )
        self._asked.answer(trade)

    def on_invoice_seen(self, trade: Trade, event: InvoiceSeen) -> None:
        """How our fresh invoice stands; an echo of one before it says nothing."""
        if event.payment_hash != trade.payment_hash:
            return
        over = self._is_over(trade)
        if event.state == "settled":
            trade = self._trades.move(trade, Input.BASE_SETTLED, reason="")
            if trade.role is TradeRole.MAKER:
                self._maker.sold(trade)
            self._trades.say(trade, TradeSettled)
        elif event.state == "canceled" or (event.state == "unknown" and over):
            self._lost(trade, RejectReason.INVOICE_EXPIRED)
        elif not trade.invoice:
            # Looked up because nothing was heard of it: the same preimage gives the same invoice.
            self._make_invoice(trade)

    def on_payment_seen(self, trade: Trade, event: PaymentSeen) -> None:
        """We do not pay here."""

    def on_lightning_failed(self, trade: Trade, event: LightningFailed) -> None:
        """A call failed: what was refused for good is given up, the rest is looked up."""
        refused = event.call == "create_invoice" and not event.indeterminate
        if refused and event.payment_hash == trade.payment_hash and not trade.invoice:
            why = "no invoice could be made: try again later"
            self._asked.refuse(trade, event.reason, why)
            self._lost(trade, RejectReason.PAYMENT_FAILED)

    def _lost(self, trade: Trade, reason: RejectReason) -> None:
        """Nothing will be paid by it any more: disputed as before."""
        self._trades.move(trade, Input.BASE_NEGATIVE, reason=trade.reason or reason.value)

    # --- what the seller says ------------------------------------------------------------------

    def on_invoice_failed(
        self, trade: Trade, message: InvoiceFailed, envelope: bytes
    ) -> RejectReason | None:
        """The seller will never pay this invoice: take it back."""
        if trade.state is not State.ROLLOVER or message.payment_hash != trade.payment_hash:
            return RejectReason.WRONG_STATE
        trade = self._trades.heard(trade, envelope)
        known = message.reason in set(RejectReason)
        reason = RejectReason(message.reason) if known else RejectReason.PAYMENT_FAILED
        self.call_off(trade, reason)
        return None

    def _refused(self, trade: Trade, message: TradeMessage, reason: RejectReason) -> None:
        """The seller has refused the rollover for good: the invoice is of no use."""
        ours = isinstance(message, TradeRollover) and message.attempt == trade.attempt
        if ours and trade.state is State.ROLLOVER:
            self.call_off(trade, reason)

    # --- time ----------------------------------------------------------------------------------

    def _is_over(self, trade: Trade) -> bool:
        return self._core.now.wall_ms >= trade.deadline_ms

    def _poll(self, trade: Trade) -> None:
        """Look again in half a minute, or when the invoice's time is over."""
        key, left_ms = trade.trade_id, trade.deadline_ms - self._core.now.wall_ms
        delay_ms = min(left_ms, RETRY_LAST_MS) if left_ms > 0 else RETRY_LAST_MS
        self._core.call_after(("trade", key), delay_ms, lambda: self._look(key))

    def _look(self, key: bytes) -> None:
        trade = self._trades.by_id[key]
        ask = CancelInvoice if self._is_over(trade) else LookupInvoice
        self._core.emit(ask(key, trade.payment_hash))
        self._poll(trade)

    def resume(self, trade: Trade) -> None:
        """Take a running rollover up again: a look-up first."""
        self._look(trade.trade_id)
        if trade.role is TradeRole.MAKER:
            self._maker.extend(trade)
