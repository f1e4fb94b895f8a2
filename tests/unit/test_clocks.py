"""Clocks that were wrong for a while: what was believed meanwhile stands in nobody's way."""

from __future__ import annotations

import pytest

from tests.unit.floor import LOTS, place
from tests.unit.maker import counted, log_of, resting, scene
from tests.wire import MARKET, Host, Wire
from tests.world import SimNode, World
from zmqex import limits
from zmqex.kernel.commands import PlaceOrder
from zmqex.kernel.sessions import State
from zmqex.limits import CLOCK_SKEW_MAX_MS, RECORD_LIFE_MS, SILENT_MS
from zmqex.protocol.messages import PeerRecord
from zmqex.protocol.record import check_record

AHEAD_MS = 600_000


def state(host: Host, peer: Host) -> State:
    """How a host stands with another."""
    return host.n.sessions.peers[peer.identity].state


def test_a_heartbeat_of_the_future_makes_no_later_one_old() -> None:
    """Once our own clock is right again, the maker is heard, and what we missed is fetched."""
    wire, host, maker = scene()
    maker.say(host, maker.topic, maker.publish(maker.new(1)[1]))
    wire.wall_ms += AHEAD_MS
    maker.say(host, b"h", maker.beat())
    wire.wall_ms -= AHEAD_MS
    maker.publish(maker.new(2)[1])
    maker.say(host, b"h", maker.beat())
    assert counted(host, "ignored_old_heartbeat") == 0
    assert log_of(host, maker).target[1] == 2
    wire.wall_ms += 1
    maker.say(host, b"h", maker.beat())
    maker.say(host, b"h", maker.beat(later_ms=-2))
    assert counted(host, "ignored_old_heartbeat") == 1


def test_a_maker_that_sets_its_clock_back_is_heard_before_long() -> None:
    """What it said when it was 29 s ahead, and we believed, silences it for 15 s and no longer."""
    wire, host, maker = scene()
    maker.say(host, b"h", maker.beat(later_ms=29_000))
    maker.publish(maker.new(1)[1])
    maker.say(host, b"h", maker.beat())
    assert counted(host, "ignored_old_heartbeat") == 1
    wire.run(SILENT_MS)
    maker.say(host, b"h", maker.beat())
    assert log_of(host, maker).target[1] == 1
    assert not host.n.replicas.is_stale(maker.identity)


def test_an_order_that_ended_by_a_clock_set_back_since_is_shown_again() -> None:
    """However short the time was in which the clock was ahead."""
    wire, host, maker = scene()
    wire.run(limits.HEARTBEAT_EVERY_MS)
    key, place_it = maker.new(1, expires_at_ms=wire.wall_ms + AHEAD_MS // 2)
    maker.say(host, maker.topic, maker.publish(place_it))
    wire.wall_ms += AHEAD_MS
    host.do(lambda: None)
    assert resting(host) == []
    wire.wall_ms -= AHEAD_MS
    wire.run(limits.HEARTBEAT_EVERY_MS + 1_000)
    assert resting(host) == [key]


@pytest.mark.parametrize("ahead_ms", [AHEAD_MS, 2 * RECORD_LIFE_MS])
def test_a_record_of_the_future_is_replaced_when_the_clock_is_set_back(ahead_ms: int) -> None:
    """The node can be met by strangers again, and by peers that believed that record."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    wire.wall_ms += ahead_ms
    alice.crash()
    alice.start()
    wire.introduce(alice)
    wire.run(3_000)
    assert isinstance(check_record(alice.record, "play", wire.wall_ms), PeerRecord)
    wire.wall_ms -= ahead_ms
    wire.run(2_000)
    assert isinstance(check_record(alice.record, "play", wire.wall_ms), PeerRecord)
    first = alice.record
    alice.crash()
    alice.start()
    wire.introduce(alice)
    wire.run(20_000)
    second = check_record(alice.record, "play", wire.wall_ms)
    assert isinstance(second, PeerRecord)
    before = check_record(first, "play", wire.wall_ms)
    assert isinstance(before, PeerRecord)
    assert before.sequence < second.sequence <= wire.wall_ms + RECORD_LIFE_MS
    assert (state(alice, bob), state(bob, alice)) == (State.LIVE, State.LIVE)


def test_a_clock_that_was_behind_for_a_while_leaves_no_old_record_behind() -> None:
    """What was numbered low meanwhile is numbered anew, and who starts afresh can be met."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    wire.wall_ms -= 2 * CLOCK_SKEW_MAX_MS
    wire.run(2_000)
    wire.wall_ms += 2 * CLOCK_SKEW_MAX_MS
    wire.run(2_000)
    bob.crash()
    bob.start()
    wire.introduce(bob)
    wire.run(20_000)
    assert (state(alice, bob), state(bob, alice)) == (State.LIVE, State.LIVE)
    assert alice.n.sessions.peers[bob.identity].raw == bob.record


def ahead() -> tuple[World, SimNode, SimNode]:
    """Bob's clock is ahead, and an order of his is still asking alice for a part of it."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(alice, "sell", LOTS, 100)
    world.run(300)
    world.wall_ms += AHEAD_MS
    bob.command(PlaceOrder(MARKET, "buy", 3 * LOTS, 100))
    return world, alice, bob


def test_an_order_that_lives_too_long_by_the_clock_set_right_is_closed() -> None:
    """Its own maker could not publish it, and ends it in place of itself."""
    world, _, bob = ahead()
    world.wall_ms -= AHEAD_MS
    world.run(5_000)
    (row,) = bob.k.orders.rows.values()
    assert (row.state, row.close_reason) == ("closed", "expiry_too_far")
    assert row.dropped_lots + row.taken_lots == 3 * LOTS
    place(bob, "buy", LOTS, 90)


def test_an_order_that_lives_too_long_at_a_restart_is_closed() -> None:
    """It was written down as open, but not yet published where others have more of the log."""
    world, _, bob = ahead()
    world.run(5_000)
    (key,) = bob.k.orders.rows
    assert bob.k.orders.rows[key].state == "open"
    bob.crash()
    bob.journal.batches.clear()
    world.wall_ms -= AHEAD_MS
    bob.start()
    assert bob.k.orders.rows[key].close_reason == "expiry_too_far"
