"""Nobody fills more than a share: of addresses, of dials, of places."""

from __future__ import annotations

import pytest

from zmqex.kernel.shares import Shares, subnet_of


@pytest.mark.parametrize(
    ("host", "subnet"),
    [
        ("8.8.4.4", "8.8.0.0/16"),
        ("2a00:1450:4001::5", "2a00:1450::/32"),
        ("10.1.2.3", ""),
        ("127.0.0.1", ""),
        ("::1", ""),
        ("Node.Example", "node.example"),
    ],
)
def test_a_subnet_is_what_one_party_may_own_in_bulk(host: str, subnet: str) -> None:
    """A /16 or a /32 of the public ones, nothing at home, and a name by itself."""
    assert subnet_of(host) == subnet


def test_one_source_fills_half_and_one_subnet_a_sixteenth() -> None:
    """Beyond that the reason is said; the operator's word is bound by the places alone."""
    shares = Shares()
    for number in range(4):
        assert shares.why_not(64, "dht", f"8.8.{number}.1") == ""
        shares.add("dht", f"8.8.{number}.1")
    assert "subnet 8.8.0.0/16" in shares.why_not(64, "exchange", "8.8.9.9")
    assert shares.load("dht", "8.8.1.1") == (4, 4)
    assert "source dht fills half" in shares.why_not(8, "dht", "10.1.1.1")
    assert shares.why_not(8, "dht", "8.8.1.1", pinned=True) == ""
    assert shares.why_not(4, "static", "10.1.1.1", pinned=True) == "all 4 places are taken"
    for number in range(4):
        shares.remove("dht", f"8.8.{number}.1")
    assert shares.why_not(8, "dht", "8.8.1.1") == ""
