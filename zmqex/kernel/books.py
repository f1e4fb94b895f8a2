"""The operator's view of books: our own, and the whole verified book of one peer.

Not for: keeping books up to date (`replicas`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from zmqex.errors import RemoteProtocolError
from zmqex.kernel.commands import Command, GetBook, GetPeerBook
from zmqex.kernel.core import Core
from zmqex.kernel.logs import resting
from zmqex.kernel.sessions import Answer, Refusal, Sessions, unknown_peer
from zmqex.kernel.snapshots import SnapshotFetch
from zmqex.limits import INTEGER_MAX, MAKERS_MAX, ORDERS_TOTAL_MAX
from zmqex.market.book import Book
from zmqex.market.orders import BookOrder, OrderFlags, Side
from zmqex.market.units import dust_below
from zmqex.protocol.codec import decode, decode_envelope
from zmqex.protocol.identity import to_text, verify
from zmqex.protocol.log import Fold, Row
from zmqex.protocol.messages import Head, Heads, Heartbeat, Page
from zmqex.reasons import RejectReason

if TYPE_CHECKING:
    from zmqex.kernel.replicas import Replicas


# The peer knows of that maker, but has not its orders now: the others are shown.
_HAS_NONE: Final = (
    RejectReason.UNKNOWN_MAKER,
    RejectReason.FORKED_LOG,
    RejectReason.OLD_EPOCH,
    RejectReason.SEQUENCE_GAP,
)
Rows = Mapping[bytes, Mapping[bytes, Row]]  # by maker and order id
_LOTS: Final = ("quantity_lots", "cumulative_lots", "own_lots", "stale_lots")


class Books:
    """Answers GetBook and GetPeerBook."""

    def __init__(self, core: Core, sessions: Sessions, replicas: Replicas) -> None:
        """Keep nothing."""
        self._core = core
        self._sessions = sessions
        self._replicas = replicas

    def on_command(self, client: bytes, request_id: int, command: Command) -> bool:
        """Answer a command about books; False where it is about something else."""
        if not isinstance(command, GetBook | GetPeerBook):
            return False
        if command.market not in self._replicas.markets():
            markets = ", ".join(self._replicas.markets())
            message = f"this node does not follow {command.market[:30]!r}; it follows {markets}"
            self._core.refuse(client, request_id, RejectReason.WRONG_MARKET, message)
        elif isinstance(command, GetBook):
            result = self._own_view(command)
            self._core.answer(client, request_id, result)
        else:
            self._fetch(client, request_id, command)
        return True

    def _own_view(self, command: GetBook) -> dict[str, Any]:
        folds = [
            log.fold
            for maker in self._replicas.makers
            for log in self._replicas.logs_of(maker)
            if log.fold.market == command.market and not log.forked
        ]
        book = self._replicas.book(command.market)
        return self._view(book, folds, command)

    def _fetch(self, client: bytes, request_id: int, command: GetPeerBook) -> None:
        peer = self._sessions.find(command.peer)
        if isinstance(peer, RejectReason):
            self._core.refuse(client, request_id, peer, unknown_peer(command.peer, peer))
            return

        def done(fetched: Fetch, refusal: Refusal | None) -> None:
            if refusal is not None:
                message = f"{to_text(peer)[:8]} did not give its book: "
                message += refusal.detail or refusal.reason.value
                self._core.refuse(client, request_id, refusal.reason, message)
                return
            book = fetched.book(self._core.now.wall_ms)
            folds = list(fetched.folds.values())
            view = self._view(book, folds, command)
            view |= {"peer": to_text(peer), "snapshots": len(fetched.folds)}
            self._core.answer(client, request_id, view)

        Fetch(self._core, self._sessions, peer, command.market, done).start()

    def _view(
        self, book: Book, folds: list[Fold], command: GetBook | GetPeerBook
    ) -> dict[str, Any]:
        """The answer's shape, as promised in `commands.GetBook`."""
        depth = command.depth or len(book)
        rows = {fold.maker: fold.orders for fold in folds}
        bids, bid_orders = self._side(book, Side.BUY, depth, rows)
        asks, ask_orders = self._side(book, Side.SELL, depth, rows)
        makers = [fold.maker for fold in folds if fold.orders]
        bid, ask = book.best_bid(), book.best_ask()
        shown = [*bid_orders, *ask_orders] if command.orders else []
        return {
            "market": book.symbol,
            "bids": bids,
            "asks": asks,
            "spread_ticks": None if bid is None or ask is None else ask - bid,
            "orders": [self._order(order, rows[order.maker][order.order_id]) for order in shown],
            "makers": len(makers),
            "stale_makers": sum(map(self._replicas.is_stale, makers)),
        }

    def _side(
        self, book: Book, side: Side, depth: int, rows: Rows
    ) -> tuple[list[dict[str, Any]], list[BookOrder]]:
        """The best levels of a side, and their orders."""
        levels: list[dict[str, Any]] = []
        orders: list[BookOrder] = []
        cumulative_lots = 0
        for order in book.orders(side):
            if not levels or levels[-1]["price_ticks"] != order.price_ticks:
                if len(levels) == depth:
                    break
                levels.append(
                    {
                        "price_ticks": order.price_ticks,
                        "quantity_lots": 0,
                        "cumulative_lots": 0,
                        "orders": 0,
                        "own_lots": 0,
                        "stale_lots": 0,
                        "settlement_lots": {},
                    }
                )
            level, lots = levels[-1], order.available_lots
            cumulative_lots += lots
            level["quantity_lots"] += lots
            level["cumulative_lots"] = cumulative_lots
            level["orders"] += 1
            if order.maker == self._core.identity:
                level["own_lots"] += lots
            elif self._replicas.is_stale(order.maker):
                level["stale_lots"] += lots
            by = level["settlement_lots"]
            for word in rows[order.maker][order.order_id].order.settlements:
                by[word] = by.get(word, 0) + lots
            orders.append(order)
        for level in levels:
            # Orders of strangers may add up to more than any number that can be told.
            level.update({name: min(level[name], INTEGER_MAX) for name in _LOTS})
            by = level["settlement_lots"]
            by.update({word: min(lots, INTEGER_MAX) for word, lots in by.items()})
        return levels, orders

    def _order(self, order: BookOrder, row: Row) -> dict[str, Any]:
        return {
            "order_id": order.order_id.hex(),
            "maker": to_text(order.maker),
            "side": order.side.value,
            "price_ticks": order.price_ticks,
            "remaining_lots": row.remaining_lots,
            "held_lots": row.held_lots,
            "available_lots": order.available_lots,
            "minimum_lots": order.minimum_lots,
            "expires_at_ms": order.expires_at_ms,
            "own": order.maker == self._core.identity,
            "stale": self._replicas.is_stale(order.maker),
            "all_or_none": bool(order.flags & OrderFlags.ALL_OR_NONE),
            "settlements": list(row.order.settlements),
        }


class Fetch:
    """One peer's whole book of one market: a verified snapshot of every log that it has."""

    def __init__(
        self,
        core: Core,
        sessions: Sessions,
        peer: bytes,
        market: str,
        done: Callable[[Fetch, Refusal | None], None],
    ) -> None:
        """Ask nothing yet; `done` is called once, with why it failed if it did."""
        self._core = core
        self._sessions = sessions
        self._peer = peer
        self._market = market
        self._done = done
        self._wanted: list[tuple[bytes, Head]] = []
        self._left = ORDERS_TOTAL_MAX
        self.folds: dict[bytes, Fold] = {}

    def start(self) -> None:
        """Ask for the heads of all makers, then for their orders, one maker at a time."""
        self._ask_heads(b"")

    def book(self, now_ms: int) -> Book:
        """The fetched orders, as this node would show them."""
        book = Book(self._market)
        dust = dust_below(self._core.currencies.instrument(self._market))
        for fold in self.folds.values():
            for key, row in fold.orders.items():
                order = row.order
                if order.quantity_lots * order.price_ticks >= dust:
                    book.place(resting(key, fold.maker, order, row), now_ms)
        return book

    def _ask_heads(self, after: bytes) -> None:
        def on_answer(answer: Answer) -> None:
            if isinstance(answer, Refusal):
                self._done(self, answer)
            else:
                self._on_heads(after, decode(answer, Heads))

        self._sessions.request(self._peer, "heads", Page(after), on_answer)

    def _on_heads(self, after: bytes, page: Heads) -> None:
        last = after
        for raw in page.heartbeats:
            envelope = decode_envelope(raw)
            beat = decode(envelope.body, Heartbeat)
            last = max(last, beat.maker)
            if not verify(beat.maker, self._core.settings.network, "heartbeat", envelope):
                raise RemoteProtocolError("a heartbeat with a wrong signature", penalty=10)
            heads = [head for head in beat.heads if head.market == self._market and head.sequence]
            self._wanted.extend((beat.maker, head) for head in heads)
        if page.heartbeats and last <= after:
            raise RemoteProtocolError("heads that do not go on", penalty=5)
        if not page.is_last and len(self._wanted) < MAKERS_MAX:
            self._ask_heads(last)
        else:
            self._next_log()

    def _next_log(self) -> None:
        """Start with the next maker; all are there when none is left."""
        if not self._wanted:
            self._done(self, None)
            return
        maker, head = self._wanted.pop()
        fold = Fold(self._core.settings.network, maker, self._market)
        fold.begin(head.epoch)
        SnapshotFetch(
            self._core, self._sessions, self._peer, fold, self._fetched, orders_max=self._left
        ).start(1, {})

    def _fetched(self, fetch: SnapshotFetch, refusal: Refusal | None) -> None:
        if refusal is not None and refusal.reason not in _HAS_NONE:
            self._done(self, refusal)
            return
        if fetch.head is not None and fetch.rows is not None:
            fetch.fold.restore(fetch.head, fetch.rows)
            self.folds[fetch.fold.maker] = fetch.fold
            self._left -= len(fetch.rows)
        self._next_log()
