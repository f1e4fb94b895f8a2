"""Takes of our orders: every rule that refuses one, repeats, caps, and the hold server's moods."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from tests.stories import (
    BTC,
    HOLD,
    MINUTE,
    available,
    check_always,
    check_quiet,
    only_trade,
    place,
    say_raw,
    signed,
)
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import CancelOrder, TakeOrder
from zmqex.kernel.requests import Answer, Incoming, Refusal
from zmqex.limits import HOLDS_PER_TAKER_MAX
from zmqex.protocol.codec import decode, encode
from zmqex.protocol.identity import ZERO_DIGEST, trade_id
from zmqex.protocol.messages import QuoteConfirmed, Take, TradeCancel, TradeSaid
from zmqex.reasons import RejectReason
from zmqex.trading.states import State


def scene(side: str = "buy", **order: Any) -> tuple[World, SimNode, SimNode]:  # noqa: ANN401
    """Alice rests 1 BTC; bob is connected to her."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    alice.tell(place(side, BTC, **order))
    world.run(300)
    return world, alice, bob


def take_of(world: World, maker: SimNode, taker: SimNode, /, **changes: Any) -> Take:  # noqa: ANN401
    """A take of the maker's last order, sound but for the changes."""
    take_id = changes.get("take_id", world.random.randbytes(32))
    take = Take(
        trade_id=trade_id("play", maker.identity, taker.identity, take_id),
        previous=ZERO_DIGEST,
        sent_at_ms=world.wall_ms,
        take_id=take_id,
        maker=maker.identity,
        taker=taker.identity,
        order_id=list(maker.journal.orders)[-1],
        quantity_lots=4 * BTC // 10,
        price_ticks=100,
        settlement="plain",
        payment_hash=None,
    )
    return replace(take, **changes)


def ask(world: World, maker: SimNode, taker: SimNode, take: Take) -> Answer:
    """Send a take as the taker."""
    return say_raw(world, taker, maker, "take", signed(taker, take))


def word(answer: Answer) -> str:
    """The reason of a refusal, or "accepted"."""
    return answer.reason.value if isinstance(answer, Refusal) else "accepted"


RULES: list[tuple[str, dict[str, Any], RejectReason]] = [
    ("buy", {"sent_at_ms": 1_900_000_000_000}, RejectReason.CLOCK_SKEW),
    ("buy", {"sent_at_ms": 1_700_000_000_000}, RejectReason.TAKE_TOO_OLD),
    ("buy", {"settlement": "htlc"}, RejectReason.UNSUPPORTED_SETTLEMENT),
    ("buy", {"order_id": bytes(32)}, RejectReason.UNKNOWN_ORDER),
    ("buy", {"price_ticks": 101}, RejectReason.PRICE_CHANGED),
    ("sell", {"payment_hash": None}, RejectReason.WRONG_PAYMENT_HASH),
    ("buy", {"trade_id": bytes(32)}, RejectReason.WRONG_PARTY),
    ("buy", {"taker": bytes(32)}, RejectReason.WRONG_PARTY),
    ("buy", {"maker": bytes(32)}, RejectReason.WRONG_PARTY),
    ("buy", {"quantity_lots": 1}, RejectReason.BELOW_MINIMUM),
    ("buy", {"quantity_lots": BTC - 1}, RejectReason.LEAVES_DUST),
]


@pytest.mark.parametrize(("side", "changes", "reason"), RULES)
def test_a_take_that_breaks_a_rule_is_refused_before_anything_is_held(
    side: str, changes: dict[str, Any], reason: RejectReason
) -> None:
    """One word for each; no row, no hold, no fence."""
    world, alice, bob = scene(side, minimum_lots=1_000)
    take = take_of(world, alice, bob, **changes)
    assert word(ask(world, alice, bob, take)) == reason.value
    assert alice.journal.trades == {}
    assert alice.held == {}
    assert alice.journal.counters.get("fence", 0) == 0


def test_no_fence_comes_twice_also_after_a_restart() -> None:
    """The counter is saved with the trade; what came to nothing before it was never told."""
    world, alice, bob = scene()
    assert word(ask(world, alice, bob, take_of(world, alice, bob))) == "accepted"
    carol = world.add("carol")
    world.run(3_000)
    alice.crash()
    alice.start()
    world.introduce(alice)
    world.run(5_000)
    assert word(ask(world, alice, carol, take_of(world, alice, carol))) == "accepted"
    assert sorted(one.fence for one in alice.journal.trades.values()) == [1, 2]


def test_a_take_in_the_name_or_with_the_signature_of_somebody_else_is_refused() -> None:
    """Carol replays bob's take, and signs one of her own with the wrong words."""
    world, alice, bob = scene()
    carol = world.add("carol")
    world.run(3_000)
    stolen = signed(bob, take_of(world, alice, bob))
    assert word(say_raw(world, carol, alice, "take", stolen)) == "wrong_party"
    for_carol = take_of(world, alice, carol)
    for said in (signed(bob, for_carol), signed(carol, for_carol, "accept")):
        assert word(say_raw(world, carol, alice, "take", said)) == "bad_signature"
    assert alice.journal.trades == {}


def test_a_take_request_that_carries_something_else_is_malformed() -> None:
    """It counts against the peer and changes nothing."""
    world, alice, bob = scene()
    other = QuoteConfirmed(bytes(32), bytes(32), world.wall_ms)
    assert word(say_raw(world, bob, alice, "take", signed(bob, other))) == "malformed"


def test_the_same_take_gets_the_same_bytes_and_another_one_under_its_id_a_conflict() -> None:
    """While it waits for the hold, for the invoice, and long after: one trade, one accept."""
    world, alice, bob = scene()
    take = take_of(world, alice, bob)
    said = signed(bob, take)
    other = signed(bob, replace(take, quantity_lots=BTC // 2))
    answers: list[Answer] = []
    bob.k.core.begin(world.now())
    for one in (said, said, other):
        bob.k.sessions.request(alice.identity, "take", one, answers.append)
    for effect in bob.k.core.finish():
        world.carry_out(bob, effect)
    world.run(100)
    words = sorted(map(word, answers))
    assert words == ["accepted", "accepted", "take_conflict"]
    again = say_raw(world, bob, alice, "take", said)
    accepts = {decode(one, TradeSaid).envelope for one in [*answers, again] if _ok(one)}  # type: ignore[arg-type]
    assert len(accepts) == 1
    assert word(say_raw(world, bob, alice, "take", other)) == "take_conflict"
    assert only_trade(alice).state is State.INVOICED
    alice.crash()
    alice.start()
    world.introduce(alice)
    world.run(5_000)
    later = say_raw(world, bob, alice, "take", said)
    assert decode(later, TradeSaid).envelope in accepts  # type: ignore[arg-type]
    assert len(alice.ledger.invoices) == 1


def _ok(answer: Answer) -> bool:
    return not isinstance(answer, Refusal)


def test_a_repeat_while_the_invoice_is_made_waits_for_it() -> None:
    """By `htlc`, held and written, but no invoice yet: both get the accept when it is there."""
    world, alice, bob = scene(settlements=("htlc",))
    alice.ledger.fail_create = "indeterminate"
    said = signed(bob, take_of(world, alice, bob, settlement="htlc", payment_hash=b"h" * 32))
    answers: list[Answer] = []
    for _ in range(2):
        bob.k.core.begin(world.now())
        bob.k.sessions.request(alice.identity, "take", said, answers.append)
        for effect in bob.k.core.finish():
            world.carry_out(bob, effect)
        world.run(200)
    assert only_trade(alice).state is State.RESERVED
    assert answers == []
    alice.ledger.fail_create = ""
    world.run(2_500)
    assert [word(one) for one in answers] == ["accepted", "accepted"]


def test_a_take_that_was_cancelled_before_it_came_is_never_held() -> None:
    """The tombstone: bob's cancellation overtakes his take."""
    world, alice, bob = scene()
    take = take_of(world, alice, bob)
    cancel = TradeCancel(
        take.trade_id, bytes(32), world.wall_ms, take.take_id, bob.identity, "cancelled"
    )
    say_raw(world, bob, alice, "trade", signed(bob, cancel))
    assert word(ask(world, alice, bob, take)) == "cancelled"
    assert available(alice) == [BTC]
    assert alice.held == {}


def test_a_take_that_is_cancelled_while_it_waits_for_the_hold_is_never_held() -> None:
    """The hold server is slow; the cancellation comes first."""
    for mood, reason in (("up", "order_closed"), ("silent", "order_closed")):
        world, alice, bob = scene()
        alice.holds = mood  # type: ignore[assignment]
        take = take_of(world, alice, bob)
        cancel = TradeCancel(
            take.trade_id, bytes(32), world.wall_ms, take.take_id, bob.identity, "cancelled"
        )
        answers: list[Answer] = []
        bob.k.core.begin(world.now())
        for kind, one in (("take", take), ("trade", cancel)):
            said = signed(bob, one)
            bob.k.sessions.request(alice.identity, kind, said, answers.append)
        for effect in bob.k.core.finish():
            world.carry_out(bob, effect)
        world.run(3_000)
        assert reason in set(map(word, answers))
        assert {one.state for one in alice.journal.trades.values()} == {State.CANCELLED}
        assert alice.held == {}
        assert available(alice) == [BTC]


# --- caps ----------------------------------------------------------------------------------------


def test_one_taker_holds_one_part_of_an_order_at_a_time() -> None:
    """A second unpaid hold on the same order is refused; after paying it is welcome."""
    world, alice, bob = scene()
    assert word(ask(world, alice, bob, take_of(world, alice, bob))) == "accepted"
    second = take_of(world, alice, bob, quantity_lots=BTC // 10)
    assert word(ask(world, alice, bob, second)) == "too_many_holds"
    trade = only_trade(alice)
    alice.ledger.receive(trade.payment_hash, trade.base_msat, bob.ledger.node)
    bob.ledger.balance_msat -= trade.base_msat
    world.run(100)
    third = take_of(world, alice, bob, quantity_lots=BTC // 10)
    assert word(ask(world, alice, bob, third)) == "accepted"
    check_always(world)


def test_one_taker_holds_no_more_than_its_share_of_a_maker() -> None:
    """At the limit, over many orders, the next unpaid hold is refused."""
    world, alice, bob = scene()
    for number in range(HOLDS_PER_TAKER_MAX + 1):
        assert word(ask(world, alice, bob, take_of(world, alice, bob))) == (
            "accepted" if number < HOLDS_PER_TAKER_MAX else "too_many_holds"
        )
        alice.tell(place("buy", BTC))
        world.run(50)


def test_several_takers_hold_parts_of_one_order_but_never_more_than_it_has() -> None:
    """0.4 and 0.6 are held; a third taker finds nothing."""
    world = World()
    alice, bob, carol, dave = world.meet("alice", "bob", "carol", "dave")
    alice.tell(place("buy", BTC))
    world.run(300)
    assert word(ask(world, alice, bob, take_of(world, alice, bob))) == "accepted"
    take = take_of(world, alice, carol, quantity_lots=BTC)
    assert word(ask(world, alice, carol, take)) == "accepted"
    assert word(ask(world, alice, dave, take_of(world, alice, dave))) == "held"
    world.run(500)
    assert available(alice) == [0]
    world.run(HOLD + MINUTE)
    assert available(alice) == [BTC]
    check_always(world)


def test_a_payment_hash_is_used_by_one_trade_only() -> None:
    """The same hash in two takes, one after the other or at the same time: the first counts."""
    world, alice, bob = scene("sell")
    carol = world.add("carol")
    world.run(3_000)
    lots, mark = BTC // 10, b"\x07" * 32
    takes = [
        take_of(world, alice, node, payment_hash=mark, quantity_lots=lots) for node in (bob, carol)
    ]
    answers: list[Answer] = []
    for node, take in zip((bob, carol), takes, strict=True):
        node.k.core.begin(world.now())
        node.k.sessions.request(alice.identity, "take", signed(node, take), answers.append)
        for effect in node.k.core.finish():
            world.carry_out(node, effect)
    world.run(100)
    assert sorted(map(word, answers)) == ["accepted", "wrong_payment_hash"]
    late = take_of(world, alice, carol, payment_hash=mark, quantity_lots=lots)
    assert word(ask(world, alice, carol, late)) == "wrong_payment_hash"


# --- the hold server -----------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [False, True])
def test_a_silent_hold_server_refuses_takes_or_leaves_them_to_the_journal(strict: bool) -> None:  # noqa: FBT001
    """As the operator chose; either way nothing is oversold."""
    world = World()
    alice = world.add("alice", holds_strict=strict)
    bob = world.add("bob")
    world.run(2_000)
    alice.tell(place("buy", BTC))
    world.run(300)
    alice.holds = "silent"
    answer = ask(world, alice, bob, take_of(world, alice, bob))
    assert word(answer) == ("holds_unavailable" if strict else "accepted")
    assert not isinstance(answer, Refusal) or answer.retry_after_ms == 1_000
    assert available(alice) == [BTC if strict else 6 * BTC // 10]
    check_always(world)


@pytest.mark.parametrize("mood", ["full", "stale"])
def test_a_hold_server_that_remembers_more_than_the_journal_is_told_the_truth(mood: str) -> None:
    """HELD now; rebuilt from the journal, so that the next take succeeds."""
    world, alice, bob = scene()
    (order_id,) = alice.journal.orders
    alice.held[b"ghost"] = (order_id, BTC, world.monotonic_ms + HOLD)
    alice.holds = "up" if mood == "full" else "stale"
    assert word(ask(world, alice, bob, take_of(world, alice, bob))) == "held"
    alice.holds = "up"
    assert b"ghost" not in alice.held
    assert word(ask(world, alice, bob, take_of(world, alice, bob))) == "accepted"


def test_a_hold_server_that_forgot_everything_does_not_oversell() -> None:
    """FLUSHALL while 0.4 are held: the journal admits 0.6 and no more."""
    world, alice, bob = scene()
    carol = world.add("carol")
    world.run(3_000)
    taken_id = only_after(world, alice, bob)
    alice.held.clear()
    alice.handle(happened.HoldsForgotten())
    assert set(alice.held) == {taken_id}
    alice.held.clear()
    answer = ask(world, alice, carol, take_of(world, alice, carol, quantity_lots=BTC))
    assert word(answer) == "accepted"
    lots = sorted(one.quantity_lots for one in alice.journal.trades.values())
    assert lots == [4 * BTC // 10, 6 * BTC // 10]
    check_always(world)


def only_after(world: World, maker: SimNode, taker: SimNode) -> bytes:
    """Hold 0.4 BTC; the trade's id."""
    assert word(ask(world, maker, taker, take_of(world, maker, taker))) == "accepted"
    return only_trade(maker).trade_id


@pytest.mark.parametrize("mood", ["up", "silent"])
def test_an_order_that_is_cancelled_while_a_take_waits_for_the_hold_is_not_taken(mood: str) -> None:
    """The take is refused, and no lot is held of an order that is gone."""
    world, alice, bob = scene()
    alice.holds = mood  # type: ignore[assignment]
    answers: list[Answer] = []
    bob.k.core.begin(world.now())
    said = signed(bob, take_of(world, alice, bob))
    bob.k.sessions.request(alice.identity, "take", said, answers.append)
    for effect in bob.k.core.finish():
        world.carry_out(bob, effect)
    world.run_until(lambda: bool(alice.k.admission._reserving))
    alice.command(CancelOrder(""))
    world.run(1_500)
    assert [word(one) for one in answers] == ["order_closed"]
    assert alice.journal.trades == {}
    assert alice.held == {}
    check_quiet(world)


def test_answers_of_the_hold_server_to_nothing_are_ignored() -> None:
    """Late and repeated answers change nothing."""
    world, alice, bob = scene()
    key = only_after(world, alice, bob)
    before = alice.journal.commits
    for event in (
        happened.HoldAnswered(key, "reserved"),
        happened.HoldAnswered(bytes(32), "full"),
        happened.HoldFailed(key, 1_000),
    ):
        alice.handle(event)
    assert alice.journal.commits == before
    assert only_trade(alice).state is State.INVOICED


def test_a_bare_take_of_a_refused_order_is_answered_with_the_makers_word() -> None:
    """`order take` names the reason."""
    world, alice, bob = scene()
    (order_id,) = alice.journal.orders
    alice.holds = "full"
    assert bob.ask(TakeOrder(order_id.hex(), BTC)).result["reason"] == "held"
    alice.holds = "up"
    assert bob.tell(TakeOrder(order_id.hex(), BTC))["trades"]
    check_always(world)


def test_nobody_takes_an_order_of_its_own() -> None:
    """Not even over a connection to itself."""
    world, alice, _ = scene()
    take = take_of(world, alice, alice)
    route = happened.Route(alice.curve_key, b"alice", alice.host)
    incoming = Incoming(route, 1, "take", Raw(encode(signed(alice, take))), alice.identity)
    alice.k.core.begin(world.now())
    alice.k.admission._on_take(incoming)
    words = [one for one in alice.k.core.finish() if isinstance(one, out.Log)]
    assert [one.facts["reason"] for one in words] == ["own_order"]
    assert alice.journal.trades == {}
