"""Takes that were cancelled before they came leave nothing behind once they could come no more."""

from __future__ import annotations

import pytest

from tests.stories import BTC, MINUTE, check_always, place, say_raw, signed
from tests.world import SimNode, World
from zmqex.kernel.commands import ListTrades
from zmqex.kernel.tombstones import LIFE_MS
from zmqex.limits import CLOCK_SKEW_MAX_MS, TAKE_AGE_MAX_MS
from zmqex.protocol.identity import ZERO_DIGEST, trade_id
from zmqex.protocol.messages import QuoteSent, TradeCancel
from zmqex.trading.states import State


def cancelled(count: int = 1) -> tuple[World, SimNode, SimNode, list[bytes]]:
    """Alice rests an order; bob cancels so many takes of it that she never saw."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    alice.tell(place("sell", BTC))
    world.run(300)
    return world, alice, bob, [cancel(world, alice, bob, number) for number in range(count)]


def cancel(world: World, alice: SimNode, bob: SimNode, number: int) -> bytes:
    """Have one take cancelled; the id of its trade."""
    take_id = number.to_bytes(32, "big")
    key = trade_id("play", alice.identity, bob.identity, take_id)
    message = TradeCancel(key, ZERO_DIGEST, world.wall_ms, take_id, bob.identity, "cancelled")
    say_raw(world, bob, alice, "trade", signed(bob, message))
    return key


def is_forgotten(alice: SimNode, keys: list[bytes]) -> bool:
    """Whether neither the kernel nor the journal has anything of these trades."""
    trades, journal = alice.k.trades, alice.journal
    left = {*trades.by_id, *trades.lines, *trades._outbox, *journal.trades}
    left |= {one.trade_id for one in journal.lines.values()}
    left |= {one.trade_id for one in journal.outbox.values()}
    of_order = [one.trade_id for one in trades.of_order(bytes(32))]
    return not left.intersection(keys) and not of_order


def test_a_tombstone_lives_as_long_as_its_take_could_be_accepted() -> None:
    """The age of a take and what clocks may differ by; then nothing is left of it."""
    world, alice, bob, keys = cancelled(3)
    assert set(keys) <= set(alice.journal.trades)
    world.run(TAKE_AGE_MAX_MS + CLOCK_SKEW_MAX_MS - 5_000)
    assert set(keys) <= set(alice.journal.trades)
    world.run(6_000)
    assert is_forgotten(alice, keys)
    assert alice.tell(ListTrades(ended=True))["trades"] == []
    assert cancel(world, alice, bob, 0) in alice.journal.trades, "cancelled again, answered again"
    check_always(world)


def test_a_taker_that_is_away_keeps_no_tombstone_alive() -> None:
    """What it was to be told is dropped with it."""
    world, alice, bob, keys = cancelled()
    bob.crash()
    assert alice.journal.outbox
    world.run(LIFE_MS + 1_000)
    assert is_forgotten(alice, keys)
    assert not alice.journal.outbox


@pytest.mark.parametrize("down_ms", [1_000, 20 * MINUTE])
def test_a_restart_drops_what_is_over_and_the_rest_in_time(down_ms: int) -> None:
    """However long the node was away."""
    world, alice, _, keys = cancelled()
    alice.crash()
    world.run(down_ms)
    alice.start()
    world.introduce(alice)
    world.run(1_000)
    assert is_forgotten(alice, keys) == (down_ms > LIFE_MS)
    world.run(LIFE_MS)
    assert is_forgotten(alice, keys)
    assert alice.journal.orders


def test_nothing_more_can_be_said_of_a_tombstone() -> None:
    """A claim that the quote was sent would make it a dispute, which nothing ends."""
    world, alice, bob, (key,) = cancelled()
    say_raw(world, bob, alice, "trade", signed(bob, QuoteSent(key, ZERO_DIGEST, 1, "wire 7")))
    assert alice.journal.trades[key].state is State.CANCELLED
    world.run(LIFE_MS + 1_000)
    assert is_forgotten(alice, [key])
