"""Words and short stories that the tests of the maker's side share."""

from __future__ import annotations

from tests.stories import (
    BTC,
    MINUTE,
    only_trade,
    place,
    state_of,
    taken,
)
from tests.world import SimNode, World
from zmqex.kernel.commands import (
    ReceivedTrade,
    SentTrade,
)
from zmqex.trading.states import State

DAY = 24 * 60 * MINUTE


def scene(*names: str) -> tuple[World, list[SimNode]]:
    """Connected nodes: alice makes, the others take."""
    world = World()
    return world, world.meet(*(names or ("alice", "bob")))


def confirmed_without_funds() -> tuple[World, SimNode, SimNode, str]:
    """A selling maker has confirmed the quote but cannot pay."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, "sell")
    bob.tell(SentTrade(trade_id))
    world.run(100)
    alice.ledger.balance_msat -= 980_000_000_000
    alice.tell(ReceivedTrade(trade_id))
    world.run(1_000)
    assert state_of(alice, trade_id) is State.PAY_INTENT
    assert state_of(bob, trade_id) is State.INVOICED
    return world, alice, bob, trade_id


def reserved() -> tuple[World, SimNode, SimNode, bytes]:
    """A maker that buys by `htlc` holds, but its invoice gets no answer; the taker is gone."""
    world, (alice, bob) = scene()
    world.mine(0)
    alice.ledger.fail_create = "indeterminate"
    alice.tell(place("buy", BTC, settlements=("htlc",)))
    world.run(300)
    bob.command(place("sell", 4 * BTC // 10, settlements=("htlc",)))
    world.run(100)
    bob.crash()
    trade = only_trade(alice)
    assert trade.state is State.RESERVED
    return world, alice, bob, trade.payment_hash
