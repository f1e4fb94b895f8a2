"""Bencoding and whole nodes against everything that Hypothesis can send."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zmqex.dht import krpc
from zmqex.dht.bencode import Value, decode, encode
from zmqex.dht.limits import DHT_REPLY_BYTES_MAX
from zmqex.dht.names import NAME_BYTES, rendezvous_name
from zmqex.dht.node import DhtNode
from zmqex.errors import RemoteProtocolError

NAME = b"zmqex:v1:play:btcusd"

values: st.SearchStrategy[Value] = st.recursive(
    st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.binary(max_size=8), inner, max_size=5)
    ),
    max_leaves=20,
)
ids = st.sampled_from([b"a" * 20, b"b" * 20, b"\xff" * 20]) | st.binary(max_size=21)
arguments = st.fixed_dictionaries(
    {b"id": ids},
    optional={
        b"target": ids,
        b"info_hash": st.just(NAME) | st.binary(max_size=300),
        b"port": st.integers(-1, 70_000) | values,
        b"token": st.binary(max_size=10) | values,
        b"implied_port": st.integers(0, 1) | values,
    },
)
answers = st.fixed_dictionaries(
    {b"id": ids},
    optional={
        b"nodes": st.binary(max_size=130) | values,
        b"values": st.lists(st.binary(min_size=6, max_size=6) | values, max_size=30) | values,
        b"token": st.binary(max_size=80) | values,
    },
)
methods = st.sampled_from([b"ping", b"find_node", b"get_peers", b"announce_peer", b"put"])


@given(values)
def test_what_is_written_reads_back(value: Value) -> None:
    """Every value that fits survives."""
    try:
        assert decode(encode(value)) == value
    except RemoteProtocolError as refusal:
        assert "too deep" in str(refusal)  # noqa: PT017 - the one allowed reason


@given(st.binary(max_size=60) | st.text("ilde0123456789:-ab", max_size=40).map(str.encode))
def test_whatever_reads_was_written_in_the_one_canonical_form(raw: bytes) -> None:
    """So a signature over a part of a message stays valid when it is written again."""
    try:
        value = decode(raw)
    except RemoteProtocolError:
        return
    assert encode(value) == raw


@given(st.data())
def test_nothing_that_a_stranger_sends_raises_or_grows(data: st.DataObject) -> None:
    """Garbage, queries, answers to real and to guessed transactions, cut or intact."""
    node = DhtNode(b"n" * 20, 0, b"s" * 32)
    asked = ("127.0.0.1", 7)
    node.add_bootstrap([asked], 0)
    node.announce(NAME, 500, 0)
    node.follow(NAME, 0)
    transactions = [b"guess"]
    now_ms = 0
    for _ in range(data.draw(st.integers(1, 12))):
        for sent, target in node.datagrams_to_send():
            message = krpc.decode_message(sent)
            if isinstance(message, krpc.Query):
                transactions.append(message.transaction)
            else:
                assert len(sent) <= DHT_REPLY_BYTES_MAX
            assert target[1] > 0
        raw = data.draw(_datagrams(transactions))
        source = data.draw(st.sampled_from([asked, ("127.0.0.2", 9), ("8.8.8.8", 1), ("::1", 1)]))
        node.receive_datagram(raw, source, now_ms)
        now_ms += data.draw(st.integers(0, 2_000))
        node.handle_timer(now_ms)
        assert node.next_timer_ms() > now_ms
    assert node.contacts <= 3
    assert len(node.events()) <= 100


@given(st.text(max_size=30), st.text(max_size=30))
def test_every_network_and_market_has_a_name_of_20_printable_bytes(
    network: str, market: str
) -> None:
    """Whatever the settings hold; what does not fit is hashed."""
    name = rendezvous_name(network, market)
    assert len(name) == NAME_BYTES
    assert name.decode("ascii").isprintable()


def _datagrams(transactions: list[bytes]) -> st.SearchStrategy[bytes]:
    known = st.sampled_from(transactions)
    query = st.builds(
        lambda t, q, a: encode({b"t": t, b"y": b"q", b"q": q, b"a": a}), known, methods, arguments
    )
    reply = st.builds(lambda t, r: encode({b"t": t, b"y": b"r", b"r": r}), known, answers)
    failure = st.builds(lambda t, e: encode({b"t": t, b"y": b"e", b"e": e}), known, values)
    whole = query | reply | failure
    cut = st.builds(lambda raw, end: raw[:end], whole, st.integers(0, 80))
    return whole | cut | values.map(encode) | st.binary(max_size=80)
