"""The numbers of an own order: what is asked, filled, held and dropped always adds up."""

from __future__ import annotations

import msgspec
import pytest

from tests.unit.floor import LOTS, book, place
from tests.world import SimNode, World
from zmqex.kernel.commands import CancelOrder, CancelTrade, ListOrders, PayTrade, SentTrade
from zmqex.market.orders import OrderFlags
from zmqex.reasons import RejectReason


def resting(side: str = "sell") -> tuple[World, SimNode, SimNode, bytes]:
    """Alice's order of four rests; bob knows it."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    mine = place(alice, side, 4 * LOTS, 100)["order"]["order_id"]
    world.run(300)
    return world, alice, bob, bytes.fromhex(mine)


def numbers(node: SimNode, order_id: bytes) -> tuple[int, int, int, int]:
    """Capacity, remaining, available and dropped lots."""
    orders = node.k.orders
    row = orders.rows[order_id]
    assert orders.remaining_lots(order_id) >= orders.available_lots(order_id) >= 0
    return (
        orders.capacity(order_id),
        orders.remaining_lots(order_id),
        orders.available_lots(order_id),
        row.dropped_lots,
    )


def test_a_hold_takes_from_what_is_available_and_gives_it_back() -> None:
    """Remaining falls only when base has moved."""
    world, alice, bob, mine = resting()
    assert numbers(alice, mine) == (4 * LOTS, 4 * LOTS, 4 * LOTS, 0)
    trade = place(bob, "buy", LOTS, 100)["trades"][0]["trade_id"]
    assert numbers(alice, mine) == (4 * LOTS, 4 * LOTS, 3 * LOTS, 0)
    bob.tell(CancelTrade(trade))
    world.run(1_000)
    assert numbers(alice, mine) == (4 * LOTS, 4 * LOTS, 4 * LOTS, 0)
    assert book(bob)["asks"] == [(100, 4 * LOTS)]


def test_a_fill_takes_from_what_remains_and_the_last_one_closes() -> None:
    """Everywhere: the order leaves every book."""
    world, alice, bob, mine = resting("buy")
    place(bob, "sell", 3 * LOTS, 100)
    world.run(1_000)
    assert numbers(alice, mine) == (4 * LOTS, LOTS, LOTS, 0)
    assert book(bob)["bids"] == [(100, LOTS)]
    place(bob, "sell", LOTS, 100)
    world.run(1_000)
    assert alice.k.orders.rows[mine].close_reason == "filled"
    assert book(bob)["bids"] == book(alice)["bids"] == []
    assert numbers(alice, mine) == (4 * LOTS, 0, 0, 0)


def test_what_a_closed_orders_trade_gives_back_is_dropped() -> None:
    """Cancelled while a part is held: that part does not come back to life."""
    world, alice, bob, mine = resting()
    trade = place(bob, "buy", LOTS, 100)["trades"][0]["trade_id"]
    alice.tell(CancelOrder(mine.hex()))
    assert numbers(alice, mine) == (LOTS, LOTS, 0, 3 * LOTS)
    bob.tell(CancelTrade(trade))
    world.run(1_000)
    assert numbers(alice, mine) == (0, 0, 0, 4 * LOTS)
    assert book(bob)["asks"] == []


def test_what_a_closed_orders_trade_fills_is_filled() -> None:
    """Cancelled while a part is held and paid: nothing is published of it any more."""
    world, alice, bob, mine = resting("buy")
    trade = place(bob, "sell", LOTS, 100, pay_mode="manual")["trades"][0]["trade_id"]
    alice.tell(CancelOrder(mine.hex()))
    bob.tell(PayTrade(trade))
    world.run(100)
    assert alice.k.orders.rows[mine].filled_lots == LOTS
    assert numbers(alice, mine) == (LOTS, 0, 0, 3 * LOTS)


def test_what_we_took_and_lost_again_is_dropped_from_our_order() -> None:
    """The maker ended the hold: our order does not grow back in the book."""
    world, alice, bob, _ = resting()
    answer = place(bob, "buy", 5 * LOTS, 100)
    ours = bytes.fromhex(answer["order"]["order_id"])
    assert numbers(bob, ours) == (LOTS, LOTS, LOTS, 0)
    alice.tell(CancelTrade(answer["trades"][0]["trade_id"]))
    world.run(1_000)
    assert numbers(bob, ours) == (LOTS, LOTS, LOTS, 4 * LOTS)
    assert bob.tell(ListOrders())["orders"][0]["filled_lots"] == 0


def test_an_order_that_cannot_be_taken_says_why() -> None:
    """Unknown, closed, expired."""
    world, alice, _, mine = resting()
    orders = alice.k.orders
    assert orders.why_closed(bytes(32)) is RejectReason.UNKNOWN_ORDER
    assert orders.capacity(bytes(32)) == 0
    assert orders.why_closed(mine) is None
    alice.k.core.now = msgspec.structs.replace(world.now(), wall_ms=2**50)
    assert orders.why_closed(mine) is RejectReason.EXPIRED
    alice.tell(CancelOrder(mine.hex()))
    assert orders.why_closed(mine) is RejectReason.ORDER_CLOSED
    assert orders.open_count() == orders.live_count() == 0


@pytest.mark.parametrize(
    ("minimum", "flags", "asked", "accepted"),
    [
        (1, 0, 5, 4),
        (1, 0, 4, 4),
        (1, 0, 1, 1),
        (2, 0, 1, RejectReason.BELOW_MINIMUM),
        (2, 0, 3, RejectReason.LEAVES_DUST),
        (2, 0, 2, 2),
        (2, 0, 4, 4),
        (1, OrderFlags.ALL_OR_NONE, 3, RejectReason.ALL_OR_NONE),
        (1, OrderFlags.ALL_OR_NONE, 4, 4),
    ],
)
def test_a_take_is_accepted_as_the_terms_allow(
    minimum: int, flags: int, asked: int, accepted: int | RejectReason
) -> None:
    """Of an order of four: the whole, a part, or the first rule that forbids it."""
    _, alice, _, mine = resting()
    orders = alice.k.orders
    orders._terms[mine] = msgspec.structs.replace(
        orders.terms(mine), quantity_lots=4, minimum_lots=minimum, flags=int(flags)
    )
    assert orders.acceptable_lots(mine, asked, 4) == accepted


def test_an_order_that_is_held_as_a_whole_is_held() -> None:
    """Not closed: it may come back."""
    _, alice, bob, mine = resting()
    place(bob, "buy", 4 * LOTS, 100)
    assert alice.k.orders.acceptable_lots(mine, 1, LOTS) is RejectReason.HELD


def test_an_order_waits_for_its_expiry_when_the_clock_was_set_back() -> None:
    """The timer runs on a clock that never steps; the expiry is a wall clock's."""
    world = World()
    alice, _ = world.meet("alice", "bob")
    place(alice, "buy", LOTS, 100, expires_in_ms=60_000)
    world.wall_ms -= 30_000
    world.run(61_000)
    assert len(alice.tell(ListOrders())["orders"]) == 1
    world.run(30_000)
    assert alice.tell(ListOrders())["orders"] == []


def test_orders_go_on_after_a_restart_and_expire_in_time() -> None:
    """Also those that expired while the node was down."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(alice, "buy", LOTS, 100, expires_in_ms=60_000)
    place(alice, "buy", LOTS, 101)
    place(alice, "buy", LOTS, 102, time_in_force="ioc")
    alice.crash()
    world.run(61_000)
    alice.start()
    world.introduce(alice)
    world.run(20_000)
    assert [one["price_ticks"] for one in alice.tell(ListOrders())["orders"]] == [101]
    assert book(bob)["bids"] == [(101, LOTS)]


def test_orders_of_a_lost_log_are_closed() -> None:
    """They cannot be taken, so they must not seem open; a running trade goes on."""
    world, alice, bob, mine = resting()
    trade = place(bob, "buy", LOTS, 100)["trades"][0]["trade_id"]
    alice.k.orders.log_lost("BTC/EUR")
    assert alice.k.orders.rows[mine].state == "open"
    alice.k.orders.log_lost("BTC/USD")
    alice.k.orders.log_lost("BTC/USD")
    assert alice.k.orders.rows[mine].close_reason == "unavailable"
    for effect in alice.k.core.finish():
        if hasattr(effect, "writes"):
            alice.journal.commit(effect.writes)
    bob.tell(SentTrade(trade))
    world.run(200)
    assert alice.k.trades.by_id[bytes.fromhex(trade)].state == "quote_sent"


def test_what_the_peers_were_not_told_before_a_crash_they_are_told_after_it() -> None:
    """Updates of one order are coalesced; the last one of them may die with the process."""
    world, alice, bob, _ = resting("buy")
    for _ in range(2):
        place(bob, "sell", LOTS, 100)  # both within a quarter of a second
    alice.crash()
    world.run(1_000)
    assert book(bob)["bids"] != [(100, 2 * LOTS)]
    alice.start()
    world.introduce(alice)
    world.run(10_000)
    assert book(bob)["bids"] == book(alice)["bids"] == [(100, 2 * LOTS)]
