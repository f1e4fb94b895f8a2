"""Disputes: the operator says that a trade has gone wrong, and later how it ended.

No program can judge between two parties, so nothing here pays, and the quantity stays committed
until the operator has decided.  A trade ends as cancelled only if Lightning says first that its
base was never paid and never will be.  So a trade whose Lightning node is gone can only end as
settled, which frees nothing.  Not for claims that make a dispute by themselves (maker.py,
taker.py).
"""

from __future__ import annotations

from zmqex.kernel.commands import Command, DisputeTrade, ResolveTrade
from zmqex.kernel.core import Core
from zmqex.kernel.effects import CancelInvoice, LookupPayment
from zmqex.kernel.events import InvoiceCreated, InvoiceSeen, LightningFailed, PaymentSeen
from zmqex.kernel.records import Trade
from zmqex.kernel.sides import Sides
from zmqex.kernel.trades import Trades
from zmqex.kernel.views import find_by_prefix, id_problem, trade_view
from zmqex.limits import PAY_WAIT_MS
from zmqex.reasons import RejectReason
from zmqex.trading.settlement import HTLC, SWAP, proves_payment
from zmqex.trading.states import Claim, Input, State, TradeRole

LightningEvent = InvoiceCreated | InvoiceSeen | PaymentSeen | LightningFailed
_OUTCOMES = {"settled": Input.RESOLVE_SETTLED, "cancelled": Input.RESOLVE_CANCELLED}


class Disputes:
    """Answers DisputeTrade and ResolveTrade."""

    def __init__(self, core: Core, trades: Trades, sides: Sides) -> None:
        """Nobody is waiting for Lightning's word yet."""
        self._core = core
        self._trades = trades
        self._sides = sides
        self._asking: dict[bytes, tuple[bytes, int]] = {}  # trade id -> who wants it cancelled

    def on_command(self, client: bytes, request_id: int, command: Command) -> bool:
        """Answer a command if it is ours."""
        if not isinstance(command, DisputeTrade | ResolveTrade):
            return False
        found = find_by_prefix(command.trade_id, self._trades.by_id)
        if not isinstance(found, bytes):
            problem = id_problem(command.trade_id, found, "trade")
            self._core.refuse(client, request_id, *problem)
            return True
        trade = self._trades.by_id[found]
        if isinstance(command, DisputeTrade):
            self._dispute(client, request_id, trade)
        else:
            self._resolve(client, request_id, trade, command.outcome)
        return True

    def _dispute(self, client: bytes, request_id: int, trade: Trade) -> None:
        if self._trades.can(trade, Input.DISPUTE):
            trade = self._trades.move(trade, Input.DISPUTE, reason="")
            self._answer(client, request_id, trade)
        else:
            why = f"its state is {trade.state.value}, in which there is nothing to dispute"
            self._refuse(client, request_id, trade, RejectReason.WRONG_STATE, why)

    def node_lost(self, trade: Trade) -> None:
        """Our Lightning node of a trade is not ours any more: nothing moves by itself now."""
        if trade.state is not State.DISPUTED:
            held = self._is_held(trade)
            reason = RejectReason.LIGHTNING_UNAVAILABLE
            trade = self._trades.move(trade, Input.NODE_LOST, reason=reason.value)
            if held and not self._is_held(trade):
                self._sides.maker(trade).sold(trade)
        if trade.role is TradeRole.MAKER:
            self._sides.maker(trade).extend(trade)

    def _is_held(self, trade: Trade) -> bool:
        return trade.role is TradeRole.MAKER and self._trades.claim_of(trade) is Claim.HELD

    def _resolve(self, client: bytes, request_id: int, trade: Trade, outcome: str) -> None:
        how = _OUTCOMES.get(outcome)
        if how is None:
            why = "it ends as `settled` or as `cancelled`"
            self._refuse(client, request_id, trade, RejectReason.MALFORMED, why)
        elif trade.state is not State.DISPUTED:
            why = f"it is not disputed: its state is {trade.state.value}"
            self._refuse(client, request_id, trade, RejectReason.WRONG_STATE, why)
        elif how is Input.RESOLVE_CANCELLED and self._trades.lost_node(trade):
            why = (
                "only its own Lightning node could say that nothing was paid; end it as `settled`, "
                "which frees nothing, or start this node with that one"
            )
            self._refuse(client, request_id, trade, RejectReason.LIGHTNING_UNAVAILABLE, why)
        elif not self._trades.can(trade, how):
            paid = "one leg of it" if trade.settlement == SWAP else "its base"
            sure = "was" if trade.paid else "may have been"
            why = f"{paid} {sure} paid over Lightning, so it cannot end as cancelled"
            self._refuse(client, request_id, trade, RejectReason.ALREADY_PAID, why)
        elif how is Input.RESOLVE_SETTLED:
            self._settle(trade)
            self._answer(client, request_id, self._trades.by_id[trade.trade_id])
        else:
            self._look_first(client, request_id, trade)

    def _settle(self, trade: Trade) -> None:
        lost = self._trades.lost_node(trade)
        self._sell(trade, Input.RESOLVE_SETTLED)
        if trade.settlement == HTLC and self._trades.our_side(trade) == "buy" and not lost:
            # Whatever may still be locked for us is not ours to keep from its owner.
            self._core.emit(CancelInvoice(trade.trade_id, trade.payment_hash))

    def _sell(self, trade: Trade, how: Input) -> None:
        """Settle a dispute; what a maker's order still held for it is filled."""
        held = self._is_held(trade)
        trade = self._trades.move(trade, how)
        if held:
            self._sides.maker(trade).sold(trade)

    # --- cancelled: only with Lightning's word -------------------------------------------------

    def _look_first(self, client: bytes, request_id: int, trade: Trade) -> None:
        key = trade.trade_id
        pays = self._trades.our_side(trade) == "sell"
        ask = LookupPayment if pays else CancelInvoice
        self._asking[key] = (client, request_id)
        self._core.emit(ask(key, trade.payment_hash))
        self._core.call_after(("resolve", key), PAY_WAIT_MS, lambda: self._no_word(key))

    def on_lightning(self, trade: Trade, event: LightningEvent) -> None:
        """Lightning speaks of a disputed trade."""
        if event.payment_hash != trade.payment_hash:
            return
        moved = _moved(trade, event)
        if moved is not None and self._trades.can(trade, moved):
            # The money went over after all.
            self._sell(trade, moved)
            self._concluded(self._trades.by_id[trade.trade_id])
        elif trade.trade_id in self._asking and _is_negative(trade, event):
            self._cancel(trade)

    def _cancel(self, trade: Trade) -> None:
        reason = RejectReason.CANCELLED.value
        trade = self._trades.move(trade, Input.RESOLVE_CANCELLED, reason=reason)
        if not trade.late:
            self._sides.party(trade).returned(trade)
        self._concluded(self._trades.by_id[trade.trade_id])

    def _concluded(self, trade: Trade) -> None:
        self._core.cancel_timer(("resolve", trade.trade_id))
        client, request_id = self._asking.pop(trade.trade_id, (b"", 0))
        if client:
            self._answer(client, request_id, trade)

    def _no_word(self, key: bytes) -> None:
        client, request_id = self._asking.pop(key)
        why = "Lightning does not say that its base will never be paid; it stays disputed"
        reason = RejectReason.LIGHTNING_UNAVAILABLE
        self._refuse(client, request_id, self._trades.by_id[key], reason, why)

    # --- private -------------------------------------------------------------------------------

    def _answer(self, client: bytes, request_id: int, trade: Trade) -> None:
        view = trade_view(self._trades, trade, self._core.now.wall_ms)
        self._core.answer(client, request_id, {"trade": view})

    def _refuse(
        self, client: bytes, request_id: int, trade: Trade, reason: RejectReason, why: str
    ) -> None:
        message = f"trade {trade.trade_id.hex()[:12]}: {why}"
        self._core.refuse(client, request_id, reason, message)


def _moved(trade: Trade, event: LightningEvent) -> Input | None:
    """What Lightning says has moved for good, if that is what it says."""
    match event:
        case InvoiceSeen(state="settled"):
            return Input.BASE_SETTLED
        case PaymentSeen(state="succeeded", preimage=bytes(preimage)):
            return Input.PAY_SUCCEEDED if proves_payment(preimage, trade.payment_hash) else None
        case _:
            return None


def _is_negative(trade: Trade, event: LightningEvent) -> bool:
    """Whether Lightning says that the base was never paid and, by this hash, never will be."""
    match event:
        case InvoiceSeen(state="unknown"):
            return not trade.invoice  # it was never asked to make one
        case InvoiceSeen(state="canceled") | PaymentSeen(state="none" | "failed"):
            return True
        case _:
            return False
