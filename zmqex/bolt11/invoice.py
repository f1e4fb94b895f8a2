"""What an invoice says: the values that `decode` answers and `encode` takes.

Not for checking them, which is the codec's work, nor for deciding whether to pay.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from zmqex.bolt11.features import DEFAULT_FEATURES
from zmqex.limits import SECOND_MS

DEFAULT_EXPIRY_S: Final = 3_600
DEFAULT_MIN_FINAL_CLTV: Final = 18


class InvoiceNetwork(StrEnum):
    """The chain that an invoice is paid on; the value is its prefix in the text after "ln"."""

    MAINNET = "bc"
    TESTNET = "tb"
    SIGNET = "tbs"
    REGTEST = "bcrt"
    SIMNET = "sb"


class RouteHop(msgspec.Struct, frozen=True):
    """One channel of a private route to the payee; fields as in BOLT 7's channel_update."""

    node_id: bytes
    short_channel_id: int
    fee_base_msat: int
    fee_proportional_millionths: int
    cltv_expiry_delta: int


class Fallback(msgspec.Struct, frozen=True):
    """An address on the chain: witness version 0-16 and program, or 17 P2PKH, or 18 P2SH."""

    version: int
    program: bytes


class UnknownField(msgspec.Struct, frozen=True):
    """A field that readers skip, kept as it came: `text` holds its Bech32 characters."""

    tag: int
    text: str


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice before it is signed.

    Exactly one of `description` and `description_hash` is set.  `amount_msat` None leaves the
    amount to the payer.  `features` is a set of bits: bit n is `1 << n` (BOLT 9).
    """

    network: InvoiceNetwork
    timestamp_s: int
    payment_hash: bytes
    payment_secret: bytes
    amount_msat: int | None = None
    description: str | None = None
    description_hash: bytes | None = None
    expiry_s: int = DEFAULT_EXPIRY_S
    min_final_cltv: int = DEFAULT_MIN_FINAL_CLTV
    features: int = DEFAULT_FEATURES
    metadata: bytes | None = None
    route_hints: tuple[tuple[RouteHop, ...], ...] = ()
    fallbacks: tuple[Fallback, ...] = ()
    unknown_fields: tuple[UnknownField, ...] = ()


class Invoice(Draft, frozen=True, kw_only=True):
    """A verified invoice: `payee` (33 bytes) made `signature` (65 bytes: r, s, recovery id)."""

    payee: bytes
    signature: bytes


def expires_at_ms(invoice: Draft) -> int:
    """Return when an invoice can no longer be paid, in Unix milliseconds."""
    return (invoice.timestamp_s + invoice.expiry_s) * SECOND_MS
