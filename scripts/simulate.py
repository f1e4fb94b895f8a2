#!/usr/bin/env python3
"""Run whole networks of real kernels in one thread and virtual time, and look for what must not be.

    scripts/simulate.py --seed 7                       one run; the seed draws the network
    scripts/simulate.py --nodes 200 --makers 50 --seconds 600 --seed 1 --json
    scripts/simulate.py --seeds 1-1000 --jobs 2        many runs
    scripts/simulate.py --soak 30                      fresh seeds for half an hour
    scripts/simulate.py --grow 10,100,1000 --write docs     what a node costs in a growing network

A run that fails prints what happened and the command that repeats it, and the exit code is 1.
`tests/README.md` says what goes wrong in a run and what must hold.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from checks import FIGURES_VARIABLE

from tests.simulation import growth
from tests.simulation.runs import Size, Sum, run_seed, run_seeds
from tests.simulation.simulation import Report

_SEED_MAX = 10**9
_GROWTH = """# What a node costs as the network grows

Written by `scripts/simulate.py --grow`: real kernels with their real limits in virtual time. All
nodes start within two seconds and find 50 others each in the DHT. Ten of them are makers that
place, cancel and take about an order a second in all, the same in each network. Nothing goes wrong,
signatures are imitated, and everything that must hold is checked at every step. Measured is what
follows the first {warm_up} seconds, for {measured} seconds and until all agree; processor time
includes the simulator's own.

{table}
![Cost of a node over the size of the network](growth.svg)
"""


def main(arguments: list[str]) -> int:
    """Do what the arguments ask for; 0 when every run passed."""
    options = _parser().parse_args(arguments)
    size = Size(options.nodes, options.makers, options.seconds, options.fast_signer)
    if options.grow:
        return _grow(options.grow, options.jobs, options.write)
    if options.seeds or options.soak:
        return _many(_seeds(options), size, options.jobs, as_json=options.json)
    return _one(run_seed(options.seed, size), as_json=options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="the run; all chance comes from it")
    parser.add_argument("--seeds", type=_seed_range, help="FIRST-LAST: run all of these")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="fresh seeds for so long")
    parser.add_argument("--nodes", type=_positive, help="else drawn, 3 to 30")
    parser.add_argument("--makers", type=_positive, help="else drawn")
    parser.add_argument("--seconds", type=_positive, help="of load and faults; 120 if not given")
    parser.add_argument("--fast-signer", action="store_true", help="imitate signatures")
    parser.add_argument("--jobs", type=_positive, default=1, help="runs side by side")
    parser.add_argument("--grow", type=_sizes, metavar="N,N,...", help="measure these networks")
    parser.add_argument("--write", type=_folder, metavar="FOLDER", help="table and plot go there")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 on")
    return number


def _seed_range(text: str) -> range:
    first, _, last = text.partition("-")
    if not (first.isdigit() and last.isdigit() and int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"{text!r} is not FIRST-LAST, like 1-1000")
    return range(int(first), int(last) + 1)


def _folder(text: str) -> Path:
    folder = Path(text)
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    return folder


def _sizes(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.isdigit() and int(word) >= growth.MAKERS for word in words):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of sizes from {growth.MAKERS} on, like 10,100,1000"
        )
    return sorted({int(word) for word in words})


def _grow(sizes: list[int], jobs: int, folder: Path | None) -> int:
    costs = []
    for cost in growth.measure_all(sizes, jobs):
        costs.append(cost)
        print(cost, flush=True)
        if folder is not None:
            text = _GROWTH.format(
                table=growth.table(costs), warm_up=growth.WARM_UP_S, measured=growth.MEASURED_S
            )
            (folder / "growth.md").write_text(text)
            (folder / "growth.svg").write_text(growth.plot(costs))
    print(growth.table(costs))
    return 0


def _seeds(options: argparse.Namespace) -> Iterator[int]:
    if options.seeds:
        yield from options.seeds
        return
    end = time.monotonic() + options.soak * 60
    while time.monotonic() < end:
        yield secrets.randbelow(_SEED_MAX)


def _one(report: Report, *, as_json: bool) -> int:
    plain: dict[str, Any] = {
        "seed": report.plan.seed,
        "nodes": report.plan.nodes,
        "makers": report.plan.makers,
        "liars": report.plan.liars,
        "trace": report.trace,
        "failure": report.failure,
        "agreed_after_ms": report.healed_ms,
        "faults": report.faults,
        **report.numbers,
    }
    if as_json:
        print(json.dumps(plain, indent=2))
    else:
        for key, value in plain.items():
            print(f"{key:24} {value}")
        for line in report.log:
            print(line)
    _say_failure(report)
    return 1 if report.failure else 0


def _many(seeds: Iterator[int], size: Size, jobs: int, *, as_json: bool) -> int:
    total = Sum()
    for report in run_seeds(seeds, size, jobs):
        total.add(report)
        numbers = report.numbers
        _say_failure(report)
        if not as_json:
            word = "FAILED" if report.failure else "passed"
            print(
                f"{report.plan.seed:>10} {word} {report.plan.nodes:3} nodes {numbers['orders']:4} "
                f"orders {numbers['messages']:7} messages {numbers['real_s']:6.2f} s "
                f"agreed after {report.healed_ms // 1_000:2} s  {report.trace[:12]}",
                flush=True,
            )
    figures = total.figures()
    print(json.dumps(figures, indent=2))
    if path := os.environ.get(FIGURES_VARIABLE):
        Path(path).write_text(json.dumps(figures))
    return 1 if total.failures else 0


def _say_failure(report: Report) -> None:
    if report.failure:
        print(f"FAILED: {report.failure}", file=sys.stderr)
        print(f"repeat it with: {report.plan.replay()}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
