"""One machine: its clocks, its disk, the kernel that runs on it and the real gate in front of all.

A commit is on disk some milliseconds after it was asked for, whatever queued meanwhile with the
next one, as `adapters.storage.database` does it.  A crash loses what is not on disk: the group that
is being written survives whole or, if it was torn, not at all.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from tests.holding import HoldMood
from tests.outside import Ledger, MemoryJournal
from tests.simulation.plan import Fault
from tests.simulation.signatures import signer
from zmqex.errors import StorageError, ZmqexError
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.core import Settings
from zmqex.kernel.kernel import Kernel
from zmqex.kernel.records import Write
from zmqex.limits import PLAY_AUTO_CANCEL_BLOCKS, SECOND_MS, SLEPT_MS
from zmqex.market.instruments import Currencies
from zmqex.protocol.identity import short, to_text
from zmqex.runtime.gate import Gate

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

START_MS = 1_800_000_000_000
HELLO, RPC, ORDERS = 7_100, 7_101, 7_102
# A peer that is suspended for longer than ZeroMQ's heartbeats allow is disconnected.
BUFFERED_MS = 15_000
_CURRENCIES = Currencies()


class Link(NamedTuple):
    """The sockets to a peer: they work while it is there with this CURVE key."""

    machine: Machine
    curve_key: bytes
    topics: tuple[bytes, ...]
    since_ms: int  # when the peer has heard of the subscription


class _Commit(NamedTuple):
    writes: tuple[Write, ...]
    done: Callable[[], None]


class Machine:
    """A node and what it stands on; everything random about it comes from the run's seed."""

    def __init__(self, sim: Simulation, number: int, *, maker: bool, lies: bool) -> None:
        """Give it an address, a key, clocks and an empty disk."""
        self.sim = sim
        self.number = number
        self.name = f"n{number}"
        self.host = f"10.{number >> 8}.{number & 255}.1"
        self.maker, self.lies = maker, lies
        self.random = Random(f"{sim.plan.seed} machine {number}")
        seed = hashlib.sha256(f"simulation {number}".encode()).digest()
        self.signer = signer(seed, fast=sim.plan.fast_signer)
        self.identity = self.signer.public_key
        self.text = to_text(self.identity)
        self.short = short(self.identity)
        self.ledger = Ledger(sim, self.name)
        self.journal = MemoryJournal()
        self.held: dict[bytes, tuple[bytes, int, int]] = {}
        self.holds: HoldMood = "up"
        self.links: dict[bytes, Link] = {}
        self.subscribers: dict[int, Machine] = {}
        self.kernel: Kernel | None = None
        self.record = b""
        self.curve_key = b""
        self.starts = 0
        self.started_ms = 0
        self.fsync_ms = self.random.randint(*sim.plan.fsync_ms)
        self.skew_ms = self._usual_skew_ms = self._skew()
        self.jumped = False
        self.boot_ms = sim.schedule.now_ms - self.random.randint(1_000, 10**9)
        self.suspended_ms: int | None = None
        self.backup: MemoryJournal | None = None
        self._waiting: list[happened.Event] = []
        self._stream: list[tuple[bytes, bytes]] = []
        self._streamed_by: list[bytes] = []
        self._queue: deque[happened.Event] = deque()
        self._handling = False
        self.crashes_at_commit = False
        self._commits: list[_Commit] = []
        self._writing = 0
        self._armed_ms: int | None = None
        self.gate = Gate(self._commit, self._carry_out)

    # --- life ------------------------------------------------------------------------------------

    @property
    def up(self) -> bool:
        """Whether a process runs here (it may be suspended)."""
        return self.kernel is not None

    @property
    def awake(self) -> bool:
        """Whether a process runs here and is not suspended."""
        return self.kernel is not None and self.suspended_ms is None

    @property
    def k(self) -> Kernel:
        """The running kernel."""
        assert self.kernel is not None
        return self.kernel

    @property
    def on_disk(self) -> bool:
        """Whether everything that was decided is on disk."""
        return not self._commits

    def start(self) -> None:
        """Start a process from what is on disk, with a fresh CURVE key."""
        self.starts += 1
        self.started_ms = self.sim.schedule.now_ms
        plan = self.sim.plan
        self.curve_key = hashlib.sha256(f"{self.name} {self.starts}".encode()).digest()
        settings = Settings(
            hold_ttl_ms=plan.hold_ttl_ms,
            host=self.host,
            hello_port=HELLO,
            rpc_port=RPC,
            orders_port=ORDERS,
            curve_key=self.curve_key,
            lightning_node=self.ledger.node,
            markets=plan.markets,
            follow_all_max=plan.follow_all_max,
            can_hold=True,
            auto_cancel_blocks=PLAY_AUTO_CANCEL_BLOCKS,
        )
        self.gate = Gate(self._commit, self._carry_out)
        self.kernel = Kernel(settings, self.signer, _CURRENCIES, self.journal.snapshot())
        self.sim.invariants.started(self)
        self.post(happened.Started())
        self.sim.discovery(self)

    def crash(self) -> None:
        """End the process: what is not on disk is lost, and the group being written may be torn."""
        if self._commits:
            self.sim.fired(Fault.UNSYNCED_LOST)
            if self._writing and self.random.random() < 0.5:
                for commit in self._commits[: self._writing]:
                    self.journal.commit(commit.writes)
            elif self._writing:
                self.sim.fired(Fault.TORN_WRITE)
        self.kernel = None
        self.suspended_ms = None
        self._commits, self._writing = [], 0
        self._waiting, self._stream, self._streamed_by = [], [], []
        self._queue.clear()
        self._armed_ms = None
        for link in self.links.values():
            link.machine.subscribers.pop(self.number, None)
        self.links = {}

    def suspend(self) -> None:
        """The lid is closed, or SIGSTOP: nothing runs, the sockets buffer for a while."""
        self.suspended_ms = self.sim.schedule.now_ms

    def resume(self) -> None:
        """Go on: what was buffered arrives, and the loop notices the gap within a second."""
        if self.suspended_ms is None:
            return
        slept_ms = self.sim.schedule.now_ms - self.suspended_ms
        self.suspended_ms = None
        if slept_ms > SLEPT_MS:
            self.sim.schedule.after(
                self.random.randint(0, SECOND_MS), self._later, self.starts, happened.Woke(slept_ms)
            )
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            self.post(event)
        self._armed_ms = None
        self.arm()

    def step_clock(self, by_ms: int) -> None:
        """Somebody sets the wall clock."""
        self.jumped = True
        self.skew_ms += by_ms
        if by_ms - SECOND_MS > SLEPT_MS:
            delay = self.random.randint(0, SECOND_MS)
            self.sim.schedule.after(delay, self._later, self.starts, happened.Woke(by_ms))

    def set_clock_right(self) -> None:
        """Time service works again."""
        self.skew_ms = self._usual_skew_ms

    def restore_backup(self, copy: MemoryJournal) -> None:
        """The disk has died; an older copy takes its place."""
        self.journal = copy
        self.sim.invariants.restored_backup(self)

    def _skew(self) -> int:
        skewed = Fault.CLOCK_SKEW in self.sim.plan.faults
        return self.random.randint(-9_000, 9_000) if skewed else self.random.randint(-40, 40)

    # --- events in -------------------------------------------------------------------------------

    @property
    def wall_ms(self) -> int:
        """The machine's own idea of the time."""
        return START_MS + self.sim.schedule.now_ms + self.skew_ms

    def now(self) -> happened.Now:
        """The moment as the kernel is told."""
        now_ms = self.sim.schedule.now_ms
        entropy = self.random.randbytes(32)
        return happened.Now(START_MS + now_ms + self.skew_ms, now_ms - self.boot_ms, entropy)

    def post(self, event: happened.Event) -> None:
        """Give the kernel an event, as the runtime's loop does: one after the other."""
        if self.kernel is None:
            return
        if self.suspended_ms is not None:
            if self.sim.schedule.now_ms - self.suspended_ms <= BUFFERED_MS:
                self._waiting.append(event)
            return
        self._queue.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._queue and self.kernel is not None:
                self._handle(self._queue.popleft())
        finally:
            self._handling = False
        self.arm()

    def _handle(self, event: happened.Event) -> None:
        sim, kernel = self.sim, self.k
        try:
            effects = kernel.handle(event, self.now())
        except ZmqexError as error:
            raise sim.failure(f"{self.name} ended: {error!r}") from error
        sim.trace(self, event, effects)
        sim.invariants.decided(self, event, effects)
        self.gate.pass_through(effects)

    def received(self, topic: bytes, envelope: bytes, peer: bytes = b"") -> None:
        """A stream message; one drain of the sockets brings all of a moment."""
        if not self._stream:
            self.sim.schedule.after(1, self._drain, self.starts)
        self._stream.append((topic, envelope))
        self._streamed_by.append(peer)

    def soon(self, event: happened.Event, delay_ms: int = 1) -> None:
        """An event from this machine itself; a crash in between loses it."""
        self.sim.schedule.after(delay_ms, self._later, self.starts, event)

    def _later(self, starts: int, event: happened.Event) -> None:
        if self.starts == starts:
            self.post(event)

    def _drain(self, starts: int) -> None:
        if self.starts == starts and self._stream:
            messages, self._stream = tuple(self._stream), []
            peers, self._streamed_by = tuple(self._streamed_by), []
            self.post(happened.StreamReceived(messages, peers))

    # --- time ------------------------------------------------------------------------------------

    def arm(self) -> None:
        """Ask for a Tick when the kernel wants one."""
        if self.kernel is None:
            return
        due_ms = self.kernel.next_deadline_ms()
        if due_ms is None:
            return
        at_ms = max(due_ms + self.boot_ms, self.sim.schedule.now_ms)
        if self._armed_ms is None or at_ms < self._armed_ms:
            self._armed_ms = at_ms
            self.sim.schedule.at(at_ms, self._tick, self.starts, at_ms)

    def _tick(self, starts: int, at_ms: int) -> None:
        if self.starts != starts or self._armed_ms != at_ms:
            return
        self._armed_ms = None
        if self.awake:
            due_ms = self.k.next_deadline_ms()
            if due_ms is not None and due_ms + self.boot_ms <= at_ms:
                self.post(happened.Tick())
            self.arm()

    # --- effects out -----------------------------------------------------------------------------

    def _carry_out(self, effect: out.Effect) -> None:
        self.sim.outside.carry_out(self, effect)

    def _commit(self, writes: tuple[Write, ...], done: Callable[[], None]) -> None:
        self._commits.append(_Commit(writes, done))
        if not self._writing:
            self._write()

    def _write(self) -> None:
        self._writing = len(self._commits)
        self.sim.schedule.after(self.fsync_ms, self._synced, self.starts)
        if self.crashes_at_commit:
            self.crashes_at_commit = False
            within_ms = self.random.randint(0, self.fsync_ms)
            self.sim.schedule.after(within_ms, self.sim.faults.end_process, self, self.starts)

    def _synced(self, starts: int) -> None:
        if self.starts != starts or self.kernel is None:
            return
        group, self._commits = self._commits[: self._writing], self._commits[self._writing :]
        self._writing = 0
        for commit in group:
            try:
                self.journal.commit(commit.writes)
            except StorageError as error:
                raise self.sim.failure(f"the journal of {self.name}: {error}") from error
        if self._commits:
            self._write()
        for commit in group:
            commit.done()
        self.sim.invariants.on_disk(self, [one for commit in group for one in commit.writes])
