"""Our own orders: what was asked, what of it is filled, taken, held or dropped.

The numbers of an order: `quantity = filled + taken + dropped + remaining`, and of the remaining a
part is held by running trades.  Every change is persisted and published in the same event.
Not for matching (see desk.py) or for what other makers publish (see replicas.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from zmqex.kernel.core import Core
from zmqex.kernel.publisher import Publisher
from zmqex.kernel.records import OwnOrder, PutOrder, Trade
from zmqex.kernel.trades import Trades
from zmqex.limits import CLOCK_SKEW_MAX_MS, ORDER_LIFE_MAX_MS
from zmqex.market.instruments import Instrument
from zmqex.market.orders import OrderFlags, Side
from zmqex.protocol.codec import decode, encode
from zmqex.protocol.identity import order_id as order_id_of
from zmqex.protocol.messages import Close, Order, Place, Update
from zmqex.reasons import RejectReason
from zmqex.trading.states import State

WORKING, OPEN, CLOSED = "working", "open", "closed"


class OwnOrders:
    """The rows of our own orders, kept in step with our published log."""

    def __init__(self, core: Core, trades: Trades, publisher: Publisher) -> None:
        """Start empty; `restore` brings back what the journal has."""
        self._core = core
        self._trades = trades
        self._publisher = publisher
        self.rows: dict[bytes, OwnOrder] = {}
        self._terms: dict[bytes, Order] = {}
        self.reserved_lots: Callable[[bytes], int] = lambda _order_id: 0
        self.asked: dict[bytes, set[bytes]] = {}  # open order -> who has asked to take of it
        self.on_published: Callable[[OwnOrder], None] = lambda _row: None
        self.on_expired: Callable[[OwnOrder], None] = lambda _row: None
        self.on_closed: list[Callable[[bytes], None]] = []
        trades.capacity = self.capacity

    # --- numbers -------------------------------------------------------------------------------

    def terms(self, order_id: bytes) -> Order:
        """The terms of an own order."""
        return self._terms[order_id]

    def instrument(self, market: str) -> Instrument:
        """The instrument of a market that we have orders in."""
        return self._core.currencies.instrument(market)

    def capacity(self, order_id: bytes) -> int:
        """What takers can have of an order in all: its quantity without what we took or dropped."""
        row = self.rows.get(order_id)
        if row is None:
            return 0
        return self._terms[order_id].quantity_lots - row.taken_lots - row.dropped_lots

    def filled_lots(self, order_id: bytes) -> int:
        """What takers have had of an order for good."""
        return self.rows[order_id].filled_lots

    def remaining_lots(self, order_id: bytes) -> int:
        """What is not filled, taken or dropped; a part of it may be held."""
        return self.capacity(order_id) - self.rows[order_id].filled_lots

    def available_lots(self, order_id: bytes) -> int:
        """What can be taken now."""
        held = self._trades.held_lots(order_id) + self.reserved_lots(order_id)
        return self.remaining_lots(order_id) - held

    def why_closed(self, order_id: bytes) -> RejectReason | None:
        """Why an order cannot be taken at all, or None."""
        row = self.rows.get(order_id)
        if row is None:
            gone = self._trades.archived.may_have(order_id)
            return RejectReason.ORDER_CLOSED if gone else RejectReason.UNKNOWN_ORDER
        if row.state != OPEN:
            return RejectReason.ORDER_CLOSED
        if self._terms[order_id].expires_at_ms <= self._core.now.wall_ms:
            return RejectReason.EXPIRED
        return None

    def acceptable_lots(
        self, order_id: bytes, asked_lots: int, room_lots: int
    ) -> int | RejectReason:
        """How much of a take can be held: what is asked or less, or why nothing can be.

        `room_lots`: what this taker may hold of it.
        """
        order, available = self._terms[order_id], self.available_lots(order_id)
        if min(available, room_lots) <= 0:
            return RejectReason.HELD
        lots = min(asked_lots, available, room_lots)
        if order.flags & OrderFlags.ALL_OR_NONE and lots < order.quantity_lots:
            return RejectReason.ALL_OR_NONE
        if lots < min(order.minimum_lots, available):
            return RejectReason.BELOW_MINIMUM
        if 0 < available - lots < order.minimum_lots:
            return RejectReason.LEAVES_DUST
        return lots

    def live_count(self) -> int:
        """How many of our orders rest in the book or are about to."""
        return sum(row.state != CLOSED for row in self.rows.values())

    def open_count(self) -> int:
        """How many of our orders rest in the book."""
        return sum(row.state == OPEN for row in self.rows.values())

    # --- changes -------------------------------------------------------------------------------

    def add(self, order: Order, **fields: Any) -> OwnOrder:  # noqa: ANN401
        """A new own order, being matched; it is not published yet."""
        raw = encode(order)
        network, now_ms = self._core.settings.network, self._core.now.wall_ms
        row = OwnOrder(
            order_id=order_id_of(network, self._core.identity, raw),
            market=order.market,
            order=raw,
            state=WORKING,
            revision=1,
            created_ms=now_ms,
            **fields,
        )
        self._terms[row.order_id] = order
        self.rows[row.order_id] = row
        self._core.persist(PutOrder(row))
        self._core.log("info", "order_placed", order_id=row.order_id.hex(), side=order.side)
        return row

    def publish(self, order_id: bytes) -> None:
        """Rest an order in the book and tell the peers, with what was taken already."""
        row = self._change(order_id, state=OPEN, published=True)
        if not self._place(row):
            return
        if self.remaining_lots(order_id) != self._terms[order_id].quantity_lots:
            self.publish_update(order_id)
        self.asked[order_id] = set()
        self.on_published(row)
        self._arm(row)

    def settle(self, market: str, side: Side, price_ticks: int) -> None:
        """Have what would trade with an order like this in the book, if it is ours."""
        self._publisher.settle(market, side, price_ticks)

    def publish_update(self, order_id: bytes) -> None:
        """Tell the peers what remains and what of it is held."""
        row = self.rows[order_id]
        if row.state == OPEN:
            remaining = self.remaining_lots(order_id)
            # A hold that waits for Redis is not in the journal, so it is nobody's business yet.
            held = self._trades.held_lots(order_id)
            self._publisher.append(row.market, Update(order_id, remaining, held))

    def taken(self, order_id: bytes, lots: int) -> None:
        """A maker holds this much for us: the order needs that much less."""
        self._change(order_id, taken_lots=self.rows[order_id].taken_lots + lots)
        self.publish_update(order_id)

    def not_taken(self, order_id: bytes, lots: int) -> None:
        """What was held for a take that came to nothing: an open order has it again."""
        if self.rows[order_id].state == OPEN:
            self.taken(order_id, -lots)
        else:
            self.lost(order_id, lots)

    def lost(self, order_id: bytes, lots: int) -> None:
        """A take came to nothing, and the order is not to rest again: that part is dropped."""
        row = self.rows[order_id]
        self._change(
            order_id, taken_lots=row.taken_lots - lots, dropped_lots=row.dropped_lots + lots
        )

    def filled(self, order_id: bytes, lots: int) -> None:
        """Base has moved to or from a taker."""
        self._change(order_id, filled_lots=self.rows[order_id].filled_lots + lots)
        self.end_if_filled(order_id)
        self.publish_update(order_id)

    def end_if_filled(self, order_id: bytes) -> None:
        """Close an open order with nothing left, unless a take may still give it something back."""
        is_spent = self.rows[order_id].state == OPEN and self.remaining_lots(order_id) == 0
        if is_spent and not any(map(_may_give_back, self._trades.of_order(order_id))):
            self.close(order_id, RejectReason.FILLED)

    def returned(self, order_id: bytes, lots: int) -> None:
        """A hold has ended without a fill: an open order gets it back, a closed one drops it."""
        row = self.rows[order_id]
        if row.state == OPEN:
            self.publish_update(order_id)
        else:
            self._change(order_id, dropped_lots=row.dropped_lots + lots)

    def close(self, order_id: bytes, reason: RejectReason) -> int:
        """Close an order; running trades go on.  Returns the lots that were dropped."""
        row, dropped = self.rows[order_id], self.available_lots(order_id)
        dropped += self.reserved_lots(order_id)
        self._change(
            order_id,
            state=CLOSED,
            close_reason=reason.value,
            dropped_lots=row.dropped_lots + dropped,
        )
        if row.published:
            self._publisher.append(row.market, Close(order_id, reason.value))
        self.asked.pop(order_id, None)
        self._core.cancel_timer(("order", order_id))
        self._core.log(
            "info", "order_closed", order_id=order_id.hex(), reason=reason.value, dropped=dropped
        )
        for call in self.on_closed:
            call(order_id)
        return dropped

    def may_leave(self, order_id: bytes) -> bool:
        """Whether an order is closed, and everybody can know it."""
        row = self.rows[order_id]
        return row.state == CLOSED and self._publisher.published(row.market, order_id) is None

    def leave(self, order_id: bytes) -> None:
        """Leave an order without trades in memory to the journal."""
        del self.rows[order_id], self._terms[order_id]

    def log_lost(self, market: str) -> None:
        """Our published log was lost: what it held is not republished, and cannot be taken."""
        for order_id, row in list(self.rows.items()):
            if row.state == OPEN and row.market == market:
                self.close(order_id, RejectReason.UNAVAILABLE)

    def restore(self, rows: tuple[OwnOrder, ...]) -> None:
        """Bring back what the journal has."""
        for row in rows:
            self.rows[row.order_id] = row
            self._terms[row.order_id] = decode(row.order, Order)

    def resume(self) -> None:
        """Start the timers of the open orders; say what was not said in time."""
        for row in list(self.rows.values()):
            said = self._publisher.published(row.market, row.order_id)
            if row.state == CLOSED and said is not None:
                self._publisher.append(row.market, Close(row.order_id, row.close_reason))
            elif row.state == OPEN:
                self._arm(row)
                if said is None and not self._place(row):
                    continue
                now = self.remaining_lots(row.order_id), self._trades.held_lots(row.order_id)
                if said != now:
                    self.publish_update(row.order_id)

    # --- private -------------------------------------------------------------------------------

    def _place(self, row: OwnOrder) -> bool:
        """Publish the terms, unless our clock was set back so far that nobody would take them."""
        latest_ms = self._core.now.wall_ms + ORDER_LIFE_MAX_MS + CLOCK_SKEW_MAX_MS
        if self._terms[row.order_id].expires_at_ms > latest_ms:
            self.close(row.order_id, RejectReason.EXPIRY_TOO_FAR)
            return False
        self._publisher.append(row.market, Place(row.order))
        return True

    def _arm(self, row: OwnOrder) -> None:
        left_ms = self._terms[row.order_id].expires_at_ms - self._core.now.wall_ms
        key = row.order_id
        self._core.call_after(("order", key), max(left_ms, 0), lambda: self._expire(key))

    def _expire(self, order_id: bytes) -> None:
        row = self.rows[order_id]
        if self._terms[order_id].expires_at_ms > self._core.now.wall_ms:
            self._arm(row)  # the wall clock was set back meanwhile
        else:
            self.on_expired(row)

    def _change(self, order_id: bytes, **changes: Any) -> OwnOrder:  # noqa: ANN401
        row = self.rows[order_id]
        after = msgspec.structs.replace(row, revision=row.revision + 1, **changes)
        self.rows[order_id] = after
        self._core.persist(PutOrder(after))
        key = order_id.hex()
        self._core.announce("order", key, order_id=key, state=after.state)
        return after


def _may_give_back(trade: Trade) -> bool:
    """Whether a take for a resting order may still come to nothing."""
    return trade.rests and trade.counted and not trade.paid and trade.state is not State.SETTLED
