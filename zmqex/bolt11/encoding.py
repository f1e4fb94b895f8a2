"""Writes and signs an invoice in one canonical form.

Fields come in the order s p d|h m x c f r 9, then the unknown ones; numbers and the amount in
their shortest form; no `n`, because the signature tells the payee.  So equal drafts and keys
give equal texts.  Source: BOLT 11.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from zmqex.bolt11 import bech32, features, fields, keys
from zmqex.bolt11 import prefix as human
from zmqex.bolt11.bech32 import SYMBOL_BITS
from zmqex.bolt11.fields import Field
from zmqex.bolt11.invoice import DEFAULT_EXPIRY_S, Draft, Fallback, RouteHop, UnknownField
from zmqex.errors import LocalProtocolError
from zmqex.limits import (
    INVOICE_AMOUNT_MSAT_MAX,
    INVOICE_CHARS_MAX,
    INVOICE_CLTV_BLOCKS_MAX,
    INVOICE_EXPIRY_S_MAX,
)

_HEAD_BITS: Final = fields.HEAD_SYMBOLS * SYMBOL_BITS
_SIGNATURE_BITS: Final = fields.SIGNATURE_SYMBOLS * SYMBOL_BITS
_TIMESTAMP_S_MAX: Final = (1 << fields.TIMESTAMP_SYMBOLS * SYMBOL_BITS) - 1
_HASH_BYTES: Final = 32


def encode(draft: Draft, secret_key: bytes) -> str:
    """Return the signed invoice text of `draft`, in lower case.

    `decode` of it gives the same values back, with the payee `public_key(secret_key)`.
    Raises `LocalProtocolError` if the draft is not an invoice that every reader accepts, or the
    key is not one.
    """
    _check(draft)
    prefix = human.write(draft.network, draft.amount_msat)
    value, count = draft.timestamp_s, fields.TIMESTAMP_SYMBOLS
    for tag, body, symbols in _fields(draft):
        if symbols > fields.LENGTH_MAX:
            raise LocalProtocolError(f"field {tag} of the invoice is too long")
        head = tag << fields.LENGTH_BITS | symbols
        value = (value << _HEAD_BITS | head) << symbols * SYMBOL_BITS | body
        count += fields.HEAD_SYMBOLS + symbols
    signature = keys.sign(secret_key, keys.digest_of(prefix, value, count * SYMBOL_BITS))
    value = value << _SIGNATURE_BITS | int.from_bytes(signature, "big")
    text = bech32.write(prefix, value, count + fields.SIGNATURE_SYMBOLS)
    if len(text) > INVOICE_CHARS_MAX:
        raise LocalProtocolError(f"the invoice would be over {INVOICE_CHARS_MAX} characters")
    return text


def _fields(draft: Draft) -> Iterator[Field]:
    """The fields of a checked draft in canonical order."""
    yield fields.octets(fields.SECRET, draft.payment_secret)
    yield fields.octets(fields.PAYMENT_HASH, draft.payment_hash)
    if draft.description is not None:
        yield fields.octets(fields.DESCRIPTION, draft.description.encode())
    if draft.description_hash is not None:
        yield fields.octets(fields.DESCRIPTION_HASH, draft.description_hash)
    if draft.metadata is not None:
        yield fields.octets(fields.METADATA, draft.metadata)
    if draft.expiry_s != DEFAULT_EXPIRY_S:
        yield fields.number(fields.EXPIRY, draft.expiry_s)
    # Also when it is the default: a writer must include it.
    yield fields.number(fields.MIN_FINAL_CLTV, draft.min_final_cltv)
    yield from map(fields.fallback_field, draft.fallbacks)
    yield from map(fields.route_field, draft.route_hints)
    yield fields.number(fields.FEATURES, draft.features)
    for unknown in draft.unknown_fields:
        digits = bech32.digits_of(unknown.text) or b""
        yield unknown.tag, fields.read_number(digits), len(digits)


def _check(draft: Draft) -> None:
    """Raise `LocalProtocolError` unless every reader of BOLT 11 would take the draft."""
    amount_msat = draft.amount_msat
    checks = (
        (
            amount_msat is None or 0 < amount_msat <= INVOICE_AMOUNT_MSAT_MAX,
            "an amount is more than nothing and at most all bitcoin",
        ),
        (0 <= draft.timestamp_s <= _TIMESTAMP_S_MAX, "a timestamp has 35 bits"),
        (len(draft.payment_hash) == _HASH_BYTES, "a payment hash has 32 bytes"),
        (len(draft.payment_secret) == _HASH_BYTES, "a payment secret has 32 bytes"),
        (
            (draft.description is None) != (draft.description_hash is None),
            "an invoice needs either a description or the hash of one",
        ),
        (_is_text(draft.description), "a description is text that UTF-8 can hold"),
        (
            draft.description_hash is None or len(draft.description_hash) == _HASH_BYTES,
            "a description hash has 32 bytes",
        ),
        (0 <= draft.expiry_s <= INVOICE_EXPIRY_S_MAX, "an expiry has 32 bits"),
        (
            0 <= draft.min_final_cltv <= INVOICE_CLTV_BLOCKS_MAX,
            "a final expiry delta is a number of blocks, below those that are dates",
        ),
        (
            draft.features > 0 and features.has_payment_secret(draft.features),
            "an invoice with a payment secret has its feature",
        ),
        (features.why_not_pay(draft.features) is None, "the features contradict BOLT 9"),
        (all(map(_is_fallback, draft.fallbacks)), "a fallback address has a wrong form"),
        (all(map(_is_route, draft.route_hints)), "a route hint has a wrong form"),
        (all(map(_is_skipped, draft.unknown_fields)), "an unknown field is known or no Bech32"),
    )
    for holds, sentence in checks:
        if not holds:
            raise LocalProtocolError(sentence)


def _is_text(text: str | None) -> bool:
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_fallback(fallback: Fallback) -> bool:
    return 0 <= fallback.version <= fields.P2SH and fields.is_address(fallback)


def _is_route(hops: tuple[RouteHop, ...]) -> bool:
    return bool(hops) and all(
        keys.is_public_key(hop.node_id)
        and 0 <= hop.short_channel_id < 1 << 64
        and 0 <= hop.fee_base_msat < 1 << 32
        and 0 <= hop.fee_proportional_millionths < 1 << 32
        and 0 <= hop.cltv_expiry_delta < 1 << 16
        for hop in hops
    )


def _is_skipped(unknown: UnknownField) -> bool:
    digits = bech32.digits_of(unknown.text)
    if digits is None or not 0 <= unknown.tag <= fields.TAG_MAX:
        return False
    return not fields.is_known(unknown.tag, digits)
