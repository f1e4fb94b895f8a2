"""What crosses an order: in this node's book, and as its peers say."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.floor import LOTS, MARKET, place, reject
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import MatchOrder
from zmqex.protocol.codec import decode_frame, encode_frame
from zmqex.protocol.messages import Empty, Match, Matches, Message
from zmqex.reasons import RejectReason

SELL = MatchOrder(market=MARKET, side="sell", quantity_lots=4 * LOTS, price_ticks=100)


def lies(world: World, liar: SimNode, body: Message) -> None:
    """Have a peer answer questions about matches with this."""

    def drop(sender: SimNode, _target: SimNode, effect: out.Effect) -> bool:
        if isinstance(effect, out.SendRequest) and effect.peer == liar.identity:
            frame = decode_frame(effect.frame)
            if frame.kind == "matches":
                reply = encode_frame("matches", frame.request_id, body)
                world.soon(sender, happened.ReplyReceived(liar.identity, reply))
                return True
        return False

    world.drop = drop


def prices(answer: dict[str, Any]) -> list[tuple[int, int]]:
    """What was found: price and quantity, best first."""
    return [(one["price_ticks"], one["quantity_lots"]) for one in answer["matches"]]


def test_the_own_book_is_listed_best_first_and_changes_nothing() -> None:
    """Quantities are what would be filled; own orders are left out."""
    world = World()
    alice, bob, carol = world.meet("alice", "bob", "carol")
    place(alice, "buy", LOTS, 101)
    place(bob, "buy", 9 * LOTS, 102)
    place(carol, "buy", LOTS, 100)
    world.run(300)
    before = carol.k.state_hash()
    answer = carol.tell(MatchOrder(**{**_fields(SELL), "ask_peers": False}))
    assert prices(answer) == [(102, 4 * LOTS)]
    assert [one["source"] for one in answer["matches"]] == ["book"]
    assert carol.k.state_hash() == before
    alone = bob.tell(MatchOrder(**{**_fields(SELL), "ask_peers": False}))
    assert prices(alone) == [(101, LOTS), (100, LOTS)]


def test_peers_are_asked_and_what_the_book_has_already_stays_the_books() -> None:
    """Both say the same of the same order; it is listed once."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(alice, "buy", LOTS, 101)
    world.run(300)
    answer = bob.tell(SELL)
    assert prices(answer) == [(101, LOTS)]
    assert answer["unanswered"] == []


def test_a_peer_brings_what_this_node_has_not_heard_of() -> None:
    """Its order log did not arrive; the question finds it, for a buyer cheapest first."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    world.drop = lambda _node, _target, effect: (
        isinstance(effect, out.Publish)
        or (isinstance(effect, out.SendRequest) and decode_frame(effect.frame).kind == "log")
    )
    place(alice, "sell", LOTS, 102)
    place(alice, "sell", LOTS, 101)
    world.run(300)
    ask = MatchOrder(market=MARKET, side="buy", quantity_lots=9 * LOTS, price_ticks=110)
    answer = bob.tell(ask)
    assert prices(answer) == [(101, LOTS), (102, LOTS)]
    assert {one["source"] for one in answer["matches"]} == {alice.text}


def test_a_silent_peer_is_named_after_a_second() -> None:
    """The others' answers are there all the same."""
    world = World()
    alice, bob, carol = world.meet("alice", "bob", "carol")
    place(alice, "buy", LOTS, 101)
    world.run(300)
    alice.pause()
    began = world.monotonic_ms
    answer = carol.tell(SELL)
    assert world.monotonic_ms - began <= 1_100
    assert prices(answer) == [(101, LOTS)]
    assert answer["unanswered"] == [{"peer": alice.text, "reason": "timed_out"}]
    assert bob.up


def test_a_peer_that_lies_is_not_believed() -> None:
    """Our own orders and what does not cross are left out, whatever it says."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    here = Match(b"a" * 32, bob.identity, LOTS, 101)
    far = Match(b"b" * 32, alice.identity, LOTS, 99)
    fine = Match(b"c" * 32, alice.identity, LOTS, 100)
    lies(world, alice, Matches([here, far, fine]))
    assert prices(bob.tell(SELL)) == [(100, LOTS)]
    buy = MatchOrder(market=MARKET, side="buy", quantity_lots=LOTS, price_ticks=99)
    assert prices(bob.tell(buy)) == [(99, LOTS)]


def test_an_answer_that_cannot_be_read_is_named() -> None:
    """The peer is blamed, the command is answered."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    lies(world, alice, Empty())
    answer = bob.tell(SELL)
    assert answer["unanswered"] == [{"peer": alice.text, "reason": "malformed"}]


def test_an_order_of_the_book_is_matched_by_its_id() -> None:
    """An own one that rests although it crosses, because the maker did not want it."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(alice, "buy", LOTS, 101)
    world.run(300)
    reject(world, alice, RejectReason.DECLINED)
    mine = place(bob, "sell", LOTS, 100)["order"]["order_id"]
    assert prices(bob.tell(MatchOrder(order_id=mine[:8]))) == [(101, LOTS)]


@pytest.mark.parametrize(
    ("reason", "terms"),
    [
        ("malformed", {"market": "BTC/EUR"}),
        ("malformed", {"side": "hold"}),
        ("malformed", {"quantity_lots": 0}),
        ("malformed", {"price_ticks": 0}),
        ("malformed", {"order_id": "ab"}),
        ("unknown_order", {"order_id": "ab" * 32}),
    ],
)
def test_a_wrong_question_is_refused_in_one_sentence(reason: str, terms: dict[str, Any]) -> None:
    """Nobody is asked."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    sent: list[out.Effect] = []
    world.spy = lambda node, effect: sent.append(effect) if node is bob else None
    answer = bob.ask(MatchOrder(**{**_fields(SELL), **terms}))
    assert (answer.ok, answer.result["reason"]) == (False, reason)
    assert not [one for one in sent if isinstance(one, out.SendRequest)]
    assert alice.up


def test_a_peer_that_asks_about_another_market_is_refused() -> None:
    """A node answers for the markets that it follows only."""
    world = World()
    alice = world.add("alice")
    bob = world.add("bob", markets=("BTC/USD", "BTC/EUR"))
    world.run(2_000)
    answer = bob.tell(MatchOrder(**{**_fields(SELL), "market": "BTC/EUR"}))
    assert answer["unanswered"] == [{"peer": alice.text, "reason": "wrong_market"}]


def _fields(command: MatchOrder) -> dict[str, Any]:
    return {name: getattr(command, name) for name in command.__struct_fields__}
