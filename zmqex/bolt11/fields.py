"""The tagged fields: their tags and lengths, and how each value lies in 5-bit symbols.

Read from base-32 digits (see `bech32`), written as a tag, a value and a count of symbols.
Not for what an invoice must contain; that is `decoding` and `encoding`.
Source: BOLT 11, "Tagged Fields".
"""

from __future__ import annotations

from itertools import starmap
from struct import Struct
from typing import Final

from zmqex.bolt11.bech32 import SYMBOL_BITS
from zmqex.bolt11.invoice import Fallback, RouteHop
from zmqex.bolt11.keys import is_public_key
from zmqex.errors import InvalidInvoiceError

PAYMENT_HASH: Final = 1
ROUTE: Final = 3
FEATURES: Final = 5
EXPIRY: Final = 6
FALLBACK: Final = 9
DESCRIPTION: Final = 13
SECRET: Final = 16
PAYEE: Final = 19
DESCRIPTION_HASH: Final = 23
MIN_FINAL_CLTV: Final = 24
METADATA: Final = 27

TAG_MAX: Final = 31
HEAD_SYMBOLS: Final = 3
LENGTH_BITS: Final = 10
LENGTH_MAX: Final = (1 << LENGTH_BITS) - 1
TIMESTAMP_SYMBOLS: Final = 7
SIGNATURE_SYMBOLS: Final = 104

# Fields of bytes: how many symbols make one that is read; others of the tag are skipped.
ANY_LENGTH: Final = -1
BYTES_FIELDS: Final = {
    PAYMENT_HASH: 52,
    SECRET: 52,
    DESCRIPTION_HASH: 52,
    PAYEE: 53,
    DESCRIPTION: ANY_LENGTH,
    METADATA: ANY_LENGTH,
}
NUMBER_FIELDS: Final = frozenset((EXPIRY, MIN_FINAL_CLTV, FEATURES))

NAMES: Final = {
    PAYMENT_HASH: "payment hash",
    SECRET: "payment secret",
    DESCRIPTION_HASH: "description hash",
    PAYEE: "payee",
    DESCRIPTION: "description",
    METADATA: "metadata",
    EXPIRY: "expiry",
    MIN_FINAL_CLTV: "final expiry delta",
    FEATURES: "set of features",
}

P2PKH: Final = 17
P2SH: Final = 18
_WITNESS_VERSION_MAX: Final = 16
_HASH160_BYTES: Final = 20
_HOP: Final = Struct("!33sQIIH")


# A field to be written: its tag, and a value that fills so many symbols.
Field = tuple[int, int, int]


def is_known(tag: int, digits: bytes) -> bool:
    """Whether a field is read; the others are skipped, whatever they hold."""
    symbols = BYTES_FIELDS.get(tag)
    if symbols is not None:
        return symbols in (ANY_LENGTH, len(digits))
    if tag == FALLBACK:
        return read_number(digits[:1]) <= P2SH
    return tag in NUMBER_FIELDS or tag == ROUTE


def read_number(digits: bytes) -> int:
    """Return the big-endian number in the digits; 0 in none."""
    return int(digits, 32) if digits else 0


def read_bytes(digits: bytes) -> bytes:
    """Return the whole bytes in the digits.

    Raises `InvalidInvoiceError` if what is left is more than padding, or is not zero.
    """
    if not digits:
        return b""
    bits, value = len(digits) * SYMBOL_BITS, int(digits, 32)
    padding = bits & 7
    if padding >= SYMBOL_BITS or value & (1 << padding) - 1:
        raise InvalidInvoiceError("a field of the invoice is not padded with zero bits")
    return (value >> padding).to_bytes(bits >> 3, "big")


def read_fallback(digits: bytes) -> Fallback:
    """Return an address of a known version.

    Raises `InvalidInvoiceError` if it has no version or a length that its version cannot have.
    """
    if not digits:
        raise InvalidInvoiceError("a fallback address of the invoice is empty")
    fallback = Fallback(read_number(digits[:1]), read_bytes(digits[1:]))
    if not is_address(fallback):
        raise InvalidInvoiceError("a fallback address of the invoice has a wrong length")
    return fallback


def read_route(digits: bytes) -> tuple[RouteHop, ...]:
    """Return the channels of one private route, the payee's own last.

    Raises `InvalidInvoiceError` if there is none, a part of one, or a node that is no key.
    """
    raw = read_bytes(digits)
    if not raw or len(raw) % _HOP.size:
        raise InvalidInvoiceError("a route hint of the invoice has a wrong length")
    hops = tuple(starmap(RouteHop, _HOP.iter_unpack(raw)))
    if not all(is_public_key(hop.node_id) for hop in hops):
        raise InvalidInvoiceError("a route hint of the invoice names a node that is no key")
    return hops


def number(tag: int, value: int) -> Field:
    """Return a field that holds a number in as few symbols as possible."""
    return tag, value, -(-value.bit_length() // SYMBOL_BITS)


def octets(tag: int, raw: bytes) -> Field:
    """Return a field that holds bytes, padded with zeros to whole symbols."""
    bits = len(raw) * 8
    symbols = -(-bits // SYMBOL_BITS)
    return tag, int.from_bytes(raw, "big") << symbols * SYMBOL_BITS - bits, symbols


def fallback_field(fallback: Fallback) -> Field:
    """Return the field of an address on the chain."""
    tag, program, symbols = octets(FALLBACK, fallback.program)
    return tag, fallback.version << symbols * SYMBOL_BITS | program, symbols + 1


def route_field(hops: tuple[RouteHop, ...]) -> Field:
    """Return the field of a private route."""
    raw = b"".join(
        _HOP.pack(
            hop.node_id,
            hop.short_channel_id,
            hop.fee_base_msat,
            hop.fee_proportional_millionths,
            hop.cltv_expiry_delta,
        )
        for hop in hops
    )
    return octets(ROUTE, raw)


def is_address(fallback: Fallback) -> bool:
    """Whether a fallback's program has a length that its version allows (BIP 141, BIP 341)."""
    length = len(fallback.program)
    match fallback.version:
        case 0:
            return length in {20, 32}
        case 1:
            return length == 32  # noqa: PLR2004
        case version if version <= _WITNESS_VERSION_MAX:
            return 2 <= length <= 40  # noqa: PLR2004
        case _:
            return length == _HASH160_BYTES
