"""Mutable items: what is signed, where it lies, who may keep and replace it (BEP 44)."""

from __future__ import annotations

import pytest

from tests.unit.dht_items import HERE, PUBLIC, WHERE, item, sign
from zmqex.dht import bencode
from zmqex.dht.bencode import Value
from zmqex.dht.item_store import ItemStore
from zmqex.dht.items import Item, ItemKey, make_item, read_item, signed_bytes
from zmqex.dht.krpc import Code
from zmqex.dht.limits import (
    DHT_ITEM_BYTES_MAX,
    DHT_ITEM_LIFE_MS,
    DHT_ITEMS_MAX,
    DHT_ITEMS_PER_SOURCE_MAX,
    DHT_SALT_BYTES_MAX,
)
from zmqex.errors import LocalProtocolError
from zmqex.limits import INTEGER_MAX

# BEP 44, "test vectors", 1 and 2: the same key and value without and with a salt.
BEP_KEY = "77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548"
BEP_VECTORS = [
    (
        b"",
        b"3:seqi1e1:v12:Hello World!",
        "4a533d47ec9c7d95b1ad75f576cffc641853b750",
        (
            "305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff"
            "1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01"
        ),
    ),
    (
        b"foobar",
        b"4:salt6:foobar3:seqi1e1:v12:Hello World!",
        "411eba73b6f087ca51a3795d9c8c938d365e32c1",
        (
            "6834284b6b24c3204eb2fea824d82f88883a3d95e8b4a21b8c0ded553d17d17d"
            "df9a8a7104b1258f30bed3787e6cb896fca78c58f8e03b5f18f14951a87d9a08"
        ),
    ),
]


@pytest.mark.parametrize(("salt", "signed", "target", "signature"), BEP_VECTORS)
def test_the_vectors_of_bep_44_hold(
    salt: bytes, signed: bytes, target: str, signature: str
) -> None:
    """What is signed, the target, and that the signature is genuine there and nowhere else."""
    where = ItemKey(bytes.fromhex(BEP_KEY), salt)
    found = Item(where, 1, b"Hello World!", bytes.fromhex(signature))
    assert signed_bytes(salt, 1, b"Hello World!") == signed
    assert where.target.hex() == target
    assert found.is_genuine
    assert not Item(where, 2, b"Hello World!", found.signature).is_genuine
    assert not Item(ItemKey(where.key, b"other"), 1, b"Hello World!", found.signature).is_genuine


def test_what_no_node_would_keep_is_not_made() -> None:
    """Our own mistakes are named."""
    for where, sequence, value in (
        (WHERE, -1, b""),
        (WHERE, INTEGER_MAX + 1, b""),
        (ItemKey(b"short"), 0, b""),
        (ItemKey(PUBLIC, b"s" * (DHT_SALT_BYTES_MAX + 1)), 0, b""),
        (WHERE, 0, b"v" * DHT_ITEM_BYTES_MAX),
    ):
        with pytest.raises(LocalProtocolError):
            make_item(where, sequence, value, sign)


def test_an_item_is_read_back_from_its_arguments() -> None:
    """With the salt that the reader knows."""
    made = item(7, [b"a", {b"b": 1}])
    assert read_item(made.arguments(), b"zmqex:play") == made
    assert made.is_genuine


@pytest.mark.parametrize(
    "wrong",
    [{b"k": b"short"}, {b"k": 1}, {b"sig": b"short"}, {b"sig": 1}, {b"seq": -1}, {b"seq": b"1"}],
)
def test_a_malformed_item_is_none(wrong: dict[bytes, Value]) -> None:
    """Any part of another type, length or sign."""
    assert read_item(item(7).arguments() | wrong, b"") is None


def test_an_item_without_a_value_is_none() -> None:
    """An answer without one tells the sequence only."""
    arguments = item(7).arguments()
    del arguments[b"v"]
    assert read_item(arguments, b"") is None


def test_only_a_newer_item_replaces_one_and_the_same_renews_it() -> None:
    """By sequence; another value of the same sequence is refused."""
    store = ItemStore()
    assert store.put(item(5), HERE, 0) is None
    assert store.put(item(4), HERE, 0) is Code.OLD_SEQUENCE
    assert store.put(item(5, b"other"), HERE, 0) is Code.OLD_SEQUENCE
    assert store.put(item(5), ("127.0.0.1", 6), DHT_ITEM_LIFE_MS - 1) is None
    assert store.get(WHERE.target, DHT_ITEM_LIFE_MS + 1) == item(5)
    assert store.put(item(6), HERE, DHT_ITEM_LIFE_MS) is None
    assert store.get(WHERE.target, DHT_ITEM_LIFE_MS) == item(6)
    assert store.get(WHERE.target, 2 * DHT_ITEM_LIFE_MS) is None
    assert len(store) == 0


def test_compare_and_swap_is_against_what_is_here() -> None:
    """Nothing here matches everything."""
    store = ItemStore()
    assert store.put(item(5), HERE, 0, cas=99) is None
    assert store.put(item(6), HERE, 0, cas=4) is Code.CAS_MISMATCH
    assert store.put(item(6), HERE, 0, cas=5) is None


def test_forged_and_oversized_items_are_refused_by_their_codes() -> None:
    """The bounds are exact."""
    store = ItemStore()
    forged = Item(WHERE, 1, b"other", item(1).signature)
    assert store.put(forged, HERE, 0) is Code.BAD_SIGNATURE
    bad_key = Item(ItemKey(b"\xff" * 32), 1, b"", bytes(64))
    assert store.put(bad_key, HERE, 0) is Code.BAD_SIGNATURE
    full = b"v" * (DHT_ITEM_BYTES_MAX - len(b"996:"))
    assert len(bencode.encode(full)) == DHT_ITEM_BYTES_MAX
    assert store.put(item(1, full), HERE, 0) is None
    assert store.put(Item(WHERE, 2, full + b"v", bytes(64)), HERE, 0) is Code.VALUE_TOO_BIG
    salt = b"s" * DHT_SALT_BYTES_MAX
    assert store.put(item(1, salt=salt), HERE, 0) is None
    long = Item(ItemKey(PUBLIC, salt + b"s"), 1, b"", bytes(64))
    assert store.put(long, HERE, 0) is Code.SALT_TOO_BIG


def test_one_source_has_its_share_and_may_still_renew_it() -> None:
    """The share counts sources, not senders: a public host is one, whatever its port."""
    store = ItemStore()
    for number in range(DHT_ITEMS_PER_SOURCE_MAX):
        one = item(1, salt=b"%d" % number)
        assert store.put(one, ("8.8.8.8", 1 + number), 0) is None
    assert store.put(item(1, salt=b"more"), ("8.8.8.8", 1), 0) is Code.SERVER
    assert store.put(item(2, salt=b"0"), ("8.8.8.8", 1), 0) is None
    assert store.put(item(1, salt=b"more"), ("9.9.9.9", 1), 0) is None
    # What another put is not ours to move into a full share, but to repeat.
    assert store.put(item(1, salt=b"more"), ("8.8.8.8", 1), 0) is None
    assert store.put(item(2, salt=b"more"), ("8.8.8.8", 1), 0) is Code.SERVER


def test_a_full_store_makes_room_at_the_cost_of_who_has_most() -> None:
    """And for nobody who has as much; our own always fit."""
    store = ItemStore()
    hosts = DHT_ITEMS_MAX // DHT_ITEMS_PER_SOURCE_MAX
    # Kept as if put: 4,096 signatures would take seconds.
    for number in range(DHT_ITEMS_MAX):
        host = f"8.8.{number % hosts}.8"
        store._put(Item(ItemKey(PUBLIC, b"%d" % number), 1, b"", bytes(64)), host, 0)
    newcomer = ("9.9.9.9", 1)
    assert store.put(item(1), newcomer, 0) is None
    assert len(store) == DHT_ITEMS_MAX
    for number in range(DHT_ITEMS_PER_SOURCE_MAX - 2):
        store._put(Item(ItemKey(PUBLIC, b"n%d" % number), 1, b"", bytes(64)), "9.9.9.9", 0)
    assert store.put(item(1, salt=b"x"), newcomer, 0) is Code.SERVER
    before = len(store)
    store.keep(item(1, salt=b"own"), 0)
    assert len(store) == before + 1
