"""Bytes to messages: the order of the checks, and who is to blame when one fails."""

from __future__ import annotations

import msgpack
import msgspec
import pytest

from zmqex.errors import RemoteProtocolError
from zmqex.limits import FRAME_BYTES_MAX
from zmqex.protocol.codec import (
    decode,
    decode_envelope,
    decode_frame,
    decode_trade_message,
    encode,
    encode_frame,
)
from zmqex.protocol.messages import (
    Empty,
    Envelope,
    Frame,
    Operation,
    Pong,
    QuoteConfirmed,
    Reject,
    Update,
)


def blame(error: pytest.ExceptionInfo[RemoteProtocolError]) -> tuple[int, str]:
    """The penalty and the message of a fault."""
    return error.value.penalty, str(error.value)


def test_a_message_is_an_array_of_its_fields() -> None:
    """MessagePack arrays, positional: any reader without our types sees the same values."""
    assert encode(Pong(5)) == b"\x91\x05"
    assert msgpack.unpackb(encode(Reject("held", 7, "later"))) == ["held", 7, "later"]


def test_what_was_encoded_is_decoded_again() -> None:
    """Also from the raw body of a frame, and at every further use of the decoder."""
    for _ in range(2):
        assert decode(b"\x91\x05", Pong) == Pong(5)
    assert decode(msgspec.Raw(b"\x91\x05"), Pong) == Pong(5)


def test_size_is_checked_before_anything_else() -> None:
    """A frame over the limit is blamed for its size, though it is no message either."""
    with pytest.raises(RemoteProtocolError, match="65537 bytes, the limit is 65536") as error:
        decode(bytes(FRAME_BYTES_MAX + 1), Pong)
    assert blame(error)[0] == 10


def test_a_message_of_exactly_the_limit_is_decoded() -> None:
    """The bound itself is inside."""
    body = bytes(FRAME_BYTES_MAX - 71)
    raw = encode(Envelope(body, bytes(64)))
    assert len(raw) == FRAME_BYTES_MAX - 1
    raw = encode(Envelope(body + b"x", bytes(64)))
    assert len(raw) == FRAME_BYTES_MAX
    assert decode_envelope(raw).body == body + b"x"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        b"\x90",
        b"\x92\x05\x06",
        b"\x91\xc3",
        b"\x91\xa15",
        b"\x91\xcb\x40\x14\x00\x00\x00\x00\x00\x00",
        b"\x91\xff",
        b"\x81\xa7wall_ms\x05",
        b"\x91\x05\x05",
        b"\x91" * 10_000,
    ],
    ids=[
        "nothing",
        "not MessagePack",
        "a field missing",
        "a field too many",
        "a bool for a number",
        "a text for a number",
        "a float for a number",
        "a number below its bound",
        "a map for an array",
        "bytes after the end",
        "nested without end",
    ],
)
def test_what_is_not_the_message_is_blamed(raw: bytes) -> None:
    """Whatever is wrong with it, the fault is the peer's, and it names what was expected."""
    with pytest.raises(RemoteProtocolError, match=r"^not a Pong: ") as error:
        decode(raw, Pong)
    assert blame(error)[0] == 5


def test_text_that_is_not_utf8_is_blamed() -> None:
    """MessagePack does not promise UTF-8; we do."""
    with pytest.raises(RemoteProtocolError, match=r"^not a Reject: "):
        decode(b"\x93\xa4held\x00\xa1\xff", Reject)


def test_a_body_nested_without_end_is_blamed() -> None:
    """A frame's body is skipped over, which must not end the process either."""
    raw = b"\x94\x01\xa4ping\x01" + b"\x91" * 60_000
    with pytest.raises(RemoteProtocolError, match=r"^not a Frame: "):
        decode_frame(raw)


def test_a_frame_wraps_a_body_that_stays_raw() -> None:
    """Its kind says what the body is; the body is part of the frame, not bytes inside it."""
    raw = encode_frame("ping", 9, Empty())
    assert msgpack.unpackb(raw) == [1, "ping", 9, []]
    frame = decode_frame(raw)
    assert (frame.version, frame.kind, frame.request_id) == (1, "ping", 9)
    assert bytes(frame.body) == b"\x90"


def test_another_version_is_not_ours() -> None:
    """A reply of another version is refused by its number."""
    raw = encode(Frame(2, "ping", 9, msgspec.Raw(b"\x90")))
    with pytest.raises(RemoteProtocolError, match="protocol version 2, this is 1"):
        decode_frame(raw)


def test_a_trade_message_is_told_by_its_tag() -> None:
    """The tag is the first element, and it is the kind that was signed."""
    message = QuoteConfirmed(trade_id=bytes(32), previous=bytes(32), sent_at_ms=3)
    raw = encode(message)
    assert msgpack.unpackb(raw)[0] == "quote_confirmed"
    assert decode_trade_message(raw) == message


def test_an_unknown_trade_message_is_blamed() -> None:
    """A tag that this version does not know is no trade message."""
    raw = msgpack.packb(["quote_lost", bytes(32), bytes(32), 3])
    with pytest.raises(RemoteProtocolError, match=r"^not a trade message: "):
        decode_trade_message(raw)


def test_an_operation_is_told_by_its_tag() -> None:
    """The same holds for what a batch says of an order."""
    update = Update(bytes(32), 5, 2)
    said: object = decode(encode(update), Operation)  # type: ignore[arg-type]
    assert said == update
