"""Repeats: quickly at first, then at leisure with jitter, never later than promised."""

from __future__ import annotations

import itertools

from zmqex.dht import schedule
from zmqex.dht.limits import DHT_ANNOUNCE_EVERY_MS, DHT_FOLLOW_EVERY_MS


def _times(repeat: schedule.Repeat, runs: int, chance: bytes) -> list[int]:
    times = []
    for _ in range(runs):
        times.append(repeat.next_ms)
        repeat.ran(repeat.next_ms, lambda count: chance[:count])
    return times


def test_a_follower_looks_at_0_250_500_1000_2000_and_5000_ms() -> None:
    """And then every 30 s."""
    times = _times(schedule.follow(0), 8, b"\0" * 4)
    assert times == [0, 250, 500, 1_000, 2_000, 5_000, 35_000, 65_000]


def test_an_announcer_repeats_soon_and_then_within_40_s() -> None:
    """Chance makes it up to a quarter earlier and never later."""
    for chance in (b"\0" * 4, b"\xff" * 4, b"\x12\x34\x56\x78"):
        times = _times(schedule.announce(7), 6, chance)
        assert times[:3] == [7, 1_007, 5_007]
        pauses = [after - before for before, after in itertools.pairwise(times[2:])]
        every = DHT_ANNOUNCE_EVERY_MS
        assert all(every * 3 // 4 <= pause <= every for pause in pauses)


def test_a_restart_begins_with_the_quick_runs() -> None:
    """After a sleep everything is tried at once."""
    repeat = schedule.follow(0)
    _times(repeat, 8, b"\0" * 4)
    repeat.restart(90_000)
    assert _times(repeat, 2, b"\0" * 4) == [90_000, 90_250]


def test_joining_and_upkeep_have_their_own_pace() -> None:
    """A lonely node calls every 5 s at the latest; a table is tended every 30 s."""
    assert _times(schedule.join(0), 7, b"\0" * 4)[-2:] == [5_000, 10_000]
    assert _times(schedule.upkeep(0), 2, b"\0" * 4) == [0, DHT_FOLLOW_EVERY_MS]
