"""Rendezvous names: always 20 printable bytes, the same for the same market."""

from __future__ import annotations

import pytest

from zmqex.dht.names import NAME_BYTES, rendezvous_name


@pytest.mark.parametrize(
    ("network", "market", "name"),
    [
        ("play", "btcusd", b"zmqex:v1:play:btcusd"),
        ("play", "BTC/USD", b"zmqex:v1:play:btcusd"),
        ("play", "a/b", b"zmqex:v1:play:ab...."),
        ("regtest", "BTC/USD", b"zmqex:v1:6xxmqgpysm6"),
    ],
)
def test_names_stay_as_they_are_for_ever(network: str, market: str, name: bytes) -> None:
    """A changed name would split the network: these are fixed."""
    assert rendezvous_name(network, market) == name


@pytest.mark.parametrize(
    ("network", "market"), [("", ""), ("mainnet", "BTC/USD"), ("é", "ß/€"), ("x" * 900, "y")]
)
def test_any_words_give_20_printable_bytes(network: str, market: str) -> None:
    """Too long, empty or not ASCII: hashed, never cut."""
    name = rendezvous_name(network, market)
    assert len(name) == NAME_BYTES
    assert name.decode("ascii").isprintable()


def test_different_markets_meet_under_different_names() -> None:
    """Networks and markets do not mix, readable or hashed."""
    words = [
        (network, market) for network in ("play", "mainnet") for market in ("BTC/USD", "LTC/EUR")
    ]
    assert len({rendezvous_name(*pair) for pair in words}) == 4
