"""Order streams: how much a node takes in, against signatures alone and against a flat pipeline.

A publisher of its own process sends one prepared stream of signed batches over CURVE, and in turns
the program and the floor receive, decode, verify, apply and hash it, each in a fresh process.  CPU
time is that of all threads of the receiver, and what a shared machine disturbs least; orders a
second are wall time.  The rows of `bench_stream_book` follow.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bench_flat_stream
import bench_stream_book

from zmqex.adapters.clock import wall_ms

HERE = Path(__file__).resolve().parent
FLAT = str(HERE / "bench_flat_stream.py")
NODE = str(HERE / "bench_stream_node.py")
ROUNDS = 5
MAKERS = 5
# Batch size -> orders of each maker; 10,000 is all that one maker may have open.
ORDERS = {128: 9_984, 1: 2_000}
GOALS = {128: ">= 10", 1: ">= 0.85"}
# What an earlier machine took, to see how far off this one is.
SHEET = {128: "6.25 at 32 a batch elsewhere", 1: "65.5 elsewhere"}
PATIENCE_S = 60

Row = dict[str, object]


def rows() -> list[Row]:
    """Every figure of this section."""
    found: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="zq-") as place:
        streams = {size: Stream(Path(place), size) for size in ORDERS}
        for _ in range(ROUNDS):
            for stream in streams.values():
                stream.turn()
        alone = streams[1].costs["verify"]
        for size, stream in streams.items():
            found += compared(f"order in batches of {size}", stream, alone, size)
        found += bench_stream_book.rows(Path(place), streams[128].folder)
    return found


class Stream:
    """One prepared stream, and what it has cost so far, in microseconds per order."""

    def __init__(self, place: Path, size: int) -> None:
        self.folder = place / f"batches-{size}"
        self.folder.mkdir(mode=0o700)
        self._orders = ORDERS[size] * MAKERS
        bench_flat_stream.make_stream(self.folder, MAKERS, ORDERS[size], size, wall_ms())
        self._batches = len(bench_flat_stream.read_stream(self.folder)[1])
        self.costs: dict[str, Costs] = {name: Costs() for name in ("verify", "node", "flat")}

    def turn(self) -> None:
        """Measure signatures alone, the program and the flat pipeline, one after the other."""
        alone = last_line([FLAT, "verify", str(self.folder)])
        self.costs["verify"].add(alone, self._batches)
        for name, command in (("node", [NODE]), ("flat", [FLAT, "ingest"])):
            with publisher(self.folder) as (_, at):
                figures = last_line([*command, str(self.folder), str(at["port"]), at["key"]])
            if figures["orders"] != self._orders:
                raise SystemExit(f"{figures['orders']} of {self._orders} orders: no result")
            self.costs[name].add(figures, self._orders)


class Costs:
    """CPU and wall microseconds per item, round by round."""

    def __init__(self) -> None:
        self.cpu_us: list[float] = []
        self.wall_us: list[float] = []

    def add(self, figures: dict[str, Any], items: int) -> None:
        """Note a round."""
        self.cpu_us.append(figures["cpu_s"] * 1e6 / items)
        self.wall_us.append(figures["wall_s"] * 1e6 / items)


def compared(name: str, stream: Stream, alone: Costs, size: int) -> list[Row]:
    """The program against one signature an order, and against the flat pipeline."""
    node, flat = stream.costs["node"], stream.costs["flat"]
    each = "one signature checked"
    return [
        row(name, node.cpu_us, each, alone.cpu_us, GOALS[size], "us of CPU"),
        row(name, node.wall_us, each, alone.wall_us, GOALS[size], "us"),
        row(name, node.cpu_us, f"flat ({SHEET[size]})", flat.cpu_us, ">= 0.6", "us of CPU"),
    ]


@contextmanager
def publisher(folder: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A publisher's process, and its port and CURVE key."""
    process = subprocess.Popen(
        [sys.executable, FLAT, "publish", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            yield process, json.loads(line)
        finally:
            process.kill()


def last_line(command: list[str]) -> dict[str, Any]:
    """Run one program; its figures are the last line that it prints."""
    done = subprocess.run(
        [sys.executable, *command],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE_S,
    )
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def row(name: str, ours: list[float], floor: str, theirs: list[float], goal: str, unit: str) -> Row:
    """One comparison; the ratio is the median over the rounds."""
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    return {
        "name": name,
        "value": round(statistics.median(ours), 2),
        "unit": unit,
        "best": round(min(ours), 2),
        "floor": floor,
        "floor_value": round(statistics.median(theirs), 2),
        "floor_best": round(min(theirs), 2),
        "ratio": round(statistics.median(ratios), 2),
        "goal": goal,
    }
