"""Orders are placed, matched over several makers, rested, renewed and resumed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.floor import (
    LOTS,
    MARKET,
    book,
    money,
    names,
    order,
    place,
    refused,
    reject,
    skipped,
)
from tests.world import World
from zmqex.kernel.commands import (
    ListOrders,
    ListTrades,
    PlaceOrder,
    TakeOrder,
)
from zmqex.limits import (
    ORDER_LIFE_MAX_MS,
)
from zmqex.reasons import RejectReason


def test_the_best_price_is_taken_first_and_the_earlier_of_two_equals() -> None:
    """Price, then time, over several makers; the last fill is partial."""
    world = World()
    nodes = world.meet("alice", "bob", "carol", "dave")
    alice, bob, carol, dave = nodes
    place(bob, "buy", LOTS, 101)
    world.run(10)
    place(carol, "buy", LOTS, 102)
    world.run(10)
    place(alice, "buy", LOTS, 101)
    world.run(300)
    answer = place(dave, "sell", 5 * LOTS // 2, 101)
    assert names(answer, nodes) == [
        ("carol", LOTS, 102),
        ("bob", LOTS, 101),
        ("alice", LOTS // 2, 101),
    ]
    assert answer["order"]["state"] == "closed"
    assert answer["order"]["close_reason"] == "filled"
    world.run(1_000)
    assert book(dave)["bids"] == [(101, LOTS // 2)]
    assert book(bob) == book(dave)


def test_what_does_not_cross_rests_with_what_remains() -> None:
    """A partial fill: the rest is published to everybody with the right quantity."""
    world = World()
    alice, bob, carol = world.meet("alice", "bob", "carol")
    place(alice, "buy", LOTS, 100)
    world.run(300)
    answer = place(bob, "sell", 3 * LOTS, 100)
    assert answer["order"]["filled_lots"] == LOTS
    assert answer["order"]["remaining_lots"] == 2 * LOTS
    assert answer["order"]["state"] == "open"
    world.run(1_000)
    for node in (alice, bob, carol):
        assert book(node) == {"bids": [], "asks": [(100, 2 * LOTS)]}
    assert money(world) == 3 * 10**12


def test_an_immediate_order_never_rests() -> None:
    """IOC takes what is there and drops the rest; with nothing there it is cancelled."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(alice, "buy", LOTS, 100)
    world.run(300)
    answer = place(bob, "sell", 3 * LOTS, 100, time_in_force="ioc")
    assert answer["order"]["filled_lots"] == LOTS
    assert answer["order"]["dropped_lots"] == 2 * LOTS
    assert answer["order"]["close_reason"] == "cancelled"
    world.run(1_000)
    assert book(alice) == {"bids": [], "asks": []}
    # Its expiry is not looked at, however far it is, and a restart reads it back.
    place(bob, "sell", LOTS, 100, time_in_force="ioc", expires_in_ms=2**63 - 1)
    bob.crash()
    bob.start()
    assert len(bob.tell(ListOrders(closed=True))["orders"]) == 2


def test_fill_or_kill_is_refused_where_the_book_is_too_thin() -> None:
    """Nothing is asked of any maker."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(alice, "buy", LOTS, 100)
    world.run(300)
    assert refused(bob, order("sell", 2 * LOTS, 100, time_in_force="fok")) == "not_fillable"
    assert alice.tell(ListTrades())["trades"] == []


def test_fill_or_kill_pays_all_or_nothing() -> None:
    """One of two makers refuses: the other's hold is given back and nothing is paid."""
    world = World()
    alice, bob, carol = nodes = world.meet("alice", "bob", "carol")
    place(alice, "buy", LOTS, 101)
    place(bob, "buy", LOTS, 100)
    world.run(300)
    reject(world, bob, RejectReason.DECLINED)
    answer = place(carol, "sell", 2 * LOTS, 100, time_in_force="fok")
    assert answer["order"]["close_reason"] == "not_fillable"
    assert answer["order"]["filled_lots"] == 0
    assert answer["order"]["dropped_lots"] == 2 * LOTS
    assert answer["trades"] == []
    assert skipped(answer, nodes) == [("bob", "declined")]
    world.run(5_000)
    assert carol.ledger.payments == {}
    assert alice.held == {}
    assert book(carol)["bids"] == [(101, LOTS), (100, LOTS)]
    assert carol.tell(ListOrders(closed=True))["orders"][0]["dropped_lots"] == 2 * LOTS


def test_fill_or_kill_fills_all_when_all_accept() -> None:
    """All accepted, then all paid."""
    world = World()
    alice, bob, carol = world.meet("alice", "bob", "carol")
    place(alice, "buy", LOTS, 101)
    place(bob, "buy", LOTS, 100)
    world.run(300)
    answer = place(carol, "sell", 2 * LOTS, 100, time_in_force="fok")
    assert [one["state"] for one in answer["trades"]] == ["base_done", "base_done"]
    assert answer["order"]["close_reason"] == "filled"


def test_a_part_of_fill_or_kill_is_not_paid_after_a_crash() -> None:
    """The other part's answer was lost with the process: what was accepted is given up."""
    world = World()
    alice, bob, carol = world.meet("alice", "bob", "carol")
    place(alice, "buy", LOTS, 101)
    place(bob, "buy", LOTS, 100)
    world.run(300)
    bob.pause()
    carol.command(order("sell", 2 * LOTS, 100, time_in_force="fok"))
    world.run(100)  # alice has accepted, bob is silent
    states = {one["state"] for one in carol.tell(ListTrades())["trades"]}
    assert states == {"accepted", "taking"}
    carol.crash()
    carol.start()
    world.introduce(carol)
    bob.resume()
    world.run(20_000)
    assert carol.ledger.payments == {}
    assert {one["state"] for one in carol.tell(ListTrades())["trades"]} == {"cancelled"}
    assert carol.tell(ListOrders(closed=True))["orders"][0]["close_reason"] == "not_fillable"
    assert alice.held == bob.held == {}


def test_an_all_or_none_order_rests_untouched_where_it_cannot_fill() -> None:
    """It is taken whole or not at all, as maker and as taker."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(alice, "buy", LOTS, 100)
    world.run(300)
    answer = place(bob, "sell", 2 * LOTS, 100, all_or_none=True)
    assert answer["trades"] == []
    assert answer["order"]["remaining_lots"] == 2 * LOTS
    world.run(300)
    part = place(alice, "buy", LOTS, 100, time_in_force="ioc")
    assert part["trades"] == []
    whole = place(alice, "buy", 2 * LOTS, 100)
    assert [one["quantity_lots"] for one in whole["trades"]] == [2 * LOTS]


def test_an_all_or_none_order_that_fails_half_way_rests_whole() -> None:
    """One maker accepts, the other refuses: the accepted part returns and all of it rests."""
    world = World()
    alice, bob, carol = world.meet("alice", "bob", "carol")
    place(alice, "buy", LOTS, 101)
    place(bob, "buy", LOTS, 100)
    world.run(300)
    reject(world, bob, RejectReason.DECLINED)
    answer = place(carol, "sell", 2 * LOTS, 100, all_or_none=True)
    assert answer["order"]["state"] == "open"
    assert answer["order"]["remaining_lots"] == 2 * LOTS
    world.run(5_000)
    assert carol.ledger.payments == {}
    shown = carol.tell(ListOrders())["orders"][0]
    assert (shown["remaining_lots"], shown["dropped_lots"]) == (2 * LOTS, 0)
    assert book(alice)["asks"] == [(100, 2 * LOTS)]


def test_post_only_is_refused_where_it_would_trade() -> None:
    """And rests where it would not."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(alice, "buy", LOTS, 100)
    world.run(300)
    assert refused(bob, order("sell", LOTS, 100, post_only=True)) == "would_cross"
    answer = place(bob, "sell", LOTS, 101, post_only=True)
    assert answer["order"]["state"] == "open"


def test_an_order_never_trades_with_its_own_owner() -> None:
    """Refused as a whole, naming the order in the way."""
    world = World()
    (alice,) = world.meet("alice")
    mine = place(alice, "buy", LOTS, 100)["order"]["order_id"]
    answer = alice.ask(order("sell", LOTS, 100))
    assert answer.result["reason"] == "self_trade"
    assert mine[:12] in answer.result["message"]
    assert refused(alice, TakeOrder(mine, LOTS)) == "own_order"


def test_a_rest_never_lies_across_our_own_order() -> None:
    """The maker before our own order refuses: the rest ends instead of resting crossed."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(alice, "buy", LOTS, 102)
    place(bob, "buy", LOTS, 100)
    world.run(300)
    reject(world, alice, RejectReason.DECLINED)
    answer = place(bob, "sell", LOTS, 100)
    assert answer["order"]["close_reason"] == "self_trade"
    assert book(bob) == {"bids": [(102, LOTS), (100, LOTS)], "asks": []}


def test_a_minimum_is_kept_on_both_sides() -> None:
    """A fill below either minimum is not made."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(alice, "buy", 2 * LOTS, 100, minimum_lots=LOTS)
    world.run(300)
    small = place(bob, "sell", LOTS // 2, 100, time_in_force="ioc")
    assert small["trades"] == []
    fits = place(bob, "sell", LOTS, 100, minimum_lots=LOTS)
    assert [one["quantity_lots"] for one in fits["trades"]] == [LOTS]


def test_a_dry_run_changes_nothing_and_tells_what_would_happen() -> None:
    """Fills, cost, average price and rest, from the book as it is."""
    world = World()
    alice, bob, carol = world.meet("alice", "bob", "carol")
    place(alice, "buy", LOTS, 102)
    place(bob, "buy", LOTS, 100)
    world.run(300)
    before = carol.k.state_hash()
    command = order("sell", 3 * LOTS, 100, dry_run=True, key="dry")
    result = carol.tell(command)
    assert [(one["quantity_lots"], one["price_ticks"]) for one in result["fills"]] == [
        (LOTS, 102),
        (LOTS, 100),
    ]
    assert result["filled_lots"] == 2 * LOTS
    assert result["resting_lots"] == LOTS
    assert result["cancelled_lots"] == 0
    assert result["average_price_ticks_numerator"] == LOTS * 202
    assert result["quote_units"] == 3 + 2  # 2.04 and 2.00 cents, each rounded up
    assert carol.k.state_hash() == before
    assert not place(carol, "sell", LOTS, 102, key="dry")["repeated"]


@pytest.mark.parametrize(
    ("reason", "terms"),
    [
        ("wrong_market", {"market": "BTC/EUR"}),
        ("wrong_market", {"market": "x" * 200}),
        ("invalid_quantity", {"quantity_lots": 0}),
        ("invalid_quantity", {"quantity_lots": 2**63 - 1}),
        ("invalid_price", {"price_ticks": 0}),
        ("notional_too_small", {"quantity_lots": 1}),
        ("notional_overflow", {"quantity_lots": 10**15, "price_ticks": 2**62}),
        ("malformed", {"side": "hold"}),
        ("malformed", {"time_in_force": "day"}),
        ("malformed", {"pay_mode": "later"}),
        ("minimum_above_quantity", {"minimum_lots": LOTS + 1}),
        ("contradictory_flags", {"post_only": True, "time_in_force": "ioc"}),
        ("contradictory_flags", {"post_only": True, "time_in_force": "fok"}),
        ("contradictory_flags", {"renew": True, "time_in_force": "ioc"}),
        ("expiry_too_far", {"expires_in_ms": ORDER_LIFE_MAX_MS + 1}),
        ("expiry_too_far", {"expires_in_ms": 2**63 - 1}),
    ],
)
def test_a_wrong_order_is_refused_in_one_sentence(reason: str, terms: dict[str, Any]) -> None:
    """Each has its word and its sentence, and leaves no trace."""
    world = World()
    (alice,) = world.meet("alice")
    fields = {"market": MARKET, "side": "buy", "quantity_lots": LOTS, "price_ticks": 100, **terms}
    assert refused(alice, PlaceOrder(**fields)) == reason


def test_more_orders_than_others_accept_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be in nobody's book."""
    monkeypatch.setattr("zmqex.kernel.terms.ORDERS_PER_MAKER_MAX", 2)
    world = World()
    (alice,) = world.meet("alice")
    place(alice, "buy", LOTS, 100)
    place(alice, "buy", LOTS, 100)
    assert refused(alice, order("buy", LOTS, 100)) == "maker_full"
    assert place(alice, "buy", LOTS, 100, time_in_force="ioc")["order"]["state"] == "closed"


def test_an_order_ends_at_its_expiry_and_no_sooner() -> None:
    """GTD: open until the given moment, then gone from every book."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(alice, "buy", LOTS, 100, time_in_force="gtd", expires_in_ms=60_000)
    world.run(59_000)
    assert book(bob)["bids"] == [(100, LOTS)]
    world.run(1_100)
    assert book(bob)["bids"] == []
    assert alice.tell(ListOrders(closed=True))["orders"][0]["close_reason"] == "expired"


def test_a_renewed_order_goes_on_under_a_new_id_with_what_is_free() -> None:
    """What a trade holds stays with the old order; the rest lives as long again."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    old = place(alice, "sell", 3 * LOTS, 100, expires_in_ms=60_000, renew=True)["order"]
    world.run(300)
    place(bob, "buy", LOTS, 100)  # held until bob says that he has sent the quote
    world.run(60_000)
    (fresh,) = alice.tell(ListOrders())["orders"]
    assert fresh["order_id"] != old["order_id"]
    assert fresh["remaining_lots"] == 2 * LOTS
    assert fresh["expires_at_ms"] == old["expires_at_ms"] + 60_000
    assert book(bob)["asks"] == [(100, 2 * LOTS)]
    assert len(alice.held) == 1


def test_nothing_is_renewed_where_nothing_is_free() -> None:
    """An order that is held as a whole ends when it expires."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(alice, "sell", LOTS, 100, expires_in_ms=60_000, renew=True)
    world.run(300)
    place(bob, "buy", LOTS, 100)
    world.run(60_000)
    assert alice.tell(ListOrders())["orders"] == []


def test_a_repeated_key_gives_the_same_order_and_its_trades() -> None:
    """A command that is sent twice places one order."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(alice, "buy", LOTS, 100)
    world.run(300)
    first = place(bob, "sell", LOTS, 100, key="k")
    again = place(bob, "sell", LOTS, 100, key="k")
    assert again["repeated"]
    assert again["order"]["order_id"] == first["order"]["order_id"]
    assert [one["trade_id"] for one in again["trades"]] == [
        one["trade_id"] for one in first["trades"]
    ]
    assert len(bob.tell(ListOrders(closed=True))["orders"]) == 1


@pytest.mark.parametrize("commit", range(1, 8))
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_repeat_after_a_crash_anywhere_places_one_order(commit: int, when: str) -> None:
    """The seller crashes around one of its commits, comes back and hears the command again."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(alice, "buy", 3 * LOTS, 100)
    world.run(300)
    bob.crash_at = (when, bob.journal.commits + commit)
    bob.command(order("sell", LOTS, 100, key="k", time_in_force="ioc"))
    world.run(3_000)
    crashed = not bob.up
    if crashed:
        bob.start()
        world.introduce(bob)
        world.run(3_000)
    answer = place(bob, "sell", LOTS, 100, key="k", time_in_force="ioc")
    world.run(10_000)
    orders = bob.tell(ListOrders(closed=True))["orders"]
    assert len(orders) == 1
    assert orders[0]["order_id"] == answer["order"]["order_id"]
    assert orders[0]["state"] == "closed"
    assert money(world) == 2 * 10**12
    assert bob.ledger.balance_msat in {10**12, 10**12 - LOTS * 1_000}
    if commit == 1 and when == "before":
        assert crashed
        assert not answer["repeated"]


def test_a_working_order_goes_on_after_a_restart() -> None:
    """Its first maker was silent when the node died; the second one fills it later."""
    world = World()
    nodes = world.meet("alice", "bob", "carol")
    alice, bob, carol = nodes
    place(alice, "buy", LOTS, 101)
    place(bob, "buy", LOTS, 100)
    world.run(300)
    alice.pause()
    carol.command(order("sell", LOTS, 100))
    world.run(100)
    assert carol.tell(ListOrders())["orders"][0]["state"] == "working"
    carol.crash()
    carol.start()
    world.introduce(carol)
    world.run(10_000)
    (mine,) = carol.tell(ListOrders(closed=True))["orders"]
    assert (mine["state"], mine["close_reason"]) == ("closed", "filled")
    alice.resume()
    world.run(20_000)
    assert money(world) == 3 * 10**12
    assert carol.ledger.balance_msat == 10**12 - LOTS * 1_000
    assert alice.held == {}
