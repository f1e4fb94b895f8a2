"""What the operator says of trades and orders, and what it is shown: no decisions of its own.

Each command is checked against the state table first, so that a command that comes too late, twice
or from the wrong party changes nothing and is answered in one clear sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from zmqex.kernel.archive import Archive
from zmqex.kernel.commands import (
    CancelTrade,
    Command,
    ListHolds,
    ListOrders,
    ListTrades,
    PayTrade,
    ReceivedTrade,
    RolloverTrade,
    SendTrade,
    SentTrade,
    ShowOrder,
    ShowTrade,
)
from zmqex.kernel.core import Core
from zmqex.kernel.orders import CLOSED, OwnOrders
from zmqex.kernel.records import OwnOrder, Snapshot, Trade
from zmqex.kernel.replicas import FoundOrder, Replicas
from zmqex.kernel.sides import Sides
from zmqex.kernel.trades import Trades
from zmqex.kernel.views import find_by_prefix, id_problem, order_view, trade_view
from zmqex.limits import ARCHIVED_SHOWN_MAX, PAY_WAIT_MS
from zmqex.protocol.codec import decode_envelope, decode_trade_message
from zmqex.protocol.identity import to_text
from zmqex.reasons import RejectReason
from zmqex.trading.settlement import HTLC, SWAP
from zmqex.trading.states import TERMINAL, Claim, Input, State, TradeRole

_REFUSALS: Final[Mapping[RejectReason, str]] = {
    RejectReason.ALREADY_PAID: "it has been paid already",
    RejectReason.TOO_LATE_TO_PAY: "it is too late to pay: the payment might land after the hold",
    RejectReason.INSUFFICIENT_BALANCE: "the Lightning balance does not cover it",
    RejectReason.HOLD_ENDED: "the hold has ended",
    RejectReason.WRONG_INVOICE_NETWORK: "its invoice is for another network",
    RejectReason.WRONG_INVOICE_AMOUNT: "its invoice asks for another amount than was agreed",
    RejectReason.WRONG_PAYMENT_HASH: "its invoice has another payment hash than was agreed",
    RejectReason.WRONG_PAYEE: "its invoice pays somebody else",
    RejectReason.INVOICE_EXPIRES_TOO_SOON: "its invoice expires too soon",
    RejectReason.INVOICE_EXPIRED: "its invoice has expired",
    RejectReason.INVALID_INVOICE: "its invoice cannot be read",
    RejectReason.PAYMENT_FAILED: "the payment has failed",
}


class Operator:
    """Answers the commands about trades and the lists of orders."""

    def __init__(
        self,
        core: Core,
        replicas: Replicas,
        trades: Trades,
        orders: OwnOrders,
        sides: Sides,
        archive: Archive,
    ) -> None:
        """Answer from now on."""
        self._core = core
        self._archive = archive
        self._replicas = replicas
        self._trades = trades
        self._orders = orders
        self._sides = sides
        self._lock_buyer, self._lock_seller = sides.lock_buyer, sides.lock_seller
        self._paying: dict[bytes, tuple[bytes, int]] = {}  # trade id -> who waits for the payment
        self._calls: dict[type, Callable[[bytes, int, Any], None]] = {
            ListOrders: self._list_orders,
            ShowOrder: self._show_order,
            ListTrades: self._list_trades,
            ShowTrade: self._show_trade,
            ListHolds: self._list_holds,
            PayTrade: self._pay,
            SendTrade: self._send,
            SentTrade: self._sent,
            ReceivedTrade: self._received,
            RolloverTrade: self._rollover,
            CancelTrade: self._cancel,
        }
        trades.on_moved.append(self._moved)

    def on_command(self, client: bytes, request_id: int, command: Command) -> bool:
        """Answer a command if it is one of ours."""
        call = self._calls.get(type(command))
        if call is None:
            return False
        call(client, request_id, command)
        return True

    # --- lists ---------------------------------------------------------------------------------

    def _list_orders(self, client: bytes, request_id: int, command: ListOrders) -> None:
        def listed(found: Snapshot) -> None:
            rows = {row.order_id: row for row in found.orders} | self._orders.rows
            wanted = [row for row in rows.values() if command.closed or row.state != CLOSED]
            wanted.sort(key=lambda row: row.created_ms, reverse=True)
            views = [order_view(self._trades, row) for row in wanted]
            result = {"orders": views, "older": _is_cut(found.orders)}
            self._core.answer(client, request_id, result)

        self._list("orders", listed, ended=command.closed)

    def _show_order(self, client: bytes, request_id: int, command: ShowOrder) -> None:
        own = find_by_prefix(command.order_id, self._orders.rows)
        if isinstance(own, bytes):
            trades = self._trades.of_order(own)
            view = order_view(self._trades, self._orders.rows[own])
        else:
            found = self._replicas.find(command.order_id) if own is None else own
            if not isinstance(found, FoundOrder):
                self._core.refuse(client, request_id, *id_problem(command.order_id, found, "order"))
                return
            taken = self._trades.by_id.values()
            trades = [one for one in taken if one.order_id == found.order_id]
            view = _foreign_view(found)
        views = [self._view(trade) for trade in trades]
        result = {"order": view, "trades": views, "own": isinstance(own, bytes)}
        self._core.answer(client, request_id, result)

    def _list_trades(self, client: bytes, request_id: int, command: ListTrades) -> None:
        def listed(found: Snapshot) -> None:
            trades = {one.trade_id: one for one in found.trades} | self._trades.by_id
            wanted = [
                trade
                for trade in trades.values()
                if trade.quantity_lots and (command.ended or trade.state not in TERMINAL)
            ]
            wanted.sort(key=lambda trade: trade.created_ms, reverse=True)
            views = [self._view(one) for one in wanted]
            result = {"trades": views, "older": _is_cut(found.trades)}
            self._core.answer(client, request_id, result)

        self._list("trades", listed, ended=command.ended)

    def _list(self, what: str, listed: Callable[[Snapshot], None], *, ended: bool) -> None:
        """List what is in memory; with what has `ended`, also the newest in the archive."""
        if ended:
            self._archive.newest(what, listed)
        else:
            listed(Snapshot())

    def _show_trade(self, client: bytes, request_id: int, command: ShowTrade) -> None:
        trade = self._find(client, request_id, command.trade_id)
        if trade is None:
            return
        messages = []
        for line in self._trades.lines.get(trade.trade_id, {}).values():
            said = decode_trade_message(decode_envelope(line.envelope).body)
            messages.append(
                {
                    "kind": str(said.__struct_config__.tag),
                    "sender": to_text(line.sender),
                    "sent_at_ms": said.sent_at_ms,
                    "digest": line.digest.hex(),
                }
            )
        self._core.answer(client, request_id, {"trade": self._view(trade), "messages": messages})

    def _list_holds(self, client: bytes, request_id: int, _command: ListHolds) -> None:
        now_ms = self._core.now.wall_ms
        holds = [
            {
                "order_id": trade.order_id.hex(),
                "trade_id": trade.trade_id.hex(),
                "taker": to_text(trade.taker),
                "quantity_lots": trade.quantity_lots,
                "market": trade.market,
                "fence": trade.fence,
                "state": trade.state.value,
                "left_ms": max(trade.hold_expires_ms - now_ms, 0),
                "redis_left_ms": None,
            }
            for trade in self._trades.running()
            if trade.role is TradeRole.MAKER and self._trades.claim_of(trade) is Claim.HELD
        ]
        self._core.answer(client, request_id, {"holds": holds})

    # --- moves ---------------------------------------------------------------------------------

    def _pay(self, client: bytes, request_id: int, command: PayTrade) -> None:
        trade = self._find(client, request_id, command.trade_id)
        if trade is None:
            return
        reason = self._try_to_pay(trade)
        if reason is not None:
            self._refuse(client, request_id, trade, reason)
            return
        if trade.settlement == HTLC:
            # It stays locked until the quote has come, so there is no end to wait for.
            trade = self._trades.by_id[trade.trade_id]
            self._core.answer(client, request_id, {"trade": self._view(trade)})
            return
        self._paying[trade.trade_id] = (client, request_id)
        key = trade.trade_id
        self._core.call_after(("pay", key), PAY_WAIT_MS, lambda: self._answer_pay(key))

    def _try_to_pay(self, trade: Trade) -> RejectReason | None:
        if self._trades.our_side(trade) != "sell" and trade.settlement != SWAP:
            return RejectReason.WRONG_PARTY
        if trade.role is TradeRole.TAKER:
            return self._sides.taker(trade).pay(trade)
        return self._sides.maker(trade).pay_again(trade)

    def _moved(self, before: Trade, after: Trade) -> None:
        if before.state is State.PAYING and after.trade_id in self._paying:
            self._answer_pay(after.trade_id)

    def _answer_pay(self, key: bytes) -> None:
        self._core.cancel_timer(("pay", key))
        client, request_id = self._paying.pop(key)
        trade = self._trades.by_id[key]
        if trade.state in {State.ACCEPTED, State.INVOICED, State.PAY_INTENT}:
            reason = RejectReason(trade.reason or RejectReason.PAYMENT_FAILED)
            self._refuse(client, request_id, trade, reason)
        else:
            self._core.answer(client, request_id, {"trade": self._view(trade)})

    def _send(self, client: bytes, request_id: int, command: SendTrade) -> None:
        trade = self._find(client, request_id, command.trade_id)
        if trade is None:
            return
        if self._trades.our_side(trade) != "buy":
            self._refuse(client, request_id, trade, RejectReason.WRONG_PARTY)
        elif trade.settlement != HTLC or not self._lock_buyer.send(client, request_id, trade, None):
            self._refuse(client, request_id, trade, RejectReason.WRONG_STATE)

    def _sent(self, client: bytes, request_id: int, command: SentTrade) -> None:
        trade = self._find(client, request_id, command.trade_id)
        if trade is None:
            return
        if self._trades.our_side(trade) != "buy":
            self._refuse(client, request_id, trade, RejectReason.WRONG_PARTY)
        elif trade.settlement == HTLC:
            if not self._lock_buyer.send(client, request_id, trade, command.reference):
                self._refuse(client, request_id, trade, RejectReason.WRONG_STATE)
        elif not self._trades.can(trade, Input.QUOTE_SAID) or trade.state is State.CANCELLED:
            self._refuse(client, request_id, trade, RejectReason.WRONG_STATE)
        elif self._is_past_hold(trade):
            self._refuse(client, request_id, trade, RejectReason.HOLD_ENDED)
        else:
            trade = self._sides.party(trade).say_sent(trade, command.reference)
            self._core.answer(client, request_id, {"trade": self._view(trade)})

    def _is_past_hold(self, trade: Trade) -> bool:
        """A buying taker may only go first inside the hold."""
        return trade.state is State.ACCEPTED and self._core.now.wall_ms >= trade.hold_expires_ms

    def _received(self, client: bytes, request_id: int, command: ReceivedTrade) -> None:
        trade = self._find(client, request_id, command.trade_id)
        if trade is None:
            return
        if self._trades.our_side(trade) != "sell":
            self._refuse(client, request_id, trade, RejectReason.WRONG_PARTY)
        elif trade.settlement == HTLC:
            seller = self._lock_seller if trade.attempt == 1 else self._sides.rollover_seller
            if not seller.release(client, request_id, trade):
                self._refuse(client, request_id, trade, RejectReason.WRONG_STATE)
        elif not self._trades.can(trade, Input.QUOTE_CONFIRMED):
            self._refuse(client, request_id, trade, RejectReason.WRONG_STATE)
        else:
            trade = self._sides.party(trade).say_received(trade)
            self._core.answer(client, request_id, {"trade": self._view(trade)})

    def _rollover(self, client: bytes, request_id: int, command: RolloverTrade) -> None:
        trade = self._find(client, request_id, command.trade_id)
        if trade is None:
            return
        buyer = self._sides.rollover_buyer
        if self._trades.our_side(trade) != "buy":
            self._refuse(client, request_id, trade, RejectReason.WRONG_PARTY)
        elif not buyer.ask(client, request_id, trade):
            self._refuse(client, request_id, trade, RejectReason.WRONG_STATE)

    def _cancel(self, client: bytes, request_id: int, command: CancelTrade) -> None:
        trade = self._find(client, request_id, command.trade_id)
        if trade is None:
            return
        if trade.role is TradeRole.TAKER and self._trades.can(trade, Input.ABANDON):
            self._sides.taker(trade).abandon(trade, RejectReason.CANCELLED)
            trade = self._trades.by_id[trade.trade_id]
        elif trade.role is TradeRole.MAKER and self._trades.can(trade, Input.END_ASKED):
            self._sides.maker(trade).say_cancel(trade)
            trade = self._trades.by_id[trade.trade_id]
        elif trade.role is TradeRole.TAKER and self._trades.can(trade, Input.END_ASKED):
            self._lock_buyer.leave(trade, RejectReason.CANCELLED)
            trade = self._trades.by_id[trade.trade_id]
        elif self._may_ask_back(trade):
            trade = self._lock_seller.ask_back(trade)
        elif trade.state is State.ROLLOVER and self._trades.our_side(trade) == "buy":
            trade = self._sides.rollover_buyer.call_off(trade, RejectReason.CANCELLED)
        else:
            self._refuse(client, request_id, trade, RejectReason.WRONG_STATE)
            return
        self._core.answer(client, request_id, {"trade": self._view(trade)})

    def _may_ask_back(self, trade: Trade) -> bool:
        """Whether a taker's lock can still be given back by its buyer."""
        by_lock = trade.settlement == HTLC and trade.role is TradeRole.TAKER
        return by_lock and trade.state is State.PAYING

    # --- private -------------------------------------------------------------------------------

    def _find(self, client: bytes, request_id: int, text: str) -> Trade | None:
        found = find_by_prefix(text, self._trades.by_id)
        if isinstance(found, bytes):
            return self._trades.by_id[found]
        self._core.refuse(client, request_id, *id_problem(text, found, "trade"))
        return None

    def _view(self, trade: Trade) -> dict[str, Any]:
        return trade_view(self._trades, trade, self._core.now.wall_ms)

    def _refuse(self, client: bytes, request_id: int, trade: Trade, reason: RejectReason) -> None:
        if reason is RejectReason.WRONG_PARTY and trade.settlement == SWAP:
            why = "a swap settles by itself: nobody says that anything was sent or has arrived"
        elif reason is RejectReason.WRONG_PARTY:
            side = "buys" if self._trades.our_side(trade) == "buy" else "sells"
            why = f"that is for the other party to say: this node {side} the base"
        elif reason is RejectReason.WRONG_STATE:
            why = f"that cannot be said of it now: its state is {trade.state.value}"
        else:
            why = _REFUSALS.get(reason, f"it was refused ({reason.value})")
        message = f"trade {trade.trade_id.hex()[:12]}: {why}"
        self._core.refuse(client, request_id, reason, message)


def _is_cut(archived: Sequence[OwnOrder] | Sequence[Trade]) -> bool:
    """Whether there may be more than was read."""
    return len(archived) >= ARCHIVED_SHOWN_MAX


def _foreign_view(found: FoundOrder) -> dict[str, Any]:
    order = found.order
    return {
        "order_id": found.order_id.hex(),
        "maker": to_text(found.maker),
        "market": order.market,
        "side": order.side,
        "price_ticks": order.price_ticks,
        "quantity_lots": order.quantity_lots,
        "minimum_lots": order.minimum_lots,
        "filled_lots": order.quantity_lots - found.remaining_lots,
        "held_lots": found.held_lots,
        "remaining_lots": found.remaining_lots,
        "dropped_lots": 0,
        "state": "open",
        "close_reason": "",
        "created_ms": 0,
        "expires_at_ms": order.expires_at_ms,
        "renew": False,
        "all_or_none": bool(order.flags & 1),
        "time_in_force": order.time_in_force,
        "settlements": list(order.settlements),
    }
