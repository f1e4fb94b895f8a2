"""Mutable items: one signed value for each key and salt, the newest sequence counts (BEP 44).

A key is an Ed25519 public key.  Who holds an item cannot change it, only keep an old one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import nacl.bindings
import nacl.exceptions

from zmqex.dht import bencode
from zmqex.dht.bencode import Value
from zmqex.dht.limits import DHT_ITEM_BYTES_MAX, DHT_SALT_BYTES_MAX
from zmqex.errors import LocalProtocolError
from zmqex.limits import INTEGER_MAX

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class ItemKey:
    """What an item is found by: its owner's public key, and one owner's several items by salt."""

    key: bytes
    salt: bytes = b""

    @property
    def target(self) -> bytes:
        """Where the item lies among the node ids."""
        return hashlib.sha1(self.key + self.salt, usedforsecurity=False).digest()


@dataclass(frozen=True, slots=True)
class Item:
    """A signed value; `is_genuine` says whether its key signed it."""

    where: ItemKey
    sequence: int
    value: Value
    signature: bytes

    def arguments(self) -> dict[bytes, Value]:
        """Return its part of a put, or of the answer to a get (there the salt is known)."""
        return {
            b"k": self.where.key,
            b"seq": self.sequence,
            b"sig": self.signature,
            b"v": self.value,
        }

    @property
    def is_genuine(self) -> bool:
        """Whether its key signed this salt, sequence and value."""
        signed = signed_bytes(self.where.salt, self.sequence, self.value)
        try:
            nacl.bindings.crypto_sign_open(self.signature + signed, self.where.key)
        except (nacl.exceptions.BadSignatureError, nacl.exceptions.ValueError):
            return False
        return True


def make_item(where: ItemKey, sequence: int, value: Value, sign: Callable[[bytes], bytes]) -> Item:
    """Return the item that `sign` (Ed25519, by the key of `where`) makes of `value`.

    Raises `LocalProtocolError` for what no node would keep.
    """
    if not 0 <= sequence <= INTEGER_MAX:
        raise LocalProtocolError("an item's sequence is 0 to 2^63 - 1")
    if len(where.key) != KEY_BYTES or len(where.salt) > DHT_SALT_BYTES_MAX:
        raise LocalProtocolError(f"a key has 32 bytes, a salt at most {DHT_SALT_BYTES_MAX}")
    if len(bencode.encode(value)) > DHT_ITEM_BYTES_MAX:
        raise LocalProtocolError(f"an item's value has at most {DHT_ITEM_BYTES_MAX} bytes")
    return Item(where, sequence, value, sign(signed_bytes(where.salt, sequence, value)))


def read_item(values: Mapping[bytes, Value], salt: bytes) -> Item | None:
    """Read an item as a put or an answer tells it, not yet verified; None if there is none."""
    key, sequence, signature = values.get(b"k"), values.get(b"seq"), values.get(b"sig")
    value = values.get(b"v")
    if not isinstance(key, bytes) or len(key) != KEY_BYTES or value is None:
        return None
    if not isinstance(signature, bytes) or len(signature) != SIGNATURE_BYTES:
        return None
    if not isinstance(sequence, int) or sequence < 0:
        return None
    return Item(ItemKey(key, salt), sequence, value, signature)


def signed_bytes(salt: bytes, sequence: int, value: Value) -> bytes:
    """Return what the signature is over: the bencoded pairs, without the dictionary around."""
    salted = b"4:salt" + bencode.encode(salt) if salt else b""
    return salted + b"3:seqi%de1:v" % sequence + bencode.encode(value)
