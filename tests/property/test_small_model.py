"""Every order of takes, payments, look-ups, time and crashes on one order: none oversells."""

from __future__ import annotations

import os

import pytest

from tests.small_state import Change, Order
from tests.small_walk import ViolationError, walk
from zmqex.kernel.events import InvoiceCreated, LightningFailed
from zmqex.kernel.kernel import Kernel
from zmqex.kernel.records import Trade
from zmqex.protocol.messages import TradeSaid
from zmqex.reasons import RejectReason
from zmqex.trading.states import Input, State

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
SMALL = [
    pytest.param(Order("buy", 1, (1, 1), people=False), id="buys-1-of-two-takers"),
    pytest.param(Order("sell", 1, (1, 1), people=False, repeats=1), id="sells-1-to-two-takers"),
    pytest.param(Order("buy", 1, (1,)), id="buys-1-while-people-change-their-minds"),
    pytest.param(Order("sell", 1, (1,)), id="sells-1-while-people-change-their-minds"),
    pytest.param(Order("buy", 1, (1,), people=False, settlement="htlc"), id="buys-1-by-htlc"),
    pytest.param(Order("sell", 1, (1,), settlement="htlc"), id="sells-1-by-htlc"),
]
# Minutes each: quantity 2, and people who change their minds in the middle of two trades.
LARGE = [
    pytest.param(
        Order(side, lots, asked, people=people, repeats=1), id=f"{side}s-{lots}-{asked}-{people}"
    )
    for side in ("buy", "sell")
    for lots, asked, people in (
        (1, (1, 1), True),
        (2, (1, 1), False),
        (2, (2, 1), False),
    )
] + [
    pytest.param(Order("buy", 1, (1,), settlement="htlc"), id="buys-1-by-htlc-True"),
    pytest.param(
        Order("sell", 1, (1, 1), people=False, settlement="htlc", repeats=1),
        id="sells-1-of-two-by-htlc",
    ),
]


@pytest.mark.timeout(0)
@pytest.mark.parametrize("order", [*SMALL, *(LARGE if LONG else [])])
def test_no_history_of_one_order_breaks_an_invariant(order: Order) -> None:
    """The walk ends by itself, and from every state a quiet one can be reached."""
    seen = walk(order)
    bought = {"invoiced", "cancelling", "base_done"}
    if order.settlement == "htlc":
        bought = {"invoiced", "cancelling", "quote_sent", "released", "settled", "disputed"}
    sold = {"quote_sent", "paying", "settled"}
    sold |= {"released", "disputed"} if order.settlement == "htlc" else {"pay_intent"}
    # A hash of ours: the first that is on disk has its invoice already.
    begun = set() if (order.side, order.settlement) == ("buy", "plain") else {"reserved"}
    assert seen.seen >= {"cancelled"} | begun | (bought if order.side == "buy" else sold)
    assert seen.quiet > len(order.asked)


def free_at_the_end_of_the_hold(kernel: Kernel) -> None:
    """The naive variant: the quantity returns with the clock, whatever Lightning may say."""

    def end(trade: Trade, reason: RejectReason) -> None:
        trade = kernel.trades.move(trade, Input.END_ASKED, reason=reason.value)
        if trade.state is not State.CANCELLED:
            trade = kernel.trades.move(trade, Input.BASE_NEGATIVE)
        kernel.maker.returned(trade)

    object.__setattr__(kernel.maker, "_end", end)


def test_the_walk_finds_what_the_naive_variant_oversells() -> None:
    """So the walk is known to bite: it pays two takers for one lot, or one that was cancelled."""
    naive = Order("buy", 1, (1, 1), people=False, change=free_at_the_end_of_the_hold)
    with pytest.raises(ViolationError, match="is cancelled, and may still be paid"):
        walk(naive)
    oversold = Order(
        "buy", 1, (1, 1), people=False, change=free_at_the_end_of_the_hold, only="oversold"
    )
    with pytest.raises(ViolationError, match="oversold") as found:
        walk(oversold)
    words = [" ".join(map(str, one)) for one in found.value.trace]
    assert words.index("hold ends") < words.index("take 1") < len(words) - 1
    assert words[-1].startswith("pay")


def tell_before_it_is_written(kernel: Kernel) -> None:
    """Another naive variant: whoever asks has the invoice as soon as there is one."""
    admission = kernel.admission
    on_lightning = admission.on_lightning

    def hasty(event: InvoiceCreated | LightningFailed) -> bool:
        known = on_lightning(event)
        reservation = admission._reserving.get(event.trade_id)
        accept = admission.accept_of(reservation.trade) if reservation is not None else None
        if reservation is not None and accept is not None:
            for incoming in reservation.answers:
                kernel.sessions.answer(incoming, TradeSaid(kernel.trades.seal(accept)))
        return known

    object.__setattr__(admission, "on_lightning", hasty)


def test_the_walk_finds_an_invoice_that_is_told_too_early() -> None:
    """It is paid although the hold was refused or the process has died: nobody knows what for."""
    naive = Order("buy", 1, (1,), people=False, change=tell_before_it_is_written)
    with pytest.raises(ViolationError, match="what was paid is in no journal") as found:
        walk(naive)
    assert ("pay", 0, "what is in no journal") in found.value.trace


def forget_what_was_paid(kernel: Kernel) -> None:
    """Another naive variant: after a crash, a payment without an answer is taken for failed."""
    resume = kernel.maker.resume

    def naive(trade: Trade) -> None:
        if trade.state is State.PAYING:
            kernel.maker._payment_failed(trade, RejectReason.PAYMENT_FAILED)
        else:
            resume(trade)

    object.__setattr__(kernel.maker, "resume", naive)


def test_the_walk_finds_who_pays_twice() -> None:
    """A crash in the middle of a payment must not make a second one."""
    naive = Order("sell", 1, (1,), people=False, change=forget_what_was_paid, only="paid twice")
    with pytest.raises(ViolationError, match="a trade was paid twice"):
        walk(naive)


class Nothing(set[tuple[bytes, str]]):
    """A set in which nothing is."""

    def __contains__(self, _one: object) -> bool:
        """Whatever it may be."""
        return False


def believe_old_words(kernel: Kernel) -> None:
    """Another one: a look-up says what is, even if the payment follows it."""
    kernel.core.paying = Nothing()


@pytest.mark.parametrize(
    ("settlement", "what"),
    [
        ("plain", "a trade was paid twice"),
        ("htlc", "trade 0 is cancelled, and its payment is not"),
    ],
)
def test_the_walk_finds_who_believes_what_was_said_before_it_paid(
    settlement: str, what: str
) -> None:
    """Two look-ups after a crash, both from before the payment that follows the first."""
    change = believe_old_words
    naive = Order("sell", 1, (1,), people=False, change=change, only=what, settlement=settlement)
    with pytest.raises(ViolationError, match=what):
        walk(naive)


def send_under_any_lock(kernel: Kernel) -> None:
    """A naive buyer by `htlc`: a lock is a lock, however short."""
    object.__setattr__(kernel.lock_buyer, "_outlasts", lambda *_: True)


def forget_what_was_released(kernel: Kernel) -> None:
    """Another one: after a crash it waits for the seller to say it again."""
    resume = kernel.lock_buyer.resume

    def naive(trade: Trade) -> None:
        if trade.state is not State.RELEASED:
            resume(trade)

    object.__setattr__(kernel.lock_buyer, "resume", naive)


@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (send_under_any_lock, "a quote was sent for a lock that is too short"),
        (forget_what_was_released, "nothing ends trade 0, released"),
    ],
)
def test_the_walk_finds_naive_buyers_by_lock(change: Change, what: str) -> None:
    """Both lose the quote: the first because the seller has no time, the second by waiting."""
    naive = Order("buy", 1, (1,), people=False, change=change, only=what, settlement="htlc")
    with pytest.raises(ViolationError, match=what):
        walk(naive)


def release_under_any_lock(kernel: Kernel) -> None:
    """A naive seller by `htlc`: what is locked can be released, however late."""
    object.__setattr__(kernel.sides.lock_seller, "_is_of_use", lambda *_: True)


class Everything(set[bytes]):
    """A set in which everything is."""

    def __contains__(self, _one: object) -> bool:
        """Whatever it may be."""
        return True


def believe_the_buyer(kernel: Kernel) -> None:
    """Another one: it takes the buyer's word, and a look-up's, before its payment is under way."""
    believe_old_words(kernel)
    kernel.sides.lock_seller._seen = Everything()


@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (release_under_any_lock, "a preimage was given away for a lock that is too short"),
        (believe_the_buyer, "trade 0 is cancelled, and its payment is not"),
    ],
)
def test_the_walk_finds_naive_sellers_by_lock(change: Change, what: str) -> None:
    """The first gives the base away for nothing; the second pays for what it has given up."""
    naive = Order("sell", 1, (1,), change=change, only=what, settlement="htlc")
    with pytest.raises(ViolationError, match=what):
        walk(naive)
