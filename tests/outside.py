"""What lies outside a kernel, in memory: the journal with its checks, and play money.

Models with the same promises as the real ones; used by `tests.world` and the simulator.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal, Protocol, TypeVar

from zmqex.bolt11 import Draft, InvoiceNetwork, decode, encode, public_key
from zmqex.bolt11.invoice import DEFAULT_MIN_FINAL_CLTV
from zmqex.errors import StorageError
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel import records
from zmqex.kernel.names import NAME_BYTES, key_name
from zmqex.limits import PLAY_AUTO_CANCEL_BLOCKS
from zmqex.market.instruments import BASE
from zmqex.reasons import RejectReason
from zmqex.trading.states import TradeRole

R = TypeVar("R", records.Trade, records.OwnOrder)


class MemoryJournal:
    """Rows in dictionaries, with the checks of the real journal."""

    def __init__(self) -> None:
        """Start empty."""
        self.orders: dict[bytes, records.OwnOrder] = {}
        self.trades: dict[bytes, records.Trade] = {}
        self.claims: dict[bytes, int] = {}
        self.hashes: dict[bytes, bytes] = {}
        self.attempts: dict[bytes, int] = {}  # payment hash -> at paying the base of its trade
        self.rollovers: dict[tuple[bytes, int], bytes] = {}  # (trade, attempt) -> payment hash
        self.fences: dict[int, bytes] = {}
        self.batches: dict[tuple[str, int, int], records.OwnBatch] = {}
        self.checkpoints: dict[str, records.OwnCheckpoint] = {}
        self.lines: dict[tuple[bytes, bytes], records.TradeLine] = {}
        self.outbox: dict[bytes, records.OutboxLine] = {}
        self.terms: dict[bytes, records.OrderTerms] = {}
        self.peers: dict[bytes, records.KnownPeer] = {}
        self.forks: dict[tuple[bytes, str], records.ForkedLog] = {}
        self.counters: dict[str, int] = {}
        self.commands: dict[str, bytes] = {}
        self.archived_trades: set[bytes] = set()
        self.archived_orders: set[bytes] = set()
        self.archived_keys: set[str] = set()
        self.own_orders: dict[bytes, bytes] = {}  # of trades that ever were archived
        self.friends: set[bytes] = set()
        self.commits = 0

    def commit(self, writes: tuple[records.Write, ...]) -> None:
        """Apply one transaction."""
        self.commits += 1
        for write in writes:
            self._apply(write)

    def snapshot(self) -> records.Snapshot:
        """What a kernel is restored from, in the order in which the real journal gives it."""
        trades = [one for one in in_order(self.trades) if one.trade_id not in self.archived_trades]
        needed = {self.own_orders.get(one.trade_id) for one in trades}
        away = [*self.archived_trades, *self.archived_orders, *self.hashes]
        keys = map(key_name, self.archived_keys)
        return records.Snapshot(
            orders=tuple(
                one
                for one in in_order(self.orders)
                if one.order_id not in self.archived_orders or one.order_id in needed
            ),
            trades=tuple(trades),
            hashes=tuple(
                sorted(one for one in self.hashes.items() if one[1] not in self.archived_trades)
            ),
            checkpoints=tuple(self.checkpoints[key] for key in sorted(self.checkpoints)),
            batches=tuple(self.batches[key] for key in sorted(self.batches)),
            lines=tuple(
                one for one in self.lines.values() if one.trade_id not in self.archived_trades
            ),
            outbox=tuple(self.outbox.values()),
            peers=tuple(self.peers[key] for key in sorted(self.peers)),
            forks=tuple(self.forks.values()),
            counters=tuple(sorted(self.counters.items())),
            commands=tuple(
                sorted(one for one in self.commands.items() if one[0] not in self.archived_keys)
            ),
            names=tuple(sorted([*(one[:NAME_BYTES] for one in away), *keys])),
            friends=tuple(sorted(self.friends)),
        )

    def _apply(self, write: records.Write) -> None:
        match write:
            case records.PutOrder(order):
                _follows(self.orders.get(order.order_id), order)
                self.orders[order.order_id] = order
                self.archived_orders.discard(order.order_id)
            case records.PutTrade(trade, claimed, capacity):
                self._put_trade(trade, claimed, capacity)
            case records.PutBatch() | records.PutCheckpoint():
                self._put_log(write)
            case records.PutLine(line):
                self.lines.setdefault((line.trade_id, line.digest), line)
            case records.PutOutbox() | records.DropOutbox():
                self._put_outbox(write)
            case records.DropTrade(trade_id):
                self._drop_trade(trade_id)
            case records.ArchiveTrade() | records.ArchiveOrder():
                self._archive(write)
            case records.PutTerms(terms):
                self.terms.setdefault(terms.order_id, terms)
            case records.PutPeer() | records.DropPeer() | records.PutFork() | records.DropFork():
                self._put_of_others(write)
            case records.PutCounter(name, value):
                self.counters[name] = max(value, self.counters.get(name, 0))
            case records.PutCommand(key, made):
                _unique(key not in self.commands, "command")
                self.commands[key] = made
            case _:
                raise AssertionError(write)

    def _archive(self, write: records.ArchiveTrade | records.ArchiveOrder) -> None:
        if isinstance(write, records.ArchiveTrade):
            _unique(write.trade_id in self.trades, "archived trade")
            self.archived_trades.add(write.trade_id)
            self.own_orders[write.trade_id] = write.own_order_id
            key = write.trade_id
            self.friends |= {write.friend} if write.friend else set()
        else:
            _unique(write.order_id in self.orders, "archived order")
            self.archived_orders.add(write.order_id)
            key = write.order_id
        self.archived_keys |= {name for name, made in self.commands.items() if made == key}

    def _put_outbox(self, write: records.PutOutbox | records.DropOutbox) -> None:
        if isinstance(write, records.PutOutbox):
            _unique(write.line.digest not in self.outbox, "outbox")
            self.outbox[write.line.digest] = write.line
        else:
            self.outbox.pop(write.digest, None)

    def _drop_trade(self, trade_id: bytes) -> None:
        _unique(self.trades.pop(trade_id).quantity_lots == 0, "dropped trade")
        waits = any(one.trade_id == trade_id for one in self.outbox.values())
        _unique(not waits, "outbox of a dropped trade")
        for key in [key for key in self.lines if key[0] == trade_id]:
            del self.lines[key]

    def _put_log(self, write: records.PutBatch | records.PutCheckpoint) -> None:
        if isinstance(write, records.PutBatch):
            key = (write.batch.market, write.batch.epoch, write.batch.sequence)
            _unique(key not in self.batches, "batch")
            self.batches[key] = write.batch
            return
        point = write.checkpoint
        self.checkpoints[point.market] = point
        for market, epoch, sequence in list(self.batches):
            if market == point.market and (epoch, sequence) < (point.epoch, write.first):
                del self.batches[market, epoch, sequence]

    def _put_of_others(
        self, write: records.PutPeer | records.DropPeer | records.PutFork | records.DropFork
    ) -> None:
        match write:
            case records.PutPeer(peer):
                self.peers[peer.identity] = peer
            case records.DropPeer(identity):
                self.peers.pop(identity, None)
            case records.PutFork(fork):
                self.forks.pop((fork.maker, fork.market), None)
                self.forks[fork.maker, fork.market] = fork
            case records.DropFork(maker, market):
                self.forks.pop((maker, market), None)

    def _put_trade(self, trade: records.Trade, claimed: int, capacity: int) -> None:
        _follows(self.trades.get(trade.trade_id), trade)
        self.trades[trade.trade_id] = trade
        self.archived_trades.discard(trade.trade_id)
        if trade.role is TradeRole.MAKER and trade.fence:
            owner = self.fences.setdefault(trade.fence, trade.trade_id)
            _unique(owner == trade.trade_id, "fence")
        if trade.payment_hash:
            owner = self.hashes.setdefault(trade.payment_hash, trade.trade_id)
            _unique(owner == trade.trade_id, "payment hash")
            attempt = self.attempts.setdefault(trade.payment_hash, trade.attempt)
            _unique(attempt == trade.attempt, "payment hash of another attempt")
            key = (trade.trade_id, attempt)
            only = attempt == 1 or self.rollovers.setdefault(key, trade.payment_hash)
            _unique(only in {True, trade.payment_hash}, "attempt")
        self.claims[trade.trade_id] = claimed
        if claimed:
            total = sum(
                self.claims[one.trade_id]
                for one in self.trades.values()
                if one.role == trade.role and one.order_id == trade.order_id
            )
            _unique(total <= capacity, f"oversold: {total} of {capacity}")


def in_order(rows: dict[bytes, R]) -> list[R]:
    """Trades or orders by id, the oldest first."""
    return [rows[key] for key in sorted(rows, key=lambda one: (rows[one].created_ms, one))]


def _follows(before: Any, after: Any) -> None:  # noqa: ANN401 - any row with a revision
    expected = 1 if before is None else before.revision + 1
    _unique(after.revision == expected, f"revision {after.revision}, expected {expected}")


def _unique(holds: bool, what: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not holds:
        raise StorageError(what)


class Economy(Protocol):
    """Where ledgers live: the wall clock, and how they reach each other and their nodes."""

    @property
    def wall_ms(self) -> int:
        """Unix time."""

    @property
    def height(self) -> int:
        """Of the simulated chain."""

    def ledger_of(self, node_key: bytes, payer: Ledger, /) -> Ledger | None:
        """The ledger of a running node that a payer can reach."""

    def changed(self, ledger: Ledger, payment_hash: bytes) -> None:
        """A payee's backend tells its node that an invoice has changed."""


class Ledger:
    """One node's play money, as the real backend keeps it."""

    def __init__(self, world: Economy, name: str, asset: str = BASE) -> None:
        """Start with 10 BTC, or as many of the smallest units of another asset."""
        self._world = world
        self.asset = asset
        # Each network has nodes of its own.
        whose = name if asset == BASE else f"{name} {asset}"
        self._secret = hashlib.sha256(whose.encode()).digest()
        self.node = public_key(self._secret)
        self.balance_msat = 10**12
        self.invoices: dict[bytes, dict[str, Any]] = {}
        self.payments: dict[bytes, dict[str, Any]] = {}
        self.fail_create: Literal["", "rejected", "indeterminate"] = ""
        self.fail_pay: Literal["", "rejected", "indeterminate"] = ""
        self.fail_look = False
        self.unreachable = False
        self.overcharge_msat = 0

    def create(self, effect: out.CreateInvoice | out.CreateHoldInvoice) -> str:
        """Make an invoice, or give the one of that hash again; without a preimage it is held."""
        preimage, cltv = None, DEFAULT_MIN_FINAL_CLTV
        if isinstance(effect, out.CreateInvoice):
            preimage = effect.preimage
        else:
            cltv = effect.min_final_cltv
        known = self.invoices.get(effect.payment_hash)
        if known is not None:
            return str(known["text"])
        now_ms = self._world.wall_ms
        draft = Draft(
            network=InvoiceNetwork.REGTEST,
            timestamp_s=now_ms // 1_000,
            payment_hash=effect.payment_hash,
            payment_secret=bytes(32),
            amount_msat=effect.amount_msat + self.overcharge_msat,
            description=effect.memo,
            expiry_s=effect.expiry_s,
            min_final_cltv=cltv,
        )
        text = encode(draft, self._secret)
        self.invoices[effect.payment_hash] = {
            "text": text,
            "preimage": preimage,
            "min_final_cltv": draft.min_final_cltv,
            "state": "open",
            "amount_msat": draft.amount_msat,
            "expires_ms": now_ms // 1_000 * 1_000 + effect.expiry_s * 1_000,
        }
        return text

    def is_foreign(self, effect: out.CreateHoldInvoice) -> bool:
        """Whether an invoice of this hash was made for something else."""
        known = self.invoices.get(effect.payment_hash)
        return known is not None and decode(known["text"]).description != effect.memo

    def state(self, payment_hash: bytes) -> str:
        """The state of an invoice of ours; what has expired or is held too long is cancelled."""
        invoice = self.invoices.get(payment_hash)
        if invoice is None:
            return "unknown"
        if invoice["state"] == "open" and invoice["expires_ms"] <= self._world.wall_ms:
            invoice["state"] = "canceled"
        lock = invoice.get("expiry_height", 0) - PLAY_AUTO_CANCEL_BLOCKS
        if invoice["state"] == "accepted" and self.height >= lock:
            invoice["state"] = "canceled"
        return str(invoice["state"])

    @property
    def height(self) -> int:
        """Of the asset's chain; no two chains have the same."""
        return self._world.height + (0 if self.asset == BASE else 100_000)

    def seen(self, payment_hash: bytes) -> happened.InvoiceSeen:
        """How an invoice of ours stands, as an event."""
        state: Any = self.state(payment_hash)
        invoice = self.invoices.get(payment_hash, {})
        if state == "accepted":
            lock = (invoice["expiry_height"], self.height)
            received_msat = invoice["amount_msat"]
            return happened.InvoiceSeen(payment_hash, state, received_msat, *lock, self.asset)
        received_msat = invoice["amount_msat"] if state == "settled" else 0
        return happened.InvoiceSeen(payment_hash, state, received_msat, asset=self.asset)

    def cancel(self, payment_hash: bytes) -> None:
        """Cancel what is open or held; the payer hears of it when it asks."""
        if self.state(payment_hash) in {"open", "accepted"}:
            self.invoices[payment_hash]["state"] = "canceled"

    def settle(self, preimage: bytes) -> bool:
        """Take what is held for a preimage; False where nothing is."""
        payment_hash = hashlib.sha256(preimage).digest()
        if self.state(payment_hash) == "accepted":
            invoice = self.invoices[payment_hash]
            invoice["state"], invoice["preimage"] = "settled", preimage
            self.balance_msat += invoice["amount_msat"]
        return self.state(payment_hash) == "settled"

    def why_not_pay(self, effect: out.PayInvoice) -> bool:
        """Whether a payment is asked for too late, or for a longer lock than it may have."""
        late = 0 < effect.not_after_ms < self._world.wall_ms
        return late or decode(effect.invoice).min_final_cltv > effect.cltv_limit

    def pay(self, text: str) -> str:
        """Pay an invoice; the state of the payment."""
        invoice = decode(text)
        known = self.payments.get(invoice.payment_hash)
        if known is not None and known["state"] != "failed":
            return self.drive(invoice.payment_hash)
        amount = invoice.amount_msat or 0
        if amount > self.balance_msat:
            return "insufficient"
        self.balance_msat -= amount
        self.payments[invoice.payment_hash] = {
            "state": "in_flight",
            "payee": invoice.payee,
            "amount_msat": amount,
            "preimage": None,
            "expiry_height": self.height + invoice.min_final_cltv,
        }
        return self.drive(invoice.payment_hash)

    def drive(self, payment_hash: bytes) -> str:
        """Ask the payee of a payment in flight; its state."""
        payment = self.payments.get(payment_hash)
        if payment is None:
            return "none"
        if payment["state"] == "in_flight" and not self.unreachable:
            payee = self._world.ledger_of(payment["payee"], self)
            if payee is not None:
                state, preimage = payee.receive(payment_hash, payment["amount_msat"], self.node)
                payment["state"], payment["preimage"] = state, preimage
                if state == "failed":
                    self.balance_msat += payment["amount_msat"]
        return str(payment["state"])

    def receive(
        self, payment_hash: bytes, amount_msat: int, payer: bytes
    ) -> tuple[str, bytes | None]:
        """What becomes of a payment: credited with its preimage, held, or failed."""
        state, invoice = self.state(payment_hash), self.invoices.get(payment_hash)
        if invoice is None or invoice["amount_msat"] != amount_msat:
            return "failed", None
        if state in {"accepted", "settled"} and invoice["payer"] != payer:
            return "failed", None
        if state == "open":
            invoice["payer"] = payer
            if invoice["preimage"] is None:
                invoice["state"] = "accepted"
                invoice["expiry_height"] = self.height + invoice["min_final_cltv"]
            else:
                invoice["state"] = "settled"
                self.balance_msat += amount_msat
            self._world.changed(self, payment_hash)
            state = invoice["state"]
        if state == "settled":
            return "succeeded", invoice["preimage"]
        return ("in_flight" if state == "accepted" else "failed"), None


def lightning_answer(ledger: Ledger, effect: out.Effect) -> happened.Event | None:
    """Carry out an effect on Lightning; the event that answers it, if it is one."""
    answer: happened.Event | None = None
    match effect:
        case out.CreateInvoice() | out.CreateHoldInvoice() if ledger.fail_create:
            held = isinstance(effect, out.CreateHoldInvoice)
            call = "create_hold_invoice" if held else "create_invoice"
            answer = _failed(effect, call, ledger.fail_create)
        case out.CreateHoldInvoice() if ledger.is_foreign(effect):
            wrong = RejectReason.WRONG_PAYMENT_HASH
            answer = _failed(effect, "create_hold_invoice", "rejected", wrong)
        case out.CreateInvoice() | out.CreateHoldInvoice():
            text = ledger.create(effect)
            made = (effect.trade_id, effect.payment_hash, text)
            answer = happened.InvoiceCreated(*made, effect.asset)
        case (
            out.LookupInvoice() | out.SettleInvoice() | out.CancelInvoice() | out.LookupPayment()
        ) if ledger.fail_look:
            answer = _failed(effect, "invoice", "indeterminate")
        case out.LookupInvoice(_, payment_hash):
            answer = ledger.seen(payment_hash)
        case out.SettleInvoice(_, payment_hash, preimage):
            settled = ledger.settle(preimage)
            answer = ledger.seen(payment_hash) if settled else _failed(effect, "settle", "rejected")
        case out.CancelInvoice(_, payment_hash):
            ledger.cancel(payment_hash)
            answer = ledger.seen(payment_hash)
        case out.PayInvoice() if ledger.fail_pay:
            answer = _failed(effect, "pay", ledger.fail_pay)
        case out.PayInvoice() if ledger.why_not_pay(effect):
            answer = _failed(effect, "pay", "rejected")
        case out.PayInvoice(_, payment_hash, invoice):
            answer = _paid(ledger, effect, payment_hash, ledger.pay(invoice))
        case out.LookupPayment(_, payment_hash):
            answer = _paid(ledger, effect, payment_hash, ledger.drive(payment_hash))
        case _:
            pass  # play money's own words, which only a spy looks at
    return answer


def _paid(ledger: Ledger, effect: Any, payment_hash: bytes, state: Any) -> happened.Event:  # noqa: ANN401
    if state == "insufficient":
        return _failed(effect, "pay", "rejected")
    payment = ledger.payments.get(payment_hash, {})
    return happened.PaymentSeen(
        effect.trade_id,
        payment_hash,
        state,
        payment.get("preimage"),
        htlc_expiry_height=payment["expiry_height"] if state == "in_flight" else None,
        height=ledger.height if state == "in_flight" else 0,
        asset=ledger.asset,
        call="pay" if isinstance(effect, out.PayInvoice) else "payment",
    )


def _failed(
    effect: Any,  # noqa: ANN401
    call: Any,  # noqa: ANN401
    how: str,
    reason: RejectReason | None = None,
) -> happened.LightningFailed:
    rejected = RejectReason.INSUFFICIENT_BALANCE
    reason = reason or (rejected if call == "pay" else RejectReason.LIGHTNING_UNAVAILABLE)
    return happened.LightningFailed(
        effect.trade_id,
        effect.payment_hash,
        call,
        how == "indeterminate",
        reason,
        how,
        effect.asset,
    )
