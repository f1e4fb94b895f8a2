"""The human-readable part: network and amount (BOLT 11, "Human-Readable Part")."""

from __future__ import annotations

import re
from typing import Final

from zmqex.bolt11.invoice import InvoiceNetwork
from zmqex.errors import InvalidInvoiceError
from zmqex.limits import INVOICE_AMOUNT_MSAT_MAX

# Tenths of a millisatoshi (pico-bitcoin) in one unit of each multiplier, largest first.
_PICO: Final = {"": 10**12, "m": 10**9, "u": 10**6, "n": 10**3, "p": 1}
_PICO_PER_MSAT: Final = 10
# 20 digits hold all bitcoin in pico-bitcoin; more are never converted.
_PREFIX: Final = re.compile(r"ln(bcrt|bc|tbs|tb|sb)(?:([1-9][0-9]{0,19})([munp]?))?")
_NETWORK: Final = re.compile(r"ln(?:bcrt|bc|tbs|tb|sb)(?:[0-9]|\Z)")
_NETWORKS: Final = {network.value: network for network in InvoiceNetwork}


def read(prefix: str) -> tuple[InvoiceNetwork, int | None]:
    """Return the network and the amount in millisatoshi, None if any amount may be paid.

    Raises `InvalidInvoiceError` if the prefix or its amount is not BOLT 11's.
    """
    match = _PREFIX.fullmatch(prefix)
    if match is None:
        if _NETWORK.match(prefix):
            raise InvalidInvoiceError(
                "the invoice's amount is no number with m, u, n, p or nothing"
            )
        raise InvalidInvoiceError("the invoice is for no network that is known here")
    network, number, letter = match.groups()
    return _NETWORKS[network], _amount_msat(number, letter) if number else None


def write(network: InvoiceNetwork, amount_msat: int | None) -> str:
    """Return the prefix with the amount in its shortest form."""
    if amount_msat is None:
        return f"ln{network.value}"
    pico = amount_msat * _PICO_PER_MSAT
    letter = next(filter(lambda letter: pico % _PICO[letter] == 0, _PICO))
    return f"ln{network.value}{pico // _PICO[letter]}{letter}"


def _amount_msat(number: str, letter: str) -> int:
    amount_msat, rest = divmod(int(number) * _PICO[letter], _PICO_PER_MSAT)
    if rest:
        raise InvalidInvoiceError("the invoice's amount is not a whole number of millisatoshi")
    if amount_msat > INVOICE_AMOUNT_MSAT_MAX:
        raise InvalidInvoiceError("the invoice's amount is more than all bitcoin")
    return amount_msat
