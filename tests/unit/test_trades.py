"""Trades move along their table only, and what was written down comes back."""

from __future__ import annotations

import pytest

from tests.stories import place, state_of, taken, trade_of
from tests.world import World
from zmqex.errors import LocalProtocolError
from zmqex.kernel.commands import SentTrade
from zmqex.trading.states import Input, State


def test_a_move_that_the_table_does_not_have_is_a_fault_and_changes_nothing() -> None:
    """A part of the kernel that does not ask first is wrong, and is told so."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    trade_id = taken(world, alice, bob, pay_mode="manual")
    before = trade_of(alice, trade_id)
    with pytest.raises(LocalProtocolError, match="pay_failed is illegal in plain/maker/invoiced"):
        alice.k.trades.move(before, Input.PAY_FAILED)
    assert alice.k.trades.by_id[before.trade_id] == before
    assert not alice.k.trades.can(before, Input.PAY_FAILED)


def test_transcripts_and_outbox_survive_a_restart() -> None:
    """Said while the other one is away, written down, delivered after our own restart."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    trade_id = taken(world, alice, bob, "sell")
    alice.crash()
    bob.tell(SentTrade(trade_id, "wire 9"))
    lines = dict(bob.k.trades.lines[bytes.fromhex(trade_id)])
    assert len(bob.journal.outbox) == 1
    bob.crash()
    for node in (alice, bob):
        node.start()
        world.introduce(node)
    assert bob.k.trades.lines[bytes.fromhex(trade_id)] == lines
    world.run(30_000)
    assert bob.journal.outbox == {}
    assert state_of(alice, trade_id) is State.QUOTE_SENT
    assert trade_of(alice, trade_id).reference == "wire 9"


def test_the_trades_of_an_order_are_listed_oldest_first() -> None:
    """`of_order` for the maker's order and for the order that took."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    first = taken(world, alice, bob)
    world.run(1_000)
    second = bob.tell(place("sell", 10_000_000))["trades"][0]["trade_id"]
    (order_id,) = alice.journal.orders
    listed = [one.trade_id.hex() for one in alice.k.trades.of_order(order_id)]
    assert listed == [first, second]
