"""A small round of the chaos run, so that it works on the day when somebody needs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.nodes import READY_S, wait_for

CHAOS = Path(__file__).resolve().parents[2] / "scripts" / "chaos.py"


# All must be sold within 60 s after the last fault, and some rounds need most of them: back-off.
@pytest.mark.timeout(150)
def test_a_small_round_of_chaos_sells_exactly_what_there_is() -> None:
    """Eight takers, three units, at least five faults; counted from outside."""
    command = [sys.executable, str(CHAOS), "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert (result["sold"], result["lost"], result["stuck"]) == (3, 0, 0)
    assert result["faults"] >= 5


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="zq-", dir="/tmp") as path:
        yield Path(path)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_round_that_is_ended_leaves_nothing_running(how: signal.Signals, folder: Path) -> None:
    """Its maker, its Redis and its takers end with it, however it is ended."""
    run = subprocess.Popen(
        [sys.executable, str(CHAOS), "--quick"],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    began = psutil.Process(run.pid)
    children: list[psutil.Process] = []

    def family() -> list[psutil.Process]:
        # A Redis, a maker and two processes of takers.
        found = began.children(recursive=True)
        return found if len(found) >= 4 and any(folder.glob("zc-*/t/taker-*")) else []

    try:
        children = wait_for("everything runs", family, READY_S)
        run.send_signal(how)
        run.wait(READY_S)
        _, alive = psutil.wait_procs(children, timeout=READY_S)
        assert alive == []
    finally:
        run.kill()
        run.wait()
        for one in children:
            with suppress(psutil.NoSuchProcess):
                one.kill()
