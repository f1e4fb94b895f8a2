"""The two legs of a trade, and each reason not to pay an invoice."""

from __future__ import annotations

import hashlib

import pytest
from msgspec.structs import replace

from zmqex.bolt11 import Draft, InvoiceNetwork, encode, public_key
from zmqex.limits import INVOICE_MARGIN_MS, MIN_FINAL_CLTV_BLOCKS_MAX
from zmqex.market.instruments import Currencies
from zmqex.reasons import RejectReason
from zmqex.trading.settlement import (
    HTLC,
    MSAT_PER_SATOSHI,
    PLAIN,
    QUOTE_UNIT_MSAT,
    SWAP,
    Amounts,
    Expected,
    amounts,
    draws_preimage,
    fee_limit_msat,
    proves_payment,
    why_not_pay,
)

SECRET = b"\x07" * 32
PREIMAGE = b"\x08" * 32
MADE_S = 1_700_000_000
NOW_MS = MADE_S * 1_000
EXPIRY_S = 600
DRAFT = Draft(
    network=InvoiceNetwork.REGTEST,
    timestamp_s=MADE_S,
    payment_hash=hashlib.sha256(PREIMAGE).digest(),
    payment_secret=b"\x09" * 32,
    amount_msat=40_000_000_000,
    description="PLAY MONEY",
    expiry_s=EXPIRY_S,
    min_final_cltv=40,
)
EXPECTED = Expected("bcrt", 40_000_000_000, DRAFT.payment_hash, public_key(SECRET))


def refusal(
    now_ms: int = NOW_MS, secret: bytes = SECRET, **changes: int | bytes | InvoiceNetwork | None
) -> RejectReason | None:
    """Why an invoice is not paid that differs from the expected one in `changes`."""
    return why_not_pay(encode(replace(DRAFT, **changes), secret), EXPECTED, now_ms=now_ms)


def test_the_expected_invoice_is_paid() -> None:
    """Network, amount, hash, payee, life and lock are as signed."""
    assert refusal() is None


def test_what_is_no_invoice_is_not_paid() -> None:
    """Another text, and one that was changed after its signature."""
    good = encode(DRAFT, SECRET)
    for text in ("", "lnbcrt1", good[:-1], good[:-1] + ("q" if good[-1] != "q" else "p")):
        assert why_not_pay(text, EXPECTED, now_ms=NOW_MS) is RejectReason.INVALID_INVOICE


OTHER_NETWORKS = [one for one in InvoiceNetwork if one is not InvoiceNetwork.REGTEST]


@pytest.mark.parametrize("network", OTHER_NETWORKS, ids=str)
def test_an_invoice_of_another_network_is_not_paid(network: InvoiceNetwork) -> None:
    """Play money never pays a real invoice."""
    assert refusal(network=network) is RejectReason.WRONG_INVOICE_NETWORK


@pytest.mark.parametrize("amount_msat", [39_999_999_999, 40_000_000_001])
def test_an_invoice_for_another_amount_is_not_paid(amount_msat: int) -> None:
    """Exact to the millisatoshi, in both directions."""
    assert refusal(amount_msat=amount_msat) is RejectReason.WRONG_INVOICE_AMOUNT


def test_an_invoice_without_amount_is_not_paid() -> None:
    """It would let the payee name one later."""
    assert refusal(amount_msat=None) is RejectReason.WRONG_INVOICE_AMOUNT


def test_an_invoice_on_another_hash_is_not_paid() -> None:
    """Its preimage would prove another trade's payment."""
    assert refusal(payment_hash=bytes(32)) is RejectReason.WRONG_PAYMENT_HASH


def test_an_invoice_of_another_payee_is_not_paid() -> None:
    """The payee is the node key that the other party has signed."""
    assert refusal(secret=b"\x0a" * 32) is RejectReason.WRONG_PAYEE


def test_an_invoice_that_has_ended_is_not_paid() -> None:
    """From the very millisecond of its end."""
    end_ms = NOW_MS + EXPIRY_S * 1_000
    assert refusal(now_ms=end_ms) is RejectReason.INVOICE_EXPIRED
    assert refusal(now_ms=end_ms - 1) is RejectReason.INVOICE_EXPIRES_TOO_SOON


def test_an_invoice_that_ends_too_soon_is_not_paid() -> None:
    """The margin for skew and path finding must be left over, to the millisecond."""
    last_ms = NOW_MS + EXPIRY_S * 1_000 - INVOICE_MARGIN_MS
    assert refusal(now_ms=last_ms) is RejectReason.INVOICE_EXPIRES_TOO_SOON
    assert refusal(now_ms=last_ms - 1) is None


def test_an_invoice_that_locks_for_too_long_is_not_paid() -> None:
    """More final blocks than a day's lock our money at the payee's will."""
    most = MIN_FINAL_CLTV_BLOCKS_MAX
    assert refusal(min_final_cltv=most) is None
    assert refusal(min_final_cltv=most + 1) is RejectReason.CLTV_TOO_LONG


def test_the_first_reason_is_given_where_several_apply() -> None:
    """Network before amount before hash: the same word on every node."""
    assert refusal(amount_msat=1, payment_hash=bytes(32)) is RejectReason.WRONG_INVOICE_AMOUNT
    late = refusal(now_ms=2 * NOW_MS, secret=b"\x0a" * 32, payment_hash=bytes(32))
    assert late is RejectReason.WRONG_PAYMENT_HASH


def test_both_legs_follow_from_one_quantity() -> None:
    """0.4 BTC at 1,000.00 USD: 40 million satoshi, and 400.00 USD in cents."""
    instrument = Currencies().instrument("BTC/USD")
    assert amounts(instrument, 40_000_000, 100_000) == Amounts(40_000_000_000, 40_000)


def test_the_quote_is_rounded_up_for_the_seller() -> None:
    """One satoshi is never free, and a fraction of a cent is a cent."""
    instrument = Currencies().instrument("BTC/USD")
    assert amounts(instrument, 1, 100) == Amounts(1_000, 1)
    assert amounts(instrument, 100_000_001, 100) == Amounts(100_000_001_000, 101)
    assert amounts(instrument, 100_000_000, 100) == Amounts(100_000_000_000, 100)


def test_a_currency_without_cents_is_counted_whole() -> None:
    """The yen has no minor unit: 0.5 BTC at 3 yen is 2 yen."""
    instrument = Currencies().instrument("BTC/JPY")
    assert amounts(instrument, 50_000_000, 3) == Amounts(50_000_000_000, 2)


def test_routing_costs_half_a_percent_at_most() -> None:
    """Rounded down, but small payments may cost 10 satoshi."""
    assert fee_limit_msat(40_000_000_000) == 200_000_000
    assert fee_limit_msat(2_000_399) == 10_001
    assert fee_limit_msat(2_000_000) == 10_000
    assert fee_limit_msat(1) == 10_000


def test_only_the_preimage_proves_a_payment() -> None:
    """SHA-256 of it is the hash that was paid."""
    assert proves_payment(PREIMAGE, DRAFT.payment_hash)
    assert not proves_payment(PREIMAGE[::-1] + b"x", DRAFT.payment_hash)
    assert not proves_payment(b"", DRAFT.payment_hash)


def test_lots_that_are_more_than_one_unit_are_paid_for_in_full() -> None:
    """7 lots of 1,000 satoshi are 7,000,000 msat."""
    market = replace(Currencies().instrument("BTC/USD"), lot=1_000)
    assert amounts(market, 7, 6_500_000).base_msat == 7_000_000


def test_the_words_for_a_settlement_are_those_of_the_wire() -> None:
    """They stand in signed takes."""
    assert (PLAIN, HTLC, SWAP) == ("plain", "htlc", "swap")


def test_who_draws_the_preimage_decides_when_the_base_goes_over() -> None:
    """The payee of an ordinary invoice, the payer of a lock, the taker of a swap."""
    found = {
        (settlement, side, takes)
        for settlement in (PLAIN, HTLC, SWAP)
        for side in ("buy", "sell")
        for takes in (False, True)
        if draws_preimage(settlement, side, takes=takes) is True
    }
    plain = {(PLAIN, "buy", takes) for takes in (False, True)}
    lock = {(HTLC, "sell", takes) for takes in (False, True)}
    assert found == plain | lock | {(SWAP, side, True) for side in ("buy", "sell")}


def test_the_smallest_unit_of_a_quote_on_lightning_is_a_satoshi() -> None:
    """As of the base."""
    assert QUOTE_UNIT_MSAT == MSAT_PER_SATOSHI == 1_000
