"""Tokens and rates."""

from __future__ import annotations

import itertools

from zmqex.dht.guard import RateLimit, Tokens
from zmqex.dht.limits import (
    DHT_RATE_BURST,
    DHT_RATE_HOSTS_MAX,
    DHT_RATE_PER_SECOND,
    DHT_TOKEN_LIFE_MS,
)


def _tokens() -> Tokens:
    draws = itertools.count()
    return Tokens(lambda count: next(draws).to_bytes(count, "big"), 0)


def test_a_token_belongs_to_one_host() -> None:
    """It cannot be handed on, and nothing else passes."""
    tokens = _tokens()
    token = tokens.issue("8.8.8.8", 0)
    assert tokens.accepts(token, "8.8.8.8", 1)
    assert not tokens.accepts(token, "8.8.4.4", 1)
    assert not tokens.accepts(b"", "8.8.8.8", 1)
    assert not tokens.accepts(token + b"x", "8.8.8.8", 1)


def test_a_token_lives_through_one_change_of_the_secret_and_not_two() -> None:
    """Good for at least 5 and less than 10 minutes (BEP 5)."""
    tokens = _tokens()
    token = tokens.issue("8.8.8.8", DHT_TOKEN_LIFE_MS - 1)
    assert tokens.accepts(token, "8.8.8.8", 2 * DHT_TOKEN_LIFE_MS - 1)
    assert not tokens.accepts(token, "8.8.8.8", 2 * DHT_TOKEN_LIFE_MS)


def test_a_token_does_not_outlive_a_long_silence() -> None:
    """When nobody asked for hours, the last secret is not taken for a fresh one."""
    tokens = _tokens()
    token = tokens.issue("8.8.8.8", 0)
    assert not tokens.accepts(token, "8.8.8.8", 2 * DHT_TOKEN_LIFE_MS)


def test_a_host_gets_its_burst_and_then_its_rate() -> None:
    """Never a ban: after a second there is a second's share again."""
    rate = RateLimit()
    assert sum(rate.allows("8.8.8.8", 0) for _ in range(10 * DHT_RATE_BURST)) == DHT_RATE_BURST
    assert rate.allows("8.8.4.4", 0)
    again = sum(rate.allows("8.8.8.8", 1_000) for _ in range(10 * DHT_RATE_BURST))
    assert again == DHT_RATE_PER_SECOND


def test_loopback_is_free() -> None:
    """Many nodes on one machine are no flood, and leave nothing in memory."""
    rate = RateLimit()
    assert all(rate.allows("127.0.0.1", 0) for _ in range(10 * DHT_RATE_BURST))
    assert len(rate) == 0


def test_remembered_hosts_are_bounded() -> None:
    """Forged sources push out the longest unused, nothing grows."""
    rate = RateLimit()
    for number in range(DHT_RATE_HOSTS_MAX + 100):
        rate.allows(f"8.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0)
    assert len(rate) == DHT_RATE_HOSTS_MAX
