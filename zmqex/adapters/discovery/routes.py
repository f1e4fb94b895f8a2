"""Which of our addresses the network sees: when they change, every connection is worth nothing."""

from __future__ import annotations

import socket
from typing import Final

# Documentation addresses (RFC 5737, RFC 3849): connecting a UDP socket sends nothing, but makes
# the system choose the route, and with it our address.
_TARGETS: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
_DISCARD_PORT: Final = 9


def own_addresses() -> tuple[str, ...]:
    """Our address on the way out, for each family that has a way out."""
    found = []
    for family, target in _TARGETS:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, _DISCARD_PORT))
                found.append(str(probe.getsockname()[0]))
        except OSError:  # no such family, or no route
            continue
    return tuple(found)
