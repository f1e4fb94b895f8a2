"""Takes that were cancelled before they came: each is refused if it comes after all.

A tombstone is an ended trade about no quantity, kept for as long as its take could still be
accepted: anybody can make them, as fast as we answer.  Not for takes that we have seen (`maker`).
"""

from __future__ import annotations

from typing import Final

from zmqex.kernel.core import Core
from zmqex.kernel.records import Trade
from zmqex.kernel.trades import Trades
from zmqex.limits import CLOCK_SKEW_MAX_MS, TAKE_AGE_MAX_MS
from zmqex.protocol.messages import TradeCancel, TradeCancelled
from zmqex.reasons import RejectReason
from zmqex.trading.settlement import PLAIN
from zmqex.trading.states import State, TradeRole

# The take was signed before its cancellation came, by a clock that may be ahead of ours.
LIFE_MS: Final = TAKE_AGE_MAX_MS + CLOCK_SKEW_MAX_MS + 1


class Tombstones:
    """Makes and drops them."""

    def __init__(self, core: Core, trades: Trades) -> None:
        """`resume` goes on with those that the journal has."""
        self._core = core
        self._trades = trades

    def add(self, taker: bytes, message: TradeCancel) -> Trade:
        """Forbid a take that we have never seen, and say so."""
        now_ms = self._core.now.wall_ms
        trade = self._trades.add(
            Trade(
                trade_id=message.trade_id,
                role=TradeRole.MAKER,
                take_id=message.take_id,
                order_id=bytes(32),
                own_order_id=bytes(32),
                market="",
                side="sell",
                maker=self._core.identity,
                taker=taker,
                quantity_lots=0,
                price_ticks=0,
                settlement=PLAIN,
                state=State.CANCELLED,
                revision=1,
                created_ms=now_ms,
                updated_ms=now_ms,
                reason=RejectReason.CANCELLED.value,
            )
        )
        self._drop_after(LIFE_MS, trade.trade_id)
        return self._trades.say(trade, TradeCancelled, reason=trade.reason)

    def resume(self) -> None:
        """After a restart: drop what is over, and the others when their time comes."""
        now_ms = self._core.now.wall_ms
        for trade in list(self._trades.by_id.values()):
            if trade.is_tombstone:
                left_ms = trade.created_ms + LIFE_MS - now_ms
                self._drop_after(min(max(left_ms, 0), LIFE_MS), trade.trade_id)

    def _drop_after(self, delay_ms: int, key: bytes) -> None:
        self._core.call_after(("tombstone", key), delay_ms, lambda: self._trades.forget(key))
