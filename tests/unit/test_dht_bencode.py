"""Bencoding: BEP 3's examples, and everything that is not canonical or too big is refused."""

from __future__ import annotations

import pytest

from zmqex.dht.bencode import Value, decode, encode
from zmqex.dht.limits import DHT_BENCODE_DEPTH_MAX, DHT_BENCODE_ITEMS_MAX, DHT_DATAGRAM_BYTES_MAX
from zmqex.errors import LocalProtocolError, RemoteProtocolError

BEP_3_EXAMPLES: list[tuple[bytes, Value]] = [
    (b"4:spam", b"spam"),
    (b"i3e", 3),
    (b"i-3e", -3),
    (b"i0e", 0),
    (b"l4:spam4:eggse", [b"spam", b"eggs"]),
    (b"d3:cow3:moo4:spam4:eggse", {b"cow": b"moo", b"spam": b"eggs"}),
    (b"d4:spaml1:a1:bee", {b"spam": [b"a", b"b"]}),
    (b"0:", b""),
    (b"le", []),
    (b"de", {}),
]


@pytest.mark.parametrize(("raw", "value"), BEP_3_EXAMPLES)
def test_the_examples_of_bep_3_read_and_write(raw: bytes, value: Value) -> None:
    """Each example of the specification decodes to its value and encodes to its bytes."""
    assert decode(raw) == value
    assert encode(value) == raw


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"i-0e",
        b"i03e",
        b"i+3e",
        b"i 3e",
        b"i1_0e",
        b"ie",
        b"i3",
        b"i9223372036854775808e",
        b"i" + b"9" * 5_000 + b"e",
        b"03:abc",
        b"3:ab",
        b"-1:a",
        b"99999999:a",
        b"3abc",
        b"l",
        b"li1e",
        b"d",
        b"d1:a",
        b"di1e1:ae",
        b"d1:b1:x1:a1:ye",
        b"d1:a1:x1:a1:ye",
        b"i1ei2e",
        b"x",
    ],
)
def test_what_is_not_canonical_is_refused(raw: bytes) -> None:
    """Leading zeros, unsorted or double keys, ends and rests: never a value, never a crash."""
    with pytest.raises(RemoteProtocolError, match="malformed bencoding"):
        decode(raw)


def test_depth_is_bounded_exactly() -> None:
    """The deepest allowed nesting reads; one more is refused, and so are thousands."""
    depth = DHT_BENCODE_DEPTH_MAX + 1
    assert decode(b"l" * depth + b"e" * depth)

    for deeper in (depth + 1, 4_000):
        with pytest.raises(RemoteProtocolError, match="too deep"):
            decode(b"l" * deeper + b"e" * deeper)


def test_the_number_of_items_is_bounded_exactly() -> None:
    """A list that fills the bound reads; one more item is refused."""
    fits = DHT_BENCODE_ITEMS_MAX - 1
    assert decode(b"l" + b"0:" * fits + b"e") == [b""] * fits

    with pytest.raises(RemoteProtocolError, match="too many"):
        decode(b"l" + b"0:" * (fits + 1) + b"e")


def test_the_length_is_bounded_exactly() -> None:
    """A datagram of the greatest length reads; one more byte is refused unread."""
    text = b"x" * (DHT_DATAGRAM_BYTES_MAX - 5)
    assert decode(b"%d:%b" % (len(text), text)) == text

    with pytest.raises(RemoteProtocolError, match="too long"):
        decode(b"%d:%bx" % (len(text) + 1, text))


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_an_integer_beyond_64_bits_is_not_written(number: int) -> None:
    """Our own mistake is named: no reader would take it."""
    with pytest.raises(LocalProtocolError, match="64 bits"):
        encode([number])
    with pytest.raises(RemoteProtocolError, match="integer"):
        decode(b"i%de" % number)


def test_the_ends_of_64_bits_read_and_write() -> None:
    """Both extreme integers survive."""
    for number in (2**63 - 1, -(2**63)):
        assert decode(encode(number)) == number
