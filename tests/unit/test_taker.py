"""The taker's side: what follows an accept, and who goes first."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stories import (
    BTC,
    HOLD,
    MINUTE,
    TEN_BTC_MSAT,
    available,
    cancel,
    check_quiet,
    only_trade,
    pay,
    place,
    quote_leg,
    revive,
    state_of,
    trade_of,
)
from tests.unit.taker_stories import forge, manual, scene
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import PayTrade
from zmqex.kernel.events import PaymentState
from zmqex.reasons import RejectReason
from zmqex.trading.states import State


def test_an_invoice_is_paid_once() -> None:
    """The second `pay` is refused, and the balance has moved once."""
    world, alice, bob, trade_id = manual()
    assert pay(bob, trade_id).ok
    for _ in range(2):
        assert pay(bob, trade_id).result["reason"] == "already_paid"
        world.run(500)
    assert bob.ledger.balance_msat == TEN_BTC_MSAT - 40_000_000_000
    quote_leg(world, alice, bob, trade_id)
    assert pay(bob, trade_id).result["reason"] == "already_paid"
    check_quiet(world)


def test_a_payment_starts_before_780_000_ms_or_never() -> None:
    """Measured from the first send of the take, by the taker's own clock."""
    for early_ms, reason in ((1, ""), (0, "wrong_state")):
        world, alice, bob, trade_id = manual()
        first = trade_of(bob, trade_id).first_sent_ms
        world.run(first + 780_000 - world.wall_ms - early_ms)
        answer = pay(bob, trade_id)
        assert answer.ok is (reason == "")
        assert answer.result.get("reason", "") == reason
        world.run(3 * MINUTE)
        paid = State.BASE_DONE if answer.ok else State.CANCELLED
        assert state_of(bob, trade_id) is state_of(alice, trade_id) is paid
        check_quiet(world)


def test_a_clock_that_jumped_does_not_let_it_pay_late() -> None:
    """The wall clock decides although the timer has not fired yet."""
    world, _alice, bob, trade_id = manual()
    world.wall_ms += HOLD
    assert pay(bob, trade_id).result["reason"] == "too_late_to_pay"
    assert bob.ledger.payments == {}


def test_a_taker_without_funds_pays_nothing_and_may_try_again() -> None:
    """Refused for good by our own Lightning node: still ACCEPTED, still in time."""
    world, alice, bob, trade_id = manual()
    bob.ledger.balance_msat -= 970_000_000_000
    assert pay(bob, trade_id).result["reason"] == "insufficient_balance"
    assert state_of(bob, trade_id) is State.ACCEPTED
    bob.ledger.balance_msat += 970_000_000_000
    assert pay(bob, trade_id).ok
    world.run(100)
    assert state_of(alice, trade_id) is State.BASE_DONE


@pytest.mark.parametrize("how", ["in flight", "indeterminate", "crash"])
def test_a_payment_without_an_answer_is_looked_up_until_it_has_ended(how: str) -> None:
    """In flight is not failed: no second payment, no abandoning, one success."""
    world, alice, bob, trade_id = manual()
    bob.ledger.unreachable = how != "indeterminate"
    bob.ledger.fail_pay = "indeterminate" if how == "indeterminate" else ""
    pay(bob, trade_id)
    assert state_of(bob, trade_id) is State.PAYING
    assert cancel(bob, trade_id).result["reason"] == "wrong_state"
    if how == "crash":
        bob.crash()
        revive(world)
    world.run(5 * MINUTE)
    assert state_of(bob, trade_id) is State.PAYING
    bob.ledger.unreachable, bob.ledger.fail_pay = False, ""
    world.run(MINUTE)
    assert state_of(bob, trade_id) is state_of(alice, trade_id) is State.BASE_DONE
    assert bob.ledger.balance_msat == TEN_BTC_MSAT - 40_000_000_000
    check_quiet(world)


@pytest.mark.parametrize("word", ["none", "failed"])
def test_a_word_from_before_a_payment_says_nothing_about_it(word: PaymentState) -> None:
    """Two look-ups may be on their way when the payment follows the first one's answer.

    Who believed the second would leave a trade whose base it is about to pay.
    """
    world, alice, bob, trade_id = manual()
    bob.ledger.fail_pay = "indeterminate"
    pay(bob, trade_id)
    bob.ledger.fail_pay = ""
    row = trade_of(bob, trade_id)
    never = happened.PaymentSeen(row.trade_id, row.payment_hash, "none")
    effects = bob.k.handle(never, world.now())
    (call,) = [one for one in effects if isinstance(one, out.PayInvoice)]
    world.wall_ms = row.first_sent_ms + 13 * MINUTE
    bob.handle(happened.PaymentSeen(row.trade_id, row.payment_hash, word))
    assert state_of(bob, trade_id) is State.PAYING
    world.carry_out(bob, call)
    world.run(1_000)
    assert state_of(bob, trade_id) is state_of(alice, trade_id) is State.BASE_DONE
    check_quiet(world)


def test_the_failure_of_one_payment_is_not_that_of_the_next() -> None:
    """The operator tries again while a look-up of the first attempt is still on its way."""
    world, alice, bob, trade_id = manual()
    bob.ledger.fail_pay = "rejected"
    pay(bob, trade_id)
    bob.ledger.fail_pay = ""
    assert state_of(bob, trade_id) is State.ACCEPTED
    row = trade_of(bob, trade_id)
    bob.command(PayTrade(trade_id))
    bob.handle(happened.PaymentSeen(row.trade_id, row.payment_hash, "failed"))
    assert state_of(bob, trade_id) is State.PAYING
    world.run(1_000)
    assert state_of(bob, trade_id) is state_of(alice, trade_id) is State.BASE_DONE
    check_quiet(world)


def test_a_payment_that_never_left_in_time_is_given_up() -> None:
    """The intent was written, the call never made, and now it is too late: cancelled."""
    world, alice, bob, trade_id = manual()
    bob.ledger.fail_pay = "indeterminate"
    pay(bob, trade_id)
    world.run(HOLD)
    bob.ledger.fail_pay = ""
    world.run(2 * MINUTE)
    assert state_of(bob, trade_id) is state_of(alice, trade_id) is State.CANCELLED
    assert bob.ledger.payments == {}
    check_quiet(world)


def test_a_payment_that_the_maker_refused_for_good_ends_in_a_cancelled_trade() -> None:
    """The maker's hold ended while our payment was stuck: both agree that nothing moved."""
    world, alice, bob, trade_id = manual()
    bob.ledger.unreachable = True
    pay(bob, trade_id)
    world.run(HOLD + MINUTE)
    assert state_of(alice, trade_id) is State.CANCELLED
    assert state_of(bob, trade_id) is State.PAYING
    bob.ledger.unreachable = False
    world.run(2 * MINUTE)
    assert state_of(bob, trade_id) is State.CANCELLED
    assert bob.ledger.balance_msat == TEN_BTC_MSAT
    check_quiet(world)


def test_words_about_another_payment_or_without_its_preimage_change_nothing() -> None:
    """Only the preimage of our hash ends our payment well."""
    world, alice, bob, trade_id = manual()
    bob.ledger.unreachable = True
    pay(bob, trade_id)
    trade = trade_of(bob, trade_id)
    other: Any = [
        happened.PaymentSeen(trade.trade_id, trade.payment_hash, "succeeded", bytes(32)),
        happened.PaymentSeen(trade.trade_id, trade.payment_hash, "succeeded"),
        happened.PaymentSeen(trade.trade_id, trade.payment_hash, "in_flight"),
        happened.LightningFailed(
            trade.trade_id,
            bytes(32),
            "pay",
            indeterminate=False,
            reason=RejectReason.PAYMENT_FAILED,
            why="",
        ),
    ]
    for event in other:
        bob.handle(event)
        assert state_of(bob, trade_id) is State.PAYING
    bob.ledger.unreachable = False
    world.run(MINUTE)
    assert state_of(alice, trade_id) is state_of(bob, trade_id) is State.BASE_DONE


def test_a_wrong_invoice_is_not_paid_and_the_next_maker_is_tried() -> None:
    """One millisatoshi too much: refused, cancelled at that maker, filled by the other."""
    world, (alice, bob, carol) = scene("alice", "bob", "carol")
    alice.ledger.overcharge_msat = 1
    alice.tell(place("buy", BTC, 101))
    bob.tell(place("buy", BTC, 100))
    world.run(300)
    answer = carol.tell(place("sell", BTC))
    assert [one["reason"] for one in answer["skipped"]] == ["wrong_invoice_amount"]
    assert [one["counterparty"] for one in answer["trades"]] == [bob.text]
    world.run(5_000)
    assert [one["amount_msat"] for one in carol.ledger.payments.values()] == [BTC * 1_000]
    assert only_trade(alice).state is State.CANCELLED
    assert available(carol) == [BTC]


@pytest.mark.parametrize(
    "changes",
    [
        {"trade_id": bytes(32)},
        {"take_digest": bytes(32)},
        {"quantity_lots": 4 * BTC // 10 + 1},
        {"base_msat": 40_000_000_001},
        {"quote_units": 41},
        {"invoice": None},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_an_accept_that_does_not_match_the_take_is_abandoned(changes: dict[str, Any]) -> None:
    """Nothing is paid, the node goes on, and the maker is told that the take is off."""
    world, (alice, bob) = scene()
    alice.tell(place("buy", BTC))
    world.run(300)
    forge(world, alice, **changes)
    answer = bob.tell(place("sell", 4 * BTC // 10))
    assert [one["reason"] for one in answer["skipped"]] == ["malformed"]
    world.run(3_000)
    assert bob.ledger.payments == {}
    assert only_trade(bob).state is only_trade(alice).state is State.CANCELLED
    assert available(alice) == [BTC]
    check_quiet(world)


def test_an_accept_of_less_is_what_every_amount_derives_from() -> None:
    """0.6 BTC are left: a take of 0.7 is accepted for 0.6, and 0.6 are paid."""
    world, (alice, bob, carol) = scene("alice", "bob", "carol")
    # Carol does not hear of bob's hold, so she asks for more than is free.
    world.drop = lambda _node, target, effect: target is carol and isinstance(effect, out.Publish)
    alice.tell(place("buy", BTC))
    world.drop = lambda *_: False
    world.run(6_000)
    world.drop = lambda _node, target, effect: target is carol and isinstance(effect, out.Publish)
    bob.tell(place("sell", 4 * BTC // 10, pay_mode="manual"))
    assert available(carol) == [BTC]
    answer = carol.tell(place("sell", BTC, time_in_force="ioc"))
    trade_id = answer["trades"][0]["trade_id"]
    world.run(1_000)
    assert trade_of(carol, trade_id).quantity_lots == 6 * BTC // 10
    assert trade_of(carol, trade_id).quote_units == 60
    assert carol.ledger.balance_msat == TEN_BTC_MSAT - 60_000_000_000
    assert available(alice) == [0]


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_a_maker_that_slept_through_the_take_never_fills_twice(side: str) -> None:
    """The take is abandoned; the maker wakes within a minute, holds, and lets go again."""
    world, (alice, bob, carol) = scene("alice", "bob", "carol")
    best, other = (101, 100) if side == "buy" else (99, 100)
    alice.tell(place(side, BTC, best))
    carol.tell(place(side, BTC, other))
    world.run(300)
    alice.pause()
    answer = bob.tell(place("sell" if side == "buy" else "buy", BTC, 100))
    assert [one["reason"] for one in answer["skipped"]] == ["timed_out"]
    assert [one["counterparty"] for one in answer["trades"]] == [carol.text]
    world.run(10_000)
    alice.resume()
    world.arm(alice)
    world.run(MINUTE)
    assert {one.state for one in alice.journal.trades.values()} == {State.CANCELLED}
    world.run(MINUTE)
    assert alice.journal.trades == {}  # cancelled before it came, and too late to come by now
    own = [one for one in bob.journal.trades.values() if one.maker == alice.identity]
    assert [one.state for one in own] == [State.CANCELLED]
    book_side = "bids" if side == "buy" else "asks"
    assert available(alice, book_side)[0] == BTC
    if side == "buy":
        assert len(bob.ledger.payments) == 1
    assert alice.held == {}


def test_a_take_whose_answer_was_lost_is_cancelled_at_the_maker() -> None:
    """The maker holds, its accept never arrives: nothing is paid and the quantity returns."""
    world, (alice, bob) = scene()
    alice.tell(place("buy", BTC))
    world.run(300)
    world.drop = lambda node, _target, effect: (
        node is alice and isinstance(effect, out.SendReply) and b"take" in effect.frame
    )
    answer = bob.tell(place("sell", 4 * BTC // 10))
    assert [one["reason"] for one in answer["skipped"]] == ["timed_out"]
    world.run(5_000)
    assert only_trade(alice).state is only_trade(bob).state is State.CANCELLED
    assert available(alice) == [BTC]
    check_quiet(world)


def test_a_taker_that_gets_no_word_waits_for_the_end_of_the_hold_and_a_minute() -> None:
    """The maker is gone for good: ABANDONING ends by our own clock, and nothing was paid."""
    world, alice, bob, trade_id = manual()
    alice.crash()
    assert cancel(bob, trade_id).ok
    world.run(HOLD + MINUTE - 10_000)
    assert state_of(bob, trade_id) is State.ABANDONING
    world.run(12_000)
    assert state_of(bob, trade_id) is State.CANCELLED
    assert bob.journal.outbox == {}
    revive(world)
    world.run(5_000)
    assert state_of(alice, trade_id) is State.CANCELLED
