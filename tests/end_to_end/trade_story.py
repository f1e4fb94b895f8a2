"""Trade after trade between the same two nodes, each told to the same good end whatever dies.

A crash plan (`zmqex.runtime.faults`) says what dies at which commit.  The commands are given again
until they are answered, as a user would, and what was acknowledged is looked for afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.end_to_end.nodes import BTC, Home, Node, wait_for
from zmqex.errors import NodeUnavailableError, RefusedError
from zmqex.kernel.commands import (
    CancelOrder,
    Command,
    ListHolds,
    ListOrders,
    PayTrade,
    PlaceOrder,
    ReceivedTrade,
    SentTrade,
)

ORDER = BTC // 4
LOTS = BTC // 10
LONG_S = 25.0
_PAID = {"base_done", "quote_sent", "settled"}


class Pair:
    """Alice, who buys and holds, and bob, who sells; each is started again when it ends."""

    def __init__(self, user: Home) -> None:
        """Start both, with nothing planned."""
        self.alice, self.bob = user.node("alice"), user.node("bob")
        for node in (self.alice, self.bob):
            node.keep(ZMQEX_CRASH_PLAN=str(self.plan(node)))
            node.wait_ready()
        self.stories = 0
        self.settled: set[str] = set()

    def plan(self, node: Node) -> Path:
        """Where the crash plan of a node lies."""
        return node.home.path / f"{node.name}.plan"

    def arm(self, node: Node, what: str) -> None:
        """Let something die at a commit of a node, like `journal before 3 self`."""
        draft = self.plan(node).with_suffix(".draft")
        draft.write_text(what)
        draft.replace(self.plan(node))

    def disarm(self, node: Node) -> bool:
        """Forget the plan; whether it has been carried out."""
        armed = self.plan(node).exists()
        self.plan(node).unlink(missing_ok=True)
        return not armed

    def connect(self) -> None:
        """Wait until the two have found each other again."""
        self.bob.wait_live(self.alice)
        self.alice.wait_live(self.bob)

    def tell(self) -> None:
        """Place, take, hold, pay, sent, received, cancel the rest, and look at the end of it."""
        self.stories += 1
        self.connect()
        place = PlaceOrder("BTC/USD", "buy", ORDER, 100, key=f"alice {self.stories}")
        order_id = insist(self.alice, place)["order"]["order_id"]
        assert order_id in known_orders(self.alice)
        trade_id = self.take(order_id)
        insist(self.bob, PayTrade(trade_id), done=lambda: state(self.bob, trade_id) in _PAID)
        self.settle(trade_id)
        again = insist(self.alice, place)
        assert (again["repeated"], again["order"]["order_id"]) == (True, order_id)
        self.look(order_id, trade_id)

    def take(self, order_id: str) -> str:
        """Sell until a maker holds it: a take that a crash ate is off, and is made anew."""
        for attempt in range(3):
            self.bob.wait_live(self.alice)
            wait_for("no take is under way", lambda: not under_way(self.bob), LONG_S)
            offered = lambda: self.bob.takeable_lots(order_id) >= LOTS  # noqa: E731
            wait_for("the order is in bob's book", offered, LONG_S)
            key = f"bob {self.stories} {attempt}"
            sell = PlaceOrder(
                "BTC/USD", "sell", LOTS, 100, time_in_force="ioc", pay_mode="manual", key=key
            )
            answer = insist(self.bob, sell)
            again = insist(self.bob, sell)
            sold = answer["order"]["order_id"]
            assert (again["repeated"], again["order"]["order_id"]) == (True, sold)
            assert sold in known_orders(self.bob)
            trades = [one["trade_id"] for one in answer["trades"]]
            assert set(trades) <= {*wait_for("bob's trades", lambda: ["", *self.bob.trades()])}
            for trade_id in trades:
                if self.is_on(trade_id):
                    wait_for("the hold is in both", lambda one=trade_id: self.is_held(one), LONG_S)  # type: ignore[misc]
                    return str(trade_id)
        raise AssertionError(self.bob.trades())

    def is_on(self, trade_id: str) -> bool:
        """Wait until the take is answered, also after a crash: held, or off."""
        answered = lambda: state(self.bob, trade_id).removesuffix("taking")  # noqa: E731
        return wait_for("the take is answered", answered, LONG_S) == "accepted"

    def is_held(self, trade_id: str) -> bool:
        """Whether journal and Redis hold it."""
        held = self.alice.call(ListHolds())["holds"]
        return [
            (one["trade_id"], one["quantity_lots"]) for one in held if one["redis_left_ms"]
        ] == [(trade_id, LOTS)]

    def settle(self, trade_id: str) -> None:
        """Alice sends, bob receives, each until it is so."""
        alice, bob = self.alice, self.bob
        wait_for("alice has the base", lambda: state(alice, trade_id) == "base_done", LONG_S)
        sent = lambda: state(alice, trade_id) == "quote_sent"  # noqa: E731
        insist(alice, SentTrade(trade_id), done=sent)
        wait_for("bob knows", lambda: state(bob, trade_id) == "quote_sent", LONG_S)
        insist(bob, ReceivedTrade(trade_id), done=lambda: state(bob, trade_id) == "settled")
        self.settled.add(trade_id)

    def look(self, order_id: str, trade_id: str) -> None:
        """One more trade filled and no other, both books agree, no hold, the money adds up."""
        moved = self.stories * LOTS * 1_000
        for node, balance in (
            (self.alice, 10 * BTC * 1_000 + moved),
            (self.bob, 10 * BTC * 1_000 - moved),
        ):
            settled = lambda one=node: state(one, trade_id) == "settled"  # noqa: E731
            wait_for("settled", settled, LONG_S)
            node.wait_book(order_id, ORDER - LOTS, seconds=LONG_S)
            wait_for("the balance", lambda one=node, msat=balance: one.balance_msat() == msat)  # type: ignore[misc]
            trades = wait_for("trades", node.trades)
            ended = {one["trade_id"] for one in trades.values() if one["state"] == "settled"}
            assert ended == self.settled
        wait_for("no hold is left", lambda: self.alice.call(ListHolds())["holds"] == [])
        insist(self.alice, CancelOrder(order_id), done=lambda: self.alice.orders() == [])
        assert order_id in known_orders(self.alice)
        for node in (self.alice, self.bob):
            node.wait_book(order_id, 0)


def insist(
    node: Node, command: Command, done: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """Give a command again until it is answered, as a user would after a crash."""

    def attempt() -> dict[str, Any] | None:
        try:
            return node.call(command, timeout_s=6)
        except RefusedError:
            return {"done": True} if done() else None

    return wait_for(f"{node.name} answers {type(command).__name__}", attempt, LONG_S)


def known_orders(node: Node) -> set[str]:
    """Every order that it remembers, whatever happens to it meanwhile."""
    answer = wait_for("its orders", lambda: node.call(ListOrders(closed=True)))
    return {one["order_id"] for one in answer["orders"]}


def state(node: Node, trade_id: str) -> str:
    """A trade's state; "" where the trade is not known, or the node not there."""
    try:
        return str(node.trades().get(trade_id, {}).get("state", ""))
    except NodeUnavailableError:
        return ""


def under_way(bob: Node) -> set[str]:
    """A take that was abandoned still counts at the maker until both agree that it is off."""
    return {one["state"] for one in bob.trades().values()} & {"taking", "abandoning"}
