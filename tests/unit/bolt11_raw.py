"""Signed invoices of any fields, right or wrong, for tests of the reader.

Not for valid invoices only: that is `encode`.  Values are Bech32 characters.
"""

from __future__ import annotations

from typing import Final

from zmqex.bolt11 import bech32, keys

SECRET_KEY: Final = bytes.fromhex(
    "e126f68f7eafcc8b74f54d269fe206be715000f94dac067d1c04a8ca3b2db734"
)
ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
# The fields that an invoice must have, for the smallest valid one.
HASH: Final = ("p", "q" * 52)
SECRET: Final = ("s", "q" * 52)
DESCRIPTION: Final = ("d", "")
REQUIRED: Final = (HASH, SECRET, DESCRIPTION)

Field = tuple[str, str]


def symbols_of(raw: bytes) -> str:
    """Return bytes as Bech32 characters, padded with zero bits."""
    count = -(-len(raw) * 8 // 5)
    value = int.from_bytes(raw, "big") << count * 5 - len(raw) * 8
    return "".join(bech32.CHARSET[value >> 5 * place & 31] for place in reversed(range(count)))


def text_of(*fields: Field, prefix: str = "lnbcrt", high_s: bool = False) -> str:
    """Return the invoice of these fields, signed by SECRET_KEY."""
    content = "q" * 7 + "".join(head(tag, len(value)) + value for tag, value in fields)
    return signed(prefix, content, high_s=high_s)


def head(tag: str, symbols: int) -> str:
    """Return the tag and the length of a field."""
    return tag + bech32.CHARSET[symbols >> 5] + bech32.CHARSET[symbols & 31]


def signed(prefix: str, content: str, *, high_s: bool = False) -> str:
    """Return `content`, which may be nonsense, with a signature and a checksum."""
    value = value_of(content)
    signature = keys.sign(SECRET_KEY, keys.digest_of(prefix, value, len(content) * 5))
    if high_s:
        s = ORDER - int.from_bytes(signature[32:64], "big")
        signature = signature[:32] + s.to_bytes(32, "big") + bytes((signature[64] ^ 1,))
    return checked(prefix, content + symbols_of(signature))


def checked(prefix: str, symbols: str) -> str:
    """Return a text with the right checksum."""
    return bech32.write(prefix, value_of(symbols), len(symbols))


def value_of(symbols: str) -> int:
    """Return the number that Bech32 characters are."""
    return sum(bech32.CHARSET.index(one) << 5 * place for place, one in enumerate(symbols[::-1]))
