"""What must be so after every step, whatever went wrong; the first exception ends the run.

Cheap checks follow each decision; everything is compared in full from time to time and at the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tests.simulation.machine import Machine
from tests.simulation.reference import Reference
from tests.stories import (
    check_hashes,
    check_order,
    check_paid_once,
    check_pairs,
    check_trades,
    total_msat,
)
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.logs import MakerLog
from zmqex.kernel.records import DropTrade, PutBatch, PutOrder, PutTrade, Trade, Write
from zmqex.limits import CLOCK_SKEW_MAX_MS, ORDER_LIFE_MAX_MS, PLAY_BALANCE_MSAT, SILENT_MS
from zmqex.protocol.codec import (
    decode,
    decode_envelope,
    decode_frame,
    decode_trade_message,
    encode,
)
from zmqex.protocol.identity import to_text
from zmqex.protocol.messages import Envelope, Heartbeat, Order, TradeSaid
from zmqex.trading.states import TERMINAL, State, TradeRole
from zmqex.trading.tables import TABLES

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

_SLACK_MS = 10_000
# Within this, a book has looked again at what it had kept out.
LOOKED_AGAIN_MS = 6_000
# Holds that a run waits for, and the states in which a trade waits for their end.
_SHORT_HOLD_MS = 30_000
_HELD = {
    (TradeRole.TAKER, State.TAKING),
    (TradeRole.MAKER, State.RESERVED),
    (TradeRole.MAKER, State.INVOICED),
    (TradeRole.MAKER, State.CANCELLING),
}


class Invariants:
    """Watches every kernel of a run."""

    def __init__(self, sim: Simulation) -> None:
        """Nothing has been said yet."""
        self.sim = sim
        self.reference = Reference()
        self.checks = 0
        self._said: dict[tuple[bytes, str, int, int], bytes] = {}
        self._beat_ms: dict[bytes, int] = {}
        # What each machine's process has heard, what it waits to have verified, and what it holds.
        self._beats: dict[int, dict[bytes, int]] = {}
        self._tickets: dict[int, dict[int, tuple[tuple[bytes, str, Envelope], ...]]] = {}
        self._trades: dict[int, dict[bytes, Trade]] = {}
        self.restored: dict[int, None] = {}
        self._preimages: dict[str, None] = {}
        self._heads: dict[int, dict[tuple[bytes, str], tuple[int, int, bytes]]] = {}
        self._accepts: dict[tuple[int, bytes], bytes] = {}

    # --- what the world tells --------------------------------------------------------------------

    def started(self, machine: Machine) -> None:
        """A process begins with what is on disk, and knows nothing of others."""
        number = machine.number
        self._trades[number] = dict(machine.journal.trades)
        self._beats[number], self._heads[number], self._tickets[number] = {}, {}, {}

    def restored_backup(self, machine: Machine) -> None:
        """A machine has lost its memory of the last minutes: it may contradict itself once."""
        self.restored[machine.number] = None
        self._said = {key: one for key, one in self._said.items() if key[0] != machine.identity}

    def signed(self, _maker: bytes, envelope: bytes) -> None:
        """A maker has signed a batch, honest or not."""
        self.reference.add(envelope)

    def verifying(self, machine: Machine, effect: out.Verify) -> None:
        """A kernel wants to know whether this was signed."""
        self._tickets[machine.number][effect.ticket] = effect.items

    def published(self, machine: Machine, effect: out.Publish) -> None:
        """A machine has told the network something."""
        if machine.lies:
            return
        if effect.topic == b"h":
            self._beat_ms[machine.identity] = self.sim.schedule.now_ms
        signed = self.reference.by_envelope.get(effect.envelope)
        if signed is None or signed.batch.maker != machine.identity:
            return
        batch = signed.batch
        place = (batch.maker, batch.market, batch.epoch, batch.sequence)
        before = self._said.setdefault(place, signed.digest)
        if before != signed.digest and machine.number not in self.restored:
            self._fail(f"{machine.name} published two batches {batch.epoch}/{batch.sequence}")
        self.sim.measures.published(signed)

    def decided(self, machine: Machine, event: happened.Event, effects: list[out.Effect]) -> None:
        """A kernel has handled an event."""
        for effect in effects:
            if isinstance(effect, out.Persist):
                for write in effect.writes:
                    self._written(machine, write)
            elif isinstance(effect, out.CreateInvoice):
                self._preimages[effect.preimage.hex()] = None
            elif isinstance(effect, out.Log):
                self._logged(machine, effect)
        if isinstance(event, happened.Verified) and not machine.lies:
            self._verified(machine, event)

    def on_disk(self, machine: Machine, writes: Iterable[Write]) -> None:
        """A group of commits is on disk."""
        if machine.number in self.restored:
            return
        touched: dict[bytes, None] = {}
        for write in writes:
            if isinstance(write, PutTrade):
                touched[write.trade.order_id] = None
            elif isinstance(write, PutOrder):
                touched[write.order.order_id] = None
        for order_id in touched:
            if order_id in machine.journal.orders:
                check_order(machine, order_id)

    def replied(self, machine: Machine, frame: bytes) -> None:
        """A maker gives the same accept for the same take, byte for byte."""
        reply = decode_frame(frame)
        if machine.lies or reply.kind != "take":
            return
        envelope = decode(reply.body, TradeSaid).envelope
        message = decode_trade_message(decode_envelope(envelope).body)
        key = (machine.number, message.trade_id)
        if self._accepts.setdefault(key, envelope) != envelope:
            self._fail(f"{machine.name} accepted one take in two ways")

    # --- logs and books --------------------------------------------------------------------------

    def _verified(self, machine: Machine, event: happened.Verified) -> None:
        items = self._tickets[machine.number].pop(event.ticket, ())
        logs: dict[tuple[bytes, str], None] = {}
        for maker, kind, envelope in items:
            if kind == "batch":
                signed = self.reference.by_envelope.get(encode(envelope))
                if signed is not None:
                    logs[maker, signed.batch.market] = None
            elif kind == "heartbeat":
                self._heard(machine, maker)
        for maker, market in logs:
            log = machine.k.replicas.log(maker, market)
            if log is not None:
                self._check_log(machine, log)

    def _heard(self, machine: Machine, maker: bytes) -> None:
        """The newest heartbeat of a maker only ever gets newer, unless it was of the future."""
        known = machine.k.replicas.makers.get(maker)
        if known is None:
            return
        beats = self._beats[machine.number]
        before_ms = beats.get(maker, 0)
        future = before_ms > machine.k.core.now.wall_ms
        if known.sent_at_ms < before_ms and not future and not machine.jumped:
            self._fail(f"{machine.name} went back to an older heartbeat of {to_text(maker)[:8]}")
        beats[maker] = known.sent_at_ms

    def _check_log(self, machine: Machine, log: MakerLog) -> None:
        """What a node holds of a log is what its maker has signed up to there, and no more."""
        fold = log.fold
        if not fold.sequence:
            return
        heads, key = self._heads[machine.number], (fold.maker, fold.market)
        at = (fold.epoch, fold.sequence, fold.head_hash)
        before = heads.get(key)
        if before == at and not log.forked:
            return
        self.checks += 1
        who = f"{machine.name}'s copy of {to_text(fold.maker)[:8]} at {fold.epoch}/{fold.sequence}"
        if before is not None and before[:2] > at[:2]:
            self._fail(f"{who} went back from {before[0]}/{before[1]}")
        heads[key] = at
        signed = self.reference.by_digest.get(fold.head_hash)
        if signed is None or signed.batch.maker != fold.maker:
            self._fail(f"{who}: its maker never signed that")
            return
        batch = signed.batch
        if (batch.market, batch.epoch, batch.sequence) != (fold.market, fold.epoch, fold.sequence):
            self._fail(f"{who}: the batch there is {batch.epoch}/{batch.sequence}")
        rows = self.reference.fold(signed)
        if rows is None:
            self._fail(f"{who}: no chain of valid batches leads there")
            return
        if not fold.head_only and fold.root() != signed.root:
            self._fail(f"{who}: another book root than the signed operations give")
        self._check_book(machine, log)
        self.sim.measures.applied(machine, log, before)

    def _check_book(self, machine: Machine, log: MakerLog) -> None:
        """A book shows what its folds have open, as long as it has not expired."""
        fold = log.fold
        if fold.market not in machine.k.replicas.markets():
            return
        now_ms = machine.wall_ms
        book = machine.k.replicas.book(fold.market)
        shown = {key: one for key, one in book._orders.items() if one.maker == fold.maker}
        who = f"{machine.name}'s book"
        for key, order in shown.items():
            if self.reference.placed.get(key) != fold.maker:
                self._fail(f"{who} has an order that its maker did not sign")
            row = fold.orders.get(key)
            if log.forked or row is None:
                self._fail(f"{who} has an order that is closed: {key.hex()[:8]}")
            elif order.available_lots != row.available_lots:
                self._fail(f"{who} has {order.available_lots} lots of {row.available_lots}")
            if order.expires_at_ms <= min(now_ms, machine.k.core.now.wall_ms):
                self._fail(f"{who} has an order that has expired: {key.hex()[:8]}")
        maker = self.sim.by_identity[fold.maker]
        # What a clock that was wrong has kept out is looked at again every few seconds.
        clocks = (machine.jumped or maker.jumped) and not self.sim.settled
        if log.forked or fold.head_only or clocks:
            return
        for key, row in fold.orders.items():
            # What ends too late, as its maker's clock was ahead, is kept out until it does not.
            latest_ms = now_ms + ORDER_LIFE_MAX_MS + CLOCK_SKEW_MAX_MS - LOOKED_AGAIN_MS
            if key not in shown and now_ms < row.order.expires_at_ms <= latest_ms:
                left_ms = row.order.expires_at_ms - now_ms
                self._fail(
                    f"{who} lacks {key.hex()[:8]} of {maker.name}, open for {left_ms} ms more"
                )

    def check_everything(self, machine: Machine) -> None:
        """Compare all logs and books of a machine, and its idea of who is alive."""
        if machine.kernel is None:
            return
        replicas = machine.k.replicas
        for maker in list(replicas.makers):
            for log in replicas.logs_of(maker):
                self._check_log(machine, log)
                self._check_book(machine, log)
        if machine.awake:
            for one in self.sim.honest:
                self._check_alive(machine, one)
        if machine.on_disk:
            restored = machine.number in self.restored
            if not restored:
                check_trades(self.sim.nodes, machine)

    def _check_alive(self, machine: Machine, maker: Machine) -> None:
        """Nobody is believed to be alive for long after its last true word."""
        if maker is machine or machine.jumped or maker.jumped:
            return
        if machine.k.replicas.is_stale(maker.identity):
            return
        silent_ms = self.sim.schedule.now_ms - self._beat_ms.get(maker.identity, -(10**9))
        skew_ms = abs(maker.skew_ms) + abs(machine.skew_ms)
        if silent_ms > SILENT_MS + CLOCK_SKEW_MAX_MS + skew_ms + _SLACK_MS:
            self._fail(f"{machine.name} thinks that {maker.name} lives, silent for {silent_ms} ms")

    def check_ended(self) -> None:
        """Long after all holds are over: nothing waits but for a person, and both sides agree."""
        reliable = {one.name: one for one in self.sim.honest if one.number not in self.restored}
        for machine in reliable.values():
            for trade in machine.journal.trades.values():
                # A hold ends by its maker's clock; a taker without an accept waits for much longer.
                short = 0 < trade.hold_ttl_ms <= _SHORT_HOLD_MS and not machine.jumped
                if (trade.role, trade.state) in _HELD and short and trade.quantity_lots:
                    self._fail(f"{machine.name} still has a trade {trade.state}: {trade.reason}")
        check_pairs(reliable)

    def check_money(self) -> None:
        """No play money is made or lost, no hash belongs to two trades, nothing is paid twice."""
        reliable = {one.name: one for one in self.sim.honest if one.number not in self.restored}
        check_hashes(reliable)
        if all(one.on_disk for one in reliable.values()):
            check_paid_once(reliable)
        total = total_msat(self.sim.nodes)
        if total != PLAY_BALANCE_MSAT * len(self.sim.machines):
            self._fail(f"the ledgers sum up to {total} msat")

    # --- trades ----------------------------------------------------------------------------------

    def _written(self, machine: Machine, write: Write) -> None:
        if isinstance(write, PutBatch):
            self.reference.add(write.batch.envelope)
        elif isinstance(write, PutTrade):
            known = self._trades[machine.number]
            before = known.get(write.trade.trade_id)
            known[write.trade.trade_id] = write.trade
            if before is None:
                self._begun(machine, write.trade)
            else:
                self._moved(machine, before, write.trade)
        elif isinstance(write, DropTrade):
            # A cancel of a take that never came; when it is heard again, it begins anew.
            gone = self._trades[machine.number].pop(write.trade_id, None)
            if gone is not None and gone.quantity_lots:
                self._fail(f"{machine.name} forgets a trade of {gone.quantity_lots} lots")

    def _begun(self, machine: Machine, trade: Trade) -> None:
        if trade.role is not TradeRole.MAKER or not trade.quantity_lots:
            return
        row = machine.k.orders.rows.get(trade.order_id)
        if row is None:
            self._fail(f"{machine.name} sells of an order that it does not have")
            return
        terms = decode(row.order, Order)
        if terms.expires_at_ms <= trade.created_ms:
            self._fail(f"{machine.name} admitted a take of an expired order")
        if trade.taker == machine.identity:
            self._fail(f"{machine.name} trades with itself")
        if trade.price_ticks != terms.price_ticks or trade.quote_units <= 0:
            self._fail(f"{machine.name} trades at a price that is not its order's")

    def _moved(self, machine: Machine, before: Trade, after: Trade) -> None:
        """Only along the table; ends absorb; each change raises the revision by one."""
        who = f"a trade of {machine.name}"
        if after.revision != before.revision + 1:
            self._fail(f"{who} went from revision {before.revision} to {after.revision}")
        if after.state is before.state:
            return
        side = machine.k.trades.our_side(after)
        table = TABLES[after.settlement, after.role, side]
        if not any(state is before.state and to is after.state for (state, _), to in table.items()):
            self._fail(f"{who} went from {before.state} to {after.state}")
        absorbed = before.state in TERMINAL and after.state is not State.DISPUTED
        if absorbed:
            self._fail(f"{who} left its end {before.state}")

    def _logged(self, machine: Machine, effect: out.Log) -> None:
        for fact in effect.facts.values():
            if isinstance(fact, str) and fact in self._preimages:
                self._fail(f"{machine.name} wrote a preimage into its log: {effect.event}")

    def _fail(self, what: str) -> None:
        raise self.sim.failure(what)


def beat_of(envelope: bytes) -> Heartbeat:
    """The heartbeat in an envelope."""
    return decode(decode_envelope(envelope).body, Heartbeat)
