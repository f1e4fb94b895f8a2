"""What a node costs as the network grows: measured, and written as a table and a plot."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from tests.simulation import growth


def test_a_small_network_is_measured_and_drawn() -> None:
    """Every maker's word reaches everybody, once; each cost has its row and its points."""
    small = growth.measure(growth.MAKERS)
    assert small.peers == growth.MAKERS - 1
    assert small.copies == 1
    assert 0 < small.p50_ms <= small.p99_ms <= small.max_ms < 1_000
    large = growth.Cost(1_000, 80.0, 20_000.0, 5_000.0, 256.0, 12.0, 20, 40, 60, 4)
    table = growth.table([small, large])
    assert table.count("\n") == 4
    assert "| 1000 | 80.0 | 20000.0 |" in table
    picture = ET.fromstring(growth.plot([small, large]))  # noqa: S314 - we wrote it
    circles = [one for one in picture.iter() if one.tag.endswith("circle")]
    assert len(circles) == 6
