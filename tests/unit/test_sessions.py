"""Sessions: from a candidate address to a live peer and back, and who is served what."""

from __future__ import annotations

from itertools import pairwise, product

import msgspec
import pytest

from tests.unit.stranger import Stranger, reason_of
from tests.wire import HELLO, START_MS, Host, Wire
from zmqex import limits
from zmqex.errors import LocalProtocolError
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import AddPeer, GetStatus, ListPeers, PingPeer, RemovePeer
from zmqex.kernel.peers import TABLE, Input, Peer, State
from zmqex.kernel.records import DropPeer, KnownPeer, PutPeer
from zmqex.kernel.requests import Answer, Refusal, TokenBucket
from zmqex.protocol.codec import decode, encode_frame
from zmqex.protocol.identity import to_text
from zmqex.protocol.messages import (
    Empty,
    Endpoint,
    Envelope,
    Greet,
    Limits,
    Page,
    PeerRecord,
    Peers,
    Pong,
)
from zmqex.protocol.record import check_record
from zmqex.reasons import RejectReason


def state(host: Host, identity: bytes) -> State:
    """Return how a host stands with a peer."""
    return host.n.sessions.peers[identity].state


def dials(effects: list[out.Effect]) -> list[tuple[str, int]]:
    """Return the addresses that were dialled."""
    return [(one.host, one.port) for one in effects if isinstance(one, out.DialHello)]


def alone() -> tuple[Wire, Host, Stranger]:
    """Return a host, and somebody who is not its peer yet."""
    wire = Wire()
    (host,) = wire.add("alice")
    return wire, host, Stranger(wire)


# --- the machine ---------------------------------------------------------------------------------


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


# --- addresses -----------------------------------------------------------------------------------


def test_nonsense_addresses_are_not_dialled() -> None:
    """A candidate is a host name or address and a port; everything else is counted."""
    _, host, _ = alone()
    found = (("no host", 1, "dht"), ("", 1, "dht"), ("10.1.1.1", 0, "dht"), ("h", 65_536, "dht"))
    assert dials(host.handle(happened.CandidatesFound(found))) == []
    assert host.n.core.counted["candidates_refused"] == 4


def test_an_address_that_fails_is_tried_later_and_later() -> None:
    """Doubling from one second to a minute, a quarter of jitter either way."""
    wire, host, _ = alone()
    times: list[int] = []
    host.handle(happened.CandidatesFound((("10.1.1.1", 1, "dht"),)))
    for _ in range(600):
        host.effects.clear()
        wire.run(1_000)
        if dials(host.effects):
            times.append(wire.monotonic_ms)
    waits = [after - before for before, after in pairwise(times)]
    assert 46_000 <= max(waits) <= 78_000
    assert len(times) < 20


def test_a_candidate_that_backs_off_is_not_hurried_by_discovery() -> None:
    """Naming it again changes nothing before its time has come."""
    wire, host, _ = alone()
    found = happened.CandidatesFound((("10.1.1.1", 1, "dht"),))
    assert dials(host.handle(found)) == [("10.1.1.1", 1)]
    assert dials(host.handle(found)) == []  # under way
    wire.run(1_001)
    assert dials(host.handle(found)) == []  # backs off
    host.command(AddPeer("", "10.1.1.1", 1))
    assert dials(host.effects)[-1:] == [("10.1.1.1", 1)]  # the operator says now
    host.effects.clear()
    host.command(AddPeer("", "10.1.1.1", 1))
    assert dials(host.effects) == []  # under way


def test_an_address_that_nobody_names_is_forgotten() -> None:
    """After an hour without an answer and without news; a pinned one stays."""
    wire, host, _ = alone()
    host.handle(happened.CandidatesFound((("10.1.1.1", 1, "dht"),)))
    host.command(AddPeer("", "10.1.1.2", 1))
    wire.run(limits.ADDRESS_FORGET_MS + 100_000)
    assert host.n.sessions.addresses.get("10.1.1.1", 1) is None
    assert host.n.sessions.addresses.get("10.1.1.2", 1) is not None


def test_no_source_fills_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the table for one source; a full one drops what failed most, never a proven one."""
    monkeypatch.setattr("zmqex.kernel.addresses.ADDRESSES_MAX", 4)
    _, host, _ = alone()

    def find(name: str, source: str) -> bool:
        found = happened.CandidatesFound(((name, 1, source),))
        return dials(host.handle(found)) == [(name, 1)]

    assert [find(f"a{number}", "dht") for number in range(3)] == [True, True, False]
    assert [find(f"b{number}", "grape") for number in range(2)] == [True, True]
    host.handle(happened.HelloFailed("a1", 1, "dht", "silent"))
    assert find("c", "exchange")
    table = host.n.sessions.addresses
    assert table.get("a1", 1) is None
    for name in ("a0", "b0", "b1", "c"):
        address = table.get(name, 1)
        assert address is not None
        address.proven = b"p" * 32
    assert not find("d", "else")
    assert host.n.sessions.add("e", 1)  # the operator's word finds room


def test_so_many_dials_are_under_way_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest waits for its turn, and gets it."""
    monkeypatch.setattr("zmqex.kernel.addresses.DIALS_AT_ONCE_MAX", 2)
    wire, host, _ = alone()
    found = tuple((f"10.1.1.{number}", 1, "dht") for number in range(5))
    assert len(dials(host.handle(happened.CandidatesFound(found)))) == 2
    wire.run(5_000)
    assert {place[0] for place in dials(host.effects)} == {name for name, _, _ in found}


def test_a_dial_that_never_ends_is_given_up() -> None:
    """Should the transport forget to answer, the address is tried again all the same."""
    wire, host, _ = alone()
    sessions = host.n.sessions
    address = sessions.addresses.name("10.1.1.1", 1, "dht")
    assert address is not None
    host.do(lambda: sessions.addresses.dial_soon(address))
    address.dialling = True
    wire._queue.clear()
    wire.arm(host)
    host.effects.clear()
    wire.run(limits.DIAL_FORGET_MS + 2_000)
    assert dials(host.effects) == [("10.1.1.1", 1)]


def test_a_full_address_table_does_not_keep_a_peer_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that greets is connected, even if its address cannot be remembered."""
    monkeypatch.setattr("zmqex.kernel.addresses.ADDRESSES_MAX", 0)
    _, host, stranger = alone()
    stranger.befriend(host)
    assert host.n.sessions.is_live(stranger.identity)


# --- records -------------------------------------------------------------------------------------


def test_a_record_must_be_credible() -> None:
    """Size, form, network, dates, number and signature: each has its reason."""
    wire, _, stranger = alone()
    now_ms = wire.wall_ms
    late = now_ms + limits.CLOCK_SKEW_MAX_MS + 1

    def checked(**changes: object) -> object:
        return check_record(stranger.record(**changes), "play", now_ms)

    assert isinstance(checked(), PeerRecord)
    assert check_record(bytes(901), "play", now_ms) is RejectReason.FRAME_TOO_BIG
    assert check_record(b"\x01", "play", now_ms) is RejectReason.MALFORMED
    assert checked(network="main") is RejectReason.WRONG_NETWORK
    assert checked(not_before_ms=late, not_after_ms=late + 1) is RejectReason.CLOCK_SKEW
    assert checked(sequence=late) is RejectReason.CLOCK_SKEW
    assert checked(not_before_ms=0, not_after_ms=1) is RejectReason.EXPIRED
    assert checked(not_after_ms=now_ms + limits.RECORD_LIFE_MS + 1) is RejectReason.EXPIRED
    assert checked(identity=b"x" * 32) is RejectReason.BAD_SIGNATURE


def test_a_hello_with_a_bad_record_is_refused_and_tried_again_later() -> None:
    """What cannot be believed is a failure of the address; unasked answers count for nothing."""
    wire, host, stranger = alone()
    place = (stranger.address, HELLO, "dht")
    host.handle(happened.CandidatesFound((place,)))
    host.handle(happened.HelloAnswered(*place, stranger.record(network="main")))
    assert host.n.sessions.peers == {}
    assert host.n.core.counted["hello_wrong_network"] == 1
    host.handle(happened.HelloAnswered(*place, stranger.record()))
    host.handle(happened.HelloAnswered("10.7.7.7", 1, "dht", stranger.record()))
    host.handle(happened.HelloFailed("10.7.7.7", 1, "dht", "unasked"))
    assert host.n.sessions.peers == {}
    host.effects.clear()
    wire.run(1_500)
    assert dials(host.effects) == [(stranger.address, HELLO)]


def test_an_older_or_empty_record_does_not_connect() -> None:
    """A record below the known one is a replay; one without endpoints says that its peer left."""
    wire, host, stranger = alone()
    place = (stranger.address, HELLO, "dht")
    host.handle(happened.CandidatesFound((place,)))
    host.handle(happened.HelloAnswered(*place, stranger.record(leaving=True)))
    assert host.n.sessions.peers == {}
    stranger.befriend(host)
    connected = host.links.copy()
    host.do(lambda: host.n.sessions.on_woke(happened.Woke(1)))
    wire.run(0)
    host.handle(happened.HelloAnswered(*place, stranger.record(sequence=1, curve_key=b"o" * 32)))
    assert host.links == connected


def test_records_on_the_stream_are_believed_with_a_valid_signature_only() -> None:
    """Malformed, unknown, older and unsigned ones change nothing; a new CURVE key reconnects."""
    wire, host, stranger = alone()
    stranger.say(host, b"p", b"\x01")
    stranger.say(host, b"p", stranger.record())
    assert host.n.sessions.peers == {}
    assert host.n.core.counted["malformed"] == 1
    stranger.befriend(host)
    known = host.n.sessions.peers[stranger.identity].record
    stranger.say(host, b"p", stranger.record(sequence=1))
    wire.run(5)
    stranger.say(host, b"p", stranger.record(network="main"))
    assert host.n.sessions.peers[stranger.identity].record == known
    assert host.n.core.counted["record_wrong_network"] == 1
    stranger.say(host, b"p", stranger.record(curve_key=b"n" * 32))
    assert host.links[stranger.identity] == (stranger.address, b"n" * 32)
    assert state(host, stranger.identity) is State.GREETING
    wire.run(5)
    stranger.say(host, b"p", stranger.record(leaving=True))
    wire.run(5)
    stranger.say(host, b"p", stranger.record(leaving=True))
    assert state(host, stranger.identity) is State.BACKING_OFF


# --- greeting ------------------------------------------------------------------------------------


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
    assert connects[0].topics[:3] == (b"h", b"p", b"e")
    assert len(connects[0].topics) == 4
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


# --- asking --------------------------------------------------------------------------------------


def test_every_question_ends_in_exactly_one_answer() -> None:
    """An answer, a refusal, a time-out, no connection, a closed one, nonsense: one call each."""
    wire, host, stranger = alone()
    answers: list[Answer] = []

    def ask() -> None:
        host.do(
            lambda: host.n.sessions.request(
                stranger.identity, "ping", Empty(), answers.append, 1_000
            )
        )

    def reason() -> RejectReason:
        last = answers[-1]
        assert isinstance(last, Refusal)
        return last.reason

    ask()
    assert reason() is RejectReason.NOT_CONNECTED
    stranger.befriend(host)
    ask()
    stranger.reject(host, "ping", "held", 5)
    assert answers[-1] == Refusal(RejectReason.HELD, 5)
    ask()
    stranger.reject(host, "ping", "a_word_of_tomorrow", 5)
    assert answers[-1] == Refusal(RejectReason.UNAVAILABLE, 5, "a_word_of_tomorrow")
    ask()
    stranger.reply_raw(
        host, encode_frame("reject", stranger.asked(host, "ping")[-1].request_id, Empty())
    )
    assert reason() is RejectReason.MALFORMED
    ask()
    wire.run(1_001)
    assert reason() is RejectReason.TIMED_OUT
    stranger.reply(host, "ping", Pong(1))  # too late
    ask()
    host.do(lambda: host.n.sessions.remove(stranger.identity))
    assert reason() is RejectReason.NOT_CONNECTED
    assert len(answers) == 6


def test_replies_must_fit_a_question() -> None:
    """Unreadable bytes, another kind or a wrong version are counted and blamed, never handed on."""
    _, host, stranger = alone()
    stranger.befriend(host)
    answers: list[Answer] = []
    host.do(lambda: host.n.sessions.request(stranger.identity, "ping", Empty(), answers.append))
    asked = stranger.asked(host, "ping")[-1]
    stranger.reply_raw(host, b"\xc1")
    stranger.reply_raw(host, encode_frame("book", asked.request_id, Empty()))
    assert answers == []
    assert host.n.sessions.peers[stranger.identity].penalty == 6
    assert host.n.core.counted["replies_unasked"] == 1


def test_an_answer_that_cannot_be_read_is_a_refusal() -> None:
    """Where the asker cannot decode the body, it is told MALFORMED instead."""
    _, host, stranger = alone()
    stranger.befriend(host)
    answers: list[Answer] = []

    def on_answer(answer: Answer) -> None:
        if not isinstance(answer, Refusal):
            decode(answer, Pong)
        answers.append(answer)

    host.do(lambda: host.n.sessions.request(stranger.identity, "ping", Empty(), on_answer))
    stranger.reply(host, "ping", Empty())
    assert [one.reason for one in answers if isinstance(one, Refusal)] == [RejectReason.MALFORMED]


def test_questions_under_way_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound a question is refused at once."""
    _, host, stranger = alone()
    stranger.befriend(host)
    monkeypatch.setattr("zmqex.kernel.requests.REQUESTS_PENDING_MAX", 3)
    answers: list[Answer] = []
    for _ in range(4):
        host.do(lambda: host.n.sessions.request(stranger.identity, "ping", Empty(), answers.append))
    assert [one.reason for one in answers if isinstance(one, Refusal)][-1:] == [
        RejectReason.RATE_LIMITED
    ]


def test_a_peer_that_does_not_answer_is_asked_for_its_record() -> None:
    """Two time-outs in a row: it may be another process now, so its hello socket is asked."""
    wire, host, stranger = alone()
    stranger.befriend(host)
    wire.run(4_000)  # its silence about heads and peers is twice as well
    assert (stranger.address, HELLO) in dials(host.effects)
    assert host.n.sessions.is_live(stranger.identity)


# --- being asked ---------------------------------------------------------------------------------


def test_requests_are_checked_in_order_of_cost() -> None:
    """Unreadable, wrong version, unknown kind, not greeted, malformed body: each its reason."""
    _, host, stranger = alone()
    assert stranger.send(host, b"\xc1") == []
    assert stranger.refused(host, "ping", version=2).reason == "wrong_version"
    assert stranger.refused(host, "no_such_kind").reason == "unknown_kind"
    assert stranger.refused(host, "ping").reason == "not_greeted"
    stranger.greet(host)
    assert stranger.refused(host, "ping", Pong(1)).reason == "malformed"
    assert host.n.sessions.peers[stranger.identity].penalty == 5
    assert stranger.ask(host, "ping").kind == "ping"


def test_a_peer_may_ask_so_often_and_no_more() -> None:
    """A burst, then a steady rate; the refusal says when the next is welcome, and it is."""
    wire, host, stranger = alone()
    stranger.greet(host)
    for _ in range(limits.REQUESTS_BURST):
        assert stranger.ask(host, "ping").kind == "ping"
    refusal = stranger.refused(host, "ping")
    assert refusal.reason == "rate_limited"
    assert refusal.retry_after_ms == 1_000 // limits.REQUESTS_PER_SECOND
    wire.run(refusal.retry_after_ms)
    assert stranger.ask(host, "ping").kind == "ping"
    assert stranger.refused(host, "ping").reason == "rate_limited"


def test_rates_are_kept_for_so_many_askers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asked longest ago is forgotten first: its next question starts a fresh burst."""
    monkeypatch.setattr("zmqex.kernel.requests.REQUEST_SOURCES_MAX", 2)
    monkeypatch.setattr("zmqex.kernel.requests.REQUESTS_BURST", 1)
    wire, host, _ = alone()
    strangers = [Stranger(wire, str(number), f"10.9.9.{number}") for number in range(3)]
    for one in strangers:
        assert one.refused(host, "ping").reason == "not_greeted"
    assert strangers[2].refused(host, "ping").reason == "rate_limited"
    assert strangers[0].refused(host, "ping").reason == "not_greeted"


def test_a_token_bucket_is_never_more_than_full() -> None:
    """It refills to its burst and no further, and a refusal takes nothing."""
    bucket = TokenBucket(10, 2, 0)
    assert [bucket.take(0), bucket.take(0), bucket.take(0)] == [0, 0, 100]
    assert bucket.take(99) == 1
    assert bucket.take(100) == 0
    assert [bucket.take(10**6) for _ in range(3)] == [0, 0, 100]


def test_limits_and_live_peers_are_told() -> None:
    """`limits` names the bounds; `peers` gives records of live peers a page at a time."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    stranger = Stranger(wire)
    stranger.greet(alice)
    told = {
        one.name: one.value for one in decode(stranger.ask(alice, "limits").body, Limits).limits
    }
    assert told["batch_operations"] == limits.BATCH_OPERATIONS_MAX
    assert told["requests_per_second"] == limits.REQUESTS_PER_SECOND
    page = decode(stranger.ask(alice, "peers", Page(b"")).body, Peers)
    assert page.records == [bob.record]
    assert decode(stranger.ask(alice, "peers", Page(bob.identity)).body, Peers).records == []


def test_a_page_of_peers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One page has so many records; the next begins after the last of them."""
    monkeypatch.setattr("zmqex.kernel.sessions.PEERS_PAGE_MAX", 2)
    wire = Wire()
    alice, *_ = wire.meet("alice", "bob", "carol", "dave")
    stranger = Stranger(wire)
    stranger.greet(alice)
    first = decode(stranger.ask(alice, "peers", Page(b"")).body, Peers).records
    records = [check_record(raw, "play", wire.wall_ms) for raw in first]
    last = records[-1]
    assert isinstance(last, PeerRecord)
    rest = decode(stranger.ask(alice, "peers", Page(last.identity)).body, Peers).records
    assert (len(first), len(rest)) == (2, 1)
    assert rest[0] not in first


def test_peers_tell_each_other_of_peers() -> None:
    """A node that knows one peer finds that peer's peers, without discovery."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    (carol,) = wire.add("carol", start=False)
    carol.start(static_peers=((b"", bob.address, HELLO),))
    wire.run(3_000)
    assert state(carol, alice.identity) is State.LIVE
    assert carol.n.sessions.peers[alice.identity].source == "exchange"


def test_vouching_for_nonsense_brings_nothing() -> None:
    """Records of an exchange that cannot be believed, or name no host, are passed over."""
    _, host, stranger = alone()
    stranger.befriend(host)
    host.effects.clear()
    host.do(lambda: host.n.sessions._ask_for_peers(stranger.identity))
    records = [b"\x01", stranger.record(), stranger.record(hello=Endpoint("10.4.4.4", 5))]
    effects = stranger.reply(host, "peers", Peers(records))
    assert dials(effects) == [("10.4.4.4", 5)]


# --- blame ---------------------------------------------------------------------------------------


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
    monkeypatch.setattr("zmqex.kernel.links.PEERS_KNOWN_MAX", 2)
    for name in (b"a", b"b", b"c"):
        host.do(lambda name=name: sessions.set_aside(name, 1_000, RejectReason.HELD))  # type: ignore[misc]
    assert sessions.set_aside_until(b"a") is None
    assert sessions.set_aside_until(b"c") is not None


# --- bounds --------------------------------------------------------------------------------------


def test_so_many_peers_are_connected_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the sockets none is opened; beyond the memory the idle make room, or nobody."""
    monkeypatch.setattr("zmqex.kernel.links.PEERS_MAX", 1)
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


# --- the operator --------------------------------------------------------------------------------


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
