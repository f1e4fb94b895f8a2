"""Reads and verifies an invoice, strictly: what a reader must fail, fails here.

Where BOLT 11 leaves a choice the stricter one is taken: fields that contradict each other are
refused, and so is padding that is not zero.  Copies of p, h, s and n with a wrong length are
skipped, as the specification's own example shows.  Not for deciding whether to pay.
"""

from __future__ import annotations

from typing import TypeVar

from zmqex.bolt11 import bech32, features, fields, keys
from zmqex.bolt11 import prefix as human
from zmqex.bolt11.invoice import (
    DEFAULT_EXPIRY_S,
    DEFAULT_MIN_FINAL_CLTV,
    Fallback,
    Invoice,
    RouteHop,
    UnknownField,
)
from zmqex.errors import InvalidInvoiceError
from zmqex.limits import INVOICE_CHARS_MAX, INVOICE_CLTV_BLOCKS_MAX, INVOICE_EXPIRY_S_MAX

_Value = TypeVar("_Value", int, bytes)


def decode(text: str) -> Invoice:
    """Return the invoice that `text` is, its signature verified.

    Raises `InvalidInvoiceError` with one sentence if it is none, or if BOLT 11 forbids to pay
    it.  Amounts are exact to the millisatoshi.  The description is the payee's free text: escape
    control characters before showing it.
    """
    if len(text) > INVOICE_CHARS_MAX:
        raise InvalidInvoiceError(f"the invoice is longer than {INVOICE_CHARS_MAX} characters")
    prefix, digits = bech32.read(text)
    network, amount_msat = human.read(prefix)
    signed = digits[: -fields.SIGNATURE_SYMBOLS]
    if len(signed) < fields.TIMESTAMP_SYMBOLS:
        raise InvalidInvoiceError("the invoice is too short")
    found = _collect(signed)
    octets, numbers = found.octets, found.numbers
    digest = keys.digest_of(prefix, int(signed, 32), len(signed) * bech32.SYMBOL_BITS)
    signature = fields.read_bytes(digits[-fields.SIGNATURE_SYMBOLS :])
    return Invoice(
        network=network,
        amount_msat=amount_msat,
        timestamp_s=fields.read_number(signed[: fields.TIMESTAMP_SYMBOLS]),
        payment_hash=_required(octets, fields.PAYMENT_HASH),
        payment_secret=_required(octets, fields.SECRET),
        description=_description(octets),
        description_hash=octets.get(fields.DESCRIPTION_HASH),
        expiry_s=_bounded(numbers, fields.EXPIRY, DEFAULT_EXPIRY_S, INVOICE_EXPIRY_S_MAX),
        min_final_cltv=_bounded(
            numbers, fields.MIN_FINAL_CLTV, DEFAULT_MIN_FINAL_CLTV, INVOICE_CLTV_BLOCKS_MAX
        ),
        features=_features(numbers),
        metadata=octets.get(fields.METADATA),
        route_hints=tuple(found.route_hints),
        fallbacks=tuple(found.fallbacks),
        unknown_fields=tuple(found.unknown),
        payee=_payee(digest, signature, octets.get(fields.PAYEE)),
        signature=signature,
    )


class _Found:
    """The fields of one invoice as they are met."""

    __slots__ = ("fallbacks", "numbers", "octets", "route_hints", "unknown")

    def __init__(self) -> None:
        self.octets: dict[int, bytes] = {}
        self.numbers: dict[int, int] = {}
        self.route_hints: list[tuple[RouteHop, ...]] = []
        self.fallbacks: list[Fallback] = []
        self.unknown: list[UnknownField] = []

    def add(self, tag: int, digits: bytes) -> None:
        # The commonest first; what has a length of its own and another one here is unknown.
        if fields.BYTES_FIELDS.get(tag) in (len(digits), fields.ANY_LENGTH):
            _once(self.octets, tag, fields.read_bytes(digits))
        elif tag in fields.NUMBER_FIELDS:
            _once(self.numbers, tag, fields.read_number(digits))
        elif not fields.is_known(tag, digits):
            self.unknown.append(UnknownField(tag, bech32.characters(digits)))
        elif tag == fields.ROUTE:
            self.route_hints.append(fields.read_route(digits))
        else:
            self.fallbacks.append(fields.read_fallback(digits))


def _collect(signed: bytes) -> _Found:
    """Read all tagged fields; the digits begin with the timestamp."""
    found = _Found()
    at, end = fields.TIMESTAMP_SYMBOLS, len(signed)
    while at < end:
        start = at + fields.HEAD_SYMBOLS
        head = int(signed[at:start], 32)
        at = start + (head & fields.LENGTH_MAX)
        if at > end:
            raise InvalidInvoiceError("a field of the invoice is cut off")
        found.add(head >> fields.LENGTH_BITS, signed[start:at])
    return found


def _once(values: dict[int, _Value], tag: int, value: _Value) -> None:
    """Keep a value; an equal copy is harmless, another one leaves no reading to trust."""
    if values.setdefault(tag, value) != value:
        raise InvalidInvoiceError(f"the invoice has more than one {fields.NAMES[tag]}")


def _required(octets: dict[int, bytes], tag: int) -> bytes:
    if tag not in octets:
        raise InvalidInvoiceError(f"the invoice has no {fields.NAMES[tag]}")
    return octets[tag]


def _bounded(numbers: dict[int, int], tag: int, default: int, highest: int) -> int:
    value = numbers.get(tag, default)
    if value > highest:
        raise InvalidInvoiceError(f"the invoice's {fields.NAMES[tag]} is over {highest}")
    return value


def _description(octets: dict[int, bytes]) -> str | None:
    raw = octets.get(fields.DESCRIPTION)
    if (raw is None) == (fields.DESCRIPTION_HASH not in octets):
        raise InvalidInvoiceError("the invoice needs a description or the hash of one, not both")
    if raw is None:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise InvalidInvoiceError("the invoice's description is not UTF-8 text") from None


def _features(numbers: dict[int, int]) -> int:
    bits = numbers.get(fields.FEATURES, 0)
    why = features.why_not_pay(bits)
    if why is not None:
        raise InvalidInvoiceError(why)
    return bits


def _payee(digest: bytes, signature: bytes, named: bytes | None) -> bytes:
    """Return who signed: the payee that the invoice names, otherwise the recovered one."""
    if named is not None:
        if not keys.verify(named, digest, signature):
            raise InvalidInvoiceError("the invoice is not signed by the payee that it names")
        return named
    recovered = keys.recover(digest, signature)
    if recovered is None:
        raise InvalidInvoiceError("the invoice's signature is not valid")
    return recovered
