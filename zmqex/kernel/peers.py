"""One peer as this node knows it, and the table that moves a session with it.

Not for: what is done at each step (`sessions`).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

import msgspec

from zmqex.errors import LocalProtocolError
from zmqex.limits import RECORD_LIFE_MS
from zmqex.protocol.messages import Endpoint, PeerRecord


class State(enum.StrEnum):
    """How we stand with a peer."""

    CANDIDATE = "candidate"  # its record is known, its sockets are not open
    GREETING = "greeting"
    SYNCING = "syncing"  # can be asked; its logs are being fetched
    LIVE = "live"
    STALE = "stale"  # silent for too long; dialled again
    BACKING_OFF = "backing_off"
    BANNED = "banned"


class Input(enum.StrEnum):
    """What can happen to a session."""

    CONNECT = "connect"  # a record proved it, and its sockets are being opened
    GREETED = "greeted"
    SYNCED = "synced"
    HEARD = "heard"
    SILENT = "silent"
    FAILED = "failed"
    LEFT = "left"
    BAN = "ban"
    PARDON = "pardon"


_S, _I = State, Input
TABLE: Final[Mapping[tuple[State, Input], State]] = {
    (_S.CANDIDATE, _I.CONNECT): _S.GREETING,
    (_S.GREETING, _I.CONNECT): _S.GREETING,
    (_S.GREETING, _I.GREETED): _S.SYNCING,
    (_S.GREETING, _I.SILENT): _S.BACKING_OFF,
    (_S.GREETING, _I.FAILED): _S.BACKING_OFF,
    (_S.GREETING, _I.LEFT): _S.BACKING_OFF,
    (_S.GREETING, _I.BAN): _S.BANNED,
    (_S.SYNCING, _I.CONNECT): _S.GREETING,
    (_S.SYNCING, _I.SYNCED): _S.LIVE,
    (_S.SYNCING, _I.SILENT): _S.STALE,
    (_S.SYNCING, _I.LEFT): _S.BACKING_OFF,
    (_S.SYNCING, _I.BAN): _S.BANNED,
    (_S.LIVE, _I.CONNECT): _S.GREETING,
    (_S.LIVE, _I.SILENT): _S.STALE,
    (_S.LIVE, _I.LEFT): _S.BACKING_OFF,
    (_S.LIVE, _I.BAN): _S.BANNED,
    (_S.STALE, _I.CONNECT): _S.GREETING,
    (_S.STALE, _I.HEARD): _S.SYNCING,
    (_S.STALE, _I.LEFT): _S.BACKING_OFF,
    (_S.STALE, _I.BAN): _S.BANNED,
    (_S.BACKING_OFF, _I.CONNECT): _S.GREETING,
    (_S.BACKING_OFF, _I.BAN): _S.BANNED,
    (_S.BANNED, _I.PARDON): _S.BACKING_OFF,
}
# Looked through for hundreds of peers at a time: a tuple of these is faster than a set.
ASKABLE: Final = (State.LIVE, State.SYNCING)
LOST: Final = (State.CANDIDATE, State.STALE, State.BACKING_OFF)
CONNECTED: Final = (*ASKABLE, State.GREETING)


class Peer(msgspec.Struct):
    """One peer; only `Sessions` changes it.  Times are monotonic."""

    identity: bytes
    record: PeerRecord
    raw: bytes
    host: str  # the address where it answered: what an empty host in its record stands for
    source: str
    pinned: bool = False
    state: State = State.CANDIDATE
    why: str = ""
    heard_ms: int = 0
    round_trip_ms: int = 0
    skew_ms: int = 0
    live_since_ms: int = 0
    timeouts: int = 0  # questions in a row without an answer
    penalty: int = 0
    blamed_ms: int = 0
    noted_ms: int = 0  # when the address book last heard of it (Unix time)
    greet_serial: int = 0  # only the answer to the newest greet counts

    def step(self, happened: Input, why: str = "") -> None:
        """Move by the table; a missing row raises LocalProtocolError and changes nothing."""
        after = TABLE.get((self.state, happened))
        if after is None:
            raise LocalProtocolError(f"a session that is {self.state} cannot be {happened}")
        self.state, self.why = after, why

    def outdates(self, sequence: int, now_ms: int) -> bool:
        """Whether our record of it is newer than one with this number.

        One that is numbered further ahead than any that is believed was believed while our own
        clock was wrong; it outdates nothing.
        """
        return sequence < self.record.sequence <= now_ms + RECORD_LIFE_MS

    def is_elsewhere(self, host: str) -> bool:
        """Whether it is connected, by a record that leaves its host open, at another host."""
        rpc = self.record.rpc
        return self.state in ASKABLE and rpc is not None and not rpc.host and host != self.host

    def at(self, endpoint: Endpoint | None) -> tuple[str, int]:
        """Where an endpoint of its record is; a peer that is leaving has none."""
        if endpoint is None:
            raise LocalProtocolError("a peer that is leaving is not connected")
        return endpoint.host or self.host, endpoint.port
