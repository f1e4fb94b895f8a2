"""Genuine items of one owner."""

from __future__ import annotations

import nacl.signing

from zmqex.dht.bencode import Value
from zmqex.dht.items import Item, ItemKey, make_item

KEY = nacl.signing.SigningKey(b"k" * 32)
PUBLIC = bytes(KEY.verify_key)
WHERE = ItemKey(PUBLIC, b"zmqex:play")
HERE = ("127.0.0.1", 5)


def sign(raw: bytes) -> bytes:
    """Sign as the owner of the key does."""
    return KEY.sign(raw).signature


def item(sequence: int, value: Value = b"here", salt: bytes = b"zmqex:play") -> Item:
    """Return a genuine item."""
    return make_item(ItemKey(PUBLIC, salt), sequence, value, sign)
