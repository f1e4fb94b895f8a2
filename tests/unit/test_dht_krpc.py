"""KRPC messages: BEP 5's vectors in both directions, and what is no message."""

from __future__ import annotations

import pytest

from zmqex.dht import bencode, krpc
from zmqex.dht.bencode import Value
from zmqex.dht.limits import (
    DHT_CONTACTS_PER_ANSWER_MAX,
    DHT_PEERS_PER_ANSWER_MAX,
    DHT_TOKEN_BYTES_MAX,
    DHT_TRANSACTION_BYTES_MAX,
)
from zmqex.errors import RemoteProtocolError

ID = b"abcdefghij0123456789"
OTHER = b"mnopqrstuvwxyz123456"


@pytest.mark.parametrize(
    ("raw", "method", "arguments"),
    [
        (b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe", b"ping", {}),
        (
            (
                b"d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e"
                b"1:q9:find_node1:t2:aa1:y1:qe"
            ),
            b"find_node",
            {b"target": OTHER},
        ),
        (
            (
                b"d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz123456e"
                b"1:q9:get_peers1:t2:aa1:y1:qe"
            ),
            b"get_peers",
            {b"info_hash": OTHER},
        ),
        (
            (
                b"d1:ad2:id20:abcdefghij012345678912:implied_porti1e"
                b"9:info_hash20:mnopqrstuvwxyz1234564:porti6881e5:token8:aoeusnthe"
                b"1:q13:announce_peer1:t2:aa1:y1:qe"
            ),
            b"announce_peer",
            {b"implied_port": 1, b"info_hash": OTHER, b"port": 6881, b"token": b"aoeusnth"},
        ),
    ],
)
def test_the_queries_of_bep_5_are_read_and_written(
    raw: bytes, method: bytes, arguments: dict[bytes, Value]
) -> None:
    """Each example reads; ours differs from it only by the version that we add."""
    query = krpc.decode_message(raw)
    assert query == krpc.Query(b"aa", method, ID, {b"id": ID, **arguments})

    ours = krpc.encode_query(b"aa", method, ID, arguments)
    assert ours.replace(b"1:v4:" + krpc.VERSION, b"") == raw


def test_the_replies_of_bep_5_are_read() -> None:
    """Values with peers, and nodes as one string."""
    raw = (
        b"d1:rd2:id20:abcdefghij01234567895:token8:aoeusnth"
        b"6:valuesl6:axje.u6:idhtnmee1:t2:aa1:y1:re"
    )
    reply = krpc.decode_message(raw)
    assert isinstance(reply, krpc.Reply)
    answer = krpc.read_answer(reply, 4)
    assert answer.peers == (("97.120.106.101", 11893), ("105.100.104.116", 28269))
    assert answer.token == b"aoeusnth"
    assert answer.contacts == ()


def test_the_error_of_bep_5_is_read_and_written() -> None:
    """Its code is kept; its text is nobody's business."""
    raw = b"d1:eli201e23:A Generic Error Ocurrede1:t2:aa1:y1:ee"
    assert krpc.decode_message(raw) == krpc.Failure(b"aa", 201)

    ours = krpc.encode_failure(b"aa", krpc.Code.PROTOCOL, b"no")
    assert krpc.decode_message(ours) == krpc.Failure(b"aa", 203)


def test_a_reply_tells_its_receiver_its_address() -> None:
    """BEP 42's `ip` beside the values."""
    raw = krpc.encode_reply(b"aa", ID, {b"x": 1}, ("1.2.3.4", 5))
    message = bencode.decode(raw)
    assert isinstance(message, dict)
    assert message[b"ip"] == b"\x01\x02\x03\x04\0\x05"
    assert krpc.decode_message(raw) == krpc.Reply(b"aa", ID, {b"id": ID, b"x": 1})


def test_read_only_and_version_are_read() -> None:
    """BEP 43's flag; a version that is no string is none."""
    message: dict[bytes, Value] = {
        b"a": {b"id": ID},
        b"q": b"ping",
        b"ro": 1,
        b"t": b"a",
        b"v": b"LT\1\2",
        b"y": b"q",
    }
    query = krpc.decode_message(bencode.encode(message))
    assert isinstance(query, krpc.Query)
    assert (query.read_only, query.version) == (True, b"LT\1\2")

    message[b"v"] = 7
    query = krpc.decode_message(bencode.encode(message))
    assert isinstance(query, krpc.Query)
    assert query.version == b""


LONG = b"t" * (DHT_TRANSACTION_BYTES_MAX + 1)


@pytest.mark.parametrize(
    "message",
    [
        [],
        7,
        {},
        {b"t": 1, b"y": b"q"},
        {b"t": LONG, b"y": b"q", b"q": b"ping", b"a": {b"id": ID}},
        {b"t": b"a", b"y": b"x"},
        {b"t": b"a", b"y": 1},
        {b"t": b"a", b"y": b"q", b"a": {b"id": ID}},
        {b"t": b"a", b"y": b"q", b"q": 5, b"a": {b"id": ID}},
        {b"t": b"a", b"y": b"q", b"q": b"ping"},
        {b"t": b"a", b"y": b"q", b"q": b"ping", b"a": []},
        {b"t": b"a", b"y": b"q", b"q": b"ping", b"a": {}},
        {b"t": b"a", b"y": b"q", b"q": b"ping", b"a": {b"id": b"short"}},
        {b"t": b"a", b"y": b"r", b"r": {b"id": 5}},
        {b"t": b"a", b"y": b"r"},
        {b"t": b"a", b"y": b"e"},
        {b"t": b"a", b"y": b"e", b"e": []},
        {b"t": b"a", b"y": b"e", b"e": [b"203"]},
    ],
)
def test_what_is_no_krpc_message_is_refused(message: Value) -> None:
    """Well-formed bencoding alone is not enough."""
    with pytest.raises(RemoteProtocolError, match=r"KRPC|node id"):
        krpc.decode_message(bencode.encode(message))


def test_contacts_pack_and_unpack_in_both_families() -> None:
    """26 bytes under `nodes`, 38 under `nodes6`."""
    four = [(ID, ("1.2.3.4", 5)), (OTHER, ("8.8.8.8", 6))]
    packed = krpc.pack_contacts(four, 4)[b"nodes"]
    assert isinstance(packed, bytes)
    assert len(packed) == 52
    assert krpc.unpack_contacts(packed, 4) == four

    six = [(ID, ("::1", 5))]
    packed = krpc.pack_contacts(six, 6)[b"nodes6"]
    assert isinstance(packed, bytes)
    assert len(packed) == 38
    assert krpc.unpack_contacts(packed, 6) == six


def test_malformed_parts_of_an_answer_are_left_out_and_the_rest_is_used() -> None:
    """One bad list does not spoil the others."""
    good = b"\x01\x02\x03\x04\0\x05"
    values: dict[bytes, Value] = {
        b"nodes": b"x" * 27,
        b"values": [good, b"short", 7, b"\x01\x02\x03\x04\0\0"],
        b"token": 9,
    }
    answer = krpc.read_answer(krpc.Reply(b"a", ID, values), 4)
    assert answer == krpc.Answer((), (("1.2.3.4", 5),), None)

    nothing = krpc.Reply(b"a", ID, {b"nodes": 1, b"values": b"x", b"token": b"t" * 65})
    assert krpc.read_answer(nothing, 4) == krpc.Answer((), (), None)
    assert len(b"t" * 65) == DHT_TOKEN_BYTES_MAX + 1
    portless = ID + b"\x01\x02\x03\x04\0\0"
    assert krpc.unpack_contacts(portless, 4) == []


def test_an_answer_is_bounded_whatever_it_holds() -> None:
    """A liar's long lists are cut."""
    peers: list[Value] = [b"\x08\x08\x08\x08" + n.to_bytes(2, "big") for n in range(1, 500)]
    nodes = b"".join(ID[:-1] + bytes([n]) + b"\x08\x08\x08\x08\0\x01" for n in range(100))
    reply = krpc.Reply(b"a", ID, {b"nodes": nodes, b"values": peers})
    answer = krpc.read_answer(reply, 4)
    assert len(answer.peers) == DHT_PEERS_PER_ANSWER_MAX
    assert len(answer.contacts) == DHT_CONTACTS_PER_ANSWER_MAX
