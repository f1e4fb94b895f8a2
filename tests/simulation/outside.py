"""Carrying effects out: the network between the machines, and what stands beside each of them.

Messages are delayed, lost, repeated, reordered and slowed down; partitions stop them.  Calls to the
hold server and to Lightning take time on the way there and back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from tests.holding import hold_answer
from tests.outside import Ledger, lightning_answer
from tests.recalling import recall
from tests.simulation.machine import HELLO, Link, Machine
from tests.simulation.plan import Fault
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.limits import HELLO_WAIT_MS, SECOND_MS
from zmqex.runtime.verifying import check_all

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

# A link that queues more than this drops what comes, as a socket's high-water mark does.
_QUEUED_MS_MAX = 20_000


@dataclass
class Weather:
    """How bad the network is now; all zero is fair weather."""

    loss: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0
    delay_ms: int = 0
    # machine number -> side of a partition
    sides: dict[int, int] = field(default_factory=dict)
    # machine number -> bytes per millisecond
    slow: dict[int, int] = field(default_factory=dict)


class Outside:
    """Everything outside the kernels."""

    def __init__(self, sim: Simulation) -> None:
        """Fair weather; the seed decides on distances."""
        self.sim = sim
        self.random = Random(f"{sim.plan.seed} network")
        self.weather = Weather()
        self.messages = 0
        self.bytes = 0
        self.sent_bytes: list[int] = [0] * sim.plan.nodes
        self.sent_messages: list[int] = [0] * sim.plan.nodes
        self._distance: dict[int, int] = {}
        self._arrives: dict[int, int] = {}
        self._free_ms: dict[int, int] = {}
        self._calls: dict[type[out.Effect], Callable[[Machine, Any], None]] = {
            out.Log: self._log,
            out.AnswerCommand: sim.load.answered,
            out.Announce: lambda _machine, _effect: None,
            out.PublishRecord: self._publish_record,
            out.Verify: self._verify,
            out.DialHello: self._dial,
            out.ConnectPeer: self._connect,
            out.FollowPeer: self._follow,
            out.DisconnectPeer: self._disconnect,
            out.SendRequest: self._request,
            out.SendReply: self._reply,
            out.Publish: self._publish,
            out.ReserveHold: self._hold,
            out.ReleaseHold: self._hold,
            out.ExtendHold: self._hold,
            out.RebuildHolds: self._hold,
            out.Recall: self._recall,
        }

    def carry_out(self, machine: Machine, effect: out.Effect) -> None:
        """Do what a kernel asks; a liar's kernel is not asked what really leaves."""
        call = self._calls.get(type(effect), self._lightning)
        if machine.lies:
            for one in self.sim.liars[machine.number].distort(effect):
                call(machine, one)
        else:
            call(machine, effect)

    # --- the wire --------------------------------------------------------------------------------

    def reaches(self, source: Machine, target: Machine) -> bool:
        """Whether no partition stands between two machines."""
        sides = self.weather.sides
        return not sides or sides.get(source.number) == sides.get(target.number)

    def send(
        self,
        source: Machine,
        target: Machine,
        size: int,
        call: Callable[..., None],
        *what: object,
    ) -> None:
        """Carry one message, if the weather lets it through; `call(target, *what)` at arrival."""
        self.messages += 1
        self.bytes += size
        self.sent_bytes[source.number] += size
        self.sent_messages[source.number] += 1
        weather, random = self.weather, self.random
        if not self.reaches(source, target):
            self.sim.fired(Fault.PARTITION)
            return
        if weather.loss and random.random() < weather.loss:
            self.sim.fired(Fault.LOSS)
            return
        repeats = 1
        if weather.repeat and random.random() < weather.repeat:
            self.sim.fired(Fault.REPEAT)
            repeats = 2
        for _ in range(repeats):
            arrives = self._arrival(source, target, size)
            if arrives is not None:
                self.sim.schedule.at(
                    arrives, self._arrived, source, target, target.starts, call, what
                )

    def _arrival(self, source: Machine, target: Machine, size: int) -> int | None:
        """When a message arrives: in order on each way, unless it is reordered."""
        weather, now_ms = self.weather, self.sim.schedule.now_ms
        way = (source.number << 16) | target.number
        at_ms = now_ms + self.latency(source, target)
        if weather.delay_ms:
            self.sim.fired(Fault.DELAY)
            at_ms += self.random.randint(0, weather.delay_ms)
        for number in (source.number, target.number):
            speed = weather.slow.get(number)
            if speed:
                self.sim.fired(Fault.SLOW_LINK)
                free = max(self._free_ms.get(number, 0), now_ms) + size // speed
                if free - now_ms > _QUEUED_MS_MAX:
                    return None
                self._free_ms[number] = free
                at_ms = max(at_ms, free)
        if weather.reorder and self.random.random() < weather.reorder:
            self.sim.fired(Fault.REORDER)
            return at_ms + self.random.randint(1, 300)
        at_ms = max(at_ms, self._arrives.get(way, 0))
        self._arrives[way] = at_ms
        return at_ms

    def latency(self, source: Machine, target: Machine) -> int:
        """The distance between two machines, the same both ways."""
        low, high = sorted((source.number, target.number))
        way = (low << 16) | high
        distance = self._distance.get(way)
        if distance is None:
            distance = self._distance[way] = self.random.randint(*self.sim.plan.latency_ms)
        return distance

    def _arrived(
        self,
        source: Machine,
        target: Machine,
        starts: int,
        call: Callable[..., None],
        what: tuple[object, ...],
    ) -> None:
        if target.starts == starts and target.up and self.reaches(source, target):
            call(target, *what)

    # --- connections -----------------------------------------------------------------------------

    def _dial(self, machine: Machine, effect: out.DialHello) -> None:
        place = (effect.host, effect.port, effect.source)
        target = self.sim.at_host.get(effect.host)
        if target is None or not target.awake or effect.port != HELLO:
            machine.soon(happened.HelloFailed(*place, "silent"), HELLO_WAIT_MS)
            return
        lost = self.weather.loss and self.random.random() < self.weather.loss
        if lost or not self.reaches(machine, target):
            machine.soon(happened.HelloFailed(*place, "silent"), HELLO_WAIT_MS)
            return
        away = 2 * self.latency(machine, target)
        machine.soon(happened.HelloAnswered(*place, target.record), away)

    def _connect(self, machine: Machine, effect: out.ConnectPeer) -> None:
        self._disconnect(machine, effect)
        target = self.sim.at_host.get(effect.rpc[0])
        if target is None:
            return
        since = self.sim.schedule.now_ms + 2 * self.latency(machine, target)
        machine.links[effect.peer] = Link(target, effect.curve_key, effect.topics, since)
        target.subscribers[machine.number] = machine

    def _follow(self, machine: Machine, effect: out.FollowPeer) -> None:
        link = machine.links.get(effect.peer)
        if link is not None:
            machine.links[effect.peer] = link._replace(topics=effect.topics)

    def _disconnect(self, machine: Machine, effect: out.ConnectPeer | out.DisconnectPeer) -> None:
        link = machine.links.pop(effect.peer, None)
        if link is not None:
            link.machine.subscribers.pop(machine.number, None)

    def _publish_record(self, machine: Machine, effect: out.PublishRecord) -> None:
        machine.record = effect.record

    def _request(self, machine: Machine, effect: out.SendRequest) -> None:
        link = machine.links.get(effect.peer)
        if link is None or link.curve_key != link.machine.curve_key or not link.machine.up:
            return
        route = happened.Route(machine.curve_key, machine.host.encode(), machine.host)
        event = happened.RequestReceived(route, effect.frame)
        self.send(machine, link.machine, len(effect.frame), Machine.post, event)

    def _reply(self, machine: Machine, effect: out.SendReply) -> None:
        self.sim.invariants.replied(machine, effect.frame)
        target = self.sim.at_host[effect.route.connection.decode()]
        if target.curve_key == effect.route.curve_key:
            event = happened.ReplyReceived(machine.identity, effect.frame)
            self.send(machine, target, len(effect.frame), Machine.post, event)

    def _publish(self, machine: Machine, effect: out.Publish) -> None:
        self.sim.invariants.published(machine, effect)
        self.publish_to(machine, effect, list(machine.subscribers.values()))

    def publish_to(self, machine: Machine, effect: out.Publish, targets: list[Machine]) -> None:
        """Send to these subscribers, as far as they are connected to this very process."""
        topic, now_ms, size = effect.topic, self.sim.schedule.now_ms, len(effect.envelope)
        identity, curve_key = machine.identity, machine.curve_key
        for target in targets:
            link = target.links.get(identity)
            # The topic first: in a large network most subscribers listen to little of a peer.
            if (
                link is not None
                and topic in link.topics
                and link.machine is machine
                and link.curve_key == curve_key
                and link.since_ms <= now_ms
            ):
                self.send(machine, target, size, self._stream, machine, topic, effect.envelope)

    def _stream(self, target: Machine, source: Machine, topic: bytes, envelope: bytes) -> None:
        self.sim.measures.arrived(target, source, topic, envelope)
        if target.lies:
            self.sim.liars[target.number].overheard(topic, envelope)
        target.received(topic, envelope, source.identity)

    # --- beside the node -------------------------------------------------------------------------

    def _log(self, machine: Machine, effect: out.Log) -> None:
        self.sim.logged(machine, effect)

    def _verify(self, machine: Machine, effect: out.Verify) -> None:
        valid = tuple(check_all("play", effect.items))
        self.sim.invariants.verifying(machine, effect)
        machine.soon(happened.Verified(effect.ticket, valid), 0)

    def _recall(self, machine: Machine, effect: out.Recall) -> None:
        machine.soon(recall(machine.journal, effect), 1)

    def _hold(self, machine: Machine, effect: out.Effect) -> None:
        self.sim.schedule.after(1, self._hold_call, machine, machine.starts, effect)

    def _hold_call(self, machine: Machine, starts: int, effect: out.Effect) -> None:
        if isinstance(effect, out.ReserveHold):
            if machine.holds == "silent":
                self.sim.fired(Fault.HOLDS_SILENT)
            elif machine.holds != "up":
                self.sim.fired(Fault.HOLDS_FULL)
        answer = hold_answer(machine, effect, self.sim.schedule.now_ms)
        if answer is not None and machine.starts == starts:
            silent = isinstance(answer, happened.HoldFailed)
            machine.soon(answer, SECOND_MS if silent else 1)

    def _lightning(self, machine: Machine, effect: out.Effect) -> None:
        delay = self.random.randint(1, 40)
        self.sim.schedule.after(delay, self._lightning_call, machine, machine.starts, effect)

    def _lightning_call(self, machine: Machine, starts: int, effect: out.Effect) -> None:
        """The backend hears of it even if the node has ended meanwhile."""
        self._count_lightning_faults(machine.ledger, effect)
        answer = lightning_answer(machine.ledger, effect)
        if answer is not None and machine.starts == starts:
            machine.soon(answer, self.random.randint(1, 40))

    def _count_lightning_faults(self, ledger: Ledger, effect: out.Effect) -> None:
        how = ""
        if isinstance(effect, out.CreateInvoice):
            how = ledger.fail_create
        elif isinstance(effect, out.PayInvoice):
            how = ledger.fail_pay
        elif isinstance(effect, out.LookupInvoice | out.CancelInvoice | out.LookupPayment):
            how = "indeterminate" if ledger.fail_look else ""
        if how:
            refused = how == "rejected"
            self.sim.fired(Fault.LIGHTNING_REFUSES if refused else Fault.LIGHTNING_SILENT)
        if isinstance(effect, out.PayInvoice | out.LookupPayment) and ledger.unreachable:
            self.sim.fired(Fault.PAYMENT_IN_FLIGHT)
