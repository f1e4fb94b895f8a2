"""Dialling back: who may ask for it, how often, and what the operator is told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.unit.stranger import Stranger, alone
from tests.wire import HELLO, Host, Wire
from zmqex import limits
from zmqex.kernel import effects as out
from zmqex.kernel.commands import CheckReach
from zmqex.kernel.events import DialBackEnded
from zmqex.protocol.codec import decode, decode_frame
from zmqex.protocol.identity import to_text
from zmqex.protocol.messages import DialledBack, Endpoint


def checked(host: Host, wire: Wire, *, for_ms: int = 5_000) -> list[dict[str, Any]]:
    """What the operator of a host is told."""
    host.command(CheckReach())
    wire.run(for_ms)
    rows: list[dict[str, Any]] = host.answers()[-1].result["peers"]
    return rows


def dialled_back(host: Host) -> list[out.DialBack]:
    """All dials back so far."""
    return [one for one in host.effects if isinstance(one, out.DialBack)]


def test_a_node_that_can_be_reached_hears_it_from_its_peers() -> None:
    """Each says where it has dialled, and that all three sockets are open."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    (row,) = checked(alice, wire)
    assert row == {
        "peer": to_text(bob.identity),
        "host": alice.address,
        "ports": {"hello": "open", "rpc": "open", "orders": "open"},
        "reason": "",
        "detail": "",
    }


def test_a_closed_port_is_named() -> None:
    """By what the record says, not by where the asker happens to be."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    peer = bob.n.sessions.peers[alice.identity]
    peer.record = msgspec.structs.replace(peer.record, orders=Endpoint("", 9))
    (row,) = checked(alice, wire)
    assert row["ports"] == {"hello": "open", "rpc": "open", "orders": "closed"}


def test_without_a_live_peer_nobody_is_asked() -> None:
    """The answer comes at once, and is empty."""
    wire, host, _ = alone()
    assert checked(host, wire, for_ms=0) == []


def test_few_peers_are_asked_and_of_different_networks() -> None:
    """One may be wrong or lie; two of one subnet are hardly two."""
    wire, host, _ = alone()
    addresses = ("8.8.1.1", "8.8.1.2", "9.9.1.1", "11.1.1.1")
    crowd = [Stranger(wire, f"s{n}", address) for n, address in enumerate(addresses)]
    for one in crowd:
        one.befriend(host)
    host.command(CheckReach())
    asked = [one for one in crowd if one.asked(host, "dial_back")]
    assert len(asked) == limits.DIAL_BACKS_ASKED_MAX
    assert len({one.address[:3] for one in asked}) == 3
    for one in asked[:2]:
        one.reply(host, "dial_back", DialledBack("1.2.3.4", "open", "open", "closed"))
    assert host.answers() == []
    wire.run(limits.DIAL_BACK_WAIT_MS)
    rows = host.answers()[-1].result["peers"]
    assert [one["reason"] for one in rows] == ["", "", "timed_out"]


def test_one_peer_is_dialled_back_once_in_a_while() -> None:
    """Sooner it is told when; and the table of who asked is bounded by who is known."""
    wire, host, stranger = alone()
    stranger.befriend(host)
    stranger.send(host, stranger.question("dial_back"))
    assert len(dialled_back(host)) == 1
    refused = stranger.refused(host, "dial_back")
    assert (refused.reason, refused.retry_after_ms) == ("rate_limited", limits.DIAL_BACK_EVERY_MS)
    wire.run(limits.DIAL_BACK_EVERY_MS)
    stranger.send(host, stranger.question("dial_back"))
    assert len(dialled_back(host)) == 2
    (place,) = {one.hello for one in dialled_back(host)}
    assert place == (stranger.address, HELLO)


def test_so_many_are_dialled_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is asked to come again; whoever asked longest ago is forgotten first."""
    monkeypatch.setattr("zmqex.kernel.reach.DIAL_BACKS_MAX", 2)
    monkeypatch.setattr("zmqex.kernel.reach.PEERS_KNOWN_MAX", 1)
    wire, host, _ = alone()
    crowd = [Stranger(wire, f"s{n}", f"10.9.9.{n}") for n in range(3)]
    for one in crowd:
        one.befriend(host)
    for one in crowd[:2]:
        one.send(host, one.question("dial_back"))
    assert crowd[2].refused(host, "dial_back").reason == "rate_limited"
    effects = host.handle(DialBackEnded(1, hello=True, rpc=False, orders=True))
    (reply,) = [one.frame for one in effects if isinstance(one, out.SendReply)]
    said = decode(decode_frame(reply).body, DialledBack)
    assert said == DialledBack(crowd[0].address, "open", "closed", "open")
    assert list(host.n.reach._asked_ms) == [crowd[1].identity]


@pytest.mark.parametrize("address", ["10.9.9.9", "8.8.8.8"])
def test_nobody_is_dialled_back_where_it_may_not_point_us(address: str) -> None:
    """A record without endpoints, or one that points from outside to a nearer network."""
    wire, host, _ = alone()
    stranger = Stranger(wire, address=address)
    private = Endpoint("192.168.1.1", 22)
    if address == "8.8.8.8":
        stranger.greet(host, stranger.record(rpc=private))
    else:
        stranger.greet(host, stranger.record(leaving=True))
    assert stranger.refused(host, "dial_back").reason == "unavailable"
    stranger.befriend(host)
    stranger.say(host, b"p", stranger.record(leaving=True, sequence=wire.wall_ms + 5))
    assert stranger.refused(host, "dial_back").reason == "unavailable"
    assert dialled_back(host) == []


def test_a_refusal_and_nonsense_are_told_to_the_operator() -> None:
    """With the reason in place of ports."""
    wire, host, stranger = alone()
    stranger.befriend(host)
    host.command(CheckReach())
    stranger.reject(host, "dial_back", "rate_limited")
    assert host.answers()[-1].result["peers"][0]["reason"] == "rate_limited"
    assert host.answers()[-1].result["peers"][0]["ports"] == {}
    host.command(CheckReach())
    stranger.reply(host, "dial_back", DialledBack("x" * 255, "open", "open", "open"))
    assert len(host.answers()[-1].result["peers"][0]["host"]) == 255
    wire.run(10)
