"""A buyer by `htlc` says that it has sent the quote when the lock it sent it for is gone."""

from __future__ import annotations

import pytest

from tests.stories import BTC, available, check_quiet, holds, trade_of
from tests.unit.lock_stories import (
    LOTS,
    is_disputed,
    locked,
    shorten,
    sold,
    states,
)
from tests.world import SimNode, World
from zmqex.kernel.commands import DisputeTrade, ResolveTrade, SendTrade, SentTrade
from zmqex.limits import HTLC_CONFIRM_MS
from zmqex.trading.states import State

MINUTE = 60_000


def lost_by_a_maker() -> tuple[World, SimNode, SimNode, str]:
    """Alice was about to send Bob the quote when the lock went back."""
    world, alice, bob, trade = locked()
    alice.tell(SendTrade(trade))
    shorten(world, alice, trade, 10)
    world.run(MINUTE)
    assert is_disputed(alice, trade)
    return world, alice, bob, trade


def lost_by_a_taker() -> tuple[World, SimNode, SimNode, str]:
    """Bob was about to send Alice the quote when the lock went back."""
    world, alice, bob, trade = sold()
    bob.tell(SendTrade(trade))
    shorten(world, bob, trade, 10)
    world.run(MINUTE)
    assert states(alice, bob, trade) == ("cancelled", "disputed")
    return world, alice, bob, trade


@pytest.mark.parametrize("outcome", ["settled", "cancelled"])
def test_a_selling_maker_hears_the_claim_as_a_dispute_of_no_quantity(outcome: str) -> None:
    """Its quantity has gone back when its payment failed, and is on offer again."""
    world, alice, bob, trade = lost_by_a_taker()
    assert available(alice, "asks") == [BTC]
    answer = bob.tell(SentTrade(trade, "wire 7"))
    assert answer["trade"]["state"] == "disputed"
    world.run(4_000)
    row = trade_of(alice, trade)
    assert (row.state, row.late, row.reference) == (State.DISPUTED, True, "wire 7")
    assert available(alice, "asks") == [BTC]
    assert holds(alice) == []
    world.run(10 * MINUTE)
    for node in (alice, bob):
        node.tell(ResolveTrade(trade, outcome))
    world.run(2_000)
    assert available(alice, "asks") == [BTC]
    check_quiet(world, frozenset({bytes.fromhex(trade)}))


@pytest.mark.parametrize("outcome", ["settled", "cancelled"])
def test_a_selling_taker_hears_the_claim_when_it_has_left(outcome: str) -> None:
    """While it gets out of the trade the claim comes again; then it is a dispute of its own."""
    world, alice, bob, trade = lost_by_a_maker()
    alice.tell(SentTrade(trade, "wire 7"))
    world.run(16 * MINUTE)
    row = trade_of(bob, trade)
    assert (row.state, row.late, row.reference) == (State.DISPUTED, True, "wire 7")
    order = bob.journal.orders[row.own_order_id]
    assert (order.taken_lots, order.dropped_lots) == (0, LOTS)
    for node in (alice, bob):
        node.tell(ResolveTrade(trade, outcome))
    world.run(2_000)
    assert bob.journal.orders[row.own_order_id] == order
    assert available(alice) == [BTC - LOTS * (outcome == "settled")]
    check_quiet(world, frozenset({bytes.fromhex(trade)}))


def test_a_claim_is_said_once() -> None:
    """And only of what may have been sent: not before `trade send`, not twice."""
    world, alice, _, trade = lost_by_a_maker()
    assert alice.ask(SendTrade(trade)).result["reason"] == "wrong_state"
    alice.tell(SentTrade(trade, "wire 7"))
    world.run(1_000)
    assert alice.ask(SentTrade(trade, "wire 8")).result["reason"] == "wrong_state"
    assert trade_of(alice, trade).reference == "wire 7"


def test_a_claim_under_a_lock_that_still_holds_is_heard_as_any_other() -> None:
    """The buyer's confirm time is over; the seller can still release."""
    world, alice, bob, trade = locked()
    alice.tell(SendTrade(trade))
    world.run(HTLC_CONFIRM_MS + MINUTE)
    assert states(alice, bob, trade) == ("disputed", "paying")
    alice.tell(SentTrade(trade, "wire 7"))
    world.run(MINUTE)
    assert states(alice, bob, trade) == ("disputed", "quote_sent")


def test_a_trade_that_was_disputed_after_the_word_makes_no_second_claim() -> None:
    """What was said stays said."""
    world, alice, _, trade = locked()
    alice.tell(SendTrade(trade))
    alice.tell(SentTrade(trade, "wire 7"))
    alice.tell(DisputeTrade(trade))
    world.run(1_000)
    assert alice.ask(SentTrade(trade, "wire 8")).result["reason"] == "wrong_state"
