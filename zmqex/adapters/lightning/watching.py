"""Look-ups of invoices that are repeated until the invoice has ended.

For backends that do not tell by themselves, and as the fallback of those that do.  A nudge makes
the next look-up happen at once; a backend that is silent meanwhile is asked again later.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

from zmqex.adapters.ports import InvoiceInfo
from zmqex.errors import IndeterminateError, LightningUnavailableError

ENDED: Final = frozenset({"settled", "canceled"})


class Watches:
    """Watches invoices by asking `look` every `every_s` seconds."""

    def __init__(
        self,
        look: Callable[[bytes], Awaitable[InvoiceInfo]],
        *,
        every_s: float,
        nudged: bool = False,
    ) -> None:
        """Watch nothing yet.

        `nudged`: whatever changes an invoice nudges, so a state that was just told needs no second
        look.
        """
        self._look = look
        self._nudged = nudged
        self._every_s = every_s
        self._nudges: dict[bytes, list[asyncio.Event]] = {}
        self._made: set[bytes] = set()

    def made(self, payment_hash: bytes) -> None:
        """An invoice was made just now: until a nudge it is open, and need not be looked up."""
        self._made.add(payment_hash)

    def nudge(self, payment_hash: bytes) -> None:
        """Something has happened to this invoice: look now."""
        self._made.discard(payment_hash)
        for nudge in self._nudges.get(payment_hash, ()):
            nudge.set()

    async def watch(self, payment_hash: bytes) -> AsyncGenerator[InvoiceInfo, None]:
        """See `zmqex.adapters.ports.Lightning.watch`."""
        nudge = asyncio.Event()
        self._nudges.setdefault(payment_hash, []).append(nudge)
        told: InvoiceInfo | None = None
        try:
            if payment_hash in self._made:
                self._made.remove(payment_hash)
                told = InvoiceInfo("open")
                yield told
                await self._pause(nudge)
            while told is None or told.state not in ENDED:
                nudge.clear()
                with contextlib.suppress(LightningUnavailableError, IndeterminateError):
                    info = await self._look(payment_hash)
                    if info != told and info.state != "unknown":
                        told = info
                        yield info
                        if not self._nudged or told.state in ENDED:
                            continue
                await self._pause(nudge)
        finally:
            nudges = self._nudges[payment_hash]
            nudges.remove(nudge)
            if not nudges:
                del self._nudges[payment_hash]

    async def _pause(self, nudge: asyncio.Event) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._every_s):
                await nudge.wait()
