"""A laptop goes to sleep in one network and wakes in another: found and heard again at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.namespaces import UNSHARE, why_not

ROOT = Path(__file__).resolve().parent.parent.parent
AT_ONCE_S = 5.0


def test_after_a_move_and_after_sleep_both_hear_each_other_within_five_seconds() -> None:
    """Real processes on hosts of their own; the other one is told of no move, it just happens."""
    if missing := why_not():
        pytest.skip(f"no network namespaces here: {missing}")
    done = subprocess.run(
        [*UNSHARE, sys.executable, "-m", "tests.end_to_end.moving"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    took = json.loads(done.stdout)
    assert set(took) == {"at first", "moved", "slept"}
    assert max(took.values()) < AT_ONCE_S, took
