"""Reads a plain ZeroMQ socket from the event loop, as many frames a turn as is fair.

The descriptor of a ZeroMQ socket tells of changes, not of states: after every send and every
bounded read the socket must be asked again, or it falls silent.  `zmq.asyncio` would cost ten times
as much.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

import zmq

T = TypeVar("T", bytes, zmq.Frame)


def bytes_of(socket: zmq.Socket[bytes]) -> Callable[[], bytes]:
    """Frames as bytes: the fastest."""
    return partial(socket.recv, zmq.NOBLOCK)


def frames_of(socket: zmq.Socket[bytes]) -> Callable[[], zmq.Frame]:
    """Frames with what is known of the connection that they came from."""
    return lambda: socket.recv(zmq.NOBLOCK, copy=False)


class Drain(Generic[T]):
    """Owns one socket on the running loop, and calls back for each message of `parts` frames.

    A message of any other number is counted by `on_malformed` and never kept: no option of libzmq
    bounds how many frames a message has.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        receive: Callable[[], T],
        on_message: Callable[[list[T]], None],
        *,
        parts: int,
        turn: int,
        on_malformed: Callable[[], None] = lambda: None,
    ) -> None:
        """`turn` frames are read before other sockets get their turn."""
        self._socket = socket
        self._receive: Callable[[], T] = receive
        self._on_message: Callable[[list[T]], None] = on_message
        self._on_malformed = on_malformed
        self._parts = parts
        self._turn = turn
        self._frames: list[T] = []  # of the message under way
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.Handle | None = None
        self._fd = int(socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self._read)
        self._soon()

    def send(self, frames: list[bytes]) -> bool:
        """Send without waiting; False where there is no room or no such connection."""
        if self._socket.closed:
            return False
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.ZMQError:  # EAGAIN: full; EHOSTUNREACH: a ROUTER does not know the connection
            return False
        finally:
            self._soon()
        return True

    def close(self, linger_ms: int = 0) -> None:
        """Stop reading and close the socket; what waits to be sent has `linger_ms` left."""
        if self._socket.closed:
            return
        self._loop.remove_reader(self._fd)
        if self._again is not None:
            self._again.cancel()
        self._socket.close(linger_ms)

    def _soon(self) -> None:
        if self._again is None:
            self._again = self._loop.call_soon(self._read_again)

    def _read_again(self) -> None:
        self._again = None
        if not self._socket.closed:
            self._read()

    def _read(self) -> None:
        receive, socket = self._receive, self._socket
        try:
            for _ in range(self._turn):
                frame = receive()
                if len(self._frames) <= self._parts:
                    self._frames.append(frame)
                if not socket.getsockopt(zmq.RCVMORE):
                    self._hand_over()
                    if socket.closed:
                        return
        except zmq.Again:
            return
        except BaseException:
            # A fault of the receiver is the loop's to tell; the next messages must still be read.
            if not socket.closed:
                self._soon()
            raise
        self._soon()

    def _hand_over(self) -> None:
        frames, self._frames = self._frames, []
        if len(frames) == self._parts:
            self._on_message(frames)
        else:
            self._on_malformed()


class Attention:
    """Lets a PUB take subscriptions while nothing is sent: libzmq works only when it is called."""

    def __init__(self, socket: zmq.Socket[Any]) -> None:
        """Owns the socket, on the running loop."""
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        self._fd = int(socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self._attend)

    def send(self, frames: list[bytes]) -> bool:
        """Send without waiting; False where the socket is closed or full."""
        if self._socket.closed:
            return False
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.ZMQError:
            return False
        return True

    def close(self) -> None:
        """Close the socket."""
        if self._socket.closed:
            return
        self._loop.remove_reader(self._fd)
        self._socket.close(0)

    def _attend(self) -> None:
        self._socket.getsockopt(zmq.EVENTS)
