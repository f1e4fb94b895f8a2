"""Locks in blocks and clocks in seconds: how many blocks a time may bring, and what a lock leaves.

Blocks come by chance.  What must be done before a lock ends has to leave as many blocks as the time
for it brings in all but one of ten thousand cases, besides the backend's own margin, in which it
gives a held payment back, and six more for the chain.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from zmqex.limits import (
    HTLC_CONFIRM_MS,
    HTLC_SEND_MS,
    HTLC_SPARE_MS,
    LOCK_BLOCKS_MIN,
    LOCK_MARGIN_BLOCKS,
    MIN_FINAL_CLTV_BLOCKS_MAX,
    SECOND_MS,
)

# At index n: the most seconds in which n blocks or fewer come with a probability of 0.9999, as
# blocks of a Poisson process, one in 600 seconds.
_SECONDS: Final = (
    0,
    8,
    51,
    139,
    266,
    428,
    618,
    832,
    1066,
    1318,
    1585,
    1866,
    2159,
    2463,
    2777,
    3099,
    3430,
    3768,
    4113,
    4464,
    4822,
    5184,
    5552,
    5925,
    6302,
    6684,
    7069,
    7459,
    7852,
    8249,
    8648,
    9051,
    9457,
    9866,
    10278,
    10692,
    11109,
    11528,
    11949,
    12373,
    12799,
    13227,
    13657,
    14088,
    14522,
    14958,
    15395,
    15834,
    16275,
    16717,
    17161,
    17606,
    18053,
    18501,
    18951,
    19401,
    19854,
    20307,
    20762,
    21218,
    21675,
    22133,
    22593,
    23053,
    23515,
    23978,
    24441,
    24906,
    25372,
    25838,
    26306,
    26774,
    27244,
    27714,
    28185,
    28657,
    29130,
    29604,
    30078,
    30554,
    31030,
    31506,
    31984,
    32462,
    32941,
    33421,
    33901,
    34382,
    34864,
    35346,
    35829,
    36313,
    36797,
    37282,
    37768,
    38254,
    38741,
    39228,
    39716,
    40204,
    40693,
    41183,
    41673,
    42163,
    42654,
    43146,
    43638,
    44131,
    44624,
    45117,
    45612,
    46106,
    46601,
    47097,
    47593,
    48089,
    48586,
    49083,
    49581,
    50079,
    50577,
)


def blocks_in(duration_ms: int) -> int:
    """How many blocks come in this time, but in one of ten thousand cases; 0 for no time.

    From a table of integers for up to 14 hours; longer times get one more than its last.
    """
    return bisect_left(_SECONDS, -(-max(duration_ms, 0) // SECOND_MS))


def lock_blocks(auto_cancel_blocks: int) -> int:
    """The final lock that a hold invoice asks for, or 0 where no lock is long enough.

    The buyer sends the quote and the seller confirms it within it; `auto_cancel_blocks` before its
    end the buyer's backend gives the payment back.
    """
    needed = (
        blocks_in(HTLC_SEND_MS + HTLC_CONFIRM_MS + HTLC_SPARE_MS)
        + auto_cancel_blocks
        + LOCK_MARGIN_BLOCKS
    )
    return max(needed, LOCK_BLOCKS_MIN) if needed <= MIN_FINAL_CLTV_BLOCKS_MAX else 0


def may_send_quote(expiry_height: int, height: int, auto_cancel_blocks: int) -> bool:
    """Whether a buyer may send the quote now: the seller still has its time to confirm it.

    `expiry_height` is where the lock ends (of several parts, the earliest), `height` the present.
    """
    needed = blocks_in(HTLC_CONFIRM_MS) + auto_cancel_blocks + LOCK_MARGIN_BLOCKS
    return expiry_height - height >= needed


def may_release(expiry_height: int, height: int, auto_cancel_blocks: int) -> bool:
    """Whether a seller may give the preimage away: the buyer can still use it."""
    return 0 < height <= expiry_height - auto_cancel_blocks - LOCK_MARGIN_BLOCKS
