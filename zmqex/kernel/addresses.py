"""Addresses where a peer might be: hints from every source, dialled side by side.

A candidate is only a hint; what it proves is decided elsewhere (`links`).  Each address has its own
back-off, none waits for another one's silence (`shares`), and what is long dead is forgotten.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from zmqex.dht.address import Scope, scope_of
from zmqex.kernel.core import Core
from zmqex.kernel.effects import DialHello
from zmqex.kernel.shares import Shares, subnet_of
from zmqex.limits import (
    ADDRESS_FORGET_MS,
    ADDRESSES_MAX,
    BACK_OFF_DEAD_MS,
    BACK_OFF_FIRST_MS,
    BACK_OFF_LAST_MS,
    BACK_OFF_PROVEN_FIRST_MS,
    BACK_OFF_PROVEN_LAST_MS,
    DIAL_FORGET_MS,
    DIALS_AT_ONCE_MAX,
    PEER_FORGET_MS,
    PROXY_WAIT_MS,
)

# Who may name an address, the most trusted first; an address counts as of the best that named it,
# so that a flood in one source cannot hide what another one says too.
SOURCES: Final = ("static", "operator", "book", "local", "exchange", "greet", "grape", "dht")
_HOST: Final = re.compile(r"[A-Za-z0-9.:\-_]{1,255}\Z")
_PORT_MAX: Final = 65_535
_DOUBLINGS_MAX: Final = 16

Key = tuple[str, int]


class Step(enum.StrEnum):
    """What is being done about an address."""

    IDLE = "idle"  # nothing is wanted there
    QUEUED = "queued"  # for a dial to end
    DIALLING = "dialling"
    WAITING = "waiting"  # for the end of its back-off


class Address(msgspec.Struct):
    """One `host:port` of a hello socket.  Times are monotonic."""

    host: str
    port: int
    sources: list[str]  # who named it, the best first
    pinned: bool
    expected: bytes  # the identity that the operator named, or b""
    alive_ms: int  # when it last answered, or was first named
    proven: bytes = b""  # who last answered there
    own: bool = False  # it is our own
    failures: int = 0
    step: Step = Step.IDLE
    due_ms: int = 0  # the end of its back-off
    why: str = ""  # why the last try came to nothing

    @property
    def source(self) -> str:
        """The best source that named it."""
        return self.sources[0]


class Addresses:
    """The table of addresses; the hooks are set by `Links`."""

    def __init__(self, core: Core) -> None:
        """Start empty."""
        self._core = core
        self._table: dict[Key, Address] = {}
        self._named = Shares()
        self._dialling = Shares()
        self._queue: dict[Key, Address] = {}
        # Whether somebody is to be found there whom we need; and that the last place where a peer
        # could be found has been dead for too long.
        self.wanted: Callable[[Address], bool] = lambda _address: True
        self.on_dead: Callable[[bytes], None] = lambda _identity: None

    def get(self, host: str, port: int) -> Address | None:
        """The entry of an address."""
        return self._table.get((host, port))

    def all(self) -> Iterable[Address]:
        """Every address, the longest known first."""
        return self._table.values()

    def name(
        self, host: str, port: int, source: str, *, pinned: bool = False, expected: bytes = b""
    ) -> Address | None:
        """Remember an address that somebody named; None if it is nonsense or there is no room."""
        address = self._table.get((host, port))
        if address is not None:
            self._name_again(address, source)
        elif self._makes_sense(host, port, pinned=pinned) and (
            pinned or self._make_room(source, host)
        ):
            address = Address(host, port, [source], pinned, expected, self._core.now.monotonic_ms)
            self._table[host, port] = address
            self._named.add(source, host)
        else:
            self._core.count("candidates_refused")
            return None
        if pinned:
            address.pinned = True
            address.expected = expected or address.expected
        return address

    def has_room(self, source: str) -> bool:
        """Whether this source may name one more address."""
        return not self._named.excess(ADDRESSES_MAX, source, "")

    def dial_soon(self, address: Address) -> None:
        """Dial unless it is under way, waits for its time, or nothing is wanted there."""
        if address.step is Step.IDLE:
            self._dial(address)

    def dial_now(self, address: Address) -> None:
        """Dial at once, whatever its back-off says."""
        address.failures = 0
        if address.step in {Step.IDLE, Step.WAITING}:
            self._dial(address)

    def dial_peer(self, identity: bytes, *, now: bool = False) -> None:
        """Dial the addresses of a peer: at once, or by their back-off."""
        for address in [one for one in self._table.values() if one.proven == identity]:
            if now:
                self.dial_now(address)
            elif address.step is Step.IDLE:
                self._wait(address)

    def look_for(self, identity: bytes, host: str, port: int) -> None:
        """Dial where a proven peer may be now, at once, if there is room for one more."""
        address = self.name(host, port, "greet")
        if address is not None:
            address.proven = identity
            self.dial_now(address)

    def dial_all(self) -> None:
        """Dial everything at once: whatever failed so far says nothing about now."""
        for address in list(self._table.values()):
            self.dial_now(address)

    def answered(self, address: Address) -> None:
        """Somebody answered there."""
        self._ended(address)
        address.failures, address.why = 0, ""
        address.alive_ms = self._core.now.monotonic_ms

    def failed(self, address: Address, why: str) -> None:
        """Nobody answered, or not as hoped: try again later, or forget it."""
        self._ended(address)
        address.failures += 1
        address.why = why
        forget_ms = PEER_FORGET_MS if address.proven else ADDRESS_FORGET_MS
        if address.pinned or self._dead_ms(address) < forget_ms:
            self._wait(address)
            return
        self._forget(address)
        if address.proven and not any(one.proven == address.proven for one in self.all()):
            self.on_dead(address.proven)

    def forget_peer(self, identity: bytes, keep: Key | None = None) -> None:
        """Forget where a peer was, but for the address `keep` and pinned ones."""
        gone = [
            address
            for key, address in self._table.items()
            if identity in (address.proven, address.expected)
            and key != keep
            and (keep is None or not address.pinned)
        ]
        for address in gone:
            self._forget(address)

    def view(self, address: Address) -> dict[str, Any]:
        """An address as `ListCandidates` shows it, as far as it is known here."""
        left_ms = max(address.due_ms - self._core.now.monotonic_ms, 0)
        return {
            "host": address.host,
            "port": address.port,
            "sources": list(address.sources),
            "pinned": address.pinned,
            "state": "self" if address.own else address.step.value,
            "failures": address.failures,
            "retry_ms": left_ms if address.step is Step.WAITING else None,
            "why": address.why,
        }

    # --- what is named ---------------------------------------------------------------------------

    def _makes_sense(self, host: str, port: int, *, pinned: bool) -> bool:
        if _HOST.match(host) is None or not 0 < port <= _PORT_MAX:
            return False
        # Behind a proxy our own machine is not where a stranger can send us.
        return pinned or not (self._core.settings.proxied and scope_of(host) is Scope.LOOPBACK)

    def _name_again(self, address: Address, source: str) -> None:
        if source in address.sources:
            return
        before = address.source
        address.sources = sorted([*address.sources, source], key=_rank)
        if address.source == before:
            return
        for shares in (self._named, *([self._dialling] * (address.step is Step.DIALLING))):
            shares.remove(before, address.host)
            shares.add(source, address.host)

    def _make_room(self, source: str, host: str) -> bool:
        """Whether one more fits; forgets an address that proved nothing if need be."""
        if self._named.excess(ADDRESSES_MAX, source, host):
            return False
        if len(self._table) >= ADDRESSES_MAX:
            idle = [one for one in self._table.values() if not (one.pinned or one.proven)]
            if not idle:
                return False
            self._forget(max(idle, key=lambda one: (one.failures, _rank(one.source))))
        return True

    def _forget(self, address: Address) -> None:
        self._ended(address)
        self._core.cancel_timer(("dial", address.host, address.port))
        del self._table[address.host, address.port]
        self._named.remove(address.source, address.host)

    # --- dialling --------------------------------------------------------------------------------

    def _dial(self, address: Address) -> None:
        key = (address.host, address.port)
        self._core.cancel_timer(("dial", *key))
        if address.own or not self.wanted(address):
            address.step = Step.IDLE
        elif self._dialling.why_not(
            DIALS_AT_ONCE_MAX, address.source, address.host, pinned=address.pinned
        ):
            address.step = Step.QUEUED
            self._queue[key] = address
        else:
            self._start(address)

    def _start(self, address: Address) -> None:
        key = (address.host, address.port)
        address.step = Step.DIALLING
        self._dialling.add(address.source, address.host)
        # Should the transport ever forget to answer.
        wait_ms = DIAL_FORGET_MS + (PROXY_WAIT_MS if self._core.settings.proxied else 0)
        self._core.call_after(
            ("dialling", *key), wait_ms, lambda: self.failed(address, "no answer")
        )
        self._core.emit(DialHello(address.host, address.port, address.source))

    def _ended(self, address: Address) -> None:
        """A dial is over, or an address need not be dialled: the next one's turn."""
        key = (address.host, address.port)
        self._queue.pop(key, None)
        if address.step is Step.DIALLING:
            self._dialling.remove(address.source, address.host)
            self._core.cancel_timer(("dialling", *key))
        address.step = Step.IDLE
        self._start_next()

    def _start_next(self) -> None:
        """Start whoever waits, those first whose source and subnet have the fewest dials."""
        while self._queue:
            # Of those that are equal here the first has waited longest: the others need no look.
            firsts: dict[tuple[bool, str, str], Address] = {}
            for one in self._queue.values():
                firsts.setdefault((one.pinned, one.source, subnet_of(one.host)), one)
            fitting = [
                one
                for one in firsts.values()
                if not self._dialling.why_not(
                    DIALS_AT_ONCE_MAX, one.source, one.host, pinned=one.pinned
                )
            ]
            if not fitting:
                return
            chosen = min(
                fitting,
                key=lambda one: (not one.pinned, *self._dialling.load(one.source, one.host)),
            )
            del self._queue[chosen.host, chosen.port]
            self._dial(chosen)

    def _wait(self, address: Address) -> None:
        delay_ms = self._back_off_ms(address)
        address.step = Step.WAITING
        address.due_ms = self._core.now.monotonic_ms + delay_ms
        name = ("dial", address.host, address.port)
        self._core.call_after(name, delay_ms, lambda: self._dial(address))

    def _dead_ms(self, address: Address) -> int:
        return self._core.now.monotonic_ms - address.alive_ms

    def _back_off_ms(self, address: Address) -> int:
        first, last = BACK_OFF_FIRST_MS, BACK_OFF_LAST_MS
        if address.proven:
            first, last = BACK_OFF_PROVEN_FIRST_MS, BACK_OFF_PROVEN_LAST_MS
        if self._dead_ms(address) >= ADDRESS_FORGET_MS:
            last = BACK_OFF_DEAD_MS
        doublings = min(max(address.failures - 1, 0), _DOUBLINGS_MAX)
        delay_ms = min(first << doublings, last)
        # From three to five quarters, rounded down, so that a crowd does not come back as one.
        quarters = 768 + int.from_bytes(self._core.random(2), "big") % 513
        return delay_ms * quarters // 1_024


def _rank(source: str) -> int:
    return SOURCES.index(source) if source in SOURCES else len(SOURCES)
