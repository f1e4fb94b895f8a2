"""Private directories and files, and one node per directory."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from zmqex.adapters.storage.directory import (
    DirectoryLock,
    create_private_file,
    open_data_directory,
    read_private_file,
    runtime_directory,
)
from zmqex.errors import ConfigError, StorageError
from zmqex.limits import PRIVATE_FILE_BYTES_MAX


def mode_of(path: Path) -> int:
    """The permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def test_a_data_directory_is_made_for_its_user_only(tmp_path: Path) -> None:
    """Made with its parents, mode 0700, and found again."""
    path = tmp_path / "a" / "node"
    assert open_data_directory(path) == path
    assert mode_of(path) == 0o700
    assert open_data_directory(path) == path


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o770, 0o701])
def test_a_wider_directory_is_refused_with_the_command_that_mends_it(
    tmp_path: Path, mode: int
) -> None:
    """As ssh does; the mode is left as it is."""
    tmp_path.chmod(mode)
    with pytest.raises(ConfigError, match=f"chmod 700 {tmp_path}"):
        open_data_directory(tmp_path)
    assert mode_of(tmp_path) == mode


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    """One sentence, no traceback of the operating system."""
    (tmp_path / "node").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot use"):
        open_data_directory(tmp_path / "node")


_TAKE = """
import sys
import threading
import time
from pathlib import Path
from zmqex.adapters.storage.directory import DirectoryLock
lock = DirectoryLock(Path(sys.argv[1]))
print("taken", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_told_the_pid_of_the_first(tmp_path: Path) -> None:
    """The lock ends with its process, however that ends."""
    first = subprocess.Popen(
        [sys.executable, "-c", _TAKE, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"taken\n"
        with pytest.raises(ConfigError, match=rf"already running .*pid {first.pid}\b"):
            DirectoryLock(tmp_path)
        first.kill()
        first.wait(5)
    with DirectoryLock(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_a_released_lock_can_be_taken_again(tmp_path: Path) -> None:
    """Within one process too; a second lock beside the first is refused."""
    lock = DirectoryLock(tmp_path)
    with pytest.raises(ConfigError, match=f"pid {os.getpid()}"):
        DirectoryLock(tmp_path)
    lock.release()
    lock.release()
    DirectoryLock(tmp_path).release()


def until_taken(path: Path) -> DirectoryLock:
    """Take a lock that is about to be free: the child may still be on its way into `exec`."""
    deadline, pause = time.monotonic() + 5, threading.Event()
    while True:
        try:
            return DirectoryLock(path)
        except ConfigError:
            assert time.monotonic() < deadline
            pause.wait(0.005)


def test_children_do_not_inherit_the_lock(tmp_path: Path) -> None:
    """A program that the node started does not keep the directory locked."""
    waits = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with DirectoryLock(tmp_path):
        child = subprocess.Popen(waits, stdin=subprocess.PIPE, close_fds=False)
    with child:
        until_taken(tmp_path).release()
        assert child.poll() is None


def test_a_private_file_is_written_once(tmp_path: Path) -> None:
    """Mode 0600 whatever the umask says; a second file of the name is refused."""
    path = tmp_path / "key"
    old = os.umask(0)
    try:
        create_private_file(path, b"secret")
    finally:
        os.umask(old)
    assert mode_of(path) == 0o600
    assert read_private_file(path) == b"secret"
    with pytest.raises(FileExistsError):
        create_private_file(path, b"other")
    assert read_private_file(path) == b"secret"


def test_a_private_file_has_all_its_content_or_no_name(tmp_path: Path) -> None:
    """Killed on the way, whatever was to be written: a key is never found empty or cut off."""
    path = tmp_path / "key"
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from zmqex.adapters.storage.directory import create_private_file\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "create_private_file(Path(sys.argv[1]), b'secret')"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(FileNotFoundError):
        read_private_file(path)
    create_private_file(path, b"secret")
    assert read_private_file(path) == b"secret"


def test_a_private_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    """A link left in its place gets nothing written through it, even a dangling one."""
    (tmp_path / "key").symlink_to(tmp_path / "target")
    with pytest.raises(FileExistsError):
        create_private_file(tmp_path / "key", b"secret")
    assert not (tmp_path / "target").exists()
    (tmp_path / "target").write_bytes(b"x")
    with pytest.raises(ConfigError):
        read_private_file(tmp_path / "key")


def test_a_private_file_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    """No traceback of the operating system."""
    with pytest.raises(StorageError, match="cannot create"):
        create_private_file(tmp_path / "missing" / "key", b"secret")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_wider_file_is_refused_with_the_command_that_mends_it(tmp_path: Path, mode: int) -> None:
    """A key that others could have read is not used silently."""
    path = tmp_path / "key"
    path.write_bytes(b"secret")
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"chmod 600 {path}"):
        read_private_file(path)


def test_what_is_no_plain_small_file_is_not_read(tmp_path: Path) -> None:
    """A pipe does not block the start, a huge file does not fill the memory."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "huge").touch(0o600)
    os.truncate(tmp_path / "huge", PRIVATE_FILE_BYTES_MAX + 1)
    for name in ("pipe", "huge"):
        with pytest.raises(ConfigError, match="not a file that zmqex made"):
            read_private_file(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_private_file(tmp_path / "missing")


def test_sockets_have_a_short_private_place_that_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same data directory, same place; another one, another place."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    first = runtime_directory(tmp_path / "alice")
    assert first.parent == tmp_path
    assert mode_of(first) == 0o700
    assert runtime_directory(tmp_path / "alice") == first
    assert runtime_directory(tmp_path / "bob") != first
    first.chmod(0o755)
    with pytest.raises(ConfigError, match="chmod 700"):
        runtime_directory(tmp_path / "alice")


def test_a_planted_link_is_not_used_for_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among the temporary files anybody can be there first."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = runtime_directory(tmp_path / "alice")
    path.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="is a link"):
        runtime_directory(tmp_path / "alice")
