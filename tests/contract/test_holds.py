"""One suite for every hold server.

Embedded; a separate redis-server over TCP and TLS with a password, and over a Unix socket; in
process, where that is installed.
Redis' clock cannot be virtual, so lapses use short lives and bounded polling.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.redis_servers import ORDER, forget_half_made_connections, redis_server, reserve
from zmqex.adapters.holds.embedded import EmbeddedServer
from zmqex.adapters.holds.port import HoldAnswer, HoldOutcome, HoldRow
from zmqex.adapters.holds.redis_holds import RedisHolds
from zmqex.errors import HoldsUnavailableError, LocalProtocolError
from zmqex.limits import HOLD_TTL_MS, INTEGER_MAX

ALICE, BOB = b"a" * 32, b"b" * 32
OTHER_ORDER = b"p" * 32
ONE, TWO, THREE = b"1" * 16, b"2" * 16, b"3" * 16
KINDS = ("embedded", "tcp", "unix", "tls", "in_memory")
FAKE = importlib.util.find_spec("fakeredis") is not None
Open = Callable[[bytes], RedisHolds]


@dataclass
class Place:
    """Where a server listens, and how to look at it past the adapter."""

    kind: str
    url: str

    def open(self, identity: bytes) -> RedisHolds:
        """Make an adapter for a node."""
        if self.kind == "in_memory":
            return RedisHolds.in_memory(identity=identity)
        return RedisHolds.connect(self.url, identity=identity, embedded=self.kind == "embedded")


@pytest.fixture(scope="module", params=[kind for kind in KINDS if kind != "in_memory" or FAKE])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """Start one server of each kind for the whole file."""
    kind: str = request.param
    directory = tmp_path_factory.mktemp("h")
    if kind == "in_memory":
        yield Place(kind, "memory://")
    elif kind == "embedded":
        server = EmbeddedServer.start(directory, directory)
        yield Place(kind, server.url)
        server.stop()
    else:
        with redis_server(kind, directory) as url:
            yield Place(kind, url)


@asynccontextmanager
async def opened(place: Place, identity: bytes = ALICE) -> AsyncIterator[RedisHolds]:
    """An adapter on an empty memory."""
    holds = place.open(identity)
    await holds._client.flushall()
    try:
        yield holds
    finally:
        await holds.close()


def play(place: Place, story: Callable[[RedisHolds], Awaitable[None]]) -> None:
    """Run one story on an empty server."""

    async def run() -> None:
        async with opened(place) as holds:
            await story(holds)

    asyncio.run(run())
    forget_half_made_connections()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Poll a real condition for at most 5 seconds."""
    deadline = time.monotonic() + 5
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_parts_of_an_order_are_held_until_it_is_full(place: Place) -> None:
    """4 + 6 of 10 fit, one more lot does not, and another order is not touched by it."""

    async def story(holds: RedisHolds) -> None:
        assert await reserve(holds, ONE, 4) == HoldAnswer(HoldOutcome.RESERVED, 4)
        assert await reserve(holds, TWO, 7) == HoldAnswer(HoldOutcome.FULL, 4)
        assert await reserve(holds, TWO, 6) == HoldAnswer(HoldOutcome.RESERVED, 10)
        assert await reserve(holds, THREE, 1) == HoldAnswer(HoldOutcome.FULL, 10)
        answer = await reserve(holds, THREE, 1, order_id=OTHER_ORDER)
        assert answer == HoldAnswer(HoldOutcome.RESERVED, 1)

    play(place, story)


def test_a_repeated_call_holds_once_and_renews_nothing(place: Place) -> None:
    """The answer to a lost reply: already yours, even where the order is full."""

    async def story(holds: RedisHolds) -> None:
        await reserve(holds, ONE, 10, ttl_ms=60_000)
        answer = await reserve(holds, ONE, 10, ttl_ms=900_000)
        assert answer == HoldAnswer(HoldOutcome.ALREADY_YOURS, 10)
        (hold,) = await holds.list()
        assert hold.remaining_ms <= 60_000

    play(place, story)


def test_a_lower_fence_is_refused_and_a_higher_one_takes_over(place: Place) -> None:
    """Fences are compared as numbers, and whoever has an old one is not the owner any more."""

    async def story(holds: RedisHolds) -> None:
        await reserve(holds, ONE, 4, fence=9)
        assert (await reserve(holds, ONE, 5, fence=8)).outcome is HoldOutcome.STALE_FENCE
        assert await reserve(holds, ONE, 11, fence=10) == HoldAnswer(HoldOutcome.FULL, 4)
        assert await reserve(holds, ONE, 5, fence=10) == HoldAnswer(HoldOutcome.RESERVED, 5)
        assert not await holds.release(ORDER, ONE, 9)
        assert not await holds.extend(ORDER, ONE, 9, HOLD_TTL_MS)
        assert not await holds.release(OTHER_ORDER, ONE, 10)
        (hold,) = await holds.list()
        assert (hold.quantity_lots, hold.fence) == (5, 10)

    play(place, story)


def test_a_trade_that_changes_its_terms_is_our_own_bug(place: Place) -> None:
    """Neither another order nor, under the same fence, another quantity; nothing changes."""

    async def story(holds: RedisHolds) -> None:
        await reserve(holds, ONE, 4)
        for quantity, order_id, fence in ((5, ORDER, 1), (4, OTHER_ORDER, 1), (4, OTHER_ORDER, 2)):
            with pytest.raises(LocalProtocolError):
                await reserve(holds, ONE, quantity, order_id=order_id, fence=fence)
        (hold,) = await holds.list()
        assert (hold.order_id, hold.quantity_lots, hold.fence) == (ORDER, 4, 1)

    play(place, story)


def test_a_released_part_can_be_held_by_another(place: Place) -> None:
    """Once, by its owner."""

    async def story(holds: RedisHolds) -> None:
        await reserve(holds, ONE, 10)
        assert await holds.release(ORDER, ONE, 1)
        assert not await holds.release(ORDER, ONE, 1)
        assert await holds.list() == []
        assert await reserve(holds, TWO, 10) == HoldAnswer(HoldOutcome.RESERVED, 10)

    play(place, story)


def test_a_hold_lapses_by_itself(place: Place) -> None:
    """After its time nobody owns it, nothing counts it, and it is not listed."""

    async def story(holds: RedisHolds) -> None:
        await reserve(holds, ONE, 10, ttl_ms=60)

        async def free() -> bool:
            return (await reserve(holds, TWO, 7)).outcome is HoldOutcome.RESERVED

        assert not await free()
        await until(free)
        assert not await holds.release(ORDER, ONE, 1)
        assert not await holds.extend(ORDER, ONE, 1, HOLD_TTL_MS)
        assert [hold.trade_id for hold in await holds.list()] == [TWO]

    play(place, story)


def test_an_extended_hold_outlives_its_first_time(place: Place) -> None:
    """The order's own bookkeeping lives as long as its longest hold."""

    async def story(holds: RedisHolds) -> None:
        await reserve(holds, ONE, 6, ttl_ms=150)
        await reserve(holds, TWO, 1, ttl_ms=300)
        assert await holds.extend(ORDER, ONE, 1, HOLD_TTL_MS)

        async def alone() -> bool:
            return [hold.trade_id for hold in await holds.list()] == [ONE]

        await until(alone)
        (hold,) = await holds.list()
        assert HOLD_TTL_MS - 5_000 < hold.remaining_ms <= HOLD_TTL_MS
        assert await reserve(holds, THREE, 5) == HoldAnswer(HoldOutcome.FULL, 6)

    play(place, story)


def test_redis_itself_gives_a_hold_its_fifteen_minutes(place: Place) -> None:
    """PTTL of the hold's key is 895-900 s, under a name that others can look up."""

    async def story(holds: RedisHolds) -> None:
        await reserve(holds, ONE, 4)
        key = f"zmqex:{{{ALICE[:8].hex()}}}:hold:{ONE.hex()}"
        assert 895_000 <= await holds._client.pttl(key) <= 900_000

    play(place, story)


def test_nothing_is_left_behind_by_holds_that_lapsed(place: Place) -> None:
    """Every key has a time, so an idle server becomes empty by itself."""

    async def story(holds: RedisHolds) -> None:
        for number in range(5):
            await reserve(holds, bytes([number]) * 16, 1, ttl_ms=80, order_id=bytes([number]) * 32)

        async def empty() -> bool:
            return bool(await holds._client.dbsize() == 0)

        assert not await empty()
        await until(empty)

    play(place, story)


def test_quantities_are_exact_to_the_last_lot(place: Place) -> None:
    """Beyond 2**53 Lua's own numbers would round."""

    async def story(holds: RedisHolds) -> None:
        most = INTEGER_MAX
        assert await reserve(holds, ONE, most - 1, capacity=most) == HoldAnswer(
            HoldOutcome.RESERVED, most - 1
        )
        assert await reserve(holds, TWO, 2, capacity=most) == HoldAnswer(HoldOutcome.FULL, most - 1)
        assert await reserve(holds, TWO, 1, capacity=most) == HoldAnswer(HoldOutcome.RESERVED, most)
        assert (await holds.list())[0].quantity_lots == most - 1

    play(place, story)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    quantities=st.lists(
        st.one_of(
            st.integers(1, 20),
            st.integers(10**9 - 2, 10**9 + 2),
            st.integers(2**53 - 2, 2**53 + 2),
            st.integers(1, INTEGER_MAX),
        ),
        min_size=1,
        max_size=8,
    ),
    capacity=st.integers(0, INTEGER_MAX),
)
def test_sums_agree_with_integers(place: Place, quantities: list[int], capacity: int) -> None:
    """Whatever is asked, in whatever order, the script counts as Python does."""

    async def story(holds: RedisHolds) -> None:
        held = 0
        for number, quantity in enumerate(quantities):
            answer = await reserve(holds, bytes([number]) * 16, quantity, capacity=capacity)
            fits = held + quantity <= capacity
            held += quantity * fits
            assert answer == HoldAnswer(HoldOutcome.RESERVED if fits else HoldOutcome.FULL, held)

    play(place, story)


@pytest.mark.parametrize(
    "bad", [{"quantity_lots": 0}, {"fence": 0}, {"ttl_ms": 0}, {"quantity_lots": -1}]
)
def test_impossible_numbers_are_refused_before_redis_sees_them(
    place: Place, bad: dict[str, int]
) -> None:
    """They can only come from a bug of ours."""

    async def story(holds: RedisHolds) -> None:
        facts = {"quantity_lots": 1, "fence": 1, "ttl_ms": 1_000} | bad
        with pytest.raises(LocalProtocolError, match=next(iter(bad))):
            await holds.reserve(order_id=ORDER, trade_id=ONE, capacity_lots=10, **facts)
        assert await holds.list() == []

    play(place, story)


def test_a_crowd_gets_exactly_what_there_is(place: Place) -> None:
    """Fifty takers at once for three lots; whoever is told to come back does."""

    async def story(holds: RedisHolds) -> None:
        async def taker(number: int) -> HoldOutcome:
            deadline = time.monotonic() + 8
            while time.monotonic() < deadline:
                with contextlib.suppress(HoldsUnavailableError):
                    trade, fence = bytes([number]) * 16, number + 1
                    return (await reserve(holds, trade, 1, capacity=3, fence=fence)).outcome
            pytest.fail("no answer")

        outcomes = await asyncio.gather(*map(taker, range(50)))
        assert outcomes.count(HoldOutcome.FULL) == 47
        assert {hold.trade_id for hold in await holds.list()} == {
            bytes([number]) * 16
            for number, outcome in enumerate(outcomes)
            if outcome is not HoldOutcome.FULL
        }

    play(place, story)


def test_rebuild_replaces_everything_once_for_an_epoch(place: Place) -> None:
    """Old holds go, the journal's come; the same epoch again changes nothing."""

    async def story(holds: RedisHolds) -> None:
        await reserve(holds, ONE, 4)
        assert await holds.epoch() is None
        row = HoldRow(ORDER, TWO, 8, 7, 60_000)
        other = HoldRow(OTHER_ORDER, THREE, 2, 5, 90_000)
        await holds.rebuild(b"first", [row, other])
        assert await holds.epoch() == b"first"
        views = await holds.list()
        found = [(v.order_id, v.trade_id, v.quantity_lots, v.fence) for v in views]
        assert found == [(ORDER, TWO, 8, 7), (OTHER_ORDER, THREE, 2, 5)]
        assert 0 < views[0].remaining_ms <= 60_000 < views[1].remaining_ms <= 90_000
        assert await reserve(holds, ONE, 2, fence=8) == HoldAnswer(HoldOutcome.RESERVED, 10)
        await holds.rebuild(b"first", [])
        assert len(await holds.list()) == 3
        await holds.rebuild(b"second", [])
        assert await holds.list() == []
        assert await reserve(holds, THREE, 10) == HoldAnswer(HoldOutcome.RESERVED, 10)

    play(place, story)


def test_a_wiped_server_shows_it_by_its_epoch(place: Place) -> None:
    """FLUSHALL takes the epoch with it, so the node knows that it must rebuild."""

    async def story(holds: RedisHolds) -> None:
        await holds.rebuild(b"first", [HoldRow(ORDER, ONE, 8, 7, 60_000)])
        await holds._client.flushall()
        assert await holds.epoch() is None
        await holds.rebuild(b"first", [HoldRow(ORDER, ONE, 8, 7, 60_000)])
        assert await reserve(holds, TWO, 3) == HoldAnswer(HoldOutcome.FULL, 8)

    play(place, story)


def test_a_server_that_is_shared_keeps_nodes_apart(place: Place) -> None:
    """Same order and trade ids under two identities do not meet."""
    if place.kind == "in_memory":
        return  # one process has one node

    async def story(alice: RedisHolds) -> None:
        bob = place.open(BOB)
        await reserve(alice, ONE, 10)
        assert await bob.list() == []
        assert (await reserve(bob, ONE, 10)).outcome is HoldOutcome.RESERVED
        await bob.rebuild(b"bob", [])
        assert await bob.list() == []
        assert len(await alice.list()) == 1
        assert await alice.lease(b"x", 1_000)
        assert await bob.lease(b"y", 1_000)
        await bob.close()

    play(place, story)


def test_one_copy_of_an_identity_leads(place: Place) -> None:
    """The lease is renewed by its owner only, given back by its owner only, and lapses."""

    async def story(holds: RedisHolds) -> None:
        assert await holds.lease(b"one", 60_000)
        assert not await holds.lease(b"two", 60_000)
        assert not await holds.end_lease(b"two")
        assert await holds.lease(b"one", 60)

        async def free() -> bool:
            return await holds.lease(b"two", 60_000)

        assert not await free()
        await until(free)
        assert not await holds.end_lease(b"one")
        assert await holds.end_lease(b"two")
        assert await holds.lease(b"one", 60_000)

    play(place, story)


def test_the_server_says_who_it_is(place: Place) -> None:
    """Name, version and pid; never the password."""

    async def story(holds: RedisHolds) -> None:
        info = await holds.info()
        name = {"embedded": "valkey", "in_memory": "fakeredis"}.get(place.kind, "redis")
        assert info.name == name
        assert int(info.version.split(".")[0]) >= (2 if name == "fakeredis" else 7)
        if name != "fakeredis":
            os.kill(info.pid, 0)
        assert info.embedded is (place.kind in {"embedded", "in_memory"})
        assert "secret" not in info.url
        assert "@" not in info.url

    play(place, story)


def test_a_silent_server_is_unavailable_after_one_second(place: Place) -> None:
    """CLIENT PAUSE: one time-out, no second try; afterwards the connection is good again."""
    if place.kind == "in_memory":
        return  # a process does not pause itself

    async def story(holds: RedisHolds) -> None:
        await holds._client.client_pause(1_500)
        begun = time.monotonic()
        with pytest.raises(HoldsUnavailableError):
            await reserve(holds, ONE, 4)
        assert 0.9 < time.monotonic() - begun < 1.4

        async def answers() -> bool:
            try:
                await holds.ping()
            except HoldsUnavailableError:
                return False
            return True

        await until(answers)
        # The call that timed out may have worked: the same trade and fence find that out.
        answer = await reserve(holds, ONE, 4)
        assert answer.held_lots == 4

    play(place, story)


def test_a_wrong_password_is_told(place: Place) -> None:
    """A server that does not let us in does not serve."""
    if place.kind not in {"tcp", "tls"}:
        return

    async def story() -> None:
        wrong = place.url.replace("secret", "guessed")
        holds = RedisHolds.connect(wrong, identity=ALICE)
        with pytest.raises(HoldsUnavailableError) as raised:
            await holds.ping()
        assert "guessed" not in str(raised.value)
        await holds.close()

    asyncio.run(story())
    forget_half_made_connections()
