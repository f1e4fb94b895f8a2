"""One order, two takers and the real kernel of its maker, one step at a time.

What can happen next is listed by `actions` and done by `do`; `key` is everything that the future
depends on.  Not modelled: the network, and a call to Lightning that takes longer than the hold.
For the search over all of it see `tests.small_walk`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec.structs import replace

from tests.recalling import recall
from tests.small_state import Order, Saved, copy_of, silence, timers
from tests.small_takers import (
    IDS,
    MAKER,
    MAKER_NODE,
    TAKE_IDS,
    TAKER_NODE,
    TAKERS,
    first_hash,
    incoming,
    next_hash,
    preimage_of,
    text_of,
)
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import (
    CancelOrder,
    Command,
    DisputeTrade,
    ReceivedTrade,
    ResolveTrade,
)
from zmqex.kernel.core import Settings
from zmqex.kernel.kernel import Kernel
from zmqex.kernel.records import Trade
from zmqex.kernel.requests import Incoming
from zmqex.market.instruments import BASE, Currencies
from zmqex.protocol.codec import decode, decode_envelope, decode_frame, decode_trade_message
from zmqex.protocol.messages import (
    Accept,
    QuoteSent,
    Take,
    TradeCancel,
    TradeInvoice,
    TradeMessage,
    TradeSaid,
)
from zmqex.reasons import RejectReason
from zmqex.trading.states import TERMINAL, State

START_MS = 1_800_000_000_000
SOON_MS = 31_000  # every repeat of a look-up is due
HOLD_MS = 16 * 60_000
MARKET = "BTC/USD"
_INVOICE = "lnbcrt1"  # and the hash
PRICE = 100_000_000  # so that one lot costs a cent
_CURRENCIES = Currencies()
_WORKING = {State.RESERVED, State.INVOICED, State.CANCELLING, State.PAYING}

# What was asked of Lightning within the hold is answered before NEVER_MADE_MS after it.
_SHORT = {
    ("CreateHoldInvoice",),
    ("InvoiceSeen", "unknown"),
    ("InvoiceCreated", ""),
}

# Of the same question, or answer, on its way one is enough; but a payer's can differ in its time.
_OF_PAYERS = {"LookupPayment", "PaymentSeen", "PayInvoice"}

Action = tuple[Any, ...]
Label = tuple[Any, ...]


class Run:
    """A maker's node in the middle of a history."""

    identity = MAKER

    def __init__(self, order: Order, saved: Saved) -> None:
        """Start the node from what is on disk."""
        self.order = order
        self.journal = copy_of(saved.journal)
        self.lightning = saved.lightning.copy()
        self.told = set(saved.told)
        self.clock_ms = saved.clock_ms
        self.height = saved.height
        self.pending: list[tuple[Label, out.Effect | happened.Event]] = []
        self._steps = 0
        settings = Settings(
            lightning_node=MAKER_NODE, markets=(MARKET,), can_hold=True, auto_cancel_blocks=18
        )
        self.kernel = Kernel(settings, self.identity, _CURRENCIES, self.journal.snapshot())
        silence(self.kernel)
        order.change(self.kernel)
        self._poke(lambda: self.kernel._on_started(happened.Started()))

    def saved(self) -> Saved:
        """What a crash leaves."""
        journal, lightning = copy_of(self.journal), self.lightning.copy()
        return Saved(journal, lightning, frozenset(self.told), self.clock_ms, self.height)

    # --- the kernel ------------------------------------------------------------------------------

    def _poke(self, call: Callable[[], object]) -> None:
        """One event, as `Kernel.handle` carries it, and its effects."""
        core = self.kernel.core
        self._steps += 1
        made = len(self.lightning.owner)  # so that a node which begins again draws another hash
        moment = f"{self.clock_ms} {self.journal.commits} {self._steps} {made}".encode()
        entropy = hashlib.sha256(moment).digest()
        core.begin(happened.Now(self.clock_ms, self.clock_ms - START_MS, entropy))
        core.run_timers()
        call()
        for effect in core.finish():
            self._effect(effect)
        self.pending = [one for one in self.pending if self._matters(one[1])]

    def _effect(self, effect: out.Effect) -> None:
        match effect:
            case out.Persist(writes):
                self.journal.commit(writes)
                self._remember_hashes()
            case out.ReserveHold():
                answer = happened.HoldAnswered(effect.trade_id, "reserved")
                self.pending.append((("hold", self._at(effect.trade_id)), answer))
            case out.SendReply():
                self._reply(effect.frame)
            case (
                out.CreateInvoice()
                | out.CreateHoldInvoice()
                | out.SettleInvoice()
                | out.LookupInvoice()
                | out.CancelInvoice()
                | out.PayInvoice()
                | out.LookupPayment()
            ):
                of = self.lightning.owner.setdefault(effect.payment_hash, self._at(effect.trade_id))
                self._wait(("call", of, type(effect).__name__), effect)
            case out.Recall():
                found = recall(self.journal, effect)
                self._poke(lambda: self.kernel.archive.on_recalled(found))
            case _:
                pass  # words for peers, log lines, the hold server's own bookkeeping

    def _wait(self, label: Label, what: out.Effect | happened.Event) -> None:
        same = sum(one == label for one, _ in self.pending)
        if same < (self.order.repeats if {*label} & _OF_PAYERS else 1):
            self.pending.append((label, what))

    def _reply(self, frame: bytes) -> None:
        """A taker is answered; an accept gives it the invoice."""
        reply = decode_frame(frame)
        if reply.kind == "take":
            envelope = decode(reply.body, TradeSaid).envelope
            accept = decode_trade_message(decode_envelope(envelope).body)
            assert isinstance(accept, Accept)
            if accept.invoice:
                self.told.add(_hash_in(accept.invoice))

    def _matters(self, what: out.Effect | happened.Event) -> bool:
        """Whether somebody waits for it: of an invoice that was called off, nobody does.

        So it stays open, as it would where its cancellation is lost.
        """
        payment_hash, waits = getattr(what, "payment_hash", None), self.kernel.admission._reserving
        if payment_hash is None:
            return not isinstance(what, happened.HoldAnswered) or what.trade_id in waits
        return payment_hash in self.journal.hashes or any(
            one.trade.payment_hash == payment_hash for one in waits.values()
        )

    def _remember_hashes(self) -> None:
        for payment_hash, of in self.journal.hashes.items():
            self.lightning.owner.setdefault(payment_hash, self._at(of))

    def _at(self, trade_id: bytes) -> int:
        """The number of a trade's taker."""
        return IDS.index(trade_id)

    # --- what can happen -------------------------------------------------------------------------

    def actions(self) -> Iterator[Action]:
        """Everything that may happen next."""
        trades = self.trades()
        for at, _asked in enumerate(self.order.asked):
            if at not in trades and at not in self._reserving():
                yield ("take", at)
            yield from self._moves_of(at, trades.get(at))
            if self._told_besides(at):
                yield ("pay", at, "what is in no journal")
        yield from self._calls()
        live = [trade for trade in trades.values() if trade.state in _WORKING | {State.QUOTE_SENT}]
        live += [one.trade for one in self.kernel.admission._reserving.values()]
        holding = any(self.clock_ms < trade.hold_expires_ms for trade in live)
        written = [label for label, _ in self.pending if label[1] in trades]
        if holding and not any(label[2:] in _SHORT for label in written):
            yield ("hold ends",)
        due_ms = self.clock_ms - START_MS + SOON_MS
        if any(due <= due_ms and name[0] == "trade" for due, name in timers(self.kernel)):
            yield ("soon",)
        yield ("crash",)
        if self.order.people and next(iter(self.journal.orders.values())).state == "open":
            yield ("close",)

    def _calls(self) -> Iterator[Action]:
        # Calls about one hash are made one after the other, each answered before the next.
        busy = {label[1] for label, _ in self.pending if label[0] == "told"}
        for label, _ in self.pending:
            if label[0] == "call" and label[1] in busy:
                continue
            yield ("go", *label)
            if label[0] == "call":
                busy.add(label[1])
                early = label[2] == "CreateInvoice" and label[1] in self._reserving()
                if label[2] == "PayInvoice" or early:
                    yield ("fail", *label)
            if label[0] == "hold":
                yield ("fail", *label)

    def _moves_of(self, at: int, trade: Trade | None) -> Iterator[Action]:
        if trade is None:
            return
        if self.order.side == "buy":
            if self.lightning.invoices.get(trade.payment_hash) == "open":
                yield ("pay", at)
                # Power that fails may take along what a ledger has not synced.
                yield from [("lose", at)] * (self.order.settlement == "plain")
        else:
            if trade.state is State.RESERVED:
                yield ("sent", at)
            if trade.state is State.QUOTE_SENT:
                yield ("received", at)
            if trade.state is State.PAY_INTENT:
                yield ("invoice", at)
            if self.lightning.payments.get(trade.payment_hash) == "in_flight":
                yield ("land", at)
                yield ("bounce", at)
        if self.order.people and trade.state not in {*TERMINAL, State.DISPUTED}:
            yield ("cancel", at)
            yield ("dispute", at)
        if trade.state is State.DISPUTED:
            yield ("resolve", at, "settled")
            yield ("resolve", at, "cancelled")

    def do(self, action: Action) -> None:
        """Let it happen."""
        kind, *rest = action
        match kind:
            case "take":
                self._poke(lambda: self.kernel.admission._on_take(self._take(rest[0])))
            case "cancel":
                key = TAKERS[rest[0]].public_key
                ask = (TAKE_IDS[rest[0]], key, "cancelled")
                self._hear(rest[0], TradeCancel(*self._head(rest[0]), *ask))
            case "sent":
                self._hear(rest[0], QuoteSent(*self._head(rest[0]), ""))
            case "invoice":
                text = self._takers_invoice(rest[0])
                node = TAKER_NODE
                self._hear(rest[0], TradeInvoice(*self._head(rest[0]), text, node))
            case "received":
                self._tell(ReceivedTrade(IDS[rest[0]].hex()))
            case "dispute":
                self._tell(DisputeTrade(IDS[rest[0]].hex()))
            case "resolve":
                self._tell(ResolveTrade(IDS[rest[0]].hex(), rest[1]))
            case "close":
                self._poke(lambda: self.kernel.desk.cancel(b"cli", 1, CancelOrder("")))
            case "soon" | "hold ends":
                self.clock_ms += SOON_MS if kind == "soon" else HOLD_MS
                self._poke(lambda: None)
            case "pay" | "lose" | "land" | "bounce":
                at, *besides = rest
                told = self._told_besides(at) if besides else [self.trades()[at].payment_hash]
                self._money(kind, told[0])
            case "go" | "fail":
                self._go(tuple(rest), fails=kind == "fail")
            case _:
                raise AssertionError(action)

    def _tell(self, command: Command) -> None:
        self._poke(lambda: self.kernel._offer(b"cli", 1, command))

    def _go(self, label: Label, *, fails: bool) -> None:
        """Carry out a call, or tell the node of what has come of one."""
        at = next(at for at, (one, _) in enumerate(self.pending) if one == label)
        _, what = self.pending.pop(at)
        if isinstance(what, happened.HoldAnswered) and fails:
            what = msgspec.structs.replace(what, outcome="full")
        if isinstance(what, happened.Event):
            self._poke(lambda: self.kernel._calls[type(what)](what))
        else:
            event = self._call(what, fails=fails)
            name = type(event).__name__
            state = getattr(event, "state", "")
            self._wait(("told", label[1], name, state), event)

    def _call(self, effect: Any, *, fails: bool) -> happened.Event:  # noqa: ANN401 - five kinds
        payment_hash, trade = effect.payment_hash, effect.trade_id
        invoices, payments = self.lightning.invoices, self.lightning.payments
        match effect:
            case out.CreateInvoice() if fails:
                # The worst that it can be: it was made, and nobody knows.
                invoices.setdefault(payment_hash, "open")
                word = RejectReason.LIGHTNING_UNAVAILABLE
                return happened.LightningFailed(
                    trade, payment_hash, "create_invoice", indeterminate=True, reason=word, why=""
                )
            case out.CreateInvoice() | out.CreateHoldInvoice():
                invoices.setdefault(payment_hash, "open")
                text = _INVOICE + payment_hash.hex()
                return happened.InvoiceCreated(trade, payment_hash, text)
            case out.CancelInvoice():
                if invoices.get(payment_hash) == "open":
                    invoices[payment_hash] = "canceled"
                state: Any = invoices.get(payment_hash, "unknown")
                return happened.InvoiceSeen(payment_hash, state)
            case out.LookupInvoice():
                state = invoices.get(payment_hash, "unknown")
                return happened.InvoiceSeen(payment_hash, state)
            case out.PayInvoice():
                if payments.get(payment_hash, "failed") == "failed":
                    payments[payment_hash] = "failed" if fails else "in_flight"
                return replace(self._paid(trade, payment_hash), call="pay")
            case _:
                return self._paid(trade, payment_hash)

    def _paid(self, trade: bytes, payment_hash: bytes) -> happened.PaymentSeen:
        state: Any = self.lightning.payments.get(payment_hash, "none")
        preimage = preimage_of(payment_hash) if state == "succeeded" else None
        return happened.PaymentSeen(trade, payment_hash, state, preimage)

    def _money(self, kind: str, payment_hash: bytes) -> None:
        """Money moves; the payee's backend tells its node."""
        if kind == "pay":
            self.lightning.invoices[payment_hash] = "settled"
            seen = happened.InvoiceSeen(payment_hash, "settled")
            self._wait(("watched", self.lightning.owner[payment_hash]), seen)
        elif kind == "lose":
            del self.lightning.invoices[payment_hash]
        else:
            self.lightning.payments[payment_hash] = "succeeded" if kind == "land" else "failed"

    # --- what the takers say ---------------------------------------------------------------------

    def _head(self, at: int) -> tuple[bytes, bytes, int]:
        return IDS[at], bytes(32), self.clock_ms

    def _take(self, at: int) -> Incoming:
        (row,) = self.journal.orders.values()
        sells = self.order.side == "sell"
        message = Take(
            *self._head(at),
            take_id=TAKE_IDS[at],
            maker=MAKER.public_key,
            taker=TAKERS[at].public_key,
            order_id=row.order_id,
            quantity_lots=self.order.asked[at],
            price_ticks=PRICE,
            settlement=self.order.settlement,
            payment_hash=first_hash(at) if sells != (self.order.settlement == "htlc") else None,
        )
        return incoming(at, "take", message)

    def _hear(self, at: int, message: TradeMessage) -> None:
        said = incoming(at, "trade", message)
        self._poke(lambda: self.kernel.dialogue._on_trade(said))

    def _takers_invoice(self, at: int) -> str:
        trade = self.trades()[at]
        payment_hash = trade.payment_hash
        if payment_hash in self.lightning.payments:
            # Asked for a fresh one: another preimage.
            payment_hash = next_hash(payment_hash)
        self.lightning.owner[payment_hash] = at
        return text_of(payment_hash, self.clock_ms, trade.base_msat)

    # --- the state -------------------------------------------------------------------------------

    def trades(self) -> dict[int, Trade]:
        """The trades by the number of their taker."""
        return {
            at: self.journal.trades[one] for at, one in enumerate(IDS) if one in self.journal.trades
        }

    def _reserving(self) -> dict[int, tuple[Any, ...]]:
        """The takes that are in no journal yet, by the number of their taker."""
        return {
            self._at(key): (one.held, one.invoiced, bool(one.trade.invoice), one.doomed)
            for key, one in self.kernel.admission._reserving.items()
        }

    def _told_besides(self, at: int) -> list[bytes]:
        """The open invoices that a taker was given and that no trade on disk knows."""
        return [
            one
            for one in self.told
            if self.lightning.owner[one] == at
            and one not in self.journal.hashes
            and self.lightning.invoices[one] == "open"
        ]

    def key(self) -> tuple[Any, ...]:
        """Everything that the future depends on, without names and numbers that only count."""
        (row,) = self.journal.orders.values()
        return (
            row.state,
            row.filled_lots,
            row.dropped_lots,
            tuple(self._key_of(at, trade) for at, trade in sorted(self.trades().items())),
            # In order for each trade; what is on its way for two of them has no order.
            tuple(sorted((label for label, _ in self.pending), key=lambda one: one[1])),
            tuple(sorted(self._reserving().items())),
            tuple(len(self._told_besides(at)) for at in range(len(IDS))),
        )

    def _key_of(self, at: int, trade: Trade) -> tuple[Any, ...]:
        kernel, lightning = self.kernel, self.lightning
        dues = {name: due for due, name in timers(kernel)}
        due = dues.get(("trade", trade.trade_id))
        passed = self.clock_ms - START_MS
        return (
            at,
            trade.state,
            trade.late,
            trade.quantity_lots,
            bool(trade.invoice),
            self.clock_ms >= trade.hold_expires_ms,
            None if due is None else ("soon" if due - passed <= SOON_MS else "later"),
            trade.trade_id in kernel.maker._ending,
            trade.trade_id in kernel.disputes._asking,
            trade.trade_id in kernel.admission.recovering,
            (trade.payment_hash, BASE) in kernel.core.paying,
            trade.trade_id in self.journal.archived_trades,
            lightning.invoices.get(trade.payment_hash),
            lightning.payments.get(trade.payment_hash),
            tuple(
                sorted({s for one, s in lightning.payments.items() if lightning.owner[one] == at})
            ),
        )

    # --- what must be true -----------------------------------------------------------------------

    def wrong(self) -> str | None:
        """The first invariant that does not hold here, or None."""
        trades, lightning = self.trades(), self.lightning
        paid: list[int] = []
        for payment_hash, state in [*lightning.invoices.items(), *lightning.payments.items()]:
            if state in {"settled", "succeeded"}:
                paid.append(lightning.owner[payment_hash])
        if len(set(paid)) != len(paid):
            return "a trade was paid twice"
        if set(paid) - set(trades):
            return "what was paid is in no journal"
        if sum(trades[at].quantity_lots for at in paid) > self.order.lots:
            return "oversold"
        names = {name for _, name in timers(self.kernel)}
        for at in self._reserving():
            if ("trade", IDS[at]) not in names:
                return f"nothing ends what waits for trade {at}"
        for at, trade in trades.items():
            if (
                trade.state is State.CANCELLED
                and not trade.late
                and (
                    at in paid
                    or lightning.invoices.get(trade.payment_hash) == "open"
                    or lightning.payments.get(trade.payment_hash) == "in_flight"
                )
            ):
                return f"trade {at} is cancelled, and may still be paid"
            if trade.state in _WORKING and ("trade", trade.trade_id) not in names:
                return f"nothing ends trade {at}, {trade.state}"
        return None

    def is_quiet(self) -> bool:
        """Whether no trade waits for anything but a person, and nothing is on its way."""
        return not self.pending and not any(
            trade.state in _WORKING for trade in self.trades().values()
        )


def _hash_in(invoice: str) -> bytes:
    return bytes.fromhex(invoice.removeprefix(_INVOICE))
