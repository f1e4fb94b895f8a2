"""Reading and printing quantities, prices, totals and durations: exact, integers only.

A user's number is never rounded: what does not fit the market's lots and ticks is refused with one
sentence.  The one rounding of the exchange is here as well: a notional is rounded **up** to the
quote's minor unit, for whoever receives the quote, the seller of the base.  A trade in n fills
therefore costs at least what it would cost in one, and less than n minor units more.
Not for: currencies and their decimals (`instruments`).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from zmqex.errors import InputError
from zmqex.limits import (
    BASE_UNITS_MAX,
    DAY_MS,
    HOUR_MS,
    INTEGER_MAX,
    MINUTE_MS,
    NUMBER_TEXT_CHARS_MAX,
    ORDER_TEXT_CHARS_MAX,
    SECOND_MS,
)
from zmqex.market.instruments import Currencies, Instrument, shown
from zmqex.reasons import RejectReason

_UNIT_MS: Final = {"s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}
_MSAT_PER_SAT: Final = 1_000

# Thousands commas only in groups of three after a first group that is not zero: "0,500" is half a
# bitcoin to many people, so it is nobody's 500.
_NUMBER: Final = re.compile(r"(0|[1-9][0-9]{0,2}(?:,[0-9]{3})+|[1-9][0-9]*)(?:\.([0-9]+))?\Z")
_AMOUNT: Final = re.compile(r" *([^ A-Za-z][^ @A-Za-z]*) *([A-Za-z][A-Za-z0-9]*) *\Z")
_DURATION: Final = re.compile(r"([1-9][0-9]*)([smhd])\Z")
_EXPONENT: Final = re.compile(r" *[-+]?[0-9.,]+[eE][-+]?[0-9]")
_NOT_A_NUMBER: Final = re.compile(r" *[-+]?(?:nan|inf)", re.IGNORECASE)


class OrderTerms(NamedTuple):
    """What `1BTC@1USD` says."""

    quantity_lots: int
    instrument: Instrument
    price_ticks: int


def parse_order_text(text: str, currencies: Currencies | None = None) -> OrderTerms:
    """Read "0.5BTC@50000USD" or "1 BTC @ 50,000 USD": a quantity and a price per whole base.

    InputError, one sentence for the user, for everything that is not an order this market can
    hold exactly.
    """
    _check_text(text, ORDER_TEXT_CHARS_MAX, "an order")
    if text.count("@") != 1:
        raise _malformed(text, "an order", "1BTC@50000USD")
    quantity_text, price_text = text.split("@")
    base = _split(quantity_text, "a quantity", "0.5BTC")[1]
    quote = _split(price_text, "a price", "50000USD")[1]
    instrument = (currencies or Currencies()).instrument(f"{base}/{quote}")
    quantity_lots = parse_quantity(quantity_text, instrument)
    price_ticks = parse_price(price_text, instrument)
    reason = check_notional(quantity_lots, price_ticks, instrument)
    if reason is RejectReason.NOTIONAL_OVERFLOW:
        raise InputError(reason, f"{shown(text)} comes to more than this exchange can count")
    if reason is RejectReason.NOTIONAL_TOO_SMALL:
        unit = format_notional(1, instrument)
        raise InputError(reason, f"{shown(text)} comes to less than {unit}, the smallest payment")
    return OrderTerms(quantity_lots, instrument, price_ticks)


def parse_quantity(text: str, instrument: Instrument) -> int:
    """Read "0.4BTC" as lots, more than 0, exactly; InputError says what is wrong with it."""
    _check_text(text, ORDER_TEXT_CHARS_MAX, "a quantity")
    number, code = _split(text, "a quantity", "0.5" + instrument.base)
    _check_code(code, instrument.base, "a quantity", instrument)
    amount = _parse_number(number, RejectReason.INVALID_QUANTITY, "quantity")
    lots = _steps(amount, instrument.base_decimals, instrument.lot)
    if lots is None:
        smallest = format_quantity(1, instrument)
        msg = f"the quantity {shown(number)} is not a multiple of {smallest}, the smallest lot"
        raise InputError(RejectReason.BELOW_LOT, msg)
    if lots * instrument.lot > BASE_UNITS_MAX:
        msg = f"the quantity {shown(number)} is more than this exchange can count"
        raise InputError(RejectReason.INVALID_QUANTITY, msg)
    return lots


def parse_price(text: str, instrument: Instrument) -> int:
    """Read "50000USD", for one whole base, as ticks, more than 0, exactly; or InputError."""
    _check_text(text, ORDER_TEXT_CHARS_MAX, "a price")
    number, code = _split(text, "a price", "50000" + instrument.quote)
    _check_code(code, instrument.quote, "a price", instrument)
    amount = _parse_number(number, RejectReason.INVALID_PRICE, "price")
    ticks = _steps(amount, instrument.price_decimals, instrument.tick)
    if ticks is None:
        smallest = format_price(1, instrument)
        msg = f"the price {shown(number)} is not a multiple of {smallest}, the smallest step"
        raise InputError(RejectReason.INVALID_PRICE, msg)
    if ticks * instrument.tick > INTEGER_MAX:
        msg = f"the price {shown(number)} is more than this exchange can count"
        raise InputError(RejectReason.INVALID_PRICE, msg)
    return ticks


def parse_duration(text: str) -> int:
    """Read "30s", "15m", "24h" or "7d" as milliseconds, more than 0; or InputError."""
    _check_text(text, NUMBER_TEXT_CHARS_MAX, "a duration")
    found = _DURATION.match(text)
    if found is None:
        raise _malformed(text, "a duration", "30s, 15m, 24h or 7d")
    duration_ms = int(found[1]) * _UNIT_MS[found[2]]
    if duration_ms > INTEGER_MAX:
        msg = f"the duration {shown(text)} is longer than this exchange can count"
        raise InputError(RejectReason.MALFORMED, msg)
    return duration_ms


def format_quantity(quantity_lots: int, instrument: Instrument) -> str:
    """`0.4 BTC`: exact, without trailing zeros; `parse_quantity` reads it back."""
    text = decimal_text(quantity_lots * instrument.lot, instrument.base_decimals, trim=True)
    return f"{text} {instrument.base}"


def format_price(price_ticks: int, instrument: Instrument) -> str:
    """`50000 USD` for one whole base: exact, no trailing zeros; `parse_price` reads it back."""
    text = decimal_text(price_ticks * instrument.tick, instrument.price_decimals, trim=True)
    return f"{text} {instrument.quote}"


def format_notional(quote_units: int, instrument: Instrument) -> str:
    """`1.00 USD`: an amount in the quote's minor unit, exact, with all its decimals."""
    return f"{decimal_text(quote_units, instrument.quote_decimals)} {instrument.quote}"


def format_average_price(lot_ticks: int, quantity_lots: int, instrument: Instrument) -> str:
    """The average price of fills, to the nearest tick, halves up; for the eye, never for money."""
    return format_price((2 * lot_ticks + quantity_lots) // (2 * quantity_lots), instrument)


def decimal_text(units: int, decimals: int, *, trim: bool = False) -> str:
    """An integer count of 10^-decimals as a decimal number, exactly; `trim` drops end zeros."""
    sign, digits = ("-", -units) if units < 0 else ("", units)
    whole, part = divmod(digits, 10**decimals)
    fraction = f"{part:0{decimals}d}" if decimals else ""
    if trim:
        fraction = fraction.rstrip("0")
    return f"{sign}{whole}.{fraction}" if fraction else f"{sign}{whole}"


def notional_quote_units(quantity_lots: int, price_ticks: int, instrument: Instrument) -> int:
    """What the quantity costs, in the quote's minor unit, rounded up for the base's seller.

    More than 0 for any fill: a fill too small for the quote's minor unit costs one of it.
    """
    numerator, denominator = _exact_notional(quantity_lots, price_ticks, instrument)
    return -(-numerator // denominator)  # Up: the payer bears the fraction of a minor unit.


def check_notional(
    quantity_lots: int, price_ticks: int, instrument: Instrument
) -> RejectReason | None:
    """Why an order of this size and price cannot be counted in this market; None if it can.

    An order worth less than one minor unit of the quote is refused, since rounding would multiply
    its price; parts of a larger order may be worth less and are rounded up.
    """
    if not 0 < price_ticks * instrument.tick <= INTEGER_MAX:
        return RejectReason.INVALID_PRICE
    if not 0 < quantity_lots * instrument.lot <= BASE_UNITS_MAX:
        return RejectReason.INVALID_QUANTITY
    numerator, denominator = _exact_notional(quantity_lots, price_ticks, instrument)
    if numerator < denominator:
        return RejectReason.NOTIONAL_TOO_SMALL
    if notional_quote_units(quantity_lots, price_ticks, instrument) > INTEGER_MAX:
        return RejectReason.NOTIONAL_OVERFLOW
    return None


def dust_below(instrument: Instrument) -> int:
    """Lots times ticks of an order below which it is worth less than one unit of the quote."""
    per_lot_tick, unit = _exact_notional(1, 1, instrument)
    return -(-unit // per_lot_tick)


def base_msat(quantity_lots: int, instrument: Instrument) -> int:
    """What the Lightning payment for this quantity of BTC moves, in millisatoshi."""
    return quantity_lots * instrument.lot * _MSAT_PER_SAT


def _exact_notional(
    quantity_lots: int, price_ticks: int, instrument: Instrument
) -> tuple[int, int]:
    """The notional in minor units as an exact fraction."""
    numerator = quantity_lots * instrument.lot * price_ticks * instrument.tick
    numerator *= 10**instrument.quote_decimals
    return numerator, 10 ** (instrument.base_decimals + instrument.price_decimals)


def _check_text(text: str, chars_max: int, what: str) -> None:
    """Refuse what is too long to be looked at, or not plain ASCII."""
    if len(text) > chars_max:
        msg = f"{len(text)} characters are too many for {what}; the limit is {chars_max}"
        raise InputError(RejectReason.MALFORMED, msg)
    if not (text.isascii() and text.isprintable()):
        msg = f"{shown(text)} has characters that are not plain letters, digits and points"
        raise InputError(RejectReason.MALFORMED, msg)


def _split(text: str, what: str, example: str) -> tuple[str, str]:
    """The number and the currency of "0.5 BTC"; the number is not yet looked at closely."""
    if _EXPONENT.match(text):
        msg = f"{shown(text)} uses an exponent; write the number in full"
        raise InputError(RejectReason.MALFORMED, msg)
    if _NOT_A_NUMBER.match(text):
        raise InputError(RejectReason.MALFORMED, f"{shown(text)} is not a finite number")
    found = _AMOUNT.match(text)
    if found is None:
        raise _malformed(text, what, example)
    return found[1], found[2].upper()


def _check_code(code: str, expected: str, what: str, instrument: Instrument) -> None:
    if code != expected:
        msg = f"{what} in {instrument.symbol} is written in {expected}, not in {code}"
        raise InputError(RejectReason.WRONG_MARKET, msg)


def _parse_number(text: str, reason: RejectReason, what: str) -> tuple[int, int]:
    """Its digits as one integer, and how many of them stood behind the point; more than 0."""
    if len(text) > NUMBER_TEXT_CHARS_MAX:
        msg = f"the {what} has {len(text)} characters; the limit is {NUMBER_TEXT_CHARS_MAX}"
        raise InputError(RejectReason.MALFORMED, msg)
    if text.startswith("-"):
        raise InputError(reason, f"the {what} {shown(text)} is negative")
    found = _NUMBER.match(text)
    if found is None:
        hint = "; a comma only separates thousands" if "," in text else ""
        msg = f"{shown(text)} is not a number like 1, 0.5 or 50,000.25{hint}"
        raise InputError(RejectReason.MALFORMED, msg)
    fraction = (found[2] or "").rstrip("0")
    digits = int(found[1].replace(",", "") + fraction)
    if digits == 0:
        raise InputError(reason, f"the {what} must be more than 0")
    return digits, len(fraction)


def _steps(amount: tuple[int, int], unit_decimals: int, step: int) -> int | None:
    """How many steps of `step` units the amount is; None if it is not a whole number of them."""
    digits, decimals = amount
    if decimals > unit_decimals:
        return None
    steps, rest = divmod(digits * 10 ** (unit_decimals - decimals), step)
    return None if rest else steps


def _malformed(text: str, what: str, example: str) -> InputError:
    msg = f"{shown(text)} is not {what}; write it like {example}"
    return InputError(RejectReason.MALFORMED, msg)
