"""The operator's own program that is asked before a take is accepted (`--accept-command`).

It gets the take as one JSON object on stdin; exit code 0 accepts, any other one declines, and so
does silence: the taker waits for an answer all the while.  Its output is not read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from subprocess import DEVNULL, PIPE

import msgspec

from zmqex.kernel.effects import AskBeforeAccept
from zmqex.kernel.events import AcceptDecided, Event
from zmqex.limits import ACCEPT_COMMAND_WAIT_S, ACCEPT_COMMANDS_MAX
from zmqex.logs import get_logger


class AcceptCommand:
    """Runs the program once per take, so many at the same time."""

    def __init__(self, words: Sequence[str], post: Callable[[Event], None]) -> None:
        """`words` are the program and its arguments; `post` takes its decisions."""
        self._words = words
        self._post = post
        self._turns = asyncio.Semaphore(ACCEPT_COMMANDS_MAX)
        self._log = get_logger()

    async def carry_out(self, effect: AskBeforeAccept) -> None:
        """Ask, and tell the kernel in any case; the wait for a turn counts as well."""
        code, why = None, f"no decision within {ACCEPT_COMMAND_WAIT_S} s"
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ACCEPT_COMMAND_WAIT_S), self._turns:
                    code = await self._run(msgspec.json.encode(effect.take))
                    why = f"exit code {code}"
        except OSError as error:
            why = f"it cannot be run: {error}"
        finally:
            # Whatever went wrong, the taker is told.
            if code != 0:
                trade_id = effect.trade_id.hex()
                self._log.warning("accept_command_declined", trade_id=trade_id, why=why)
            self._post(AcceptDecided(effect.trade_id, accepted=code == 0))

    async def _run(self, take: bytes) -> int:
        process = await asyncio.create_subprocess_exec(
            *self._words, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL
        )
        try:
            await process.communicate(take)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return await process.wait()
