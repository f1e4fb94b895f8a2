"""Socket options, as tables: what libzmq's defaults leave open to strangers is closed here.

Measured reasons: without MAXMSGSIZE an unauthenticated peer fills the memory inside the handshake;
BACKLOG 100 makes honest peers wait behind a flood; the default handshake may take 30 s; a PUB with
a large RCVHWM takes any number of subscriptions into memory; ROUTER_HANDOVER lets a second comer
take the routing id, and with it the answers, of the first.
"""

from __future__ import annotations

import re
from typing import Any, Final

import zmq

from zmqex.limits import FRAME_BYTES_MAX, HELLO_FRAME_BYTES_MAX, HELLO_QUESTION_BYTES_MAX

Options = dict[int, int]

_ALL: Final[Options] = {
    zmq.LINGER: 0,
    zmq.HANDSHAKE_IVL: 3_000,
    zmq.HEARTBEAT_IVL: 5_000,
    zmq.HEARTBEAT_TIMEOUT: 15_000,
    zmq.HEARTBEAT_TTL: 20_000,
    zmq.TCP_KEEPALIVE: 1,
    zmq.IPV6: 1,
}
_LISTEN: Final[Options] = {**_ALL, zmq.BACKLOG: 1_024}
_ROUTER: Final[Options] = {**_LISTEN, zmq.ROUTER_MANDATORY: 1, zmq.ROUTER_HANDOVER: 0}

HELLO: Final[Options] = {
    **_ROUTER,
    zmq.MAXMSGSIZE: HELLO_QUESTION_BYTES_MAX,
    zmq.RCVHWM: 4,
    zmq.SNDHWM: 4,
}
HELLO_DIALLER: Final[Options] = {
    **_ALL,
    zmq.MAXMSGSIZE: HELLO_FRAME_BYTES_MAX,
    zmq.RCVHWM: 4,
    zmq.SNDHWM: 4,
    zmq.RECONNECT_IVL: -1,
}
# Sixteen frames of 64 KiB per connection are what a stalled loop may owe to each flooder; what is
# sent holds the answers to a whole burst of requests.
RPC: Final[Options] = {
    **_ROUTER,
    zmq.MAXMSGSIZE: FRAME_BYTES_MAX,
    zmq.RCVHWM: 16,
    zmq.SNDHWM: 256,
}
# What a PUB receives are subscriptions; four at a time is back-pressure, not loss.
PUBLISHER: Final[Options] = {
    **_LISTEN,
    zmq.MAXMSGSIZE: 1_024,
    zmq.RCVHWM: 4,
    zmq.SNDHWM: 10_000,
}
# IMMEDIATE stays off: the greeting is sent before the connection stands.
DIALLER: Final[Options] = {
    **_ALL,
    zmq.MAXMSGSIZE: FRAME_BYTES_MAX,
    zmq.SNDHWM: 256,
    zmq.RCVHWM: 256,
    zmq.CONNECT_TIMEOUT: 3_000,
    zmq.RECONNECT_IVL: 200,
    zmq.RECONNECT_IVL_MAX: 30_000,
}
SUBSCRIBER: Final[Options] = {**DIALLER, zmq.RCVHWM: 10_000}

_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,255}|[A-Fa-f0-9:.]{2,45}(%[A-Za-z0-9]{1,15})?")
_NUMERIC: Final = re.compile(r"[0-9.]+|.*:.*")
_PORT_MAX: Final = 65_535


def configure(socket: zmq.Socket[Any], options: Options) -> None:
    """Set all options of a table."""
    for option, value in options.items():
        socket.setsockopt(option, value)


def endpoint(host: str, port: int) -> str | None:
    """Write an address as libzmq reads it; None for what is not an address.

    A host from a stranger is looked at first: libzmq's own syntax has separators in it.
    """
    if not _HOST.fullmatch(host) or not 1 <= port <= _PORT_MAX:
        return None
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def is_numeric(host: str) -> bool:
    """Whether no name server has to be asked for this host."""
    return _NUMERIC.fullmatch(host) is not None
