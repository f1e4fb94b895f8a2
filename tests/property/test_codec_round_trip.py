"""Every message, with any values within its bounds: two MessagePack readers agree on its bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect

from zmqex.errors import RemoteProtocolError
from zmqex.protocol.codec import (
    decode,
    decode_envelope,
    decode_frame,
    decode_trade_message,
    encode,
    encode_frame,
)
from zmqex.protocol.messages import Batch, Envelope, Frame, Message, PeerRecord, TradeMessage

# A frame's body is raw, so it is tried by itself; the base of trade messages is never sent.
KINDS = sorted(
    (
        kind
        for base in (Message, TradeMessage)
        for kind in base.__subclasses__()
        if kind not in {Frame, TradeMessage}
    ),
    key=lambda kind: kind.__name__,
)


def values(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """Any value that the type's bounds allow."""
    match kind:
        case inspect.IntType(ge=low, le=high):
            return st.integers(low, high)
        case inspect.StrType(pattern=None, min_length=shortest, max_length=longest):
            return st.text(min_size=shortest or 0, max_size=longest)
        case inspect.StrType(pattern=str(pattern)):
            return st.from_regex(pattern).filter(lambda text: fits(text, kind.max_length))
        case inspect.BytesType(min_length=least, max_length=most):
            if (least or 0) > 200:  # too much to be drawn byte by byte
                return st.sampled_from([bytes(least or 0), b"\xff" * (least or 0)])
            return st.binary(min_size=least or 0, max_size=min(most or 0, 200))
        case inspect.LiteralType(values=choice) | inspect.EnumType(cls=choice):
            return st.sampled_from(choice)
        case _:
            return compound_values(kind)


def compound_values(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """The same for what is made of other types."""
    match kind:
        case inspect.NoneType():
            return st.none()
        case inspect.ListType(item_type=item, min_length=least, max_length=most):
            return st.lists(values(item), min_size=least or 0, max_size=min(most or 0, 4))
        case inspect.VarTupleType(item_type=item, min_length=least, max_length=most):
            some = st.lists(values(item), min_size=least or 0, max_size=min(most or 0, 4))
            return some.map(tuple)
        case inspect.UnionType(types=types):
            return st.one_of([values(one) for one in types])
        case inspect.StructType(cls=cls, fields=named):
            return st.builds(cls, **{field.name: values(field.type) for field in named})
        case _:
            msg = f"no values for {kind}"
            raise TypeError(msg)


def fits(text: str, longest: int | None) -> bool:
    """Whether a text keeps the length that stands beside its pattern."""
    return longest is None or len(text) <= longest


def plain(value: object) -> object:
    """A message as a reader without our types sees it."""
    if isinstance(value, msgspec.Struct):
        tag = value.__struct_config__.tag
        row = fields(value)
        return row if tag is None else [tag, *row]
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def fields(message: msgspec.Struct) -> list[object]:
    """The fields of a message in their order, without a tag."""
    return [plain(getattr(message, name)) for name in message.__struct_fields__]


MESSAGES = st.sampled_from(KINDS).flatmap(lambda kind: values(inspect.type_info(kind)))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_message_is_the_array_of_its_fields(kind: type[Message]) -> None:
    """Tag first where there is one, then the fields in the order of the struct, nothing else."""

    @given(values(inspect.type_info(kind)))
    def check(message: Message) -> None:
        raw = encode(message)
        assert msgpack.unpackb(raw, strict_map_key=True) == plain(message)
        assert decode(raw, kind) == message

    check()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_message_takes_a_field_more_or_less(kind: type[Message]) -> None:
    """An added field is another version's, and a missing one has no default."""

    @given(values(inspect.type_info(kind)))
    def check(message: Message) -> None:
        tag = message.__struct_config__.tag
        row = [*([] if tag is None else [tag]), *fields(message)]
        for wrong in (row[:-1] if row else [0], [*row, None]):
            with pytest.raises(RemoteProtocolError):
                decode(msgpack.packb(wrong), kind)

    check()
    with pytest.raises(RemoteProtocolError):
        decode(msgpack.packb([None] * 40), kind)


@given(MESSAGES, st.from_regex(r"^[a-z0-9_]{1,40}\Z"), st.integers(0, 2**63 - 1))
def test_a_frame_carries_any_message(message: Message, kind: str, request_id: int) -> None:
    """The body is nested in the frame as it is, and comes out byte by byte."""
    raw = encode_frame(kind, request_id, message)
    assert msgpack.unpackb(raw) == [1, kind, request_id, plain(message)]
    frame = decode_frame(raw)
    assert (frame.kind, frame.request_id, bytes(frame.body)) == (kind, request_id, encode(message))


def outcome(read: Callable[[bytes], object], raw: bytes) -> object:
    """What was read, or None where the peer was blamed; anything else goes on."""
    try:
        return read(raw)
    except RemoteProtocolError:
        return None


@given(st.binary(max_size=300))
def test_no_bytes_do_worse_than_blame_their_sender(raw: bytes) -> None:
    """Whatever arrives is a message or a RemoteProtocolError, never another exception."""
    for read in (
        decode_frame,
        decode_envelope,
        decode_trade_message,
        lambda one: decode(one, Batch),
        lambda one: decode(one, PeerRecord),
    ):
        assert outcome(read, raw) is None or isinstance(outcome(read, raw), Message)


@given(MESSAGES, st.data())
def test_a_changed_byte_gives_another_message_or_none(
    message: Message, data: st.DataObject
) -> None:
    """One wrong byte never decodes to the message that was sent, unless it says the same."""
    raw = bytearray(encode(message))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    try:
        changed = decode(bytes(raw), type(message))
    except RemoteProtocolError:
        return
    # A shorter or longer form of the same number may mean the same; then the bytes differ.
    assert changed != message or encode(changed) != bytes(raw)


@given(st.binary(max_size=500), st.binary(min_size=64, max_size=64))
def test_an_envelope_keeps_its_body_byte_by_byte(body: bytes, signature: bytes) -> None:
    """What was signed is what is checked: nothing is re-serialised on the way."""
    assert decode_envelope(encode(Envelope(body, signature))) == Envelope(body, signature)
