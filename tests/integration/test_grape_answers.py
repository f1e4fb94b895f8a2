"""What a grape must never answer, and some server does: bounded, named, believed in no part."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from tests.integration.grape_processes import until
from zmqex.adapters.discovery import grapes, http
from zmqex.adapters.discovery.candidate import Candidate
from zmqex.adapters.discovery.grape import Grape
from zmqex.adapters.discovery.grapes import GrapeDiscovery
from zmqex.dht import schedule
from zmqex.dht.limits import (
    DHT_PEERS_PER_ANSWER_MAX,
    GRAPE_ANNOUNCE_EVERY_MS,
    GRAPE_ANSWER_BYTES_MAX,
)
from zmqex.errors import DiscoveryUnavailableError
from zmqex.limits import SECOND_MS

HOST = "127.0.0.1"


@contextlib.asynccontextmanager
async def answering(raw: bytes, asked: list[bytes] | None = None) -> AsyncIterator[str]:
    """Yield the URL of a server that says `raw` to every question and hangs up; b"": never."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        if asked is not None:
            asked.append(head + body)
        if not raw:
            await reader.read()
        writer.write(raw)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, HOST, 0)
    async with server:
        yield f"http://{HOST}:{server.sockets[0].getsockname()[1]}"


def ok(body: bytes) -> bytes:
    """Wrap a body as grape's server does: no content type."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (ok(b"true"), "no grape"),
        (ok(b"1.5"), "no grape"),
        (ok(b"null"), "no grape"),
        (ok(b'{"a": 1}'), "no grape"),
        (ok(b""), "no grape"),
        (ok(b"\xff"), "no grape"),
        (ok(b"[" * 50_000), "no grape"),
        (ok(b"9" * 5_000), "no grape"),
        (ok(b'"ERR_GRAPE_ANNOUNCE"'), "it refuses: 'ERR_GRAPE_ANNOUNCE'"),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 5\r\n\r\nERR_X", "no grape"),
        (ok(b"x" * (GRAPE_ANSWER_BYTES_MAX + 1)), "too long"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[]", "no HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000, "no HTTP"),
    ],
)
def test_an_answer_of_another_type_or_form_is_named(raw: bytes, why: str) -> None:
    """For both questions; a list is none for an announce, nor a number for a look-up."""

    async def story() -> None:
        async with answering(raw) as url:
            for ask in (Grape(url).announce("x", 5), Grape(url).lookup("x")):
                with pytest.raises(DiscoveryUnavailableError, match=why):
                    await ask
        async with answering(ok(b"[]")) as url:
            with pytest.raises(DiscoveryUnavailableError, match="no grape"):
                await Grape(url).announce("x", 5)
        async with answering(ok(b"3")) as url:
            assert await Grape(url).announce("x", 5) == 3
            with pytest.raises(DiscoveryUnavailableError, match="no grape"):
                await Grape(url).lookup("x")

    asyncio.run(story())


def test_only_ipv4_with_a_port_is_read_and_only_so_many() -> None:
    """Everything else in the list is left out."""
    wrong: list[object] = [
        "1.2.3.4:0",
        "1.2.3.4:70000",
        "1.2.3.4:05",
        "01.2.3.4:5",
        "1.2.3:5",
        "256.1.1.1:5",
        "0.0.0.0:5",
        "224.0.0.1:5",
        "[::1]:5",
        "host:5",
        "1.2.3.4",
        "1.2.3.4:5 ",
        "1.2.3.4:5\n",
        "1.2.3.4:\u0665",
        5,
        None,
        ["1.2.3.4:5"],
        {"a": 1},
    ]

    async def story() -> None:
        async with answering(ok(json.dumps([*wrong, "1.2.3.4:5", "10.0.0.1:6"]).encode())) as url:
            found = await Grape(url).lookup("x")
            assert found == [Candidate("1.2.3.4", 5, "grape"), Candidate("10.0.0.1", 6, "grape")]
        many = [f"1.2.3.4:{port}" for port in range(1, 1_000)]
        async with answering(ok(json.dumps(many).encode())) as url:
            assert len(await Grape(url).lookup("x")) == DHT_PEERS_PER_ANSWER_MAX

    asyncio.run(story())


def test_the_question_is_what_a_grape_reads() -> None:
    """A POST to the exact path, the data beside a request id; chunked answers are read too."""

    async def story() -> None:
        asked: list[bytes] = []
        chunked = (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n4\r\n1\r\n2\r\n0\r\n\r\n"
        )
        async with answering(chunked, asked) as url:
            assert await Grape(url).announce("na\u00efve", 5) == 42
        head, _, body = asked[0].partition(b"\r\n\r\n")
        assert head.startswith(b"POST /announce HTTP/1.1\r\nHost: 127.0.0.1:")
        question = json.loads(body)
        assert question["data"] == ["na\u00efve", 5]
        assert question["rid"]

    asyncio.run(story())


def test_silence_and_nobody_there_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a name that the DNS cannot hold, and one that nobody has."""
    monkeypatch.setattr(http, "GRAPE_TIMEOUT_MS", 300)

    async def story() -> None:
        async with answering(b"") as url:
            with pytest.raises(DiscoveryUnavailableError, match="no answer"):
                await Grape(url).lookup("x")
        with pytest.raises(DiscoveryUnavailableError, match=r"refused|failed"):
            await Grape(url).lookup("x")
        with pytest.raises(DiscoveryUnavailableError, match="DNS"):
            await Grape(f"http://{'a' * 64}.invalid:5").lookup("x")

    asyncio.run(story())


def test_a_grape_elsewhere_may_not_name_this_machine_and_is_warned_about() -> None:
    """It announces its own address in our place; the way out is in the warning."""
    grape = Grape("http://grape.example:1")
    grape.elsewhere = "8.8.8.8"

    async def story() -> None:
        notices: list[str] = []
        discovery = GrapeDiscovery([grape.url], lambda _: None, notices.append)
        discovery._note("announce", grape, None)
        discovery._note("lookup", grape, None)
        (said,) = notices
        assert said == discovery.warnings()[0]
        assert "another host" in said
        assert "--bootstrap 8.8.8.8:PORT" in said

    asyncio.run(story())


def test_what_is_withdrawn_is_announced_no_more() -> None:
    """And what fails is tried again soon, then ever later."""

    async def story() -> None:
        asked: list[bytes] = []
        async with answering(ok(b'"oh"'), asked) as url:
            discovery = GrapeDiscovery([url], lambda _: None, lambda _: None)
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(discovery.run())
                discovery.announce("ours", 5)

                async def twice() -> bool:
                    return len(asked) >= 2

                assert await until(twice)
                discovery.withdraw("ours")
                discovery.wake()
                assert await discovery.lookup("ours") == []
                running.cancel()
            assert discovery.health()["announced_on"] is None
            assert [b"/announce" in one for one in asked].count(False) == 1

    asyncio.run(story())


def test_an_announce_is_repeated_in_time_with_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to a quarter earlier than promised, and not later than a busy machine makes it."""
    monkeypatch.setattr(grapes, "GRAPE_ANNOUNCE_EVERY_MS", 200)
    monkeypatch.setattr(schedule, "ANNOUNCE_PAUSES_MS", ())
    assert GRAPE_ANNOUNCE_EVERY_MS == 30 * SECOND_MS

    async def story() -> None:
        asked: list[bytes] = []
        async with answering(ok(b"2"), asked) as url, asyncio.TaskGroup() as tasks:
            discovery = GrapeDiscovery([url], lambda _: None, lambda _: None)
            running = tasks.create_task(discovery.run())
            discovery.announce("ours", 5)
            loop = asyncio.get_running_loop()
            started = loop.time()

            async def four_times() -> bool:
                return len(asked) >= 4

            assert await until(four_times)
            assert loop.time() - started >= 3 * 0.15
            assert discovery.health()["announced_on"] == 2
            running.cancel()

    asyncio.run(story())
