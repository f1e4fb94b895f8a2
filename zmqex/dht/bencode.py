"""Bencoding, strict and bounded (BEP 3, "bencoding").

Only the canonical form is read: sorted unique keys, no leading zeros, nothing after the value.
So `encode(decode(raw)) == raw` for everything that decodes, which is what a signature over a
part of a message (BEP 44) needs.  Not for files: the bounds are those of one datagram.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

from zmqex.dht.limits import DHT_BENCODE_DEPTH_MAX, DHT_BENCODE_ITEMS_MAX, DHT_DATAGRAM_BYTES_MAX
from zmqex.errors import LocalProtocolError, RemoteProtocolError
from zmqex.limits import INTEGER_MAX

Value: TypeAlias = "int | bytes | list[Value] | dict[bytes, Value]"

# At most 19 digits, so that `int` never sees a number that takes long to convert.
_INTEGER: Final = re.compile(rb"(0|-?[1-9][0-9]{0,18})e")
_LENGTH: Final = re.compile(rb"(0|[1-9][0-9]{0,4}):")


def encode(value: Value) -> bytes:
    """Return the one canonical form of `value`.

    Raises `LocalProtocolError` for an integer beyond 64 bits: no reader here would take it.
    """
    parts: list[bytes] = []
    _write(value, parts)
    return b"".join(parts)


def decode(raw: bytes) -> Value:
    """Read exactly one value from `raw`.

    Raises `RemoteProtocolError` if `raw` is not canonical, goes on after the value, or is
    longer, deeper or of more items than one datagram may be.
    """
    if len(raw) > DHT_DATAGRAM_BYTES_MAX:
        raise _malformed("too long")
    reader = _Reader(raw)
    value = reader.value(0)
    if reader.at != len(raw):
        raise _malformed("goes on after its end")
    return value


def _write(value: Value, parts: list[bytes]) -> None:
    if isinstance(value, bytes):
        parts.append(b"%d:%b" % (len(value), value))
    elif isinstance(value, int):
        if not -INTEGER_MAX - 1 <= value <= INTEGER_MAX:
            message = "a bencoded integer has at most 64 bits"
            raise LocalProtocolError(message)
        parts.append(b"i%de" % value)
    elif isinstance(value, list):
        parts.append(b"l")
        for item in value:
            _write(item, parts)
        parts.append(b"e")
    else:
        parts.append(b"d")
        for key in sorted(value):
            _write(key, parts)
            _write(value[key], parts)
        parts.append(b"e")


class _Reader:
    """A cursor over one message; counts what it reads."""

    __slots__ = ("at", "items", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.at = 0
        self.items = 0

    def value(self, depth: int) -> Value:
        self.items += 1
        if depth > DHT_BENCODE_DEPTH_MAX or self.items > DHT_BENCODE_ITEMS_MAX:
            raise _malformed("too deep or too many items")
        match self.raw[self.at : self.at + 1]:
            case b"i":
                return self._integer()
            case b"l":
                return self._list(depth)
            case b"d":
                return self._dict(depth)
            case _:
                return self._string()

    def _integer(self) -> int:
        found = _INTEGER.match(self.raw, self.at + 1)
        if found is None:
            raise _malformed("not a canonical integer")
        number = int(found[1])
        if not -INTEGER_MAX - 1 <= number <= INTEGER_MAX:
            raise _malformed("an integer beyond 64 bits")
        self.at = found.end()
        return number

    def _string(self) -> bytes:
        found = _LENGTH.match(self.raw, self.at)
        if found is None:
            raise _malformed("not a value")
        start = found.end()
        end = start + int(found[1])
        if end > len(self.raw):
            raise _malformed("a string is cut off")
        self.at = end
        return self.raw[start:end]

    def _list(self, depth: int) -> list[Value]:
        self.at += 1
        values: list[Value] = []
        while not self._ended():
            values.append(self.value(depth + 1))
        return values

    def _dict(self, depth: int) -> dict[bytes, Value]:
        self.at += 1
        values: dict[bytes, Value] = {}
        last: bytes | None = None
        while not self._ended():
            key = self._string()
            if last is not None and key <= last:
                raise _malformed("keys are not in order")
            last = key
            values[key] = self.value(depth + 1)
        return values

    def _ended(self) -> bool:
        if self.raw[self.at : self.at + 1] != b"e":
            return False
        self.at += 1
        return True


def _malformed(why: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"malformed bencoding: {why}")
