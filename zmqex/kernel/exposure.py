"""How much may be at stake: in one trade, with one peer at a time, and in one day.

The operator's limits (`--max-trade`, `--max-held`, `--max-day`), on both sides of a trade.  Amounts
are of the base, in millisatoshi; what came to nothing counts no more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from zmqex.kernel.core import Core
from zmqex.kernel.records import Trade
from zmqex.kernel.trades import Trades
from zmqex.limits import DAY_MS
from zmqex.reasons import RejectReason
from zmqex.trading.settlement import HTLC, MSAT_PER_SATOSHI
from zmqex.trading.states import State, TradeRole

_CAME_TO_NOTHING: Final = frozenset({State.CANCELLED, State.REFUSED})


class Exposure:
    """What is at stake, and whether more may be."""

    def __init__(self, core: Core, trades: Trades) -> None:
        """Count over `trades`."""
        self._core = core
        self._trades = trades

    def why_not(self, trade: Trade, waiting: Iterable[Trade] = ()) -> RejectReason | None:
        """The first limit that this trade breaks, or None.

        `waiting` are others that are not among the known ones yet.
        """
        settings, now_ms = self._core.settings, self._core.now.wall_ms
        peer = self._trades.counterparty(trade)
        if _above(_stake_msat(trade), settings.max_trade_msat):
            return RejectReason.ABOVE_MAX_TRADE
        if _locks(trade) and self._is_locked_too_much(trade, waiting):
            return RejectReason.ABOVE_MAX_HELD
        if not settings.max_held_msat and not settings.max_day_msat:
            return None
        held_msat = day_msat = _stake_msat(trade)
        trades, yesterday_ms = self._trades, now_ms - DAY_MS
        others = {one.trade_id: one for one in (*trades.running(), *trades.since(yesterday_ms))}
        for other in (*others.values(), *waiting):
            if _is_nothing(other) or other.trade_id == trade.trade_id:
                continue
            if other.state is not State.SETTLED and self._trades.counterparty(other) == peer:
                held_msat += _stake_msat(other)
            if other.created_ms > yesterday_ms:
                day_msat += _stake_msat(other)
        if _above(held_msat, settings.max_held_msat):
            return RejectReason.ABOVE_MAX_HELD
        return RejectReason.ABOVE_MAX_DAY if _above(day_msat, settings.max_day_msat) else None

    def _is_locked_too_much(self, trade: Trade, waiting: Iterable[Trade]) -> bool:
        """Whether takers would have more of ours locked than a share of what can be spent now.

        What is locked cannot be spent, so the share grows smaller as they lock it.
        """
        percent = self._core.settings.locked_percent
        lockers = filter(_locks, (*self._trades.running(), *waiting))
        locked_msat = _stake_msat(trade) + sum(map(_stake_msat, lockers))
        return percent > 0 and locked_msat * 100 > self._core.spendable_msat * percent


def _is_nothing(trade: Trade) -> bool:
    """Whether a trade came to nothing, and be it that somebody claims more."""
    return trade.state in _CAME_TO_NOTHING or trade.late


def _stake_msat(trade: Trade) -> int:
    """What a trade is about; a take that is not accepted yet counts as it was asked."""
    return trade.base_msat or trade.quantity_lots * MSAT_PER_SATOSHI


def _locks(trade: Trade) -> bool:
    """Whether a taker of ours can have our base locked."""
    sells = trade.role is TradeRole.MAKER and trade.side == "sell"
    return sells and trade.settlement == HTLC and not trade.late


def _above(amount_msat: int, limit_msat: int) -> bool:
    """Whether a limit is broken; 0 is no limit."""
    return 0 < limit_msat < amount_msat
