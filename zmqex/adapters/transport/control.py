"""The control socket: the command line's and the bots' way to a running node.

A ROUTER takes commands and answers them; an XPUB beside it announces what changed.  Both are Unix
sockets in a directory of this user only, and file modes are the whole access control.

A client whose orders are to end with it chooses its own routing id and subscribes to "!" + that id
first.  The subscription ends with its connection, however that ends, and so tells of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import zmq

from zmqex.adapters.transport.drain import Drain, OnMessage
from zmqex.adapters.transport.options import Options, configure
from zmqex.errors import ConfigError
from zmqex.kernel.commands import ControlAnswer, ControlRequest, Number, PlaceOrder
from zmqex.kernel.events import ClientGone, CommandReceived, Event
from zmqex.limits import CONTROL_PATH_BYTES_MAX, FRAME_BYTES_MAX, REQUEST_FRAMES_A_TURN
from zmqex.reasons import RejectReason

_REQUEST_PARTS: Final = 2  # routing id, request
_SUBSCRIPTION_PARTS: Final = 1
_SUBSCRIBED: Final = b"\x01?"
_HERE: Final = b"\x01!"
_GONE: Final = b"\x00!"
_NOT_HERE: Final = (
    "cancel-on-disconnect needs a connection that lasts: subscribe to ! and your own routing id "
    "first, as zmqex.client does"
)
# An answer that is on its way when the node ends still gets this long.
_LINGER_MS: Final = 200
_ROUTER: Final[Options] = {zmq.LINGER: _LINGER_MS, zmq.MAXMSGSIZE: FRAME_BYTES_MAX}
_XPUB: Final[Options] = {zmq.LINGER: _LINGER_MS, zmq.MAXMSGSIZE: 1_024, zmq.SNDHWM: 10_000}
_OWNER_ONLY: Final = 0o600

_decoder = msgspec.msgpack.Decoder(ControlRequest)
_encode = msgspec.msgpack.Encoder().encode


class _Numbered(msgspec.Struct, frozen=True, array_like=True):
    """The start of a request whose command cannot be read."""

    request_id: Number


_numbered = msgspec.msgpack.Decoder(_Numbered)


class ControlSocket:
    """Implements the ControlServer port; `deliver` gets the commands, on the loop."""

    def __init__(self, deliver: Callable[[Event], None], path: Path) -> None:
        """`path` is the socket's file, made by `start`; ConfigError where it is too long."""
        if not zmq.has("ipc"):
            raise ConfigError("this system has no Unix sockets, which the control socket needs")
        if len(os.fsencode(path)) > CONTROL_PATH_BYTES_MAX:
            raise ConfigError(
                f"{path} is too long for a socket, which may have {CONTROL_PATH_BYTES_MAX} bytes; "
                "set XDG_RUNTIME_DIR to a shorter directory"
            )
        self._deliver = deliver
        self._path = path
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._drains: list[Drain] = []
        self._here: set[bytes] = set()  # clients who would tell us of their end

    def start(self) -> None:
        """Open both sockets on the running loop; ConfigError where their files cannot be made."""
        context = self._context = zmq.Context()
        try:
            router = self._bind(context, zmq.ROUTER, _ROUTER, self._path)
            self._router = self._drain(router, self._on_request, _REQUEST_PARTS)
            events = self._bind(context, zmq.XPUB, _XPUB, events_path(self._path))
            self._events = self._drain(events, self._on_subscription, _SUBSCRIPTION_PARTS)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close both sockets and remove their files; repeating is fine."""
        if self._context is None:
            return
        for drain in self._drains:
            drain.close(_LINGER_MS)
        self._context.term()
        self._context = None
        for path in (self._path, events_path(self._path)):
            path.unlink(missing_ok=True)

    def answer(self, client: bytes, request_id: int, *, ok: bool, result: dict[str, Any]) -> None:
        """Answer a command; a client that has gone misses it."""
        self._router.send([client, _encode(ControlAnswer(request_id, ok, result))])

    def announce(self, topic: str, facts: dict[str, Any]) -> None:
        """Tell subscribers what changed; one that does not read loses the newest."""
        self._events.send([topic.encode(), _encode(facts)])

    def _bind(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        kind: int,
        options: Options,
        path: Path,
    ) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = context.socket(kind)
        try:
            configure(socket, options)
            path.unlink(missing_ok=True)
            socket.bind(f"ipc://{path}")
            path.chmod(_OWNER_ONLY)
        except (OSError, zmq.ZMQError) as error:
            socket.close(0)
            raise ConfigError(f"cannot open the control socket {path}: {error}") from error
        return socket

    def _drain(self, socket: zmq.Socket[bytes], on_message: OnMessage, parts: int) -> Drain:
        drain = Drain(socket, on_message, parts=parts, turn=REQUEST_FRAMES_A_TURN)
        self._drains.append(drain)
        return drain

    def _on_request(self, first: list[bytes], last: zmq.Frame) -> None:
        client, raw = first[0], last.bytes
        try:
            request = _decoder.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as error:
            message = f"the command could not be read: {error}"
            result = {"reason": RejectReason.MALFORMED.value, "message": message}
            self.answer(client, _request_id(raw), ok=False, result=result)
            return
        command = request.command
        lasts = not isinstance(command, PlaceOrder) or not command.cancel_on_disconnect
        if lasts or client in self._here:
            self._deliver(CommandReceived(client, request.request_id, command))
        else:  # it has never said that it is here, or has gone since
            result = {"reason": RejectReason.NOT_CONNECTED.value, "message": _NOT_HERE}
            self.answer(client, request.request_id, ok=False, result=result)

    def _on_subscription(self, _first: list[bytes], last: zmq.Frame) -> None:
        """Answer whoever asks whether its subscriptions are in force; learn who is here."""
        asked = last.bytes
        if asked.startswith(_HERE):
            self._here.add(asked[len(_HERE) :])
        elif asked.startswith(_GONE):
            client = asked[len(_GONE) :]
            self._here.discard(client)
            self._deliver(ClientGone(client))
        elif asked.startswith(_SUBSCRIBED):
            self._events.send([asked[1:], b""])


def events_path(path: Path) -> Path:
    """Where the announcements of a control socket come out."""
    return path.with_name(path.name + ".events")


def _request_id(raw: bytes) -> int:
    try:
        return _numbered.decode(raw).request_id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError):
        return 0
