"""Somebody rests an order across ours on purpose: what that can and cannot make our node do."""

from __future__ import annotations

from msgspec.structs import replace

from tests.stories import BTC, MINUTE, available, check_always, only_trade, place, quote_leg
from tests.world import SimNode, World
from zmqex.kernel import events as happened
from zmqex.kernel.commands import CancelOrder, CancelTrade, TakeOrder
from zmqex.kernel.records import OwnOrder
from zmqex.limits import CROSSED_SEEN_MS, SKIP_MAKER_MS
from zmqex.market.orders import Side
from zmqex.protocol.codec import encode
from zmqex.protocol.identity import order_id
from zmqex.trading.states import State, TradeRole


def lured(
    after_ms: int, network: str = "value", lots: int = BTC, side: str = "sell"
) -> tuple[World, SimNode, SimNode]:
    """The victim rests an order; so long after it, mallory one across it, with a lower id."""
    world = World()
    mallory, victim = (world.add(name, network=network) for name in ("mallory", "victim"))
    world.run(2_000)
    victim.tell(place(side, BTC, pay_mode="auto"))
    world.run(after_ms)
    lure(mallory, victim, lots)
    world.run(1_000)
    return world, mallory, victim


def lure(mallory: SimNode, victim: SimNode, lots: int = BTC) -> None:
    """An order across the victim's only one that makes its owner the taker."""
    (own_id,) = victim.journal.orders
    terms = victim.k.orders.terms(own_id)
    side = Side.BUY if terms.side == "sell" else Side.SELL
    taken = len(mallory.journal.orders) * 1_000
    lures = (
        replace(terms, side=side, quantity_lots=lots, nonce=number.to_bytes(16, "big"))
        for number in range(taken, taken + 1_000)
    )
    network = mallory.k.core.settings.network
    found = next(one for one in lures if order_id(network, mallory.identity, encode(one)) < own_id)
    row = mallory.k.orders.add(found, time_in_force="gtc", post_only=True)
    mallory.k.orders.publish(row.order_id)
    mallory.handle(happened.Tick())


def own(victim: SimNode) -> OwnOrder:
    """The victim's only order."""
    (row,) = victim.journal.orders.values()
    return row


def numbers(row: OwnOrder) -> tuple[str, int, int, int]:
    """State, filled, taken and dropped."""
    return row.state, row.filled_lots, row.taken_lots, row.dropped_lots


def test_who_rests_an_order_across_ours_later_has_to_take_it_himself() -> None:
    """He saw ours: even play money is not paid at his word, at once or ever."""
    world, _, victim = lured(MINUTE, "play")
    world.run(2 * SKIP_MAKER_MS)
    assert not victim.journal.trades
    assert victim.ledger.payments == {}
    assert available(victim, "asks") == [BTC]


def test_only_within_the_bound_counts_as_the_same_moment() -> None:
    """Just before its end there is one trade, just after it none."""
    for after_ms, trades in ((CROSSED_SEEN_MS - 1_500, 1), (CROSSED_SEEN_MS + 100, 0)):
        _, _, victim = lured(after_ms, "play")
        assert len(victim.journal.trades) == trades


def test_after_a_restart_nothing_is_of_the_same_moment() -> None:
    """What is found then was not seen to come: nobody is made to pay for it."""
    world, mallory, victim = lured(MINUTE, "play")
    victim.crash()
    victim.start()
    world.introduce(victim)
    world.run(5_000)
    lure(mallory, victim)
    world.run(5_000)
    assert available(victim) == [BTC, BTC]
    assert not victim.journal.trades


def test_with_money_of_value_nobody_is_made_to_pay_first() -> None:
    """A stranger rests an order across ours at once, with a lower id: our operator decides."""
    world, _, victim = lured(1_000)
    world.run(5_000)
    trade = only_trade(victim)
    assert (trade.role, trade.state) == (TradeRole.TAKER, State.ACCEPTED)
    assert victim.k.replicas.room.dealing() == [trade.maker], "its log would be given up"
    assert victim.ledger.payments == {}


def test_a_maker_that_accepts_and_cancels_does_not_close_our_order() -> None:
    """All of it rests again, everybody sees it, and that maker is not asked again."""
    world, mallory, victim = lured(1_000)
    assert numbers(own(victim)) == ("open", 0, BTC, 0)
    assert available(mallory, "asks") == [0]
    mallory.tell(CancelTrade(only_trade(mallory).trade_id.hex()))
    world.run(1_000)
    assert numbers(own(victim)) == ("open", 0, 0, 0)
    assert available(mallory, "asks") == available(victim, "asks") == [BTC]
    lure(mallory, victim)
    world.run(2 * SKIP_MAKER_MS)
    assert only_trade(victim).state is State.CANCELLED
    check_always(world)


def test_a_take_that_our_operator_calls_off_gives_the_quantity_back_at_once() -> None:
    """We will never pay for it, so nobody need wait for the maker's word."""
    world, mallory, victim = lured(1_000)
    mallory.crash()
    victim.tell(CancelTrade(only_trade(victim).trade_id.hex()))
    assert numbers(own(victim)) == ("open", 0, 0, 0)
    assert only_trade(victim).state is State.ABANDONING
    check_always(world)


def test_what_comes_of_nothing_after_the_order_was_cancelled_is_dropped() -> None:
    """A closed order has nothing back."""
    world, mallory, victim = lured(1_000)
    victim.tell(CancelOrder(""))
    mallory.tell(CancelTrade(only_trade(mallory).trade_id.hex()))
    world.run(1_000)
    assert numbers(own(victim)) == ("closed", 0, 0, BTC)
    check_always(world)


def test_a_crash_forgets_neither_what_is_taken_nor_that_it_rests_again() -> None:
    """The journal knows that the order rests: after a restart it has all of it back."""
    world, mallory, victim = lured(1_000)
    victim.crash()
    victim.start()
    world.introduce(victim)
    world.run(5_000)
    assert numbers(own(victim)) == ("open", 0, BTC, 0)
    mallory.tell(CancelTrade(only_trade(mallory).trade_id.hex()))
    world.run(5_000)
    assert numbers(own(victim)) == ("open", 0, 0, 0)
    check_always(world)


def test_a_fill_of_the_rest_does_not_close_what_is_still_being_taken() -> None:
    """A taker has the one half for good; of the other nothing comes, and it rests again."""
    world, mallory, victim = lured(1_000, lots=BTC // 2)
    carol = world.add("carol", network="value")
    world.run(5_000)
    carol.tell(TakeOrder(own(victim).order_id.hex(), BTC // 2, pay_mode="manual"))
    (bought,) = carol.journal.trades.values()
    world.run(1_000)
    quote_leg(world, carol, victim, bought.trade_id.hex())
    world.run(1_000)
    assert numbers(own(victim)) == ("open", BTC // 2, BTC // 2, 0)
    mallory.tell(CancelTrade(only_trade(mallory).trade_id.hex()))
    world.run(1_000)
    assert numbers(own(victim)) == ("open", BTC // 2, 0, 0)
    check_always(world)


def test_an_order_takes_from_one_maker_at_a_time() -> None:
    """While the first one says nothing the second one is not asked; then it is."""
    world = World()
    mallory, carol, victim = (world.add(name) for name in ("mallory", "carol", "victim"))
    world.run(2_000)
    victim.tell(place("sell", BTC))
    lure(mallory, victim, BTC // 2)
    mallory.pause()
    world.run(400)
    lure(carol, victim, BTC // 2)
    world.run(400)
    assert [one.maker for one in victim.journal.trades.values()] == [mallory.identity]
    world.run(3_000)
    assert {one.maker for one in victim.journal.trades.values()} == {
        mallory.identity,
        carol.identity,
    }
    check_always(world)
