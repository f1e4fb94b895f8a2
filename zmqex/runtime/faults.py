"""Going wrong on purpose: how tests and the demo find out what a fault would do.

`ZMQEX_CRASH_AT=before:3` kills the process, as kill -9 does, right before its third journal
commit; `after:3` right after it; `holds-before:3` and `holds-after:3` kill its hold server then.
 `ZMQEX_FAULT=wrong-invoice` makes a play node ask for more than
was agreed.  Without the variables nothing happens.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from zmqex.adapters.lightning.play import PlayLightning
from zmqex.adapters.storage.database import CommitHook
from zmqex.errors import ConfigError
from zmqex.runtime.supervise import CRASH_VARIABLE

_HOLDS: Final = "holds-"
FAULT_VARIABLE: Final = "ZMQEX_FAULT"
WRONG_INVOICE: Final = "wrong-invoice"


def crash_hook(hold_server_pid: Callable[[], int]) -> CommitHook | None:
    """What the journal is to call around each commit, or None."""
    text = os.environ.get(CRASH_VARIABLE)
    if not text:
        return None
    when, _, number = text.partition(":")
    holds = when.startswith(_HOLDS)
    when = when.removeprefix(_HOLDS)
    if when not in {"before", "after"} or not number.isdigit():
        message = f"{CRASH_VARIABLE}: {text!r} is not [holds-]before:NUMBER or [holds-]after:NUMBER"
        raise ConfigError(message)
    target = (when, int(number))

    def hook(moment: Literal["before", "after"], commit: int) -> None:
        if (moment, commit) == target:
            os.kill(hold_server_pid() if holds else os.getpid(), signal.SIGKILL)

    return hook


class Overcharging(PlayLightning):
    """A payee that asks for one satoshi more than was agreed."""

    async def create_invoice(
        self, preimage: bytes, *, amount_msat: int, memo: str, expiry_s: int
    ) -> str:
        """Make an invoice for too much."""
        return await super().create_invoice(
            preimage, amount_msat=amount_msat + 1_000, memo=memo, expiry_s=expiry_s
        )


def open_play(directory: Path) -> PlayLightning:
    """The play backend, honest unless the environment asks for a fault."""
    fault = os.environ.get(FAULT_VARIABLE)
    if fault not in {None, "", WRONG_INVOICE}:
        message = f"{FAULT_VARIABLE}: {fault!r} is not a known fault; use {WRONG_INVOICE}"
        raise ConfigError(message)
    return Overcharging(directory) if fault else PlayLightning(directory)
