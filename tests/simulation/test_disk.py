"""The disk of a simulated machine keeps and loses what the real journal keeps and loses."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from random import Random

import pytest

from tests.outside import MemoryJournal
from tests.simulation.machine import Machine
from tests.simulation.plan import Fault, Plan, make_plan
from tests.simulation.simulation import Simulation
from zmqex.adapters.storage.journal import Journal
from zmqex.errors import StorageError
from zmqex.kernel.records import Snapshot, Write

Commits = list[tuple[Write, ...]]


@pytest.fixture(scope="module")
def commits() -> Commits:
    """Everything that the busiest machine of a run has written, commit by commit."""
    written: dict[int, Commits] = {}
    begin = Machine._commit

    def recorded(self: Machine, writes: tuple[Write, ...], done: Callable[[], None]) -> None:
        written.setdefault(self.number, []).append(writes)
        begin(self, writes, done)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Machine, "_commit", recorded)
        # Limits so tight that the log is compacted, and no crash: all of it reaches the disk.
        plan = next(one for one in map(_quiet, range(100)) if one.tight_limits)
        assert not Simulation(plan).run().failure
    return max(written.values(), key=len)


def _quiet(seed: int) -> Plan:
    return make_plan(seed, nodes=4, makers=3, seconds=60, faults=frozenset({Fault.LOSS}))


def write(path: Path, commits: Commits) -> Journal:
    """The real journal with these commits, each a transaction of its own, still open."""
    journal = Journal(path)
    for writes in commits:
        answer: Future[StorageError | None] = Future()
        journal.commit(writes, answer.set_result)
        assert answer.result(30) is None
    return journal


def prefixes(commits: Commits) -> list[Snapshot]:
    """What the model has after each number of commits."""
    model = MemoryJournal()
    snapshots = [model.snapshot()]
    for writes in commits:
        model.commit(writes)
        snapshots.append(model.snapshot())
    return snapshots


def test_the_model_restores_what_the_journal_restores(commits: Commits, tmp_path: Path) -> None:
    """After every kind of write that a kernel makes, row for row and in the same order."""
    kinds = {type(one).__name__ for writes in commits for one in writes}
    assert kinds >= {"PutOrder", "PutTrade", "PutBatch", "PutLine", "PutPeer", "PutCheckpoint"}
    journal = write(tmp_path / "journal.sqlite", commits)
    try:
        assert journal.load() == prefixes(commits)[-1]
    finally:
        journal.close()


def test_a_torn_write_ends_the_journal_at_a_commit(commits: Commits, tmp_path: Path) -> None:
    """Wherever the file is cut or hit, what is restored is what the model has at some commit."""
    path = tmp_path / "journal.sqlite"
    some = commits[:40]
    journal = write(path, some)
    model = prefixes(some)
    random = Random(7)
    found = []
    size = path.with_name(path.name + "-wal").stat().st_size
    for number, cut in enumerate(sorted(random.randrange(size) for _ in range(12))):
        torn = tmp_path / f"torn{number}"
        torn.mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", torn / f"journal.sqlite{suffix}")
        with (torn / "journal.sqlite-wal").open("r+b") as wal:
            if number % 2:
                wal.truncate(cut)
            else:
                wal.seek(cut)
                wal.write(b"\xff\x00\xff")
        reopened = Journal(torn / "journal.sqlite")
        try:
            found.append(model.index(reopened.load()))
        finally:
            reopened.close()
    journal.close()
    assert found == sorted(found)
    assert found[0] < found[-1] < len(some)
