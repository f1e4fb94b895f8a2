"""Units over all numbers: what is printed is read back, and rounding stays within its promise."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction

from hypothesis import assume, given
from hypothesis import strategies as st

from zmqex.errors import InputError
from zmqex.limits import BASE_UNITS_MAX, INTEGER_MAX
from zmqex.market.instruments import Currencies, Instrument
from zmqex.market.units import (
    OrderTerms,
    check_notional,
    decimal_text,
    dust_below,
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

CURRENCIES = Currencies({"WEI": 12, "POINTS": 0})
instruments = st.sampled_from(["USD", "JPY", "KWD", "CLF", "WEI", "POINTS"]).map(
    lambda quote: CURRENCIES.instrument(f"BTC/{quote}")
)
quantities = st.integers(1, BASE_UNITS_MAX)
prices = st.integers(1, INTEGER_MAX)
small = st.integers(1, 10**12)


@given(instruments, quantities)
def test_every_quantity_that_is_printed_is_read_back(market: Instrument, lots: int) -> None:
    """Parsing is the inverse of formatting, with and without the space."""
    text = format_quantity(lots, market)
    assert parse_quantity(text, market) == lots
    assert parse_quantity(text.replace(" ", ""), market) == lots


@given(instruments, prices)
def test_every_price_that_is_printed_is_read_back(market: Instrument, ticks: int) -> None:
    """The same for prices."""
    assert parse_price(format_price(ticks, market), market) == ticks


@given(market=instruments, lots=small, ticks=small, commas=st.booleans())
def test_every_order_that_is_printed_is_read_back(
    market: Instrument, lots: int, ticks: int, *, commas: bool
) -> None:
    """An order's text says the same with thousands commas as without."""
    assume(check_notional(lots, ticks, market) is None)
    text = f"{format_quantity(lots, market)}@{format_price(ticks, market)}"
    if commas:
        words = text.replace("@", " @ ").split()
        text = " ".join(
            f"{int(word.partition('.')[0]):,}{word.partition('.')[1]}{word.partition('.')[2]}"
            if word[0].isdigit()
            else word
            for word in words
        )
    assert parse_order_text(text, CURRENCIES) == (lots, market, ticks)


@given(market=instruments, lots=small, off=st.integers(-1, 1))
def test_dust_is_exactly_what_is_too_small_to_be_placed(
    market: Instrument, lots: int, off: int
) -> None:
    """Of lots times ticks, at the border and beside it."""
    ticks = max(dust_below(market) // lots + off, 1)
    dust = lots * ticks < dust_below(market)
    assert dust == (check_notional(lots, ticks, market) is RejectReason.NOTIONAL_TOO_SMALL)


@given(st.text(max_size=130))
def test_no_text_gets_past_the_parsers_unread(text: str) -> None:
    """Whatever is typed is an exact order or an InputError, never another exception."""
    read: OrderTerms | InputError
    try:
        read = parse_order_text(text)
    except InputError as error:
        read = error
    if isinstance(read, InputError):
        assert str(read).isprintable()
    else:
        assert check_notional(read.quantity_lots, read.price_ticks, read.instrument) is None


@given(
    st.text(alphabet="0123456789.,- eE+", max_size=45),
    st.sampled_from(["BTC", " BTC", "btc", "USD", ""]),
)
def test_a_number_is_read_as_python_reads_the_decimal_or_refused(number: str, code: str) -> None:
    """Where the parser accepts, its value is that of the plain decimal."""
    market = CURRENCIES.instrument("BTC/USD")
    try:
        lots = parse_quantity(number + code, market)
    except InputError:
        return
    with localcontext(prec=100):
        assert Decimal(number.replace(",", "").strip()) * 10**8 == lots


@given(st.text(max_size=45))
def test_no_text_gets_past_the_duration_unread(text: str) -> None:
    """A positive number of milliseconds or an InputError."""
    try:
        duration_ms = parse_duration(text)
    except InputError:
        return
    assert 0 < duration_ms <= INTEGER_MAX


@given(instruments, quantities, prices)
def test_a_notional_is_the_exact_product_rounded_up(
    market: Instrument, lots: int, ticks: int
) -> None:
    """Against fractions: never less than exact, and less than one minor unit more."""
    exact = (
        Fraction(lots, 10**market.base_decimals)
        * Fraction(ticks, 10**market.price_decimals)
        * 10**market.quote_decimals
    )
    assert 0 <= notional_quote_units(lots, ticks, market) - exact < 1


@given(instruments, st.lists(small, min_size=1, max_size=8), small)
def test_filling_in_parts_costs_less_than_a_minor_unit_more_per_part(
    market: Instrument, parts: list[int], ticks: int
) -> None:
    """The seller never gets less for parts than for the whole, and the buyer's loss is bounded."""
    whole = notional_quote_units(sum(parts), ticks, market)
    in_parts = sum(notional_quote_units(part, ticks, market) for part in parts)
    assert 0 <= in_parts - whole < len(parts)


@given(units=st.integers(-(10**30), 10**30), decimals=st.integers(0, 12), trim=st.booleans())
def test_a_printed_amount_is_exactly_its_integer(units: int, decimals: int, *, trim: bool) -> None:
    """Decimal reads back the same number; trimming drops nothing but end zeros."""
    text = decimal_text(units, decimals, trim=trim)
    with localcontext(prec=100):
        assert Decimal(text) * 10**decimals == units
    assert not (trim and "." in text and text.endswith(("0", ".")))


@given(instruments, st.integers(0, INTEGER_MAX))
def test_a_printed_notional_has_all_its_decimals(market: Instrument, units: int) -> None:
    """Money always shows its minor unit."""
    number = format_notional(units, market).split()[0]
    assert len(number.partition(".")[2]) == market.quote_decimals
