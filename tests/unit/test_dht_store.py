"""The peer store: 120 s of life, and nobody crowds out anybody."""

from __future__ import annotations

from zmqex.dht.limits import (
    DHT_PEER_LIFE_MS,
    DHT_PEERS_PER_HOST_MAX,
    DHT_PEERS_PER_LOCAL_SOCKET_MAX,
    DHT_PEERS_PER_NAME_MAX,
    DHT_PEERS_PER_SOURCE_MAX,
    DHT_PEERS_TOTAL_MAX,
)
from zmqex.dht.store import PeerStore

NAME = b"name"
HERE = ("127.0.0.1", 7)


def test_an_announce_lives_120_seconds_and_not_a_millisecond_longer() -> None:
    """Found at 119,999 ms; gone, name and all, at 120,000."""
    store = PeerStore()
    assert store.announce(NAME, HERE, HERE, 5) is True
    assert store.peers(NAME, 5 + DHT_PEER_LIFE_MS - 1) == [HERE]
    assert (len(store), store.names) == (1, 1)

    assert store.peers(NAME, 5 + DHT_PEER_LIFE_MS) == []
    assert (len(store), store.names) == (0, 0)


def test_a_repeated_announce_lives_on() -> None:
    """The age counts from the last one; the order of ending follows it."""
    store = PeerStore()
    other = ("127.0.0.1", 8)
    store.announce(NAME, HERE, HERE, 0)
    store.announce(NAME, other, HERE, 10)
    assert store.announce(NAME, HERE, HERE, 20) is False
    store.expire(DHT_PEER_LIFE_MS + 10)
    assert store.peers(NAME, DHT_PEER_LIFE_MS + 10) == [HERE]


def test_a_public_host_has_few_places_under_a_name() -> None:
    """All its sockets together."""
    store = PeerStore()
    kept = [store.announce(NAME, ("8.8.8.8", port), ("8.8.8.8", port), 0) for port in range(1, 100)]
    assert kept.count(True) == DHT_PEERS_PER_HOST_MAX
    assert kept.count(None) == 99 - DHT_PEERS_PER_HOST_MAX
    assert store.announce(b"other", ("8.8.8.8", 1), ("8.8.8.8", 1), 0) is True


def test_many_nodes_on_loopback_are_all_kept_but_one_socket_cannot_flood() -> None:
    """The limit is per socket there, not per host."""
    store = PeerStore()
    for port in range(1, 301):
        assert store.announce(NAME, ("127.0.0.1", port), ("127.0.0.1", port), 0)
    flood = [
        store.announce(NAME, ("127.0.0.1", port), ("127.0.0.1", 9_999), 0)
        for port in range(1_000, 9_000)
    ]
    assert flood.count(True) == DHT_PEERS_PER_LOCAL_SOCKET_MAX


def test_a_full_name_makes_room_at_the_cost_of_the_greediest() -> None:
    """A newcomer gets in, one of the flooder's goes, and honest ones stay."""
    store = PeerStore()
    honest = ("127.0.0.1", 50)
    store.announce(NAME, honest, honest, 0)
    for socket in range(60_000, 60_008):
        for place in range(DHT_PEERS_PER_LOCAL_SOCKET_MAX):
            port = 1_000 + (socket - 60_000) * 1_000 + place
            store.announce(NAME, ("127.0.0.1", port), ("127.0.0.1", socket), 1)
    assert len(store) == DHT_PEERS_PER_NAME_MAX

    late = ("127.0.0.1", 51)
    assert store.announce(NAME, late, late, 2) is True
    peers = store.peers(NAME, 2)
    assert len(peers) == DHT_PEERS_PER_NAME_MAX
    assert honest in peers
    assert late in peers


def test_a_name_full_of_equals_takes_nobody_more() -> None:
    """Whoever came first stays."""
    store = PeerStore()
    for port in range(1, DHT_PEERS_PER_NAME_MAX + 1):
        store.announce(NAME, ("127.0.0.1", port), ("127.0.0.1", port), 0)
    assert store.announce(NAME, ("127.0.0.1", 9_999), ("127.0.0.1", 9_999), 1) is None
    assert len(store) == DHT_PEERS_PER_NAME_MAX


def test_one_source_has_a_bounded_number_of_names() -> None:
    """Many names are no way around the limit; other sources are not touched."""
    store = PeerStore()
    names = [b"%d" % number for number in range(DHT_PEERS_PER_SOURCE_MAX + 50)]
    kept = [store.announce(name, HERE, HERE, 0) for name in names]
    assert kept.count(True) == DHT_PEERS_PER_SOURCE_MAX
    assert store.announce(b"new", ("127.0.0.2", 1), ("127.0.0.2", 1), 0) is True


def test_the_whole_store_is_bounded_but_our_own_names_have_room() -> None:
    """When everything is full, a name that we follow still takes peers."""
    store = PeerStore()
    for number in range(DHT_PEERS_TOTAL_MAX):
        sender = ("127.0.0.1", 1 + number // DHT_PEERS_PER_SOURCE_MAX)
        assert store.announce(b"%d" % number, sender, sender, 0)
    late = ("127.0.0.9", 1)
    assert store.announce(NAME, late, late, 0) is None
    assert store.announce(NAME, late, late, 0, ours=True) is True
    assert len(store) == DHT_PEERS_TOTAL_MAX + 1


def test_a_peer_that_announces_from_another_socket_is_the_same_peer() -> None:
    """A node started anew keeps its hello port; its place passes to the new socket."""
    store = PeerStore()
    store.announce(NAME, ("127.0.0.1", 5), ("127.0.0.1", 60_000), 0)
    assert store.announce(NAME, ("127.0.0.1", 5), ("127.0.0.1", 60_001), 10) is False
    assert store.peers(NAME, 10 + DHT_PEER_LIFE_MS - 1) == [("127.0.0.1", 5)]
    assert len(store) == 1
