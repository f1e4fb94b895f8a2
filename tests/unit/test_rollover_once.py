"""Whatever is said, crashes or comes late: what was lost is paid once, and only if it must be."""

from __future__ import annotations

import hashlib

import pytest

from tests.stories import (
    check_quiet,
    sleep,
    trade_of,
)
from tests.unit.lock_stories import sent, states
from tests.unit.rollover_stories import MINUTE, MSAT, Lost, is_settled, lost, paying, rolled
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import (
    CancelTrade,
    DisputeTrade,
    PayTrade,
    ReceivedTrade,
    ResolveTrade,
    RolloverTrade,
    SentTrade,
)
from zmqex.protocol.messages import InvoiceFailed, TradeInvoice, TradeReleased
from zmqex.reasons import RejectReason

SIDES = pytest.mark.parametrize("maker", ["buy", "sell"])


# --- paid once ------------------------------------------------------------------------------------


@SIDES
def test_nothing_is_paid_while_the_old_payment_may_still_go_over(maker: str) -> None:
    """In flight, not known, or no word at all: the rollover waits, and so does the release."""
    story = Lost(maker)
    said = story.says(2, story.invoice())
    for _ in range(2):
        assert story.answer(said) == "unavailable"
    story.seller.tell(DisputeTrade(story.trade))
    for _ in range(2):
        assert story.answer(said) == "unavailable"
        story.world.run(100)
    assert story.seller.ask(ReceivedTrade(story.trade)).ok  # the lock itself is released
    story.world.run(2_000)
    assert is_settled(story)
    assert story.answer(said) == "wrong_state"


def test_a_lock_that_lightning_has_forgotten_is_not_a_failed_one() -> None:
    """It was seen under way, so "none" is not a negative end."""
    story = lost("buy")
    del story.seller.ledger.payments[story.lock]
    said = story.says(2, story.invoice())
    for _ in range(3):
        assert story.answer(said) == "unavailable"
        story.world.run(100)


@SIDES
@pytest.mark.parametrize("word", ["in_flight", "none", "silent"])
def test_a_release_looks_the_lost_lock_up_once_more(maker: str, word: str) -> None:
    """Only "failed" is a word to pay another invoice on."""
    story = rolled(maker)
    story.seller.ledger.fail_look = word == "silent"
    request = story.seller.command(ReceivedTrade(story.trade))
    if word != "silent":
        key = bytes.fromhex(story.trade)
        story.seller.handle(happened.PaymentSeen(key, story.lock, word))  # type: ignore[arg-type]
    story.world.run(11_000)
    answer = story.seller.answers[request]
    assert answer.result["reason"] == "lightning_unavailable"
    assert story.of(story.seller).state.value == "rollover"
    assert story.moved() == (0, 0)


@SIDES
def test_a_word_that_nobody_asked_for_pays_nothing(maker: str) -> None:
    """The lock's end is told again and again; the quote is the operator's to see."""
    story = rolled(maker)
    key = bytes.fromhex(story.trade)
    for payment_hash in (story.lock, story.of(story.seller).payment_hash):
        story.seller.handle(happened.PaymentSeen(key, payment_hash, "failed"))
    assert story.seller.ask(PayTrade(story.trade)).result["reason"] == "wrong_state"
    said = TradeInvoice(key, bytes(32), story.world.wall_ms, story.invoice(), bytes(33))
    assert story.answer(said) in {"wrong_state", "wrong_party"}
    story.world.run(MINUTE)
    assert story.states() == ("rollover", "rollover")
    assert list(story.seller.ledger.payments) == [story.lock]


@SIDES
def test_a_lock_that_went_over_after_all_is_the_payment(maker: str) -> None:
    """Lightning is right, and nothing else is paid."""
    story = rolled(maker)
    secret = b"s" * 32
    lock = hashlib.sha256(secret).digest()
    key = bytes.fromhex(story.trade)
    story.seller.k.trades._by_hash[lock] = key
    row = story.seller.k.trades.by_id[key]
    story.seller.k.core.begin(story.world.now())
    story.seller.k.trades.amend(row, lock_hash=lock)
    for effect in story.seller.k.core.finish():
        if isinstance(effect, out.Persist):
            story.seller.journal.commit(effect.writes)
    request = story.seller.command(ReceivedTrade(story.trade))
    for seen in (b"x" * 32, secret):
        story.seller.handle(happened.PaymentSeen(key, lock, "succeeded", seen))
    assert story.seller.answers[request].result["trade"]["state"] == "settled"
    assert list(story.seller.ledger.payments) == [story.lock]


@SIDES
def test_a_second_rollover_waits_for_the_end_of_the_first_payment(maker: str) -> None:
    """While it is under way it may still succeed; once it has failed another one is taken."""
    story = paying(maker)
    said = story.says(3, story.invoice())
    assert story.answer(said) == "unavailable"
    story.buyer.tell(CancelTrade(story.trade))
    story.world.run(100)
    story.buyer.tell(RolloverTrade(story.trade))
    story.world.run(5_000)
    assert story.states() == ("rollover", "rollover_paying")
    story.seller.ledger.unreachable = False
    story.world.run(2 * MINUTE)
    assert story.states() == ("rollover", "rollover")
    assert story.release().ok
    story.world.run(2_000)
    assert is_settled(story)
    check_quiet(story.world)


@SIDES
def test_a_payment_under_way_survives_a_crash_of_either(maker: str) -> None:
    """Looked up before anything is decided; what was never sent is sent again, once."""
    for crashed in ("buyer", "seller", "both"):
        story = paying(maker)
        for name in ("buyer", "seller"):
            if crashed in {name, "both"}:
                story.restart(getattr(story, name))
        assert story.states() == ("rollover", "rollover_paying")
        story.seller.ledger.unreachable = False
        story.world.run(MINUTE)
        assert is_settled(story)
        check_quiet(story.world)


@SIDES
@pytest.mark.parametrize("late", [False, True])
def test_a_payment_that_was_never_sent_is_sent_or_given_up(maker: str, late: bool) -> None:  # noqa: FBT001
    """The intent is on disk and the call was lost: again by its hash, unless it is too late."""
    story = rolled(maker)
    story.seller.ledger.fail_pay = "indeterminate"
    story.seller.tell(ReceivedTrade(story.trade))
    story.world.run(100)
    story.seller.ledger.fail_pay = ""
    if late:
        story.seller.crash()
        sleep(story.world, 25 * 60 * MINUTE)
        story.seller.start()
        story.world.introduce(story.seller)
    story.world.run(2 * MINUTE)
    if late:
        assert story.states() == ("disputed", "disputed")
        assert story.moved() == (0, 0)
    else:
        assert is_settled(story)


def test_words_from_before_the_payment_change_nothing() -> None:
    """Of the old hash, or of before the call: each is an echo."""
    story = paying("buy")
    key, fresh = bytes.fromhex(story.trade), story.of(story.seller).payment_hash
    failed = RejectReason.PAYMENT_FAILED
    echoes: list[happened.Event] = [
        happened.PaymentSeen(key, story.lock, "failed"),
        happened.PaymentSeen(key, story.lock, "none"),
        happened.PaymentSeen(key, fresh, "in_flight"),
        happened.LightningFailed(key, story.lock, "pay", False, failed, ""),  # noqa: FBT003
        happened.LightningFailed(key, fresh, "payment", False, failed, ""),  # noqa: FBT003
        happened.InvoiceSeen(fresh, "canceled"),
        happened.InvoiceCreated(key, fresh, "lnbcrt1"),
    ]
    for echo in echoes:
        effects = story.seller.k.handle(echo, story.world.now())
        assert not [one for one in effects if isinstance(one, out.PayInvoice | out.Persist)]
    row = story.of(story.buyer)
    for echo in (
        happened.InvoiceSeen(story.lock, "canceled"),
        happened.InvoiceSeen(fresh, "open"),
        happened.InvoiceCreated(key, fresh, row.invoice),
        happened.InvoiceCreated(key, story.lock, row.invoice),
        happened.PaymentSeen(key, fresh, "failed"),
        happened.LightningFailed(key, fresh, "create_invoice", False, failed, ""),  # noqa: FBT003
        happened.LightningFailed(key, fresh, "invoice", True, failed, ""),  # noqa: FBT003
    ):
        effects = story.buyer.k.handle(echo, story.world.now())
        assert not [one for one in effects if isinstance(one, out.Persist)]
    assert story.states() == ("rollover", "rollover_paying")


# --- who lies -------------------------------------------------------------------------------------


@SIDES
def test_a_rollover_that_lies_is_refused_in_its_own_word(maker: str) -> None:
    """A hash of before, another amount, another payee, an invoice that is over, a number of old."""
    story = rolled(maker)
    row = story.of(story.buyer)
    other = story.seller.ledger.node
    sleep(story.world, 1_000)
    lies = [
        (story.says(2, story.invoice()), "wrong_state"),
        (story.says(3, row.invoice), "wrong_payment_hash"),
        (story.says(3, str(story.buyer.ledger.invoices[story.lock]["text"])), "wrong_payment_hash"),
        (story.says(3, story.invoice(b"a" * 32, MSAT + 1)), "wrong_invoice_amount"),
        (story.says(3, story.invoice(b"b" * 32, MSAT - 1_000)), "wrong_invoice_amount"),
        (story.says(3, story.invoice(b"c" * 32), other), "wrong_payee"),
        (story.says(3, story.invoice(b"d" * 32, MSAT, 1)), "invoice_expires_too_soon"),
        (story.says(3, "lnbcrt1nonsense"), "invalid_invoice"),
    ]
    for said, reason in lies:
        assert story.answer(said) == reason, said
    mine = story.says(3, story.invoice(b"e" * 32))
    assert story.answer(mine, by_seller=True) == "wrong_party"
    assert story.states() == ("rollover", "rollover")
    assert story.of(story.seller).payment_hash == row.payment_hash


@pytest.mark.parametrize("maker", ["buy", "sell"])
def test_a_rollover_before_any_quote_is_refused(maker: str) -> None:
    """Nothing was said to be sent: when the lock ends, the quantity is free."""
    story = Lost(maker, said=False)
    assert story.answer(story.says(2, story.invoice())) == "wrong_state"


def test_a_seller_that_fails_what_it_was_not_asked_is_refused() -> None:
    """Another hash, or a trade that was not rolled over; any word is a word."""
    story = lost("buy")
    key = bytes.fromhex(story.trade)

    def failed(payment_hash: bytes, word: str = "payment_failed") -> InvoiceFailed:
        row = story.of(story.seller)
        return InvoiceFailed(key, row.last_digest, story.world.wall_ms, payment_hash, word)

    def say(message: InvoiceFailed) -> str:
        return story.answer(message, by_seller=True)

    assert say(failed(story.lock)) == "wrong_state"
    story.roll()
    assert say(failed(story.lock)) == "wrong_state"
    assert say(failed(story.of(story.buyer).payment_hash, "made_up")) == "heard"
    story.world.run(100)
    assert story.states()[0] == "disputed"
    assert story.of(story.buyer).reason == "payment_failed"
    assert story.answer(failed(story.lock)) == "wrong_party"


def test_a_release_of_a_dead_lock_changes_nothing_after_a_rollover() -> None:
    """Its preimage is of another hash, and what it opened is gone."""
    story = lost("buy")
    secret = story.of(story.seller).preimage
    story.roll()
    said = TradeReleased(bytes.fromhex(story.trade), bytes(32), story.world.wall_ms, secret)
    assert story.answer(said, by_seller=True) == "wrong_state"
    assert story.of(story.seller).preimage == b""
    story.seller.tell(DisputeTrade(story.trade))
    assert story.seller.ask(ReceivedTrade(story.trade)).result["reason"] == "wrong_state"


def test_a_receipt_makes_the_seller_look() -> None:
    """The buyer has the base: so our payment has gone over, before the next look-up is due."""
    story = paying("buy")
    story.seller.ledger.unreachable = False
    story.seller.ledger.drive(story.of(story.seller).payment_hash)
    story.world.run(3_000)
    assert is_settled(story)


@SIDES
def test_what_was_given_up_before_sent_was_said_is_not_rolled_over(maker: str) -> None:
    """The seller's quantity has returned with the lock; a late word makes a dispute of none."""
    story = Lost(maker, said=False)
    story.buyer.tell(DisputeTrade(story.trade))
    story.buyer.ledger.cancel(story.lock)
    story.world.run(20 * MINUTE)
    for said in (False, True):
        if said:
            story.buyer.tell(SentTrade(story.trade))
            story.world.run(5_000)
        at_seller = "disputed" if said else "cancelled"
        assert story.states() == ("disputed", at_seller)
        story.buyer.tell(RolloverTrade(story.trade))
        story.world.run(10_000)
        assert story.states() == ("disputed", at_seller)
        assert story.of(story.buyer).reason == "wrong_state"


def test_a_release_of_an_invoice_that_has_run_out_is_refused() -> None:
    """In the last seconds of its life; nothing is paid by it."""
    story = rolled("buy")
    row = story.of(story.seller)
    story.world.run(row.deadline_ms - story.world.wall_ms - 2_000)
    answer = story.release()
    assert answer.result["reason"] == "invoice_expires_too_soon"
    assert story.states()[1] == "rollover"
    assert list(story.seller.ledger.payments) == [story.lock]


def test_what_was_refused_takes_along_what_was_built_on_it() -> None:
    """A rollover that waits behind a word that was refused for good is taken back as well."""
    world, alice, bob, trade = sent()
    alice.ledger.cancel(trade_of(alice, trade).payment_hash)
    world.run(MINUTE)
    bob.crash()
    alice.tell(RolloverTrade(trade))
    alice.tell(CancelTrade(trade))
    world.run(100)
    alice.tell(RolloverTrade(trade))
    world.run(100)
    assert trade_of(alice, trade).attempt == 3
    bob.start()
    world.introduce(bob)
    bob.tell(ResolveTrade(trade, "cancelled"), within_ms=15_000)
    world.run(MINUTE)
    assert states(alice, bob, trade) == ("disputed", "cancelled")
    assert not alice.journal.outbox


@SIDES
def test_a_release_ends_with_a_dispute_that_comes_before_lightnings_word(maker: str) -> None:
    """The operator's last word counts: what it said before it pays no later invoice."""
    story = rolled(maker)
    story.seller.ledger.fail_look = True
    request = story.seller.command(ReceivedTrade(story.trade))
    story.seller.ledger.fail_look = False
    story.seller.tell(DisputeTrade(story.trade))
    story.buyer.tell(CancelTrade(story.trade))
    story.world.run(100)
    story.buyer.tell(RolloverTrade(story.trade))
    story.world.run(3_000)
    assert story.states() == ("rollover", "rollover")
    key = bytes.fromhex(story.trade)
    story.seller.handle(happened.PaymentSeen(key, story.lock, "failed"))
    story.world.run(100)
    assert story.states() == ("rollover", "rollover")
    assert list(story.seller.ledger.payments) == [story.lock]
    assert story.seller.answers[request].result["reason"] == "wrong_state"
