#!/usr/bin/env python3
"""Measure zmqex against what the machine and its libraries allow, in the same run.

    scripts/bench.py                 every section
    scripts/bench.py SECTION...      some of them
    scripts/bench.py book --json     one JSON object a line: {"section", "machine", "rows"}

Each section interleaves its subjects round by round and prints the median and the best.  On a
shared machine the absolute figures wander; the ratios of one run are what counts, and none is a
test.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import bench_book
import bench_discovery
import bench_lightning
import bench_stream
import bench_trade

# name, value, unit; where they apply best, floor, floor_value, floor_best, ratio (above 1 is better
# than the floor) and goal (of the ratio).
Row = Mapping[str, object]

# Section -> what measures it.  A room with figures of its own adds its line here.
SECTIONS: dict[str, Callable[[], Sequence[Row]]] = {
    "book": bench_book.rows,
    "discovery": bench_discovery.rows,
    "stream": bench_stream.rows,
    "trade": bench_trade.rows,
    "lightning": bench_lightning.rows,
}


def main(arguments: list[str]) -> int:
    """Run the named sections and print their rows."""
    parser = argparse.ArgumentParser(description="Measure zmqex against floors and peers.")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    for name in options.sections or SECTIONS:
        rows = SECTIONS[name]()
        if options.json:
            print(json.dumps({"section": name, "machine": machine(), "rows": rows}))
        else:
            print(f"{name}: {machine()}")
            for row in rows:
                print("  " + line(row))
    return 0


def machine() -> str:
    """Where this was measured, and how busy it was."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{python}, {platform.system()} {platform.machine()}, {cores} cores, load {load:.2f}"


def line(row: Row) -> str:
    """One row for people."""
    text = f"{row['name']}: {row['value']} {row['unit']}"
    if "best" in row:
        text += f" (best {row['best']})"
    if "floor" in row:
        text += f"; {row['floor']}: {row['floor_value']}"
    if "floor_best" in row:
        text += f" (best {row['floor_best']})"
    if "ratio" in row:
        text += f"; ratio {row['ratio']}"
    if "goal" in row:
        text += f", goal {row['goal']}"
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
