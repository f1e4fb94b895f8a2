"""The tables that move a trade: one per settlement, role and side of the base.

What has no table is not settled by this program; a missing row changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from zmqex.trading import htlc, plain, swap
from zmqex.trading.settlement import HTLC, PLAIN, SWAP
from zmqex.trading.states import Claim, Filled, Input, State, Table, TradeRole

# By settlement, role, and what we do with the base: "buy" or "sell".
Way = tuple[str, TradeRole, str]

TABLES: Final[Mapping[Way, Table]] = {
    (PLAIN, TradeRole.MAKER, "buy"): plain.MAKER_BUYS,
    (PLAIN, TradeRole.MAKER, "sell"): plain.MAKER_SELLS,
    (PLAIN, TradeRole.TAKER, "buy"): plain.TAKER_BUYS,
    (PLAIN, TradeRole.TAKER, "sell"): plain.TAKER_SELLS,
    (HTLC, TradeRole.MAKER, "buy"): htlc.MAKER_BUYS,
    (HTLC, TradeRole.MAKER, "sell"): htlc.MAKER_SELLS,
    (HTLC, TradeRole.TAKER, "buy"): htlc.TAKER_BUYS,
    (HTLC, TradeRole.TAKER, "sell"): htlc.TAKER_SELLS,
    (SWAP, TradeRole.MAKER, "buy"): swap.MAKER,
    (SWAP, TradeRole.MAKER, "sell"): swap.MAKER,
    (SWAP, TradeRole.TAKER, "buy"): swap.TAKER,
    (SWAP, TradeRole.TAKER, "sell"): swap.TAKER,
}

_FILLED: Final[Mapping[str, Filled]] = {
    PLAIN: plain.FILLED,
    HTLC: htlc.FILLED,
    SWAP: swap.FILLED,
}


# What nobody but the Lightning node of a trade can tell or do.
_OF_LIGHTNING: Final = frozenset(
    {
        Input.INVOICE_MADE,
        Input.INVOICE_DEAD,
        Input.BASE_LOCKED,
        Input.BASE_SETTLED,
        Input.BASE_NEGATIVE,
        Input.LOCKED,
        Input.RECEIVED,
        Input.GIVEN_BACK,
        Input.PREIMAGE,
        Input.PAY_SUCCEEDED,
        Input.PAY_FAILED,
        Input.RESOLVE_CANCELLED,
    }
)
_HANGING: Final = frozenset(
    (way, state) for way, table in TABLES.items() for state, one in table if one in _OF_LIGHTNING
)


def hangs_on_lightning(settlement: str, role: TradeRole, our_side: str, state: State) -> bool:
    """Whether a trade in this state waits for its Lightning node, or may need it again."""
    return ((settlement, role, our_side), state) in _HANGING


def step(
    settlement: str, role: TradeRole, our_side: str, state: State, happened: Input
) -> State | None:
    """The next state, or None where the input is illegal and must change nothing.

    `our_side` is what we do with the base currency: "buy" or "sell".  Whatever hangs on a Lightning
    node that is lost is disputed, by every table.
    """
    if happened is Input.NODE_LOST and hangs_on_lightning(settlement, role, our_side, state):
        return State.DISPUTED
    return TABLES[settlement, role, our_side].get((state, happened))


def claim(settlement: str, our_side: str, state: State, *, hold_ended: bool = False) -> Claim:
    """What a maker's trade in this state claims of its order.

    Base that has moved is filled for good; whatever else is not over still holds its quantity.
    `hold_ended`: a dispute that began after the quantity had returned claims nothing.
    """
    if state is State.CANCELLED or hold_ended:
        return Claim.FREE
    return Claim.FILLED if state in _FILLED[settlement][our_side] else Claim.HELD
