"""What the two legs of a trade amount to, and what a payer checks before it pays.

Pure functions over numbers and a decoded invoice.  Not for deciding when to pay.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from zmqex.bolt11 import InvalidInvoiceError, decode, expires_at_ms
from zmqex.limits import (
    INVOICE_MARGIN_MS,
    MIN_FINAL_CLTV_BLOCKS_MAX,
)
from zmqex.market.instruments import Instrument
from zmqex.market.units import notional_quote_units
from zmqex.reasons import RejectReason

PLAIN: Final = "plain"
HTLC: Final = "htlc"
SWAP: Final = "swap"
MSAT_PER_SATOSHI: Final = 1_000
# On a Lightning-like network of its own, the smallest unit of a quote is one satoshi of it.
QUOTE_UNIT_MSAT: Final = 1_000


class Amounts(msgspec.Struct, frozen=True):
    """Both legs of a trade, from its one accepted quantity."""

    base_msat: int
    quote_units: int


def amounts(instrument: Instrument, quantity_lots: int, price_ticks: int) -> Amounts:
    """Both legs: base exactly, in millisatoshi; quote in minor units, rounded up for the seller."""
    base_msat = quantity_lots * instrument.lot * MSAT_PER_SATOSHI
    return Amounts(base_msat, notional_quote_units(quantity_lots, price_ticks, instrument))


def draws_preimage(settlement: str, our_side: str, *, takes: bool) -> bool:
    """Whether the preimage of a trade is ours to draw.

    `plain`: the payee's, who buys the base.  `htlc`: the payer's, who sells it and so decides when
    what is locked goes over.  `swap`: the taker's, on either side.  `our_side` is what we do with
    the base: "buy" or "sell"; `takes`: we are the taker.
    """
    return takes if settlement == SWAP else our_side == {PLAIN: "buy", HTLC: "sell"}[settlement]


class Expected(msgspec.Struct, frozen=True):
    """What an invoice must say for us to pay it; all of it signed by the other party."""

    invoice_prefix: str
    amount_msat: int
    payment_hash: bytes
    payee: bytes


def why_not_pay(text: str, expected: Expected, *, now_ms: int) -> RejectReason | None:
    """The first reason not to pay an invoice, or None.  `now_ms` is Unix time.

    Source: BOLT 11, and the payer's rules of docs/protocol.md.
    """
    try:
        invoice = decode(text)
    except InvalidInvoiceError:
        return RejectReason.INVALID_INVOICE
    checks = (
        (invoice.network.value == expected.invoice_prefix, RejectReason.WRONG_INVOICE_NETWORK),
        # An invoice without an amount would let the payee name one later.
        (invoice.amount_msat == expected.amount_msat, RejectReason.WRONG_INVOICE_AMOUNT),
        (invoice.payment_hash == expected.payment_hash, RejectReason.WRONG_PAYMENT_HASH),
        (invoice.payee == expected.payee, RejectReason.WRONG_PAYEE),
        (expires_at_ms(invoice) > now_ms, RejectReason.INVOICE_EXPIRED),
        (
            expires_at_ms(invoice) > now_ms + INVOICE_MARGIN_MS,
            RejectReason.INVOICE_EXPIRES_TOO_SOON,
        ),
        (invoice.min_final_cltv <= MIN_FINAL_CLTV_BLOCKS_MAX, RejectReason.CLTV_TOO_LONG),
    )
    return next((reason for holds, reason in checks if not holds), None)


def fee_limit_msat(amount_msat: int) -> int:
    """The most that routing may cost: half a percent rounded down, but at least 10 satoshi."""
    return max(amount_msat // 200, 10 * MSAT_PER_SATOSHI)


def proves_payment(preimage: bytes, payment_hash: bytes) -> bool:
    """Whether a preimage is the one that the hash was made of."""
    return hashlib.sha256(preimage).digest() == payment_hash
