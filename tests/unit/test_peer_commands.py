"""How many peers are kept, and what the operator sees and says of them."""

from __future__ import annotations

import pytest

from tests.unit.stranger import Stranger, alone, reason_of, state
from tests.wire import HELLO, START_MS, Wire
from zmqex import limits
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import AddPeer, GetStatus, ListPeers, PingPeer, RemovePeer
from zmqex.kernel.peers import State
from zmqex.kernel.records import DropPeer, PutPeer
from zmqex.protocol.identity import to_text
from zmqex.protocol.messages import (
    Greet,
)
from zmqex.reasons import RejectReason

# --- bounds ---------------------------------------------------------------------------------------


def test_so_many_peers_are_connected_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the sockets none is opened; beyond the memory the idle make room, or nobody."""
    monkeypatch.setattr("zmqex.kernel.places.PEERS_MAX", 1)
    monkeypatch.setattr("zmqex.kernel.links.PEERS_KNOWN_MAX", 2)
    wire, host, _ = alone()
    strangers = [Stranger(wire, str(number), f"10.9.9.{number}") for number in range(4)]
    for one in strangers[:2]:
        one.greet(host)
    assert [state(host, one.identity) for one in strangers[:2]] == [
        State.GREETING,
        State.CANDIDATE,
    ]
    strangers[2].greet(host)
    assert strangers[1].identity not in host.n.sessions.peers
    assert strangers[2].identity in host.n.sessions.peers
    for peer in host.n.sessions.peers.values():
        peer.pinned = True
    strangers[3].greet(host)
    assert strangers[3].identity not in host.n.sessions.peers
    assert len(host.n.sessions._by_curve) <= 2


def test_a_second_curve_key_of_a_peer_replaces_the_first() -> None:
    """A request is from a peer only over the connection of its newest greet."""
    wire, host, stranger = alone()
    stranger.greet(host)
    old = stranger.curve_key
    wire.run(5)
    stranger.curve_key = b"n" * 32
    stranger.greet(host)
    assert host.n.sessions.who(happened.Route(b"n" * 32, b"", "")) == stranger.identity
    assert host.n.sessions.who(happened.Route(old, b"", "")) == b""


def test_lost_peers_are_those_that_are_wanted_and_cannot_be_asked() -> None:
    """One that was named and never answered, and known ones from when they fall silent."""
    wire = Wire()
    (alice,) = wire.add("alice")
    (bob,) = wire.add("bob", start=False)
    named = (b"x" * 32, "10.8.8.8", HELLO)
    bob.start(static_peers=(named, (alice.identity, alice.address, HELLO), (b"", "h", 1)))
    wire.run(500)
    assert bob.n.sessions.lost_peers() == [b"x" * 32]
    alice.crash()
    wire.run(60_000)
    assert bob.n.sessions.lost_peers() == [b"x" * 32, alice.identity]


# --- the operator ---------------------------------------------------------------------------------


def test_the_operator_sees_every_peer() -> None:
    """ListPeers has a row per peer, with why a skipped one is skipped."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    alice.place()
    wire.run(50)
    bob.command(ListPeers())
    (row,) = bob.answers()[-1].result["peers"]
    assert row["peer"] == to_text(alice.identity)
    assert (row["state"], row["host"], row["hello_port"]) == ("live", alice.address, HELLO)
    assert (row["open_orders"], row["logs"][0]["sequence"]) == (1, 1)
    assert row["logs"][0]["state"] == "current"
    bob.do(lambda: bob.n.sessions.set_aside(alice.identity, 9_000, RejectReason.TIMED_OUT))
    alice.handle(happened.Stopping())
    wire.run(5)
    bob.command(ListPeers())
    (row,) = bob.answers()[-1].result["peers"]
    assert row["why"] == "skipped for 8 s: timed_out"
    assert row["hello_port"] is None


def test_the_operator_pings_a_peer_by_its_prefix() -> None:
    """The answer has the round trip and the clock; every failure is one sentence."""
    wire = Wire()
    wire.delay_ms = (7, 7)
    alice, bob = wire.meet("alice", "bob")
    text = to_text(alice.identity)
    bob.command(PingPeer(text[:8]))
    wire.run(20)
    result = bob.answers()[-1].result
    assert (result["peer"], result["round_trip_ms"], result["skew_ms"]) == (text, 14, 0)
    for wrong, reason in (("abc", "ambiguous_id"), ("a" * 8, "unknown_peer")):
        bob.command(PingPeer(wrong))
        answer = bob.answers()[-1]
        assert not answer.ok
        assert answer.result["reason"] == reason
    alice.crash()
    bob.command(PingPeer(text))
    wire.run(limits.REQUEST_DEADLINE_MS + 1)
    assert bob.answers()[-1].result["reason"] == "timed_out"


def test_a_prefix_of_several_peers_is_ambiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    """More characters are asked for."""
    monkeypatch.setattr("zmqex.kernel.sessions.to_text", lambda identity: "same" + identity.hex())
    monkeypatch.setattr("zmqex.kernel.sessions.ID_PREFIX_CHARS_MIN", 4)
    wire = Wire()
    alice, *_ = wire.meet("alice", "bob", "carol")
    alice.command(RemovePeer("same"))
    answer = alice.answers()[-1]
    assert answer.result["reason"] == "ambiguous_id"
    assert "several" in answer.result["message"]


def test_a_removed_peer_stays_away_until_it_is_added() -> None:
    """Removing closes, forgets and refuses; adding its address brings it back, pinned."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    text = to_text(alice.identity)
    bob.command(RemovePeer(text))
    assert bob.answers()[-1].result == {"removed": text}
    assert bob.peers == {}
    wire.introduce(bob)
    alice.handle(happened.Woke(1))
    wire.run(30_000)
    assert bob.n.sessions.peers == {}
    bob.command(AddPeer(text, alice.address, HELLO))
    assert bob.answers()[-1].result == {"added": f"{alice.address}:{HELLO}"}
    wire.run(1_000)
    assert state(bob, alice.identity) is State.LIVE
    assert bob.peers[alice.identity].pinned


def test_a_removed_peer_can_be_added_by_its_address_alone() -> None:
    """Whoever was known at that address is welcome again; nonsense is refused."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    bob.do(lambda: bob.n.sessions.remove(alice.identity))
    wire.introduce(bob)
    wire.run(500)
    assert bob.n.sessions.peers == {}
    bob.command(AddPeer("", alice.address, HELLO))
    wire.run(1_000)
    assert state(bob, alice.identity) is State.LIVE
    for command in (AddPeer("", "no host", 1), AddPeer("", "10.1.1.1", 0), AddPeer("x", "a", 1)):
        bob.command(command)
        assert bob.answers()[-1].result["reason"] == "malformed"
    assert not bob.n.sessions.on_command(b"", 1, GetStatus())


def test_removed_peers_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first removed is forgotten first."""
    monkeypatch.setattr("zmqex.kernel.links.PEERS_KNOWN_MAX", 1)
    wire, host, stranger = alone()
    other = Stranger(wire, "other", "10.9.9.8")
    for one in (stranger, other):
        one.greet(host)
        host.do(lambda one=one: host.n.sessions.remove(one.identity))  # type: ignore[misc]
    assert reason_of(other.greet(host)) is RejectReason.DECLINED
    assert stranger.greet(host).kind == "greet"


def test_what_a_peer_is_written_down_as_survives() -> None:
    """A peer is in the address book once its CURVE handshake succeeded, not before."""
    _, host, stranger = alone()
    stranger.greet(host)
    assert host.peers == {}
    stranger.reply(host, "greet", Greet(stranger.record(), START_MS))
    assert host.peers[stranger.identity].host == stranger.address
    writes = [one for one in host.effects if isinstance(one, out.Persist)]
    assert any(isinstance(write, PutPeer) for one in writes for write in one.writes)
    host.do(lambda: host.n.sessions.remove(stranger.identity))
    writes = [one for one in host.effects if isinstance(one, out.Persist)]
    assert any(isinstance(write, DropPeer) for one in writes for write in one.writes)
