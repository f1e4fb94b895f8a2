"""What the two legs of a swap are, and for how long each may be locked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from zmqex.limits import CLTV_LIMIT_BLOCKS, INVOICE_AMOUNT_MSAT_MAX, SWAP_LEG_MSAT_MIN
from zmqex.reasons import RejectReason
from zmqex.trading.swap import Leg, is_long_enough, legs, lock_limit, quote_of, why_not_amounts


def test_leg_1_is_what_the_maker_receives() -> None:
    """Exact integers, in millisatoshi of each network."""
    base, quote = Leg("BTC", 10_000_000_000), Leg("XYZ", 500_001_000)
    assert legs("buy", "BTC/XYZ", 10_000_000_000, 500_001) == (base, quote)
    assert legs("sell", "BTC/XYZ", 10_000_000_000, 500_001) == (quote, base)
    assert quote_of("BTC/XYZ") == "XYZ"


@pytest.mark.parametrize(
    ("amount_msat", "reason"),
    [
        (SWAP_LEG_MSAT_MIN - 1, RejectReason.NOTIONAL_TOO_SMALL),
        (SWAP_LEG_MSAT_MIN, None),
        (INVOICE_AMOUNT_MSAT_MAX, None),
        (INVOICE_AMOUNT_MSAT_MAX + 1, RejectReason.NOTIONAL_OVERFLOW),
    ],
)
def test_each_leg_is_neither_dust_nor_more_than_an_invoice_can_say(
    amount_msat: int, reason: RejectReason | None
) -> None:
    """Either of the two."""
    usual, odd = Leg("BTC", 10**9), Leg("XYZ", amount_msat)
    assert why_not_amounts(usual, odd) is why_not_amounts(odd, usual) is reason


@given(
    expiry=some.integers(0, 2_000),
    height=some.integers(0, 2_000),
    cancel=some.integers(0, 144),
)
def test_leg_2_ends_before_leg_1_goes_back_with_the_margin(
    expiry: int, height: int, cancel: int
) -> None:
    """The inequality of the protocol holds for every limit that is given, and none is wasted."""
    limit = lock_limit(expiry, height, cancel)
    assert expiry - (height + limit) >= cancel + 6
    assert limit <= CLTV_LIMIT_BLOCKS
    assert limit == CLTV_LIMIT_BLOCKS or expiry - (height + limit + 1) < cancel + 6


def test_a_limit_must_hold_what_the_payee_asks_for_and_what_payers_add() -> None:
    """Three blocks."""
    assert is_long_enough(43, 40)
    assert not is_long_enough(42, 40)
