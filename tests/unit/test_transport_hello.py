"""What strangers may ask of the hello socket, and which addresses are addresses."""

from __future__ import annotations

import pytest

from zmqex.adapters.transport.hello import HelloLimit
from zmqex.adapters.transport.options import endpoint, is_numeric
from zmqex.limits import (
    HELLO_PER_SECOND,
    HELLO_SOURCE_BURST,
    HELLO_SOURCE_PER_SECOND,
    HELLO_SOURCES_MAX,
)


def test_one_network_is_cut_after_its_burst_and_served_again_by_the_clock() -> None:
    """Another network, and the same one a second later, are served."""
    limit = HelloLimit()
    served = [limit.allows("203.0.113.7", b"a", 0) for _ in range(HELLO_SOURCE_BURST + 5)]
    assert served == [True] * HELLO_SOURCE_BURST + [False] * 5
    assert limit.allows("198.51.100.7", b"b", 0)
    again = [limit.allows("203.0.113.7", b"a", 1_000) for _ in range(HELLO_SOURCE_PER_SECOND + 1)]
    assert again == [True] * HELLO_SOURCE_PER_SECOND + [False]


def test_a_new_connection_does_not_renew_a_strangers_rate() -> None:
    """The address counts, not the connection."""
    limit = HelloLimit()
    served = [
        limit.allows("203.0.113.7", str(number).encode(), 0)
        for number in range(HELLO_SOURCE_BURST + 1)
    ]
    assert served.count(False) == 1


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", ""])
def test_on_loopback_each_connection_has_its_own_rate(address: str) -> None:
    """Many nodes of one machine share one address."""
    limit = HelloLimit()
    loud = [limit.allows(address, b"loud", 0) for _ in range(HELLO_SOURCE_BURST + 1)]
    assert loud.count(False) == 1
    assert limit.allows(address, b"quiet", 0)


def test_all_strangers_together_have_a_rate_and_their_table_a_bound() -> None:
    """Addresses are cheap for who has a whole network."""
    limit = HelloLimit()
    hosts = [f"2001:{number:x}::1" for number in range(0x4000, 0x4000 + HELLO_SOURCES_MAX + 50)]
    assert [limit.allows(host, b"", 0) for host in hosts].count(True) == HELLO_PER_SECOND
    assert len(limit) == HELLO_SOURCES_MAX


@pytest.mark.parametrize(
    ("host", "port", "written"),
    [
        ("127.0.0.1", 7100, "tcp://127.0.0.1:7100"),
        ("::1", 1, "tcp://[::1]:1"),
        ("node-1.example_net.org", 65535, "tcp://node-1.example_net.org:65535"),
        ("", 7100, None),
        ("127.0.0.1", 0, None),
        ("127.0.0.1", 65536, None),
        ("10.0.0.1;127.0.0.1", 7100, None),
        ("a b", 7100, None),
        ("127.0.0.1:22", 7100, None),
        ("127.0.0.1\n", 7100, None),
        ("*", 7100, None),
    ],
)
def test_only_an_address_becomes_an_endpoint(host: str, port: int, written: str | None) -> None:
    """ZeroMQ's own separators are no part of a host."""
    assert endpoint(host, port) == written


def test_names_are_told_from_numbers() -> None:
    """Only names wait for a name server."""
    assert [is_numeric(host) for host in ("127.0.0.1", "::1", "fe80::1%eth0")] == [True] * 3
    assert [is_numeric(host) for host in ("localhost", "1.2.3.4.example")] == [False] * 2
