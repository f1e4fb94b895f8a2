"""Make or mend `.venv` at the project's root; the stamp to leave in it comes on standard input.

Safe when two start at once: the second waits for the first and finds the work done.  The stamp is
taken away first and written last, so that a half-made environment is known and made anew.
Runs on a bare Python 3.11: only the standard library.  Exits 2 when it cannot be made.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "stamp"
LOG_LINES = 15
LINE_CHARS = 300
# A user's settings that would make another Python or another place take part.
FOREIGN = ("PYTHONHOME", "PYTHONPATH", "PIP_REQUIRE_VIRTUALENV", "PIP_TARGET", "PIP_USER")


def main() -> int:
    """Make the environment unless its stamp says that it is ready; answer the exit code."""
    stamp = sys.stdin.buffer.read()
    with Path(__file__).open() as lock:
        _wait_for(lock.fileno())
        if _is_ready(stamp):
            return 0
        started = time.monotonic()
        mend = _is_python_ready() and _root(_stamp()) == _root(stamp)
        action = "pyproject.toml changed: updating" if mend else "Creating"
        _say(f"{action} the environment in .venv (once, under a minute) ... ")
        try:
            _make(stamp, anew=not mend)
        except (OSError, subprocess.CalledProcessError) as error:
            _say(f"failed\n{_reason(error)}\nNothing is ready yet; the next start tries again.\n")
            return 2
        except KeyboardInterrupt:
            _say("interrupted\n")
            return 130
        _say(f"done in {time.monotonic() - started:.0f} s\n")
    return 0


def _wait_for(lock: int) -> None:
    """Take the lock; it ends with this process, however that ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _say("Waiting for another start that makes the environment in .venv ...\n")
        fcntl.flock(lock, fcntl.LOCK_EX)


def _is_ready(stamp: bytes) -> bool:
    return _is_python_ready() and _stamp() == stamp


def _is_python_ready() -> bool:
    return os.access(VENV / "bin" / "python", os.X_OK)


def _stamp() -> bytes:
    return STAMP.read_bytes() if STAMP.exists() else b""


def _root(stamp: bytes) -> bytes:
    """Answer where the project stood: programs in a moved environment have wrong paths."""
    return stamp.partition(b"\n")[0]


def _make(stamp: bytes, *, anew: bool) -> None:
    """Build the environment, the stamp last."""
    STAMP.unlink(missing_ok=True)
    if anew:
        _run(sys.executable, "-m", "venv", "--clear", str(VENV))
    pip = (str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check")
    _run(*pip, "install", "--quiet", "--no-input", "--editable", f"{ROOT}[test]")
    half = STAMP.with_suffix(".new")
    half.write_bytes(stamp)
    half.replace(STAMP)


def _run(*command: str) -> None:
    """Run a quiet command; its output is kept for the case that it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    subprocess.run(
        command,
        check=True,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _reason(error: OSError | subprocess.CalledProcessError) -> str:
    """Answer the last lines that the failed command said, or the system's own words."""
    if isinstance(error, OSError):
        return str(error)
    lines = str(error.stdout).strip().splitlines()[-LOG_LINES:]
    return "\n".join(line[:LINE_CHARS] for line in lines)


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
