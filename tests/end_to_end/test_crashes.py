"""kill -9 right before and right after every journal commit of a whole trade, on either side.

Whatever was acknowledged is there afterwards, the trade settles or is off on both sides, money is
neither made nor lost, and repeating a command that got no answer duplicates nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.end_to_end.nodes import BTC, Home, Node, wait_for
from zmqex.errors import NodeUnavailableError, RefusedError
from zmqex.kernel.commands import (
    Command,
    ListHolds,
    PayTrade,
    PlaceOrder,
    ReceivedTrade,
    SentTrade,
)

LOTS = 4 * BTC // 10
TOTAL_MSAT = 20 * BTC * 1_000
# More than the story commits on either side; a crash point beyond the end never fires.
_COMMITS = int(os.environ.get("ZMQEX_TEST_COMMITS", "12"))
_POINTS = [(when, number) for number in range(2, _COMMITS + 1) for when in ("before", "after")]
# From the order to the payment: before and after these there is nothing to hold.
_HOLD_POINTS = [point for point in _POINTS if 3 <= point[1] <= 8]


@pytest.mark.parametrize("victim", ["alice", "bob"])
@pytest.mark.parametrize(("when", "number"), _POINTS, ids=str)
def test_a_crash_around_any_commit_loses_nothing(
    user: Home, victim: str, when: str, number: int
) -> None:
    """The supervisor starts the node again, and the story goes on."""
    assert_the_story_ends_well(user, victim, f"{when}:{number}")


@pytest.mark.parametrize(("when", "number"), _HOLD_POINTS, ids=str)
def test_the_hold_server_may_die_around_any_commit(user: Home, when: str, number: int) -> None:
    """The node starts it again, and what it forgot is in the journal."""
    assert_the_story_ends_well(user, "alice", f"holds-{when}:{number}")


def assert_the_story_ends_well(user: Home, victim: str, point: str) -> None:
    """A whole trade with one fault in it, to the same end as without."""
    alice, bob = user.node("alice"), user.node("bob")
    for node in (alice, bob):
        crash = {"ZMQEX_CRASH_AT": point} if node.name == victim else {}
        node.launch(**crash)
        node.wait_ready()
    bob.wait_live(alice)
    alice.wait_live(bob)

    placed = insist(alice, PlaceOrder("BTC/USD", "buy", BTC, 100, key="alice 1"))
    order_id = placed["order"]["order_id"]
    assert [one["order_id"] for one in alice_orders(alice)] == [order_id]
    trade_id = take_until_held(alice, bob, order_id)
    insist(bob, PayTrade(trade_id), done=paid(bob, trade_id))
    settle(alice, bob, trade_id)

    check_the_end(alice, bob, order_id, trade_id)


def insist(
    node: Node, command: Command, done: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """Give a command again until it is answered, as a user would after a crash."""

    def attempt() -> dict[str, Any] | None:
        try:
            return node.call(command, timeout_s=6)
        except NodeUnavailableError:
            return None
        except RefusedError:
            if done():
                return {"done": True}
            return None

    return wait_for(f"{node.name} answers {type(command).__name__}", attempt, 25)


def alice_orders(alice: Node) -> list[dict[str, Any]]:
    """Her open orders, whatever happens to her meanwhile."""

    def look() -> list[dict[str, Any]] | None:
        try:
            return alice.orders()
        except NodeUnavailableError:
            return None

    return wait_for("alice lists her orders", look, 20)


def take_until_held(alice: Node, bob: Node, order_id: str) -> str:
    """Sell until a maker holds it: a take that a crash ate is off, and is made anew."""
    answers = []
    for attempt in range(3):
        bob.wait_live(alice)
        wait_for("no take is under way", lambda: not _under_way(bob), 25)
        wait_for("the order is in bob's book", lambda: _offered(bob, order_id), 25)
        sell = PlaceOrder(
            "BTC/USD",
            "sell",
            LOTS,
            100,
            time_in_force="ioc",
            pay_mode="manual",
            key=f"bob {attempt}",
        )
        answer = insist(bob, sell)
        answers.append(answer)
        held = [one for one in answer["trades"] if one["state"] in {"accepted", "taking"}]
        for trade_id in [one["trade_id"] for one in held]:
            if _is_on(bob, trade_id):
                return str(trade_id)
    raise AssertionError(answers)


def _under_way(bob: Node) -> set[str]:
    """A take that was abandoned still counts at the maker until both agree that it is off."""
    states = {one["state"] for one in bob.trades().values()}
    return states & {"taking", "abandoning"}


def _offered(bob: Node, order_id: str) -> bool:
    """Whether all that bob wants can be taken now."""
    return bob.takeable_lots(order_id) >= LOTS


def _is_on(bob: Node, trade_id: str) -> bool:
    """Wait until the take is answered, also after a crash: held, or off."""

    def look() -> str | None:
        try:
            state = str(bob.trades()[trade_id]["state"])
        except NodeUnavailableError:
            return None
        return None if state == "taking" else state

    return wait_for("the take is answered", look, 25) == "accepted"


def paid(bob: Node, trade_id: str) -> Callable[[], bool]:
    """Whether bob's payment has ended well."""

    def look() -> bool:
        try:
            return bob.trades()[trade_id]["state"] in {"base_done", "quote_sent", "settled"}
        except NodeUnavailableError:
            return False

    return look


def settle(alice: Node, bob: Node, trade_id: str) -> None:
    """Alice sends, bob receives, each until it is so."""
    wait_for("alice has the base", lambda: _state(alice, trade_id) == "base_done", 40)
    insist(alice, SentTrade(trade_id), done=lambda: _state(alice, trade_id) == "quote_sent")
    wait_for("bob knows", lambda: _state(bob, trade_id) == "quote_sent", 40)
    insist(bob, ReceivedTrade(trade_id), done=lambda: _state(bob, trade_id) == "settled")
    for node in (alice, bob):
        wait_for("settled", lambda one=node: _state(one, trade_id) == "settled", 40)  # type: ignore[misc]


def _state(node: Node, trade_id: str) -> str:
    try:
        return str(node.trades().get(trade_id, {}).get("state", ""))
    except NodeUnavailableError:
        return ""


def check_the_end(alice: Node, bob: Node, order_id: str, trade_id: str) -> None:
    """Exactly one trade filled, both books agree, no hold is left, the money adds up."""
    balances = (TOTAL_MSAT // 2 + LOTS * 1_000, TOTAL_MSAT // 2 - LOTS * 1_000)
    for node, balance in zip((alice, bob), balances, strict=True):
        node.wait_book(order_id, BTC - LOTS, seconds=25)
        wait_for("the balance", lambda one=node, msat=balance: one.balance_msat() == msat)  # type: ignore[misc]
        filled = wait_for("trades", node.trades)
        settled = [one["trade_id"] for one in filled.values() if one["state"] == "settled"]
        assert settled == [trade_id]
    wait_for("no hold is left", lambda: alice.call(ListHolds())["holds"] == [])
    assert len(alice_orders(alice)) == 1
