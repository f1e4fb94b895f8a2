"""Signature checks: small jobs at once, others by two threads, answers in order.

PyNaCl lets go of the interpreter lock while it checks, so two threads check nearly twice as much.
Each gets one piece of a job: a hand-over costs as much as two signatures.  Meanwhile no stream is
read: its messages would have to wait in memory, and the loop would fight the threads for the lock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol

from zmqex.kernel.effects import Verify
from zmqex.kernel.events import Verified
from zmqex.protocol.identity import verify
from zmqex.protocol.messages import Envelope

_AT_ONCE_MAX: Final = 4
_THREADS: Final = 2
# Of two pieces no longer than this the loop checks one itself, a millisecond's work: had it given
# both cores away, it would go on with cold caches, and what follows would take a sixth longer.
_OWN_MAX: Final = 16

Item = tuple[bytes, str, Envelope]


class HoldStreams(Protocol):
    """Called with whether streams are to wait."""

    def __call__(self, *, held: bool) -> None:
        """Hold, or let go."""


class Verifier:
    """Answers `Verify` effects with `Verified` events, in the order of the effects."""

    def __init__(
        self, network: str, post: Callable[[Verified], None], hold_streams: HoldStreams
    ) -> None:
        """Start the threads when the first large job comes."""
        self._network = network
        self._post = post
        self._hold_streams = hold_streams
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="zmqex-verify")
        self._order: deque[tuple[int, list[Future[list[bool]]]]] = deque()

    def submit(self, effect: Verify) -> None:
        """Check what the effect asks for."""
        items = effect.items
        size = len(items) // _THREADS + 1
        own = size if size <= _OWN_MAX else 0
        if len(items) <= _AT_ONCE_MAX:
            own = len(items)
        pieces = [
            self._pool.submit(check_all, self._network, items[start : start + size])
            for start in range(own, len(items), size)
        ]
        here: Future[list[bool]] = Future()
        self._order.append((effect.ticket, [here, *pieces]))
        if pieces:
            self._hold_streams(held=True)
            loop = asyncio.get_running_loop()
            for one in pieces:
                one.add_done_callback(lambda _done: loop.call_soon_threadsafe(self._let_out))
        here.set_result(check_all(self._network, items[:own]))
        self._let_out()

    def close(self) -> None:
        """Wait for the threads; nothing is answered any more."""
        self._order.clear()
        self._pool.shutdown(cancel_futures=True)

    def _let_out(self) -> None:
        while self._order and all(piece.done() for piece in self._order[0][1]):
            ticket, pieces = self._order.popleft()
            self._post(Verified(ticket, tuple(valid for one in pieces for valid in one.result())))
        if not self._order:
            self._hold_streams(held=False)


def check_all(network: str, items: Sequence[Item]) -> list[bool]:
    """Check each `(identity, kind, envelope)`."""
    return [verify(identity, network, kind, envelope) for identity, kind, envelope in items]
