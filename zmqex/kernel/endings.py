"""Own orders that end without a word of their owner: by their time, or with the client of them.

A market maker's program places its orders for as long as it is there (`cancel_on_disconnect`): when
it has gone nobody would move their prices, so they are closed; after a restart of the node too,
which no client outlives.  Not for what an owner cancels (`desk`).
"""

from __future__ import annotations

import msgspec

from zmqex.kernel.core import Core
from zmqex.kernel.desk import Desk
from zmqex.kernel.events import ClientGone
from zmqex.kernel.orders import CLOSED, OwnOrders
from zmqex.kernel.records import OwnOrder
from zmqex.market.orders import OrderFlags
from zmqex.market.units import check_notional
from zmqex.reasons import RejectReason


class Endings:
    """Closes what has ended, and renews what renews itself."""

    def __init__(self, core: Core, orders: OwnOrders, desk: Desk) -> None:
        """Act from now on; `resume` comes after the orders are published again."""
        self._core = core
        self._orders = orders
        self._desk = desk
        orders.on_expired = self._expired

    def resume(self) -> None:
        """After a restart: the clients of before are gone."""
        for order_id in list(self._orders.rows):
            if self._orders.terms(order_id).flags & OrderFlags.CANCEL_ON_DISCONNECT:
                self._end(order_id)

    def on_client_gone(self, event: ClientGone) -> None:
        """A client has gone: what it placed for its own time goes too, and what replaced that."""
        clients = self._desk.clients
        for order_id in [one for one, client in clients.items() if client == event.client]:
            del clients[order_id]
            self._end(order_id)

    def _end(self, order_id: bytes) -> None:
        if self._orders.rows[order_id].state != CLOSED:
            self._desk.close(order_id, RejectReason.CLIENT_GONE)

    def _expired(self, row: OwnOrder) -> None:
        available = self._orders.available_lots(row.order_id)
        self._orders.close(row.order_id, RejectReason.EXPIRED)
        old = self._orders.terms(row.order_id)
        instrument = self._orders.instrument(row.market)
        # What is left may be dust, which nobody would show.
        lives = check_notional(available, old.price_ticks, instrument) is None
        if not row.renew or not lives:
            return
        life_ms = old.expires_at_ms - row.created_ms
        renewed = msgspec.structs.replace(
            old,
            quantity_lots=available,
            minimum_lots=min(old.minimum_lots, available),
            expires_at_ms=self._core.now.wall_ms + life_ms,
            nonce=self._core.random(16),
        )
        fresh = self._orders.add(
            renewed, time_in_force=row.time_in_force, renew=True, pay_mode=row.pay_mode
        )
        self._orders.publish(fresh.order_id)
