"""A whole network in one thread: real kernels, virtual time, one seed."""

from __future__ import annotations

import hashlib
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec

from tests.outside import Ledger
from tests.simulation.faults import Faults
from tests.simulation.invariants import LOOKED_AGAIN_MS, Invariants
from tests.simulation.liars import Liar
from tests.simulation.load import Load
from tests.simulation.machine import HELLO, START_MS, Machine
from tests.simulation.measures import Measures
from tests.simulation.outside import Outside
from tests.simulation.plan import Fault, Plan, limits_of
from tests.simulation.schedule import Schedule
from tests.simulation.signatures import checking
from zmqex.dht.limits import DHT_FOLLOW_EVERY_MS
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.limits import CLOCK_SKEW_MAX_MS

HEALED_WITHIN_MS = 30_000
HEIGHT = 800_000
_FULL_CHECK_EVERY_MS = 5_000
_STEP_MS = 1_000
_WATCH_MS = 2_000
_PATIENCE_MS = 100_000
_FOUND_MAX = 50  # what one lookup in the DHT brings
_LOGGED_MAX = 40


class SimulationError(AssertionError):
    """Something that must never happen has happened; says how to see it again."""


@dataclass
class Report:
    """What came of one run."""

    plan: Plan
    trace: str = ""
    failure: str = ""
    log: list[str] = field(default_factory=list)
    healed_ms: int = 0  # until all honest nodes agreed, counted from the end of all faults
    faults: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)


class Simulation:
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        """Set the machines up; nothing runs before `run`."""
        self.plan = plan
        self.schedule = Schedule()
        self.random = Random(f"{plan.seed} simulation")
        self.loading = True
        self.ended = False
        self.settled = False
        self.at_host: dict[str, Machine] = {}
        self.counts: Counter[Fault] = Counter()
        self.events = 0
        self._hash = hashlib.blake2b(digest_size=16)
        self._encode = msgspec.msgpack.Encoder().encode
        self._log: dict[int, list[str]] = {}
        self.measures = Measures(self)
        self.invariants = Invariants(self)
        self.load = Load(self)
        self.outside = Outside(self)
        self.faults = Faults(self)
        self.liars: dict[int, Liar] = {}
        lying = range(plan.nodes - plan.liars, plan.nodes)
        self.machines = [
            Machine(self, number, maker=number < plan.makers, lies=number in lying)
            for number in range(plan.nodes)
        ]
        self.honest = [one for one in self.machines if not one.lies]
        self.traders = [one for one in self.machines if one.maker or one.lies]
        self.by_identity = {one.identity: one for one in self.machines}
        self._by_ledger = {one.ledger.node: one for one in self.machines}
        for machine in self.machines:
            self.at_host[machine.host] = machine
            if machine.lies:
                self.liars[machine.number] = Liar(self, machine)

    # --- what the parts need ---------------------------------------------------------------------

    @property
    def wall_ms(self) -> int:
        """The true time."""
        return START_MS + self.schedule.now_ms

    @property
    def nodes(self) -> dict[str, Machine]:
        """All machines by name."""
        return {one.name: one for one in self.machines}

    def fired(self, fault: Fault) -> None:
        """A fault has done something."""
        self.counts[fault] += 1

    def failure(self, what: str) -> SimulationError:
        """An error that says how to see it again."""
        return SimulationError(f"at {self.schedule.now_ms} ms: {what}")

    def trace(self, machine: Machine, event: happened.Event, effects: list[out.Effect]) -> None:
        """Add a decision to the run's hash."""
        self.events += 1
        self._hash.update(
            self._encode((self.schedule.now_ms, machine.number, type(event).__name__, event))
        )
        self._hash.update(self._encode(effects))

    def logged(self, machine: Machine, effect: out.Log) -> None:
        """Keep the last log lines of each machine for the report of a failure."""
        lines = self._log.setdefault(machine.number, [])
        lines.append(f"{self.schedule.now_ms} {machine.name} {effect.event} {effect.facts}")
        if len(lines) > 2 * _LOGGED_MAX:
            del lines[:_LOGGED_MAX]

    def ledger_of(self, node_key: bytes, payer: Ledger) -> Ledger | None:
        """The ledger of a running node that a payer can reach."""
        payee, source = self._by_ledger[node_key], self._by_ledger[payer.node]
        reached = payee.awake and self.outside.reaches(source, payee)
        return payee.ledger if reached else None

    @property
    def height(self) -> int:
        """Of the simulated chain: blocks come many times faster than real ones."""
        return HEIGHT + self.schedule.now_ms // self.plan.block_ms

    def changed(self, ledger: Ledger, payment_hash: bytes) -> None:
        """A payee's backend tells its node that an invoice has changed."""
        machine = self._by_ledger[ledger.node]
        if ledger.fail_look:
            # A watch attaches again until the backend speaks, as the adapters' do.
            self.fired(Fault.LIGHTNING_SILENT)
            self.schedule.after(_WATCH_MS, self.changed, ledger, payment_hash)
            return
        machine.soon(ledger.seen(payment_hash), self.random.randint(1, 20))

    def discovery(self, machine: Machine) -> None:
        """A lookup in the DHT names some of the others, now and every half minute."""
        self._look_up(machine, machine.starts)

    def _look_up(self, machine: Machine, starts: int) -> None:
        if machine.starts != starts or not machine.up:
            return
        others = [one for one in self.machines if one is not machine]
        if len(others) > _FOUND_MAX:
            others = self.random.sample(others, _FOUND_MAX)
        found = tuple((one.host, HELLO, "dht") for one in others)
        machine.soon(happened.CandidatesFound(found), self.random.randint(1, 200))
        self.schedule.after(DHT_FOLLOW_EVERY_MS, self._look_up, machine, starts)

    # --- the run ---------------------------------------------------------------------------------

    def run(self) -> Report:
        """Everything: load and faults, healing, agreement; a failure is in the report."""
        report = Report(self.plan)
        started = time.monotonic()
        with checking(fast=self.plan.fast_signer), limits_of(self.plan):
            try:
                self._run(report)
            except SimulationError as error:
                report.failure = str(error)
            except Exception as error:  # noqa: BLE001 - whatever a kernel raises ends its node
                report.failure = str(self.failure(repr(error)))
                report.log = traceback.format_exc().splitlines()
        if report.failure:
            report.log += self._last_lines()
        report.trace = self._hash.hexdigest()
        report.faults = {fault.value: self.counts[fault] for fault in Fault if self.counts[fault]}
        report.numbers = self._numbers(time.monotonic() - started)
        return report

    def _run(self, report: Report) -> None:
        for machine in self.machines:
            self.schedule.at(self.random.randint(0, 2_000), machine.start)
        self.schedule.at(3_000, self.load.begin)
        self.faults.begin()
        self._mine()
        self.schedule.at(_FULL_CHECK_EVERY_MS, self._full_check)
        end_ms = self.plan.seconds * 1_000
        self.schedule.run_until(end_ms)
        while self.load.orders < self.plan.orders_least:
            end_ms += _STEP_MS
            self.schedule.run_until(end_ms)
        self.loading = False
        self.faults.heal()
        disagreement = ""
        while self.schedule.now_ms < end_ms + HEALED_WITHIN_MS:
            self.schedule.run_until(self.schedule.now_ms + _STEP_MS)
            disagreement = self.disagreement()
            if not disagreement:
                break
        report.healed_ms = self.schedule.now_ms - end_ms
        self.ended = True
        if disagreement:
            raise self.failure(f"still no agreement after {report.healed_ms} ms: {disagreement}")
        self.schedule.run_until(self.schedule.now_ms + LOOKED_AGAIN_MS)
        self.settled = True
        self.check_all()
        if self.plan.patient and self.plan.hold_ttl_ms <= _PATIENCE_MS:
            self.schedule.run_until(self.schedule.now_ms + self.plan.hold_ttl_ms + _PATIENCE_MS)
            self.check_all()
            self.invariants.check_ended()

    def _mine(self) -> None:
        """A block: every backend tells its node."""
        for machine in self.machines:
            if machine.up:
                delay_ms = self.random.randint(1, 2_000)
                machine.soon(happened.HeightSeen(self.height), delay_ms)
        self.schedule.after(self.plan.block_ms, self._mine)

    def _full_check(self) -> None:
        if not self.ended:
            self.check_all()
            self.schedule.after(_FULL_CHECK_EVERY_MS, self._full_check)

    def check_all(self) -> None:
        """Compare everything."""
        self.invariants.check_money()
        for machine in self.honest:
            self.invariants.check_everything(machine)

    @property
    def reachable(self) -> list[Machine]:
        """The honest ones, but for those whose records nobody can believe for a while.

        Who has numbered a record while its clock was ahead, and has then lost that number with its
        disk, is met again when that time has come.
        """
        lost = self.invariants.restored
        return [one for one in self.honest if not (one.jumped and one.number in lost)]

    def disagreement(self) -> str:
        """Where an honest node differs from what an honest maker has; empty when none does."""
        for maker in self.reachable:
            for own in maker.k.replicas.logs_of(maker.identity):
                if not own.fold.epoch or own.fold.epoch > self.wall_ms + CLOCK_SKEW_MAX_MS:
                    continue  # begun while its clock was ahead: heard when that time has come
                head = own.fold.head()
                for machine in self.reachable:
                    log = machine.k.replicas.log(maker.identity, head.market)
                    if log is None:
                        return f"{machine.name} knows nothing of {maker.name} in {head.market}"
                    fold = log.fold
                    theirs = (fold.epoch, fold.sequence, fold.root())
                    if theirs != (head.epoch, head.sequence, head.book_root) or log.forked:
                        return (
                            f"{machine.name} has {maker.name} at {fold.epoch}/{fold.sequence} "
                            f"({log.state}), not {head.epoch}/{head.sequence} in {head.market}"
                        )
        return ""

    def _last_lines(self) -> list[str]:
        return [line for lines in self._log.values() for line in lines[-_LOGGED_MAX:]]

    def _numbers(self, real_s: float) -> dict[str, Any]:
        simulated_s = self.schedule.now_ms / 1_000
        outside = self.outside
        trades = [one for machine in self.machines for one in machine.journal.trades.values()]
        states = Counter(one.state.value for one in trades)
        return {
            "simulated_s": simulated_s,
            "real_s": round(real_s, 3),
            "simulated_s_per_real_s": round(simulated_s / max(real_s, 1e-9), 1),
            "events": self.events,
            "messages": outside.messages,
            "bytes": outside.bytes,
            "messages_per_node_and_s": round(outside.messages / self.plan.nodes / simulated_s, 2),
            "bytes_per_node_and_s": round(outside.bytes / self.plan.nodes / simulated_s, 1),
            "converged_ms": self.measures.percentiles(),
            "hops": {str(key): value for key, value in sorted(self.measures.hops.items())},
            "duplicates": self.measures.duplicates,
            "orders": self.load.orders,
            "accepted": self.load.accepted,
            "refused": self.load.refused,
            "trades": dict(sorted(states.items())),
            "log_checks": self.invariants.checks,
        }
