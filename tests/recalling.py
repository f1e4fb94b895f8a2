"""What a journal in memory finds of its archive: the real one's queries, as loops."""

from __future__ import annotations

from tests.outside import MemoryJournal, R, in_order
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel import records
from zmqex.limits import ARCHIVED_SHOWN_MAX


def recall(journal: MemoryJournal, effect: out.Recall) -> happened.Recalled:
    """As `zmqex.adapters.storage.archive.find`."""
    trades: dict[bytes, records.Trade] = {}
    orders: dict[bytes, records.OwnOrder] = {}
    hashes: list[tuple[bytes, bytes]] = []
    commands: list[tuple[str, bytes]] = []
    for what, name in effect.lookups:
        match what:
            case "trade":
                trades |= _beginning(journal.trades, name)
            case "order":
                orders |= _beginning(journal.orders, name)
            case "hash":
                owner = journal.hashes.get(name)
                hashes += [(name, owner)] if owner else []
                trades |= _of(journal.trades, owner)
            case "key":
                made = journal.commands.get(name.decode())
                commands += [(name.decode(), made)] if made else []
                trades |= _of(journal.trades, made)
                orders |= _of(journal.orders, made)
            case "trades":
                away = {key: journal.trades[key] for key in journal.archived_trades}
                return _told(effect, records.Snapshot(trades=tuple(_newest(away))))
            case _:
                gone = {key: journal.orders[key] for key in journal.archived_orders}
                return _told(effect, records.Snapshot(orders=tuple(_newest(gone))))
    of_these = [key for key, order_id in journal.own_orders.items() if order_id in orders]
    trades |= {key: journal.trades[key] for key in of_these}
    for trade in trades.values():
        orders |= _of(journal.orders, trade.own_order_id)
    terms = {one.order_id: journal.terms.get(one.order_id) for one in in_order(trades)}
    found = records.Snapshot(
        orders=tuple(in_order(orders)),
        trades=tuple(in_order(trades)),
        lines=tuple(
            line
            for trade in in_order(trades)
            for line in journal.lines.values()
            if line.trade_id == trade.trade_id
        ),
        terms=tuple(one for one in terms.values() if one is not None),
        commands=tuple(commands),
        hashes=tuple(hashes),
    )
    return _told(effect, found)


def _told(effect: out.Recall, found: records.Snapshot) -> happened.Recalled:
    return happened.Recalled(effect.ticket, found)


def _newest(rows: dict[bytes, R]) -> list[R]:
    return in_order(rows)[-ARCHIVED_SHOWN_MAX:]


def _beginning(rows: dict[bytes, R], name: bytes) -> dict[bytes, R]:
    return {key: one for key, one in rows.items() if key.startswith(name)}


def _of(rows: dict[bytes, R], key: bytes | None) -> dict[bytes, R]:
    return {key: rows[key]} if key is not None and key in rows else {}
