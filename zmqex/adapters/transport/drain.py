"""Reads a plain ZeroMQ socket from the event loop, as many messages a turn as is fair.

The descriptor of a ZeroMQ socket is edge-triggered: after every send and every bounded read the
socket must be asked again, or it falls silent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

from zmqex.limits import DRAIN_MESSAGES_MAX

OnMessage = Callable[[list[zmq.Frame]], None]


class Drain:
    """One socket on the running loop; owns the socket."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        on_message: OnMessage,
        on_empty: Callable[[], None] | None = None,
    ) -> None:
        """Call `on_message` with the frames of each message, `on_empty` after each turn."""
        self._socket = socket
        self._on_message = on_message
        self._on_empty = on_empty
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

    def close(self) -> None:
        """Stop reading and close the socket; what waits to be sent is dropped."""
        if self._socket.closed:
            return
        self._loop.remove_reader(self._fd)
        if self._again is not None:
            self._again.cancel()
        self._socket.close(0)

    def _soon(self) -> None:
        if self._again is None:
            self._again = self._loop.call_soon(self._read_again)

    def _read_again(self) -> None:
        self._again = None
        if not self._socket.closed:
            self._read()

    def _read(self) -> None:
        for _ in range(DRAIN_MESSAGES_MAX):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            except zmq.ZMQError:
                # The message could not be received whole; the next one can.
                continue
            self._on_message(frames)
            if self._socket.closed:
                return
        else:
            self._soon()
        if self._on_empty is not None:
            self._on_empty()
