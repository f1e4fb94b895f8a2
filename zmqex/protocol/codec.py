"""Bytes to messages and back, with blame for the peer where bytes are wrong.

The order of checks is fixed: size, decode with types.  Expiry, seen-before and signature are the
caller's, in that order, so that the cheap ones turn the crowd away.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from zmqex.errors import RemoteProtocolError
from zmqex.limits import FRAME_BYTES_MAX
from zmqex.protocol.fields import PROTOCOL_VERSION
from zmqex.protocol.messages import AnyTradeMessage, Envelope, Frame, Message

T = TypeVar("T")

UNREADABLE: Final = (
    msgspec.MsgspecError,
    UnicodeDecodeError,
    RecursionError,
    OverflowError,
)
_encoder = msgspec.msgpack.Encoder()
_decoders: dict[object, msgspec.msgpack.Decoder[Any]] = {}


def encode(message: msgspec.Struct) -> bytes:
    """Turn a message into MessagePack bytes."""
    return _encoder.encode(message)


def decode(raw: bytes | msgspec.Raw, wanted: type[T]) -> T:
    """Turn bytes from a peer into the `wanted` message, or blame the peer (RemoteProtocolError)."""
    if len(raw) > FRAME_BYTES_MAX:
        raise RemoteProtocolError(f"{len(raw)} bytes, the limit is {FRAME_BYTES_MAX}", penalty=10)
    try:
        message: T = (_decoders.get(wanted) or decoder(wanted)).decode(raw)
    except UNREADABLE as error:
        raise RemoteProtocolError(f"not a {_name(wanted)}: {error}", penalty=5) from error
    return message


def decode_frame(raw: bytes) -> Frame:
    """Decode the outer frame of a request or reply; the version must be ours."""
    frame = decode(raw, Frame)
    if frame.version != PROTOCOL_VERSION:
        raise RemoteProtocolError(f"protocol version {frame.version}, this is {PROTOCOL_VERSION}")
    return frame


def encode_frame(kind: str, request_id: int, body: Message) -> bytes:
    """Build the outer frame around a body."""
    return encode(Frame(PROTOCOL_VERSION, kind, request_id, msgspec.Raw(encode(body))))


def decode_envelope(raw: bytes) -> Envelope:
    """Decode the outer envelope; the body stays raw until its signature has been checked."""
    return decode(raw, Envelope)


def decode_trade_message(raw: bytes) -> AnyTradeMessage:
    """Decode the body of a trade envelope; its tag names the kind that was signed."""
    return decode(raw, AnyTradeMessage)  # type: ignore[arg-type]


def decoder(wanted: type[T]) -> msgspec.msgpack.Decoder[T]:
    """Make the one decoder of a type: building it costs more than a thousand messages.

    For who decodes so many that each step counts, with bytes that have a bound already; it raises
    one of UNREADABLE.
    """
    made = _decoders[wanted] = msgspec.msgpack.Decoder(wanted)
    return made


def _name(wanted: object) -> str:
    return getattr(wanted, "__name__", "trade message")
