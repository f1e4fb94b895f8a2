"""The seller of an `htlc` trade whose lock was lost: it pays the buyer's fresh invoice, or none.

The base must not be paid twice, so an invoice is taken for the last one's place only once Lightning
has said that the last one's payment has ended badly, and paid only when our operator has said that
the quote is here and Lightning has said, once more, that the lock never went over.  "In flight" and
"not known" are no such words.  The intent is on disk before the payment, and only Lightning's word
ends it.
"""

from __future__ import annotations

from typing import Final

from zmqex.bolt11 import decode, expires_at_ms
from zmqex.kernel.asked import Asked
from zmqex.kernel.core import Core
from zmqex.kernel.effects import LookupPayment
from zmqex.kernel.events import InvoiceCreated, InvoiceSeen, LightningFailed, PaymentSeen
from zmqex.kernel.invoices import invoice_hash, pay_invoice
from zmqex.kernel.maker import Maker
from zmqex.kernel.records import Trade
from zmqex.kernel.trades import Trades
from zmqex.limits import RETRY_LAST_MS, ROLLOVER_MS
from zmqex.protocol.messages import InvoiceFailed, TradeRollover, TradeSettled
from zmqex.reasons import RejectReason
from zmqex.trading.settlement import Expected, proves_payment, why_not_pay
from zmqex.trading.states import Input, State, TradeRole

# A payment of ours is under way, as far as we know: its end comes first.
_UNDER_WAY: Final = frozenset({State.QUOTE_SENT, State.RELEASED, State.ROLLOVER_PAYING})


class RolloverSeller:
    """Takes rollovers, and pays one when its operator says so."""

    def __init__(self, core: Core, trades: Trades, maker: Maker) -> None:
        """Nothing is known of any payment yet."""
        self._core = core
        self._trades = trades
        self._maker = maker
        self._asked = Asked(core, trades, "rollover release")
        self._ended: dict[bytes, bytes] = {}  # trade id -> the hash whose payment has ended badly
        trades.on_moved.append(self._moved)

    # --- what the buyer says -------------------------------------------------------------------

    def on_rollover(
        self, trade: Trade, message: TradeRollover, envelope: bytes
    ) -> RejectReason | None:
        """A fresh invoice for what was locked; our last payment is looked up before it counts."""
        if trade.state in _UNDER_WAY:
            return self._wait(trade)
        if not self._trades.can(trade, Input.ROLLED) or trade.late:
            return RejectReason.WRONG_STATE
        if message.attempt <= trade.attempt:
            return RejectReason.WRONG_STATE
        reason = self._why_not_take(trade, message)
        if reason is not None:
            return reason
        if self._ended.get(trade.trade_id) != trade.payment_hash:
            return self._wait(trade)
        self._take(self._trades.heard(trade, envelope), message)
        return None

    def _wait(self, trade: Trade) -> RejectReason:
        """The buyer says it again, once Lightning has said how our payment has ended."""
        self._core.emit(LookupPayment(trade.trade_id, trade.payment_hash))
        return RejectReason.UNAVAILABLE

    def _why_not_take(self, trade: Trade, message: TradeRollover) -> RejectReason | None:
        payment_hash = invoice_hash(message.invoice)
        if payment_hash and self._trades.is_foreign_hash(payment_hash):
            return RejectReason.WRONG_PAYMENT_HASH
        return self._why_not_pay(trade, message.invoice, payment_hash, message.lightning_node)

    def _why_not_pay(
        self, trade: Trade, invoice: str, payment_hash: bytes, node: bytes
    ) -> RejectReason | None:
        prefix = self._core.settings.invoice_prefix
        expected = Expected(prefix, trade.base_msat, payment_hash, node)
        return why_not_pay(invoice, expected, now_ms=self._core.now.wall_ms)

    def _take(self, trade: Trade, message: TradeRollover) -> None:
        expires_ms = expires_at_ms(decode(message.invoice))
        trade = self._trades.move(
            trade,
            Input.ROLLED,
            attempt=message.attempt,
            lock_hash=trade.lock_hash or trade.payment_hash,
            payment_hash=invoice_hash(message.invoice),
            preimage=b"",
            invoice=message.invoice,
            counterparty_node=message.lightning_node,
            htlc_expiry_height=0,
            deadline_ms=min(expires_ms, self._core.now.wall_ms + ROLLOVER_MS),
            reason="",
        )
        self._arm(trade)

    # --- what our operator says ----------------------------------------------------------------

    def release(self, client: bytes, request_id: int, trade: Trade) -> bool:
        """The quote has arrived: the lost lock is looked up first.  False where there is none."""
        if not self._trades.can(trade, Input.PAY_AGAIN):
            return False
        self._asked.wait(trade.trade_id, client, request_id)
        self._core.emit(LookupPayment(trade.trade_id, trade.lock_hash))
        return True

    def _moved(self, before: Trade, after: Trade) -> None:
        """What our operator said of one invoice pays none that comes after a dispute."""
        if before.state is State.ROLLOVER and after.state is State.DISPUTED:
            why = "it is disputed again, and nothing was paid"
            self._asked.refuse(after, RejectReason.WRONG_STATE, why)

    def _decide(self, trade: Trade, event: PaymentSeen) -> None:
        if trade.trade_id not in self._asked:
            return  # a word that nobody has asked for pays nothing
        if event.state != "failed":
            why = (
                "Lightning does not say that the payment that was locked has failed for good, so "
                "another one might pay twice; nothing was paid, try again"
            )
            self._asked.refuse(trade, RejectReason.LIGHTNING_UNAVAILABLE, why)
            return
        reason = self._why_not_pay_now(trade)
        if reason is not None:
            why = f"its invoice cannot be paid ({reason.value}); the buyer may send another"
            self._asked.refuse(trade, reason, why)
            return
        self._ended.pop(trade.trade_id, None)
        trade = self._trades.move(trade, Input.PAY_AGAIN, reason="")
        self._core.emit(pay_invoice(trade))
        self._poll(trade)
        self._asked.answer(trade)

    def _why_not_pay_now(self, trade: Trade) -> RejectReason | None:
        hash_and_node = (trade.payment_hash, trade.counterparty_node)
        return self._why_not_pay(trade, trade.invoice, *hash_and_node)

    # --- what Lightning says -------------------------------------------------------------------

    def while_disputed(
        self, trade: Trade, event: InvoiceCreated | InvoiceSeen | PaymentSeen | LightningFailed
    ) -> None:
        """Lightning speaks of a trade that is disputed and stays so."""
        if isinstance(event, PaymentSeen):
            self._note(trade, event)

    def _note(self, trade: Trade, event: PaymentSeen) -> None:
        """Remember that the last payment has ended badly.

        A lock was seen under way, so a Lightning node that does not know it has forgotten it.
        """
        never = event.state == "none" and trade.attempt > 1
        if event.payment_hash == trade.payment_hash and (event.state == "failed" or never):
            self._ended[trade.trade_id] = trade.payment_hash

    def on_invoice_created(self, trade: Trade, event: InvoiceCreated) -> None:
        """We make no invoice here."""

    def on_invoice_seen(self, trade: Trade, event: InvoiceSeen) -> None:
        """The invoice is the buyer's."""

    def on_payment_seen(self, trade: Trade, event: PaymentSeen) -> None:
        """How a payment of ours stands: of the lock that was lost, or of the fresh invoice."""
        fresh = event.payment_hash == trade.payment_hash
        if event.state == "succeeded":
            self._succeeded(trade, event, fresh=fresh)
        elif trade.state is State.ROLLOVER_PAYING:
            if fresh:
                self._while_paying(trade, event)
        elif event.payment_hash == trade.lock_hash:
            self._decide(trade, event)
        else:
            self._note(trade, event)

    def _succeeded(self, trade: Trade, event: PaymentSeen, *, fresh: bool) -> None:
        """The base has gone over, by whichever payment: nothing more is paid."""
        preimage = event.preimage or b""
        if not proves_payment(preimage, event.payment_hash):
            return
        trade = self._trades.move(
            trade, Input.PAY_SUCCEEDED, preimage=preimage if fresh else b"", reason=""
        )
        if trade.role is TradeRole.MAKER:
            self._maker.sold(trade)
        trade = self._trades.say(trade, TradeSettled)
        self._asked.answer(trade)

    def _while_paying(self, trade: Trade, event: PaymentSeen) -> None:
        if event.state == "failed":
            self._failed(trade, event.reason or RejectReason.PAYMENT_FAILED)
        elif event.state == "none":
            # The intent is on disk, but the call never reached Lightning: once more, by its hash.
            reason = self._why_not_pay_now(trade)
            if reason is None:
                self._core.emit(pay_invoice(trade))
            else:
                self._failed(trade, reason)

    def _failed(self, trade: Trade, reason: RejectReason) -> None:
        """Nothing was paid by it, and nothing will be: the buyer may ask once more."""
        if reason is RejectReason.LIGHTNING_UNAVAILABLE:  # a dispute's word for a node that is gone
            reason = RejectReason.PAYMENT_FAILED
        trade = self._trades.move(trade, Input.PAY_FAILED, reason=reason.value)
        failed = trade.payment_hash
        self._trades.say(trade, InvoiceFailed, payment_hash=failed, reason=reason.value)

    def on_lightning_failed(self, trade: Trade, event: LightningFailed) -> None:
        """A call failed; what may have happened is looked up again."""
        paying = trade.state is State.ROLLOVER_PAYING and event.payment_hash == trade.payment_hash
        if paying and event.call == "pay" and not event.indeterminate:
            self._failed(trade, event.reason)

    # --- time ----------------------------------------------------------------------------------

    def _arm(self, trade: Trade) -> None:
        """An invoice that nobody has paid ends with its time."""
        key, left_ms = trade.trade_id, trade.deadline_ms - self._core.now.wall_ms
        self._core.call_after(("trade", key), max(left_ms, 0), lambda: self._time_up(key))

    def _time_up(self, key: bytes) -> None:
        reason = RejectReason.INVOICE_EXPIRED.value
        self._trades.move(self._trades.by_id[key], Input.INVOICE_TIME, reason=reason)

    def _poll(self, trade: Trade) -> None:
        """Look again in half a minute: only Lightning ends a payment."""
        key = trade.trade_id
        self._core.call_after(("trade", key), RETRY_LAST_MS, lambda: self.look(key))

    def look(self, key: bytes) -> None:
        """Ask Lightning how our payment stands, now and again."""
        trade = self._trades.by_id[key]
        self._core.emit(LookupPayment(key, trade.payment_hash))
        self._poll(trade)

    def resume(self, trade: Trade) -> None:
        """Take a running rollover up again: a payment is looked up first."""
        if trade.state is State.ROLLOVER_PAYING:
            self.look(trade.trade_id)
        else:
            self._arm(trade)
        if trade.role is TradeRole.MAKER:
            self._maker.extend(trade)
