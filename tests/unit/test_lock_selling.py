"""A maker that sells by `htlc` draws the preimage; the taker makes the invoice and may leave."""

from __future__ import annotations

import hashlib

import pytest

from tests.stories import BTC, available, check_quiet, holds, only_trade, place, state_of, trade_of
from tests.unit.lock_stories import LOTS, is_disputed, scene, shorten, states
from tests.unit.test_hostile import says
from tests.world import SimNode, World
from zmqex.bolt11 import Draft, InvoiceNetwork, encode
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import (
    CancelTrade,
    ListTrades,
    ReceivedTrade,
    ResolveTrade,
    SendTrade,
    SentTrade,
)
from zmqex.limits import HTLC_SEND_MS
from zmqex.protocol.messages import QuoteSent, TradeCancelled, TradeInvoice, TradeReleased
from zmqex.reasons import RejectReason
from zmqex.trading.states import State

MINUTE = 60_000


def offered(world: World, alice: SimNode) -> None:
    """Alice offers 1 BTC by lock."""
    alice.tell(place("sell", BTC, settlements=("htlc",)))
    world.run(300)


def bought(world: World, bob: SimNode) -> str:
    """Bob buys 0.4 of it; the trade's id."""
    (trade,) = bob.tell(place("buy", LOTS, settlements=("htlc",)))["trades"]
    world.run(300)
    return str(trade["trade_id"])


def locked() -> tuple[World, SimNode, SimNode, str]:
    """Alice has locked 0.4 BTC for Bob."""
    world, alice, bob = scene()
    offered(world, alice)
    trade = bought(world, bob)
    assert states(alice, bob, trade) == ("paying", "htlc_accepted")
    return world, alice, bob, trade


def sent() -> tuple[World, SimNode, SimNode, str]:
    """Bob has sent the quote, and said so."""
    world, alice, bob, trade = locked()
    bob.tell(SendTrade(trade))
    bob.tell(SentTrade(trade, "wire 7"))
    world.run(4_000)
    assert states(alice, bob, trade) == ("quote_sent", "quote_sent")
    return world, alice, bob, trade


def unpaid(world: World, alice: SimNode, bob: SimNode) -> str:
    """Bob has made his invoice, and Alice hears nothing of it."""
    offered(world, alice)
    request = bob.command(place("buy", LOTS, settlements=("htlc",)))
    world.drop = lambda node, _target, effect: (
        node is bob and isinstance(effect, out.SendRequest) and b"trade_invoice" in effect.frame
    )
    world.run(500)
    (trade,) = bob.answers[request].result["trades"]
    assert states(alice, bob, trade["trade_id"]) == ("reserved", "invoiced")
    return str(trade["trade_id"])


def test_a_selling_maker_locks_and_releases() -> None:
    """Its hash is in the accept; the buyer has nothing before the release."""
    world, alice, bob, trade = sent()
    assert trade_of(alice, trade).preimage
    assert trade_of(bob, trade).preimage == b""
    assert holds(alice)[0]["quantity_lots"] == LOTS
    assert available(alice, "asks") == [BTC - LOTS]
    alice.tell(ReceivedTrade(trade))
    world.run(2_000)
    assert states(alice, bob, trade) == ("settled", "settled")
    assert bob.ledger.balance_msat == 10**12 + LOTS * 1_000
    assert holds(alice) == []
    check_quiet(world)


def test_each_state_says_whose_turn_it_is() -> None:
    """The buyer sends, the maker looks at its account and releases."""
    world, alice, bob, trade = locked()

    def turns() -> list[tuple[str, str]]:
        rows = [node.tell(ListTrades())["trades"][0] for node in (alice, bob)]
        return [(one["turn"], one["next_command"].rpartition(" ")[0]) for one in rows]

    assert turns() == [("them", ""), ("you", "trade send")]
    bob.tell(SentTrade(trade))
    world.run(4_000)
    assert turns() == [("you", "trade release"), ("them", "")]


def test_a_taker_that_leaves_cancels_its_invoice_first() -> None:
    """What is locked goes back, then the take is off; the maker has its quantity again."""
    world, alice, bob, trade = locked()
    bob.tell(CancelTrade(trade))
    world.run(MINUTE)
    assert states(alice, bob, trade) == ("cancelled", "cancelled")
    assert available(alice, "asks") == [BTC]
    assert alice.ledger.balance_msat == 10**12
    check_quiet(world)


def test_a_taker_leaves_before_anything_is_locked() -> None:
    """The maker, which has never seen the invoice, gives the hold back."""
    world, alice, bob = scene()
    trade = unpaid(world, alice, bob)
    world.drop = lambda *_: False
    bob.tell(CancelTrade(trade))
    world.run(MINUTE)
    assert states(alice, bob, trade) == ("cancelled", "cancelled")
    assert available(alice, "asks") == [BTC]


def test_an_invoice_that_nobody_pays_ends_with_the_hold() -> None:
    """On both sides, by each one's own clock."""
    world, alice, bob = scene()
    trade = unpaid(world, alice, bob)
    world.run(17 * MINUTE)
    world.drop = lambda *_: False
    world.run(2 * MINUTE)
    assert states(alice, bob, trade) == ("cancelled", "cancelled")
    assert available(alice, "asks") == [BTC]
    check_quiet(world)


def test_an_invoice_that_the_backend_cancels_ends_the_take() -> None:
    """Nobody can pay it any more."""
    world, alice, bob = scene()
    trade = unpaid(world, alice, bob)
    bob.ledger.cancel(trade_of(bob, trade).payment_hash)
    bob.handle(bob.ledger.seen(trade_of(bob, trade).payment_hash))
    world.drop = lambda *_: False
    world.run(MINUTE)
    assert states(alice, bob, trade) == ("cancelled", "cancelled")


def test_only_a_trade_by_lock_is_asked_about_before_the_quote() -> None:
    """A plain one needs no question, and an unknown one has no answer."""
    world, alice, bob = scene()
    alice.tell(place("sell", BTC))
    world.run(300)
    (trade,) = bob.tell(place("buy", LOTS))["trades"]
    assert bob.ask(SendTrade(trade["trade_id"])).result["reason"] == "wrong_state"
    assert bob.ask(SendTrade("ab" * 8)).result["reason"] == "unknown_trade"


def test_a_buyer_that_never_sends_gives_the_lock_back() -> None:
    """After two hours."""
    world, alice, bob, trade = locked()
    world.run(HTLC_SEND_MS + 2 * MINUTE)
    assert states(alice, bob, trade) == ("cancelled", "cancelled")
    assert available(alice, "asks") == [BTC]


def test_a_lock_that_goes_back_before_the_quote_ends_the_trade() -> None:
    """The chain was faster than the buyer."""
    world, alice, bob, trade = locked()
    shorten(world, bob, trade, 10)
    world.run(2 * MINUTE)
    assert states(alice, bob, trade) == ("cancelled", "cancelled")
    assert available(alice, "asks") == [BTC]


def test_a_lock_that_the_backend_gave_back_early_is_lost() -> None:
    """Nothing was sent: the buyer gets out."""
    world, alice, bob, trade = locked()
    bob.ledger.cancel(trade_of(bob, trade).payment_hash)
    world.run(MINUTE)
    assert states(alice, bob, trade) == ("cancelled", "cancelled")
    check_quiet(world)
    row = trade_of(alice, trade)
    alice.handle(happened.PaymentSeen(row.trade_id, row.payment_hash, "failed"))
    assert trade_of(alice, trade) == row


@pytest.mark.parametrize("outcome", ["settled", "cancelled"])
def test_a_lock_that_ends_after_the_quote_is_a_dispute(outcome: str) -> None:
    """The maker's quantity stays committed until its operator has decided."""
    world, alice, bob, trade = sent()
    shorten(world, bob, trade, 10)
    world.run(2 * MINUTE)
    assert is_disputed(alice, trade)
    assert is_disputed(bob, trade)
    assert available(alice, "asks") == [BTC - LOTS]
    alice.tell(ResolveTrade(trade, outcome))
    world.run(500)
    assert available(alice, "asks") == [BTC - LOTS * (outcome == "settled")]
    assert holds(alice) == []
    bob.tell(ResolveTrade(trade, outcome))


def test_a_maker_cannot_take_back_what_it_has_locked() -> None:
    """Only Lightning ends it, or the buyer."""
    _, alice, _, trade = locked()
    assert alice.ask(CancelTrade(trade)).result["reason"] == "wrong_state"


def invoice(bob: SimNode, world: World, **changes: object) -> str:
    """Bob's invoice for his only trade, changed."""
    trade = only_trade(bob)
    terms = {
        "network": InvoiceNetwork.REGTEST,
        "timestamp_s": world.wall_ms // 1_000,
        "payment_hash": trade.payment_hash,
        "payment_secret": bytes(32),
        "amount_msat": trade.base_msat,
        "description": "",
        "expiry_s": 900,
        "min_final_cltv": 100,
    }
    return encode(Draft(**{**terms, **changes}), bob.ledger._secret)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [{"payment_hash": bytes(32)}, {"amount_msat": 1_000}, {"min_final_cltv": 145}],
)
def test_a_maker_locks_only_what_was_agreed(changes: dict[str, object]) -> None:
    """Another hash, amount or a longer lock: refused, and nothing has changed."""
    world, alice, bob = scene()
    trade = unpaid(world, alice, bob)
    row = trade_of(alice, trade)
    text = invoice(bob, world, **changes)
    head = (row.trade_id, row.last_digest, world.wall_ms)
    says(bob, alice, "trade", TradeInvoice(*head, text, bob.ledger.node))
    assert alice.k.trades.by_id[row.trade_id] == row
    assert alice.ledger.balance_msat == 10**12


def test_the_same_invoice_again_is_paid_once() -> None:
    """And another one not at all."""
    world, alice, bob, trade = locked()
    row = trade_of(alice, trade)
    for text in (row.invoice, invoice(bob, world)):
        head = (row.trade_id, row.last_digest, world.wall_ms)
        effects = says(bob, alice, "trade", TradeInvoice(*head, text, bob.ledger.node))
        assert not any(isinstance(one, out.PayInvoice) for one in effects)


def test_a_payment_that_fails_gives_the_quantity_back() -> None:
    """The maker lacks the funds, and says that the trade is over; the taker cancels its invoice."""
    world, alice, bob = scene()
    alice.ledger.balance_msat = 1_000
    offered(world, alice)
    bob.command(place("buy", LOTS, settlements=("htlc",)))
    world.run(MINUTE)
    trade = only_trade(bob)
    assert states(alice, bob, trade.trade_id.hex()) == ("cancelled", "cancelled")
    assert bob.ledger.state(trade.payment_hash) == "canceled"
    assert available(alice, "asks") == [BTC]


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
    """It says "none" of a time before that."""
    _, alice, _, trade = locked()
    row = trade_of(alice, trade)
    seen = happened.PaymentSeen(row.trade_id, row.payment_hash, "none")
    effects = alice.k.handle(seen, alice.world.now())
    assert not any(isinstance(one, out.PayInvoice) for one in effects)


def test_a_call_that_may_have_happened_is_looked_up() -> None:
    """A payment that was refused for good is over at once, another one is not."""
    _, alice, _, trade = locked()
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
        world, alice, bob, trade = locked()
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
        world, alice, bob, trade = sent()
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
    world, alice, bob, trade = locked()
    row = trade_of(alice, trade)
    head = (row.trade_id, row.last_digest, world.wall_ms)
    for _ in range(2):
        effects = says(alice, bob, "trade", TradeCancelled(*head, "cancelled"))
        if any(isinstance(one, out.CancelInvoice) for one in effects):
            bob.ledger.cancel(row.payment_hash)
    assert bob.k.trades.by_id[row.trade_id].state is State.CANCELLING


def test_a_makers_word_after_the_quote_changes_nothing() -> None:
    """The quote may be on its way."""
    world, alice, bob, trade = sent()
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
    world, alice, bob, trade = locked()
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
        world, alice, bob, trade = locked()
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


def test_takers_lock_no_more_than_a_share_together() -> None:
    """Locking costs them nothing, so it is bounded."""
    world = World()
    alice = world.add("alice", max_locked_msat=LOTS * 1_000 * 3 // 2)
    bob, carol = world.meet("bob", "carol")
    world.mine(0)
    world.run(100)
    offered(world, alice)
    assert len(bob.tell(place("buy", LOTS, settlements=("htlc",)))["trades"]) == 1
    world.run(500)
    order = place("buy", LOTS, settlements=("htlc",), time_in_force="ioc")
    assert carol.tell(order)["skipped"][0]["reason"] == "above_max_held"
