"""Socket options, as tables: what libzmq's defaults leave open to strangers is closed here.

Measured reasons: without MAXMSGSIZE an unauthenticated peer fills the memory inside the handshake;
BACKLOG 100 makes honest peers wait behind a flood; the default handshake may take 30 s; a PUB with
a large RCVHWM takes any number of subscriptions into memory.
"""

from __future__ import annotations

from typing import Final

import zmq

from zmqex.limits import FRAME_BYTES_MAX, HELLO_FRAME_BYTES_MAX

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
    zmq.MAXMSGSIZE: HELLO_FRAME_BYTES_MAX,
    zmq.RCVHWM: 16,
    zmq.SNDHWM: 16,
}
CURVE_LISTENER: Final[Options] = {
    **_ROUTER,
    zmq.MAXMSGSIZE: FRAME_BYTES_MAX,
    zmq.RCVHWM: 64,
    zmq.SNDHWM: 256,
}
# What a PUB receives are subscriptions; four at a time is back-pressure, not loss.
PUBLISHER: Final[Options] = {
    **_LISTEN,
    zmq.MAXMSGSIZE: 1_024,
    zmq.RCVHWM: 4,
    zmq.SNDHWM: 10_000,
}
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
