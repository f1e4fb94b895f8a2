"""Instruments: which markets exist and what their units are."""

from __future__ import annotations

import pytest

from zmqex.errors import ConfigError, InputError
from zmqex.market.instruments import Currencies, shown
from zmqex.reasons import RejectReason


def test_btc_usd_trades_satoshi_against_cents() -> None:
    """A lot is one satoshi and a tick one cent, so that a lot is 1,000 msat exactly."""
    market = Currencies().instrument("BTC/USD")
    assert (market.base, market.quote, market.symbol) == ("BTC", "USD", "BTC/USD")
    assert (market.base_decimals, market.quote_decimals, market.price_decimals) == (8, 2, 2)
    assert (market.lot, market.tick) == (1, 1)


@pytest.mark.parametrize(
    ("code", "decimals"), [("EUR", 2), ("JPY", 0), ("KWD", 3), ("CLF", 4), ("BTC", 8)]
)
def test_decimals_are_those_of_iso_4217(code: str, decimals: int) -> None:
    """Minor units come from the standard's table; BTC is ours."""
    assert Currencies().decimals(code) == decimals


@pytest.mark.parametrize(
    ("symbol", "says"),
    [
        ("USD/BTC", "the market is BTC/USD"),
        ("EUR/USD", "a market is BTC against another currency"),
        ("BTC/BTC", "a market is BTC against another currency"),
        ("BTC/XAU", "'XAU' is not known"),
        ("BTC/ZZZ", "'ZZZ' is not known"),
        ("ZZZ/BTC", "'ZZZ' is not known"),
        ("BTCUSD", "write it like BTC/USD"),
        ("btc/usd", "write it like BTC/USD"),
        ("BTC/USD\n", "write it like BTC/USD"),
        ("", "write it like BTC/USD"),
    ],
)
def test_a_wrong_market_is_refused_with_the_right_one(symbol: str, says: str) -> None:
    """Reversed, unknown and unreadable symbols each get a sentence that helps."""
    with pytest.raises(InputError, match=says) as caught:
        Currencies().instrument(symbol)
    assert caught.value.reason is RejectReason.WRONG_MARKET


def test_a_configured_currency_is_a_quote_like_any_other() -> None:
    """Extra currencies bring their decimals, none and twelve included."""
    currencies = Currencies({"USDT": 6, "POINTS": 0, "ETH": 12})
    assert currencies.instrument("BTC/USDT").quote_decimals == 6
    assert currencies.instrument("BTC/POINTS").price_decimals == 0
    assert currencies.decimals("ETH") == 12
    with pytest.raises(InputError, match="the market is BTC/USDT"):
        currencies.instrument("USDT/BTC")


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"usdt": 6}, "capital letters"),
        ({"X": 1}, "capital letters"),
        ({"ABCDEFGHIJK": 1}, "capital letters"),
        ({"BTC": 8}, "BTC is built in"),
        ({"USD": 3}, "USD is built in"),
        ({"USDT": -1}, "-1 decimals"),
        ({"USDT": 13}, "13 decimals"),
    ],
)
def test_a_wrong_configured_currency_names_itself(extra: dict[str, int], says: str) -> None:
    """The operator learns which currency is wrong, and nothing built in can be redefined."""
    with pytest.raises(ConfigError, match=says):
        Currencies(extra)


def test_gold_can_be_configured_since_iso_gives_it_no_minor_unit() -> None:
    """A code of ISO 4217 without a minor unit is open to configuration."""
    assert Currencies({"XAU": 6}).instrument("BTC/XAU").quote_decimals == 6


def test_a_text_is_shown_short_and_escaped() -> None:
    """What a stranger typed cannot move the cursor or fill the screen."""
    assert shown("\x1b[2J\u0661") == r"'\x1b[2J\u0661'"
    assert shown("1" * 40) == "'" + "1" * 40 + "'"
    assert shown("1" * 41) == "'" + "1" * 40 + "...'"
