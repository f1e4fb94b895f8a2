"""Feature bits of invoices: which are known, and which sets nobody may pay (BOLT 9 and 11).

A set is an integer: bit n is `1 << n`.  Even bits are required of the payer, odd ones offered.
"""

from __future__ import annotations

from typing import Final

VAR_ONION: Final = 8
PAYMENT_SECRET: Final = 14
BASIC_MPP: Final = 16
PAYMENT_METADATA: Final = 48
DEFAULT_FEATURES: Final = 1 << VAR_ONION | 1 << PAYMENT_SECRET

_KNOWN: Final = sum(1 << bit for bit in (VAR_ONION, PAYMENT_SECRET, BASIC_MPP, PAYMENT_METADATA))
# Every even bit of the longest field (1,023 symbols) but the known ones.
_UNKNOWN_EVEN: Final = int("5" * 1_280, 16) & ~_KNOWN
_EITHER: Final = 0b11


def why_not_pay(features: int) -> str | None:
    """Return why nobody may pay an invoice with these features, or None if one may."""
    unknown = features & _UNKNOWN_EVEN
    if unknown:
        lowest = (unknown & -unknown).bit_length() - 1
        return f"the invoice requires feature {lowest}, which is not known here"
    if features >> BASIC_MPP & _EITHER and not has_payment_secret(features):
        return "the invoice allows payment in parts without the payment secret that this needs"
    return None


def has_payment_secret(features: int) -> bool:
    """Whether the payment secret is required or offered."""
    return bool(features >> PAYMENT_SECRET & _EITHER)
