"""Settlement `swap`: both legs move over Lightning-like networks, locked by one hash.

The taker draws the preimage.  **Leg 1** goes to the maker, by a hold invoice on the taker's hash;
**leg 2** goes to the taker, by an ordinary invoice on the same hash.  The maker pays leg 2 only
while leg 1 is locked for it, and for long enough; what it gets for that payment is the preimage,
with which it takes leg 1.  So each has both legs, or neither, whatever the other one does.  Leg 1
is what the maker receives: the base where it buys, the quote where it sells.

A missing row means that the input is illegal in that state: nothing changes.
"""

from __future__ import annotations

from typing import Final

import msgspec

from zmqex.limits import (
    CLTV_LIMIT_BLOCKS,
    CLTV_PADDING_BLOCKS,
    INVOICE_AMOUNT_MSAT_MAX,
    LOCK_MARGIN_BLOCKS,
    SWAP_LEG_MSAT_MIN,
)
from zmqex.market.instruments import BASE
from zmqex.reasons import RejectReason
from zmqex.trading.settlement import QUOTE_UNIT_MSAT
from zmqex.trading.states import RESOLVE_PAID, TAKE, Filled, Input, State, Table

_S, _I = State, Input

MAKER: Final[Table] = {
    (_S.RESERVED, _I.INVOICE_MADE): _S.INVOICED,
    (_S.RESERVED, _I.LOCKED): _S.HTLC_ACCEPTED,
    (_S.RESERVED, _I.END_ASKED): _S.CANCELLING,
    (_S.INVOICED, _I.LOCKED): _S.HTLC_ACCEPTED,
    (_S.INVOICED, _I.END_ASKED): _S.CANCELLING,
    # Leg 2 has not been paid, so leg 1 may still go back.
    (_S.HTLC_ACCEPTED, _I.END_ASKED): _S.CANCELLING,
    (_S.CANCELLING, _I.INVOICE_MADE): _S.CANCELLING,
    (_S.CANCELLING, _I.GIVEN_BACK): _S.CANCELLED,
    # Only Lightning ends a payment; until it has, leg 1 is never cancelled.
    (_S.HTLC_ACCEPTED, _I.PAY_STARTED): _S.PAYING,
    (_S.PAYING, _I.PAY_FAILED): _S.CANCELLING,
    (_S.PAYING, _I.PAY_SUCCEEDED): _S.RELEASED,
    (_S.RELEASED, _I.RECEIVED): _S.SETTLED,
    # Lightning knows more than a journal that was restored from an older copy.
    (_S.CANCELLING, _I.PAY_SUCCEEDED): _S.RELEASED,
    **{
        (state, _I.RECEIVED): _S.SETTLED
        for state in (_S.RESERVED, _S.INVOICED, _S.HTLC_ACCEPTED, _S.CANCELLING, _S.PAYING)
    },
    # Leg 1 went back although leg 2 is paid: this node was away until its lock had ended.
    (_S.RELEASED, _I.GIVEN_BACK): _S.DISPUTED,
    **RESOLVE_PAID,
}

TAKER: Final[Table] = {
    **TAKE,
    (_S.ACCEPTED, _I.INVOICE_MADE): _S.INVOICED,
    (_S.INVOICED, _I.PAY_STARTED): _S.PAYING,
    (_S.INVOICED, _I.ABANDON): _S.ABANDONING,
    (_S.INVOICED, _I.GONE): _S.CANCELLED,
    # The maker has paid leg 2 although our payment of leg 1 has failed.
    (_S.INVOICED, _I.RECEIVED): _S.SETTLED,
    (_S.PAYING, _I.PAY_FAILED): _S.INVOICED,
    (_S.PAYING, _I.RECEIVED): _S.RECEIVED,
    (_S.PAYING, _I.PAY_SUCCEEDED): _S.PAID,
    # We have leg 2; whether the maker takes leg 1 in time is its own business.
    (_S.RECEIVED, _I.PAY_SUCCEEDED): _S.SETTLED,
    (_S.RECEIVED, _I.PAY_FAILED): _S.SETTLED,
    (_S.PAID, _I.RECEIVED): _S.SETTLED,
    # The preimage has got out by another way than the payment of leg 2.
    (_S.PAID, _I.GIVEN_BACK): _S.DISPUTED,
    **RESOLVE_PAID,
}

# Once leg 2 is paid there is no way back.
_FILLED: Final = frozenset({_S.RELEASED, _S.SETTLED, _S.DISPUTED})
FILLED: Final[Filled] = {"buy": _FILLED, "sell": _FILLED}


class Leg(msgspec.Struct, frozen=True):
    """What moves over the network of one asset."""

    asset: str
    amount_msat: int


def legs(side: str, market: str, base_msat: int, quote_units: int) -> tuple[Leg, Leg]:
    """Leg 1 (to the maker) and leg 2 (to the taker); `side` is that of the maker's order."""
    base = Leg(BASE, base_msat)
    quote = Leg(quote_of(market), quote_units * QUOTE_UNIT_MSAT)
    return (base, quote) if side == "buy" else (quote, base)


def quote_of(market: str) -> str:
    """The quote currency of a market like BTC/USD."""
    return market.partition("/")[2]


def why_not_amounts(*both: Leg) -> RejectReason | None:
    """Why such legs cannot be swapped, or None.

    A lock over very little exists in the two nodes' words only: it is too small for the chain, so
    nothing would enforce it (BOLT 3, "Trimmed Outputs").
    """
    if any(leg.amount_msat < SWAP_LEG_MSAT_MIN for leg in both):
        return RejectReason.NOTIONAL_TOO_SMALL
    if any(leg.amount_msat > INVOICE_AMOUNT_MSAT_MAX for leg in both):
        return RejectReason.NOTIONAL_OVERFLOW
    return None


def lock_limit(expiry_height: int, height: int, auto_cancel_blocks: int) -> int:
    """For how many blocks the payment of leg 2 may be locked at most; less than 1: not at all.

    Leg 1 is locked until `expiry_height` on its own chain, at `height` now, and goes back by itself
    `auto_cancel_blocks` before that.  Whatever the taker does with leg 2 ends LOCK_MARGIN_BLOCKS
    before.  Both chains must be as fast as Bitcoin's.
    """
    room = expiry_height - height - auto_cancel_blocks - LOCK_MARGIN_BLOCKS
    return min(room, CLTV_LIMIT_BLOCKS)


def is_long_enough(limit_blocks: int, min_final_cltv: int) -> bool:
    """Whether a payment with this limit can reach a payee that asks for so long a final lock."""
    return limit_blocks >= min_final_cltv + CLTV_PADDING_BLOCKS
