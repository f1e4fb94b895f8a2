"""Asking whether the quote may be sent, and saying that it was: by the lock of just now."""

from __future__ import annotations

import pytest

from tests.stories import BTC, available, check_quiet, state_of, trade_of
from tests.unit.lock_stories import NEEDED, locked, release, shorten, states
from tests.world import SimNode, World
from zmqex.kernel import events as happened
from zmqex.kernel.commands import CancelTrade, ReceivedTrade, SendTrade, SentTrade
from zmqex.limits import HTLC_SEND_MS
from zmqex.trading.states import State

MINUTE = 60_000


def too_short() -> tuple[World, SimNode, SimNode, str]:
    """One block too few is left of the lock, and Alice's node has not heard of the last ones."""
    world, alice, bob, trade = locked()
    alice.pause()
    shorten(world, alice, trade, NEEDED - 1)
    alice.paused = []  # the height that it heard is lost
    alice.resume()
    return world, alice, bob, trade


def test_the_quote_is_not_sent_under_a_lock_that_is_too_short() -> None:
    """Refused, and what is locked goes back at once."""
    world, alice, bob, trade = too_short()
    answer = alice.ask(SendTrade(trade))
    assert (answer.ok, answer.result["reason"]) == (False, "hold_ended")
    assert "do not send" in answer.result["message"]
    world.mine(0)
    world.run(31_000)
    assert state_of(alice, trade) is State.CANCELLED
    assert available(alice) == [BTC]
    world.run(20 * MINUTE)
    assert state_of(bob, trade) is State.CANCELLED
    check_quiet(world)


def test_a_quote_that_was_sent_too_late_keeps_what_is_locked() -> None:
    """Sent is sent: the lock is not given back, the seller hears of it and can still release."""
    world, alice, bob, trade = too_short()
    answer = alice.ask(SentTrade(trade, "wire 7"))
    assert (answer.ok, answer.result["reason"]) == (False, "hold_ended")
    assert "the trade is disputed" in answer.result["message"]
    world.mine(0)
    world.run(HTLC_SEND_MS + MINUTE)
    assert states(alice, bob, trade) == ("disputed", "quote_sent")
    assert trade_of(bob, trade).reference == "wire 7"
    bob.tell(ReceivedTrade(trade))
    world.run(2_000)
    assert states(alice, bob, trade) == ("settled", "settled")


def test_a_second_question_is_answered_by_the_lock_of_now() -> None:
    """`trade send` said yes once; hours later it looks again."""
    world, alice, _, trade = locked()
    alice.tell(SendTrade(trade))
    shorten(world, alice, trade, NEEDED - 1)
    world.run(100)
    answer = alice.ask(SendTrade(trade))
    assert (answer.ok, answer.result["reason"]) == (False, "hold_ended")
    assert "do not send" in answer.result["message"]
    assert alice.tell(SentTrade(trade))["trade"]["state"] == "quote_sent"


def test_the_operator_that_asks_hears_that_the_lock_goes_back() -> None:
    """The seller asks for it while Lightning is being asked: nobody waits for a word in vain."""
    world, alice, bob, trade = locked()
    alice.ledger.fail_look = True
    request = alice.command(SendTrade(trade))
    bob.tell(CancelTrade(trade))
    world.run(200)
    assert alice.answers[request].result["reason"] == "hold_ended"
    assert "do not send the quote" in alice.answers[request].result["message"]


def test_the_operator_that_asks_hears_of_a_release() -> None:
    """The seller has what it wants: there is nothing to send."""
    world, alice, bob, trade = locked()
    alice.ledger.fail_look = True
    request = alice.command(SendTrade(trade))
    release(world, bob, alice, trade)
    assert alice.answers[request].result["trade"]["state"] == "released"


@pytest.mark.parametrize(
    ("missing", "expiry", "words"),
    [(1, 10**7, "less is locked than was agreed"), (0, None, "does not say how long")],
)
@pytest.mark.parametrize("is_sent", [False, True])
def test_a_lock_that_is_not_what_it_was_is_not_trusted(
    missing: int, expiry: int | None, words: str, *, is_sent: bool
) -> None:
    """One of several parts has gone back, or its end is not known; who has sent keeps the lock."""
    world, alice, bob, trade = locked()
    row = trade_of(alice, trade)
    lock = (row.base_msat - missing, expiry, world.height if expiry else 0)
    request = alice.command(SentTrade(trade, "wire 7") if is_sent else SendTrade(trade))
    alice.handle(happened.InvoiceSeen(row.payment_hash, "accepted", *lock))
    assert words in alice.answers[request].result["message"]
    world.run(200)
    kept = ("disputed", "quote_sent") if is_sent else ("htlc_accepted", "paying")
    assert states(alice, bob, trade) == kept


def test_of_two_questions_the_later_is_answered_and_the_earlier_hears_of_it() -> None:
    """Nobody waits in vain."""
    world, alice, _, trade = locked()
    first, second = alice.command(SendTrade(trade)), alice.command(SentTrade(trade, "wire 7"))
    world.run(200)
    assert alice.answers[first].result["reason"] == "unavailable"
    assert alice.answers[second].result["trade"]["state"] == "quote_sent"
