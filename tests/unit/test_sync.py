"""Serving logs to others, and what a new peer is asked for."""

from __future__ import annotations

import msgspec
import pytest

from tests.unit.maker import Maker, answer_heads, counted, log_of, resting, scene
from tests.wire import MARKET, NETWORK, Wire
from zmqex import limits
from zmqex.kernel.sessions import State
from zmqex.protocol.codec import decode, encode
from zmqex.protocol.identity import seal
from zmqex.protocol.messages import (
    BookLevels,
    BookRequest,
    Frame,
    Heads,
    Heartbeat,
    LogPage,
    LogRequest,
    Page,
    Reject,
)

# --- serving --------------------------------------------------------------------------------------


def test_heads_are_served_a_page_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest heartbeat of each maker, ours too, in order of identity; then an empty page."""
    wire, host, maker = scene()
    other = Maker(wire, "other", "10.9.9.8")
    for one in (maker, other):
        one.say(host, b"h", one.beat())
    silent = Maker(wire, "silent", "10.9.9.7")
    silent.say(host, silent.topic, silent.publish(silent.new(1)[1]))
    for bound, value in (("PEERS_PAGE_MAX", 1), ("LOG_PAGE_BYTES_MAX", 1)):
        with monkeypatch.context() as patch:
            patch.setattr("zmqex.kernel.sync." + bound, value)
            makers, after = [], b""
            while page := decode(maker.ask(host, "heads", Page(after)).body, Heads).heartbeats:
                assert len(page) == 1
                after = decode(msgspec.msgpack.decode(page[0])[0], Heartbeat).maker
                makers.append(after)
        assert makers == sorted([host.identity, maker.identity, other.identity])


def test_logs_are_served_verbatim_own_and_others() -> None:
    """From any number on; unknown makers, other epochs and dropped batches have their reasons."""
    _, host, maker = scene()
    for number in range(3):
        maker.say(host, maker.topic, maker.publish(maker.new(number)[1]))
    epoch = maker.fold.epoch

    def asked(of: bytes, at: int, number: int) -> Frame:
        return maker.ask(host, "log", LogRequest(of, MARKET, at, number))

    page = decode(asked(maker.identity, epoch, 2).body, LogPage)
    assert page.batches == maker.envelopes[1:]
    host.place(1)
    own = decode(asked(host.identity, host.n.replicas.own_log(MARKET).fold.epoch, 1).body, LogPage)
    assert own.batches == [one.envelope for one in host.batches.values()]
    for of, at, reason in (
        (b"n" * 32, epoch, "unknown_maker"),
        (maker.identity, epoch - 1, "old_epoch"),
        (maker.identity, epoch + 1, "sequence_gap"),
    ):
        assert decode(asked(of, at, 1).body, Reject).reason == reason
    log_of(host, maker).tail.trim(0)
    assert decode(asked(maker.identity, epoch, 1).body, Reject).reason == "log_too_old"


def test_levels_are_served() -> None:
    """Aggregated, best first; a market that is not followed is refused."""
    _, host, maker = scene()
    host.place(1, price_ticks=100)
    host.place(2, price_ticks=101)
    host.place(3, price_ticks=101)
    host.place(4, side="sell", price_ticks=200)
    levels = decode(maker.ask(host, "book", BookRequest(MARKET, 1)).body, BookLevels)
    assert [(one.price_ticks, one.quantity_lots, one.orders) for one in levels.bids] == [
        (101, 2_000, 2)
    ]
    assert [one.price_ticks for one in levels.asks] == [200]
    assert maker.refused(host, "book", BookRequest("BTC/EUR", 1)).reason == "wrong_market"


# --- a new peer -----------------------------------------------------------------------------------


def test_who_has_no_log_is_not_told_and_what_is_known_is_not_read_again() -> None:
    """In a large network every peer tells the same: it costs nothing, and goes on after it."""
    wire, host, peer = scene()
    maker, idle = Maker(wire, "maker", "10.7.7.7"), Maker(wire, "idle", "10.7.7.8")
    maker.publish(maker.new(1)[1])
    beat = maker.beat()
    no_log = encode(Heartbeat(idle.identity, wire.wall_ms, []))
    maker.say(host, b"h", beat)
    idle.say(host, b"h", seal(idle.key, NETWORK, "heartbeat", no_log))
    assert not host.n.replicas.is_stale(idle.identity)
    heads = decode(peer.ask(host, "heads", Page(b"")).body, Heads).heartbeats
    assert beat in heads
    assert len(heads) == 2  # the maker's and ours
    before = counted(host, "ignored_old_heartbeat")
    answer_heads(peer, host, *[beat] * limits.PEERS_PAGE_MAX)
    assert counted(host, "ignored_old_heartbeat") == before
    asked = [decode(one.body, Page).after for one in peer.asked(host, "heads")]
    assert asked == [b"", maker.identity]


def test_a_new_peer_is_asked_for_all_heads_then_for_logs() -> None:
    """Also of makers that are not connected: any peer can serve any log."""
    wire, host, peer = scene()
    absent = Maker(wire, "absent", "10.7.7.7")
    key, place = absent.new(1)
    absent.publish(place)
    assert host.n.sessions.peers[peer.identity].state is State.SYNCING
    full = [absent.beat(later_ms=-60_000 - one) for one in range(limits.PEERS_PAGE_MAX)]
    answer_heads(peer, host, *full)
    assert decode(peer.asked(host, "heads")[-1].body, Page).after == absent.identity
    answer_heads(peer, host)
    assert host.n.sessions.peers[peer.identity].state is State.SYNCING
    wire.run(limits.GAP_WAIT_MS + 1)
    peer.reply(host, "log", LogPage(absent.envelopes, 0))
    wire.run(0)
    assert resting(host) == [key]
    assert host.n.replicas.is_stale(absent.identity)
    assert host.n.sessions.peers[peer.identity].state is State.LIVE


def test_a_log_that_nobody_could_be_asked_for_is_fetched_from_the_next_peer() -> None:
    """Heard of before anybody was live: the repair starts as soon as somebody is."""
    wire = Wire()
    (host,) = wire.add("alice")
    maker = Maker(wire)
    key, place = maker.new(1)
    maker.publish(place)
    maker.say(host, b"h", maker.beat())
    wire.run(limits.GAP_WAIT_MS + 1)
    assert log_of(host, maker).state == "behind"
    maker.befriend(host)
    answer_heads(maker, host, maker.beat(later_ms=-1))
    wire.run(limits.GAP_WAIT_MS + 1)
    maker.reply(host, "log", LogPage(maker.envelopes, 0))
    wire.run(0)
    assert resting(host) == [key]


@pytest.mark.parametrize("size", [limits.PEERS_PAGE_MAX - 1, 8])
def test_a_page_of_heads_that_may_have_been_cut_is_not_the_last(size: int) -> None:
    """By its number or by its bytes; any other one saves the question for an empty page."""
    weight = limits.LOG_PAGE_BYTES_MAX // (2 * size)
    for number, page in ((size, 100), (size, weight - 1)):
        assert Heads([b"x" * page] * number).is_last
    assert not Heads([b"x" * 100] * limits.PEERS_PAGE_MAX).is_last
    assert not Heads([b"x" * (weight + 1)] * size).is_last
    assert Heads([]).is_last


def test_a_peer_that_has_told_enough_for_now_is_asked_for_heads_again_when_it_says() -> None:
    """From where it stopped, some times; then what it did not tell has to come by itself."""
    wire, host, peer = scene()
    absent = Maker(wire, "absent", "10.7.7.7")
    full = [absent.beat(later_ms=-one) for one in range(limits.PEERS_PAGE_MAX)]
    answer_heads(peer, host, *full)
    for tries in range(limits.SYNC_RETRIES_MAX):
        asked = len(peer.asked(host, "heads"))
        assert asked == tries + 2
        peer.reject(host, "heads", "rate_limited", 40)
        wire.run(39)
        assert len(peer.asked(host, "heads")) == asked
        wire.run(1)
        assert decode(peer.asked(host, "heads")[-1].body, Page).after == absent.identity
        assert host.n.sessions.peers[peer.identity].state is State.SYNCING
    peer.reject(host, "heads", "rate_limited", 40)
    wire.run(5_000)
    assert len(peer.asked(host, "heads")) == limits.SYNC_RETRIES_MAX + 2
    assert host.n.sessions.peers[peer.identity].state is State.LIVE


def test_heads_that_cannot_be_believed_end_the_sync() -> None:
    """A wrong signature, a page that does not go on, a refusal: blame where due, and no loop."""
    wire, host, peer = scene()
    absent = Maker(wire, "absent", "10.7.7.7")
    forged = seal(peer.key, "play", "heartbeat", msgspec.msgpack.decode(absent.beat())[0])
    answer_heads(peer, host, forged)
    assert host.n.sessions.peers[peer.identity].penalty == 10
    assert host.n.sessions.peers[peer.identity].state is State.LIVE
    host.do(lambda: host.n.replicas.sync._ask_heads(peer.identity, b"\xff" * 32))
    answer_heads(peer, host, absent.beat())
    assert host.n.sessions.peers[peer.identity].penalty == 15
    host.do(lambda: host.n.replicas.sync._ask_heads(peer.identity, b""))
    asked = len(peer.asked(host, "heads"))
    peer.reject(host, "heads", "starting")
    assert len(peer.asked(host, "heads")) == asked
