"""Redis' protocol: what is sent, and how a stream of bytes becomes answers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import InvalidResponse, NoScriptError, ResponseError

from zmqex.adapters.holds.resp import Answers, packed

ANSWERS = st.recursive(
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=12,
)


def answered(value: Any) -> bytes:  # noqa: ANN401
    """A value as a server sends it."""
    match value:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % value
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(value), value)
        case _:
            return b"*%d\r\n" % len(value) + b"".join(map(answered, value))


def test_a_command_is_sent_as_bulk_strings() -> None:
    """Text, bytes that are no text, and numbers; each with its length in bytes."""
    sent = packed("SET", b"\xff\r\n", "é", -12)
    assert sent == b"*4\r\n$3\r\nSET\r\n$3\r\n\xff\r\n\r\n$2\r\n\xc3\xa9\r\n$3\r\n-12\r\n"


@given(values=st.lists(ANSWERS, min_size=1, max_size=4), data=st.data())
def test_answers_come_in_whatever_pieces(values: list[Any], data: st.DataObject) -> None:
    """Cut anywhere, also within a length or a line end, the same answers come in order."""
    stream, answers, found = b"".join(map(answered, values)), Answers(), list[Any]()
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += answers.feed(stream[:size])
        stream = stream[size:]
    assert found == values


def test_every_kind_of_answer_is_read() -> None:
    """Simple text, both forms of nothing, and errors, which are given and not raised."""
    sent = b"+OK\r\n_\r\n*-1\r\n-NOSCRIPT none here\r\n-READONLY a replica\r\n*0\r\n"
    text, no_value, no_list, no_script, read_only, empty = Answers().feed(sent)
    assert (text, no_value, no_list, empty) == (b"OK", None, None, [])
    assert isinstance(no_script, NoScriptError)
    assert type(read_only) is ResponseError
    assert str(read_only) == "READONLY a replica"


def test_what_a_server_pushes_answers_nothing() -> None:
    """It may come between two answers."""
    sent = b":1\r\n>2\r\n$6\r\nMOVING\r\n:15\r\n:2\r\n"
    assert Answers().feed(sent) == [1, 2]


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b":one\r\n",
        b"$x\r\n",
        b"*1\r\n?\r\n",
        b"\r\n",
        b"*1\r\n" * 1_000,
    ],
)
def test_what_is_no_answer_is_said(sent: bytes) -> None:
    """Also lists in lists without end."""
    with pytest.raises(InvalidResponse, match="not an answer"):
        Answers().feed(sent)
