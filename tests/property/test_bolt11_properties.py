"""Laws of the invoice codec: what is written is what is read, and nothing changed is accepted."""

from __future__ import annotations

from typing import Final

from hypothesis import assume, given
from hypothesis import strategies as st

from tests.unit.bolt11_raw import SECRET_KEY, checked, signed, symbols_of, text_of
from zmqex.bolt11 import (
    Draft,
    Fallback,
    InvalidInvoiceError,
    Invoice,
    InvoiceNetwork,
    RouteHop,
    UnknownField,
    bech32,
    decode,
    encode,
    public_key,
)
from zmqex.limits import (
    INVOICE_AMOUNT_MSAT_MAX,
    INVOICE_CLTV_BLOCKS_MAX,
    INVOICE_EXPIRY_S_MAX,
)

_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_KEY: Final = public_key(SECRET_KEY)
_SYMBOLS: Final = st.text(bech32.CHARSET, max_size=60)
_HASHES: Final = st.binary(min_size=32, max_size=32)

_secret_keys = st.integers(1, _ORDER - 1).map(lambda number: number.to_bytes(32, "big"))
_hops = st.builds(
    RouteHop,
    st.sampled_from([_KEY, public_key(b"\x01" * 32)]),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**16 - 1),
)
_lengths = dict.fromkeys(range(2, 17), (2, 40)) | {0: (20, 32), 1: (32,), 17: (20,), 18: (20,)}
_fallbacks = st.sampled_from(sorted(_lengths)).flatmap(
    lambda version: st.sampled_from(_lengths[version]).flatmap(
        lambda length: st.builds(
            Fallback, st.just(version), st.binary(min_size=length, max_size=length)
        )
    )
)
# Tags that nobody has defined, and lengths that make the others unreadable.
_unknown = st.one_of(
    st.builds(UnknownField, st.sampled_from([0, 2, 7, 31]), _SYMBOLS),
    st.builds(UnknownField, st.sampled_from([1, 16, 19, 23]), st.text("qpl", max_size=51)),
    st.builds(UnknownField, st.just(9), st.from_regex(r"[nkhl][qpl]{0,5}", fullmatch=True)),
)
_features = st.sets(st.sampled_from([8, 9, 15, 16, 17, 48, 49, 99, 261])).map(
    lambda bits: sum(1 << bit for bit in {*bits, 14})
)
_texts = st.text(st.characters(codec="utf-8"), max_size=150)


@st.composite
def _drafts(draw: st.DrawFn) -> Draft:
    """Any invoice that may be signed."""
    described = draw(st.booleans())
    return Draft(
        network=draw(st.sampled_from(InvoiceNetwork)),
        timestamp_s=draw(st.integers(0, 2**35 - 1)),
        payment_hash=draw(_HASHES),
        payment_secret=draw(_HASHES),
        amount_msat=draw(st.none() | st.integers(1, INVOICE_AMOUNT_MSAT_MAX)),
        description=draw(_texts) if described else None,
        description_hash=None if described else draw(_HASHES),
        expiry_s=draw(st.integers(0, INVOICE_EXPIRY_S_MAX)),
        min_final_cltv=draw(st.integers(0, INVOICE_CLTV_BLOCKS_MAX)),
        features=draw(_features),
        metadata=draw(st.none() | st.binary(max_size=60)),
        route_hints=draw(
            st.lists(st.lists(_hops, min_size=1, max_size=3).map(tuple), max_size=2).map(tuple)
        ),
        fallbacks=draw(st.lists(_fallbacks, max_size=2).map(tuple)),
        unknown_fields=draw(st.lists(_unknown, max_size=3).map(tuple)),
    )


def _read(text: str) -> Invoice | None:
    """Return the invoice, or None if it is refused; any other exception fails the test."""
    try:
        return decode(text)
    except InvalidInvoiceError:
        return None


@given(_drafts(), _secret_keys)
def test_what_is_written_is_what_is_read(draft: Draft, secret_key: bytes) -> None:
    """Every field and the payee; and the text of what was read is the same text."""
    text = encode(draft, secret_key)
    invoice = decode(text)
    for name in Draft.__struct_fields__:
        assert getattr(invoice, name) == getattr(draft, name), name
    assert invoice.payee == public_key(secret_key)
    assert encode(invoice, secret_key) == text
    assert decode(text.upper()) == invoice


@given(_drafts(), st.data())
def test_one_to_three_changed_characters_are_always_noticed(
    draft: Draft, data: st.DataObject
) -> None:
    """The checksum promises it in a text of up to 1,023 symbols, prefix included."""
    text = encode(draft, SECRET_KEY)
    symbols = text.rindex("1") + 1
    assume(len(text) + symbols <= 1_023)
    places = data.draw(
        st.lists(st.integers(symbols, len(text) - 1), min_size=1, max_size=3, unique=True)
    )
    changed = list(text)
    for place in places:
        others = bech32.CHARSET.replace(text[place], "")
        changed[place] = data.draw(st.sampled_from(others))
    assert _read("".join(changed)) is None


@given(_drafts(), st.data())
def test_a_text_with_a_flipped_bit_is_refused_or_the_same(
    draft: Draft, data: st.DataObject
) -> None:
    """Whatever character a bit makes of another, prefix and separator included."""
    text = encode(draft, SECRET_KEY)
    place = data.draw(st.integers(0, len(text) - 1))
    bit = data.draw(st.integers(0, 7))
    changed = text[:place] + chr(ord(text[place]) ^ 1 << bit) + text[place + 1 :]
    assert _read(changed) is None


@given(_drafts(), st.data())
def test_a_change_with_a_new_checksum_never_keeps_the_payee(
    draft: Draft, data: st.DataObject
) -> None:
    """Who can repair the checksum still cannot sign: other content is another payee's, or no one's.

    Symbols are changed, inserted, removed, and another prefix is put before them.
    """
    text = encode(draft, SECRET_KEY)
    original = decode(text)
    prefix, digits = bech32.read(text)
    symbols = bech32.characters(digits)
    start = data.draw(st.integers(0, len(symbols)))
    end = data.draw(st.integers(start, min(len(symbols), start + 8)))
    other = data.draw(st.sampled_from([prefix, "lnbc", "lnbcrt1m", "lntb10p"]))
    changed = symbols[:start] + data.draw(st.text(bech32.CHARSET, max_size=8)) + symbols[end:]
    found = _read(checked(other, changed))
    if found is not None and found != original:
        assert found.payee != original.payee


@given(st.data())
def test_a_change_to_an_invoice_that_names_its_payee_is_refused(data: st.DataObject) -> None:
    """With the field n the reader itself can tell; only the recovery id is not covered by it."""
    text = text_of(
        ("p", "p" * 51 + "q"),
        ("s", "l" * 51 + "q"),
        ("d", symbols_of(b"coffee")),
        ("n", symbols_of(_KEY)),
        prefix="lnbcrt2500u",
    )
    prefix, digits = bech32.read(text)
    value = int(digits, 32)
    bit = data.draw(st.integers(8, len(digits) * 5 - 1))
    changed = bech32.write(prefix, value ^ 1 << bit, len(digits))
    found = _read(changed)
    # A flip in the head or value of `n` itself can only hide the name: then another one signed.
    assert found is None or found.payee != _KEY


@given(st.text(max_size=400) | st.text(bech32.CHARSET + "1lnbcrt", max_size=400))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing else happens; what is no invoice from its first letters on is always refused."""
    found = _read(text)
    assert found is None or text.lower().startswith("ln")


@given(st.sampled_from(["lnbc", "lnbcrt25u", "lntbs1"]), st.text(bech32.CHARSET, max_size=400))
def test_any_signed_nonsense_is_read_or_refused(prefix: str, content: str) -> None:
    """Right checksums and signatures bring the random content to every part of the reader."""
    found = _read(signed(prefix, content))
    assert found is None or found.payee == _KEY


@given(
    st.lists(
        st.tuples(st.sampled_from(bech32.CHARSET), st.text(bech32.CHARSET, max_size=60)), max_size=6
    )
)
def test_any_fields_are_read_or_refused(fields: list[tuple[str, str]]) -> None:
    """Well-formed fields with any content; if they are read, they can be written again."""
    required = [("p", "q" * 52), ("s", "q" * 52)]
    found = _read(text_of(*required, *fields))
    if found is not None and found.features >> 14 & 3:
        again = decode(encode(found, SECRET_KEY))
        for name in Draft.__struct_fields__:
            assert getattr(again, name) == getattr(found, name), name
