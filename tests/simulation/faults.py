"""When things go wrong, and how long: episodes drawn from the seed until everything heals."""

from __future__ import annotations

import copy
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Literal

from tests.outside import MemoryJournal
from tests.simulation.machine import Machine
from tests.simulation.outside import Weather
from tests.simulation.plan import Fault

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

_FIRST_MS = 4_000


class Faults:
    """Starts and ends every episode."""

    def __init__(self, sim: Simulation) -> None:
        """Only what the plan has chosen will happen."""
        self.sim = sim
        self.random = Random(f"{sim.plan.seed} faults")
        self.healed = False
        # fault: (what it does, mean pause between episodes in ms)
        self._episodes: dict[Fault, tuple[Callable[[], None], int]] = {
            Fault.LOSS: (self._loss, 15_000),
            Fault.REPEAT: (self._repeat, 15_000),
            Fault.REORDER: (self._reorder, 15_000),
            Fault.DELAY: (self._delay, 20_000),
            Fault.PARTITION: (self._partition, 25_000),
            Fault.SLOW_LINK: (self._slow, 25_000),
            Fault.CRASH: (self._crash, 15_000),
            Fault.RESTORED_BACKUP: (self._restored, 40_000),
            Fault.CLOCK_JUMP: (self._clock, 40_000),
            Fault.SUSPEND: (self._suspend, 20_000),
            Fault.HOLDS_SILENT: (lambda: self._holds("silent"), 15_000),
            Fault.HOLDS_FULL: (lambda: self._holds("full"), 15_000),
            Fault.HOLDS_LOST: (self._holds_lost, 10_000),
            Fault.LIGHTNING_REFUSES: (lambda: self._lightning("rejected"), 10_000),
            Fault.LIGHTNING_SILENT: (lambda: self._lightning("indeterminate"), 10_000),
            Fault.PAYMENT_IN_FLIGHT: (self._in_flight, 10_000),
        }

    def begin(self) -> None:
        """Plan the first episode of each chosen fault."""
        for fault in self._episodes:
            if fault in self.sim.plan.faults:
                pause = self._episodes[fault][1]
                self.sim.schedule.after(
                    _FIRST_MS + self.random.randint(0, pause), self._happen, fault
                )
        if Fault.CLOCK_SKEW in self.sim.plan.faults:
            self.sim.fired(Fault.CLOCK_SKEW)

    def heal(self) -> None:
        """Everything works again from now on; liars go on lying."""
        self.healed = True
        self.sim.outside.weather = Weather()
        for machine in self.sim.machines:
            machine.holds = "up"
            self._ledger_works(machine)
            machine.set_clock_right()
            machine.resume()
            if not machine.up:
                machine.start()

    def _happen(self, fault: Fault) -> None:
        if self.healed:
            return
        call, pause = self._episodes[fault]
        call()
        self.sim.schedule.after(self.random.randint(pause // 2, 2 * pause), self._happen, fault)

    def _later(self, low_ms: int, high_ms: int, call: Callable[[], None]) -> None:
        """End an episode, unless everything has healed meanwhile."""

        def end() -> None:
            if not self.healed:
                call()

        self.sim.schedule.after(self.random.randint(low_ms, high_ms), end)

    def _someone(self) -> Machine:
        return self.random.choice(self.sim.machines)

    # --- the network -----------------------------------------------------------------------------

    def _loss(self) -> None:
        weather = self.sim.outside.weather
        weather.loss = self.random.choice([0.02, 0.1, 0.5])
        self._later(3_000, 15_000, lambda: setattr(weather, "loss", 0.0))

    def _repeat(self) -> None:
        weather = self.sim.outside.weather
        weather.repeat = self.random.choice([0.05, 0.3])
        self._later(3_000, 15_000, lambda: setattr(weather, "repeat", 0.0))

    def _reorder(self) -> None:
        weather = self.sim.outside.weather
        weather.reorder = self.random.choice([0.1, 0.5])
        self._later(3_000, 15_000, lambda: setattr(weather, "reorder", 0.0))

    def _delay(self) -> None:
        weather = self.sim.outside.weather
        weather.delay_ms = self.random.choice([200, 1_000, 4_000])
        self._later(3_000, 15_000, lambda: setattr(weather, "delay_ms", 0))

    def _partition(self) -> None:
        weather = self.sim.outside.weather
        parts = self.random.choice([2, 2, 3])
        lonely = self.random.random() < 0.4
        chosen = self._someone().number
        weather.sides = {
            one.number: int(one.number == chosen) if lonely else self.random.randrange(parts)
            for one in self.sim.machines
        }
        self._later(2_000, 40_000, weather.sides.clear)

    def _slow(self) -> None:
        slow = self.sim.outside.weather.slow
        number = self._someone().number
        slow[number] = self.random.choice([1, 4, 16])
        self._later(5_000, 25_000, lambda: slow.update({number: 0}))

    # --- machines --------------------------------------------------------------------------------

    def _crash(self) -> None:
        """Half of the crashes come at once, and half while the next commit is being written."""
        machine = self._someone()
        if machine.up and self.random.random() < 0.5:
            self.end_process(machine, machine.starts)
        elif machine.up:
            machine.crashes_at_commit = True

    def end_process(self, machine: Machine, starts: int) -> None:
        """Crash this very process, unless everything has healed; it starts again later."""
        if self.healed or not machine.up or machine.starts != starts:
            return
        machine.crash()
        self.sim.fired(Fault.CRASH)
        long = self.random.random() < 0.15
        self._later(*((75_000, 90_000) if long else (200, 20_000)), lambda: _start(machine))

    def _restored(self) -> None:
        """A copy of the disk is made now; later the disk dies, and the copy is put in its place."""
        machine = self._someone()
        copied = copy_of(machine.journal)
        self._later(4_000, 25_000, lambda: self._restore(machine, copied))

    def _restore(self, machine: Machine, copied: MemoryJournal) -> None:
        machine.crash()
        machine.restore_backup(copied)
        self.sim.fired(Fault.RESTORED_BACKUP)
        self._later(200, 5_000, lambda: _start(machine))

    def _clock(self) -> None:
        machine = self._someone()
        by_ms = self.random.choice([-60_000, -20_000, 20_000, 60_000, 600_000])
        machine.step_clock(by_ms)
        self.sim.fired(Fault.CLOCK_JUMP)
        self._later(3_000, 40_000, machine.set_clock_right)

    def _suspend(self) -> None:
        machine = self._someone()
        if not machine.awake:
            return
        machine.suspend()
        self.sim.fired(Fault.SUSPEND)
        self._later(500, 45_000, machine.resume)

    # --- what stands beside the node -------------------------------------------------------------

    def _holds(self, mood: str) -> None:
        machine = self._someone()
        machine.holds = "silent" if mood == "silent" else self.random.choice(["full", "stale"])
        self._later(2_000, 15_000, lambda: setattr(machine, "holds", "up"))

    def _holds_lost(self) -> None:
        """The hold server has lost its memory: an eviction, FLUSHALL, a restart without a file."""
        machine = self._someone()
        if machine.held:
            self.sim.fired(Fault.HOLDS_LOST)
        machine.held = {}

    def _lightning(self, how: Literal["rejected", "indeterminate"]) -> None:
        """Some kinds of calls fail; a backend that does not look up reports nothing either."""
        machine = self._someone()
        ledger, draw = machine.ledger, self.random.randrange
        ledger.fail_create = how if draw(2) else ""
        ledger.fail_pay = how if draw(2) else ""
        ledger.fail_look = how == "indeterminate" and bool(draw(3))
        self._later(2_000, 25_000, lambda: self._ledger_works(machine))

    def _in_flight(self) -> None:
        """Payments of a node hang on their way."""
        ledger = self._someone().ledger
        ledger.unreachable = True
        self._later(2_000, 30_000, lambda: setattr(ledger, "unreachable", False))

    def _ledger_works(self, machine: Machine) -> None:
        ledger = machine.ledger
        ledger.fail_create = ledger.fail_pay = ""
        ledger.fail_look = ledger.unreachable = False


def _start(machine: Machine) -> None:
    if not machine.up:
        machine.start()


def copy_of(journal: MemoryJournal) -> MemoryJournal:
    """A copy of a disk; rows are immutable."""
    copied = copy.copy(journal)
    for name, value in vars(journal).items():
        if isinstance(value, dict):
            setattr(copied, name, dict(value))
    return copied
