"""What was sold in a chaos round, counted from outside.

Reads the payment ledgers and the takers' signed receipts, nothing of what the maker thinks: a unit
is sold when the maker's ledger was paid for it.  A receipt is an accept that the maker has signed,
with the preimage that its invoice's payment brought.  All files must be at rest.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from zmqex.bolt11 import decode as decode_invoice
from zmqex.kernel.records import TradeLine
from zmqex.protocol.codec import decode_envelope, decode_trade_message
from zmqex.protocol.identity import verify
from zmqex.protocol.messages import Accept


class Count(NamedTuple):
    """The outcome of one round, in units and payments."""

    accepts: int  # signed accepts that the takers hold
    paid: int  # payments that succeeded in the takers' ledgers
    sold: int  # units that the maker's ledger was paid for
    lost: int  # paid, but without receipt, or unknown to the other ledger; and unknown accepts
    in_flight: int  # payments whose end nobody knows
    msat: int  # of all ledgers together, with what is in flight


def count(maker: Path, takers: list[Path], known_trades: set[str]) -> Count:
    """Count one round; `known_trades` are the ids that the maker still knows."""
    settled = dict(_rows(maker / "play.sqlite3", _SETTLED))
    receipts: dict[bytes, Accept] = {}
    succeeded: dict[bytes, bytes] = {}
    in_flight, accepts, lost = 0, 0, 0
    for taker in takers:
        for accept in _accepts(taker / "journal.sqlite3"):
            accepts += 1
            lost += accept.trade_id.hex() not in known_trades
            if accept.invoice is not None:
                receipts[decode_invoice(accept.invoice).payment_hash] = accept
        for payment_hash, state, preimage in _rows(taker / "play.sqlite3", _PAYMENTS):
            in_flight += state == "in_flight"
            if state == "succeeded":
                succeeded[payment_hash] = preimage
    for payment_hash, preimage in succeeded.items():
        proven = hashlib.sha256(preimage).digest() == payment_hash and payment_hash in receipts
        lost += not (proven and payment_hash in settled)
    # Money that came from nobody would be as wrong as money that went nowhere.
    lost += len(settled.keys() - succeeded.keys())
    msat = sum(
        amount for one in (maker, *takers) for (amount,) in _rows(one / "play.sqlite3", _SUM)
    )
    return Count(accepts, len(succeeded), len(settled), lost, in_flight, msat)


_SETTLED = "SELECT payment_hash, amount_msat FROM invoice WHERE state = 'settled'"
_PAYMENTS = "SELECT payment_hash, state, preimage FROM payment"
_SUM = """
    SELECT (SELECT msat FROM balance)
        + (SELECT coalesce(sum(amount_msat), 0) FROM payment WHERE state = 'in_flight')
"""


def _accepts(journal: Path) -> Iterator[Accept]:
    """The accepts of a taker's journal that its makers have signed."""
    for (raw,) in _rows(journal, "SELECT record FROM trade_line"):
        line = msgspec.msgpack.decode(raw, type=TradeLine)
        envelope = decode_envelope(line.envelope)
        message = decode_trade_message(envelope.body)
        if isinstance(message, Accept) and verify(line.sender, "play", "accept", envelope):
            yield message


def _rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    if not path.exists():
        return []
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()
