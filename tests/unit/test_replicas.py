"""Replicas: what others sign becomes our book, in whatever order it comes."""

from __future__ import annotations

import msgspec
import pytest

from tests.unit.maker import Maker, counted, log_of, resting, scene, waiting_of
from tests.unit.stranger import Stranger
from tests.wire import MARKET
from zmqex import limits
from zmqex.kernel import effects as out
from zmqex.kernel.events import StreamReceived
from zmqex.kernel.replicas import FoundOrder
from zmqex.kernel.sessions import State
from zmqex.protocol.codec import decode
from zmqex.protocol.identity import seal
from zmqex.protocol.messages import (
    Close,
    Heartbeat,
    LogPage,
    LogRequest,
    Page,
    Update,
)
from zmqex.reasons import RejectReason

# --- orders from batches --------------------------------------------------------------------------


def test_a_signed_batch_changes_the_book() -> None:
    """Placed, updated and closed as its maker says; found by id and by prefix until then."""
    wire, host, maker = scene()
    key, place = maker.new(1)
    maker.say(host, maker.topic, maker.publish(place))
    assert resting(host) == [key]
    found = host.n.replicas.find(key.hex()[:8].upper())
    assert isinstance(found, FoundOrder)
    assert (found.order_id, found.maker, found.available_lots) == (key, maker.identity, 1_000)
    maker.say(host, maker.topic, maker.publish(Update(key, 900, 200)))
    order = host.n.replicas.book(MARKET).get(key)
    assert order is not None
    assert order.available_lots == 700
    row = host.n.replicas.row(key)
    assert row is not None
    assert (row.remaining_lots, row.held_lots, row.available_lots) == (900, 200, 700)
    maker.say(host, maker.topic, maker.publish(Close(key, "filled")))
    assert resting(host) == []
    assert host.n.replicas.row(key) is None
    assert host.n.replicas.find(key.hex()) is None
    assert host.n.replicas.find("abc") is RejectReason.MALFORMED
    wire.run(1)


def test_one_batch_from_two_relays_is_applied_once() -> None:
    """Both copies may be verified before the first is applied; a very late one finds no place."""
    wire, host, maker = scene()
    raw = maker.publish(maker.new(1)[1])
    host.handle(StreamReceived(((maker.topic, raw), (maker.topic, raw))))
    wire.run(0)
    log = log_of(host, maker)
    assert log.at == (maker.fold.epoch, 1)
    host.n.replicas.accept_batch(waiting_of(raw))  # fetched while the stream's copy was verified
    assert (log.at, log.gap) == ((maker.fold.epoch, 1), {})
    maker.say(host, maker.topic, maker.publish(maker.new(2)[1]))
    log.tail.trim(0)
    before = log.fold.head()
    host.n.replicas.accept_batch(waiting_of(raw))
    assert (log.fold.head(), log.gap) == (before, {})


def test_an_ambiguous_prefix_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several orders with one prefix: the user must say more."""
    monkeypatch.setattr("zmqex.kernel.replicas.ID_PREFIX_CHARS_MIN", 0)
    _, host, maker = scene()
    maker.say(host, maker.topic, maker.publish(maker.new(1)[1], maker.new(2)[1]))
    assert host.n.replicas.find("") is RejectReason.AMBIGUOUS_ID


def test_expired_orders_are_hidden_and_stay_in_the_fold() -> None:
    """On arrival, with time, and when they claim to live too long by our clock."""
    wire, host, maker = scene()
    now_ms = wire.wall_ms
    late, soon = maker.new(1, expires_at_ms=now_ms - 1), maker.new(2, expires_at_ms=now_ms + 50)
    far_ms = now_ms + limits.ORDER_LIFE_MAX_MS + limits.CLOCK_SKEW_MAX_MS + 5_000
    far = maker.new(3, expires_at_ms=far_ms)
    ahead = maker.sign(late[1], soon[1], far[1], sent_at_ms=now_ms + 3_600_000)
    maker.say(host, maker.topic, ahead)
    assert resting(host) == [soon[0]]
    wire.run(60)
    host.do(lambda: None)
    assert resting(host) == []
    assert len(log_of(host, maker).fold.orders) == 3
    assert host.n.core.counted["hidden_expired"] == 1


def test_what_is_not_worth_a_signature_check_is_ignored() -> None:
    """Future and old epochs, repeats, other markets, unknown topics and nonsense: counted only."""
    wire, host, maker = scene()
    first = maker.publish(maker.new(1)[1])
    maker.say(host, maker.topic, first)
    host.effects.clear()
    future = wire.wall_ms + limits.CLOCK_SKEW_MAX_MS + 10
    place = maker.new(2)[1]
    maker.say(host, maker.topic, first)
    maker.say(host, maker.topic, maker.sign(place, epoch=future))
    maker.say(host, maker.topic, maker.sign(place, epoch=1))
    maker.say(host, maker.topic, maker.sign(place, market="BTC/EUR"))
    maker.say(host, maker.topic, b"\xc1")
    maker.say(host, b"x", b"what is it?")
    assert [one for one in host.effects if isinstance(one, out.Verify)] == []
    for word in ("repeats", "ignored_future_epoch", "ignored_old_epoch", "ignored_unknown_topic"):
        assert counted(host, word) == 1
    assert counted(host, "malformed") == 2


def test_a_wrong_signature_changes_nothing() -> None:
    """Signed by another key, for another network or as another kind: counted, not applied."""
    _, host, maker = scene()
    raw = maker.sign(maker.new(1)[1])
    body = msgspec.msgpack.decode(raw)[0]
    other = Stranger(maker.wire, "other")
    for forged in (
        seal(other.key, "play", "batch", body),
        seal(maker.key, "main", "batch", body),
        seal(maker.key, "play", "heartbeat", body),
    ):
        maker.say(host, maker.topic, forged)
    assert counted(host, "bad_signatures") == 3
    assert host.n.replicas.log(maker.identity, MARKET) is None


def test_too_many_signatures_at_once_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dropped is found missing later, and fetched."""
    monkeypatch.setattr("zmqex.kernel.claims.VERIFYING_MAX", 0)
    _, host, maker = scene()
    maker.say(host, maker.topic, maker.publish(maker.new(1)[1]))
    assert host.n.core.counted["verifications_dropped"] == 1
    assert host.n.replicas.log(maker.identity, MARKET) is None


def test_so_many_makers_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound a new maker is ignored, also when its signature was checked already."""
    wire, host, maker = scene()
    other = Maker(wire, "other", "10.9.9.8")
    for about, raw in (
        (maker.topic, maker.publish(maker.new(1)[1])),
        (b"h", maker.beat()),
        (other.topic, other.publish(other.new(1)[1])),
        (b"h", other.beat()),
    ):
        one = (about, raw)
        host.n.core.begin(wire.now())
        monkeypatch.setattr("zmqex.kernel.room.MAKERS_MAX", 2)
        maker.say(host, *one)
    assert len(host.n.replicas.makers) == 2
    assert counted(host, "ignored_maker_full") == 2
    monkeypatch.setattr(host.n.replicas.room, "is_full", lambda: False)
    other.say(host, other.topic, other.envelopes[0])
    other.say(host, b"h", other.beat(later_ms=1))
    assert len(host.n.replicas.makers) == 2
    assert host.n.replicas.is_stale(other.identity)


# --- gaps -----------------------------------------------------------------------------------------


def test_a_gap_is_closed_by_what_comes_late() -> None:
    """Batches out of order wait; nobody is asked if the missing one comes in time."""
    wire, host, maker = scene()
    raws = [maker.publish(maker.new(number)[1]) for number in range(3)]
    for index in (2, 0, 1):
        maker.say(host, maker.topic, raws[index])
    assert log_of(host, maker).fold.sequence == 3
    wire.run(limits.GAP_WAIT_MS + 1)
    assert maker.asked(host, "log") == []
    assert log_of(host, maker).state == "current"


def test_a_gap_is_fetched_from_the_maker() -> None:
    """The pages go on until the head is reached."""
    wire, host, maker = scene()
    for number in range(5):
        maker.publish(maker.new(number)[1])
    maker.say(host, maker.topic, maker.envelopes[4])
    assert log_of(host, maker).state == "behind"
    wire.run(limits.GAP_WAIT_MS + 1)
    asked = decode(maker.asked(host, "log")[-1].body, LogRequest)
    assert (asked.maker, asked.from_sequence) == (maker.identity, 1)
    maker.reply(host, "log", LogPage(maker.envelopes[:2], 0))
    wire.run(0)
    assert decode(maker.asked(host, "log")[-1].body, LogRequest).from_sequence == 3
    maker.reply(host, "log", LogPage(maker.envelopes[2:3], 0))
    wire.run(0)
    maker.reply(host, "log", LogPage(maker.envelopes[3:], 0))
    wire.run(0)
    assert log_of(host, maker).fold.head() == maker.fold.head()
    assert len(maker.asked(host, "log")) == 3


def test_a_failure_means_that_somebody_else_is_asked() -> None:
    """Refused, empty, unreadable, forged, another log: the next peer, and what we had stays."""
    wire, host, maker = scene()
    helpers = [Maker(wire, f"helper {number}", f"10.8.8.{number}") for number in range(6)]
    for one in helpers:
        one.befriend(host)
    maker.publish(maker.new(1)[1])
    maker.publish(maker.new(2)[1])
    maker.say(host, maker.topic, maker.envelopes[1])
    wire.run(limits.GAP_WAIT_MS + 1)
    maker.reject(host, "log", "starting")
    helpers[0].reply(host, "log", LogPage([], 0))
    helpers[1].reply(host, "log", Page(b"x"))
    forged = seal(helpers[2].key, "play", "batch", msgspec.msgpack.decode(maker.envelopes[0])[0])
    helpers[2].reply(host, "log", LogPage([forged], 0))
    wire.run(0)
    foreign = helpers[3].publish(helpers[3].new(1)[1])
    helpers[3].reply(host, "log", LogPage([foreign], 0))
    assert log_of(host, maker).fold.sequence == 0
    # One page with the truth and a lie: the truth counts, the liar is not asked again.
    extra = maker.sign(maker.new(3)[1])
    lie = seal(helpers[2].key, "play", "batch", msgspec.msgpack.decode(extra)[0])
    helpers[4].reply(host, "log", LogPage([maker.envelopes[0], lie], 0))
    wire.run(0)
    assert log_of(host, maker).fold.head() == maker.fold.head()
    peers = host.n.sessions.peers
    assert [peers[one.identity].penalty for one in helpers] == [0, 5, 10, 5, 10, 0]


def test_a_liar_is_not_asked_again_while_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a page with a wrong signature the next page comes from another peer."""
    monkeypatch.setattr("zmqex.kernel.replicas.GAP_BATCHES_MAX", 1)
    wire, host, maker = scene()
    helper = Maker(wire, "helper", "10.8.8.8")
    helper.befriend(host)
    for number in range(4):
        maker.publish(maker.new(number)[1])
    maker.say(host, maker.topic, maker.envelopes[3])
    wire.run(limits.GAP_WAIT_MS + 1)
    lie = seal(helper.key, "play", "batch", msgspec.msgpack.decode(maker.envelopes[1])[0])
    maker.reply(host, "log", LogPage([maker.envelopes[0], lie], 0))
    wire.run(0)
    assert decode(helper.asked(host, "log")[-1].body, LogRequest).from_sequence == 2


def test_a_repair_that_finds_nothing_ends_until_there_is_news() -> None:
    """All were asked once; the next heartbeat starts again."""
    wire, host, maker = scene()
    maker.publish(maker.new(1)[1])
    maker.say(host, b"h", maker.beat())
    wire.run(limits.GAP_WAIT_MS + 1)
    maker.reply(host, "log", LogPage([], 0))
    wire.run(1_000)
    assert len(maker.asked(host, "log")) == 1
    maker.say(host, b"h", maker.beat())
    wire.run(limits.GAP_WAIT_MS + 1)
    assert len(maker.asked(host, "log")) == 2


def test_a_batch_from_the_far_future_of_a_log_waits_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A gap like any other; the farthest of too many waiting is dropped."""
    monkeypatch.setattr("zmqex.kernel.replicas.GAP_BATCHES_MAX", 2)
    _, host, maker = scene()
    for sequence in (1_000, 5, 7, 6):
        maker.say(host, maker.topic, maker.sign(maker.new(sequence)[1], sequence=sequence))
    assert sorted(log_of(host, maker).gap) == [5, 6]
    assert counted(host, "gap_batches_dropped") == 2


def test_a_heartbeat_reveals_that_the_last_batch_was_lost() -> None:
    """Its head is ahead of ours: the log is fetched."""
    wire, host, maker = scene()
    maker.say(host, maker.topic, maker.publish(maker.new(1)[1]))
    maker.publish(maker.new(2)[1])
    maker.say(host, b"h", maker.beat())
    wire.run(limits.GAP_WAIT_MS + 1)
    maker.reply(host, "log", LogPage(maker.envelopes[1:], 0))
    wire.run(0)
    assert log_of(host, maker).fold.head() == maker.fold.head()


def test_a_newer_epoch_voids_the_older_at_once() -> None:
    """By a batch, or by a head without any batch: what was said before is gone."""
    wire, host, maker = scene()
    maker.say(host, maker.topic, maker.publish(maker.new(1)[1]))
    maker.fold.begin(wire.wall_ms + 5)
    maker.say(host, b"h", maker.beat())
    assert resting(host) == []
    assert log_of(host, maker).at == (wire.wall_ms + 5, 0)
    maker.fold.begin(wire.wall_ms + 6)
    key, place = maker.new(2)
    maker.say(host, maker.topic, maker.publish(place))
    assert resting(host) == [key]
    old = maker.sign(maker.new(3)[1], epoch=1, sequence=1)
    host.n.replicas.accept_batch(waiting_of(old))
    assert resting(host) == [key]
    maker.say(
        host, b"h", maker.beat(msgspec.structs.replace(maker.fold.head(), epoch=1), later_ms=1)
    )
    assert resting(host) == [key]


# --- heartbeats -----------------------------------------------------------------------------------


def test_a_heartbeat_counts_if_it_is_new_and_fresh() -> None:
    """Old, repeated, too far in the future: ignored; too old to be alive: its heads count."""
    wire, host, maker = scene()
    maker.say(host, b"h", maker.beat(later_ms=-limits.CLOCK_SKEW_MAX_MS - 1))
    assert host.n.replicas.is_stale(maker.identity)
    beat = maker.beat()
    maker.say(host, b"h", beat)
    assert not host.n.replicas.is_stale(maker.identity)
    maker.say(host, b"h", beat)
    maker.say(host, b"h", maker.beat(later_ms=-1))
    assert (counted(host, "ignored_old_heartbeat"), counted(host, "repeats")) == (1, 1)
    maker.say(host, b"h", maker.beat(later_ms=limits.CLOCK_SKEW_MAX_MS + 1))
    assert counted(host, "ignored_clock_skew") == 1
    older = decode(msgspec.msgpack.decode(beat)[0], Heartbeat)
    host.n.replicas.accept_heartbeat(older, beat, b"")  # verified after a newer one
    wire.run(limits.SILENT_MS)
    host.do(lambda: None)
    assert host.n.replicas.is_stale(maker.identity)
    assert host.n.replicas.is_stale(b"nobody")
    assert not host.n.replicas.is_stale(host.identity)


def test_heads_of_other_markets_and_times_are_passed_over() -> None:
    """Only followed markets count, and no epoch from the future."""
    wire, host, maker = scene()
    head = maker.fold.head()
    strange = msgspec.structs.replace(head, market="BTC/EUR")
    future = msgspec.structs.replace(head, epoch=wire.wall_ms + 10**6)
    maker.say(host, b"h", maker.beat(strange, future))
    assert host.n.replicas.logs_of(maker.identity) == []
    assert host.n.replicas.logs_of(b"nobody") == []
    assert host.n.replicas.markets() == (MARKET,)


def test_a_heartbeat_of_a_peer_that_backs_off_makes_us_dial() -> None:
    """It lives after all, and its address is due."""
    wire, host, maker = scene()
    wire.run(5)
    maker.say(host, b"p", maker.record(leaving=True))
    assert host.n.sessions.peers[maker.identity].state is State.BACKING_OFF
    host.effects.clear()
    maker.say(host, b"h", maker.beat())
    wire.run(1_000)
    assert any(isinstance(one, out.DialHello) for one in host.effects)


# --- what is kept out of the book for a time ------------------------------------------------------


def test_an_order_that_ends_too_late_is_shown_when_it_does_not_any_more() -> None:
    """Its maker's clock is ahead; a while later it is an order like any other."""
    wire, host, maker = scene()
    far_ms = wire.wall_ms + limits.ORDER_LIFE_MAX_MS + limits.CLOCK_SKEW_MAX_MS + 6_000
    (key, place), (gone, other) = maker.new(1, expires_at_ms=far_ms), maker.new(2)
    maker.say(host, maker.topic, maker.publish(place, other, sent_at_ms=wire.wall_ms + 60_000))
    maker.say(host, maker.topic, maker.publish(Close(gone, "filled")))
    assert (resting(host), counted(host, "hidden_expiry_too_far")) == ([], 1)
    wire.run(2 * limits.HEARTBEAT_EVERY_MS)
    assert resting(host) == [key]
    assert log_of(host, maker).hidden == {}


def test_orders_that_had_ended_by_a_wrong_clock_come_back() -> None:
    """Our clock was an hour ahead for a while, and is set right again."""
    wire, host, maker = scene()
    key, place = maker.new(1, expires_at_ms=wire.wall_ms + 600_000)
    maker.say(host, maker.topic, maker.publish(place))
    wire.wall_ms += 3_600_000
    late, second = maker.new(2, expires_at_ms=wire.wall_ms - 1_000)
    maker.say(host, maker.topic, maker.publish(second))
    wire.run(limits.HEARTBEAT_EVERY_MS)
    assert resting(host) == []
    wire.wall_ms -= 3_600_000
    wire.run(limits.HEARTBEAT_EVERY_MS)
    assert set(resting(host)) == {key, late}


def test_an_order_that_a_full_book_had_no_room_for_is_shown_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As soon as there is room, unless its log is void by then."""
    wire, host, maker = scene()
    book = host.n.replicas.book(MARKET)
    with monkeypatch.context() as patch:
        patch.setattr(book, "_orders_max", 0)
        key, place = maker.new(1)
        maker.say(host, maker.topic, maker.publish(place))
        wire.run(limits.HEARTBEAT_EVERY_MS)
        assert log_of(host, maker).hidden == {key: None}
    wire.run(limits.HEARTBEAT_EVERY_MS)
    assert resting(host) == [key]
    with monkeypatch.context() as patch:
        patch.setattr(book, "_orders_max", 1)
        maker.say(host, maker.topic, maker.publish(maker.new(2)[1]))
    maker.say(host, maker.topic, maker.sign(maker.new(3)[1], sequence=1, previous_hash=bytes(32)))
    wire.run(limits.HEARTBEAT_EVERY_MS)
    assert (log_of(host, maker).state, resting(host)) == ("forked", [])
