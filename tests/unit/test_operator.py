"""What the operator says of trades: what is right moves on, the rest changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.floor import LOTS, order, place
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel.commands import (
    CancelTrade,
    Command,
    ListHolds,
    ListOrders,
    ListTrades,
    PayTrade,
    PingPeer,
    ReceivedTrade,
    SentTrade,
    ShowOrder,
    ShowTrade,
)
from zmqex.kernel.records import Trade
from zmqex.limits import HOLD_TTL_MS, MINUTE_MS
from zmqex.reasons import RejectReason


def base_first(**terms: Any) -> tuple[World, SimNode, SimNode, str]:  # noqa: ANN401
    """Alice buys, bob sells to her: the base goes first.  World, maker, taker, trade id."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(alice, "buy", 2 * LOTS, 100)
    world.run(300)
    return world, alice, bob, place(bob, "sell", LOTS, 100, **terms)["trades"][0]["trade_id"]


def quote_first() -> tuple[World, SimNode, SimNode, str]:
    """Alice sells, bob buys from her: the quote goes first.  World, maker, taker, trade id."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(alice, "sell", 2 * LOTS, 100)
    world.run(300)
    return world, alice, bob, place(bob, "buy", LOTS, 100)["trades"][0]["trade_id"]


def refused(node: SimNode, command: Command) -> tuple[str, str]:
    """Give a command that must change nothing; the word and the sentence."""
    before = node.k.state_hash()
    answer = node.ask(command)
    assert not answer.ok
    assert node.k.state_hash() == before
    message = answer.result["message"]
    assert len(message.split()) > 3
    assert "_" not in message.replace(answer.result["reason"], "") or "state is" in message
    return answer.result["reason"], message


def trade_of(node: SimNode, trade_id: str) -> Trade:
    """A node's own row of a trade."""
    return node.k.trades.by_id[bytes.fromhex(trade_id)]


# --- the whole way -------------------------------------------------------------------------------


def test_a_trade_whose_base_goes_first_is_settled_by_hand() -> None:
    """Pay, sent, received: each side says its own, and nothing is held at the end."""
    world, alice, bob, trade = base_first(pay_mode="manual")
    assert bob.tell(ListTrades())["trades"][0]["next_command"] == f"trade pay {trade[:12]}"
    assert bob.tell(PayTrade(trade))["trade"]["state"] == "base_done"
    world.run(200)
    assert alice.tell(SentTrade(trade, "ref 7"))["trade"]["state"] == "quote_sent"
    world.run(200)
    told = bob.tell(ReceivedTrade(trade[:8]))["trade"]
    assert (told["state"], told["reference"], told["turn"]) == ("settled", "ref 7", "nobody")
    world.run(200)
    assert trade_of(alice, trade).state == "settled"
    assert alice.tell(ListHolds())["holds"] == []
    assert alice.ledger.balance_msat - bob.ledger.balance_msat == 2 * LOTS * 1_000


def test_a_trade_whose_quote_goes_first_is_settled_by_hand() -> None:
    """Sent, received, and the maker pays the taker's invoice by itself."""
    world, alice, bob, trade = quote_first()
    (hold,) = alice.tell(ListHolds())["holds"]
    assert (hold["trade_id"], hold["taker"], hold["quantity_lots"]) == (trade, bob.text, LOTS)
    assert HOLD_TTL_MS - 1_000 < hold["left_ms"] <= HOLD_TTL_MS
    bob.tell(SentTrade(trade))
    world.run(200)
    alice.tell(ReceivedTrade(trade))
    world.run(500)
    assert trade_of(alice, trade).state == trade_of(bob, trade).state == "settled"
    shown = bob.tell(ShowTrade(trade))
    kinds = [one["kind"] for one in shown["messages"]]
    words = ["take", "accept", "quote_sent", "quote_confirmed", "trade_invoice"]
    assert kinds == [*words, "trade_settled", "trade_settled"]
    assert {one["sender"] for one in shown["messages"]} == {alice.text, bob.text}


# --- refusals change nothing ---------------------------------------------------------------------


def test_paying_twice_is_refused() -> None:
    """Before and after the payment has landed."""
    world, _, bob, trade = base_first()
    reason, message = refused(bob, PayTrade(trade))
    assert reason == "already_paid"
    assert "paid already" in message
    world.run(500)
    assert bob.ledger.balance_msat == 10**12 - LOTS * 1_000


def test_paying_after_the_deadline_is_refused_and_the_trade_given_up() -> None:
    """Two of fifteen minutes stay for the payment; then the taker is out."""
    world, alice, bob, trade = base_first(pay_mode="manual")
    world.run(13 * MINUTE_MS - 1_000)
    assert trade_of(bob, trade).state == "accepted"
    world.run(2_000)
    assert refused(bob, PayTrade(trade))[0] == "wrong_state"
    assert trade_of(bob, trade).reason == "too_late_to_pay"
    world.run(5_000)
    assert bob.ledger.payments == {}
    assert alice.held == {}


def test_a_late_pay_that_comes_before_its_timer_is_refused() -> None:
    """The clock decides, not the order of events: a machine that slept hears the command first."""
    world, _, bob, trade = base_first(pay_mode="manual")
    world.wall_ms += 13 * MINUTE_MS
    reason, message = refused(bob, PayTrade(trade))
    assert reason == "too_late_to_pay"
    assert "too late" in message


def test_only_the_seller_of_the_base_pays_and_confirms() -> None:
    """And only the buyer says that the quote was sent; each is told whose word it is."""
    _, alice, bob, trade = base_first(pay_mode="manual")
    assert refused(alice, PayTrade(trade))[0] == "wrong_party"
    assert refused(alice, ReceivedTrade(trade))[0] == "wrong_party"
    reason, message = refused(bob, SentTrade(trade))
    assert reason == "wrong_party"
    assert message == (
        f"trade {trade[:12]}: that is for the other party to say: this node sells the base"
    )


def test_sent_and_received_too_early_or_twice_are_refused() -> None:
    """Base first: not before it has moved, and only once."""
    world, alice, bob, trade = base_first(pay_mode="manual")
    assert refused(alice, SentTrade(trade))[0] == "wrong_state"
    assert refused(bob, ReceivedTrade(trade))[0] == "wrong_state"
    bob.tell(PayTrade(trade))
    world.run(100)
    alice.tell(SentTrade(trade))
    assert refused(alice, SentTrade(trade))[0] == "wrong_state"
    world.run(100)
    bob.tell(ReceivedTrade(trade))
    reason, message = refused(bob, ReceivedTrade(trade))
    assert reason == "wrong_state"
    assert "its state is settled" in message


def test_the_quote_is_not_sent_after_the_hold() -> None:
    """A buying taker that comes too late is told so and loses nothing."""
    world, _, bob, trade = quote_first()
    world.wall_ms += HOLD_TTL_MS
    reason, message = refused(bob, SentTrade(trade))
    assert reason == "hold_ended"
    assert "hold has ended" in message


def test_a_cancelled_trade_cannot_be_brought_back() -> None:
    """Neither side can say `sent` or cancel again."""
    world, alice, bob, trade = quote_first()
    assert bob.tell(CancelTrade(trade))["trade"]["state"] == "abandoning"
    world.run(500)
    assert trade_of(bob, trade).state == trade_of(alice, trade).state == "cancelled"
    assert alice.held == {}
    for node, command in (
        (bob, SentTrade(trade)),
        (bob, CancelTrade(trade)),
        (alice, CancelTrade(trade)),
        (alice, ReceivedTrade(trade)),
    ):
        assert refused(node, command)[0] == "wrong_state"


def test_a_paid_trade_cannot_be_cancelled_by_either_side() -> None:
    """Money has moved: only the table goes on."""
    _, alice, bob, trade = base_first()
    assert refused(bob, CancelTrade(trade))[0] == "wrong_state"
    assert refused(alice, CancelTrade(trade))[0] == "wrong_state"


@pytest.mark.parametrize("begin", [quote_first, lambda: base_first(pay_mode="manual")])
def test_a_maker_cancels_a_trade_in_which_nothing_has_moved(begin: Any) -> None:  # noqa: ANN401
    """The taker hears of it, and the quantity is in the book again."""
    world, alice, bob, trade = begin()
    alice.tell(CancelTrade(trade))
    world.run(5_000)
    assert trade_of(bob, trade).state == trade_of(alice, trade).state == "cancelled"
    assert alice.tell(ListOrders())["orders"][0]["remaining_lots"] == 2 * LOTS
    assert alice.held == {}


def test_a_take_that_is_cancelled_before_its_answer_ends_the_wait() -> None:
    """The maker is silent; the command that placed the order is answered all the same."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(alice, "buy", LOTS, 100)
    world.run(300)
    alice.pause()
    placing = bob.command(order("sell", LOTS, 100, time_in_force="ioc"))
    world.run(50)
    trade = bob.tell(ListTrades())["trades"][0]["trade_id"]
    bob.tell(CancelTrade(trade))
    world.run(50)
    assert bob.answers[placing].result["skipped"][0]["reason"] == "cancelled"
    alice.resume()
    world.run(20_000)
    assert bob.ledger.payments == {}
    assert alice.held == {}


def test_an_uncovered_payment_is_told_and_can_be_tried_again() -> None:
    """The balance is too small: nothing moves, the trade waits for another try."""
    world, _, bob, trade = base_first(pay_mode="manual")
    bob.ledger.balance_msat = 0
    answer = bob.ask(PayTrade(trade))
    assert answer.result["reason"] == "insufficient_balance"
    assert "does not cover" in answer.result["message"]
    bob.ledger.balance_msat = 10**12
    assert bob.tell(PayTrade(trade))["trade"]["state"] == "base_done"
    world.run(100)


def test_a_payment_without_an_end_is_shown_as_it_stands() -> None:
    """After ten seconds the command is answered; the payment goes on."""
    world, _, bob, trade = base_first(pay_mode="manual")
    bob.ledger.unreachable = True
    answer = bob.ask(PayTrade(trade), within_ms=11_000)
    assert (answer.ok, answer.result["trade"]["state"]) == (True, "paying")
    assert refused(bob, PayTrade(trade))[0] == "already_paid"
    bob.ledger.unreachable = False
    world.run(40_000)
    assert trade_of(bob, trade).state == "base_done"


def test_a_selling_maker_pays_again_after_a_failed_payment() -> None:
    """Its balance was too small when the quote had arrived; later it is not."""
    world, alice, bob, trade = quote_first()
    alice.ledger.balance_msat = 0
    bob.tell(SentTrade(trade))
    world.run(100)
    assert refused(alice, PayTrade(trade))[0] == "wrong_state"
    alice.tell(ReceivedTrade(trade))
    world.run(500)
    shown = alice.tell(ShowTrade(trade))["trade"]
    assert (shown["state"], shown["turn"], shown["reason"]) == (
        "pay_intent",
        "you",
        "insufficient_balance",
    )
    assert shown["next_command"] == f"trade pay {trade[:12]}"
    alice.ledger.balance_msat = 10**12
    assert alice.tell(PayTrade(trade))["trade"]["state"] == "settled"
    assert refused(alice, PayTrade(trade))[0] == "already_paid"


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (RejectReason.WRONG_PAYEE, "somebody else"),
        (RejectReason.INVOICE_EXPIRED, "has expired"),
        (RejectReason.CLTV_TOO_LONG, "cltv_too_long"),
    ],
)
def test_every_reason_has_words(reason: RejectReason, words: str) -> None:
    """A trade's reason becomes a sentence; a rare one is named."""
    _, _, bob, trade = base_first(pay_mode="manual")
    bob.k.operator._refuse(b"cli", 99, trade_of(bob, trade), reason)
    (effect,) = bob.k.core.finish()
    assert isinstance(effect, out.AnswerCommand)
    assert words in effect.result["message"]


# --- showing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [ShowTrade, PayTrade, SentTrade, ReceivedTrade, CancelTrade])
@pytest.mark.parametrize(("text", "reason"), [("ab", "malformed"), ("ab" * 32, "unknown_trade")])
def test_an_id_that_names_no_trade_is_refused(command: Any, text: str, reason: str) -> None:  # noqa: ANN401
    """Too short, or unknown."""
    _, alice, _, _ = base_first()
    assert refused(alice, command(text))[0] == reason


def test_orders_and_trades_are_listed_newest_first() -> None:
    """Closed orders and ended trades only where asked for."""
    world, alice, bob, trade = base_first()
    world.run(1_000)
    place(bob, "sell", LOTS, 100)
    place(alice, "buy", LOTS, 90)
    assert [one["price_ticks"] for one in alice.tell(ListOrders())["orders"]] == [90]
    assert [one["price_ticks"] for one in alice.tell(ListOrders(closed=True))["orders"]] == [
        90,
        100,
    ]
    assert [one["trade_id"] == trade for one in bob.tell(ListTrades())["trades"]] == [False, True]
    alice.tell(SentTrade(trade))
    world.run(100)
    bob.tell(ReceivedTrade(trade))
    assert len(bob.tell(ListTrades(ended=False))["trades"]) == 1


def test_an_order_is_shown_with_its_trades_to_maker_and_taker() -> None:
    """The taker sees whose order it is."""
    _, alice, bob, trade = base_first()
    order_id = alice.tell(ListOrders())["orders"][0]["order_id"]
    mine, theirs = alice.tell(ShowOrder(order_id[:8])), bob.tell(ShowOrder(order_id[:8]))
    assert (mine["own"], theirs["own"]) == (True, False)
    assert theirs["order"]["maker"] == alice.text
    assert {one["trade_id"] for one in (*mine["trades"], *theirs["trades"])} == {trade}
    assert mine["order"]["remaining_lots"] == LOTS
    assert theirs["order"].keys() - mine["order"].keys() == {"maker"}
    assert refused(bob, ShowOrder("ab" * 32))[0] == "unknown_order"
    assert refused(bob, ShowOrder("ab"))[0] == "malformed"


def test_an_order_that_two_ids_fit_is_ambiguous() -> None:
    """The prefix of both is refused; one character more finds one."""
    _, alice, _, _ = base_first()
    (key,) = alice.k.orders.rows
    twin = key[:8] + bytes(24)
    alice.k.orders.rows[twin] = alice.k.orders.rows[key]
    alice.k.orders._terms[twin] = alice.k.orders._terms[key]
    assert alice.ask(ShowOrder(key.hex()[:16])).result["reason"] == "ambiguous_id"
    assert alice.tell(ShowOrder(key.hex()[:40]))["own"]


def test_a_command_of_another_part_is_left_to_it() -> None:
    """The operator knows its own commands only."""
    _, alice, bob, _ = base_first()
    assert not alice.k.operator.on_command(b"cli", 1, PingPeer(bob.text))
