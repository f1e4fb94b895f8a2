"""A real control socket and the Python client: commands, answers, announcements, and their ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from zmqex.adapters.transport.control import ControlSocket, events_path
from zmqex.client import Client
from zmqex.errors import ConfigError, NodeUnavailableError, RefusedError
from zmqex.kernel.commands import CancelOrder, ControlRequest, GetBook, ListOrders, PlaceOrder
from zmqex.kernel.events import ClientGone, CommandReceived, Event

PATIENCE_S = 8.0
Answer = Callable[[ControlSocket, CommandReceived], None]


@pytest.fixture
def path(data_home: Path) -> Path:
    """Give a control socket's path, short enough, in a directory that exists."""
    return data_home.parent / "control"


def echo(control: ControlSocket, event: CommandReceived) -> None:
    """Answer with what was asked."""
    result = {"command": msgspec.to_builtins(event.command)}
    control.answer(event.client, event.request_id, ok=True, result=result)


def silence(_control: ControlSocket, _event: CommandReceived) -> None:
    """Answer nothing."""


@contextlib.asynccontextmanager
async def serving(
    path: Path, answer: Answer = echo, gone: Callable[[ClientGone], None] = lambda _event: None
) -> AsyncIterator[ControlSocket]:
    """Run a control socket whose commands go to `answer`."""

    def deliver(event: Event) -> None:
        if isinstance(event, ClientGone):
            gone(event)
        else:
            assert isinstance(event, CommandReceived)
            answer(control, event)

    control = ControlSocket(deliver, path)
    control.start()
    try:
        yield control
    finally:
        control.close()


def talk(path: Path, words: Callable[[Client], Any], answer: Answer = echo) -> Any:  # noqa: ANN401 - what `words` returns
    """Let a client in a thread of its own say something to a node."""

    def say() -> Any:  # noqa: ANN401 - what `words` returns
        with Client(path, timeout_s=PATIENCE_S) as client:
            return words(client)

    async def story() -> Any:  # noqa: ANN401 - what `words` returns
        async with serving(path, answer):
            return await asyncio.to_thread(say)

    return asyncio.run(story())


@contextlib.contextmanager
def raw_client(path: Path) -> Iterator[zmq.Socket[bytes]]:
    """Give a client that may say anything."""
    context = zmq.Context()
    with contextlib.closing(context.socket(zmq.DEALER)) as sock:
        sock.setsockopt(zmq.LINGER, 0)
        sock.connect(f"ipc://{path}")
        yield sock
    context.term()


# --- commands ----------------------------------------------------------------------------------


def test_a_command_arrives_typed_and_its_answer_comes_back(path: Path) -> None:
    """Every field crosses, and so does an answer far bigger than a peer's frame."""
    order = PlaceOrder("BTC/USD", "buy", 100_000_000, 6_500_000, key="mine", dry_run=True)
    seen: list[CommandReceived] = []
    big = {"orders": [{"order_id": "ab" * 32, "number": number} for number in range(10_000)]}

    def answer(control: ControlSocket, event: CommandReceived) -> None:
        seen.append(event)
        control.answer(event.client, event.request_id, ok=True, result=big)

    assert talk(path, lambda client: client.call(order), answer) == big
    assert [event.command for event in seen] == [order]


def test_a_refusal_is_an_error_with_its_reason_and_sentence(path: Path) -> None:
    """Both come from the node, word by word; the client can go on."""

    def answer(control: ControlSocket, event: CommandReceived) -> None:
        if isinstance(event.command, CancelOrder):
            result = {"reason": "unknown_order", "message": "there is no such order"}
            control.answer(event.client, event.request_id, ok=False, result=result)
        else:
            echo(control, event)

    def words(client: Client) -> None:
        with pytest.raises(RefusedError, match=r"^there is no such order$") as refused:
            client.call(CancelOrder("abcdef12"))
        assert refused.value.reason == "unknown_order"
        assert client.call(ListOrders()) == {"command": {"command": "list_orders", "closed": False}}

    talk(path, words, answer)


@pytest.mark.parametrize(
    ("said", "request_id"),
    [
        (msgspec.msgpack.encode([7, {"command": "rob_bank"}]), 7),
        (msgspec.msgpack.encode([8, {"command": "list_orders", "more": 1}]), 8),
        (msgspec.msgpack.encode([9, {"command": "get_book", "market": 5}]), 9),
        (msgspec.msgpack.encode([10, {"command": "get_book", "market": "x" * 5_000}]), 10),
        (msgspec.msgpack.encode([-1, {"command": "list_orders"}]), 0),
        (msgspec.msgpack.encode([11]), 11),
        (b"\x92\x0c\x81\xa7command\xa3\xff\xff\xff", 12),
        (b"\x91" * 50_000, 0),
        (b"GET / HTTP/1.1", 0),
        (b"", 0),
    ],
)
def test_what_is_no_command_is_refused_by_its_number(
    path: Path, said: bytes, request_id: int
) -> None:
    """The asker learns why, the node never sees it, and the next command works."""

    def ask() -> list[Any]:
        with raw_client(path) as sock:
            sock.send(said)
            sock.send_multipart([b"too", b"many"])
            sock.send(msgspec.msgpack.encode([99, {"command": "list_orders"}]))
            answers = []
            for _ in range(2):
                assert sock.poll(int(PATIENCE_S * 1_000))
                answers.append(msgspec.msgpack.decode(sock.recv()))
            return answers

    async def story() -> list[Any]:
        async with serving(path):
            return await asyncio.to_thread(ask)

    refused, answered = asyncio.run(story())
    assert refused[:2] == [request_id, False]
    assert refused[2]["reason"] == "malformed"
    assert refused[2]["message"].startswith("the command could not be read: ")
    assert answered[:2] == [99, True]


def test_two_clients_get_their_own_answers(path: Path) -> None:
    """Also when the second is answered first."""
    waiting: list[CommandReceived] = []

    def answer(control: ControlSocket, event: CommandReceived) -> None:
        waiting.append(event)
        if len(waiting) == 2:
            for one in reversed(waiting):
                echo(control, one)

    def ask(market: str) -> Any:  # noqa: ANN401 - a part of an answer
        with Client(path, timeout_s=PATIENCE_S) as client:
            return client.call(GetBook(market))["command"]["market"]

    async def story() -> list[Any]:
        async with serving(path, answer):
            return list(
                await asyncio.gather(*(asyncio.to_thread(ask, name) for name in ("A/B", "C/D")))
            )

    assert asyncio.run(story()) == ["A/B", "C/D"]


# --- when no answer comes ----------------------------------------------------------------------


def test_where_no_node_runs_the_client_says_so_at_once(path: Path) -> None:
    """No file, and a file that a killed node has left behind."""
    started_s = time.monotonic()
    with pytest.raises(NodeUnavailableError, match=r"no node is running at .*zmqex serve"):
        Client(path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(NodeUnavailableError, match=r"no node is running at .*zmqex serve"):
        Client(path)
    assert time.monotonic() - started_s < 1.0


def test_a_node_that_ends_during_a_call_is_noticed_at_once(path: Path) -> None:
    """Not after the time-out: the answer can never come, even from a node started anew."""

    async def story() -> None:
        asked = asyncio.Event()
        async with serving(path, lambda _control, _event: asked.set()):
            client = await asyncio.to_thread(Client, path, timeout_s=60.0)
            loop = asyncio.get_running_loop()
            call = loop.run_in_executor(None, client.call, ListOrders())
            async with asyncio.timeout(PATIENCE_S):
                await asked.wait()
        async with serving(path), asyncio.timeout(PATIENCE_S):
            with pytest.raises(NodeUnavailableError, match="has ended"):
                await call
            with pytest.raises(NodeUnavailableError, match="has ended"):
                await asyncio.to_thread(client.call, ListOrders())
        client.close()

    asyncio.run(story())


def test_a_silent_node_is_given_up_and_its_late_answer_is_not_mistaken(path: Path) -> None:
    """The next call gets its own answer."""
    waiting: list[CommandReceived] = []

    def answer(control: ControlSocket, event: CommandReceived) -> None:
        waiting.append(event)
        if len(waiting) == 2:
            for one in waiting:
                echo(control, one)

    def words(client: Client) -> None:
        with pytest.raises(NodeUnavailableError, match=r"did not answer within 0\.05 s"):
            client.call(GetBook("LATE/X"), timeout_s=0.05)
        assert client.call(GetBook("NEXT/X"))["command"]["market"] == "NEXT/X"

    talk(path, words, answer)


# --- clients whose orders end with them ---------------------------------------------------------

PROGRAM = """
import sys, time
from pathlib import Path
from zmqex.client import Client
from zmqex.kernel.commands import PlaceOrder
client = Client(Path(sys.argv[1]))
client.call(PlaceOrder("BTC/USD", "buy", 1, 1, cancel_on_disconnect=True))
print("placed", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["close", "kill"])
def test_the_node_learns_at_once_that_a_client_has_gone(path: Path, end: str) -> None:
    """Closed or killed; clients who come, go and stay beside it are not mistaken for it."""

    async def story() -> tuple[list[bytes], list[bytes]]:
        placed: list[bytes] = []
        gone: list[bytes] = []
        left = asyncio.Event()

        def answer(control: ControlSocket, event: CommandReceived) -> None:
            placed.append(event.client)
            echo(control, event)

        def on_gone(event: ClientGone) -> None:
            gone.append(event.client)
            left.set()

        async with serving(path, answer, on_gone), asyncio.timeout(PATIENCE_S):
            stays = await asyncio.to_thread(Client, path)
            order = PlaceOrder("BTC/USD", "sell", 1, 1, cancel_on_disconnect=True)
            for _ in range(2):
                await asyncio.to_thread(stays.call, order)
            passing = await asyncio.to_thread(Client, path)
            await asyncio.to_thread(passing.call, ListOrders())
            passing.close()
            program = await asyncio.create_subprocess_exec(
                sys.executable, "-c", PROGRAM, str(path),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert program.stdin is not None
            assert program.stdout is not None
            assert await program.stdout.readline() == b"placed\n"
            assert gone == []
            if end == "kill":
                program.kill()
            else:
                program.stdin.close()
            await left.wait()
            await program.wait()
            first = list(gone)
            left.clear()
            stays.close()
            await left.wait()
        return placed, [*first, *gone[1:]]

    placed, gone = asyncio.run(story())
    assert gone == [placed[3], placed[0]]
    assert placed[0] == placed[1] != placed[3]


def test_an_order_that_is_to_end_with_a_client_needs_one_that_says_it_is_here(path: Path) -> None:
    """Else nobody would tell of its end; without the flag anybody may place."""

    def ask() -> list[Any]:
        answers = []
        with raw_client(path) as sock:
            for attended in (True, False):
                order = PlaceOrder("BTC/USD", "buy", 1, 1, cancel_on_disconnect=attended)
                sock.send(msgspec.msgpack.encode(ControlRequest(7, order)))
                assert sock.poll(int(PATIENCE_S * 1_000))
                answers.append(msgspec.msgpack.decode(sock.recv()))
        return answers

    async def story() -> list[Any]:
        async with serving(path):
            return await asyncio.to_thread(ask)

    refused, placed = asyncio.run(story())
    assert (refused[1], refused[2]["reason"]) == (False, "not_connected")
    assert "zmqex.client" in refused[2]["message"]
    assert placed[1]


# --- announcements -----------------------------------------------------------------------------


def test_nothing_is_missed_after_events_has_returned(path: Path) -> None:
    """The first change that a command causes is seen, with its topic, and other topics are not."""

    def answer(control: ControlSocket, event: CommandReceived) -> None:
        control.announce("book", {"market": "BTC/USD"})
        control.announce("order", {"order_id": "ab"})
        control.announce("trade", {"trade_id": "cd"})
        echo(control, event)

    def words(client: Client) -> list[dict[str, Any]]:
        changes = client.events(("trade", "order"))
        everything = client.events()
        client.call(ListOrders())
        assert [next(everything)["topic"] for _ in range(3)] == ["book", "order", "trade"]
        return [next(changes), next(changes)]

    assert talk(path, words, answer) == [
        {"topic": "order", "order_id": "ab"},
        {"topic": "trade", "trade_id": "cd"},
    ]


def test_the_announcements_end_with_the_node(path: Path) -> None:
    """A watcher is told; it does not wait for ever."""

    async def story() -> None:
        async with serving(path) as control:
            client = await asyncio.to_thread(Client, path, timeout_s=PATIENCE_S)
            changes = await asyncio.to_thread(client.events)
            control.announce("order", {"n": 1})
            assert await asyncio.to_thread(next, changes) == {"topic": "order", "n": 1}
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(NodeUnavailableError, match="has ended"):
                await asyncio.to_thread(next, changes)
        client.close()

    asyncio.run(story())


# --- files -------------------------------------------------------------------------------------


def test_the_socket_files_are_for_their_owner_only_and_gone_at_the_end(path: Path) -> None:
    """What a killed node has left there is in nobody's way."""
    path.touch()

    async def story() -> list[int]:
        async with serving(path):
            return [stat.S_IMODE(one.stat().st_mode) for one in (path, events_path(path))]

    assert asyncio.run(story()) == [0o600, 0o600]
    assert not path.exists()
    assert not events_path(path).exists()


def test_a_path_that_no_system_takes_is_the_operators_to_mend(path: Path) -> None:
    """Too long, and in a directory that does not exist; closing it is harmless."""
    with pytest.raises(ConfigError, match="XDG_RUNTIME_DIR to a shorter directory"):
        ControlSocket(lambda _event: None, path.parent / ("x" * 100))

    async def story() -> None:
        control = ControlSocket(lambda _event: None, path.parent / "none" / "control")
        with pytest.raises(ConfigError, match="cannot open the control socket"):
            control.start()
        control.close()

    asyncio.run(story())
