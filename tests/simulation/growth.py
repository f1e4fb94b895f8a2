"""What a node costs as the network grows: the same makers and load, more and more nodes.

Written as a table and as a plot; nothing goes wrong in these runs, and signatures are imitated.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace

from tests.simulation.plan import make_plan
from tests.simulation.simulation import Simulation, SimulationError
from zmqex.limits import FOLLOW_ALL_MAX

MAKERS = 10
WARM_UP_S = 10
MEASURED_S = 5
_SAID_EVERY_MS = 5_000
_WIDTH, _HEIGHT, _MARGIN = 720, 420, 70
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c")


@dataclass(frozen=True)
class Cost:
    """One size of network: what each node does in a second, and how fast news spreads."""

    nodes: int
    messages: float  # sent by a node in a second
    bytes: float
    processor_us: float  # of one core, for a node's second
    peers: float
    copies: float  # of each batch that arrive at a node
    p50_ms: int
    p99_ms: int
    max_ms: int
    hops_max: int


def measure_all(sizes: Sequence[int], jobs: int) -> Iterator[Cost]:
    """Several networks, in order of size; the largest are begun first, each in a process alone."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        begun = {nodes: pool.submit(measure, nodes) for nodes in sorted(sizes, reverse=True)}
        for nodes in sorted(sizes):
            yield begun[nodes].result()


def measure(nodes: int, seed: int = 1) -> Cost:
    """One network: it meets, settles down, and is then measured for a while."""
    plan = make_plan(
        seed,
        nodes=nodes,
        makers=MAKERS,
        seconds=WARM_UP_S + MEASURED_S,
        faults=frozenset(),
        fast_signer=True,
    )
    # The limits as they are; the seed decides nothing about them.
    sim = Simulation(replace(plan, tight_limits=False, follow_all_max=FOLLOW_ALL_MAX))
    before: list[float] = []

    def begin() -> None:
        sim.measures.begin()
        before.extend((sim.outside.messages, sim.outside.bytes, time.process_time()))

    def say() -> None:
        now_s, cpu_s = sim.schedule.now_ms // 1_000, time.process_time()
        sys.stderr.write(f"{nodes} nodes: second {now_s} after {cpu_s:.0f} s of processor time\n")
        sim.schedule.after(_SAID_EVERY_MS, say)

    sim.schedule.at(WARM_UP_S * 1_000, begin)
    sim.schedule.at(_SAID_EVERY_MS, say)
    gc.disable()
    try:
        report = sim.run()
    finally:
        gc.enable()
    if report.failure:
        raise SimulationError(report.failure)
    spent_s = time.process_time() - before[2]
    seconds = sim.schedule.now_ms / 1_000 - WARM_UP_S
    node_seconds = nodes * seconds
    measures = sim.measures
    times = measures.percentiles()
    live = sum(len(one.k.sessions.live_peers()) for one in sim.machines)
    return Cost(
        nodes,
        round((sim.outside.messages - before[0]) / node_seconds, 1),
        round((sim.outside.bytes - before[1]) / node_seconds, 1),
        round(1e6 * spent_s / node_seconds, 1),
        round(live / nodes, 1),
        round((measures.firsts + measures.duplicates) / max(measures.firsts, 1), 2),
        times["p50"],
        times["p99"],
        times["max"],
        max(measures.hops, default=0),
    )


def table(costs: Sequence[Cost]) -> str:
    """The costs as a table in Markdown."""
    head = (
        "| nodes | messages sent / node / s | bytes sent / node / s | processor us / node / s "
        "| live peers | copies of a batch | p50 ms | p99 ms | max ms | hops |"
    )
    rows = [
        "| " + " | ".join(str(getattr(one, field.name)) for field in fields(one)) + " |"
        for one in costs
    ]
    return "\n".join([head, "| ---: " * len(fields(Cost)) + "|", *rows]) + "\n"


def plot(costs: Sequence[Cost]) -> str:
    """Messages, bytes and processor time of a node over the size of the network, as SVG."""
    series = {
        "bytes sent / node / s": [one.bytes for one in costs],
        "processor us / node / s": [one.processor_us for one in costs],
        "messages sent / node / s": [one.messages for one in costs],
    }
    top = math.ceil(math.log10(max(max(values) for values in series.values()) + 1))
    last = math.log10(costs[-1].nodes)
    first = math.log10(costs[0].nodes)

    def place(nodes: int, value: float) -> tuple[float, float]:
        across = (math.log10(nodes) - first) / max(last - first, 1e-9)
        up = math.log10(max(value, 1)) / top
        x = _MARGIN + across * (_WIDTH - 2 * _MARGIN)
        return round(x, 1), round(_HEIGHT - _MARGIN - up * (_HEIGHT - 2 * _MARGIN), 1)

    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            'font-family="sans-serif" font-size="13">'
        ),
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        (
            f'<text x="{_WIDTH / 2}" y="24" text-anchor="middle">What a node costs as the network '
            f"grows ({MAKERS} makers; both axes logarithmic)</text>"
        ),
    ]
    for power in range(top + 1):
        _, y = place(costs[0].nodes, 10**power)
        parts.append(
            f'<line x1="{_MARGIN}" x2="{_WIDTH - _MARGIN}" y1="{y}" y2="{y}" stroke="#ddd"/>'
            f'<text x="{_MARGIN - 8}" y="{y + 4}" text-anchor="end">{10**power:,}</text>'
        )
    for one in costs:
        x, _ = place(one.nodes, 1)
        parts.append(
            f'<text x="{x}" y="{_HEIGHT - _MARGIN + 20}" text-anchor="middle">{one.nodes}</text>'
        )
    for number, (name, values) in enumerate(series.items()):
        colour = _COLOURS[number]
        points = [place(one.nodes, value) for one, value in zip(costs, values, strict=True)]
        line = " ".join(f"{x},{y}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/>' for x, y in points]
        parts.append(
            f'<text x="{_MARGIN + 10 + 210 * number}" y="{_HEIGHT - 18}" fill="{colour}">'
            f"{name}</text>"
        )
    return "\n".join([*parts, "</svg>"]) + "\n"
