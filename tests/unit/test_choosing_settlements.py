"""How a trade may be settled: what an order names, what a take asks for, and what fits neither."""

from __future__ import annotations

import pytest

from tests.stories import BTC, place
from tests.wire import order
from tests.world import SimNode, World
from zmqex.kernel.commands import MatchOrder, ShowOrder, TakeOrder
from zmqex.kernel.effects import Persist


def rest_foreign(*settlements: str) -> tuple[World, SimNode, str]:
    """A node whose book has a newer program's buy order with these settlements; the order's id."""
    world = World()
    maker, node = world.meet("maker", "node")
    terms = order(1, world.wall_ms, quantity_lots=BTC, price_ticks=100, settlements=settlements)
    maker.k.core.begin(world.now())
    row = maker.k.orders.add(terms, time_in_force="gtc")
    maker.k.orders.publish(row.order_id)
    maker.k.publisher.flush()
    for effect in maker.k.core.finish():
        if isinstance(effect, Persist):
            maker.journal.commit(effect.writes)
        else:
            world.carry_out(maker, effect)
    world.arm(maker)
    world.run(300)
    return world, node, row.order_id.hex()


def test_an_order_that_this_node_cannot_settle_is_refused() -> None:
    """Before anything is placed, in one sentence."""
    world = World()
    (alice,) = world.meet("alice")
    answer = alice.ask(place("buy", BTC, settlements=("plain", "barter")))
    assert (answer.ok, answer.result["reason"]) == (False, "unsupported_settlement")
    assert answer.result["message"].startswith("the order was refused: this node settles by")
    assert not alice.journal.orders


@pytest.mark.parametrize("asked", ["barter", "plain"])
def test_a_take_by_a_settlement_that_the_order_does_not_name_is_refused(asked: str) -> None:
    """Nobody is asked, and what the order names is said."""
    _, node, order_id = rest_foreign("barter", "swapped")
    answer = node.ask(TakeOrder(order_id, BTC, settlement=asked))
    assert (answer.ok, answer.result["reason"]) == (False, "unsupported_settlement")
    said = "it is settled by barter or swapped; this node settles by"
    assert said in answer.result["message"]


def test_an_order_takes_only_what_shares_a_settlement_with_it() -> None:
    """It rests beside the other one, and its owner is told why."""
    _, node, order_id = rest_foreign("barter")
    answer = node.tell(place("sell", BTC))
    assert answer["trades"] == []
    (skipped,) = answer["skipped"]
    assert (skipped["order_id"], skipped["reason"]) == (order_id, "unsupported_settlement")
    assert skipped["detail"].startswith("it is settled by barter; this node settles by")
    assert answer["order"]["settlements"] == ["plain"]
    assert node.tell(ShowOrder(order_id))["order"]["settlements"] == ["barter"]


def test_who_passes_an_order_over_is_told_how_to_take_it() -> None:
    """The option and its word, where this node can settle so; else why it cannot."""
    _, node, order_id = rest_foreign("barter", "htlc")
    (skipped,) = node.tell(place("sell", BTC, time_in_force="ioc"))["skipped"]
    assert skipped["detail"] == "it is settled by barter or htlc; take it with --settlement htlc"
    refused = node.ask(TakeOrder(order_id, BTC))
    assert refused.result["message"].endswith(skipped["detail"])
    question = MatchOrder(market="BTC/USD", side="sell", quantity_lots=BTC, price_ticks=100)
    (match,) = node.tell(question)["matches"]
    assert match["settlements"] == ["barter", "htlc"]


def test_a_trade_says_how_it_is_settled() -> None:
    """A user who said nothing gets `plain`."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    alice.tell(place("buy", BTC))
    world.run(300)
    (trade,) = bob.tell(place("sell", BTC))["trades"]
    assert trade["settlement"] == "plain"
