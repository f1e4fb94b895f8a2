"""Addresses and records: where a peer might be, and what it must show to be believed."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.unit.stranger import alone, dials, state
from tests.wire import HELLO, Host, Wire
from zmqex import limits
from zmqex.kernel import events as happened
from zmqex.kernel.addresses import Addresses, Step
from zmqex.kernel.commands import AddPeer
from zmqex.kernel.peers import State
from zmqex.protocol.messages import (
    PeerRecord,
)
from zmqex.protocol.record import check_record
from zmqex.reasons import RejectReason


def table(host: Host) -> Addresses:
    """The addresses that a host knows."""
    return host.n.sessions.addresses


# --- addresses ------------------------------------------------------------------------------------


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


def test_an_address_that_never_answers_is_forgotten() -> None:
    """After an hour, however often it is named; a pinned one stays."""
    wire, host, _ = alone()
    host.handle(happened.CandidatesFound((("10.1.1.1", 1, "dht"),)))
    host.command(AddPeer("", "10.1.1.2", 1))
    wire.run(limits.ADDRESS_FORGET_MS // 2)
    host.handle(happened.CandidatesFound((("10.1.1.1", 1, "dht"),)))
    wire.run(limits.ADDRESS_FORGET_MS // 2 + 100_000)
    assert table(host).get("10.1.1.1", 1) is None
    assert table(host).get("10.1.1.2", 1) is not None


def test_a_peer_that_is_gone_is_dialled_ever_more_seldom_and_forgotten_after_a_month() -> None:
    """It once was there, so it has more time; then the address book drops it too."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    alice.crash()
    wire.run(limits.ADDRESS_FORGET_MS)
    bob.effects.clear()
    wire.run(limits.ADDRESS_FORGET_MS)
    assert 4 <= len(dials(bob.effects)) <= 12
    address = table(bob).get(alice.address, HELLO)
    assert address is not None
    address.alive_ms -= limits.PEER_FORGET_MS
    wire.run(limits.ADDRESS_FORGET_MS)
    assert table(bob).get(alice.address, HELLO) is None
    assert alice.identity not in bob.n.sessions.peers
    assert alice.identity not in bob.peers


def test_a_dead_address_of_a_peer_that_is_elsewhere_changes_nothing_for_it() -> None:
    """Only the last address takes its peer along, and only one that is not connected."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    host, places = bob.n.sessions, table(bob)
    bob.do(lambda: host._forget_dead(alice.identity))
    assert state(bob, alice.identity) is State.LIVE

    def second_address_dies() -> None:
        second = places.name("10.7.7.7", 1, "dht")
        assert second is not None
        second.proven = alice.identity
        second.alive_ms -= limits.PEER_FORGET_MS
        places.failed(second, "gone")

    bob.do(second_address_dies)
    assert places.get("10.7.7.7", 1) is None
    assert state(bob, alice.identity) is State.LIVE


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
    assert table(host).get("a1", 1) is None
    for name in ("a0", "b0", "b1", "c"):
        address = table(host).get(name, 1)
        assert address is not None
        address.proven = b"p" * 32
    assert not find("d", "else")
    assert host.n.sessions.add("e", 1)  # the operator's word finds room


def test_an_address_counts_as_of_the_best_source_that_named_it() -> None:
    """So a flood in one source cannot hide what another one says too."""
    _, host, _ = alone()
    for source in ("dht", "exchange", "dht", "unheard-of"):
        host.handle(happened.CandidatesFound((("10.1.1.1", 1, source),)))
    address = table(host).get("10.1.1.1", 1)
    assert address is not None
    assert address.sources == ["exchange", "dht", "unheard-of"]
    assert table(host)._named.load("exchange", "10.1.1.1") == (1, 0)
    assert table(host)._dialling.load("exchange", "10.1.1.1") == (1, 0)
    assert table(host)._dialling.load("dht", "10.1.1.1") == (0, 0)


def test_so_many_dials_are_under_way_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest waits for its turn, and gets it."""
    monkeypatch.setattr("zmqex.kernel.addresses.DIALS_AT_ONCE_MAX", 4)
    wire, host, _ = alone()
    found = tuple((f"10.1.1.{number}", 1, "dht") for number in range(5))
    assert len(dials(host.handle(happened.CandidatesFound(found)))) == 2
    wire.run(5_000)
    assert {place[0] for place in dials(host.effects)} == {name for name, _, _ in found}


def test_a_crowd_of_silent_candidates_costs_no_other_source_any_time() -> None:
    """As many as a look-up can name: what others say is dialled in the same moment."""
    wire, host, _ = alone()
    silent = tuple((f"11.{n // 250}.{n % 250}.1", 1, "dht") for n in range(500))
    told = tuple((f"12.{n}.1.1", 1, "exchange") for n in range(100))
    assert len(dials(host.handle(happened.CandidatesFound(silent)))) == 8  # of two subnets
    assert dials(host.handle(happened.CandidatesFound((("10.1.1.1", 1, "book"),)))) == [
        ("10.1.1.1", 1)
    ]
    assert len(dials(host.handle(happened.CandidatesFound(told)))) == 32
    host.command(AddPeer("", "10.1.1.2", 1))
    assert dials(host.effects)[-1] == ("10.1.1.2", 1)
    host.effects.clear()
    wire.run(1_000)
    # Of those who wait, the source with the least under way comes first.
    assert {place[0].split(".")[0] for place in dials(host.effects)[:4]} == {"11"}


def test_whoever_is_wanted_no_more_leaves_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queued address whose peer is connected meanwhile is not dialled; the next one is."""
    monkeypatch.setattr("zmqex.kernel.addresses.DIALS_AT_ONCE_MAX", 2)
    wire, host, stranger = alone()
    found = tuple((f"10.1.1.{number}", 1, "dht") for number in range(3))
    host.handle(happened.CandidatesFound(found))
    stranger.befriend(host)
    queued = table(host).get("10.1.1.1", 1)
    assert queued is not None
    queued.proven = stranger.identity
    host.do(lambda: table(host).dial_now(queued))
    assert table(host).view(queued)["state"] == "queued"
    host.effects.clear()
    wire.run(1_000)
    assert dials(host.effects) == [("10.1.1.2", 1)]
    assert table(host).view(queued)["state"] == "idle"


def test_a_dial_that_never_ends_is_given_up() -> None:
    """Should the transport forget to answer, the address is tried again all the same."""
    wire, host, _ = alone()
    address = table(host).name("10.1.1.1", 1, "dht")
    assert address is not None
    host.do(lambda: table(host).dial_soon(address))
    wire._queue.clear()  # the answer of the transport
    wire.arm(host)
    host.effects.clear()
    wire.run(limits.DIAL_FORGET_MS + 2_000)
    assert dials(host.effects) == [("10.1.1.1", 1)]


def test_behind_a_proxy_nobody_sends_us_to_our_own_machine() -> None:
    """But the operator may; and a dial through a proxy is waited for."""
    wire = Wire()
    (host,) = wire.add("alice", start=False)
    host.start(proxied=True)
    found = happened.CandidatesFound((("127.0.0.1", 1, "exchange"), ("x.onion", 1, "exchange")))
    assert dials(host.handle(found)) == [("x.onion", 1)]
    assert host.n.sessions.add("127.0.0.1", 1)
    wire._queue.clear()
    wire.arm(host)
    wire.run(limits.DIAL_FORGET_MS + 1)
    address = table(host).get("x.onion", 1)
    assert address is not None
    assert address.step is Step.DIALLING


def test_a_full_address_table_does_not_keep_a_peer_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that greets is connected, even if its address cannot be remembered."""
    monkeypatch.setattr("zmqex.kernel.addresses.ADDRESSES_MAX", 0)
    _, host, stranger = alone()
    stranger.befriend(host)
    assert host.n.sessions.is_live(stranger.identity)


# --- records --------------------------------------------------------------------------------------


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
    beyond = now_ms + limits.RECORD_LIFE_MS + 1
    assert checked(sequence=beyond) is RejectReason.CLOCK_SKEW
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
