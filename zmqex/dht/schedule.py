"""When a node repeats what it announces and follows: quickly at first, then at leisure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from zmqex.dht.limits import DHT_ANNOUNCE_EVERY_MS, DHT_FOLLOW_EVERY_MS, DHT_ITEM_EVERY_MS
from zmqex.limits import SECOND_MS

# Pauses after the first runs.  A follower looks at 0, 0.25, 0.5, 1, 2 and 5 s: nodes of one
# network are often started together.  An announcer repeats at 1 s and 5 s, when it knows
# nearer nodes than at its start.
FOLLOW_PAUSES_MS: Final = (250, 250, 500, 1_000, 3_000)
ANNOUNCE_PAUSES_MS: Final = (1_000, 4_000)
# A node without contacts calls its bootstrap addresses; one with contacts tends its table.
JOIN_PAUSES_MS: Final = (250, 250, 500, 1_000, 3_000)
JOIN_EVERY_MS: Final = 5 * SECOND_MS
UPKEEP_EVERY_MS: Final = 30 * SECOND_MS
# Timers of many nodes drift apart: up to a quarter earlier, never later.
_JITTER_SHARE: Final = 4


@dataclass(slots=True)
class Repeat:
    """One thing that is done again and again."""

    next_ms: int
    pauses_ms: tuple[int, ...]
    every_ms: int
    runs: int = 0

    def ran(self, now_ms: int, randomness: Callable[[int], bytes]) -> None:
        """Set the time of the next run."""
        if self.runs < len(self.pauses_ms):
            pause_ms = self.pauses_ms[self.runs]
        else:
            early_ms = self.every_ms // _JITTER_SHARE
            chance = int.from_bytes(randomness(4), "big")
            pause_ms = self.every_ms - chance % (early_ms + 1)
        self.runs += 1
        self.next_ms = now_ms + pause_ms

    def restart(self, now_ms: int) -> None:
        """Begin as on the first day: run now, then quickly."""
        self.next_ms = now_ms
        self.runs = 0


def follow(now_ms: int) -> Repeat:
    """Return the schedule of a followed name."""
    return Repeat(now_ms, FOLLOW_PAUSES_MS, DHT_FOLLOW_EVERY_MS)


def join(now_ms: int) -> Repeat:
    """Return the schedule of a node that looks for its first contact."""
    return Repeat(now_ms, JOIN_PAUSES_MS, JOIN_EVERY_MS)


def upkeep(now_ms: int) -> Repeat:
    """Return the schedule of the routing table's care."""
    return Repeat(now_ms, (), UPKEEP_EVERY_MS)


def announce(now_ms: int) -> Repeat:
    """Return the schedule of an announced name."""
    return Repeat(now_ms, ANNOUNCE_PAUSES_MS, DHT_ANNOUNCE_EVERY_MS)


def publish(now_ms: int) -> Repeat:
    """Return the schedule of an item of our own."""
    return Repeat(now_ms, ANNOUNCE_PAUSES_MS, DHT_ITEM_EVERY_MS)
