"""Bech32 without its limit of 90 characters (BIP 173), as BOLT 11 uses it.

Text on one side; a prefix and one integer of 5-bit symbols on the other, because big integers
are the fastest way to move bits in Python.  Not for addresses, and not for bech32m.

The checksum is linear over bits: each of its 30 bits is the parity of a fixed choice of the
bits before it.  So it is 30 masks and 30 counts of ones, whatever the length of the text.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from zmqex.errors import InvalidInvoiceError

SYMBOL_BITS: Final = 5
CHARSET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
CHECKSUM_SYMBOLS: Final = 6

_CHECKSUM_BITS: Final = CHECKSUM_SYMBOLS * SYMBOL_BITS
# Python reads base 32 with these digits; "!" is none, so it stands for what is no symbol.
_DIGITS: Final = b"0123456789abcdefghijklmnopqrstuv"
_TO_DIGIT: Final = bytes(
    _DIGITS[CHARSET.index(chr(byte))] if chr(byte) in CHARSET else ord("!") for byte in range(256)
)
_FROM_SYMBOL: Final = (CHARSET * 8).encode()
_TO_CHARACTER: Final = bytes.maketrans(_DIGITS, CHARSET.encode())
_HIGH_DIGIT: Final = bytes(_DIGITS[byte >> 5] for byte in range(256))
_LOW_DIGIT: Final = bytes(_DIGITS[byte & 31] for byte in range(256))
# What a multiplication by x adds for each bit that leaves the checksum (BIP 173's GEN).
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
# The code is cyclic: a symbol weighs the same 1,023 places further on.
_PERIOD: Final = 1_023
_PERIOD_BITS: Final = _PERIOD * SYMBOL_BITS


def read(text: str) -> tuple[str, bytes]:
    """Split `text` into its prefix in lower case and its symbols as base-32 digits.

    The digits (0-9, a-v) are without the checksum, and `int(digits, 32)` is their value.
    Raises `InvalidInvoiceError` if the text is not Bech32 or its checksum is wrong.
    """
    # First of all: lower() makes ASCII of some characters that are not, like the Kelvin sign.
    if not text.isascii():
        raise InvalidInvoiceError("the invoice holds characters that are not plain ASCII")
    lower = text.lower()
    if text != lower and text != text.upper():
        raise InvalidInvoiceError("the invoice mixes upper and lower case")
    prefix, _, symbols = lower.rpartition("1")
    if not prefix:
        raise InvalidInvoiceError("the invoice has no prefix that ends before a '1'")
    digits = symbols.encode().translate(_TO_DIGIT)
    if b"!" in digits:
        raise InvalidInvoiceError("the invoice holds characters that Bech32 does not have")
    if len(digits) < CHECKSUM_SYMBOLS:
        raise InvalidInvoiceError("the invoice is too short")
    if _residue(int(_expanded(prefix) + digits, 32)) != 1:
        raise InvalidInvoiceError("the invoice's checksum is wrong: a character was changed")
    return prefix, digits[:-CHECKSUM_SYMBOLS]


def write(prefix: str, value: int, count: int) -> str:
    """Return the Bech32 text of `prefix` and the `count` lowest symbols of `value`."""
    whole = int(_expanded(prefix), 32) << count * SYMBOL_BITS | value
    # A valid text leaves 1, not 0, so that zeros after it do not make another valid text.
    checksum = _residue(whole << _CHECKSUM_BITS) ^ 1
    symbols = _spread(value << _CHECKSUM_BITS | checksum, count + CHECKSUM_SYMBOLS)
    return f"{prefix}1{symbols.translate(_FROM_SYMBOL).decode()}"


def characters(digits: bytes) -> str:
    """Return base-32 digits as Bech32 characters."""
    return digits.translate(_TO_CHARACTER).decode()


def digits_of(text: str) -> bytes | None:
    """Return Bech32 characters as base-32 digits, or None if others are among them."""
    digits = text.encode(errors="replace").translate(_TO_DIGIT)
    return None if b"!" in digits else digits


def _expanded(prefix: str) -> bytes:
    """Return the digits that a prefix puts into the checksum: one, high bits, zero, low bits."""
    raw = prefix.encode()
    return b"1%b0%b" % (raw.translate(_HIGH_DIGIT), raw.translate(_LOW_DIGIT))


def _residue(value: int) -> int:
    """Return the symbols of `value`, as a polynomial, modulo the generator: 30 bits."""
    while value.bit_length() > _PERIOD_BITS:
        value = (value >> _PERIOD_BITS) ^ (value & _PERIOD_MASK)
    residue = 0
    for mask in _PARITY_MASKS:
        residue = residue << 1 | (value & mask).bit_count() & 1
    return residue


def _parity_masks() -> tuple[int, ...]:
    """For each bit of the residue, highest first: which bits of a value flip it."""
    overflow = [0] * 32
    for top in range(32):
        for bit, addend in enumerate(_GENERATOR):
            overflow[top] ^= addend * (top >> bit & 1)
    residues: list[int] = []
    row = [1, 2, 4, 8, 16]
    for _ in range(_PERIOD):
        residues += row
        row = [(one & 0x1FF_FFFF) << SYMBOL_BITS ^ overflow[one >> 25] for one in row]
    columns = "".join([f"{residue:030b}" for residue in reversed(residues)])
    return tuple(int(columns[bit::_CHECKSUM_BITS], 2) for bit in range(_CHECKSUM_BITS))


_PERIOD_MASK: Final = (1 << _PERIOD_BITS) - 1
_PARITY_MASKS: Final = _parity_masks()


def _spread(value: int, count: int) -> bytes:
    """Return the `count` lowest symbols of `value`, one in each byte, first symbol first.

    Halves move apart until each symbol has eight bits: nine steps for 300 symbols.
    """
    levels = (count - 1).bit_length()
    for mask, shift in _spread_steps(levels):
        low = value & mask
        value = (value ^ low) << shift | low
    return value.to_bytes(1 << levels, "big")[-count:]


@cache
def _spread_steps(levels: int) -> tuple[tuple[int, int], ...]:
    """For 2**levels symbols: which bits stay in each step, and how far the others move."""
    steps = []
    for level in reversed(range(levels)):
        half = 1 << level
        stay = (1 << SYMBOL_BITS * half) - 1
        slots = 1 << levels - level - 1
        steps.append((sum(stay << 16 * half * slot for slot in range(slots)), 3 * half))
    return tuple(steps)
