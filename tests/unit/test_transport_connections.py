"""How many connections are admitted, by address."""

from __future__ import annotations

from collections import Counter

import pytest

from zmqex.adapters.transport.connections import Connections
from zmqex.limits import CONNECTIONS_MAX, CONNECTIONS_PER_NETWORK_MAX


@pytest.mark.parametrize(
    ("address", "neighbour", "stranger"),
    [
        ("203.0.113.7", "203.0.113.7", "203.0.113.8"),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:3::1"),
    ],
)
def test_one_network_has_its_share_and_gets_it_back(
    address: str, neighbour: str, stranger: str
) -> None:
    """An IPv6 /64 is one party; what ends makes room; ending twice makes no more of it."""
    connections = Connections(Counter())
    for number in range(CONNECTIONS_PER_NETWORK_MAX):
        assert connections.admit((1, number), address)
    assert not connections.admit((1, 100), neighbour)
    assert connections.admit((1, 101), stranger)
    connections.forget((1, 0))
    connections.forget((1, 0))
    connections.forget((1, 100))
    assert connections.admit((2, 0), neighbour)
    assert not connections.admit((2, 1), neighbour)


def test_loopback_is_bounded_by_the_whole_only() -> None:
    """Many nodes of one machine are no attack, but descriptors end for them too."""
    connections = Connections(Counter())
    admitted = [connections.admit((1, n), "127.0.0.1") for n in range(CONNECTIONS_MAX + 3)]
    assert admitted == [True] * CONNECTIONS_MAX + [False] * 3
    assert not connections.admit((1, -1), "203.0.113.7")
