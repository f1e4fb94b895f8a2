"""Signature checks: small jobs at once, large ones in chunks over threads, answers in order.

PyNaCl lets go of the interpreter lock while it checks, so two threads check nearly twice as much;
chunks of eight and more pay for the hand-over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from zmqex.errors import RemoteProtocolError
from zmqex.kernel.effects import Verify
from zmqex.kernel.events import Verified
from zmqex.protocol.codec import decode_envelope
from zmqex.protocol.identity import verify

_AT_ONCE_MAX: Final = 4
_CHUNK: Final = 32
_THREADS: Final = 2

Item = tuple[bytes, str, bytes]


class Verifier:
    """Answers `Verify` effects with `Verified` events, in the order of the effects."""

    def __init__(self, network: str, post: Callable[[Verified], None]) -> None:
        """Start the threads when the first large job comes."""
        self._network = network
        self._post = post
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="zmqex-verify")
        self._order: deque[tuple[int, asyncio.Future[list[bool]] | list[bool]]] = deque()

    def submit(self, effect: Verify) -> None:
        """Check what the effect asks for."""
        if len(effect.items) <= _AT_ONCE_MAX:
            self._order.append((effect.ticket, check_all(self._network, effect.items)))
        else:
            loop = asyncio.get_running_loop()
            chunks = [
                loop.run_in_executor(
                    self._pool, check_all, self._network, effect.items[start : start + _CHUNK]
                )
                for start in range(0, len(effect.items), _CHUNK)
            ]
            future = asyncio.gather(*chunks)
            joined: asyncio.Future[list[bool]] = loop.create_future()
            future.add_done_callback(lambda done: self._join(done, joined))
            self._order.append((effect.ticket, joined))
        self._let_out()

    def close(self) -> None:
        """Wait for the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _join(
        self, done: asyncio.Future[list[list[bool]]], joined: asyncio.Future[list[bool]]
    ) -> None:
        if not done.cancelled() and not joined.cancelled():
            joined.set_result([valid for chunk in done.result() for valid in chunk])
            self._let_out()

    def _let_out(self) -> None:
        while self._order:
            ticket, answer = self._order[0]
            if isinstance(answer, asyncio.Future):
                if not answer.done():
                    return
                answer = answer.result()
            self._order.popleft()
            self._post(Verified(ticket, tuple(answer)))


def check_all(network: str, items: Sequence[Item]) -> list[bool]:
    """Check each `(identity, kind, envelope bytes)`."""
    return [_check(network, *item) for item in items]


def _check(network: str, identity: bytes, kind: str, raw: bytes) -> bool:
    try:
        envelope = decode_envelope(raw)
    except RemoteProtocolError:
        return False
    return verify(identity, network, kind, envelope)
