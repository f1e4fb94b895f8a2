"""The field types: what lies on a bound is decoded, what lies beyond it is not."""

from __future__ import annotations

from typing import Any

import msgpack
import msgspec
import pytest

from zmqex.limits import ATTEMPTS_MAX, FRAME_BYTES_MAX, INTEGER_MAX
from zmqex.protocol import fields
from zmqex.protocol.fields import (
    Attempt,
    Blob,
    Count,
    Digest,
    Digests,
    Host,
    Label,
    Milliseconds,
    NetworkName,
    NodeKey,
    Nonce,
    Port,
    Positive,
    PublicKey,
    ShortText,
    Signature,
    SmallCount,
    Symbol,
    Word,
)

# Type, what it takes, what it does not take.
BOUNDS: list[tuple[str, Any, list[object], list[object]]] = [
    ("Digest", Digest, [bytes(32)], [b"", bytes(31), bytes(33), "a" * 32, None]),
    ("Digests", Digests, [bytes(8_192)], [b"", bytes(8_191), bytes(8_193)]),
    ("PublicKey", PublicKey, [bytes(32)], [bytes(31), bytes(33)]),
    ("NodeKey", NodeKey, [bytes(33)], [bytes(32), bytes(34)]),
    ("Signature", Signature, [bytes(64)], [bytes(63), bytes(65)]),
    ("Nonce", Nonce, [bytes(16)], [bytes(15), bytes(17)]),
    ("Blob", Blob, [b"", bytes(FRAME_BYTES_MAX)], [bytes(FRAME_BYTES_MAX + 1), "text"]),
    ("Count", Count, [0, INTEGER_MAX], [-1, INTEGER_MAX + 1, True, 1.0, "1"]),
    ("Positive", Positive, [1, INTEGER_MAX], [0, INTEGER_MAX + 1, False]),
    ("Milliseconds", Milliseconds, [0, 2**53], [-1, 2**53 + 1]),
    ("Port", Port, [1, 65_535], [0, 65_536]),
    ("SmallCount", SmallCount, [0, 1_000], [-1, 1_001]),
    ("Attempt", Attempt, [2, ATTEMPTS_MAX], [1, ATTEMPTS_MAX + 1, True]),
    (
        "Symbol",
        Symbol,
        ["BTC/USD", "A1/B2", "A" * 12 + "/" + "Z" * 12],
        ["BTCUSD", "btc/usd", "A/USD", "BTC/USD\n", " BTC/USD", "A" * 13 + "/USD", "BTC/USD/X"],
    ),
    (
        "NetworkName",
        NetworkName,
        ["play", "a", "z9" * 8],
        ["", "a" * 17, "Play", "play\n", "pl/ay"],
    ),
    ("Label", Label, ["a", "X y" * 13], ["", "a" * 41, b"plain"]),
    ("Word", Word, ["held", "a_1", "a" * 40], ["", "a" * 41, "Held", "held\n", "he-ld", "he ld"]),
    (
        "Host",
        Host,
        ["", "example.org", "::1", "fe80::1", "a" * 255],
        ["a" * 256, "a b", "a\n", "tcp://a", "a@b", "[::1]"],
    ),
    ("ShortText", ShortText, ["", "\u20bf" * 200], ["a" * 201, b"bytes"]),
]
INSIDE = [(name, kind, value) for name, kind, good, _ in BOUNDS for value in good]
OUTSIDE = [(name, kind, value) for name, kind, _, bad in BOUNDS for value in bad]


def decoded(kind: object, value: object) -> object:
    """What a decoder of that type makes of a value that another library has packed."""
    decoder: msgspec.msgpack.Decoder[object] = msgspec.msgpack.Decoder(kind)
    return decoder.decode(msgpack.packb(value))


@pytest.mark.parametrize(("name", "kind", "value"), INSIDE)
def test_what_lies_within_the_bounds_is_decoded(name: str, kind: object, value: object) -> None:
    """The bound itself is inside."""
    assert decoded(kind, value) == value, name


@pytest.mark.parametrize(("name", "kind", "value"), OUTSIDE)
def test_what_lies_beyond_them_is_not(name: str, kind: object, value: object) -> None:
    """One more, one less, another type, or a line break at the end: refused in the same pass."""
    with pytest.raises(msgspec.ValidationError):
        decoded(kind, value)
    assert name


def test_every_field_type_is_held_to_its_bounds() -> None:
    """A type that is added has a row above."""
    public = {
        name
        for name in vars(fields)
        if name[0].isupper() and name not in {"Annotated", "Final", "Meta"} and not name.isupper()
    }
    assert public == {name for name, *_ in BOUNDS}
