"""How often a watched invoice is looked up."""

from __future__ import annotations

import asyncio

import pytest

from zmqex.adapters.lightning.watching import Watches
from zmqex.adapters.ports import InvoiceInfo

HASH = bytes(32)
HOUR_S = 3_600


class Backend:
    """Has an invoice that is open at the first look and settled from then on."""

    def __init__(self, *, nudged: bool) -> None:
        self.looks = 0
        self.watches = Watches(self.look, every_s=HOUR_S, nudged=nudged)

    async def look(self, _payment_hash: bytes) -> InvoiceInfo:
        """Count a look."""
        self.looks += 1
        return InvoiceInfo("open" if self.looks == 1 else "settled")


def test_a_watch_that_is_nudged_looks_no_second_time_by_itself() -> None:
    """It waits for the nudge or the time; the nudge brings what has changed."""

    async def story() -> None:
        quiet = Backend(nudged=True)
        watch = quiet.watches.watch(HASH)
        assert (await anext(watch)).state == "open"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(watch)
        assert quiet.looks == 1
        backend = Backend(nudged=True)
        watch = backend.watches.watch(HASH)
        assert (await anext(watch)).state == "open"
        backend.watches.nudge(HASH)
        assert (await anext(watch)).state == "settled"
        assert await anext(watch, None) is None
        assert backend.looks == 2

    asyncio.run(story())


def test_a_watch_that_nobody_nudges_looks_again_after_each_change() -> None:
    """It may have changed while whoever watches was busy with what it was told."""

    async def story() -> None:
        backend = Backend(nudged=False)
        async with asyncio.timeout(5):
            assert [one.state async for one in backend.watches.watch(HASH)] == ["open", "settled"]
        assert backend.looks == 2

    asyncio.run(story())


def test_what_was_just_made_is_open_without_a_look_until_a_nudge() -> None:
    """A change before the watch began is looked up at once."""

    async def story() -> None:
        backend = Backend(nudged=True)
        backend.watches.made(HASH)
        watch = backend.watches.watch(HASH)
        assert (await anext(watch)).state == "open"
        assert backend.looks == 0
        backend.watches.nudge(HASH)
        backend.looks = 1
        assert (await anext(watch)).state == "settled"
        changed = Backend(nudged=True)
        changed.watches.made(HASH)
        changed.watches.nudge(HASH)
        assert (await anext(changed.watches.watch(HASH))).state == "open"
        assert changed.looks == 1

    asyncio.run(story())
