"""Buying by `htlc`: the quote only under a long lock, the base only by the seller's preimage."""

from __future__ import annotations

import hashlib

import pytest

from tests.stories import BTC, available, check_quiet, holds, only_trade, place, state_of, trade_of
from tests.unit.lock_stories import (
    LOTS,
    NEEDED,
    left,
    locked,
    release,
    scene,
    sent,
    shorten,
    states,
    taken_by_lock,
)
from tests.unit.test_hostile import says
from zmqex.kernel import events as happened
from zmqex.kernel.commands import (
    CancelTrade,
    DisputeTrade,
    ListTrades,
    ReceivedTrade,
    ResolveTrade,
    SendTrade,
    SentTrade,
)
from zmqex.limits import HTLC_CONFIRM_MS, HTLC_SEND_MS
from zmqex.protocol.messages import QuoteSent, TradeReleased
from zmqex.trading.states import State

MINUTE = 60_000


def test_a_trade_by_lock_goes_to_its_end() -> None:
    """Locked, sent, released, taken; the quantity is filled only then."""
    world, alice, bob, trade = sent()
    assert holds(alice)[0]["quantity_lots"] == LOTS
    assert alice.ledger.balance_msat == 10**12
    bob.tell(ReceivedTrade(trade))
    world.run(2_000)
    assert states(alice, bob, trade) == ("settled", "settled")
    assert alice.ledger.balance_msat == 10**12 + LOTS * 1_000
    assert holds(alice) == []
    check_quiet(world)


def test_each_state_says_whose_turn_it_is() -> None:
    """The buyer asks, sends, waits; the seller looks at its account and releases."""
    world, alice, bob, trade = locked()

    def turns() -> list[tuple[str, str]]:
        rows = [node.tell(ListTrades())["trades"][0] for node in (alice, bob)]
        return [(one["turn"], one["next_command"].rpartition(" ")[0]) for one in rows]

    assert turns() == [("you", "trade send"), ("them", "")]
    alice.tell(SendTrade(trade))
    assert turns() == [("you", "trade sent"), ("them", "")]
    alice.tell(SentTrade(trade))
    world.run(200)
    assert turns() == [("them", ""), ("you", "trade release")]


def test_sent_at_once_passes_the_same_check() -> None:
    """Who skips `trade send` is checked by `trade sent`; the intent is on disk all the same."""
    _, alice, _, trade = locked()
    alice.tell(SentTrade(trade, "wire 7"))
    assert trade_of(alice, trade).state is State.QUOTE_SENT
    assert trade_of(alice, trade).reference == "wire 7"


def test_asking_twice_changes_nothing() -> None:
    """`trade send` in a trade whose quote may be on its way is answered again."""
    _, alice, _, trade = locked()
    alice.tell(SendTrade(trade))
    revision = trade_of(alice, trade).revision
    assert alice.tell(SendTrade(trade))["trade"]["state"] == "quote_intent"
    assert trade_of(alice, trade).revision == revision


def test_a_lock_that_just_suffices_is_enough() -> None:
    """The seller still has its time to confirm, but for one case in ten thousand."""
    world, alice, _, trade = locked()
    shorten(world, alice, trade, NEEDED)
    world.run(100)
    assert left(world, alice, trade) == NEEDED
    assert alice.tell(SendTrade(trade))["trade"]["state"] == "quote_intent"


def test_a_lock_that_has_become_too_short_is_given_back() -> None:
    """Nobody has to ask: nothing can come of it any more."""
    world, alice, bob, trade = locked()
    alice.ledger.fail_look = True
    request = alice.command(SendTrade(trade))
    shorten(world, alice, trade, NEEDED - 1)
    world.run(100)
    assert alice.answers[request].result["reason"] == "hold_ended"
    alice.ledger.fail_look = False
    world.run(5_000)
    assert states(alice, bob, trade)[0] == "cancelled"
    assert available(alice) == [BTC]


def test_a_buyer_that_never_sends_gives_the_lock_back() -> None:
    """After two hours; the seller has lost nothing but time."""
    world, alice, bob, trade = locked()
    world.run(HTLC_SEND_MS + MINUTE)
    assert state_of(alice, trade) is State.CANCELLED
    assert available(alice) == [BTC]
    assert state_of(bob, trade) is State.CANCELLED
    assert bob.ledger.balance_msat == 10**12
    assert not alice.k.admission._caps.wait_ms(bob.identity)


def test_the_end_of_the_hold_is_nothing_to_a_lock() -> None:
    """Who has locked in time has locked; the quantity stays held."""
    world, alice, _, trade = locked()
    world.run(20 * MINUTE)
    assert state_of(alice, trade) is State.HTLC_ACCEPTED
    assert available(alice) == [BTC - LOTS]
    assert alice.held[bytes.fromhex(trade)][2] > world.monotonic_ms


def test_a_lock_that_comes_at_the_end_of_the_hold_counts() -> None:
    """The clock alone never gives up what Lightning has."""
    world, alice, bob = scene()
    alice.tell(place("buy", BTC, settlements=("htlc",)))
    world.run(300)
    order = place("sell", LOTS, settlements=("htlc",), time_in_force="ioc", pay_mode="manual")
    (trade,) = bob.tell(order)["trades"]
    invoice = trade["invoice"]
    bob.crash()
    world.changed = lambda *_: None  # type: ignore[method-assign]
    world.run(14 * MINUTE)
    bob.ledger.pay(invoice)
    world.run(2 * MINUTE)
    assert state_of(alice, trade["trade_id"]) is State.HTLC_ACCEPTED


def test_an_operator_ends_a_trade_before_it_has_sent_anything() -> None:
    """What is locked goes back to the seller."""
    world, alice, bob, trade = locked()
    alice.tell(CancelTrade(trade))
    world.run(1_000)
    assert state_of(alice, trade) is State.CANCELLED
    world.run(MINUTE)
    assert bob.ledger.balance_msat == 10**12
    assert available(alice) == [BTC]


def test_what_was_called_off_before_the_lock_is_not_locked() -> None:
    """The operator's cancel is being looked up when the payment arrives: it goes back."""
    world, alice, bob = scene()
    alice.tell(place("buy", BTC, settlements=("htlc",)))
    world.run(300)
    order = place("sell", LOTS, settlements=("htlc",), time_in_force="ioc", pay_mode="manual")
    (trade,) = bob.tell(order)["trades"]
    bob.ledger.pay(trade["invoice"])
    alice.tell(CancelTrade(trade["trade_id"]))
    world.run(1_000)
    assert state_of(alice, trade["trade_id"]) is State.CANCELLED
    assert available(alice) == [BTC]


def test_after_the_intent_nothing_is_cancelled() -> None:
    """The quote may be on its way: only the seller or a dispute ends it."""
    world, alice, bob, trade = locked()
    alice.tell(SendTrade(trade))
    answer = alice.ask(CancelTrade(trade))
    assert (answer.ok, answer.result["reason"]) == (False, "wrong_state")
    bob.tell(CancelTrade(trade))
    world.run(1_000)
    assert state_of(alice, trade) is State.QUOTE_INTENT


def test_a_seller_may_ask_its_lock_back_before_the_quote() -> None:
    """The buyer that has sent nothing gives it back."""
    world, alice, bob, trade = locked()
    bob.tell(CancelTrade(trade))
    world.run(MINUTE)
    assert states(alice, bob, trade) == ("cancelled", "cancelled")
    assert bob.ledger.balance_msat == 10**12


@pytest.mark.parametrize("said", [False, True])
def test_a_quote_that_nobody_confirms_is_disputed(said: bool) -> None:  # noqa: FBT001
    """The quantity stays committed, and a release is still heard."""
    world, alice, bob, trade = locked()
    alice.tell(SendTrade(trade))
    if said:
        alice.tell(SentTrade(trade))
    world.run(HTLC_CONFIRM_MS + MINUTE)
    assert state_of(alice, trade) is State.DISPUTED
    assert available(alice) == [BTC - LOTS]
    release(world, bob, alice, trade)
    assert state_of(alice, trade) is State.SETTLED
    assert alice.ledger.balance_msat == 10**12 + LOTS * 1_000


def test_a_lock_that_ends_after_the_quote_was_sent_is_a_dispute() -> None:
    """On both sides; the buyer's quantity stays committed until its operator ends it."""
    world, alice, bob, trade = sent()
    shorten(world, alice, trade, 18)
    world.run(MINUTE)
    assert states(alice, bob, trade) == ("disputed", "disputed")
    assert available(alice) == [BTC - LOTS]
    assert bob.ledger.balance_msat == 10**12
    alice.tell(ResolveTrade(trade, "cancelled"))
    assert available(alice) == [BTC]
    bob.tell(ResolveTrade(trade, "settled"))
    world.run(1_000)
    check_quiet(world, frozenset({bytes.fromhex(trade)}))


def test_a_dispute_that_ends_as_settled_gives_back_what_is_locked() -> None:
    """The operators have found another way; the order is filled all the same."""
    world, alice, bob, trade = sent()
    alice.tell(DisputeTrade(trade))
    alice.tell(ResolveTrade(trade, "settled"))
    world.run(MINUTE)
    assert states(alice, bob, trade) == ("settled", "disputed")
    assert bob.ledger.balance_msat == 10**12
    assert available(alice) == [BTC - LOTS]
    assert holds(alice) == []


def test_a_release_after_the_lock_has_gone_stays_a_dispute() -> None:
    """The preimage is kept, and opens nothing."""
    world, alice, bob, trade = sent()
    alice.tell(DisputeTrade(trade))
    shorten(world, alice, trade, 10)
    release(world, bob, alice, trade)
    world.run(MINUTE)
    assert state_of(alice, trade) is State.DISPUTED
    assert alice.ledger.balance_msat == 10**12


def test_a_wrong_preimage_changes_nothing() -> None:
    """Neither does a right one that is faster than Lightning."""
    world, alice, bob, trade = sent()
    release(world, bob, alice, trade, b"x" * 32)
    assert state_of(alice, trade) is State.QUOTE_SENT
    bob.tell(ReceivedTrade(trade))
    world.run(2_000)
    release(world, bob, alice, trade)
    assert state_of(alice, trade) is State.SETTLED


def test_a_release_that_is_faster_than_lightning_comes_again() -> None:
    """The buyer does not know of the lock yet."""
    world, alice, bob = scene()
    world.changed = lambda *_: None  # type: ignore[method-assign]
    trade = taken_by_lock(world, alice, bob)
    assert states(alice, bob, trade) == ("invoiced", "paying")
    bob.tell(ReceivedTrade(trade))
    assert states(alice, bob, trade) == ("invoiced", "released")
    row = trade_of(alice, trade)
    alice.handle(alice.ledger.seen(row.payment_hash))
    world.run(MINUTE)
    assert states(alice, bob, trade) == ("settled", "settled")


def test_a_seller_may_release_before_the_buyer_has_said_a_word() -> None:
    """It has the quote; that is what counts."""
    world, alice, bob, trade = locked()
    bob.tell(ReceivedTrade(trade))
    world.run(2_000)
    assert states(alice, bob, trade) == ("settled", "settled")


@pytest.mark.parametrize("how", ["before", "after"])
def test_a_buyer_that_crashes_around_the_release_takes_the_base(how: str) -> None:
    """A preimage that is acknowledged is on disk, and used first of all after a start."""
    world, alice, bob, trade = sent()
    alice.crash_at = (how, alice.journal.commits + 1)
    bob.tell(ReceivedTrade(trade))
    world.run(1_000)
    assert not alice.up
    alice.start()
    world.introduce(alice)
    world.run(MINUTE)
    assert states(alice, bob, trade) == ("settled", "settled")
    check_quiet(world)


def test_a_buyer_takes_up_a_lock_after_a_restart() -> None:
    """Looked up, still held in Redis, and ended by its deadline."""
    world, alice, _, trade = locked()
    alice.crash()
    world.run(1_000)
    alice.held = {}
    alice.start()
    world.run(1_000)
    assert state_of(alice, trade) is State.HTLC_ACCEPTED
    assert bytes.fromhex(trade) in alice.held


def test_a_buyer_without_a_lock_looks_its_invoice_up_after_a_restart() -> None:
    """What was locked meanwhile is locked."""
    world, alice, bob = scene()
    world.changed = lambda *_: None  # type: ignore[method-assign]
    trade = taken_by_lock(world, alice, bob)
    assert states(alice, bob, trade) == ("invoiced", "paying")
    alice.crash()
    alice.start()
    world.run(100)
    assert state_of(alice, trade) is State.HTLC_ACCEPTED


def test_a_lock_that_went_back_while_the_buyer_was_down_is_over() -> None:
    """Nothing had been sent: the quantity is free again."""
    world, alice, bob, trade = locked()
    alice.crash()
    shorten(world, alice, trade, 10)
    alice.start()
    world.introduce(alice)
    world.run(MINUTE)
    assert states(alice, bob, trade) == ("cancelled", "cancelled")
    assert available(alice) == [BTC]


def test_lightning_that_is_silent_leaves_the_question_open() -> None:
    """Nothing is decided without its word, and nothing has changed."""
    _, alice, _, trade = locked()
    alice.ledger.fail_look = True
    answer = alice.ask(SendTrade(trade), within_ms=15_000)
    assert answer.result["reason"] == "lightning_unavailable"
    assert state_of(alice, trade) is State.HTLC_ACCEPTED


def test_a_lock_without_an_end_is_not_trusted() -> None:
    """A backend that cannot say how long the lock lasts: do not send yet."""
    _, alice, _, trade = locked()
    row = trade_of(alice, trade)
    request = alice.command(SendTrade(trade))
    alice.handle(happened.InvoiceSeen(row.payment_hash, "accepted", row.base_msat))
    assert alice.answers[request].result["reason"] == "lightning_unavailable"
    assert state_of(alice, trade) is State.HTLC_ACCEPTED


def test_a_backend_that_has_forgotten_for_a_moment_ends_nothing() -> None:
    """One that has just started may say "open" of what is locked."""
    _, alice, _, trade = locked()
    row = trade_of(alice, trade)
    for state in ("open", "unknown"):
        alice.handle(happened.InvoiceSeen(row.payment_hash, state))
    assert state_of(alice, trade) is State.HTLC_ACCEPTED


def test_a_part_of_the_payment_is_no_lock() -> None:
    """Of several parts all must be there."""
    world, alice, bob = scene()
    world.changed = lambda *_: None  # type: ignore[method-assign]
    trade = taken_by_lock(world, alice, bob)
    row = trade_of(alice, trade)
    alice.handle(happened.InvoiceSeen(row.payment_hash, "accepted", row.base_msat - 1, 10**7, 1))
    assert state_of(alice, trade) is State.INVOICED


def test_the_earliest_end_of_several_parts_counts() -> None:
    """What Lightning says later of the lock is what is counted with."""
    world, alice, _, trade = locked()
    row = trade_of(alice, trade)
    sooner = world.height + NEEDED
    alice.handle(
        happened.InvoiceSeen(row.payment_hash, "accepted", row.base_msat, sooner, world.height)
    )
    assert trade_of(alice, trade).htlc_expiry_height == sooner


def test_a_hold_invoice_that_cannot_be_made_ends_the_hold() -> None:
    """The taker need not wait for the end of the hold."""
    world, alice, bob = scene()
    alice.ledger.fail_create = "rejected"
    alice.tell(place("buy", BTC, settlements=("htlc",)))
    world.run(300)
    order = place("sell", LOTS, settlements=("htlc",), time_in_force="ioc")
    answer = bob.tell(order)
    assert answer["skipped"][0]["reason"] == "lightning_unavailable"
    assert only_trade(alice).state is State.CANCELLING


def test_a_node_that_cannot_hold_does_not_offer_it() -> None:
    """It says so before anything is placed; takes of older orders are refused."""
    world, alice, bob = scene()
    alice.settings = {**alice.settings, "can_hold": False}
    alice.tell(place("buy", BTC, settlements=("htlc", "plain")))
    alice.crash()
    alice.start()
    world.introduce(alice)
    world.run(4_000)
    answer = alice.ask(place("buy", BTC, settlements=("htlc",)))
    assert "cannot hold payments" in answer.result["message"]
    order = place("sell", LOTS, settlements=("htlc",), time_in_force="ioc")
    assert bob.tell(order)["skipped"][0]["reason"] == "unsupported_settlement"
    alice.settings = {**alice.settings, "can_hold": True, "auto_cancel_blocks": 144}
    alice.crash()
    alice.start()
    answer = alice.ask(place("buy", BTC, settlements=("htlc",)))
    assert "too early" in answer.result["message"]


def test_one_lock_of_a_taker_at_a_time() -> None:
    """Each may last for hours, and costs who locks nothing but time."""
    world, alice, bob, _ = locked()
    order = place("sell", LOTS, settlements=("htlc",), time_in_force="ioc")
    answer = bob.ask(order, within_ms=60_000)
    assert answer.result["skipped"][0]["reason"] == "too_many_holds"
    plain = place("buy", BTC, 101)
    alice.tell(plain)
    world.run(300)
    assert len(bob.tell(place("sell", LOTS, 101))["trades"]) == 1


def test_words_of_the_wrong_party_are_refused() -> None:
    """The buyer does not release, the seller does not send; plain trades know no lock."""
    world, alice, bob, trade = locked()
    for node, command in ((bob, SendTrade), (bob, SentTrade), (alice, ReceivedTrade)):
        assert node.ask(command(trade)).result["reason"] == "wrong_party"
    row = trade_of(bob, trade)
    head = (row.trade_id, row.last_digest, world.wall_ms)
    before = (trade_of(alice, trade), trade_of(bob, trade))
    says(bob, alice, "trade", QuoteSent(*head, "mine"))
    says(alice, bob, "trade", TradeReleased(*head, hashlib.sha256(b"x").digest()))
    assert (trade_of(alice, trade), trade_of(bob, trade)) == before
    bob.tell(ReceivedTrade(trade))
    world.run(2_000)
    assert alice.ask(SendTrade(trade)).result["reason"] == "wrong_state"
    assert alice.ask(SentTrade(trade)).result["reason"] == "wrong_state"
    assert bob.ask(ReceivedTrade(trade)).result["reason"] == "wrong_state"
