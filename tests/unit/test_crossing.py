"""Two orders that cross and both rest trade once: the lower id is the maker's, the other takes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stories import (
    BTC,
    MINUTE,
    available,
    check_always,
    check_quiet,
    only_trade,
    place,
    quote_leg,
    revive,
)
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel.commands import CancelOrder, ListOrders, TakeOrder
from zmqex.limits import CROSSED_WAIT_MS, ENDED_KEPT_MS, SKIP_MAKER_MS
from zmqex.trading.states import State, TradeRole


def crossed(
    seed: int,
    lots: int = BTC,
    **sells: Any,  # noqa: ANN401 - terms of bob's order
) -> tuple[World, SimNode, SimNode]:
    """Alice bids and bob offers at the same moment; whose order has the lower id comes first."""
    world = World(seed)
    alice, bob = world.meet("alice", "bob")
    alice.command(place("buy", BTC))
    bob.command(place("sell", lots, **sells))
    world.run(20)
    ids = {name: next(iter(world.nodes[name].journal.orders)) for name in ("alice", "bob")}
    assert all(one.journal.orders[ids[one.name]].state == "open" for one in (alice, bob))
    maker, taker = (alice, bob) if ids["alice"] < ids["bob"] else (bob, alice)
    return world, maker, taker


def with_maker(
    name: str,
    lots: int = BTC,
    **sells: Any,  # noqa: ANN401 - as above
) -> tuple[World, SimNode, SimNode]:
    """The first such scene in which that one's order has the lower id."""
    scenes = (crossed(seed, lots, **sells) for seed in range(1, 50))
    return next(scene for scene in scenes if scene[1].name == name)


@pytest.mark.parametrize("seed", range(1, 9))
def test_two_orders_published_at_the_same_moment_make_exactly_one_trade(seed: int) -> None:
    """The owner of the higher id takes, the other one waits; nothing is left of either order."""
    world, maker, taker = crossed(seed)
    world.run(2 * CROSSED_WAIT_MS)
    world.run(1_000)
    for node, role in ((maker, TradeRole.MAKER), (taker, TradeRole.TAKER)):
        trade = only_trade(node)
        assert (trade.role, trade.quantity_lots) == (role, BTC)
        assert sum(row.taken_lots for row in node.journal.orders.values()) == (
            BTC if role is TradeRole.TAKER else 0
        )
    alice, bob = world.nodes["alice"], world.nodes["bob"]
    quote_leg(world, alice, bob, only_trade(alice).trade_id.hex())
    world.run(5_000)
    assert only_trade(alice).state is only_trade(bob).state is State.SETTLED
    assert alice.tell(ListOrders())["orders"] == bob.tell(ListOrders())["orders"] == []
    check_quiet(world)


def test_what_is_being_taken_for_a_resting_order_is_held_of_it() -> None:
    """Its journal says so before the take leaves, and its book shows it."""
    world, maker, taker = with_maker("alice")
    seen: list[int] = []

    def spy(node: SimNode, effect: out.Effect) -> None:
        if node is taker and isinstance(effect, out.SendRequest) and taker.journal.trades:
            (row,) = taker.journal.orders.values()
            seen.append(row.taken_lots)

    world.spy = spy
    maker.pause()
    world.run(CROSSED_WAIT_MS + 50)
    assert BTC in seen
    assert available(taker, "asks") == [0]
    check_always(world)


def test_what_a_maker_refuses_rests_again_and_is_asked_for_later() -> None:
    """Set aside for half a minute; then it is one trade after all, and our operator decides."""
    world, maker, taker = with_maker("alice")
    maker.holds = "full"
    world.run(2 * CROSSED_WAIT_MS + 500)
    assert [one.state for one in taker.journal.trades.values()] == [State.REFUSED]
    (row,) = taker.journal.orders.values()
    assert (row.taken_lots, row.dropped_lots, row.state) == (0, 0, "open")
    maker.holds = "up"
    world.run(SKIP_MAKER_MS + 5_000)
    states = sorted(one.state for one in taker.journal.trades.values())
    assert states == [State.ACCEPTED, State.REFUSED]
    assert taker.ledger.payments == {}
    check_always(world)


def test_a_smaller_maker_fills_a_part_and_the_rest_goes_on_resting() -> None:
    """The maker has less than the taker: what it accepts is taken, no more."""
    world, maker, taker = with_maker("bob", lots=4 * BTC // 10)
    assert maker.name == "bob"
    world.run(2 * CROSSED_WAIT_MS + 2_000)
    assert only_trade(taker).quantity_lots == 4 * BTC // 10
    (row,) = taker.journal.orders.values()
    assert (row.taken_lots, row.state) == (4 * BTC // 10, "open")
    check_always(world)


def test_an_accept_of_less_gives_the_difference_back() -> None:
    """Another taker was faster: what the maker cannot give any more rests again."""
    world, maker, taker = with_maker("alice")
    carol = world.add("carol")
    world.drop = lambda node, target, effect: (
        (node, target) == (maker, taker) and isinstance(effect, out.Publish)
    )
    world.run(60)
    order_id = next(iter(maker.journal.orders)).hex()
    world.run_until(lambda: carol.k.replicas.row(bytes.fromhex(order_id)) is not None)
    carol.command(TakeOrder(order_id, 6 * BTC // 10, pay_mode="manual"))
    world.run(3_000)
    mine = [one for one in taker.journal.trades.values() if one.state is State.BASE_DONE]
    total = sum(one.quantity_lots for one in maker.journal.trades.values())
    (row,) = taker.journal.orders.values()
    assert row.taken_lots == sum(one.quantity_lots for one in mine)
    assert total <= BTC
    check_always(world)


def test_an_abandoned_take_gives_everything_back() -> None:
    """The maker never heard it: it is called off, and the order rests whole."""
    world, maker, taker = with_maker("alice")
    maker.pause()
    world.run(CROSSED_WAIT_MS + 20)
    maker.paused = [one for one in maker.paused or [] if type(one).__name__ != "RequestReceived"]
    maker.resume()
    world.arm(maker)
    world.run(3_000)
    (trade,) = taker.journal.trades.values()
    assert trade.state in {State.ABANDONING, State.CANCELLED}
    (row,) = taker.journal.orders.values()
    assert (row.taken_lots, row.dropped_lots) == (0, 0)
    check_always(world)


def test_a_cancelled_order_does_not_come_back() -> None:
    """Its owner cancels while the take is under way, and the maker never answers."""
    world, maker, taker = with_maker("alice")
    maker.crash()
    world.run(CROSSED_WAIT_MS + 50)
    assert [one.state for one in taker.journal.trades.values()] == [State.TAKING]
    (cancelled,) = taker.tell(CancelOrder(""))["cancelled"]
    assert (cancelled["removed_lots"], cancelled["remaining_lots"]) == (0, 0)
    world.run(5_000)
    (row,) = taker.journal.orders.values()
    assert (row.state, row.taken_lots, row.dropped_lots) == ("closed", 0, BTC)


def test_a_crash_while_asking_gives_the_quantity_back() -> None:
    """Nobody waits for the answer any more: the order rests whole, the take is called off."""
    world, maker, taker = with_maker("alice")
    maker.crash()
    world.run(CROSSED_WAIT_MS + 50)
    taker.crash()
    taker.start()
    (row,) = taker.journal.orders.values()
    assert (row.state, row.taken_lots, row.dropped_lots) == ("open", 0, 0)
    revive(world)
    world.run(20 * MINUTE)
    check_quiet(world)


@pytest.mark.parametrize("terms", [{"post_only": True}, {"all_or_none": True}])
def test_an_order_that_must_not_take_waits(terms: dict[str, bool]) -> None:
    """Post-only and all-or-none orders never become takers once they rest."""
    world, _, taker = with_maker("alice", **terms)
    assert taker.name == "bob"
    world.run(5_000)
    assert not taker.journal.trades


def test_own_orders_that_cross_others_are_not_traded_with_each_other() -> None:
    """A stranger's order between two own ones is no way around the rule against self-trade."""
    world = World(3)
    alice, bob = world.meet("alice", "bob")
    alice.tell(place("buy", BTC, 90))
    bob.command(place("sell", BTC, 95))
    alice.command(place("buy", BTC, 96))
    world.run(20)
    world.run(5_000)
    quantities = [one.quantity_lots for one in alice.journal.trades.values()]
    assert quantities == [BTC]
    check_always(world)


def test_an_order_that_has_just_gone_is_not_taken() -> None:
    """The book still shows it, its maker's log does not."""
    world, _, taker = with_maker("alice")
    object.__setattr__(taker.k.replicas, "row", lambda _order_id: None)
    world.run(5_000)
    assert not taker.journal.trades


def test_an_order_that_is_closed_is_not_looked_at_again() -> None:
    """Whatever crosses later, what has ended is forgotten."""
    world, alice, bob = with_maker("alice")
    world.run(3_000)
    closed = [next(iter(node.journal.orders)) for node in (alice, bob)]
    alice.command(place("buy", BTC))
    bob.command(place("sell", BTC))
    world.run(3_000)
    for node, own_id in zip((alice, bob), closed, strict=True):
        assert own_id not in node.k.desk._crossing._met
        assert len(node.journal.trades) == 2
    check_always(world)


def test_what_was_met_is_forgotten_with_the_order_that_met_it() -> None:
    """A book that crosses again long after the order has left memory finds nothing of it."""
    world, maker, taker = with_maker("alice")
    maker.holds = "full"
    carol = world.add("carol")
    world.run(2 * CROSSED_WAIT_MS + 2_000)
    taker.tell(CancelOrder(""))
    world.run(3 * ENDED_KEPT_MS)
    assert taker.k.orders.rows == {}
    world.drop = lambda _node, target, _effect: target is carol
    carol.command(place("sell", BTC, any_price=True))
    book = taker.k.replicas.book("BTC/USD")
    world.run_until(lambda: book.best_ask() == book.best_bid() == 100, within_ms=20_000)
    world.run(5_000)
    assert taker.up
