"""Fetching what is missing of any log from whoever has it, and serving ours and others' to peers.

Subscribe first, fetch second: a peer that has become live is asked for the newest heartbeat of
every maker that it knows, and each log that is behind is then fetched in pages, from its maker if
that can be asked, else from anybody, or as a snapshot where that is cheaper.  A failure means "ask
someone else and keep what I had".
Not for: deciding what is true (`replicas`); how a snapshot is put together (`snapshots`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from zmqex.errors import RemoteProtocolError
from zmqex.kernel.core import Core
from zmqex.kernel.logs import MakerLog, Repair
from zmqex.kernel.sessions import Answer, Incoming, Refusal, Sessions
from zmqex.kernel.snapshots import SnapshotFetch
from zmqex.limits import (
    GAP_WAIT_MS,
    HEARTBEAT_EVERY_MS,
    INTEGER_MAX,
    LOG_PAGE_BYTES_MAX,
    OPERATION_BYTES_MEAN,
    PEERS_PAGE_MAX,
    RETRY_LAST_MS,
    ROW_BYTES_MEAN,
    SNAPSHOT_BYTES,
    SYNC_RETRIES_MAX,
)
from zmqex.market.orders import Side
from zmqex.protocol.codec import decode, decode_envelope
from zmqex.protocol.identity import short
from zmqex.protocol.log import BUCKETS
from zmqex.protocol.messages import (
    BookLevels,
    BookRequest,
    Heads,
    Heartbeat,
    Level,
    LogPage,
    LogRequest,
    Page,
    Snapshot,
    SnapshotRequest,
)
from zmqex.reasons import RejectReason

if TYPE_CHECKING:
    from zmqex.kernel.replicas import Replicas


# It would help, but not now.
_BUSY: Final = (RejectReason.RATE_LIMITED, RejectReason.SEQUENCE_GAP, RejectReason.UNAVAILABLE)


class Sync:
    """Keeps the logs of one node complete."""

    def __init__(self, core: Core, sessions: Sessions, replicas: Replicas) -> None:
        """Serve `heads`, `log` and `book`; fetch from every peer that becomes live."""
        self._core = core
        self._sessions = sessions
        self._replicas = replicas
        self._settling: dict[bytes, None] = {}  # peers whose heads are all known
        self._waits: dict[bytes, int] = {}  # peers that have said "later", and how often
        self._repairing: dict[tuple[bytes, str], None] = {}
        self._turn = 0
        sessions.serve("heads", self._on_heads, reading=True)
        sessions.serve("log", self._on_log, reading=True)
        sessions.serve("book", self._on_book, reading=True)
        sessions.on_live.append(self._on_live)
        sessions.on_start.append(self._ask_again_for_own)

    # --- what a new peer knows -------------------------------------------------------------------

    def _on_live(self, peer: bytes) -> None:
        self._settling.pop(peer, None)
        self._core.cancel_timer(("heads", peer))
        self._waits.pop(peer, None)
        self._ask_heads(peer, b"")
        self._ask_for_own(peer)

    def _ask_again_for_own(self) -> None:
        """Every few seconds one peer in turn: the first question may have been lost."""
        self._core.call_after("own log", HEARTBEAT_EVERY_MS, self._ask_again_for_own)
        live = self._sessions.live_peers()
        self._turn += 1
        if live:
            self._ask_for_own(live[self._turn % len(live)])

    def _ask_for_own(self, peer: bytes) -> None:
        """Whether a peer has more of our own logs than we; it may not have our word for it."""
        for log in self._replicas.logs_of(self._core.identity):
            fold = log.fold
            if fold.epoch:
                body = LogRequest(fold.maker, fold.market, fold.epoch, fold.sequence + 1)
                self._sessions.request(peer, "log", body, partial(self._own_answered, peer, log))

    def _own_answered(self, peer: bytes, log: MakerLog, answer: Answer) -> None:
        if not isinstance(answer, Refusal):
            batches = decode(answer, LogPage).batches[:1]
            claims = [
                self._replicas.claims.batch(raw, log.fold.market, log.fold.maker) for raw in batches
            ]
            self._replicas.claims.verify([one for one in claims if one is not None])
        elif answer.reason is RejectReason.LOG_TOO_OLD:
            # It has dropped what it would show us: there must be more, which we have signed.
            fold = log.fold
            body = SnapshotRequest(fold.maker, fold.market, fold.epoch, fold.sequence + 1)
            self._sessions.request(peer, "snapshot", body, self._own_head_answered)

    def _own_head_answered(self, answer: Answer) -> None:
        if not isinstance(answer, Refusal):
            claim = self._replicas.claims.heartbeat(decode(answer, Snapshot).heartbeat)
            self._replicas.claims.verify([] if claim is None else [claim])

    def _ask_heads(self, peer: bytes, after: bytes) -> None:
        self._sessions.request(
            peer, "heads", Page(after), lambda answer: self._heads_answered(peer, after, answer)
        )

    def _heads_answered(self, peer: bytes, after: bytes, answer: Answer) -> None:
        if isinstance(answer, Refusal):
            self._heads_refused(peer, after, answer)
            return
        page = decode(answer, Heads)
        heartbeats = page.heartbeats
        # Most of what is told has been told by others already, and need not be read again.
        makers = self._replicas.makers.values()
        known = {maker.heartbeat: maker.identity for maker in makers if maker.heartbeat}
        claims = []
        last = after
        for raw in heartbeats:
            if raw in known:
                last = max(last, known[raw])
                continue
            last = max(last, decode(decode_envelope(raw).body, Heartbeat).maker)
            claim = self._replicas.claims.heartbeat(raw, peer)
            if claim is not None:
                claims.append(claim)
        if heartbeats and last <= after:
            raise RemoteProtocolError("heads that do not go on", penalty=5)

        def then(wrong: int) -> None:
            if wrong:
                self._sessions.blame(peer, 10 * wrong, "heartbeats with a wrong signature")
            if not wrong and not page.is_last:
                self._ask_heads(peer, last)
            else:
                self._heads_done(peer)

        self._replicas.claims.verify(claims, then)

    def _heads_refused(self, peer: bytes, after: bytes, refusal: Refusal) -> None:
        """Go on later where a peer has told as much as it may for now."""
        waits = self._waits.get(peer, 0)
        if refusal.reason is not RejectReason.RATE_LIMITED or waits == SYNC_RETRIES_MAX:
            self._heads_done(peer)
            return
        self._waits[peer] = waits + 1
        wait_ms = min(refusal.retry_after_ms, RETRY_LAST_MS)
        self._core.call_after(("heads", peer), wait_ms, lambda: self._ask_heads(peer, after))

    def _heads_done(self, peer: bytes) -> None:
        self._waits.pop(peer, None)
        self._settling[peer] = None
        # A repair that found nobody to ask has somebody now.
        for maker in self._replicas.makers.values():
            for log in maker.logs.values():
                if log.behind:
                    self.behind(log)
        self._settle()

    def _settle(self) -> None:
        """A peer is in sync once its heads are known and nothing more is being fetched."""
        if not self._repairing:
            settled, self._settling = self._settling, {}
            for peer in settled:
                self._sessions.synced(peer)

    # --- a log that is behind --------------------------------------------------------------------

    def behind(self, log: MakerLog) -> None:
        """Fetch what is missing, unless it comes by itself within a moment."""
        if log.repair is Repair.IDLE:
            self._start(log, Repair.WAITING)
            key = _key(log)
            self._core.call_after(("repair", *key), GAP_WAIT_MS, lambda: self._ask(log))

    def probe(self, log: MakerLog) -> None:
        """The maker's chain differs from ours at our head or before it: fetch the proof."""
        if not log.probe:
            log.tried = {}  # whoever gave what does not fit has what is before it
        log.probe = max(log.fold.sequence, 1)
        if log.repair is Repair.IDLE:
            self._start(log, Repair.ASKING)
            self._ask(log)

    def _start(self, log: MakerLog, repair: Repair) -> None:
        log.repair = repair
        log.tried, log.retries, log.fetched = {}, 0, 0
        self._repairing[_key(log)] = None

    def _end(self, log: MakerLog) -> None:
        if log.lag and log.why_not:
            log.why = f"{len(log.tried)} peers could not help, the last: {log.why_not}"
        log.repair, log.tried, log.probe, log.buckets = Repair.IDLE, {}, 0, {}
        log.by_snapshot = log.widening = False
        self._repairing.pop(_key(log), None)
        self._settle()

    def _ask(self, log: MakerLog) -> None:
        """Ask the next peer, or give up until there is news of this log."""
        log.repair = Repair.ASKING
        peer = self._next_peer(log) if log.behind or log.probe else None
        if peer is None:
            self._end(log)
            return
        log.tried[peer] = None
        fold = log.fold
        if (log.by_snapshot or log.widening) and not log.probe:
            self._core.count("snapshots_asked")
            fetch = SnapshotFetch(
                self._core,
                self._sessions,
                peer,
                fold,
                lambda fetch, refusal: self._snapshot_ended(log, fetch, refusal),
                orders_max=self._replicas.cap(fold.maker),
            )
            fetch.start(fold.sequence + (not log.widening), log.buckets)
            return
        body = LogRequest(fold.maker, fold.market, fold.epoch, log.probe or fold.sequence + 1)
        self._core.count("log_pages_asked")
        self._sessions.request(
            peer, "log", body, lambda answer: self._page_answered(log, peer, answer)
        )

    def _next_peer(self, log: MakerLog) -> bytes | None:
        """The maker itself, else who told us of it, else any live peer; each once."""
        live = self._sessions.live_peers()
        for peer in (log.fold.maker, log.hint, *live):
            if peer not in log.tried and self._sessions.is_live(peer):
                return peer
        return None

    def _refused(self, log: MakerLog, peer: bytes, refusal: Refusal) -> None:
        """Ask somebody else; whoever is merely busy is asked again where there is nobody else."""
        log.why_not = f"{refusal.reason.value} ({short(peer)})"
        proof_is_gone = log.probe and peer == log.fold.maker and log.behind
        if refusal.reason is RejectReason.LOG_TOO_OLD and (proof_is_gone or not log.probe):
            # It has a snapshot in place of what is gone, or a newer head in place of that one.
            log.by_snapshot, log.probe = True, 0
            self._ask_again(log, peer, 0)
        elif refusal.reason in _BUSY and refusal.retry_after_ms and not self._next_peer(log):
            self._ask_again(log, peer, refusal.retry_after_ms)
        else:
            self._ask(log)

    def _ask_again(self, log: MakerLog, peer: bytes, after_ms: int) -> None:
        log.retries += 1
        if log.retries <= SYNC_RETRIES_MAX:
            del log.tried[peer]
        # A peer's word for "later" holds up a log of somebody else's: not for long.
        wait_ms = min(after_ms, RETRY_LAST_MS)
        self._core.call_after(("repair", *_key(log)), wait_ms, lambda: self._ask(log))

    def _page_answered(self, log: MakerLog, peer: bytes, answer: Answer) -> None:
        if isinstance(answer, Refusal):
            self._refused(log, peer, answer)
            return
        page = decode(answer, LogPage)
        claims = []
        for raw in page.batches:
            claim = self._replicas.claims.batch(raw, log.fold.market, log.fold.maker)
            if claim is not None:
                claims.append(claim)
        before = log.at

        def then(wrong: int) -> None:
            if wrong:
                self._sessions.blame(peer, 10 * wrong, "batches with a wrong signature")
            if log.at > before:
                log.fetched += log.at[1] - before[1] if log.at[0] == before[0] else log.at[1]
                log.why = f"{log.fetched} batches by the log from {short(peer)}"
                log.tried, log.retries = {}, 0  # it goes on: everybody may be asked again
                if wrong:
                    log.tried[peer] = None
            log.by_snapshot = log.by_snapshot or page.left_bytes > _snapshot_bytes(log, page)
            self._ask(log)

        self._replicas.claims.verify(claims, then)

    def _snapshot_ended(self, log: MakerLog, fetch: SnapshotFetch, refusal: Refusal | None) -> None:
        if refusal is not None or fetch.head is None:
            self._refused(log, fetch.peer, refusal or Refusal(RejectReason.UNAVAILABLE))
            return
        self._replicas.install(log, fetch.head, fetch.rows)
        log.why = (
            f"snapshot at {fetch.head.sequence}, {fetch.differing} of {BUCKETS} buckets, "
            f"from {short(fetch.peer)}"
        )
        log.tried, log.by_snapshot = {}, False
        self._ask(log)

    # --- serving ---------------------------------------------------------------------------------

    def _on_heads(self, incoming: Incoming) -> None:
        """The newest heartbeats of us and of all makers with a log, a page at a time."""
        after = decode(incoming.body, Page).after
        page: list[bytes] = []
        size = 0
        beats = {one.identity: one.heartbeat for one in self._replicas.makers.values()}
        beats[self._core.identity] = self._replicas.own_heartbeat()
        for _, raw in sorted(one for one in beats.items() if one[1] and one[0] > after):
            size += len(raw)
            if len(page) == PEERS_PAGE_MAX or (page and size > LOG_PAGE_BYTES_MAX):
                break
            page.append(raw)
        self._sessions.answer(incoming, Heads(page))

    def _on_log(self, incoming: Incoming) -> None:
        """Batches of any log that we have, verbatim."""
        asked = decode(incoming.body, LogRequest)
        log = self._replicas.log(asked.maker, asked.market)
        refused = self._replicas.why_not_serve(log, asked.epoch)
        if log is None or refused is not None:
            self._sessions.refuse(incoming, refused or RejectReason.UNKNOWN_MAKER)
            return
        page = log.tail.page(asked.from_sequence, LOG_PAGE_BYTES_MAX)
        if isinstance(page, RejectReason):
            self._sessions.refuse(incoming, page)
        else:
            self._sessions.answer(incoming, LogPage(*page))

    def _on_book(self, incoming: Incoming) -> None:
        """Aggregated levels of a market."""
        asked = decode(incoming.body, BookRequest)
        if asked.market not in self._replicas.markets():
            self._sessions.refuse(incoming, RejectReason.WRONG_MARKET)
            return
        book = self._replicas.book(asked.market)
        bids, asks = (
            [
                Level(level.price_ticks, min(level.quantity_lots, INTEGER_MAX), level.orders)
                for level in book.levels(side, asked.depth)
            ]
            for side in (Side.BUY, Side.SELL)
        )
        self._sessions.answer(incoming, BookLevels(bids, asks))


def _snapshot_bytes(log: MakerLog, page: LogPage) -> int:
    """About what a snapshot would cost in place of the pages that are left."""
    touched = page.left_bytes // OPERATION_BYTES_MEAN
    if not log.fold.sequence or log.fold.head_only:
        touched = BUCKETS
    return SNAPSHOT_BYTES + log.open_orders * ROW_BYTES_MEAN * min(touched, BUCKETS) // BUCKETS


def _key(log: MakerLog) -> tuple[bytes, str]:
    return log.fold.maker, log.fold.market
