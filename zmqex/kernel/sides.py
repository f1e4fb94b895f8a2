"""Who carries a trade: the maker's or the taker's part, of the settlement that the take named."""

from __future__ import annotations

from typing import Final

from zmqex.kernel.admission import Admission
from zmqex.kernel.core import Core
from zmqex.kernel.lock_buyer import LockBuyer
from zmqex.kernel.lock_seller import LockSeller
from zmqex.kernel.maker import Maker
from zmqex.kernel.orders import OwnOrders
from zmqex.kernel.records import Trade
from zmqex.kernel.rollover_buyer import RolloverBuyer
from zmqex.kernel.rollover_seller import RolloverSeller
from zmqex.kernel.swap_maker import SwapMaker
from zmqex.kernel.swap_taker import SwapTaker
from zmqex.kernel.taker import Taker
from zmqex.kernel.taking import Taking
from zmqex.kernel.trades import Trades
from zmqex.trading.settlement import HTLC, SWAP
from zmqex.trading.states import State, TradeRole

Side = Maker | Taker | LockBuyer | LockSeller | RolloverBuyer | RolloverSeller
_ROLLED: Final = frozenset({State.ROLLOVER, State.ROLLOVER_PAYING})


class Sides:
    """The parts that carry trades on, from the take's acceptance to the end."""

    def __init__(
        self, core: Core, trades: Trades, orders: OwnOrders, admission: Admission, taking: Taking
    ) -> None:
        """Carry on whatever `admission` lets in, and what `taking` brings in."""
        self._maker = Maker(core, trades, orders, admission)
        self._taker = Taker(core, trades, orders, taking)
        self._makers: dict[str, Maker] = {SWAP: SwapMaker(core, trades, orders, admission)}
        self._takers: dict[str, Taker] = {SWAP: SwapTaker(core, trades, orders, taking)}
        self.lock_buyer = LockBuyer(core, trades, self._maker, self._taker)
        self.lock_seller = LockSeller(core, trades, self._maker, self._taker)
        self.rollover_buyer = RolloverBuyer(core, trades, self._maker)
        self.rollover_seller = RolloverSeller(core, trades, self._maker)
        self._trades = trades
        admission.accept_of = lambda trade: self.maker(trade).accept_of(trade)
        admission.on_admitted = lambda trade: self.maker(trade).begin(trade)
        taking.on_accepted = lambda trade: self.taker(trade).accepted(trade)
        taking.on_abandoned = lambda trade, reason: self.taker(trade).abandon(trade, reason)

    def maker(self, trade: Trade | None) -> Maker:
        """Who carries a trade in which our order was taken; None: one that we never saw."""
        settlement = "" if trade is None else trade.settlement
        return self._makers.get(settlement, self._maker)

    def taker(self, trade: Trade) -> Taker:
        """Who carries a trade in which we took another maker's order."""
        return self._takers.get(trade.settlement, self._taker)

    def of(self, trade: Trade) -> Side:
        """Who hears what Lightning says of a trade, and takes it up again after a restart."""
        if trade.state in _ROLLED:
            return self.rollover(trade)
        if trade.settlement == HTLC:
            buys = self._trades.our_side(trade) == "buy"
            return self.lock_buyer if buys else self.lock_seller
        return self.party(trade)

    def rollover(self, trade: Trade) -> RolloverBuyer | RolloverSeller:
        """Who carries a trade whose lock was lost."""
        buys = self._trades.our_side(trade) == "buy"
        return self.rollover_buyer if buys else self.rollover_seller

    def party(self, trade: Trade) -> Maker | Taker:
        """Who says our own words in a trade without a lock."""
        return self.maker(trade) if trade.role is TradeRole.MAKER else self.taker(trade)
