"""One suite for every hold server.

Embedded; a separate redis-server over TCP and TLS with a password, and over a Unix socket; in
process, where that is installed; through a Sentinel.
Redis' clock cannot be virtual, so lapses use short lives and bounded polling.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zmqex.adapters.holds.embedded import EmbeddedServer
from zmqex.adapters.holds.port import HoldAnswer, HoldOutcome, HoldRow, Holds
from zmqex.adapters.holds.redis_holds import RedisHolds
from zmqex.errors import ConfigError, HoldsUnavailableError, LocalProtocolError
from zmqex.limits import HOLD_TTL_MS, INTEGER_MAX

ALICE, BOB = b"a" * 32, b"b" * 32
ORDER, OTHER_ORDER = b"o" * 32, b"p" * 32
ONE, TWO, THREE = b"1" * 16, b"2" * 16, b"3" * 16
PASSWORD = "a:secret/with?marks"  # noqa: S105 - of a server that lives for this test
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


@contextmanager
def redis_server(kind: str, directory: Path) -> Iterator[str]:
    """Run the distribution's redis-server in the foreground, and end it."""
    port, path = free_port(), directory / "s"
    quoted = PASSWORD.replace("/", "%2F").replace("?", "%3F")
    password = ["--requirepass", PASSWORD]
    arguments, url = {
        "unix": (["--port", "0", "--unixsocket", str(path)], f"unix://{path}"),
        "tcp": (["--port", str(port), *password], f"redis://:{quoted}@127.0.0.1:{port}/0"),
        "tls": (
            ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no", *password],
            f"rediss://:{quoted}@127.0.0.1:{port}/0?ssl_ca_certs={directory}/cert.pem",
        ),
    }[kind]
    if kind == "tls":
        make_certificate(directory)
        arguments += ["--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem"]
        arguments += ["--tls-ca-cert-file", "cert.pem"]
    with running(["--bind", "127.0.0.1", "--save", "", *arguments], url, directory):
        yield url


@contextmanager
def running(arguments: list[str], url: str, directory: Path) -> Iterator[None]:
    """Run redis-server with `arguments` until the test is done."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed (Debian package redis-server)")
    with subprocess.Popen(
        [program, *arguments], cwd=directory, stdout=subprocess.DEVNULL
    ) as server:
        try:
            asyncio.run(answering(url))
            yield
        finally:
            server.terminate()


async def answering(url: str) -> None:
    """Wait until the server takes commands."""
    holds = RedisHolds.connect(url, identity=ALICE)
    deadline = time.monotonic() + 5
    while True:
        try:
            await holds.ping()
        except HoldsUnavailableError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        else:
            await holds.close()
            return


def make_certificate(directory: Path) -> None:
    """Make a certificate for 127.0.0.1 that is its own authority."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(
        [program, "req", "-x509", *key, "-days", "2", *files, *names],
        cwd=directory,
        check=True,
        capture_output=True,
    )


def free_port() -> int:
    """A TCP port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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


async def reserve(
    holds: Holds,
    trade_id: bytes,
    quantity: int,
    *,
    capacity: int = 10,
    fence: int = 1,
    ttl_ms: int = HOLD_TTL_MS,
    order_id: bytes = ORDER,
) -> HoldAnswer:
    """Reserve with this file's usual numbers."""
    return await holds.reserve(
        order_id=order_id,
        trade_id=trade_id,
        quantity_lots=quantity,
        capacity_lots=capacity,
        fence=fence,
        ttl_ms=ttl_ms,
    )


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
    """Fifty takers at once for three lots."""

    async def story(holds: RedisHolds) -> None:
        answers = await asyncio.gather(
            *(reserve(holds, bytes([n]) * 16, 1, capacity=3, fence=n + 1) for n in range(50))
        )
        won = [answer for answer in answers if answer.outcome is HoldOutcome.RESERVED]
        assert sorted(answer.held_lots for answer in won) == [1, 2, 3]
        assert len(await holds.list()) == 3

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


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:6379", "http://127.0.0.1", "redis+sentinel://host", "redis+sentinel:///name"],
)
def test_what_is_no_redis_url_is_the_operators_to_mend(url: str) -> None:
    """At the start, with the name of the setting."""
    with pytest.raises(ConfigError, match="--redis"):
        RedisHolds.connect(url, identity=ALICE)


@contextmanager
def sentinel_of(port: int, directory: Path) -> Iterator[int]:
    """Run a Sentinel that watches the server on `port`."""
    own = free_port()
    config = directory / "sentinel.conf"
    config.write_text(
        f"port {own}\nbind 127.0.0.1\ndir {directory}\nsentinel monitor zmqex 127.0.0.1 {port} 1\n"
    )
    with running([str(config), "--sentinel"], f"redis://127.0.0.1:{own}", directory):
        yield own


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
