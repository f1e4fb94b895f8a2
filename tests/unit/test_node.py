"""The loop around a kernel: events in, effects out, and one clean end when the disk fails."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.unit.backend import Lightning
from tests.unit.test_outside import Holds, hold_calls
from zmqex.adapters.discovery.routes import own_addresses
from zmqex.adapters.storage.journal import Journal
from zmqex.errors import StorageError
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import GetStatus, ListOrders, PlaceOrder
from zmqex.kernel.core import Settings
from zmqex.kernel.kernel import Kernel
from zmqex.market.instruments import BASE, Currencies
from zmqex.protocol.identity import IdentityKey
from zmqex.runtime.node import Node
from zmqex.runtime.outside import KernelWire, LightningCalls

BUY = PlaceOrder("BTC/USD", "buy", 100_000_000, 100)


class Sockets:
    """Transport and control socket that write down what leaves the node."""

    def __init__(self) -> None:
        """Nothing has left; nobody is connected."""
        self.said: list[tuple[str, Any]] = []
        self.answered = asyncio.Event()

    def dial_hello(self, host: str, port: int, source: str) -> None:
        """See the port."""
        self.said.append(("dial_hello", (host, port, source)))

    def dial_back(self, ticket: int, *_: object) -> None:
        """See the port."""
        self.said.append(("dial_back", ticket))

    def connect(self, peer: bytes, *_: object) -> None:
        """See the port."""
        self.said.append(("connect", peer))

    def hold_streams(self, *, held: bool) -> None:
        """See the port."""
        self.said.append(("hold_streams", held))

    def follow(self, peer: bytes, topics: Sequence[bytes]) -> None:
        """See the port."""
        self.said.append(("follow", (peer, topics)))

    def disconnect(self, peer: bytes) -> None:
        """See the port."""
        self.said.append(("disconnect", peer))

    def set_record(self, record: bytes) -> None:
        """See the port."""
        self.said.append(("record", record))

    def send(self, peer: bytes, _frame: bytes) -> bool:
        """Nobody is there."""
        self.said.append(("send", peer))
        return False

    def reply(self, connection: bytes, _frame: bytes) -> bool:
        """See the port."""
        self.said.append(("reply", connection))
        return True

    def publish(self, topic: bytes, _envelope: bytes) -> None:
        """See the port."""
        self.said.append(("publish", topic))

    def answer(self, client: bytes, request_id: int, *, ok: bool, result: dict[str, Any]) -> None:
        """See the port."""
        self.said.append(("answer", (client, request_id, ok, result)))
        self.answered.set()

    def announce(self, topic: str, _facts: dict[str, Any]) -> None:
        """See the port."""
        self.said.append(("announce", topic))

    def kinds(self) -> list[str]:
        """What left, in order."""
        return [kind for kind, _ in self.said]


class Scene:
    """A node with a real kernel and a real journal."""

    def __init__(self, root: Path, tasks: asyncio.TaskGroup, on_commit: Any = None) -> None:  # noqa: ANN401
        """Nothing has started."""
        self.journal = Journal(root / "journal.sqlite3", on_commit=on_commit)
        signer = IdentityKey(b"s" * 32)
        kernel = Kernel(Settings(), signer, Currencies(), self.journal.load())
        self.node = Node(kernel, self.journal, tasks)
        self.sockets = Sockets()
        self.holds = Holds()
        self.wire = KernelWire(self.node.post)
        self.node.attach(
            self.sockets,
            self.sockets,
            hold_calls(self.holds, self.node.post),
            {BASE: LightningCalls(Lightning(), self.node.post, self.node.spawn)},
            self.wire,
            {BASE: self.receive},
        )

    async def receive(self, payment_hash: bytes, **_: object) -> tuple[bytes | None, str]:
        """Our play backend."""
        if payment_hash == b"!" * 32:
            raise StorageError("the ledger is full")
        return b"p" * 32, ""

    async def tell(self, command: Any) -> dict[str, Any]:  # noqa: ANN401
        """Give a command on the control socket and wait for its answer."""
        self.sockets.answered.clear()
        self.node.post(happened.CommandReceived(b"cli", 1, command))
        await self.sockets.answered.wait()
        (answer,) = [said for kind, said in self.sockets.said if kind == "answer"]
        self.sockets.said.clear()
        _, _, ok, result = answer
        assert ok
        return dict(result)


def run(root: Path, story: Callable[[Scene], Awaitable[None]], on_commit: Any = None) -> None:  # noqa: ANN401
    """Run a story on a loop of its own, and end the node."""

    async def play() -> None:
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            scene = Scene(root, tasks, on_commit)
            try:
                await story(scene)
            finally:
                scene.node.cancel_calls()
                scene.node.verifier.close()
                scene.journal.close()

    asyncio.run(play())


def test_an_order_is_answered_once_it_is_on_disk(tmp_path: Path) -> None:
    """The publication and the answer wait for the commit; a new process finds the order."""
    moments: list[str] = []
    early: list[str] = []  # what had left before the commit of the order
    sockets: list[Sockets] = []

    def hook(when: str, _number: int) -> None:
        moments.append(when)
        if when == "before" and sockets:
            early.extend(sockets[0].kinds())

    async def story(scene: Scene) -> None:
        scene.node.post(happened.Started())
        await scene.node.flushed()
        scene.sockets.said.clear()
        sockets.append(scene.sockets)
        answer = await scene.tell(BUY)
        assert answer["order"]["state"] == "open"
        sockets.clear()

    run(tmp_path, story, hook)
    assert early == []
    assert moments.count("before") == moments.count("after") >= 2

    async def again(scene: Scene) -> None:
        scene.node.post(happened.Started())
        assert len((await scene.tell(ListOrders()))["orders"]) == 1

    run(tmp_path, again)


def test_a_disk_that_fails_ends_the_node_and_nothing_more_leaves(tmp_path: Path) -> None:
    """No answer, no publication; every later event is left alone."""
    full: list[bool] = []

    def hook(when: str, _number: int) -> None:
        if when == "before" and full:
            raise OSError("no space left")

    async def story(scene: Scene) -> None:
        node = scene.node
        node.post(happened.Started())
        await node.flushed()
        full.append(True)
        node.post(happened.CommandReceived(b"cli", 1, BUY))
        await node.stopped.wait()
        assert isinstance(node.fault, StorageError)
        assert "answer" not in scene.sockets.kinds()
        orders = dict(node.kernel.orders.rows)
        node.post(happened.CommandReceived(b"cli", 2, BUY))
        assert node.kernel.orders.rows == orders
        node.fail(StorageError("another"))
        assert "no space left" in str(node.fault)

    run(tmp_path, story, hook)


def test_a_timer_fires_by_itself(tmp_path: Path) -> None:
    """The kernel says when; the loop sends the Tick."""

    async def story(scene: Scene) -> None:
        fired = asyncio.Event()
        core = scene.node.kernel.core
        scene.node.post(happened.Started())
        core.call_after("test", 1, fired.set)
        scene.node.post(happened.Tick())
        assert await fired.wait()

    run(tmp_path, story)


def test_timers_go_on_after_a_fault_outside(tmp_path: Path) -> None:
    """A fault in an effect is the caller's to see; it must not make the node deaf to time."""

    async def story(scene: Scene) -> None:
        fired = asyncio.Event()
        node = scene.node
        node.post(happened.Started())

        def fails(*_: object) -> None:
            raise ZeroDivisionError

        node._calls[out.Log] = fails
        node.kernel.core.call_after("fails", 0, lambda: node.kernel.core.log("info", "x"))
        node.kernel.core.call_after("test", 5, fired.set)
        with pytest.raises(ZeroDivisionError):
            node.post(happened.Tick())
        await fired.wait()
        assert node.fault is None

    run(tmp_path, story)


def test_a_bug_in_the_kernel_ends_the_node_and_nothing_half_made_is_kept(tmp_path: Path) -> None:
    """Neither on disk nor on the wire; what was decided before it is, and the next node goes on."""

    async def story(scene: Scene) -> None:
        node = scene.node
        node.post(happened.Started())
        await scene.tell(BUY)
        core = node.kernel.core

        def bug(event: happened.CommandReceived) -> None:
            core.set_counter("half made", 1)
            core.answer(event.client, event.request_id, {})
            raise ZeroDivisionError

        calls = dict(node.kernel._calls)
        node.kernel._calls[happened.CommandReceived] = bug
        node.post(happened.CommandReceived(b"cli", 2, BUY))
        assert isinstance(node.fault, ZeroDivisionError)
        assert node.stopped.is_set()
        # Whatever comes before the process has ended is left alone.
        node.kernel._calls = calls
        node.post(happened.CommandReceived(b"cli", 3, ListOrders()))
        node.post(happened.Tick())
        await node.flushed()
        assert scene.sockets.said == []

    run(tmp_path, story)

    async def again(scene: Scene) -> None:
        assert "half made" not in scene.node.kernel.core.counters
        scene.node.post(happened.Started())
        assert len((await scene.tell(ListOrders()))["orders"]) == 1

    run(tmp_path, again)


def test_an_event_amid_an_event_waits_for_its_turn(tmp_path: Path) -> None:
    """What an effect leads to is decided after the event that led to it."""

    async def story(scene: Scene) -> None:
        node, order = scene.node, list[str]()
        handle = node.kernel.handle

        def watched(event: happened.Event, now: happened.Now) -> list[out.Effect]:
            order.append(f"begin {type(event).__name__}")
            effects = handle(event, now)
            if isinstance(event, happened.Started):
                node.post(happened.Tick())
            order.append(f"end {type(event).__name__}")
            return effects

        node.kernel.handle = watched  # type: ignore[method-assign]
        node.post(happened.Started())
        assert order[:4] == ["begin Started", "end Started", "begin Tick", "end Tick"]

    run(tmp_path, story)


def test_a_call_that_raises_is_counted_and_ends_nothing_else(tmp_path: Path) -> None:
    """But a ledger that cannot be trusted ends the node."""

    async def story(scene: Scene) -> None:
        node = scene.node

        async def fault() -> None:
            raise ZeroDivisionError

        async def done() -> None:
            ended.set()

        ended = asyncio.Event()
        node.spawn(fault())
        node.spawn(done())
        await ended.wait()
        assert node.kernel.core.counted["faults"] == 1
        assert not node.stopped.is_set()
        node._carry_out(out.CreditPlay(2, b"!" * 32, 5, b"n" * 33))
        await node.stopped.wait()
        assert "ledger is full" in str(node.fault)

    run(tmp_path, story)


def test_a_frame_that_is_not_sent_is_counted(tmp_path: Path) -> None:
    """The kernel's own deadline does the rest."""

    async def story(scene: Scene) -> None:
        node = scene.node
        node._carry_out(out.SendRequest(b"p" * 32, b"frame"))
        node._carry_out(out.SendReply(happened.Route(b"c" * 32, b"way", "host"), b"frame"))
        assert node.kernel.core.counted == {"frames_not_sent": 1}
        node._carry_out(out.DialHello("host", 1, "dht"))
        node._carry_out(out.ConnectPeer(b"p" * 32, b"c" * 32, ("h", 1), ("h", 2), ()))
        node._carry_out(out.DisconnectPeer(b"p" * 32))
        node._carry_out(out.Announce("order", {}))
        assert scene.sockets.kinds()[2:] == ["dial_hello", "connect", "disconnect", "announce"]

    run(tmp_path, story)


def test_another_network_is_noticed_and_one_that_comes_back(tmp_path: Path) -> None:
    """Everybody is dialled and every source asked anew; a network that is down is waited for."""

    async def story(scene: Scene) -> None:
        node, woken = scene.node, list[str]()
        now: tuple[str, ...]
        node.on_wake = lambda: woken.append("".join(now))
        for now in ((), ("a",), ("a",), ("b", "c"), (), (), ("b", "c"), ("b", "c")):
            node.beat(now)
        assert woken == ["a", "bc", "bc"]

    run(tmp_path, story)


def test_the_addresses_on_the_way_out_are_ours() -> None:
    """A UDP socket of that address can be opened here."""
    for address in own_addresses():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as one:
            one.bind((address, 0))
    assert len(own_addresses()) <= 2


def test_a_machine_that_slept_is_noticed(tmp_path: Path) -> None:
    """By either clock; a beat that comes in time says nothing."""

    async def story(scene: Scene) -> None:
        node, seen = scene.node, list[happened.Event]()
        handle = node.kernel.handle

        def watched(event: happened.Event, now: happened.Now) -> list[out.Effect]:
            seen.append(event)
            return handle(event, now)

        node.kernel.handle = watched  # type: ignore[method-assign]
        node.beat()
        assert seen == []
        wall_ms, monotonic_ms = node._beat
        node._beat = wall_ms - 60_000, monotonic_ms
        node.beat()
        (event,) = seen
        assert isinstance(event, happened.Woke)
        assert 58_000 <= event.slept_ms < 60_500

    run(tmp_path, story)


def test_an_answer_can_be_caught_before_it_leaves(tmp_path: Path) -> None:
    """The runtime completes some answers with what only it knows."""

    async def story(scene: Scene) -> None:
        caught: list[out.AnswerCommand] = []
        scene.node.on_answer(b"cli", 1, caught.append)
        for _ in range(2):
            scene.node.post(happened.CommandReceived(b"cli", 1, GetStatus()))
        assert len(caught) == 1
        assert scene.sockets.kinds().count("answer") == 1

    run(tmp_path, story)


def test_every_effect_has_somebody_who_carries_it_out(tmp_path: Path) -> None:
    """A new kind of effect cannot be forgotten."""

    def all_kinds(base: type[Any]) -> Sequence[type[Any]]:
        return [
            kind
            for one in base.__subclasses__()
            for kind in ([one, *all_kinds(one)])
            if kind.__module__ == out.__name__
        ]

    async def story(scene: Scene) -> None:
        kinds = set(all_kinds(out.Effect)) - {out.Persist}
        assert kinds == set(scene.node._calls)
        assert issubclass(out.Persist, msgspec.Struct)

    run(tmp_path, story)


def test_hold_and_lightning_effects_are_carried_out_beside_the_loop(tmp_path: Path) -> None:
    """Their answers come back as events."""

    async def story(scene: Scene) -> None:
        node, seen = scene.node, asyncio.Queue[happened.Event]()
        handle = node.kernel.handle

        def watched(event: happened.Event, now: happened.Now) -> list[out.Effect]:
            seen.put_nowait(event)
            return [] if isinstance(event, happened.Verified) else handle(event, now)

        node.kernel.handle = watched  # type: ignore[method-assign]
        node._carry_out(out.ReserveHold(b"o" * 32, b"t" * 32, 1, 1, 1, 1))
        assert isinstance(await seen.get(), happened.HoldAnswered)
        node._carry_out(out.LookupInvoice(b"t" * 32, b"h" * 32))
        assert isinstance(await seen.get(), happened.InvoiceSeen)
        node._carry_out(out.Verify(3, ()))
        assert await seen.get() == happened.Verified(3, ())

    run(tmp_path, story)
