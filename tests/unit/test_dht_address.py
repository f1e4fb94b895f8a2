"""Compact addresses, and who may tell us about whom."""

from __future__ import annotations

import pytest

from zmqex.dht.address import (
    Scope,
    address_bytes,
    family_of,
    is_believable,
    network_of,
    pack_address,
    scope_of,
    unpack_address,
    unspecified,
)


def test_compact_addresses_have_the_bytes_of_bep_5_and_bep_32() -> None:
    """Host then port, big-endian, 6 and 18 bytes."""
    assert pack_address(("1.2.3.4", 6881)) == b"\x01\x02\x03\x04\x1a\xe1"
    assert pack_address(("::1", 1)) == b"\0" * 15 + b"\x01\0\x01"
    assert unpack_address(b"\x01\x02\x03\x04\x1a\xe1", 4) == ("1.2.3.4", 6881)
    assert unpack_address(b"\0" * 15 + b"\x01\0\x01", 6) == ("::1", 1)
    assert (address_bytes(4), address_bytes(6)) == (6, 18)


def test_port_zero_and_other_lengths_are_no_address() -> None:
    """Nothing that cannot be dialled is read."""
    assert unpack_address(b"\x01\x02\x03\x04\0\0", 4) is None
    assert unpack_address(b"\x01\x02\x03\x04\0", 4) is None
    assert unpack_address(b"\x01\x02\x03\x04\0\x01", 6) is None


@pytest.mark.parametrize(
    ("host", "scope"),
    [
        ("127.0.0.1", Scope.LOOPBACK),
        ("127.9.9.9", Scope.LOOPBACK),
        ("::1", Scope.LOOPBACK),
        ("10.0.0.1", Scope.PRIVATE),
        ("192.168.1.1", Scope.PRIVATE),
        ("100.64.0.1", Scope.PRIVATE),
        ("fd00::1", Scope.PRIVATE),
        ("8.8.8.8", Scope.PUBLIC),
        ("2600::1", Scope.PUBLIC),
        ("0.0.0.0", Scope.UNUSABLE),  # noqa: S104 - read, not bound
        ("::", Scope.UNUSABLE),
        ("224.0.0.1", Scope.UNUSABLE),
        ("255.255.255.255", Scope.UNUSABLE),
        ("fe80::1", Scope.UNUSABLE),
        ("::ffff:8.8.8.8", Scope.UNUSABLE),
        ("example.org", Scope.UNUSABLE),
        ("", Scope.UNUSABLE),
    ],
)
def test_every_host_has_a_scope(host: str, scope: Scope) -> None:
    """From unusable to public."""
    assert scope_of(host) is scope


def test_nobody_may_point_us_closer_than_himself() -> None:
    """A public node cannot make us call our own machine or network; a neighbour can."""
    assert is_believable("8.8.8.8", "1.1.1.1")
    assert not is_believable("10.0.0.1", "1.1.1.1")
    assert not is_believable("127.0.0.1", "1.1.1.1")
    assert not is_believable("127.0.0.1", "10.0.0.1")
    assert is_believable("10.0.0.2", "10.0.0.1")
    assert is_believable("8.8.8.8", "127.0.0.1")
    assert not is_believable("224.0.0.1", "127.0.0.1")


def test_a_network_is_a_host_in_ipv4_and_a_64_in_ipv6() -> None:
    """What one party can fill with addresses counts as one."""
    assert network_of("8.8.8.8") == "8.8.8.8"
    assert network_of("2600::1") == network_of("2600::ffff:1")
    assert network_of("2600::1") != network_of("2600:0:0:1::1")


def test_families_and_their_unspecified_hosts() -> None:
    """4 and 6; a name has no family."""
    assert family_of(unspecified(4)) == 4
    assert family_of(unspecified(6)) == 6
    with pytest.raises(ValueError, match="example"):
        family_of("example.org")
