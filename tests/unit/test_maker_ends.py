"""The maker's side: what else can happen to an admitted trade, and how it ends."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from msgspec.structs import replace

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
    say_raw,
    signed,
    sleep,
    state_of,
    taken,
    trade_of,
)
from tests.unit.lock_stories import taken_by_lock
from tests.unit.maker_stories import DAY, confirmed_without_funds, reserved, scene
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import (
    PayTrade,
    ReceivedTrade,
    SentTrade,
    ShowOrder,
)
from zmqex.protocol.messages import QuoteConfirmed, TradeInvoice
from zmqex.reasons import RejectReason
from zmqex.trading.states import State


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


def test_a_word_from_before_a_payment_asks_for_no_fresh_invoice() -> None:
    """The look-up's answer is late, the payment follows it: who asked for another would pay two."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, "sell")
    bob.tell(SentTrade(trade_id))
    world.run(100)
    alice.ledger.fail_pay = "indeterminate"
    alice.tell(ReceivedTrade(trade_id))
    world.run(500)
    alice.ledger.fail_pay = ""
    row = trade_of(alice, trade_id)
    never = happened.PaymentSeen(row.trade_id, row.payment_hash, "none")
    effects = alice.k.handle(never, world.now())
    (call,) = [one for one in effects if isinstance(one, out.PayInvoice)]
    assert not any(isinstance(one, out.PayInvoice) for one in alice.k.handle(never, world.now()))
    alice.handle(happened.PaymentSeen(row.trade_id, row.payment_hash, "failed"))
    assert state_of(alice, trade_id) is State.PAYING
    world.carry_out(alice, call)
    world.run(1_000)
    assert state_of(alice, trade_id) is state_of(bob, trade_id) is State.SETTLED
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


def test_an_invoice_is_not_made_for_the_last_second_of_a_hold() -> None:
    """It could not be paid any more: the hold ends instead."""
    world, alice, _, payment_hash = reserved()
    world.run(only_trade(alice).hold_expires_ms - world.wall_ms - 500)
    alice.ledger.fail_create = ""
    alice.handle(happened.InvoiceSeen(payment_hash, "unknown"))
    world.run(2 * MINUTE)
    assert alice.ledger.invoices == {}
    assert only_trade(alice).state is State.CANCELLED
    assert available(alice) == [BTC]


def test_a_taker_hears_at_once_that_no_hold_invoice_can_be_made() -> None:
    """It goes elsewhere, while the maker keeps the hold until Lightning is back and says so."""
    world, (alice, bob) = scene()
    world.mine(0)
    alice.ledger.fail_create, alice.ledger.fail_look = "rejected", True
    alice.tell(place("buy", BTC, settlements=("htlc",)))
    world.run(300)
    bob.command(place("sell", BTC, settlements=("htlc",)))
    world.run(200)
    assert (only_trade(bob).state, only_trade(bob).reason) == (
        State.REFUSED,
        "lightning_unavailable",
    )
    assert only_trade(alice).state is State.RESERVED
    alice.ledger.fail_look = False
    world.run(1_000_000)
    assert only_trade(alice).state is State.CANCELLED
    assert available(alice) == [BTC]


def test_an_invoice_that_turns_up_after_the_hold_was_given_up_is_cancelled() -> None:
    """It is never handed out, and only its cancellation frees the quantity."""
    world, alice, _, _ = reserved()
    cancel(alice, only_trade(alice).trade_id.hex())
    world.run(5_000)
    assert only_trade(alice).state is State.CANCELLING
    assert available(alice) == [6 * BTC // 10]
    effect = out.CreateHoldInvoice(
        trade_id=only_trade(alice).trade_id,
        payment_hash=only_trade(alice).payment_hash,
        amount_msat=only_trade(alice).base_msat,
        memo="",
        expiry_s=600,
        min_final_cltv=40,
    )
    text = alice.ledger.create(effect)
    alice.handle(happened.InvoiceCreated(effect.trade_id, effect.payment_hash, text))
    world.run(1_000)
    assert alice.ledger.state(effect.payment_hash) == "canceled"
    assert only_trade(alice).state is State.CANCELLED
    assert available(alice) == [BTC]


def test_an_invoice_that_lightning_has_lost_in_a_crash_is_made_again() -> None:
    """What the taker was given can be paid, for by play money the hash is all that counts."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, pay_mode="manual")
    payment_hash = trade_of(alice, trade_id).payment_hash
    del alice.ledger.invoices[payment_hash]
    alice.crash()
    alice.start()
    world.introduce(alice)
    world.run(10_000)
    assert state_of(alice, trade_id) is State.INVOICED
    assert alice.ledger.state(payment_hash) == "open"
    assert pay(bob, trade_id).ok
    world.run(1_000)
    assert state_of(alice, trade_id) is State.BASE_DONE


def test_an_invoice_of_real_lightning_that_is_lost_is_not_made_again() -> None:
    """Core Lightning draws its secret from the preimage, so what was told would pay that as well.

    Nobody could call off by "unknown" what a call may still make.
    """
    world = World()
    alice, bob = (world.add(name, network="regtest") for name in ("alice", "bob"))
    world.run(3_000)
    trade_id = taken(world, alice, bob, pay_mode="manual")
    payment_hash = trade_of(alice, trade_id).payment_hash
    del alice.ledger.invoices[payment_hash]
    alice.crash()
    alice.start()
    world.introduce(alice)
    world.run(10_000)
    assert state_of(alice, trade_id) is State.INVOICED
    assert alice.ledger.state(payment_hash) == "unknown"
    world.run(HOLD)
    assert state_of(alice, trade_id) is State.CANCELLED
    assert available(alice) == [BTC]


def test_an_invoice_that_lightning_has_lost_keeps_nothing_that_is_called_off() -> None:
    """It was made before the trade was written down, so it is gone: the quantity need not wait."""
    world, (alice, bob) = scene()
    trade_id = taken(world, alice, bob, pay_mode="manual")
    del alice.ledger.invoices[trade_of(alice, trade_id).payment_hash]
    cancel(bob, trade_id)
    world.run(10_000)
    assert state_of(alice, trade_id) is state_of(bob, trade_id) is State.CANCELLED
    assert available(alice) == [BTC]
    check_quiet(world)


def test_a_hold_invoice_that_is_unknown_may_still_be_made() -> None:
    """By `htlc` a call for it could be under way for as long as the hold lasts."""
    world, (alice, bob) = scene()
    world.mine(0)
    trade_id = taken_by_lock(world, alice, bob, pay_mode="manual")
    del alice.ledger.invoices[trade_of(alice, trade_id).payment_hash]
    cancel(bob, trade_id)
    world.run(10_000)
    assert state_of(alice, trade_id) is State.CANCELLING
    world.run(HOLD + 2 * MINUTE)
    assert state_of(alice, trade_id) is State.CANCELLED


def test_a_restart_while_a_hold_is_being_ended_goes_on_ending_it() -> None:
    """CANCELLING is taken up where it was."""
    world, alice, _, _ = reserved()
    cancel(alice, only_trade(alice).trade_id.hex())
    world.run(5_000)
    alice.crash()
    alice.start()
    world.run(3_000)
    assert only_trade(alice).state is State.CANCELLING
    world.run(HOLD + 2 * MINUTE)
    assert only_trade(alice).state is State.CANCELLED
    assert available(alice) == [BTC]


def test_play_money_says_so_on_every_invoice_and_real_money_does_not() -> None:
    """Whoever reads an invoice sees what it is worth."""
    memos: list[str] = []

    def spy(_node: SimNode, effect: out.Effect) -> None:
        if isinstance(effect, out.CreateInvoice | out.CreateHoldInvoice):
            memos.append(effect.memo)

    world, (alice, bob) = scene()
    bob.ledger.fail_create = "indeterminate"
    quote_leg(world, bob, alice, taken(world, alice, bob, "sell"))
    for there, buyer in ((world, bob), reserved()[:2]):
        there.spy = spy
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
