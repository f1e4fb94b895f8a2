"""Addresses where a peer might be: hints from discovery, the operator and peers, dialled in turn.

A candidate is only a hint; what it proves is decided elsewhere (`sessions`).  Addresses are dialled
in parallel, each with its own back-off, and forgotten when nobody has named them for long.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from zmqex.kernel.core import Core
from zmqex.kernel.effects import DialHello
from zmqex.limits import (
    ADDRESS_FORGET_MS,
    ADDRESSES_MAX,
    BACK_OFF_FIRST_MS,
    BACK_OFF_LAST_MS,
    BACK_OFF_PROVEN_FIRST_MS,
    BACK_OFF_PROVEN_LAST_MS,
    DIAL_FORGET_MS,
    DIAL_QUEUE_MS,
    DIALS_AT_ONCE_MAX,
)

_HOST: Final = re.compile(r"[A-Za-z0-9.:\-_]{1,255}\Z")
_PORT_MAX: Final = 65_535
_DOUBLINGS_MAX: Final = 16

Key = tuple[str, int]


class Address(msgspec.Struct):
    """One `host:port` of a hello socket."""

    host: str
    port: int
    source: str
    pinned: bool
    expected: bytes  # the identity that the operator named, or b""
    named_ms: int  # when somebody last named it (monotonic)
    proven: bytes = b""  # who last answered there
    own: bool = False  # it is our own
    failures: int = 0
    dialling: bool = False
    waiting: bool = False


class Addresses:
    """The table of addresses; `wanted` says whether a proven peer still needs to be dialled."""

    def __init__(self, core: Core) -> None:
        """Start empty."""
        self._core = core
        self._table: dict[Key, Address] = {}
        self._dialling = 0
        self.wanted: Callable[[bytes], bool] = lambda _identity: True

    def get(self, host: str, port: int) -> Address | None:
        """The entry of an address."""
        return self._table.get((host, port))

    def name(
        self, host: str, port: int, source: str, *, pinned: bool = False, expected: bytes = b""
    ) -> Address | None:
        """Remember an address that somebody named; None if it is nonsense or the table is full."""
        if _HOST.match(host) is None or not 0 < port <= _PORT_MAX:
            self._core.count("candidates_refused")
            return None
        address = self._table.get((host, port))
        if address is None:
            if not (pinned or self._has_room(source)):
                self._core.count("candidates_refused")
                return None
            address = Address(host, port, source, pinned, expected, 0)
            self._table[host, port] = address
        address.named_ms = self._core.now.monotonic_ms
        if pinned:
            address.pinned, address.source = True, source
            address.expected = expected or address.expected
        return address

    def dial_soon(self, address: Address) -> None:
        """Dial unless it is under way, waits for its time, or nothing is wanted there."""
        if not (address.dialling or address.waiting):
            self._dial(address)

    def dial_now(self, address: Address) -> None:
        """Dial at once, whatever its back-off says."""
        address.failures = 0
        if not address.dialling:
            self._dial(address)

    def dial_peer(self, identity: bytes, *, now: bool = False) -> None:
        """Dial the addresses of a peer: at once, or by their back-off."""
        for address in [one for one in self._table.values() if one.proven == identity]:
            if now:
                self.dial_now(address)
            elif not (address.dialling or address.waiting):
                self._wait(address)

    def answered(self, address: Address) -> None:
        """Somebody answered there."""
        self._ended(address)
        address.failures = 0

    def failed(self, address: Address) -> None:
        """Nobody answered, or not as hoped: try again later, or forget it."""
        self._ended(address)
        address.failures += 1
        age_ms = self._core.now.monotonic_ms - address.named_ms
        if not address.pinned and age_ms >= ADDRESS_FORGET_MS:
            self._forget(address)
        else:
            self._wait(address)

    def forget_peer(self, identity: bytes, keep: Key | None = None) -> None:
        """Forget where a peer was, but for the address `keep` and pinned ones."""
        gone = [
            address
            for key, address in self._table.items()
            if identity in {address.proven, address.expected}
            and key != keep
            and (keep is None or not address.pinned)
        ]
        for address in gone:
            self._forget(address)

    # --- private ---------------------------------------------------------------------------------

    def _has_room(self, source: str) -> bool:
        """Whether one more of this source fits; no source fills more than half of the table."""
        if sum(one.source == source for one in self._table.values()) >= ADDRESSES_MAX // 2:
            return False
        if len(self._table) < ADDRESSES_MAX:
            return True
        idle = [one for one in self._table.values() if not (one.pinned or one.proven)]
        if not idle:
            return False
        self._forget(max(idle, key=lambda one: one.failures))
        return True

    def _forget(self, address: Address) -> None:
        self._ended(address)
        self._core.cancel_timer(("dial", address.host, address.port))
        self._table.pop((address.host, address.port), None)

    def _ended(self, address: Address) -> None:
        if address.dialling:
            address.dialling = False
            self._dialling -= 1
            self._core.cancel_timer(("dialling", address.host, address.port))

    def _dial(self, address: Address) -> None:
        if address.own or (address.proven and not self.wanted(address.proven)):
            return
        key = (address.host, address.port)
        self._core.cancel_timer(("dial", *key))
        address.waiting = False
        if self._dialling >= DIALS_AT_ONCE_MAX:
            self._wait(address, DIAL_QUEUE_MS)
            return
        address.dialling = True
        self._dialling += 1
        self._core.call_after(("dialling", *key), DIAL_FORGET_MS, lambda: self.failed(address))
        self._core.emit(DialHello(address.host, address.port, address.source))

    def _wait(self, address: Address, delay_ms: int = 0) -> None:
        address.waiting = True
        name = ("dial", address.host, address.port)
        self._core.call_after(
            name, delay_ms or self._back_off_ms(address), lambda: self._due(address)
        )

    def _due(self, address: Address) -> None:
        address.waiting = False
        self._dial(address)

    def _back_off_ms(self, address: Address) -> int:
        first, last = BACK_OFF_FIRST_MS, BACK_OFF_LAST_MS
        if address.proven:
            first, last = BACK_OFF_PROVEN_FIRST_MS, BACK_OFF_PROVEN_LAST_MS
        doublings = min(max(address.failures - 1, 0), _DOUBLINGS_MAX)
        delay_ms = min(first << doublings, last)
        # From three to five quarters, rounded down, so that a crowd does not come back as one.
        quarters = 768 + int.from_bytes(self._core.random(2), "big") % 513
        return delay_ms * quarters // 1_024
