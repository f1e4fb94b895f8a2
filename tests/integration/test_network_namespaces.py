"""Hosts with addresses of their own, which loopback cannot show: found, cut off, healed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.namespaces import HOSTS, UNSHARE, why_not

ROOT = Path(__file__).resolve().parent.parent.parent


def test_a_host_that_was_cut_off_is_found_again_and_others_never_miss_it() -> None:
    """By source addresses alone; public ones, so every limit for strangers from afar holds."""
    if missing := why_not():
        pytest.skip(f"no network namespaces here: {missing}")
    done = subprocess.run(
        [*UNSHARE, sys.executable, "-m", "tests.integration.namespaces"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    story = json.loads(done.stdout)
    for seen in (*story["together"], *story["healed"]):
        assert set(HOSTS) <= {*seen["found"]}
        assert seen["dropped_rate"] == seen["dropped_source"] == 0
    alone, first, second = story["cut"]
    assert alone["contacts"] == 0
    # The others have each other all the while.
    assert first["contacts"] == second["contacts"] == 1
    assert HOSTS[1] in first["found"]
    assert HOSTS[0] in second["found"]
