"""The ZAP handler (ZeroMQ RFC 27): lets CURVE keys in and names the key on each message.

Who a key belongs to is the kernel's to find out (greet); here a key is only made visible, because
without a handler CURVE messages carry no key at all.  It answers from memory, in microseconds,
because libzmq asks one question at a time.
"""

from __future__ import annotations

from typing import Final

import zmq

from zmqex.adapters.transport.drain import Drain
from zmqex.limits import REQUEST_FRAMES_A_TURN

DOMAIN: Final = "zmqex"
USER_ID: Final = "User-Id"
_ENDPOINT: Final = "inproc://zeromq.zap.01"
_VERSION: Final = b"1.0"
# A ROUTER's route and delimiter, then version, request id, domain, address, routing id, mechanism
# and the key, which only CURVE has.
_PARTS: Final = 9
_KEY_BYTES: Final = 32


class ZapHandler:
    """Answers libzmq's questions on one context."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Must be made before any socket that asks."""
        socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind(_ENDPOINT)
        self.denied: set[bytes] = set()
        self._drain = Drain(socket, self._on_question, parts=_PARTS, turn=REQUEST_FRAMES_A_TURN)

    def close(self) -> None:
        """Answer nothing more: from now on nobody new gets in."""
        self._drain.close()

    def _on_question(self, first: list[bytes], last: zmq.Frame) -> None:
        route, delimiter, version, request_id, domain, _address, _id, mechanism = first
        key = last.bytes
        allowed = (
            version == _VERSION
            and domain == DOMAIN.encode()
            and mechanism == b"CURVE"
            and len(key) == _KEY_BYTES
            and key not in self.denied
        )
        status, text = (b"200", b"OK") if allowed else (b"400", b"denied")
        user = key.hex().encode() if allowed else b""
        self._drain.send([route, delimiter, _VERSION, request_id, status, text, user, b""])
