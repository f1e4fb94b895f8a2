"""Socket options, as tables: what libzmq's defaults leave open to strangers is closed here.

Measured reasons: without MAXMSGSIZE an unauthenticated peer fills the memory inside the handshake;
BACKLOG 100 makes honest peers wait behind a flood; the default handshake may take 30 s; a PUB with
a large RCVHWM takes any number of subscriptions into memory; ROUTER_HANDOVER lets a second comer
take the routing id, and with it the answers, of the first.
"""

from __future__ import annotations

import ctypes
import ipaddress
import re
import secrets
from typing import Any, Final

import zmq

from zmqex.limits import (
    FRAME_BYTES_MAX,
    HELLO_FRAME_BYTES_MAX,
    HELLO_QUESTION_BYTES_MAX,
    PROXY_WAIT_MS,
)

Options = dict[int, int]

# What CURVE adds to a frame (33) counts too, so that the longest frame of the protocol fits.
_CURVE_BYTES: Final = 64

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
    zmq.MAXMSGSIZE: FRAME_BYTES_MAX + _CURVE_BYTES,
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
    zmq.MAXMSGSIZE: FRAME_BYTES_MAX + _CURVE_BYTES,
    zmq.SNDHWM: 256,
    zmq.RCVHWM: 256,
    zmq.CONNECT_TIMEOUT: 3_000,
    zmq.RECONNECT_IVL: 200,
    zmq.RECONNECT_IVL_MAX: 30_000,
}
# What a SUB sends are its subscriptions; those beyond SNDHWM are lost without a word.
SUBSCRIBER: Final[Options] = {**DIALLER, zmq.RCVHWM: 10_000, zmq.SNDHWM: 1_000}

# For whoever dials through a proxy: ours accepts at once, and the other side is there much later.
PROXIED: Final[Options] = {zmq.HANDSHAKE_IVL: PROXY_WAIT_MS}

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,255}")
_PORT_MAX: Final = 65_535


def hide_routing_ids() -> None:
    """To be called before a ROUTER is made: makes its routing ids hard to guess.

    A client that chooses the id that a ROUTER would give next makes libzmq 4.3.5 end the process
    (`Assertion failed: ok`, socket_base.cpp) at the next connection, and libzmq counts up from a
    number of C's `rand`, which nobody seeds: without this it is the same in every process.
    """
    ctypes.CDLL(None).srand(secrets.randbits(32))


def configure(socket: zmq.Socket[Any], options: Options) -> None:
    """Set all options of a table."""
    for option, value in options.items():
        socket.setsockopt(option, value)


def endpoint(host: str, port: int) -> str | None:
    """Write an address as libzmq reads it; None for what is not an address.

    A host from a stranger is looked at first: libzmq's own syntax has separators in it.
    """
    if not 1 <= port <= _PORT_MAX:
        return None
    if ":" in host:
        return f"tcp://[{host}]:{port}" if is_numeric(host) else None
    return f"tcp://{host}:{port}" if _NAME.fullmatch(host) else None


def plain_address(host: str) -> str:
    """An IPv4 host as an IPv6 socket sees it is IPv4."""
    return host.removeprefix("::ffff:")


def is_numeric(host: str) -> bool:
    """Whether no name server has to be asked for this host."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
