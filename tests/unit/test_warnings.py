"""What is said before a command of a trade: of every way to settle, true, and with the amounts."""

from __future__ import annotations

from typing import Any

import pytest

from zmqex.cli import trades
from zmqex.market.instruments import Currencies
from zmqex.trading.tables import TABLES

INSTRUMENT = Currencies().instrument("BTC/USD")


def said(text: str, settlement: str, role: str, side: str) -> str:
    """The words before a command."""
    trade: dict[str, Any] = {"settlement": settlement, "role": role, "side": side}
    return trades.warning(text, {**trade, "quote_units": 500, "base_msat": 10**11}, INSTRUMENT)


@pytest.mark.parametrize("way", sorted(TABLES))
def test_every_dispute_ends_with_words_about_what_can_be_lost(way: tuple[str, Any, str]) -> None:
    """Both ends, whatever it is settled by; each amount is named."""
    settlement, role, side = way
    for text in trades._RESOLVED.values():
        words = said(text, settlement, role.value, side)
        assert "5.00 USD" in words
        assert "1 BTC" in words
        assert "cannot be taken back" in words
        assert not set("{}") & set(words)


@pytest.mark.parametrize("text", list(trades._RESOLVED.values()))
def test_a_buyer_by_lock_is_told_that_it_gives_the_lock_up(text: str) -> None:
    """Resolving cancels its invoice: the seller has the base again, and a release is too late."""
    assert "goes back to the seller now" in said(text, "htlc", "maker", "buy")
    assert "goes back" not in said(text, "htlc", "taker", "sell")
    assert "goes back" not in said(text, "plain", "maker", "buy")


@pytest.mark.parametrize(
    ("command", "settlement", "asked"),
    [
        ("send", "htlc", True),
        ("sent", "htlc", True),
        ("sent", "plain", True),
        ("received", "plain", True),
        ("rollover", "htlc", True),
        ("send", "plain", False),
        ("sent", "swap", False),
        ("received", "swap", False),
        ("It has gone wrong.  {lost}", "plain", True),
        ("It has gone wrong.  {lost}", "swap", False),
    ],
)
def test_what_a_node_refuses_anyway_is_not_asked_about(
    command: str,
    settlement: str,
    asked: bool,  # noqa: FBT001
) -> None:
    """A swap has no quote leg to say a word of, and no lock of a plain trade is asked for."""
    assert bool(said(command, settlement, "maker", "buy")) is asked


def test_a_rollover_says_that_nothing_can_make_the_seller_pay() -> None:
    """And that it is no way to ask for what was never paid for."""
    words = said("rollover", "htlc", "taker", "buy")
    assert "you have sent 5.00 USD" in words
    assert "a fresh invoice over 1 BTC" in words
    assert "Nothing can make it pay" in words
    assert "If you have sent nothing, do not ask" in words
