"""The newest batches of one log, verbatim and in order, to be served to others.

Not for: what the batches say (`log`).
"""

from __future__ import annotations

from collections.abc import Iterator

from zmqex.limits import LOG_PAGE_BATCHES_MAX
from zmqex.reasons import RejectReason


class Tail:
    """What is kept of a log to serve it; who asks for something older is told so."""

    def __init__(self, after: int = 0) -> None:
        """Keep nothing yet; the first batch to come is the one after that number."""
        self._dropped = after
        self._batches: list[tuple[bytes, bytes]] = []
        # How many bytes had come before each batch and after the last one.
        self._offsets = [0]

    def __iter__(self) -> Iterator[bytes]:
        """The envelopes that are kept, oldest first."""
        return (envelope for _, envelope in self._batches)

    @property
    def first(self) -> int:
        """The number of the oldest batch that is kept, or of the next one to come."""
        return self._dropped + 1

    @property
    def size(self) -> int:
        """The bytes that are kept."""
        return self._offsets[-1] - self._offsets[0]

    def append(self, digest: bytes, envelope: bytes) -> None:
        """Keep the next batch: its body digest and its envelope."""
        self._batches.append((digest, envelope))
        self._offsets.append(self._offsets[-1] + len(envelope))

    def trim(self, bytes_max: int) -> None:
        """Drop the oldest until so much is left, but never the newest."""
        drop, least = 0, self._offsets[-1] - bytes_max
        while drop < len(self._batches) - 1 and self._offsets[drop] < least:
            drop += 1
        del self._batches[:drop], self._offsets[:drop]
        self._dropped += drop

    def get(self, sequence: int) -> tuple[bytes, bytes] | None:
        """`(digest, envelope)` of the batch with that number, if it is kept."""
        index = sequence - 1 - self._dropped
        return self._batches[index] if 0 <= index < len(self._batches) else None

    def page(self, from_sequence: int, bytes_max: int) -> tuple[list[bytes], int] | RejectReason:
        """Envelopes from that number on, within the bounds, and the bytes that come after them.

        At least one if there is one.
        """
        start = from_sequence - 1 - self._dropped
        if start < 0:
            return RejectReason.LOG_TOO_OLD
        page: list[bytes] = []
        size = 0
        for _, envelope in self._batches[start : start + LOG_PAGE_BATCHES_MAX]:
            size += len(envelope)
            if page and size > bytes_max:
                break
            page.append(envelope)
        end = min(start + len(page), len(self._batches))
        return page, self._offsets[-1] - self._offsets[end]
