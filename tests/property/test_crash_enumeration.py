"""A node ends right before or after each commit of a trade; nothing is lost or done twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.stories import (
    BTC,
    HOLD,
    MINUTE,
    TEN_BTC_MSAT,
    check_always,
    check_quiet,
    insist,
    place,
    revive,
)
from tests.world import SimNode, World
from zmqex.kernel.commands import Command, ReceivedTrade, RolloverTrade, SendTrade, SentTrade
from zmqex.trading.settlement import HTLC, PLAIN
from zmqex.trading.states import State

DAY = 24 * 60 * MINUTE
ROLLOVER = "rollover"  # by `htlc`, and the lock is lost once the quote was sent


def tell_story(
    side: str, crash: tuple[str, str, int] | None, settlement: str = PLAIN
) -> tuple[World, list[str]]:
    """Place, take, hold, invoice, pay, sent, received; every acknowledged order's id."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    if crash is not None:
        name, when, number = crash
        world.nodes[name].crash_at = (when, number)
    other = "sell" if side == "buy" else "buy"
    acknowledged = []
    ways = (HTLC if settlement == ROLLOVER else settlement,)
    world.mine(0)
    answer = insist(world, alice, place(side, BTC, key="k1", settlements=ways))
    assert answer.ok
    acknowledged.append(str(answer.result["order"]["order_id"]))
    world.run(500)
    revive(world)
    taking = place(other, 4 * BTC // 10, key="k2", settlements=ways)
    answer = insist(world, bob, taking)
    assert answer.ok
    acknowledged.append(str(answer.result["order"]["order_id"]))
    world.run(4_000)
    revive(world)
    buyer, seller = (alice, bob) if side == "buy" else (bob, alice)
    steps: list[tuple[SimNode, Callable[[str], Command]]] = [
        (buyer, SentTrade),
        (seller, ReceivedTrade),
    ]
    if settlement != PLAIN:
        steps.insert(0, (buyer, SendTrade))
    if settlement == ROLLOVER:
        steps.insert(2, (buyer, RolloverTrade))
    for node, command in steps:
        if command is RolloverTrade:
            lose(world, buyer)
        for trade_id in running(node):
            insist(world, node, command(trade_id))
        world.run(10_000 if command is RolloverTrade else 2_000)
        revive(world)
        check_always(world)
    world.run(40_000)
    return world, acknowledged


def lose(world: World, buyer: SimNode) -> None:
    """Every lock of the buyer goes back to its seller, and both hear of it."""
    for trade in buyer.journal.trades.values():
        buyer.ledger.cancel(trade.payment_hash)
    world.run(40_000)
    revive(world)


def running(node: SimNode) -> list[str]:
    """The trades of a node in which it may have something to say."""
    return [
        trade.trade_id.hex()
        for trade in node.journal.trades.values()
        if trade.state not in {State.CANCELLED, State.REFUSED, State.ABANDONING}
    ]


def commits(side: str, name: str, settlement: str) -> int:
    """How many commits a node makes in the undisturbed story."""
    world, _ = tell_story(side, None, settlement)
    assert {one.state for one in world.nodes[name].journal.trades.values()} == {State.SETTLED}
    return world.nodes[name].journal.commits


CASES = [
    pytest.param(settlement, side, name, when, id=f"{settlement}-maker-{side}s-{name}-{when}")
    for settlement in (PLAIN, HTLC, ROLLOVER)
    for side in ("buy", "sell")
    for name in ("alice", "bob")
    for when in ("before", "after")
]


@pytest.mark.parametrize(("settlement", "side", "name", "when"), CASES)
def test_a_crash_at_any_commit_loses_and_repeats_nothing(
    settlement: str, side: str, name: str, when: str
) -> None:
    """Both sides end alike, every acknowledged order is there, the money adds up."""
    settled = crashes = 0
    total = commits(side, name, settlement)
    assert total > 5
    for number in range(1, total + 2):
        world, acknowledged = tell_story(side, (name, when, number), settlement)
        alice, bob = world.nodes["alice"], world.nodes["bob"]
        if any(one.state is State.ABANDONING for one in bob.journal.trades.values()):
            world.run(HOLD + 2 * MINUTE)
        check_quiet(world)
        crashes += world.nodes[name].starts - 1
        where = f"{when} commit {number} of {name}"
        known = {one.hex() for node in (alice, bob) for one in node.journal.orders}
        assert known == set(acknowledged), where
        states = {one.state for node in (alice, bob) for one in node.journal.trades.values()}
        # A take that was called off leaves two orders that cross, which may then trade as such.
        assert states <= {State.SETTLED, State.CANCELLED}, (where, states)
        ended = [one for one in alice.journal.trades.values() if one.state is State.SETTLED]
        assert len(ended) <= 1, where
        moved = alice.ledger.balance_msat - TEN_BTC_MSAT
        if ended:
            settled += 1
            assert moved == (1 if side == "buy" else -1) * 4 * BTC // 10 * 1_000, where
        else:
            assert moved == 0, where
            (row,) = alice.journal.orders.values()
            assert (row.filled_lots, row.dropped_lots) == (0, 0), where
        assert alice.ledger.balance_msat + bob.ledger.balance_msat == 2 * TEN_BTC_MSAT
    assert settled > total // 2
    # The first commits belong to the meeting, which is over when the story begins.
    assert crashes > total // 2
