"""The codec against every example of the specification (tests/data/bolt11_vectors.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest

from zmqex.bolt11 import (
    Fallback,
    InvalidInvoiceError,
    InvoiceNetwork,
    RouteHop,
    bech32,
    decode,
    keys,
)

_VECTORS: Final = json.loads(
    (Path(__file__).parents[1] / "data" / "bolt11_vectors.json").read_text(encoding="utf-8")
)
_VALID: Final = {vector["title"]: vector for vector in _VECTORS["valid"]}
_INVALID: Final = {vector["title"]: vector["invoice"] for vector in _VECTORS["invalid"]}
_SECRET_KEY: Final = bytes.fromhex(_VECTORS["priv_key"])
_HIGH_S: Final = "Public-key recovery with high-S signature"
_HASH: Final = bytes.fromhex("0001020304050607080900010203040506070809000102030405060708090102")

_REFUSALS: Final = {
    "Same, but adding invalid unknown feature 100": "feature 100",
    "Bech32 checksum is invalid.": "checksum",
    "Malformed bech32 string (no 1)": "no prefix",
    "Malformed bech32 string (mixed case)": "upper and lower case",
    "Signature is not recoverable.": "signature is not valid",
    "String is too short.": "too short",
    "Invalid multiplier": "amount is no number",
    "Invalid sub-millisatoshi precision.": "whole number of millisatoshi",
    "Missing required `s` field.": "no payment secret",
    "Non canonical signature (high-S) with 'n' field defined": "not signed by the payee",
}


def _text(title_part: str) -> str:
    """Return the one valid example whose title holds `title_part`."""
    (text,) = [one["invoice"] for title, one in _VALID.items() if title_part in title]
    return str(text)


def test_the_file_holds_all_examples_with_their_origin() -> None:
    """16 valid and 10 invalid examples, and where they are from."""
    assert (len(_VALID), len(_INVALID)) == (16, 10)
    assert _VECTORS["commit"] == "a3772650d8ebc06acf457fcadf97968ebfc4dfff"
    assert "CC-BY 4.0" in _VECTORS["license"]


@pytest.mark.parametrize("title", _VALID)
def test_every_valid_example_is_read_with_its_payee_and_signature(title: str) -> None:
    """The payee is the published one, and so is the signature."""
    vector = _VALID[title]
    invoice = decode(vector["invoice"])
    assert invoice.payee.hex() == vector["payee"]
    assert invoice.payment_hash == _HASH or "one week" in title
    assert invoice.payment_secret == b"\x11" * 32
    if "sig_hex" in vector:
        assert invoice.signature.hex() == f"{vector['sig_hex']}{vector['recid']:02x}"


@pytest.mark.parametrize("title", _REFUSALS)
def test_every_invalid_example_is_refused_for_its_own_reason(title: str) -> None:
    """The sentence says what is wrong with this example, not with another."""
    with pytest.raises(InvalidInvoiceError, match=_REFUSALS[title]):
        decode(_INVALID[title])


def test_no_invalid_example_is_forgotten() -> None:
    """The table of refusals above names each of them."""
    assert set(_REFUSALS) == set(_INVALID)


@pytest.mark.parametrize("title", [title for title in _VALID if title != _HIGH_S])
def test_signing_an_example_again_gives_the_same_text(title: str) -> None:
    """Digest, deterministic signature and checksum are those of the specification."""
    vector = _VALID[title]
    prefix, digits = bech32.read(vector["invoice"])
    signed = digits[:-104]
    digest = keys.digest_of(prefix, int(signed, 32), len(signed) * 5)
    signature = keys.sign(_SECRET_KEY, digest)
    value = int(signed, 32) << 520 | int.from_bytes(signature, "big")
    assert bech32.write(prefix, value, len(digits)) == vector["invoice"].lower()


@pytest.mark.parametrize("title", [title for title, one in _VALID.items() if "sig_digest" in one])
def test_the_digest_of_an_example_is_the_published_one(title: str) -> None:
    """What is signed is the prefix and the content, filled up to whole bytes."""
    vector = _VALID[title]
    prefix, digits = bech32.read(vector["invoice"])
    signed = digits[:-104]
    digest = keys.digest_of(prefix, int(signed, 32), len(signed) * 5)
    assert digest.hex() == vector["sig_digest"]


def test_a_donation_has_no_amount_and_the_default_times() -> None:
    """No amount is None; one hour and 18 blocks are what a missing field means."""
    invoice = decode(_text("donation of any amount"))
    assert invoice.amount_msat is None
    assert (invoice.timestamp_s, invoice.expiry_s, invoice.min_final_cltv) == (
        1_496_314_658,
        3_600,
        18,
    )
    assert invoice.description == "Please consider supporting this project"
    assert invoice.description_hash is None
    assert invoice.network is InvoiceNetwork.MAINNET


def test_a_cup_of_coffee_costs_a_quarter_millibitcoin_within_a_minute() -> None:
    """Multiplier u and the field x."""
    invoice = decode(_text("cup of coffee"))
    assert (invoice.amount_msat, invoice.expiry_s) == (250_000_000, 60)


def test_a_description_may_be_in_any_script() -> None:
    """The description is UTF-8."""
    assert decode(_text("nonsense")).description == "ナンセンス 1杯"


def test_an_amount_in_picobitcoin_is_exact() -> None:
    """967878534 millisatoshi, with an expiry, a final delta and a route hint of the example."""
    invoice = decode(_text("amount in pico-BTC"))
    assert invoice.amount_msat == 967_878_534
    assert (invoice.expiry_s, invoice.min_final_cltv) == (604_800, 10)
    assert len(invoice.route_hints) == 1


def test_fallback_addresses_keep_their_version_and_program() -> None:
    """P2PKH, P2SH, P2WPKH, P2WSH and P2TR are told apart."""
    found = [
        decode(_text(part)).fallbacks[0] for part in ("testnet", "P2SH", "P2WPKH", "P2WSH", "P2TR")
    ]
    assert [(one.version, len(one.program)) for one in found] == [
        (17, 20),
        (18, 20),
        (0, 20),
        (0, 32),
        (1, 32),
    ]
    assert found[0] == Fallback(17, bytes.fromhex("3172b5654f6683c8fb146959d347ce303cae4ca7"))
    assert decode(_text("testnet")).network is InvoiceNetwork.TESTNET


def test_a_route_hint_keeps_its_channels_in_order() -> None:
    """Both channels of the example, with every number of them."""
    invoice = decode(_text("extra routing info"))
    key = "9e03a901b85534ff1e92c43c74431f7ce72046060fcf7a95c37e148f78c77255"
    assert invoice.route_hints == (
        (
            RouteHop(bytes.fromhex("02" + key), 0x0102030405060708, 1, 20, 3),
            RouteHop(bytes.fromhex("03" + key), 0x030405060708090A, 2, 30, 4),
        ),
    )
    assert invoice.description is None
    assert invoice.description_hash is not None


def test_upper_case_is_the_same_invoice() -> None:
    """A QR code's text says exactly what its lower case says."""
    assert decode(_text("all upper case")) == decode(_text("all upper case").lower())


def test_features_are_a_set_of_bits() -> None:
    """8, 14 and 99 of the example."""
    features = decode(_text("features 8, 14 and 99")).features
    assert features == 1 << 8 | 1 << 14 | 1 << 99


def test_fields_that_must_be_ignored_are_kept_aside() -> None:
    """They change nothing of the invoice, and none of them is lost."""
    plain = decode(_text("features 8, 14 and 99"))
    invoice = decode(_text("must be ignored"))
    assert invoice.description == plain.description
    assert [field.tag for field in invoice.unknown_fields] == [10, 9, 1, 1, 23, 23, 16, 16, 19, 19]


def test_metadata_is_read() -> None:
    """The field m of the example, and its feature 48."""
    invoice = decode(_text("metadata"))
    assert invoice.metadata == bytes.fromhex("01fafaf0")
    assert invoice.features >> 48 & 1
