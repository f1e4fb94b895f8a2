"""Looks after the hold server while a node runs.

Our own server is started again when it has ended.  Any server that has lost its memory, whatever
the reason, is told the journal's holds again: it does not know the epoch of our last rebuild.  A
shared one is asked every second for the lease of our identity.  Not for deciding what follows.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

from zmqex.adapters.clock import monotonic_ms
from zmqex.adapters.holds.choose import HoldServer
from zmqex.adapters.holds.embedded import EmbeddedServer
from zmqex.errors import HoldsUnavailableError
from zmqex.kernel.events import Event, HoldsForgotten, LeaseAnswered
from zmqex.limits import (
    HOLD_SERVER_ASK_OWN_S,
    HOLD_SERVER_ASK_S,
    HOLD_SERVER_WATCH_S,
    LEASE_TTL_MS,
)
from zmqex.logs import get_logger
from zmqex.runtime.outside import HoldCalls
from zmqex.runtime.supervise import RUN_VARIABLE


def run_id() -> bytes:
    """Who we are to a lease: the supervisor's word, so that a restart is no other copy."""
    return (os.environ.get(RUN_VARIABLE) or secrets.token_hex(16)).encode()


class HoldWatch:
    """Watches one hold server; `work` are the loops to be spawned."""

    def __init__(
        self, server: HoldServer, calls: HoldCalls, post: Callable[[Event], None], *, owner: bytes
    ) -> None:
        """`calls` knows the epoch of the last rebuild; `owner` is unique to this run."""
        self._server = server
        self._holds = server.holds
        self._calls = calls
        self._post = post
        self._owner = owner
        self._log = get_logger()

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What is to run as long as the node."""
        embedded = self._server.embedded
        return [self._ask_for_ever(), *([self._revive(embedded)] if embedded is not None else [])]

    async def give_back(self) -> None:
        """Let the next run have the lease at once."""
        if self._server.shared:
            with contextlib.suppress(HoldsUnavailableError):
                await self._holds.end_lease(self._owner)

    async def ask(self) -> None:
        """Ask once for the lease, where it is needed, and whether our holds are still there."""
        if self._server.shared:
            self._post(await self._ask_for_lease())
        wanted = self._calls.epoch
        if wanted is None:
            return
        with contextlib.suppress(HoldsUnavailableError):
            if await self._holds.epoch() != wanted == self._calls.epoch:
                self._post(HoldsForgotten())

    async def _ask_for_lease(self) -> LeaseAnswered:
        asked_ms = monotonic_ms()
        try:
            held = await self._holds.lease(self._owner, LEASE_TTL_MS)
        except HoldsUnavailableError:
            return LeaseAnswered("silent", asked_ms)
        return LeaseAnswered("held" if held else "taken", asked_ms)

    async def _ask_for_ever(self) -> None:
        every_s = HOLD_SERVER_ASK_S if self._server.shared else HOLD_SERVER_ASK_OWN_S
        while True:
            await self.ask()
            await asyncio.sleep(every_s)

    async def _revive(self, embedded: EmbeddedServer) -> None:
        """Start our own server again when it has ended; a new one has forgotten its holds."""
        while True:
            if embedded.alive():
                await _ended(embedded.pid)
                continue
            self._log.warning("hold_server_ended", pid=embedded.pid)
            try:
                await asyncio.to_thread(embedded.ensure_running)
            except HoldsUnavailableError as error:
                self._log.error("hold_server_gone", why=str(error))
                await asyncio.sleep(HOLD_SERVER_WATCH_S)
            self._post(HoldsForgotten())


async def _ended(pid: int) -> None:
    """Return when a process of ours has ended; where the system cannot tell, a moment later.

    Being told costs nothing, and looking ten times a second is most of what an idle node does.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):  # macOS, or it has ended already
        await asyncio.sleep(HOLD_SERVER_WATCH_S)
        return
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, ended.set_result, None)
    try:
        await ended
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
