"""What of a journal is loaded at a start, and what is looked for when somebody asks.

Only reads: the journal's own writers say what is archived.
"""

from __future__ import annotations

import sqlite3
from typing import Final, TypeVar

import msgspec

from zmqex.kernel.names import NAME_BYTES, key_name
from zmqex.kernel.records import OrderTerms, OwnOrder, Record, Snapshot, Trade, TradeLine
from zmqex.limits import ARCHIVED_SHOWN_MAX

R = TypeVar("R", bound=Record)

# A lookup of `Recall`, see there, as queries for trades and orders.  Of those whose ids begin alike
# three are enough: two say that there are several, and one may be in memory.
_TRADES: Final = {
    "trade": "SELECT record FROM trade WHERE trade_id BETWEEN :name AND :last LIMIT 3",
    "hash": "SELECT record FROM trade NATURAL JOIN payment_hash WHERE payment_hash = :name",
    "key": "SELECT record FROM trade JOIN command ON made = trade_id WHERE key = :key",
    "trades": "SELECT record FROM trade WHERE archived = 1 ORDER BY created_ms DESC LIMIT :most",
}
_ORDERS: Final = {
    "order": "SELECT record FROM own_order WHERE order_id BETWEEN :name AND :last LIMIT 3",
    "key": "SELECT record FROM own_order JOIN command ON made = order_id WHERE key = :key",
    "orders": (
        "SELECT record FROM own_order WHERE archived = 1 ORDER BY created_ms DESC LIMIT :most"
    ),
}
_OF_ORDER: Final = (
    "SELECT record FROM trade WHERE own_order_id = :name ORDER BY created_ms DESC LIMIT :most"
)
_NAMES: Final = (
    "SELECT substr(trade_id, 1, :most) FROM trade WHERE archived = 1",
    "SELECT substr(order_id, 1, :most) FROM own_order WHERE archived = 1",
    "SELECT substr(payment_hash, 1, :most) FROM payment_hash",
)


def names(connection: sqlite3.Connection) -> tuple[bytes, ...]:
    """How the names of everything archived begin, and of every payment hash that ever was."""
    beginnings = [
        beginning
        for query in _NAMES
        for (beginning,) in connection.execute(query, {"most": NAME_BYTES})
    ]
    keys = connection.execute("SELECT key FROM command WHERE archived = 1")
    return tuple(sorted([*beginnings, *(key_name(key) for (key,) in keys)]))


def find(connection: sqlite3.Connection, lookups: tuple[tuple[str, bytes], ...]) -> Snapshot:
    """What there is of these names; a trade comes with its own order, transcript and terms."""
    look = _Look(connection)
    for what, name in lookups:
        look.up(what, name)
    if all(what.endswith("s") for what, _ in lookups):
        return Snapshot(orders=tuple(look.orders.values()), trades=tuple(look.trades.values()))
    return look.with_all_that_belongs()


class _Look:
    """What was found so far."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.orders: dict[bytes, OwnOrder] = {}
        self.trades: dict[bytes, Trade] = {}
        self._hashes: list[tuple[bytes, bytes]] = []
        self._commands: list[tuple[str, bytes]] = []

    def up(self, what: str, name: bytes) -> None:
        if what in _TRADES:
            self._find_trades(_TRADES[what], name)
        if what in _ORDERS:
            self._find_orders(_ORDERS[what], name)
        if what == "hash":
            query = "SELECT payment_hash, trade_id FROM payment_hash WHERE payment_hash = ?"
            self._hashes += self._connection.execute(query, (name,)).fetchall()
        if what == "key":
            query = "SELECT key, made FROM command WHERE key = ?"
            self._commands += self._connection.execute(query, (name.decode(),)).fetchall()

    def with_all_that_belongs(self) -> Snapshot:
        for order_id in self.orders:
            self._find_trades(_OF_ORDER, order_id)
        for trade in self.trades.values():
            own_order = "SELECT record FROM own_order WHERE order_id = :name"
            self._find_orders(own_order, trade.own_order_id)
        trades = sorted(self.trades.values(), key=lambda one: (one.created_ms, one.trade_id))
        lines = "SELECT record FROM trade_line WHERE trade_id = :name ORDER BY position"
        terms = "SELECT record FROM order_terms WHERE order_id = :name"
        return Snapshot(
            orders=tuple(self.orders.values()),
            trades=tuple(trades),
            lines=tuple(
                line for one in trades for line in self._rows(lines, TradeLine, one.trade_id)
            ),
            terms=tuple(
                one
                for key in {trade.order_id: None for trade in trades}
                for one in self._rows(terms, OrderTerms, key)
            ),
            commands=tuple(self._commands),
            hashes=tuple(self._hashes),
        )

    def _find_trades(self, query: str, name: bytes) -> None:
        self.trades |= {one.trade_id: one for one in self._rows(query, Trade, name)}

    def _find_orders(self, query: str, name: bytes) -> None:
        self.orders |= {one.order_id: one for one in self._rows(query, OwnOrder, name)}

    def _rows(self, query: str, kind: type[R], name: bytes) -> list[R]:
        decoder = msgspec.msgpack.Decoder(kind)
        values = {
            "name": name,
            "last": name + b"\xff" * 32,
            "key": name.decode(errors="replace"),
            "most": ARCHIVED_SHOWN_MAX,
        }
        return [decoder.decode(raw) for (raw,) in self._connection.execute(query, values)]
