"""A small parent that starts the node again when it dies.

A stranger can abort libzmq from outside, and machines run out of memory; the journal makes a crash
safe, and this makes it short.  A node that keeps crashing is not started for ever.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections import deque
from types import FrameType
from typing import Final

# What a node means to end with: done, refused, usage, unreachable.
_MEANT_MAX: Final = 3
_CRASHES_MAX: Final = 5
_WINDOW_S: Final = 60.0
_PAUSE_S: Final = 0.2
EXIT_CRASHING: Final = 70  # EX_SOFTWARE
SUPERVISED_VARIABLE: Final = "ZMQEX_SUPERVISED"
# Who asks for the lease of a shared hold server: a node that was started again is no other copy.
RUN_VARIABLE: Final = "ZMQEX_RUN"
_RUN_BYTES: Final = 16


def supervise(arguments: list[str]) -> int:
    """Run `python -m zmqex ARGUMENTS` until it ends on purpose; returns its exit code."""
    return _Supervisor(arguments).run()


class _Supervisor:
    def __init__(self, arguments: list[str]) -> None:
        self._command = [sys.executable, "-m", "zmqex", *arguments]
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._run_id = secrets.token_hex(_RUN_BYTES)

    def run(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        crashes: deque[float] = deque()
        while True:
            code = self._run_once()
            if self._stopping or 0 <= code <= _MEANT_MAX:
                return max(code, 0)
            now = time.monotonic()
            crashes.append(now)
            while crashes[0] < now - _WINDOW_S:
                crashes.popleft()
            if len(crashes) > _CRASHES_MAX:
                print(  # noqa: T201 - the logs belong to the node
                    f"The node has crashed {len(crashes)} times within a minute (last: {code}); "
                    "it is not started again.  Its log says why.",
                    file=sys.stderr,
                )
                return EXIT_CRASHING
            print(f"The node ended with {code}; starting it again.", file=sys.stderr)  # noqa: T201
            if len(crashes) > 1:
                time.sleep(_PAUSE_S * len(crashes))

    def _run_once(self) -> int:
        environment = {**os.environ, SUPERVISED_VARIABLE: "1", RUN_VARIABLE: self._run_id}
        with subprocess.Popen(self._command, env=environment) as child:  # noqa: S603 - ourselves
            self._child = child
            if self._stopping:
                child.send_signal(signal.SIGTERM)
            return child.wait()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
