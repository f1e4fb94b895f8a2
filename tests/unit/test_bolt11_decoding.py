"""What the reader takes, what it skips, and every reason to refuse."""

from __future__ import annotations

from typing import Final

import pytest

from tests.unit.bolt11_raw import (
    DESCRIPTION,
    HASH,
    REQUIRED,
    SECRET,
    SECRET_KEY,
    Field,
    checked,
    head,
    signed,
    symbols_of,
    text_of,
)
from zmqex.bolt11 import (
    Fallback,
    InvalidInvoiceError,
    InvoiceNetwork,
    UnknownField,
    decode,
    expires_at_ms,
    public_key,
)
from zmqex.limits import (
    INVOICE_AMOUNT_MSAT_MAX,
    INVOICE_CHARS_MAX,
    INVOICE_CLTV_BLOCKS_MAX,
    INVOICE_EXPIRY_S_MAX,
)

_KEY: Final = public_key(SECRET_KEY)
_NAMED: Final = ("n", symbols_of(_KEY))
_HOP: Final = _KEY + bytes(18)


def _number(value: int) -> str:
    """Return a number as Bech32 characters with a zero before it."""
    length = value.bit_length() // 5 + 1
    return symbols_of((value << -length * 5 % 8).to_bytes((length * 5 + 7) // 8, "big"))[:length]


def _bits(*bits: int) -> Field:
    return ("9", _number(sum(1 << bit for bit in bits)))


def test_the_smallest_invoice_has_hash_secret_and_description() -> None:
    """Everything else has the specification's defaults."""
    invoice = decode(text_of(*REQUIRED))
    assert invoice.payee == _KEY
    assert (invoice.payment_hash, invoice.payment_secret) == (bytes(32), bytes(32))
    assert (invoice.description, invoice.amount_msat, invoice.features) == ("", None, 0)
    assert expires_at_ms(invoice) == 3_600_000


@pytest.mark.parametrize("network", InvoiceNetwork)
def test_every_network_has_its_prefix(network: InvoiceNetwork) -> None:
    """With and without an amount."""
    assert decode(text_of(*REQUIRED, prefix=f"ln{network}")).network is network
    assert decode(text_of(*REQUIRED, prefix=f"ln{network}7")).network is network


@pytest.mark.parametrize(
    ("amount", "amount_msat"),
    [
        ("1", 100_000_000_000),
        ("1m", 100_000_000),
        ("1u", 100_000),
        ("1n", 100),
        ("10p", 1),
        ("1230p", 123),
        ("20000000m", 2_000_000_000_000_000),
        ("21000000", INVOICE_AMOUNT_MSAT_MAX),
        ("21000000000000000000p", INVOICE_AMOUNT_MSAT_MAX),
    ],
)
def test_an_amount_is_exact_to_the_millisatoshi(amount: str, amount_msat: int) -> None:
    """Each multiplier, the smallest amount and the largest."""
    assert decode(text_of(*REQUIRED, prefix=f"lnbcrt{amount}")).amount_msat == amount_msat


@pytest.mark.parametrize(
    ("prefix", "why"),
    [
        ("lnbcrt0", "amount is no number"),
        ("lnbcrt01m", "amount is no number"),
        ("lnbcrt1x", "amount is no number"),
        ("lnbcrt1mm", "amount is no number"),
        ("lnbcrt1 m", "amount is no number"),
        ("lnbcrt1m\n", "amount is no number"),
        ("lnbcrt1e3", "amount is no number"),
        ("lnbcrt" + "9" * 21, "amount is no number"),
        ("lnbcrt1p", "whole number of millisatoshi"),
        ("lnbcrt11p", "whole number of millisatoshi"),
        ("lnbcrt21000001", "more than all bitcoin"),
        ("lnbcrt21000000000000000010p", "more than all bitcoin"),
        ("lnbcrtm", "no network"),
        ("lnbc-1", "no network"),
        ("lnltc1", "no network"),
        ("ln", "no network"),
        ("bc", "no network"),
        ("xlnbc", "no network"),
    ],
)
def test_a_prefix_that_is_not_bolt_11_s_is_refused(prefix: str, why: str) -> None:
    """Amounts that other readers guess at, and networks that do not exist."""
    with pytest.raises(InvalidInvoiceError, match=why):
        decode(text_of(*REQUIRED, prefix=prefix))


def test_a_text_over_the_limit_is_refused_before_it_is_looked_at() -> None:
    """At the limit it is read, and is refused for what it holds."""
    with pytest.raises(InvalidInvoiceError, match="longer than 7089"):
        decode("é" * (INVOICE_CHARS_MAX + 1))
    with pytest.raises(InvalidInvoiceError, match="ASCII"):
        decode("é" * INVOICE_CHARS_MAX)


def test_an_invoice_as_long_as_the_limit_is_read() -> None:
    """Unknown fields may fill it."""
    room = INVOICE_CHARS_MAX - len(text_of(*REQUIRED)) - 7 * 3
    sizes = [1_000] * 6 + [room - 6_000]
    text = text_of(*REQUIRED, *(("q", "x" * size) for size in sizes))
    assert len(text) == INVOICE_CHARS_MAX
    assert [len(one.text) for one in decode(text).unknown_fields] == sizes
    with pytest.raises(InvalidInvoiceError, match="longer than"):
        decode(text_of(*REQUIRED, *(("q", "x" * size) for size in [*sizes[:-1], sizes[-1] + 1])))


@pytest.mark.parametrize("symbols", [0, 6, 7, 104, 110])
def test_what_has_no_room_for_time_and_signature_is_too_short(symbols: int) -> None:
    """Seven symbols and 104 are the least."""
    with pytest.raises(InvalidInvoiceError, match="too short"):
        decode(checked("lnbcrt", "q" * symbols))


@pytest.mark.parametrize(
    ("missing", "why"),
    [
        (HASH, "no payment hash"),
        (SECRET, "no payment secret"),
        (DESCRIPTION, "needs a description or the hash of one"),
    ],
)
def test_a_required_field_is_missed(missing: Field, why: str) -> None:
    """Also when only copies of a wrong length are there."""
    rest = [field for field in REQUIRED if field != missing]
    with pytest.raises(InvalidInvoiceError, match=why):
        decode(text_of(*rest))
    with pytest.raises(InvalidInvoiceError, match=why):
        decode(text_of(*rest, ("p", "q" * 51), ("s", "q" * 53), ("h", "q" * 53)))


def test_description_and_its_hash_exclude_each_other() -> None:
    """One of them, never both."""
    described = ("h", symbols_of(b"\x07" * 32))
    invoice = decode(text_of(HASH, SECRET, described))
    assert (invoice.description, invoice.description_hash) == (None, b"\x07" * 32)
    with pytest.raises(InvalidInvoiceError, match="not both"):
        decode(text_of(*REQUIRED, described))


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (("p", "q" * 52), ("p", "p" + "q" * 51), "payment hash"),
        (("s", "q" * 52), ("s", "p" + "q" * 51), "payment secret"),
        (("d", ""), ("d", symbols_of(b"x")), "description"),
        (("x", "p"), ("x", "z"), "expiry"),
        (("c", "p"), ("c", "z"), "final expiry delta"),
        (("9", "gqq"), ("9", "gqqp"), "set of features"),
        (("m", symbols_of(b"x")), ("m", symbols_of(b"y")), "metadata"),
        (_NAMED, ("n", symbols_of(public_key(b"\x01" * 32))), "payee"),
    ],
)
def test_two_values_of_one_field_are_refused_and_two_equal_ones_are_not(
    first: Field, second: Field, why: str
) -> None:
    """No reader may choose which one counts."""
    others = [field for field in REQUIRED if field[0] != first[0]]
    assert decode(text_of(*others, first, first)).payee == _KEY
    with pytest.raises(InvalidInvoiceError, match=f"more than one {why}"):
        decode(text_of(*others, first, second))


@pytest.mark.parametrize("tag", ["p", "s", "h", "n"])
@pytest.mark.parametrize("change", [-52, -2, -1, 2])
def test_a_wrong_length_is_skipped_whatever_it_holds(tag: str, change: int) -> None:
    """As the example of the specification shows; the copy stays visible."""
    value = "l" * (52 + change)
    invoice = decode(text_of(*REQUIRED, (tag, value)))
    assert [one.text for one in invoice.unknown_fields] == [value]


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("p", "q" * 51 + "p"),
        ("s", "q" * 51 + "x"),
        ("h", "q" * 51 + "g"),
        ("n", symbols_of(_KEY)[:-1] + "l"),
        ("d", "qp"),
        ("d", "q"),
        ("d", "qqq"),
        ("m", "qp"),
        ("m", "q"),
        ("f", "z" + "q" * 31 + "qq"),
        ("f", "pqp"),
        ("r", symbols_of(_HOP)[:-1] + "p"),
    ],
)
def test_padding_that_is_not_zero_or_not_padding_is_refused(tag: str, value: str) -> None:
    """The bits after the last byte are fewer than five, and zero."""
    others = [field for field in REQUIRED if field[0] != tag]
    with pytest.raises(InvalidInvoiceError, match=r"padded|wrong length"):
        decode(text_of(*others, (tag, value)))


def test_a_description_that_is_not_utf_8_is_refused() -> None:
    """Half a character, and a surrogate."""
    for raw in (b"\xe3\x83", b"\xed\xa0\x80", b"\xff"):
        with pytest.raises(InvalidInvoiceError, match="not UTF-8"):
            decode(text_of(HASH, SECRET, ("d", symbols_of(raw))))


def test_numbers_may_have_zeros_before_them_and_be_empty() -> None:
    """A short form is a wish, not a duty; no symbols are zero."""
    invoice = decode(text_of(*REQUIRED, ("x", "qqqp"), ("c", "qqz"), ("9", "qqqq")))
    assert (invoice.expiry_s, invoice.min_final_cltv, invoice.features) == (1, 2, 0)
    invoice = decode(text_of(*REQUIRED, ("x", ""), ("c", ""), ("9", "")))
    assert (invoice.expiry_s, invoice.min_final_cltv, invoice.features) == (0, 0, 0)


def test_times_beyond_any_use_are_refused() -> None:
    """At the limit they are read."""
    most = decode(
        text_of(
            *REQUIRED,
            ("x", _number(INVOICE_EXPIRY_S_MAX)),
            ("c", _number(INVOICE_CLTV_BLOCKS_MAX)),
        )
    )
    assert (most.expiry_s, most.min_final_cltv) == (INVOICE_EXPIRY_S_MAX, INVOICE_CLTV_BLOCKS_MAX)
    assert expires_at_ms(most) == INVOICE_EXPIRY_S_MAX * 1_000
    for tag, value in (
        ("x", _number(INVOICE_EXPIRY_S_MAX + 1)),
        ("c", _number(INVOICE_CLTV_BLOCKS_MAX + 1)),
        ("x", "l" * 1_023),
    ):
        with pytest.raises(InvalidInvoiceError, match="is over"):
            decode(text_of(*REQUIRED, (tag, value)))


@pytest.mark.parametrize("bit", [8, 14, 48, 9, 15, 49, 1, 99, 101, 5_113])
def test_known_features_and_odd_ones_are_taken(bit: int) -> None:
    """It is fine to be odd."""
    assert decode(text_of(*REQUIRED, _bits(bit))).features == 1 << bit


@pytest.mark.parametrize("bit", [0, 2, 10, 12, 18, 24, 30, 46, 50, 100, 262, 5_112])
def test_an_even_feature_that_is_not_known_is_refused_by_its_number(bit: int) -> None:
    """The payer must understand it, and does not."""
    with pytest.raises(InvalidInvoiceError, match=f"requires feature {bit},"):
        decode(text_of(*REQUIRED, _bits(8, 14, bit)))


@pytest.mark.parametrize("parts", [16, 17])
def test_payment_in_parts_needs_the_payment_secret(parts: int) -> None:
    """A feature comes with those that it depends on."""
    assert decode(text_of(*REQUIRED, _bits(14, parts))).features >> parts & 1
    assert decode(text_of(*REQUIRED, _bits(15, parts))).features >> parts & 1
    with pytest.raises(InvalidInvoiceError, match="payment in parts"):
        decode(text_of(*REQUIRED, _bits(8, parts)))


def test_unknown_fields_are_kept_in_their_order() -> None:
    """Tags that nobody has defined, and fallback versions of the future."""
    invoice = decode(text_of(("q", "qpzr"), *REQUIRED, ("l", ""), ("f", "nqq")))
    assert invoice.unknown_fields == (
        UnknownField(0, "qpzr"),
        UnknownField(31, ""),
        UnknownField(9, "nqq"),
    )


@pytest.mark.parametrize(
    ("version", "length"),
    [(0, 20), (0, 32), (1, 32), (2, 2), (16, 40), (17, 20), (18, 20)],
)
def test_a_fallback_address_is_read(version: int, length: int) -> None:
    """In the lengths that its version allows."""
    value = symbols_of(bytes([version << 3]))[:1] + symbols_of(b"\x05" * length)
    invoice = decode(text_of(*REQUIRED, ("f", value)))
    assert invoice.fallbacks == (Fallback(version, b"\x05" * length),)


@pytest.mark.parametrize(
    ("version", "length"),
    [(0, 19), (0, 33), (1, 20), (1, 0), (2, 1), (16, 41), (17, 32), (18, 19)],
)
def test_a_fallback_address_of_a_wrong_length_is_refused(version: int, length: int) -> None:
    """Money sent there would be lost."""
    value = symbols_of(bytes([version << 3]))[:1] + symbols_of(b"\x05" * length)
    with pytest.raises(InvalidInvoiceError, match="wrong length"):
        decode(text_of(*REQUIRED, ("f", value)))


def test_an_empty_fallback_address_is_refused() -> None:
    """It has not even a version."""
    with pytest.raises(InvalidInvoiceError, match="is empty"):
        decode(text_of(*REQUIRED, ("f", "")))


def test_route_hints_are_whole_channels_of_real_keys() -> None:
    """No channel, half of one, or a node that is no point: refused."""
    invoice = decode(text_of(*REQUIRED, ("r", symbols_of(_HOP * 2)), ("r", symbols_of(_HOP))))
    assert [len(hops) for hops in invoice.route_hints] == [2, 1]
    for raw, why in (
        (b"", "wrong length"),
        (_HOP[:-1], "wrong length"),
        (_HOP + b"\x02", "wrong length"),
        (_HOP + b"\x04" + _HOP[1:], "no key"),
        (b"\x02" + b"\xff" * 32 + bytes(18), "no key"),
    ):
        with pytest.raises(InvalidInvoiceError, match=why):
            decode(text_of(*REQUIRED, ("r", symbols_of(raw))))


@pytest.mark.parametrize("tail", ["p", "pq", "ppp", head("q", 5) + "qqqq", head("q", 1_023)])
def test_a_field_that_goes_past_the_end_is_refused(tail: str) -> None:
    """In its head or in its value; the signature's symbols are not the field's."""
    content = "q" * 7 + "".join(head(tag, len(value)) + value for tag, value in REQUIRED)
    with pytest.raises(InvalidInvoiceError, match="cut off"):
        decode(signed("lnbcrt", content + tail))


def test_a_named_payee_must_have_signed() -> None:
    """With low S; a text without the name may have high S, which names the same payee."""
    assert decode(text_of(*REQUIRED, _NAMED)).payee == _KEY
    other = ("n", symbols_of(public_key(b"\x01" * 32)))
    for text in (
        text_of(*REQUIRED, other),
        text_of(*REQUIRED, _NAMED, high_s=True),
        text_of(*REQUIRED, ("n", symbols_of(b"\x02" + b"\xff" * 32))),
    ):
        with pytest.raises(InvalidInvoiceError, match="not signed by the payee that it names"):
            decode(text)
    assert decode(text_of(*REQUIRED, high_s=True)).payee == _KEY


def test_a_signature_of_zeros_is_not_valid() -> None:
    """Nobody is recovered from it."""
    content = "q" * 7 + "".join(head(tag, len(value)) + value for tag, value in REQUIRED)
    with pytest.raises(InvalidInvoiceError, match="signature is not valid"):
        decode(checked("lnbcrt", content + "q" * 104))
