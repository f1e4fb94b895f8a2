"""Reads a plain ZeroMQ socket from the event loop, as many frames a turn as is fair.

The descriptor of a ZeroMQ socket tells of changes, not of states: after every send and every
bounded read the socket must be asked again, or it falls silent.  `zmq.asyncio` would cost ten times
as much.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import zmq

OnMessage = Callable[[list[bytes], zmq.Frame], None]

# Plain integers, because ZeroMQ's enumerations cost as much as a whole message.
_NOBLOCK: Final = int(zmq.NOBLOCK)
_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)


class Drain:
    """Owns one socket on the running loop, and calls back for each message of `parts` frames.

    The callback gets the first frames as bytes and the last one as it came, with what ZeroMQ knows
    of its connection.  A longer message is counted by `on_malformed` and never kept: no option of
    ZeroMQ bounds how many frames a message has.  A shorter one, which only a peer whose socket this
    is could send, is read together with that peer's next.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        on_message: OnMessage,
        *,
        parts: int,
        turn: int,
        on_malformed: Callable[[], None] = lambda: None,
        may_read: Callable[[Drain], bool] = lambda _drain: True,
    ) -> None:
        """`turn` frames are read before other sockets get their turn.

        Whoever says by `may_read` that this is not the time calls `read_on` when it is.
        """
        self._socket = socket
        self._on_message = on_message
        self._on_malformed = on_malformed
        self._may_read = may_read
        self._first_parts = parts - 1
        self._turn = turn
        self._first: list[bytes] = []  # of the message under way
        self._too_long = False
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.Handle | None = None
        self._fd = int(socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self._read)
        self._soon()

    def send(self, frames: list[bytes]) -> bool:
        """Send without waiting; False where there is no room or no such connection."""
        try:
            return send(self._socket, frames)
        finally:
            self._soon()

    def read_on(self) -> None:
        """Read what came while that was not allowed."""
        self._soon()

    def close(self, linger_ms: int = 0) -> None:
        """Stop reading and close the socket; what waits to be sent has `linger_ms` left."""
        if self._socket.closed:
            return
        self._loop.remove_reader(self._fd)
        if self._again is not None:
            self._again.cancel()
        self._socket.close(linger_ms)

    def _soon(self) -> None:
        if self._again is None and not self._socket.closed:
            self._again = self._loop.call_soon(self._read_again)

    def _read_again(self) -> None:
        self._again = None
        if not self._socket.closed:
            self._read()

    def _read(self) -> None:
        if not self._may_read(self):
            return
        receive = self._socket.recv
        try:
            for _ in range(self._turn):
                if len(self._first) < self._first_parts:
                    self._first.append(receive(_NOBLOCK))
                    continue
                frame = receive(_NOBLOCK, copy=False)
                if frame.more:
                    self._too_long = True
                    continue
                self._hand_over(frame)
                if self._socket.closed or not self._may_read(self):
                    return
        except zmq.Again:
            return
        except BaseException:
            # A fault of the receiver is the loop's to tell; the next messages must still be read.
            self._soon()
            raise
        self._soon()

    def _hand_over(self, last: zmq.Frame) -> None:
        first, self._first = self._first, []
        if self._too_long:
            self._too_long = False
            self._on_malformed()
        else:
            self._on_message(first, last)


class Publisher:
    """Owns a PUB on the running loop.

    ZeroMQ works only when it is called, so without this no subscription would be taken in until
    something is sent, and then only a few.
    """

    def __init__(self, socket: zmq.Socket[Any]) -> None:
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        self._fd = int(socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self._take_subscriptions)

    def send(self, frames: list[bytes]) -> bool:
        """Send without waiting; False where the socket is closed."""
        return send(self._socket, frames)

    def close(self) -> None:
        """Close the socket at once."""
        if not self._socket.closed:
            self._loop.remove_reader(self._fd)
            self._socket.close(0)

    def _take_subscriptions(self) -> None:
        self._socket.getsockopt(zmq.EVENTS)


def send(socket: zmq.Socket[bytes], frames: list[bytes]) -> bool:
    """Send a message without waiting; False where it did not go.

    That is: no room, a closed socket, or a ROUTER that does not know the connection.
    """
    try:
        for frame in frames[:-1]:
            socket.send(frame, _MORE)
        socket.send(frames[-1], _NOBLOCK)
    except zmq.ZMQError:
        return False
    return True
