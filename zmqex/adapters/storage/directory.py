"""A node's data directory: private, and of one process at a time.

Holds the rules for files that carry keys and money.  Not for what stands in them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import Final, Self

from zmqex.errors import ConfigError, StorageError
from zmqex.limits import PRIVATE_FILE_BYTES_MAX

_LOCK: Final = "lock"
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_PID_BYTES: Final = 32


class DirectoryLock:
    """The right to use a data directory, held until `release` or the end of the process."""

    def __init__(self, data_dir: Path) -> None:
        """Take the lock.  Raises `ConfigError` naming the process that has it."""
        path = data_dir / _LOCK
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise _unlockable(data_dir, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        except OSError as error:
            owner = os.read(descriptor, _PID_BYTES).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise _unlockable(data_dir, error) from error
            raise ConfigError(
                f"a node is already running on {data_dir}, pid {owner or 'unknown'}"
            ) from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Let the next process in.  Repeating is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _unlockable(data_dir: Path, error: OSError) -> ConfigError:
    return ConfigError(f"cannot lock the data directory {data_dir}: {error.strerror}")


def open_data_directory(path: Path) -> Path:
    """Create the directory for this user only, or check that it is so; return it absolute.

    Raises `ConfigError` with the command that mends it if others could read or change it.
    """
    path = path.expanduser().absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"cannot use the data directory {path}: {error.strerror}") from error
    _refuse_strangers(path, status, "chmod 700")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"the data directory {path} is read-only; mend it: chmod 700 {path}")
    return path


def runtime_directory(data_dir: Path) -> Path:
    """Create the short private directory for the sockets of the node that owns `data_dir`.

    In `$XDG_RUNTIME_DIR`, else among the temporary files; the same one at every start.
    Raises `ConfigError` if somebody else was there first.
    """
    name = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:8]
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.access(base, os.W_OK):
        path = Path(base) / f"zmqex-{name}"
    else:
        path = Path(tempfile.gettempdir()) / f"zmqex-{os.getuid()}-{name}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise ConfigError(f"cannot make the socket directory {path}: {error}") from error
    _refuse_strangers(path, status, "chmod 700")
    return path


def create_private_file(path: Path, content: bytes) -> None:
    """Write a new file for this user only, on the disk before this returns.

    The name appears with the whole content or, whatever ends the process, not at all.  Raises
    `FileExistsError` if the name is taken (even by a link), `StorageError` if the disk refuses;
    then no file is left.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(draft, flags, 0o600)
    except OSError as error:
        raise StorageError(f"cannot create {path}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        path.hardlink_to(draft)
        _sync_directory(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def read_private_file(path: Path) -> bytes:
    """Return the content of a file that only this user can read or change.

    Raises `FileNotFoundError` if there is none, and `ConfigError` with the command that mends
    it if others have access, or if it is no plain file of a sensible size.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > PRIVATE_FILE_BYTES_MAX:
            raise ConfigError(f"{path} is not a file that zmqex made")
        _refuse_strangers(path, status, "chmod 600")
        return file.read()


def _refuse_strangers(path: Path, status: os.stat_result, command: str) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise ConfigError(f"{path} is a link; remove it")
    if status.st_uid != os.getuid():
        raise ConfigError(f"{path} belongs to another user (uid {status.st_uid}); use your own")
    if status.st_mode & _OTHERS:
        mode = f"{stat.S_IMODE(status.st_mode):03o}"
        raise ConfigError(f"others can use {path} (mode {mode}); mend it: {command} {path}")


def _sync_directory(path: Path) -> None:
    """Make a new name in the directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
