"""A lock that was lost after the quote had gone: asked for anew, paid once, or disputed again."""

from __future__ import annotations

import hashlib

import pytest

from tests.stories import (
    BTC,
    available,
    check_always,
    check_quiet,
    holds,
    trade_of,
)
from tests.unit.rollover_stories import MINUTE, Lost, ended, is_settled, lost, paying, rolled
from tests.world import SimNode
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import (
    CancelTrade,
    DisputeTrade,
    ResolveTrade,
    RolloverTrade,
    ShowTrade,
)
from zmqex.limits import ATTEMPTS_MAX
from zmqex.reasons import RejectReason

SIDES = pytest.mark.parametrize("maker", ["buy", "sell"])


# --- the good end ---------------------------------------------------------------------------------


@SIDES
def test_a_lost_lock_is_rolled_over_and_paid_once(maker: str) -> None:
    """The quantity stays committed until then; both have their receipts, and nobody paid twice."""
    story = rolled(maker)
    alice = story.world.nodes["alice"]
    assert available(alice, "bids" if maker == "buy" else "asks") == [6 * BTC // 10]
    assert len(holds(alice)) == 1
    task = story.seller.tell(ShowTrade(story.trade))["trade"]
    assert (task["turn"], task["attempt"]) == ("you", 2)
    assert task["next_command"].startswith("trade release ")
    assert "the buyer says that it paid, and its lock ran out" in task["next_text"]
    assert story.release().ok
    story.world.run(2_000)
    assert is_settled(story)
    fresh = story.of(story.buyer)
    assert fresh.payment_hash == story.of(story.seller).payment_hash != story.lock
    assert story.of(story.seller).preimage == fresh.preimage
    assert hashlib.sha256(fresh.preimage).digest() == fresh.payment_hash
    for node in (story.buyer, story.seller):
        kinds = [one["kind"] for one in node.tell(ShowTrade(story.trade))["messages"]]
        assert kinds.count("trade_rollover") == 1
        assert kinds.count("trade_settled") == 2
    assert holds(alice) == []
    check_quiet(story.world)


@SIDES
def test_a_lock_that_was_released_in_vain_is_rolled_over_too(maker: str) -> None:
    """The preimage is out, and of no use any more."""
    story = Lost(maker)
    story.buyer.ledger.fail_look = True
    assert story.release().ok
    story.buyer.ledger.cancel(story.lock)
    story.world.run(MINUTE)
    story.buyer.ledger.fail_look = False
    story.world.run(MINUTE)
    assert story.states() == ("disputed", "disputed")
    story.roll()
    assert story.release().ok
    story.world.run(2_000)
    assert is_settled(story)


@SIDES
def test_a_crash_while_the_fresh_invoice_is_made_makes_the_same_one_again(maker: str) -> None:
    """Its preimage is on disk before anybody hears of it."""
    story = lost(maker)
    seen: list[bytes] = []

    def spy(node: SimNode, effect: out.Effect) -> None:
        if isinstance(effect, out.CreateInvoice):
            row = trade_of(node, story.trade)
            assert (row.preimage, row.payment_hash) == (effect.preimage, effect.payment_hash)
            seen.append(effect.payment_hash)
            if len(seen) == 1:
                node.ledger.fail_create = "indeterminate"

    story.world.spy = spy
    story.buyer.command(RolloverTrade(story.trade))
    story.world.run(100)
    assert story.states() == ("rollover", "disputed")
    story.buyer.ledger.fail_create = ""
    story.restart(story.buyer)
    story.world.run(10_000)
    assert seen == [seen[0]] * 2
    assert story.states() == ("rollover", "rollover")
    assert story.release().ok
    story.world.run(2_000)
    assert is_settled(story)


# --- who may ask ----------------------------------------------------------------------------------


@SIDES
def test_nothing_is_rolled_over_while_the_lock_is_alive(maker: str) -> None:
    """By a dispute of our own, or because its time ran out: the seller can still release."""
    story = Lost(maker)
    assert story.buyer.ask(RolloverTrade(story.trade)).result["reason"] == "wrong_state"
    story.buyer.tell(DisputeTrade(story.trade))
    answer = story.buyer.ask(RolloverTrade(story.trade))
    assert answer.result["reason"] == "wrong_state"
    assert "still locked for you" in answer.result["message"]
    assert story.of(story.buyer).attempt == 1
    assert story.release().ok
    story.world.run(2_000)
    assert is_settled(story)


def test_only_the_buyer_of_a_lock_asks_for_a_rollover() -> None:
    """Not the seller, not by another settlement, and not of what nobody knows."""
    story = lost("buy")
    assert story.seller.ask(RolloverTrade(story.trade)).result["reason"] == "wrong_party"
    assert story.buyer.ask(RolloverTrade("ab" * 8)).result["reason"] == "unknown_trade"
    refused = story.seller.ask(CancelTrade(story.trade)).result["reason"]
    assert refused == "wrong_state"


def test_silence_of_lightning_rolls_nothing_over() -> None:
    """Neither does a word that says nothing: the invoice may be paid yet."""
    story = lost("buy")
    story.buyer.ledger.fail_look = True
    answer = story.buyer.ask(RolloverTrade(story.trade), within_ms=15_000)
    assert answer.result["reason"] == "lightning_unavailable"
    request = story.buyer.command(RolloverTrade(story.trade))
    for word in ("open", "unknown"):
        request = story.buyer.command(RolloverTrade(story.trade))
        story.buyer.handle(happened.InvoiceSeen(story.lock, word))
        assert story.buyer.answers[request].result["reason"] == "lightning_unavailable"
    other = happened.InvoiceSeen(b"o" * 32, "canceled")
    story.buyer.k.trades._by_hash[other.payment_hash] = bytes.fromhex(story.trade)
    story.buyer.command(RolloverTrade(story.trade))
    story.buyer.handle(other)
    assert story.states() == ("disputed", "disputed")


def test_a_dispute_that_ends_meanwhile_answers_who_asked() -> None:
    """The lock was settled after all, or the operator has given the trade up."""
    story = Lost("buy")
    story.buyer.tell(DisputeTrade(story.trade))
    story.buyer.ledger.settle(story.of(story.seller).preimage)
    answer = story.buyer.ask(RolloverTrade(story.trade))
    assert answer.result["trade"]["state"] == "settled"


def test_the_base_is_asked_for_so_often_and_no_more() -> None:
    """Each attempt stays in both journals for good."""
    story = lost("buy")
    for attempt in range(2, ATTEMPTS_MAX + 1):
        story.roll()
        assert story.of(story.seller).attempt == attempt
        story.buyer.tell(CancelTrade(story.trade))
        story.world.run(2_000)
        assert story.states() == ("disputed", "rollover")
    answer = story.buyer.ask(RolloverTrade(story.trade))
    assert answer.result["reason"] == "payment_failed"
    assert f"{ATTEMPTS_MAX} times" in answer.result["message"]
    story.seller.tell(DisputeTrade(story.trade))
    check_always(story.world)


# --- what ends one --------------------------------------------------------------------------------


@SIDES
def test_an_invoice_that_nobody_pays_ends_in_a_dispute(maker: str) -> None:
    """After a day on both sides; the buyer may ask again, and with another hash."""
    story = rolled(maker)
    first = story.of(story.buyer).payment_hash
    ended(story.world)
    assert story.states() == ("disputed", "disputed")
    assert story.of(story.buyer).reason == story.of(story.seller).reason == "invoice_expired"
    task = story.buyer.tell(ShowTrade(story.trade))["trade"]
    assert task["next_command"].startswith("trade rollover ")
    story.roll()
    assert story.of(story.buyer).payment_hash != first
    assert story.of(story.seller).lock_hash == story.lock
    assert story.release().ok
    story.world.run(2_000)
    assert is_settled(story)
    check_quiet(story.world)


@SIDES
def test_a_rollover_that_is_taken_back_is_never_paid(maker: str) -> None:
    """Its invoice is cancelled, so a release fails; the seller says so and disputes."""
    story = rolled(maker)
    row = story.of(story.buyer)
    story.buyer.tell(CancelTrade(story.trade))
    story.world.run(100)
    assert story.states() == ("disputed", "rollover")
    assert story.buyer.ledger.state(row.payment_hash) == "canceled"
    story.release()
    story.world.run(2_000)
    assert story.states() == ("disputed", "disputed")
    assert story.moved() == (0, 0)
    story.roll()
    assert story.release().ok
    story.world.run(2_000)
    assert is_settled(story)


@SIDES
def test_a_payment_that_fails_ends_in_a_dispute_on_both_sides(maker: str) -> None:
    """The seller says that it will never pay that invoice, and the buyer takes it back."""
    story = rolled(maker)
    story.seller.ledger.balance_msat -= 10**12
    assert story.release().ok
    story.world.run(3_000)
    assert story.states() == ("disputed", "disputed")
    assert story.of(story.seller).reason == "insufficient_balance"
    assert story.of(story.buyer).reason == "insufficient_balance"
    assert story.buyer.ledger.state(story.of(story.buyer).payment_hash) == "canceled"
    story.seller.ledger.balance_msat += 10**12
    story.roll()
    assert story.release().ok
    story.world.run(2_000)
    assert is_settled(story)


@SIDES
def test_a_dispute_after_a_rollover_is_resolved_like_any_other(maker: str) -> None:
    """Cancelled only once Lightning has said that the fresh invoice will not be paid either."""
    story = paying(maker)
    assert story.seller.ask(DisputeTrade(story.trade)).result["reason"] == "wrong_state"
    assert story.seller.ask(ResolveTrade(story.trade, "cancelled")).result["reason"] == (
        "wrong_state"
    )
    story = rolled(maker)
    story.seller.tell(DisputeTrade(story.trade))
    story.seller.tell(ResolveTrade(story.trade, "cancelled"), within_ms=15_000)
    story.buyer.tell(CancelTrade(story.trade))
    story.world.run(100)
    story.buyer.tell(ResolveTrade(story.trade, "cancelled"), within_ms=15_000)
    story.world.run(1_000)
    assert story.states() == ("cancelled", "cancelled")
    assert story.moved() == (0, 0)
    check_quiet(story.world)


@SIDES
def test_a_rollover_of_what_the_seller_has_resolved_is_refused(maker: str) -> None:
    """Its word counts: the buyer's invoice is taken back at once, and its operator told why."""
    story = lost(maker)
    story.seller.tell(ResolveTrade(story.trade, "cancelled"), within_ms=15_000)
    story.buyer.tell(RolloverTrade(story.trade))
    story.world.run(10_000)
    assert story.states() == ("disputed", "cancelled")
    row = story.of(story.buyer)
    assert (row.reason, row.attempt) == ("wrong_state", 2)
    assert story.buyer.ledger.state(row.payment_hash) == "canceled"


@SIDES
def test_a_rollover_that_waits_survives_a_restart_of_both(maker: str) -> None:
    """The task is still the seller's, and the invoice still ends with its time."""
    story = rolled(maker)
    for node in (story.buyer, story.seller):
        story.restart(node)
    assert story.states() == ("rollover", "rollover")
    ended(story.world)
    assert story.states() == ("disputed", "disputed")
    check_quiet(story.world)


def test_a_payment_that_lightning_refuses_at_once_is_over() -> None:
    """Its word is not that of a node that is gone, which would be another dispute."""
    story = paying("buy")
    row = story.of(story.seller)
    reason = RejectReason.LIGHTNING_UNAVAILABLE
    refused = (row.trade_id, row.payment_hash, "pay", False, reason, "")
    story.seller.handle(happened.LightningFailed(*refused))  # type: ignore[arg-type]
    assert story.states()[1] == "disputed"
    assert story.of(story.seller).reason == "payment_failed"
    silent = (row.trade_id, row.payment_hash, "payment", True, reason, "")
    story.seller.handle(happened.LightningFailed(*silent))  # type: ignore[arg-type]
    assert story.states()[1] == "disputed"


def test_an_invoice_that_cannot_be_made_is_no_rollover() -> None:
    """Said at once; and one that turns up after it was given up is cancelled."""
    story = lost("buy")
    story.buyer.ledger.fail_create = "rejected"
    answer = story.buyer.ask(RolloverTrade(story.trade))
    assert answer.result["reason"] == "lightning_unavailable"
    assert story.states() == ("disputed", "disputed")
    row = story.of(story.buyer)
    story.buyer.ledger.fail_create = ""
    text = story.invoice(row.preimage)
    story.buyer.handle(happened.InvoiceCreated(row.trade_id, row.payment_hash, text))
    story.world.run(100)
    assert story.buyer.ledger.state(row.payment_hash) == "canceled"
    story.roll()
    assert story.of(story.buyer).attempt == 3


def test_an_invoice_that_is_made_after_it_was_taken_back_is_not_sent() -> None:
    """Lightning has said that it knows none, and makes it only then: nobody is to pay it."""
    story = lost("buy")
    story.buyer.ledger.fail_create = "indeterminate"
    story.buyer.command(RolloverTrade(story.trade))
    story.world.run(100)
    story.buyer.ledger.fail_look = True
    story.buyer.tell(CancelTrade(story.trade))
    story.buyer.ledger.fail_look, story.buyer.ledger.fail_create = False, ""
    row = story.of(story.buyer)
    text = story.invoice(row.preimage)
    story.buyer.handle(happened.InvoiceCreated(row.trade_id, row.payment_hash, text))
    story.buyer.handle(happened.InvoiceSeen(row.payment_hash, "unknown"))
    story.world.run(3_000)
    assert story.states() == ("disputed", "disputed")
    assert story.buyer.ledger.state(row.payment_hash) == "canceled"
    story.roll()
    assert story.of(story.buyer).attempt == 3


def test_an_invoice_that_was_never_made_can_be_rolled_over() -> None:
    """Refused for good before it was made, so Lightning does not know it."""
    story = lost("buy")
    story.buyer.ledger.fail_create = "rejected"
    story.buyer.ask(RolloverTrade(story.trade))
    story.buyer.ledger.fail_create = ""
    story.roll()
    assert story.of(story.buyer).attempt == 3
    assert story.release().ok
    story.world.run(2_000)
    assert is_settled(story)


def test_an_invoice_that_lightning_has_forgotten_ends_with_its_time() -> None:
    """It cannot be paid; until then it might only not be known yet."""
    story = rolled("buy")
    del story.buyer.ledger.invoices[story.of(story.buyer).payment_hash]
    story.world.run(5 * MINUTE)
    assert story.states()[0] == "rollover"
    ended(story.world)
    assert story.states() == ("disputed", "disputed")
