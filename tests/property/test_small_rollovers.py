"""Every order of words, payments, blocks and crashes after a quote by lock: none pays twice."""

from __future__ import annotations

import os

import pytest

from tests.small_rollovers import Rollovers
from tests.small_state import Change
from tests.small_walk import ViolationError, walk
from zmqex.kernel.events import PaymentSeen
from zmqex.kernel.kernel import Kernel
from zmqex.kernel.records import Trade
from zmqex.protocol.messages import TradeRollover
from zmqex.reasons import RejectReason
from zmqex.trading.states import Input, State

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
TWICE = "a trade was paid twice"
BESIDE = "two payments of one trade are alive"


def rolling(side: str, most: int = 1, **more: object) -> Rollovers:
    """One trade of a maker on that side, and so many rollovers of it."""
    fields = {"people": False, "settlement": "htlc", "repeats": 1, "most": most}
    return Rollovers(side, 1, (1,), **(fields | more))  # type: ignore[arg-type]


@pytest.mark.timeout(0)
@pytest.mark.parametrize(("people", "repeats"), [(False, 1), *([(True, 2)] * LONG)])
@pytest.mark.parametrize("side", ["buy", "sell"])
def test_no_history_of_a_rollover_pays_twice(side: str, people: bool, repeats: int) -> None:  # noqa: FBT001
    """The walk ends by itself, and from every state a quiet one can be reached."""
    seen = walk(rolling(side, people=people, repeats=repeats))
    wanted = {"quote_sent", "released", "disputed", "rollover", "settled"}
    wanted |= {"rollover_paying"} if side == "sell" else set()
    assert seen.seen == wanted | ({"cancelled"} if people or side == "sell" else set())
    assert seen.quiet > len(wanted)


def believe_that_the_lock_is_lost(kernel: Kernel) -> None:
    """A naive seller: the buyer says so, so what was locked cannot go over any more."""
    seller, trades = kernel.sides.rollover_seller, kernel.trades
    hear = seller.on_rollover

    def on_rollover(trade: Trade, message: TradeRollover, envelope: bytes) -> RejectReason | None:
        if trades.can(trade, Input.PAY_FAILED):
            trade = trades.move(trade, Input.PAY_FAILED)
        seller._ended[trade.trade_id] = trade.payment_hash
        return hear(trade, message, envelope)

    def release(client: bytes, request_id: int, trade: Trade) -> bool:
        if trade.state is not State.ROLLOVER:
            return False
        seller._asked.wait(trade.trade_id, client, request_id)
        seller._decide(trade, PaymentSeen(trade.trade_id, trade.lock_hash, "failed"))
        return True

    object.__setattr__(seller, "on_rollover", on_rollover)
    object.__setattr__(seller, "release", release)


def forget_what_was_paid_again(kernel: Kernel) -> None:
    """Another one: after a crash, a payment without an answer is taken for failed."""
    seller = kernel.sides.rollover_seller
    resume = seller.resume

    def naive(trade: Trade) -> None:
        if trade.state is State.ROLLOVER_PAYING:
            seller._failed(trade, RejectReason.PAYMENT_FAILED)
            seller._ended[trade.trade_id] = trade.payment_hash
        else:
            resume(trade)

    object.__setattr__(seller, "resume", naive)


NAIVE = [(believe_that_the_lock_is_lost, 1, BESIDE), (believe_that_the_lock_is_lost, 1, TWICE)]
# Half a minute.
NAIVE += [(forget_what_was_paid_again, 2, BESIDE)] if LONG else []


@pytest.mark.timeout(0)
@pytest.mark.parametrize(("change", "most", "what"), NAIVE)
def test_the_walk_finds_who_pays_a_rollover_beside_its_lock(
    change: Change, most: int, what: str
) -> None:
    """So the walk is known to bite: what was released, or was being paid, went over after all."""
    with pytest.raises(ViolationError, match=what) as found:
        walk(rolling("sell", most, change=change, only=what))
    assert ("rollover", 0, most) in found.value.trace


def roll_without_looking(kernel: Kernel) -> None:
    """A naive buyer: a dispute is a dispute, whatever is locked."""
    buyer = kernel.sides.rollover_buyer

    def ask(client: bytes, request_id: int, trade: Trade) -> bool:
        buyer._asked.wait(trade.trade_id, client, request_id)
        buyer._begin(trade)
        return True

    object.__setattr__(buyer, "ask", ask)


@pytest.mark.timeout(0)
def test_the_walk_finds_who_asks_for_a_rollover_beside_a_lock() -> None:
    """Its seller, who may be honest, could be made to pay twice."""
    with pytest.raises(ViolationError, match=BESIDE):
        walk(rolling("buy", change=roll_without_looking, only=BESIDE))
