"""Evidence of a trade for others: what both parties signed, the order, the preimage, our seal.

The terms of an order that we take are kept when we take it, for its maker may be gone when they
are needed.  Not for checking evidence (zmqex/trading/evidence.py).
"""

from __future__ import annotations

from typing import Any

import msgspec

from zmqex.kernel.commands import Command, ExportTrade
from zmqex.kernel.core import Core
from zmqex.kernel.logs import MakerLog
from zmqex.kernel.orders import OwnOrders
from zmqex.kernel.records import OrderTerms, PutTerms, Trade
from zmqex.kernel.replicas import FoundOrder, Replicas
from zmqex.kernel.taking import Taking
from zmqex.kernel.trades import Trades
from zmqex.kernel.views import find_by_prefix, id_problem
from zmqex.protocol.identity import digest, to_text
from zmqex.reasons import RejectReason
from zmqex.trading.evidence import FORMAT, SEAL_KIND, EvidenceFile, seal_body
from zmqex.trading.states import TradeRole


class Exports:
    """Answers ExportTrade."""

    def __init__(
        self, core: Core, replicas: Replicas, trades: Trades, orders: OwnOrders, taking: Taking
    ) -> None:
        """Keep nothing yet."""
        self._core = core
        self._replicas = replicas
        self._trades = trades
        self._orders = orders
        self._kept: set[bytes] = set()  # orders whose terms the journal surely has
        self._terms: dict[bytes, OrderTerms] = {}
        taking.on_asked = self.keep

    def bring(self, terms: tuple[OrderTerms, ...]) -> None:
        """Have the terms of orders that were taken; those of before are not needed any more."""
        self._terms = {one.order_id: one for one in terms}

    def forget(self, order_id: bytes) -> None:
        """A trade of this order is not in memory any more."""
        self._kept.discard(order_id)

    def keep(self, found: FoundOrder) -> None:
        """Keep the terms of an order that is about to be taken, with its maker's signature."""
        log = self._replicas.log(found.maker, found.order.market)
        if found.order_id in self._kept or log is None:
            return
        order = log.fold.orders[found.order_id].raw
        self._kept.add(found.order_id)
        self._core.persist(PutTerms(OrderTerms(found.order_id, order, _batch_of(log, order))))

    def on_command(self, client: bytes, request_id: int, command: Command) -> bool:
        """Answer a command if it is ours."""
        if not isinstance(command, ExportTrade):
            return False
        found = find_by_prefix(command.trade_id, self._trades.by_id)
        if not isinstance(found, bytes):
            problem = id_problem(command.trade_id, found, "trade")
            self._core.refuse(client, request_id, *problem)
            return True
        trade = self._trades.by_id[found]
        terms = self._terms_of(trade)
        if terms is None:
            message = f"trade {found.hex()[:12]} has no evidence: there is no take or no order"
            self._core.refuse(client, request_id, RejectReason.WRONG_STATE, message)
        else:
            evidence = msgspec.to_builtins(self._file(trade, terms))
            self._core.answer(client, request_id, {"evidence": evidence})
        return True

    def _file(self, trade: Trade, terms: OrderTerms) -> EvidenceFile:
        order, batch = terms.order, terms.batch
        # The payee's preimage is a secret until Lightning has settled.
        preimage = trade.preimage if trade.paid else None
        lines = self._trades.lines[trade.trade_id].values()
        seal: dict[str, Any] = {
            "trade_id": trade.trade_id,
            "maker": trade.maker,
            "taker": trade.taker,
            "sealed_at_ms": self._core.now.wall_ms,
            "state": trade.state.value,
            "order_digest": digest(order),
            "batch_digest": digest(batch) if batch else None,
            "preimage": preimage,
            "message_digests": [line.digest for line in lines],
        }
        return EvidenceFile(
            format=FORMAT,
            network=self._core.settings.network,
            maker=to_text(trade.maker),
            taker=to_text(trade.taker),
            order=order.hex(),
            batch=batch.hex() if batch else None,
            messages=[line.envelope.hex() for line in lines],
            preimage=preimage.hex() if preimage else None,
            seal=self._core.seal(SEAL_KIND, seal_body(seal)).hex(),
        )

    def _terms_of(self, trade: Trade) -> OrderTerms | None:
        """The order of a trade as it was published; None where nothing was taken."""
        if trade.role is TradeRole.TAKER:
            return self._terms.get(trade.order_id)
        row = self._orders.rows.get(trade.order_id)
        if row is None:
            return None
        batch = _batch_of(self._replicas.own_log(row.market), row.order)
        return OrderTerms(row.order_id, row.order, batch)


def _batch_of(log: MakerLog, order: bytes) -> bytes:
    """The kept batch of a log that carries these very terms, or b""."""
    return next((envelope for envelope in log.tail if order in envelope), b"")
