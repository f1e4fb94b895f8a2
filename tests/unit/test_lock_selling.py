"""A maker that sells by `htlc` draws the preimage; the taker makes the invoice and may leave."""

from __future__ import annotations

import pytest

from tests.stories import BTC, available, check_quiet, holds, only_trade, place, trade_of
from tests.unit.lock_stories import (
    LOTS,
    is_disputed,
    offered,
    scene,
    shorten,
    sold,
    sold_and_sent,
    states,
    unpaid,
)
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
from zmqex.protocol.messages import TradeInvoice

MINUTE = 60_000


def test_a_selling_maker_locks_and_releases() -> None:
    """Its hash is in the accept; the buyer has nothing before the release."""
    world, alice, bob, trade = sold_and_sent()
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
    world, alice, bob, trade = sold()

    def turns() -> list[tuple[str, str]]:
        rows = [node.tell(ListTrades())["trades"][0] for node in (alice, bob)]
        return [(one["turn"], one["next_command"].rpartition(" ")[0]) for one in rows]

    assert turns() == [("them", ""), ("you", "trade send")]
    bob.tell(SentTrade(trade))
    world.run(4_000)
    assert turns() == [("you", "trade release"), ("them", "")]


def test_a_taker_that_leaves_cancels_its_invoice_first() -> None:
    """What is locked goes back, then the take is off; the maker has its quantity again."""
    world, alice, bob, trade = sold()
    bob.tell(CancelTrade(trade))
    world.run(MINUTE)
    assert states(alice, bob, trade) == ("cancelled", "cancelled")
    assert available(alice, "asks") == [BTC]
    assert alice.ledger.balance_msat == 10**12
    check_quiet(world)


def test_a_taker_leaves_before_anything_is_sold() -> None:
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
    world, alice, bob, trade = sold()
    world.run(HTLC_SEND_MS + 2 * MINUTE)
    assert states(alice, bob, trade) == ("cancelled", "cancelled")
    assert available(alice, "asks") == [BTC]


def test_a_lock_that_goes_back_before_the_quote_ends_the_trade() -> None:
    """The chain was faster than the buyer."""
    world, alice, bob, trade = sold()
    shorten(world, bob, trade, 10)
    world.run(2 * MINUTE)
    assert states(alice, bob, trade) == ("cancelled", "cancelled")
    assert available(alice, "asks") == [BTC]


def test_a_lock_that_the_backend_gave_back_early_is_lost() -> None:
    """Nothing was sent: the buyer gets out."""
    world, alice, bob, trade = sold()
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
    world, alice, bob, trade = sold_and_sent()
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


def test_a_maker_cannot_take_back_what_it_has_sold() -> None:
    """Only Lightning ends it, or the buyer."""
    _, alice, _, trade = sold()
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
    world, alice, bob, trade = sold()
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
