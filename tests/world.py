"""A whole market in one thread: real kernels, virtual time, and an outside that can go wrong.

Network, journal, hold server and Lightning are small in-memory models with the same promises as the
real ones; the journal model makes the same checks as the SQL does.  `World.run` moves time; a
`drop` hook loses frames; `crash_at` ends a node right before or after one of its commits, and
`restart` brings it back with what was on disk.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from tests.holding import HoldMood, hold_answer
from tests.outside import Ledger, MemoryJournal, lightning_answer
from tests.recalling import recall
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import Command
from zmqex.kernel.core import Backend, Settings
from zmqex.kernel.kernel import Kernel
from zmqex.limits import BLOCK_MS, HOLDS_PER_TAKER_MAX, PLAY_AUTO_CANCEL_BLOCKS
from zmqex.market.instruments import BASE, Currencies
from zmqex.protocol.identity import IdentityKey, to_text
from zmqex.runtime.verifying import check_all

START_MS = 1_800_000_000_000
DELAY_MS = 1
_CURRENCIES = Currencies()
_SETTINGS: dict[str, Any] = {
    "can_hold": True,
    "auto_cancel_blocks": PLAY_AUTO_CANCEL_BLOCKS,
    # Strangers to each other as they are, most stories are not about that.
    "holds_per_address": HOLDS_PER_TAKER_MAX,
}


class SimNode:
    """One node: what survives a crash, and the kernel that does not."""

    def __init__(
        self,
        world: World,
        name: str,
        number: int,
        quotes: tuple[str, ...] = (),
        **settings: Any,  # noqa: ANN401
    ) -> None:
        """Give it an address of its own."""
        self.world = world
        self.name = name
        self.host = f"10.{number}.0.1"
        self.signer = IdentityKey(hashlib.sha256(b"seed " + name.encode()).digest())
        self.identity = self.signer.public_key
        self.text = to_text(self.identity)
        self.journal = MemoryJournal()
        self.ledger = Ledger(world, name)
        # The networks of quotes, by currency.
        self.quotes = {code: Ledger(world, name, code) for code in quotes}
        self.held: dict[bytes, tuple[bytes, int, int]] = {}  # trade: (order, lots, ends_ms)
        self.holds: HoldMood = "up"
        self.accepts = True  # what the operator's own program says, if it is asked
        self.links: dict[bytes, str] = {}  # peer identity -> its host, our dialled sockets
        self.topics: dict[bytes, tuple[bytes, ...]] = {}  # what we listen to of a peer
        self.record = b""
        self.starts = 0
        self.settings = settings
        self.kernel: Kernel | None = None
        self.paused: list[happened.Event] | None = None
        self.answers: dict[int, out.AnswerCommand] = {}
        self.logs: list[out.Log] = []
        self.crash_at: tuple[str, int] | None = None
        self.request_id = 0

    def ledger_for(self, asset: str) -> Ledger | None:
        """The ledger of an asset."""
        return self.ledger if asset == BASE else self.quotes.get(asset)

    @property
    def up(self) -> bool:
        """Whether the node runs (it may be paused)."""
        return self.kernel is not None

    @property
    def k(self) -> Kernel:
        """The running kernel."""
        assert self.kernel is not None
        return self.kernel

    def start(self) -> None:
        """Start it from what is on disk, with a fresh CURVE key."""
        self.links = {}
        self.kernel = self.restored()
        self.handle(happened.Started())

    def restored(self) -> Kernel:
        """A kernel of what is on disk, to which nothing has happened yet."""
        self.starts += 1
        self.curve_key = hashlib.sha256(f"{self.name} {self.starts}".encode()).digest()
        settings = Settings(
            host=self.host,
            hello_port=7100,
            rpc_port=7101,
            orders_port=7102,
            curve_key=self.curve_key,
            lightning_node=self.ledger.node,
            quote_backends={
                code: Backend(one.node, "bcrt", True, PLAY_AUTO_CANCEL_BLOCKS)  # noqa: FBT003
                for code, one in self.quotes.items()
            },
            **(_SETTINGS | self.settings),
        )
        return Kernel(settings, self.signer, _CURRENCIES, self.journal.snapshot())

    def crash(self) -> None:
        """End it as kill -9 does."""
        self.kernel = None
        self.paused = None
        self.links = {}
        self.crash_at = None

    def pause(self) -> None:
        """SIGSTOP: events pile up."""
        self.paused = []

    def resume(self) -> None:
        """SIGCONT: what piled up is handled now."""
        events, self.paused = self.paused or [], None
        for event in events:
            self.handle(event)

    def command(self, command: Command) -> int:
        """Give a command; its answer appears in `answers` under the returned id."""
        self.request_id += 1
        self.handle(happened.CommandReceived(b"cli", self.request_id, command))
        return self.request_id

    def tell(self, command: Command, *, within_ms: int = 10_000) -> dict[str, Any]:
        """Give a command and run the world until it is answered; asserts that it was accepted."""
        answer = self.ask(command, within_ms=within_ms)
        assert answer.ok, answer.result
        return answer.result

    def ask(self, command: Command, *, within_ms: int = 10_000) -> out.AnswerCommand:
        """Give a command and run the world until it is answered."""
        request_id = self.command(command)
        self.world.run_until(lambda: request_id in self.answers, within_ms)
        return self.answers[request_id]

    def handle(self, event: happened.Event) -> None:
        """One event through the kernel; its effects are carried out unless it crashes."""
        if self.kernel is None:
            return
        if self.paused is not None:
            self.paused.append(event)
            return
        effects = self.kernel.handle(event, self.world.now())
        for effect in effects:
            if isinstance(effect, out.Persist):
                number = self.journal.commits + 1
                if self.crash_at == ("before", number):
                    self.crash()
                    return
                self.journal.commit(effect.writes)
                if self.crash_at == ("after", number):
                    self.crash()
                    return
            else:
                self.world.carry_out(self, effect)
        self.world.arm(self)


class World:
    """The nodes, the time and the wire between them."""

    def __init__(self, seed: int = 1) -> None:
        """Everything random comes from the seed."""
        self.random = random.Random(seed)
        self.wall_ms = START_MS
        self.monotonic_ms = 1_000
        self.mined = 0
        self.lightning_apart = False  # Lightning nodes run while the node itself is down
        self.nodes: dict[str, SimNode] = {}
        self.drop: Callable[[SimNode, SimNode, out.Effect], bool] = lambda *_: False
        self.spy: Callable[[SimNode, out.Effect], None] = lambda *_: None
        self.sent: deque[tuple[SimNode, happened.Event]] = deque(maxlen=64)  # to be sent again
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = 0
        self._ticks: dict[str, int] = {}

    # --- building ------------------------------------------------------------------------------

    def add(
        self,
        name: str,
        *,
        start: bool = True,
        quotes: tuple[str, ...] = (),
        **settings: Any,  # noqa: ANN401
    ) -> SimNode:
        """A new node; it finds all earlier ones."""
        node = SimNode(self, name, len(self.nodes) + 1, quotes, **settings)
        self.nodes[name] = node
        if start:
            node.start()
            self.introduce(node)
        return node

    def introduce(self, node: SimNode) -> None:
        """Discovery brings a node the addresses of all others."""
        found = tuple(
            (other.host, 7100, "dht") for other in self.nodes.values() if other is not node
        )
        if found:
            node.handle(happened.CandidatesFound(found))

    def meet(self, *names: str) -> list[SimNode]:
        """New nodes that are connected to each other."""
        nodes = [self.add(name) for name in names]
        self.run(2_000)
        return nodes

    # --- time ----------------------------------------------------------------------------------

    def now(self) -> happened.Now:
        """The moment, with fresh entropy."""
        return happened.Now(self.wall_ms, self.monotonic_ms, self.random.randbytes(32))

    def run(self, ms: int) -> None:
        """Let this much time pass."""
        end = self.monotonic_ms + ms
        while self._queue and self._queue[0][0] <= end:
            self._step()
        self._advance(end)

    def run_until(self, done: Callable[[], bool], within_ms: int = 10_000) -> None:
        """Let time pass until it is so; fails if it is not so in time."""
        end = self.monotonic_ms + within_ms
        while not done():
            assert self._queue, "nothing will ever happen again"
            assert self._queue[0][0] <= end, f"not within {within_ms} ms"
            self._step()

    def arm(self, node: SimNode) -> None:
        """Schedule the node's next Tick."""
        if node.kernel is None:
            return
        deadline = node.kernel.next_deadline_ms()
        if deadline is None or self._ticks.get(node.name) == deadline:
            return
        self._ticks[node.name] = deadline
        self.at(max(deadline, self.monotonic_ms), lambda: self._tick(node, deadline))

    def at(self, time_ms: int, call: Callable[[], None]) -> None:
        """Call at a monotonic time."""
        self._serial += 1
        heapq.heappush(self._queue, (time_ms, self._serial, call))

    def _step(self) -> None:
        time_ms, _, call = heapq.heappop(self._queue)
        self._advance(time_ms)
        call()

    def _advance(self, time_ms: int) -> None:
        passed = max(time_ms - self.monotonic_ms, 0)
        self.monotonic_ms += passed
        self.wall_ms += passed

    def _tick(self, node: SimNode, deadline: int) -> None:
        if self._ticks.get(node.name) == deadline:
            del self._ticks[node.name]
        if node.paused is not None:
            self.at(self.monotonic_ms + 100, lambda: self._tick(node, deadline))
        elif node.kernel is not None:
            due = node.kernel.next_deadline_ms()
            if due is not None and due <= self.monotonic_ms:
                node.handle(happened.Tick())
            self.arm(node)

    # --- the outside ---------------------------------------------------------------------------

    def ledger_of(self, node_key: bytes, payer: Ledger) -> Ledger | None:
        """The ledger of a running node for the asset that is paid.

        Where Lightning nodes are apart from the others, of one that is down as well.
        """
        for node in self.nodes.values():
            runs = self.lightning_apart or (node.up and node.paused is None)
            ledger = node.ledger_for(payer.asset)
            if ledger is not None and ledger.node == node_key and runs:
                return ledger
        return None

    @property
    def height(self) -> int:
        """The simulated block height, and what was mined on top of it."""
        return self.wall_ms // BLOCK_MS + self.mined

    def changed(self, ledger: Ledger, payment_hash: bytes) -> None:
        """A payee's backend tells its node that an invoice has changed."""
        node = next(one for one in self.nodes.values() if one.ledger_for(ledger.asset) is ledger)
        self.soon(node, ledger.seen(payment_hash))

    def mine(self, blocks: int) -> None:
        """Blocks come at once; every backend tells its node the height."""
        self.mined += blocks
        for node in self.nodes.values():
            self.soon(node, happened.HeightSeen(self.height))

    def soon(self, node: SimNode, event: happened.Event, delay_ms: int = DELAY_MS) -> None:
        """An event for a node, a moment from now; one for a node that has crashed is lost."""
        starts = node.starts

        def deliver() -> None:
            if node.starts == starts:
                node.handle(event)

        self.at(self.monotonic_ms + delay_ms, deliver)

    def carry_out(self, node: SimNode, effect: out.Effect) -> None:
        """Do what a kernel asks."""
        self.spy(node, effect)
        match effect:
            case out.Log():
                node.logs.append(effect)
            case out.AnswerCommand():
                node.answers[effect.request_id] = effect
            case out.PublishRecord():
                node.record = effect.record
            case out.Verify():
                valid = tuple(check_all(node.k.core.settings.network, effect.items))
                self.soon(node, happened.Verified(effect.ticket, valid), 0)
            case out.DialHello():
                self._dial(node, effect)
            case out.DialBack(ticket, _, (host, _)):
                found = self._at_host(host) is not None
                self.soon(node, happened.DialBackEnded(ticket, found, found, found))
            case out.ConnectPeer() | out.FollowPeer() | out.DisconnectPeer():
                self._link(node, effect)
            case out.SendRequest() | out.SendReply() | out.Publish():
                self._send(node, effect)
            case out.ReserveHold() | out.ReleaseHold() | out.ExtendHold() | out.RebuildHolds():
                self._hold(node, effect)
            case out.Recall():
                self.soon(node, recall(node.journal, effect))
            case out.AskBeforeAccept():
                self.soon(node, happened.AcceptDecided(effect.trade_id, node.accepts))
            case _:
                self._lightning(node, effect)

    def _link(
        self, node: SimNode, effect: out.ConnectPeer | out.FollowPeer | out.DisconnectPeer
    ) -> None:
        if isinstance(effect, out.DisconnectPeer):
            node.links.pop(effect.peer, None)
            return
        node.topics[effect.peer] = effect.topics
        if isinstance(effect, out.ConnectPeer):
            node.links[effect.peer] = effect.rpc[0]

    def _at_host(self, host: str) -> SimNode | None:
        for node in self.nodes.values():
            if node.host == host and node.up:
                return node
        return None

    def _dial(self, node: SimNode, effect: out.DialHello) -> None:
        target = self._at_host(effect.host)
        place = (effect.host, effect.port, effect.source)
        if target is None or target.paused is not None or self.drop(node, target, effect):
            self.soon(node, happened.HelloFailed(*place, "silent"), 1_000)
        else:
            self.soon(node, happened.HelloAnswered(*place, target.record))

    def _send(self, node: SimNode, effect: out.SendRequest | out.SendReply | out.Publish) -> None:
        match effect:
            case out.SendRequest(peer, frame):
                target = self._at_host(node.links.get(peer, ""))
                if target is not None and target.identity == peer:
                    route = happened.Route(node.curve_key, node.name.encode(), node.host)
                    self._wire(node, target, effect, happened.RequestReceived(route, frame))
            case out.SendReply(route, frame):
                target = self.nodes.get(route.connection.decode())
                if target is not None and target.curve_key == route.curve_key:
                    self._wire(node, target, effect, happened.ReplyReceived(node.identity, frame))
            case out.Publish(topic, envelope):
                for target in self.nodes.values():
                    hears = topic in target.topics.get(node.identity, ())
                    if hears and target.links.get(node.identity) == node.host:
                        event = happened.StreamReceived(((topic, envelope),))
                        self._wire(node, target, effect, event)

    def _wire(
        self, node: SimNode, target: SimNode, effect: out.Effect, event: happened.Event
    ) -> None:
        if not self.drop(node, target, effect):
            self.sent.append((target, event))
            self.soon(target, event)

    def _hold(self, node: SimNode, effect: out.Effect) -> None:
        answer = hold_answer(node, effect, self.monotonic_ms)
        if answer is not None:
            self.soon(node, answer)

    def _lightning(self, node: SimNode, effect: out.Effect) -> None:
        ledger = node.ledger_for(getattr(effect, "asset", BASE))
        assert ledger is not None
        answer = lightning_answer(ledger, effect)
        if answer is not None:
            self.soon(node, answer)


def plain(value: Any) -> Any:  # noqa: ANN401
    """A record as plain data, for messages of failing tests."""
    return msgspec.to_builtins(value)
