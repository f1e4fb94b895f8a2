"""The operator's limits: in one trade, with one peer, in one day, on both sides of a trade."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tests.stories import BTC, available, only_trade, place, quote_leg
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel.records import Trade
from zmqex.limits import DAY_MS
from zmqex.trading.states import State

TENTH, SOME = BTC // 10, BTC // 100
LIMITS = [
    ("max_trade_msat", "above_max_trade"),
    ("max_held_msat", "above_max_held"),
    ("max_day_msat", "above_max_day"),
]


def scene(**limits: Any) -> tuple[World, SimNode, SimNode]:  # noqa: ANN401
    """Alice has limits and bids for one bitcoin; bob has none."""
    world = World()
    alice, bob = world.add("alice", **limits), world.add("bob")
    world.run(2_000)
    alice.tell(place("buy", BTC))
    world.run(300)
    return world, alice, bob


def sell(world: World, node: SimNode, lots: int, **more: Any) -> list[str]:  # noqa: ANN401
    """Sell so much at once; why makers were passed over."""
    answer = node.tell(place("sell", lots, time_in_force="ioc", **more))
    world.run(300)
    return [str(one["reason"]) for one in answer["skipped"]]


@pytest.mark.parametrize(("limit", "reason"), LIMITS)
def test_a_maker_holds_no_more_than_its_operator_allows(limit: str, reason: str) -> None:
    """Exactly the limit is fine, a satoshi more is refused with the reason."""
    limits: dict[str, Any] = {limit: TENTH * 1_000}
    world, alice, bob = scene(**limits)
    assert sell(world, bob, TENTH + 1) == [reason]
    assert available(alice) == [BTC]
    assert sell(world, bob, TENTH) == []


@pytest.mark.parametrize(("limit", "reason"), LIMITS)
def test_a_taker_asks_for_no_more_than_its_operator_allows(limit: str, reason: str) -> None:
    """The maker never hears of it, and the user does."""
    world = World()
    limits: dict[str, Any] = {limit: TENTH * 1_000}
    alice, bob = world.add("alice"), world.add("bob", **limits)
    world.run(2_000)
    alice.tell(place("buy", BTC))
    world.run(300)
    assert sell(world, bob, TENTH + 1) == [reason]
    assert alice.journal.trades == {}
    assert only_trade(bob).state is State.REFUSED
    assert sell(world, bob, TENTH) == []


def test_what_is_held_for_one_peer_does_not_count_for_another() -> None:
    """Each has the whole of it; what has ended makes room again."""
    world, alice, bob = scene(max_held_msat=TENTH * 1_000)
    carol = world.add("carol")
    world.run(2_000)
    assert sell(world, bob, TENTH) == []
    assert sell(world, bob, SOME) == ["above_max_held"]
    assert sell(world, carol, TENTH) == []
    (paid,) = [one for one in bob.journal.trades.values() if one.state is State.BASE_DONE]
    quote_leg(world, alice, bob, paid.trade_id.hex())
    world.run(1_000)
    assert sell(world, bob, SOME) == []


def test_a_day_ends_and_what_came_to_nothing_does_not_count() -> None:
    """The limit of a day is over the last 24 hours, and over what moved or may move."""
    world, alice, bob = scene(max_day_msat=TENTH * 1_000)
    assert sell(world, bob, TENTH, pay_mode="manual") == []
    # Who has not paid waits a while before it may hold again.
    carol = world.add("carol")
    world.run(2_000)
    waiting = only_trade(alice)
    assert sell(world, carol, SOME) == ["above_max_day"]
    world.run(waiting.hold_expires_ms + 130_000 - world.wall_ms)
    assert only_trade(alice).state is State.CANCELLED
    assert sell(world, carol, TENTH) == []
    assert sell(world, carol, SOME) == ["above_max_day"]
    (paid,) = [one for one in alice.journal.trades.values() if one.state is State.BASE_DONE]
    assert until_a_day_later(alice, paid) == ["above_max_day", None]
    quote_leg(world, alice, carol, paid.trade_id.hex())
    assert alice.journal.trades[paid.trade_id].state is State.SETTLED
    assert until_a_day_later(alice, paid) == ["above_max_day", None]


def until_a_day_later(node: SimNode, paid: Trade) -> list[str | None]:
    """Why the same trade again would be too much: in the last moment of a day, and after it."""
    core, whys = node.k.core, list[str | None]()
    begun = core.now
    for passed_ms in (DAY_MS - 1, DAY_MS):
        core.begin(replace(begun, wall_ms=paid.created_ms + passed_ms))
        whys.append(node.k.trades.why_too_much(replace(paid, trade_id=bytes(32)), ()))
    core.begin(begun)
    return whys


def test_takes_that_still_wait_for_the_hold_server_count_too() -> None:
    """Two at the same moment do not slip in together."""
    world, alice, _bob = scene(max_day_msat=TENTH * 1_000)
    takers = [world.add(name) for name in ("carol", "dave")]
    world.run(2_000)
    reserved: list[out.Effect] = []

    def spy(node: SimNode, effect: out.Effect) -> None:
        if node is alice and isinstance(effect, out.ReserveHold):
            reserved.append(effect)

    world.spy = spy
    for taker in takers:
        taker.command(place("sell", TENTH, time_in_force="ioc"))
    world.run(3_000)
    assert len(reserved) == 1
    assert len(alice.journal.trades) == 1
