"""Bugs to plant in the real kernel: each is one function replaced, as a careless change might do.

Not for running them; the tests do that, and each must be caught.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.simulation.plan import Fault
from zmqex.kernel.claims import Claims
from zmqex.kernel.events import Verified
from zmqex.kernel.forks import Forks
from zmqex.kernel.logs import Maker as KnownMaker
from zmqex.kernel.logs import MakerLog
from zmqex.kernel.maker import Maker
from zmqex.kernel.orders import CLOSED, OwnOrders
from zmqex.kernel.publisher import Publisher
from zmqex.kernel.records import Trade
from zmqex.kernel.replicas import Replicas
from zmqex.kernel.shown import Shown
from zmqex.kernel.trades import Trades
from zmqex.market.book import Book
from zmqex.protocol import log as log_module
from zmqex.protocol import snapshot
from zmqex.protocol.log import Fold, Plan, Row
from zmqex.protocol.messages import Batch, Close, Fill, Update
from zmqex.reasons import RejectReason
from zmqex.runtime import gate
from zmqex.trading.states import Input, State

Plant = Callable[[pytest.MonkeyPatch], None]
F = Fault


def resurrected_order(patch: pytest.MonkeyPatch) -> None:
    """A closed order stays in the book."""
    show = Shown.show

    def keeps(self: Shown, log: MakerLog, rows: Any, terms: Any) -> None:  # noqa: ANN401
        show(self, log, [(key, row) for key, row in rows if row is not None], terms)

    patch.setattr(Shown, "show", keeps)


def skipped_gap(patch: pytest.MonkeyPatch) -> None:
    """What came too early is applied before what is missing."""

    def skips(self: Replicas, log: MakerLog) -> None:
        while log.gap:
            waiting = log.gap.pop(min(log.gap))
            log.fold.sequence = waiting.batch.sequence - 1
            log.fold.head_hash = waiting.batch.previous_hash
            plan = log.fold.check(waiting.batch, waiting.digest)
            if isinstance(plan, Plan):
                self._apply(log, plan, waiting.envelope)

    patch.setattr(Replicas, "_advance", skips)


def fork_accepted(patch: pytest.MonkeyPatch) -> None:
    """A batch need not build on the one before it."""
    check = Fold.check

    def lenient(self: Fold, batch: Batch, digest: bytes) -> Plan | RejectReason:
        if batch.sequence == self.sequence + 1 and self.sequence:
            self.head_hash = batch.previous_hash
        return check(self, batch, digest)

    patch.setattr(Fold, "check", lenient)
    patch.setattr(Forks, "accept", lambda *_arguments: None)


def stale_heartbeat_accepted(patch: pytest.MonkeyPatch) -> None:
    """An old heartbeat counts like a new one."""
    patch.setattr(KnownMaker, "is_old", lambda *_arguments: False)


def quantity_freed_by_the_clock(patch: pytest.MonkeyPatch) -> None:
    """The end of a hold frees the quantity without asking Lightning."""
    time_up = Maker._time_up

    def frees(self: Maker, key: bytes) -> None:
        trade = self._trades.by_id[key]
        if trade.side == "buy" and trade.state is State.INVOICED:
            reason = RejectReason.HOLD_ENDED.value
            trade = self._trades.move(trade, Input.END_ASKED, reason=reason)
            self.returned(self._trades.move(trade, Input.BASE_NEGATIVE))
        else:
            time_up(self, key)

    patch.setattr(Maker, "_time_up", frees)


def root_without_what_is_held(patch: pytest.MonkeyPatch) -> None:
    """The book root forgets a part of each row."""
    pack = log_module._pack_row
    patch.setattr(log_module, "_pack_row", lambda key, remaining, _held: pack(key, remaining, 0))


class _Anything:
    """Differs from nothing."""

    def __ne__(self, _other: object) -> bool:
        return False


def wrong_rows_accepted(patch: pytest.MonkeyPatch) -> None:
    """The rows of a snapshot are believed without looking at the digest of their bucket."""
    patch.setattr(snapshot, "bucket_digest", lambda _rows: _Anything())


def held_quantity_sold_again(patch: pytest.MonkeyPatch) -> None:
    """What is held for one taker is offered to the next."""
    patch.setattr(Trades, "held_lots", lambda *_arguments: 0)


def signature_not_checked(patch: pytest.MonkeyPatch) -> None:
    """Whatever claims to be signed is believed."""
    on_verified = Claims.on_verified

    def believes(self: Claims, event: Verified) -> None:
        on_verified(self, Verified(event.ticket, (True,) * len(event.valid)))

    patch.setattr(Claims, "on_verified", believes)


def told_before_it_is_on_disk(patch: pytest.MonkeyPatch) -> None:
    """Nothing waits for its commit."""
    patch.setattr(gate, "REVEALING", ())


def restored_log_goes_on(patch: pytest.MonkeyPatch) -> None:
    """A maker that lost a part of its log begins no new epoch."""
    patch.setattr(Publisher, "_on_own_ahead", lambda *_arguments: None)


def expired_order_taken(patch: pytest.MonkeyPatch) -> None:
    """A take is admitted although the order is past its end."""

    def ignores_time(self: OwnOrders, order_id: bytes) -> RejectReason | None:
        row = self.rows.get(order_id)
        if row is None:
            return RejectReason.UNKNOWN_ORDER
        return RejectReason.ORDER_CLOSED if row.state == CLOSED else None

    patch.setattr(OwnOrders, "why_closed", ignores_time)
    patch.setattr(Book, "expire", lambda *_arguments: 0)


def lost_last_batch_unnoticed(patch: pytest.MonkeyPatch) -> None:
    """A heartbeat that names a newer batch is not followed up."""
    patch.setattr(Replicas, "_accept_head", lambda *_arguments: None)


def preimage_in_the_log(patch: pytest.MonkeyPatch) -> None:
    """A log line shows what proves a payment."""
    log = Trades._log

    def shows(self: Trades, trade: Trade, event: str, **facts: Any) -> None:  # noqa: ANN401
        log(self, trade, event, preimage=trade.preimage.hex(), **facts)

    patch.setattr(Trades, "_log", shows)


def update_of_a_stranger_applied(patch: pytest.MonkeyPatch) -> None:
    """An operation on an order that the log does not have makes one up."""
    stage = Fold._stage

    def invents(
        self: Fold, rows: dict[bytes, Row | None], operation: Update | Close | Fill
    ) -> RejectReason | None:
        refused = stage(self, rows, operation)
        return None if refused is RejectReason.UNKNOWN_ORDER else refused

    patch.setattr(Fold, "_stage", invents)


# Bug -> what must go wrong around it, so that it shows.
BUGS: dict[Plant, frozenset[Fault]] = {
    resurrected_order: frozenset(),
    skipped_gap: frozenset({F.LOSS, F.REORDER}),
    fork_accepted: frozenset({F.FORK}),
    stale_heartbeat_accepted: frozenset({F.REPLAY, F.REORDER}),
    quantity_freed_by_the_clock: frozenset({F.LIGHTNING_SILENT}),
    root_without_what_is_held: frozenset(),
    wrong_rows_accepted: frozenset({F.WRONG_ROOT, F.PARTITION, F.LOSS}),
    held_quantity_sold_again: frozenset(),
    signature_not_checked: frozenset({F.FORGERY}),
    told_before_it_is_on_disk: frozenset({F.CRASH}),
    restored_log_goes_on: frozenset({F.RESTORED_BACKUP}),
    expired_order_taken: frozenset({F.CLOCK_SKEW}),
    lost_last_batch_unnoticed: frozenset({F.LOSS}),
    preimage_in_the_log: frozenset(),
    update_of_a_stranger_applied: frozenset({F.INVALID_ORDER}),
}
