"""How a node finds its hold server, and what it says when there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.contract.redis_servers import ORDER, free_port, reserve, running, sentinel_of
from zmqex.adapters.holds.port import HoldOutcome
from zmqex.adapters.holds.redis_holds import RedisHolds
from zmqex.errors import ConfigError, HoldsUnavailableError

ALICE, ONE = b"a" * 32, b"1" * 16


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
