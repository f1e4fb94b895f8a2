"""Our own order logs: signed batches of what the orders say, and heartbeats of where they stand.

Operations of one event leave together, journaled in the same transaction as what caused them.
Not for deciding what to say (`orders`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from zmqex.errors import LocalProtocolError, RemoteProtocolError, StorageError
from zmqex.kernel.claims import HEARTBEAT_TOPIC
from zmqex.kernel.core import Core
from zmqex.kernel.effects import Publish
from zmqex.kernel.records import OwnBatch, OwnCheckpoint, PutBatch, PutCheckpoint
from zmqex.kernel.replicas import MakerLog, Replicas
from zmqex.kernel.sessions import Sessions
from zmqex.limits import (
    BATCH_OPERATIONS_MAX,
    CLOCK_SKEW_MAX_MS,
    HEADS_MAX,
    HEARTBEAT_EVERY_MS,
    HEARTBEAT_SOON_MS,
    LOG_PAGE_BYTES_MAX,
    PUBLISH_EVERY_MS,
    SECOND_MS,
    UPDATE_EVERY_MS,
)
from zmqex.market.orders import Side
from zmqex.protocol.codec import decode, decode_envelope, encode
from zmqex.protocol.identity import ZERO_DIGEST, digest, order_id
from zmqex.protocol.log import Row, topic
from zmqex.protocol.messages import Batch, Head, Heartbeat, Operation, Order, Place, Update
from zmqex.protocol.tail import Tail
from zmqex.reasons import RejectReason

# An operation that is not a placement is two numbers, an id and tags.
_OPERATION_BYTES: Final = 80


class Publisher:
    """The one writer of our own logs."""

    def __init__(self, core: Core, replicas: Replicas, sessions: Sessions) -> None:
        """Say nothing yet; `restore` brings back our logs and starts the heart."""
        self._core = core
        self._replicas = replicas
        self._sessions = sessions
        self._pending: dict[str, list[Operation]] = {}
        self._placed: dict[str, dict[bytes, Order]] = {}  # what of `pending` is placed
        self._sent_ms: dict[str, int] = {}  # when the last batch of a market left
        self._updated_ms: dict[bytes, int] = {}
        self._waiting: dict[bytes, tuple[str, Update]] = {}
        self._beat = b""
        self._beat_heads: list[Head] = []
        self._beat_sent_ms = 0
        self._beat_is_due = False
        # Whether we may speak for this identity; what is said meanwhile waits for it.
        self.may_publish: Callable[[], bool] = lambda: True
        self._ahead: dict[str, int] = {}
        # Called with a market whose log was found to be behind what others have of it: our open
        # orders are no longer published there.
        self.on_log_lost: list[Callable[[str], None]] = []
        replicas.on_own_ahead = self._on_own_ahead
        replicas.own_heartbeat = self.heartbeat

    # --- the life of the log ---------------------------------------------------------------------

    def restore(
        self, batches: tuple[OwnBatch, ...], checkpoints: tuple[OwnCheckpoint, ...] = ()
    ) -> None:
        """Fold what is journaled and go on from there; StorageError if it does not fit."""
        newest: dict[str, int] = {}
        for market in self._core.settings.markets:
            newest[market] = self._core.counters.get(_counter(market), 0)
        for batch in batches:
            newest[batch.market] = max(newest.get(batch.market, 0), batch.epoch)
        for market, epoch in newest.items():
            if epoch:
                self._replicas.begin(self._replicas.own_log(market), epoch)
        for point in checkpoints:
            self._restore_point(point)
        starts: dict[str, int] = {}
        for batch in sorted(batches, key=lambda one: (one.market, one.epoch, one.sequence)):
            if batch.epoch == newest[batch.market]:
                if starts.setdefault(batch.market, batch.sequence) == batch.sequence:
                    self._replicas.own_log(batch.market).tail = Tail(batch.sequence - 1)
                self._restore(batch)
        self._heart()

    def _restore_point(self, point: OwnCheckpoint) -> None:
        log = self._replicas.own_log(point.market)
        rows = {}
        for raw, remaining, held in point.rows:
            order = log.fold.read_order(raw)
            if isinstance(order, RejectReason):
                raise StorageError(f"an order of the own log cannot be read: {order.value}")
            rows[log.fold.order_id(raw)] = Row(raw, remaining, held)
        head = Head(
            point.market, point.epoch, point.sequence, point.head_hash, len(rows), ZERO_DIGEST
        )
        self._replicas.install(log, head, rows)
        log.target = log.at

    def _restore(self, row: OwnBatch) -> None:
        try:
            body = decode_envelope(row.envelope).body
            batch = decode(body, Batch)
        except RemoteProtocolError as error:
            raise StorageError(f"a batch of the own log cannot be read: {error}") from error
        log = self._replicas.own_log(row.market)
        if row.sequence <= log.fold.sequence:
            log.tail.append(digest(body), row.envelope)  # before the checkpoint: only to be served
            return
        refused = self._replicas.apply_own(batch, digest(body), row.envelope)
        if refused is not None:
            where = f"{row.market} {row.epoch}/{row.sequence}"
            raise StorageError(f"the own log does not fit together at {where}: {refused.value}")

    def append(self, market: str, operation: Operation) -> None:
        """Say something about an own order; it leaves at the end of this event, or soon after.

        A placement so soon after another one leaves with those that follow, in one batch.
        Updates of one order leave at most every UPDATE_EVERY_MS, the first a moment later, the last
        always.  What is said of orders that the log does not have (it was lost) is dropped.
        """
        if isinstance(operation, Place):
            self._pending.setdefault(market, []).append(operation)
            key = order_id(self._core.settings.network, self._core.identity, operation.order)
            self._placed.setdefault(market, {})[key] = decode(operation.order, Order)
            return
        key, placed = operation.order_id, self._placed.get(market, {})
        if key not in placed and key not in self._replicas.own_log(market).fold.orders:
            self._core.count("unpublished_operations")
            return
        if isinstance(operation, Update):
            self._update(market, operation)
            return
        self._drop_update(key)
        self._pending.setdefault(market, []).append(operation)

    def published(self, market: str, key: bytes) -> tuple[int, int] | None:
        """What our log says of an own order: remaining and held lots; None: it is not there."""
        row = self._replicas.own_log(market).fold.orders.get(key)
        return None if row is None else (row.remaining_lots, row.held_lots)

    def flush(self) -> None:
        """Sign and send what was said in this event, as few batches as fit."""
        if not self._pending or not self.may_publish():
            return
        due = [market for market in self._pending if self._is_due(market)]
        for market in due:
            self._send(market)
        if due and not self._beat_is_due:
            # Whoever is asked for our heads has fresh ones, and a lost last batch is noticed soon.
            self._beat_is_due = True
            self._core.call_after("heartbeat soon", HEARTBEAT_SOON_MS, self._heart_soon)

    def settle(self, market: str, side: Side, price_ticks: int) -> None:
        """Send what still waits if an order on this side would trade with it: it is in no book."""
        for order in self._placed.get(market, {}).values():
            low, high = (order.price_ticks, price_ticks)
            if side is Side.SELL:
                low, high = high, low
            if order.side is not side and low <= high and self.may_publish():
                self._send(market)
                return

    def resume(self) -> None:
        """We may publish again: find out what another copy said, and say what has waited."""
        ahead, self._ahead = self._ahead, {}
        for market, epoch in ahead.items():
            self._on_own_ahead(market, epoch)
        self._heart()

    def heartbeat(self) -> bytes:
        """Our heartbeat as envelope bytes, at most a second old and never behind our logs.

        While we may not publish it is the last one, or nothing.
        """
        if not self.may_publish():
            return self._beat
        now_ms = self._core.now.wall_ms
        if self._beat_sent_ms > now_ms + CLOCK_SKEW_MAX_MS:
            self._beat_sent_ms = 0  # the clock was set back: nobody believed those heartbeats
        heads = self._heads()
        old = now_ms - self._beat_sent_ms >= SECOND_MS
        if old or not self._beat or heads != self._beat_heads:
            # Strictly growing, or it would not count as newer.
            self._beat_sent_ms = max(now_ms, self._beat_sent_ms + 1)
            self._beat_heads = heads
            body = encode(Heartbeat(self._core.identity, self._beat_sent_ms, heads))
            self._beat = self._core.seal("heartbeat", body)
        return self._beat

    # --- private ---------------------------------------------------------------------------------

    def _is_due(self, market: str) -> bool:
        """Whether what is said must leave now: only fresh orders wait, and not for long.

        One signature then speaks for many of them; a lone one leaves at once.
        """
        operations, now_ms = self._pending[market], self._core.now.monotonic_ms
        due_ms = self._sent_ms.get(market, now_ms - PUBLISH_EVERY_MS) + PUBLISH_EVERY_MS
        full = len(operations) >= BATCH_OPERATIONS_MAX
        if now_ms >= due_ms or full or not all(isinstance(one, Place) for one in operations):
            return True
        # The end of that event sends it.
        self._core.call_at(("publish", market), due_ms, lambda: None)
        return False

    def _send(self, market: str) -> None:
        self._placed.pop(market, None)
        self._core.cancel_timer(("publish", market))
        for chunk in _chunks(self._pending.pop(market)):
            self._publish(market, chunk)
            self._sent_ms[market] = self._core.now.monotonic_ms

    def _heart(self) -> None:
        self._core.call_after("heartbeat", HEARTBEAT_EVERY_MS, self._heart)
        if not self.may_publish():
            return
        self._beat = b""  # always a new one, even if the clock was set back a little
        self._core.emit(Publish(HEARTBEAT_TOPIC, self.heartbeat()))

    def _heart_soon(self) -> None:
        self._beat_is_due = False
        self._heart()

    def _heads(self) -> list[Head]:
        logs = self._replicas.logs_of(self._core.identity)
        return [log.fold.head() for log in logs if log.fold.epoch][:HEADS_MAX]

    def _update(self, market: str, update: Update) -> None:
        """Say it with the placement, if that has not left either; else a moment later.

        It waits so that whoever has taken is answered first, and one signature speaks for many.
        """
        key, now_ms = update.order_id, self._core.now.monotonic_ms
        if key in self._placed.get(market, {}):
            pending = self._pending[market]
            pending[:] = [one for one in pending if not _is_update_of(one, key)]
            pending.append(update)
        elif key in self._waiting:
            self._waiting[key] = market, update
        else:
            self._waiting[key] = market, update
            due_ms = self._updated_ms.get(key, now_ms - UPDATE_EVERY_MS) + UPDATE_EVERY_MS
            due_ms = max(due_ms, now_ms + PUBLISH_EVERY_MS)
            self._core.call_at(("update", key), due_ms, lambda: self._update_due(key))

    def _update_due(self, key: bytes) -> None:
        market, update = self._waiting.pop(key)
        self._updated_ms[key] = self._core.now.monotonic_ms
        self._pending.setdefault(market, []).append(update)

    def _drop_update(self, key: bytes) -> None:
        self._updated_ms.pop(key, None)
        if self._waiting.pop(key, None) is not None:
            self._core.cancel_timer(("update", key))

    def _publish(self, market: str, operations: list[Operation]) -> None:
        core, log = self._core, self._replicas.own_log(market)
        if not log.fold.epoch:
            self._begin(log, core.now.wall_ms)
        fold = log.fold
        batch = Batch(
            core.identity,
            market,
            fold.epoch,
            fold.sequence + 1,
            fold.head_hash,
            core.now.wall_ms,
            operations,
        )
        body = encode(batch)
        body_digest = digest(body)
        envelope = core.seal("batch", body)
        refused = self._replicas.apply_own(batch, body_digest, envelope)
        if refused is not None:
            raise LocalProtocolError(f"our own batch in {market} is refused: {refused.value}")
        core.persist(PutBatch(OwnBatch(market, fold.epoch, fold.sequence, body_digest, envelope)))
        core.emit(Publish(topic(market), envelope))
        if self._replicas.trim(log):
            self._checkpoint(log)

    def _begin(self, log: MakerLog, epoch: int) -> None:
        self._core.set_counter(_counter(log.fold.market), epoch)
        again = log.fold.epoch
        self._replicas.begin(log, epoch)
        if again:
            self._checkpoint(log)

    def _checkpoint(self, log: MakerLog) -> None:
        """Let the journal forget what this log no longer needs: its orders say it all."""
        fold = log.fold
        rows = tuple((row.raw, row.remaining_lots, row.held_lots) for row in fold.orders.values())
        point = OwnCheckpoint(fold.market, fold.epoch, fold.sequence, fold.head_hash, rows)
        self._core.persist(PutCheckpoint(point, log.tail.first))

    def _on_own_ahead(self, market: str, epoch: int) -> None:
        """Others have more of our log than we have: it was lost or restored.  Start a new epoch."""
        if not self.may_publish():
            self._ahead[market] = max(epoch, self._ahead.get(market, 0))  # the other copy's words
            return
        log = self._replicas.own_log(market)
        epoch = max(self._core.now.wall_ms, epoch, log.fold.epoch) + 1
        self._core.log("error", "own_log_lost", market=market, epoch=epoch)
        self._core.count("own_logs_lost")
        for key in log.fold.orders:
            self._drop_update(key)
        self._pending.pop(market, None)
        self._placed.pop(market, None)
        self._begin(log, epoch)
        self._core.emit(Publish(HEARTBEAT_TOPIC, self.heartbeat()))
        for call in self.on_log_lost:
            call(market)


def _counter(market: str) -> str:
    return "epoch/" + market


def _is_update_of(operation: Operation, key: bytes) -> bool:
    return isinstance(operation, Update) and operation.order_id == key


def _chunks(operations: list[Operation]) -> list[list[Operation]]:
    """Cut into pieces that fit one batch and one frame, in order."""
    chunks: list[list[Operation]] = []
    size = LOG_PAGE_BYTES_MAX
    for operation in operations:
        added = len(operation.order) if isinstance(operation, Place) else 0
        added += _OPERATION_BYTES
        if size + added > LOG_PAGE_BYTES_MAX or len(chunks[-1]) == BATCH_OPERATIONS_MAX:
            chunks.append([])
            size = 0
        chunks[-1].append(operation)
        size += added
    return chunks
