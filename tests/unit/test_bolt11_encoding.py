"""What the writer writes, in its one form, and what it refuses to sign."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest

from tests.unit.bolt11_raw import SECRET_KEY
from zmqex.bolt11 import (
    Draft,
    Fallback,
    InvoiceNetwork,
    RouteHop,
    UnknownField,
    bech32,
    decode,
    encode,
    public_key,
)
from zmqex.errors import LocalProtocolError
from zmqex.limits import (
    INVOICE_AMOUNT_MSAT_MAX,
    INVOICE_CHARS_MAX,
    INVOICE_CLTV_BLOCKS_MAX,
    INVOICE_EXPIRY_S_MAX,
)

_KEY: Final = public_key(SECRET_KEY)
_HOP: Final = RouteHop(_KEY, 1, 2, 3, 4)
_DRAFT: Final = Draft(
    network=InvoiceNetwork.REGTEST,
    timestamp_s=1_790_000_000,
    payment_hash=b"\x11" * 32,
    payment_secret=b"\x22" * 32,
    amount_msat=250_000_000,
    description="coffee",
    expiry_s=900,
    min_final_cltv=40,
)


def _draft(**changes: Any) -> Draft:  # noqa: ANN401 - any field of a draft
    """Return the draft above with other values in some fields."""
    return msgspec.structs.replace(_DRAFT, **changes)


def _tags(text: str) -> str:
    """Return the tags of an invoice's fields in their order."""
    digits = bech32.read(text)[1][7:-104]
    tags = ""
    while digits:
        tags += bech32.characters(digits[:1])
        digits = digits[3 + int(digits[1:3], 32) :]
    return tags


def test_one_draft_has_one_text() -> None:
    """Written down, so that a change of the form is seen."""
    assert encode(_DRAFT, SECRET_KEY) == (
        "lnbcrt2500u1p4tzwuqsp5yg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3qpp5zyg"
        "3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygsdq2vdhkven9v5xqzuycqzpg9qrsgqhf"
        "dxhfy3ypt7kf9rrm384u5quggmj93fgq2a5p4sxeqnd7dmdpcxe8y8kuftkxfn8xg6kx9lesvthl8uyv"
        "uqudv892jncwkmg8yx7acp29twr8"
    )


def test_what_is_written_is_what_is_read() -> None:
    """Every field of a draft that has them all, and the payee."""
    draft = _draft(
        description=None,
        description_hash=b"\x33" * 32,
        metadata=b"\x01\xfa\xfa\xf0",
        features=1 << 8 | 1 << 14 | 1 << 17 | 1 << 48 | 1 << 99,
        fallbacks=(Fallback(0, b"\x01" * 20), Fallback(17, b"\x02" * 20)),
        route_hints=((_HOP, _HOP), (_HOP,)),
        unknown_fields=(UnknownField(1, "qqq"), UnknownField(31, ""), UnknownField(9, "nqq")),
    )
    text = encode(draft, SECRET_KEY)
    invoice = decode(text)
    for name in Draft.__struct_fields__:
        assert getattr(invoice, name) == getattr(draft, name), name
    assert invoice.payee == _KEY
    assert _tags(text) == "sphmxcffrr9plf"
    assert encode(invoice, SECRET_KEY) == text


def test_fields_that_say_nothing_are_left_out_except_the_final_delta() -> None:
    """A writer must include it, whatever it is."""
    assert _tags(encode(_draft(expiry_s=3_600, min_final_cltv=18), SECRET_KEY)) == "spdc9"
    assert _tags(encode(_DRAFT, SECRET_KEY)) == "spdxc9"


@pytest.mark.parametrize(
    ("amount_msat", "prefix"),
    [
        (None, "lnbcrt"),
        (1, "lnbcrt10p"),
        (99, "lnbcrt990p"),
        (100, "lnbcrt1n"),
        (1_500, "lnbcrt15n"),
        (100_000, "lnbcrt1u"),
        (100_001, "lnbcrt1000010p"),
        (250_000_000, "lnbcrt2500u"),
        (2_000_000_000, "lnbcrt20m"),
        (100_000_000_000, "lnbcrt1"),
        (INVOICE_AMOUNT_MSAT_MAX, "lnbcrt21000000"),
        (INVOICE_AMOUNT_MSAT_MAX - 1, "lnbcrt20999999999999999990p"),
    ],
)
def test_an_amount_has_its_shortest_form(amount_msat: int | None, prefix: str) -> None:
    """With the largest multiplier that divides it, and exact."""
    text = encode(_draft(amount_msat=amount_msat), SECRET_KEY)
    assert text.rpartition("1")[0] == prefix
    assert decode(text).amount_msat == amount_msat


@pytest.mark.parametrize("network", InvoiceNetwork)
def test_every_network_can_be_written(network: InvoiceNetwork) -> None:
    """In lower case, after "ln"."""
    text = encode(_draft(network=network), SECRET_KEY)
    assert text.startswith(f"ln{network.value}2500u1")
    assert decode(text).network is network


def test_the_largest_values_can_be_written() -> None:
    """And are read again."""
    draft = _draft(
        timestamp_s=2**35 - 1,
        expiry_s=INVOICE_EXPIRY_S_MAX,
        min_final_cltv=INVOICE_CLTV_BLOCKS_MAX,
        description="x" * 639,
        route_hints=((RouteHop(_KEY, 2**64 - 1, 2**32 - 1, 2**32 - 1, 2**16 - 1),),),
    )
    invoice = decode(encode(draft, SECRET_KEY))
    for name in Draft.__struct_fields__:
        assert getattr(invoice, name) == getattr(draft, name), name


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"amount_msat": 0}, "an amount"),
        ({"amount_msat": -1}, "an amount"),
        ({"amount_msat": INVOICE_AMOUNT_MSAT_MAX + 1}, "an amount"),
        ({"timestamp_s": -1}, "timestamp"),
        ({"timestamp_s": 2**35}, "timestamp"),
        ({"payment_hash": b"\x11" * 31}, "payment hash"),
        ({"payment_secret": b"\x11" * 33}, "payment secret"),
        ({"description": None}, "either a description or the hash"),
        ({"description_hash": bytes(32)}, "either a description or the hash"),
        ({"description": "\ud800"}, "UTF-8"),
        ({"description": "x" * 640}, "field 13 of the invoice is too long"),
        ({"description": None, "description_hash": bytes(20)}, "description hash"),
        ({"expiry_s": -1}, "expiry"),
        ({"expiry_s": INVOICE_EXPIRY_S_MAX + 1}, "expiry"),
        ({"min_final_cltv": -1}, "final expiry delta"),
        ({"min_final_cltv": INVOICE_CLTV_BLOCKS_MAX + 1}, "final expiry delta"),
        ({"features": 0}, "payment secret has its feature"),
        ({"features": -1}, "payment secret has its feature"),
        ({"features": 1 << 8}, "payment secret has its feature"),
        ({"features": 1 << 14 | 1 << 100}, "contradict BOLT 9"),
        ({"features": 1 << 14 | 1 << 5_115}, "field 5 of the invoice is too long"),
        ({"metadata": bytes(640)}, "field 27 of the invoice is too long"),
        ({"fallbacks": (Fallback(0, bytes(21)),)}, "fallback"),
        ({"fallbacks": (Fallback(-1, bytes(20)),)}, "fallback"),
        ({"fallbacks": (Fallback(19, bytes(20)),)}, "fallback"),
        ({"route_hints": ((),)}, "route hint"),
        ({"route_hints": ((RouteHop(_KEY[1:], 1, 2, 3, 4),),)}, "route hint"),
        ({"route_hints": ((RouteHop(_KEY, 2**64, 2, 3, 4),),)}, "route hint"),
        ({"route_hints": ((RouteHop(_KEY, 1, 2**32, 3, 4),),)}, "route hint"),
        ({"route_hints": ((RouteHop(_KEY, 1, 2, -3, 4),),)}, "route hint"),
        ({"route_hints": ((RouteHop(_KEY, 1, 2, 3, 2**16),),)}, "route hint"),
        ({"route_hints": ((_HOP,) * 13,)}, "field 3 of the invoice is too long"),
        ({"unknown_fields": (UnknownField(1, "q" * 52),)}, "unknown field"),
        ({"unknown_fields": (UnknownField(9, "p"),)}, "unknown field"),
        ({"unknown_fields": (UnknownField(32, "q"),)}, "unknown field"),
        ({"unknown_fields": (UnknownField(-1, "q"),)}, "unknown field"),
        ({"unknown_fields": (UnknownField(0, "b"),)}, "unknown field"),
        ({"unknown_fields": (UnknownField(0, "q" * 1_024),)}, "field 0 of the invoice is too long"),
    ],
)
def test_what_a_reader_would_refuse_is_never_signed(changes: dict[str, Any], why: str) -> None:
    """The caller is told which rule it broke."""
    with pytest.raises(LocalProtocolError, match=why):
        encode(_draft(**changes), SECRET_KEY)


def test_an_invoice_over_the_limit_of_characters_is_not_written() -> None:
    """At the limit it is."""
    room = INVOICE_CHARS_MAX - len(encode(_DRAFT, SECRET_KEY)) - 7 * 3
    unknown = tuple(UnknownField(0, "q" * size) for size in [1_000] * 6 + [room - 6_000])
    text = encode(_draft(unknown_fields=unknown), SECRET_KEY)
    assert len(text) == INVOICE_CHARS_MAX
    assert decode(text).unknown_fields == unknown
    with pytest.raises(LocalProtocolError, match="over 7089 characters"):
        encode(_draft(unknown_fields=unknown, description="coffee!"), SECRET_KEY)


def test_only_a_secret_key_signs() -> None:
    """Zero is none."""
    with pytest.raises(LocalProtocolError, match="secret key"):
        encode(_DRAFT, bytes(32))
