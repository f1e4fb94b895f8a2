"""What the operator hears of an order that was placed: how it went, or why it was refused.

Not for deciding anything: the desk does that (desk.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from zmqex.kernel.commands import PlaceOrder
from zmqex.kernel.core import Core
from zmqex.kernel.orders import OwnOrders
from zmqex.kernel.records import Trade
from zmqex.kernel.replicas import FoundOrder
from zmqex.kernel.terms import how_to_settle
from zmqex.kernel.trades import Trades
from zmqex.kernel.views import order_view, trade_view
from zmqex.limits import ANSWER_WAIT_MS
from zmqex.market.matching import Plan
from zmqex.market.units import format_quantity, notional_quote_units
from zmqex.protocol.identity import to_text
from zmqex.reasons import RejectReason
from zmqex.trading.settlement import HTLC
from zmqex.trading.states import State

_MESSAGES: Final[Mapping[RejectReason, str]] = {
    RejectReason.MALFORMED: "its side, time in force or pay mode is none that this node knows",
    RejectReason.SELF_TRADE: "it would trade with your own order; cancel that one first",
    RejectReason.WOULD_CROSS: "it would trade at once, and post-only forbids that",
    RejectReason.NOT_FILLABLE: "the book cannot fill all of it, and it asks for all or nothing",
    RejectReason.EXPIRY_TOO_FAR: "an order lives for at most 7 days",
    RejectReason.MINIMUM_ABOVE_QUANTITY: "the minimum is above the quantity",
    RejectReason.CONTRADICTORY_FLAGS: "its flags contradict each other",
    RejectReason.WRONG_MARKET: "this node does not trade that market",
    RejectReason.MAKER_FULL: "this node has as many open orders as other nodes accept of it",
    RejectReason.INVALID_PRICE: "its price is out of range",
    RejectReason.INVALID_QUANTITY: "its quantity is out of range",
    RejectReason.NOTIONAL_TOO_SMALL: "it is worth less than the smallest unit of the quote",
    RejectReason.NOTIONAL_OVERFLOW: "it is worth more than can be counted",
}
_NOT_TAKEN: Final[Mapping[RejectReason, str]] = {
    RejectReason.MALFORMED: "its pay mode is none that this node knows",
    RejectReason.OWN_ORDER: "it is your own",
    RejectReason.STALE_MAKER: "its maker has not been heard for a while",
    RejectReason.UNSUPPORTED_SETTLEMENT: "",  # see `terms.how_to_settle`
    RejectReason.INVALID_QUANTITY: "the quantity must be more than 0",
    RejectReason.INSUFFICIENT_QUANTITY: "can be taken of it now, not more",
}
_SKIPPED: Final[Mapping[str, str]] = {
    RejectReason.TIMED_OUT: "it did not answer in time",
    RejectReason.NOT_CONNECTED: "it is not connected",
    RejectReason.STALE_MAKER: "it has not been heard for a while",
    RejectReason.STARTING: "it has just started",
    RejectReason.TOO_MANY_HOLDS: "it holds as much for you as it may",
    RejectReason.RATE_LIMITED: "it has been asked too often",
    RejectReason.HOLDS_UNAVAILABLE: "its hold server does not answer",
    RejectReason.LIGHTNING_UNAVAILABLE: "its Lightning node does not answer",
    RejectReason.INSUFFICIENT_QUANTITY: "less is left of the order than was to be taken",
    RejectReason.UNKNOWN_ORDER: "it does not know the order",
    RejectReason.ORDER_CLOSED: "the order is closed",
    RejectReason.DECLINED: "it does not want to",
    RejectReason.UNSUPPORTED_SETTLEMENT: "it does not settle as the order asks",
}


class Job(msgspec.Struct):
    """One incoming order (or bare take) while it is worked."""

    client: bytes
    request_id: int
    order_id: bytes  # b"" for a bare take
    pay_mode: str
    settlements: tuple[str, ...]  # the best first
    all_or_nothing: bool = False
    replaced: dict[str, Any] | None = None  # what became of the order whose place it took
    end: RejectReason | None = None  # why nothing more is taken, and nothing rests
    outstanding: dict[bytes, bytes] = msgspec.field(default_factory=dict)  # order id -> trade id
    tried: set[bytes] = msgspec.field(default_factory=set)  # order ids asked
    retries: dict[bytes, int] = msgspec.field(default_factory=dict)  # order id -> asked again
    pause_ms: int = 0  # before the next round
    trades: list[bytes] = msgspec.field(default_factory=list)
    failed: set[bytes] = msgspec.field(default_factory=set)  # those of the trades that came to none
    skipped: list[dict[str, Any]] = msgspec.field(default_factory=list)

    def skip(
        self, maker: bytes, order_id: bytes, reason: str, for_ms: int = 0, settles: str = ""
    ) -> None:
        """Name a maker that was passed over, why, and for how long it is not asked again.

        `settles`: what is to be said of how its order is settled, where that is why.
        """
        detail = _SKIPPED.get(reason, reason.replace("_", " "))
        if reason == RejectReason.UNSUPPORTED_SETTLEMENT:
            detail = settles or detail
        self.skipped.append(
            {
                "maker": to_text(maker),
                "order_id": order_id.hex(),
                "reason": reason,
                "for_ms": for_ms,
                "detail": detail,
            }
        )


class Answers:
    """Answers PlaceOrder and TakeOrder."""

    def __init__(self, core: Core, trades: Trades, orders: OwnOrders) -> None:
        """Nobody waits yet."""
        self._core = core
        self._trades = trades
        self._orders = orders
        self._waiting: dict[int, Job] = {}
        self._serial = 0
        trades.on_moved.append(self._trade_moved)

    def conclude(self, job: Job) -> None:
        """Answer; a payment that is just leaving gets a moment, so the answer shows its end."""
        if not job.client:
            return  # who asked is gone: the node has restarted since
        self._serial += 1
        serial = self._serial
        self._waiting[serial] = job
        if self._is_paying(job):
            name = ("answer", serial)
            self._core.call_after(name, ANSWER_WAIT_MS, lambda: self._answer(serial))
        else:
            self._answer(serial)

    def repeated(self, client: bytes, request_id: int, made: bytes) -> None:
        """The command came before: show what it made, as it stands now."""
        result: dict[str, Any] = {"skipped": [], "repeated": True}
        if made in self._orders.rows:
            trades = self._trades.of_order(made)
            result["order"] = order_view(self._trades, self._orders.rows[made])
        else:
            trades = [self._trades.by_id[made]]
        result["trades"] = [self._view(trade) for trade in trades]
        self._core.answer(client, request_id, result)

    def planned(self, client: bytes, request_id: int, command: PlaceOrder, planned: Plan) -> None:
        """A dry run: what would happen now."""
        instrument = self._core.currencies.instrument(command.market)
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
            "quote_units": sum(
                notional_quote_units(fill.quantity_lots, fill.price_ticks, instrument)
                for fill in planned.fills
            ),
            "average_price_ticks_numerator": planned.notional_lot_ticks,
            "reason": "",
        }
        self._core.answer(client, request_id, result)

    def refuse(
        self,
        client: bytes,
        request_id: int,
        reason: RejectReason,
        blocker: bytes | None = None,
        why: str = "",
    ) -> None:
        """The order was refused as a whole; nothing has changed."""
        message = f"the order was refused: {why or _MESSAGES[reason]}"
        if reason is RejectReason.WRONG_MARKET:
            message += f"; it trades {', '.join(self._core.settings.markets)}"
        if blocker is not None:
            message += f" (order {blocker.hex()[:12]})"
        self._core.refuse(client, request_id, reason, message)

    def not_taken(
        self, client: bytes, request_id: int, found: FoundOrder, reason: RejectReason
    ) -> None:
        """An order cannot be taken; nobody was asked."""
        why = _NOT_TAKEN[reason]
        if reason is RejectReason.UNSUPPORTED_SETTLEMENT:
            why = how_to_settle(self._core, found)
        if reason is RejectReason.INSUFFICIENT_QUANTITY:
            instrument = self._core.currencies.instrument(found.order.market)
            why = f"{format_quantity(found.available_lots, instrument)} {why}"
        message = f"order {found.order_id.hex()[:12]} cannot be taken: {why}"
        self._core.refuse(client, request_id, reason, message)

    # --- private -------------------------------------------------------------------------------

    def _is_paying(self, job: Job) -> bool:
        """Whether a payment is just leaving; one that is locked for hours is not waited for."""
        trades = (self._trades.by_id[one] for one in job.trades)
        return any(one.state is State.PAYING and one.settlement != HTLC for one in trades)

    def _trade_moved(self, _before: Trade, after: Trade) -> None:
        for serial, job in list(self._waiting.items()):
            if after.trade_id in job.trades and not self._is_paying(job):
                self._core.cancel_timer(("answer", serial))
                self._answer(serial)

    def _answer(self, serial: int) -> None:
        job = self._waiting.pop(serial)
        if not job.order_id and job.skipped:
            reason = RejectReason(job.skipped[0]["reason"])
            message = f"nothing was taken: {job.skipped[0]['detail']} ({reason.value})"
            self._core.refuse(job.client, job.request_id, reason, message)
            return
        result: dict[str, Any] = {
            "trades": [
                self._view(self._trades.by_id[one]) for one in job.trades if one not in job.failed
            ],
            "skipped": job.skipped,
            "repeated": False,
        }
        if job.order_id:
            result["order"] = order_view(self._trades, self._orders.rows[job.order_id])
        if job.replaced is not None:
            result["replaced"] = job.replaced
        self._core.answer(job.client, job.request_id, result)

    def _view(self, trade: Trade) -> dict[str, Any]:
        return trade_view(self._trades, trade, self._core.now.wall_ms)
