"""Every order of answers, payments, lies, time and crashes on one take: none loses what it pays."""

from __future__ import annotations

import os

import pytest

from tests.property.test_small_model import (
    believe_old_words,
    forget_what_was_released,
    release_under_any_lock,
    send_under_any_lock,
)
from tests.small_state import Change, Order
from tests.small_walk import ViolationError, walk
from zmqex.kernel.events import LightningFailed
from zmqex.kernel.kernel import Kernel
from zmqex.kernel.records import Trade
from zmqex.protocol.messages import InvoiceFailed, QuoteSent, TradeCancelled, TradeReleased
from zmqex.reasons import RejectReason
from zmqex.trading.settlement import HTLC, PLAIN
from zmqex.trading.states import Input, State

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
FAILED = RejectReason.PAYMENT_FAILED
WAYS = [(side, settlement) for settlement in (PLAIN, HTLC) for side in ("sell", "buy")]
# What the good end and the bad ones of each way go through, at the least.
PASSED = {
    ("sell", PLAIN): {"paying", "base_done", "quote_sent"},
    ("buy", PLAIN): {"quote_sent", "confirmed", "invoiced"},
    ("sell", HTLC): {"paying", "quote_sent", "released"},
    ("buy", HTLC): {"invoiced", "cancelling", "htlc_accepted", "quote_intent", "released"},
}


def order(
    side: str,
    settlement: str,
    *,
    people: bool = False,
    lots: int = 1,
    change: Change = lambda _kernel: None,
    only: str = "",
) -> Order:
    """A take of so much; with people, they change their minds, and the maker lies."""
    return Order(
        side,
        lots,
        (lots,),
        people=people,
        change=change,
        only=only,
        settlement=settlement,
        takes=True,
        repeats=2 if settlement == PLAIN or LONG else 1,
    )


SMALL = [
    *(pytest.param(order(*way), id="-".join(way)) for way in WAYS),
    *(pytest.param(order(*way, people=True), id="-".join((*way, "people"))) for way in WAYS[:2]),
]
# Minutes each.
LARGE = [
    *(pytest.param(order(*way, people=True), id="-".join((*way, "people"))) for way in WAYS[2:]),
    *(pytest.param(order(*way, lots=2), id="-".join((*way, "2"))) for way in WAYS),
]


@pytest.mark.timeout(0)
@pytest.mark.parametrize("take", [*SMALL, *(LARGE if LONG else [])])
def test_no_history_of_one_take_breaks_an_invariant(take: Order) -> None:
    """The walk ends by itself, and from every state a quiet one can be reached."""
    seen = walk(take)
    ends = {"taking", "refused", "accepted", "abandoning", "cancelled", "settled", "disputed"}
    assert seen.seen >= ends | PASSED[take.side, take.settlement]
    assert seen.quiet > len(PASSED)


# --- takers that lose money, one by one -----------------------------------------------------------


def give_up_after_a_time_out(kernel: Kernel) -> None:
    """A payment without an answer has failed."""
    taker = kernel.sides._taker

    def naive(trade: Trade, event: LightningFailed) -> None:
        if trade.state is State.PAYING and event.call == "pay":
            taker._payment_failed(trade, FAILED)

    object.__setattr__(taker, "on_lightning_failed", naive)


def give_up_after_a_restart(kernel: Kernel) -> None:
    """What was paid before the crash, nobody knows; so it was not."""
    taker = kernel.sides._taker
    resume = taker.resume

    def naive(trade: Trade) -> None:
        if trade.state is State.PAYING:
            taker._payment_failed(trade, FAILED)
        else:
            resume(trade)

    object.__setattr__(taker, "resume", naive)


def give_up_when_it_is_late(kernel: Kernel) -> None:
    """Once the time to pay is over, a payment in flight is none."""
    taker = kernel.sides._taker
    look_again = taker._look_again

    def naive(key: bytes) -> None:
        trade = kernel.trades.by_id[key]
        late = kernel.core.now.wall_ms >= taker._pay_deadline_ms(trade)
        if trade.state is State.PAYING and late:
            taker._payment_failed(trade, FAILED)
        else:
            look_again(key)

    object.__setattr__(taker, "_look_again", naive)


def give_back_when_it_is_late(kernel: Kernel) -> None:
    """It waits for the payment's end, but rests its own order again with the clock."""
    taker = kernel.sides._taker
    look_again = taker._look_again

    def naive(key: bytes) -> None:
        trade = kernel.trades.by_id[key]
        if kernel.core.now.wall_ms >= taker._pay_deadline_ms(trade):
            kernel.taking.give_back(trade)
        look_again(key)

    object.__setattr__(taker, "_look_again", naive)


def believe_that_it_is_cancelled(kernel: Kernel) -> None:
    """The maker says that it is over, so nothing was paid."""
    taker = kernel.sides._taker
    on_cancelled = taker.on_cancelled

    def naive(trade: Trade, message: TradeCancelled, raw: bytes) -> RejectReason | None:
        if trade.state is State.PAYING:
            taker._payment_failed(trade, FAILED)
        return on_cancelled(kernel.trades.by_id[trade.trade_id], message, raw)

    object.__setattr__(taker, "on_cancelled", naive)


def forget_what_was_sent(kernel: Kernel) -> None:
    """The maker says that it is over, so nothing was sent."""
    taker = kernel.sides._taker
    on_cancelled = taker.on_cancelled

    def naive(trade: Trade, message: TradeCancelled, raw: bytes) -> RejectReason | None:
        if trade.state is State.QUOTE_SENT:
            kernel.trades.amend(trade, state=State.CANCELLED)
            return None
        return on_cancelled(trade, message, raw)

    object.__setattr__(taker, "on_cancelled", naive)


def make_another_at_once(kernel: Kernel) -> None:
    """The maker says that it will never pay an invoice: another one, and the first stays open."""
    taker = kernel.sides._taker

    def naive(trade: Trade, _message: InvoiceFailed, raw: bytes) -> RejectReason | None:
        if trade.state is not State.INVOICED:
            return RejectReason.WRONG_STATE
        taker._make_fresh(kernel.trades.heard(trade, raw))
        return None

    object.__setattr__(taker, "on_invoice_failed", naive)


def leave_an_invoice_open(kernel: Kernel) -> None:
    """By `htlc`: out of the trade, and only then out of the invoice, if at all."""
    buyer, trades = kernel.lock_buyer, kernel.trades

    def naive(trade: Trade, reason: RejectReason) -> None:
        trade = trades.move(trade, Input.END_ASKED, reason=reason.value)
        kernel.sides._taker.give_up(trades.move(trade, Input.BASE_NEGATIVE))

    object.__setattr__(buyer, "leave", naive)


def release_when_it_is_told(kernel: Kernel) -> None:
    """By `htlc`: the buyer says that it has sent the quote, and that will do."""
    seller, trades = kernel.sides.lock_seller, kernel.trades
    on_quote_sent = seller.on_quote_sent

    def naive(trade: Trade, message: QuoteSent, raw: bytes) -> RejectReason | None:
        reason = on_quote_sent(trade, message, raw)
        trade = trades.by_id[trade.trade_id]
        if trade.state is State.QUOTE_SENT:
            trade = trades.move(trade, Input.PREIMAGE)
            trades.say(trade, TradeReleased, payment_preimage=trade.preimage)
        return reason

    object.__setattr__(seller, "on_quote_sent", naive)


LOST = "and its payment may go over"
FREE = "is free again, and may still be paid"
NAIVE = [
    ("sell", PLAIN, give_up_after_a_time_out, LOST),
    ("sell", PLAIN, give_up_after_a_restart, LOST),
    ("sell", PLAIN, give_up_when_it_is_late, LOST),
    ("sell", PLAIN, believe_that_it_is_cancelled, FREE),
    ("sell", PLAIN, believe_old_words, LOST),
    ("sell", PLAIN, give_back_when_it_is_late, FREE),
    ("buy", PLAIN, forget_what_was_sent, "the quote was sent, and it is cancelled"),
    ("buy", PLAIN, make_another_at_once, "two invoices of a trade can be paid"),
    ("sell", HTLC, give_up_after_a_time_out, LOST),
    ("sell", HTLC, believe_that_it_is_cancelled, FREE),
    ("sell", HTLC, release_under_any_lock, "given away for a lock that is too short"),
    ("sell", HTLC, release_when_it_is_told, "nobody has told it to say TradeReleased"),
    ("buy", HTLC, leave_an_invoice_open, "and may still be paid"),
    ("buy", HTLC, send_under_any_lock, "a quote was sent for a lock that is too short"),
    ("buy", HTLC, forget_what_was_released, "nothing ends it: released"),
]


@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    ("side", "settlement", "change", "what"),
    NAIVE,
    ids=["-".join((*way, change.__name__)) for *way, change, _ in NAIVE],
)
def test_the_walk_finds_naive_takers(side: str, settlement: str, change: Change, what: str) -> None:
    """So it is known to bite."""
    with pytest.raises(ViolationError, match=what):
        walk(order(side, settlement, change=change, only=what))
