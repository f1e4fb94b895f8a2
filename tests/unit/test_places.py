"""Places for connected peers: who gets one, and what the operator sees of whoever has none."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.stranger import Stranger, alone, dials, state
from tests.wire import HELLO, Host, Wire
from zmqex import limits
from zmqex.kernel import events as happened
from zmqex.kernel.commands import AddPeer, ListCandidates
from zmqex.kernel.peers import State
from zmqex.protocol.identity import to_text
from zmqex.protocol.messages import Endpoint


def greeted(host: Host, wire: Wire, name: str, address: str) -> Stranger:
    """Somebody at an address who has greeted."""
    one = Stranger(wire, name, address)
    one.greet(host)
    return one


def test_no_subnet_and_no_source_fills_the_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sixteenth for a public subnet, half for a source; whom the operator names gets in."""
    monkeypatch.setattr("zmqex.kernel.places.PEERS_MAX", 32)
    wire, host, _ = alone()
    crowd = [greeted(host, wire, f"s{n}", f"8.8.1.{n}") for n in range(3)]
    assert [state(host, one.identity) for one in crowd] == [
        State.GREETING,
        State.GREETING,
        State.CANDIDATE,
    ]
    last = host.n.sessions.peers[crowd[2].identity]
    assert last.why == "subnet 8.8.0.0/16 fills a sixteenth of 32 places"
    many = [greeted(host, wire, f"m{n}", f"10.1.1.{n}") for n in range(15)]
    assert host.n.sessions.peers[many[14].identity].why == "source greet fills half of 32 places"
    host.command(AddPeer("", crowd[2].address, HELLO))
    place = (crowd[2].address, HELLO, "operator")
    host.handle(happened.HelloAnswered(*place, crowd[2].record()))
    assert state(host, crowd[2].identity) is State.GREETING


def test_nobody_is_dialled_for_whom_there_is_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither refused before nor new; but whom the operator names, and when one is free."""
    monkeypatch.setattr("zmqex.kernel.places.PEERS_MAX", 1)
    wire, host, first = alone()
    other = Stranger(wire, "other", "10.8.8.8")
    found = happened.CandidatesFound(((other.address, HELLO, "dht"),))
    assert dials(host.handle(found)) == [(other.address, HELLO)]
    first.befriend(host)
    host.handle(happened.HelloAnswered(other.address, HELLO, "dht", other.record()))
    assert host.n.sessions.peers[other.identity].why == "all 1 places are taken"
    host.effects.clear()
    for _ in range(14):
        wire.run(limits.SECOND_MS)
        host.handle(found)
        host.handle(happened.CandidatesFound((("10.7.7.7", HELLO, "dht"),)))
    assert dials(host.effects) == []
    host.command(AddPeer("", other.address, HELLO))
    assert dials(host.effects) == [(other.address, HELLO)]
    host.effects.clear()
    wire.run(2 * limits.SILENT_MS)  # the first one is silent by now, and its place is free
    host.effects.clear()
    host.handle(happened.CandidatesFound((("10.7.7.7", HELLO, "dht"),)))
    assert ("10.7.7.7", HELLO) in dials(host.effects)


@pytest.mark.parametrize(
    ("at", "named", "proxied", "connected"),
    [
        ("8.8.8.8", "", False, True),
        ("8.8.8.8", "9.9.9.9", False, True),
        ("8.8.8.8", "node.example", False, True),
        ("8.8.8.8", "127.0.0.1", False, False),
        ("8.8.8.8", "192.168.1.1", False, False),
        ("10.1.1.1", "192.168.1.1", False, True),
        ("10.1.1.1", "127.0.0.1", False, False),
        ("127.0.0.1", "127.0.0.1", False, True),
        ("127.0.0.1", "", True, False),
    ],
)
def test_a_record_points_nobody_at_a_nearer_network(
    at: str, named: str, *, proxied: bool, connected: bool
) -> None:
    """Or strangers could make us knock at services of our own machine and home."""
    wire = Wire()
    (host,) = wire.add("alice", start=False)
    host.start(proxied=proxied)
    stranger = Stranger(wire, address=at)
    assert stranger.greet(host, stranger.record(rpc=Endpoint(named, 1))).kind == "greet"
    peer = host.n.sessions.peers[stranger.identity]
    assert (peer.state is State.GREETING) is connected
    assert bool(peer.why) is not connected


def test_a_peer_of_an_onion_service_is_connected_through_the_proxy() -> None:
    """All its endpoints are names that only the proxy knows."""
    wire = Wire()
    (host,) = wire.add("alice", start=False)
    host.start(proxied=True)
    stranger = Stranger(wire, address="127.0.0.1")
    ends = {name: Endpoint("peer.onion", 1) for name in ("hello", "rpc", "orders")}
    stranger.greet(host, stranger.record(**ends))
    assert host.links[stranger.identity] == ("peer.onion", stranger.curve_key)


def rows(host: Host) -> dict[str, dict[str, Any]]:
    """What `peers --why` gets, by host."""
    host.command(ListCandidates())
    return {one["host"]: one for one in host.answers()[-1].result["candidates"]}


def test_the_operator_sees_where_each_candidate_came_from_and_why_it_is_not_connected() -> None:
    """Connected, silent, refused, ourselves, removed: each in one row."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    liar = Stranger(wire, "liar", "10.8.8.8")
    found = (
        (bob.address, HELLO, "dht"),
        (bob.address, HELLO, "exchange"),
        ("10.1.1.1", 1, "dht"),
        (liar.address, HELLO, "dht"),
    )
    bob.handle(happened.CandidatesFound(found))
    assert rows(bob)["10.1.1.1"]["state"] == "dialling"
    bob.handle(happened.HelloAnswered(liar.address, HELLO, "dht", liar.record(network="main")))
    assert rows(bob)[liar.address]["why"] == "its record is refused: wrong_network"
    wire.run(1_000)
    seen = rows(bob)
    live = seen[alice.address]
    assert (live["state"], live["peer"], live["why"]) == ("live", to_text(alice.identity), "")
    assert seen[bob.address]["state"] == "self"
    assert seen[bob.address]["sources"] == ["exchange", "dht"]
    silent = seen["10.1.1.1"]
    assert (silent["state"], silent["why"], silent["failures"]) == ("waiting", "silent", 1)
    assert 0 < silent["retry_ms"] <= 1_250
    alice.handle(happened.Stopping())
    wire.run(10)
    assert rows(bob)[alice.address]["why"] == "it has left"


def test_why_a_proven_peer_is_not_connected_is_said_at_its_address() -> None:
    """A record that is older, of a peer that leaves, or of a banned one."""
    _, host, stranger = alone()
    place = (stranger.address, HELLO, "dht")

    def answers(record: bytes) -> str:
        host.do(host.n.sessions.addresses.dial_all)
        host.handle(happened.HelloAnswered(*place, record))
        return str(rows(host)[stranger.address]["why"])

    host.handle(happened.CandidatesFound((place,)))
    assert answers(stranger.record(leaving=True)) == "it is leaving, or cannot be reached"
    stranger.befriend(host)
    host.do(lambda: host.n.sessions.on_woke(happened.Woke(1)))
    host.handle(happened.HelloAnswered(*place, stranger.record(sequence=1)))
    address = host.n.sessions.addresses.get(stranger.address, HELLO)
    assert address is not None
    assert address.why == "a newer record of this peer is known"
    host.do(lambda: host.n.sessions.blame(stranger.identity, limits.PENALTY_BAN, "rude"))
    assert rows(host)[stranger.address]["state"] == "banned"


def test_a_node_that_was_told_of_nobody_knows_it() -> None:
    """Neither a peer nor an address, but for its own."""
    wire, host, stranger = alone()
    assert not host.n.sessions.knows_anybody()
    host.handle(happened.CandidatesFound(((host.address, HELLO, "dht"),)))
    wire.run(10)
    assert not host.n.sessions.knows_anybody()
    stranger.greet(host)
    assert host.n.sessions.knows_anybody()


def test_the_address_book_notes_that_a_peer_is_still_there() -> None:
    """A peer that stays for a month is not forgotten at the next start."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    before = bob.peers[alice.identity].seen_ms
    wire.run(limits.PEER_NOTE_MS + 2_000)
    assert bob.peers[alice.identity].seen_ms >= before + limits.PEER_NOTE_MS
