"""An order's own terms, before any book is asked."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from zmqex.limits import INTEGER_MAX, ORDER_LIFE_MAX_MS
from zmqex.market.orders import IncomingOrder, OrderFlags, Side, TimeInForce, check_terms
from zmqex.reasons import RejectReason

NOW_MS = 1_000
ORDER = IncomingOrder(
    owner=b"o" * 32, side=Side.BUY, price_ticks=1, quantity_lots=1, expires_at_ms=NOW_MS + 1
)


def test_each_side_trades_with_the_other() -> None:
    """Buying meets selling."""
    assert Side.BUY.opposite is Side.SELL
    assert Side.SELL.opposite is Side.BUY


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"price_ticks": INTEGER_MAX, "quantity_lots": INTEGER_MAX, "minimum_lots": INTEGER_MAX},
        {"expires_at_ms": NOW_MS + ORDER_LIFE_MAX_MS},
        {"time_in_force": TimeInForce.GTD, "post_only": True, "flags": 3},
        {"time_in_force": TimeInForce.IOC, "expires_at_ms": 0},
        {"time_in_force": TimeInForce.FOK, "expires_at_ms": 0, "flags": OrderFlags.ALL_OR_NONE},
    ],
)
def test_sound_terms_are_accepted(changes: dict[str, Any]) -> None:
    """The outermost allowed values are allowed."""
    assert check_terms(msgspec.structs.replace(ORDER, **changes), NOW_MS) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"price_ticks": 0}, RejectReason.INVALID_PRICE),
        ({"price_ticks": INTEGER_MAX + 1}, RejectReason.INVALID_PRICE),
        ({"quantity_lots": 0}, RejectReason.INVALID_QUANTITY),
        ({"quantity_lots": INTEGER_MAX + 1}, RejectReason.INVALID_QUANTITY),
        ({"minimum_lots": 0}, RejectReason.INVALID_QUANTITY),
        ({"minimum_lots": 2}, RejectReason.MINIMUM_ABOVE_QUANTITY),
        ({"flags": 4}, RejectReason.CONTRADICTORY_FLAGS),
        ({"flags": -1}, RejectReason.CONTRADICTORY_FLAGS),
        ({"post_only": True, "time_in_force": TimeInForce.IOC}, RejectReason.CONTRADICTORY_FLAGS),
        ({"post_only": True, "time_in_force": TimeInForce.FOK}, RejectReason.CONTRADICTORY_FLAGS),
        ({"expires_at_ms": NOW_MS}, RejectReason.EXPIRED),
        ({"expires_at_ms": NOW_MS + ORDER_LIFE_MAX_MS + 1}, RejectReason.EXPIRY_TOO_FAR),
        # What is right is not blamed for what is wrong beside it.
        ({"price_ticks": INTEGER_MAX, "quantity_lots": 0}, RejectReason.INVALID_QUANTITY),
        ({"quantity_lots": INTEGER_MAX, "expires_at_ms": NOW_MS}, RejectReason.EXPIRED),
        ({"post_only": True, "expires_at_ms": NOW_MS}, RejectReason.EXPIRED),
        ({"time_in_force": TimeInForce.IOC, "flags": 4}, RejectReason.CONTRADICTORY_FLAGS),
    ],
)
def test_each_wrong_term_has_its_word(changes: dict[str, Any], reason: RejectReason) -> None:
    """One step beyond each bound is refused."""
    assert check_terms(msgspec.structs.replace(ORDER, **changes), NOW_MS) is reason


def test_the_words_and_numbers_are_those_of_the_wire() -> None:
    """Signed orders carry them: another one would be another order, or none."""
    assert [one.value for one in Side] == ["buy", "sell"]
    assert [one.value for one in TimeInForce] == ["gtc", "gtd", "ioc", "fok"]
    flags = OrderFlags.NONE, OrderFlags.ALL_OR_NONE, OrderFlags.CANCEL_ON_DISCONNECT
    assert tuple(map(int, flags)) == (0, 1, 2)
