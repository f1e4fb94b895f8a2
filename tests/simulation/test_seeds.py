"""Whole networks run without a failure: new seeds each time, and every seed that once failed."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.plan import Fault, make_plan
from tests.simulation.runs import Size, Sum, run_seed, run_seeds
from tests.simulation.simulation import Simulation

ROOT = Path(__file__).resolve().parent.parent.parent
SIMULATE = ROOT / "scripts" / "simulate.py"
FRESH = 10


def kept_seeds() -> list[tuple[int, Size]]:
    """The lines of seeds.txt."""
    lines = (Path(__file__).parent / "seeds.txt").read_text(encoding="utf-8").splitlines()
    words = [line.split("#")[0].split() for line in lines]
    numbers = [[int(word) for word in line] for line in words if line]
    return [(one[0], _size(one[1:])) for one in numbers]


def _size(given: list[int]) -> Size:
    """What a line does not give is drawn, as with the script."""
    nodes, makers, seconds = [*given, None, None, None][:3]
    return Size(nodes, makers, seconds)


@pytest.mark.parametrize("number", range(FRESH))
def test_a_fresh_seed_passes(number: int) -> None:
    """Safe at every step, and all honest nodes agree within 30 seconds of healing."""
    report = run_seed(secrets.randbelow(10**9))
    assert not report.failure, f"run {number}: {report.failure}; {report.plan.replay()}"


@pytest.mark.parametrize(("seed", "size"), kept_seeds())
def test_a_seed_that_once_failed_passes(seed: int, size: Size) -> None:
    """What was found once stays repaired."""
    report = run_seed(seed, size)
    assert not report.failure, report.plan.replay()


@pytest.mark.parametrize("number", range(3))
def test_what_leaves_memory_within_seconds_is_missed_by_nobody(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as no question waits for it any more: later words find it in the journal."""
    for name in ("ENDED_KEPT_MS", "SETTLED_KEPT_MS", "RECALLED_KEPT_MS"):
        monkeypatch.setattr(f"zmqex.kernel.archive.{name}", 12_000)
    network = Simulation(make_plan(secrets.randbelow(10**9)))
    report = network.run()
    assert not report.failure, f"run {number}: {report.failure}; {report.plan.replay()}"
    assert any(machine.journal.archived_orders for machine in network.machines)


def simulate(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script in a process of its own."""
    return subprocess.run(
        [sys.executable, SIMULATE, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


def test_the_same_seed_tells_the_same_story() -> None:
    """In other processes, with other hash seeds, to the last byte of every effect."""
    plan = make_plan(3, faults=frozenset(Fault))
    here = Simulation(plan).run()
    assert set(here.faults) > {"crash", "loss", "partition"}
    seed = ("--seed", "9", "--json")
    stories = [simulate(*seed, PYTHONHASHSEED=number) for number in ("1", "2")]
    traces = {json.loads(one.stdout)["trace"] for one in stories}
    assert len(traces) == 1
    assert Simulation(plan).run().trace == here.trace
    assert Simulation(make_plan(4, faults=frozenset(Fault))).run().trace != here.trace


def test_imitated_signatures_decide_alike() -> None:
    """The fast signer changes names and bytes, not what comes of the run."""
    report = run_seed(5, Size(nodes=4, seconds=30, fast_signer=True))
    assert not report.failure
    assert "--fast-signer" in report.plan.replay()
    assert report.numbers["trades"]


def test_a_replay_command_names_the_very_run() -> None:
    """What was drawn is the same when it is given."""
    plan = make_plan(11)
    assert make_plan(11, nodes=plan.nodes, makers=plan.makers, seconds=plan.seconds) == plan


def test_many_runs_are_summed_up() -> None:
    """Side by side or one after the other: the same traces; failures are listed."""
    size = Size(nodes=3, makers=2, seconds=10)
    seeds = range(1, 4)
    alone = list(run_seeds(seeds, size, 1))
    beside = list(run_seeds(seeds, size, 2))
    assert [one.trace for one in alone] == [one.trace for one in beside]
    alone[0].failure = "planted"
    total = Sum()
    for report in alone:
        total.add(report)
    figures = total.figures()
    assert (figures["runs"], len(figures["failures"])) == (3, 1)
    assert figures["failures"][0]["replay"].startswith("scripts/simulate.py --seed 1 ")


def test_the_script_says_what_is_wrong_with_its_arguments() -> None:
    """Usage errors are one sentence and exit code 2."""
    wrong = (("--seeds", "9-1"), ("--nodes", "0"), ("--grow", "3"), ("--write", "no such folder"))
    for arguments in wrong:
        done = simulate(*arguments)
        assert done.returncode == 2
        assert arguments[1] in done.stderr
