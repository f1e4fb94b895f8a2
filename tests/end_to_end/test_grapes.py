"""Two grapes started as their README says, and nodes that share nothing but them."""

from __future__ import annotations

import asyncio

from tests.end_to_end.nodes import Home, Node, wait_for
from tests.integration.grape_processes import HOST, GrapeProcess, free_ports, started
from zmqex.adapters.discovery.dht import DhtDiscovery
from zmqex.config import RunningNode, running_node
from zmqex.dht.items import ItemKey
from zmqex.kernel.commands import GetStatus, LookupPeers
from zmqex.protocol.codec import decode, decode_envelope
from zmqex.protocol.identity import from_text
from zmqex.protocol.messages import PeerRecord


def test_nodes_that_share_only_grapes_meet_and_any_service_is_announced(
    user: Home, stranger: Home
) -> None:
    """The first grape named is not there; the second one serves, and the first is warned of."""
    with started("0.9.11") as pair:
        gone = f"http://{HOST}:{free_ports(1)[0]}"
        flags = ["--service", "exchange", "--grape", gone, "--grape", pair[0].url]
        asyncio.run(_ready(pair))
        alice = user.node("alice").start(*flags)
        bob = stranger.node("bob").start("--grape", pair[1].url)
        bob.wait_live(alice)
        alice.wait_live(bob)

        seen = alice.call(GetStatus())
        assert seen["grapes"]["used"] == pair[0].url
        (warning,) = [one for one in seen["warnings"] if "grape" in one]
        assert gone in warning
        assert seen["dht"]["contacts"] == 0
        found = alice.call(LookupPeers())["candidates"]
        assert {one["source"] for one in found} == {"grape"}
        port = _where(alice).hello_port
        assert f"{HOST}:{port}" in asyncio.run(_announced(pair[1], "exchange"))

        assert f"Grapes:    {pair[0].url}, one of 2; announced in" in alice.cli("status")
        assert bob.findings(0)["grapes"]["state"] == "ok"
        pair[1].end()
        bob.call(LookupPeers())
        grapes = bob.findings(1)["grapes"]
        assert grapes["state"] == "wrong"
        assert pair[1].url in grapes["text"]
        assert "how grapes are started" in grapes["fix"]


def test_a_node_that_stops_says_so_in_the_dht_and_starts_again_without_a_bootstrap_node(
    user: Home, stranger: Home
) -> None:
    """Its record is under its key, the last one without endpoints; contacts are remembered."""
    alice = user.node("alice").start()
    bootstrap = f"{HOST}:{_where(alice).dht_port}"
    bob = stranger.node("bob").start("--bootstrap", bootstrap, "--announce-host", HOST)
    identity, hello_port = bob.identity, _where(bob).hello_port

    def record() -> PeerRecord | None:
        return asyncio.run(_record(_where(alice).dht_port, identity))

    before = wait_for("bob's record is in the DHT", record)
    assert before.hello is not None
    assert (before.hello.host, before.hello.port) == (HOST, hello_port)
    assert bob.stop() == 0
    after = wait_for("another record", record)
    assert after.hello is None

    bob.start("--announce-host", HOST)
    wait_for("bob is in the DHT again", lambda: bob.call(GetStatus())["dht"]["contacts"])


def _where(node: Node) -> RunningNode:
    where = running_node(node.directory)
    assert where is not None
    return where


async def _ready(pair: list[GrapeProcess]) -> None:
    for grape in pair:
        await grape.ready()


async def _announced(grape: GrapeProcess, name: str) -> list[str]:
    answer = await grape.call("lookup", name)
    assert isinstance(answer, list)
    return answer


async def _record(dht_port: int, identity: str) -> PeerRecord | None:
    """Look a record up as a stranger who knows one DHT node."""
    asker = DhtDiscovery()
    await asker.start(HOST, 0, [(HOST, dht_port)])
    item = await asker.get(ItemKey(from_text(identity), b"zmqex:play"), 2_000)
    await asker.close()
    if item is None:
        return None
    assert isinstance(item.value, bytes)
    return decode(decode_envelope(item.value).body, PeerRecord)
