"""The maker's side: invoices, payments and the quote leg of admitted trades."""

from __future__ import annotations

import pytest

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
    sleep,
    state_of,
    taken,
    trade_of,
)
from tests.unit.maker_stories import DAY, confirmed_without_funds, reserved, scene
from tests.unit.test_admission import ask, take_of, word
from tests.world import SimNode
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import (
    CancelOrder,
    ReceivedTrade,
    SentTrade,
    TakeOrder,
)
from zmqex.trading.states import State


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
    assert alice.k.orders.available_lots(trade.order_id) == 6 * BTC // 10
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


def test_a_hold_invoice_that_lightning_refuses_ends_the_hold() -> None:
    """The taker hears why; the quantity is back when the invoice surely cannot appear any more."""
    world, (alice, bob) = scene()
    world.mine(0)
    alice.ledger.fail_create = "rejected"
    alice.tell(place("buy", BTC, settlements=("htlc",)))
    world.run(300)
    answer = bob.tell(place("sell", 4 * BTC // 10, settlements=("htlc",)))
    assert [one["reason"] for one in answer["skipped"]] == ["lightning_unavailable"]
    assert only_trade(alice).state is State.CANCELLING
    alice.ledger.fail_create = ""
    world.run(HOLD + 2 * MINUTE)
    assert only_trade(alice).state is State.CANCELLED
    assert BTC in available(bob)


def test_a_hold_invoice_without_an_answer_is_looked_up_and_repeated_with_patience() -> None:
    """Indeterminate is not failed: the same hash again, no faster than the back-off."""
    world, alice, _, _ = reserved()
    calls: list[int] = []

    def spy(node: SimNode, effect: out.Effect) -> None:
        if isinstance(effect, out.CreateHoldInvoice):
            calls.append(world.monotonic_ms)
            assert node is alice

    world.spy = spy
    world.run(3_100)
    alice.ledger.fail_create = ""
    world.run(4_000)
    assert 2 <= len(calls) <= 4
    assert only_trade(alice).state is State.INVOICED
    world.run(HOLD + 2 * MINUTE)
    assert only_trade(alice).state is State.CANCELLED
    assert available(alice) == [BTC]


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
    world, alice, _, _ = reserved()
    alice.ledger.fail_create = ""
    alice.ledger.fail_look = True
    alice.crash()
    alice.start()
    world.run(2_500)
    assert alice.k.admission.recovering
    carol = world.add("carol")
    world.run(2_000)
    (order_id,) = alice.journal.orders
    take = TakeOrder(order_id.hex(), BTC // 10, settlement="htlc")
    refused = carol.ask(take)
    assert refused.result["reason"] == "starting"
    alice.ledger.fail_look = False
    world.run(31_000)
    assert not alice.k.admission.recovering
    assert only_trade(alice).state is State.INVOICED
    carol.tell(take)
    check_always(world)


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


def test_a_hash_that_was_replaced_is_still_taken_after_a_restart() -> None:
    """Named in a take, it would contradict the journal, and end the node."""
    world, alice, bob, trade_id = confirmed_without_funds()
    old = trade_of(alice, trade_id).payment_hash
    sleep(world, 61 * MINUTE)
    alice.ledger.balance_msat += 980_000_000_000
    assert pay(alice, trade_id).result["reason"] == "invoice_expired"
    world.run(2_000)
    assert trade_of(alice, trade_id).payment_hash != old
    alice.crash()
    revive(world)
    answer = ask(world, alice, bob, take_of(world, alice, bob, payment_hash=old))
    assert word(answer) == "wrong_payment_hash"
