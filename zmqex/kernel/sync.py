"""Fetching what is missing of any log from whoever has it, and serving ours and others' to peers.

Subscribe first, fetch second: a peer that has become live is asked for the newest heartbeat of
every maker that it knows, and each log that is behind is then fetched in pages, from its maker if
that can be asked, else from anybody.  A failure means "ask someone else and keep what I had".
Not for: deciding what is true (`replicas`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zmqex.errors import RemoteProtocolError
from zmqex.kernel.core import Core
from zmqex.kernel.logs import MakerLog, Repair
from zmqex.kernel.sessions import Answer, Incoming, Refusal, Sessions
from zmqex.limits import GAP_WAIT_MS, LOG_PAGE_BYTES_MAX, PEERS_PAGE_MAX
from zmqex.market.orders import Side
from zmqex.protocol.codec import decode, decode_envelope
from zmqex.protocol.messages import (
    BookLevels,
    BookRequest,
    Heads,
    Heartbeat,
    Level,
    LogPage,
    LogRequest,
    Page,
)
from zmqex.reasons import RejectReason

if TYPE_CHECKING:
    from zmqex.kernel.replicas import Replicas


class Sync:
    """Keeps the logs of one node complete."""

    def __init__(self, core: Core, sessions: Sessions, replicas: Replicas) -> None:
        """Serve `heads`, `log` and `book`; fetch from every peer that becomes live."""
        self._core = core
        self._sessions = sessions
        self._replicas = replicas
        self._asking_heads: dict[bytes, None] = {}
        self._repairing: dict[tuple[bytes, str], None] = {}
        sessions.serve("heads", self._on_heads)
        sessions.serve("log", self._on_log)
        sessions.serve("book", self._on_book)
        sessions.on_live.append(self._on_live)

    # --- what a new peer knows -------------------------------------------------------------------

    def _on_live(self, peer: bytes) -> None:
        self._asking_heads[peer] = None
        self._ask_heads(peer, b"")

    def _ask_heads(self, peer: bytes, after: bytes) -> None:
        self._sessions.request(
            peer, "heads", Page(after), lambda answer: self._heads_answered(peer, after, answer)
        )

    def _heads_answered(self, peer: bytes, after: bytes, answer: Answer) -> None:
        if isinstance(answer, Refusal):
            self._heads_done(peer)
            return
        heartbeats = decode(answer, Heads).heartbeats
        claims = []
        last = after
        for raw in heartbeats:
            last = max(last, decode(decode_envelope(raw).body, Heartbeat).maker)
            claim = self._replicas.claims.heartbeat(raw, peer)
            if claim is not None:
                claims.append(claim)
        if heartbeats and last <= after:
            raise RemoteProtocolError("heads that do not go on", penalty=5)

        def then(wrong: int) -> None:
            if wrong:
                self._sessions.blame(peer, 10 * wrong, "heartbeats with a wrong signature")
            if heartbeats and not wrong:
                self._ask_heads(peer, last)
            else:
                self._heads_done(peer)

        self._replicas.claims.verify(claims, then)

    def _heads_done(self, peer: bytes) -> None:
        self._asking_heads.pop(peer, None)
        # A repair that found nobody to ask has somebody now.
        for maker in self._replicas.makers.values():
            for log in maker.logs.values():
                if log.behind:
                    self.behind(log)
        self._settle()

    def _settle(self) -> None:
        """A peer is in sync once its heads are known and nothing more is being fetched."""
        if not self._repairing:
            for peer in self._sessions.live_peers():
                if peer not in self._asking_heads:
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
        log.probe = max(log.fold.sequence, 1)
        if log.repair is Repair.IDLE:
            self._start(log, Repair.ASKING)
            self._ask(log)

    def _start(self, log: MakerLog, repair: Repair) -> None:
        log.repair = repair
        log.tried = {}
        self._repairing[_key(log)] = None

    def _end(self, log: MakerLog) -> None:
        log.repair, log.tried, log.probe = Repair.IDLE, {}, 0
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
        start = log.probe or fold.sequence + 1
        body = LogRequest(fold.maker, fold.market, fold.epoch, start)
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

    def _page_answered(self, log: MakerLog, peer: bytes, answer: Answer) -> None:
        if isinstance(answer, Refusal):
            self._ask(log)
            return
        batches = decode(answer, LogPage).batches
        claims = []
        for raw in batches:
            claim = self._replicas.claims.batch(raw, log.fold.market, log.fold.maker)
            if claim is not None:
                claims.append(claim)
        before = log.at

        def then(wrong: int) -> None:
            if wrong:
                self._sessions.blame(peer, 10 * wrong, "batches with a wrong signature")
            if log.at > before:
                log.tried = {}  # it goes on: everybody may be asked again
                if wrong:
                    log.tried[peer] = None
            self._ask(log)

        self._replicas.claims.verify(claims, then)

    # --- serving ---------------------------------------------------------------------------------

    def _on_heads(self, incoming: Incoming) -> None:
        """The newest heartbeat of every maker that we know, a page at a time, by identity."""
        after = decode(incoming.body, Page).after
        page: list[bytes] = []
        size = 0
        for identity in sorted(one for one in self._replicas.makers if one > after):
            if identity == self._core.identity:
                raw = self._replicas.own_heartbeat()
            else:
                raw = self._replicas.makers[identity].heartbeat
            size += len(raw)
            if len(page) == PEERS_PAGE_MAX or (page and size > LOG_PAGE_BYTES_MAX):
                break
            if raw:
                page.append(raw)
        self._sessions.answer(incoming, Heads(page))

    def _on_log(self, incoming: Incoming) -> None:
        """Batches of any log that we have, verbatim."""
        asked = decode(incoming.body, LogRequest)
        log = self._replicas.log(asked.maker, asked.market)
        if log is None:
            self._sessions.refuse(incoming, RejectReason.UNKNOWN_MAKER)
        elif asked.epoch != log.fold.epoch:
            older = asked.epoch < log.fold.epoch
            reason = RejectReason.OLD_EPOCH if older else RejectReason.SEQUENCE_GAP
            self._sessions.refuse(incoming, reason)
        else:
            page = log.tail.page(asked.from_sequence, LOG_PAGE_BYTES_MAX)
            if isinstance(page, RejectReason):
                self._sessions.refuse(incoming, page)
            else:
                self._sessions.answer(incoming, LogPage(page))

    def _on_book(self, incoming: Incoming) -> None:
        """Aggregated levels of a market."""
        asked = decode(incoming.body, BookRequest)
        if asked.market not in self._replicas.markets():
            self._sessions.refuse(incoming, RejectReason.WRONG_MARKET)
            return
        book = self._replicas.book(asked.market)
        bids, asks = (
            [
                Level(level.price_ticks, level.quantity_lots, level.orders)
                for level in book.levels(side, asked.depth)
            ]
            for side in (Side.BUY, Side.SELL)
        )
        self._sessions.answer(incoming, BookLevels(bids, asks))


def _key(log: MakerLog) -> tuple[bytes, str]:
    return log.fold.maker, log.fold.market
