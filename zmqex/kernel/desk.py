"""Where our own orders are placed: matched, taken from their makers, and what is left is rested.

An order is worked in rounds: plan against the book, take everything that the plan fills (at the
same time, each from its maker), and plan again for what was refused, without asking the same order
twice.  When nothing crosses any more the rest goes to the book, or not, as its time in force says.
Not for the takes themselves (taker.py) or for numbers (orders.py).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from zmqex.kernel import terms
from zmqex.kernel.answers import Answers, Job
from zmqex.kernel.commands import CancelOrder, PlaceOrder, ReplaceOrder, TakeOrder
from zmqex.kernel.core import Core
from zmqex.kernel.crossing import Crossing
from zmqex.kernel.keys import Keys
from zmqex.kernel.orders import CLOSED, OPEN, WORKING, OwnOrders
from zmqex.kernel.records import OwnOrder, Trade
from zmqex.kernel.replicas import FoundOrder, Replicas
from zmqex.kernel.sessions import Sessions
from zmqex.kernel.sides import Sides
from zmqex.kernel.taking import Taking
from zmqex.kernel.trades import Trades
from zmqex.kernel.views import find_by_prefix, id_problem
from zmqex.limits import (
    HOLDS_PER_TAKER_MAX,
    RESUME_WAIT_MS,
    TAKE_RETRIES_MAX,
    TAKE_RETRY_MS,
    TAKES_AT_ONCE_MAX,
    TAKES_PER_ORDER_MAX,
)
from zmqex.market.matching import Plan, plan
from zmqex.market.orders import BookOrder, IncomingOrder, OrderFlags, TimeInForce
from zmqex.protocol.identity import to_text
from zmqex.protocol.messages import Order
from zmqex.reasons import RejectReason
from zmqex.trading.states import Input, State

# What a maker says that is of use, but has too much of us at the moment.
_BUSY = frozenset({RejectReason.TOO_MANY_HOLDS.value, RejectReason.RATE_LIMITED.value})
_NOTHING = Plan((), 0, 0, 0)


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
        sides: Sides,
    ) -> None:
        """Start without orders."""
        self._core = core
        self._sessions = sessions
        self._replicas = replicas
        self._trades = trades
        self._orders = orders
        self._taking = taking
        self._sides = sides
        self._answers = Answers(core, trades, orders)
        self._crossing = Crossing(core, sessions, replicas, trades, orders, taking)
        self._jobs: dict[int, Job] = {}
        self._job_serial = 0
        self.keys = Keys(core)
        # Own order that was placed for a client's time -> that client; `endings` acts on it.
        self.clients: dict[bytes, bytes] = {}

    # --- placing -------------------------------------------------------------------------------

    def place(self, client: bytes, request_id: int, command: PlaceOrder) -> None:
        """Place an order; answered when every take of it has ended one way or another."""
        if command.key in self.keys:
            self._answers.repeated(client, request_id, self.keys[command.key])
            return
        self._place(client, request_id, command)

    def replace(self, client: bytes, request_id: int, command: ReplaceOrder) -> None:
        """Close an open order and place another in its stead; answered as a placement."""
        if command.key in self.keys:
            self._answers.repeated(client, request_id, self.keys[command.key])
            return
        found = self._find(client, request_id, command.order_id, "replaced")
        if found is None:
            return
        row = self._orders.rows[found]
        if row.market != command.market:
            message = f"order {found.hex()[:12]} is of {row.market}: an order stays in its market"
            self._core.refuse(client, request_id, RejectReason.WRONG_MARKET, message)
        elif row.state != OPEN:
            message = f"order {found.hex()[:12]} is being matched; try again in a moment"
            self._core.refuse(client, request_id, RejectReason.WRONG_STATE, message)
        else:
            placed = terms.replacement(self._core, self._orders, row, command)
            self._place(client, request_id, placed, found)

    def _place(
        self, client: bytes, request_id: int, command: PlaceOrder, replaced: bytes = b""
    ) -> None:
        incoming = terms.incoming(self._core, self._orders, command, replaced)
        if isinstance(incoming, RejectReason):
            self._answers.refuse(client, request_id, incoming)
            return
        if why := terms.why_unsettled(self._core, command):
            self._answers.refuse(client, request_id, RejectReason.UNSUPPORTED_SETTLEMENT, why=why)
            return
        job = Job(client, request_id, b"", "", command.settlements)
        job.tried.add(replaced)
        planned = self._plan(command.market, incoming, job)
        book = self._replicas.book(command.market)
        beyond = (
            ""
            if command.any_price
            else terms.outside_band(
                self._core,
                book,
                incoming,
                lambda one: (
                    one.maker != self._core.identity and self._usable(one, command.settlements)
                ),
            )
        )
        if planned.reason is not None:
            self._answers.refuse(client, request_id, planned.reason, planned.blocker)
        elif command.dry_run:
            self._answers.planned(client, request_id, command, planned)
        elif beyond:
            self._core.refuse(client, request_id, RejectReason.OUTSIDE_PRICE_BAND, beyond)
        else:
            self._begin(client, request_id, command, incoming, replaced)

    def _begin(
        self,
        client: bytes,
        request_id: int,
        command: PlaceOrder,
        incoming: IncomingOrder,
        replaced: bytes,
    ) -> None:
        gone = self.close(replaced, RejectReason.REPLACED) if replaced else None
        order = Order(
            market=command.market,
            side=incoming.side,
            price_ticks=incoming.price_ticks,
            quantity_lots=incoming.quantity_lots,
            minimum_lots=incoming.minimum_lots,
            time_in_force="gtc" if incoming.time_in_force is TimeInForce.GTC else "gtd",
            flags=incoming.flags,
            expires_at_ms=incoming.expires_at_ms,
            settlements=command.settlements,
            payment_methods=(),
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
        if command.cancel_on_disconnect:
            self.clients[row.order_id] = self.clients.pop(replaced, client)
        self.keys.add(command.key, row.order_id)
        serial = self._new_job(client, request_id, row)
        if replaced:
            # It leaves the book only with this event's batch, and must not stop its successor.
            self._jobs[serial].tried.add(replaced)
            self._jobs[serial].replaced = gone
        self._work(serial)

    def _new_job(self, client: bytes, request_id: int, row: OwnOrder) -> int:
        order = self._orders.terms(row.order_id)
        whole = bool(order.flags & OrderFlags.ALL_OR_NONE)
        job = Job(
            client,
            request_id,
            row.order_id,
            row.pay_mode,
            order.settlements,
            all_or_nothing=whole or row.time_in_force == TimeInForce.FOK,
        )
        self._job_serial += 1
        self._jobs[self._job_serial] = job
        return self._job_serial

    def works_with(self, trade_id: bytes) -> bool:
        """Whether a take is of an order that is still being worked."""
        return any(trade_id in job.trades for job in self._jobs.values())

    # --- working: rounds of plan and take ------------------------------------------------------

    def _work(self, serial: int) -> None:
        job = self._jobs[serial]
        row = self._orders.rows[job.order_id]
        planned = self._next_round(job, row)
        if planned.reason is RejectReason.SELF_TRADE:
            # Only our own order is left to trade with: the rest must not lie across it.
            job.end = RejectReason.SELF_TRADE
        targets = self._targets(planned, job)
        if not targets:
            self._finish(serial)
            return
        # All are outstanding before the first is asked: an answer may come at once.
        for found, _lots in targets:
            job.tried.add(found.order_id)
            job.outstanding[found.order_id] = b""
        for found, lots in targets:
            self._take(serial, found, lots)

    def _next_round(self, job: Job, row: OwnOrder) -> Plan:
        left = self._orders.remaining_lots(job.order_id)
        if job.end is not None or row.post_only or left == 0:
            return _NOTHING
        return self._plan_row(row, left, job)

    def _targets(self, planned: Plan, job: Job) -> list[tuple[FoundOrder, int]]:
        """Whom to ask at the same time, best first: not too many, and not too often one maker."""
        room = min(TAKES_AT_ONCE_MAX, TAKES_PER_ORDER_MAX - len(job.trades))
        asked: dict[bytes, int] = {}
        targets: list[tuple[FoundOrder, int]] = []
        for fill in planned.fills:
            found = self._replicas.row(fill.order_id)
            if len(targets) >= room:
                break
            if found is None or asked.get(fill.maker, 0) >= HOLDS_PER_TAKER_MAX:
                continue
            asked[fill.maker] = asked.get(fill.maker, 0) + 1
            targets.append((found, fill.quantity_lots))
        return targets

    def _plan_row(self, row: OwnOrder, left: int, job: Job) -> Plan:
        return self._plan(row.market, self._incoming_again(row, left), job)

    def _incoming_again(self, row: OwnOrder, left: int) -> IncomingOrder:
        """What is left of an order, as if it came now."""
        order = self._orders.terms(row.order_id)
        return IncomingOrder(
            owner=self._core.identity,
            side=order.side,
            price_ticks=order.price_ticks,
            quantity_lots=left,
            minimum_lots=min(order.minimum_lots, left),
            flags=order.flags,
            time_in_force=TimeInForce(row.time_in_force),
            expires_at_ms=order.expires_at_ms,
        )

    def _plan(self, market: str, incoming: IncomingOrder, job: Job) -> Plan:
        self._orders.settle(market, incoming.side, incoming.price_ticks)
        return plan(
            self._replicas.book(market),
            incoming,
            self._core.now.wall_ms,
            skip_orders=frozenset(job.tried),
            usable=lambda one: self._usable(one, job.settlements),
        )

    def _usable(self, order: BookOrder, settlements: tuple[str, ...]) -> bool:
        if order.maker == self._core.identity:
            return True  # the plan refuses a self-trade by itself
        return (
            not self._replicas.is_stale(order.maker)
            and self._sessions.set_aside_until(order.maker) is None
            and self._settles(order.order_id, settlements)
        )

    def _settles(self, order_id: bytes, settlements: tuple[str, ...]) -> bool:
        """Whether an order and ours have a settlement in common."""
        found = self._replicas.row(order_id)
        return found is not None and bool(terms.choose_settlement(self._core, settlements, found))

    def _take(self, serial: int, found: FoundOrder, quantity_lots: int) -> None:
        job = self._jobs[serial]
        trade = self._taking.take(
            found,
            quantity_lots,
            own_order_id=job.order_id,
            pay_mode=job.pay_mode,
            settlement=terms.choose_settlement(self._core, job.settlements, found),
            done=lambda trade: self._taken(serial, trade),
        )
        job.trades.append(trade.trade_id)
        if trade.order_id in job.outstanding:
            job.outstanding[trade.order_id] = trade.trade_id
        if job.all_or_nothing:
            self._sides.taker(trade).defer(trade.trade_id)

    def _taken(self, serial: int, trade: Trade) -> None:
        job = self._jobs[serial]
        del job.outstanding[trade.order_id]
        if trade.state in {State.REFUSED, State.ABANDONING, State.CANCELLED}:
            job.failed.add(trade.trade_id)
            if not self._asks_again(job, trade):
                self._skip(job, trade.maker, trade.order_id, trade.reason)
        if not job.outstanding:
            # In an event of its own: the trade that told us is still being changed.
            pause_ms, job.pause_ms = job.pause_ms, 0
            self._core.call_after(("job", serial), pause_ms, lambda: self._next(serial))

    def _skip(self, job: Job, maker: bytes, order_id: bytes, reason: str) -> None:
        aside = self._sessions.set_aside_until(maker)
        for_ms = 0 if aside is None else aside[0] - self._core.now.monotonic_ms
        found = self._replicas.row(order_id)
        job.skip(maker, order_id, reason, for_ms, terms.how_to_settle(self._core, found))

    def _asks_again(self, job: Job, trade: Trade) -> bool:
        """A maker that had too much of us at once is asked again, a moment later, a few times."""
        again = job.retries.get(trade.order_id, 0)
        busy = trade.reason in _BUSY and self._sessions.set_aside_until(trade.maker) is None
        # A hold that waits for our operator does not go away in a moment.
        waits = any(
            (one.order_id, one.state, one.pay_mode) == (trade.order_id, State.ACCEPTED, "manual")
            for one in self._trades.running()
        )
        if (
            waits
            or not busy
            or not job.order_id
            or job.end is not None
            or again >= TAKE_RETRIES_MAX
        ):
            return False
        job.retries[trade.order_id] = again + 1
        job.tried.discard(trade.order_id)
        job.pause_ms = TAKE_RETRY_MS
        return True

    def _next(self, serial: int) -> None:
        if self._jobs[serial].order_id:
            self._work(serial)
        else:
            self._conclude(serial)

    # --- finishing -----------------------------------------------------------------------------

    def _finish(self, serial: int) -> None:
        job = self._jobs[serial]
        row = self._orders.rows[job.order_id]
        quantity = self._orders.terms(job.order_id).quantity_lots
        if job.all_or_nothing and row.taken_lots < quantity:
            self._give_up(job)
        left = self._orders.remaining_lots(job.order_id)
        rests = row.time_in_force in terms.RESTS and job.end is None
        if left == 0:
            self._orders.close(job.order_id, RejectReason.FILLED)
            self._release(job)
        elif rests and (left == quantity or not job.all_or_nothing):
            self._name_the_passed_over(job, row, left)
            self._orders.publish(job.order_id)
        else:
            nothing = RejectReason.NOT_FILLABLE if job.all_or_nothing else RejectReason.CANCELLED
            if job.end is None:
                self._name_the_passed_over(job, row, left)
            self._orders.close(job.order_id, job.end or nothing)
        self._conclude(serial)

    def _conclude(self, serial: int) -> None:
        self._answers.conclude(self._jobs.pop(serial))

    def _release(self, job: Job) -> None:
        if job.all_or_nothing:
            for trade in (self._trades.by_id[trade_id] for trade_id in job.trades):
                self._sides.taker(trade).release(trade.trade_id)

    def _name_the_passed_over(self, job: Job, row: OwnOrder, left: int) -> None:
        """Nothing crosses without a word: who has such an order and was not asked, and why."""
        if row.post_only:
            return
        incoming = self._incoming_again(row, left)
        book, now_ms = self._replicas.book(row.market), self._core.now.wall_ms
        named = {one["maker"] for one in job.skipped}
        for fill in plan(book, incoming, now_ms, skip_orders=frozenset(job.tried)).fills:
            aside = self._sessions.set_aside_until(fill.maker)
            reason = aside[1] if aside else RejectReason.STALE_MAKER
            if not aside and not self._replicas.is_stale(fill.maker):
                reason = RejectReason.TOO_MANY_HOLDS  # TAKES_PER_ORDER_MAX
                if not self._settles(fill.order_id, job.settlements):
                    reason = RejectReason.UNSUPPORTED_SETTLEMENT
            if to_text(fill.maker) not in named:
                named.add(to_text(fill.maker))
                self._skip(job, fill.maker, fill.order_id, reason.value)

    def _give_up(self, job: Job) -> None:
        """All or nothing has become nothing: no accepted part is paid, and it is whole again."""
        for trade_id in job.trades:
            trade = self._trades.by_id[trade_id]
            # A swap makes its own invoice before anything is paid.
            may_leave = self._trades.can(trade, Input.ABANDON)
            if trade.state in {State.ACCEPTED, State.INVOICED} and may_leave:
                self._orders.taken(job.order_id, -trade.quantity_lots)
                trade = self._trades.amend(trade, counted=False)
                self._sides.taker(trade).abandon(trade, RejectReason.NOT_FILLABLE)
                job.failed.add(trade_id)

    # --- a bare take ---------------------------------------------------------------------------

    def take(self, client: bytes, request_id: int, command: TakeOrder) -> None:
        """Take a quantity of one order, whatever else the book has."""
        if command.key in self.keys:
            self._answers.repeated(client, request_id, self.keys[command.key])
            return
        found = self._replicas.find(command.order_id)
        if not isinstance(found, FoundOrder):
            self._core.refuse(
                client, request_id, *id_problem(command.order_id, found, "order in the book")
            )
            return
        reason = terms.why_not_take(self._core, self._replicas, found, command)
        if reason is not None:
            self._answers.not_taken(client, request_id, found, reason)
            return
        job = Job(client, request_id, b"", command.pay_mode, (command.settlement,))
        self._job_serial += 1
        serial = self._job_serial
        self._jobs[serial] = job
        job.outstanding[found.order_id] = b""
        self._take(serial, found, command.quantity_lots)
        self.keys.add(command.key, job.trades[0])

    # --- cancel --------------------------------------------------------------------------------

    def cancel(self, client: bytes, request_id: int, command: CancelOrder) -> None:
        """Cancel one order or all: what is held stays held until its trade has ended."""
        live = [one for one, row in self._orders.rows.items() if row.state != CLOSED]
        if not command.order_id:
            self._core.answer(client, request_id, {"cancelled": [self.close(one) for one in live]})
            return
        found = self._find(client, request_id, command.order_id, "cancelled")
        if found is not None:
            self._core.answer(client, request_id, {"cancelled": [self.close(found)]})

    def _find(self, client: bytes, request_id: int, text: str, verb: str) -> bytes | None:
        """The own order that is meant and not closed; None where that was refused."""
        found = find_by_prefix(text, self._orders.rows)
        if not isinstance(found, bytes):
            self._core.refuse(client, request_id, *id_problem(text, found, "order"))
            return None
        row = self._orders.rows[found]
        if row.state == CLOSED:
            why = row.close_reason or RejectReason.ORDER_CLOSED.value
            message = f"order {found.hex()[:12]} cannot be {verb}: it is closed ({why})"
            self._core.refuse(client, request_id, RejectReason.ORDER_CLOSED, message)
            return None
        return found

    def close(
        self, order_id: bytes, reason: RejectReason = RejectReason.CANCELLED
    ) -> dict[str, Any]:
        """End a live order, worked or resting; what became of it."""
        before = self._orders.rows[order_id]
        if before.state == OPEN:
            self._orders.close(order_id, reason)
        else:
            self._stop_working(order_id, reason)
        after = self._orders.rows[order_id]
        return {
            "order_id": order_id.hex(),
            "market": after.market,
            "removed_lots": after.dropped_lots - before.dropped_lots,
            "held_lots": self._trades.held_lots(order_id),
            "remaining_lots": self._orders.remaining_lots(order_id),
        }

    def _stop_working(self, order_id: bytes, reason: RejectReason) -> None:
        """Take nothing more, give up what makers may be about to hold, and close."""
        serial = next(one for one, job in self._jobs.items() if job.order_id == order_id)
        job = self._jobs[serial]
        job.end = reason
        for trade_id in list(job.outstanding.values()):
            trade = self._trades.by_id[trade_id]
            self._sides.taker(trade).abandon(trade, reason)
        self._core.cancel_timer(("job", serial))
        self._work(serial)

    # --- after a restart -----------------------------------------------------------------------

    def resume(self) -> None:
        """Go on working what was not finished, once its makers have had time to be found.

        Comes before the trades are taken up again: a part of an all-or-nothing order waits.
        """
        working = [row for row in self._orders.rows.values() if row.state == WORKING]
        for row in working:
            serial = self._new_job(b"", 0, row)
            job = self._jobs[serial]
            for trade in self._trades.of_order(row.order_id):
                job.trades.append(trade.trade_id)
                job.tried.add(trade.order_id)
                if job.all_or_nothing:
                    self._sides.taker(trade).defer(trade.trade_id)
            self._core.call_after(("job", serial), RESUME_WAIT_MS, partial(self._work, serial))
