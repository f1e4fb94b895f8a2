"""A maker that sells by lock pays first: what is locked for a taker is as unpaid as a hold."""

from __future__ import annotations

from tests.stories import BTC, place
from tests.unit.lock_stories import LOTS, bought, offered, sold, states
from tests.world import World
from zmqex.limits import HTLC_SEND_MS, UNPAID_WAIT_FIRST_MS


def test_what_is_locked_for_strangers_counts_as_what_they_hold() -> None:
    """To have the maker lock costs nothing: together they get half of the order all the same."""
    world = World()
    alice = world.add("alice", stranger_percent=50)
    bob, carol = world.add("bob"), world.add("carol")
    world.run(2_000)
    offered(world, alice)
    trade = bought(world, bob)
    assert states(alice, bob, trade)[0] == "paying"
    (other,) = carol.tell(place("buy", LOTS, settlements=("htlc",)))["trades"]
    assert other["quantity_lots"] == BTC // 2 - LOTS


def test_a_lock_that_came_to_nothing_makes_its_taker_wait() -> None:
    """The maker's base was locked for two hours, and no quote was sent for it."""
    world, alice, bob, trade = sold()
    world.run(HTLC_SEND_MS + 60_000)
    assert states(alice, bob, trade)[0] == "cancelled"
    wait_ms = alice.k.admission._caps.wait_ms(bob.identity)
    assert 0 < wait_ms <= UNPAID_WAIT_FIRST_MS
