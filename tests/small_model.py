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

from tests.outside import MemoryJournal
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
from zmqex.protocol.messages import (
    QuoteSent,
    Take,
    TradeCancel,
    TradeInvoice,
    TradeMessage,
)
from zmqex.trading.states import TERMINAL, State

START_MS = 1_800_000_000_000
SOON_MS = 31_000  # every repeat of a look-up is due
HOLD_MS = 16 * 60_000
MARKET = "BTC/USD"
PRICE = 100_000_000  # so that one lot costs a cent
_CURRENCIES = Currencies()
_WORKING = {State.RESERVED, State.INVOICED, State.CANCELLING, State.PAYING}

# What was asked of Lightning within the hold is answered before NEVER_MADE_MS after it.
_SHORT = {
    ("CreateInvoice",),
    ("CreateHoldInvoice",),
    ("InvoiceSeen", "unknown"),
    ("InvoiceCreated", ""),
}

# Of the same question, or answer, on its way one is enough; but a payer's can differ in its time.
_OF_PAYERS = {"LookupPayment", "PaymentSeen", "PayInvoice"}

# The network is not modelled, so nothing is published and nobody is looked for.
_NETWORK = {
    "publisher": ("restore", "append", "published", "flush"),
    "sessions": ("start",),
}

Action = tuple[Any, ...]
Label = tuple[Any, ...]
Change = Callable[[Kernel], None]


def _silent(*_: object) -> None:
    """Say nothing."""


class Order(msgspec.Struct, frozen=True):
    """What is tried: one order, and how much each taker asks for."""

    side: str
    lots: int
    asked: tuple[int, ...]
    people: bool = True  # takers may cancel, the maker may close the order
    change: Change = lambda _kernel: None  # what makes a naive variant of the node
    only: str = ""  # look for this violation alone
    settlement: str = "plain"
    takes: bool = False  # the node is the taker of another maker's order; `side` is its own
    repeats: int = 2  # how often a payer's same question may be on its way


class Lightning(msgspec.Struct):
    """Invoices and payments by hash: nothing expires here, so a payment may come late."""

    invoices: dict[bytes, str] = msgspec.field(default_factory=dict)
    payments: dict[bytes, str] = msgspec.field(default_factory=dict)
    locks: dict[bytes, int] = msgspec.field(default_factory=dict)  # hash -> where its lock ends
    owner: dict[bytes, int] = msgspec.field(default_factory=dict)

    def copy(self) -> Lightning:
        """An independent copy."""
        return Lightning(*map(dict, msgspec.structs.astuple(self)))


def _journal(journal: MemoryJournal) -> MemoryJournal:
    copy = MemoryJournal()
    for name, value in vars(journal).items():
        setattr(copy, name, dict(value) if isinstance(value, dict) else value)
    return copy


class Saved(msgspec.Struct, frozen=True):
    """All that outlives the process."""

    journal: MemoryJournal
    lightning: Lightning
    offered: frozenset[int]
    clock_ms: int
    height: int = 1_000


class Run:
    """A maker's node in the middle of a history."""

    identity = MAKER

    def __init__(self, order: Order, saved: Saved) -> None:
        """Start the node from what is on disk."""
        self.order = order
        self.journal = _journal(saved.journal)
        self.lightning = saved.lightning.copy()
        self.offered = set(saved.offered)
        self.clock_ms = saved.clock_ms
        self.height = saved.height
        self.pending: list[tuple[Label, out.Effect | happened.Event]] = []
        self._steps = 0
        settings = Settings(
            lightning_node=MAKER_NODE, markets=(MARKET,), can_hold=True, auto_cancel_blocks=18
        )
        self.kernel = Kernel(settings, self.identity, _CURRENCIES, self.journal.snapshot())
        for part, names in _NETWORK.items():
            for name in names:
                setattr(getattr(self.kernel, part), name, _silent)
        order.change(self.kernel)
        self._poke(lambda: self.kernel._on_started(happened.Started()))

    def saved(self) -> Saved:
        """What a crash leaves."""
        offered = frozenset(self.offered)
        journal, lightning = _journal(self.journal), self.lightning.copy()
        return Saved(journal, lightning, offered, self.clock_ms, self.height)

    # --- the kernel ------------------------------------------------------------------------------

    def _poke(self, call: Callable[[], object]) -> None:
        """One event, as `Kernel.handle` carries it, and its effects."""
        core = self.kernel.core
        self._steps += 1
        moment = f"{self.clock_ms} {self.journal.commits} {self._steps}".encode()
        entropy = hashlib.sha256(moment).digest()
        core.begin(happened.Now(self.clock_ms, self.clock_ms - START_MS, entropy))
        core.run_timers()
        call()
        for effect in core.finish():
            self._effect(effect)

    def _effect(self, effect: out.Effect) -> None:
        match effect:
            case out.Persist(writes):
                self.journal.commit(writes)
                self._remember_hashes()
            case out.ReserveHold():
                answer = happened.HoldAnswered(effect.trade_id, "reserved")
                self.pending.append((("hold", self._at(effect.trade_id)), answer))
            case (
                out.CreateInvoice()
                | out.CreateHoldInvoice()
                | out.SettleInvoice()
                | out.LookupInvoice()
                | out.CancelInvoice()
                | out.PayInvoice()
                | out.LookupPayment()
            ):
                of = self.lightning.owner[effect.payment_hash]
                self._wait(("call", of, type(effect).__name__), effect)
            case _:
                pass  # words for peers, log lines, the hold server's own bookkeeping

    def _wait(self, label: Label, what: out.Effect | happened.Event) -> None:
        same = sum(one == label for one, _ in self.pending)
        if same < (self.order.repeats if {*label} & _OF_PAYERS else 1):
            self.pending.append((label, what))

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
        yield from self._calls()
        live = [trade for trade in trades.values() if trade.state in _WORKING | {State.QUOTE_SENT}]
        holding = any(self.clock_ms < trade.hold_expires_ms for trade in live)
        if holding and not any(label[2:] in _SHORT for label, _ in self.pending):
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
                if label[2] == "PayInvoice":
                    yield ("fail", *label)

    def _moves_of(self, at: int, trade: Trade | None) -> Iterator[Action]:
        if trade is None:
            return
        if self.order.side == "buy":
            invoice = self.lightning.invoices.get(trade.payment_hash)
            if at in self.offered and invoice == "open":
                yield ("pay", at)
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
            case "pay" | "land" | "bounce":
                self._money(kind, self.trades()[rest[0]].payment_hash)
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
            case out.CreateInvoice() | out.CreateHoldInvoice():
                invoices.setdefault(payment_hash, "open")
                self.offered.add(self._at(trade))
                return happened.InvoiceCreated(trade, payment_hash, "lnbcrt1")
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
            of = self.lightning.owner[payment_hash]
            self._wait(("watched", of), seen)
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

    def _reserving(self) -> set[int]:
        return {self._at(one) for one in self.kernel.admission._reserving}

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
            tuple(sorted(self._reserving())),
            tuple(sorted(self.offered)),
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
        if sum(trades[at].quantity_lots for at in paid) > self.order.lots:
            return "oversold"
        names = {name for _, name in timers(self.kernel)}
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


def timers(kernel: Kernel) -> Iterator[tuple[int, Any]]:
    """When each timer is due, and its name."""
    core = kernel.core
    for due, serial in core._timers:
        entry = core._timer_calls.get(serial)
        if entry is not None:
            yield due, entry[0]
