"""Checks of what stands on the disk; nothing is changed.

The databases are only read while no node runs: `DirectoryLock` is the caller's to take.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from zmqex.adapters.storage.directory import read_private_file
from zmqex.errors import ConfigError
from zmqex.findings import Finding, note, ok, wrong
from zmqex.limits import CHECK_PROBLEMS_MAX, DISK_FREE_BYTES_MIN

MODES: Final = "file modes"
IDENTITY: Final = "identity"
DISK: Final = "disk"
SQLITE: Final = "sqlite"
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_KEY_BYTES: Final = 32
_MIB: Final = 1024 * 1024
# https://sqlite.org/wal.html, "The WAL-Reset Bug".
_WAL_BUG: Final = ((3, 7, 0), (3, 51, 2))
RESTORE: Final = (
    "keep a copy of the damaged file, and restore the data directory from a backup; "
    "docs/operating.md, 'Backup and restore', says what to look out for"
)


def check_modes(data_dir: Path, runtime_dir: Path) -> list[Finding]:
    """Whether the data and socket directories, and all in them, are this user's alone."""
    if not data_dir.exists():
        return [note(MODES, f"there is no {data_dir} yet")]
    found = [*_modes(data_dir), *_modes(runtime_dir)]
    return found or [ok(MODES, f"only you can use {data_dir}")]


def _modes(root: Path) -> Iterator[Finding]:
    if not root.is_dir():
        return
    for path in (root, *sorted(root.rglob("*"))):
        try:
            status = path.lstat()
        except FileNotFoundError:  # a file that comes and goes
            continue
        if status.st_uid != os.getuid():
            yield wrong(MODES, f"{path} belongs to another user", f"chown {os.getuid()} {path}")
        elif status.st_mode & _OTHERS and not stat.S_ISLNK(status.st_mode):
            mode = "700" if stat.S_ISDIR(status.st_mode) else "600"
            text = f"others can use {path} (mode {stat.S_IMODE(status.st_mode):o})"
            yield wrong(MODES, text, f"chmod {mode} {path}")


def check_identity(data_dir: Path) -> Finding:
    """Whether the key is there and readable, or has still to be made."""
    path = data_dir / "identity.key"
    try:
        seed = read_private_file(path)
    except FileNotFoundError:
        if not (data_dir / "journal.sqlite3").exists():
            return note(IDENTITY, "there is no key yet; the first `serve` makes one")
        fix = "restore it from a copy: with a new key your open orders and trades have no owner"
        return wrong(IDENTITY, f"{path} is gone, and the journal is there", fix)
    except ConfigError as error:
        return wrong(IDENTITY, str(error), f"chmod 600 {path}, or restore it from a copy")
    if len(seed) != _KEY_BYTES:
        return wrong(IDENTITY, f"{path} is not an identity key", "restore it from a copy")
    return ok(IDENTITY, "the key is there")


def check_disk(data_dir: Path) -> Finding:
    """Whether the journal has room to grow."""
    there = next(one for one in (data_dir, *data_dir.parents) if one.exists())
    free = shutil.disk_usage(there).free
    text = f"{free // _MIB} MiB are free for {data_dir}"
    if free < DISK_FREE_BYTES_MIN:
        least = DISK_FREE_BYTES_MIN // _MIB
        fix = f"free at least {least} MiB: without room for its journal the node stops"
        return wrong(DISK, text, fix)
    return ok(DISK, text)


def check_sqlite(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> Finding:
    """Whether this SQLite has the WAL-reset bug."""
    said = ".".join(map(str, version))
    first, last = (".".join(map(str, one)) for one in _WAL_BUG)
    if not _WAL_BUG[0] <= version <= _WAL_BUG[1]:
        return ok(SQLITE, f"SQLite {said}")
    text = (
        f"SQLite {said} has the WAL-reset bug ({first} to {last}): two programs that write one "
        "file may damage it; a node keeps its journal to itself, so it is safe as long as "
        "nothing else opens it"
    )
    return note(SQLITE, text, "open no journal with other programs; a newer Python has a new one")


def check_database(check: str, path: Path) -> Finding:
    """Whether every page and index of a database is whole; reads all of it."""
    if not path.exists():
        return note(check, f"there is no {path.name} yet")
    problems = problems_of(path)
    if problems:
        return wrong(check, f"{path} is damaged: {'; '.join(problems)}", RESTORE)
    return ok(check, f"{path.name} is whole")


def problems_of(path: Path) -> list[str]:
    """What SQLite finds wrong in a file that nobody writes."""
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=1)
    except sqlite3.Error as error:
        return [str(error)]
    try:
        return look_through(connection, "integrity_check")
    finally:
        connection.close()


def look_through(connection: sqlite3.Connection, pragma: str) -> list[str]:
    """What `integrity_check`, or the faster `quick_check`, finds wrong; the first few."""
    try:
        rows = connection.execute(f"PRAGMA {pragma}({CHECK_PROBLEMS_MAX})").fetchall()
    except sqlite3.Error as error:  # so damaged that it cannot even be looked through
        return [str(error)]
    said = [str(row[0]).replace("\n", " ") for row in rows]
    return [] if said == ["ok"] else said
