"""Selling by `htlc`: the preimage leaves by the operator's word alone, and never too late."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from tests.stories import BTC, check_quiet, place, state_of, trade_of
from tests.unit.lock_stories import LOTS, locked, scene, sent, shorten, sold, states, taken_by_lock
from tests.unit.taker_stories import forge
from tests.unit.test_hostile import says
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import (
    DisputeTrade,
    ExportTrade,
    PayTrade,
    ReceivedTrade,
    ResolveTrade,
    SendTrade,
)
from zmqex.limits import AUTO_CANCEL_BLOCKS_MAX, LOCK_MARGIN_BLOCKS
from zmqex.protocol.codec import decode, decode_envelope, decode_frame, decode_trade_message
from zmqex.protocol.messages import Accept, QuoteSent, TradeReleased, TradeSaid
from zmqex.trading.states import State

MINUTE = 60_000
Story = Callable[[], tuple[World, SimNode, SimNode, str]]
LATEST = AUTO_CANCEL_BLOCKS_MAX + LOCK_MARGIN_BLOCKS


def test_the_taker_draws_the_preimage_and_writes_it_down_first() -> None:
    """Its hash is in the take, the maker's invoice and the lock; the maker does not know it."""
    world, alice, bob = scene()
    seen: list[bytes] = []

    def spy(_node: object, effect: out.Effect) -> None:
        if isinstance(effect, out.SendRequest) and decode_frame(effect.frame).kind == "take":
            (trade,) = bob.journal.trades.values()
            seen.append(trade.preimage)

    world.spy = spy
    trade = taken_by_lock(world, alice, bob)
    (preimage,) = seen
    assert trade_of(bob, trade).preimage == preimage
    assert trade_of(alice, trade).payment_hash == hashlib.sha256(preimage).digest()
    assert trade_of(alice, trade).preimage == b""


def test_the_preimage_is_in_no_message_and_no_log_before_the_release() -> None:
    """Neither in what the seller sends, nor in what it shows its own operator."""
    world, alice, bob = scene()
    spoken: list[bytes] = []

    def spy(_node: object, effect: out.Effect) -> None:
        if isinstance(effect, out.SendRequest | out.SendReply):
            spoken.append(effect.frame)
        elif isinstance(effect, out.AnswerCommand | out.Announce):
            spoken.append(repr(effect).encode())

    world.spy = spy
    trade = taken_by_lock(world, alice, bob)
    alice.tell(SendTrade(trade))
    bob.tell(ExportTrade(trade))
    secret = trade_of(bob, trade).preimage
    assert not any(secret in one or secret.hex().encode() in one for one in spoken)
    bob.tell(ReceivedTrade(trade))
    world.run(2_000)
    assert any(secret in one for one in spoken)
    told = "".join(repr(one) for node in (alice, bob) for one in node.logs)
    assert secret.hex() not in told
    assert repr(secret) not in told


def test_a_release_needs_a_lock_that_is_still_of_use() -> None:
    """Twenty-four blocks before its end it is, one later it is not."""
    world, alice, bob, trade = sent()
    shorten(world, alice, trade, LATEST - 1)
    world.run(100)
    answer = bob.ask(ReceivedTrade(trade))
    assert (answer.ok, answer.result["reason"]) == (False, "hold_ended")
    assert f"the lock ends in {LATEST - 1} blocks" in answer.result["message"]
    assert state_of(bob, trade) is State.QUOTE_SENT
    world.mined -= 1  # a block was one of another branch
    world.run(100)
    bob.k.core.height = world.height
    assert bob.tell(ReceivedTrade(trade))["trade"]["state"] == "released"
    world.run(2_000)
    assert states(alice, bob, trade) == ("settled", "settled")


@pytest.mark.parametrize("story", [locked, sold])
def test_a_quote_that_came_too_late_to_release_is_not_forgotten(story: Story) -> None:
    """Nobody has said that it was sent, but it is here: what comes back is owed, not free."""
    world, alice, bob, trade = story()
    seller, buyer = (bob, alice) if story is locked else (alice, bob)
    row = trade_of(buyer, trade)
    buyer.crash()
    shorten(world, seller, trade, LATEST - 1)
    answer = seller.ask(ReceivedTrade(trade))
    assert answer.result["reason"] == "hold_ended"
    buyer.ledger.cancel(row.payment_hash)
    buyer.start()
    world.introduce(buyer)
    world.run(MINUTE)
    assert state_of(seller, trade) is State.DISPUTED


def test_a_seller_without_a_height_releases_nothing() -> None:
    """What cannot be compared is not trusted."""
    world, _, bob, trade = sent()
    row = trade_of(bob, trade)
    bob.k.core.height = 0
    bob.ledger.fail_look = True
    request = bob.command(ReceivedTrade(trade))
    bob.handle(happened.PaymentSeen(row.trade_id, row.payment_hash, "in_flight"))
    assert bob.answers[request].result["reason"] == "hold_ended"
    world.run(100)
    assert state_of(bob, trade) is State.QUOTE_SENT


def test_a_seller_counts_with_its_own_lock_where_lightning_is_silent_about_it() -> None:
    """It has written down its height when it paid, and what the invoice asks for."""
    world, _, bob, trade = sent()
    row = trade_of(bob, trade)
    bob.ledger.fail_look = True
    request = bob.command(ReceivedTrade(trade))
    bob.handle(happened.PaymentSeen(row.trade_id, row.payment_hash, "in_flight"))
    assert bob.answers[request].ok
    world.run(100)
    assert state_of(bob, trade) is State.RELEASED


def test_a_later_lock_is_the_one_that_counts() -> None:
    """An attempt made later is locked for longer."""
    _, _, bob, trade = sent()
    row = trade_of(bob, trade)
    later = row.htlc_expiry_height + 2
    bob.handle(happened.PaymentSeen(row.trade_id, row.payment_hash, "in_flight", None, None, later))
    assert trade_of(bob, trade).htlc_expiry_height == later


def test_what_lightning_says_of_a_payment_ends_it() -> None:
    """A lock that went back before any word: the take is given up. After one: a dispute."""
    world, alice, bob, trade = locked()
    shorten(world, alice, trade, 10)
    world.run(20 * MINUTE)
    assert states(alice, bob, trade) == ("cancelled", "cancelled")
    world, alice, bob, trade = sent()
    request = bob.command(ReceivedTrade(trade))
    alice.ledger.cancel(trade_of(alice, trade).payment_hash)
    world.run(1_000)
    assert bob.answers[request].ok  # it was locked when it was released
    world.run(MINUTE)
    assert states(alice, bob, trade) == ("disputed", "disputed")
    assert bob.ledger.balance_msat == 10**12


def test_a_release_of_a_payment_that_has_failed_is_refused() -> None:
    """Before the buyer's word too: there is nothing to release."""
    for story in (locked, sent):
        world, alice, bob, trade = story()
        alice.ledger.cancel(trade_of(alice, trade).payment_hash)
        answer = bob.ask(ReceivedTrade(trade))
        assert answer.result["reason"] == "payment_failed"
        world.run(100)
        assert state_of(bob, trade) is not State.RELEASED


def test_a_disputed_trade_can_still_be_released() -> None:
    """The quote has come after all."""
    world, alice, bob, trade = sent()
    bob.tell(DisputeTrade(trade))
    bob.tell(ReceivedTrade(trade))
    world.run(2_000)
    assert states(alice, bob, trade) == ("settled", "settled")
    check_quiet(world)


def test_a_dispute_of_what_is_locked_is_not_cancelled() -> None:
    """Lightning has not said that the base will never be paid."""
    world, alice, bob, trade = sent()
    bob.tell(DisputeTrade(trade))
    answer = bob.ask(ResolveTrade(trade, "cancelled"), within_ms=15_000)
    assert answer.result["reason"] == "lightning_unavailable"
    alice.tell(DisputeTrade(trade))
    alice.tell(ResolveTrade(trade, "cancelled"))
    world.run(100)
    assert bob.tell(ResolveTrade(trade, "cancelled"))["trade"]["state"] == "cancelled"


def test_lightning_is_right_where_it_has_settled() -> None:
    """A journal from before the release: the money says what has happened."""
    for disputed in (False, True):
        world, alice, bob, trade = sent()
        row = trade_of(bob, trade)
        if disputed:
            bob.tell(DisputeTrade(trade))
            alice.tell(DisputeTrade(trade))
        alice.ledger.settle(row.preimage)
        for seen in (b"x" * 32, row.preimage):
            event = happened.PaymentSeen(row.trade_id, row.payment_hash, "succeeded", seen)
            bob.handle(event)
            assert (state_of(bob, trade) is State.SETTLED) == (seen == row.preimage)
        alice.handle(alice.ledger.seen(row.payment_hash))
        bob.ledger.drive(row.payment_hash)
        world.run(1_000)
        assert states(alice, bob, trade) == ("settled", "settled")
        check_quiet(world)


def test_a_seller_pays_no_invoice_on_another_hash() -> None:
    """Or the buyer could take the base without a word from the seller."""
    world, alice, bob = scene()
    fake = alice.ledger.create(
        out.CreateInvoice(b"t" * 32, hashlib.sha256(b"p" * 32).digest(), b"p" * 32, 1, "", 900)
    )
    forge(world, alice, invoice=fake)
    alice.tell(place("buy", BTC, settlements=("htlc",)))
    world.run(300)
    order = place("sell", LOTS, settlements=("htlc",), time_in_force="ioc")
    answer = bob.tell(order)
    assert answer["trades"] == []
    assert bob.ledger.balance_msat == 10**12


def test_an_accept_with_a_hash_that_nobody_asked_for_is_not_used() -> None:
    """The taker has drawn its own."""
    world, alice, bob = scene()
    forge(world, alice, payment_hash=b"h" * 32)
    alice.tell(place("buy", BTC, settlements=("htlc",)))
    world.run(300)
    order = place("sell", LOTS, settlements=("htlc",), time_in_force="ioc")
    assert bob.tell(order)["skipped"][0]["reason"] == "malformed"


def test_paying_by_hand_is_answered_while_it_is_locked() -> None:
    """There is no end to wait for."""
    world, alice, bob = scene()
    trade = taken_by_lock(world, alice, bob, pay_mode="manual")
    assert states(alice, bob, trade) == ("invoiced", "accepted")
    assert bob.tell(PayTrade(trade), within_ms=500)["trade"]["state"] == "paying"


def test_a_quote_that_is_said_while_nothing_is_locked_is_heard_later() -> None:
    """It may have been locked, and come back; if so, the claim is kept when we have left."""
    world, alice, bob = scene()
    trade = taken_by_lock(world, alice, bob, pay_mode="manual")
    row = trade_of(alice, trade)
    said = QuoteSent(row.trade_id, row.last_digest, world.wall_ms, "wire")
    logs = [one for one in says(alice, bob, "trade", said) if isinstance(one, out.Log)]
    assert [one.facts["reason"] for one in logs] == ["unavailable"]
    assert state_of(bob, trade) is State.ACCEPTED


@pytest.mark.parametrize("when", ["paying", "quote_sent", "released"])
def test_a_seller_takes_its_trade_up_after_a_restart(when: str) -> None:
    """In every state, and the buyer's word is not lost."""
    world, alice, bob, trade = locked() if when == "paying" else sent()
    if when == "released":
        alice.pause()
        bob.tell(ReceivedTrade(trade))
    bob.crash()
    world.run(1_000)
    if when == "released":
        alice.resume()
        world.arm(alice)
    bob.start()
    world.introduce(bob)
    world.run(5_000)
    if when != "released":
        bob.tell(ReceivedTrade(trade))
    world.run(MINUTE)
    assert states(alice, bob, trade) == ("settled", "settled")
    check_quiet(world)


def test_lightning_that_is_silent_releases_nothing() -> None:
    """The operator is told, and asks again."""
    _, _, bob, trade = sent()
    bob.ledger.fail_look = True
    answer = bob.ask(ReceivedTrade(trade), within_ms=15_000)
    assert answer.result["reason"] == "lightning_unavailable"
    assert state_of(bob, trade) is State.QUOTE_SENT


def test_what_no_side_of_a_lock_makes_or_pays_changes_nothing() -> None:
    """The seller has no invoice, the buyer no payment of this hash."""
    _, alice, bob, trade = locked()
    key, payment_hash = trade_of(bob, trade).trade_id, trade_of(bob, trade).payment_hash
    before = (trade_of(alice, trade), trade_of(bob, trade))
    bob.handle(happened.InvoiceCreated(key, payment_hash, "lnbcrt1"))
    bob.handle(happened.InvoiceSeen(payment_hash, "canceled"))
    alice.handle(happened.PaymentSeen(key, payment_hash, "failed"))
    assert (trade_of(alice, trade), trade_of(bob, trade)) == before


def test_the_accept_of_a_buying_maker_names_no_hash_of_its_own() -> None:
    """Its invoice says it."""
    world, alice, bob = scene()
    accepts: list[Accept] = []

    def spy(_node: object, effect: out.Effect) -> None:
        if isinstance(effect, out.SendReply) and decode_frame(effect.frame).kind == "take":
            body = decode(decode_frame(effect.frame).body, TradeSaid).envelope
            said = decode_trade_message(decode_envelope(body).body)
            assert isinstance(said, Accept)
            accepts.append(said)

    world.spy = spy
    taken_by_lock(world, alice, bob)
    (accept,) = accepts
    assert accept.payment_hash is None
    assert accept.invoice


def test_a_release_said_twice_in_other_words_is_refused() -> None:
    """The first has opened the lock."""
    world, alice, bob, trade = sent()
    bob.tell(ReceivedTrade(trade))
    world.run(2_000)
    row = trade_of(bob, trade)
    said = TradeReleased(row.trade_id, row.last_digest, world.wall_ms + 1, row.preimage)
    before = trade_of(alice, trade)
    says(bob, alice, "trade", said)
    assert trade_of(alice, trade) == before
