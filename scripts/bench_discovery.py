"""Section `discovery` of bench.py: how fast nodes are found, and what waiting for them costs.

The rows of each source stand in a module of their own; this one only lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import bench_dht
import bench_meeting

Row = Mapping[str, object]

# What measures each source of peers, in the order of printing.
SOURCES: Final[tuple[Callable[[], Sequence[Row]], ...]] = (bench_dht.rows, bench_meeting.rows)


def rows() -> list[Row]:
    """Every row of the section."""
    return [row for source in SOURCES for row in source()]
