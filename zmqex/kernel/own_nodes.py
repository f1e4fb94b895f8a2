"""Which of our Lightning nodes a trade hangs on: only that node's word about it counts.

Another node has never heard of its payments and says "none", after which they would be made again.
So the node is written down with each intent to pay and each invoice.  Not for what happens to a
trade whose node is gone (disputes.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from zmqex.kernel.core import Core
from zmqex.kernel.records import Trade
from zmqex.market.instruments import BASE
from zmqex.trading.states import Input
from zmqex.trading.swap import quote_of
from zmqex.trading.tables import hangs_on_lightning

_FIELDS: Final = {
    Input.INVOICE_MADE: "invoice_node",
    Input.PAY_STARTED: "paying_node",
    Input.PAY_AGAIN: "paying_node",
}


def written_down(core: Core, trade: Trade, our_side: str, happened: Input) -> dict[str, bytes]:
    """The field that a move sets besides its own, by name."""
    field = _FIELDS.get(happened)
    if field is None:
        return {}
    received, paid = _assets(trade, our_side)
    backend = core.settings.backend(received if field == "invoice_node" else paid)
    return {} if backend is None else {field: backend.identity}


def nodes(trade: Trade, our_side: str) -> Iterator[tuple[str, bytes]]:
    """The asset and the identity of each node that a trade hangs on by now."""
    if hangs_on_lightning(trade.settlement, trade.role, our_side, trade.state):
        assets, both = _assets(trade, our_side), (trade.invoice_node, trade.paying_node)
        yield from ((asset, one) for asset, one in zip(assets, both, strict=True) if one)


def missing(core: Core, trade: Trade, our_side: str) -> tuple[str, bytes] | None:
    """Asset and identity of a node that a trade hangs on and that is not ours any more."""
    for asset, node in nodes(trade, our_side):
        backend = core.settings.backend(asset)
        if backend is None or backend.identity != node:
            return asset, node
    return None


def _assets(trade: Trade, our_side: str) -> tuple[str, str]:
    """Over whose networks we are paid and pay; the quote has one in a swap only."""
    base_and_quote = (BASE, quote_of(trade.market))
    return base_and_quote if our_side == "buy" else base_and_quote[::-1]
