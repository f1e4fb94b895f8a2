"""Which markets exist, and the integer units that they trade in.

The base is what Lightning settles: BTC.  The quote is any currency of ISO 4217 that has a minor
unit, or one that the operator configures.  A market's units follow from its symbol alone, so that
two nodes never disagree about them.  Not for: reading or printing numbers (`units`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Final

import iso4217
import msgspec

from zmqex.errors import ConfigError, InputError
from zmqex.reasons import RejectReason

BASE: Final = "BTC"
BASE_DECIMALS: Final = 8
# No currency in use has more (ether); more digits than INTEGER_MAX would leave no room for amounts.
DECIMALS_MAX: Final = 12
_CODE: Final = re.compile(r"[A-Z][A-Z0-9]{1,9}\Z")
_SYMBOL: Final = re.compile(r"([A-Z][A-Z0-9]{1,9})/([A-Z][A-Z0-9]{1,9})\Z")
_SHOWN_CHARS: Final = 40


class Instrument(msgspec.Struct, frozen=True):
    """One market and its units.

    One lot is `lot` smallest units (10^-base_decimals) of the base.  A price of one tick is `tick`
    units of 10^-price_decimals of the quote for one whole base.  Money of the quote is counted in
    its minor unit, 10^-quote_decimals.
    """

    symbol: str
    base: str
    quote: str
    base_decimals: int
    quote_decimals: int
    price_decimals: int
    lot: int = 1
    tick: int = 1


class Currencies:
    """The currencies that this node knows, and the markets between them."""

    def __init__(self, extra: Mapping[str, int] | None = None) -> None:
        """Know ISO 4217 and BTC, and the decimals of each `extra` code.

        Raises ConfigError for a code that is not 2 to 10 capitals and digits, that would redefine
        BTC or an ISO currency's minor unit, or for decimals outside 0 to 12.
        """
        self._extra: Final = dict(extra or {})
        for code, decimals in self._extra.items():
            if _CODE.match(code) is None:
                msg = f"currency {shown(code)} must be 2 to 10 capital letters and digits"
                raise ConfigError(msg)
            if code == BASE or _minor_unit(code) is not None:
                msg = f"currency {code} is built in and cannot be configured"
                raise ConfigError(msg)
            if not 0 <= decimals <= DECIMALS_MAX:
                msg = f"currency {code} has {decimals} decimals; allowed are 0 to {DECIMALS_MAX}"
                raise ConfigError(msg)

    def decimals(self, code: str) -> int:
        """How many decimals the currency has; InputError if it is unknown or has none defined."""
        if code == BASE:
            return BASE_DECIMALS
        configured = self._extra.get(code)
        if configured is not None:
            return configured
        minor_unit = _minor_unit(code)
        if minor_unit is None:
            msg = f"the currency {shown(code)} is not known; configure its decimals to use it"
            raise InputError(RejectReason.WRONG_MARKET, msg)
        return minor_unit

    def instrument(self, symbol: str) -> Instrument:
        """The market of that symbol ("BTC/USD"); InputError says which symbol would be right."""
        found = _SYMBOL.match(symbol)
        if found is None:
            msg = f"{shown(symbol)} is not a market; write it like BTC/USD"
            raise InputError(RejectReason.WRONG_MARKET, msg)
        base, quote = found.groups()
        decimals = self.decimals(base), self.decimals(quote)
        if base != BASE and quote == BASE:
            msg = f"{symbol} is reversed: the market is {quote}/{base}, {quote} priced in {base}"
            raise InputError(RejectReason.WRONG_MARKET, msg)
        if base != BASE or quote == BASE:
            msg = f"{symbol} is not traded: a market is {BASE} against another currency"
            raise InputError(RejectReason.WRONG_MARKET, msg)
        return Instrument(
            symbol=symbol,
            base=base,
            quote=quote,
            base_decimals=decimals[0],
            quote_decimals=decimals[1],
            price_decimals=decimals[1],
        )


def shown(text: str) -> str:
    """A user's text as it may be repeated in a message: quoted, escaped, short."""
    return ascii(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "...")


@functools.cache
def _iso_minor_units() -> dict[str, int]:
    """Decimals by code, of every ISO 4217 currency that has them (gold has none)."""
    return {
        currency.code: currency.exponent
        for currency in iso4217.Currency
        if currency.exponent is not None
    }


def _minor_unit(code: str) -> int | None:
    return _iso_minor_units().get(code)
