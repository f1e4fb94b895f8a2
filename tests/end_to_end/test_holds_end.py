"""An unpaid hold ends by itself and its quantity returns; a late payment is refused."""

from __future__ import annotations

import pytest

from tests.end_to_end.nodes import BTC, Home
from zmqex.errors import RefusedError
from zmqex.kernel.commands import ListHolds, PayTrade, PlaceOrder

HALF = BTC // 2


def test_an_unpaid_hold_ends_and_the_quantity_returns(user: Home) -> None:
    """With a hold of eight seconds: held, then free in every book, and paying is refused."""
    alice, bob = user.node("alice"), user.node("bob")
    alice.start("--hold-ttl", "8s")
    bob.start()
    bob.wait_live(alice)
    alice.call(PlaceOrder("BTC/USD", "buy", BTC, 100))
    order_id = alice.orders()[0]["order_id"]
    bob.wait_book(order_id, BTC)

    answer = bob.call(PlaceOrder("BTC/USD", "sell", HALF, 100, pay_mode="manual"))
    trade_id = answer["trades"][0]["trade_id"]
    bob.wait_book(order_id, BTC, HALF)
    for node in (alice, bob):
        node.wait_state(trade_id, "cancelled", 20)
        node.wait_book(order_id, BTC)

    assert alice.call(ListHolds())["holds"] == []
    with pytest.raises(RefusedError, match="cancelled"):
        bob.call(PayTrade(trade_id))
    assert bob.balance_msat() == 10 * BTC * 1_000
