"""What may be said in a trade, by whom, how often - and that everything else changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stories import (
    check_quiet,
    quote_leg,
    say_raw,
    signed,
    state_of,
    taken,
    trade_of,
)
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel.commands import ReceivedTrade, SentTrade
from zmqex.kernel.requests import Answer, Refusal
from zmqex.protocol.codec import decode
from zmqex.protocol.messages import (
    InvoiceFailed,
    QuoteConfirmed,
    QuoteSent,
    TradeCancel,
    TradeCancelled,
    TradeInvoice,
    TradeMessage,
    TradeSettled,
    TradeStatus,
    TradeStatusRequest,
)
from zmqex.trading.states import State


def scene(side: str = "buy", **more: Any) -> tuple[World, SimNode, SimNode, SimNode, str]:  # noqa: ANN401
    """Alice makes, bob takes 0.4 BTC, mallory looks on."""
    world = World()
    alice, bob, mallory = world.meet("alice", "bob", "mallory")
    trade_id = taken(world, alice, bob, side, **more)
    world.run(500)
    return world, alice, bob, mallory, trade_id


def messages(world: World, trade: str, node: SimNode) -> list[TradeMessage]:
    """One of each kind of message of a trade."""
    head = (bytes.fromhex(trade), bytes(32), world.wall_ms)
    return [
        QuoteSent(*head, "r"),
        QuoteConfirmed(*head),
        TradeInvoice(*head, "lnbcrt1nonsense", bytes(33)),
        InvoiceFailed(*head, bytes(32), "invoice_expired"),
        TradeCancel(*head, bytes(32), node.identity, "cancelled"),
        TradeCancelled(*head, "cancelled"),
        TradeSettled(*head),
    ]


def word(answer: Answer) -> str:
    """The reason of a refusal, or the state that was acknowledged."""
    if isinstance(answer, Refusal):
        return answer.reason.value
    return decode(answer, TradeStatus).state


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_a_third_party_changes_nothing_whatever_it_says(side: str) -> None:
    """Every kind of message, and a question for the state: WRONG_PARTY."""
    world, alice, bob, mallory, trade = scene(side)
    before = [trade_of(node, trade) for node in (alice, bob)]
    for node in (alice, bob):
        for message in messages(world, trade, mallory):
            answer = say_raw(world, mallory, node, "trade", signed(mallory, message))
            assert word(answer) == "wrong_party"
        asked = say_raw(world, mallory, node, "trade_status", TradeStatusRequest(_id(trade)))
        assert word(asked) == "wrong_party"
    assert [trade_of(node, trade) for node in (alice, bob)] == before


def _id(trade: str) -> bytes:
    return bytes.fromhex(trade)


def test_a_message_with_another_signature_or_kind_changes_nothing() -> None:
    """The right connection is not enough: the words must be signed, as what they are."""
    world, alice, bob, mallory, trade = scene()
    said = QuoteConfirmed(_id(trade), bytes(32), world.wall_ms)
    for forged in (signed(mallory, said), signed(bob, said, "quote_sent"), signed(alice, said)):
        assert word(say_raw(world, bob, alice, "trade", forged)) == "bad_signature"
    assert state_of(alice, trade) is State.BASE_DONE


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_what_is_not_the_others_to_say_is_refused(side: str) -> None:
    """The counterparty itself, with a sound signature, in the wrong state or role."""
    world, alice, bob, _, trade = scene(side)
    for node, peer in ((alice, bob), (bob, alice)):
        legal = (side == "buy" and node is bob, side == "sell" and node is bob)
        for message in messages(world, trade, node):
            confirms = isinstance(message, QuoteConfirmed)
            sends = isinstance(message, QuoteSent)
            # What the state really waits for is tested elsewhere; cancelling ends an idle hold.
            if (confirms and (legal[0] or side == "sell")) or (
                sends and (legal[1] or side == "buy")
            ):
                continue
            if isinstance(message, TradeCancel | TradeCancelled | TradeSettled):
                continue
            before = trade_of(peer, trade).state
            answer = say_raw(world, node, peer, "trade", signed(node, message))
            assert word(answer) in {"wrong_state", "wrong_party"}, message
            assert trade_of(peer, trade).state is before


def test_a_maker_cannot_cancel_what_was_paid() -> None:
    """TradeCancelled after the payment is refused by the taker; TradeCancel changes nothing."""
    world, alice, bob, _, trade = scene()
    head = (_id(trade), bytes(32), world.wall_ms)
    answer = say_raw(world, alice, bob, "trade", signed(alice, TradeCancelled(*head, "cancelled")))
    assert word(answer) == "wrong_state"
    cancel = TradeCancel(*head, bytes(32), bob.identity, "cancelled")
    assert word(say_raw(world, bob, alice, "trade", signed(bob, cancel))) == "base_done"
    assert state_of(alice, trade) is state_of(bob, trade) is State.BASE_DONE


def test_of_an_unknown_trade_only_its_own_cancellation_is_heard() -> None:
    """Anything else is UNKNOWN_TRADE; cancelling under a foreign id is WRONG_PARTY."""
    world, alice, bob, _, _ = scene()
    nobody = bytes(32)
    for message in messages(world, nobody.hex(), bob):
        answer = say_raw(world, bob, alice, "trade", signed(bob, message))
        expected = "wrong_party" if isinstance(message, TradeCancel) else "unknown_trade"
        assert word(answer) == expected
    asked = say_raw(world, bob, alice, "trade_status", TradeStatusRequest(nobody))
    assert word(asked) == "unknown_trade"
    assert nobody not in alice.journal.trades


def test_a_repeated_message_is_acknowledged_again_and_changes_nothing() -> None:
    """The same bytes twice, and again after the end: the same state, no new revision."""
    world, alice, bob, _, trade = scene()
    said = signed(bob, QuoteConfirmed(_id(trade), bytes(32), world.wall_ms))
    assert word(say_raw(world, bob, alice, "trade", said)) == "settled"
    before = trade_of(alice, trade)
    for _ in range(2):
        assert word(say_raw(world, bob, alice, "trade", said)) == "settled"
    assert trade_of(alice, trade) == before


def test_the_state_and_the_last_word_are_told_to_the_other_party() -> None:
    """`trade_status` gives the last signed message verbatim."""
    world, alice, bob, _, trade = scene()
    answer = say_raw(world, bob, alice, "trade_status", TradeStatusRequest(_id(trade)))
    assert not isinstance(answer, Refusal)
    status = decode(answer, TradeStatus)
    assert status.state == "base_done"
    lines = list(alice.k.trades.lines[_id(trade)].values())
    assert (
        status.last_message == [one.envelope for one in lines if one.sender == alice.identity][-1]
    )


@pytest.mark.parametrize("side", ["buy", "sell"])
@pytest.mark.parametrize("seed", range(5))
def test_lost_and_repeated_frames_delay_a_trade_but_do_not_change_it(side: str, seed: int) -> None:
    """Half of all requests and replies are lost after the take: settled all the same."""
    world, alice, bob, _, trade = scene(side)
    world.random.seed(seed)
    world.drop = lambda _node, _target, effect: (
        isinstance(effect, out.SendRequest | out.SendReply) and world.random.random() < 0.5
    )
    buyer, seller = (alice, bob) if side == "buy" else (bob, alice)
    buyer.tell(SentTrade(trade))
    world.run(600_000)
    assert state_of(seller, trade) is State.QUOTE_SENT
    seller.tell(ReceivedTrade(trade))
    world.run(600_000)
    assert state_of(alice, trade) is state_of(bob, trade) is State.SETTLED
    world.drop = lambda *_: False
    world.run(60_000)
    check_quiet(world)


def test_both_transcripts_are_the_same_and_each_message_names_the_one_before() -> None:
    """What both sides wrote down is one chain of signed words."""
    world, alice, bob, _, trade = scene()
    quote_leg(world, alice, bob, trade)
    both = [
        {one.digest: one.envelope for one in node.k.trades.lines[_id(trade)].values()}
        for node in (alice, bob)
    ]
    assert both[0] == both[1]
    assert len(both[0]) == 6  # take, accept, quote_sent, quote_confirmed and two receipts


def test_a_receipt_counts_once_and_moves_nothing() -> None:
    """The first TradeSettled is kept, whatever the state; another one is refused."""
    world, alice, bob, _, trade = scene()
    for number, expected in enumerate(["base_done", "wrong_state"]):
        receipt = TradeSettled(_id(trade), bytes(32), world.wall_ms + number)
        assert word(say_raw(world, bob, alice, "trade", signed(bob, receipt))) == expected
    assert state_of(alice, trade) is State.BASE_DONE
    assert len(alice.k.trades.lines[_id(trade)]) == 3  # take, accept, one receipt


def said(world: World, node: SimNode, trade: str, *kinds: str) -> None:
    """The node says such messages in one event; "heard" is one of the other side in between."""
    core, trades = node.k.core, node.k.trades
    core.begin(world.now())
    for kind in kinds:
        row = trades.by_id[_id(trade)]
        if kind == "heard":
            trades.heard(row, signed(node, QuoteConfirmed(_id(trade), bytes(32), 1)).envelope)
        elif kind == "refused":
            # Not a taker's to say.
            trades.say(row, InvoiceFailed, payment_hash=bytes(32), reason="cancelled")
        else:
            trades.say(row, TradeSettled)
    for effect in core.finish():
        if isinstance(effect, out.Persist):
            node.journal.commit(effect.writes)
        else:
            world.carry_out(node, effect)
    world.run(1_000)


def test_nothing_builds_on_a_message_that_was_refused_for_good() -> None:
    """The other side will never have it: what builds on it is not sent, and the chain goes on."""
    world, alice, bob, _, trade = scene()
    before = trade_of(bob, trade).last_digest
    said(world, bob, trade, "refused", "receipt")
    assert [one.event for one in bob.logs].count("message_refused") == 1
    assert trade_of(bob, trade).last_digest == before
    assert not bob.journal.outbox
    assert len(alice.k.trades.lines[_id(trade)]) == 2  # take, accept


def test_what_does_not_build_on_a_refused_message_is_sent_all_the_same() -> None:
    """It names another message as the one before."""
    world, alice, bob, _, trade = scene()
    said(world, bob, trade, "refused", "heard", "receipt")
    assert not bob.journal.outbox
    assert len(alice.k.trades.lines[_id(trade)]) == 3  # take, accept, the receipt
