"""The small model of a rollover: a lock that is lost, and who is paid by which invoice after it.

Added to `tests.small_locks`: the history begins with the quote sent, a trade has several payment
hashes, and the counterparty asks for a rollover, or pays one, whenever it likes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from tests.small_locks import LockRun
from tests.small_model import Action, Label
from tests.small_state import Order, Saved
from tests.small_takers import IDS, TAKER_NODE, next_hash, preimage_of, text_of
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import RolloverTrade
from zmqex.kernel.records import Trade
from zmqex.market.instruments import BASE
from zmqex.protocol.messages import InvoiceFailed, TradeReleased, TradeRollover
from zmqex.trading.states import State

_WAITS = {State.ROLLOVER, State.ROLLOVER_PAYING}
_HEARS = {State.QUOTE_SENT, State.RELEASED, State.DISPUTED, *_WAITS}
_ALIVE = {"open", "accepted", "in_flight", "settled", "succeeded"}
_BEFORE: dict[str, tuple[Action, ...]] = {
    "buy": (("take", 0), ("pay", 0), ("send", 0), ("said", 0)),
    "sell": (("take", 0), ("invoice", 0), ("sent", 0)),
}


class Rollovers(Order, frozen=True):
    """One trade by lock in which the quote was sent, and so many rollovers of it at most."""

    most: int = 1


class RolloverRun(LockRun):
    """A maker's node in the middle of a history in which a lock is lost."""

    order: Rollovers

    def prepare(self) -> Saved:
        """Tell the story up to the quote; then the node ends."""
        for action in _BEFORE[self.order.side]:
            super().do(action)
            while self.pending:
                super().do(("go", *self.pending[0][0]))
        assert self.trades()[0].state is State.QUOTE_SENT
        return self.saved()

    # --- several hashes of one trade -------------------------------------------------------------

    def _hashes(self, at: int) -> list[bytes]:
        """In the order in which they were drawn; the first is the lock's."""
        return [one for one, of in self.lightning.owner.items() if of == at]

    def _states(self, payment_hash: bytes) -> set[str | None]:
        invoices, payments = self.lightning.invoices, self.lightning.payments
        return {invoices.get(payment_hash), payments.get(payment_hash)}

    def _wait(self, label: Label, what: out.Effect | happened.Event) -> None:
        """Calls about one hash are made in order, those about several are not."""
        payment_hash = getattr(what, "payment_hash", b"")
        if payment_hash:
            at = self.lightning.owner[payment_hash]
            number = self._hashes(at).index(payment_hash)
            label = (label[0], at + 10 * number, *label[2:])
        super()._wait(label, what)

    def _money(self, kind: str, payment_hash: bytes) -> None:
        fresh = payment_hash != self._hashes(0)[0]
        if kind != "pay" or not fresh:
            super()._money(kind, payment_hash)
            return
        # An ordinary invoice: paid at once, and for good.
        self.lightning.invoices[payment_hash] = "settled"
        self._watched(payment_hash)

    def _paid(self, trade: bytes, payment_hash: bytes) -> happened.PaymentSeen:
        seen = super()._paid(trade, payment_hash)
        if seen.state != "succeeded":
            return seen
        fresh = payment_hash != self._hashes(0)[0]
        # The buyer has the lock's from the seller's own word.
        preimage = preimage_of(payment_hash) if fresh else self._released(0)
        return replace(seen, preimage=preimage)

    # --- what can happen -------------------------------------------------------------------------

    def actions(self) -> Iterator[Action]:
        """Everything that may happen next."""
        for action in super().actions():
            if action[0] not in {"take", "close", "few blocks", "hold ends"}:
                yield action

    def _moves_of(self, at: int, trade: Trade | None) -> Iterator[Action]:
        assert trade is not None
        moves = self._selling_again if self.order.side == "sell" else self._buying_again
        yield from moves(at, trade)
        # Who does not change its mind does not give up either what it has sent the quote for.
        if trade.state is State.DISPUTED and (self.order.people or self.order.side == "sell"):
            yield ("resolve", at, "settled")
            yield ("resolve", at, "cancelled")

    def _selling_again(self, at: int, trade: Trade) -> Iterator[Action]:
        """A buyer that may lie, and the operator of the seller."""
        hashes = self._hashes(at)
        for number, payment_hash in enumerate(hashes):
            if self.lightning.payments.get(payment_hash) == "in_flight":
                yield ("bounce", at, number)
                if number or self._has_released(at):
                    yield ("land", at, number)
            if number and trade.state in _HEARS:
                yield ("rollover", at, number)
        if trade.state in _HEARS and len(hashes) <= self.order.most:
            yield ("rollover", at, len(hashes))
        if trade.state in {State.QUOTE_SENT, State.DISPUTED, State.ROLLOVER}:
            yield ("received", at)
        if trade.state in {State.QUOTE_SENT, State.ROLLOVER}:
            yield ("dispute", at)

    def _buying_again(self, at: int, trade: Trade) -> Iterator[Action]:
        """A seller that may lie, and the operator of the buyer."""
        for number, payment_hash in enumerate(self._hashes(at)):
            if number and self.lightning.invoices.get(payment_hash) == "open":
                yield ("pay", at, number)
        if trade.state in {State.QUOTE_SENT, State.DISPUTED}:
            yield ("release", at)
        if trade.state is State.QUOTE_SENT:
            yield ("dispute", at)
        if trade.state is State.DISPUTED and trade.attempt <= self.order.most:
            yield ("roll", at)
        if trade.state is State.ROLLOVER:
            yield ("unpaid", at)

    def do(self, action: Action) -> None:
        """Let it happen."""
        kind, *rest = action
        match kind:
            case "rollover":
                self._hear(rest[0], self._rollover(*rest))
            case "release":
                preimage = preimage_of(self._hashes(rest[0])[0])
                self._hear(rest[0], TradeReleased(*self._head(rest[0]), preimage))
            case "roll":
                self._tell(RolloverTrade(IDS[rest[0]].hex()))
            case "unpaid":
                payment_hash = self.trades()[rest[0]].payment_hash
                failed = InvoiceFailed(*self._head(rest[0]), payment_hash, "payment_failed")
                self._hear(rest[0], failed)
            case "pay" | "land" | "bounce" if len(rest) > 1:
                self._money(kind, self._hashes(rest[0])[rest[1]])
            case _:
                super().do(action)

    def _rollover(self, at: int, number: int) -> TradeRollover:
        """The buyer asks to be paid by a fresh invoice, for the first time or again."""
        hashes = self._hashes(at)
        if number == len(hashes):
            hashes.append(next_hash(hashes[-1]))
            self.lightning.owner[hashes[-1]] = at
        text = text_of(hashes[number], self.clock_ms, self.trades()[at].base_msat)
        return TradeRollover(*self._head(at), number + 1, text, TAKER_NODE)

    # --- the state -------------------------------------------------------------------------------

    def _key_of(self, at: int, trade: Trade) -> tuple[Any, ...]:
        seller, buyer = self.kernel.sides.rollover_seller, self.kernel.sides.rollover_buyer
        hashes, key = self._hashes(at), trade.trade_id
        lightning, paying = self.lightning, self.kernel.core.paying
        return (
            *super()._key_of(at, trade),
            trade.attempt,
            hashes.index(trade.payment_hash),
            tuple((lightning.invoices.get(one), lightning.payments.get(one)) for one in hashes),
            tuple((one, BASE) in paying for one in hashes),
            seller._ended.get(key) == trade.payment_hash,
            key in seller._asked,
            key in buyer._asked,
            trade.state in _WAITS and self.clock_ms >= trade.deadline_ms,
        )

    # --- what must be true -----------------------------------------------------------------------

    def wrong(self) -> str | None:
        """The first invariant that does not hold here, or None."""
        what = super().wrong()
        if what is not None:
            return what
        trade = self.trades()[0]
        alive = [one for one in self._hashes(0) if self._states(one) & _ALIVE]
        timers = {name for name, _ in self.kernel.core._timer_calls.values()}
        if len(alive) > 1:
            return "two payments of one trade are alive"
        if trade.state is State.CANCELLED and alive:
            return "trade 0 is cancelled, and a payment of it is not"
        if trade.state in _WAITS and ("trade", trade.trade_id) not in timers:
            return f"nothing ends trade 0, {trade.state}"
        return None

    def is_quiet(self) -> bool:
        """Whether the trade waits for nothing but a person or a deadline."""
        return super().is_quiet() and self.trades()[0].state is not State.ROLLOVER_PAYING
