"""DHT discovery over real UDP sockets on loopback."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack

import pytest

from tests.integration.dht_nodes import NAME, PATIENCE_S, Found, has_ipv6, running
from zmqex.adapters.discovery.candidate import Candidate
from zmqex.adapters.discovery.dht import DhtDiscovery
from zmqex.dht import krpc
from zmqex.errors import ConfigError, LocalProtocolError


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_two_nodes_find_each_other_at_once(host: str) -> None:
    """The second by its first lookup, the first by the second's announce."""
    if host == "::1" and not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")

    async def story() -> None:
        first_found, second_found = Found(), Found()
        async with running([], first_found, host) as first:
            first.announce(NAME, 501)
            first.follow(NAME)
            async with running([(host, first.udp_port)], second_found, host) as second:
                second.announce(NAME, 502)
                second.follow(NAME)
                assert await second_found.until(501)
                assert await first_found.until(502)
                assert Candidate(host, 502, "dht") in await first.lookup(NAME, 1_000)
                assert Candidate(host, 501, "dht") in await second.lookup(NAME, 1_000)
                assert second.contacts() == [(host, first.udp_port)]
                assert first.health()["contacts"] == 1

    asyncio.run(story())


def test_get_peers_and_announce_peer_are_really_on_the_wire() -> None:
    """A plain UDP socket in the place of the bootstrap node sees BEP 5's messages."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
            plain.bind(("127.0.0.1", 0))
            plain.setblocking(False)  # noqa: FBT003 - the socket's signature
            seen: set[bytes] = set()
            async with running([plain.getsockname()]) as node, asyncio.timeout(PATIENCE_S):
                node.announce(NAME, 501)
                while b"announce_peer" not in seen:
                    raw, sender = await loop.sock_recvfrom(plain, 2_000)
                    query = krpc.decode_message(raw)
                    assert isinstance(query, krpc.Query)
                    seen.add(query.method)
                    if query.method == b"announce_peer":
                        assert query.arguments[b"port"] == 501
                        assert query.arguments[b"token"] == b"token"
                        assert query.arguments[b"info_hash"] == NAME
                    reply = krpc.encode_reply(
                        query.transaction, b"p" * 20, {b"token": b"token"}, sender
                    )
                    await loop.sock_sendto(plain, reply, sender)
            assert seen >= {b"find_node", b"get_peers", b"announce_peer"}

    asyncio.run(story())


def test_twenty_nodes_on_one_machine_all_find_all_twenty() -> None:
    """Each knows only the first one's port; nobody is limited for sharing an address."""

    async def story() -> None:
        async with AsyncExitStack() as stack:
            found = [Found() for _ in range(20)]
            nodes: list[DhtDiscovery] = []
            for number in range(20):
                bootstrap = [("127.0.0.1", nodes[0].udp_port)] if nodes else []
                context = running(bootstrap, found[number])
                node = await stack.enter_async_context(context)
                node.announce(NAME, 500 + number)
                node.follow(NAME)
                nodes.append(node)
            for number in range(20):
                others = set(range(500, 520)) - {500 + number}
                assert await found[number].until(*others)
            for node in nodes:
                health = node.health()
                assert health["dropped_rate"] == 0
                assert health["dropped_malformed"] == 0

    asyncio.run(story())


def test_a_bootstrap_node_may_be_given_by_its_name() -> None:
    """Resolved in the background, without holding up the start."""

    async def story() -> None:
        found = Found()
        async with running([]) as first:
            first.announce(NAME, 501)
            async with running([("localhost", first.udp_port)], found) as second:
                second.follow(NAME)
                assert await found.until(501)

    asyncio.run(story())


def test_a_name_that_does_not_resolve_is_tried_again_and_holds_up_nothing() -> None:
    """The node starts, counts it, and closes cleanly meanwhile."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with running([("host.invalid", 9)]) as node:
            assert await node.lookup(NAME, 1_000) == []
            async with asyncio.timeout(PATIENCE_S):
                while not node._retries:
                    await loop.run_in_executor(None, int)
            assert node.health()["unresolved_bootstrap"] == 1
            node.add_bootstrap([("host.invalid", 9)])
            assert node.health()["unresolved_bootstrap"] == 1

    asyncio.run(story())


def test_a_lookup_with_only_dead_contacts_returns_by_its_time_out() -> None:
    """What is known by then, here nothing; the node stays usable."""

    async def story() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            async with running([silent.getsockname()]) as node:
                loop = asyncio.get_running_loop()
                started = loop.time()
                assert await node.lookup(NAME, 50) == []
                assert loop.time() - started < 0.9
                assert await node.lookup(NAME, 3_000) == []

    asyncio.run(story())


def test_a_withdrawn_or_unfollowed_name_is_left_alone() -> None:
    """A second announcer of it is not reported any more."""

    async def story() -> None:
        found = Found()
        async with running([], found) as first:
            first.announce(NAME, 501)
            first.follow(NAME)
            first.withdraw(NAME)
            first.unfollow(NAME)
            async with running([("127.0.0.1", first.udp_port)]) as second:
                second.announce(NAME, 502)
                async with asyncio.timeout(PATIENCE_S):
                    while not first.health()["stored_peers"]:
                        await second.lookup(NAME, 1_000)
                assert [c.port for c in await second.lookup(NAME, 1_000)] == [502]
                assert found.ports == set()

    asyncio.run(story())


def test_after_a_wake_everything_is_done_anew() -> None:
    """The peer is reported again without waiting for the next round."""

    async def story() -> None:
        found = Found()
        async with running([]) as first:
            first.announce(NAME, 501)
            async with running([("127.0.0.1", first.udp_port)], found) as second:
                second.follow(NAME)
                assert await found.until(501)
                found.ports.clear()
                second.wake()
                assert await found.until(501)

    asyncio.run(story())


def test_an_owner_that_raises_does_not_end_discovery() -> None:
    """Its fault goes to the loop; the socket lives on."""

    async def story() -> None:
        faults: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: faults.append(context["exception"]))
        fault = RuntimeError("the owner's fault")

        def raising(_: list[Candidate]) -> None:
            raise fault

        async with running([]) as first:
            first.announce(NAME, 501)
            async with running([("127.0.0.1", first.udp_port)], raising) as second:
                second.follow(NAME)
                async with asyncio.timeout(PATIENCE_S):
                    while not faults:
                        await second.lookup(NAME, 1_000)
                assert [c.port for c in await second.lookup(NAME, 1_000)] == [501]
        assert set(faults) == {fault}

    asyncio.run(story())


def test_addresses_that_cannot_be_listened_on_name_the_reason() -> None:
    """Taken, no such port, not numeric, not ours: the operator reads what to fix."""

    async def story() -> None:
        async with running([]) as node:
            for host, port, why in (
                ("127.0.0.1", node.udp_port, "^dht_port: .*in use.*choose another port"),
                ("127.0.0.1", 70_000, "70000"),
                ("localhost", 0, "numeric"),
                ("8.8.8.8", 0, "8.8.8.8"),
            ):
                with pytest.raises(ConfigError, match=why):
                    await DhtDiscovery().start(host, port)

    asyncio.run(story())


def test_the_order_of_start_and_close_is_kept() -> None:
    """Used before or after its life it says so; closing twice is fine; waiters are let go."""

    async def story() -> None:
        node = DhtDiscovery()
        await node.close()
        with pytest.raises(LocalProtocolError, match="not running"):
            node.announce(NAME, 5)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            await node.start("127.0.0.1", 0, [silent.getsockname()])
            with pytest.raises(LocalProtocolError, match="only once"):
                await node.start("127.0.0.1", 0)
            async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
                waiting = group.create_task(node.lookup(NAME, 60_000))
                group.create_task(node.close())
            assert waiting.result() == []
        await node.close()
        with pytest.raises(LocalProtocolError, match="not running"):
            node.health()

    asyncio.run(story())
