"""The maker's side of a swap: leg 1 is locked for us, we pay leg 2, its preimage opens leg 1.

Leg 2 is paid only while leg 1 is locked for long enough, and leg 1 is cancelled only after
Lightning has said of leg 2 that it is not paid and not on its way.  A node that has crashed in
between asks how leg 2 stands before anything else, and learns the preimage from there.  What is
not about the two legs is as in maker.py.
"""

from __future__ import annotations

from zmqex.bolt11 import decode
from zmqex.kernel.admission import Admission
from zmqex.kernel.core import Backend, Core
from zmqex.kernel.effects import (
    CancelInvoice,
    CreateHoldInvoice,
    LookupInvoice,
    LookupPayment,
    PayInvoice,
    SettleInvoice,
)
from zmqex.kernel.events import InvoiceCreated, InvoiceSeen, LightningFailed, PaymentSeen
from zmqex.kernel.invoices import log_failure, memo_of
from zmqex.kernel.maker import Maker
from zmqex.kernel.orders import OwnOrders
from zmqex.kernel.records import Trade
from zmqex.kernel.trades import Trades
from zmqex.limits import (
    CLTV_PADDING_BLOCKS,
    MIN_FINAL_CLTV_BLOCKS_MAX,
    NEVER_MADE_MS,
    SECOND_MS,
    SWAP_PAY_WITHIN_MS,
)
from zmqex.protocol.messages import Accept, TradeInvoice, TradeSettled
from zmqex.reasons import RejectReason
from zmqex.trading import swap
from zmqex.trading.settlement import Expected, fee_limit_msat, proves_payment, why_not_pay
from zmqex.trading.states import Claim, Input, State
from zmqex.trading.swap import Leg

# Nothing of ours is locked in these: the end of the hold ends the trade.
_NOT_PAYING = frozenset({State.RESERVED, State.INVOICED, State.HTLC_ACCEPTED})


class SwapMaker(Maker):
    """Carries swaps in which our order was taken to an end."""

    _never = Input.GIVEN_BACK

    def __init__(self, core: Core, trades: Trades, orders: OwnOrders, admission: Admission) -> None:
        """Carry on whatever `admission` lets in."""
        super().__init__(core, trades, orders, admission)
        # Trades of which Lightning's last word was that our payment of leg 2 never reached it.
        self._unsent: set[bytes] = set()

    def accept_of(self, _trade: Trade) -> Accept | None:
        """The invoice of leg 1 is on a hash of the taker: it comes after the trade is on disk."""
        return None

    def begin(self, trade: Trade) -> None:
        """A take was admitted: make the hold invoice of leg 1."""
        self._arm(trade)
        self._create_invoice(trade)

    def _legs(self, trade: Trade) -> tuple[Leg, Leg]:
        return swap.legs(trade.side, trade.market, trade.base_msat, trade.quote_units)

    def _backend(self, leg: Leg) -> Backend:
        """Our node of a leg; one that is gone from the settings does as if it could do nothing."""
        return self._core.settings.backend(leg.asset) or Backend()

    def _node_of(self, trade: Trade) -> bytes:
        return self._backend(self._legs(trade)[0]).node

    # --- leg 1: held for us ----------------------------------------------------------------------

    def _create_invoice(self, trade: Trade) -> None:
        left_ms = trade.hold_expires_ms - self._core.now.wall_ms
        if left_ms <= SECOND_MS:
            self._end(trade, RejectReason.HOLD_ENDED)
            return
        leg1, _ = self._legs(trade)
        self._core.emit(
            CreateHoldInvoice(
                trade.trade_id,
                trade.payment_hash,
                leg1.amount_msat,
                memo_of(self._core, trade),
                left_ms // SECOND_MS,
                # As long as a payer accepts, since leg 2 has to fit into it; LDK asks for 3 more.
                MIN_FINAL_CLTV_BLOCKS_MAX - CLTV_PADDING_BLOCKS,
                leg1.asset,
            )
        )

    def on_invoice_created(self, trade: Trade, event: InvoiceCreated) -> None:
        """The hold invoice exists: hand it to the taker, unless the hold has ended meanwhile."""
        if event.asset != self._legs(trade)[0].asset or not self._trades.can(
            trade, Input.INVOICE_MADE
        ):
            return
        trade = self._trades.move(trade, Input.INVOICE_MADE, invoice=event.invoice)
        if trade.state is State.INVOICED:
            self._hand_out(trade)
        else:
            self._look(trade)

    def on_invoice_seen(self, trade: Trade, event: InvoiceSeen) -> None:
        """Lightning has said how leg 1 stands."""
        leg1, _ = self._legs(trade)
        if event.asset != leg1.asset:
            return
        if trade.state is not State.PAYING:
            self._admission.recovering.discard(trade.trade_id)
        locked = event.state == "accepted" and event.received_msat >= leg1.amount_msat
        if locked and self._trades.can(trade, Input.LOCKED):
            trade = self._trades.move(trade, Input.LOCKED)
            self.extend(trade)
            self._arm(trade)
        if event.state == "settled":
            self._received(trade)
        elif event.state == "canceled":
            self._gone_back(trade)
        elif trade.state is State.CANCELLING:
            self._never_made(trade, event)
        elif trade.state is State.RESERVED:
            # Looked up because nothing was known: the same hash gives the same invoice again.
            self._arm(trade)
            self._create_invoice(trade)
        elif locked and trade.state is State.HTLC_ACCEPTED:
            self._pay_leg2(trade, event)
        elif locked and trade.state is State.PAYING:
            self._pay_leg2_again(trade, event)
        elif trade.state is State.RELEASED:
            self._while_released(trade, event)
        elif trade.state in _NOT_PAYING:
            self._arm(trade)

    def _while_released(self, trade: Trade, event: InvoiceSeen) -> None:
        """A lock that Lightning does not know of, when it should, is our operator's task as well.

        It is asked for until it is taken or has gone back: the backend may have just started.
        """
        over = self._core.now.wall_ms >= trade.hold_expires_ms + NEVER_MADE_MS
        lost = event.state == "unknown" and over
        reason = RejectReason.LIGHTNING_UNAVAILABLE.value if lost else ""
        if reason != trade.reason:
            self._trades.amend(trade, reason=reason)

    def _received(self, trade: Trade) -> None:
        if self._trades.can(trade, Input.RECEIVED):
            held = self._trades.claim_of(trade) is Claim.HELD
            trade = self._trades.move(trade, Input.RECEIVED, reason="")
            if held:
                self.sold(trade)
            self._trades.say(trade, TradeSettled)

    def _gone_back(self, trade: Trade) -> None:
        if trade.state in _NOT_PAYING:
            trade = self._trades.move(trade, Input.END_ASKED, reason=RejectReason.HOLD_ENDED.value)
        if trade.state is State.CANCELLING:
            self.returned(self._trades.move(trade, Input.GIVEN_BACK))
        elif self._trades.can(trade, Input.GIVEN_BACK):
            self._trades.move(trade, Input.GIVEN_BACK, reason=RejectReason.TIMED_OUT.value)

    def _never_made(self, trade: Trade, event: InvoiceSeen) -> None:
        # "unknown" is an end only when no call that could still make the invoice is under way.
        over_ms = trade.hold_expires_ms + NEVER_MADE_MS
        if event.state == "unknown" and self._core.now.wall_ms >= over_ms:
            self.returned(self._trades.move(trade, Input.GIVEN_BACK))
        else:
            self._retry(trade)

    # --- leg 2: ours to pay ----------------------------------------------------------------------

    def on_trade_invoice(
        self, trade: Trade, message: TradeInvoice, envelope: bytes
    ) -> RejectReason | None:
        """The taker's invoice of leg 2: checked now, and again before it is paid."""
        if trade.taker_invoice == message.invoice:
            return None
        if trade.taker_invoice or trade.state not in {State.INVOICED, State.HTLC_ACCEPTED}:
            return RejectReason.WRONG_STATE
        reason = self._why_not_pay(trade, message.invoice, message.lightning_node)
        if reason is not None:
            return reason
        trade = self._trades.heard(trade, envelope)
        trade = self._trades.amend(
            trade, taker_invoice=message.invoice, counterparty_node=message.lightning_node
        )
        if trade.state is State.HTLC_ACCEPTED:
            self._look(trade)
        return None

    def _why_not_pay(self, trade: Trade, invoice: str, payee: bytes) -> RejectReason | None:
        _, leg2 = self._legs(trade)
        prefix = self._backend(leg2).invoice_prefix
        expected = Expected(prefix, leg2.amount_msat, trade.payment_hash, payee)
        return why_not_pay(invoice, expected, now_ms=self._core.now.wall_ms)

    def _lock_limit(self, trade: Trade, event: InvoiceSeen) -> tuple[int, RejectReason | None]:
        """For how many blocks leg 2 may be locked, and why it cannot be paid at all."""
        expiry, leg1 = event.htlc_expiry_height or 0, self._legs(trade)[0]
        limit = swap.lock_limit(expiry, event.height, self._backend(leg1).auto_cancel_blocks)
        reason = self._why_not_pay(trade, trade.taker_invoice, trade.counterparty_node)
        if reason is None:
            wanted = decode(trade.taker_invoice).min_final_cltv
            reason = None if swap.is_long_enough(limit, wanted) else RejectReason.CLTV_TOO_LONG
        return limit, reason

    def _pay_leg2(self, trade: Trade, event: InvoiceSeen) -> None:
        """Leg 1 is locked as we speak: decide, write it down, pay."""
        if not trade.taker_invoice:
            return  # the end of the hold ends it, if the invoice does not come
        if event.htlc_expiry_height is None:
            self._retry(trade)
            return
        limit, reason = self._lock_limit(trade, event)
        if reason is not None:
            self._end(trade, reason)
            return
        now_ms = self._core.now.wall_ms
        trade = self._trades.move(trade, Input.PAY_STARTED, pay_begun_ms=now_ms, reason="")
        self._send(trade, limit)

    def _send(self, trade: Trade, limit: int) -> None:
        _, leg2 = self._legs(trade)
        self._core.emit(
            PayInvoice(
                trade.trade_id,
                trade.payment_hash,
                trade.taker_invoice,
                fee_limit_msat(leg2.amount_msat),
                limit,
                leg2.asset,
                trade.pay_begun_ms + SWAP_PAY_WITHIN_MS,
            )
        )
        self._retry(trade)

    def on_payment_seen(self, trade: Trade, event: PaymentSeen) -> None:
        """Lightning has said how leg 2 stands; its preimage is written down before it is used."""
        if event.asset != self._legs(trade)[1].asset:
            return
        self._admission.recovering.discard(trade.trade_id)
        self._unsent.discard(trade.trade_id)
        preimage = event.preimage or b""
        if event.state == "succeeded" and proves_payment(preimage, trade.payment_hash):
            if self._trades.can(trade, Input.PAY_SUCCEEDED):
                trade = self._trades.move(trade, Input.PAY_SUCCEEDED, preimage=preimage, reason="")
                self.sold(trade)
                self._look(trade)
        elif trade.state is State.CANCELLING and event.state in {"none", "failed"}:
            leg1, _ = self._legs(trade)
            self._core.emit(CancelInvoice(trade.trade_id, trade.payment_hash, leg1.asset))
        elif trade.state is not State.PAYING:
            return
        elif event.state == "failed":
            self._payment_failed(trade, event.reason or RejectReason.PAYMENT_FAILED)
        elif event.state == "none" and self._is_over(trade, SWAP_PAY_WITHIN_MS):
            # No call to pay is under way any more, and none has reached Lightning: look at leg 1.
            self._unsent.add(trade.trade_id)
            self._look_at_leg1(trade)

    def _pay_leg2_again(self, trade: Trade, event: InvoiceSeen) -> None:
        """The intent is on disk, but leg 2 was never sent: once more, or never."""
        if event.htlc_expiry_height is None or trade.trade_id not in self._unsent:
            return
        self._unsent.discard(trade.trade_id)
        limit, reason = self._lock_limit(trade, event)
        if reason is None:
            trade = self._trades.amend(trade, pay_begun_ms=self._core.now.wall_ms)
            self._send(trade, limit)
        elif self._is_over(trade, NEVER_MADE_MS):
            self._payment_failed(trade, reason)

    def pay_again(self, trade: Trade) -> RejectReason | None:
        """Nothing here waits for our operator: leg 2 is paid at once, or never."""
        paid = trade.state in {State.PAYING, State.RELEASED, State.SETTLED}
        return RejectReason.ALREADY_PAID if paid else RejectReason.WRONG_STATE

    def _is_over(self, trade: Trade, ms: int) -> bool:
        return self._core.now.wall_ms > trade.pay_begun_ms + ms

    def _payment_failed(self, trade: Trade, reason: RejectReason) -> None:
        """Leg 2 has not been paid and never will be: leg 1 may go back."""
        self._look(self._trades.move(trade, Input.PAY_FAILED, reason=reason.value))

    def on_lightning_failed(self, trade: Trade, event: LightningFailed) -> None:
        """A call failed: look up whatever may have happened, give up what surely has not."""
        log_failure(self._core, event)
        leg1, leg2 = self._legs(trade)
        paying = trade.state is State.PAYING and event.asset == leg2.asset
        if paying and event.call == "pay" and not event.indeterminate:
            self._payment_failed(trade, event.reason)
        elif event.call == "create_hold_invoice" and trade.state is State.RESERVED:
            if event.indeterminate:
                self._retry(trade)
            elif event.reason is RejectReason.WRONG_PAYMENT_HASH:
                self._refuse_hash(trade)
            else:
                self._end(trade, RejectReason.LIGHTNING_UNAVAILABLE)
        elif event.call == "settle" and not event.indeterminate:
            # Nothing is held any more: settled already, or gone back.
            self._core.emit(LookupInvoice(trade.trade_id, trade.payment_hash, leg1.asset))

    # --- the end of a hold, timers, a restart ----------------------------------------------------

    def _arm(self, trade: Trade) -> None:
        if trade.state in _NOT_PAYING:
            key, left_ms = trade.trade_id, trade.hold_expires_ms - self._core.now.wall_ms
            self._core.call_after(("trade", key), max(left_ms, 0), lambda: self._time_up(key))

    def _time_up(self, key: bytes) -> None:
        self._end(self._trades.by_id[key], RejectReason.HOLD_ENDED)

    def _end(self, trade: Trade, reason: RejectReason) -> None:
        """End a hold before leg 2 is paid: leg 1 goes back, so nobody has lost anything."""
        trade = self._trades.move(trade, Input.END_ASKED, reason=reason.value)
        self._admission.refuse(trade, reason)
        self._look(trade)

    def _look(self, trade: Trade) -> None:
        """Do what the state asks of Lightning now, and again until it has given a final word."""
        leg1, leg2 = self._legs(trade)
        key, payment_hash = trade.trade_id, trade.payment_hash
        match trade.state:
            case State.PAYING | State.CANCELLING:
                # Leg 1 is cancelled after the answer, if that is what it says.
                self._core.emit(LookupPayment(key, payment_hash, leg2.asset))
            case State.RELEASED:
                self._core.emit(SettleInvoice(key, payment_hash, trade.preimage, leg1.asset))
            case _:
                self._look_at_leg1(trade)
        self._retry(trade)

    def _look_at_leg1(self, trade: Trade) -> None:
        leg1, _ = self._legs(trade)
        self._core.emit(LookupInvoice(trade.trade_id, trade.payment_hash, leg1.asset))

    def _look_again(self, key: bytes) -> None:
        trade = self._trades.by_id[key]
        over = self._core.now.wall_ms >= trade.hold_expires_ms
        if over and trade.state in _NOT_PAYING:
            self._end(trade, RejectReason.HOLD_ENDED)
        else:
            self._look(trade)

    def resume(self, trade: Trade) -> None:
        """Take a running swap up again: a look-up before every decision about money."""
        if trade.state is not State.DISPUTED:
            if trade.state in _NOT_PAYING | {State.PAYING}:
                self._admission.recovering.add(trade.trade_id)
            self._look(trade)
