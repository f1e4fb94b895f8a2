"""Commands of the operator that wait for Lightning's word: answered once, or given up in time."""

from __future__ import annotations

from zmqex.kernel.core import Core
from zmqex.kernel.records import Trade
from zmqex.kernel.trades import Trades
from zmqex.kernel.views import trade_view
from zmqex.limits import PAY_WAIT_MS
from zmqex.reasons import RejectReason


class Asked:
    """Who waits, by trade; `name` keeps the timers of two of these apart."""

    def __init__(self, core: Core, trades: Trades, name: str) -> None:
        """Nobody waits yet."""
        self._core = core
        self._trades = trades
        self._name = name
        self._waiting: dict[bytes, tuple[bytes, int]] = {}

    def __contains__(self, key: bytes) -> bool:
        """Whether somebody waits for word of this trade."""
        return key in self._waiting

    def wait(self, key: bytes, client: bytes, request_id: int) -> None:
        """Remember who asked; a second question takes the place of the first, which hears of it."""
        if key in self._waiting:
            why = "it was asked again meanwhile, and that is answered"
            self.refuse(self._trades.by_id[key], RejectReason.UNAVAILABLE, why)
        self._waiting[key] = (client, request_id)
        self._core.call_after((self._name, key), PAY_WAIT_MS, lambda: self._no_word(key))

    def answer(self, trade: Trade) -> None:
        """Answer whoever waits with how the trade stands."""
        waits = self._end(trade.trade_id)
        if waits is not None:
            view = trade_view(self._trades, trade, self._core.now.wall_ms)
            self._core.answer(*waits, {"trade": view})

    def refuse(self, trade: Trade, reason: RejectReason, why: str) -> None:
        """Refuse whoever waits, in a sentence."""
        waits = self._end(trade.trade_id)
        if waits is not None:
            self._core.refuse(*waits, reason, f"trade {trade.trade_id.hex()[:12]}: {why}")

    def _end(self, key: bytes) -> tuple[bytes, int] | None:
        self._core.cancel_timer((self._name, key))
        return self._waiting.pop(key, None)

    def _no_word(self, key: bytes) -> None:
        why = "Lightning does not say how it stands; nothing was changed, so try again"
        self.refuse(self._trades.by_id[key], RejectReason.LIGHTNING_UNAVAILABLE, why)
