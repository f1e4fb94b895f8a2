"""A desk's own system has the last word on a take, and the quantity waits for it."""

from __future__ import annotations

from tests.stories import BTC, available, check_quiet, only_trade, place
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import CancelOrder
from zmqex.trading.states import State


def scene() -> tuple[World, SimNode, SimNode, list[out.AskBeforeAccept]]:
    """Alice asks before she accepts and bids for 1 BTC; bob is there; and what she asked."""
    world = World()
    alice = world.add("alice", asks_before_accept=True)
    bob = world.add("bob")
    world.run(2_000)
    alice.tell(place("buy", BTC))
    world.run(300)
    asked: list[out.AskBeforeAccept] = []

    def spy(_node: SimNode, effect: out.Effect) -> None:
        if isinstance(effect, out.AskBeforeAccept):
            asked.append(effect)

    world.spy = spy
    return world, alice, bob, asked


def test_a_take_is_accepted_when_the_program_says_so() -> None:
    """It is told whose take it is, and what it is worth."""
    world, alice, bob, asked = scene()
    answer = bob.tell(place("sell", BTC // 2))
    world.run(500)
    (trade,) = answer["trades"]
    assert only_trade(alice).state is State.BASE_DONE
    (ask,) = asked
    assert ask.take == {
        "trade_id": trade["trade_id"],
        "order_id": trade["order_id"],
        "taker": bob.text,
        "market": "BTC/USD",
        "side": "buy",
        "settlement": "plain",
        "quantity_lots": BTC // 2,
        "price_ticks": 100,
        "base_msat": BTC // 2 * 1_000,
        "quote_units": 50,
    }


def test_a_declined_take_holds_nothing_and_its_maker_is_passed_over() -> None:
    """The taker reads why, and for how long; the quantity is whole again."""
    world, alice, bob, _ = scene()
    alice.accepts = False
    answer = bob.tell(place("sell", BTC // 2, time_in_force="ioc"))
    (skipped,) = answer["skipped"]
    assert (skipped["reason"], skipped["detail"]) == ("declined", "it does not want to")
    assert 29_000 < skipped["for_ms"] <= 30_000
    assert available(alice) == [BTC]
    assert not alice.journal.trades
    check_quiet(world)


def test_what_is_being_decided_on_is_not_given_to_others() -> None:
    """While the program thinks its quantity is held; a cancelled order is not accepted any more."""
    world, alice, bob, asked = scene()
    alice.pause()
    bob.command(place("sell", BTC))
    world.run(100)
    alice.resume()
    key = asked[0].trade_id
    assert alice.k.orders.available_lots(next(iter(alice.journal.orders))) == 0
    alice.tell(CancelOrder(""))
    world.run(2_000)
    assert key not in alice.journal.trades or only_trade(alice).state is State.CANCELLED
    # A decision about a take that is gone.
    alice.handle(happened.AcceptDecided(key, accepted=True))
    alice.handle(happened.AcceptDecided(bytes(32), accepted=False))
    world.run(20_000)
    assert not alice.held
