"""What a run measures: how fast the news spreads, over how many hops, how often twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.machine import Machine
from tests.simulation.reference import Signed
from zmqex.kernel.logs import MakerLog

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

_BATCHES = b"o"


class Measures:
    """Counters of one run."""

    def __init__(self, sim: Simulation) -> None:
        """Nothing has been said yet."""
        self.sim = sim
        self.converged_ms: list[int] = []
        self.hops: dict[int, int] = {}
        self.firsts = 0
        self.duplicates = 0
        self._published: dict[tuple[bytes, str, int, int], int] = {}
        self._hop: dict[bytes, dict[int, int]] = {}

    def begin(self) -> None:
        """Forget what was measured so far."""
        self.converged_ms, self.hops = [], {}
        self.firsts = self.duplicates = 0
        self._published = {}

    def published(self, signed: Signed) -> None:
        """A batch has left its maker."""
        batch = signed.batch
        place = (batch.maker, batch.market, batch.epoch, batch.sequence)
        self._published.setdefault(place, self.sim.schedule.now_ms)

    def arrived(self, target: Machine, source: Machine, topic: bytes, envelope: bytes) -> None:
        """A stream message has reached a machine."""
        if not topic.startswith(_BATCHES):
            return
        seen = self._hop.setdefault(envelope, {})
        if target.number in seen:
            self.duplicates += 1
            return
        hops = seen.get(source.number, 0) + 1
        seen[target.number] = hops
        self.firsts += 1
        self.hops[hops] = self.hops.get(hops, 0) + 1

    def applied(
        self, machine: Machine, log: MakerLog, before: tuple[int, int, bytes] | None
    ) -> None:
        """A machine holds more of a log than before."""
        fold, now_ms = log.fold, self.sim.schedule.now_ms
        if machine.identity == fold.maker:
            return
        start = before[1] if before is not None and before[0] == fold.epoch else 0
        for sequence in range(start + 1, fold.sequence + 1):
            at_ms = self._published.get((fold.maker, fold.market, fold.epoch, sequence))
            if at_ms is not None and at_ms >= machine.started_ms:
                self.converged_ms.append(now_ms - at_ms)

    def percentiles(self) -> dict[str, int]:
        """Milliseconds from a maker's word to a node's book."""
        times = sorted(self.converged_ms)
        if not times:
            return {"p50": 0, "p99": 0, "max": 0}
        last = len(times) - 1
        return {"p50": times[last // 2], "p99": times[last * 99 // 100], "max": times[last]}
