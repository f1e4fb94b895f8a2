"""The taker's side of an accepted take: go first, or get out, and never pay for what we left.

A take that we abandon is cancelled at the maker, again and again until it has said so, and whatever
it accepts afterwards is never paid.  "In flight" is not "failed": only Lightning's final word ends
a payment.  Not for choosing makers (desk.py) or for asking them (taking.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from zmqex.kernel.core import Core
from zmqex.kernel.effects import CancelInvoice, LookupInvoice, LookupPayment
from zmqex.kernel.events import InvoiceCreated, InvoiceSeen, LightningFailed, PaymentSeen
from zmqex.kernel.invoices import create_invoice, lock_floor, pay_invoice
from zmqex.kernel.orders import OwnOrders
from zmqex.kernel.records import Trade
from zmqex.kernel.taking import Taking
from zmqex.kernel.trades import Trades
from zmqex.limits import (
    ABANDON_GRACE_MS,
    CONFIRM_MAX_MS,
    HOLD_TTL_MS,
    INVOICE_EXPIRY_S,
    PAY_START_MAX_MS,
    RETRY_LAST_MS,
    SECOND_MS,
)
from zmqex.protocol.messages import (
    InvoiceFailed,
    QuoteConfirmed,
    QuoteSent,
    TradeCancel,
    TradeCancelled,
    TradeInvoice,
    TradeSettled,
)
from zmqex.reasons import RejectReason
from zmqex.trading.settlement import HTLC, Expected, proves_payment, why_not_pay
from zmqex.trading.states import Input, State

_PAID = frozenset(
    {
        State.PAYING,
        State.BASE_DONE,
        State.QUOTE_SENT,
        State.RECEIVED,
        State.PAID,
        State.SETTLED,
    }
)


class Taker:
    """Carries trades in which we took another maker's order to an end."""

    def __init__(self, core: Core, trades: Trades, orders: OwnOrders, taking: Taking) -> None:
        """Carry on whatever `taking` brings in."""
        self._core = core
        self._trades = trades
        self._orders = orders
        self._taking = taking
        self._deferred: set[bytes] = set()
        self._retries: dict[bytes, int] = {}
        self.on_ready_to_lock: Callable[[Trade], None] = lambda _trade: None

    def defer(self, key: bytes) -> None:
        """Pay nothing of this trade before `release`: its order wants all or nothing."""
        self._deferred.add(key)

    def accepted(self, trade: Trade) -> None:
        """The maker holds it for us: check its invoice, where it has made one."""
        self._arm(trade)
        reason = self._why_not_pay(trade) if self._our_side(trade) == "sell" else None
        if reason is not None:
            self.abandon(trade, reason)
        else:
            self._go_on(trade)

    def _our_side(self, trade: Trade) -> str:
        return self._trades.our_side(trade)

    # --- paying: a selling taker ---------------------------------------------------------------

    def release(self, key: bytes) -> None:
        """Go on with a deferred trade now, as far as that happens by itself."""
        self._deferred.discard(key)
        self._go_on(self._trades.by_id[key])

    def _go_on(self, trade: Trade) -> None:
        if trade.trade_id in self._deferred or trade.state is not State.ACCEPTED:
            return
        if self._our_side(trade) == "buy":
            if trade.settlement == HTLC:
                self.on_ready_to_lock(trade)
        elif trade.pay_mode == "auto":
            self.pay(trade)

    def pay(self, trade: Trade) -> RejectReason | None:
        """Pay the maker's invoice, or say why not; the intent is on disk before the call."""
        if not self._trades.can(trade, Input.PAY_STARTED):
            paid = trade.state in _PAID
            return RejectReason.ALREADY_PAID if paid else RejectReason.WRONG_STATE
        if self._core.now.wall_ms >= self._pay_deadline_ms(trade):
            return RejectReason.TOO_LATE_TO_PAY
        reason = self._why_not_pay(trade)
        if reason is not None:
            return reason
        floor = lock_floor(self._core, trade)
        trade = self._trades.move(trade, Input.PAY_STARTED, reason="", htlc_expiry_height=floor)
        self._send(trade)
        self._retry(trade)
        return None

    def _send(self, trade: Trade) -> None:
        self._core.emit(pay_invoice(trade))

    def _pay_deadline_ms(self, trade: Trade) -> int:
        """Two of fifteen minutes stay for the payment to land, whatever the hold's length."""
        ttl_ms = min(trade.hold_ttl_ms, HOLD_TTL_MS)
        return trade.first_sent_ms + ttl_ms * PAY_START_MAX_MS // HOLD_TTL_MS

    def _why_not_pay(self, trade: Trade) -> RejectReason | None:
        expected = Expected(
            self._core.settings.invoice_prefix,
            trade.base_msat,
            trade.payment_hash,
            trade.counterparty_node,
        )
        return why_not_pay(trade.invoice, expected, now_ms=self._core.now.wall_ms)

    def on_payment_seen(self, trade: Trade, event: PaymentSeen) -> None:
        """Lightning has said how our payment stands."""
        if trade.state is not State.PAYING or event.payment_hash != trade.payment_hash:
            return
        preimage = event.preimage or b""
        if event.state == "succeeded" and proves_payment(preimage, trade.payment_hash):
            trade = self._trades.move(trade, Input.PAY_SUCCEEDED, preimage=preimage, reason="")
            self._arm(trade)
        elif event.state == "failed":
            self._payment_failed(trade, event.reason or RejectReason.PAYMENT_FAILED)
        elif event.state == "none":
            # The intent is on disk, but the call never reached Lightning.
            late = self._core.now.wall_ms >= self._pay_deadline_ms(trade)
            reason = RejectReason.TOO_LATE_TO_PAY if late else self._why_not_pay(trade)
            if reason is None:
                self._send(trade)
            else:
                self._payment_failed(trade, reason)

    def _payment_failed(self, trade: Trade, reason: RejectReason) -> None:
        trade = self._trades.move(trade, Input.PAY_FAILED, reason=reason.value)
        self._arm(trade)

    # --- the quote leg and the end -------------------------------------------------------------

    def say_sent(self, trade: Trade, reference: str) -> Trade:
        """We have sent the quote (a buying taker, inside the hold)."""
        trade = self._trades.move(trade, Input.QUOTE_SAID, reference=reference)
        self._arm(trade)
        return self._trades.say(trade, QuoteSent, reference=reference)

    def say_received(self, trade: Trade) -> Trade:
        """The maker's quote has arrived with us (a selling taker): the trade is settled."""
        trade = self._trades.move(trade, Input.QUOTE_CONFIRMED)
        trade = self._trades.say(trade, QuoteConfirmed)
        return self._trades.say(trade, TradeSettled)

    def on_quote_sent(
        self, trade: Trade, message: QuoteSent, envelope: bytes
    ) -> RejectReason | None:
        """The maker says that its quote is on its way."""
        if trade.state is State.PAYING:
            return RejectReason.UNAVAILABLE  # its word is faster than Lightning: it says it again
        if self._our_side(trade) != "sell" or not self._trades.can(trade, Input.QUOTE_SAID):
            return RejectReason.WRONG_STATE
        trade = self._trades.heard(trade, envelope)
        self._arm(self._trades.move(trade, Input.QUOTE_SAID, reference=message.reference))
        return None

    def on_quote_confirmed(self, trade: Trade, envelope: bytes) -> RejectReason | None:
        """The maker has our quote: now it wants our invoice."""
        if self._our_side(trade) != "buy" or not self._trades.can(trade, Input.QUOTE_CONFIRMED):
            return RejectReason.WRONG_STATE
        trade = self._trades.heard(trade, envelope)
        self._create_invoice(self._trades.move(trade, Input.QUOTE_CONFIRMED))
        return None

    def on_cancelled(
        self, trade: Trade, message: TradeCancelled, envelope: bytes
    ) -> RejectReason | None:
        """The maker's hold has ended and nothing was paid."""
        if trade.state is State.PAYING:
            return RejectReason.UNAVAILABLE  # Lightning says first how our payment has ended
        if not self._trades.can(trade, Input.GONE):
            return None if trade.state is State.CANCELLED else RejectReason.WRONG_STATE
        trade = self._trades.heard(trade, envelope)
        # The word is a peer's own: what is not one of ours says no more than that it is over.
        known = message.reason in set(RejectReason)
        self._gone(trade, message.reason if known else RejectReason.CANCELLED.value)
        return None

    def _gone(self, trade: Trade, reason: str) -> None:
        trade = self._trades.move(trade, Input.GONE, reason=trade.reason or reason)
        if trade.state is State.CANCELLED:
            # A disputed one goes on saying that the quote was sent.
            self.returned(trade)
        self._taking.finish(trade.trade_id)

    def returned(self, trade: Trade) -> None:
        """Nothing came of it: there is nothing more to say, and our own order has missed a part."""
        self._trades.forget_outbox(trade)
        if trade.rests:
            self._taking.give_back(trade)
        elif trade.counted:
            self._orders.lost(trade.own_order_id, trade.quantity_lots)

    def abandon(self, trade: Trade, reason: RejectReason) -> None:
        """Get out of a trade in which we have not moved; we will never pay for it."""
        trade = self._trades.move(self._taking.give_back(trade), Input.ABANDON, reason=reason.value)
        self._deferred.discard(trade.trade_id)
        self._abandoned(trade)

    def give_up(self, trade: Trade) -> None:
        """What was locked for us has gone back, and nothing was sent: get out of the trade."""
        self._abandoned(self._taking.give_back(trade))

    def _abandoned(self, trade: Trade) -> None:
        trade = self._trades.say(
            trade,
            TradeCancel,
            take_id=trade.take_id,
            taker=trade.taker,
            reason=RejectReason.CANCELLED.value,
        )
        self._arm(trade)
        # Whoever waits for the take need not wait for the maker's word.
        self._taking.finish(trade.trade_id)

    # --- invoices: a buying taker --------------------------------------------------------------

    def _create_invoice(self, trade: Trade) -> None:
        self._core.emit(create_invoice(self._core, trade, INVOICE_EXPIRY_S))
        self._retry(trade)

    def on_invoice_created(self, trade: Trade, event: InvoiceCreated) -> None:
        """Our invoice exists: send it to the maker."""
        if not self._trades.can(trade, Input.INVOICE_MADE):
            return
        trade = self._trades.move(trade, Input.INVOICE_MADE, invoice=event.invoice)
        self._trades.say(
            trade,
            TradeInvoice,
            invoice=event.invoice,
            lightning_node=self._core.settings.lightning_node,
        )
        self._arm(trade)

    def on_invoice_seen(self, trade: Trade, event: InvoiceSeen) -> None:
        """Lightning has said how our invoice stands."""
        if event.payment_hash != trade.payment_hash:
            return
        if event.state == "settled" and self._trades.can(trade, Input.BASE_SETTLED):
            trade = self._trades.move(trade, Input.BASE_SETTLED, reason="")
            self._trades.say(trade, TradeSettled)
        elif trade.state is State.CONFIRMED:
            # The same preimage gives the same invoice; if it has expired, the maker says so.
            self._create_invoice(trade)
        elif trade.state is State.INVOICED:
            self._invoice_unpaid(trade, event)

    def _invoice_unpaid(self, trade: Trade, event: InvoiceSeen) -> None:
        if not self._is_given_up(trade):
            self._arm(trade)
        elif event.state == "canceled":
            # Our node will take no payment for it any more.
            self._make_fresh(trade)
        else:
            self._core.emit(CancelInvoice(trade.trade_id, trade.payment_hash))
            self._retry(trade)

    def _make_fresh(self, trade: Trade) -> None:
        preimage = self._core.random(32)
        trade = self._trades.move(
            trade,
            Input.INVOICE_DEAD,
            preimage=preimage,
            payment_hash=hashlib.sha256(preimage).digest(),
            reason=RejectReason.PAYMENT_FAILED.value,
        )
        self._create_invoice(trade)

    def _is_given_up(self, trade: Trade) -> bool:
        """Whether the maker has said of this very invoice that it will never pay it."""
        return any(
            isinstance(one, InvoiceFailed) and one.payment_hash == trade.payment_hash
            for one in self._trades.words(trade, trade.maker)
        )

    def on_invoice_failed(
        self, trade: Trade, message: InvoiceFailed, envelope: bytes
    ) -> RejectReason | None:
        """The maker will never pay this invoice: cancel it, and only then make a fresh one."""
        if trade.state is not State.INVOICED or message.payment_hash != trade.payment_hash:
            return RejectReason.WRONG_STATE
        trade = self._trades.heard(trade, envelope)
        self._core.emit(CancelInvoice(trade.trade_id, trade.payment_hash))
        self._retry(trade)
        return None

    def on_lightning_failed(self, trade: Trade, event: LightningFailed) -> None:
        """A call failed: give up what surely has not happened, look up the rest."""
        ours = trade.state is State.PAYING and event.payment_hash == trade.payment_hash
        if ours and event.call == "pay" and not event.indeterminate:
            self._payment_failed(trade, event.reason)
        # Everything else is looked up by the retry timer.

    # --- timers --------------------------------------------------------------------------------

    def _arm(self, trade: Trade) -> None:
        now_ms, key = self._core.now.wall_ms, trade.trade_id
        pays = self._our_side(trade) == "sell"
        hold_end = trade.hold_expires_ms or trade.first_sent_ms + HOLD_TTL_MS
        at_ms = {
            State.ACCEPTED: self._pay_deadline_ms(trade) if pays else hold_end,
            State.ABANDONING: hold_end + ABANDON_GRACE_MS,
            State.BASE_DONE: now_ms + CONFIRM_MAX_MS,
            State.QUOTE_SENT: now_ms + CONFIRM_MAX_MS,
            State.INVOICED: now_ms + CONFIRM_MAX_MS,
        }.get(trade.state)
        if at_ms is not None:
            delay_ms = max(at_ms - now_ms, 0)
            self._core.call_after(("trade", key), delay_ms, lambda: self._time_up(key))

    def _time_up(self, key: bytes) -> None:
        trade = self._trades.by_id[key]
        if trade.state is State.ACCEPTED:
            pays = self._our_side(trade) == "sell"
            late = RejectReason.TOO_LATE_TO_PAY if pays else RejectReason.HOLD_ENDED
            self.abandon(trade, late)
        elif trade.state is State.ABANDONING:
            # The hold is over by any clock, and we have never paid and never will.
            self._gone(trade, RejectReason.HOLD_ENDED.value)
        else:
            invoiced = trade.state is State.INVOICED
            late_input = Input.INVOICE_TIME if invoiced else Input.CONFIRM_TIME
            self._trades.move(trade, late_input, reason=RejectReason.TIMED_OUT.value)

    def _retry(self, trade: Trade) -> None:
        """Look again, 1, 2, 4 ... 30 seconds from now, until Lightning has given its final word."""
        tries = self._retries.get(trade.trade_id, 0)
        self._retries[trade.trade_id] = tries + 1
        delay_ms = min(SECOND_MS << min(tries, 8), RETRY_LAST_MS)
        key = trade.trade_id
        self._core.call_after(("trade", key), delay_ms, lambda: self._look_again(key))

    def _look_again(self, key: bytes) -> None:
        trade = self._trades.by_id[key]
        look = LookupPayment if trade.state is State.PAYING else LookupInvoice
        self._core.emit(look(key, trade.payment_hash))
        self._retry(trade)

    # --- after a restart -----------------------------------------------------------------------

    def resume(self, trade: Trade) -> None:
        """Take a running trade up again: a look-up before every decision about money."""
        key = trade.trade_id
        if trade.state is State.TAKING:
            # Nobody waits for the answer any more, and the maker may hold it: get out.
            self.abandon(trade, RejectReason.TIMED_OUT)
        elif trade.state is State.PAYING:
            self._core.emit(LookupPayment(key, trade.payment_hash))
            self._retry(trade)
        elif trade.state in {State.CONFIRMED, State.INVOICED}:
            self._core.emit(LookupInvoice(key, trade.payment_hash))
            self._retry(trade)
        else:
            self._arm(trade)
            self._go_on(trade)
