"""The Python API of a running node: the same commands as the command line.

::

    from zmqex.client import Client
    from zmqex.config import control_path, node_directory
    from zmqex.kernel.commands import GetBook, PlaceOrder

    with Client(control_path(node_directory("alice"))) as client:
        client.call(PlaceOrder("BTC/USD", "sell", 100_000_000, 6_500_000, key="my-first"))
        changes = client.events(("order", "trade"))
        print(client.call(GetBook("BTC/USD"))["asks"])
        for change in changes:
            print(change["topic"], change)

The commands and the shapes of their answers are in `zmqex.kernel.commands`.  Where money is at
stake give commands a `key`: a repeat with the same key does nothing twice.  Not thread-safe: one
client per thread.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import zmq

from zmqex.errors import NodeUnavailableError, RefusedError
from zmqex.kernel.commands import Command, ControlAnswer, ControlRequest, PlaceOrder

_CALL_S: Final = 30.0
_KNOCK_S: Final = 1.0
_TOKEN_BYTES: Final = 8
# Asks whether the subscriptions before it are in force; the node answers on this very topic.
_SUBSCRIBED: Final = "?"
# Subscribed to for as long as this client is there.
_HERE: Final = "!"
_START_IT: Final = "start one: zmqex serve"

_decoder = msgspec.msgpack.Decoder(ControlAnswer)
_facts = msgspec.msgpack.Decoder(dict[str, Any])


class Client:
    """A connection to a node's control socket."""

    def __init__(self, control: Path, *, timeout_s: float = _CALL_S) -> None:
        """Connect; NodeUnavailableError, at once, where no node listens there."""
        self._control = control
        self._timeout_s = timeout_s
        self._knock()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._name = os.urandom(_TOKEN_BYTES).hex()
        self._dealer = _Line(self._context, zmq.DEALER, str(control), self._name)
        self._lines = [self._dealer]
        self._request_id = 0
        self._attends = False

    def call(self, command: Command, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Give a command and wait for its answer.

        Raises RefusedError where the node refuses it, and NodeUnavailableError where the node ends
        or no answer comes in time: the command may have been carried out then.  An order with
        `cancel_on_disconnect` is closed when this client is closed or its process ends.
        """
        if isinstance(command, PlaceOrder) and command.cancel_on_disconnect:
            self._attend()
        wait_s = self._timeout_s if timeout_s is None else timeout_s
        self._request_id += 1
        self._dealer.send(msgspec.msgpack.encode(ControlRequest(self._request_id, command)))
        end_s = time.monotonic() + wait_s
        while True:
            frames = self._dealer.receive(max(0.0, end_s - time.monotonic()))
            if frames is None:
                raise NodeUnavailableError(
                    f"the node did not answer within {wait_s:g} s; it may still carry the command "
                    "out, so look before you repeat it"
                )
            answer = _decoder.decode(frames[-1])
            if answer.request_id == self._request_id:
                break  # any other is of a call that was given up
        if answer.ok:
            return answer.result
        result = answer.result
        raise RefusedError(str(result.get("reason", "")), str(result.get("message", "")))

    def events(self, topics: tuple[str, ...] = ("",)) -> Iterator[dict[str, Any]]:
        """What changes from now on, for ever: each change's facts and its "topic".

        Nothing is missed that happens after this has returned.  Topics are prefixes: "trade",
        "order", "book"; "" is all.  The iterator raises NodeUnavailableError when the node ends,
        and so does this where it does not answer.
        """
        line = _Line(self._context, zmq.SUB, f"{self._control}.events")
        self._lines.append(line)
        return _Changes(line, self._subscribe(line, topics))

    def close(self) -> None:
        """Let go of everything, iterators of `events` too; repeating is fine."""
        for line in self._lines:
            line.close()
        self._context.term()

    def __enter__(self) -> Self:
        """Use it as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _attend(self) -> None:
        """Have the node notice when this client has gone."""
        if not self._attends:
            line = _Line(self._context, zmq.SUB, f"{self._control}.events")
            self._lines.append(line)
            self._subscribe(line, (_HERE + self._name,))
            self._attends = True

    def _subscribe(self, line: _Line, topics: tuple[str, ...]) -> list[dict[str, Any]]:
        """Wait until the subscriptions are in force; returns the changes seen meanwhile."""
        token = _SUBSCRIBED + os.urandom(_TOKEN_BYTES).hex()
        for topic in (*topics, token):
            line.subscribe(topic)
        early: list[dict[str, Any]] = []
        end_s = time.monotonic() + self._timeout_s
        while True:
            frames = line.receive(max(0.0, end_s - time.monotonic()))
            if frames is None:
                raise NodeUnavailableError(f"the node at {self._control} announces nothing")
            if frames[0] == token.encode():
                return early
            early += _changes(frames)

    def _knock(self) -> None:
        """ZeroMQ connects to nobody without complaint, so ask the operating system first."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
            knock.settimeout(_KNOCK_S)
            try:
                knock.connect(str(self._control))
            except OSError as error:
                raise NodeUnavailableError(
                    f"no node is running at {self._control}; {_START_IT}"
                ) from error


class _Changes(Iterator[dict[str, Any]]):
    """The changes on a line that is subscribed already."""

    def __init__(self, line: _Line, early: list[dict[str, Any]]) -> None:
        self._line = line
        self._early = early

    def __next__(self) -> dict[str, Any]:
        while not self._early:
            frames = self._line.receive(None)
            if frames is None:
                raise StopIteration
            self._early += _changes(frames)
        return self._early.pop(0)


def _changes(frames: list[bytes]) -> list[dict[str, Any]]:
    """One change, or none where it is the answer to somebody's question."""
    topic = frames[0].decode()
    if topic.startswith(_SUBSCRIBED):
        return []
    return [{**_facts.decode(frames[1]), "topic": topic}]


class _Line:
    """One ZeroMQ socket that notices when the other end goes away."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], kind: int, path: str, name: str = ""
    ) -> None:
        self._socket: zmq.Socket[bytes] = context.socket(kind)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        # A node that was started anew knows nothing of what was asked before.
        self._socket.setsockopt(zmq.RECONNECT_IVL, -1)
        if name:
            self._socket.setsockopt_string(zmq.ROUTING_ID, name)
        self._path = path
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._socket.connect(f"ipc://{path}")
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)

    def send(self, frame: bytes) -> None:
        try:
            self._socket.send(frame, zmq.NOBLOCK)
        except zmq.Again as error:  # nobody is there any more
            raise self._ended() from error

    def subscribe(self, topic: str) -> None:
        self._socket.setsockopt_string(zmq.SUBSCRIBE, topic)

    def receive(self, wait_s: float | None) -> list[bytes] | None:
        """Wait for a message; None when the time is over, NodeUnavailableError if the node ends."""
        ready = dict(self._poller.poll(None if wait_s is None else int(wait_s * 1_000)))
        if self._socket in ready:
            return self._socket.recv_multipart()
        if self._monitor in ready:
            raise self._ended()
        return None

    def _ended(self) -> NodeUnavailableError:
        return NodeUnavailableError(f"the node at {self._path} has ended; {_START_IT}")

    def close(self) -> None:
        if not self._socket.closed:
            self._socket.disable_monitor()
            self._monitor.close(0)
            self._socket.close(0)
