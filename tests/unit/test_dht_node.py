"""One node by itself: what it answers, asks, believes and refuses."""

from __future__ import annotations

import itertools

import pytest

from tests.unit.dht_wire import NAME, node_id
from zmqex.dht import krpc
from zmqex.dht.address import Address
from zmqex.dht.bencode import Value
from zmqex.dht.events import Announced, LookupDone, PeersFound
from zmqex.dht.limits import (
    DHT_BOOTSTRAP_MAX,
    DHT_CHECKS_MAX,
    DHT_LOOKUPS_MAX,
    DHT_NAMES_MAX,
    DHT_PEERS_PER_LOCAL_SOCKET_MAX,
    DHT_QUERY_TIMEOUT_MS,
    DHT_RATE_BURST,
)
from zmqex.dht.node import DhtNode
from zmqex.errors import LocalProtocolError

SEED = b"s" * 16
STRANGER = ("127.0.0.1", 66)


def _node(now_ms: int = 0) -> DhtNode:
    return DhtNode(node_id(0), now_ms, SEED)


def _ask(number: int, method: bytes, **arguments: Value) -> bytes:
    named = {key.encode(): value for key, value in arguments.items()}
    return krpc.encode_query(number.to_bytes(4, "big"), method, node_id(999), named)


def test_a_node_alone_answers_at_once() -> None:
    """Nothing to wait for: an empty lookup, an announce that nobody else keeps."""
    node = _node()
    node.lookup(NAME, 0)
    node.announce(NAME, 500, 0)
    assert node.events() == [LookupDone(NAME, (), 0, 0), Announced(NAME, 500, 0)]
    assert node.datagrams_to_send() == []
    assert node.events() == []


def test_a_follower_hears_again_and_again_until_it_unfollows() -> None:
    """Six lookups in the first five seconds, then one every 30 s at the latest."""
    node = _node()
    node.follow(NAME, 0)
    node.follow(NAME, 0)
    while node.next_timer_ms() <= 65_000:
        node.handle_timer(node.next_timer_ms())
    assert 7 <= len(node.events()) <= 10
    node.unfollow(NAME)
    for now_ms in range(65_000, 200_000, 10_000):
        node.handle_timer(now_ms)
    assert node.events() == []


def test_only_who_answers_becomes_a_contact() -> None:
    """A query from a forged address is answered there, and a ping goes unanswered."""
    node = _node()
    node.receive_datagram(_ask(1, b"ping"), STRANGER, 0)
    answer, check = node.datagrams_to_send()
    assert answer[1] == check[1] == STRANGER
    node.receive_datagram(_ask(2, b"ping"), STRANGER, 0)
    assert len(node.datagrams_to_send()) == 1
    node.handle_timer(DHT_QUERY_TIMEOUT_MS)
    assert node.contacts == 0
    assert node.counters.timeouts == 1


def test_checks_of_strangers_are_bounded() -> None:
    """Forged senders make us ping only so many at once."""
    node = _node()
    for port in range(1, 1_000):
        node.receive_datagram(_ask(port, b"ping"), ("127.0.0.1", port), 0)
    sent = [krpc.decode_message(raw) for raw, _ in node.datagrams_to_send()]
    assert sum(isinstance(message, krpc.Query) for message in sent) == DHT_CHECKS_MAX


def test_a_read_only_node_is_no_contact() -> None:
    """BEP 43: it asks and does not answer."""
    node = _node()
    raw = _ask(1, b"ping").replace(b"1:q4:ping", b"1:q4:ping2:roi1e")
    node.receive_datagram(raw, STRANGER, 0)
    assert len(node.datagrams_to_send()) == 1


def test_answers_from_others_than_the_asked_count_for_nothing() -> None:
    """Neither a guessed transaction nor the right one from elsewhere."""
    node = _node()
    node.add_bootstrap([STRANGER], 0)
    ((raw, _),) = node.datagrams_to_send()
    query = krpc.decode_message(raw)
    reply = krpc.encode_reply(query.transaction, node_id(5), {}, STRANGER)
    node.receive_datagram(reply, ("127.0.0.1", 67), 1)
    node.receive_datagram(krpc.encode_reply(b"guess", node_id(5), {}, STRANGER), STRANGER, 1)
    assert (node.counters.dropped_unasked, node.contacts) == (2, 0)
    node.receive_datagram(reply, STRANGER, 1)
    assert node.contacts == 1


def test_a_refusal_ends_a_query_like_a_silence_but_at_once() -> None:
    """Error 203 of a node that takes no such name."""
    node = _node()
    node.add_bootstrap([STRANGER], 0)
    node.datagrams_to_send()
    node.lookup(b"exchange", 0)
    ((raw, _),) = node.datagrams_to_send()
    query = krpc.decode_message(raw)
    refusal = krpc.encode_failure(query.transaction, krpc.Code.PROTOCOL, b"no")
    node.receive_datagram(refusal, STRANGER, 3)
    assert node.events() == [LookupDone(b"exchange", (), 0, 3)]


def test_an_answer_that_comes_after_its_lookup_ended_still_tells_its_peers() -> None:
    """A far node is slow; sixteen nearer ones answer first and end the lookup."""
    node = _node()
    far = ("127.0.0.1", 9)
    ids = {STRANGER: NAME[:-1] + b"\xff", far: bytes(byte ^ 0xFF for byte in NAME)}
    ids |= {("127.0.0.1", 100 + n): NAME[:-1] + bytes([n]) for n in range(16)}
    near = krpc.pack_contacts([(ids[at], at) for at in ids if at[1] >= 100], 4)

    def answer_all_but(slow: Address | None) -> list[tuple[bytes, Address]]:
        held = []
        while datagrams := node.datagrams_to_send():
            for raw, target in datagrams:
                if target == slow:
                    held.append((raw, target))
                    continue
                transaction = krpc.decode_message(raw).transaction
                values = near if slow and target == STRANGER else {}
                reply = krpc.encode_reply(transaction, ids[target], values, target)
                node.receive_datagram(reply, target, 1)
        return held

    node.add_bootstrap([STRANGER, far], 0)
    answer_all_but(None)
    node.lookup(NAME, 1)
    ((raw, _),) = answer_all_but(far)
    assert node.events() == [LookupDone(NAME, (), 17, 0)]

    transaction = krpc.decode_message(raw).transaction
    late: dict[bytes, Value] = {b"values": [b"\x7f\0\0\x01\0\x05"]}
    node.receive_datagram(krpc.encode_reply(transaction, ids[far], late, far), far, 5)
    assert node.events() == [PeersFound(NAME, (("127.0.0.1", 5),))]
    assert node.datagrams_to_send() == []


def test_a_public_node_cannot_make_us_call_our_own_network() -> None:
    """Private and loopback addresses from afar are left out, as peers and as nodes."""
    node = _node()
    liar = ("8.8.8.8", 1)
    node.add_bootstrap([liar], 0)
    node.datagrams_to_send()
    node.lookup(NAME, 0)
    ((raw, _),) = node.datagrams_to_send()
    peers: list[Value] = [b"\x7f\0\0\x01\0\x05", b"\x0a\0\0\x01\0\x05", b"\x01\x01\x01\x01\0\x05"]
    inward = [(node_id(3), ("127.0.0.1", 22)), (node_id(4), ("192.168.0.1", 53))]
    own = [(node.node_id, ("1.1.1.1", 4))]
    values: dict[bytes, Value] = {b"values": peers, **krpc.pack_contacts(inward + own, 4)}
    transaction = krpc.decode_message(raw).transaction
    node.receive_datagram(krpc.encode_reply(transaction, node_id(2), values, liar), liar, 1)
    assert node.datagrams_to_send() == []
    assert node.events()[-1] == LookupDone(NAME, (("1.1.1.1", 5),), 1, 1)


def test_a_flood_of_announces_from_one_token_is_bounded_and_honest_peers_stay() -> None:
    """Ten thousand ports from one socket fill one socket's share."""
    node = _node()
    node.follow(NAME, 0)
    node.receive_datagram(_ask(1, b"get_peers", info_hash=NAME), STRANGER, 0)
    reply = krpc.decode_message(node.datagrams_to_send()[0][0])
    assert isinstance(reply, krpc.Reply)
    token = reply.values[b"token"]
    assert isinstance(token, bytes)
    honest = ("127.0.0.1", 77)
    announce = _ask(2, b"announce_peer", info_hash=NAME, port=77, token=token)
    node.receive_datagram(announce, honest, 0)
    for port in range(1_000, 11_000):
        announce = _ask(port, b"announce_peer", info_hash=NAME, port=port, token=token)
        node.receive_datagram(announce, STRANGER, 0)
    assert node.stored_peers == DHT_PEERS_PER_LOCAL_SOCKET_MAX + 1
    assert honest in node.found(NAME, 0)
    found = [event for event in node.events() if isinstance(event, PeersFound)]
    assert len(found) == node.stored_peers


def test_an_announce_of_a_name_that_nobody_here_wants_is_kept_in_silence() -> None:
    """For others who ask."""
    node = _node()
    node.receive_datagram(_ask(1, b"get_peers", info_hash=NAME), STRANGER, 0)
    reply = krpc.decode_message(node.datagrams_to_send()[0][0])
    assert isinstance(reply, krpc.Reply)
    token = reply.values[b"token"]
    assert isinstance(token, bytes)
    announce = _ask(2, b"announce_peer", info_hash=NAME, port=77, token=token)
    node.receive_datagram(announce, STRANGER, 0)
    assert (node.stored_peers, node.events()) == (1, [])


def test_a_host_that_asks_too_much_is_not_answered_for_a_while() -> None:
    """Not on loopback; elsewhere the burst and then silence, for whatever it sends."""
    node = _node()
    for number in range(10 * DHT_RATE_BURST):
        node.receive_datagram(_ask(number, b"ping"), ("8.8.8.8", 1), 0)
        node.receive_datagram(_ask(number, b"ping"), STRANGER, 0)
    assert node.counters.dropped_rate == 9 * DHT_RATE_BURST
    assert node.counters.queries_answered == 11 * DHT_RATE_BURST
    node.receive_datagram(_ask(1, b"ping"), ("8.8.8.8", 1), 1_000)
    assert node.counters.queries_answered == 11 * DHT_RATE_BURST + 1


@pytest.mark.parametrize(
    "address",
    [("::1", 5), ("127.0.0.1", 0), ("127.0.0.1", 70_000), ("224.0.0.1", 5), ("no host", 5)],
)
def test_addresses_that_cannot_be_answered_are_dropped(address: Address) -> None:
    """Another family, no port, no host: counted, never called."""
    node = _node()
    node.receive_datagram(_ask(1, b"ping"), address, 0)
    node.add_bootstrap([address], 0)
    assert node.counters.dropped_source == 1
    assert node.datagrams_to_send() == []


def test_garbage_is_counted_and_nothing_else() -> None:
    """No answer, so no reflection."""
    node = _node()
    for raw in (b"", b"x", b"i1e", b"d1:ad2:id20:", b"\xff" * 9_000):
        node.receive_datagram(raw, STRANGER, 0)
    assert node.counters.dropped_malformed == 5
    assert node.datagrams_to_send() == []


def test_transactions_never_repeat_while_one_is_under_way() -> None:
    """Each query has its own, and they cannot be guessed from each other."""
    node = _node()
    for port in range(1, DHT_CHECKS_MAX + 1):
        node.receive_datagram(_ask(port, b"ping"), ("127.0.0.1", port), 0)
    messages = [krpc.decode_message(raw) for raw, _ in node.datagrams_to_send()]
    transactions = [message.transaction for message in messages if isinstance(message, krpc.Query)]
    assert len(set(transactions)) == DHT_CHECKS_MAX


def test_what_we_ask_of_ourselves_is_bounded_and_checked() -> None:
    """Our own mistakes are named."""
    node = _node()
    with pytest.raises(LocalProtocolError, match="20 bytes"):
        DhtNode(b"short", 0, SEED)
    for seed in (b"s" * 15, b"s" * 65):
        with pytest.raises(LocalProtocolError, match="seed"):
            DhtNode(node_id(1), 0, seed)
    for name in (b"", b"n" * 256):
        with pytest.raises(LocalProtocolError, match="255"):
            node.lookup(name, 0)
    for port in (0, 65_536):
        with pytest.raises(LocalProtocolError, match="port"):
            node.announce(NAME, port, 0)


def test_names_and_lookups_of_our_own_are_bounded() -> None:
    """A mistake of the owner does not fill the memory either."""
    node = _node()
    for number in range(DHT_NAMES_MAX):
        node.follow(b"%d" % number, 0)
    node.announce(b"0", 5, 0)
    with pytest.raises(LocalProtocolError, match="too many names"):
        node.follow(b"one more", 0)

    asking = _node()
    asking.add_bootstrap([STRANGER], 0)
    for number in itertools.count():
        if len(asking._searches) == DHT_LOOKUPS_MAX:
            break
        asking.lookup(b"%d" % number, 0)
    asking.lookup(b"0", 0)
    with pytest.raises(LocalProtocolError, match="too many lookups"):
        asking.lookup(b"one more", 0)


def test_bootstrap_addresses_are_bounded() -> None:
    """The first ones stay."""
    node = _node()
    node.add_bootstrap([("127.0.0.1", port) for port in range(1, 1_000)], 0)
    assert len(node._bootstrap) == DHT_BOOTSTRAP_MAX
