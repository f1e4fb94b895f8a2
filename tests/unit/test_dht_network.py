"""Networks of nodes over an in-memory wire in virtual time: finding, losing, coming back, lying."""

from __future__ import annotations

import pytest

from tests.unit.dht_wire import NAME, Wire
from zmqex.dht import krpc
from zmqex.dht.address import Address
from zmqex.dht.bencode import Value
from zmqex.dht.events import Announced, LookupDone, PeersFound
from zmqex.dht.limits import (
    DHT_ALPHA,
    DHT_CHECKS_MAX,
    DHT_DEAD_LIFE_MS,
    DHT_DEAD_MAX,
    DHT_LOOKUP_QUERIES_MAX,
    DHT_PEER_LIFE_MS,
    DHT_QUERY_TIMEOUT_MS,
)
from zmqex.dht.node import DhtNode
from zmqex.dht.queries import Queries
from zmqex.limits import MINUTE_MS

STRANGER = ("127.0.0.1", 66)


def _done(wire: Wire, address: Address) -> LookupDone:
    """Return the last lookup of NAME that `address` finished."""
    events = wire.events[address]
    return [event for event in events if isinstance(event, LookupDone)][-1]


def _ports(wire: Wire, address: Address) -> set[int]:
    """Return all ports that were ever reported to `address` under NAME."""
    found: set[int] = set()
    for event in wire.events[address]:
        if isinstance(event, PeersFound):
            found.update(port for _, port in event.peers)
    return found


def test_a_second_node_finds_the_first_in_one_round_trip_and_is_found_at_once() -> None:
    """The first answers for itself, and learns of the second by its announce."""
    wire = Wire()
    first, one = wire.node(1)
    first.announce(NAME, 501, wire.now_ms)
    first.follow(NAME, wire.now_ms)
    wire.run(60_000)
    second, two = wire.node(2)
    second.add_bootstrap([one], wire.now_ms)
    second.announce(NAME, 502, wire.now_ms)
    second.lookup(NAME, wire.now_ms)
    wire.run(5)
    assert _done(wire, two) == LookupDone(NAME, (("127.0.0.1", 501),), 1, 4)
    wire.run(5)
    assert 502 in _ports(wire, one)
    assert Announced(NAME, 502, 1) in wire.events[two]
    # The first now has a contact, and what it announced to nobody is told at once.
    wire.run(20)
    assert Announced(NAME, 501, 1) in wire.events[one]
    assert (first.contacts, second.contacts) == (1, 1)
    assert second.found(NAME, wire.now_ms) == (("127.0.0.1", 501),)
    assert second.last_reply_ms is not None
    assert second.contact_addresses() == [one]
    assert first.stored_peers == 1


def test_the_same_calls_give_the_same_datagrams() -> None:
    """No clock and no chance of its own."""

    def history() -> list[tuple[Address, Address, bytes]]:
        wire = Wire(loss_percent=10, seed=4)
        _, one = wire.node(1)
        for number in (2, 3, 4):
            node, _ = wire.node(number)
            node.add_bootstrap([one], wire.now_ms)
            node.announce(NAME, number, wire.now_ms)
            node.follow(NAME, wire.now_ms)
        wire.run(60_000)
        return wire.sent

    assert history() == history()


@pytest.mark.parametrize("seed", range(5))
def test_two_nodes_find_each_other_although_a_third_of_all_datagrams_is_lost(seed: int) -> None:
    """Within ten seconds, by repeating."""
    wire = Wire(loss_percent=33, seed=seed)
    first, one = wire.node(1)
    second, two = wire.node(2)
    second.add_bootstrap([one], wire.now_ms)
    for number, node in ((1, first), (2, second)):
        node.announce(NAME, 500 + number, wire.now_ms)
        node.follow(NAME, wire.now_ms)
    wire.run(10_000)
    assert 502 in _ports(wire, one)
    assert 501 in _ports(wire, two)


def test_twenty_nodes_that_start_together_all_find_all_twenty() -> None:
    """In one second; each knows only the first."""
    wire = Wire()
    nodes = [wire.node(number) for number in range(20)]
    for number, (node, _) in enumerate(nodes):
        node.add_bootstrap([nodes[0][1]] * (number > 0), wire.now_ms)
        node.announce(NAME, 500 + number, wire.now_ms)
        node.follow(NAME, wire.now_ms)
    wire.run(1_000)
    for number, (_, address) in enumerate(nodes):
        assert _ports(wire, address) | {500 + number} == set(range(500, 520))


def test_twenty_nodes_of_ipv6_find_each_other_too() -> None:
    """BEP 32: 18-byte peers and 38-byte contacts."""
    wire = Wire()
    nodes = [wire.node(number, "::1") for number in range(20)]
    for number, (node, _) in enumerate(nodes):
        node.add_bootstrap([nodes[0][1]] * (number > 0), wire.now_ms)
        node.announce(NAME, 500 + number, wire.now_ms)
    wire.run(7_000)
    late, address = wire.node(77, "::1")
    late.add_bootstrap([nodes[5][1]], wire.now_ms)
    late.lookup(NAME, wire.now_ms)
    wire.run(100)
    assert _done(wire, address).peers
    assert _ports(wire, address) == set(range(500, 520))


def test_nodes_on_different_public_hosts_reach_each_other_without_knowing_their_address() -> None:
    """Where you reached me: an unspecified host stands for whoever answered."""
    wire = Wire()
    first, one = wire.node(1, "8.8.8.8")
    first.announce(NAME, 501, wire.now_ms)
    second, two = wire.node(2, "8.8.4.4")
    second.add_bootstrap([one], wire.now_ms)
    second.lookup(NAME, wire.now_ms)
    wire.run(20)
    assert _done(wire, two).peers == (("8.8.8.8", 501),)


def test_an_announce_is_repeated_while_wanted_and_gone_120_s_after_its_last() -> None:
    """After ten minutes it still stands; withdrawn or dead, it ends."""
    wire = Wire()
    keeper, one = wire.node(1)
    node, address = wire.node(2)
    node.add_bootstrap([one], wire.now_ms)
    node.announce(NAME, 502, wire.now_ms)
    wire.run(10 * MINUTE_MS)
    assert keeper.found(NAME, wire.now_ms) == (("127.0.0.1", 502),)

    rounds = [event for event in wire.events[address] if isinstance(event, Announced)]
    assert 15 <= len(rounds) <= 25
    node.withdraw(NAME)
    wire.run(DHT_PEER_LIFE_MS)
    assert keeper.found(NAME, wire.now_ms) == ()
    wire.run(31_000)
    assert keeper.stored_peers == 0


def test_a_withdrawn_announce_is_not_told_any_more_when_its_lookup_ends() -> None:
    """Between the two halves of an announce."""
    wire = Wire()
    keeper, one = wire.node(1)
    node, _ = wire.node(2)
    node.add_bootstrap([one], wire.now_ms)
    node.announce(NAME, 502, wire.now_ms)
    node.withdraw(NAME)
    wire.run(500)
    assert keeper.stored_peers == 0


def test_a_bootstrap_node_that_starts_later_is_found() -> None:
    """It is called again until it answers."""
    wire = Wire()
    node, address = wire.node(2)
    node.add_bootstrap([("127.0.0.1", 10_001)], wire.now_ms)
    node.announce(NAME, 502, wire.now_ms)
    node.follow(NAME, wire.now_ms)
    wire.run(60_000)
    first, one = wire.node(1)
    first.announce(NAME, 501, wire.now_ms)
    first.follow(NAME, wire.now_ms)
    wire.run(6_000)
    assert 501 in _ports(wire, address)
    assert 502 in _ports(wire, one)


def test_a_dead_bootstrap_node_does_not_slow_down_those_who_have_others() -> None:
    """It costs one time-out, and is spared then."""
    wire = Wire()
    _, one = wire.node(1)
    node, address = wire.node(2)
    node.add_bootstrap([one, ("127.0.0.1", 9)], wire.now_ms)
    wire.run(DHT_QUERY_TIMEOUT_MS + 10)
    node.lookup(NAME, wire.now_ms)
    wire.run(50)
    assert _done(wire, address).duration_ms <= 10


def test_when_half_of_the_nodes_vanish_the_rest_still_finds() -> None:
    """Without a word of farewell; one time-out and the lookup goes on."""
    wire = Wire()
    nodes = [wire.node(number) for number in range(20)]
    for number, (node, _) in enumerate(nodes):
        node.add_bootstrap([nodes[0][1]] * (number > 0), wire.now_ms)
        node.announce(NAME, 500 + number, wire.now_ms)
    wire.run(7_000)
    for _, address in nodes[::2]:
        wire.remove(address)
    node, address = nodes[1]
    node.lookup(NAME, wire.now_ms)
    wire.run(4_000)
    assert {port for _, port in _done(wire, address).peers} >= set(range(501, 520, 2)) - {501}
    assert node.counters.timeouts > 0


def _after_a_departure() -> tuple[Wire, DhtNode, Address, list[Address]]:
    """Forty nodes, of which thirty go without a word; one that is left, and those that went."""
    wire = Wire()
    nodes = [wire.node(number) for number in range(40)]
    for number, (node, _) in enumerate(nodes):
        node.add_bootstrap([nodes[0][1]] * (number > 0), wire.now_ms)
        node.announce(NAME, 500 + number, wire.now_ms)
    wire.run(7_000)
    gone = [address for number, (_, address) in enumerate(nodes) if number % 4]
    for address in gone:
        wire.remove(address)
    return wire, *nodes[4], gone


def test_after_a_mass_departure_only_the_first_lookups_wait_for_the_dead() -> None:
    """Others still name them for minutes; who was silent twice is not asked on hearsay."""
    wire, node, address, gone = _after_a_departure()
    took_ms = []
    for _ in range(4):
        node.lookup(NAME, wire.now_ms)
        wire.run(8_000)
        took_ms.append(_done(wire, address).duration_ms)
    assert took_ms[0] >= DHT_QUERY_TIMEOUT_MS
    assert took_ms[-1] < 50
    assert {port for _, port in _done(wire, address).peers} >= set(range(500, 540, 4)) - {504}
    dead = [one for one in gone if node._queries.is_dead(one, wire.now_ms)]
    assert len(dead) > 10
    later_ms = wire.now_ms + DHT_DEAD_LIFE_MS
    assert not any(node._queries.is_dead(one, later_ms) for one in gone)


def test_the_dead_are_forgiven_when_they_are_heard_and_when_it_was_we_who_were_cut_off() -> None:
    """A query from there is enough; after a wake everybody may have come back."""
    wire, node, address, gone = _after_a_departure()
    node.lookup(NAME, wire.now_ms)
    wire.run(8_000)
    dead = [one for one in gone if node._queries.is_dead(one, wire.now_ms)]
    back = krpc.encode_query(b"t", b"ping", b"b" * 20, {})
    node.receive_datagram(back, dead[0], wire.now_ms)
    assert [one for one in dead if not node._queries.is_dead(one, wire.now_ms)] == dead[:1]
    node.wake(wire.now_ms)
    assert not any(node._queries.is_dead(one, wire.now_ms) for one in dead)

    wire.cut.add(address)
    for number in range(3):
        node.lookup(b"name %d" % number, wire.now_ms)
        wire.run(8_000)
    assert node.contacts == 0
    assert not any(node._queries.is_dead(one, wire.now_ms) for one in gone)


def test_only_so_many_dead_are_remembered() -> None:
    """The earliest silence goes first."""
    queries = Queries(b"o" * 20, bytes, lambda _datagram: None)
    crowd = [("192.0.2.1", port) for port in range(1, DHT_DEAD_MAX + 2)]
    for now_ms in (0, DHT_QUERY_TIMEOUT_MS):
        for one in crowd:
            queries.ask(one, b"ping", {}, now_ms)
        assert len(list(queries.expired(now_ms + DHT_QUERY_TIMEOUT_MS))) == len(crowd)
    assert queries.silences(crowd[-1]) == 1
    assert len([one for one in crowd if queries.silences(one)]) == DHT_DEAD_MAX


def test_a_network_that_was_down_comes_back_by_itself_and_at_once_when_woken() -> None:
    """Silent contacts are kept and called again."""
    wire = Wire()
    first, one = wire.node(1)
    first.announce(NAME, 501, wire.now_ms)
    node, _ = wire.node(2)
    node.add_bootstrap([one], wire.now_ms)
    wire.run(1_000)
    plugged = wire.remove(one)
    node.follow(NAME, wire.now_ms)
    wire.run(3 * MINUTE_MS)
    assert node.contacts == 0

    wire.nodes[one] = plugged
    node.announce(b"other", 7, wire.now_ms)
    node.wake(wire.now_ms)
    wire.run(100)
    assert node.contacts == 1

    wire.remove(one)
    wire.run(3 * MINUTE_MS)
    wire.nodes[one] = plugged
    wire.run(31_000)
    assert node.contacts == 1


def test_after_twenty_minutes_of_silence_a_contact_is_forgotten() -> None:
    """The table does not fill with the dead; the bootstrap address stays."""
    wire = Wire()
    _, one = wire.node(1)
    node, _ = wire.node(2)
    node.add_bootstrap([one], wire.now_ms)
    wire.run(1_000)
    wire.remove(one)
    node.follow(NAME, wire.now_ms)
    wire.run(20 * MINUTE_MS)
    assert node.contact_addresses() == []


def test_old_buckets_are_refreshed() -> None:
    """A node that wants nothing still keeps its contacts alive."""
    wire = Wire()
    _, one = wire.node(1)
    node, _ = wire.node(2)
    node.add_bootstrap([one], wire.now_ms)
    wire.run(1_000)
    before = node.counters.sent
    wire.run(12 * MINUTE_MS)
    assert 2 <= node.counters.sent - before <= 20
    assert node.contacts == 1


def test_a_node_that_is_its_own_bootstrap_node_is_alone() -> None:
    """Its own answer is no contact and ends the lookup."""
    wire = Wire()
    node, address = wire.node(1)
    node.add_bootstrap([address], wire.now_ms)
    node.lookup(NAME, wire.now_ms)
    wire.run(100)
    assert node.contacts == 0
    assert _done(wire, address).answers == 0


def test_a_liar_that_invents_peers_and_nodes_is_bounded_and_honest_peers_come_first() -> None:
    """120 invented peers, nodes that lead nowhere: the lookup ends, memory and rank hold."""
    wire = Wire()
    keepers = [wire.node(number) for number in range(1, 5)]
    for node, address in keepers:
        node.add_bootstrap([keepers[0][1]] * (address != keepers[0][1]), wire.now_ms)
    honest, _ = wire.node(5)
    honest.add_bootstrap([keepers[0][1]], wire.now_ms)
    honest.announce(NAME, 505, wire.now_ms)
    wire.run(2_000)
    asker, address = wire.node(6)
    asker.add_bootstrap([keepers[1][1], STRANGER], wire.now_ms)
    asker.datagrams_to_send()
    asker.lookup(NAME, wire.now_ms)
    queries = asker.datagrams_to_send()
    peers: list[Value] = [b"\x0a\x09\x09\x09" + n.to_bytes(2, "big") for n in range(1, 121)]
    for raw, target in queries:
        if target == STRANGER:
            contacts = [(bytes([7] * 19 + [n]), ("10.8.8.8", n)) for n in range(1, 200)]
            values: dict[bytes, Value] = {
                b"token": b"t",
                b"values": peers,
                **krpc.pack_contacts(contacts, 4),
            }
            transaction = krpc.decode_message(raw).transaction
            lie = krpc.encode_reply(transaction, NAME, values, address)
            asker.receive_datagram(lie, STRANGER, wire.now_ms)
        else:
            wire.nodes[target].receive_datagram(raw, address, wire.now_ms)
    wire.run(20_000)
    done = _done(wire, address)
    assert done.peers[0] == ("127.0.0.1", 505)
    assert len(done.peers) <= 101
    asked = [target for source, target, _ in wire.sent if source == address]
    assert len([target for target in asked if target[0] == "10.8.8.8"]) <= DHT_LOOKUP_QUERIES_MAX


def test_a_node_that_starts_again_needs_no_bootstrap_node() -> None:
    """The contacts of its last run lead it back, although most of them have gone meanwhile."""
    wire = Wire()
    nodes = [wire.node(number) for number in range(20)]
    for number, (node, _) in enumerate(nodes):
        node.add_bootstrap([nodes[0][1]] * (number > 0), wire.now_ms)
        node.announce(NAME, 500 + number, wire.now_ms)
    wire.run(10_000)
    known = nodes[7][0].contact_addresses()
    wire.remove(nodes[7][1])
    for _, address in nodes[8:]:
        wire.remove(address)
    again, address = wire.node(77)
    again.restore(known, wire.now_ms)
    again.follow(NAME, wire.now_ms)
    wire.run(500)
    assert _ports(wire, address) >= set(range(500, 507))


def test_known_nodes_are_called_until_one_of_them_is_back() -> None:
    """Only usable ones, and only so many."""
    wire = Wire()
    node, address = wire.node(1)
    silent = [("127.0.0.1", port) for port in range(1, 100)]
    node.restore([("::1", 5), ("127.0.0.1", 10_002), *silent], wire.now_ms)
    wire.run(60_000)
    called = {target for _, target, _ in wire.sent}
    assert len(called) == DHT_CHECKS_MAX
    wire.node(2)
    wire.run(5_000)
    assert node.contact_addresses() == [("127.0.0.1", 10_002)]
    back = wire.nodes["127.0.0.1", 10_002]
    assert isinstance(back, DhtNode)
    assert address in back.contact_addresses()


def test_an_island_is_joined_to_the_others_when_its_bootstrap_node_can_be_reached() -> None:
    """Eight nodes found only each other while it was down; none of them is lonely any more."""
    wire = Wire()
    main, first = wire.node(0)
    main.announce(NAME, 500, wire.now_ms)
    wire.cut.add(first)
    island = [wire.node(number) for number in range(1, 9)]
    island[0][0].add_bootstrap([first], wire.now_ms)
    for node, _ in island[1:]:
        node.add_bootstrap([island[0][1]], wire.now_ms)
    wire.run(20_000)
    assert island[0][0].contacts >= DHT_ALPHA
    assert main.contacts == 0
    wire.cut.clear()
    wire.run(60_000)
    late, address = island[-1]
    late.lookup(NAME, wire.now_ms)
    wire.run(3_000)
    assert _done(wire, address).peers == (("127.0.0.1", 500),)
