"""The small model of a settlement `htlc`: what is locked, for how many blocks, and who releases it.

Added to `tests.small_model`: locks end by height, blocks come at once and many, a backend gives a
payment back before its lock ends, and the seller gives its preimage away whenever it likes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.small_model import Action, Label, Run
from tests.small_state import Order, Saved, timers
from tests.small_takers import IDS, MAKER, TAKERS, preimage_of, text_of
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import SendTrade, SentTrade
from zmqex.kernel.records import PutTrade, Trade
from zmqex.limits import HTLC_CONFIRM_MS
from zmqex.protocol.codec import decode_envelope, decode_trade_message
from zmqex.protocol.messages import TradeReleased
from zmqex.reasons import RejectReason
from zmqex.trading.blocks import blocks_in, lock_blocks
from zmqex.trading.states import State

AUTO_CANCEL = 18
LOCK = lock_blocks(AUTO_CANCEL)
NEEDED = blocks_in(HTLC_CONFIRM_MS) + AUTO_CANCEL + 6
_ENDED = 5  # in the key of a trade: whether its hold has ended
LATEST = 18 + 6  # blocks that a seller wants to be left
_WAITING = {State.HTLC_ACCEPTED, State.QUOTE_INTENT, State.QUOTE_SENT}
_MAY_RELEASE = {*_WAITING, State.INVOICED, State.CANCELLING, State.DISPUTED}
_RELEASES = {State.PAYING, State.QUOTE_SENT}
_GUARDED = {State.HTLC_ACCEPTED, *_RELEASES}
_HOLDS = {State.RESERVED, State.INVOICED, State.CANCELLING}


class LockRun(Run):
    """A maker's node in the middle of a history with locks."""

    def __init__(self, order: Order, saved: Saved) -> None:
        """Start the node; it hears the height next."""
        self.broken: str | None = None
        super().__init__(order, saved)
        # What a lock must have left for the maker's next word.
        self._needed = NEEDED if order.side == "buy" else LATEST
        self._blocks(0)

    def _effect(self, effect: out.Effect) -> None:
        if isinstance(effect, out.Persist):
            for write in effect.writes:
                if isinstance(write, PutTrade):
                    self._check_intent(write.trade)
        super()._effect(effect)

    def _check_intent(self, after: Trade) -> None:
        """The quote may be sent only while the lock is sure to outlast its confirmation."""
        before = self.journal.trades.get(after.trade_id)
        if after.state is State.QUOTE_INTENT and before and before.state is not after.state:
            known = after.htlc_expiry_height == self.lightning.locks[after.payment_hash]
            if not known or after.htlc_expiry_height - self.kernel.core.height < NEEDED:
                self.broken = "a quote was sent for a lock that is too short"
        if after.state is State.RELEASED and before and self.order.side == "sell":
            late = self.kernel.core.height > self.lightning.locks[after.payment_hash] - LATEST
            if late and before.state is not after.state:
                self.broken = "a preimage was given away for a lock that is too short"

    # --- what can happen -------------------------------------------------------------------------

    def actions(self) -> Iterator[Action]:
        """Everything that may happen next."""
        states = {trade.state for trade in self.trades().values()}
        holds = _HOLDS if self.order.side == "buy" else {State.RESERVED}
        seen = set()
        for action in super().actions():
            seen.add(action)
            # The end of the hold is nothing to a trade whose base is locked.
            if action != ("hold ends",) or states & holds:
                yield action
        for label, _ in self.pending:
            if label[0] == "call" and label[2] == "PayInvoice" and ("go", *label) in seen:
                yield ("lose", *label)
                yield ("blur", *label)
        if any(self.clock_ms < one.deadline_ms for one in self.trades().values()):
            yield ("deadline",)
        left = [ends - self.height for ends in self._locks()]
        if states & _GUARDED and any(one >= self._needed for one in left):
            yield ("few blocks",)
        if left:
            yield ("all blocks",)

    def _locks(self) -> list[int]:
        return [ends for one, ends in self.lightning.locks.items() if self._is_locked(one)]

    def _is_locked(self, payment_hash: bytes) -> bool:
        invoice = self.lightning.invoices.get(payment_hash)
        return invoice == "accepted" or self.lightning.payments.get(payment_hash) == "in_flight"

    def _moves_of(self, at: int, trade: Trade | None) -> Iterator[Action]:
        if trade is None:
            return
        if self.order.side == "sell":
            yield from self._selling(at, trade)
            return
        for action in super()._moves_of(at, trade):
            # What is locked is the maker's to give up only before it has sent anything.
            if action[0] != "dispute" or trade.state in {*_WAITING, State.INVOICED}:
                yield action
        if trade.state is State.HTLC_ACCEPTED:
            yield ("send", at)
        if trade.state in {State.QUOTE_INTENT, State.DISPUTED}:
            yield ("said", at)
        # People who do not change their minds release when they are told that the quote was sent.
        when = _MAY_RELEASE if self.order.people else {State.QUOTE_SENT}
        if trade.state in when:
            yield ("release", at)

    def _selling(self, at: int, trade: Trade) -> Iterator[Action]:
        """What the buying taker does, and the operator of the selling maker."""
        if trade.state is State.RESERVED:
            yield ("invoice", at)
        if trade.state in {State.PAYING, State.CANCELLED}:
            yield ("sent", at)
        early = {State.PAYING, State.DISPUTED} if self.order.people else set()
        if trade.state in {State.QUOTE_SENT, *early}:
            yield ("received", at)
        if self.lightning.payments.get(trade.payment_hash) == "in_flight":
            yield ("bounce", at)
            if self._has_released(at):
                yield ("land", at)
        if self.order.people and trade.state in {State.RESERVED, State.PAYING}:
            yield ("cancel", at)
        if self.order.people and trade.state is State.QUOTE_SENT:
            yield ("dispute", at)
        if trade.state is State.DISPUTED:
            yield ("resolve", at, "settled")
            yield ("resolve", at, "cancelled")

    def do(self, action: Action) -> None:
        """Let it happen."""
        kind, *rest = action
        match kind:
            case "send":
                self._tell(SendTrade(IDS[rest[0]].hex()))
            case "said":
                self._tell(SentTrade(IDS[rest[0]].hex(), "wire"))
            case "release":
                trade = self.trades()[rest[0]]
                preimage = preimage_of(trade.payment_hash)
                self._hear(rest[0], TradeReleased(*self._head(rest[0]), preimage))
            case "few blocks" | "all blocks":
                self._blocks(LOCK - (self._needed - 1 if kind == "few blocks" else AUTO_CANCEL))
            case "deadline":
                self.clock_ms = max(one.deadline_ms for one in self.trades().values())
                self._poke(lambda: None)
            case "lose" | "blur":
                self._uncertain(tuple(rest), sent=kind == "blur")
            case _:
                super().do(action)

    def _uncertain(self, label: Label, *, sent: bool) -> None:
        """A payment of which nobody can say whether it was sent."""
        at = next(at for at, (one, _) in enumerate(self.pending) if one == label)
        _, effect = self.pending.pop(at)
        assert isinstance(effect, out.PayInvoice)
        if sent:
            self._call(effect, fails=False)
        event = happened.LightningFailed(
            effect.trade_id,
            effect.payment_hash,
            call="pay",
            indeterminate=True,
            reason=RejectReason.LIGHTNING_UNAVAILABLE,
            why="",
        )
        self._wait(("told", label[1], "LightningFailed", "pay"), event)

    def _blocks(self, count: int) -> None:
        """Blocks come: the node hears the height, and what is locked too long goes back."""
        self.height += count
        for payment_hash, ends in self.lightning.locks.items():
            over = self.height >= ends - AUTO_CANCEL
            if over and self.lightning.invoices.get(payment_hash) == "accepted":
                self.lightning.invoices[payment_hash] = "canceled"
                self._watched(payment_hash)
            if over and self.lightning.payments.get(payment_hash) == "in_flight":
                self.lightning.payments[payment_hash] = "failed"
        self._poke(lambda: self.kernel._on_height(happened.HeightSeen(self.height)))

    def _money(self, kind: str, payment_hash: bytes) -> None:
        """The seller pays: the base is locked; or the buyer takes it or gives it back."""
        if kind != "pay":
            super()._money(kind, payment_hash)
            return
        self.lightning.invoices[payment_hash] = "accepted"
        self.lightning.locks[payment_hash] = self.height + LOCK
        self._watched(payment_hash)

    def _watched(self, payment_hash: bytes) -> None:
        of = self.lightning.owner[payment_hash]
        seen = self._seen(payment_hash)
        self._wait(("watched", of, seen.state), seen)

    def _takers_invoice(self, at: int) -> str:
        trade = self.trades()[at]
        return text_of(trade.payment_hash, self.clock_ms, trade.base_msat, LOCK)

    def _paid(self, trade: bytes, payment_hash: bytes) -> happened.PaymentSeen:
        state: Any = self.lightning.payments.get(payment_hash, "none")
        if state == "succeeded":
            preimage = self.journal.trades[trade].preimage
            return happened.PaymentSeen(trade, payment_hash, state, preimage)
        if state != "in_flight":
            return happened.PaymentSeen(trade, payment_hash, state)
        ends = self.lightning.locks.setdefault(payment_hash, self.height + LOCK)
        lock = (None, None, ends, self.height)
        return happened.PaymentSeen(trade, payment_hash, state, *lock)

    def _seen(self, payment_hash: bytes) -> happened.InvoiceSeen:
        state: Any = self.lightning.invoices.get(payment_hash, "unknown")
        if state != "accepted":
            return happened.InvoiceSeen(payment_hash, state)
        ends = self.lightning.locks[payment_hash]
        return happened.InvoiceSeen(payment_hash, state, 10**12, ends, self.height)

    def _call(self, effect: Any, *, fails: bool) -> happened.Event:  # noqa: ANN401 - five kinds
        payment_hash, invoices = effect.payment_hash, self.lightning.invoices
        match effect:
            case out.SettleInvoice(preimage=preimage):
                assert preimage == preimage_of(payment_hash)
                if invoices[payment_hash] not in {"accepted", "settled"}:
                    return happened.LightningFailed(
                        effect.trade_id,
                        payment_hash,
                        call="settle",
                        indeterminate=False,
                        reason=RejectReason.LIGHTNING_UNAVAILABLE,
                        why="",
                    )
                invoices[payment_hash] = "settled"
            case out.CancelInvoice() if invoices.get(payment_hash) in {"open", "accepted"}:
                invoices[payment_hash] = "canceled"
            case out.LookupInvoice() | out.CancelInvoice():
                pass
            case _:
                return super()._call(effect, fails=fails)
        return self._seen(payment_hash)

    # --- the state -------------------------------------------------------------------------------

    def _key_of(self, at: int, trade: Trade) -> tuple[Any, ...]:
        left = self.lightning.locks.get(trade.payment_hash, self.height) - self.height
        known = trade.htlc_expiry_height - self.kernel.core.height
        unsent = trade.state is State.HTLC_ACCEPTED
        key = super()._key_of(at, trade)
        return (
            *(one for number, one in enumerate(key) if number != _ENDED or trade.state in _HOLDS),
            self._is_locked(trade.payment_hash) and left >= self._needed,
            (unsent or trade.state in _RELEASES) and known >= self._needed,
            self._has_released(at),
            trade.state is State.DISPUTED and self.kernel.lock_buyer._has_said(trade),
            trade.trade_id in self.kernel.sides.lock_seller._asked,
            trade.trade_id in self.kernel.sides.lock_seller._seen,
            bool(trade.preimage),
            trade.state in _WAITING and self.clock_ms >= trade.deadline_ms,
            trade.trade_id in self.kernel.lock_buyer._asked,
        )

    # --- what must be true -----------------------------------------------------------------------

    def wrong(self) -> str | None:
        """The first invariant that does not hold here, or None."""
        if self.broken:
            return self.broken
        names = {name for _, name in timers(self.kernel)}
        for at, trade in self.trades().items():
            invoice = self.lightning.invoices.get(trade.payment_hash)
            if trade.state is State.CANCELLED and invoice in {"accepted", "settled"}:
                return f"trade {at} is cancelled, and its lock is {invoice}"
            waits = {*_WAITING, *_RELEASES, State.RELEASED}
            if trade.state in waits and ("trade", trade.trade_id) not in names:
                return f"nothing ends trade {at}, {trade.state}"
            if trade.state is State.CANCELLED and self.lightning.payments.get(
                trade.payment_hash
            ) in {"in_flight", "succeeded"}:
                return f"trade {at} is cancelled, and its payment is not"
            if invoice == "settled" and trade.attempt == 1 and not self._has_released(at):
                return f"trade {at} was settled before the seller had released it"
            if trade.state is State.RELEASED and not trade.preimage:
                return f"trade {at} is released without a preimage"
        return super().wrong()

    def _has_released(self, at: int) -> bool:
        """Whether the seller's own signed word with the preimage is on disk."""
        return bool(self._released(at))

    def _released(self, at: int) -> bytes:
        """The preimage in the seller's own signed word, or b""."""
        seller = TAKERS[at] if self.order.side == "buy" else MAKER
        said = (
            decode_trade_message(decode_envelope(line.envelope).body)
            for line in self.journal.lines.values()
            if line.trade_id == IDS[at] and line.sender == seller.public_key
        )
        given = (one.payment_preimage for one in said if isinstance(one, TradeReleased))
        return next(given, b"")

    def is_quiet(self) -> bool:
        """Whether no trade waits for anything but a person or a deadline."""
        states = {trade.state for trade in self.trades().values()}
        return super().is_quiet() and State.RELEASED not in states
