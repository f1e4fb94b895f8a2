"""Answers to strangers: BEP 5's four methods, tokens, sizes, and refusals by code."""

from __future__ import annotations

import itertools

import pytest

from zmqex.dht import bencode, krpc
from zmqex.dht.address import Address, Family
from zmqex.dht.bencode import Value
from zmqex.dht.guard import Tokens
from zmqex.dht.limits import DHT_K, DHT_NAME_BYTES_MAX, DHT_REPLY_BYTES_MAX, DHT_REPLY_PEERS_MAX
from zmqex.dht.responder import Responder
from zmqex.dht.table import RoutingTable
from zmqex.dht.wants import Wants

OWN = b"\0" * 20
ASKER = b"abcdefghij0123456789"
NAME = b"zmqex:v1:play:btcusd"
HERE = ("127.0.0.1", 7)
AFAR = ("8.8.8.8", 7)


class Bench:
    """A responder with its parts at hand."""

    def __init__(self, family: Family = 4, own_host: str | None = None) -> None:
        """Nothing is stored or known at first."""
        draws = itertools.count()
        self.table = RoutingTable(OWN)
        self.wants = Wants()
        self.family: Family = family

        def randomness(count: int) -> bytes:
            return next(draws).to_bytes(count, "big")

        self.responder = Responder(
            OWN, family, self.table, Tokens(randomness, 0), randomness, own_host
        )
        self.store = self.responder.peers

    def ask(
        self,
        method: bytes,
        sender: Address = HERE,
        version: bytes = b"",
        **arguments: Value,
    ) -> krpc.Message:
        """Return the answer to a query."""
        named = {key.encode(): value for key, value in arguments.items()}
        query = krpc.Query(b"tt", method, ASKER, {b"id": ASKER, **named}, version=version)
        response = self.responder.answer(query, sender, 0, self.wants)
        assert len(response.datagram) <= DHT_REPLY_BYTES_MAX
        return krpc.decode_message(response.datagram)

    def peers(self, sender: Address = HERE, version: bytes = b"") -> tuple[Address, ...]:
        """Return the peers that the answer to get_peers names."""
        reply = self.ask(b"get_peers", sender, version, info_hash=NAME)
        assert isinstance(reply, krpc.Reply)
        return krpc.read_answer(reply, self.family).peers

    def token(self, sender: Address = HERE) -> bytes:
        """Return a token for `sender`."""
        reply = self.ask(b"get_peers", sender, info_hash=NAME)
        assert isinstance(reply, krpc.Reply)
        token = reply.values[b"token"]
        assert isinstance(token, bytes)
        return token


def test_a_ping_is_answered_with_our_id() -> None:
    """The transaction is echoed."""
    assert Bench().ask(b"ping") == krpc.Reply(b"tt", OWN, {b"id": OWN})


def test_find_node_names_the_nearest_contacts() -> None:
    """As many as a bucket holds, in compact form."""
    bench = Bench()
    for number in range(1, 60):
        bench.table.replied(bytes([number]) * 20, ("127.0.0.1", number), 0)
    reply = bench.ask(b"find_node", target=bytes([3]) * 20)
    assert isinstance(reply, krpc.Reply)
    contacts = krpc.read_answer(reply, 4).contacts
    assert len(contacts) == DHT_K
    assert contacts[0] == (bytes([3]) * 20, ("127.0.0.1", 3))


def test_an_announce_with_a_token_is_stored_and_found() -> None:
    """The host is the sender's own, the port what it says, or its UDP port if implied."""
    bench = Bench()
    token = bench.token()
    assert bench.ask(b"announce_peer", info_hash=NAME, port=500, token=token) == krpc.Reply(
        b"tt", OWN, {b"id": OWN}
    )
    bench.ask(b"announce_peer", info_hash=NAME, port=1, token=token, implied_port=1)
    assert bench.peers() == (("127.0.0.1", 500), HERE)


def test_only_a_new_peer_is_reported() -> None:
    """A repeated announce is no news."""
    bench = Bench()
    arguments: dict[bytes, Value] = {b"info_hash": NAME, b"port": 500, b"token": bench.token()}
    query = krpc.Query(b"tt", b"announce_peer", ASKER, arguments)
    first = bench.responder.answer(query, HERE, 0, Wants())
    again = bench.responder.answer(query, HERE, 0, Wants())
    assert first.announced == (NAME, ("127.0.0.1", 500))
    assert again.announced is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"info_hash": NAME, "port": 0},
        {"info_hash": NAME, "port": 65_536},
        {"info_hash": NAME, "port": -1},
        {"info_hash": NAME, "port": b"80"},
        {"info_hash": NAME},
        {"info_hash": b"", "port": 1},
        {"info_hash": 5, "port": 1},
        {"info_hash": b"n" * (DHT_NAME_BYTES_MAX + 1), "port": 1},
        {"port": 1},
    ],
)
def test_a_wrong_announce_is_refused_even_with_a_token(arguments: dict[str, Value]) -> None:
    """Error 203, and nothing is stored."""
    bench = Bench()
    named = {key.encode(): value for key, value in arguments.items()}
    query = krpc.Query(b"tt", b"announce_peer", ASKER, {**named, b"token": bench.token()})
    raw = bench.responder.answer(query, HERE, 0, Wants()).datagram
    assert krpc.decode_message(raw) == krpc.Failure(b"tt", 203)
    assert len(bench.store) == 0


@pytest.mark.parametrize("token", [b"", b"12345678", 7])
def test_a_wrong_token_is_refused(token: Value) -> None:
    """Also another host's token: a forged source cannot announce for anybody."""
    bench = Bench()
    answer = bench.ask(b"announce_peer", info_hash=NAME, port=5, token=token)
    assert answer == krpc.Failure(b"tt", 203)
    other = bench.ask(b"announce_peer", AFAR, info_hash=NAME, port=5, token=bench.token(HERE))
    assert other == krpc.Failure(b"tt", 203)
    assert bench.ask(b"announce_peer", info_hash=NAME, port=5) == krpc.Failure(b"tt", 203)
    assert len(bench.store) == 0


@pytest.mark.parametrize("target", [b"short", b"x" * 21, 7])
def test_a_wrong_target_is_refused(target: Value) -> None:
    """Node ids have 20 bytes."""
    assert Bench().ask(b"find_node", target=target) == krpc.Failure(b"tt", 203)


def test_an_empty_name_and_an_unknown_method_are_refused_by_code() -> None:
    """203 and 204 (BEP 5)."""
    assert Bench().ask(b"get_peers", info_hash=b"") == krpc.Failure(b"tt", 203)
    assert Bench().ask(b"vote") == krpc.Failure(b"tt", 204)


def test_names_of_other_lengths_than_20_are_served() -> None:
    """Grapes use the raw bytes of a service's name."""
    bench = Bench()
    bench.ask(b"announce_peer", info_hash=b"exchange", port=5, token=bench.token())
    assert bench.store.peers(b"exchange", 0) == [("127.0.0.1", 5)]


@pytest.mark.parametrize(("family", "host"), [(4, "127.0.0.1"), (6, "::1")])
def test_an_answer_never_exceeds_its_size(family: Family, host: str) -> None:
    """Hundreds of peers and a full table: a sample is given, others each time."""
    bench = Bench(family)
    for number in range(1, 200):
        bench.table.replied(bytes([number]) * 20, (host, number), 0)
    for port in range(1, 301):
        bench.store.announce(NAME, (host, port), (host, port), 0)
    first, second = bench.peers((host, 9)), bench.peers((host, 9))
    assert 20 <= len(first) <= DHT_REPLY_PEERS_MAX
    assert first != second


def test_own_announces_are_answered_as_the_asker_reaches_us() -> None:
    """A node alone is found in the first lookup of the second one."""
    bench = Bench()
    bench.wants.announce(NAME, 500, 0)
    assert bench.peers(HERE) == (("127.0.0.1", 500),)
    assert bench.peers(AFAR, krpc.VERSION) == (("0.0.0.0", 500),)  # noqa: S104 - read, not bound
    assert bench.peers(AFAR, b"LT\1\2") == ()

    six = Bench(6)
    six.wants.announce(NAME, 500, 0)
    assert six.peers(("::1", 9)) == (("::1", 500),)

    known = Bench(4, "8.8.4.4")
    known.wants.announce(NAME, 500, 0)
    assert known.peers(AFAR) == (("8.8.4.4", 500),)


def test_the_asker_learns_its_own_address() -> None:
    """BEP 42."""
    query = krpc.Query(b"tt", b"ping", ASKER, {})
    raw = Bench().responder.answer(query, AFAR, 0, Wants()).datagram
    message = bencode.decode(raw)
    assert isinstance(message, dict)
    assert message[b"ip"] == b"\x08\x08\x08\x08\0\x07"
