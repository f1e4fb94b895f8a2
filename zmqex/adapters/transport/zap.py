"""The ZAP handler (ZeroMQ RFC 27): lets every CURVE key in and names it on each message.

Who a key belongs to is the kernel's to find out (greet); here a key is only made visible, because
without a handler CURVE messages carry no key at all.  It answers from memory, in microseconds.
"""

from __future__ import annotations

from typing import Final

import zmq

from zmqex.adapters.transport.drain import Drain

DOMAIN: Final = "zmqex"
_ENDPOINT: Final = "inproc://zeromq.zap.01"
_VERSION: Final = b"1.0"
# Version, request id, domain, address, identity, mechanism, key; in front a ROUTER's own frames.
_MECHANISM, _KEY = 5, 6
_KEY_BYTES: Final = 32


class ZapHandler:
    """Answers libzmq's questions on one context."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Must be made before any socket that asks."""
        socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind(_ENDPOINT)
        self.denied: set[bytes] = set()
        self.drain = Drain(socket, self._on_question)

    def _on_question(self, frames: list[zmq.Frame]) -> None:
        parts = [frame.bytes for frame in frames]
        if b"" not in parts:
            return
        start = parts.index(b"") + 1
        route, question = parts[:start], parts[start:]
        if len(question) <= _KEY or question[0] != _VERSION:
            return
        key = question[_KEY]
        known = question[_MECHANISM] == b"CURVE" and len(key) == _KEY_BYTES
        allowed = known and key not in self.denied
        status, text = (b"200", b"OK") if allowed else (b"400", b"denied")
        user = key.hex().encode() if allowed else b""
        self.drain.send([*route, _VERSION, question[1], status, text, user, b""])
