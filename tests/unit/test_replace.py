"""Replacing an order, and the band around the best price that a placement must not leave unseen."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.floor import MARKET, book, place
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel.commands import CancelOrder, PlaceOrder, ReplaceOrder, ShowOrder
from zmqex.protocol.codec import decode, decode_envelope
from zmqex.protocol.log import topic
from zmqex.protocol.messages import Batch, Close, Place

LOTS = 8_000_000


def replace(
    node: SimNode,
    order_id: str,
    lots: int,
    ticks: int,
    **fields: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """`order replace`; the answer."""
    return node.tell(ReplaceOrder(order_id, MARKET, lots, ticks, **fields))


def batches(world: World, node: SimNode) -> list[Batch]:
    """From now on, the batches that a node publishes."""
    seen: list[Batch] = []

    def spy(who: SimNode, effect: out.Effect) -> None:
        if who is node and isinstance(effect, out.Publish) and effect.topic == topic(MARKET):
            seen.append(decode(decode_envelope(effect.envelope).body, Batch))

    world.spy = spy
    return seen


def test_a_replacement_is_one_batch_and_keeps_all_but_quantity_and_price() -> None:
    """Close and place together; flags, end and smallest fill stay."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    old = place(
        alice, "buy", LOTS, 100, minimum_lots=LOTS // 2, expires_in_ms=60_000, post_only=True,
        time_in_force="gtd",
    )["order"]  # fmt: skip
    world.run(1_000)
    seen = batches(world, alice)
    answer = replace(alice, old["order_id"][:10], LOTS // 4, 101)
    (batch,) = seen
    assert [type(one) for one in batch.operations] == [Close, Place]
    new = answer["order"]
    assert answer["replaced"] == {
        "order_id": old["order_id"],
        "market": MARKET,
        "removed_lots": LOTS,
        "held_lots": 0,
        "remaining_lots": 0,
    }
    assert (new["quantity_lots"], new["price_ticks"], new["state"]) == (LOTS // 4, 101, "open")
    assert (new["minimum_lots"], new["expires_at_ms"]) == (LOTS // 4, old["expires_at_ms"])
    assert alice.tell(ShowOrder(old["order_id"]))["order"]["close_reason"] == "replaced"
    world.run(1_000)
    assert book(bob)["bids"] == [(101, LOTS // 4)]


def test_an_order_that_renews_itself_lives_as_long_as_the_first_one() -> None:
    """Its life is what is renewed, not what was left of it."""
    world = World()
    (alice,) = world.meet("alice")
    old = place(alice, "buy", LOTS, 100, expires_in_ms=60_000, renew=True)["order"]
    world.run(50_000)
    new = replace(alice, old["order_id"], LOTS, 99)["order"]
    assert new["renew"]
    assert new["expires_at_ms"] - new["created_ms"] == 60_000


def test_what_is_held_of_a_replaced_order_stays_held() -> None:
    """Its trade goes on; only what was free is replaced."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    old = place(alice, "sell", LOTS, 100)["order"]
    world.run(300)
    trade = place(bob, "buy", LOTS // 4, 100, time_in_force="ioc")["trades"][0]
    answer = replace(alice, old["order_id"], LOTS, 105)
    assert answer["replaced"]["held_lots"] == LOTS // 4
    assert answer["replaced"]["removed_lots"] == LOTS - LOTS // 4
    assert trade["state"] == "accepted"
    assert alice.k.trades.held_lots(bytes.fromhex(old["order_id"])) == LOTS // 4


def test_a_replacement_may_cross_and_does_not_meet_the_one_it_replaces() -> None:
    """A bid that becomes an ask's match takes it; its own predecessor is out of the way."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(bob, "sell", LOTS, 105)
    old = place(alice, "buy", 2 * LOTS, 100)["order"]
    world.run(300)
    answer = replace(alice, old["order_id"], 2 * LOTS, 105, pay_mode="manual", key="k")
    assert [one["quantity_lots"] for one in answer["trades"]] == [LOTS]
    assert answer["trades"][0]["pay_mode"] == "manual"
    world.run(500)
    assert book(bob)["bids"] == [(105, LOTS)]
    again = replace(alice, old["order_id"], 2 * LOTS, 105, key="k")
    assert (again["repeated"], again["order"]["order_id"]) == (True, answer["order"]["order_id"])


def test_a_full_desk_can_still_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old order makes room for the new one."""
    world = World()
    (alice,) = world.meet("alice")
    old = place(alice, "buy", LOTS, 100)["order"]
    monkeypatch.setattr("zmqex.kernel.terms.ORDERS_PER_MAKER_MAX", 1)
    assert replace(alice, old["order_id"], LOTS, 101)["order"]["state"] == "open"


def test_what_cannot_be_replaced_stays_as_it_is() -> None:
    """Unknown, closed, of another market, being matched, or by nonsense: one sentence each."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    old = place(alice, "buy", LOTS, 100)["order"]["order_id"]
    for order_id, market, lots, reason, words in (
        ("f" * 64, MARKET, LOTS, "unknown_order", "no order"),
        (old, "BTC/EUR", LOTS, "wrong_market", "an order stays in its market"),
        (old, MARKET, 0, "invalid_quantity", "quantity"),
    ):
        answer = alice.ask(ReplaceOrder(order_id, market, lots, 100))
        assert (answer.ok, answer.result["reason"]) == (False, reason)
        assert words in answer.result["message"]
    assert alice.tell(ShowOrder(old))["order"]["state"] == "open"
    alice.tell(CancelOrder(old))
    answer = alice.ask(ReplaceOrder(old, MARKET, LOTS, 100))
    assert answer.result["reason"] == "order_closed"
    assert "cannot be replaced: it is closed (cancelled)" in answer.result["message"]
    place(bob, "sell", LOTS, 100)
    world.run(300)
    bob.pause()
    alice.command(PlaceOrder(MARKET, "buy", LOTS, 100))
    working = next(key for key, row in alice.k.orders.rows.items() if row.state == "working")
    answer = alice.ask(ReplaceOrder(working.hex(), MARKET, LOTS, 100))
    assert answer.result["reason"] == "wrong_state"
    assert "is being matched" in answer.result["message"]


# --- the price band -------------------------------------------------------------------------------

_RESTS = ": it would rest far from the market"


@pytest.mark.parametrize(
    ("side", "ticks", "refused"),
    [
        ("buy", 1_100, ""),
        ("buy", 1_101, "buying at 11.01 USD is 10 % above the best ask of 10 USD"),
        ("buy", 5_000, "buying at 50 USD is 400 % above the best ask of 10 USD"),
        ("buy", 900, ""),
        ("buy", 899, f"buying at 8.99 USD is 10 % below the best ask of 10 USD{_RESTS}"),
        ("buy", 50, f"buying at 0.5 USD is 95 % below the best ask of 10 USD{_RESTS}"),
        ("sell", 810, ""),
        ("sell", 809, "selling at 8.09 USD is 10 % below the best bid of 9 USD"),
        ("sell", 990, ""),
        ("sell", 991, f"selling at 9.91 USD is 10 % above the best bid of 9 USD{_RESTS}"),
        ("sell", 100_000, f"selling at 1000 USD is 11011 % above the best bid of 9 USD{_RESTS}"),
    ],
)
def test_a_price_far_from_the_best_one_must_be_meant(side: str, ticks: int, refused: str) -> None:
    """Refused with its sentence until the owner says so, if it costs too much or only waits."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(bob, "sell", LOTS, 1_000)
    place(bob, "buy", LOTS, 900)
    world.run(300)
    command = PlaceOrder(MARKET, side, LOTS, ticks)
    answer = alice.ask(command)
    if not refused:
        assert answer.ok
        return
    assert answer.result == {
        "reason": "outside_price_band",
        "message": refused,
    }
    assert alice.k.orders.rows == {}
    assert alice.ask(PlaceOrder(MARKET, side, LOTS, ticks, dry_run=True)).ok
    if refused.endswith(_RESTS):
        # What never rests is nowhere far from the market.
        assert alice.ask(PlaceOrder(MARKET, side, LOTS, ticks, time_in_force="ioc")).ok
    assert alice.ask(PlaceOrder(MARKET, side, LOTS, ticks, any_price=True)).ok


def test_only_prices_that_could_be_had_make_the_band() -> None:
    """Own orders, expired and silent ones do not count; a band of 0 asks nobody."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    free = world.add("free", price_band_percent=0)
    place(bob, "sell", LOTS, 100, expires_in_ms=30_000, time_in_force="gtd")
    place(bob, "sell", LOTS, 1_000)
    world.run(300)
    assert free.ask(PlaceOrder(MARKET, "buy", LOTS, 500)).ok
    assert alice.ask(PlaceOrder(MARKET, "buy", LOTS, 500)).result["reason"] == "outside_price_band"
    world.run(40_000)
    assert alice.ask(PlaceOrder(MARKET, "buy", LOTS // 2, 1_100)).ok
    bob.crash()
    world.run(40_000)
    assert alice.ask(PlaceOrder(MARKET, "buy", LOTS // 2, 9_000)).ok


@pytest.mark.parametrize("looks", [2, 3])
def test_so_many_orders_of_silent_makers_are_passed_over_in_search_of_a_price(
    looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None that an order would meet is passed over unseen, only those behind them."""
    monkeypatch.setattr("zmqex.kernel.terms.PRICE_BAND_LOOKS_MAX", looks)
    world = World()
    alice, bob, carol = world.meet("alice", "bob", "carol")
    for price in (500, 501):
        place(carol, "sell", LOTS, price)
    place(bob, "sell", LOTS, 502)
    world.run(300)
    carol.crash()
    world.run(40_000)
    far = alice.ask(PlaceOrder(MARKET, "buy", LOTS, 100))
    assert far.ok == (looks == 2)
    dear = alice.ask(PlaceOrder(MARKET, "buy", LOTS, 9_000))
    assert dear.result["reason"] == "outside_price_band"
