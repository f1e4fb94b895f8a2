"""Makers that fail are skipped and named; bare takes; cancelling at any moment."""

from __future__ import annotations

from typing import Literal

import pytest

from tests.unit.floor import (
    LOTS,
    book,
    names,
    order,
    place,
    refused,
    reject,
    skipped,
)
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel.commands import (
    CancelOrder,
    ListOrders,
    ListTrades,
    SentTrade,
    TakeOrder,
)
from zmqex.kernel.peers import State
from zmqex.limits import (
    DAY_MS,
    HOLDS_PER_TAKER_MAX,
    ORDER_LIFE_MAX_MS,
    SKIP_MAKER_MS,
    TAKE_RETRIES_MAX,
    TAKES_AT_ONCE_MAX,
)
from zmqex.reasons import RejectReason


def test_a_stopped_and_a_refusing_maker_are_skipped_within_five_seconds() -> None:
    """The third fills; the answer names the others; waking the first fills nothing twice."""
    world = World()
    nodes = world.meet("alice", "bob", "carol", "dave")
    alice, bob, carol, dave = nodes
    place(alice, "buy", LOTS, 103)
    place(bob, "buy", LOTS, 102)
    place(carol, "buy", LOTS, 101)
    world.run(300)
    alice.pause()
    reject(world, bob, RejectReason.HELD)
    began = world.monotonic_ms
    answer = place(dave, "sell", LOTS, 100)
    assert world.monotonic_ms - began < 5_000
    assert names(answer, nodes) == [("carol", LOTS, 101)]
    assert skipped(answer, nodes) == [("alice", "timed_out"), ("bob", "held")]
    assert [one["detail"] for one in answer["skipped"]] == ["it did not answer in time", "held"]
    alice.resume()
    world.run(30_000)
    assert dave.ledger.balance_msat == 10**12 - LOTS * 1_000
    assert alice.held == {}
    assert alice.tell(ListOrders())["orders"][0]["remaining_lots"] == LOTS
    assert [one["state"] for one in dave.tell(ListTrades(ended=True))["trades"]].count(
        "cancelled"
    ) == 1


def test_a_maker_that_failed_is_set_aside_for_a_while_and_named() -> None:
    """For 30 seconds its orders are passed over, with a word; then it is asked again."""
    world = World()
    nodes = world.meet("alice", "bob")
    alice, bob = nodes
    place(alice, "buy", 3 * LOTS, 100)
    world.run(300)
    asked = reject(world, alice, RejectReason.DECLINED, times=1)
    place(bob, "sell", LOTS, 100, time_in_force="ioc")
    answer = place(bob, "sell", LOTS, 100, time_in_force="ioc")
    assert len(asked) == 1
    assert answer["trades"] == []
    assert skipped(answer, nodes) == [("alice", "declined")]
    world.run(SKIP_MAKER_MS)
    answer = place(bob, "sell", LOTS, 100, time_in_force="ioc")
    assert names(answer, nodes) == [("alice", LOTS, 100)]


def test_a_maker_that_is_not_heard_is_not_asked_but_named() -> None:
    """Stale orders stay in the book, marked; an order that crosses them says so."""
    world = World()
    nodes = world.meet("alice", "bob")
    alice, bob = nodes
    mine = place(alice, "buy", LOTS, 100)["order"]["order_id"]
    world.run(300)
    alice.crash()
    world.run(20_000)
    answer = place(bob, "sell", LOTS, 100)
    assert skipped(answer, nodes) == [("alice", "stale_maker")]
    assert answer["order"]["state"] == "open"
    assert refused(bob, TakeOrder(mine, LOTS)) == "stale_maker"


def test_a_maker_that_has_just_left_is_named() -> None:
    """Its order is still in the book; nobody can be asked, which is known at once."""
    world = World()
    nodes = world.meet("alice", "bob")
    alice, bob = nodes
    place(alice, "buy", LOTS, 100)
    world.run(300)
    bob.k.sessions.peers[alice.identity].state = State.BACKING_OFF
    answer = place(bob, "sell", LOTS, 100)
    assert skipped(answer, nodes) == [("alice", "not_connected")]
    assert answer["order"]["state"] == "open"


@pytest.mark.parametrize("reason", [RejectReason.TOO_MANY_HOLDS, RejectReason.RATE_LIMITED])
def test_a_busy_maker_is_asked_again_a_few_times(reason: RejectReason) -> None:
    """Once it has room again it fills; if it never has, it is named and the order goes on."""
    world = World()
    nodes = world.meet("alice", "bob")
    alice, bob = nodes
    place(alice, "buy", 2 * LOTS, 100)
    world.run(300)
    asked = reject(world, alice, reason, times=2)
    answer = place(bob, "sell", LOTS, 100)
    assert len(asked) == 2
    assert asked[1] - asked[0] >= 250
    assert names(answer, nodes) == [("alice", LOTS, 100)]
    assert answer["skipped"] == []
    asked = reject(world, alice, reason)
    answer = place(bob, "sell", LOTS, 100)
    assert len(asked) == 1 + TAKE_RETRIES_MAX
    assert skipped(answer, nodes) == [("alice", reason.value)]
    assert answer["order"]["state"] == "open"


def test_a_hold_that_waits_for_our_operator_is_not_asked_for_again() -> None:
    """One hold per order and taker: while ours is unpaid, asking again helps nothing."""
    world = World()
    nodes = world.meet("alice", "bob")
    alice, bob = nodes
    place(alice, "buy", 2 * LOTS, 100)
    world.run(300)
    place(bob, "sell", LOTS, 100, pay_mode="manual")
    world.run(300)
    answer = place(bob, "sell", LOTS, 100, time_in_force="ioc")
    assert skipped(answer, nodes) == [("alice", "too_many_holds")]
    states = [one["state"] for one in bob.tell(ListTrades(ended=True))["trades"]]
    assert states == ["refused", "accepted"]


def test_an_order_that_cannot_be_taken_says_why() -> None:
    """Before anybody is asked, in a sentence with what can be done."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    wanted = place(alice, "buy", LOTS, 100)["order"]["order_id"]
    world.run(300)
    own, more, none = (
        alice.ask(TakeOrder(wanted, 1)),
        *[bob.ask(TakeOrder(wanted, lots)) for lots in (2 * LOTS, 0)],
    )
    said = [one.result["message"].partition(" cannot be taken: ")[2] for one in (own, more, none)]
    assert said == [
        "it is your own",
        "0.02 BTC can be taken of it now, not more",
        "the quantity must be more than 0",
    ]


def test_many_orders_of_one_maker_are_all_taken() -> None:
    """More than it holds for one taker at once, and more than are asked at the same time."""
    count = 2 * TAKES_AT_ONCE_MAX + 3
    world = World()
    alice, bob = world.meet("alice", "bob")
    for number in range(count):
        place(alice, "buy", LOTS, 100 + number)
    world.run(500)
    most = 0

    def spy(node: SimNode, _effect: out.Effect) -> None:
        nonlocal most
        if node is alice:
            most = max(most, len(alice.held))

    world.spy = spy
    answer = place(bob, "sell", count * LOTS, 100, any_price=True)
    assert len(answer["trades"]) == count
    assert answer["skipped"] == []
    assert answer["order"]["close_reason"] == "filled"
    assert 0 < most <= HOLDS_PER_TAKER_MAX
    world.run(1_000)
    assert bob.ledger.balance_msat == 10**12 - count * LOTS * 1_000


def test_what_a_maker_will_not_hold_any_more_is_named() -> None:
    """A buyer's holds stay until it has sent the quote, so the cap is met; it is told."""
    world = World()
    nodes = world.meet("alice", "bob")
    alice, bob = nodes
    for number in range(HOLDS_PER_TAKER_MAX + 2):
        place(alice, "sell", LOTS, 100 + number)
    world.run(500)
    answer = place(bob, "buy", (HOLDS_PER_TAKER_MAX + 2) * LOTS, 200, any_price=True)
    assert len(answer["trades"]) == HOLDS_PER_TAKER_MAX
    assert skipped(answer, nodes) == [("alice", "too_many_holds")] * 2
    assert answer["order"]["remaining_lots"] == 2 * LOTS


def test_an_order_asks_only_so_many_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the cap the makers that still cross are named."""
    monkeypatch.setattr("zmqex.kernel.desk.TAKES_PER_ORDER_MAX", 2)
    world = World()
    nodes = world.meet("alice", "bob", "carol", "dave")
    alice, bob, carol, dave = nodes
    for number, node in enumerate((alice, bob, carol)):
        place(node, "buy", LOTS, 103 - number)
    place(carol, "buy", LOTS, 100)
    world.run(300)
    answer = place(dave, "sell", 4 * LOTS, 100)
    assert [one[0] for one in names(answer, nodes)] == ["alice", "bob"]
    assert skipped(answer, nodes) == [("carol", "too_many_holds")]


def test_a_maker_that_asks_for_too_much_is_not_paid_and_named() -> None:
    """The accept was fine, the invoice was not: the take is given up."""
    world = World()
    nodes = world.meet("alice", "bob")
    alice, bob = nodes
    alice.ledger.overcharge_msat = 1_000
    place(alice, "buy", LOTS, 100)
    world.run(300)
    answer = place(bob, "sell", LOTS, 100)
    assert skipped(answer, nodes) == [("alice", "wrong_invoice_amount")]
    assert answer["trades"] == []
    assert answer["order"]["remaining_lots"] == LOTS
    assert bob.ledger.payments == {}


def test_an_answer_waits_only_a_while_for_a_payment() -> None:
    """The payee is silent: the trade is shown as it stands."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(alice, "buy", LOTS, 100)
    world.run(300)
    bob.ledger.unreachable = True
    answer = place(bob, "sell", LOTS, 100)
    assert [one["state"] for one in answer["trades"]] == ["paying"]


def test_a_take_of_one_order_is_answered_without_an_order_of_ours() -> None:
    """`take` fills from that order only, at its price; a repeat shows the same trade."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    wanted = place(alice, "buy", 2 * LOTS, 100)["order"]["order_id"]
    place(alice, "buy", 2 * LOTS, 110)
    world.run(300)
    answer = bob.tell(TakeOrder(wanted[:8], LOTS, key="t"))
    assert "order" not in answer
    assert [one["order_id"] for one in answer["trades"]] == [wanted]
    again = bob.tell(TakeOrder(wanted[:8], LOTS, key="t"))
    assert again["repeated"]
    assert again["trades"][0]["trade_id"] == answer["trades"][0]["trade_id"]
    world.run(500)
    assert bob.ledger.balance_msat == 10**12 - LOTS * 1_000


@pytest.mark.parametrize(
    ("lots", "pay_mode", "reason"),
    [
        (0, "auto", "invalid_quantity"),
        (2 * LOTS, "auto", "insufficient_quantity"),
        (LOTS, "later", "malformed"),
    ],
)
def test_a_wrong_take_is_refused(lots: int, pay_mode: str, reason: str) -> None:
    """Before anything is asked."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    wanted = place(alice, "buy", LOTS, 100)["order"]["order_id"]
    world.run(300)
    assert refused(bob, TakeOrder(wanted, lots, pay_mode)) == reason


def test_a_take_of_an_unknown_order_is_refused() -> None:
    """An id that nobody has, and one that is too short."""
    world = World()
    (alice,) = world.meet("alice")
    assert refused(alice, TakeOrder("ab" * 32, LOTS)) == "unknown_order"
    assert refused(alice, TakeOrder("ab", LOTS)) == "malformed"


def test_a_refused_take_names_the_makers_reason() -> None:
    """And a maker that is busy is not asked again: the operator does that."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    wanted = place(alice, "buy", LOTS, 100)["order"]["order_id"]
    world.run(300)
    asked = reject(world, alice, RejectReason.TOO_MANY_HOLDS)
    answer = bob.ask(TakeOrder(wanted, LOTS))
    assert (answer.ok, answer.result["reason"], len(asked)) == (False, "too_many_holds", 1)


def test_a_cancel_tells_what_was_removed_what_is_held_and_what_remains() -> None:
    """The held part stays until its trade has ended; a second cancel is refused."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    mine = place(alice, "sell", 3 * LOTS, 100)["order"]["order_id"]
    world.run(300)
    trade = place(bob, "buy", LOTS, 100)["trades"][0]["trade_id"]
    (told,) = alice.tell(CancelOrder(mine[:8]))["cancelled"]
    assert told["order_id"] == mine
    assert (told["removed_lots"], told["held_lots"], told["remaining_lots"]) == (
        2 * LOTS,
        LOTS,
        LOTS,
    )
    assert refused(alice, CancelOrder(mine)) == "order_closed"
    world.run(300)
    assert book(bob)["asks"] == []
    bob.tell(SentTrade(trade))
    world.run(300)
    assert alice.tell(ListTrades())["trades"][0]["state"] == "quote_sent"


def test_a_cancelled_order_gives_up_the_takes_under_way() -> None:
    """While an order is worked: its takes come to nothing, and the answers say the truth."""
    world = World()
    nodes = world.meet("alice", "bob", "carol")
    alice, bob, carol = nodes
    place(alice, "buy", LOTS, 101)
    place(bob, "buy", LOTS, 100)
    world.run(300)
    alice.pause()
    placing = carol.command(order("sell", 3 * LOTS, 100))
    world.run(100)  # bob's part is paid, alice is silent
    mine = carol.tell(ListOrders())["orders"][0]["order_id"]
    (told,) = carol.tell(CancelOrder(mine))["cancelled"]
    assert (told["removed_lots"], told["held_lots"], told["remaining_lots"]) == (2 * LOTS, 0, 0)
    world.run_until(lambda: placing in carol.answers)
    answer = carol.answers[placing].result
    assert answer["order"]["close_reason"] == "cancelled"
    assert names(answer, nodes) == [("bob", LOTS, 100)]
    assert skipped(answer, nodes) == [("alice", "cancelled")]
    alice.resume()
    world.run(20_000)
    assert alice.held == {}
    assert carol.ledger.balance_msat == 10**12 - LOTS * 1_000
    assert book(carol) == {"bids": [(101, LOTS)], "asks": []}


def test_all_orders_are_cancelled_at_once() -> None:
    """Open and working ones; closed ones are not named."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(alice, "buy", LOTS, 100)
    world.run(300)
    done = place(bob, "sell", LOTS // 2, 100)["order"]["order_id"]
    bob.tell(CancelOrder(""))
    mine = {place(bob, "sell", LOTS, price)["order"]["order_id"] for price in (101, 102)}
    alice.pause()
    bob.command(order("sell", LOTS // 2, 100))
    world.run(50)
    told = bob.tell(CancelOrder(""))["cancelled"]
    assert {one["order_id"] for one in told} > mine
    assert len(told) == 3
    assert done not in {one["order_id"] for one in told}
    assert bob.tell(ListOrders())["orders"] == []
    assert bob.tell(CancelOrder(""))["cancelled"] == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [("ab", "malformed"), ("ab" * 32, "unknown_order"), ("x" * 20, "unknown_order")],
)
def test_a_cancel_of_nothing_is_refused(text: str, reason: str) -> None:
    """Too short, unknown, no id at all."""
    world = World()
    (alice,) = world.meet("alice")
    place(alice, "buy", LOTS, 100)
    assert refused(alice, CancelOrder(text)) == reason


@pytest.mark.parametrize("holds", ["up", "silent"])
def test_an_order_that_is_cancelled_while_the_hold_server_thinks_is_not_sold(
    holds: Literal["up", "silent"],
) -> None:
    """The take comes too late, whatever the hold server says or does not say."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    mine = place(alice, "buy", LOTS, 100)["order"]["order_id"]
    world.run(300)
    alice.holds = holds
    placing = bob.command(order("sell", LOTS, 100, time_in_force="ioc"))
    world.run(1)  # the take has arrived
    assert len(alice.k.admission._reserving) == 1
    (told,) = alice.tell(CancelOrder(mine))["cancelled"]
    assert told["removed_lots"] == LOTS
    world.run_until(lambda: placing in bob.answers)
    assert bob.answers[placing].result["skipped"][0]["reason"] == "order_closed"
    world.run(2_000)
    assert alice.held == {}
    assert alice.tell(ListTrades())["trades"] == []


def test_an_order_lives_for_a_week_where_nothing_is_said() -> None:
    """The default is the maximum; a day is a day."""
    world = World()
    (alice,) = world.meet("alice")
    week = place(alice, "buy", LOTS, 100)["order"]
    day = place(alice, "buy", LOTS, 100, expires_in_ms=DAY_MS)["order"]
    assert week["expires_at_ms"] - week["created_ms"] == ORDER_LIFE_MAX_MS
    assert day["expires_at_ms"] - day["created_ms"] == DAY_MS
