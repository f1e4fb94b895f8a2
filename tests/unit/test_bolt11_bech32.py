"""Bech32 as BOLT 11 uses it, against the reference algorithm of BIP 173."""

from __future__ import annotations

import random
from typing import Final

import pytest

from zmqex.bolt11 import bech32
from zmqex.errors import InvalidInvoiceError

_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def _reference(prefix: str, symbols: list[int]) -> str:
    """BIP 173's own way, symbol by symbol."""
    expanded = [ord(one) >> 5 for one in prefix] + [0] + [ord(one) & 31 for one in prefix]
    residue = 1
    for symbol in expanded + symbols + [0] * 6:
        top = residue >> 25
        residue = (residue & 0x1FFFFFF) << 5 ^ symbol
        for bit in range(5):
            residue ^= _GENERATOR[bit] * (top >> bit & 1)
    checksum = [(residue ^ 1) >> 5 * (5 - place) & 31 for place in range(6)]
    return prefix + "1" + "".join(bech32.CHARSET[one] for one in symbols + checksum)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 111, 255, 256, 257, 1_016, 1_017, 2_100, 7_000])
def test_any_length_has_the_checksum_of_the_reference(count: int) -> None:
    """Also where the code's period of 1,023 symbols is passed, once and several times."""
    chance = random.Random(count)
    symbols = [chance.randrange(32) for _ in range(count)]
    value = 0
    for symbol in symbols:
        value = value << 5 | symbol

    text = bech32.write("lnbcrt25m", value, count)

    assert text == _reference("lnbcrt25m", symbols)
    prefix, digits = bech32.read(text)
    assert (prefix, len(digits), int(digits or b"0", 32)) == ("lnbcrt25m", count, value)


@pytest.mark.parametrize(
    "text",
    ["a12uel5l", "A12UEL5L", "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw", "?1ezyfcl"],
)
def test_the_valid_strings_of_bip_173_are_read(text: str) -> None:
    """In either case, and with the rarest prefixes."""
    prefix, _ = bech32.read(text)
    assert prefix == text.lower().rpartition("1")[0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("A1G7SGD8", "checksum"),
        ("a12UEL5L", "upper and lower case"),
        ("x1b4n0q5v", "does not have"),
        ("li1dgmt3", "too short"),
        ("pzry9x0s0muk", "no prefix"),
        ("", "no prefix"),
        ("1qzzfhee", "no prefix"),
        ("a1 2uel5l", "does not have"),
        ("a1_2uel5l", "does not have"),
        ("a1-2uel5l", "does not have"),
        ("ä12uel5l", "ASCII"),
        # The Kelvin sign: its lower case is the letter k.
        ("\N{KELVIN SIGN}12UEL5L", "ASCII"),
        ("\ud800", "ASCII"),
    ],
)
def test_what_is_not_bech32_is_refused(text: str, why: str) -> None:
    """Each with its own sentence; nothing that Python's numbers allow slips through."""
    with pytest.raises(InvalidInvoiceError, match=why):
        bech32.read(text)


def test_characters_and_digits_are_two_ways_to_write_symbols() -> None:
    """There and back; other characters have no digits."""
    digits = bech32.digits_of(bech32.CHARSET)
    assert digits == b"0123456789abcdefghijklmnopqrstuv"
    assert bech32.characters(digits) == bech32.CHARSET
    assert bech32.digits_of("") == b""
    assert bech32.digits_of("QQ") is None
    assert bech32.digits_of("q1") is None
    assert bech32.digits_of("\ud800") is None
