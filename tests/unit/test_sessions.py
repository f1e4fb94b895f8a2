"""Sessions: from a candidate to a live peer and back, and who may ask anything."""

from __future__ import annotations

from itertools import product

import msgspec
import pytest

from tests.unit.stranger import Stranger, alone, dials, reason_of, state
from tests.wire import HELLO, START_MS, Wire
from zmqex import limits
from zmqex.errors import LocalProtocolError
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.peers import TABLE, Input, Peer, State
from zmqex.kernel.records import KnownPeer
from zmqex.kernel.requests import Answer, Refusal
from zmqex.protocol.codec import decode, encode_frame
from zmqex.protocol.messages import (
    Empty,
    Endpoint,
    Envelope,
    Greet,
    PeerRecord,
    Pong,
)
from zmqex.protocol.record import check_record
from zmqex.reasons import RejectReason

# --- the machine ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "happened_"), list(product(State, Input)))
def test_a_session_moves_by_its_table_only(before: State, happened_: Input) -> None:
    """A row moves it; a missing one raises and changes nothing."""
    wire, _, stranger = alone()
    raw = stranger.record()
    record = check_record(raw, "play", wire.wall_ms)
    assert isinstance(record, PeerRecord)
    peer = Peer(record.identity, record, raw, "host", "test", state=before, why="old")
    after = TABLE.get((before, happened_))
    if after is None:
        with pytest.raises(LocalProtocolError, match=str(before)):
            peer.step(happened_, "new")
        assert (peer.state, peer.why) == (before, "old")
    else:
        peer.step(happened_, "new")
        assert (peer.state, peer.why) == (after, "new")


def test_two_nodes_find_and_greet_each_other() -> None:
    """A candidate becomes a live peer of both, is written down, and its clock is known."""
    wire = Wire()
    wire.delay_ms = (5, 5)
    alice, bob = wire.meet("alice", "bob")
    for host, other in ((alice, bob), (bob, alice)):
        assert state(host, other.identity) is State.LIVE
        assert host.n.sessions.is_live(other.identity)
        assert host.n.sessions.live_peers() == [other.identity]
        assert host.peers[other.identity].host == other.address
        peer = host.n.sessions.peers[other.identity]
        assert (peer.round_trip_ms, peer.skew_ms) == (10, 0)
        assert host.n.sessions.peer_of_node(peer.record.lightning_node) == other.identity
    assert alice.n.sessions.peer_of_node(b"nobody") is None
    assert alice.n.sessions.known_for_ms(bob.identity) > 0
    assert alice.n.sessions.known_for_ms(b"nobody") == 0


def test_a_node_that_hears_of_itself_does_not_connect() -> None:
    """Its own address is dialled once, and never again."""
    wire, host, _ = alone()
    found = happened.CandidatesFound(((host.address, HELLO, "dht"),))
    assert dials(host.handle(found)) == [(host.address, HELLO)]
    wire.run(100)
    assert dials(host.handle(found)) == []
    assert host.n.sessions.peers == {}


def test_a_restarted_peer_on_other_ports_is_back_within_two_seconds() -> None:
    """Its own greet with a newer record replaces the sockets at once, whoever finds whom."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    alice.crash()
    wire.run(500)
    alice.start(hello_port=7300)
    wire.run(2_000)
    assert state(bob, alice.identity) is State.LIVE
    peer = bob.n.sessions.peers[alice.identity]
    assert peer.record.hello == Endpoint(alice.address, 7300)
    assert bob.links[alice.identity] == (alice.address, alice.curve_key)
    assert bob.n.sessions.addresses.get(alice.address, HELLO) is None


def test_a_restarted_peer_is_found_again_by_discovery_alone() -> None:
    """Without an address book on its side, its new address brings the newer record."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    alice.crash()
    alice.peers.clear()
    alice.start(hello_port=7300)
    wire.introduce(bob)
    wire.run(500)
    assert bob.links[alice.identity] == (alice.address, alice.curve_key)
    assert state(bob, alice.identity) is State.LIVE


def test_a_silent_peer_is_stale_and_live_again_when_it_is_heard() -> None:
    """15 s without a sign of life; its sockets stay, so the next heartbeat is enough."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    alice.paused = True
    wire.run(16_000)
    assert state(bob, alice.identity) is State.STALE
    assert bob.n.sessions.live_peers() == []
    alice.paused = False
    wire.run(20_000)
    assert state(bob, alice.identity) is State.LIVE


def test_a_peer_that_sleeps_is_dialled_at_once_when_it_wakes() -> None:
    """After a suspend every peer is stale, and all are asked for their records at once."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    effects = bob.handle(happened.Woke(3_600_000))
    assert dials(effects) == [(alice.address, HELLO)]
    assert state(bob, alice.identity) is State.STALE
    assert bob.n.replicas.is_stale(alice.identity)
    wire.run(6_000)
    assert state(bob, alice.identity) is State.LIVE
    assert not bob.n.replicas.is_stale(alice.identity)


def test_a_leaving_peer_withdraws_its_record() -> None:
    """A newer record without endpoints closes the sockets."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    alice.handle(happened.Stopping())
    wire.run(10)
    peer = bob.n.sessions.peers[alice.identity]
    assert (peer.state, peer.why) == (State.BACKING_OFF, "it has left")
    assert bob.links == {}
    alice.crash()
    alice.start()
    wire.run(2_000)
    assert state(bob, alice.identity) is State.LIVE


def test_a_record_is_renewed_at_half_life() -> None:
    """After twelve hours a newer record is published, and peers keep it without reconnecting."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    before = bob.n.sessions.peers[alice.identity]
    sequence, link = before.record.sequence, bob.links[alice.identity]
    wire.wall_ms += limits.RECORD_LIFE_MS // 2
    wire.run(1_500)
    after = bob.n.sessions.peers[alice.identity]
    assert after.record.sequence > sequence
    assert after.raw == alice.n.sessions.record() == alice.record
    assert bob.links[alice.identity] == link
    assert state(bob, alice.identity) is State.LIVE


def test_record_numbers_grow_even_if_the_clock_does_not() -> None:
    """Restarted under a clock that was set back, a node still signs a newer record."""
    wire, host, _ = alone()
    first = decode(decode(host.record, Envelope).body, PeerRecord).sequence
    host.crash()
    wire.wall_ms -= 10_000
    host.start()
    assert decode(decode(host.record, Envelope).body, PeerRecord).sequence == first + 1


def test_the_address_book_is_dialled_at_start() -> None:
    """Known peers are found without discovery; who was not seen for a month is dropped."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    bob.crash()
    bob.start()
    wire.run(500)
    assert state(bob, alice.identity) is State.LIVE
    bob.crash()
    known = bob.peers[alice.identity]
    bob.peers[alice.identity] = msgspec.structs.replace(
        known, seen_ms=START_MS - limits.PEER_FORGET_MS - 10_000
    )
    bob.start()
    assert bob.peers == {}


def test_a_pinned_peer_of_the_address_book_is_never_too_old() -> None:
    """The operator's word outlives a month; a host that is nonsense is passed over."""
    _, host, stranger = alone()
    raw = stranger.record()
    for where, dialled in (("10.5.5.5", [("10.5.5.5", HELLO)]), ("no host", [])):
        host.crash()
        host.peers[stranger.identity] = KnownPeer(stranger.identity, raw, where, 0, pinned=True)
        host.effects.clear()
        host.start()
        assert dials(host.effects) == dialled
    host.crash()
    gone = stranger.record(leaving=True)
    host.peers[stranger.identity] = KnownPeer(stranger.identity, gone, "10.5.5.5", 0, pinned=True)
    host.start()
    assert host.peers == {}


def test_static_peers_are_dialled_and_must_be_who_they_are_said_to_be() -> None:
    """An address that answers with another identity is refused."""
    wire = Wire()
    (alice,) = wire.add("alice")
    (bob,) = wire.add("bob", start=False)
    bob.start(static_peers=((b"x" * 32, alice.address, HELLO),))
    wire.run(500)
    assert bob.n.sessions.peers == {}
    assert bob.logged("hello_refused")[0]["reason"] == "wrong_party"
    bob.crash()
    bob.start(static_peers=((alice.identity, alice.address, HELLO),))
    wire.run(500)
    assert state(bob, alice.identity) is State.LIVE
    assert bob.n.sessions.peers[alice.identity].pinned


def test_a_leaving_peer_is_nowhere() -> None:
    """Asking for the place of an endpoint that a record does not name is a fault of ours."""
    wire, _, stranger = alone()
    raw = stranger.record(leaving=True)
    record = check_record(raw, "play", wire.wall_ms)
    assert isinstance(record, PeerRecord)
    with pytest.raises(LocalProtocolError, match="leaving"):
        Peer(record.identity, record, raw, "host", "test").at(record.rpc)


def test_a_greet_that_is_refused_for_not_greeting_fails() -> None:
    """An answer that makes no sense does not make us greet for ever."""
    wire, host, stranger = alone()
    stranger.greet(host)
    stranger.reject(host, "greet", "not_greeted")
    assert len(stranger.asked(host, "greet")) == 1
    wire.run(limits.REQUEST_DEADLINE_MS + 1)
    assert state(host, stranger.identity) is State.BACKING_OFF


# --- greeting -------------------------------------------------------------------------------------


def test_a_greet_must_come_from_whom_its_record_names() -> None:
    """The CURVE key of the connection is the one in a valid record of another node."""
    wire, host, stranger = alone()
    wrong_key = stranger.record(curve_key=b"k" * 32)
    assert reason_of(stranger.greet(host, wrong_key)) is RejectReason.WRONG_PARTY
    forged = stranger.record(identity=b"x" * 32)
    assert reason_of(stranger.greet(host, forged)) is RejectReason.BAD_SIGNATURE
    mirror = Stranger(wire, "alice")
    mirror.key, mirror.identity = host.key, host.identity
    assert reason_of(mirror.greet(host)) is RejectReason.WRONG_PARTY
    newer = stranger.record()
    assert stranger.greet(host, newer).kind == "greet"
    older = stranger.record(sequence=1)
    assert reason_of(stranger.greet(host, older)) is RejectReason.WRONG_PARTY


def test_a_peer_that_greets_is_connected_back() -> None:
    """An empty host in its record means the address that it came from; a repeat changes nothing."""
    _, host, stranger = alone()
    effects = host.effects
    effects.clear()
    stranger.greet(host)
    connects = [one for one in effects if isinstance(one, out.ConnectPeer)]
    assert [one.rpc for one in connects] == [(stranger.address, 7101)]
    assert connects[0].orders == (stranger.address, 7102)
    assert connects[0].topics[:4] == (b"h", b"p", b"r", b"e")
    assert len(connects[0].topics) == 5
    assert state(host, stranger.identity) is State.GREETING
    stranger.greet(host)
    assert len([one for one in effects if isinstance(one, out.ConnectPeer)]) == 1


def test_a_peer_behind_a_router_is_served_although_it_cannot_be_reached() -> None:
    """Who has greeted may ask, even when our own greet never arrives."""
    wire, host, stranger = alone()
    stranger.greet(host)
    wire.run(limits.REQUEST_DEADLINE_MS + 1)
    assert state(host, stranger.identity) is State.BACKING_OFF
    assert host.n.sessions.peers[stranger.identity].why == "timed_out"
    assert stranger.ask(host, "ping").kind == "ping"


def test_a_record_without_endpoints_may_greet_and_is_not_connected() -> None:
    """A reader that cannot be reached says so; it is served, and not dialled."""
    _, host, stranger = alone()
    assert stranger.greet(host, stranger.record(leaving=True)).kind == "greet"
    assert host.n.sessions.peers == {}
    assert stranger.ask(host, "ping").kind == "ping"


def test_a_late_answer_to_an_old_greet_counts_for_nothing() -> None:
    """Only the newest greet of a peer that is still known can make it live."""
    wire, host, stranger = alone()
    stranger.greet(host)
    old = stranger.asked(host, "greet")[-1]
    wire.run(5)
    stranger.say(host, b"p", stranger.record(curve_key=b"n" * 32))
    answer = encode_frame("greet", old.request_id, Greet(stranger.record(), wire.wall_ms))
    stranger.reply_raw(host, answer)
    assert state(host, stranger.identity) is State.GREETING
    assert host.n.core.counted["replies_unasked"] == 1


def test_a_peer_that_forgot_us_is_greeted_again_and_asked_again() -> None:
    """NOT_GREETED leads to one more greet, then the same question; twice is final."""
    wire, host, stranger = alone()
    stranger.befriend(host)
    answers: list[Answer] = []
    ask = host.n.sessions.request
    host.do(lambda: ask(stranger.identity, "ping", Empty(), answers.append))
    stranger.reject(host, "ping", "not_greeted")
    assert answers == []
    stranger.reply(host, "greet", Greet(stranger.record(), wire.wall_ms))
    assert len(stranger.asked(host, "ping")) == 2
    stranger.reply(host, "ping", Pong(1))
    assert isinstance(answers[0], msgspec.Raw)
    assert decode(answers[0], Pong).wall_ms == 1
    host.do(lambda: ask(stranger.identity, "ping", Empty(), answers.append))
    stranger.reject(host, "ping", "not_greeted")
    stranger.reply(host, "greet", Greet(stranger.record(), wire.wall_ms))
    stranger.reject(host, "ping", "not_greeted")
    assert answers[1] == Refusal(RejectReason.NOT_GREETED)


def test_a_second_greet_that_fails_leaves_the_peer_as_it_was() -> None:
    """The question runs into its deadline; the session stays."""
    wire, host, stranger = alone()
    stranger.befriend(host)
    answers: list[Answer] = []
    ask = host.n.sessions.request
    host.do(lambda: ask(stranger.identity, "ping", Empty(), answers.append, 100))
    stranger.reject(host, "ping", "not_greeted")
    stranger.reject(host, "greet", "rate_limited", 1_000)
    assert host.n.sessions.is_live(stranger.identity)
    wire.run(101)
    assert isinstance(answers[0], Refusal)
    assert answers[0].reason is RejectReason.TIMED_OUT
    host.do(lambda: ask(stranger.identity, "ping", Empty(), answers.append, 100))
    stranger.reject(host, "ping", "not_greeted")
    wire.run(101)
    stranger.reply(host, "greet", Greet(stranger.record(), wire.wall_ms))
    assert len(stranger.asked(host, "ping")) == 2


# --- blame ----------------------------------------------------------------------------------------


def test_a_peer_that_breaks_the_rules_is_banned_for_a_while() -> None:
    """Enough blame closes its sockets and refuses its questions; time pardons."""
    wire, host, stranger = alone()
    stranger.befriend(host)
    while state(host, stranger.identity) is not State.BANNED:
        stranger.reply_raw(host, b"\xc1")
    assert host.links == {}
    refusal = stranger.refused(host, "ping")
    assert (refusal.reason, refusal.retry_after_ms) == ("rate_limited", limits.BAN_MS)
    stranger.reply_raw(host, b"\xc1")  # more blame changes nothing
    host.do(lambda: host.n.sessions.heard(stranger.identity))
    assert dials(host.handle(happened.Woke(1))) == []
    wire.run(limits.BAN_MS + 1)
    assert state(host, stranger.identity) is State.BACKING_OFF
    assert stranger.ask(host, "ping").kind == "ping"


def test_a_banned_peer_is_not_connected_by_its_greet() -> None:
    """Greeting again does not help before the time is over."""
    wire, host, stranger = alone()
    stranger.befriend(host)
    host.do(lambda: host.n.sessions.blame(stranger.identity, limits.PENALTY_BAN, "test"))
    stranger.curve_key = b"n" * 32
    wire.run(5)
    stranger.greet(host, stranger.record())
    assert state(host, stranger.identity) is State.BANNED


def test_blame_fades() -> None:
    """Half of it is forgotten each minute."""
    wire, host, stranger = alone()
    stranger.befriend(host)
    host.do(lambda: host.n.sessions.blame(stranger.identity, 40, "test"))
    wire.run(limits.PENALTY_HALF_LIFE_MS + 2_000)
    assert host.n.sessions.peers[stranger.identity].penalty == 20
    host.do(lambda: host.n.sessions.blame(b"nobody", 40, "test"))


def test_a_maker_is_set_aside_for_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is skipped until then; the table of such makers is bounded."""
    wire, host, _ = alone()
    sessions = host.n.sessions
    assert sessions.set_aside_until(b"m") is None
    host.do(lambda: sessions.set_aside(b"m", 1_000, RejectReason.TIMED_OUT))
    until = sessions.set_aside_until(b"m")
    assert until == (wire.monotonic_ms + 1_000, RejectReason.TIMED_OUT)
    wire.run(1_001)
    host.do(lambda: None)
    assert sessions.set_aside_until(b"m") is None
    monkeypatch.setattr("zmqex.kernel.aside.PEERS_KNOWN_MAX", 2)
    for name in (b"a", b"b", b"c"):
        host.do(lambda name=name: sessions.set_aside(name, 1_000, RejectReason.HELD))  # type: ignore[misc]
    assert sessions.set_aside_until(b"a") is None
    assert sessions.set_aside_until(b"c") is not None
