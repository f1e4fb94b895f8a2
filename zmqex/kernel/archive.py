"""What has ended leaves memory for the journal, and comes back when somebody speaks of it.

A trade that has ended, and a closed order without trades in memory, is archived after a while: the
journal keeps it, a start does not load it, and memory knows its name only (names.py).  Whoever is
asked about it waits for one look into the journal (`Recall`); from then on it is like any other,
and leaves again.  A trade never is in memory without the own order that it is of.
Not for the numbers of what is there (`trades`, `orders`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from zmqex.kernel.commands import Command, ExportTrade, ShowOrder
from zmqex.kernel.core import Core
from zmqex.kernel.desk import Desk
from zmqex.kernel.effects import Recall
from zmqex.kernel.events import Recalled
from zmqex.kernel.evidence import Exports
from zmqex.kernel.names import key_name
from zmqex.kernel.orders import CLOSED, OwnOrders
from zmqex.kernel.records import ArchiveOrder, Snapshot, Trade
from zmqex.kernel.trades import Trades
from zmqex.limits import ENDED_KEPT_MS, ID_PREFIX_CHARS_MIN, RECALLED_KEPT_MS, SETTLED_KEPT_MS
from zmqex.trading.states import TERMINAL, State

Lookup = tuple[str, bytes]
Then = Callable[[], None]
_OF_COMMANDS: Final = (("trade_id", "trade"), ("order_id", "order"))


class Archive:
    """Sends away what has ended, and fetches it."""

    def __init__(
        self, core: Core, trades: Trades, orders: OwnOrders, desk: Desk, exports: Exports
    ) -> None:
        """Nothing is away; `restore` says what is."""
        self._core = core
        self._trades = trades
        self._orders = orders
        self._desk = desk
        self._exports = exports
        self._tickets = 0
        self._waiting: dict[int, Callable[[Snapshot], None]] = {}
        self._asked: dict[Lookup, list[Then]] = {}
        self._answered: Lookup | None = None  # whoever waited for it goes on at the moment
        trades.recall = self.fetch
        trades.on_moved.append(self._moved)
        orders.on_closed.append(self._order_later)

    def restore(self, restored: Snapshot) -> None:
        """Know what is away."""
        self._trades.archived.restore(restored.names)
        self._trades.friends.update(restored.friends)

    def resume(self) -> None:
        """After a restart: what ended before it leaves in its time."""
        for trade in self._trades.by_id.values():
            if trade.state in TERMINAL and not trade.is_tombstone:
                self._trade_later(trade.trade_id)
        for row in self._orders.rows.values():
            if row.state == CLOSED:
                self._order_later(row.order_id)

    # --- back into memory ----------------------------------------------------------------------

    def fetch(self, what: str, name: bytes, then: Then) -> bool:
        """Have the journal look for a "trade" or "hash" that is not in memory, then call.

        False where it cannot be there, or was looked for just now: nothing is called then.
        """
        lookup = (what, name)
        if lookup == self._answered or not self._trades.archived.may_have(name):
            return False
        if lookup in self._asked:
            self._asked[lookup].append(then)
            return True
        self._asked[lookup] = [then]
        self._read((lookup,), lambda found: self._fetched(lookup, found))
        return True

    def fetch_for(self, command: Command, then: Then) -> bool:
        """Have the journal look for what a command speaks of; False where that is in memory."""
        lookups = tuple(self._lookups(command))
        if not lookups:
            return False

        def fetched(found: Snapshot) -> None:
            self._bring_back(found)
            then()

        self._read(lookups, fetched)
        return True

    def newest(self, what: str, then: Callable[[Snapshot], None]) -> None:
        """Read the newest archived "trades" or "orders", only to be shown."""
        self._read(((what, b""),), then)

    def on_recalled(self, event: Recalled) -> None:
        """The journal has answered."""
        self._waiting.pop(event.ticket)(event.found)

    def _read(self, lookups: tuple[Lookup, ...], then: Callable[[Snapshot], None]) -> None:
        self._tickets += 1
        self._waiting[self._tickets] = then
        self._core.emit(Recall(self._tickets, lookups))

    def _fetched(self, lookup: Lookup, found: Snapshot) -> None:
        self._bring_back(found)
        self._answered = lookup
        for then in self._asked.pop(lookup):
            then()
        self._answered = None

    def _bring_back(self, found: Snapshot) -> None:
        orders = tuple(one for one in found.orders if one.order_id not in self._orders.rows)
        trades = tuple(one for one in found.trades if one.trade_id not in self._trades.by_id)
        new = {one.trade_id for one in trades}
        lines = tuple(one for one in found.lines if one.trade_id in new)
        self._orders.restore(orders)
        self._trades.restore(Snapshot(trades=trades, lines=lines, hashes=found.hashes))
        self._exports.bring(found.terms)
        self._desk.keys.restore(found.commands)
        for trade in trades:
            self._trade_later(trade.trade_id, RECALLED_KEPT_MS)
        for row in orders:
            self._order_later(row.order_id, RECALLED_KEPT_MS)

    def _lookups(self, command: Command) -> Sequence[Lookup]:
        found: list[Lookup] = []
        key = getattr(command, "key", "")
        if key and key not in self._desk.keys and self._trades.archived.may_have(key_name(key)):
            found.append(("key", key.encode()))
        for field, what in _OF_COMMANDS:
            beginning = _beginning(getattr(command, field, ""))
            # An order in memory may have trades that are not, and terms of others never are.
            asks = isinstance(command, ShowOrder | ExportTrade)
            if beginning and (asks or self._trades.archived.may_have(beginning)):
                found.append((what, beginning))
        return found

    # --- out of memory -------------------------------------------------------------------------

    def _moved(self, _before: Trade, after: Trade) -> None:
        if after.state in TERMINAL:
            self._trade_later(after.trade_id)
        else:
            self._core.cancel_timer(("archive", after.trade_id))

    def _trade_later(self, key: bytes, at_least_ms: int = 0) -> None:
        left_ms = max(self._left_ms(self._trades.by_id[key]), at_least_ms)
        self._core.call_after(("archive", key), left_ms, lambda: self._trade_due(key))

    def _left_ms(self, trade: Trade) -> int:
        """How long a trade still stays: what it settled counts for a day (exposure.py)."""
        kept_ms = SETTLED_KEPT_MS if trade.state is State.SETTLED else ENDED_KEPT_MS
        # However the wall clock was set meanwhile.
        return min(trade.updated_ms + kept_ms - self._core.now.wall_ms, kept_ms)

    def _trade_due(self, key: bytes) -> None:
        trade = self._trades.by_id[key]
        if self._left_ms(trade) > 0:
            self._trade_later(key)
        elif not self._trades.may_leave(trade) or self._desk.works_with(key):
            self._trade_later(key, ENDED_KEPT_MS)
        else:
            self._trades.archive(key)
            self._exports.forget(trade.order_id)
            self._forget_key(key)

    def _order_later(self, key: bytes, after_ms: int = 0) -> None:
        delay_ms = after_ms or ENDED_KEPT_MS
        self._core.call_after(("archive", key), delay_ms, lambda: self._order_due(key))

    def _order_due(self, key: bytes) -> None:
        if self._trades.of_order(key) or not self._orders.may_leave(key):
            self._order_later(key)
            return
        self._orders.leave(key)
        self._desk.clients.pop(key, None)
        self._trades.archived.add(key)
        self._forget_key(key)
        self._core.persist(ArchiveOrder(key))

    def _forget_key(self, made: bytes) -> None:
        key = self._desk.keys.forget(made)
        if key is not None:
            self._trades.archived.add(key_name(key))


def _beginning(text: str) -> bytes:
    """The whole bytes of an id's first hex digits; b"" where they are too few, or none."""
    wanted = text.lower().strip()
    if len(wanted) < ID_PREFIX_CHARS_MIN:
        return b""
    try:
        return bytes.fromhex(wanted[: len(wanted) // 2 * 2])
    except ValueError:
        return b""
