"""A wire in memory between nodes that follow each other's logs: virtual time, one seed, faults.

A node is whatever has `handle(event, now) -> effects` and `next_deadline_ms()`; `LogNode` is the
smallest one, without trades.  Messages are delayed, lost, repeated and so reordered; a partition
stops them between two hosts.  Hello, connections and signatures are modelled as the adapters do it.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import Command
from zmqex.kernel.core import Core, Settings
from zmqex.kernel.following import Following
from zmqex.kernel.publisher import Publisher
from zmqex.kernel.reach import Reach
from zmqex.kernel.records import (
    DropFork,
    DropPeer,
    ForkedLog,
    KnownPeer,
    OwnBatch,
    OwnCheckpoint,
    PutBatch,
    PutCheckpoint,
    PutCounter,
    PutFork,
    PutPeer,
    Write,
)
from zmqex.kernel.replicas import Replicas
from zmqex.kernel.sessions import Sessions
from zmqex.market.instruments import Currencies
from zmqex.protocol.codec import encode
from zmqex.protocol.identity import IdentityKey, order_id
from zmqex.protocol.messages import Order, Place
from zmqex.runtime.verifying import check_all

START_MS = 1_800_000_000_000
MARKET = "BTC/USD"
NETWORK = "play"
HELLO, RPC, ORDERS = 7100, 7101, 7102


class Handles(Protocol):
    """Anything that decides like a kernel."""

    def handle(self, event: happened.Event, now: happened.Now) -> list[out.Effect]:
        """Everything that follows from an event."""

    def next_deadline_ms(self) -> int | None:
        """When it wants a Tick."""


class LogNode:
    """Sessions, replicas and a publisher, put together as the kernel does it."""

    def __init__(self, settings: Settings, key: IdentityKey) -> None:
        """Nothing happens before Started."""
        self.core = Core(settings, key, Currencies())
        self.sessions = Sessions(self.core)
        self.reach = Reach(self.core, self.sessions)
        self.replicas = Replicas(self.core, self.sessions)
        self.following = Following(self.core, self.sessions, self.replicas)
        self.publisher = Publisher(self.core, self.replicas, self.sessions)
        self.batches: tuple[OwnBatch, ...] = ()
        self.checkpoints: tuple[OwnCheckpoint, ...] = ()
        self.peers: tuple[KnownPeer, ...] = ()
        self.forks: tuple[ForkedLog, ...] = ()
        self._calls: dict[type[happened.Event], Callable[[Any], None]] = {
            happened.Started: self._start,
            happened.Stopping: lambda _event: self.sessions.stop(),
            happened.Tick: lambda _event: None,
            happened.Woke: self.sessions.on_woke,
            happened.CandidatesFound: self.sessions.on_candidates,
            happened.HelloAnswered: self.sessions.on_hello_answered,
            happened.HelloFailed: self.sessions.on_hello_failed,
            happened.DialBackEnded: self.reach.on_ended,
            happened.RequestReceived: self.sessions.on_request,
            happened.ReplyReceived: self.sessions.on_reply,
            happened.StreamReceived: self.replicas.on_stream,
            happened.Verified: self.replicas.on_verified,
            happened.CommandReceived: self._command,
        }

    def handle(self, event: happened.Event, now: happened.Now) -> list[out.Effect]:
        """One event."""
        self.core.begin(now)
        self.core.run_timers()
        self._calls[type(event)](event)
        self.publisher.flush()
        return self.core.finish()

    def next_deadline_ms(self) -> int | None:
        """When it wants a Tick."""
        return self.core.next_deadline_ms()

    def _start(self, _event: happened.Started) -> None:
        self.replicas.forks.restore(self.forks)
        self.publisher.restore(self.batches, self.checkpoints)
        self.sessions.start(self.peers)

    def _command(self, event: happened.CommandReceived) -> None:
        for part in (self.sessions, self.reach, self.replicas):
            if part.on_command(event.client, event.request_id, event.command):
                return
        raise AssertionError(f"nobody answers {event.command}")


class Said(happened.Event, frozen=True):
    """What a test makes a node do in the middle of an event."""

    call: Callable[[], None]


class Host:
    """One machine: its key, its disk, and the node that runs on it."""

    def __init__(self, wire: Wire, name: str, number: int, **settings: object) -> None:
        """Give it a name, an address and a key."""
        self.wire = wire
        self.name = name
        self.address = f"10.0.0.{number}"
        self.key = IdentityKey(hashlib.sha256(name.encode()).digest())
        self.identity = self.key.public_key
        self.settings: dict[str, Any] = {"host": self.address, "hello_port": HELLO, **settings}
        self.batches: dict[tuple[str, int, int], OwnBatch] = {}
        self.checkpoints: dict[str, OwnCheckpoint] = {}
        self.peers: dict[bytes, KnownPeer] = {}
        self.forks: dict[tuple[bytes, str], ForkedLog] = {}
        self.counters: dict[str, int] = {}
        self.links: dict[bytes, tuple[str, bytes]] = {}  # peer: (host, CURVE key)
        self.topics: dict[bytes, tuple[bytes, ...]] = {}  # what we listen to of a peer
        self.effects: list[out.Effect] = []
        self.starts = 0
        self.record = b""
        self.paused = False
        self.node: LogNode | None = None

    @property
    def n(self) -> LogNode:
        """The running node."""
        assert self.node is not None
        return self.node

    def start(self, **settings: object) -> None:
        """Start a node from what is on disk, with a fresh CURVE key."""
        self.starts += 1
        self.settings |= settings
        self.curve_key = hashlib.sha256(f"{self.name}/{self.starts}".encode()).digest()
        self.node = LogNode(
            Settings(
                network=NETWORK,
                rpc_port=RPC,
                orders_port=ORDERS,
                curve_key=self.curve_key,
                lightning_node=self.curve_key + b"\2",
                **self.settings,
            ),
            self.key,
        )
        self.node.core.counters.update(self.counters)
        self.node.batches = tuple(self.batches.values())
        self.node.checkpoints = tuple(self.checkpoints.values())
        self.node.peers = tuple(self.peers.values())
        self.node.forks = tuple(self.forks.values())
        self.handle(happened.Started())

    def crash(self) -> None:
        """Kill -9: only the disk stays."""
        self.node, self.links = None, {}

    def handle(self, event: happened.Event) -> list[out.Effect]:
        """One event through the node, its effects carried out."""
        if self.node is None or self.paused:
            return []
        effects = self.node.handle(event, self.wire.now())
        self.effects.extend(effects)
        for effect in effects:
            self.wire.carry_out(self, effect)
        self.wire.arm(self)
        return effects

    def do(self, call: Callable[[], None]) -> list[out.Effect]:
        """Call into the node inside an event, as its own parts do."""
        assert self.node is not None
        self.node._calls[Said] = lambda said: said.call()
        return self.handle(Said(call))

    def command(self, command: Command) -> None:
        """Give a command; see `answers`."""
        self.handle(happened.CommandReceived(b"cli", 1, command))

    def answers(self) -> list[out.AnswerCommand]:
        """All answers to commands so far."""
        return [one for one in self.effects if isinstance(one, out.AnswerCommand)]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The facts of all log lines of this kind."""
        return [
            one.facts for one in self.effects if isinstance(one, out.Log) and one.event == event
        ]

    def place(self, number: int = 1, market: str = MARKET, **fields: object) -> bytes:
        """Publish an order, in a batch of its own; its id."""
        self.n.publisher._sent_ms.clear()
        raw = encode(order(number, self.wire.wall_ms, market=market, **fields))
        self.do(lambda: self.n.publisher.append(market, Place(raw)))
        return order_id(NETWORK, self.identity, raw)

    def head(self, maker: Host, market: str = MARKET) -> tuple[int, int, bytes, bytes] | None:
        """Where this node's copy of a maker's log stands."""
        log = self.n.replicas.log(maker.identity, market)
        if log is None:
            return None
        fold = log.fold
        return fold.epoch, fold.sequence, fold.head_hash, fold.root()

    def write(self, write: Write) -> None:
        """Put something on the disk."""
        match write:
            case PutBatch(batch):
                self.batches[batch.market, batch.epoch, batch.sequence] = batch
            case PutCheckpoint(point, first):
                self.checkpoints[point.market] = point
                for market, epoch, sequence in list(self.batches):
                    if market == point.market and (epoch, sequence) < (point.epoch, first):
                        del self.batches[market, epoch, sequence]
            case PutPeer(peer):
                self.peers[peer.identity] = peer
            case DropPeer(identity):
                self.peers.pop(identity, None)
            case PutFork(fork):
                self.forks[fork.maker, fork.market] = fork
            case DropFork(maker, market):
                del self.forks[maker, market]
            case PutCounter(name, value):
                self.counters[name] = value
            case _:
                raise AssertionError(f"a log node does not write {write}")


class Wire:
    """The hosts, the time and everything between them."""

    def __init__(
        self, seed: int = 0, *, lost: int = 0, repeated: int = 0, delay_ms: tuple[int, int] = (1, 1)
    ) -> None:
        """`lost` and `repeated` are percentages; the delay of each message is drawn."""
        self.random = Random(seed)
        self.lost, self.repeated, self.delay_ms = lost, repeated, delay_ms
        self.wall_ms, self.monotonic_ms = START_MS, 1_000
        self.hosts: dict[str, Host] = {}
        self.cut: set[frozenset[str]] = set()
        self.skew_ms: dict[str, int] = {}
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = 0

    def add(self, *names: str, start: bool = True, **settings: object) -> list[Host]:
        """New hosts; each finds all earlier ones."""
        added = []
        for name in names:
            host = Host(self, name, len(self.hosts) + 1, **settings)
            self.hosts[host.address] = host
            added.append(host)
            if start:
                host.start()
                self.introduce(host)
        return added

    def introduce(self, host: Host) -> None:
        """Discovery names every other host."""
        others = [one for one in self.hosts.values() if one is not host]
        found = tuple((one.address, one.settings["hello_port"], "dht") for one in others)
        host.handle(happened.CandidatesFound(found))

    def meet(self, *names: str) -> list[Host]:
        """New hosts that are connected to each other."""
        hosts = self.add(*names)
        self.run(1_000)
        return hosts

    def now(self) -> happened.Now:
        """The moment, with fresh entropy."""
        return happened.Now(self.wall_ms, self.monotonic_ms, self.random.randbytes(32))

    def run(self, for_ms: int) -> None:
        """Let time pass."""
        end_ms = self.monotonic_ms + for_ms
        while self._queue and self._queue[0][0] <= end_ms:
            at_ms, _, call = heapq.heappop(self._queue)
            self._advance(at_ms)
            call()
        self._advance(end_ms)

    def arm(self, host: Host) -> None:
        """Send a Tick when the node wants one."""
        deadline = host.n.next_deadline_ms()
        if deadline is not None:
            node = host.node
            self._at(max(deadline, self.monotonic_ms), lambda: self._tick(host, node))

    def carry_out(self, host: Host, effect: out.Effect) -> None:
        """Do what a node asks."""
        match effect:
            case out.Persist(writes):
                for write in writes:
                    host.write(write)
            case out.PublishRecord(record):
                host.record = record
            case out.Verify(ticket, items):
                valid = tuple(check_all(NETWORK, items))
                self._soon(host, happened.Verified(ticket, valid), 0)
            case out.DialHello(address, port, source):
                self._dial(host, (address, port, source))
            case _:
                self._carry_out_on_sockets(host, effect)

    def _carry_out_on_sockets(self, host: Host, effect: out.Effect) -> None:
        match effect:
            case out.ConnectPeer(peer, curve_key, rpc, _, topics):
                host.links[peer] = (rpc[0], curve_key)
                host.topics[peer] = topics
            case out.FollowPeer(peer, topics):
                host.topics[peer] = topics
            case out.DisconnectPeer(peer):
                host.links.pop(peer, None)
            case out.DialBack(ticket, curve_key, hello, rpc, orders):
                found = [self._is_open(host, one, curve_key) for one in (hello, rpc, orders)]
                self._soon(host, happened.DialBackEnded(ticket, *found), self._delay())
            case out.SendRequest(peer, frame):
                target = self._linked(host, peer)
                route = happened.Route(host.curve_key, host.address.encode(), host.address)
                self._carry(host, target, happened.RequestReceived(route, frame))
            case out.SendReply(route, frame):
                target = self.hosts.get(route.connection.decode())
                if target is not None and target.curve_key == route.curve_key:
                    self._carry(host, target, happened.ReplyReceived(host.identity, frame))
            case out.Publish(topic, envelope):
                for target in self.hosts.values():
                    hears = topic in target.topics.get(host.identity, ())
                    if hears and self._linked(target, host.identity) is host:
                        self._carry(host, target, happened.StreamReceived(((topic, envelope),)))
            case _:
                assert isinstance(effect, out.Log | out.AnswerCommand | out.Announce)

    def _linked(self, host: Host, peer: bytes) -> Host | None:
        """Whom a host's sockets for a peer reach: the CURVE key must still be the one there."""
        address, curve_key = host.links.get(peer, ("", b""))
        target = self.hosts.get(address)
        right = target is not None and target.node is not None and target.curve_key == curve_key
        return target if right else None

    def _is_open(self, host: Host, place: tuple[str, int], curve_key: bytes) -> bool:
        target = self.hosts.get(place[0])
        if target is None or target.node is None or self._is_cut(host, target):
            return False
        ports = (target.settings["hello_port"], RPC, ORDERS)
        return target.curve_key == curve_key and place[1] in ports

    def _dial(self, host: Host, place: tuple[str, int, str]) -> None:
        target = self.hosts.get(place[0])
        there = target is not None and target.node is not None and not target.paused
        if (
            target is None
            or not there
            or target.settings["hello_port"] != place[1]
            or self._is_cut(host, target)
        ):
            self._soon(host, happened.HelloFailed(*place, "silent"), 1_000)
        else:
            self._soon(host, happened.HelloAnswered(*place, target.record), self._delay())

    def _carry(self, host: Host, target: Host | None, event: happened.Event) -> None:
        if target is None or self._is_cut(host, target) or self._chance(self.lost):
            return
        for _ in range(2 if self._chance(self.repeated) else 1):
            self._soon(target, event, self._delay())

    def _is_cut(self, host: Host, target: Host) -> bool:
        return frozenset({host.name, target.name}) in self.cut

    def _chance(self, percent: int) -> bool:
        return bool(percent) and self.random.randrange(100) < percent

    def _delay(self) -> int:
        return self.random.randint(*self.delay_ms)

    def _soon(self, host: Host, event: happened.Event, delay_ms: int) -> None:
        node = host.node

        def deliver() -> None:
            if host.node is node:
                host.handle(event)

        self._at(self.monotonic_ms + delay_ms, deliver)

    def _tick(self, host: Host, node: LogNode | None) -> None:
        deadline = node.next_deadline_ms() if node is not None and host.node is node else None
        if deadline is not None and deadline <= self.monotonic_ms:
            if host.paused:
                self._at(self.monotonic_ms + 100, lambda: self._tick(host, node))
            else:
                host.handle(happened.Tick())

    def _at(self, at_ms: int, call: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (at_ms, self._serial, call))

    def _advance(self, at_ms: int) -> None:
        self.wall_ms += at_ms - self.monotonic_ms
        self.monotonic_ms = at_ms


def order(number: int, now_ms: int, **fields: object) -> Order:
    """A valid order, worth one cent; equal numbers make equal orders."""
    terms: dict[str, Any] = {
        "market": MARKET,
        "side": "buy",
        "price_ticks": 100_000,
        "quantity_lots": 1_000,
        "minimum_lots": 1,
        "time_in_force": "gtc",
        "flags": 0,
        "expires_at_ms": now_ms + 3_600_000,
        "settlements": ("plain",),
        "payment_methods": (),
        "nonce": number.to_bytes(16, "big"),
    }
    terms.update(fields)
    return Order(**terms)
