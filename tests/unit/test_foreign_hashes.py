"""A stranger names the hash of a hold invoice: what else has that hash on our node is left alone.

By such a hash a taker could have another program's invoice cancelled, or its payment taken for one
of the trade.
"""

from __future__ import annotations

import pytest

from tests.outside import Ledger
from tests.stories import BTC, available, holds, only_trade, place
from tests.swaps import Scene
from tests.unit.lock_stories import LOTS, scene
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.protocol.codec import decode, decode_envelope, decode_frame, decode_trade_message
from zmqex.protocol.messages import Take, TradeSaid
from zmqex.trading.states import State


def sell_elsewhere(world: World, ledger: Ledger, state: str) -> list[bytes]:
    """Another program on a Lightning node has an invoice of whatever hash a take names."""
    hashes: list[bytes] = []

    def spy(_node: SimNode, effect: out.Effect) -> None:
        if not isinstance(effect, out.SendRequest) or decode_frame(effect.frame).kind != "take":
            return
        said = decode(decode_frame(effect.frame).body, TradeSaid)
        take = decode_trade_message(decode_envelope(said.envelope).body)
        assert isinstance(take, Take)
        assert take.payment_hash is not None
        hashes.append(take.payment_hash)
        coffee = out.CreateHoldInvoice(
            bytes(32), take.payment_hash, LOTS * 1_000, "coffee", 900, 40
        )
        ledger.create(coffee)
        ledger.invoices[take.payment_hash] |= {"state": state, "expiry_height": 10**7}

    world.spy = spy
    return hashes


@pytest.mark.parametrize("state", ["open", "accepted", "settled"])
def test_a_lock_is_not_made_of_another_invoice(state: str) -> None:
    """Refused; the quantity is free at once, and the other invoice stays as it is."""
    world, alice, bob = scene()
    hashes = sell_elsewhere(world, alice.ledger, state)
    alice.tell(place("buy", BTC, settlements=("htlc",)))
    world.run(300)
    answer = bob.tell(place("sell", LOTS, settlements=("htlc",), time_in_force="ioc"))
    assert answer["skipped"][0]["reason"] == "wrong_payment_hash"
    world.run(60_000)
    assert only_trade(alice).state is State.CANCELLED
    assert (holds(alice), available(alice)) == ([], [BTC])
    assert alice.ledger.invoices[hashes[0]]["state"] == state


def test_a_swap_is_not_made_of_another_invoice() -> None:
    """The same: neither leg moves, and what was held for another stays held."""
    swap = Scene()
    hashes = sell_elsewhere(swap.world, swap.ledger(swap.alice, swap.leg1), "accepted")
    swap.take()
    swap.world.run(60_000)
    assert swap.trade(swap.alice).state is State.CANCELLED
    assert swap.ledger(swap.alice, swap.leg1).invoices[hashes[0]]["state"] == "accepted"
    assert swap.moved(swap.alice) == swap.moved(swap.bob) == (0, 0)
