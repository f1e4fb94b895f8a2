"""Dying on purpose: the tests' way to find out what a crash at any commit would lose.

`ZMQEX_CRASH_AT=before:3` kills the process, as kill -9 does, right before its third journal
commit; `after:3` right after it.  Without the variable nothing happens.
"""

from __future__ import annotations

import os
import signal
from typing import Literal

from zmqex.adapters.storage.database import CommitHook
from zmqex.errors import ConfigError

CRASH_VARIABLE = "ZMQEX_CRASH_AT"


def crash_hook() -> CommitHook | None:
    """What the journal is to call around each commit, or None."""
    text = os.environ.get(CRASH_VARIABLE)
    if not text:
        return None
    when, _, number = text.partition(":")
    if when not in {"before", "after"} or not number.isdigit():
        message = f"{CRASH_VARIABLE}: {text!r} is not before:NUMBER or after:NUMBER"
        raise ConfigError(message)
    target = (when, int(number))

    def hook(moment: Literal["before", "after"], commit: int) -> None:
        if (moment, commit) == target:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook
