"""How much one peer may ask of us and stream to us, in whole numbers.

What is over is dropped and counted before any signature is checked, never punished: a burst may be
a relay that has saved up.  What was dropped is found missing, and fetched.
Not for: who is charged for what (`requests`, `claims`).
"""

from __future__ import annotations

from zmqex.limits import (
    REQUEST_SOURCES_MAX,
    SECOND_MS,
    STREAM_BYTES_BURST,
    STREAM_BYTES_PER_SECOND,
    STREAM_MESSAGES_BURST,
    STREAM_MESSAGES_PER_SECOND,
    STREAM_OPERATIONS_BURST,
    STREAM_OPERATIONS_PER_SECOND,
)


class TokenBucket:
    """A rate in whole numbers: one token is 1,000 parts, and each millisecond adds `per_second`."""

    __slots__ = ("_at_ms", "_full", "_parts", "_rate")

    def __init__(self, per_second: int, burst: int, now_ms: int) -> None:
        """Start full."""
        self._rate = per_second
        self._full = burst * SECOND_MS
        self._parts = self._full
        self._at_ms = now_ms

    def take(self, now_ms: int, tokens: int = 1) -> int:
        """Take tokens; 0 if they were there, else in how many ms they will be (nothing taken)."""
        if now_ms != self._at_ms:  # what one drain brought is all of one moment
            grown = self._parts + (now_ms - self._at_ms) * self._rate
            self._parts = min(self._full, grown)
            self._at_ms = now_ms
        left = self._parts - tokens * SECOND_MS
        if left < 0:
            return -(left // self._rate)  # rounded up: never told to come back too early
        self._parts = left
        return 0

    def owe(self, now_ms: int, tokens: int) -> None:
        """Take tokens that may not be there: nothing more is until they are paid back."""
        self.take(now_ms, 0)
        self._parts -= tokens * SECOND_MS


class Budgets:
    """The stream budgets of every peer: messages, operations and bytes a second."""

    def __init__(self) -> None:
        """Nobody has streamed yet."""
        self._peers: dict[bytes, tuple[TokenBucket, TokenBucket, TokenBucket]] = {}

    def admit(
        self, peer: bytes, now_ms: int, *, messages: int = 0, operations: int = 0, size: int = 0
    ) -> bool:
        """Charge a peer; False where one of its budgets is used up, and nothing more is charged."""
        if not peer:
            return True
        buckets = self._peers.get(peer)
        if buckets is None:
            if len(self._peers) >= REQUEST_SOURCES_MAX:
                del self._peers[next(iter(self._peers))]
            buckets = self._peers[peer] = (
                TokenBucket(STREAM_MESSAGES_PER_SECOND, STREAM_MESSAGES_BURST, now_ms),
                TokenBucket(STREAM_OPERATIONS_PER_SECOND, STREAM_OPERATIONS_BURST, now_ms),
                TokenBucket(STREAM_BYTES_PER_SECOND, STREAM_BYTES_BURST, now_ms),
            )
        of_messages, of_operations, of_bytes = buckets
        return not (
            (messages and of_messages.take(now_ms, messages))
            or (operations and of_operations.take(now_ms, operations))
            or (size and of_bytes.take(now_ms, size))
        )
