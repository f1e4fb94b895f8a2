"""One book per market: the open orders of all logs, as far as they may be shown now.

A fold reads no clock, a book does: what has ended, ends too late or has no room is kept out, and
looked at again every few seconds, so that books with equal folds come to be equal.  Others' dust is
kept out for good: orders worth less than one unit of the quote, which rounding would make dearer.
Not for: which orders a maker has (`replicas`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from zmqex.kernel.core import Core
from zmqex.kernel.effects import Announce
from zmqex.kernel.logs import MakerLog, resting
from zmqex.limits import CLOCK_SKEW_MAX_MS, HEARTBEAT_EVERY_MS, ORDER_LIFE_MAX_MS
from zmqex.market.book import Book
from zmqex.market.orders import BookOrder
from zmqex.market.units import dust_below
from zmqex.protocol.log import Row
from zmqex.protocol.messages import Order
from zmqex.reasons import RejectReason

_HIDDEN_DUST: Final = "hidden_" + RejectReason.NOTIONAL_TOO_SMALL.value


class Shown:
    """The books of the markets that this node follows."""

    def __init__(self, core: Core, logs: Callable[[], Iterable[MakerLog]]) -> None:
        """Show nothing yet."""
        self._core = core
        self._logs = logs
        self.books = {market: Book(market) for market in core.settings.markets}
        self._dust_below = {
            market: dust_below(core.currencies.instrument(market)) for market in self.books
        }
        self._changed: dict[str, None] = {}
        self._latest_wall_ms = 0
        self.on_changed: list[Callable[[str], None]] = []  # called with the market

    def book(self, market: str) -> Book:
        """The book of a followed market, without what has expired; treat it as read-only."""
        book, now_ms = self.books[market], self._core.now.wall_ms
        self._latest_wall_ms = max(self._latest_wall_ms, now_ms)
        book.expire(now_ms)
        return book

    def announce(self) -> None:
        """Say which books have changed since the last time, for live views."""
        for market in self._changed:
            self._core.emit(Announce("book", {"market": market}))
            for call in self.on_changed:
                call(market)
        self._changed = {}

    def show(
        self,
        log: MakerLog,
        rows: Iterable[tuple[bytes, Row | None]],
        terms: Mapping[bytes, Order],
    ) -> None:
        """Bring the rows of a log into its book; those with `terms` are new to it."""
        maker, market, now_ms = log.fold.maker, log.fold.market, self._core.now.wall_ms
        book = self.books.get(market)
        if book is None:
            return  # our own log of a market that is no longer followed
        self._changed[market] = None
        # Of our own, commands say what is too small; a part may be worth less, and is rounded up.
        dust = 0 if maker == self._core.identity else self._dust_below[market]
        latest_ms = now_ms + ORDER_LIFE_MAX_MS + CLOCK_SKEW_MAX_MS
        new: list[BookOrder] = []
        for key, row in rows:
            if row is None:
                book.cancel(key)
                log.hidden.pop(key, None)
            elif (order := terms.get(key)) is None:
                book.update(key, row.available_lots)
            elif order.quantity_lots * order.price_ticks < dust:
                self._core.count(_HIDDEN_DUST)
            elif order.expires_at_ms > latest_ms:
                self._keep_out(log, key, RejectReason.EXPIRY_TOO_FAR)
            else:
                new.append(resting(key, maker, order, row))
        for refused, reason in book.place_all(new, now_ms):
            self._keep_out(log, refused.order_id, reason)

    def _keep_out(self, log: MakerLog, key: bytes, reason: RejectReason) -> None:
        """Leave an order out of its book until it is looked at again."""
        log.hidden[key] = None
        self._core.count("hidden_" + reason.value)

    def hide(self, log: MakerLog) -> None:
        """Take a log's orders out of the book; the fold keeps them."""
        log.hidden = {}
        book = self.books.get(log.fold.market)
        if book is not None and log.fold.orders:
            self._changed[log.fold.market] = None
            for key in log.fold.orders:
                book.cancel(key)

    def look_again(self) -> None:
        """Every few seconds: what the clock or a full book kept out may be in order by now."""
        self._core.call_after("hidden", HEARTBEAT_EVERY_MS, self.look_again)
        now_ms = self._core.now.wall_ms
        was_ahead = now_ms < self._latest_wall_ms
        self._latest_wall_ms = now_ms
        for log in self._logs():
            book = self.books.get(log.fold.market)
            if log.forked or book is None:
                continue
            orders = log.fold.orders
            if was_ahead:
                # What had ended by a clock that has been set back since has not ended.
                log.hidden.update((key, None) for key in orders if book.get(key) is None)
            keys, log.hidden = log.hidden, {}
            terms = {key: orders[key].order for key in keys if key in orders}
            alive = [key for key, order in terms.items() if order.expires_at_ms > now_ms]
            self.show(log, [(key, orders[key]) for key in alive], terms)
