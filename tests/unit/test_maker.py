"""The maker's side of a trade: the end of a hold, payments, late claims, failing Lightning."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from msgspec.structs import replace

from tests.stories import (
    BTC,
    HOLD,
    MINUTE,
    TEN_BTC_MSAT,
    available,
    cancel,
    check_always,
    check_quiet,
    holds,
    only_trade,
    pay,
    place,
    quote_leg,
    revive,
    say_raw,
    signed,
    sleep,
    state_of,
    taken,
    trade_of,
)
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import (
    CancelOrder,
    PayTrade,
    ReceivedTrade,
    SentTrade,
    ShowOrder,
    TakeOrder,
)
from zmqex.protocol.messages import QuoteConfirmed, TradeInvoice
from zmqex.reasons import RejectReason
from zmqex.trading.states import State

DAY = 24 * 60 * MINUTE


def scene(*names: str) -> tuple[World, list[SimNode]]:
    """Connected nodes: alice makes, the others take."""
    world = World()
    return world, world.meet(*(names or ("alice", "bob")))


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_a_whole_trade_settles_in_both_directions(side: str) -> None:
    """Both sides SETTLED, exactly 0.4 BTC moved, 0.6 BTC left in both books, nothing held."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, side)
    buyer, seller = (alice, bob) if side == "buy" else (bob, alice)
    world.run(1_000)
    quote_leg(world, buyer, seller, trade_id)
    assert state_of(alice, trade_id) is state_of(bob, trade_id) is State.SETTLED
    assert buyer.ledger.balance_msat == TEN_BTC_MSAT + 40_000_000_000
    assert seller.ledger.balance_msat == TEN_BTC_MSAT - 40_000_000_000
    book_side = "bids" if side == "buy" else "asks"
    assert available(alice, book_side) == available(bob, book_side) == [6 * BTC // 10]
    assert holds(alice) == []
    assert alice.held == {}
    check_quiet(world)


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_an_untouched_hold_ends_at_900_000_ms_and_not_a_millisecond_earlier(side: str) -> None:
    """At 899,999 ms the quantity is held; at 900,000 ms and the look-ups it is back."""
    world, (alice, bob) = scene()
    taken(world, alice, bob, side, pay_mode="manual")
    # The taker is gone, or it would cancel by itself before that.
    bob.crash()
    trade = only_trade(alice)
    world.run(trade.hold_expires_ms - world.wall_ms - 1)
    assert trade.hold_expires_ms - trade.created_ms == HOLD == 900_000
    assert [one["left_ms"] for one in holds(alice)] == [1]
    book_side = "bids" if side == "buy" else "asks"
    assert available(alice, book_side) == [6 * BTC // 10]
    world.run(1 + 10)
    assert only_trade(alice).state is State.CANCELLED
    assert holds(alice) == []
    assert available(alice, book_side) == [BTC]
    assert alice.held == {}


def test_a_hold_ends_by_look_up_then_cancel_then_look_up_and_only_then_frees() -> None:
    """The order of the effects on Lightning is the order that cannot oversell."""
    world, (alice, bob) = scene()
    taken(world, alice, bob, pay_mode="manual")
    bob.crash()
    seen: list[str] = []

    def spy(node: SimNode, effect: out.Effect) -> None:
        watched = out.LookupInvoice | out.CancelInvoice | out.ReleaseHold
        if node is alice and isinstance(effect, watched):
            seen.append(f"{type(effect).__name__} {only_trade(alice).state}")

    world.spy = spy
    world.run(HOLD + 1_000)
    assert seen == [
        "LookupInvoice invoiced",
        "CancelInvoice cancelling",
        "ReleaseHold cancelled",
    ]


def test_a_payment_that_lands_while_the_hold_ends_is_a_fill() -> None:
    """What Lightning has settled is never cancelled, however late it is."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, pay_mode="manual")
    invoice = trade_of(alice, trade_id).invoice
    bob.crash()
    world.run(HOLD - 100_000)
    alice.pause()
    alice.ledger.receive(trade_of(alice, trade_id).payment_hash, 40_000_000_000, bob.ledger.node)
    bob.ledger.balance_msat -= 40_000_000_000
    assert invoice
    alice.paused = [one for one in alice.paused or [] if not isinstance(one, happened.InvoiceSeen)]
    world._queue = [one for one in world._queue if one[0] > world.monotonic_ms + 1]
    world.run(200_000)
    alice.resume()
    world.arm(alice)
    world.run(5_000)
    assert state_of(alice, trade_id) is State.BASE_DONE
    assert available(alice) == [6 * BTC // 10]
    check_always(world)


def test_a_maker_that_slept_over_the_end_looks_up_before_it_frees() -> None:
    """A restart after the hold's end frees the quantity, and only through Lightning's word."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, pay_mode="manual")
    alice.crash()
    bob.crash()
    world.run(2 * HOLD)
    alice.start()
    world.run(3_000)
    assert state_of(alice, trade_id) is State.CANCELLED
    assert available(alice) == [BTC]
    revive(world)
    world.run(MINUTE)
    assert state_of(bob, trade_id) is State.CANCELLED
    check_quiet(world)


# --- cancelled by somebody -----------------------------------------------------------------------


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_either_side_cancels_an_untouched_hold_and_both_agree(side: str) -> None:
    """CANCELLED on both sides, the quantity back in every book."""
    for who in (0, 1):
        world, nodes = scene()
        alice, bob = nodes
        trade_id = taken(world, alice, bob, side, pay_mode="manual")
        assert cancel(nodes[who], trade_id).ok
        world.run(2_000)
        assert state_of(alice, trade_id) is state_of(bob, trade_id) is State.CANCELLED
        book_side = "bids" if side == "buy" else "asks"
        assert BTC in available(alice, book_side)
        assert BTC in available(bob, book_side)
        check_quiet(world)


def test_nothing_can_be_cancelled_once_base_has_moved() -> None:
    """Both operators are refused, and nothing changes."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob)
    world.run(1_000)
    for node in (alice, bob):
        assert cancel(node, trade_id).result["reason"] == "wrong_state"
        assert state_of(node, trade_id) is State.BASE_DONE


def test_a_cancelled_order_lets_its_running_trade_end_and_returns_nothing_to_the_book() -> None:
    """What was held when the order closed is dropped when the hold ends."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, pay_mode="manual")
    (order_id,) = alice.journal.orders
    answer = alice.tell(CancelOrder(order_id.hex()))["cancelled"][0]
    assert (answer["removed_lots"], answer["held_lots"]) == (6 * BTC // 10, 4 * BTC // 10)
    cancel(bob, trade_id)
    world.run(2_000)
    assert state_of(alice, trade_id) is State.CANCELLED
    assert alice.journal.orders[order_id].dropped_lots == BTC
    assert available(alice) == []
    check_quiet(world)


# --- Lightning fails -----------------------------------------------------------------------------


def test_an_invoice_that_lightning_refuses_ends_the_hold() -> None:
    """The taker hears why; the quantity is back when the invoice surely cannot appear any more."""
    world, (alice, bob) = scene()
    alice.ledger.fail_create = "rejected"
    alice.tell(place("buy", BTC))
    world.run(300)
    answer = bob.tell(place("sell", 4 * BTC // 10))
    assert [one["reason"] for one in answer["skipped"]] == ["lightning_unavailable"]
    assert only_trade(alice).state is State.CANCELLING
    alice.ledger.fail_create = ""
    world.run(HOLD + 30_000)
    assert only_trade(alice).state is State.CANCELLED
    assert BTC in available(bob)


def test_an_invoice_call_without_an_answer_is_looked_up_and_repeated_with_patience() -> None:
    """Indeterminate is not failed: the same preimage again, no faster than the back-off."""
    world, (alice, bob) = scene()
    alice.ledger.fail_create = "indeterminate"
    calls: list[int] = []

    def spy(node: SimNode, effect: out.Effect) -> None:
        if isinstance(effect, out.CreateInvoice):
            calls.append(world.monotonic_ms)
            assert node is alice

    world.spy = spy
    alice.tell(place("buy", BTC))
    world.run(300)
    bob.command(place("sell", 4 * BTC // 10))
    world.run(1_200)
    alice.ledger.fail_create = ""
    world.run(1_000)
    assert 2 <= len(calls) <= 5
    trade = only_trade(alice)
    assert trade.state in {State.INVOICED, State.CANCELLING, State.CANCELLED, State.BASE_DONE}
    world.run(HOLD)
    assert only_trade(alice).state in {State.CANCELLED, State.BASE_DONE}
    check_quiet(world)


def test_lightning_that_is_silent_at_the_end_of_a_hold_keeps_the_quantity_held() -> None:
    """No word, no return; when it speaks again the hold ends."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, pay_mode="manual")
    bob.crash()
    alice.ledger.fail_look = True
    world.run(2 * HOLD)
    assert state_of(alice, trade_id) is State.INVOICED
    assert available(alice) == [6 * BTC // 10]
    alice.ledger.fail_look = False
    world.run(31_000)
    assert state_of(alice, trade_id) is State.CANCELLED
    assert available(alice) == [BTC]


def test_after_a_restart_takes_wait_until_lightning_has_spoken_and_no_longer() -> None:
    """A look-up that fails after a restart is repeated; then takes are answered again."""
    world, (alice, bob) = scene()
    alice.ledger.fail_create = "indeterminate"
    alice.tell(place("buy", BTC))
    world.run(300)
    bob.command(place("sell", 4 * BTC // 10))
    world.run(200)
    assert only_trade(alice).state is State.RESERVED
    alice.ledger.fail_create = ""
    alice.ledger.fail_look = True
    bob.crash()
    alice.crash()
    alice.start()
    world.run(2_500)
    assert alice.k.admission.recovering
    carol = world.add("carol")
    world.run(2_000)
    (order_id,) = alice.journal.orders
    refused = carol.ask(TakeOrder(order_id.hex(), BTC // 10))
    assert refused.result["reason"] == "starting"
    alice.ledger.fail_look = False
    world.run(31_000)
    assert not alice.k.admission.recovering
    assert only_trade(alice).state is State.INVOICED
    carol.tell(TakeOrder(order_id.hex(), BTC // 10))
    check_always(world)


# --- the maker sells -----------------------------------------------------------------------------


def test_quote_said_inside_the_hold_keeps_it_for_as_long_as_it_takes() -> None:
    """After "sent" the 15 minutes do not end it; Redis is told to keep it."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, "sell")
    bob.tell(SentTrade(trade_id, "wire 7"))
    world.run(3 * HOLD)
    assert state_of(alice, trade_id) is State.QUOTE_SENT
    assert trade_of(alice, trade_id).reference == "wire 7"
    assert [ends > world.monotonic_ms for _, _, ends in alice.held.values()] == [True]
    alice.tell(ReceivedTrade(trade_id))
    world.run(1_000)
    assert state_of(bob, trade_id) is State.SETTLED
    check_quiet(world)


def test_a_claim_of_quote_sent_after_the_hold_ended_is_a_dispute_of_no_quantity() -> None:
    """The buyer sent in time, the maker heard it too late: both DISPUTED, nothing held."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, "sell")
    world.drop = lambda node, target, _effect: {node, target} == {alice, bob}
    bob.tell(SentTrade(trade_id))
    world.run(HOLD + 1_000)
    assert state_of(alice, trade_id) is State.CANCELLED
    assert state_of(bob, trade_id) is State.QUOTE_SENT
    world.drop = lambda *_: False
    world.run(3 * MINUTE)
    assert state_of(alice, trade_id) is State.DISPUTED
    assert state_of(bob, trade_id) is State.DISPUTED
    assert trade_of(alice, trade_id).late
    assert available(alice, "asks") == [BTC]
    assert holds(alice) == []
    sleep(world, DAY)
    assert state_of(alice, trade_id) is state_of(bob, trade_id) is State.DISPUTED
    check_quiet(world)


def test_the_maker_hears_of_a_late_quote_even_if_its_cancellation_was_faster() -> None:
    """The taker's claim stays in its outbox when the maker's word "cancelled" comes first."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, "sell")
    world.drop = lambda node, _target, effect: (
        node is bob and isinstance(effect, out.SendRequest) and b"quote_sent" in effect.frame
    )
    bob.tell(SentTrade(trade_id))
    world.run(HOLD + MINUTE)
    assert state_of(alice, trade_id) is State.CANCELLED
    assert state_of(bob, trade_id) is State.DISPUTED
    world.drop = lambda *_: False
    world.run(MINUTE)
    assert state_of(alice, trade_id) is State.DISPUTED
    check_quiet(world)


def test_a_quote_that_nobody_confirms_is_disputed_and_keeps_its_quantity() -> None:
    """After a day both sides are DISPUTED; the maker still holds the base for it."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, "sell")
    bob.tell(SentTrade(trade_id))
    world.run(100)
    sleep(world, DAY)
    for node in (alice, bob):
        node.crash()
    revive(world)
    assert state_of(alice, trade_id) is state_of(bob, trade_id) is State.DISPUTED
    assert available(alice, "asks") == [6 * BTC // 10]
    assert [one["state"] for one in holds(alice)] == ["disputed"]
    check_always(world)


@pytest.mark.parametrize("sent", [False, True])
def test_base_that_moved_without_a_confirmed_quote_is_disputed_and_stays_filled(sent: bool) -> None:  # noqa: FBT001
    """The maker buys: after a day DISPUTED on both sides, the quantity never returns."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob)
    world.run(1_000)
    if sent:
        alice.tell(SentTrade(trade_id))
    sleep(world, DAY)
    assert state_of(alice, trade_id) is state_of(bob, trade_id) is State.DISPUTED
    assert available(alice) == [6 * BTC // 10]
    check_quiet(world)


def test_a_selling_maker_may_confirm_before_the_taker_says_sent() -> None:
    """The quote can be faster than the word: the trade still settles."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, "sell")
    alice.tell(ReceivedTrade(trade_id))
    world.run(1_000)
    assert state_of(alice, trade_id) is state_of(bob, trade_id) is State.SETTLED
    check_quiet(world)


def test_sent_and_received_that_cross_on_the_wire_settle_all_the_same() -> None:
    """The maker refuses the claim that it does not need any more, and the trade goes on."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, "sell")
    bob.command(SentTrade(trade_id))
    alice.command(ReceivedTrade(trade_id))
    world.run(2_000)
    assert state_of(alice, trade_id) is state_of(bob, trade_id) is State.SETTLED
    check_quiet(world)


def confirmed_without_funds() -> tuple[World, SimNode, SimNode, str]:
    """A selling maker has confirmed the quote but cannot pay."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, "sell")
    bob.tell(SentTrade(trade_id))
    world.run(100)
    alice.ledger.balance_msat -= 980_000_000_000
    alice.tell(ReceivedTrade(trade_id))
    world.run(1_000)
    assert state_of(alice, trade_id) is State.PAY_INTENT
    assert state_of(bob, trade_id) is State.INVOICED
    return world, alice, bob, trade_id


def test_a_maker_without_funds_pays_the_same_invoice_once_it_has_them() -> None:
    """Refused while the balance is short; paid on demand; paid once."""
    world, alice, bob, trade_id = confirmed_without_funds()
    assert pay(alice, trade_id).result["reason"] == "insufficient_balance"
    alice.ledger.balance_msat += 980_000_000_000
    assert pay(alice, trade_id).ok
    world.run(1_000)
    assert state_of(bob, trade_id) is State.SETTLED
    assert pay(alice, trade_id).result["reason"] == "already_paid"
    assert bob.ledger.balance_msat == TEN_BTC_MSAT + 40_000_000_000
    check_quiet(world)


def test_an_invoice_that_expired_before_the_maker_paid_is_replaced_by_a_fresh_one() -> None:
    """The old hash is dead on both nodes before the new one exists; one payment in all."""
    world, alice, bob, trade_id = confirmed_without_funds()
    old = trade_of(alice, trade_id).payment_hash
    world.run(61 * MINUTE)
    alice.ledger.balance_msat += 980_000_000_000
    assert pay(alice, trade_id).result["reason"] == "invoice_expired"
    world.run(2_000)
    assert state_of(alice, trade_id) is state_of(bob, trade_id) is State.SETTLED
    assert trade_of(alice, trade_id).payment_hash == trade_of(bob, trade_id).payment_hash != old
    assert bob.ledger.state(old) == "canceled"
    assert len(alice.ledger.payments) == 1
    check_quiet(world)


def test_a_fresh_invoice_survives_the_takers_crash_between_giving_up_and_making_one() -> None:
    """What the maker said stands in the transcript, so nothing lives only in memory."""
    world, alice, bob, trade_id = confirmed_without_funds()
    world.run(61 * MINUTE)
    alice.ledger.balance_msat += 980_000_000_000
    bob.crash_at = ("after", bob.journal.commits + 1)
    pay(alice, trade_id)
    world.run(100)
    assert not bob.up
    revive(world)
    world.run(MINUTE)
    assert state_of(alice, trade_id) is state_of(bob, trade_id) is State.SETTLED
    check_quiet(world)


def test_no_funds_for_a_day_is_a_dispute_that_still_holds() -> None:
    """PAY_INTENT ends by its own timer only."""
    world, alice, bob, trade_id = confirmed_without_funds()
    sleep(world, DAY)
    assert state_of(alice, trade_id) is State.DISPUTED
    assert state_of(bob, trade_id) is State.DISPUTED
    assert pay(alice, trade_id).result["reason"] == "wrong_state"
    assert available(alice, "asks") == [6 * BTC // 10]


@pytest.mark.parametrize("how", ["in flight", "indeterminate", "crash"])
def test_a_makers_payment_without_an_answer_is_looked_up_until_it_has_ended(how: str) -> None:
    """In flight is not failed; there is one payment and one settlement."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, "sell")
    bob.tell(SentTrade(trade_id))
    world.run(100)
    alice.ledger.unreachable = how != "indeterminate"
    alice.ledger.fail_pay = "indeterminate" if how == "indeterminate" else ""
    alice.tell(ReceivedTrade(trade_id))
    world.run(5_000)
    assert state_of(alice, trade_id) is State.PAYING
    assert cancel(alice, trade_id).result["reason"] == "wrong_state"
    if how == "crash":
        alice.crash()
        revive(world)
    world.run(20 * MINUTE)
    assert state_of(alice, trade_id) is State.PAYING
    alice.ledger.unreachable, alice.ledger.fail_pay = False, ""
    world.run(MINUTE)
    assert state_of(alice, trade_id) is state_of(bob, trade_id) is State.SETTLED
    check_quiet(world)


def test_a_payment_that_never_left_before_its_invoice_expired_is_given_up() -> None:
    """The intent was written, the call never made: after the expiry a fresh invoice is asked."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, "sell")
    bob.tell(SentTrade(trade_id))
    world.run(100)
    alice.ledger.fail_pay = "indeterminate"
    alice.tell(ReceivedTrade(trade_id))
    world.run(61 * MINUTE)
    alice.ledger.fail_pay = ""
    world.run(MINUTE)
    assert state_of(alice, trade_id) is state_of(bob, trade_id) is State.SETTLED
    check_quiet(world)


def test_a_payment_that_the_payee_refused_for_good_asks_for_a_fresh_invoice() -> None:
    """FAILED is final: the old invoice is cancelled, the next one paid."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, "sell")
    bob.tell(SentTrade(trade_id))
    world.run(100)
    # The taker's invoice is gone before the payment arrives.
    alice.ledger.unreachable = True
    alice.tell(ReceivedTrade(trade_id))
    world.run(500)
    old = trade_of(bob, trade_id).payment_hash
    bob.ledger.invoices[old]["state"] = "canceled"
    alice.ledger.unreachable = False
    world.run(MINUTE)
    assert state_of(alice, trade_id) is state_of(bob, trade_id) is State.SETTLED
    assert trade_of(bob, trade_id).payment_hash != old
    check_quiet(world)


def test_the_late_failure_of_an_old_payment_says_nothing_about_the_new_one() -> None:
    """A failure is about one hash; another one's payment stays in flight."""
    world, alice, bob, trade_id = confirmed_without_funds()
    old = trade_of(alice, trade_id).payment_hash
    world.run(61 * MINUTE)
    alice.ledger.balance_msat += 980_000_000_000
    alice.ledger.unreachable = True
    pay(alice, trade_id)
    world.run(2_000)
    assert state_of(alice, trade_id) is State.PAYING
    tid = bytes.fromhex(trade_id)
    late = happened.LightningFailed(
        tid,
        old,
        "pay",
        indeterminate=False,
        reason=RejectReason.INSUFFICIENT_BALANCE,
        why="late",
    )
    alice.handle(late)
    alice.handle(happened.PaymentSeen(tid, old, "failed"))
    assert state_of(alice, trade_id) is State.PAYING
    alice.ledger.unreachable = False
    world.run(MINUTE)
    assert state_of(bob, trade_id) is State.SETTLED
    check_quiet(world)


def test_a_wrong_preimage_settles_nothing() -> None:
    """Only the preimage of the hash is a proof of payment."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, "sell")
    bob.tell(SentTrade(trade_id))
    world.run(100)
    alice.ledger.unreachable = True
    alice.tell(ReceivedTrade(trade_id))
    world.run(500)
    trade = trade_of(alice, trade_id)
    for preimage in (b"", bytes(32)):
        seen = happened.PaymentSeen(trade.trade_id, trade.payment_hash, "succeeded", preimage)
        alice.handle(seen)
        assert state_of(alice, trade_id) is State.PAYING


def test_events_that_come_late_or_twice_change_nothing() -> None:
    """A settled trade absorbs invoices, look-ups and payments of its past."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob)
    world.run(1_000)
    quote_leg(world, alice, bob, trade_id)
    tid, payment_hash = bytes.fromhex(trade_id), trade_of(alice, trade_id).payment_hash
    events: list[happened.Event] = [
        happened.InvoiceCreated(tid, payment_hash, trade_of(alice, trade_id).invoice),
        happened.PaymentSeen(tid, payment_hash, "failed"),
        happened.PaymentSeen(tid, payment_hash, "none"),
    ]
    states: list[Any] = ["unknown", "open", "settled", "canceled"]
    events += [happened.InvoiceSeen(payment_hash, state) for state in states]
    calls: list[Any] = ["create_invoice", "invoice", "cancel", "pay", "payment"]
    events += [
        happened.LightningFailed(tid, payment_hash, call, unsure, RejectReason.PAYMENT_FAILED, "")
        for call in calls
        for unsure in (False, True)
    ]
    for node in (alice, bob):
        before = trade_of(node, trade_id)
        for event in events:
            node.handle(event)
        assert trade_of(node, trade_id) == before
    check_quiet(world)


def test_an_order_shows_its_trades() -> None:
    """`order show` of the maker names the trade that holds it."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, pay_mode="manual")
    (order_id,) = alice.journal.orders
    shown = alice.tell(ShowOrder(order_id.hex()))
    assert [one["trade_id"] for one in shown["trades"]] == [trade_id]
    assert shown["order"]["held_lots"] == 4 * BTC // 10
    assert bob.up


def reserved() -> tuple[World, SimNode, SimNode, bytes]:
    """A buying maker holds, but Lightning gives its invoice no answer; the taker is gone."""
    world, (alice, bob) = scene()
    alice.ledger.fail_create = "indeterminate"
    alice.tell(place("buy", BTC))
    world.run(300)
    bob.command(place("sell", 4 * BTC // 10))
    world.run(100)
    bob.crash()
    trade = only_trade(alice)
    assert trade.state is State.RESERVED
    return world, alice, bob, trade.payment_hash


def test_an_invoice_is_not_made_for_the_last_second_of_a_hold() -> None:
    """It could not be paid any more: the hold ends instead."""
    world, alice, _, payment_hash = reserved()
    world.run(only_trade(alice).hold_expires_ms - world.wall_ms - 500)
    alice.ledger.fail_create = ""
    alice.handle(happened.InvoiceSeen(payment_hash, "unknown"))
    world.run(40_000)
    assert alice.ledger.invoices == {}
    assert only_trade(alice).state is State.CANCELLED
    assert available(alice) == [BTC]


def test_an_invoice_that_turns_up_after_the_hold_was_given_up_is_cancelled() -> None:
    """It is never handed out, and only its cancellation frees the quantity."""
    world, alice, _, _ = reserved()
    cancel(alice, only_trade(alice).trade_id.hex())
    world.run(5_000)
    assert only_trade(alice).state is State.CANCELLING
    assert available(alice) == [6 * BTC // 10]
    effect = out.CreateInvoice(
        trade_id=only_trade(alice).trade_id,
        payment_hash=only_trade(alice).payment_hash,
        preimage=only_trade(alice).preimage,
        amount_msat=only_trade(alice).base_msat,
        memo="",
        expiry_s=600,
    )
    text = alice.ledger.create(effect)
    alice.handle(happened.InvoiceCreated(effect.trade_id, effect.payment_hash, text))
    world.run(1_000)
    assert alice.ledger.state(effect.payment_hash) == "canceled"
    assert only_trade(alice).state is State.CANCELLED
    assert available(alice) == [BTC]


def test_a_restart_while_a_hold_is_being_ended_goes_on_ending_it() -> None:
    """CANCELLING is taken up where it was."""
    world, alice, _, _ = reserved()
    cancel(alice, only_trade(alice).trade_id.hex())
    world.run(5_000)
    alice.crash()
    alice.start()
    world.run(3_000)
    assert only_trade(alice).state is State.CANCELLING
    world.run(HOLD + 30_000)
    assert only_trade(alice).state is State.CANCELLED
    assert available(alice) == [BTC]


def test_play_money_says_so_on_every_invoice_and_real_money_does_not() -> None:
    """Whoever reads an invoice sees what it is worth."""
    memos: list[str] = []

    def spy(_node: SimNode, effect: out.Effect) -> None:
        if isinstance(effect, out.CreateInvoice):
            memos.append(effect.memo)

    for side in ("buy", "sell"):
        world, (alice, bob) = scene()
        buyer, seller = (alice, bob) if side == "buy" else (bob, alice)
        buyer.ledger.fail_create = "indeterminate"
        alice.tell(place(side, BTC))
        world.run(300)
        bob.command(place("sell" if side == "buy" else "buy", BTC))
        world.run(100)
        if side == "sell":
            quote_leg(world, buyer, seller, only_trade(alice).trade_id.hex())
        world.spy = spy
        trade = only_trade(buyer)
        memos.clear()
        buyer.handle(happened.InvoiceSeen(trade.payment_hash, "unknown"))
        buyer.k.core.settings = replace(buyer.k.core.settings, network="regtest")
        buyer.handle(happened.InvoiceSeen(trade.payment_hash, "unknown"))
        assert [memo.startswith("PLAY MONEY") for memo in memos] == [True, False]


def test_a_confirmation_that_is_faster_than_lightning_is_asked_for_again() -> None:
    """The taker's word that the quote is there, before we know that the base has moved."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, pay_mode="manual")
    said = QuoteConfirmed(bytes.fromhex(trade_id), bytes(32), world.wall_ms)
    answer: Any = say_raw(world, bob, alice, "trade", signed(bob, said))
    assert answer.reason is RejectReason.UNAVAILABLE
    assert state_of(alice, trade_id) is State.INVOICED


def test_only_a_sound_invoice_for_the_trade_is_paid() -> None:
    """Garbage, another hash, another amount, another payee: refused, and nothing is paid."""
    world, alice, bob, trade_id = confirmed_without_funds()
    alice.ledger.balance_msat += 980_000_000_000
    tid = bytes.fromhex(trade_id)
    trade = trade_of(alice, trade_id)

    def made(preimage: bytes, amount_msat: int) -> str:
        payment_hash = hashlib.sha256(preimage).digest()
        effect = out.CreateInvoice(tid, payment_hash, preimage, amount_msat, "", 3_600)
        return bob.ledger.create(effect)

    cases = [
        ("lnbcrt1nonsense", bob.ledger.node, "invalid_invoice"),
        (made(b"1" * 32, trade.base_msat + 1), bob.ledger.node, "wrong_invoice_amount"),
        (made(b"2" * 32, trade.base_msat), alice.ledger.node, "wrong_payee"),
    ]
    for text, node, reason in cases:
        said = TradeInvoice(tid, bytes(32), world.wall_ms, text, node)
        answer: Any = say_raw(world, bob, alice, "trade", signed(bob, said))
        assert answer.reason.value == reason
    same = TradeInvoice(tid, bytes(32), world.wall_ms, trade.invoice, bob.ledger.node)
    say_raw(world, bob, alice, "trade", signed(bob, same))
    assert alice.ledger.payments == {}
    assert trade_of(alice, trade_id) == trade
    late = TradeInvoice(tid, bytes(32), world.wall_ms, cases[1][0], bob.ledger.node)
    assert pay(alice, trade_id).ok
    answer = say_raw(world, bob, alice, "trade", signed(bob, late))
    assert answer.reason is RejectReason.WRONG_STATE


def test_the_first_invoice_must_be_for_the_hash_of_the_take() -> None:
    """A hash that was not promised in the take, or belongs to another trade, is not paid."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, "sell")
    bob.ledger.fail_create = "rejected"
    quote_leg(world, bob, alice, trade_id)
    assert pay(alice, trade_id).result["reason"] == "invalid_invoice"
    preimage = b"3" * 32
    effect = out.CreateInvoice(
        bytes.fromhex(trade_id),
        hashlib.sha256(preimage).digest(),
        preimage,
        40_000_000_000,
        "",
        3_600,
    )
    text = bob.ledger.create(effect)
    said = TradeInvoice(effect.trade_id, bytes(32), world.wall_ms, text, bob.ledger.node)
    answer: Any = say_raw(world, bob, alice, "trade", signed(bob, said))
    assert answer.reason is RejectReason.WRONG_PAYMENT_HASH
    assert alice.ledger.payments == {}


def test_words_for_a_peer_that_is_away_wait_and_arrive_in_order() -> None:
    """Asked twice for a fresh invoice while the taker is down: one fresh invoice, paid once."""
    world, alice, bob, trade_id = confirmed_without_funds()
    sleep(world, 61 * MINUTE)
    bob.crash()
    alice.ledger.balance_msat += 980_000_000_000
    for _ in range(2):
        assert pay(alice, trade_id).result["reason"] == "invoice_expired"
        world.run(100)
    assert len(alice.journal.outbox) == 2
    revive(world)
    world.run(2 * MINUTE)
    assert state_of(alice, trade_id) is state_of(bob, trade_id) is State.SETTLED
    assert len(bob.ledger.invoices) == 2
    check_quiet(world)


def test_an_invoice_that_was_given_up_is_cancelled_however_long_lightning_is_silent() -> None:
    """No fresh invoice before the old one is surely dead; the old one's echo changes nothing."""
    world, alice, bob, trade_id = confirmed_without_funds()
    old = trade_of(alice, trade_id).payment_hash
    # The payment fails for good at the maker's own node, so the invoice itself is still alive.
    alice.ledger.balance_msat += 980_000_000_000
    bob.ledger.fail_look = alice.ledger.unreachable = True
    alice.command(PayTrade(trade_id))
    world.run(10)
    tid = bytes.fromhex(trade_id)
    reason = RejectReason.PAYMENT_FAILED
    alice.ledger.payments[old]["state"] = "failed"
    alice.ledger.balance_msat += 40_000_000_000
    alice.handle(
        happened.LightningFailed(tid, old, "pay", indeterminate=False, reason=reason, why="")
    )
    world.run(5_000)
    assert state_of(bob, trade_id) is State.INVOICED
    alice.ledger.unreachable = bob.ledger.fail_look = False
    world.run(MINUTE)
    bob.handle(happened.InvoiceSeen(old, "canceled"))
    assert bob.ledger.state(old) == "canceled"
    assert state_of(alice, trade_id) is state_of(bob, trade_id) is State.SETTLED
    check_quiet(world)
