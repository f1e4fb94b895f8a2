"""The taker's side: getting out, failing payments, invoices, and what follows a restart."""

from __future__ import annotations

import pytest

from tests.stories import (
    BTC,
    HOLD,
    MINUTE,
    available,
    cancel,
    check_quiet,
    only_trade,
    pay,
    place,
    quote_leg,
    revive,
    state_of,
    taken,
    trade_of,
)
from tests.unit.taker_stories import manual, scene
from tests.world import SimNode
from zmqex.kernel import effects as out
from zmqex.kernel.commands import ListTrades, ReceivedTrade, SentTrade
from zmqex.reasons import RejectReason
from zmqex.trading.states import State


def test_a_buying_taker_that_sends_nothing_gets_out_at_the_end_of_the_hold() -> None:
    """No quote, no claim: both sides cancelled; "sent" comes too late and is refused."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, "sell")
    world.run(HOLD + 5_000)
    assert state_of(alice, trade_id) is state_of(bob, trade_id) is State.CANCELLED
    assert bob.ask(SentTrade(trade_id)).result["reason"] == "wrong_state"
    check_quiet(world)


def test_a_restart_between_take_and_answer_gets_out_of_the_take() -> None:
    """Nobody waits for that answer any more, so it is never paid."""
    world, (alice, bob) = scene()
    alice.tell(place("buy", BTC))
    world.run(300)
    alice.pause()
    bob.command(place("sell", 4 * BTC // 10))
    world.run(5)
    assert only_trade(bob).state is State.TAKING
    bob.crash()
    alice.resume()
    world.arm(alice)
    revive(world)
    world.run(2 * MINUTE)
    assert only_trade(bob).state is State.CANCELLED
    assert bob.ledger.payments == {}
    assert available(alice) == [BTC]


def test_an_order_that_wants_all_pays_nothing_before_all_is_held() -> None:
    """Fill or kill over two makers, one of which refuses: no part is paid."""
    world, (alice, bob, carol) = scene("alice", "bob", "carol")
    alice.tell(place("buy", BTC))
    bob.tell(place("buy", BTC))
    world.run(300)
    bob.holds = "full"
    answer = carol.tell(place("sell", 2 * BTC, time_in_force="fok"))
    assert answer["order"]["close_reason"] == "not_fillable"
    world.run(3_000)
    assert carol.ledger.payments == {}
    assert only_trade(alice).state is State.CANCELLED
    bob.holds = "up"
    world.run(MINUTE)
    carol.tell(place("sell", 2 * BTC, time_in_force="fok"))
    world.run(3_000)
    assert sum(one["amount_msat"] for one in carol.ledger.payments.values()) == 2 * BTC * 1_000
    check_quiet(world)


def test_a_restart_in_the_middle_of_all_or_nothing_pays_no_part() -> None:
    """The first maker has accepted, the second has not answered, the taker restarts: nothing."""
    world, (alice, bob, carol) = scene("alice", "bob", "carol")
    alice.tell(place("buy", BTC))
    bob.tell(place("buy", BTC))
    world.run(300)
    bob.pause()
    carol.command(place("sell", 2 * BTC, time_in_force="fok"))
    world.run(500)
    carol.crash()
    revive(world)
    world.run(10_000)
    bob.resume()
    world.arm(bob)
    world.run(2 * MINUTE)
    assert carol.ledger.payments == {}
    assert {one["state"] for one in carol.tell(ListTrades())["trades"]} == {"cancelled"}


def test_received_can_be_said_before_the_maker_says_sent() -> None:
    """The seller knows best whether the quote is there."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob)
    world.run(500)
    bob.tell(ReceivedTrade(trade_id))
    world.run(500)
    assert state_of(alice, trade_id) is state_of(bob, trade_id) is State.SETTLED
    check_quiet(world)


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_the_wrong_party_can_say_neither_sent_nor_received(side: str) -> None:
    """Who buys the base sends the quote; who sells it receives the quote; nothing else counts."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, side)
    world.run(500)
    buyer, seller = (alice, bob) if side == "buy" else (bob, alice)
    assert seller.ask(SentTrade(trade_id)).result["reason"] == "wrong_party"
    assert buyer.ask(ReceivedTrade(trade_id)).result["reason"] == "wrong_party"
    assert pay(buyer, trade_id).result["reason"] == "wrong_party"
    before = state_of(alice, trade_id), state_of(bob, trade_id)
    world.run(500)
    assert before == (state_of(alice, trade_id), state_of(bob, trade_id))


def test_a_word_that_is_faster_than_lightning_is_said_again() -> None:
    """The maker says "sent" while the taker still waits for its payment's end: heard later."""
    world, alice, bob, trade_id = manual()
    # The payment arrives, but bob does not hear so.
    bob.ledger.fail_look = True
    trade = trade_of(bob, trade_id)
    bob.ledger.unreachable = True
    pay(bob, trade_id)
    preimage = alice.ledger.receive(trade.payment_hash, trade.base_msat, bob.ledger.node)
    assert preimage
    world.run(1_000)
    alice.tell(SentTrade(trade_id, "wire 8"))
    world.run(20_000)
    assert state_of(bob, trade_id) is State.PAYING
    bob.ledger.fail_look = bob.ledger.unreachable = False
    world.run(2 * MINUTE)
    assert state_of(bob, trade_id) is State.QUOTE_SENT
    assert trade_of(bob, trade_id).reference == "wire 8"
    bob.tell(ReceivedTrade(trade_id))
    world.run(1_000)
    check_quiet(world)


@pytest.mark.parametrize("how", ["rejected", "indeterminate"])
def test_a_buying_takers_invoice_is_made_again_until_it_exists(how: str) -> None:
    """CONFIRMED looks up and repeats; a restart in between changes nothing."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, "sell")
    bob.ledger.fail_create = how  # type: ignore[assignment]
    quote_leg(world, bob, alice, trade_id)
    assert state_of(bob, trade_id) is State.CONFIRMED
    bob.crash()
    revive(world)
    assert state_of(bob, trade_id) is State.CONFIRMED
    bob.ledger.fail_create = ""
    world.run(MINUTE)
    assert state_of(alice, trade_id) is state_of(bob, trade_id) is State.SETTLED
    check_quiet(world)


def test_a_takers_invoice_that_expired_before_it_was_sent_is_replaced() -> None:
    """Made, but the node was down for hours before it could be written: a fresh one is paid."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, "sell")
    bob.tell(SentTrade(trade_id))
    world.run(100)
    bob.crash_at = ("before", bob.journal.commits + 2)
    alice.tell(ReceivedTrade(trade_id))
    world.run(1_000)
    assert not bob.up
    assert len(bob.ledger.invoices) == 1
    world.run(2 * 60 * MINUTE)
    revive(world)
    world.run(2 * MINUTE)
    assert state_of(alice, trade_id) is state_of(bob, trade_id) is State.SETTLED
    assert len(bob.ledger.invoices) == 2
    check_quiet(world)


def test_a_settled_invoice_is_found_after_a_restart() -> None:
    """The maker paid while the taker was down: its word comes from Lightning, not from memory."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, "sell")
    alice.ledger.unreachable = True
    quote_leg(world, bob, alice, trade_id)
    trade = trade_of(alice, trade_id)
    bob.ledger.receive(trade.payment_hash, trade.base_msat, alice.ledger.node)
    bob.crash()
    world.run(100)
    bob.ledger.fail_look = True
    revive(world)
    assert state_of(bob, trade_id) is State.INVOICED
    bob.ledger.fail_look = alice.ledger.unreachable = False
    world.run(MINUTE)
    assert state_of(alice, trade_id) is state_of(bob, trade_id) is State.SETTLED
    check_quiet(world)


def test_a_word_that_the_hold_has_ended_waits_for_the_end_of_the_payment() -> None:
    """The maker says "cancelled" while our payment is unknown: heard once Lightning has spoken."""
    world, alice, bob, trade_id = manual()
    bob.ledger.unreachable = True
    pay(bob, trade_id)
    assert cancel(alice, trade_id).ok
    world.run(5_000)
    assert state_of(alice, trade_id) is State.CANCELLED
    assert len(alice.journal.outbox) == 1
    bob.ledger.unreachable = False
    world.run(MINUTE)
    assert state_of(bob, trade_id) is State.CANCELLED
    assert trade_of(bob, trade_id).reason == RejectReason.PAYMENT_FAILED
    assert alice.journal.outbox == {}
    check_quiet(world)


def test_a_payment_that_lands_before_the_cancellation_of_its_invoice_is_a_fill() -> None:
    """The maker was already cancelling: what Lightning has settled counts."""
    world, alice, bob, trade_id = manual()
    trade = trade_of(alice, trade_id)
    alice.ledger.fail_look = False
    asked: list[out.Effect] = []

    def pay_just_before(node: SimNode, effect: out.Effect) -> None:
        if node is alice and isinstance(effect, out.CancelInvoice) and not asked:
            asked.append(effect)
            assert state_of(alice, trade_id) is State.CANCELLING
            assert alice.ledger.receive(trade.payment_hash, trade.base_msat, bob.ledger.node)
            bob.ledger.balance_msat -= trade.base_msat

    world.spy = pay_just_before
    assert cancel(alice, trade_id).ok
    world.run(5_000)
    assert asked
    assert state_of(alice, trade_id) is State.BASE_DONE
    assert available(alice) == [6 * BTC // 10]
