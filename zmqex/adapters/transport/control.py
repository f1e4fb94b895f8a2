"""The control socket: the command line's and the bots' way to a running node.

A ROUTER takes commands and answers them, a PUB beside it announces what changed.  Both are Unix
sockets in a directory of this user only, and file modes are the whole access control.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import zmq

from zmqex.adapters.transport.drain import Drain
from zmqex.errors import ConfigError
from zmqex.kernel.commands import ControlAnswer, ControlRequest
from zmqex.kernel.events import CommandReceived, Event
from zmqex.limits import CONTROL_PATH_BYTES_MAX, FRAME_BYTES_MAX
from zmqex.reasons import RejectReason

_PARTS: Final = 2
_decoder = msgspec.msgpack.Decoder(ControlRequest)
_encode = msgspec.msgpack.Encoder().encode


class ControlSocket:
    """Implements the ControlServer port."""

    def __init__(self, deliver: Callable[[Event], None], path: Path) -> None:
        """Commands go to `deliver`; `path` is the socket's file, made by `start`."""
        if len(str(path).encode()) > CONTROL_PATH_BYTES_MAX:
            msg = f"the control socket's path {path} is too long; choose a shorter --data-dir"
            raise ConfigError(msg)
        self._deliver = deliver
        self._path = path
        self._context = zmq.Context()

    def start(self) -> None:
        """Open both sockets."""
        self._router = Drain(self._bind(zmq.ROUTER, self._path), self._on_message)
        self._events = self._bind(zmq.PUB, events_path(self._path))

    def close(self) -> None:
        """Close both sockets and remove their files."""
        self._router.close()
        self._events.close(200)
        self._context.term()
        for path in (self._path, events_path(self._path)):
            path.unlink(missing_ok=True)

    def answer(self, client: bytes, request_id: int, *, ok: bool, result: dict[str, Any]) -> None:
        """Answer a command; a client that has gone misses it."""
        self._router.send([client, _encode(ControlAnswer(request_id, ok, result))])

    def announce(self, topic: str, facts: dict[str, Any]) -> None:
        """Tell subscribers what changed."""
        self._events.send_multipart([topic.encode(), _encode(facts)], zmq.NOBLOCK)

    def _bind(self, kind: int, path: Path) -> zmq.Socket[bytes]:
        path.unlink(missing_ok=True)
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 200)
        socket.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)
        socket.bind(f"ipc://{path}")
        path.chmod(0o600)
        return socket

    def _on_message(self, frames: list[zmq.Frame]) -> None:
        if len(frames) != _PARTS:
            return
        client = frames[0].bytes
        try:
            request = _decoder.decode(frames[1].bytes)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            message = f"the command could not be read: {error}"
            result = {"reason": RejectReason.MALFORMED.value, "message": message}
            self.answer(client, 0, ok=False, result=result)
            return
        self._deliver(CommandReceived(client, request.request_id, request.command))


def events_path(path: Path) -> Path:
    """Where the announcements of a control socket come out."""
    return path.with_name(path.name + ".events")
