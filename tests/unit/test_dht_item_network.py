"""Items among nodes: put and found, renewed, replaced, and never older than what was seen."""

from __future__ import annotations

import itertools

import pytest

from tests.unit.dht_items import HERE, PUBLIC, WHERE, item
from tests.unit.dht_wire import NAME, Wire, node_id
from zmqex.dht import krpc
from zmqex.dht.address import Address
from zmqex.dht.bencode import Value
from zmqex.dht.events import Event, ItemDone, ItemFound, ItemStored
from zmqex.dht.items import Item, ItemKey, make_item
from zmqex.dht.limits import (
    DHT_ITEM_BYTES_MAX,
    DHT_ITEM_EVERY_MS,
    DHT_ITEM_LIFE_MS,
    DHT_LOOKUPS_MAX,
    DHT_NAMES_MAX,
    DHT_REPLY_BYTES_MAX,
)
from zmqex.dht.node import DhtNode
from zmqex.errors import LocalProtocolError

# What holds a whole item on IPv6's smallest path, without its headers.
DATAGRAM_MAX = 1_232


def _network(size: int = 20) -> tuple[Wire, list[tuple[DhtNode, Address]]]:
    wire = Wire()
    nodes = [wire.node(number) for number in range(size)]
    for number, (node, _) in enumerate(nodes):
        node.add_bootstrap([nodes[0][1]] * (number > 0), wire.now_ms)
    wire.run(3_000)
    return wire, nodes


def _last(events: list[Event], kind: type[Event]) -> Event:
    return [event for event in events if isinstance(event, kind)][-1]


def _get(wire: Wire, address: Address, where: ItemKey = WHERE) -> ItemDone:
    node = wire.nodes[address]
    assert isinstance(node, DhtNode)
    node.get(where, wire.now_ms)
    wire.run(3_000)
    done = _last(wire.events[address], ItemDone)
    assert isinstance(done, ItemDone)
    return done


def test_an_item_that_one_node_puts_is_found_by_all() -> None:
    """With one round among twenty."""
    wire, nodes = _network()
    nodes[3][0].publish(item(5), wire.now_ms)
    wire.run(500)
    assert ItemStored(item(5), 16) in wire.events[nodes[3][1]]
    for _, address in nodes:
        assert _get(wire, address).item == item(5)
    assert ItemFound(item(5)) in wire.events[nodes[9][1]]
    assert _get(wire, nodes[9][1], ItemKey(PUBLIC, b"another")).item is None


def test_a_newer_item_replaces_the_older_one_everywhere() -> None:
    """Also where its owner's first round has not ended."""
    wire, nodes = _network()
    owner, address = nodes[3]
    owner.publish(item(5), wire.now_ms)
    owner.publish(item(6), wire.now_ms)
    wire.run(500)
    assert {one.item for one in wire.events[address] if isinstance(one, ItemStored)} == {item(6)}
    assert _get(wire, nodes[9][1]).item == item(6)


def test_nodes_that_have_gone_do_not_hold_up_a_put() -> None:
    """The living are told in two round trips; the round ends when the silent are given up."""
    wire, nodes = _network(12)
    for _, address in nodes[9:]:
        wire.remove(address)
    owner, address = nodes[3]
    owner.publish(item(5), wire.now_ms)
    wire.run(20)
    assert all(node.stored_items for node, _ in nodes[:9])
    assert not any(isinstance(one, ItemStored) for one in wire.events[address])
    wire.run(3_000)
    assert wire.events[address][-1] == ItemStored(item(5), 8)


def test_the_newest_of_what_is_shown_counts_and_forgeries_do_not() -> None:
    """One keeper lags behind, one forges, one shows another key's item."""
    node = DhtNode(node_id(0), 0, b"s" * 16)
    keepers = [("127.0.0.1", port) for port in range(1, 5)]
    node.add_bootstrap(keepers, 0)
    forged = Item(WHERE, 9, b"forged", item(9).signature)
    other = make_item(ItemKey(PUBLIC, b"x"), 9, b"", lambda raw: item(1).signature + raw[:0])
    shown = dict(zip(keepers, (item(4), item(5), forged, other), strict=True))
    node.get(WHERE, 0)
    while datagrams := node.datagrams_to_send():
        for raw, target in datagrams:
            query = krpc.decode_message(raw)
            assert isinstance(query, krpc.Query)
            values = shown[target].arguments() if query.method == b"get" else {}
            reply = krpc.encode_reply(query.transaction, node_id(target[1]), values, target)
            node.receive_datagram(reply, target, 1)
    events = node.events()
    assert events[:2] == [ItemFound(item(4)), ItemFound(item(5))]
    assert events[-1] == ItemDone(WHERE, item(5), 4)


def test_our_own_item_is_put_again_before_anybody_forgets_it() -> None:
    """Nodes that come later hold it too, and it outlives two lives."""
    wire, nodes = _network(4)
    nodes[3][0].publish(item(5), wire.now_ms)
    wire.run(DHT_ITEM_EVERY_MS + 1_000)
    for number in range(50, 54):
        node, _ = wire.node(number)
        node.add_bootstrap([nodes[0][1]], wire.now_ms)
    wire.run(2 * DHT_ITEM_EVERY_MS)
    for _, address in nodes[:3]:
        wire.remove(address)
    assert _get(wire, ("127.0.0.1", 10_053)).item == item(5)
    owner = nodes[3][0]
    assert owner.stored_items == 1
    wire.run(2 * DHT_ITEM_LIFE_MS)
    assert owner.stored_items == 1


def test_compare_and_swap_goes_with_the_put() -> None:
    """A wrong one is refused by everybody who has the item."""
    wire, nodes = _network(5)
    nodes[3][0].publish(item(5), wire.now_ms)
    wire.run(500)
    nodes[2][0].publish(item(6), wire.now_ms, cas=4)
    wire.run(500)
    assert ItemStored(item(6), 0) in wire.events[nodes[2][1]]
    nodes[2][0].publish(item(7), wire.now_ms, cas=5)
    wire.run(500)
    assert ItemStored(item(7), 4) in wire.events[nodes[2][1]]


def test_an_item_without_a_salt_is_put_without_one() -> None:
    """BEP 44: the salt is optional."""
    wire, nodes = _network(3)
    bare = item(5, salt=b"")
    nodes[1][0].publish(bare, wire.now_ms)
    wire.run(500)
    assert not any(b"4:salt" in raw for _, _, raw in wire.sent)
    assert _get(wire, nodes[2][1], ItemKey(PUBLIC)).item == bare


def test_what_we_publish_and_look_up_is_bounded() -> None:
    """A mistake of the owner does not fill the memory."""
    node = DhtNode(node_id(0), 0, b"s" * 16)
    for number in range(DHT_NAMES_MAX):
        node.publish(item(1, salt=b"%d" % number), 0)
    node.publish(item(2, salt=b"0"), 0)
    with pytest.raises(LocalProtocolError, match="too many items"):
        node.publish(item(1, salt=b"one more"), 0)
    asking = DhtNode(node_id(0), 0, b"s" * 16)
    asking.add_bootstrap([HERE], 0)
    for number in itertools.count():
        if len(asking._searches) == DHT_LOOKUPS_MAX:
            break
        asking.get(ItemKey(PUBLIC, b"%d" % number), 0)
    asking.get(ItemKey(PUBLIC, b"0"), 0)
    with pytest.raises(LocalProtocolError, match="too many lookups"):
        asking.get(ItemKey(PUBLIC, b"one more"), 0)


# --- as a stranger meets it ----------------------------------------------------------------------


class Stranger:
    """Asks one node by hand."""

    def __init__(self) -> None:
        """The node knows sixteen others."""
        self.node = DhtNode(node_id(0), 0, b"s" * 16)
        for number in range(1, 40):
            self.node.table.replied(node_id(number), ("127.0.0.1", number), 0)
        self.token: Value = b""
        self.token = self.ask(b"get", target=WHERE.target)[b"token"]

    def ask(self, method: bytes, **arguments: Value) -> dict[bytes, Value]:
        """Return the answer's values; for a refusal its code."""
        named = {key.encode(): value for key, value in arguments.items()}
        raw = krpc.encode_query(b"tt", method, node_id(99), named)
        self.node.receive_datagram(raw, HERE, 0)
        answer = next(raw for raw, target in self.node.datagrams_to_send() if target == HERE)
        assert len(answer) <= DATAGRAM_MAX
        message = krpc.decode_message(answer)
        if isinstance(message, krpc.Failure):
            return {b"code": message.code}
        assert isinstance(message, krpc.Reply)
        return dict(message.values)

    def put(self, one: Item, **more: Value) -> dict[bytes, Value]:
        """Put an item with the token that was given."""
        named = {key.decode(): value for key, value in one.arguments().items()}
        salt = {"salt": one.where.salt} if one.where.salt else {}
        return self.ask(b"put", **{"token": self.token, **salt, **named, **more})


def test_a_stranger_puts_and_gets() -> None:
    """The whole item, a token and the nearest contacts."""
    stranger = Stranger()
    assert stranger.put(item(5)) == {b"id": node_id(0)}
    told = stranger.ask(b"get", target=WHERE.target)
    assert item(5).arguments().items() <= told.items()
    assert len(told) == 7
    assert stranger.put(item(6), cas=4) == {b"code": 301}
    assert stranger.put(item(4)) == {b"code": 302}


def test_who_has_the_item_is_not_sent_it_again() -> None:
    """Only its sequence, if that is no newer than the asker's."""
    stranger = Stranger()
    stranger.put(item(5))
    for sequence, shown in ((4, True), (5, False), (6, False)):
        told = stranger.ask(b"get", target=WHERE.target, seq=sequence)
        assert (told[b"seq"], b"v" in told) == (5, shown)


def test_the_largest_item_still_fits_a_datagram() -> None:
    """Then without contacts: who holds it is near enough."""
    stranger = Stranger()
    large = item(5, b"v" * (DHT_ITEM_BYTES_MAX - 4))
    stranger.put(large)
    told = stranger.ask(b"get", target=WHERE.target)
    assert told[b"v"] == large.value
    assert b"nodes" not in told
    assert DATAGRAM_MAX > DHT_REPLY_BYTES_MAX


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        (b"get", {"target": b"short"}),
        (b"get", {"target": 1}),
        (b"put", {"token": b"wrong"}),
        (b"put", {"token": 1}),
        (b"put", {"salt": 1}),
        (b"put", {"cas": b"1"}),
        (b"put", {"k": b"short"}),
    ],
)
def test_malformed_questions_are_refused_by_code(method: bytes, wrong: dict[str, Value]) -> None:
    """203, and nothing is kept."""
    stranger = Stranger()
    if method == b"get":
        assert stranger.ask(method, **wrong) == {b"code": 203}
    else:
        assert stranger.put(item(5), **wrong) == {b"code": 203}
    assert stranger.node.stored_items == 0


def test_an_immutable_item_is_not_kept() -> None:
    """It has no key; nobody here asks for one."""
    stranger = Stranger()
    assert stranger.ask(b"put", token=stranger.token, v=b"value") == {b"code": 203}


# --- both families -------------------------------------------------------------------------------


def test_a_node_of_both_families_leads_each_to_its_own_kind() -> None:
    """BEP 32: what only the IPv6 node of a pair knows is heard of through its IPv4 node."""
    wire = Wire()
    both = [wire.node(1), wire.node(2, "::1")]
    wire.pair(*both)
    six, six_address = wire.node(3, "::1")
    six.add_bootstrap([both[1][1]], wire.now_ms)
    late = [wire.node(4), wire.node(5, "::1")]
    wire.pair(*late)
    wire.run(1_000)
    # Only an IPv4 address is known at first.
    late[0][0].add_bootstrap([both[0][1]], wire.now_ms)
    late[0][0].lookup(NAME, wire.now_ms)
    wire.run(3_000)
    assert six_address in late[1][0].contact_addresses()


def test_contacts_are_of_the_families_that_the_asker_wants() -> None:
    """Without `want` of the one that it came over; unknown words are left out."""
    one = DhtNode(node_id(0), 0, b"s" * 16)
    six = DhtNode(node_id(0), 0, b"t" * 16, family=6)
    for number in range(1, 40):
        one.table.replied(node_id(number), ("127.0.0.1", number), 0)
        six.table.replied(node_id(number), ("::1", number), 0)
    with pytest.raises(LocalProtocolError, match="other family"):
        one.pair(one)
    one.pair(six)
    wanted: tuple[tuple[list[Value] | bytes, set[bytes]], ...] = (
        ([], {b"nodes"}),
        (b"n6", {b"nodes"}),
        ([b"n6"], {b"nodes6"}),
        ([b"n4", b"n6", b"n9", 5, [b"n4"]], {b"nodes", b"nodes6"}),
    )
    for want, keys in wanted:
        raw = krpc.encode_query(b"t", b"get_peers", node_id(9), {b"info_hash": NAME, b"want": want})
        one.receive_datagram(raw, HERE, 0)
        answer, _ = one.datagrams_to_send()[0]
        message = krpc.decode_message(answer)
        assert isinstance(message, krpc.Reply)
        assert {key for key in message.values if key.startswith(b"nodes")} == keys
        assert len(answer) <= DHT_REPLY_BYTES_MAX
