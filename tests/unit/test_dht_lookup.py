"""One lookup: nearest first, never more than alpha at once, bounded against liars."""

from __future__ import annotations

from zmqex.dht.address import Address
from zmqex.dht.limits import (
    DHT_ALPHA,
    DHT_K,
    DHT_LOOKUP_CONTACTS_MAX,
    DHT_LOOKUP_LIFE_MAX_MS,
    DHT_LOOKUP_PEERS_MAX,
    DHT_LOOKUP_QUERIES_MAX,
)
from zmqex.dht.lookup import Lookup, Purpose

ZERO = b"\0" * 20


def _contact(number: int) -> tuple[bytes, Address]:
    """Return a node at distance `number` from the name that is looked up."""
    return number.to_bytes(20, "big"), ("127.0.0.1", number)


def _lookup(*numbers: int) -> Lookup:
    lookup = Lookup(ZERO, Purpose.PEERS, 0)
    lookup.add(_contact(number) for number in numbers)
    return lookup


def _reply(lookup: Lookup, address: Address, *found: int, token: bytes | None = b"t") -> None:
    lookup.replied(address, address[1].to_bytes(20, "big"), token, [])
    lookup.add(_contact(number) for number in found)


def test_without_anybody_to_ask_it_is_done_at_once() -> None:
    """A node alone gets its answer now."""
    lookup = _lookup()
    assert lookup.next_queries(0) == []
    assert lookup.is_done(0)
    assert lookup.peers() == ()


def test_the_nearest_are_asked_first_and_alpha_at_once() -> None:
    """An answer frees one place."""
    lookup = _lookup(*range(30, 0, -1))
    asked = lookup.next_queries(0)
    assert asked == [("127.0.0.1", number) for number in range(1, DHT_ALPHA + 1)]
    assert lookup.next_queries(0) == []
    _reply(lookup, asked[0])
    assert lookup.next_queries(0) == [("127.0.0.1", DHT_ALPHA + 1)]


def test_a_bare_address_is_asked_before_all_others() -> None:
    """Its id shows in its answer, and then it counts like everybody."""
    lookup = _lookup(5)
    lookup.add([(None, ("127.0.0.1", 900))])
    asked = lookup.next_queries(0)
    assert asked == [("127.0.0.1", 900), ("127.0.0.1", 5)]
    for address in asked:
        _reply(lookup, address)
    assert lookup.holders() == [(("127.0.0.1", 5), b"t"), (("127.0.0.1", 900), b"t")]


def test_it_is_done_when_the_k_nearest_have_answered() -> None:
    """Farther ones are never asked; silent ones are passed over."""
    lookup = _lookup(*range(1, 101))
    asked: list[Address] = []
    while not lookup.is_done(0):
        for address in lookup.next_queries(0):
            asked.append(address)
            if address[1] == 3:
                lookup.failed(address)
            else:
                _reply(lookup, address)
    assert [address[1] for address in asked] == list(range(1, DHT_K + 2))
    assert lookup.answers == DHT_K
    assert [address[1] for address, _ in lookup.holders()] == [
        number for number in range(1, DHT_K + 2) if number != 3
    ]


def test_nearer_nodes_that_are_named_on_the_way_are_asked() -> None:
    """The lookup walks towards its name."""
    lookup = _lookup(1_000)
    (first,) = lookup.next_queries(0)
    _reply(lookup, first, 10, 1_000)
    assert lookup.next_queries(0) == [("127.0.0.1", 10)]
    assert not lookup.is_done(0)


def test_who_gives_no_token_is_told_nothing() -> None:
    """An announce needs one (BEP 5)."""
    lookup = _lookup(1, 2)
    one, two = lookup.next_queries(0)
    _reply(lookup, one, token=None)
    _reply(lookup, two)
    assert lookup.holders() == [(two, b"t")]


def test_invented_nodes_cannot_prolong_it_for_ever() -> None:
    """A liar names nearer and nearer nodes: queries, memory and time are bounded."""
    lookup = _lookup(60_000)
    number, queries = 60_000, 0
    while not lookup.is_done(0):
        for address in lookup.next_queries(0):
            queries += 1
            number -= 20
            _reply(lookup, address, *range(number, number + 20))
            assert len(lookup._entries) <= DHT_LOOKUP_CONTACTS_MAX
    assert queries == DHT_LOOKUP_QUERIES_MAX


def test_it_ends_by_time() -> None:
    """Whoever has not answered by then is not waited for."""
    lookup = _lookup(*range(1, 20))
    asked = lookup.next_queries(0)
    assert not lookup.is_done(DHT_LOOKUP_LIFE_MAX_MS - 1)
    lookup.failed(asked[0])
    assert lookup.next_queries(DHT_LOOKUP_LIFE_MAX_MS) == []
    assert lookup.is_done(DHT_LOOKUP_LIFE_MAX_MS)


def test_peers_named_by_most_nodes_come_first() -> None:
    """A liar's long list never pushes a short honest one back."""
    lookup = _lookup(1, 2, 3)
    liar, one, two = lookup.next_queries(0)
    invented = [("10.9.9.9", port) for port in range(1, 101)]
    honest, lonely = ("127.0.0.1", 5), ("127.0.0.1", 6)
    assert lookup.replied(liar, ZERO, None, invented) == invented
    assert lookup.replied(one, ZERO, None, [honest]) == [honest]
    assert lookup.replied(two, ZERO, None, [lonely, honest, honest]) == [lonely]
    assert lookup.peers()[0] == honest
    assert lonely in lookup.peers()[:3]


def test_found_peers_are_bounded() -> None:
    """Ten liars fill the list and no more."""
    lookup = _lookup()
    for liar in range(10):
        lookup.found([(f"10.9.9.{liar}", port) for port in range(1, 101)])
    assert len(lookup.peers()) == DHT_LOOKUP_PEERS_MAX
    assert lookup.found([("10.9.9.99", 1)]) == []
