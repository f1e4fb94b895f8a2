"""The connection to the hold server, where the server or the connection is not as it should be."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import ConnectionPool
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import InvalidResponse, NoScriptError, ResponseError
from redis.exceptions import TimeoutError as SilentError

from zmqex.adapters.holds.embedded import EmbeddedServer
from zmqex.adapters.holds.line import Line

Answer = Callable[[asyncio.StreamWriter], None]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A hold server."""
    directory = tmp_path_factory.mktemp("l")
    server = EmbeddedServer.start(directory, directory)
    yield server.url
    server.stop()


def play(url: str, story: Callable[[Line], Awaitable[None]]) -> None:
    """Run a story over one line."""

    async def run() -> None:
        pool = ConnectionPool.from_url(url, socket_connect_timeout=1, socket_timeout=1)
        line = Line(pool)
        try:
            await story(line)
        finally:
            await line.close()
            await pool.aclose()

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    """Poll a real condition for at most 5 seconds."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


async def own_id(line: Line) -> int:
    """Which connection of the server it is."""
    answer: int = await line.ask("CLIENT", "ID")
    return answer


def test_all_questions_share_a_connection(url: str) -> None:
    """Asked at once, also before there is one, each gets its own answer."""

    async def story(line: Line) -> None:
        texts = [b"%d" % number for number in range(500)]
        assert await asyncio.gather(*(line.ask("ECHO", text) for text in texts)) == texts
        one, other = await asyncio.gather(own_id(line), own_id(line))
        assert one == other

    play(url, story)


def test_a_large_answer_comes_in_pieces(url: str) -> None:
    """Larger than whatever is read at once."""

    async def story(line: Line) -> None:
        text = b"x" * 3_000_000
        assert await line.ask("ECHO", text) == text

    play(url, story)


def test_who_gives_up_leaves_the_answers_in_order(url: str) -> None:
    """The answer to a question that nobody waits for any more is not the next one's."""

    async def story(line: Line) -> None:
        await line.ask("PING")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await line.ask("ECHO", b"mine")
        assert await line.ask("ECHO", b"yours") == b"yours"

    play(url, story)


def test_a_refusal_makes_the_next_question_look_for_the_right_server(url: str) -> None:
    """As a master that has become a replica refuses; a script that is not there is no refusal."""

    async def story(line: Line) -> None:
        first = await own_id(line)
        with pytest.raises(NoScriptError):
            await line.ask("EVALSHA", "0" * 40, 0)
        assert await own_id(line) == first
        with pytest.raises(ResponseError, match="READONLY"):
            await line.ask("EVAL", "return redis.error_reply('READONLY a replica')", 0)
        assert await own_id(line) != first

    play(url, story)


def test_a_connection_that_was_cut_is_made_anew(url: str) -> None:
    """At once, where nothing was under way."""

    async def story(line: Line) -> None:
        other = Line(line._pool)
        first = await own_id(line)
        await other.ask("CLIENT", "KILL", "ID", first)
        await until(lambda: line._wire is not None and not line._wire.usable)
        assert await own_id(line) != first
        await other.close()

    play(url, story)


# --- servers that are none -----------------------------------------------------------------------


@asynccontextmanager
async def server_that(path: Path, answer: Answer) -> AsyncIterator[list[asyncio.StreamWriter]]:
    """It lets everybody in and answers each PING as it likes; yields its connections."""
    connections = list[asyncio.StreamWriter]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        while word := await reader.readline():
            if word == b"PING\r\n":
                answer(writer)
            elif word == b"CLIENT\r\n":  # the library says its name
                writer.write(b"+OK\r\n")

    async with await asyncio.start_unix_server(serve, path):
        yield connections
        for one in connections:
            one.close()
            with contextlib.suppress(OSError):
                await one.wait_closed()


def play_with(
    directory: Path,
    answer: Answer,
    story: Callable[[Line, list[asyncio.StreamWriter]], Awaitable[None]],
) -> None:
    """Run a story with such a server."""

    async def whole(line: Line) -> None:
        async with server_that(directory / "s", answer) as connections:
            try:
                await story(line, connections)
            finally:
                await line.close()

    play(f"unix://{directory}/s?protocol=2", whole)


def test_what_is_no_answer_ends_the_connection(tmp_path: Path) -> None:
    """Whoever waits is told, and the next question goes over a new one."""

    async def story(line: Line, connections: list[asyncio.StreamWriter]) -> None:
        for number in (1, 2):
            with pytest.raises(InvalidResponse):
                await line.ask("PING")
            assert len(connections) == number

    play_with(tmp_path, lambda writer: writer.write(b"hello\r\n"), story)


def test_more_answers_than_questions_end_it_as_well(tmp_path: Path) -> None:
    """None of them becomes the answer to what is asked later."""

    async def story(line: Line, connections: list[asyncio.StreamWriter]) -> None:
        for number in (1, 2):
            assert await line.ask("PING") == b"1"
            assert len(connections) == number

    play_with(tmp_path, lambda writer: writer.write(b"+1\r\n+2\r\n"), story)


def test_whoever_waits_at_the_end_is_told(tmp_path: Path) -> None:
    """The server goes away in between."""

    async def story(line: Line, _connections: list[asyncio.StreamWriter]) -> None:
        with pytest.raises(LostError):
            await line.ask("PING")

    play_with(tmp_path, lambda writer: writer.close(), story)


def test_a_silent_server_is_given_up_after_a_second(tmp_path: Path) -> None:
    """All who have waited a second are told; whoever asks next has a new connection."""

    async def story(line: Line, connections: list[asyncio.StreamWriter]) -> None:
        for number in (1, 2):
            begun = time.monotonic()
            both = (line.ask("PING"), line.ask("PING"))
            asked = await asyncio.gather(*both, return_exceptions=True)
            assert [type(one) for one in asked] == [SilentError, SilentError]
            assert 0.9 < time.monotonic() - begun < 1.4
            assert len(connections) == number

    play_with(tmp_path, lambda _writer: None, story)


def test_a_slow_server_is_asked_on(tmp_path: Path) -> None:
    """The second is each question's own, whatever was asked before it."""

    def slowly(writer: asyncio.StreamWriter) -> None:
        asyncio.get_running_loop().call_later(0.6, writer.write, b"+PONG\r\n")

    async def later(line: Line) -> bytes:
        begun = time.monotonic()
        await until(lambda: time.monotonic() > begun + 0.5)
        answer: bytes = await line.ask("PING")
        return answer

    async def story(line: Line, connections: list[asyncio.StreamWriter]) -> None:
        first, second = await asyncio.gather(line.ask("PING"), later(line))
        assert first == second == b"PONG"
        assert len(connections) == 1

    play_with(tmp_path, slowly, story)


def test_a_server_that_does_not_greet_is_given_up_as_soon(tmp_path: Path) -> None:
    """It takes the connection and says nothing, not even to the library."""

    async def story(line: Line) -> None:
        begun = time.monotonic()
        with pytest.raises((SilentError, LostError)):
            await line.ask("PING")
        assert 0.9 < time.monotonic() - begun < 1.4

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        play(f"unix://{tmp_path}/s?protocol=2", story)
