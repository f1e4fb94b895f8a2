"""The Python API of a running node: the same commands as the command line.

    with Client(control_path(data_dir)) as client:
        answer = client.call(PlaceOrder("BTC/USD", "buy", 100_000_000, 100))
        print(answer["order"]["order_id"])

The commands and the shapes of their answers are in `zmqex.kernel.commands`.  Not thread-safe.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import zmq

from zmqex.errors import NodeUnavailableError, RefusedError
from zmqex.kernel.commands import Command, ControlAnswer, ControlRequest

_CALL_S: Final = 30.0
_KNOCK_S: Final = 1.0
_decoder = msgspec.msgpack.Decoder(ControlAnswer)


class Client:
    """A connection to a node's control socket."""

    def __init__(self, control: Path, *, timeout_s: float = _CALL_S) -> None:
        """Connect; NodeUnavailableError where no node listens there."""
        self._control = control
        self._timeout_s = timeout_s
        self._knock()
        self._context = zmq.Context()
        self._dealer = self._context.socket(zmq.DEALER)
        self._dealer.setsockopt(zmq.LINGER, 0)
        self._dealer.connect(f"ipc://{control}")
        self._request_id = 0

    def call(self, command: Command, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Give a command and wait for its answer.

        Raises RefusedError where the node refuses it, NodeUnavailableError where no answer comes:
        the command may have been carried out then.
        """
        self._request_id += 1
        self._dealer.send(msgspec.msgpack.encode(ControlRequest(self._request_id, command)))
        wait_ms = int((self._timeout_s if timeout_s is None else timeout_s) * 1_000)
        while self._dealer.poll(wait_ms):
            answer = _decoder.decode(self._dealer.recv())
            if answer.request_id not in {self._request_id, 0}:
                continue  # of a call that was given up
            if not answer.ok:
                result = answer.result
                raise RefusedError(str(result["reason"]), str(result["message"]))
            return answer.result
        message = f"the node at {self._control} did not answer within {wait_ms // 1_000} s"
        raise NodeUnavailableError(message)

    def events(self, topics: tuple[str, ...] = ("",)) -> Iterator[tuple[str, dict[str, Any]]]:
        """What changes from now on, for ever: `(topic, facts)`; topics: trade, order."""
        subscriber = self._context.socket(zmq.SUB)
        try:
            subscriber.setsockopt(zmq.LINGER, 0)
            for topic in topics:
                subscriber.setsockopt_string(zmq.SUBSCRIBE, topic)
            subscriber.connect(f"ipc://{self._control}.events")
            while True:
                topic_raw, facts = subscriber.recv_multipart()
                yield topic_raw.decode(), msgspec.msgpack.decode(facts)
        finally:
            subscriber.close(0)

    def close(self) -> None:
        """Let go."""
        self._dealer.close(0)
        self._context.term()

    def __enter__(self) -> Self:
        """Use it as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _knock(self) -> None:
        """ZeroMQ connects to nobody without complaint, so ask the operating system first."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
            knock.settimeout(_KNOCK_S)
            try:
                knock.connect(str(self._control))
            except OSError as error:
                message = "no node is running here"
                raise NodeUnavailableError(message) from error
