"""Where our own orders are placed: matched, taken from their makers, and what is left is rested.

An order is worked in rounds: plan against the book, take everything that the plan fills (at the
same time, each from its maker), and plan again for what was refused, without asking the same order
twice.  When nothing crosses any more the rest goes to the book, or not, as its time in force says.
Not for the takes themselves (taker.py) or for numbers (orders.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from zmqex.kernel.commands import CancelOrder, PlaceOrder, TakeOrder
from zmqex.kernel.core import Core
from zmqex.kernel.orders import CLOSED, OPEN, WORKING, OwnOrders
from zmqex.kernel.records import OwnOrder, PutCommand, Trade
from zmqex.kernel.replicas import FoundOrder, Replicas
from zmqex.kernel.sessions import Sessions
from zmqex.kernel.taker import Taker
from zmqex.kernel.taking import Taking
from zmqex.kernel.trades import Trades
from zmqex.kernel.views import find_by_prefix, id_problem, order_view, trade_view
from zmqex.limits import (
    ANSWER_WAIT_MS,
    ORDER_LIFE_DEFAULT_MS,
    RESUME_WAIT_MS,
    TAKES_AT_ONCE_MAX,
    TAKES_PER_ORDER_MAX,
)
from zmqex.market.matching import Plan, plan
from zmqex.market.orders import BookOrder, IncomingOrder, OrderFlags, Side, TimeInForce
from zmqex.market.units import check_notional
from zmqex.protocol.identity import short, to_text
from zmqex.protocol.messages import Order
from zmqex.reasons import RejectReason
from zmqex.trading.settlement import PLAIN
from zmqex.trading.states import State

_RESTS = (TimeInForce.GTC, TimeInForce.GTD)
_MESSAGES = {
    RejectReason.SELF_TRADE: "it would trade with your own order; cancel that one first",
    RejectReason.WOULD_CROSS: "it would trade at once, and post-only forbids that",
    RejectReason.NOT_FILLABLE: "the book cannot fill all of it, and it asks for all or nothing",
    RejectReason.EXPIRY_TOO_FAR: "an order lives for at most 7 days",
    RejectReason.EXPIRED: "its expiry has passed already",
    RejectReason.MINIMUM_ABOVE_QUANTITY: "the minimum is above the quantity",
    RejectReason.CONTRADICTORY_FLAGS: "its flags contradict each other",
    RejectReason.WRONG_MARKET: "this node does not trade that market",
    RejectReason.DUPLICATE_ORDER: "the same order exists already",
}


class Job(msgspec.Struct):
    """One incoming order (or bare take) while it is worked."""

    client: bytes
    request_id: int
    order_id: bytes  # b"" for a bare take
    pay_mode: str
    all_or_nothing: bool = False
    cancelled: bool = False
    outstanding: set[bytes] = msgspec.field(default_factory=set)
    tried: dict[bytes, None] = msgspec.field(default_factory=dict)  # order ids asked
    trades: list[bytes] = msgspec.field(default_factory=list)
    skipped: list[dict[str, Any]] = msgspec.field(default_factory=list)


class Desk:
    """Places, works and cancels our own orders."""

    def __init__(
        self,
        core: Core,
        sessions: Sessions,
        replicas: Replicas,
        trades: Trades,
        orders: OwnOrders,
        taking: Taking,
        taker: Taker,
    ) -> None:
        """Start without orders."""
        self._core = core
        self._sessions = sessions
        self._replicas = replicas
        self._trades = trades
        self._orders = orders
        self._taking = taking
        self._taker = taker
        self._jobs: dict[int, Job] = {}
        self._job_serial = 0
        self._answering: dict[int, Job] = {}
        self.keys: dict[str, bytes] = {}
        orders.on_expired = self._expired
        trades.on_moved.append(self._trade_moved)

    # --- placing -------------------------------------------------------------------------------

    def place(self, client: bytes, request_id: int, command: PlaceOrder) -> None:
        """Place an order; answered when every take of it has ended one way or another."""
        if command.key in self.keys:
            self._answer_repeated(client, request_id, command.key)
            return
        incoming = self._incoming(command)
        if isinstance(incoming, RejectReason):
            self._refuse(client, request_id, incoming)
            return
        planned = self._plan(command.market, incoming, Job(client, request_id, b"", ""))
        if planned.reason is not None:
            self._refuse(client, request_id, planned.reason, planned.blocker)
        elif command.dry_run:
            self._answer_plan(client, request_id, command, planned)
        else:
            self._begin(client, request_id, command, incoming)

    def _incoming(self, command: PlaceOrder) -> IncomingOrder | RejectReason:
        if command.market not in self._core.settings.markets:
            return RejectReason.WRONG_MARKET
        instrument = self._core.currencies.instrument(command.market)
        reason = check_notional(command.quantity_lots, command.price_ticks, instrument)
        if reason is not None:
            return reason
        try:
            side, time_in_force = Side(command.side), TimeInForce(command.time_in_force)
        except ValueError:
            return RejectReason.MALFORMED
        flags = OrderFlags.ALL_OR_NONE if command.all_or_none else OrderFlags.NONE
        life_ms = command.expires_in_ms or ORDER_LIFE_DEFAULT_MS
        return IncomingOrder(
            owner=self._core.identity,
            side=side,
            price_ticks=command.price_ticks,
            quantity_lots=command.quantity_lots,
            minimum_lots=max(command.minimum_lots, 1),
            flags=int(flags),
            post_only=command.post_only,
            time_in_force=time_in_force,
            expires_at_ms=self._core.now.wall_ms + life_ms,
        )

    def _begin(
        self, client: bytes, request_id: int, command: PlaceOrder, incoming: IncomingOrder
    ) -> None:
        rests = incoming.time_in_force in _RESTS
        order = Order(
            market=command.market,
            side=incoming.side.value,
            price_ticks=incoming.price_ticks,
            quantity_lots=incoming.quantity_lots,
            minimum_lots=incoming.minimum_lots,
            time_in_force=incoming.time_in_force.value if rests else TimeInForce.GTD.value,
            flags=incoming.flags,
            expires_at_ms=incoming.expires_at_ms,
            settlements=[PLAIN],
            payment_methods=[],
            nonce=self._core.random(16),
        )
        row = self._orders.add(
            order,
            time_in_force=incoming.time_in_force.value,
            post_only=command.post_only,
            renew=command.renew,
            pay_mode=command.pay_mode,
            command_key=command.key,
        )
        self._remember(command.key, row.order_id)
        self._work(self._new_job(client, request_id, row))

    def _new_job(self, client: bytes, request_id: int, row: OwnOrder) -> int:
        order = self._orders.terms(row.order_id)
        whole = bool(order.flags & OrderFlags.ALL_OR_NONE)
        job = Job(
            client,
            request_id,
            row.order_id,
            row.pay_mode,
            all_or_nothing=whole or row.time_in_force == TimeInForce.FOK,
        )
        self._job_serial += 1
        self._jobs[self._job_serial] = job
        return self._job_serial

    def _remember(self, key: str, order_id: bytes) -> None:
        if key:
            self.keys[key] = order_id
            self._core.persist(PutCommand(key, order_id))

    # --- working: rounds of plan and take ------------------------------------------------------

    def _work(self, serial: int) -> None:
        job = self._jobs[serial]
        row = self._orders.rows[job.order_id]
        left = self._orders.remaining_lots(job.order_id)
        stop = job.cancelled or row.post_only or len(job.tried) >= TAKES_PER_ORDER_MAX
        fills = () if stop or left == 0 else self._plan_row(row, left, job).fills
        targets = [self._replicas.row(fill.order_id) for fill in fills[:TAKES_AT_ONCE_MAX]]
        wanted = [(row, fill) for row, fill in zip(targets, fills, strict=False) if row]
        if not wanted:
            self._finish(serial)
            return
        # All are outstanding before the first is asked: an answer may come at once.
        for found, _fill in wanted:
            job.tried[found.order_id] = None
            job.outstanding.add(found.order_id)
        for found, fill in wanted:
            self._take(serial, found, fill.quantity_lots)

    def _plan_row(self, row: OwnOrder, left: int, job: Job) -> Plan:
        order = self._orders.terms(row.order_id)
        incoming = IncomingOrder(
            owner=self._core.identity,
            side=Side(order.side),
            price_ticks=order.price_ticks,
            quantity_lots=left,
            minimum_lots=min(order.minimum_lots, left),
            flags=order.flags,
            time_in_force=TimeInForce(row.time_in_force),
            expires_at_ms=order.expires_at_ms,
        )
        return self._plan(row.market, incoming, job)

    def _plan(self, market: str, incoming: IncomingOrder, job: Job) -> Plan:
        return plan(
            self._replicas.book(market),
            incoming,
            self._core.now.wall_ms,
            skip_orders=frozenset(job.tried),
            usable=self._usable,
        )

    def _usable(self, order: BookOrder) -> bool:
        if order.maker == self._core.identity:
            return True  # the plan refuses a self-trade by itself
        return (
            not self._replicas.is_stale(order.maker)
            and self._sessions.set_aside_until(order.maker) is None
        )

    def _take(self, serial: int, found: FoundOrder, quantity_lots: int) -> None:
        job = self._jobs[serial]
        trade = self._taking.take(
            found,
            quantity_lots,
            own_order_id=job.order_id,
            pay_mode=job.pay_mode,
            done=lambda trade: self._taken(serial, trade),
        )
        job.trades.append(trade.trade_id)
        if job.all_or_nothing:
            self._taker.defer(trade.trade_id)

    def _taken(self, serial: int, trade: Trade) -> None:
        job = self._jobs[serial]
        job.outstanding.discard(trade.order_id)
        if trade.state in {State.REFUSED, State.ABANDONING, State.CANCELLED}:
            job.skipped.append(
                {
                    "maker": to_text(trade.maker),
                    "order_id": trade.order_id.hex(),
                    "reason": trade.reason,
                    "detail": f"maker {short(trade.maker)} skipped: {trade.reason}",
                }
            )
        if not job.outstanding:
            # In an event of its own: the trade that told us is still being changed.
            self._core.call_after(("job", serial), 0, lambda: self._next(serial))

    def _next(self, serial: int) -> None:
        if self._jobs[serial].order_id:
            self._work(serial)
        else:
            self._conclude(serial)

    # --- finishing -----------------------------------------------------------------------------

    def _finish(self, serial: int) -> None:
        job = self._jobs[serial]
        row = self._orders.rows[job.order_id]
        left = self._orders.remaining_lots(job.order_id)
        if job.all_or_nothing and left > 0 and job.trades:
            self._give_up(job)
        elif left == 0:
            self._orders.close(job.order_id, RejectReason.FILLED)
        elif row.time_in_force not in _RESTS or job.cancelled:
            self._orders.close(job.order_id, RejectReason.CANCELLED)
        else:
            self._orders.publish(job.order_id)
        if job.all_or_nothing and left == 0:
            for trade_id in job.trades:
                self._taker.release(trade_id)
        self._conclude(serial)

    def _give_up(self, job: Job) -> None:
        """All or nothing has become nothing: no accepted part is paid."""
        for trade_id in job.trades:
            trade = self._trades.by_id[trade_id]
            if trade.state is State.ACCEPTED:
                self._taker.abandon(trade, RejectReason.NOT_FILLABLE)
        self._orders.close(job.order_id, RejectReason.NOT_FILLABLE)

    def _conclude(self, serial: int) -> None:
        """Answer; a payment that is just leaving gets a moment, so the answer shows its end."""
        job = self._jobs.pop(serial)
        if not job.client:
            return
        self._answering[serial] = job
        if self._is_paying(job):
            name = ("answer", serial)
            self._core.call_after(name, ANSWER_WAIT_MS, lambda: self._answer(serial))
        else:
            self._answer(serial)

    def _is_paying(self, job: Job) -> bool:
        return any(self._trades.by_id[one].state is State.PAYING for one in job.trades)

    def _trade_moved(self, _before: Trade, after: Trade) -> None:
        for serial, job in list(self._answering.items()):
            if after.trade_id in job.trades and not self._is_paying(job):
                self._core.cancel_timer(("answer", serial))
                self._answer(serial)

    def _answer(self, serial: int) -> None:
        job = self._answering.pop(serial)
        now_ms = self._core.now.wall_ms
        live = [self._trades.by_id[one] for one in job.trades]
        failed = {one["order_id"] for one in job.skipped}
        result: dict[str, Any] = {
            "trades": [
                trade_view(self._trades, trade, now_ms)
                for trade in live
                if trade.order_id.hex() not in failed
            ],
            "skipped": job.skipped,
            "repeated": False,
        }
        if job.order_id:
            result["order"] = order_view(self._orders, self._trades, job.order_id)
        elif job.skipped:
            reason = RejectReason(job.skipped[0]["reason"])
            message = f"the maker refused: {reason.value}"
            self._core.refuse(job.client, job.request_id, reason, message)
            return
        self._core.answer(job.client, job.request_id, result)

    def _answer_repeated(self, client: bytes, request_id: int, key: str) -> None:
        made = self.keys[key]
        now_ms = self._core.now.wall_ms
        result: dict[str, Any] = {"skipped": [], "repeated": True}
        if made in self._orders.rows:
            trades = self._trades.of_order(made)
            result["order"] = order_view(self._orders, self._trades, made)
        else:
            trades = [self._trades.by_id[made]] if made in self._trades.by_id else []
        result["trades"] = [trade_view(self._trades, trade, now_ms) for trade in trades]
        self._core.answer(client, request_id, result)

    def _answer_plan(
        self, client: bytes, request_id: int, command: PlaceOrder, planned: Plan
    ) -> None:
        fills = [
            {
                "order_id": fill.order_id.hex(),
                "maker": to_text(fill.maker),
                "quantity_lots": fill.quantity_lots,
                "price_ticks": fill.price_ticks,
            }
            for fill in planned.fills
        ]
        result = {
            "market": command.market,
            "fills": fills,
            "filled_lots": planned.filled_lots,
            "resting_lots": planned.resting_lots,
            "cancelled_lots": planned.cancelled_lots,
            "average_price_ticks_numerator": planned.notional_lot_ticks,
            "reason": "",
        }
        self._core.answer(client, request_id, result)

    def _refuse(
        self, client: bytes, request_id: int, reason: RejectReason, blocker: bytes | None = None
    ) -> None:
        message = f"the order was refused: {_MESSAGES.get(reason, reason.value)}"
        if blocker is not None:
            message += f" (order {blocker.hex()[:12]})"
        self._core.refuse(client, request_id, reason, message)

    # --- a bare take ---------------------------------------------------------------------------

    def take(self, client: bytes, request_id: int, command: TakeOrder) -> None:
        """Take a quantity of one order, whatever else the book has."""
        if command.key in self.keys:
            self._answer_repeated(client, request_id, command.key)
            return
        found = self._replicas.find(command.order_id)
        if not isinstance(found, FoundOrder):
            self._core.refuse(
                client, request_id, *id_problem(command.order_id, found, "order in the book")
            )
            return
        reason = self._why_not_take(found, command.quantity_lots)
        if reason is not None:
            message = f"order {found.order_id.hex()[:12]} cannot be taken: {reason.value}"
            self._core.refuse(client, request_id, reason, message)
            return
        job = Job(client, request_id, b"", command.pay_mode)
        self._job_serial += 1
        serial = self._job_serial
        self._jobs[serial] = job
        job.outstanding.add(found.order_id)
        self._take(serial, found, command.quantity_lots)
        self._remember(command.key, job.trades[0])

    def _why_not_take(self, found: FoundOrder, quantity_lots: int) -> RejectReason | None:
        if found.maker == self._core.identity:
            return RejectReason.OWN_ORDER
        if self._replicas.is_stale(found.maker):
            return RejectReason.STALE_MAKER
        if quantity_lots < 1:
            return RejectReason.INVALID_QUANTITY
        if quantity_lots > found.available_lots:
            return RejectReason.INSUFFICIENT_QUANTITY
        return None

    # --- cancel and expiry ---------------------------------------------------------------------

    def cancel(self, client: bytes, request_id: int, command: CancelOrder) -> None:
        """Cancel one order or all: what is held stays held until its trade has ended."""
        live = [one for one, row in self._orders.rows.items() if row.state != CLOSED]
        if not command.order_id:
            self._core.answer(
                client, request_id, {"cancelled": [self._cancel(one) for one in live]}
            )
            return
        found = find_by_prefix(command.order_id, self._orders.rows)
        if not isinstance(found, bytes):
            self._core.refuse(client, request_id, *id_problem(command.order_id, found, "order"))
            return
        row = self._orders.rows[found]
        if row.state == CLOSED:
            why = row.close_reason or RejectReason.ORDER_CLOSED.value
            message = f"order {found.hex()[:12]} cannot be cancelled: it is closed ({why})"
            self._core.refuse(client, request_id, RejectReason.ORDER_CLOSED, message)
            return
        self._core.answer(client, request_id, {"cancelled": [self._cancel(found)]})

    def _cancel(self, order_id: bytes) -> dict[str, Any]:
        row, removed = self._orders.rows[order_id], 0
        if row.state == OPEN:
            removed = self._orders.close(order_id, RejectReason.CANCELLED)
        for job in self._jobs.values():
            if job.order_id == order_id:
                # Its takes end by themselves; then it closes in place of resting.
                job.cancelled = True
                removed = self._orders.remaining_lots(order_id)
        return {
            "order_id": order_id.hex(),
            "market": row.market,
            "removed_lots": removed,
            "held_lots": self._trades.held_lots(order_id),
            "remaining_lots": self._orders.remaining_lots(order_id),
        }

    def _expired(self, row: OwnOrder) -> None:
        available = self._orders.available_lots(row.order_id)
        self._orders.close(row.order_id, RejectReason.EXPIRED)
        if not row.renew or available <= 0:
            return
        old = self._orders.terms(row.order_id)
        life_ms = old.expires_at_ms - row.created_ms
        renewed = msgspec.structs.replace(
            old,
            quantity_lots=available,
            minimum_lots=min(old.minimum_lots, available),
            expires_at_ms=self._core.now.wall_ms + life_ms,
            nonce=self._core.random(16),
        )
        fresh = self._orders.add(
            renewed, time_in_force=row.time_in_force, renew=True, pay_mode=row.pay_mode
        )
        self._orders.publish(fresh.order_id)

    # --- after a restart -----------------------------------------------------------------------

    def resume(self) -> None:
        """Go on working what was not finished, once its makers have had time to be found."""
        working = [row for row in self._orders.rows.values() if row.state == WORKING]
        for row in working:
            serial = self._new_job(b"", 0, row)
            job = self._jobs[serial]
            for trade in self._trades.of_order(row.order_id):
                job.trades.append(trade.trade_id)
                job.tried[trade.order_id] = None
            self._core.call_after(("job", serial), RESUME_WAIT_MS, self._worker(serial))

    def _worker(self, serial: int) -> Callable[[], None]:
        return lambda: self._work(serial)
