"""How much of our orders takers may hold without paying: what a griefer can cost, bounded.

A stranger is a taker that has not settled a trade with us and was not named by the operator.
Strangers of one address share a few holds, all strangers together hold a share of each order, and
who let a hold run out waits, twice as long each time.  What counts is what is not paid yet.
Waits and addresses are in memory only: a restart forgives.  Not for deciding on takes
(admission.py).
"""

from __future__ import annotations

from typing import Literal

from zmqex.dht.address import Scope, scope_of
from zmqex.kernel.core import Core
from zmqex.kernel.records import Trade
from zmqex.kernel.sessions import Sessions
from zmqex.kernel.trades import Trades
from zmqex.limits import (
    HOLDS_PER_ORDER_AND_TAKER_MAX,
    HOLDS_PER_TAKER_MAX,
    PEERS_KNOWN_MAX,
    UNPAID_AFTER_MS,
    UNPAID_WAIT_FIRST_MS,
    UNPAID_WAIT_LAST_MS,
)
from zmqex.market.orders import OrderFlags
from zmqex.protocol.messages import Order
from zmqex.trading.settlement import HTLC
from zmqex.trading.states import State, TradeRole

What = Literal["taker", "order", "address"]
Shared = tuple[What, bytes | str]
_UNPAID = frozenset({State.RESERVED, State.INVOICED, State.CANCELLING})


class Caps:
    """What takers hold of us unpaid, and what they may."""

    def __init__(self, core: Core, sessions: Sessions, trades: Trades) -> None:
        """Everybody is a stranger."""
        self._core = core
        self._sessions = sessions
        self._trades = trades
        self._friends: set[bytes] | None = None  # who has settled with us, once it is asked
        self._unpaid: dict[bytes, Trade] | None = None  # by trade id, once it is asked
        self._shared: dict[Shared, dict[bytes, Trade]] = {}  # those that have something in common
        self._addresses: dict[bytes, str] = {}  # trade id -> where its take came from
        self._waits: dict[bytes, tuple[int, int]] = {}  # taker -> (unpaid holds, wait until)
        trades.on_moved.append(self._moved)

    def note(self, trade: Trade, address: str) -> None:
        """A take that is being admitted came from this address."""
        self._addresses[trade.trade_id] = address
        self._add(trade)

    def forget(self, trade_id: bytes) -> None:
        """The take was not admitted, or holds nothing unpaid any more."""
        trade = self._all().pop(trade_id, None)
        for key in self._keys(trade) if trade is not None else ():
            del self._shared[key][trade_id]
            if not self._shared[key]:
                del self._shared[key]
        self._addresses.pop(trade_id, None)

    def wait_ms(self, taker: bytes) -> int:
        """How long this taker must still wait, because of holds that it did not pay."""
        return max(self._waits.get(taker, (0, 0))[1] - self._core.now.monotonic_ms, 0)

    def too_many(self, taker: bytes, order_id: bytes, address: str) -> bool:
        """Whether this taker has as many unpaid holds as it may, or strangers at its address."""
        own = self._sharing("taker", taker)
        same = sum(trade.order_id == order_id for trade in own)
        if len(own) >= HOLDS_PER_TAKER_MAX or same >= HOLDS_PER_ORDER_AND_TAKER_MAX:
            return True
        if not self._is_stranger(taker) or scope_of(address) is Scope.LOOPBACK:
            return False
        strangers = sum(
            self._is_stranger(trade.taker) for trade in self._sharing("address", address)
        )
        return strangers >= self._core.settings.holds_per_address

    def room_lots(self, taker: bytes, order_id: bytes, order: Order) -> int:
        """How much of an order this taker may hold: strangers share a part of it."""
        share = order.quantity_lots * self._core.settings.stranger_percent // 100
        whole = share == order.quantity_lots or bool(order.flags & OrderFlags.ALL_OR_NONE)
        if whole or not self._is_stranger(taker):
            return order.quantity_lots
        held = sum(
            trade.quantity_lots
            for trade in self._sharing("order", order_id)
            if self._is_stranger(trade.taker)
        )
        return max(share, order.minimum_lots) - held

    # --- private -------------------------------------------------------------------------------

    def _sharing(self, what: What, value: bytes | str) -> list[Trade]:
        """The unpaid holds of one taker, on one order, or from one address."""
        self._all()
        return list(self._shared.get((what, value), {}).values())

    def _all(self) -> dict[bytes, Trade]:
        if self._unpaid is None:
            self._unpaid = {}
            for trade in self._trades.running():
                if trade.role is TradeRole.MAKER and _is_unpaid(trade):
                    self._add(trade)
        return self._unpaid

    def _add(self, trade: Trade) -> None:
        self._all()[trade.trade_id] = trade
        for key in self._keys(trade):
            self._shared.setdefault(key, {})[trade.trade_id] = trade

    def _keys(self, trade: Trade) -> tuple[Shared, ...]:
        address = self._addresses.get(trade.trade_id, "")
        return ("taker", trade.taker), ("order", trade.order_id), ("address", address)

    def _is_stranger(self, taker: bytes) -> bool:
        if self._friends is None:
            self._friends = self._trades.friends | {
                self._trades.counterparty(one)
                for one in self._trades.by_id.values()
                if one.state is State.SETTLED
            }
        peer = self._sessions.peers.get(taker)
        pinned = peer is not None and peer.pinned
        return not pinned and taker not in self._friends

    def _moved(self, before: Trade, after: Trade) -> None:
        if after.state is State.SETTLED and self._friends is not None:
            self._friends.add(self._trades.counterparty(after))
        if after.role is not TradeRole.MAKER:
            return
        if _is_unpaid(after):
            self._add(after)
            return
        self.forget(after.trade_id)
        if _is_unpaid(before) and after.state is State.CANCELLED:
            self._ran_out(after)
        elif _is_unpaid(before):
            self._waits.pop(after.taker, None)

    def _ran_out(self, trade: Trade) -> None:
        """A hold came to nothing; what ended at once has cost nobody anything."""
        if self._core.now.wall_ms - trade.created_ms < UNPAID_AFTER_MS or trade.deadline_ms:
            return  # or it was paid, and locked until it went back
        times = self._waits.pop(trade.taker, (0, 0))[0]
        wait_ms = min(UNPAID_WAIT_FIRST_MS << min(times, 16), UNPAID_WAIT_LAST_MS)
        if len(self._waits) >= PEERS_KNOWN_MAX:
            del self._waits[next(iter(self._waits))]
        self._waits[trade.taker] = times + 1, self._core.now.monotonic_ms + wait_ms


def _is_unpaid(trade: Trade) -> bool:
    """Whether a taker holds what it has paid nothing for; by `htlc` with our own base locked."""
    lends = trade.settlement == HTLC and trade.side == "sell"
    return trade.state in _UNPAID or (lends and trade.state is State.PAYING)
