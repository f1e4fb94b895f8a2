"""Snapshots of logs: serving the orders at a signed head, and fetching those that differ from ours.

A head is served with the digests of its 256 buckets, then the buckets that the reader lacks, each
checked on arrival.  The head stays frozen while somebody reads it, so that nobody races its maker.
Not for: when a snapshot is wanted and from whom (`sync`), or what it changes (`replicas`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from zmqex.errors import RemoteProtocolError
from zmqex.kernel.core import Core
from zmqex.kernel.logs import Anchor, MakerLog
from zmqex.kernel.sessions import Answer, Incoming, Refusal, Sessions
from zmqex.limits import (
    FROZEN_HEADS_MAX,
    FROZEN_MS,
    HEARTBEAT_SOON_MS,
    LOG_PAGE_BYTES_MAX,
    RETRY_LAST_MS,
    ROWS_PAGE_MAX,
    SYNC_RETRIES_MAX,
)
from zmqex.protocol.codec import decode, decode_envelope
from zmqex.protocol.identity import verify
from zmqex.protocol.log import Fold, Frozen, Row
from zmqex.protocol.messages import (
    Head,
    Heartbeat,
    Rows,
    RowsRequest,
    Snapshot,
    SnapshotRequest,
)
from zmqex.protocol.snapshot import Assembly, Bucket, serve
from zmqex.reasons import RejectReason

if TYPE_CHECKING:
    from zmqex.kernel.replicas import Replicas


class Snapshots:
    """Serves the snapshots of every log that this node has."""

    def __init__(self, core: Core, sessions: Sessions, replicas: Replicas) -> None:
        """Serve `snapshot` and `rows`."""
        self._core = core
        self._sessions = sessions
        self._replicas = replicas
        sessions.serve("snapshot", self._on_snapshot, reading=True)
        sessions.serve("rows", self._on_rows, reading=True)

    def anchor(self, log: MakerLog, heartbeat: bytes, head: Head) -> None:
        """A heartbeat says where this log stands: from now on that head can be served."""
        fold, now_ms = log.fold, self._core.now.monotonic_ms
        if fold.head_only or head != fold.head():
            return
        newest = log.anchors[-1] if log.anchors else None
        if newest is not None and newest.frozen.head == head:
            newest.heartbeat = heartbeat
            return
        read = [one for one in log.anchors if one.until_ms > now_ms][1 - FROZEN_HEADS_MAX :]
        fold.frozen = [one.frozen for one in read]
        log.anchors = [*read, Anchor(heartbeat, Frozen(fold))]

    def _on_snapshot(self, incoming: Incoming) -> None:
        """The newest signed head of a log, if it is not before the asked one."""
        asked = decode(incoming.body, SnapshotRequest)
        log = self._replicas.log(asked.maker, asked.market)
        refused = self._replicas.why_not_serve(log, asked.epoch)
        if log is None or refused is not None:
            self._sessions.refuse(incoming, refused or RejectReason.UNKNOWN_MAKER)
            return
        if asked.maker == self._core.identity:
            self.anchor(log, self._replicas.own_heartbeat(), log.fold.head())
        newest = log.anchors[-1] if log.anchors else None
        if newest is None or newest.frozen.head.sequence < asked.sequence:
            self._sessions.refuse(incoming, RejectReason.SEQUENCE_GAP, HEARTBEAT_SOON_MS)
            return
        newest.until_ms = self._core.now.monotonic_ms + FROZEN_MS
        self._sessions.answer(incoming, Snapshot(newest.heartbeat, newest.frozen.digests))

    def _on_rows(self, incoming: Incoming) -> None:
        """Open orders of some buckets of a head that was given out a moment ago."""
        asked = decode(incoming.body, RowsRequest)
        if list(asked.buckets) != sorted(set(asked.buckets)):
            raise RemoteProtocolError("buckets that are not in order", penalty=5)
        log = self._replicas.log(asked.maker, asked.market)
        anchors = [] if log is None else log.anchors
        for one in anchors:
            if one.frozen.head.head_hash == asked.head_hash:
                one.until_ms = self._core.now.monotonic_ms + FROZEN_MS
                page = serve(
                    one.frozen, asked.buckets, asked.after, ROWS_PAGE_MAX, LOG_PAGE_BYTES_MAX
                )
                self._sessions.answer(incoming, page)
                return
        reason = RejectReason.UNKNOWN_MAKER if log is None else RejectReason.LOG_TOO_OLD
        self._sessions.refuse(incoming, reason)


class SnapshotFetch:
    """One snapshot of one log from one peer; `done` is called once, with why it failed if it did.

    `head` and `rows` are the result; `rows` is None where the head has more than `orders_max`
    open orders, which are not fetched then.
    """

    def __init__(
        self,
        core: Core,
        sessions: Sessions,
        peer: bytes,
        fold: Fold,
        done: Callable[[SnapshotFetch, Refusal | None], None],
        *,
        orders_max: int,
    ) -> None:
        """Ask nothing yet.  What `fold` has of the log is not fetched again."""
        self._core = core
        self._sessions = sessions
        self.peer = peer
        self.fold = fold
        self._done = done
        self._orders_max = orders_max
        self._assembly: Assembly | None = None
        self._waits = 0
        self.head: Head | None = None
        self.rows: dict[bytes, Row] | None = None

    @property
    def differing(self) -> int:
        """How many buckets were not known."""
        return 0 if self._assembly is None else self._assembly.differing

    def start(self, sequence: int, known: dict[bytes, Bucket]) -> None:
        """Ask for a head at that sequence or later; `known` buckets are used and added to."""
        fold = self.fold
        body = SnapshotRequest(fold.maker, fold.market, fold.epoch, sequence)

        def on_answer(answer: Answer) -> None:
            if isinstance(answer, Refusal):
                self._done(self, answer)
            else:
                self._on_head(decode(answer, Snapshot), sequence, known)

        self._sessions.request(self.peer, "snapshot", body, on_answer)

    def _on_head(self, answer: Snapshot, sequence: int, known: dict[bytes, Bucket]) -> None:
        fold = self.fold
        envelope = decode_envelope(answer.heartbeat)
        beat = decode(envelope.body, Heartbeat)
        heads = [
            head
            for head in beat.heads
            if (head.market, head.epoch) == (fold.market, fold.epoch) and head.sequence >= sequence
        ]
        if beat.maker != fold.maker or not heads:
            raise RemoteProtocolError("a snapshot of another head than was asked for", penalty=5)
        # In place, as with trade messages: one signature speaks for thousands of orders.
        if not verify(fold.maker, fold.network, "heartbeat", envelope):
            raise RemoteProtocolError("a snapshot with a wrong signature", penalty=10)
        assembly = None
        if heads[0].open_orders <= self._orders_max:
            assembly = Assembly(fold, heads[0], answer.digests, known)
        self.head, self._assembly = heads[0], assembly
        self._next()

    def _next(self) -> None:
        assembly, head = self._assembly, self.head
        if assembly is None or head is None or not assembly.wanted:
            self.rows = None if assembly is None else assembly.rows()
            self._done(self, None)
            return
        body = RowsRequest(
            self.fold.maker, head.market, head.head_hash, assembly.wanted, assembly.after
        )

        def on_answer(answer: Answer) -> None:
            if not isinstance(answer, Refusal):
                assembly.add(decode(answer, Rows))
                self._waits = 0
                self._next()
            elif answer.reason is RejectReason.RATE_LIMITED and self._waits < SYNC_RETRIES_MAX:
                self._waits += 1
                name = ("snapshot", self.peer, self.fold.maker, head.market)
                wait_ms = min(answer.retry_after_ms, RETRY_LAST_MS)
                self._core.call_after(name, wait_ms, self._next)
            else:
                self._done(self, answer)

        self._sessions.request(self.peer, "rows", body, on_answer)
