"""Orders that cross and both rest, because they were published at the same moment.

Of two such orders the one with the lower id is the maker's: its owner waits.  The other owner
takes it, after holding that quantity of its own order in its own journal, so that nobody else can
take it meanwhile.  One take at a time for each own order; who refuses is left alone for a while.
What crosses by accident is first seen soon after ours was published; who rests an order later has
seen ours, and has to take it himself.  Whom a plan has seen was asked or passed over then, who has
asked for our order knows it, and who has let a trade with it come to nothing had his chance: they
are not asked.  Post-only and all-or-none orders take nothing once they rest.
"""

from __future__ import annotations

from collections.abc import Callable

from zmqex.kernel import terms
from zmqex.kernel.core import Core
from zmqex.kernel.orders import OPEN, OwnOrders
from zmqex.kernel.records import OwnOrder, Trade
from zmqex.kernel.replicas import FoundOrder, Replicas
from zmqex.kernel.sessions import Sessions
from zmqex.kernel.taking import Taking
from zmqex.kernel.trades import Trades
from zmqex.limits import CROSSED_SEEN_MS, CROSSED_WAIT_MS, SKIP_MAKER_MS
from zmqex.market.matching import plan
from zmqex.market.orders import BookOrder, IncomingOrder, OrderFlags, Side, TimeInForce
from zmqex.trading.states import State

_FAILED = frozenset({State.REFUSED, State.ABANDONING, State.CANCELLED})
_UNDECIDED = frozenset({State.TAKING, State.ABANDONING})


class Crossing:
    """Looks for crossed own orders whenever others' orders have changed."""

    def __init__(
        self,
        core: Core,
        sessions: Sessions,
        replicas: Replicas,
        trades: Trades,
        orders: OwnOrders,
        taking: Taking,
    ) -> None:
        """Look from now on."""
        self._core = core
        self._sessions = sessions
        self._replicas = replicas
        self._orders = orders
        self._taking = taking
        self._soon: set[str] = set()  # markets that will be looked at
        self._outstanding: set[bytes] = set()  # own orders for which a take is under way
        # Own order, oldest first -> when it was published, and what it crossed then.
        self._young: dict[bytes, tuple[int, frozenset[bytes]]] = {}
        self._met: dict[bytes, set[bytes]] = {}  # own order -> what came across it soon after
        self._refused: set[tuple[bytes, bytes]] = set()  # (own order, asked in vain)
        replicas.on_changed.append(self._look_soon)
        orders.on_published = self._published
        orders.on_closed.append(self._closed)
        trades.on_moved.append(self._moved)

    def _published(self, row: OwnOrder) -> None:
        """An own order rests from now on: whatever it crosses at this moment is known."""
        order = self._orders.terms(row.order_id)
        crossing = self._replicas.book(row.market).crossing(Side(order.side), order.price_ticks)
        known = frozenset(one.order_id for one in crossing)
        self._forget_old()
        self._young[row.order_id] = self._core.now.monotonic_ms, known

    def _closed(self, own_id: bytes) -> None:
        self._young.pop(own_id, None)
        self._met.pop(own_id, None)

    def _forget_old(self) -> None:
        """What is seen from now on is not of the moment of those orders."""
        oldest_ms = self._core.now.monotonic_ms - CROSSED_SEEN_MS
        while self._young:
            own_id = next(iter(self._young))
            if self._young[own_id][0] >= oldest_ms:
                return
            del self._young[own_id]

    def _look_soon(self, market: str) -> None:
        if market not in self._soon:
            self._soon.add(market)
            self._core.call_after(("crossed", market), CROSSED_WAIT_MS, lambda: self._look(market))

    def _look(self, market: str) -> None:
        self._soon.discard(market)
        self._forget_old()
        book = self._replicas.book(market)
        bid, ask = book.best_bid(), book.best_ask()
        if bid is None or ask is None or bid < ask:
            return
        for own_id in self._young:
            self._meet(self._orders.rows[own_id], market)
        for own_id in list(self._met):
            row = self._orders.rows[own_id]
            if row.state == OPEN and row.market == market and own_id not in self._outstanding:
                self._try(row)

    def _meet(self, row: OwnOrder, market: str) -> None:
        """Note what has come across a young order and is the maker's of the two."""
        if row.market != market or row.state != OPEN or row.post_only:
            return
        order, known = self._orders.terms(row.order_id), self._young[row.order_id][1]
        for one in self._replicas.book(market).crossing(Side(order.side), order.price_ticks):
            if one.order_id < row.order_id and one.order_id not in known:
                self._met.setdefault(row.order_id, set()).add(one.order_id)

    def _try(self, row: OwnOrder) -> None:
        order, lots = self._orders.terms(row.order_id), self._orders.available_lots(row.order_id)
        if lots <= 0 or order.flags & OrderFlags.ALL_OR_NONE:
            return
        incoming = IncomingOrder(
            owner=self._core.identity,
            side=Side(order.side),
            price_ticks=order.price_ticks,
            quantity_lots=lots,
            minimum_lots=min(order.minimum_lots, lots),
            time_in_force=TimeInForce.IOC,
            expires_at_ms=order.expires_at_ms,
        )
        planned = plan(
            self._replicas.book(row.market),
            incoming,
            self._core.now.wall_ms,
            skip_orders=frozenset(asked for own, asked in self._refused if own == row.order_id),
            usable=self._is_makers(row.order_id),
        )
        best = planned.fills[:1]
        for found in filter(None, [self._replicas.row(fill.order_id) for fill in best]):
            self._take(row, found, best[0].quantity_lots)

    def _is_makers(self, own_id: bytes) -> Callable[[BookOrder], bool]:
        """Whether an order came across ours by accident, and its maker can be asked."""
        met, asked = self._met[own_id], self._orders.asked[own_id]

        def usable(one: BookOrder) -> bool:
            return (
                one.order_id in met
                and one.maker not in asked
                and one.maker != self._core.identity
                and not self._replicas.is_stale(one.maker)
                and self._sessions.set_aside_until(one.maker) is None
                and bool(self._settlement(own_id, self._replicas.row(one.order_id)))
            )

        return usable

    def _settlement(self, own_id: bytes, found: FoundOrder | None) -> str:
        """How both orders can be settled, or ""."""
        wanted = self._orders.terms(own_id).settlements
        return "" if found is None else terms.choose_settlement(self._core, wanted, found)

    def _take(self, row: OwnOrder, found: FoundOrder, lots: int) -> None:
        own_id = row.order_id
        self._core.log("info", "crossed", order_id=own_id.hex(), maker_order=found.order_id.hex())
        self._outstanding.add(own_id)
        pays = self._core.settings.network == "play" and own_id in self._young
        self._taking.take(
            found,
            lots,
            own_order_id=own_id,
            # Whoever rests an order lets others go first.  Anybody can publish one that crosses it,
            # so this makes us go first, and but for play money only our operator does that.
            pay_mode=row.pay_mode if pays else "manual",
            done=lambda trade: self._taken(own_id, trade),
            settlement=self._settlement(own_id, found),
            hold_own=True,
        )

    def _taken(self, own_id: bytes, trade: Trade) -> None:
        self._outstanding.discard(own_id)
        if trade.state in _FAILED:
            self._refused.add((own_id, trade.order_id))
            name = ("crossed", own_id, trade.order_id)
            self._core.call_after(name, SKIP_MAKER_MS, lambda: self._ask_again(own_id, trade))
        self._look_soon(trade.market)

    def _moved(self, before: Trade, after: Trade) -> None:
        """What was accepted is ours for good once the base has moved, or its maker failed us."""
        if not after.rests:
            return
        own_id = after.own_order_id
        if after.state in _FAILED and before.state not in _UNDECIDED:
            self._orders.asked.get(own_id, set()).add(after.maker)
            self._look_soon(after.market)
        elif after.paid or after.state is State.SETTLED:
            self._orders.end_if_filled(own_id)

    def _ask_again(self, own_id: bytes, trade: Trade) -> None:
        self._refused.discard((own_id, trade.order_id))
        self._look_soon(trade.market)
