"""Going wrong on purpose: how tests and the demo find out what a fault would do.

`ZMQEX_CRASH_PLAN` names a file.  While it says `journal before 3 self`, the process is killed, as
kill -9 does, right before the third commit of its journal from then on; `after` is right after it,
`ledger` counts the commits of the play ledger, and in place of the process itself its hold server
(`holds`) or any other process (a number) is killed.  The file is removed first: each plan is
carried out once.  `ZMQEX_FAULT=wrong-invoice` makes a play node ask for more than was agreed.
Without the variables nothing happens.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from zmqex.adapters.lightning.play import PlayLightning
from zmqex.adapters.storage.database import CommitHook
from zmqex.errors import ConfigError
from zmqex.market.instruments import BASE

PLAN_VARIABLE: Final = "ZMQEX_CRASH_PLAN"
FAULT_VARIABLE: Final = "ZMQEX_FAULT"
WRONG_INVOICE: Final = "wrong-invoice"


def crash_hook(
    database: Literal["journal", "ledger"], hold_server_pid: Callable[[], int]
) -> CommitHook | None:
    """What a database is to call around each commit, or None."""
    path = os.environ.get(PLAN_VARIABLE)
    return _Crash(Path(path), database, hold_server_pid).at if path else None


class _Crash:
    """Counts the commits of one database since the plan was made."""

    def __init__(self, path: Path, database: str, hold_server_pid: Callable[[], int]) -> None:
        self._path = path
        self._database = database
        self._hold_server_pid = hold_server_pid
        self._plan = ""
        self._commits = 0

    def at(self, moment: Literal["before", "after"], _commit: int) -> None:
        try:
            plan = self._path.read_text()
        except FileNotFoundError:
            plan = ""
        if plan != self._plan:
            self._plan, self._commits = plan, 0
        self._commits += moment == "before"
        database, when, number, target = plan.split() if plan else ("", "", "0", "")
        if (database, when, int(number)) == (self._database, moment, self._commits):
            self._path.unlink()
            self._plan = ""
            pids = {"self": os.getpid, "holds": self._hold_server_pid}
            with suppress(ProcessLookupError):
                os.kill(pids[target]() if target in pids else int(target), signal.SIGKILL)


class Overcharging(PlayLightning):
    """A payee that asks for one satoshi more than was agreed."""

    async def create_invoice(
        self, preimage: bytes, *, amount_msat: int, memo: str, expiry_s: int, first: bool = False
    ) -> str:
        """Make an invoice for too much."""
        much = amount_msat + 1_000
        return await super().create_invoice(
            preimage, amount_msat=much, memo=memo, expiry_s=expiry_s, first=first
        )


def open_play(
    directory: Path, on_commit: CommitHook | None = None, *, asset: str = BASE
) -> PlayLightning:
    """The play backend, honest unless the environment asks for a fault."""
    fault = os.environ.get(FAULT_VARIABLE)
    if fault not in {None, "", WRONG_INVOICE}:
        message = f"{FAULT_VARIABLE}: {fault!r} is not a known fault; use {WRONG_INVOICE}"
        raise ConfigError(message)
    kind = Overcharging if fault else PlayLightning
    return kind(directory, asset=asset, on_commit=on_commit)
