"""One take and the real kernel of its taker, one step at a time; its maker may say anything.

The mirror of `tests.small_model`: what is real there is abstract here.  The maker accepts, refuses
or is silent, and says each of its words whenever it likes; it pays and takes payments as Lightning
lets it.  What a maker hears is left out, since it does as if it had heard it or not.  Lightning is
that of `tests.small_locks`, where a call may also fail, or be of unknown outcome.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from tests.small_locks import LockRun
from tests.small_makers import LIES, accept, legs, resting, word
from tests.small_model import SOON_MS, START_MS, Action, Label, Run
from tests.small_state import Order, Saved, timers
from tests.small_takers import MAKER_NODE, TAKERS, text_of
from zmqex.bolt11 import decode
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import (
    CancelTrade,
    Command,
    DisputeTrade,
    PayTrade,
    ReceivedTrade,
    ResolveTrade,
    SendTrade,
    SentTrade,
)
from zmqex.kernel.records import PutLine, PutTrade, Trade, Write
from zmqex.kernel.requests import Refusal
from zmqex.limits import PAY_START_MAX_MS
from zmqex.market.instruments import BASE
from zmqex.protocol import messages
from zmqex.protocol.codec import decode_envelope, decode_trade_message
from zmqex.reasons import RejectReason
from zmqex.runtime.outside import _CALLS as CALLS
from zmqex.trading.settlement import HTLC, PLAIN
from zmqex.trading.states import TERMINAL, State

_CASE: Final = "take", 0  # the only trade, in labels

# Base that we sell may be on its way in these.
_PAYS: Final = {
    State.PAYING,
    State.BASE_DONE,
    State.QUOTE_SENT,
    State.RELEASED,
    State.SETTLED,
    State.DISPUTED,
}
# We have left, or are about to, in these.
_LEFT: Final = {State.ABANDONING, State.CANCELLED, State.REFUSED}
# Something is under way by itself.
_MOVING: Final = {State.TAKING, State.ABANDONING, State.CANCELLING, State.CONFIRMED, State.RELEASED}
# The buyer's or seller's time in these ends at the deadline.
_HURRIES: Final = {
    State.ACCEPTED,
    State.INVOICED,
    State.HTLC_ACCEPTED,
    State.QUOTE_INTENT,
    State.QUOTE_SENT,
}
# How long a lock lasts counts in these.
_GUARDED: Final = {State.INVOICED, State.PAYING, *_HURRIES} - {State.ACCEPTED}
_COMMANDS: Final[dict[str, Callable[[str], Command]]] = {
    "pay it": PayTrade,
    "send": SendTrade,
    "sent": SentTrade,
    "received": ReceivedTrade,
    "cancel": CancelTrade,
    "dispute": DisputeTrade,
}
# Nothing but a late claim changes anything any more, unless a call can still move money.
_ABSORBS: Final = {State.SETTLED, State.REFUSED, State.CANCELLED}
_MOVES: Final = {"PayInvoice", "CreateInvoice", "CreateHoldInvoice"}
# Words that only an operator's own make a node say.
_ASKED: Final[dict[type, bytes]] = {
    messages.QuoteSent: b"sent",
    messages.QuoteConfirmed: b"received",
    messages.TradeReleased: b"received",
}


class TakerRun(LockRun):
    """A taker's node in the middle of a history.  `order.side` is what it does with the base."""

    identity = TAKERS[0]

    def __init__(self, order: Order, saved: Saved) -> None:
        """Start the node from what is on disk."""
        self._asked: Counter[bytes] = Counter()  # what its operator waits for an answer to
        super().__init__(order, saved)
        self.kernel.sessions.request = self._request  # type: ignore[assignment]

    # --- the kernel ------------------------------------------------------------------------------

    def _request(self, _peer: bytes, kind: str, _body: Any, on_answer: Any, *_: int) -> None:  # noqa: ANN401
        """A take waits for its answer; any other word is said, and not answered."""
        if kind == "take":
            self.pending.append((_CASE, on_answer))

    def _effect(self, effect: out.Effect) -> None:
        match effect:
            case out.Persist(writes):
                for write in writes:
                    self._check_write(write)
            case out.PayInvoice():
                self._check_payment(effect)
            case out.AnswerCommand(client):
                self._asked[client] -= 1
            case _:
                pass
        super()._effect(effect)

    def _check_write(self, write: Write) -> None:
        """Only an operator says that a quote was sent, or has come; then it is not forgotten."""
        match write:
            case PutLine(line) if line.sender == self.identity.public_key:
                word = decode_trade_message(decode_envelope(line.envelope).body)
                asked = _ASKED.get(type(word))
                if asked and self._asked[asked] < 1:
                    self.broken = f"nobody has told it to say {type(word).__name__}"
            case PutTrade(after) if after.state in _LEFT and after.trade_id in self.journal.trades:
                before = self.journal.trades[after.trade_id]
                if before.state in {State.QUOTE_INTENT, State.QUOTE_SENT, State.CONFIRMED}:
                    self.broken = f"the quote was sent, and it is {after.state}"
            case _:
                pass

    def _check_payment(self, effect: out.PayInvoice) -> None:
        """It is paid what was agreed, to whom it was agreed, and the intent is on disk first."""
        trade, invoice = self.trades()[0], decode(effect.invoice)
        said = (invoice.amount_msat, invoice.payment_hash, invoice.payee)
        agreed = (legs(trade.quantity_lots).base_msat, trade.payment_hash, MAKER_NODE)
        if said != agreed or trade.quantity_lots > self.order.asked[0]:
            self.broken = "it pays what was not agreed"
        if trade.state is not State.PAYING:
            self.broken = "it pays before it has written that down"

    def _at(self, _trade_id: bytes) -> int:
        return 0

    def trades(self) -> dict[int, Trade]:
        """The only trade, if there is one."""
        return dict(enumerate(self.journal.trades.values()))

    # --- what can happen -------------------------------------------------------------------------

    def actions(self) -> Iterator[Action]:
        """Everything that may happen next."""
        yield ("crash",)
        if not self.trades():
            yield ("take",)
            return
        trade = self.trades()[0]
        if any(label == _CASE for label, _ in self.pending):
            yield from self._answers()
        for action in self._calls():
            label = action[1:]
            if label == _CASE:
                continue
            yield action
            if action[0] == "go" and label[0] == "call":
                yield from ((how, *label) for how in self._mishaps(label[2]))
        yield from self._money_moves(trade)
        yield from self._makers_words(trade)
        yield from self._operators_words(trade)
        yield from self._times(trade)

    def _answers(self) -> Iterator[Action]:
        yield ("accept", "")
        if self.order.asked[0] > 1:
            yield ("accept", "less")
        if self.order.people:
            yield from (("accept", lie) for lie in LIES)
        yield ("refuse",)
        yield ("silence",)

    def _mishaps(self, call: str) -> tuple[str, ...]:
        """How else a call may end: not made or made, and no answer; or refused for good."""
        return ("lose", "blur", "spurn") if call in _MOVES else ("lose",)

    def _money_moves(self, trade: Trade) -> Iterator[Action]:
        for name, payment_hash in self._hashes().items():
            if self.lightning.payments.get(payment_hash) == "in_flight":
                yield ("bounce", name)
                if trade.settlement == PLAIN or self._has_released(0):
                    yield ("land", name)
            told = payment_hash in self._told_hashes()
            if told and self.lightning.invoices.get(payment_hash) == "open":
                yield ("pay", name)

    def _makers_words(self, trade: Trade) -> Iterator[Action]:
        buys, locks = self.order.side == "buy", trade.settlement == HTLC
        yield ("hears", "cancelled")
        if self.order.people and trade.state in {State.ACCEPTED, State.PAYING}:
            yield ("hears", "accepted")
        if not buys:
            yield ("hears", "sent")
        elif locks:
            yield ("hears", "released")
            yield ("hears", "lie")
        else:
            yield ("hears", "confirmed")
            yield ("hears", "failed")
        if not buys and locks and trade.state is State.RELEASED:
            yield ("hears", "settled")

    def _operators_words(self, trade: Trade) -> Iterator[Action]:
        buys, locks, state = self.order.side == "buy", trade.settlement == HTLC, trade.state
        unsent = {State.HTLC_ACCEPTED, State.QUOTE_INTENT}
        changes = self.order.people and state not in TERMINAL | {State.DISPUTED}
        words = {
            "pay it": not buys and state in {State.ACCEPTED, State.PAYING},
            "send": buys and locks and state in unsent,
            "sent": buys and state in {State.ACCEPTED, *unsent, State.DISPUTED},
            "received": not buys and state not in {*TERMINAL, State.TAKING, State.ACCEPTED},
            "cancel": changes,
            "dispute": changes,
        }
        yield from ((word,) for word, may in words.items() if may)
        if state is State.DISPUTED:
            yield ("resolve", "settled")
            yield ("resolve", "cancelled")

    def _times(self, trade: Trade) -> Iterator[Action]:
        due, passed = self._due(trade), self.clock_ms - START_MS
        if due is not None and due <= passed + SOON_MS:
            yield ("soon",)
        elif due is not None:
            yield ("timer",)
        if trade.state is State.PAYING and self.clock_ms < self._latest_ms(trade):
            yield ("too late",)
        if trade.settlement == HTLC and self.clock_ms < trade.deadline_ms:
            yield ("deadline",)
        left = [ends - self.height for ends in self._locks()]
        if trade.state in _GUARDED and any(one >= self._needed for one in left):
            yield ("few blocks",)
        if left:
            yield ("all blocks",)

    def _latest_ms(self, trade: Trade) -> int:
        """When it is too late to begin to pay."""
        return trade.first_sent_ms + PAY_START_MAX_MS

    def _due(self, trade: Trade) -> int | None:
        name = ("trade", trade.trade_id)
        return next((due for due, one in timers(self.kernel) if one == name), None)

    # --- doing it --------------------------------------------------------------------------------

    def do(self, action: Action) -> None:
        """Let it happen."""
        kind, *rest = action
        match kind:
            case "take":
                self._poke(self._ask)
            case "accept":
                self._answer(accept(self.trades()[0], self.clock_ms, rest[0]))
            case "refuse":
                self._answer(Refusal(RejectReason.HELD, 0, ""))
            case "silence":
                self._answer(Refusal(RejectReason.TIMED_OUT, 0, ""))
            case "lose" | "blur" | "spurn":
                self._mishap(kind, tuple(rest))
            case "pay" | "land" | "bounce":
                self._money(kind, self._hashes()[rest[0]])
            case "hears":
                said = word(self.trades()[0], self.clock_ms, rest[0])
                self._poke(lambda: self.kernel.dialogue._on_trade(said))
            case "timer":
                self._wait_until((self._due(self.trades()[0]) or 0) + START_MS)
            case "too late":
                self._wait_until(self._latest_ms(self.trades()[0]))
            case "pay it" | "send" | "sent" | "received" | "cancel" | "dispute" | "resolve":
                self._asked[kind.encode()] += 1
                command = self._command(kind, *rest)
                self._poke(lambda: self.kernel._offer(kind.encode(), 1, command))
            case _:
                super().do(action)

    def _ask(self) -> None:
        (row,) = self.journal.orders.values()
        self.kernel.taking.take(
            resting(self.order.side, self.order.lots, self.order.settlement),
            self.order.asked[0],
            own_order_id=row.order_id,
            pay_mode="manual" if self.order.people else "auto",
            done=lambda _trade: None,
            settlement=self.order.settlement,
            hold_own=True,
        )

    def _answer(self, answer: Refusal | msgspec.Raw) -> None:
        """The maker's answer to the take, or that there is none."""
        at = next(at for at, (label, _) in enumerate(self.pending) if label == _CASE)
        on_answer: Any = self.pending.pop(at)[1]
        self._poke(lambda: on_answer(answer))

    def _command(self, kind: str, outcome: str = "") -> Command:
        key = self.trades()[0].trade_id.hex()
        if kind == "resolve":
            return ResolveTrade(key, outcome)
        return _COMMANDS[kind](key)

    def _wait_until(self, wall_ms: int) -> None:
        self.clock_ms = max(self.clock_ms, wall_ms)
        self._poke(lambda: None)

    # --- Lightning -------------------------------------------------------------------------------

    def _mishap(self, how: str, label: Label) -> None:
        """A call ends without an answer, made ("blur") or not, or is refused for good."""
        at = next(at for at, (one, _) in enumerate(self.pending) if one == label)
        effect: Any = self.pending.pop(at)[1]
        if how == "blur":
            self._call(effect, fails=False)
        event = happened.LightningFailed(
            effect.trade_id,
            effect.payment_hash,
            call=CALLS[type(effect)],
            indeterminate=how != "spurn",
            reason=RejectReason.LIGHTNING_UNAVAILABLE,
            why="",
        )
        self._poke(lambda: self.kernel._on_lightning(event))

    def _call(self, effect: Any, *, fails: bool) -> happened.Event:  # noqa: ANN401 - seven kinds
        event = super()._call(effect, fails=fails)
        if isinstance(event, happened.InvoiceCreated):
            trade = self.trades()[0]
            text = text_of(effect.payment_hash, self.clock_ms, trade.base_msat)
            event = msgspec.structs.replace(event, invoice=text)
        return event

    def _paid(self, trade: bytes, payment_hash: bytes) -> happened.PaymentSeen:
        locks = self.order.settlement == HTLC
        return (LockRun if locks else Run)._paid(self, trade, payment_hash)

    def _money(self, kind: str, payment_hash: bytes) -> None:
        locks = self.order.settlement == HTLC
        (LockRun if locks else Run)._money(self, kind, payment_hash)

    def _hashes(self) -> dict[str, bytes]:
        """The hash of the trade, and one before it of which Lightning still knows something."""
        new = self.trades()[0].payment_hash
        named = {"new": new} if new else {}
        for one, state in self.lightning.invoices.items():
            if state == "open" and one != new:
                named["old"] = one
        return named

    # --- the state -------------------------------------------------------------------------------

    def key(self) -> tuple[Any, ...]:
        """Everything that the future depends on, without names and numbers that only count."""
        (row,) = self.journal.orders.values()
        trade = self.trades().get(0)
        waits = self._waiting(trade)
        watched = tuple(sorted(label for label in waits if label[0] == "watched"))
        calls = tuple(label for label in waits if label[0] != "watched")
        own = (row.state, row.taken_lots, row.dropped_lots)
        return (*own, watched, calls, trade and self._key_of(0, trade))

    def _waiting(self, trade: Trade | None) -> list[Label]:
        """What is on its way and can change anything."""
        waits = [label for label, _ in self.pending]
        if trade is None or self._is_over(trade):
            return [label for label in waits if label[0] == "call" and label[2] in _MOVES]
        locked = ("watched", 0, "accepted") if trade.state is State.DISPUTED else None
        return [label for label in waits if label != locked]

    def _key_of(self, at: int, trade: Trade) -> tuple[Any, ...]:
        lightning, state, new = self.lightning, trade.state, trade.payment_hash
        due = self._due(trade)
        invoice = lightning.invoices.get(new)
        others = {how for one, how in lightning.invoices.items() if one != new}
        return (
            state,
            trade.quantity_lots,
            None if due is None else due <= self.clock_ms - START_MS + SOON_MS,
            trade.late,
            trade.counted,
            trade.paid,
            trade.trade_id in self.journal.archived_trades,
            invoice,
            invoice == "open" and new in self._told_hashes(),
            lightning.payments.get(new),
            tuple(sorted(others - {"canceled"})),
            state is State.PAYING and self.clock_ms >= self._latest_ms(trade),
            *(() if self._is_over(trade) else self._known(at, trade)),
        )

    def _is_over(self, trade: Trade) -> bool:
        """Whether it has ended for good: only who sold by lock can hear of a claim after that."""
        hears = (self.order.side, trade.settlement) == ("sell", HTLC)
        return trade.state in _ABSORBS and not (hears and trade.state is State.CANCELLED)

    def _known(self, at: int, trade: Trade) -> tuple[Any, ...]:
        """What the node knows besides, and what it knows of a lock."""
        kernel, sides, key = self.kernel, self.kernel.sides, trade.trade_id
        left = self.lightning.locks.get(trade.payment_hash, self.height) - self.height
        known = trade.htlc_expiry_height - kernel.core.height
        buyer, seller = sides.lock_buyer, sides.lock_seller
        return (
            (trade.payment_hash, BASE) in kernel.core.paying,
            key in kernel.disputes._asking,
            trade.state is State.INVOICED and sides.taker(trade)._is_given_up(trade),
            self.order.side == "buy" and trade.state is State.DISPUTED and buyer._has_said(trade),
            self._has_released(at),
            key in seller._asked,
            key in seller._seen,
            key in buyer._asked,
            key in buyer._asked and buyer._references.get(key),
            trade.state in _HURRIES and self.clock_ms >= trade.deadline_ms,
            trade.state in _GUARDED and left >= self._needed,
            trade.state in _GUARDED and known >= self._needed,
        )

    def _words(self) -> Iterator[messages.AnyTradeMessage]:
        """What we have said, as it is on disk."""
        for line in self.journal.lines.values():
            if line.sender == self.identity.public_key:
                yield decode_trade_message(decode_envelope(line.envelope).body)

    def _told_hashes(self) -> set[bytes]:
        """The hashes of the invoices that the maker can have."""
        said = [one for one in self._words() if isinstance(one, messages.TradeInvoice)]
        return {decode(one.invoice).payment_hash for one in said}

    def _has_released(self, _at: int) -> bool:
        if self.order.side == "buy":
            return self.trades()[0].state is State.RELEASED
        return any(isinstance(one, messages.TradeReleased) for one in self._words())

    # --- what must be true -----------------------------------------------------------------------

    def wrong(self) -> str | None:
        """The first invariant that does not hold here, or None."""
        trade = self.trades().get(0)
        if self.broken or trade is None:
            return self.broken
        (row,) = self.journal.orders.values()
        if self._may_cost() and row.taken_lots < trade.quantity_lots:
            return "what it took is free again, and may still be paid"
        wrong = self._paying_wrong if self.order.side == "sell" else self._invoicing_wrong
        return wrong(trade) or self._idle(trade)

    def _may_cost(self) -> bool:
        """Whether base may still move, or has moved."""
        if self.order.side == "buy":
            return bool(self._live_invoices())
        told = any(label[2:3] == ("PayInvoice",) for label, _ in self.pending)
        return told or bool({"in_flight", "succeeded"} & set(self.lightning.payments.values()))

    def _live_invoices(self) -> list[bytes]:
        """Those that are paid, or can be: nobody pays what it was not told."""
        known, told = self.lightning.invoices.items(), self._told_hashes()
        paid = {"accepted", "settled"}
        return [one for one, how in known if how in paid or (how == "open" and one in told)]

    def _paying_wrong(self, trade: Trade) -> str | None:
        if self._may_cost() and trade.state not in _PAYS:
            return f"it is {trade.state}, and its payment may go over"
        moved = [one for one in self.lightning.payments.values() if one != "failed"]
        return "a trade was paid twice" if len(moved) > 1 else None

    def _invoicing_wrong(self, trade: Trade) -> str | None:
        live = self._live_invoices()
        if live and trade.state in _LEFT:
            return f"it is {trade.state}, and may still be paid"
        return "two invoices of a trade can be paid" if len(live) > 1 else None

    def _idle(self, trade: Trade) -> str | None:
        """Whatever is not over has a timer, or is its operator's task."""
        names = {name for _, name in timers(self.kernel)}
        asked = any(label == _CASE for label, _ in self.pending)
        waits = trade.state in TERMINAL | {State.DISPUTED} or (
            trade.state is State.TAKING and asked
        )
        if not waits and ("trade", trade.trade_id) not in names:
            return f"nothing ends it: {trade.state}"
        return None

    def is_quiet(self) -> bool:
        """Whether it waits for nothing but a person, the maker or a deadline."""
        trade = self.trades().get(0)
        if trade is None:
            return False
        if self._waiting(trade) and not self._is_over(trade):
            return False
        paying = trade.state is State.PAYING and trade.settlement == PLAIN
        return trade.state not in _MOVING and not paying
