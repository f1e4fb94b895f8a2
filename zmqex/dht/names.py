"""The names under which nodes of one network and market meet."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final

NAME_BYTES: Final = 20
_PREFIX: Final = "zmqex:v1:"
_PLAIN: Final = re.compile(r"[a-z0-9]+:[a-z0-9]+")


def rendezvous_name(network: str, market: str) -> bytes:
    """Return the meeting name of `market` (``BTC/USD``) in `network`: 20 printable bytes.

    Exactly 20, because every DHT takes a name of that length as it stands.  A short name can
    be read (``zmqex:v1:play:btcusd``, filled up with dots); one that does not fit is hashed.
    """
    key = f"{network}:{market.replace('/', '')}".lower()
    room = NAME_BYTES - len(_PREFIX)
    if _PLAIN.fullmatch(key) is None or len(key) > room:
        digest = hashlib.blake2b(key.encode(), person=b"zmqex/name/1")
        key = base64.b32encode(digest.digest()).decode().lower()[:room]
    return (_PREFIX + key.ljust(room, ".")).encode()
