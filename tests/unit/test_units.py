"""Reading what people type: exact, or one sentence and one word that say what is wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from zmqex.errors import InputError
from zmqex.limits import BASE_UNITS_MAX, INTEGER_MAX
from zmqex.market.instruments import Currencies, Instrument
from zmqex.market.units import (
    base_msat,
    check_notional,
    decimal_text,
    format_average_price,
    format_notional,
    format_price,
    format_quantity,
    notional_quote_units,
    parse_duration,
    parse_order_text,
    parse_price,
    parse_quantity,
)
from zmqex.reasons import RejectReason

BTC_USD = Currencies().instrument("BTC/USD")
BTC_JPY = Currencies().instrument("BTC/JPY")
# A market in hundreds of satoshi and steps of half a dollar.
COARSE = Instrument("BTC/USD", "BTC", "USD", 8, 2, 2, lot=100, tick=50)


def of_btc_usd(read: Callable[[str, Instrument], int]) -> Callable[[str], int]:
    """A reader of numbers of one market."""
    return lambda text: read(text, BTC_USD)


@pytest.mark.parametrize(
    ("text", "lots", "ticks"),
    [
        ("1BTC@1USD", 100_000_000, 100),
        ("0.5BTC@50000USD", 50_000_000, 5_000_000),
        ("1 BTC @ 50,000 USD", 100_000_000, 5_000_000),
        ("  1  BTC  @  50,000.25  USD  ", 100_000_000, 5_000_025),
        ("1btc@1usd", 100_000_000, 100),
        ("1,234,567.00000001BTC@0.01USD", 123_456_700_000_001, 1),
        ("0.4000000000000BTC@1.000USD", 40_000_000, 100),
        ("0.00000001BTC@1000000USD", 1, 100_000_000),
    ],
)
def test_an_order_is_read_exactly(text: str, lots: int, ticks: int) -> None:
    """With and without spaces, commas and end zeros."""
    assert parse_order_text(text) == (lots, BTC_USD, ticks)


@pytest.mark.parametrize(
    ("text", "reason", "says"),
    [
        ("0BTC@1USD", "invalid_quantity", "the quantity must be more than 0"),
        ("0.000BTC@1USD", "invalid_quantity", "the quantity must be more than 0"),
        ("-1BTC@1USD", "invalid_quantity", "the quantity '-1' is negative"),
        ("1BTC@0USD", "invalid_price", "the price must be more than 0"),
        ("1BTC@-5USD", "invalid_price", "the price '-5' is negative"),
        ("NaNBTC@1USD", "malformed", "'NaNBTC' is not a finite number"),
        ("nan BTC@1USD", "malformed", "is not a finite number"),
        ("1BTC@infUSD", "malformed", "is not a finite number"),
        ("1e3BTC@1USD", "malformed", "'1e3BTC' uses an exponent; write the number in full"),
        ("1E3@1USD", "malformed", "uses an exponent"),
        ("1BTC@-1.5e+3USD", "malformed", "uses an exponent"),
        ("1,5BTC@1USD", "malformed", "a comma only separates thousands"),
        ("1,5000BTC@1USD", "malformed", "a comma only separates thousands"),
        ("1000,000BTC@1USD", "malformed", "a comma only separates thousands"),
        ("0,500BTC@1USD", "malformed", "a comma only separates thousands"),
        (",500BTC@1USD", "malformed", "a comma only separates thousands"),
        ("0.5,00BTC@1USD", "malformed", "a comma only separates thousands"),
        ("01BTC@1USD", "malformed", "is not a number like"),
        ("+1BTC@1USD", "malformed", "is not a number like"),
        (".5BTC@1USD", "malformed", "is not a number like"),
        ("1.BTC@1USD", "malformed", "is not a number like"),
        ("1.2.3BTC@1USD", "malformed", "is not a number like"),
        ("1_000BTC@1USD", "malformed", "is not a number like"),
        ("$1BTC@1USD", "malformed", "is not a number like"),
        ("0.000000001BTC@1USD", "below_lot", "not a multiple of 0.00000001 BTC"),
        # As a float it would be a whole number of lots.
        ("91000000.000000001BTC@1USD", "below_lot", "not a multiple of 0.00000001 BTC"),
        ("1.000000001BTC@1USD", "below_lot", "not a multiple of 0.00000001 BTC"),
        ("1BTC@1.001USD", "invalid_price", "not a multiple of 0.01 USD"),
        ("1BTC@0.5JPY", "invalid_price", "not a multiple of 1 JPY"),
        ("0.00000001BTC@1USD", "notional_too_small", "comes to less than 0.01 USD"),
        ("99999999999999BTC@1USD", "invalid_quantity", "more than this exchange can count"),
        ("1BTC@99999999999999999999USD", "invalid_price", "more than this exchange can count"),
        ("90000000BTC@9999999999999USD", "notional_overflow", "more than this exchange can"),
        ("1USD@1BTC", "wrong_market", "the market is BTC/USD"),
        ("1BTC@1ZZZ", "wrong_market", "'ZZZ' is not known"),
        ("1BTC@1BTC", "wrong_market", "BTC against another currency"),
        ("1" * 41 + "BTC@1USD", "malformed", "41 characters; the limit is 40"),
        ("1BTC@" + "1" * 41 + "USD", "malformed", "41 characters; the limit is 40"),
        ("1" * 121, "malformed", "121 characters are too many"),
        ("\u0661BTC@1USD", "malformed", "not plain letters"),
        ("1BTC@1USD\n", "malformed", "not plain letters"),
        ("1\x1b[2JBTC@1USD", "malformed", "not plain letters"),
        ("1\u00a0BTC@1USD", "malformed", "not plain letters"),
        ("", "malformed", "write it like 1BTC@50000USD"),
        ("1BTC", "malformed", "write it like 1BTC@50000USD"),
        ("1BTC@1USD@1", "malformed", "write it like 1BTC@50000USD"),
        ("1@1USD", "malformed", "write it like 0.5BTC"),
        ("BTC@1USD", "malformed", "write it like 0.5BTC"),
        ("1 2BTC@1USD", "malformed", "write it like 0.5BTC"),
        ("1BTC@USD", "malformed", "write it like 50000USD"),
        ("1BTC@1USD per BTC", "malformed", "write it like 50000USD"),
    ],
)
def test_each_bad_order_gets_one_sentence_and_its_word(text: str, reason: str, says: str) -> None:
    """One line, no full stop, no raw control character; nothing is ever guessed or rounded."""
    with pytest.raises(InputError) as caught:
        parse_order_text(text)
    message = str(caught.value)
    assert says in message
    assert caught.value.reason == reason
    assert message.isprintable()
    assert message.isascii()


LONG = "1" * 121
NO_NUMBER = "is not a number like 1, 0.5 or 50,000.25"


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (parse_order_text, "1BTC", "'1BTC' is not an order; write it like 1BTC@50000USD"),
        (parse_order_text, LONG, "121 characters are too many for an order; the limit is 120"),
        (parse_order_text, "1@1USD", "'1' is not a quantity; write it like 0.5BTC"),
        (parse_order_text, "1BTC@1", "'1' is not a price; write it like 50000USD"),
        (of_btc_usd(parse_quantity), "1", "'1' is not a quantity; write it like 0.5BTC"),
        (
            of_btc_usd(parse_quantity),
            LONG,
            "121 characters are too many for a quantity; the limit is 120",
        ),
        (of_btc_usd(parse_price), "1", "'1' is not a price; write it like 50000USD"),
        (
            of_btc_usd(parse_price),
            LONG,
            "121 characters are too many for a price; the limit is 120",
        ),
        (of_btc_usd(parse_quantity), "$1BTC", f"'$1' {NO_NUMBER}"),
        (
            of_btc_usd(parse_price),
            "1,5USD",
            f"'1,5' {NO_NUMBER}; a comma only separates thousands",
        ),
        (parse_duration, "1w", "'1w' is not a duration; write it like 30s, 15m, 24h or 7d"),
        (parse_duration, "1" * 41, "41 characters are too many for a duration; the limit is 40"),
    ],
)
def test_each_reader_says_what_it_reads(
    read: Callable[[str], object], text: str, message: str
) -> None:
    """The sentence names the thing and shows one that is right."""
    with pytest.raises(InputError) as caught:
        read(text)
    assert str(caught.value) == message


def test_the_largest_numbers_are_read_and_one_more_is_not() -> None:
    """The bounds are reached exactly: msat and prices fit 63 bits."""
    top = format_quantity(BASE_UNITS_MAX, BTC_USD)
    assert parse_quantity(top, BTC_USD) == BASE_UNITS_MAX
    assert base_msat(BASE_UNITS_MAX, BTC_USD) <= INTEGER_MAX
    with pytest.raises(InputError, match="more than this exchange can count"):
        parse_quantity(format_quantity(BASE_UNITS_MAX + 1, BTC_USD), BTC_USD)
    assert parse_price(format_price(INTEGER_MAX, BTC_USD), BTC_USD) == INTEGER_MAX
    with pytest.raises(InputError, match="more than this exchange can count"):
        parse_price(format_price(INTEGER_MAX + 1, BTC_USD), BTC_USD)
    lots, ticks = BASE_UNITS_MAX // COARSE.lot, INTEGER_MAX // COARSE.tick
    assert parse_quantity(format_quantity(lots, COARSE), COARSE) == lots
    assert parse_price(format_price(ticks, COARSE), COARSE) == ticks
    with pytest.raises(InputError, match="more than this exchange can count"):
        parse_quantity(format_quantity(lots + 1, COARSE), COARSE)
    with pytest.raises(InputError, match="more than this exchange can count"):
        parse_price(format_price(ticks + 1, COARSE), COARSE)


def test_a_quantity_or_price_in_the_wrong_currency_says_the_right_one() -> None:
    """A minimum in dollars is refused, not converted."""
    with pytest.raises(InputError, match="a quantity in BTC/USD is written in BTC, not in USD"):
        parse_quantity("5USD", BTC_USD)
    with pytest.raises(InputError, match="a price in BTC/USD is written in USD, not in EUR") as why:
        parse_price("5EUR", BTC_USD)
    assert why.value.reason is RejectReason.WRONG_MARKET


def test_the_longest_texts_are_read() -> None:
    """An order of 120 characters, a number of 40."""
    number = "1." + "0" * 38
    text = f"{number}BTC@{number}USD"
    assert parse_order_text(text.ljust(120)).quantity_lots == 100_000_000
    with pytest.raises(InputError, match="121 characters"):
        parse_order_text(text.ljust(121))


def test_a_coarse_market_takes_only_its_multiples() -> None:
    """Lots of 100 satoshi, ticks of 50 cents."""
    assert parse_quantity("0.000001BTC", COARSE) == 1
    assert parse_price("1.5USD", COARSE) == 3
    with pytest.raises(InputError, match=r"not a multiple of 0\.000001 BTC"):
        parse_quantity("0.00000101BTC", COARSE)
    with pytest.raises(InputError, match=r"not a multiple of 0\.5 USD"):
        parse_price("1.25USD", COARSE)
    assert (format_quantity(15, COARSE), format_price(3, COARSE)) == ("0.000015 BTC", "1.5 USD")
    assert base_msat(3, COARSE) == 300_000
    # 0.01 BTC at 1.50 USD: exactly one and a half cents, so two.
    assert notional_quote_units(10_000, 3, COARSE) == 2


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [("30s", 30_000), ("15m", 900_000), ("24h", 86_400_000), ("7d", 604_800_000)],
)
def test_durations_are_whole_numbers_of_one_unit(text: str, duration_ms: int) -> None:
    """Seconds, minutes, hours and days."""
    assert parse_duration(text) == duration_ms


@pytest.mark.parametrize(
    "text",
    ["", "0s", "-1h", "1", "h", "1.5h", "1w", "1 h", "1h30m", "1H", "\u0661h", "9" * 39 + "d"],
)
def test_other_durations_are_refused(text: str) -> None:
    """Zero, fractions, unknown and mixed units, and what no clock could count."""
    with pytest.raises(InputError) as caught:
        parse_duration(text)
    assert caught.value.reason is RejectReason.MALFORMED


def test_amounts_are_printed_exactly() -> None:
    """As the echo of an order prints them."""
    assert format_quantity(100_000_000, BTC_USD) == "1 BTC"
    assert format_quantity(1, BTC_USD) == "0.00000001 BTC"
    assert format_price(100, BTC_USD) == "1 USD"
    assert format_notional(100, BTC_USD) == "1.00 USD"
    assert format_notional(7, BTC_JPY) == "7 JPY"
    assert decimal_text(-5, 2) == "-0.05"
    assert decimal_text(0, 8, trim=True) == "0"
    assert decimal_text(1_000, 0, trim=True) == "1000"


def test_an_average_price_is_shown_to_the_nearest_tick() -> None:
    """Halves go up; it is for the eye only."""
    assert format_average_price(2 * 100 + 1 * 101, 3, BTC_USD) == "1 USD"
    assert format_average_price(100 + 101, 2, BTC_USD) == "1.01 USD"


@pytest.mark.parametrize(
    ("lots", "ticks", "units"),
    [
        (100_000_000, 100, 100),
        (40_000_000, 100, 40),
        (1, 1, 1),
        (50_000_001, 100, 51),
        (49_999_999, 100, 50),
        (50_000_000, 100, 50),
    ],
)
def test_a_notional_is_rounded_up_for_the_seller_of_the_base(
    lots: int, ticks: int, units: int
) -> None:
    """Exact amounts stay; any fraction of a cent becomes a whole one."""
    assert notional_quote_units(lots, ticks, BTC_USD) == units


def test_an_order_must_be_worth_a_minor_unit_and_fit_63_bits() -> None:
    """Just enough is enough, and the greatest notional is reached exactly."""
    assert check_notional(1, 100_000_000, BTC_USD) is None
    assert check_notional(1, 99_999_999, BTC_USD) is RejectReason.NOTIONAL_TOO_SMALL
    assert check_notional(100_000_000, INTEGER_MAX, BTC_USD) is None
    overflow = check_notional(100_000_001, INTEGER_MAX, BTC_USD)
    assert overflow is RejectReason.NOTIONAL_OVERFLOW
    assert check_notional(0, 1, BTC_USD) is RejectReason.INVALID_QUANTITY
    assert check_notional(BASE_UNITS_MAX + 1, 1, BTC_USD) is RejectReason.INVALID_QUANTITY
    assert check_notional(1, 0, BTC_USD) is RejectReason.INVALID_PRICE
    assert check_notional(1, INTEGER_MAX + 1, BTC_USD) is RejectReason.INVALID_PRICE
    assert check_notional(BASE_UNITS_MAX, 1, BTC_USD) is None
    lots, ticks = BASE_UNITS_MAX // COARSE.lot, INTEGER_MAX // COARSE.tick
    assert check_notional(lots, 1, COARSE) is None
    assert check_notional(1, ticks, COARSE) is None
    assert check_notional(lots + 1, 1, COARSE) is RejectReason.INVALID_QUANTITY
    assert check_notional(1, ticks + 1, COARSE) is RejectReason.INVALID_PRICE
