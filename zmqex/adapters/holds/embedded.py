"""A hold server of our own: a real Valkey or Redis, started, guarded and stopped by the node.

It listens on a Unix socket only, keeps its files in one private directory, and dies with the
node even if the node is killed: a guard inside its session waits for the end of a pipe that only
the node holds open.  (Linux' parent-death signal would be bound to the thread that started it.)
Not the client (see `redis_holds`), and not a lock on the directory: its owner holds that.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Final, Self

from zmqex.adapters.holds.binary import ServerBinary, find_server
from zmqex.errors import ConfigError, HoldsUnavailableError
from zmqex.limits import (
    HOLD_SERVER_START_S,
    HOLD_SERVER_STOP_S,
    HOLD_SERVER_TIMEOUT_S,
    SOCKET_PATH_BYTES_MAX,
)

_CONFIG: Final = "server.conf"
_LOG: Final = "server.log"
_APPEND_ONLY: Final = "appendonlydir"
_DAMAGED: Final = "appendonlydir.damaged"
_POLL_SECONDS: Final = 0.002
_REPLY_BYTES: Final = 4_096

# `$$` stays the process id of the server, which replaces this shell.  A line on the pipe means
# that the server has ended already; the end of the pipe means that the node has.
_GUARD: Final = """
exec 3<&0 </dev/null
( read -r ended <&3 || { kill -TERM $$; kill -CONT $$; } ) >/dev/null 2>&1 &
exec "$1" "$2" 3<&-
"""

_SETTINGS: Final = """\
port 0
unixsocket {socket}
unixsocketperm 600
dir {directory}
logfile {log}
daemonize no
databases 1
save ""
appendonly yes
appenddirname {append_only}
appendfsync everysec
aof-load-truncated yes
auto-aof-rewrite-min-size 16mb
maxmemory 64mb
maxmemory-policy noeviction
notify-keyspace-events Ex
lua-time-limit 500
latency-monitor-threshold 50
"""


class EmbeddedServer:
    """A running server.  All methods may be called from any thread; they block for a moment."""

    def __init__(self, binary: ServerBinary, directory: Path, socket_path: Path) -> None:
        """Know where everything goes; `start` makes it run."""
        self._binary = binary
        self._directory = directory
        self._socket = socket_path
        self._process: subprocess.Popen[bytes] | None = None
        self._guard = -1  # our end of the guard's pipe, while a process is known
        self._lock = threading.Lock()
        self._recovered = False

    @classmethod
    def start(
        cls, data_dir: Path, runtime_dir: Path, *, binary: ServerBinary | None = None
    ) -> Self:
        """Start the server and return when it answers PING.

        Its files go to `data_dir/holds`, its socket to `runtime_dir` (existing, private).  The
        caller owns the data directory (`DirectoryLock`): a server found there is a survivor of a
        killed node and is shut down first, after it has proved by `CONFIG GET dir` to be ours.
        Raises `ConfigError` saying what the operator can do.
        """
        directory = data_dir.resolve() / "holds"
        socket_path = runtime_dir.resolve() / "r.sock"
        if len(os.fsencode(socket_path)) > SOCKET_PATH_BYTES_MAX:
            raise ConfigError(
                f"the socket path {socket_path} is longer than {SOCKET_PATH_BYTES_MAX} bytes; "
                "set XDG_RUNTIME_DIR to a short directory of yours"
            )
        server = cls(binary or find_server(), directory, socket_path)
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            server._shut_down_survivors()
            server._launch()
        except OSError as error:
            raise ConfigError(f"the hold server cannot use {directory}: {error}") from error
        return server

    @property
    def url(self) -> str:
        """The URL for `RedisHolds.connect`."""
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int:
        """The process id of the server, also of one that has ended; 0 after `stop`."""
        return self._process.pid if self._process else 0

    @property
    def recovered(self) -> bool:
        """True if damaged files were moved aside at the last start, so all holds are gone."""
        return self._recovered

    def alive(self) -> bool:
        """True while the server's process runs; it may still be too busy to answer."""
        with self._lock:
            return self._runs()

    def ensure_running(self) -> bool:
        """Start the server again if it has ended; true if it was started, and may have forgotten.

        Raises `HoldsUnavailableError` if it does not come back or was stopped.
        """
        with self._lock:
            if self._process is None:
                raise HoldsUnavailableError("the embedded hold server was stopped")
            if self._runs():
                return False
            try:
                self._launch()
            except (ConfigError, OSError) as error:
                raise HoldsUnavailableError(str(error)) from error
            return True

    def stop(self) -> None:
        """End the server and wait for it; its holds stay on disk.  Repeating is fine."""
        with self._lock:
            if self._process is not None:
                self._end(self._process)
                self._process = None

    def _runs(self) -> bool:
        if self._process is None:
            return False
        if self._process.poll() is None:
            return True
        self._dismiss_guard()
        return False

    def _launch(self) -> None:
        """Start; if the server refuses its own files, once more without them."""
        self._recovered = False
        refusal = self._try_launch()
        if refusal and (self._directory / _APPEND_ONLY).exists():
            damaged = self._directory / _DAMAGED
            shutil.rmtree(damaged, ignore_errors=True)
            (self._directory / _APPEND_ONLY).rename(damaged)
            self._recovered = True
            refusal = self._try_launch()
        if refusal:
            raise ConfigError(
                f"the hold server {self._binary.path} does not start: {refusal}; "
                "give another one with --redis URL"
            )

    def _try_launch(self) -> str:
        """Return an empty text when the server answers, or why it ended."""
        config = self._write_config()
        waiting, self._guard = os.pipe()
        process = subprocess.Popen(  # noqa: S603 - our own guard, a binary that was checked
            ["/bin/sh", "-c", _GUARD, "zmqex-holds", str(self._binary.path), str(config)],
            stdin=waiting,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._directory,
            env={"PATH": os.defpath, "LC_ALL": "C"},
            start_new_session=True,
            umask=0o077,
        )
        os.close(waiting)
        self._process = process
        deadline = time.monotonic() + HOLD_SERVER_START_S
        while _ask(self._socket, "PING") != b"+PONG":
            if not self._runs():
                return _last_line(self._directory / _LOG)
            if time.monotonic() > deadline:
                self._end(process)
                return f"no answer within {HOLD_SERVER_START_S} s"
            time.sleep(_POLL_SECONDS)
        return ""

    def _write_config(self) -> Path:
        """Write the settings anew, private, together with an empty log."""
        text = _SETTINGS.format(
            socket=_quoted(self._socket),
            directory=_quoted(self._directory),
            log=_quoted(self._directory / _LOG),
            append_only=_APPEND_ONLY,
        )
        for name, content in ((_CONFIG, os.fsencode(text)), (_LOG, b"")):
            path = self._directory / name
            path.unlink(missing_ok=True)
            with open(path, "xb", opener=_private) as file:
                file.write(content)
        return self._directory / _CONFIG

    def _shut_down_survivors(self) -> None:
        """End a server of a killed node, found where the last start left its socket."""
        old = _socket_of(self._directory / _CONFIG) or self._socket
        for path in dict.fromkeys((old, self._socket)):
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                self._shut_down(path)

    def _shut_down(self, path: Path) -> None:
        with _connected(path) as connection:
            try:
                answer = _exchange(connection, "CONFIG GET dir")
            except TimeoutError:
                raise ConfigError(
                    f"a process listens on {path} and does not answer; end it and try again"
                ) from None
        if os.fsencode(self._directory) not in answer.split(b"\r\n"):
            if path != self._socket:
                return
            raise ConfigError(f"{path} belongs to another server, which is left alone")
        _ask(path, "SHUTDOWN NOSAVE")
        deadline = time.monotonic() + HOLD_SERVER_STOP_S
        while _ask(path, "PING"):
            if time.monotonic() > deadline:
                raise ConfigError(f"the server left over on {path} does not end")
            time.sleep(_POLL_SECONDS)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(HOLD_SERVER_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._dismiss_guard()
        self._socket.unlink(missing_ok=True)

    def _dismiss_guard(self) -> None:
        """Tell the guard that its server has ended, so that it kills nobody."""
        guard, self._guard = self._guard, -1
        if guard >= 0:
            with contextlib.suppress(BrokenPipeError):
                os.write(guard, b"ended\n")
            os.close(guard)


def _ask(path: Path, command: str) -> bytes:
    """Return the answer without its line end, or nothing if nobody answers there."""
    try:
        with _connected(path) as connection:
            return _exchange(connection, command).rstrip()
    except OSError:
        return b""


def _connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(HOLD_SERVER_TIMEOUT_S)
    try:
        connection.connect(os.fspath(path))
    except OSError:
        connection.close()
        raise
    return connection


def _exchange(connection: socket.socket, command: str) -> bytes:
    """Send an inline command and read its short answer."""
    connection.sendall(command.encode() + b"\r\n")
    return connection.recv(_REPLY_BYTES)


def _quoted(path: Path) -> str:
    """Quote a path for the server's configuration."""
    text = os.fspath(path).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'


def _socket_of(config: Path) -> Path | None:
    """Return the socket that an earlier configuration names, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        for line in config.read_bytes().splitlines():
            if line.startswith(b'unixsocket "'):
                text = line.partition(b'"')[2].removesuffix(b'"').replace(b"\\n", b"\n")
                return Path(os.fsdecode(text.replace(b'\\"', b'"').replace(b"\\\\", b"\\")))
    return None


def _last_line(log: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        lines = log.read_text(errors="replace").splitlines()
        if lines:
            return lines[-1]
    return "it ended without a word"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
