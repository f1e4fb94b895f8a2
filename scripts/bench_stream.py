"""Order streams: how much a node takes in, against signatures alone and against a flat pipeline.

A publisher of its own process sends one prepared stream of signed batches over CURVE, and in turns
the program and the floor receive, decode, verify, apply and hash it, each in a fresh process.  The
ratio is of CPU time (all threads of the receiver), by which a shared machine disturbs least.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import bench_flat_stream

from zmqex.adapters.clock import wall_ms

HERE = Path(__file__).resolve().parent
ROUNDS = 5
MAKERS = 5
# Batch size -> orders of each maker; 10,000 is all that one maker may have open.
ORDERS = {128: 9_984, 1: 2_000}
SHEET_US = {128: "sheet: 6.25 at 32 orders a batch", 1: "sheet: 65.5"}

Row = dict[str, object]


def rows() -> list[Row]:
    """Every figure of this section."""
    found: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="zq-") as place:
        streams = {size: Stream(Path(place), size) for size in ORDERS}
        for _ in range(ROUNDS):
            for stream in streams.values():
                stream.turn()
        alone = statistics.median(streams[1].verify_us)
        for size, goal in ((128, ">= 10"), (1, ">= 0.85")):
            stream = streams[size]
            name = f"order in batches of {size}"
            ours = statistics.median(stream.node_us)
            found.append(
                {
                    **_row(name, stream.node_us, "one signature checked", streams[1].verify_us),
                    "ratio": round(alone / ours, 2),
                    "goal": goal,
                }
            )
            flat = f"flat pipeline ({SHEET_US[size]})"
            ratios = [a / b for a, b in zip(stream.flat_us, stream.node_us, strict=True)]
            found.append(
                {
                    **_row(name, stream.node_us, flat, stream.flat_us),
                    "ratio": round(statistics.median(ratios), 2),
                    "goal": ">= 0.6",
                }
            )
    return found


class Stream:
    """One prepared stream, and what it has cost so far: CPU microseconds per order."""

    def __init__(self, place: Path, size: int) -> None:
        self.folder = place / f"batches-{size}"
        self.folder.mkdir(mode=0o700)
        self._orders = ORDERS[size] * MAKERS
        self._makers = bench_flat_stream.make_stream(
            self.folder, MAKERS, ORDERS[size], size, wall_ms()
        )
        self.node_us: list[float] = []
        self.flat_us: list[float] = []
        self.verify_us: list[float] = []

    def turn(self) -> None:
        """Measure signatures alone, the program and the flat pipeline, one after the other."""
        flat = str(HERE / "bench_flat_stream.py")
        signatures = len(bench_flat_stream.read_stream(self.folder)[1])
        alone = _figures([flat, "verify", str(self.folder)])
        self.verify_us.append(alone["cpu_s"] * 1e6 / signatures)
        node = [str(HERE / "bench_stream_node.py"), str(self.folder)]
        self.node_us.append(self._received(node, [maker.hex() for maker in self._makers]))
        self.flat_us.append(self._received([flat, "ingest", str(self.folder)], []))

    def _received(self, command: list[str], more: list[str]) -> float:
        """Let a fresh receiver take the stream from a fresh publisher."""
        publish = [sys.executable, str(HERE / "bench_flat_stream.py"), "publish"]
        with subprocess.Popen(
            [*publish, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as publisher:
            at = json.loads(_first_line(publisher))
            figures = _figures([*command, str(at["port"]), at["key"], *more])
            publisher.communicate("\n")
        if figures["orders"] != self._orders:
            raise SystemExit(f"{figures['orders']} of {self._orders} orders arrived: no result")
        return figures["cpu_s"] * 1e6 / self._orders


def _first_line(process: subprocess.Popen[str]) -> str:
    if process.stdout is None:
        raise SystemExit("the publisher says nothing: no result")
    return process.stdout.readline()


def _figures(command: list[str]) -> dict[str, float]:
    """Run one program; its figures are the last line that it prints."""
    done = subprocess.run([sys.executable, *command], check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _row(name: str, ours: list[float], floor: str, theirs: list[float]) -> Row:
    return {
        "name": name,
        "value": round(statistics.median(ours), 2),
        "unit": "us of CPU",
        "best": round(min(ours), 2),
        "floor": floor,
        "floor_value": round(statistics.median(theirs), 2),
        "floor_best": round(min(theirs), 2),
    }
