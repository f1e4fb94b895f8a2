"""The simulator finds bugs: each of these, planted in the real kernel, is caught."""

from __future__ import annotations

import pytest

from tests.simulation.plan import Fault, make_plan
from tests.simulation.planted import BUGS, Plant
from tests.simulation.simulation import Simulation

SEEDS = range(1, 51)


def first_failure(faults: frozenset[Fault]) -> str:
    """What the first seed that fails has found, or nothing."""
    for seed in SEEDS:
        plan = make_plan(seed, nodes=5, makers=4, seconds=60, faults=faults)
        failure = Simulation(plan).run().failure
        if failure:
            return failure
    return ""


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: str(bug.__name__))
def test_a_planted_bug_is_caught(bug: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 50 seeds of a small network."""
    bug(monkeypatch)
    assert first_failure(BUGS[bug])


def test_without_a_bug_the_same_networks_are_well() -> None:
    """The kernel as it is passes what catches the bugs."""
    for faults in dict.fromkeys(BUGS.values()):
        for seed in SEEDS[:3]:
            plan = make_plan(seed, nodes=5, makers=4, seconds=60, faults=faults)
            report = Simulation(plan).run()
            assert not report.failure, plan.replay()
