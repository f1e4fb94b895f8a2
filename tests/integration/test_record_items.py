"""Peer records under their keys in a real DHT: found by whoever knows the identity, or not used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

import pytest

from tests.integration.grape_processes import until
from zmqex.adapters.clock import wall_ms
from zmqex.adapters.discovery.candidate import Candidate
from zmqex.adapters.discovery.dht import DhtDiscovery
from zmqex.dht.bencode import Value
from zmqex.dht.items import ItemKey, make_item
from zmqex.protocol.codec import encode
from zmqex.protocol.identity import IdentityKey, seal
from zmqex.protocol.messages import Endpoint, PeerRecord
from zmqex.runtime import record_items
from zmqex.runtime.record_items import RecordItems

HOST = "127.0.0.1"
ALICE, MALLORY = IdentityKey(b"a" * 32), IdentityKey(b"m" * 32)


def record(
    who: IdentityKey = ALICE,
    *,
    hello: Endpoint | None = Endpoint("192.0.2.7", 7_100),  # noqa: B008 - frozen
    network: str = "play",
    sequence: int = 1,
    now_ms: int = 0,
) -> bytes:
    """A signed record."""
    now_ms = now_ms or wall_ms()
    body = PeerRecord(
        network=network,
        identity=who.public_key,
        hello=hello,
        rpc=hello,
        orders=hello,
        curve_key=bytes(32),
        lightning_node=bytes(33),
        capabilities=["plain"],
        not_before_ms=now_ms,
        not_after_ms=now_ms + 60_000,
        sequence=sequence,
    )
    return seal(who, network, "record", encode(body))


@asynccontextmanager
async def two_nodes() -> AsyncIterator[tuple[DhtDiscovery, DhtDiscovery]]:
    """Yield two DHT nodes that know each other."""
    first, second = DhtDiscovery(), DhtDiscovery()
    await first.start(HOST, 0)
    await second.start(HOST, 0, [(HOST, first.udp_port)])
    try:
        yield first, second
    finally:
        await first.close()
        await second.close()


def test_a_peer_is_found_by_its_key_until_it_leaves() -> None:
    """The newest record counts; one without endpoints names no place."""

    async def story() -> None:
        found: list[Candidate] = []
        async with two_nodes() as (first, second):
            ours = RecordItems(first, "play", found.extend)
            theirs = RecordItems(second, "play", found.extend)
            await ours.flushed()
            await theirs.seek(ALICE.public_key)
            assert found == []
            for sequence, host in ((1, "192.0.2.7"), (2, "192.0.2.8")):
                moved = record(hello=Endpoint(host, 7_100), sequence=sequence)
                ours.publish(moved, ALICE)
                await ours.flushed()
                await theirs.seek(ALICE.public_key)
                assert found.pop() == Candidate(host, 7_100, "dht")
            ours.publish(record(hello=None, sequence=3), ALICE)
            await ours.flushed()
            await theirs.seek(ALICE.public_key)
            assert found == []

    asyncio.run(story())


@pytest.mark.parametrize(
    "value",
    [
        record(MALLORY),
        record(network="other"),
        record(now_ms=1),
        record(hello=Endpoint("", 7_100)),
        b"garbage",
        [b"a list"],
    ],
)
def test_what_is_no_credible_record_of_that_peer_is_not_dialled(value: Value) -> None:
    """Another's, another network's, an old one, one without a host, garbage: the key signed it."""

    async def story() -> None:
        found: list[Candidate] = []
        async with two_nodes() as (first, second):
            where = ItemKey(ALICE.public_key, b"zmqex:play")
            item = make_item(where, 1, value, lambda raw: ALICE.sign(b"", raw))
            assert await second.stored(second.publish(item), 2_000) == 1
            await RecordItems(first, "play", found.extend).seek(ALICE.public_key)
            assert await first.get(where, 2_000) == item
        assert found == []

    asyncio.run(story())


def test_lost_peers_are_sought_in_turns_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was sought waits until all others were; one that is back is sought no more."""
    monkeypatch.setattr(record_items, "SEEK_EVERY_S", 0.02)
    monkeypatch.setattr(record_items, "SEEK_AT_ONCE_MAX", 2)

    class Watched(RecordItems):
        """Keeps whom it sought."""

        sought: ClassVar[list[bytes]] = []

        async def seek(self, identity: bytes) -> None:
            """Note it, and do it."""
            self.sought.append(identity)
            await super().seek(identity)

    async def story() -> None:
        found: list[Candidate] = []
        lost = [b"1" * 32, ALICE.public_key, b"2" * 32]
        async with two_nodes() as (first, second):
            RecordItems(first, "play", found.extend).publish(record(), ALICE)
            seeker = Watched(second, "play", found.extend)
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(seeker.seek_again_and_again(lambda: lost))

                async def twice_around() -> bool:
                    return len(seeker.sought) >= 6

                assert await until(twice_around)
                assert sorted(seeker.sought[:3]) == sorted(lost)
                lost.remove(ALICE.public_key)
                del seeker.sought[:]
                assert await until(twice_around)
                assert ALICE.public_key not in seeker.sought[2:]
                running.cancel()
        assert set(found) == {Candidate("192.0.2.7", 7_100, "dht")}

    asyncio.run(story())
