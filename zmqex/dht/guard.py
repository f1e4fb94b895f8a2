"""What keeps strangers honest and cheap: write tokens and a rate for each host (BEP 5)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Final

from zmqex.dht.address import Scope, network_of, scope_of
from zmqex.dht.limits import (
    DHT_RATE_BURST,
    DHT_RATE_HOSTS_MAX,
    DHT_RATE_PER_SECOND,
    DHT_TOKEN_LIFE_MS,
)
from zmqex.limits import SECOND_MS

_TOKEN_BYTES: Final = 8
_SECRET_BYTES: Final = 32


class Tokens:
    """Proof that who announces could receive an answer of ours, a few minutes ago."""

    def __init__(self, randomness: Callable[[int], bytes], now_ms: int) -> None:
        self._randomness = randomness
        self._secret = randomness(_SECRET_BYTES)
        self._former = randomness(_SECRET_BYTES)
        self._changed_ms = now_ms

    def issue(self, host: str, now_ms: int) -> bytes:
        """Return the token for `host`, good for one to two `DHT_TOKEN_LIFE_MS`."""
        self._rotate(now_ms)
        return _token(self._secret, host)

    def accepts(self, token: bytes, host: str, now_ms: int) -> bool:
        """Whether `token` was issued to `host` not too long ago."""
        self._rotate(now_ms)
        return any(
            hmac.compare_digest(token, _token(secret, host))
            for secret in (self._secret, self._former)
        )

    def _rotate(self, now_ms: int) -> None:
        age_ms = now_ms - self._changed_ms
        if age_ms < DHT_TOKEN_LIFE_MS:
            return
        # After a long silence the last secret is too old as well.
        stale = age_ms >= 2 * DHT_TOKEN_LIFE_MS
        self._former = self._randomness(_SECRET_BYTES) if stale else self._secret
        self._secret = self._randomness(_SECRET_BYTES)
        self._changed_ms += age_ms - age_ms % DHT_TOKEN_LIFE_MS


class RateLimit:
    """A token bucket for each host; loopback is free.  Never a ban: it refills by itself."""

    def __init__(self) -> None:
        # Thousandths of a datagram left, and when that was so; the longest unused first.
        self._left: dict[str, tuple[int, int]] = {}

    def allows(self, host: str, now_ms: int) -> bool:
        """Count one datagram of `host`; False if it has used up its share."""
        if scope_of(host) is Scope.LOOPBACK:
            return True
        full = DHT_RATE_BURST * SECOND_MS
        network = network_of(host)
        left, at_ms = self._left.pop(network, (full, now_ms))
        left = min(full, left + max(0, now_ms - at_ms) * DHT_RATE_PER_SECOND)
        allowed = left >= SECOND_MS
        self._left[network] = (left - SECOND_MS if allowed else left, now_ms)
        if len(self._left) > DHT_RATE_HOSTS_MAX:
            del self._left[next(iter(self._left))]
        return allowed

    def __len__(self) -> int:
        return len(self._left)


def _token(secret: bytes, host: str) -> bytes:
    return hashlib.blake2b(host.encode(), key=secret, digest_size=_TOKEN_BYTES).digest()
