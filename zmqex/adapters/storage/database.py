"""The one SQLite connection of a file, in the one thread that writes, reads and checkpoints it.

Work queued while the disk is busy is committed as one transaction (group commit, no timer).
An answer is given after the commit that made it durable, in the order of submission.  The first
thing that goes wrong is the end: nothing after it is committed, and every later call is told.
It knows transactions and versions, not tables; those belong to the journal.

One connection that also checkpoints is out of reach of SQLite's WAL-reset bug (3.7.0-3.51.2),
which needs two.  A connection carried over a fork loses commits, so that is refused.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from zmqex.adapters.storage.directory import create_private_file
from zmqex.adapters.storage.worker import Worker
from zmqex.errors import ConfigError, StorageError
from zmqex.limits import COMMIT_GROUP_MAX, WAL_BYTES_KEPT_MAX, WAL_PAGES_MAX

T = TypeVar("T")
CommitHook = Callable[[Literal["before", "after"], int], None]


@dataclass(frozen=True, slots=True)
class _Item:
    work: Callable[[sqlite3.Connection], Any]
    done: Callable[[Any], None]
    synced: bool


class Database:
    """A private SQLite file (WAL, synchronous=FULL, foreign keys on) and its thread."""

    def __init__(
        self, path: Path, migrations: Sequence[str], *, on_commit: CommitHook | None = None
    ) -> None:
        """Open or create the file and bring it to the newest of `migrations`; blocks.

        Each migration is a script that runs in a transaction of its own; the file's
        `user_version` counts those that ran.  `on_commit` is called in the writer thread around
        each commit with its number, from 1.  Raises `ConfigError` if the file was made by a
        newer zmqex or cannot be written, `StorageError` if it is damaged.
        """
        self._path = path
        self._on_commit: CommitHook = on_commit or (lambda _when, _number: None)
        self._pid = os.getpid()
        self._queue: deque[_Item] = deque()
        self._fault: StorageError | None = None
        self._commits = 0
        self._syncs = True  # whether the connection waits for the disk
        self._writer = Worker(f"zmqex-{path.stem}")
        try:
            self._connection = self._writer.ask(lambda: _open(path, migrations)).result()
        except BaseException:
            self._writer.end()
            raise

    @property
    def commits(self) -> int:
        """How many transactions were committed since the file was opened."""
        return self._commits

    @property
    def fault(self) -> StorageError | None:
        """What ended this database, if anything did."""
        return self._fault

    def submit(
        self,
        work: Callable[[sqlite3.Connection], T],
        done: Callable[[T | StorageError], None],
        *,
        synced: bool = True,
    ) -> None:
        """Queue `work` for the next transaction; `done` gets its result after the commit.

        `work` runs in the writer thread inside an open transaction, with others before and
        after it; it raises `StorageError` if what it finds contradicts what it was told.  Then
        the whole group is rolled back, and all of it and all later work get a `StorageError`.
        `done` is called exactly once, in the writer thread (after `close`: in the caller's);
        it should not raise, but if it does, the others are still called.

        A group of nothing but items that are not `synced` does not wait for the disk: it survives
        the end of this process, and a power failure only once a later group is synced.
        """
        self._check_process()
        self._queue.append(_Item(work, done, synced))
        try:
            self._writer.begin(self._commit_queued)
        except RuntimeError:  # closed meanwhile
            self._answer_queued()

    def read(self, work: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """Run `work` in the writer thread on what is committed; it sees all earlier `submit`s.

        The future raises what `work` raises, or `StorageError` once something went wrong.
        """
        self._check_process()
        try:
            return self._writer.ask(lambda: self._read(work))
        except RuntimeError as error:
            raise StorageError(f"the journal {self._path} is closed") from error

    def close(self) -> None:
        """Commit what is queued, answer it, and close the file.  Repeating is fine."""
        self._check_process()
        try:
            finished = self._writer.ask(self._finish)
        except RuntimeError:
            return
        self._writer.end()
        self._answer_queued()
        finished.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise StorageError(f"the journal {self._path} was carried over a fork")

    def _commit_queued(self) -> None:
        """Commit everything that waits, unless an earlier call has done so."""
        group: list[_Item] = []
        while self._queue and len(group) < COMMIT_GROUP_MAX:
            group.append(self._queue.popleft())
        if not group:
            return
        results: list[Any] = []
        try:
            if self._fault is None:
                results = self._commit(group)
        finally:
            # Also when `work` raised what nobody foresaw: whoever waits must be told.
            if sys.exception() is not None:
                self._fail(sys.exception())
            # The stack runs backwards, and runs all of them even if one raises.
            with ExitStack() as answers:
                told = results or [self._fault] * len(group)
                for item, result in zip(reversed(group), reversed(told), strict=True):
                    answers.callback(item.done, result)

    def _commit(self, group: list[_Item]) -> list[Any]:
        self._check_process()
        self._sync(syncs=any(item.synced for item in group))
        self._connection.execute("BEGIN IMMEDIATE")
        results = []
        for item in group:
            results.append(item.work(self._connection))
            # At once: what follows would be committed piece by piece.
            if not self._connection.in_transaction:
                raise StorageError("a work item ended the transaction of its group")
        self._on_commit("before", self._commits + 1)
        self._connection.execute("COMMIT")
        self._commits += 1
        self._on_commit("after", self._commits)
        return results

    def _sync(self, *, syncs: bool) -> None:
        """Wait for the disk at each commit, or at checkpoints only."""
        if syncs != self._syncs:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if syncs else 'NORMAL'}")
            self._syncs = syncs

    def _fail(self, error: BaseException | None) -> None:
        """Remember the first fault and undo what is not committed."""
        if isinstance(error, StorageError):
            self._fault = error
        else:
            self._fault = StorageError(f"the journal {self._path} failed: {error!r}")
            self._fault.__cause__ = error
        self._connection.close()

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._fault is not None:
            raise self._fault
        self._connection.execute("PRAGMA query_only = ON")
        try:
            return work(self._connection)
        finally:
            self._connection.execute("PRAGMA query_only = OFF")

    def _finish(self) -> None:
        try:
            while self._queue:
                self._commit_queued()
        finally:
            if self._fault is None:
                self._fault = StorageError(f"the journal {self._path} is closed")
                self._connection.close()

    def _answer_queued(self) -> None:
        """Answer what came while the thread ended."""
        while self._queue:
            fault = self._fault or StorageError(f"the journal {self._path} is closed")
            self._queue.popleft().done(fault)


def _open(path: Path, migrations: Sequence[str]) -> sqlite3.Connection:
    """Open, configure and migrate; on any failure the connection is closed again."""
    connection: sqlite3.Connection | None = None
    try:
        _create_if_missing(path)
        connection = sqlite3.connect(path, isolation_level=None, timeout=1)
        _configure(connection)
        _migrate(connection, path, migrations)
    except (sqlite3.Error, OSError) as error:
        if connection is not None:
            connection.close()
        raise _refusal(path, error) from error
    except (ConfigError, StorageError):
        if connection is not None:
            connection.close()
        raise
    return connection


def _create_if_missing(path: Path) -> None:
    """Make the file before SQLite does, which would let others read it."""
    try:
        create_private_file(path, b"")
    except FileExistsError:
        return
    except StorageError as error:
        raise ConfigError(f"{error}; is the directory read-only or the disk full?") from error


def _configure(connection: sqlite3.Connection) -> None:
    for setting in (
        "locking_mode = EXCLUSIVE",
        "journal_mode = WAL",
        "synchronous = FULL",
        # macOS: a plain fsync does not reach the disk.
        "fullfsync = ON",
        "checkpoint_fullfsync = ON",
        # After that the log is written again from its start: a log that grows costs each commit a
        # second write, of the length of its file.
        f"wal_autocheckpoint = {WAL_PAGES_MAX}",
        f"journal_size_limit = {WAL_BYTES_KEPT_MAX}",
        "foreign_keys = OFF",  # until the file is up to date
        "trusted_schema = OFF",
        "cell_size_check = ON",
    ):
        connection.execute(f"PRAGMA {setting}").fetchall()


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        raise ConfigError(
            f"{path} was made by a newer zmqex (version {version}, this one knows up to "
            f"{len(migrations)}); run that one, or choose another --data-dir"
        )
    for number, script in enumerate(migrations[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\n;PRAGMA user_version = {number};")
        # Looked at in the end: on the way a table that others refer to may have to be made anew.
        if connection.execute("PRAGMA foreign_key_check").fetchone():
            raise StorageError(f"{path} has rows without those that they refer to")
        connection.execute("COMMIT")
    connection.execute("PRAGMA foreign_keys = ON")
    # Fails here, and not at the first trade, where nothing can be written.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA user_version = {len(migrations)}")
    connection.execute("COMMIT")


def _refusal(path: Path, error: Exception) -> ConfigError | StorageError:
    """Say what is wrong with the file, and whose work it is to mend it."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return ConfigError(f"cannot write {path}: {error}; is its directory read-only?")
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return ConfigError(f"cannot write {path}: {error}; make room on its disk")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return ConfigError(f"another program uses {path}; close it and try again")
    return StorageError(f"cannot open {path}: {error}")
