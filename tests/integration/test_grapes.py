"""Grapes that we did not write: found and finding, over UDP and over HTTP, in both versions.

Each test starts its own: a node of ours that has left costs a grape two seconds for each answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.integration.grape_processes import (
    HOST,
    VERSIONS,
    GrapeProcess,
    running_grapes,
    until,
)
from tests.unit.dht_items import PUBLIC, WHERE, item
from zmqex.adapters.discovery.candidate import Candidate
from zmqex.adapters.discovery.dht import DhtDiscovery
from zmqex.adapters.discovery.grape import Grape, LonelyGrapeError
from zmqex.adapters.discovery.grapes import GrapeDiscovery
from zmqex.dht.items import Item, ItemKey
from zmqex.dht.names import rendezvous_name
from zmqex.errors import DiscoveryUnavailableError

NAMES = [rendezvous_name("play", "BTC/USD").decode(), "exchange", "x", "longer than twenty bytes"]
both_versions = pytest.mark.parametrize("version", VERSIONS)


@contextlib.asynccontextmanager
async def joined(pair: list[GrapeProcess]) -> AsyncIterator[DhtDiscovery]:
    """Yield a node of ours whose only bootstrap node is the first grape's DHT port."""
    node = DhtDiscovery()
    await node.start(HOST, 0, [(HOST, pair[0].dht_port)])
    try:
        yield node
    finally:
        await node.close()


@both_versions
def test_over_udp_we_find_grapes_services_and_are_found(version: str) -> None:
    """Names of any length: ours at the HTTP of both grapes, theirs in our lookups."""

    async def story() -> None:
        async with running_grapes(version) as pair, joined(pair) as node:
            for number, name in enumerate(NAMES):
                node.announce(name.encode(), 6_000 + number)
                stored = await pair[number % 2].call("announce", [name, 6_100 + number])
                assert isinstance(stored, int)
                assert stored > 0
            for number, name in enumerate(NAMES):
                for grape in pair:
                    assert await until(lambda: _tells(grape, name, 6_000 + number))  # noqa: B023
                assert await until(lambda: _finds(node, name, 6_100 + number))  # noqa: B023

    asyncio.run(story())


@both_versions
def test_over_http_we_find_grapes_services_and_are_found(version: str) -> None:
    """What goes in at one grape comes out at the other."""

    async def story() -> None:
        async with running_grapes(version) as pair:
            one, other = Grape(pair[0].url), Grape(pair[1].url)
            assert await one.announce("ours", 6_200) > 0
            await pair[1].call("announce", ["ours", 6_201])
            wanted = {Candidate(HOST, port, "grape") for port in (6_200, 6_201)}

            async def all_found() -> bool:
                told = [await grape.lookup("ours") for grape in (one, other)]
                return all(wanted <= set(found) for found in told)

            assert await until(all_found)
            assert await one.lookup("nobody announces this") == []
            assert (one.elsewhere, other.elsewhere) == ("", "")
            # Its application errors have the status 200 and are told by their type.
            with pytest.raises(DiscoveryUnavailableError, match="ERR_GRAPE_LOOKUP"):
                await one.lookup("")
            with pytest.raises(DiscoveryUnavailableError, match="ERR_REQ_NOTFOUND"):
                await Grape(pair[0].url + "/nowhere").lookup("x")

    asyncio.run(story())


def test_items_are_put_and_got_both_ways_where_grapes_keep_them() -> None:
    """BEP 44 with 0.9.11: ours is read over its HTTP, and one put there is read by us."""

    async def story() -> None:
        async with running_grapes("0.9.11") as pair, joined(pair) as node:
            async with asyncio.timeout(20):
                assert await node.stored(node.publish(item(5)), 5_000) == 2
                asked = {"hash": WHERE.target.hex(), "salt": WHERE.salt.decode()}
                told = await pair[1].call("get", asked)
                assert isinstance(told, dict)
                assert (told["v"], told["seq"], told["k"]) == ("here", 5, PUBLIC.hex())

                theirs = item(7, b"put over http", salt=b"theirs")
                put = await pair[0].call("put", _as_grape(theirs))
                assert put == theirs.where.target.hex()
                assert await node.get(theirs.where, 5_000) == theirs

                # A newer one of ours replaces it there, an older one does not.
                newer = item(8, b"put over udp", salt=b"theirs")
                assert await node.stored(node.publish(newer), 5_000) == 2
                refused = await pair[0].call("put", _as_grape(theirs))
                assert isinstance(refused, str)
                assert refused.startswith("302")
                assert await node.get(ItemKey(PUBLIC, b"theirs"), 5_000) == newer

    asyncio.run(story())


def test_a_lonely_grape_is_named_and_the_next_one_is_used() -> None:
    """Then one that is gone: each warning says what to do, and announcing goes on."""

    async def story() -> None:
        notices: list[str] = []
        found: set[Candidate] = set()
        async with running_grapes("1.0.0", 1) as lonely, running_grapes("0.9.11") as pair:
            with pytest.raises(LonelyGrapeError):
                await Grape(lonely[0].url).announce("ours", 6_300)
            urls = [lonely[0].url, pair[0].url, pair[1].url]
            discovery = GrapeDiscovery(urls, found.update, notices.append)
            discovery.announce("ours", 6_301)
            discovery.follow("ours")
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(discovery.run())
                assert await until(_is(lambda: Candidate(HOST, 6_301, "grape") in found))
                assert discovery.health()["used"] == pair[0].url
                assert any("knows no other grape" in one for one in discovery.warnings())
                pair[0].end()
                discovery.wake()
                gone = pair[0].url
                assert await until(_is(lambda: any(gone in one for one in discovery.warnings())))
                running.cancel()
        assert len(notices) == len(set(notices))
        assert all("grape http://127.0.0.1:" in one for one in notices)

    asyncio.run(story())


def _is(look: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def answer() -> bool:
        return look()

    return answer


async def _tells(grape: GrapeProcess, name: str, port: int) -> bool:
    """Whether a grape's own HTTP names our port."""
    answer = await grape.call("lookup", name)
    assert isinstance(answer, list)
    return f"{HOST}:{port}" in answer


async def _finds(node: DhtDiscovery, name: str, port: int) -> bool:
    """Whether our lookup over UDP names a service's port."""
    return Candidate(HOST, port, "dht") in await node.lookup(name.encode(), 3_000)


def _as_grape(one: Item) -> dict[str, object]:
    """Return an item as the body of a grape's put."""
    assert isinstance(one.value, bytes)
    return {
        "v": one.value.decode(),
        "k": one.where.key.hex(),
        "sig": one.signature.hex(),
        "seq": one.sequence,
        "salt": one.where.salt.decode(),
    }
