"""What a maker that sells by `htlc` and its taker do when something dies, fails or is too late."""

from __future__ import annotations

import hashlib

import pytest

from tests.stories import BTC, available, holds, only_trade, place, state_of, trade_of
from tests.unit.lock_stories import (
    LOTS,
    offered,
    scene,
    sold,
    sold_and_sent,
    states,
    unpaid,
)
from tests.unit.test_hostile import says
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import CancelTrade, SendTrade, SentTrade
from zmqex.protocol.messages import QuoteSent, TradeCancelled, TradeInvoice, TradeReleased
from zmqex.reasons import RejectReason
from zmqex.trading.states import State

MINUTE = 60_000


@pytest.mark.parametrize("late", [False, True])
def test_a_maker_that_crashed_before_it_paid_pays_once(late: bool) -> None:  # noqa: FBT001
    """The intent is on disk; what was never sent is sent, unless its invoice is over by then."""
    world, alice, bob = scene()
    offered(world, alice)
    bob.command(place("buy", LOTS, settlements=("htlc",)))
    alice.ledger.fail_pay = "indeterminate"
    world.run(500)
    trade = only_trade(bob).trade_id.hex()
    assert states(alice, bob, trade) == ("paying", "invoiced")
    alice.crash()
    alice.ledger.fail_pay = ""
    world.run(20 * MINUTE if late else 1_000)
    alice.start()
    world.introduce(alice)
    world.run(MINUTE)
    expected = ("cancelled", "cancelled") if late else ("paying", "htlc_accepted")
    assert states(alice, bob, trade) == expected


def test_a_payment_that_may_not_have_been_sent_is_sent_again() -> None:
    """Once Lightning says that it knows nothing of it."""
    world, alice, bob = scene()
    offered(world, alice)
    bob.command(place("buy", LOTS, settlements=("htlc",)))
    alice.ledger.fail_pay = "indeterminate"
    world.run(500)
    alice.ledger.fail_pay = ""
    world.run(MINUTE)
    trade = only_trade(bob).trade_id.hex()
    assert states(alice, bob, trade) == ("paying", "htlc_accepted")


def test_a_word_from_before_the_payment_sends_no_second_one() -> None:
    """Only the first "none" after the last payment sends another one."""
    _, alice, _, trade = sold()
    row = trade_of(alice, trade)
    seen = happened.PaymentSeen(row.trade_id, row.payment_hash, "none")
    sent = [
        any(isinstance(one, out.PayInvoice) for one in alice.k.handle(seen, alice.world.now()))
        for _ in range(2)
    ]
    assert sent == [True, False]
    assert alice.k.core.counted["outdated_payment_word"] == 1


def test_a_call_that_may_have_happened_is_looked_up() -> None:
    """A payment that was refused for good is over at once, another one is not."""
    _, alice, _, trade = sold()
    row = trade_of(alice, trade)
    reason = RejectReason.PAYMENT_FAILED
    failed = (row.trade_id, row.payment_hash, "payment", False, reason, "")
    alice.handle(happened.LightningFailed(*failed))  # type: ignore[arg-type]
    assert state_of(alice, trade) is State.PAYING


@pytest.mark.parametrize("call", ["rejected", "indeterminate"])
def test_a_taker_without_an_invoice_gets_out_or_asks_again(call: str) -> None:
    """What was refused for good is given up; what may have happened is made again."""
    world, alice, bob = scene()
    offered(world, alice)
    bob.ledger.fail_create = call  # type: ignore[assignment]
    bob.command(place("buy", LOTS, settlements=("htlc",)))
    world.run(1_000)
    bob.ledger.fail_create = ""
    world.run(MINUTE)
    trade = only_trade(bob).trade_id.hex()
    expected = ("cancelled", "cancelled") if call == "rejected" else ("paying", "htlc_accepted")
    assert states(alice, bob, trade) == expected


def test_a_taker_whose_lightning_is_gone_leaves_with_the_hold() -> None:
    """It has no invoice to cancel."""
    world, alice, bob = scene()
    offered(world, alice)
    bob.ledger.fail_create = "indeterminate"
    bob.ledger.fail_look = True
    bob.command(place("buy", LOTS, settlements=("htlc",)))
    world.run(17 * MINUTE)
    trade = only_trade(bob).trade_id.hex()
    assert states(alice, bob, trade) == ("cancelled", "cancelled")


def test_an_invoice_that_turns_up_after_the_take_is_off_is_cancelled() -> None:
    """Nobody has seen it."""
    world, alice, bob = scene()
    offered(world, alice)
    bob.ledger.fail_create = "indeterminate"
    bob.command(place("buy", LOTS, settlements=("htlc",)))
    world.run(500)
    row = only_trade(bob)
    alice.pause()
    bob.tell(CancelTrade(row.trade_id.hex()))
    made = happened.InvoiceCreated(row.trade_id, row.payment_hash, "lnbcrt1")
    effects = bob.k.handle(made, world.now())
    assert [type(one) for one in effects if isinstance(one, out.CancelInvoice)]
    alice.resume()
    world.run(MINUTE)
    assert state_of(bob, row.trade_id.hex()) is State.CANCELLED
    again = bob.k.handle(made, world.now())
    assert not any(isinstance(one, out.CancelInvoice) for one in again)


@pytest.mark.parametrize("when", ["accepted", "invoiced", "cancelling", "locked"])
def test_a_taker_takes_its_trade_up_after_a_restart(when: str) -> None:
    """In every state, and what it had begun it ends."""
    world, alice, bob = scene()
    if when == "locked":
        world, alice, bob, trade = sold()
    elif when == "accepted":
        offered(world, alice)
        bob.ledger.fail_create = "indeterminate"
        bob.command(place("buy", LOTS, settlements=("htlc",)))
        world.run(100)
        trade = only_trade(bob).trade_id.hex()
        bob.ledger.fail_create = ""
    else:
        trade = unpaid(world, alice, bob)
        if when == "cancelling":
            bob.ledger.fail_look = True
            bob.tell(CancelTrade(trade))
    bob.crash()
    world.drop = lambda *_: False
    bob.ledger.fail_look = False
    world.run(1_000)
    bob.start()
    world.introduce(bob)
    world.run(MINUTE)
    left = ("cancelled", "cancelled")
    assert states(alice, bob, trade) == (
        left if when == "cancelling" else ("paying", "htlc_accepted")
    )


@pytest.mark.parametrize("when", ["reserved", "quote_sent"])
def test_a_maker_takes_its_trade_up_after_a_restart(when: str) -> None:
    """And holds what it has to hold."""
    world, alice, bob = scene()
    if when == "reserved":
        trade = unpaid(world, alice, bob)
    else:
        world, alice, bob, trade = sold_and_sent()
    alice.crash()
    alice.held = {}
    world.drop = lambda *_: False
    world.run(1_000)
    alice.start()
    world.introduce(alice)
    world.run(MINUTE)
    assert bytes.fromhex(trade) in alice.held
    expected = ("paying", "htlc_accepted") if when == "reserved" else ("quote_sent", "quote_sent")
    assert states(alice, bob, trade) == expected


def test_a_makers_word_that_it_is_over_is_believed_after_lightning() -> None:
    """The taker cancels its own invoice before it thinks so."""
    world, alice, bob, trade = sold()
    row = trade_of(alice, trade)
    head = (row.trade_id, row.last_digest, world.wall_ms)
    for _ in range(2):
        effects = says(alice, bob, "trade", TradeCancelled(*head, "cancelled"))
        if any(isinstance(one, out.CancelInvoice) for one in effects):
            bob.ledger.cancel(row.payment_hash)
    assert bob.k.trades.by_id[row.trade_id].state is State.CANCELLING


def test_a_makers_word_after_the_quote_changes_nothing() -> None:
    """The quote may be on its way."""
    world, alice, bob, trade = sold_and_sent()
    row = trade_of(alice, trade)
    head = (row.trade_id, row.last_digest, world.wall_ms)
    says(alice, bob, "trade", TradeCancelled(*head, "cancelled"))
    assert bob.k.trades.by_id[row.trade_id].state is State.QUOTE_SENT


def test_the_buyers_word_is_heard_once_our_payment_was_seen() -> None:
    """Before that it comes again: nothing may be locked yet."""
    world, alice, bob = scene()
    offered(world, alice)
    bob.command(place("buy", LOTS, settlements=("htlc",)))
    alice.ledger.fail_pay = "indeterminate"
    world.run(500)
    row = only_trade(alice)
    head = (row.trade_id, row.last_digest, world.wall_ms)
    effects = says(bob, alice, "trade", QuoteSent(*head, "wire"))
    assert alice.k.trades.by_id[row.trade_id].state is State.PAYING
    assert any(isinstance(one, out.LookupPayment) for one in effects)


def test_words_of_the_wrong_party_are_refused() -> None:
    """The maker makes no invoice here, and the taker releases nothing."""
    world, alice, bob, trade = sold()
    row = trade_of(alice, trade)
    head = (row.trade_id, row.last_digest, world.wall_ms)
    before = (trade_of(alice, trade), trade_of(bob, trade))
    says(bob, alice, "trade", TradeReleased(*head, hashlib.sha256(b"x").digest()))
    says(bob, alice, "trade", TradeCancelled(*head, "cancelled"))
    says(alice, bob, "trade", TradeInvoice(*head, row.invoice, alice.ledger.node))
    assert (trade_of(alice, trade), trade_of(bob, trade)) == before


@pytest.mark.parametrize("when", ["locked", "invoiced", "cancelling"])
def test_where_lightning_has_settled_it_is_right(when: str) -> None:
    """A journal from before the release, on either side."""
    if when == "locked":
        world, alice, bob, trade = sold()
    else:
        world, alice, bob = scene()
        trade = unpaid(world, alice, bob)
        if when == "cancelling":
            bob.ledger.fail_look = True
            bob.tell(CancelTrade(trade))
    row, preimage = trade_of(bob, trade), trade_of(alice, trade).preimage
    bob.handle(happened.InvoiceSeen(row.payment_hash, "settled", row.base_msat))
    assert state_of(bob, trade) is State.SETTLED
    if when == "locked":
        key = (row.trade_id, row.payment_hash)
        alice.handle(happened.PaymentSeen(*key, "succeeded", preimage))
        assert state_of(alice, trade) is State.SETTLED
        world.run(500)
        assert available(alice, "asks") == [BTC - LOTS]
        assert holds(alice) == []


def test_an_all_or_nothing_buyer_makes_no_invoice_before_all_is_held() -> None:
    """Parts are accepted first; then each is locked."""
    world, alice, bob = scene()
    carol = world.add("carol")
    world.run(2_000)
    offered(world, alice)
    carol.tell(place("sell", BTC, settlements=("htlc",)))
    world.run(300)
    carol.pause()
    request = bob.command(place("buy", 2 * BTC, settlements=("htlc",), time_in_force="fok"))
    world.run(500)
    assert {one.state for one in bob.journal.trades.values()} == {State.ACCEPTED, State.TAKING}
    carol.resume()
    world.arm(carol)
    world.run(3_000)
    assert bob.answers[request].ok
    assert {one.state for one in bob.journal.trades.values()} == {State.HTLC_ACCEPTED}


def shared(stakes: int) -> tuple[World, SimNode, SimNode, SimNode]:
    """Alice offers 1 BTC by lock; a fifth of what she can spend is so many tenths of 0.4 BTC."""
    world = World()
    spendable_msat = LOTS * 1_000 * stakes // 10 * 5
    alice = world.add("alice", locked_percent=20, spendable_msat=spendable_msat)
    bob, carol = world.meet("bob", "carol")
    world.mine(0)
    world.run(100)
    offered(world, alice)
    return world, alice, bob, carol


def buys(node: SimNode) -> str:
    """Why a node cannot have 0.4 BTC locked now, or ""."""
    order = place("buy", LOTS, settlements=("htlc",), time_in_force="ioc")
    return "".join(one["reason"] for one in node.tell(order)["skipped"])


def test_takers_lock_no_more_than_a_share_together() -> None:
    """Locking costs them nothing, so it is bounded."""
    world, _, bob, carol = shared(15)
    assert buys(bob) == ""
    world.run(500)
    assert buys(carol) == "above_max_held"


def test_the_share_follows_the_funds() -> None:
    """What was received meanwhile counts, and what was spent does not."""
    world, alice, bob, carol = shared(10)
    alice.handle(happened.FundsSeen(alice.k.core.spendable_msat - 1))
    assert buys(bob) == "above_max_held"
    world.run(MINUTE)
    alice.handle(happened.FundsSeen(LOTS * 10_000))
    assert buys(bob) == ""
    world.run(500)
    assert buys(carol) == ""


def test_a_claim_of_what_has_come_back_locks_nothing() -> None:
    """Else anybody could use a seller's share up by claims, until its operator has ended them."""
    world, alice, bob, carol = shared(10)
    assert buys(bob) == ""
    world.run(500)
    trade = only_trade(bob).trade_id.hex()
    bob.tell(SendTrade(trade))
    world.mine(trade_of(bob, trade).htlc_expiry_height - world.height - 10)
    world.run(MINUTE)
    bob.tell(SentTrade(trade))
    world.run(4_000)
    assert states(alice, bob, trade) == ("disputed", "disputed")
    assert buys(carol) == ""
