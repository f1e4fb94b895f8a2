"""The naive maker of the chaos run: what it plants is read by the node, and oversells."""

from __future__ import annotations

import pytest
from chaos_naive import NAIVE

from tests.stories import state_of, taken, trade_of
from tests.unit.maker_stories import scene
from zmqex.limits import HOLD_TTL_MS
from zmqex.trading.states import State


def hold_over() -> tuple[State, str]:
    """The maker's state and its invoice's, when a hold is over and Lightning says nothing."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, "buy", pay_mode="manual")
    payment_hash = trade_of(alice, trade_id).payment_hash
    alice.ledger.fail_look = True
    world.run(HOLD_TTL_MS + 5_000)
    return state_of(alice, trade_id), alice.ledger.state(payment_hash)


def test_the_naive_maker_frees_what_may_still_be_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real maker gives nothing back without Lightning's word; the naive one does."""
    assert hold_over()[0] is not State.CANCELLED
    for (module, name), naive in NAIVE.items():
        assert hasattr(module, name), "nobody reads it: the naive maker would be the real one"
        monkeypatch.setattr(module, name, naive)
    assert hold_over() == (State.CANCELLED, "open")
