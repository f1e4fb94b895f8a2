"""A dispute keeps what it holds until the operator ends it, and never against Lightning's word."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stories import (
    BTC,
    available,
    check_always,
    check_quiet,
    quote_leg,
    sleep,
    state_of,
    taken,
    trade_of,
)
from tests.unit.maker_stories import DAY, confirmed_without_funds, scene
from tests.world import SimNode
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import (
    CancelTrade,
    DisputeTrade,
    ExportTrade,
    ListTrades,
    ReceivedTrade,
    ResolveTrade,
    SentTrade,
    ShowOrder,
)
from zmqex.trading.states import State

LOTS = 4 * BTC // 10


def resolved(node: SimNode, trade: str, outcome: str) -> out.AnswerCommand:
    """`trade resolve`."""
    return node.ask(ResolveTrade(trade, outcome), within_ms=15_000)


def order_of(node: SimNode, trade: str) -> dict[str, Any]:
    """The maker's order that a trade took of."""
    order: dict[str, Any] = node.tell(ShowOrder(trade_of(node, trade).order_id.hex()))["order"]
    return order


def test_a_selling_maker_gives_the_quantity_back_when_the_quote_never_came() -> None:
    """What it says is "not received", after the confirm time; it can be sold again."""
    world, (alice, bob) = scene()
    trade = taken(world, alice, bob, "sell")
    bob.tell(SentTrade(trade))
    world.run(100)
    sleep(world, DAY)
    assert state_of(alice, trade) is State.DISPUTED
    assert available(alice, "asks") == [BTC - LOTS]
    assert alice.tell(ListTrades())["trades"][0]["turn"] == "you"
    answer = resolved(alice, trade, "cancelled")
    assert answer.result["trade"]["state"] == "cancelled"
    assert available(alice, "asks") == [BTC]
    world.run(5_000)
    assert state_of(bob, trade) is State.DISPUTED  # who says to have paid decides for itself
    assert resolved(bob, trade, "cancelled").ok
    check_always(world)


def test_a_selling_maker_that_was_paid_some_other_way_counts_it_as_sold() -> None:
    """Settled without Lightning: the quantity is filled, and its hold is given back."""
    world, (alice, bob) = scene()
    trade = taken(world, alice, bob, "sell")
    bob.tell(SentTrade(trade))
    world.run(100)
    assert alice.tell(DisputeTrade(trade))["trade"]["state"] == "disputed"
    assert order_of(alice, trade)["held_lots"] == LOTS
    assert resolved(alice, trade, "settled").result["trade"]["state"] == "settled"
    order = order_of(alice, trade)
    assert (order["filled_lots"], order["held_lots"]) == (LOTS, 0)
    assert not alice.held


def test_what_was_paid_cannot_end_as_cancelled() -> None:
    """Neither for the maker that was paid nor for the taker that has paid."""
    world, (alice, bob) = scene()
    trade = taken(world, alice, bob, "buy")
    world.run(500)
    for node in (alice, bob):
        node.tell(DisputeTrade(trade))
        answer = resolved(node, trade, "cancelled")
        assert answer.result["reason"] == "already_paid"
        assert "was paid over Lightning" in answer.result["message"]
        assert state_of(node, trade) is State.DISPUTED
        assert resolved(node, trade, "settled").ok
    assert order_of(alice, trade)["filled_lots"] == LOTS
    check_always(world)


def test_a_buying_taker_cancels_its_invoice_before_it_gives_up() -> None:
    """Its node takes no payment any more; what its own order missed is dropped."""
    _, alice, bob, trade = confirmed_without_funds()
    bob.tell(DisputeTrade(trade))
    assert resolved(bob, trade, "cancelled").result["trade"]["state"] == "cancelled"
    payment_hash = trade_of(bob, trade).payment_hash
    assert bob.ledger.state(payment_hash) == "canceled"
    assert not bob.journal.outbox
    # The maker has not paid: it may give up as well.
    alice.tell(DisputeTrade(trade))
    assert resolved(alice, trade, "cancelled").ok
    assert available(alice, "asks") == [BTC]


def test_money_that_comes_during_a_dispute_settles_it() -> None:
    """The buying taker waits for nothing else; asking for the end finds it settled."""
    for asks_first in (False, True):
        world, alice, bob, trade = confirmed_without_funds()
        bob.tell(DisputeTrade(trade))
        payment_hash = trade_of(bob, trade).payment_hash
        bob.ledger.invoices[payment_hash].update(state="settled", payer=alice.ledger.node)
        bob.ledger.balance_msat += LOTS * 1_000
        alice.ledger.balance_msat += 980_000_000_000 - LOTS * 1_000
        if asks_first:
            answer = resolved(bob, trade, "cancelled")
            assert answer.result["trade"]["state"] == "settled"
        else:
            bob.handle(happened.InvoiceSeen(payment_hash, "settled"))
        assert state_of(bob, trade) is State.SETTLED
        assert trade_of(bob, trade).paid
        world.run(1_000)


def test_nothing_is_cancelled_without_lightnings_word() -> None:
    """Silence, another hash or a payment on its way: it stays disputed, and says so."""
    world, _, bob, trade = confirmed_without_funds()
    bob.tell(DisputeTrade(trade))
    bob.ledger.fail_look = True
    request = bob.command(ResolveTrade(trade, "cancelled"))
    # A hash that the trade had before: its invoice is dead, the newer one may live.
    bob.k.trades._by_hash[bytes(32)] = bytes.fromhex(trade)
    bob.handle(happened.InvoiceSeen(bytes(32), "canceled"))
    bob.handle(happened.InvoiceSeen(trade_of(bob, trade).payment_hash, "open"))
    world.run_until(lambda: request in bob.answers, 15_000)
    answer = bob.answers[request]
    assert answer.result["reason"] == "lightning_unavailable"
    assert "it stays disputed" in answer.result["message"]
    # Nobody asks any more: a word that comes now changes nothing.
    bob.handle(happened.InvoiceSeen(trade_of(bob, trade).payment_hash, "canceled"))
    assert state_of(bob, trade) is State.DISPUTED


def test_a_maker_in_dispute_hears_of_its_settled_invoice_again() -> None:
    """Its base was paid before: nothing moves."""
    world, (alice, bob) = scene()
    trade = taken(world, alice, bob, "buy")
    world.run(500)
    alice.tell(DisputeTrade(trade))
    alice.handle(happened.InvoiceSeen(trade_of(alice, trade).payment_hash, "settled"))
    assert state_of(alice, trade) is State.DISPUTED


@pytest.mark.parametrize("outcome", ["settled", "cancelled"])
def test_a_late_claim_is_resolved_without_touching_the_quantity(outcome: str) -> None:
    """Its quantity had gone back before, and is not counted twice."""
    world, (alice, bob) = scene()
    trade = taken(world, alice, bob, "sell")
    world.drop = lambda node, _target, _effect: node is bob
    bob.tell(SentTrade(trade))
    alice.tell(CancelTrade(trade))
    world.drop = lambda *_: False
    world.run(40_000)
    assert state_of(alice, trade) is State.DISPUTED
    assert trade_of(alice, trade).late
    assert resolved(alice, trade, outcome).ok
    assert available(alice, "asks") == [BTC]
    assert order_of(alice, trade)["filled_lots"] == 0
    check_always(world)


def test_a_settled_word_alone_shows_no_preimage() -> None:
    """The taker calls it settled although nobody paid: its preimage stays a secret."""
    _, _, bob, trade = confirmed_without_funds()
    bob.tell(DisputeTrade(trade))
    assert resolved(bob, trade, "settled").ok
    assert bob.tell(ExportTrade(trade))["evidence"]["preimage"] is None


def test_refusals_say_what_is_wrong() -> None:
    """A word too early, another outcome, an unknown id."""
    world, (alice, bob) = scene()
    trade = taken(world, alice, bob, "buy", pay_mode="manual")
    early = alice.ask(DisputeTrade(trade))
    assert "in which there is nothing to dispute" in early.result["message"]
    undisputed = resolved(alice, trade, "settled")
    assert "it is not disputed: its state is invoiced" in undisputed.result["message"]
    odd = resolved(alice, trade, "somehow")
    assert odd.result["reason"] == "malformed"
    unknown = alice.ask(DisputeTrade("00" * 32))
    assert unknown.result["reason"] == "unknown_trade"


def test_a_dispute_outlives_a_restart_and_can_be_resolved_then() -> None:
    """It is in the journal, and no timer of the state before it fires any more."""
    world, (alice, bob) = scene()
    trade = taken(world, alice, bob, "sell")
    bob.tell(SentTrade(trade))
    world.run(100)
    alice.tell(DisputeTrade(trade))
    alice.crash()
    alice.start()
    world.introduce(alice)
    sleep(world, 2 * DAY)
    assert state_of(alice, trade) is State.DISPUTED
    assert alice.ask(ReceivedTrade(trade)).result["reason"] == "wrong_state"
    assert resolved(alice, trade, "cancelled").ok


def test_an_undisputed_trade_still_settles() -> None:
    """The whole way, and both know that the base was paid."""
    world, (alice, bob) = scene()
    trade = taken(world, alice, bob, "buy")
    world.run(500)
    quote_leg(world, alice, bob, trade)
    assert state_of(alice, trade) is state_of(bob, trade) is State.SETTLED
    assert trade_of(alice, trade).paid
    assert trade_of(bob, trade).paid


def test_a_confirmation_during_a_dispute_settles_it_for_a_buying_maker() -> None:
    """It has the base, and the taker signs that it has the quote."""
    world, (alice, bob) = scene()
    trade = taken(world, alice, bob, "buy")
    world.run(500)
    alice.tell(SentTrade(trade))
    alice.tell(DisputeTrade(trade))
    world.run(100)
    bob.tell(ReceivedTrade(trade))
    world.run(1_000)
    assert state_of(alice, trade) is state_of(bob, trade) is State.SETTLED
    check_quiet(world)
