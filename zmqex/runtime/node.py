"""One node: the kernel, its adapters, and the loop that carries events in and effects out.

The loop is the only one that calls the kernel.  Whatever fails outside becomes an event, a counter
or a log line; only a journal or a kernel that cannot be trusted stops the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, Final

from zmqex.adapters.clock import monotonic_ms, wall_ms
from zmqex.adapters.ports import ControlServer, Transport
from zmqex.adapters.storage.journal import Journal
from zmqex.errors import StorageError
from zmqex.kernel.effects import (
    Announce,
    AnswerCommand,
    AskBeforeAccept,
    ConnectPeer,
    CreditPlay,
    DialBack,
    DialHello,
    DisconnectPeer,
    Effect,
    FollowPeer,
    Log,
    PlayPayEnded,
    Publish,
    PublishRecord,
    Recall,
    SendReply,
    SendRequest,
    Verify,
)
from zmqex.kernel.events import Event, Now, PlayCredited, Recalled, Tick, Woke
from zmqex.kernel.kernel import Kernel
from zmqex.kernel.records import Write
from zmqex.limits import SECOND_MS, SLEPT_MS
from zmqex.logs import get_logger
from zmqex.runtime.accepting import AcceptCommand
from zmqex.runtime.gate import Gate
from zmqex.runtime.outside import (
    HOLD_EFFECTS,
    LIGHTNING_EFFECTS,
    HoldCalls,
    KernelWire,
    LightningCalls,
)
from zmqex.runtime.verifying import Verifier

_ENTROPY_BYTES: Final = 32

Receive = Callable[..., Coroutine[Any, Any, tuple[bytes | None, str]]]


@contextlib.contextmanager
def _any_fault(told: Callable[[Exception], None]) -> Iterator[None]:
    """Tell of an exception in place of raising it: a fault has an end that was thought of."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the one place
        told(error)


class Node:
    """Runs a kernel.  `post` gives it an event; `stopped` is set when it must end."""

    def __init__(self, kernel: Kernel, journal: Journal, tasks: asyncio.TaskGroup) -> None:
        """Outside things are attached with `attach` before the first event."""
        self.kernel = kernel
        self.journal = journal
        self.fault: Exception | None = None
        self.stopped = asyncio.Event()
        # Called with each record of ours, beside the transport.
        self.on_record: Callable[[bytes], None] = lambda _record: None
        self.on_wake: Callable[[], None] = lambda: None
        self.ask_before_accept = AcceptCommand((), self.post).carry_out
        self._tasks = tasks
        self._running: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._log = get_logger().bind()  # an unbound one is made anew for each line
        self._gate = Gate(self._commit, self._carry_out)
        self._queue: deque[Event] = deque()
        self._handling = False
        self._timer: asyncio.TimerHandle | None = None
        self._deadline_ms: int | None = None  # at which the timer fires
        self._beat = (wall_ms(), monotonic_ms())
        self._addresses: tuple[str, ...] | None = None  # at the last beat
        self._answered: dict[tuple[bytes, int], Callable[[AnswerCommand], None]] = {}

    def attach(
        self,
        transport: Transport,
        control: ControlServer,
        holds: HoldCalls,
        lightning: Mapping[str, LightningCalls],
        wire: KernelWire,
        receive_play: Mapping[str, Receive],
    ) -> None:
        """The outside world; `lightning` and what takes play money (where any is) by asset."""
        self._control = control
        self._wire = wire
        self.verifier = Verifier(
            self.kernel.core.settings.network, self.post, transport.hold_streams
        )
        self._calls: dict[type[Effect], Callable[[Any], None]] = {
            Log: self._on_log,
            DialHello: lambda one: transport.dial_hello(one.host, one.port, one.source),
            DialBack: lambda one: transport.dial_back(
                one.ticket, one.curve_key, one.hello, one.rpc, one.orders
            ),
            ConnectPeer: lambda one: transport.connect(
                one.peer, one.curve_key, one.rpc, one.orders, one.topics
            ),
            FollowPeer: lambda one: transport.follow(one.peer, one.topics),
            DisconnectPeer: lambda one: transport.disconnect(one.peer),
            PublishRecord: lambda one: self._publish(transport, one.record),
            Verify: self.verifier.submit,
            SendRequest: lambda one: self._sent(sent=transport.send(one.peer, one.frame)),
            SendReply: lambda one: self._sent(
                sent=transport.reply(one.route.connection, one.frame)
            ),
            Publish: lambda one: transport.publish(one.topic, one.envelope),
            AnswerCommand: self._on_answer,
            Announce: lambda one: control.announce(one.topic, one.facts),
            PlayPayEnded: wire.ended,
            Recall: lambda one: self.spawn(self._recall(one)),
            AskBeforeAccept: lambda one: self.spawn(self.ask_before_accept(one)),
        }
        self._calls[CreditPlay] = lambda one: self.spawn(self._credit(receive_play[one.asset], one))
        for hold_effect in HOLD_EFFECTS:
            self._calls[hold_effect] = lambda one: self.spawn(holds.carry_out(one))
        for lightning_effect in LIGHTNING_EFFECTS:
            self._calls[lightning_effect] = lambda one: self.spawn(
                lightning[one.asset].carry_out(one)
            )

    # --- events in -----------------------------------------------------------------------------

    def post(self, event: Event) -> None:
        """Give the kernel an event; called on the loop, from anywhere, also while it decides."""
        self._queue.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._queue and self.fault is None:
                self._decide(self._queue.popleft())
        finally:
            self._handling = False
            # Also after a fault of an effect, or no timer would ever fire again.
            self._arm()

    def _decide(self, event: Event) -> None:
        """What follows from an event; nothing ever again, once that was an exception.

        What the kernel had changed until then is in no journal, so nothing may build on it: the
        next node starts from the journal.
        """

        def failed(error: Exception) -> None:
            self._log.exception("kernel_failed", on=type(event).__name__, why=repr(error))
            self.fail(error)

        effects: list[Effect] = []
        with _any_fault(failed):
            effects = self.kernel.handle(event, self._now())
        self._gate.pass_through(effects)

    def on_answer(
        self, client: bytes, request_id: int, call: Callable[[AnswerCommand], None]
    ) -> None:
        """Give the kernel's answer to one command to `call` in place of the control socket."""
        self._answered[client, request_id] = call

    def beat(self, addresses: tuple[str, ...] = ()) -> None:
        """To be called every second, with our addresses on the way out.

        Notices that the machine or the process was suspended, and that the network is another one,
        or back.
        """
        wall, monotonic = wall_ms(), monotonic_ms()
        wall_before, monotonic_before = self._beat
        self._beat = (wall, monotonic)
        before, self._addresses = self._addresses, addresses
        slept_ms = max(wall - wall_before, monotonic - monotonic_before) - SECOND_MS
        if slept_ms > SLEPT_MS:
            self._log.warning("woke", slept_ms=slept_ms)
            self.wake(slept_ms)
        elif addresses and before is not None and addresses != before:
            self._log.warning("network_changed")
            self.wake()

    def wake(self, slept_ms: int = 0) -> None:
        """Everybody must be found and heard anew: the machine slept, or its network changed."""
        self.on_wake()
        self.post(Woke(slept_ms))

    async def flushed(self) -> None:
        """Wait until everything so far is on disk and what waited for that has left."""
        on_disk: asyncio.Future[None] = self._loop.create_future()
        self._commit((), lambda: on_disk.set_result(None))
        await on_disk

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a call to the outside; what it raises is logged and ends nothing else."""
        task = self._tasks.create_task(self._guarded(work))
        self._running.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._running.discard(task)
            work.close()  # one that was cancelled before it began leaves its work unawaited

        task.add_done_callback(ended)

    def cancel_calls(self) -> None:
        """Give up what still waits for an answer from outside."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._running:
            task.cancel()

    # --- effects out ---------------------------------------------------------------------------

    def _carry_out(self, effect: Effect) -> None:
        self._calls[type(effect)](effect)

    def _commit(self, writes: tuple[Write, ...], done: Callable[[], None]) -> None:
        def told(error: StorageError | None) -> None:
            # From the writer thread; a loop that has ended needs no answer.
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(finish, error)

        def finish(error: StorageError | None) -> None:
            if error is None:
                done()
            else:
                self.fail(error)

        self.journal.commit(writes, told)

    def fail(self, error: Exception) -> None:
        """The journal or the kernel cannot be trusted: nothing more is decided."""
        if self.fault is None:
            self.fault = error
            if isinstance(error, StorageError):
                self._log.critical("storage_failed", why=str(error))
        self.stopped.set()

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        with _any_fault(self._call_failed):
            await work

    def _call_failed(self, error: Exception) -> None:
        if isinstance(error, StorageError):
            self.fail(error)
        else:
            self.kernel.core.count("faults")
            self._log.exception("call_failed", why=repr(error))

    async def _recall(self, effect: Recall) -> None:
        found = await asyncio.wrap_future(self.journal.recall(effect.lookups))
        self.post(Recalled(effect.ticket, found))

    async def _credit(self, receive: Receive, effect: CreditPlay) -> None:
        preimage, reason = await receive(
            effect.payment_hash, amount_msat=effect.amount_msat, payer_node=effect.payer_node
        )
        self.post(PlayCredited(effect.ticket, preimage, reason))

    def _publish(self, transport: Transport, record: bytes) -> None:
        transport.set_record(record)
        self.on_record(record)

    def _sent(self, *, sent: bool) -> None:
        if not sent:
            self.kernel.core.count("frames_not_sent")

    def _on_answer(self, effect: AnswerCommand) -> None:
        call = self._answered.pop((effect.client, effect.request_id), None)
        if call is not None:
            call(effect)
        else:
            self._control.answer(
                effect.client, effect.request_id, ok=effect.ok, result=effect.result
            )

    def _on_log(self, effect: Log) -> None:
        getattr(self._log, effect.level)(effect.event, **effect.facts)

    # --- time ----------------------------------------------------------------------------------

    def _now(self) -> Now:
        return Now(wall_ms(), monotonic_ms(), secrets.token_bytes(_ENTROPY_BYTES))

    def _arm(self) -> None:
        deadline_ms = self.kernel.next_deadline_ms() if self.fault is None else None
        if deadline_ms == self._deadline_ms:
            return
        self._deadline_ms = deadline_ms
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline_ms is not None:
            delay_s = max(deadline_ms - monotonic_ms(), 0) / SECOND_MS
            self._timer = self._loop.call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer = self._deadline_ms = None
        self.post(Tick())
