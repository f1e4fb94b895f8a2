"""Behind a SOCKS5 proxy every socket that we dial goes through it, and it looks up the names."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.transport_sides import (
    HOST,
    Side,
    open_descriptors,
    run,
    started,
    streamed,
    until_subscribed,
)
from tests.socks import socks
from zmqex.adapters.transport.socks import Proxy
from zmqex.kernel.events import HelloAnswered, HelloFailed, ReplyReceived, RequestReceived


@pytest.fixture
def place() -> Iterator[Path]:
    """A short private directory for Unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="zq-"))
    yield path
    shutil.rmtree(path)


def test_hello_requests_and_streams_go_through_the_proxy_by_name(place: Path) -> None:
    """The name is one that only the proxy knows, and the proxy sees three connections."""

    async def story() -> None:
        alice = Side()
        with socks("alice.onion") as proxy:
            bob = Side(proxy=Proxy((HOST, proxy.port), place))
            async with started(alice, bob):
                ports = alice.transport
                alice.transport.set_record(b"a record")
                bob.transport.dial_hello("alice.onion", ports.hello_port, "static")
                answered = await bob.first(HelloAnswered)
                assert (answered.host, answered.record) == ("alice.onion", b"a record")
                bob.transport.connect(
                    b"alice",
                    alice.public,
                    ("alice.onion", ports.rpc_port),
                    ("alice.onion", ports.orders_port),
                    (b"h",),
                )
                assert bob.transport.send(b"alice", b"a question")
                asked = await alice.first(RequestReceived)
                assert alice.transport.reply(asked.route.connection, b"an answer")
                assert (await bob.first(ReplyReceived)).frame == b"an answer"
                await until_subscribed(bob, alice, b"h")
                assert streamed(bob, b"h")
                assert sorted(proxy.seen) == sorted(
                    ("alice.onion", port)
                    for port in (ports.hello_port, ports.rpc_port, ports.orders_port)
                )

    run(story)


def test_large_answers_come_through_whole(place: Path) -> None:
    """Many frames of the largest size, faster than the other side takes them."""
    frames = [bytes([number]) * 60_000 for number in range(100)]

    async def story() -> None:
        alice = Side()
        with socks("alice.onion") as proxy:
            bob = Side(proxy=Proxy((HOST, proxy.port), place))
            async with started(alice, bob):
                ways = ("alice.onion", alice.transport.rpc_port)
                bob.transport.connect(b"alice", alice.public, ways, ways, ())
                assert bob.transport.send(b"alice", b"all of it")
                asked = await alice.first(RequestReceived)
                for frame in frames:
                    assert alice.transport.reply(asked.route.connection, frame)
                await bob.until(lambda: len(bob.of(ReplyReceived)) == len(frames))
                assert [one.frame for one in bob.of(ReplyReceived)] == frames

    run(story)


WHY = {
    "dead": "the proxy does not answer: Connection refused",
    "unknown": "nobody listens there",
    "password": "the proxy wants a password, or is no SOCKS5 proxy",
    "hangs up": "the proxy has hung up",
    "cut": "the proxy has hung up",
}
SAID = {"password": (b"\x05\xff",), "hangs up": (b"",), "cut": (b"\x05\x00", b"\x05\x00")}


@pytest.mark.parametrize("how", WHY)
def test_a_way_that_fails_is_told_at_once_and_ends_nothing(how: str, place: Path) -> None:
    """Libzmq's own SOCKS5 would end the process here; and nothing of it is left over."""

    async def story(port: int) -> None:
        side = Side(proxy=Proxy((HOST, port), place))
        async with started(side):
            side.transport.dial_hello("nobody.onion", 7100, "static")
            side.transport.dial_hello("no host", 7100, "static")
            await side.until(lambda: len(side.of(HelloFailed)) == 2)
            failed = {one.host: one.why for one in side.of(HelloFailed)}
            assert failed == {"nobody.onion": WHY[how], "no host": "not an address"}
            rpc = ("nobody.onion", 7101)
            side.transport.connect(b"nobody", bytes(32), rpc, rpc, (b"h",))
            side.transport.connect(b"nobody", bytes(32), rpc, ("no host", 1), (b"h",))
            assert not side.transport.send(b"nobody", b"?")

    before = open_descriptors()
    with socks(rude=SAID.get(how, ())) as proxy:
        run(lambda: story(1 if how == "dead" else proxy.port))
    assert open_descriptors() <= before
    assert list(place.iterdir()) == []
