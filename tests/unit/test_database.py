"""The journal's database: group commit, order of answers, and one end for every fault."""

from __future__ import annotations

import os
import queue
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from zmqex.adapters.storage.database import Database
from zmqex.errors import ConfigError, StorageError
from zmqex.limits import COMMIT_GROUP_MAX, WAL_BYTES_KEPT_MAX, WAL_PAGES_MAX

PARENTS = "CREATE TABLE parent (id INTEGER PRIMARY KEY, text BLOB) STRICT;"
CHILDREN = "CREATE TABLE child (parent INTEGER NOT NULL REFERENCES parent (id)) STRICT;"
Insert = Callable[[sqlite3.Connection], int]


def insert(number: int) -> Insert:
    """A work item that adds one row and answers its number."""

    def work(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO parent (id) VALUES (?)", (number,))
        return number

    return work


def rows(connection: sqlite3.Connection) -> list[int]:
    """All numbers that stand in the file."""
    return [number for (number,) in connection.execute("SELECT id FROM parent ORDER BY id")]


def rows_of(path: Path) -> list[int]:
    """All numbers that a fresh connection finds."""
    with Database(path, [PARENTS, CHILDREN]) as database:
        return database.read(rows).result()


class Pause:
    """Holds the writer inside its first commit until the test lets it go."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, when: Literal["before", "after"], number: int) -> None:
        """The hook."""
        if (when, number) == ("before", 1):
            self.reached.set()
            assert self.go_on.wait(5)


def test_an_answer_comes_after_the_commit_that_made_it_durable(tmp_path: Path) -> None:
    """At the time of the answer the row is committed, seen by the hook's order of events."""
    events: queue.SimpleQueue[object] = queue.SimpleQueue()
    with Database(
        tmp_path / "j.db", [PARENTS], on_commit=lambda when, number: events.put((when, number))
    ) as database:
        database.submit(insert(7), events.put)
        assert [events.get(timeout=5) for _ in range(3)] == [("before", 1), ("after", 1), 7]


def test_what_queues_during_a_commit_is_the_next_transaction(tmp_path: Path) -> None:
    """Fifty items that arrive while the disk is busy cost one commit, answered in order."""
    pause, answers = Pause(), queue.SimpleQueue[int | StorageError]()
    with Database(tmp_path / "j.db", [PARENTS], on_commit=pause) as database:
        database.submit(insert(0), answers.put)
        assert pause.reached.wait(5)
        for number in range(1, 51):
            database.submit(insert(number), answers.put)
        pause.go_on.set()
        assert [answers.get(timeout=5) for _ in range(51)] == list(range(51))
        assert database.commits == 2


def test_a_group_has_a_limit(tmp_path: Path) -> None:
    """More work than fits one group is split, and all of it is answered in order."""
    pause, answers = Pause(), queue.SimpleQueue[int | StorageError]()
    count = COMMIT_GROUP_MAX + 2
    with Database(tmp_path / "j.db", [PARENTS], on_commit=pause) as database:
        database.submit(insert(0), answers.put)
        assert pause.reached.wait(5)
        for number in range(1, count):
            database.submit(insert(number), answers.put)
        pause.go_on.set()
        assert [answers.get(timeout=5) for _ in range(count)] == list(range(count))
        assert database.commits == 3


def test_a_read_sees_all_earlier_work_and_cannot_write(tmp_path: Path) -> None:
    """Read your writes; a writing read fails alone, and the database goes on."""
    with Database(tmp_path / "j.db", [PARENTS]) as database:
        database.submit(insert(1), lambda _: None)
        assert database.read(rows).result(5) == [1]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            database.read(insert(2)).result(5)
        database.submit(insert(3), lambda _: None)
        assert database.read(rows).result(5) == [1, 3]


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda c: c.execute("INSERT INTO child VALUES (99)"), id="foreign key"),
        pytest.param(lambda c: c.execute("INSERT INTO parent (id) VALUES (0)"), id="unique"),
        pytest.param(lambda c: c.execute("COMMIT"), id="ends the transaction of its group"),
        pytest.param(lambda _: [].pop(), id="a bug of ours"),
    ],
)
def test_one_failed_item_is_the_end_of_its_group_and_of_the_database(
    tmp_path: Path, broken: Callable[[sqlite3.Connection], object]
) -> None:
    """Group and everything later get the same StorageError; what was acknowledged stays."""
    pause, answers = Pause(), queue.SimpleQueue[object]()
    path = tmp_path / "j.db"
    with Database(path, [PARENTS, CHILDREN], on_commit=pause) as database:
        database.submit(insert(0), answers.put)
        assert pause.reached.wait(5)
        database.submit(insert(1), answers.put)
        database.submit(broken, answers.put)
        database.submit(insert(2), answers.put)
        pause.go_on.set()
        assert answers.get(timeout=5) == 0
        faults = [answers.get(timeout=5) for _ in range(3)]
        assert isinstance(faults[0], StorageError)
        assert all(fault is faults[0] for fault in faults)
        database.submit(insert(3), answers.put)
        assert answers.get(timeout=5) is faults[0] is database.fault
        with pytest.raises(StorageError):
            database.read(rows).result(5)
    found = rows_of(path)
    assert {0} <= set(found) <= {0, 1}
    assert 2 not in found
    assert 3 not in found


def test_a_storage_error_of_the_work_is_told_as_it_is(tmp_path: Path) -> None:
    """The journal's own words reach the runtime, and its group is not committed."""
    answers = queue.SimpleQueue[object]()
    disagreement = StorageError("the update hit no row")

    def disagree(connection: sqlite3.Connection) -> None:
        insert(1)(connection)
        raise disagreement

    with Database(tmp_path / "j.db", [PARENTS]) as database:
        database.submit(disagree, answers.put)
        assert answers.get(timeout=5) is disagreement
    assert rows_of(tmp_path / "j.db") == []


def test_a_full_disk_rolls_back_and_stops(tmp_path: Path) -> None:
    """SQLite's own "full" in the middle of a group leaves the file as it was."""
    answers = queue.SimpleQueue[object]()

    def fill(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO parent (text) VALUES (zeroblob(1000000))")

    with Database(tmp_path / "j.db", [PARENTS]) as database:
        database.submit(insert(5), answers.put)
        database.submit(lambda c: c.execute("PRAGMA max_page_count = 10").fetchall(), answers.put)
        database.submit(fill, answers.put)
        told = [answers.get(timeout=5) for _ in range(3)]
        assert isinstance(told[2], StorageError)
        assert "full" in str(told[2])
    assert rows_of(tmp_path / "j.db") == ([5] if told[0] == 5 else [])


def test_close_commits_the_queue_and_answers_late_callers(tmp_path: Path) -> None:
    """Nothing that was submitted before close is lost; afterwards everybody gets an error."""
    answers = queue.SimpleQueue[object]()
    database = Database(tmp_path / "j.db", [PARENTS])
    for number in range(200):
        database.submit(insert(number), answers.put)
    database.close()
    assert [answers.get_nowait() for _ in range(200)] == list(range(200))
    database.close()
    database.submit(insert(900), answers.put)
    assert isinstance(answers.get_nowait(), StorageError)
    with pytest.raises(StorageError):
        database.read(rows)
    assert rows_of(tmp_path / "j.db") == list(range(200))
    assert not (tmp_path / "j.db-wal").exists()


def test_a_caller_that_fails_on_its_answer_harms_no_other(tmp_path: Path) -> None:
    """Whoever stands behind it in the group is answered, the row stays, the file is closed."""
    pause, answers = Pause(), queue.SimpleQueue[int | StorageError]()

    def refuse(_: object) -> None:
        raise RuntimeError("the loop is closed")

    with Database(tmp_path / "j.db", [PARENTS], on_commit=pause) as database:
        database.submit(insert(0), answers.put)
        assert pause.reached.wait(5)
        database.submit(insert(1), refuse)
        database.submit(insert(2), answers.put)
        pause.go_on.set()
        assert [answers.get(timeout=5) for _ in range(2)] == [0, 2]
        database.submit(insert(3), answers.put)
        assert answers.get(timeout=5) == 3
    assert rows_of(tmp_path / "j.db") == [0, 1, 2, 3]


def test_many_threads_lose_nothing(tmp_path: Path) -> None:
    """Eight submitters at once: every row acknowledged is there, each in its thread's order."""
    answers: list[queue.SimpleQueue[object]] = [queue.SimpleQueue() for _ in range(8)]
    with Database(tmp_path / "j.db", [PARENTS]) as database:

        def work(which: int) -> None:
            for number in range(100):
                database.submit(insert(which * 100 + number), answers[which].put)

        threads = [threading.Thread(target=work, args=(which,)) for which in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
    for which, answer in enumerate(answers):
        assert [answer.get_nowait() for _ in range(100)] == [which * 100 + n for n in range(100)]
    assert rows_of(tmp_path / "j.db") == list(range(800))


def test_the_log_is_moved_into_the_file_once_it_is_long(tmp_path: Path) -> None:
    """The write-ahead log grows up to its limit and a group, and is then written over."""
    path, lengths = tmp_path / "j.db", list[int]()

    def add(database: Database, size: int) -> None:
        blob = bytes(size)
        database.submit(
            lambda c: c.execute("INSERT INTO parent (text) VALUES (?)", (blob,)), lambda _: None
        )
        database.read(rows).result(5)
        lengths.append(path.with_name("j.db-wal").stat().st_size)

    with Database(path, [PARENTS]) as database:
        for _ in range(40):
            add(database, 256 * 1024)
        longest = max(lengths)
        assert longest < WAL_PAGES_MAX * 4_200 + 2 * 256 * 1024
        assert path.stat().st_size > longest
        assert lengths[-10:] == [longest] * 10
        add(database, 2 * WAL_BYTES_KEPT_MAX)
        add(database, 1)
        assert lengths[-1] <= WAL_BYTES_KEPT_MAX


def test_the_settings_that_money_needs_are_on(tmp_path: Path) -> None:
    """WAL, synchronous=FULL, foreign keys, a log of bounded length, a file for this user only."""
    path = tmp_path / "j.db"

    def settings(connection: sqlite3.Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "wal_autocheckpoint")
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    with Database(path, [PARENTS]) as database:
        assert database.read(settings).result(5) == ["wal", 2, 1, WAL_PAGES_MAX]
        for name in ("j.db", "j.db-wal"):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_only_a_group_that_asks_for_nothing_else_goes_without_the_disk(tmp_path: Path) -> None:
    """One synced item makes its whole group wait for the disk, and so does the next group."""
    pause, levels = Pause(), queue.SimpleQueue[int | StorageError]()

    def level(connection: sqlite3.Connection) -> int:
        return int(connection.execute("PRAGMA synchronous").fetchone()[0])

    with Database(tmp_path / "j.db", [PARENTS], on_commit=pause) as database:
        database.submit(insert(0), lambda _: None)
        assert pause.reached.wait(5)
        database.submit(level, levels.put, synced=False)
        database.submit(level, levels.put)
        pause.go_on.set()
        assert [levels.get(timeout=5) for _ in range(2)] == [2, 2]
        database.submit(level, levels.put, synced=False)
        assert levels.get(timeout=5) == 1
        database.submit(level, levels.put)
        assert levels.get(timeout=5) == 2


def test_migrations_run_once_and_in_order(tmp_path: Path) -> None:
    """A file of an older version is brought up to date and keeps its rows."""
    path = tmp_path / "j.db"
    with Database(path, [PARENTS]) as database:
        database.submit(insert(1), lambda _: None)
    assert rows_of(path) == [1]
    assert rows_of(path) == [1]


def test_a_failed_migration_leaves_the_old_version(tmp_path: Path) -> None:
    """All of a script or nothing of it."""
    path = tmp_path / "j.db"
    with pytest.raises(StorageError):
        Database(path, [PARENTS, CHILDREN + "DROP TABLE nowhere;"])
    assert rows_of(path) == []


def test_a_migration_may_make_a_table_anew_but_lose_nothing_that_others_refer_to(
    tmp_path: Path,
) -> None:
    """What refers to it stays as it is; a row that is gone is told, and nothing is changed."""
    path, old = tmp_path / "j.db", [PARENTS, CHILDREN]
    with Database(path, old) as database:
        database.submit(insert(1), lambda _: None)
        database.submit(insert(2), lambda _: None)
        database.submit(lambda c: c.execute("INSERT INTO child VALUES (2)"), lambda _: None)
    anew = PARENTS.replace("parent", "moved")
    anew += "INSERT INTO moved SELECT * FROM parent{};"
    anew += "DROP TABLE parent; ALTER TABLE moved RENAME TO parent;"
    with pytest.raises(StorageError, match="refer to"):
        Database(path, [*old, anew.format(" WHERE id = 1")])
    with Database(path, [*old, anew.format("")]) as database:
        assert database.read(rows).result(5) == [1, 2]
        answers = queue.SimpleQueue[object]()
        database.submit(lambda c: c.execute("DELETE FROM parent WHERE id = 2"), answers.put)
        assert isinstance(answers.get(timeout=5), StorageError)


def test_a_file_of_a_newer_zmqex_is_refused_unchanged(tmp_path: Path) -> None:
    """The sentence says why, and nothing is written."""
    path = tmp_path / "j.db"
    rows_of(path)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="newer zmqex"):
        Database(path, [PARENTS])
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_a_storage_error(tmp_path: Path) -> None:
    """Damage is not something that a setting can mend."""
    path = tmp_path / "j.db"
    path.write_bytes(b"not a database at all, " * 100)
    with pytest.raises(StorageError, match="not a database"):
        Database(path, [PARENTS])


def test_a_second_connection_is_refused(tmp_path: Path) -> None:
    """Even without the directory's lock nobody else gets at the file while it is open."""
    path = tmp_path / "j.db"
    with (
        Database(path, [PARENTS]),
        pytest.raises(ConfigError, match="another program"),
    ):
        Database(path, [PARENTS])


def test_a_directory_without_write_access_is_refused(tmp_path: Path) -> None:
    """A missing or read-only directory is the operator's to mend."""
    with pytest.raises(ConfigError, match="read-only"):
        Database(tmp_path / "missing" / "j.db", [PARENTS])


_FULL_DISK = """
import resource, sys
from pathlib import Path
from zmqex.adapters.storage.database import Database
from zmqex.errors import ConfigError
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    Database(Path(sys.argv[1]), ["CREATE TABLE t (a);"])
except ConfigError as error:
    print(error)
"""


def test_a_disk_without_room_is_told_at_the_start(tmp_path: Path) -> None:
    """A process that may write 2,000 bytes only cannot open a journal, and says so."""
    told = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(tmp_path / "j.db")],
        capture_output=True,
        check=True,
        text=True,
        timeout=20,
    )
    assert "make room on its disk" in told.stdout


_FORK = """
import os, sys
from pathlib import Path
from zmqex.adapters.storage.database import Database
from zmqex.errors import StorageError
database = Database(Path(sys.argv[1]), ["CREATE TABLE t (a);"])
child = os.fork()
if child == 0:
    refused = 0
    for call in (
        lambda: database.submit(lambda c: None, lambda r: None),
        lambda: database.read(lambda c: None),
        database.close,
    ):
        try:
            call()
        except StorageError:
            refused += 1
    os._exit(refused)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
database.submit(lambda c: c.execute("INSERT INTO t VALUES (1)"), lambda r: None)
assert database.read(lambda c: c.execute("SELECT count(*) FROM t").fetchone()).result() == (1,)
database.close()
"""


def test_a_connection_is_not_carried_over_a_fork(tmp_path: Path) -> None:
    """The child is refused by all three calls; the parent goes on unharmed."""
    story = [sys.executable, "-W", "ignore", "-c", _FORK, str(tmp_path / "j.db")]
    assert subprocess.run(story, check=False, timeout=20).returncode == 0


_KILLED = """
import os, signal, sys
from pathlib import Path
from zmqex.adapters.storage.database import Database
when, number = sys.argv[2], int(sys.argv[3])
def hook(now, commit):
    if (now, commit) == (when, number):
        os.kill(os.getpid(), signal.SIGKILL)
migrations = ["CREATE TABLE parent (id INTEGER PRIMARY KEY, text BLOB) STRICT;"]
database = Database(Path(sys.argv[1]), migrations, on_commit=hook)
for row in range(1, 10):
    database.submit(
        lambda c: c.execute("INSERT INTO parent (id) VALUES (?)", (row,)).lastrowid,
        lambda answer: os.write(1, b"%d\\n" % answer),
    )
    database.read(lambda c: None).result()
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", [1, 4, 9])
def test_a_kill_around_a_commit_keeps_every_acknowledged_row(
    tmp_path: Path, when: str, number: int
) -> None:
    """Kill -9 before commit n leaves n-1 rows, after it n; exactly n-1 were acknowledged."""
    path = tmp_path / "j.db"
    died = subprocess.run(
        [sys.executable, "-c", _KILLED, str(path), when, str(number)],
        stdout=subprocess.PIPE,
        check=False,
        timeout=20,
    )
    assert died.returncode == -9
    assert [int(line) for line in died.stdout.split()] == list(range(1, number))
    assert rows_of(path) == list(range(1, number + (when == "after")))


def test_the_hook_runs_in_this_process(tmp_path: Path) -> None:
    """The writer is a thread, so a crash hook can end the node itself."""
    seen: queue.SimpleQueue[int] = queue.SimpleQueue()
    with Database(
        tmp_path / "j.db", [PARENTS], on_commit=lambda _when, _number: seen.put(os.getpid())
    ) as database:
        database.submit(insert(1), lambda _: None)
    assert seen.get_nowait() == os.getpid()
