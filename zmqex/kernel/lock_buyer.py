"""The buyer of an `htlc` trade: the base is locked, the quote goes out, the preimage comes in.

The quote is only sent while the lock is sure to outlast its confirmation, by heights that Lightning
has just told, and the intent is on disk before anybody sends anything.  A preimage is on disk
before it is used; from then on the base is taken at once.  Up to the lock a maker's trade is
maker.py's; a taker makes its invoice here, and cancels it before it gives the take up.
"""

from __future__ import annotations

from typing import Final

from zmqex.kernel.asked import Asked
from zmqex.kernel.core import Core
from zmqex.kernel.effects import CancelInvoice, LookupInvoice, SettleInvoice
from zmqex.kernel.events import InvoiceCreated, InvoiceSeen, LightningFailed, PaymentSeen
from zmqex.kernel.invoices import create_invoice
from zmqex.kernel.maker import Maker
from zmqex.kernel.records import Trade
from zmqex.kernel.taker import Taker
from zmqex.kernel.trades import Trades
from zmqex.limits import HTLC_CONFIRM_MS, HTLC_SEND_MS, RETRY_LAST_MS, SECOND_MS
from zmqex.protocol.messages import (
    QuoteSent,
    TradeCancelled,
    TradeInvoice,
    TradeReleased,
    TradeSettled,
)
from zmqex.reasons import RejectReason
from zmqex.trading.blocks import may_send_quote
from zmqex.trading.settlement import HTLC, proves_payment
from zmqex.trading.states import Input, State, TradeRole

_LOCKED: Final = frozenset(
    {State.HTLC_ACCEPTED, State.QUOTE_INTENT, State.QUOTE_SENT, State.RELEASED}
)

# As far as we know, the quote is not on its way: whether it may be sent can be asked.
_UNSENT: Final = frozenset({State.HTLC_ACCEPTED, State.QUOTE_INTENT})
_LEAVES: Final = frozenset({State.INVOICED, State.CANCELLING})  # a taker whose invoice is out
_GOES_BACK: Final = "what was locked goes back to the seller: do not send the quote"


class LockBuyer:
    """Carries trades in which base is locked for us to an end."""

    def __init__(self, core: Core, trades: Trades, maker: Maker, taker: Taker) -> None:
        """Carry on what either of them has begun."""
        self._core = core
        self._trades = trades
        self._maker = maker
        self._taker = taker
        taker.on_ready_to_lock = self._begin
        self._asked = Asked(core, trades, "send")
        self._references: dict[bytes, str | None] = {}  # what `trade sent` said; None: `trade send`
        trades.on_moved.append(self._moved)

    # --- a taker's invoice ---------------------------------------------------------------------

    def _begin(self, trade: Trade) -> None:
        """The maker holds the quantity for us, and has drawn the preimage: ask it to lock."""
        trade = self._trades.amend(trade, deadline_ms=trade.hold_expires_ms)
        self._make_invoice(trade)
        self._poll(trade)

    def _make_invoice(self, trade: Trade) -> None:
        left_ms = max(trade.hold_expires_ms - self._core.now.wall_ms, SECOND_MS)
        self._core.emit(create_invoice(self._core, trade, left_ms // SECOND_MS))

    def on_invoice_created(self, trade: Trade, event: InvoiceCreated) -> None:
        """Our hold invoice exists."""
        if trade.role is TradeRole.MAKER:
            self._maker.on_invoice_created(trade, event)
        elif self._trades.can(trade, Input.INVOICE_MADE):
            trade = self._trades.move(trade, Input.INVOICE_MADE, invoice=event.invoice)
            node = self._core.settings.lightning_node
            self._trades.say(trade, TradeInvoice, invoice=event.invoice, lightning_node=node)
        elif trade.state is State.ABANDONING:
            # We have got out meanwhile; nobody knows it.
            self._core.emit(CancelInvoice(trade.trade_id, trade.payment_hash))

    def _taker_sees(self, trade: Trade, event: InvoiceSeen) -> None:
        """How the invoice of a taker stands that is not paid."""
        if trade.state is State.ACCEPTED:
            # Looked up because nothing was heard of it: the same hash gives the same invoice.
            self._make_invoice(trade)
        elif trade.state is State.INVOICED and event.state == "canceled":
            self.leave(trade, RejectReason.HOLD_ENDED)
        elif trade.state is State.CANCELLING and event.state in {"canceled", "unknown"}:
            trade = self._trades.move(trade, Input.BASE_NEGATIVE)
            self._taker.give_up(trade)
        elif event.state == "settled" and self._trades.can(trade, Input.BASE_SETTLED):
            self._settled(trade)

    def leave(self, trade: Trade, reason: RejectReason) -> None:
        """A taker gets out before it has sent anything: what is locked goes back first."""
        trade = self._trades.move(trade, Input.END_ASKED, reason=reason.value)
        self._ask_lightning(trade)
        self._poll(trade)

    def on_cancelled(
        self, trade: Trade, message: TradeCancelled, envelope: bytes
    ) -> RejectReason | None:
        """The maker's hold has ended: our invoice is cancelled before we believe it."""
        if trade.state is State.CANCELLING or self._trades.can(trade, Input.END_ASKED):
            if trade.state is not State.CANCELLING:
                self.leave(trade, RejectReason.CANCELLED)
            return RejectReason.UNAVAILABLE
        return self._taker.on_cancelled(trade, message, envelope)

    # --- what Lightning says -------------------------------------------------------------------

    def on_payment_seen(self, trade: Trade, event: PaymentSeen) -> None:
        """We do not pay here."""

    def on_invoice_seen(self, trade: Trade, event: InvoiceSeen) -> None:
        """How our hold invoice stands."""
        paid = event.state == "accepted" and event.received_msat >= trade.base_msat
        if trade.state in _LOCKED:
            self._while_locked(trade, event)
        elif (
            paid
            and self._trades.can(trade, Input.BASE_LOCKED)
            and not self._maker.is_called_off(trade)
        ):
            self._lock(trade, event)
        elif trade.role is TradeRole.MAKER:
            self._maker.on_invoice_seen(trade, event)
        else:
            self._taker_sees(trade, event)

    def _lock(self, trade: Trade, event: InvoiceSeen) -> None:
        """The base is locked for us: from now on the quote may be sent."""
        if trade.role is TradeRole.MAKER:
            self._maker.stays(trade)
        trade = self._trades.move(
            trade,
            Input.BASE_LOCKED,
            htlc_expiry_height=event.htlc_expiry_height or 0,
            deadline_ms=self._core.now.wall_ms + HTLC_SEND_MS,
            reason="",
        )
        if trade.role is TradeRole.MAKER:
            self._maker.extend(trade)
        self._poll(trade)

    def _while_locked(self, trade: Trade, event: InvoiceSeen) -> None:
        if event.state == "settled":
            self._settled(trade)
        elif event.state == "canceled":
            self._lost(trade)
        elif event.state == "accepted":
            if event.htlc_expiry_height not in {None, trade.htlc_expiry_height}:
                trade = self._trades.amend(trade, htlc_expiry_height=event.htlc_expiry_height)
            if trade.trade_id in self._asked and trade.state in _UNSENT:
                self._decide(trade, event)
        # "open" and "unknown": a backend that has just started may not know of the lock yet.

    def _settled(self, trade: Trade) -> None:
        trade = self._trades.move(trade, Input.BASE_SETTLED, reason="")
        if trade.role is TradeRole.MAKER:
            self._maker.sold(trade)
        self._trades.say(trade, TradeSettled)

    def _lost(self, trade: Trade) -> None:
        """What was locked has gone back: nothing has happened, or everything has to be told."""
        unsent = trade.state is State.HTLC_ACCEPTED
        reason = RejectReason.HOLD_ENDED if unsent else RejectReason.PAYMENT_FAILED
        trade = self._trades.move(trade, Input.BASE_NEGATIVE, reason=reason.value)
        self._asked.refuse(trade, reason, _GOES_BACK)
        if unsent and trade.role is TradeRole.MAKER:
            self._maker.returned(trade)
        elif unsent:
            self._taker.give_up(trade)

    def on_lightning_failed(self, trade: Trade, event: LightningFailed) -> None:
        """A call failed; what is refused for good is looked up, the rest comes again."""
        if trade.role is TradeRole.MAKER:
            self._maker.on_lightning_failed(trade, event)
        final = not event.indeterminate
        ours = trade.role is TradeRole.TAKER and trade.state is State.ACCEPTED
        if ours and final and event.call == "create_hold_invoice":
            self._taker.abandon(trade, event.reason)
        elif final and event.call == "settle":
            self._core.emit(LookupInvoice(trade.trade_id, trade.payment_hash))

    def on_height(self) -> None:
        """The chain has grown: what can no longer be sent in time is given back at once."""
        for trade in self._trades.running():
            if trade.settlement == HTLC and trade.state is State.HTLC_ACCEPTED:
                self._end_if_over(trade)

    # --- time ----------------------------------------------------------------------------------

    def _poll(self, trade: Trade) -> None:
        """Look again in half a minute, or at the trade's deadline."""
        key, left_ms = trade.trade_id, trade.deadline_ms - self._core.now.wall_ms
        delay_ms = min(left_ms, RETRY_LAST_MS) if left_ms > 0 else RETRY_LAST_MS
        self._core.call_after(("trade", key), delay_ms, lambda: self._look(key))

    def _look(self, key: bytes) -> None:
        trade = self._trades.by_id[key]
        over = self._core.now.wall_ms >= trade.deadline_ms
        if self._end_if_over(trade):
            return
        if over and trade.state is State.ACCEPTED:
            self._taker.abandon(trade, RejectReason.HOLD_ENDED)
            return
        if over and trade.state is State.INVOICED:
            self.leave(trade, RejectReason.HOLD_ENDED)
            return
        if over and self._trades.can(trade, Input.CONFIRM_TIME):
            reason = RejectReason.TIMED_OUT.value
            self._trades.move(trade, Input.CONFIRM_TIME, reason=reason)
            return
        self._ask_lightning(trade)
        self._poll(trade)

    def _end_if_over(self, trade: Trade) -> bool:
        """Give a lock back of which nothing can come any more, before anything was sent."""
        if trade.state is not State.HTLC_ACCEPTED:
            return False
        late = self._core.now.wall_ms >= trade.deadline_ms
        short = trade.htlc_expiry_height > 0 and not self._outlasts(trade, self._core.height)
        if not late and not short:
            return False
        asked = trade.trade_id in self._asked
        reference = self._references[trade.trade_id] if asked else None
        if reference is None:
            end = self._maker.end_now if trade.role is TradeRole.MAKER else self.leave
            end(trade, RejectReason.HOLD_ENDED)
        else:
            why = "it is too late to send the quote"
            self._sent_all_the_same(trade, reference, RejectReason.HOLD_ENDED, why)
        return True

    def _moved(self, before: Trade, after: Trade) -> None:
        """Whoever gives the lock back, the operator that asks is told at once."""
        if before.state is State.HTLC_ACCEPTED and after.state is State.CANCELLING:
            self._asked.refuse(after, RejectReason.HOLD_ENDED, _GOES_BACK)

    def _outlasts(self, trade: Trade, height: int) -> bool:
        """Whether the lock leaves the seller its time to confirm."""
        margin = self._core.settings.auto_cancel_blocks
        return may_send_quote(trade.htlc_expiry_height, height, margin)

    def _ask_lightning(self, trade: Trade) -> None:
        key, payment_hash = trade.trade_id, trade.payment_hash
        if trade.state is State.RELEASED:
            self._core.emit(SettleInvoice(key, payment_hash, trade.preimage))
        elif trade.state is State.CANCELLING:
            self._core.emit(CancelInvoice(key, payment_hash))
        else:
            self._core.emit(LookupInvoice(key, payment_hash))

    # --- what our operator says ----------------------------------------------------------------

    def send(self, client: bytes, request_id: int, trade: Trade, reference: str | None) -> bool:
        """Our operator is about to send the quote (None), or has (what the other side will see).

        The lock is looked up first.  False where neither can be said now.
        """
        key = trade.trade_id
        claims = trade.state is State.DISPUTED and reference is not None
        if (trade.state not in _UNSENT and not claims) or self._has_said(trade):
            return False
        self._asked.wait(key, client, request_id)
        if claims or (trade.state is State.QUOTE_INTENT and reference is not None):
            self._intended(trade, reference)
        else:
            self._references[key] = reference
            self._core.emit(LookupInvoice(key, trade.payment_hash))
        return True

    def _has_said(self, trade: Trade) -> bool:
        """Whether the seller has our word that the quote is on its way."""
        words = self._trades.words(trade, self._core.identity)
        return any(isinstance(one, QuoteSent) for one in words)

    def _decide(self, trade: Trade, event: InvoiceSeen) -> None:
        reference, why_not = self._references.pop(trade.trade_id), self._why_not_send(trade, event)
        if why_not is None:
            if trade.state is State.HTLC_ACCEPTED:
                deadline_ms = self._core.now.wall_ms + HTLC_CONFIRM_MS
                trade = self._trades.move(trade, Input.QUOTE_INTENDED, deadline_ms=deadline_ms)
                self._poll(trade)
            self._intended(trade, reference)
        elif reference is None:
            reason, why = why_not
            self._asked.refuse(trade, reason, f"{why}: do not send the quote")
        else:
            self._sent_all_the_same(trade, reference, *why_not)

    def _why_not_send(self, trade: Trade, event: InvoiceSeen) -> tuple[RejectReason, str] | None:
        if event.received_msat < trade.base_msat:
            return RejectReason.HOLD_ENDED, "less is locked than was agreed"
        if event.htlc_expiry_height is None:
            why = "Lightning does not say how long the lock lasts"
            return RejectReason.LIGHTNING_UNAVAILABLE, why
        if not self._outlasts(trade, max(event.height, self._core.height)):
            left = trade.htlc_expiry_height - event.height
            why = f"the lock ends in {left} blocks, too few to confirm the quote in"
            return RejectReason.HOLD_ENDED, why
        return None

    def _sent_all_the_same(
        self, trade: Trade, reference: str, reason: RejectReason, why: str
    ) -> None:
        """The operator has sent what it should not have: the lock is not given back for that."""
        trade = self._trades.move(trade, Input.DISPUTE, reference=reference, reason=reason.value)
        trade = self._trades.say(trade, QuoteSent, reference=reference)
        why = (
            f"{why}; as you have sent the quote, what is locked stays so, the seller is told, and "
            "the trade is disputed: ask the seller to release at once"
        )
        self._asked.refuse(trade, reason, why)

    def _intended(self, trade: Trade, reference: str | None) -> None:
        if reference is not None:
            trade = self._trades.move(trade, Input.QUOTE_SAID, reference=reference)
            trade = self._trades.say(trade, QuoteSent, reference=reference)
        self._asked.answer(trade)

    # --- what the seller says ------------------------------------------------------------------

    def on_released(
        self, trade: Trade, message: TradeReleased, envelope: bytes
    ) -> RejectReason | None:
        """The seller has the quote and gives the preimage away: the base is ours to take."""
        if not self._trades.can(trade, Input.PREIMAGE) or trade.attempt > 1:
            # The word can be faster than Lightning: the seller says it again.
            early = self._trades.can(trade, Input.BASE_LOCKED)
            return RejectReason.UNAVAILABLE if early else RejectReason.WRONG_STATE
        if not proves_payment(message.payment_preimage, trade.payment_hash):
            return RejectReason.WRONG_PAYMENT_HASH
        trade = self._trades.heard(trade, envelope)
        preimage = message.payment_preimage
        trade = self._trades.move(trade, Input.PREIMAGE, preimage=preimage, reason="")
        self._ask_lightning(trade)
        self._poll(trade)
        self._asked.answer(trade)
        return None

    # --- after a restart -----------------------------------------------------------------------

    def resume(self, trade: Trade) -> None:
        """Take a running trade up again: what is released is taken first of all."""
        makes = trade.role is TradeRole.MAKER
        if trade.state in _LOCKED or (not makes and trade.state in _LEAVES):
            self._ask_lightning(trade)
            self._poll(trade)
            if makes:
                self._maker.extend(trade)
        elif makes:
            self._maker.resume(trade)
        else:
            self._taker.resume(trade)
