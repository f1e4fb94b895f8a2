#!/usr/bin/env python3
"""A maker that sells under a lock with a time to live, as one would naively build it.

    chaos_naive.py ARGUMENTS OF zmqex

It is the real node but for the end of a hold: when the time is over the quantity is free, without a
word to or from Lightning, and an invoice lives for an hour, as backends make them.  It exists so
that the counter of `chaos` can be seen to bite; nothing of it is in the program.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from zmqex.cli.main import run
from zmqex.kernel import invoices, sides
from zmqex.kernel.effects import CreateInvoice
from zmqex.kernel.maker import Maker
from zmqex.kernel.records import Trade
from zmqex.reasons import RejectReason
from zmqex.trading.states import Input, State

INVOICE_S = 3_600


class NaiveMaker(Maker):
    """Frees a hold when its time is over."""

    def _end(self, trade: Trade, reason: RejectReason) -> None:
        trade = self._trades.move(trade, Input.END_ASKED, reason=reason.value)
        if trade.state is State.CANCELLING:
            trade = self._trades.move(trade, Input.BASE_NEGATIVE)
        self.returned(trade)


def long_lived(
    trade_id: bytes,
    payment_hash: bytes,
    preimage: bytes,
    amount_msat: int,
    memo: str,
    _expiry_s: int,
    *,
    first: bool = False,
) -> CreateInvoice:
    """An invoice that outlives the lock."""
    terms = (amount_msat, memo, INVOICE_S)
    return CreateInvoice(trade_id, payment_hash, preimage, *terms, first=first)


# Module, name -> what stands there in a naive node.
NAIVE = {(sides, "Maker"): NaiveMaker, (invoices, "CreateInvoice"): long_lived}


if __name__ == "__main__":
    for (module, name), naive in NAIVE.items():
        vars(module)[name] = naive
    run()
