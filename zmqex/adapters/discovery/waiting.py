"""Coroutines that wait for what several nodes bring: each until all of them have ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, TypeVar

from zmqex.limits import SECOND_MS

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Waiter(Generic[V]):
    """One who waits; `found` is what has come so far."""

    def __init__(self, parts: int) -> None:
        self.found: list[V] = []
        self._parts = parts
        self._done = asyncio.Event()

    def add(self, found: Iterable[V]) -> None:
        """One part has ended and brought `found`."""
        self.found += found
        self._parts -= 1
        if self._parts <= 0:
            self._done.set()

    def release(self) -> None:
        """Nothing more will come."""
        self._done.set()

    async def within(self, timeout_ms: int) -> None:
        """Return when all parts have ended, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_ms / SECOND_MS):
                await self._done.wait()


class Waiting(Generic[K, V]):
    """All who wait, by what they wait for."""

    def __init__(self) -> None:
        self._waiters: dict[K, list[Waiter[V]]] = {}

    @contextlib.contextmanager
    def wait_for(self, key: K, parts: int) -> Iterator[Waiter[V]]:
        """Wait for `key` to end in each of `parts`."""
        waiter: Waiter[V] = Waiter(parts)
        self._waiters.setdefault(key, []).append(waiter)
        try:
            yield waiter
        finally:
            self._waiters[key].remove(waiter)
            if not self._waiters[key]:
                del self._waiters[key]

    def add(self, key: K, found: Iterable[V]) -> None:
        """Tell everybody who waits for `key` that one part ended with `found`."""
        found = list(found)
        for waiter in self._waiters.get(key, ()):
            waiter.add(found)

    def release_all(self) -> None:
        """Let everybody go with what they have."""
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.release()
