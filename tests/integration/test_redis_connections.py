"""How a node finds its hold server, and what it says when there is none."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from redis.exceptions import RedisError

from tests.contract.redis_servers import ORDER, free_port, reserve, running, sentinel_of
from zmqex.adapters.holds.port import HoldAnswer, HoldOutcome
from zmqex.adapters.holds.redis_holds import RedisHolds
from zmqex.errors import ConfigError, HoldsUnavailableError

T = TypeVar("T")
ALICE, ONE, TWO = b"a" * 32, b"1" * 16, b"2" * 16


def test_a_server_that_has_gone_is_unavailable() -> None:
    """Every call says so with a time to ask again, and without the password."""

    async def story() -> None:
        url = f"redis://:secret@127.0.0.1:{free_port()}/0"
        holds = RedisHolds.connect(url, identity=ALICE)
        calls: list[Callable[[], Awaitable[object]]] = [
            holds.ping,
            holds.info,
            holds.epoch,
            holds.list,
            lambda: reserve(holds, ONE, 1),
            lambda: holds.release(ORDER, ONE, 1),
            lambda: holds.extend(ORDER, ONE, 1, 1_000),
            lambda: holds.rebuild(b"epoch", []),
            lambda: holds.lease(b"one", 1_000),
            lambda: holds.end_lease(b"one"),
        ]
        for call in calls:
            with pytest.raises(HoldsUnavailableError) as raised:
                await call()
            assert raised.value.retry_after_ms > 0
            assert "secret" not in str(raised.value)
        await holds.close()

    asyncio.run(story())


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:6379", "http://127.0.0.1", "redis+sentinel://host", "redis+sentinel:///name"],
)
def test_what_is_no_redis_url_is_the_operators_to_mend(url: str) -> None:
    """At the start, with the name of the setting."""
    with pytest.raises(ConfigError, match="--redis"):
        RedisHolds.connect(url, identity=ALICE)


def test_a_sentinel_leads_to_its_master(tmp_path: Path) -> None:
    """`redis+sentinel://host:port/name` finds the server and holds there."""
    port = free_port()
    master = f"redis://127.0.0.1:{port}"

    async def story(url: str) -> None:
        holds = RedisHolds.connect(url, identity=ALICE)
        assert (await reserve(holds, ONE, 4)).outcome is HoldOutcome.RESERVED
        assert (await holds.info()).url == url
        await holds.close()
        direct = RedisHolds.connect(master, identity=ALICE)
        assert [hold.trade_id for hold in await direct.list()] == [ONE]
        await direct.close()

    with (
        running(["--port", str(port), "--bind", "127.0.0.1", "--save", ""], master, tmp_path),
        sentinel_of(port, tmp_path) as sentinel,
    ):
        asyncio.run(story(f"redis+sentinel://127.0.0.1:{sentinel}/zmqex"))


def test_a_failover_is_followed(tmp_path: Path) -> None:
    """The master dies; the same client is served by the replica, with what had been replicated.

    What had not been is lost, and nobody says so: that is why the epoch is looked at.
    """
    ports = free_port(), free_port()
    urls = [f"redis://127.0.0.1:{port}" for port in ports]
    common = ["--bind", "127.0.0.1", "--save", "", "--repl-diskless-sync-delay", "0"]
    master = ["--port", str(ports[0]), *common]
    replica = ["--port", str(ports[1]), "--replicaof", "127.0.0.1", str(ports[0]), *common]

    async def story(url: str) -> None:
        holds, second = (RedisHolds.connect(one, identity=ALICE) for one in (url, urls[1]))
        await holds.rebuild(b"epoch", [])
        assert (await reserve(holds, ONE, 4)).outcome is HoldOutcome.RESERVED
        await until(second.list)
        with contextlib.suppress(RedisError):
            await holds._client.shutdown(nosave=True)
        assert await until(lambda: reserve(holds, TWO, 7)) == HoldAnswer(HoldOutcome.FULL, 4)
        assert await holds.epoch() == b"epoch"
        await holds.close()
        await second.close()

    with (
        running(master, urls[0], tmp_path),
        running(replica, urls[1], tmp_path),
        sentinel_of(ports[0], tmp_path) as sentinel,
    ):
        asyncio.run(story(f"redis+sentinel://127.0.0.1:{sentinel}/zmqex"))


async def until(look: Callable[[], Awaitable[T]]) -> T:
    """Ask again until there is an answer with something in it."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(HoldsUnavailableError):
                if found := await look():
                    return found
            await asyncio.sleep(0.05)
