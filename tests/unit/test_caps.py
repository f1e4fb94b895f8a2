"""What a griefer can hold of a maker is bounded, and grows for those who pay."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stories import BTC, HOLD, MINUTE, place, quote_leg, sleep
from tests.unit.test_admission import ask, take_of, word
from tests.world import SimNode, World
from zmqex.kernel.commands import PlaceOrder
from zmqex.kernel.requests import Refusal
from zmqex.limits import (
    HOLDS_PER_ADDRESS_MAX,
    UNPAID_AFTER_MS,
    UNPAID_WAIT_FIRST_MS,
    UNPAID_WAIT_LAST_MS,
)
from zmqex.trading.states import State


def scene(
    *takers: str,
    host: str = "",
    order: PlaceOrder | None = None,
    **settings: Any,  # noqa: ANN401 - of the kernel
) -> tuple[World, SimNode, list[SimNode]]:
    """Alice with her own settings bids for 1 BTC; takers, all behind one address if it is given."""
    world = World()
    alice = world.add("alice", **settings)
    others = [world.add(name) for name in takers]
    world.run(2_000)
    for one in others:
        one.host = host or one.host
    alice.tell(order or place("buy", BTC))
    world.run(300)
    return world, alice, others


def settle(world: World, maker: SimNode, taker: SimNode) -> None:
    """A trade of the two comes to a good end."""
    answer = taker.tell(place("sell", BTC // 10, time_in_force="ioc"))
    world.run(300)
    quote_leg(world, maker, taker, answer["trades"][0]["trade_id"])


def take(world: World, maker: SimNode, taker: SimNode, lots: int = BTC // 10) -> str:
    """What the maker says to a take; nobody pays."""
    return word(ask(world, maker, taker, take_of(world, maker, taker, quantity_lots=lots)))


def test_strangers_together_hold_half_of_an_order_at_most() -> None:
    """The second one gets what is left of the half, the third nothing, a friend the other half."""
    world, alice, (bob, carol, dave, erin) = scene(
        "bob", "carol", "dave", "erin", stranger_percent=50
    )
    settle(world, alice, erin)
    assert take(world, alice, bob, 4 * BTC // 10) == "accepted"
    assert take(world, alice, carol, 4 * BTC // 10) == "accepted"
    assert take(world, alice, dave) == "held"
    held = [one for one in alice.journal.trades.values() if one.state is State.INVOICED]
    assert [one.quantity_lots for one in held] == [4 * BTC // 10, BTC // 10]
    assert take(world, alice, erin, 4 * BTC // 10) == "accepted"


def test_an_order_that_is_taken_whole_can_be_taken_by_a_stranger() -> None:
    """All or nothing, and a smallest fill above the half."""
    for order in (place("buy", BTC, all_or_none=True), place("buy", BTC, minimum_lots=BTC)):
        world, alice, (bob,) = scene("bob", order=order, stranger_percent=50)
        assert take(world, alice, bob, BTC) == "accepted"


def test_a_pinned_taker_is_no_stranger() -> None:
    """The operator has named it."""
    world, alice, (bob,) = scene("bob", stranger_percent=50)
    alice.k.sessions.peers[bob.identity].pinned = True
    assert take(world, alice, bob, BTC) == "accepted"
    (trade,) = alice.journal.trades.values()
    assert trade.quantity_lots == BTC


def test_who_settled_before_a_restart_is_no_stranger_after_it() -> None:
    """The journal remembers friends."""
    world, alice, (bob,) = scene("bob", stranger_percent=50)
    settle(world, alice, bob)
    alice.crash()
    alice.start()
    world.introduce(alice)
    world.run(5_000)
    assert take(world, alice, bob, 8 * BTC // 10) == "accepted"
    assert max(one.quantity_lots for one in alice.journal.trades.values()) == 8 * BTC // 10


@pytest.mark.parametrize(
    ("host", "last"), [("10.8.8.8", "too_many_holds"), ("127.0.0.1", "accepted")]
)
def test_strangers_of_one_address_share_its_holds(host: str, last: str) -> None:
    """New identities do not help, but on this machine everybody has the same address."""
    names = [f"t{number}" for number in range(HOLDS_PER_ADDRESS_MAX + 1)]
    world, alice, takers = scene(*names, host=host, holds_per_address=HOLDS_PER_ADDRESS_MAX)
    for taker in takers[:-1]:
        assert take(world, alice, taker) == "accepted"
    assert take(world, alice, takers[-1]) == last
    sleep(world, HOLD)
    world.run(5_000)
    assert not alice.k.admission._caps._addresses


def waits(world: World, alice: SimNode, bob: SimNode) -> int:
    """Let a hold run out; how long its taker must wait."""
    assert take(world, alice, bob) == "accepted"
    world.run(HOLD + 5_000)
    answer = ask(world, alice, bob, take_of(world, alice, bob))
    assert isinstance(answer, Refusal)
    assert answer.reason.value == "rate_limited"
    return answer.retry_after_ms


def test_who_lets_holds_run_out_waits_twice_as_long_each_time() -> None:
    """Until it pays one; and never longer than the longest wait."""
    world, alice, (bob,) = scene("bob")
    first = waits(world, alice, bob)
    assert UNPAID_WAIT_FIRST_MS - 10_000 < first <= UNPAID_WAIT_FIRST_MS
    world.run(first + 1_000)
    second = waits(world, alice, bob)
    assert 2 * UNPAID_WAIT_FIRST_MS - 10_000 < second <= 2 * UNPAID_WAIT_FIRST_MS
    world.run(second + 1_000)
    caps = alice.k.admission._caps
    caps._waits[bob.identity] = 40, 0
    longest = waits(world, alice, bob)
    assert UNPAID_WAIT_LAST_MS - 10_000 < longest <= UNPAID_WAIT_LAST_MS
    caps._waits[bob.identity] = 3, 0
    settle(world, alice, bob)
    assert caps.wait_ms(bob.identity) == 0
    assert bob.identity not in caps._waits


def test_a_hold_that_ended_at_once_counts_for_nothing() -> None:
    """Its taker changed its mind within a minute."""
    world, alice, (bob,) = scene("bob")
    assert UNPAID_AFTER_MS >= MINUTE
    assert take(world, alice, bob) == "accepted"
    alice.k.core.begin(world.now())
    (trade,) = alice.k.trades.by_id.values()
    alice.k.maker.say_cancel(trade)
    for effect in alice.k.core.finish():
        world.carry_out(alice, effect)
    world.run(2_000)
    assert take(world, alice, bob) == "accepted"


def test_only_so_many_takers_are_remembered() -> None:
    """The one that has waited longest is forgiven first."""
    world, alice, (bob,) = scene("bob")
    caps = alice.k.admission._caps
    for number in range(1_024):
        caps._waits[number.to_bytes(32, "big")] = 1, 0
    waits(world, alice, bob)
    assert len(caps._waits) == 1_024
    assert bytes(32) not in caps._waits


def test_a_take_that_was_not_admitted_leaves_nothing_behind() -> None:
    """However often a stranger asks: the address is known as long as something is held."""
    world, alice, (bob,) = scene("bob")
    alice.holds = "full"
    assert take(world, alice, bob) == "held"
    assert vars(alice.k.admission._caps)["_addresses"] == {}
    alice.holds = "up"
    assert take(world, alice, bob) == "accepted"
    assert len(vars(alice.k.admission._caps)["_addresses"]) == 1
