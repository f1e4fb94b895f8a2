"""Every maker's orders as this node knows them: folds over signed logs.

Nothing that a peer repeats, reorders or invents changes the result.
Not for: what arrives before its signature has been checked (`claims`), fetching what is missing
and serving others (`sync`), the books (`shown`), or what we publish (`publisher`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from zmqex.kernel.books import Books
from zmqex.kernel.claims import RELAYED_TOPIC, Claims
from zmqex.kernel.commands import Command
from zmqex.kernel.core import Core
from zmqex.kernel.effects import Publish
from zmqex.kernel.events import Verified
from zmqex.kernel.forks import Forks
from zmqex.kernel.logs import FoundOrder, Maker, MakerLog, Waiting, kept
from zmqex.kernel.room import Room
from zmqex.kernel.sessions import Sessions
from zmqex.kernel.shown import Shown
from zmqex.kernel.snapshots import Snapshots
from zmqex.kernel.sync import Sync
from zmqex.limits import (
    CLOCK_SKEW_MAX_MS,
    GAP_BATCHES_MAX,
    GAP_BYTES_MAX,
    ID_PREFIX_CHARS_MIN,
    LOG_BYTES_KEPT_MIN,
    ORDERS_PER_MAKER_MAX,
    ORDERS_TOTAL_MAX,
    PROOF_EVERY_MS,
    ROW_BYTES,
    SECOND_MS,
    SILENT_MS,
    STRANGER_MS,
)
from zmqex.protocol.identity import short, to_text
from zmqex.protocol.log import Fold, Plan, Row, topic
from zmqex.protocol.messages import Batch, ForkProof, Head, Heartbeat
from zmqex.protocol.tail import Tail
from zmqex.reasons import RejectReason

__all__ = ["FoundOrder", "MakerLog", "Replicas"]


class Replicas:
    """All folds and books of one node."""

    def __init__(self, core: Core, sessions: Sessions) -> None:
        """Know no orders; `sync` fetches them as peers become live."""
        self._core = core
        self._sessions = sessions
        self.makers: dict[bytes, Maker] = {core.identity: Maker(core.identity, trusted=True)}
        self._shown = Shown(core, self._all_logs)
        self.book = self._shown.book
        self.hide = self._shown.hide
        self.relaying = False  # set by `following`: what is accepted from a stream is passed on
        self.on_changed = self._shown.on_changed
        # Set by the publisher: others have more of our own log than we; our heartbeat.
        self.on_own_ahead: Callable[[str, int], None] = lambda _market, _epoch: None
        self.own_heartbeat: Callable[[], bytes] = lambda: b""
        self.forks = Forks(core, self)
        self.room = Room(core, sessions, self.makers, self._shown, self.is_stale, self.forks.keeps)
        self.claims = Claims(core, sessions, self)
        self.on_stream = self.claims.on_stream
        self.snapshots = Snapshots(core, sessions, self)
        self.sync = Sync(core, sessions, self)
        self._views = Books(core, sessions, self)
        sessions.order_view = self._order_view
        sessions.maker_views = self.maker_views
        sessions.address_book.is_maker = self._is_maker
        sessions.after_sleep.append(self._after_sleep)
        sessions.on_start.append(self._shown.look_again)

    # --- reading ---------------------------------------------------------------------------------

    def markets(self) -> tuple[str, ...]:
        """The markets that this node follows."""
        return self._core.settings.markets

    def row(self, order_id: bytes) -> FoundOrder | None:
        """An open order of anybody, expired ones too, but none of a void log."""
        for log in self._all_logs():
            if log.forked:
                continue
            row = log.fold.orders.get(order_id)
            if row is not None:
                return _found(order_id, log, row)
        return None

    def find(self, text: str) -> FoundOrder | RejectReason | None:
        """The one open order whose hex id starts so, own ones too.

        MALFORMED below 8 characters, AMBIGUOUS_ID where several do, None where none does.
        """
        wanted = text.lower().strip()
        if len(wanted) < ID_PREFIX_CHARS_MIN:
            return RejectReason.MALFORMED
        found = [
            _found(order_id, log, row)
            for log in self._all_logs()
            if not log.forked
            for order_id, row in log.fold.orders.items()
            if order_id.hex().startswith(wanted)
        ]
        if len(found) > 1:
            return RejectReason.AMBIGUOUS_ID
        return found[0] if found else None

    def is_stale(self, maker: bytes) -> bool:
        """Whether a maker was silent for too long, or never heard; its orders are not taken."""
        if maker == self._core.identity:
            return False
        known = self.makers.get(maker)
        if known is None or known.heard_ms is None:
            return True
        return self._core.now.monotonic_ms - known.heard_ms >= SILENT_MS

    def logs_of(self, maker: bytes) -> list[MakerLog]:
        """The logs of one maker, in order of market."""
        known = self.makers.get(maker)
        return [] if known is None else [known.logs[market] for market in sorted(known.logs)]

    def own_log(self, market: str) -> MakerLog:
        """Our own log of a market."""
        return self._log_in(self.makers[self._core.identity], market)

    def on_command(self, client: bytes, request_id: int, command: Command) -> bool:
        """Answer a command about books; False where it is about something else."""
        return self._views.on_command(client, request_id, command)

    # --- changes from outside --------------------------------------------------------------------

    def on_verified(self, event: Verified) -> None:
        """Accept what was truly signed, in order of arrival; announce which books changed."""
        self.claims.on_verified(event)
        self._shown.announce()

    def trust(self, maker: bytes) -> None:
        """A maker is a stranger no more: it settled a trade with us, or the operator says so."""
        known = self.makers.get(maker)
        if known is not None and not known.trusted:
            known.trusted = True
            for log in known.logs.values():
                self._widen_if_it_fits(log)

    # --- accepting what is true ------------------------------------------------------------------

    def accept_batch(self, new: Waiting) -> None:
        """A maker signed this batch: apply it now, or when what comes before it is there."""
        batch = new.batch
        log = self.log_for(batch.maker, batch.market)
        if log is None or batch.epoch < log.fold.epoch:
            self._core.count("ignored_old_epoch")
            return
        if batch.maker == self._core.identity:
            self.on_own_ahead(batch.market, batch.epoch)
            return
        if batch.epoch > log.fold.epoch:
            self.begin(log, batch.epoch)
        if log.forked or log.refused:
            return
        other = kept(log, batch.sequence)
        if other is not None:
            if other[0] != new.digest:
                self.forks.accept(log, batch.epoch, ForkProof(other[1], new.envelope))
            return
        if batch.sequence <= log.fold.sequence:
            return
        log.target = max(log.target, (batch.epoch, batch.sequence))
        self._keep(log, new)
        self._advance(log)
        if log.behind:
            self.sync.behind(log)

    def _keep(self, log: MakerLog, new: Waiting) -> None:
        """Put a batch where it waits for its turn; the farthest away goes first."""
        log.gap[new.batch.sequence] = new
        if len(log.gap) == 1:
            return  # the usual case: it comes next, or is the first that came too early
        size = sum(len(one.envelope) for one in log.gap.values())
        if len(log.gap) > GAP_BATCHES_MAX or size > GAP_BYTES_MAX:
            self._core.count("gap_batches_dropped")
            del log.gap[max(log.gap)]

    def _advance(self, log: MakerLog) -> None:
        """Apply whatever comes next, as far as there is no gap."""
        fold = log.fold
        while (next_one := log.gap.pop(fold.sequence + 1, None)) is not None:
            plan = fold.check(next_one.batch, next_one.digest)
            if isinstance(plan, Plan):
                self._apply(log, plan, next_one.envelope)
                if next_one.streamed and self.relaying:
                    self._core.emit(Publish(topic(fold.market), next_one.envelope))
            elif plan is RejectReason.FORKED_LOG:
                # One of our batches differs from what the maker built on: find the proof.
                self.sync.probe(log)
                return
            else:
                self._refuse(log, plan)
                return

    def _refuse(self, log: MakerLog, reason: RejectReason) -> None:
        """Its maker signed what no maker may: keep what we had, follow no further."""
        log.refused = True
        log.gap = {}
        self._core.count("refused_batches")
        self._core.log(
            "warning",
            "log_refused",
            maker=short(log.fold.maker),
            market=log.fold.market,
            sequence=log.fold.sequence + 1,
            reason=reason.value,
        )
        self._sessions.blame(log.fold.maker, 10, "a batch that is " + reason.value)

    def accept_heartbeat(self, beat: Heartbeat, raw: bytes, hint: bytes) -> None:
        """A maker signed this heartbeat: it is alive if that is fresh, and its logs stand there."""
        now = self._core.now
        if beat.maker == self._core.identity:
            for head in beat.heads:
                if self.own_is_ahead(head):
                    self.on_own_ahead(head.market, head.epoch)
            return
        maker = self._maker_for(beat.maker)
        if maker is None or maker.is_old(beat.sent_at_ms, now):
            return
        maker.sent_at_ms, maker.heartbeat = beat.sent_at_ms, raw if beat.heads else b""
        if self.relaying and beat.heads and not hint:
            self._core.emit(Publish(RELAYED_TOPIC, raw))
        if beat.sent_at_ms >= now.wall_ms - CLOCK_SKEW_MAX_MS:
            maker.heard_ms = now.monotonic_ms
            self._sessions.heard(beat.maker)
        for head in beat.heads:
            if head.market in self._shown.books and head.epoch <= now.wall_ms + CLOCK_SKEW_MAX_MS:
                self._accept_head(self._log_in(maker, head.market), head, raw, hint)

    def _accept_head(self, log: MakerLog, head: Head, raw: bytes, hint: bytes) -> None:
        """Learn how far a log goes, and whether ours is the same one."""
        fold = log.fold
        if head.epoch > fold.epoch:
            self.begin(log, head.epoch)
        if log.forked and head.epoch == fold.epoch:
            self.forks.repeat(log, PROOF_EVERY_MS)  # its maker does not know that it is void
        if head.epoch < fold.epoch or log.forked or log.refused:
            return
        if head.sequence < fold.sequence:
            self._remind(log)
        if (head.epoch, head.sequence) >= log.target:
            log.target, log.open_orders = (head.epoch, head.sequence), head.open_orders
        log.hint = hint or log.hint
        if log.behind:
            self.sync.behind(log)
        elif head.sequence == fold.sequence and head.head_hash != fold.head_hash:
            self.sync.probe(log)
        elif head.sequence == fold.sequence and not fold.head_only:
            if head.book_root != fold.root():
                self._core.count(RejectReason.ROOT_MISMATCH.value)
                self._core.log("error", "root_mismatch", maker=short(fold.maker), at=fold.sequence)
                log.why = "its maker signs another book root than its own batches have"
            else:
                self.snapshots.anchor(log, raw, head)
        else:
            self._widen_if_it_fits(log)

    def _remind(self, log: MakerLog) -> None:
        """Its maker speaks of less than it has signed: show it the newest of its own words.

        Its disk may have been replaced by an older copy, and what was answered to its first
        question lost; it opens a new epoch then.  Where only a heartbeat was overtaken by a batch,
        nothing follows.
        """
        newest, now_ms = kept(log, log.fold.sequence), self._core.now.monotonic_ms
        if newest is not None and now_ms - log.reminded_ms >= PROOF_EVERY_MS:
            log.reminded_ms = now_ms
            self._core.emit(Publish(topic(log.fold.market), newest[1]))

    def own_is_ahead(self, head: Head) -> bool:
        """Whether somebody has more of our own log than we, or another version of it."""
        if head.market not in self._shown.books:
            return False
        fold = self.own_log(head.market).fold
        if (head.epoch, head.sequence) != (fold.epoch, fold.sequence):
            return (head.epoch, head.sequence) > (fold.epoch, fold.sequence)
        return head.head_hash != fold.head_hash

    # --- changing logs and books -----------------------------------------------------------------

    def apply_own(self, batch: Batch, body_digest: bytes, envelope: bytes) -> RejectReason | None:
        """Apply a batch of our own log; the refusal, having changed nothing, if it does not fit."""
        log = self.own_log(batch.market)
        plan = log.fold.check(batch, body_digest)
        if isinstance(plan, RejectReason):
            return plan
        self._apply(log, plan, envelope)
        log.target = log.at
        return None

    def begin(self, log: MakerLog, epoch: int) -> None:
        """Start a newer epoch of a log: whatever was said in older ones is void."""
        self.hide(log)
        self.forks.ended(log)
        log.fold.begin(epoch)
        log.tail, log.gap, log.anchors, log.buckets = Tail(), {}, [], {}
        log.forked = log.refused = log.widening = log.by_snapshot = False
        log.probe, log.proof, log.why, log.open_orders = 0, b"", "", 0
        log.target = max(log.target, (epoch, 0))

    def install(self, log: MakerLog, head: Head, rows: dict[bytes, Row] | None) -> None:
        """Stand at a signed head with its verified orders; None: there are too many to keep.

        Changes nothing where the log has come as far by itself meanwhile.
        """
        fold = log.fold
        if head.epoch != fold.epoch or log.forked or log.refused:
            return
        if head.sequence < fold.sequence or (head.sequence == fold.sequence and not log.widening):
            return
        if rows is None or self._over(log, len(fold.orders), len(rows)):
            if not fold.head_only:
                self._go_head_only(log)
            fold.restore(head, {})
            fold.forget_orders()
        else:
            old = fold.orders
            fold.restore(head, rows)
            gone: list[tuple[bytes, Row | None]] = [(key, None) for key in old if key not in rows]
            changed = [(key, row) for key, row in rows.items() if old.get(key) is not row]
            terms = {key: row.order for key, row in rows.items() if key not in old}
            self._shown.show(log, [*gone, *changed], terms)
        log.tail, log.anchors, log.widening = Tail(head.sequence), [], False
        log.gap = {at: one for at, one in log.gap.items() if at > head.sequence}
        self._advance(log)

    def _apply(self, log: MakerLog, plan: Plan, envelope: bytes) -> None:
        """Carry a plan out in the fold, its tail and the book."""
        fold = log.fold
        before = len(fold.orders)
        log.tail.append(plan.digest, envelope)
        if fold.maker != self._core.identity:  # ours is trimmed on disk too, by the publisher
            self.trim(log)
        fold.apply(plan)
        over = self._over(log, before, len(fold.orders))
        self._shown.show(log, plan.rows.items(), plan.terms)
        if over:
            self._go_head_only(log)

    def trim(self, log: MakerLog) -> bool:
        """Drop the older half of a log's batches once they weigh more than its open orders."""
        fold, size, most = log.fold, log.tail.size, LOG_BYTES_KEPT_MIN
        if size > most:
            most = max(most, fold.order_bytes + ROW_BYTES * len(fold.orders))
        if size <= most:
            return False
        log.tail.trim(most // 2)
        return True

    # --- bounds ----------------------------------------------------------------------------------

    def cap(self, maker: bytes) -> int:
        """How many orders of this maker are kept in one market."""
        if maker == self._core.identity:
            return ORDERS_TOTAL_MAX
        known = self.makers[maker]
        peer = self._sessions.peers.get(maker)
        pinned = peer is not None and peer.pinned
        friend = known.trusted or pinned or self._sessions.known_for_ms(maker) >= STRANGER_MS
        return ORDERS_PER_MAKER_MAX if friend else self._core.settings.orders_per_stranger

    def _over(self, log: MakerLog, before: int, orders: int) -> bool:
        """Whether a log that comes to have so many orders is too much, of its maker or in all."""
        maker = log.fold.maker
        if orders > self._core.settings.orders_per_stranger and orders > self.cap(maker):
            return True
        book = self._shown.books.get(log.fold.market)
        full = book is not None and len(book) >= ORDERS_TOTAL_MAX
        return full and orders > before and maker != self._core.identity

    def _go_head_only(self, log: MakerLog) -> None:
        """Keep following the chain, but keep no orders: better none than some of them."""
        self.hide(log)
        log.fold.forget_orders()
        log.anchors = []  # what was frozen went with the orders
        self._core.count("head_only_logs")
        self._core.log(
            "warning", "log_head_only", maker=short(log.fold.maker), market=log.fold.market
        )

    def _widen_if_it_fits(self, log: MakerLog) -> None:
        """Fetch the orders of a head-only log once there are no more than its cap."""
        if log.fold.head_only and log.open_orders <= self.cap(log.fold.maker):
            log.widening = True
            self.sync.behind(log)

    # --- private ---------------------------------------------------------------------------------

    def log(self, maker: bytes, market: str) -> MakerLog | None:
        """A log, if anything is known of it."""
        known = self.makers.get(maker)
        return None if known is None else known.logs.get(market)

    def why_not_serve(self, log: MakerLog | None, epoch: int) -> RejectReason | None:
        """Why nothing of that epoch of a log can be given to others, or None."""
        if log is None:
            return RejectReason.UNKNOWN_MAKER
        if epoch != log.fold.epoch:
            older = epoch < log.fold.epoch
            return RejectReason.OLD_EPOCH if older else RejectReason.SEQUENCE_GAP
        if not log.forked:
            return None
        # Whoever asks has not seen the proof; it listens to us by now.
        self.forks.repeat(log, SECOND_MS)
        return RejectReason.FORKED_LOG

    def _all_logs(self) -> Iterable[MakerLog]:
        for maker in self.makers.values():
            yield from maker.logs.values()

    def _maker_for(self, identity: bytes) -> Maker | None:
        """The entry of a maker, made if there is room."""
        maker = self.makers.get(identity)
        if maker is None and self.room.make():
            maker = self.makers[identity] = Maker(identity)
        return maker

    def log_for(self, maker: bytes, market: str) -> MakerLog | None:
        """A log, made if there is room for its maker."""
        known = self._maker_for(maker)
        return None if known is None else self._log_in(known, market)

    def _log_in(self, maker: Maker, market: str) -> MakerLog:
        log = maker.logs.get(market)
        if log is None:
            fold = Fold(self._core.settings.network, maker.identity, market)
            log = maker.logs[market] = MakerLog(fold)
        return log

    def _after_sleep(self) -> None:
        """Nobody was heard while the machine slept."""
        for maker in self.makers.values():
            maker.heard_ms = None

    def _order_view(self, peer: bytes) -> dict[str, Any]:
        logs = self.logs_of(peer)
        orders = sum(len(log.fold.orders) for log in logs)
        return {"open_orders": orders, "logs": [log.view() for log in logs]}

    def _is_maker(self, identity: bytes) -> bool:
        maker = self.makers.get(identity)
        return maker is not None and bool(maker.logs)

    def maker_views(self) -> list[dict[str, Any]]:
        """Every maker whose logs are known, as `ListPeers` shows it; without ourselves."""
        now_ms = self._core.now.monotonic_ms
        return [
            {
                "maker": to_text(maker.identity),
                "stale": self.is_stale(maker.identity),
                "heard_ms_ago": None if maker.heard_ms is None else now_ms - maker.heard_ms,
                **self._order_view(maker.identity),
            }
            for maker in self.makers.values()
            if maker.identity != self._core.identity
        ]


def _found(order_id: bytes, log: MakerLog, row: Row) -> FoundOrder:
    return FoundOrder(order_id, log.fold.maker, row.order, row.remaining_lots, row.held_lots)
