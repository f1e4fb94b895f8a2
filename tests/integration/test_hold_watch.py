"""The watch over a real hold server: lost memory, a lost process, and the lease of a shared one."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from zmqex.adapters.holds.choose import HoldServer
from zmqex.adapters.holds.embedded import EmbeddedServer
from zmqex.adapters.holds.redis_holds import RedisHolds
from zmqex.kernel.effects import RebuildHolds
from zmqex.kernel.events import Event, HoldsForgotten, LeaseAnswered
from zmqex.runtime.hold_watch import HoldWatch, run_id
from zmqex.runtime.outside import HoldCalls
from zmqex.runtime.supervise import RUN_VARIABLE

IDENTITY = b"i" * 32
ROW = (b"o" * 32, b"t" * 32, 4, 1, 60_000)


class Watched:
    """One node's watch over a server, and the events that came of it."""

    def __init__(self, server: EmbeddedServer, owner: bytes, *, shared: bool) -> None:
        """With `shared` the server counts as the operator's."""
        self.events: list[Event] = []
        self.told = asyncio.Event()
        self.holds = RedisHolds.connect(server.url, identity=IDENTITY)
        self.calls = HoldCalls(self.holds, self.post)
        embedded = None if shared else server
        place = HoldServer(self.holds, embedded, "", shared=shared)
        self.watch = HoldWatch(place, self.calls, self.post, owner=owner)

    def post(self, event: Event) -> None:
        """Where a node's kernel would be."""
        self.events.append(event)
        self.told.set()

    async def heard(self) -> list[Event]:
        """Ask once; what came of it."""
        self.events.clear()
        await self.watch.ask()
        return list(self.events)


def play(
    directory: Path,
    story: Callable[[Watched, Watched, EmbeddedServer], Awaitable[None]],
    *,
    shared: bool,
) -> None:
    """Run a story of two copies of a node on one server."""
    server = EmbeddedServer.start(directory, directory)

    async def run() -> None:
        one, two = (Watched(server, owner, shared=shared) for owner in (b"one", b"two"))
        try:
            await story(one, two, server)
        finally:
            await one.holds.close()
            await two.holds.close()

    try:
        asyncio.run(run())
    finally:
        server.stop()


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a short name."""
    return tmp_path_factory.mktemp("w")


def test_one_copy_has_the_lease_until_it_gives_it_back(place: Path) -> None:
    """Asked every second; the other one is told that it is taken."""

    async def story(one: Watched, two: Watched, _server: EmbeddedServer) -> None:
        for watched, answer in ((one, "held"), (two, "taken"), (one, "held")):
            (event,) = await watched.heard()
            assert isinstance(event, LeaseAnswered)
            assert event.answer == answer
        await two.watch.give_back()
        assert [one.answer for one in await two.heard()] == ["taken"]  # type: ignore[attr-defined]
        await one.watch.give_back()
        assert [one.answer for one in await two.heard()] == ["held"]  # type: ignore[attr-defined]

    play(place, story, shared=True)


def test_a_silent_server_says_so_and_ends_nothing(place: Path) -> None:
    """Also where the lease is given back."""

    async def story(one: Watched, _two: Watched, server: EmbeddedServer) -> None:
        server.stop()
        (event,) = await one.heard()
        assert isinstance(event, LeaseAnswered)
        assert event.answer == "silent"
        await one.watch.give_back()

    play(place, story, shared=True)


def test_lost_memory_is_noticed_and_filled_again(place: Path) -> None:
    """FLUSHALL, or another copy's rebuild: the epoch is not ours."""

    async def story(one: Watched, two: Watched, _server: EmbeddedServer) -> None:
        await one.calls.carry_out(RebuildHolds(b"first", (ROW,)))
        assert await one.heard() == []
        await one.holds._client.flushall()
        assert await one.heard() == [HoldsForgotten()]
        await one.calls.carry_out(RebuildHolds(b"second", (ROW,)))
        assert await one.heard() == []
        assert [hold.trade_id for hold in await one.holds.list()] == [ROW[1]]
        await two.calls.carry_out(RebuildHolds(b"of two", ()))
        assert await one.heard() == [HoldsForgotten()]

    play(place, story, shared=False)


def test_our_own_server_is_started_again(place: Path) -> None:
    """Kill -9: within half a second it runs again and its holds are asked for anew."""

    async def story(one: Watched, _two: Watched, server: EmbeddedServer) -> None:
        pid = server.pid
        loops = [asyncio.Task(work) for work in one.watch.work()]
        await one.calls.carry_out(RebuildHolds(b"first", (ROW,)))
        one.events.clear()
        os.kill(pid, signal.SIGKILL)
        await asyncio.wait_for(one.told.wait(), 2)
        assert server.alive()
        assert server.pid != pid
        assert one.events == [HoldsForgotten()]
        for loop in loops:
            loop.cancel()

    play(place, story, shared=False)


def test_a_restart_by_the_supervisor_is_the_same_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every run has a name of its own."""
    monkeypatch.delenv(RUN_VARIABLE, raising=False)
    assert run_id() != run_id()
    monkeypatch.setenv(RUN_VARIABLE, "abc")
    assert run_id() == b"abc"
