"""The taker's side of a swap: our invoice of leg 2, our payment of leg 1, and the end of both.

The preimage is ours, and leaves our Lightning node only for the payment of leg 2, so leg 1 can be
paid without trust: the maker gets it for leg 2 only.  What is not about the two legs is as in
taker.py.
"""

from __future__ import annotations

from zmqex.kernel.core import Backend
from zmqex.kernel.effects import (
    CancelInvoice,
    CreateInvoice,
    LookupInvoice,
    LookupPayment,
    PayInvoice,
)
from zmqex.kernel.events import InvoiceCreated, InvoiceSeen, LightningFailed, PaymentSeen
from zmqex.kernel.invoices import memo_of
from zmqex.kernel.records import Trade
from zmqex.kernel.taker import Taker
from zmqex.limits import CLTV_LIMIT_BLOCKS, INVOICE_EXPIRY_S
from zmqex.protocol.messages import InvoiceFailed, TradeInvoice, TradeSettled
from zmqex.reasons import RejectReason
from zmqex.trading import swap
from zmqex.trading.settlement import Expected, fee_limit_msat, proves_payment, why_not_pay
from zmqex.trading.states import Input, State
from zmqex.trading.swap import Leg

# Nothing of ours is locked in these.
_NOT_PAYING = frozenset({State.ACCEPTED, State.INVOICED})
# Of these nothing comes any more.
_LEFT = frozenset({State.ABANDONING, State.CANCELLED})
_MOVING = frozenset({State.PAYING, State.RECEIVED, State.PAID})


class SwapTaker(Taker):
    """Carries swaps in which we took another maker's order to an end."""

    def accepted(self, trade: Trade) -> None:
        """The maker holds it for us: check its invoice of leg 1, then make ours of leg 2."""
        self._arm(trade)
        reason = swap.why_not_amounts(*self._legs(trade)) or self._why_not_pay(trade)
        if reason is not None:
            self.abandon(trade, reason)
        else:
            self._create_invoice(trade)

    def _legs(self, trade: Trade) -> tuple[Leg, Leg]:
        return swap.legs(trade.side, trade.market, trade.base_msat, trade.quote_units)

    def _backend(self, leg: Leg) -> Backend:
        """Our node of a leg; one that is gone from the settings does as if it could do nothing."""
        return self._core.settings.backend(leg.asset) or Backend()

    # --- leg 2: ours to receive ------------------------------------------------------------------

    def _create_invoice(self, trade: Trade) -> None:
        _, leg2 = self._legs(trade)
        self._core.emit(
            CreateInvoice(
                trade.trade_id,
                trade.payment_hash,
                trade.preimage,
                leg2.amount_msat,
                memo_of(self._core, trade),
                INVOICE_EXPIRY_S,
                leg2.asset,
            )
        )

    def on_invoice_created(self, trade: Trade, event: InvoiceCreated) -> None:
        """Our invoice of leg 2 exists: send it to the maker, and pay leg 1."""
        _, leg2 = self._legs(trade)
        if event.asset != leg2.asset or not self._trades.can(trade, Input.INVOICE_MADE):
            if trade.state in _LEFT:
                self._drop_invoice(trade)
            return
        trade = self._trades.move(trade, Input.INVOICE_MADE, taker_invoice=event.invoice)
        node = self._backend(leg2).node
        trade = self._trades.say(trade, TradeInvoice, invoice=event.invoice, lightning_node=node)
        self._arm(trade)
        self._go_on(trade)

    def on_invoice_seen(self, trade: Trade, event: InvoiceSeen) -> None:
        """Lightning has said how leg 2 stands."""
        _, leg2 = self._legs(trade)
        if event.asset != leg2.asset:
            return
        if event.state == "settled" and self._trades.can(trade, Input.RECEIVED):
            self._settled(self._trades.move(trade, Input.RECEIVED, reason=""))
        elif event.state == "canceled" and self._trades.can(trade, Input.GIVEN_BACK):
            self._trades.move(trade, Input.GIVEN_BACK, reason=RejectReason.INVOICE_EXPIRED.value)
        elif trade.state is State.ACCEPTED:
            # Looked up because nothing was known: the same preimage gives the same invoice.
            self._create_invoice(trade)

    def _drop_invoice(self, trade: Trade) -> None:
        """Nobody shall pay leg 2 of a swap that we have left."""
        _, leg2 = self._legs(trade)
        if leg2.amount_msat:
            self._core.emit(CancelInvoice(trade.trade_id, trade.payment_hash, leg2.asset))

    def on_invoice_failed(
        self, _trade: Trade, _message: InvoiceFailed, _envelope: bytes
    ) -> RejectReason | None:
        """No maker of a swap says so: it ends the trade."""
        return RejectReason.WRONG_STATE

    # --- leg 1: ours to pay ----------------------------------------------------------------------

    def _go_on(self, trade: Trade) -> None:
        waits = trade.pay_mode != "auto" or trade.trade_id in self._deferred
        if not waits and trade.state is State.INVOICED and not trade.reason:
            self.pay(trade)

    def pay(self, trade: Trade) -> RejectReason | None:
        """Pay leg 1, as soon as our invoice of leg 2 exists, or say why not."""
        if trade.state is State.ACCEPTED:
            self._trades.amend(trade, pay_mode="auto")
            return None
        return super().pay(trade)

    def _why_not_pay(self, trade: Trade) -> RejectReason | None:
        leg1, _ = self._legs(trade)
        prefix = self._backend(leg1).invoice_prefix
        hashed, payee = trade.payment_hash, trade.counterparty_node
        expected = Expected(prefix, leg1.amount_msat, hashed, payee)
        return why_not_pay(trade.invoice, expected, now_ms=self._core.now.wall_ms)

    def _send(self, trade: Trade) -> None:
        leg1, _ = self._legs(trade)
        self._core.emit(
            PayInvoice(
                trade.trade_id,
                trade.payment_hash,
                trade.invoice,
                fee_limit_msat(leg1.amount_msat),
                CLTV_LIMIT_BLOCKS,
                leg1.asset,
            )
        )

    def on_payment_seen(self, trade: Trade, event: PaymentSeen) -> None:
        """Lightning has said how leg 1 stands."""
        if event.asset != self._legs(trade)[0].asset:
            return
        preimage = event.preimage or b""
        if event.state == "succeeded" and proves_payment(preimage, trade.payment_hash):
            if self._trades.can(trade, Input.PAY_SUCCEEDED):
                self._settled(self._trades.move(trade, Input.PAY_SUCCEEDED, reason=""))
        elif event.state == "failed":
            self._payment_failed(trade, event.reason or RejectReason.PAYMENT_FAILED)
        elif event.state == "none" and trade.state is State.RECEIVED:
            self._payment_failed(trade, RejectReason.PAYMENT_FAILED)  # it never was sent
        elif event.state == "none" and trade.state is State.PAYING:
            # The intent is on disk, but the call never reached Lightning.
            late = self._core.now.wall_ms >= self._pay_deadline_ms(trade)
            reason = RejectReason.TOO_LATE_TO_PAY if late else self._why_not_pay(trade)
            if reason is None:
                self._send(trade)
            else:
                self._payment_failed(trade, reason)

    def _payment_failed(self, trade: Trade, reason: RejectReason) -> None:
        if self._trades.can(trade, Input.PAY_FAILED):
            trade = self._trades.move(trade, Input.PAY_FAILED, reason=reason.value)
            self._arm(trade)
            self._settled(trade)

    def _settled(self, trade: Trade) -> None:
        """Say so where it is; else look how the other leg stands."""
        if trade.state is State.SETTLED:
            self._trades.say(trade, TradeSettled)
        elif trade.state in _MOVING:
            self._look_again(trade.trade_id)

    def on_lightning_failed(self, trade: Trade, event: LightningFailed) -> None:
        """A call failed: give up what surely has not happened, look up the rest."""
        leg1, _ = self._legs(trade)
        if event.call == "pay" and event.asset == leg1.asset and not event.indeterminate:
            self._payment_failed(trade, event.reason)
        elif event.call == "create_invoice" and trade.state is State.ACCEPTED:
            if event.indeterminate:
                self._retry(trade)
            else:
                self.abandon(trade, RejectReason.LIGHTNING_UNAVAILABLE)

    # --- the way out, timers, a restart ----------------------------------------------------------

    def abandon(self, trade: Trade, reason: RejectReason) -> None:
        """Get out of a swap in which we have not moved; leg 2 cannot be paid any more then."""
        super().abandon(trade, reason)
        self._drop_invoice(trade)

    def returned(self, trade: Trade) -> None:
        """Nothing came of it."""
        super().returned(trade)
        self._drop_invoice(trade)

    def _arm(self, trade: Trade) -> None:
        if trade.state not in _NOT_PAYING:
            super()._arm(trade)
            return
        delay_ms = max(self._pay_deadline_ms(trade) - self._core.now.wall_ms, 0)
        key = trade.trade_id
        self._core.call_after(("trade", key), delay_ms, lambda: self._time_up(key))

    def _time_up(self, key: bytes) -> None:
        trade = self._trades.by_id[key]
        if trade.state in _NOT_PAYING:
            self.abandon(trade, RejectReason.TOO_LATE_TO_PAY)
        else:
            super()._time_up(key)

    def _look_again(self, key: bytes) -> None:
        trade = self._trades.by_id[key]
        leg1, leg2 = self._legs(trade)
        over = self._core.now.wall_ms >= self._pay_deadline_ms(trade)
        if trade.state in _NOT_PAYING and over:
            self.abandon(trade, RejectReason.TOO_LATE_TO_PAY)
            return
        if trade.state in {State.PAYING, State.RECEIVED}:
            self._core.emit(LookupPayment(key, trade.payment_hash, leg1.asset))
        if trade.state is not State.RECEIVED:
            self._core.emit(LookupInvoice(key, trade.payment_hash, leg2.asset))
        self._retry(trade)

    def resume(self, trade: Trade) -> None:
        """Take a running swap up again: a look-up before every decision about money."""
        if trade.state is State.ACCEPTED or trade.state in _MOVING:
            self._look_again(trade.trade_id)
        elif trade.state is State.INVOICED:
            self._arm(trade)
            self._go_on(trade)
        else:
            super().resume(trade)
