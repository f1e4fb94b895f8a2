"""Many runs: side by side in processes of their own, each from its seed, and their sum."""

from __future__ import annotations

import gc
import multiprocessing
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.plan import Fault, make_plan
from tests.simulation.simulation import Report, Simulation


@dataclass(frozen=True)
class Size:
    """What is given for every run; None is drawn from the seed."""

    nodes: int | None = None
    makers: int | None = None
    seconds: int | None = None
    fast_signer: bool = False


def run_seed(seed: int, size: Size = Size()) -> Report:
    """One run, from the plan to the report."""
    plan = make_plan(
        seed,
        nodes=size.nodes,
        makers=size.makers,
        seconds=size.seconds,
        fast_signer=size.fast_signer,
    )
    # A run makes millions of objects and few cycles; what it leaves is collected in one go.
    gc.disable()
    try:
        return Simulation(plan).run()
    finally:
        gc.enable()
        gc.collect()


def run_seeds(seeds: Iterable[int], size: Size, jobs: int) -> Iterator[Report]:
    """Run many seeds; the reports come in the order of the seeds."""
    if jobs == 1:
        for seed in seeds:
            yield run_seed(seed, size)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        under_way: deque[Future[Report]] = deque()
        for seed in seeds:
            under_way.append(pool.submit(run_seed, seed, size))
            if len(under_way) > 2 * jobs:
                yield under_way.popleft().result()
        for future in under_way:
            yield future.result()


@dataclass
class Sum:
    """What came of many runs."""

    runs: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    runs_with: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    slowest_ms: int = 0
    smallest: dict[str, int] = field(default_factory=dict)
    largest: dict[str, int] = field(default_factory=dict)

    def add(self, report: Report) -> None:
        """Count one run."""
        self.runs += 1
        numbers, plan = report.numbers, report.plan
        if report.failure:
            self.failures.append(
                {"seed": plan.seed, "what": report.failure, "replay": plan.replay()}
            )
        self.runs_with.update(report.faults.keys())
        for key in ("simulated_s", "real_s", "events", "messages", "bytes", "orders", "log_checks"):
            self.totals[key] += numbers[key]
        self.slowest_ms = max(self.slowest_ms, report.healed_ms)
        sizes = {"nodes": plan.nodes, "seconds": plan.seconds, "orders": numbers["orders"]}
        for key, value in sizes.items():
            self.smallest[key] = min(self.smallest.get(key, value), value)
            self.largest[key] = max(self.largest.get(key, value), value)

    def figures(self) -> dict[str, Any]:
        """Everything as plain data."""
        real_s = max(self.totals["real_s"], 1e-9)
        return {
            "runs": self.runs,
            "failures": self.failures,
            "smallest": self.smallest,
            "largest": self.largest,
            "totals": {key: round(value, 1) for key, value in self.totals.items()},
            "simulated_s_per_real_s": round(self.totals["simulated_s"] / real_s, 1),
            "slowest_agreement_ms": self.slowest_ms,
            "runs_in_which_it_happened": {one.value: self.runs_with[one.value] for one in Fault},
        }
