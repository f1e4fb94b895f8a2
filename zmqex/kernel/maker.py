"""The maker's side of an admitted trade: invoice, payment, quote - and the end of a hold.

Quantity returns only when Lightning has confirmed a negative end: at the end of a hold we look up,
cancel, look up again, and only then free it.  A time-out alone frees nothing, because a payment in
flight is stopped neither by a clock nor by a lost lock.  Not for admitting takes (admission.py) or
for takes of our own (taker.py).
"""

from __future__ import annotations

from zmqex.bolt11 import InvalidInvoiceError, decode
from zmqex.kernel.admission import Admission
from zmqex.kernel.core import Core
from zmqex.kernel.effects import (
    CancelInvoice,
    ExtendHold,
    LookupInvoice,
    LookupPayment,
    ReleaseHold,
)
from zmqex.kernel.events import InvoiceCreated, InvoiceSeen, LightningFailed, PaymentSeen
from zmqex.kernel.invoices import (
    create_invoice,
    is_lost,
    is_made_again,
    log_failure,
    pay_invoice,
)
from zmqex.kernel.orders import OwnOrders
from zmqex.kernel.records import Trade
from zmqex.kernel.sessions import Incoming
from zmqex.kernel.tombstones import Tombstones
from zmqex.kernel.trades import Trades
from zmqex.limits import (
    CONFIRM_MAX_MS,
    NEVER_MADE_MS,
    RETRY_LAST_MS,
    SECOND_MS,
)
from zmqex.protocol.messages import (
    Accept,
    InvoiceFailed,
    QuoteConfirmed,
    QuoteSent,
    TradeCancel,
    TradeCancelled,
    TradeInvoice,
    TradeSettled,
)
from zmqex.reasons import RejectReason
from zmqex.trading.settlement import (
    Expected,
    proves_payment,
    why_not_pay,
)
from zmqex.trading.states import Claim, Input, State

# An invoice that was sound and has become too old: the taker is asked for a fresh one.
_EXPIRED = frozenset({RejectReason.INVOICE_EXPIRED, RejectReason.INVOICE_EXPIRES_TOO_SOON})


class Maker:
    """Carries trades in which our order was taken to an end."""

    _never = Input.BASE_NEGATIVE  # what is locked for us, or was to be, never will be

    def __init__(self, core: Core, trades: Trades, orders: OwnOrders, admission: Admission) -> None:
        """Carry on whatever `admission` lets in."""
        self._core = core
        self._trades = trades
        self._orders = orders
        self._admission = admission
        self._ending: dict[bytes, RejectReason] = {}
        self._retries: dict[bytes, int] = {}
        self.tombstones = Tombstones(core, trades)

    def accept_of(self, trade: Trade) -> Accept | None:
        """What a take is answered with at once; None where its invoice is still to be made."""
        waits = trade.side == "buy" and not trade.invoice
        return None if waits else self._accept(trade)

    def begin(self, trade: Trade) -> None:
        """A take was admitted: make its invoice, unless that was done or is not ours to do."""
        self._arm(trade)
        if trade.side == "buy" and not trade.invoice:
            self._create_invoice(trade)

    def _node_of(self, _trade: Trade) -> bytes:
        """Our Lightning node that the invoice of an accept is for."""
        return self._core.settings.lightning_node

    def _accept(self, trade: Trade) -> Accept:
        return Accept(
            trade_id=trade.trade_id,
            previous=trade.take_digest,
            sent_at_ms=self._core.now.wall_ms,
            take_digest=trade.take_digest,
            quantity_lots=trade.quantity_lots,
            base_msat=trade.base_msat,
            quote_units=trade.quote_units,
            invoice=trade.invoice or None,
            payment_hash=None if trade.invoice or not trade.preimage else trade.payment_hash,
            pay_instructions=trade.pay_instructions,
            hold_ttl_ms=trade.hold_ttl_ms,
            hold_expires_at_ms=trade.hold_expires_ms,
            fence=trade.fence,
            lightning_node=self._node_of(trade),
        )

    def _hand_out(self, trade: Trade) -> None:
        """Answer a take whose invoice was made after it was written down."""
        trade, envelope = self._trades.sign(trade, self._accept(trade))
        self._admission.answer(trade, envelope)

    # --- invoices of a buying maker ------------------------------------------------------------

    def _create_invoice(self, trade: Trade) -> None:
        left_ms = trade.hold_expires_ms - self._core.now.wall_ms
        if left_ms <= SECOND_MS:
            self._end(trade, RejectReason.HOLD_ENDED)
            return
        self._core.emit(create_invoice(self._core, trade, left_ms // SECOND_MS))

    def on_invoice_created(self, trade: Trade, event: InvoiceCreated) -> None:
        """The invoice exists: hand it to the taker, unless the hold has ended meanwhile."""
        if not self._trades.can(trade, Input.INVOICE_MADE):
            return
        trade = self._trades.move(trade, Input.INVOICE_MADE, invoice=event.invoice)
        if trade.state is State.INVOICED:
            self._hand_out(trade)
        else:
            self._core.emit(CancelInvoice(trade.trade_id, trade.payment_hash))

    def on_invoice_seen(self, trade: Trade, event: InvoiceSeen) -> None:
        """Lightning has said how our invoice stands: the only thing that ends a hold for good."""
        self._admission.recovering.discard(trade.trade_id)
        if event.state == "settled":
            self._base_settled(trade)
        elif trade.state is State.CANCELLING:
            self._cancelling(trade, event)
        elif trade.trade_id in self._ending and self._trades.can(trade, Input.END_ASKED):
            self.end_now(trade, self._ending.pop(trade.trade_id))
        elif trade.state is State.RESERVED or (
            trade.state is State.INVOICED and is_made_again(self._core, trade, event.state)
        ):
            # Looked up because nothing was known: the same preimage gives the same invoice again.
            self._arm(trade)
            self._create_invoice(trade)
        elif trade.state is State.INVOICED and event.state == "canceled":
            self._end(trade, RejectReason.HOLD_ENDED)
        else:
            self._arm(trade)

    def _cancelling(self, trade: Trade, event: InvoiceSeen) -> None:
        # "unknown" is an end only when no call that could still make the invoice is under way.
        over_ms = trade.hold_expires_ms + NEVER_MADE_MS
        never_made = event.state == "unknown" and self._core.now.wall_ms >= over_ms
        if event.state == "canceled" or never_made or is_lost(trade, event.state):
            trade = self._trades.move(trade, Input.BASE_NEGATIVE)
            self.returned(trade)
        else:
            self._retry(trade)

    def _base_settled(self, trade: Trade) -> None:
        if not self._trades.can(trade, Input.BASE_SETTLED):
            return
        self._ending.pop(trade.trade_id, None)
        trade = self._trades.move(trade, Input.BASE_SETTLED, reason="")
        self.sold(trade)

    # --- the end of a hold ---------------------------------------------------------------------

    def _arm(self, trade: Trade) -> None:
        """Set the timer of the state that a trade is in."""
        delays = {
            State.RESERVED: trade.hold_expires_ms - self._core.now.wall_ms,
            State.INVOICED: trade.hold_expires_ms - self._core.now.wall_ms,
            State.BASE_DONE: CONFIRM_MAX_MS,
            State.QUOTE_SENT: CONFIRM_MAX_MS,
            State.PAY_INTENT: CONFIRM_MAX_MS,
        }
        if trade.state in delays:
            name, key = ("trade", trade.trade_id), trade.trade_id
            self._core.call_after(name, max(delays[trade.state], 0), lambda: self._time_up(key))

    def _time_up(self, key: bytes) -> None:
        trade = self._trades.by_id[key]
        if trade.state in {State.RESERVED, State.INVOICED}:
            self._end(trade, RejectReason.HOLD_ENDED)
        else:
            late = Input.INVOICE_TIME if trade.state is State.PAY_INTENT else Input.CONFIRM_TIME
            self._trades.move(trade, late, reason=RejectReason.TIMED_OUT.value)

    def _end(self, trade: Trade, reason: RejectReason) -> None:
        """End a hold on which nothing has moved: look up first, never the other way round."""
        if trade.side == "sell":
            trade = self._trades.move(trade, Input.END_ASKED, reason=reason.value)
            self.returned(trade)
        elif trade.state is State.HTLC_ACCEPTED:
            # Only we can settle what is locked, so nothing has to be looked up before.
            self.end_now(trade, reason)
        else:
            self._ending[trade.trade_id] = reason
            self._core.emit(LookupInvoice(trade.trade_id, trade.payment_hash))
            self._retry(trade)

    def end_now(self, trade: Trade, reason: RejectReason) -> None:
        """Have Lightning cancel our invoice, and give back what may be locked with it."""
        trade = self._trades.move(trade, Input.END_ASKED, reason=reason.value)
        self._admission.refuse(trade, reason)
        self._core.emit(CancelInvoice(trade.trade_id, trade.payment_hash))
        self._retry(trade)

    def is_called_off(self, trade: Trade) -> bool:
        """Whether somebody, and not only the clock, wants a hold to end that is being looked up."""
        return self._ending.get(trade.trade_id, RejectReason.HOLD_ENDED) is not (
            RejectReason.HOLD_ENDED
        )

    def stays(self, trade: Trade) -> None:
        """The base is locked: the hold does not end with its time, whoever looked it up."""
        self._ending.pop(trade.trade_id, None)
        self._retries.pop(trade.trade_id, None)
        self._admission.recovering.discard(trade.trade_id)
        self._admission.refuse(trade, RejectReason.ALREADY_PAID)

    def _retry(self, trade: Trade) -> None:
        """Ask Lightning again, 1, 2, 4 ... 30 seconds from now, until it has given a final word."""
        tries = self._retries.get(trade.trade_id, 0)
        self._retries[trade.trade_id] = tries + 1
        delay_ms = min(SECOND_MS << min(tries, 8), RETRY_LAST_MS)
        key = trade.trade_id
        self._core.call_after(("trade", key), delay_ms, lambda: self._look_again(key))

    def _look_again(self, key: bytes) -> None:
        trade = self._trades.by_id[key]
        over = self._core.now.wall_ms >= trade.hold_expires_ms
        if over and trade.state in {State.RESERVED, State.INVOICED}:
            self._ending.setdefault(key, RejectReason.HOLD_ENDED)
        if trade.state is State.PAYING:
            self._core.emit(LookupPayment(key, trade.payment_hash))
        elif trade.state is State.CANCELLING:
            self._core.emit(CancelInvoice(key, trade.payment_hash))
        else:
            self._core.emit(LookupInvoice(key, trade.payment_hash))
        self._retry(trade)

    def returned(self, trade: Trade) -> None:
        """The quantity is free again: tell Redis, the book and the taker."""
        self._retries.pop(trade.trade_id, None)
        self._core.emit(ReleaseHold(trade.order_id, trade.trade_id, trade.fence))
        self._orders.returned(trade.order_id, trade.quantity_lots)
        self._admission.refuse(trade, RejectReason(trade.reason))
        self._trades.say(trade, TradeCancelled, reason=trade.reason)

    def sold(self, trade: Trade) -> None:
        """Base has moved for good: the hold becomes a fill."""
        self._retries.pop(trade.trade_id, None)
        self._admission.refuse(trade, RejectReason.FILLED)
        self._core.emit(ReleaseHold(trade.order_id, trade.trade_id, trade.fence))
        self._orders.filled(trade.order_id, trade.quantity_lots)
        self._arm(trade)

    # --- what the taker says -------------------------------------------------------------------

    def on_cancel_asked(self, incoming: Incoming, message: TradeCancel, envelope: bytes) -> Trade:
        """The taker wants out; for a take that we never saw this forbids a later one."""
        self._admission.doom(message.trade_id)
        trade = self._trades.by_id.get(message.trade_id)
        if trade is None:
            return self.tombstones.add(incoming.peer, message)
        if not self._has_asked_to_cancel(trade):
            # Once: the same wish in other words would fill the journal.
            trade = self._trades.heard(trade, envelope)
        if self._trades.can(trade, Input.END_ASKED) and trade.trade_id not in self._ending:
            self._end(trade, RejectReason.CANCELLED)
        return self._trades.by_id[trade.trade_id]

    def _has_asked_to_cancel(self, trade: Trade) -> bool:
        said = self._trades.words(trade, trade.taker)
        return any(isinstance(one, TradeCancel) for one in said)

    def on_quote_sent(
        self, trade: Trade, message: QuoteSent, envelope: bytes
    ) -> RejectReason | None:
        """The buying taker says that the quote is on its way."""
        sells = trade.side == "sell" and not trade.is_tombstone
        if not sells or not self._trades.can(trade, Input.QUOTE_SAID):
            return RejectReason.WRONG_STATE
        late = trade.state is State.CANCELLED
        trade = self._trades.heard(trade, envelope)
        trade = self._trades.move(trade, Input.QUOTE_SAID, reference=message.reference, late=late)
        self.extend(trade)
        self._arm(trade)
        return None

    def on_quote_confirmed(self, trade: Trade, envelope: bytes) -> RejectReason | None:
        """The selling taker says that our quote has arrived."""
        if trade.side != "buy" or not self._trades.can(trade, Input.QUOTE_CONFIRMED):
            # The word can be faster than Lightning: the taker says it again.
            early = trade.side == "buy" and self._trades.can(trade, Input.BASE_SETTLED)
            return RejectReason.UNAVAILABLE if early else RejectReason.WRONG_STATE
        trade = self._trades.heard(trade, envelope)
        trade = self._trades.move(trade, Input.QUOTE_CONFIRMED)
        self._trades.say(trade, TradeSettled)
        return None

    def on_trade_invoice(
        self, trade: Trade, message: TradeInvoice, envelope: bytes
    ) -> RejectReason | None:
        """The buying taker's invoice, after we have confirmed its quote: check, then pay."""
        if trade.invoice == message.invoice:
            return None
        if trade.state is not State.PAY_INTENT:
            return RejectReason.WRONG_STATE
        try:
            payment_hash = decode(message.invoice).payment_hash
        except InvalidInvoiceError:
            return RejectReason.INVALID_INVOICE
        fresh = payment_hash != trade.payment_hash
        if fresh and (not trade.invoice or self._trades.is_foreign_hash(payment_hash)):
            return RejectReason.WRONG_PAYMENT_HASH
        expected = Expected(
            self._core.settings.invoice_prefix,
            trade.base_msat,
            payment_hash,
            message.lightning_node,
        )
        reason = why_not_pay(message.invoice, expected, now_ms=self._core.now.wall_ms)
        if reason is not None and reason not in _EXPIRED:
            return reason
        trade = self._trades.heard(trade, envelope)
        trade = self._trades.amend(
            trade,
            invoice=message.invoice,
            payment_hash=payment_hash,
            counterparty_node=message.lightning_node,
        )
        if reason is None:
            self.pay(trade)
        else:
            self._ask_for_fresh(trade, reason)
        return None

    # --- what our operator says ----------------------------------------------------------------

    def say_sent(self, trade: Trade, reference: str) -> Trade:
        """We have sent the quote (a buying maker, after base has settled)."""
        trade = self._trades.move(trade, Input.QUOTE_SAID, reference=reference)
        self._arm(trade)
        return self._trades.say(trade, QuoteSent, reference=reference)

    def say_received(self, trade: Trade) -> Trade:
        """The quote has arrived with us (a selling maker): from now on we owe the base."""
        trade = self._trades.move(trade, Input.QUOTE_CONFIRMED)
        self.extend(trade)
        self._arm(trade)
        return self._trades.say(trade, QuoteConfirmed)

    def say_cancel(self, trade: Trade) -> None:
        """End a hold on which nothing has moved."""
        self._end(trade, RejectReason.CANCELLED)

    def pay(self, trade: Trade) -> Trade:
        """Pay the taker's invoice: intent first; only Lightning's word ends it."""
        trade = self._trades.move(trade, Input.PAY_STARTED, reason="")
        self._core.emit(pay_invoice(trade))
        self._retry(trade)
        return trade

    def pay_again(self, trade: Trade) -> RejectReason | None:
        """Pay an invoice whose first payment failed for good, or say why not."""
        if not self._trades.can(trade, Input.PAY_STARTED):
            paid = trade.state in {State.PAYING, State.SETTLED}
            return RejectReason.ALREADY_PAID if paid else RejectReason.WRONG_STATE
        reason = why_not_pay(trade.invoice, self._expected(trade), now_ms=self._core.now.wall_ms)
        if reason is None:
            self.pay(trade)
        elif reason in _EXPIRED:
            self._ask_for_fresh(trade, reason)
        return reason

    def on_payment_seen(self, trade: Trade, event: PaymentSeen) -> None:
        """Lightning has said how our payment stands."""
        self._admission.recovering.discard(trade.trade_id)
        if trade.state is not State.PAYING or event.payment_hash != trade.payment_hash:
            return
        preimage = event.preimage or b""
        if event.state == "succeeded" and proves_payment(preimage, trade.payment_hash):
            trade = self._trades.move(trade, Input.PAY_SUCCEEDED, preimage=preimage)
            self.sold(trade)
            self._trades.say(trade, TradeSettled)
        elif event.state == "failed":
            self._payment_failed(trade, event.reason or RejectReason.PAYMENT_FAILED)
        elif event.state == "none":
            self._never_sent(trade)

    def _never_sent(self, trade: Trade) -> None:
        """The intent is on disk, but the call never reached Lightning: once more, by its hash."""
        reason = why_not_pay(trade.invoice, self._expected(trade), now_ms=self._core.now.wall_ms)
        if reason is None:
            self._core.emit(pay_invoice(trade))
        else:
            self._payment_failed(trade, reason)

    def _expected(self, trade: Trade) -> Expected:
        return Expected(
            self._core.settings.invoice_prefix,
            trade.base_msat,
            trade.payment_hash,
            trade.counterparty_node,
        )

    def _payment_failed(self, trade: Trade, reason: RejectReason) -> None:
        trade = self._trades.move(trade, Input.PAY_FAILED, reason=reason.value)
        self._retries.pop(trade.trade_id, None)
        self._arm(trade)
        if reason is not RejectReason.INSUFFICIENT_BALANCE:
            self._ask_for_fresh(trade, reason)

    def _ask_for_fresh(self, trade: Trade, reason: RejectReason) -> None:
        """Never pay this invoice, and say so: the taker cancels it before it makes another."""
        self._trades.say(trade, InvoiceFailed, payment_hash=trade.payment_hash, reason=reason.value)

    def on_lightning_failed(self, trade: Trade, event: LightningFailed) -> None:
        """A call failed: look up whatever may have happened, give up what surely has not."""
        log_failure(self._core, event)
        ours = trade.state is State.PAYING and event.payment_hash == trade.payment_hash
        if ours and event.call == "pay" and not event.indeterminate:
            self._payment_failed(trade, event.reason)
        elif (
            event.call in {"create_invoice", "create_hold_invoice"}
            and trade.state is State.RESERVED
        ):
            if event.indeterminate:
                self._retry(trade)
            elif event.reason is RejectReason.WRONG_PAYMENT_HASH:
                self._refuse_hash(trade)
            else:
                # There will be no invoice: whoever waits need not wait for the end of the hold.
                self._admission.refuse(trade, RejectReason.LIGHTNING_UNAVAILABLE)
                self._end(trade, RejectReason.LIGHTNING_UNAVAILABLE)
        # Look-ups and cancels have their retry timer.

    def _refuse_hash(self, trade: Trade) -> None:
        """The taker has named a hash of something else on our Lightning node: that is left alone.

        To cancel by this hash would take what a stranger has no part in.
        """
        self._ending.pop(trade.trade_id, None)
        self._admission.recovering.discard(trade.trade_id)
        reason = RejectReason.WRONG_PAYMENT_HASH.value
        trade = self._trades.move(trade, Input.END_ASKED, reason=reason)
        self.returned(self._trades.move(trade, self._never))

    def extend(self, trade: Trade) -> None:
        """Keep the Redis hold while the trade goes on after its 15 minutes."""
        if self._trades.claim_of(trade) is not Claim.HELD:
            return
        ttl_ms = trade.hold_ttl_ms
        self._core.emit(ExtendHold(trade.order_id, trade.trade_id, trade.fence, ttl_ms))
        key = trade.trade_id
        self._core.call_after(("extend", key), ttl_ms // 2, lambda: self._extend_again(key))

    def _extend_again(self, key: bytes) -> None:
        self.extend(self._trades.by_id[key])

    # --- after a restart -----------------------------------------------------------------------

    def resume(self, trade: Trade) -> None:
        """Take a running trade up again: a look-up before every decision about money."""
        key, payment_hash = trade.trade_id, trade.payment_hash
        if trade.state is State.PAYING:
            self._admission.recovering.add(key)
            self._core.emit(LookupPayment(key, payment_hash))
            self._retry(trade)
        elif trade.side == "buy" and trade.state in {State.RESERVED, State.INVOICED}:
            self._admission.recovering.add(key)
            self._core.emit(LookupInvoice(key, payment_hash))
            self._retry(trade)
        elif trade.state is State.CANCELLING:
            self._core.emit(CancelInvoice(key, payment_hash))
            self._retry(trade)
        else:
            self._arm(trade)
            if trade.state is not State.RESERVED:
                self.extend(trade)
