"""The clocks: the only place that reads them."""

from __future__ import annotations

import time

_NANOSECONDS_PER_MS = 1_000_000


def wall_ms() -> int:
    """Unix time in milliseconds; it can jump."""
    return time.time_ns() // _NANOSECONDS_PER_MS  # noqa: TID251 - the one place


def monotonic_ms() -> int:
    """Milliseconds that never step back and mean nothing across restarts."""
    return time.monotonic_ns() // _NANOSECONDS_PER_MS
