"""Virtual time: what is due is called in order of time, then in order of asking."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Schedule:
    """A clock that stands still until the next call is due.  Times are milliseconds from 0."""

    def __init__(self) -> None:
        """Nothing is due."""
        self.now_ms = 0
        self.calls = 0
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []

    def at(self, time_ms: int, call: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401
        """Call at a time; what lies in the past is called next."""
        self.calls += 1
        heapq.heappush(self._heap, (max(time_ms, self.now_ms), self.calls, call, arguments))

    def after(self, delay_ms: int, call: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401
        """Call after a delay."""
        self.at(self.now_ms + delay_ms, call, *arguments)

    def run_until(self, end_ms: int) -> None:
        """Call everything that is due by then."""
        heap = self._heap
        while heap and heap[0][0] <= end_ms:
            self.now_ms, _, call, arguments = heapq.heappop(heap)
            call(*arguments)
        self.now_ms = end_ms
