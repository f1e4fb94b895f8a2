"""The buyer of an `htlc` trade: the base is locked, the quote goes out, the preimage comes in.

The quote is only sent while the lock is sure to outlast its confirmation, by heights that Lightning
has just told, and the intent is on disk before anybody sends anything.  A preimage is on disk
before it is used; from then on the base is taken at once.  Up to the lock a trade is the maker's
(maker.py).  Not for deciding what the quote is worth: that is the operator's.
"""

from __future__ import annotations

from typing import Final

from zmqex.kernel.asked import Asked
from zmqex.kernel.core import Core
from zmqex.kernel.effects import LookupInvoice, SettleInvoice
from zmqex.kernel.events import InvoiceCreated, InvoiceSeen, LightningFailed, PaymentSeen
from zmqex.kernel.maker import Maker
from zmqex.kernel.records import Trade
from zmqex.kernel.trades import Trades
from zmqex.limits import HTLC_CONFIRM_MS, HTLC_SEND_MS, RETRY_LAST_MS
from zmqex.protocol.messages import QuoteSent, TradeReleased, TradeSettled
from zmqex.reasons import RejectReason
from zmqex.trading.blocks import may_send_quote
from zmqex.trading.settlement import HTLC, proves_payment
from zmqex.trading.states import Input, State

_LOCKED: Final = frozenset(
    {State.HTLC_ACCEPTED, State.QUOTE_INTENT, State.QUOTE_SENT, State.RELEASED}
)

# As far as we know, the quote is not on its way: whether it may be sent can be asked.
_UNSENT: Final = frozenset({State.HTLC_ACCEPTED, State.QUOTE_INTENT})

_GOES_BACK: Final = "what was locked goes back to the seller: do not send the quote"


class LockBuyer:
    """Carries trades in which base is locked for us to an end."""

    def __init__(self, core: Core, trades: Trades, maker: Maker) -> None:
        """Carry on what `maker` has brought to a lock."""
        self._core = core
        self._trades = trades
        self._maker = maker
        self._asked = Asked(core, trades, "send")
        self._references: dict[bytes, str | None] = {}  # what `trade sent` said; None: `trade send`
        trades.on_moved.append(self._moved)

    # --- what Lightning says -------------------------------------------------------------------

    def on_invoice_created(self, trade: Trade, event: InvoiceCreated) -> None:
        """Our hold invoice exists."""
        self._maker.on_invoice_created(trade, event)

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
        else:
            self._maker.on_invoice_seen(trade, event)

    def _lock(self, trade: Trade, event: InvoiceSeen) -> None:
        """The base is locked for us: from now on the quote may be sent."""
        self._maker.stays(trade)
        trade = self._trades.move(
            trade,
            Input.BASE_LOCKED,
            htlc_expiry_height=event.htlc_expiry_height or 0,
            deadline_ms=self._core.now.wall_ms + HTLC_SEND_MS,
            reason="",
        )
        self._maker.extend(trade)
        self._poll(trade)

    def _while_locked(self, trade: Trade, event: InvoiceSeen) -> None:
        if event.state == "settled":
            trade = self._trades.move(trade, Input.BASE_SETTLED, reason="")
            self._maker.sold(trade)
            self._trades.say(trade, TradeSettled)
        elif event.state == "canceled":
            self._lost(trade)
        elif event.state == "accepted":
            if event.htlc_expiry_height not in {None, trade.htlc_expiry_height}:
                trade = self._trades.amend(trade, htlc_expiry_height=event.htlc_expiry_height)
            if trade.trade_id in self._asked and trade.state in _UNSENT:
                self._decide(trade, event)
        # "open" and "unknown": a backend that has just started may not know of the lock yet.

    def _lost(self, trade: Trade) -> None:
        """What was locked has gone back: nothing has happened, or everything has to be told."""
        unsent = trade.state is State.HTLC_ACCEPTED
        reason = RejectReason.HOLD_ENDED if unsent else RejectReason.PAYMENT_FAILED
        trade = self._trades.move(trade, Input.BASE_NEGATIVE, reason=reason.value)
        self._asked.refuse(trade, reason, _GOES_BACK)
        if unsent:
            self._maker.returned(trade)

    def on_lightning_failed(self, trade: Trade, event: LightningFailed) -> None:
        """A call failed; what is refused for good is looked up, the rest comes again."""
        self._maker.on_lightning_failed(trade, event)
        if event.call == "settle" and not event.indeterminate:
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
            self._maker.end_now(trade, RejectReason.HOLD_ENDED)
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
        else:
            self._core.emit(LookupInvoice(key, payment_hash))

    # --- what our operator says ----------------------------------------------------------------

    def send(self, client: bytes, request_id: int, trade: Trade, reference: str | None) -> bool:
        """Our operator is about to send the quote (None), or has (what the other side will see).

        The lock is looked up first.  False where neither can be said now.
        """
        key = trade.trade_id
        if trade.state not in _UNSENT:
            return False
        self._asked.wait(key, client, request_id)
        if trade.state is State.QUOTE_INTENT and reference is not None:
            self._intended(trade, reference)
        else:
            self._references[key] = reference
            self._core.emit(LookupInvoice(key, trade.payment_hash))
        return True

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
        if not self._trades.can(trade, Input.PREIMAGE):
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
        if trade.state not in _LOCKED:
            self._maker.resume(trade)
            return
        self._ask_lightning(trade)
        self._maker.extend(trade)
        self._poll(trade)
