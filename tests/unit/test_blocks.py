"""Blocks that come by chance, against the sum itself; and the guards that are made of them."""

from __future__ import annotations

from decimal import Decimal, localcontext

from zmqex.limits import (
    HTLC_CONFIRM_MS,
    HTLC_SEND_MS,
    HTLC_SPARE_MS,
    MIN_FINAL_CLTV_BLOCKS_MAX,
)
from zmqex.trading.blocks import _SECONDS, blocks_in, lock_blocks, may_release, may_send_quote

HOUR_S = 3_600


def chance(blocks: int, seconds: int) -> Decimal:
    """How likely no more than so many blocks are in so many seconds, to 50 digits."""
    with localcontext(prec=50):
        mean = Decimal(seconds) / 600
        term = total = Decimal(1)
        for k in range(1, blocks + 1):
            term = term * mean / k
            total += term
        return total * (-mean).exp()


def test_every_row_of_the_table_is_the_last_second_of_its_blocks() -> None:
    """One second later one block more has to be reckoned with."""
    assert len(_SECONDS) == 121
    for blocks, seconds in enumerate(_SECONDS):
        assert chance(blocks, seconds + 1) < Decimal("0.9999") <= chance(blocks, seconds), blocks


def test_the_table_has_the_known_values() -> None:
    """Computed before, elsewhere; and its ends."""
    known = {0: 0, 900: 8, 1_800: 11, HOUR_S: 17, 2 * HOUR_S: 27, 4 * HOUR_S: 44, 50_577: 120}
    assert {seconds: blocks_in(seconds * 1_000) for seconds in known} == known
    assert blocks_in(-5_000) == 0
    assert blocks_in(24 * HOUR_S * 1_000) == 121
    assert [blocks_in(ms) for ms in (8_000, 8_001)] == [1, 2]


def test_a_lock_is_long_enough_for_both_and_the_margins() -> None:
    """What remains after the time to send is what the confirmation needs, and more."""
    whole = blocks_in(HTLC_SEND_MS + HTLC_CONFIRM_MS + HTLC_SPARE_MS)
    assert lock_blocks(18) == whole + 18 + 6
    assert lock_blocks(3) == lock_blocks(18) - 15
    most = MIN_FINAL_CLTV_BLOCKS_MAX - whole - 6
    assert lock_blocks(most) == MIN_FINAL_CLTV_BLOCKS_MAX
    assert lock_blocks(most + 1) == lock_blocks(144) == 0


def test_the_guards_hold_to_the_block() -> None:
    """One block less and the answer is another one."""
    needed = blocks_in(HTLC_CONFIRM_MS) + 18 + 6
    assert may_send_quote(1_000 + needed, 1_000, 18)
    assert not may_send_quote(1_000 + needed, 1_001, 18)
    assert may_release(1_000, 1_000 - 24, 18)
    assert not may_release(1_000, 1_000 - 23, 18)
    assert not may_release(1_000, 0, 18)
    assert may_release(1_000, 1, 18)
