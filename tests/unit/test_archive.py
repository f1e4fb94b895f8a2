"""What has ended leaves memory, and nobody can tell: who speaks of it finds it in the journal."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tests.stories import (
    BTC,
    check_quiet,
    place,
    quote_leg,
    revive,
    say_raw,
    signed,
    sleep,
    state_of,
    taken,
    trade_of,
)
from tests.unit.test_admission import ask, take_of, word
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import (
    CancelOrder,
    ExportTrade,
    ListOrders,
    ListTrades,
    ReceivedTrade,
    ResolveTrade,
    SentTrade,
    ShowOrder,
    ShowTrade,
    TakeOrder,
)
from zmqex.kernel.names import Names
from zmqex.kernel.requests import Refusal
from zmqex.limits import (
    ARCHIVED_SHOWN_MAX,
    DAY_MS,
    ENDED_KEPT_MS,
    RECALLED_KEPT_MS,
    SETTLED_KEPT_MS,
)
from zmqex.protocol.codec import decode
from zmqex.protocol.identity import ZERO_DIGEST
from zmqex.protocol.messages import (
    QuoteSent,
    TradeCancel,
    TradeStatus,
    TradeStatusRequest,
)
from zmqex.trading.states import State

MOMENT = 1_000


def scene() -> tuple[World, SimNode, SimNode]:
    """Two connected nodes."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    return world, alice, bob


def settled(side: str = "buy", **more: Any) -> tuple[World, SimNode, SimNode, str]:  # noqa: ANN401
    """Alice's order is taken by bob and settled; what is left of it is cancelled."""
    world, alice, bob = scene()
    trade_id = taken(world, alice, bob, side, **more)
    world.run(MOMENT)
    quote_leg(world, *((alice, bob) if side == "buy" else (bob, alice)), trade_id)
    world.run(MOMENT)
    assert state_of(alice, trade_id) is state_of(bob, trade_id) is State.SETTLED
    alice.tell(CancelOrder(""))
    world.run(MOMENT)
    return world, alice, bob, trade_id


def cancelled(side: str = "sell") -> tuple[World, SimNode, SimNode, str]:
    """Bob has taken of alice's order, which rests, and let it go again."""
    world, alice, bob = scene()
    trade_id = taken(world, alice, bob, side, pay_mode="manual")
    trade = trade_of(bob, trade_id)
    wish = TradeCancel(
        trade.trade_id, trade.last_digest, world.wall_ms, trade.take_id, bob.identity, "cancelled"
    )
    say_raw(world, bob, alice, "trade", signed(bob, wish))
    world.run(5 * MOMENT)
    assert state_of(alice, trade_id) is State.CANCELLED
    return world, alice, bob, trade_id


def rest(world: World, ms: int) -> None:
    """Let so much time pass in which the nodes sleep, and let them meet again."""
    sleep(world, ms)
    world.run(MOMENT)


def restart(world: World, node: SimNode) -> None:
    """A crash and a new start."""
    node.crash()
    revive(world)


def in_memory(node: SimNode, trade_id: str) -> bool:
    """Whether a trade, or anything of it, is in the kernel's memory."""
    trades, key = node.k.trades, bytes.fromhex(trade_id)
    at = [key in rows for rows in (trades.by_id, trades.lines, trades._hashes, trades._running)]
    at += [key in trades._by_hash.values(), any(key == one for _, one in trades._times)]
    at += [key in rows for rows in trades._by_order.values()]
    assert any(at) == at[0]
    return at[0]


@pytest.mark.parametrize("side", ["buy", "sell"])
@pytest.mark.parametrize("again", ["", "restart"])
def test_a_settled_trade_and_its_order_leave_memory_and_are_shown_as_before(
    side: str, again: str
) -> None:
    """After a day; then `trade list`, `show`, `evidence` and `order show` say the same."""
    world, alice, bob, trade_id = settled(side)
    order_id = trade_of(alice, trade_id).order_id

    def shown(node: SimNode) -> list[Any]:
        asked: list[Any] = [
            ListTrades(ended=True),
            ListOrders(closed=True),
            ShowTrade(trade_id),
            ShowTrade(trade_id[:9]),
            ShowOrder(order_id.hex()),
        ]
        told = [node.ask(command).result for command in asked[: 4 + (node is alice)]]
        evidence = node.tell(ExportTrade(trade_id))["evidence"]
        del evidence["seal"]  # says when it was made
        return [*told, evidence]

    rest(world, SETTLED_KEPT_MS - 60 * MOMENT)
    assert in_memory(alice, trade_id)
    assert in_memory(bob, trade_id)
    assert order_id in alice.k.orders.rows
    before = [shown(node) for node in (alice, bob)]
    rest(world, 70 * MOMENT + ENDED_KEPT_MS)
    for node in (alice, bob):
        assert not in_memory(node, trade_id)
        assert not node.k.orders.rows
        assert not node.k.trades._held
        if again:
            restart(world, node)
            assert not in_memory(node, trade_id)
            assert not node.k.orders.rows
    for node, said in zip((alice, bob), before, strict=True):
        told = shown(node)
        if side == "sell" or node is bob:
            assert told == said
        else:  # the maker's batch is not kept for ever
            assert told[:-1] == said[:-1]
    check_quiet(world)


def test_what_was_asked_for_leaves_again() -> None:
    """A minute later, without having changed anything on the disk."""
    world, alice, _, trade_id = settled()
    rest(world, SETTLED_KEPT_MS + 2 * ENDED_KEPT_MS)
    alice.tell(ShowTrade(trade_id))
    assert in_memory(alice, trade_id)
    assert trade_of(alice, trade_id).own_order_id in alice.k.orders.rows
    row = trade_of(alice, trade_id)
    world.run(RECALLED_KEPT_MS + ENDED_KEPT_MS + MOMENT)
    assert not in_memory(alice, trade_id)
    assert not alice.k.orders.rows
    assert trade_of(alice, trade_id) == row


def test_a_closed_order_without_trades_leaves_memory_sooner() -> None:
    """And is listed all the same; a take of it hears that it is closed."""
    world, alice, bob = scene()
    order_id = alice.tell(place("buy", BTC, key="k"))["order"]["order_id"]
    world.run(MOMENT)
    alice.tell(CancelOrder(""))
    shown = alice.tell(ListOrders(closed=True))["orders"]
    world.run(ENDED_KEPT_MS - 5 * MOMENT)
    assert alice.k.orders.rows
    world.run(10 * MOMENT)
    for again in ("", "restart"):
        if again:
            restart(world, alice)
        assert not alice.k.orders.rows
        assert "k" not in alice.k.desk.keys
        assert alice.tell(ListOrders())["orders"] == []
        assert alice.tell(ListOrders(closed=True))["orders"] == shown
        assert word(ask(world, alice, bob, take_of(world, alice, bob))) == "order_closed"
        refused = alice.ask(CancelOrder(order_id[:8]))
        assert refused.result["reason"] == "order_closed"
        world.run(2 * ENDED_KEPT_MS)
    repeated = alice.tell(place("buy", BTC, key="k"))
    assert (repeated["repeated"], repeated["order"]) == (True, shown[0])


def test_a_client_that_goes_long_after_its_order_finds_nothing_to_close() -> None:
    """The order has ended and left memory, and its client is forgotten with it."""
    world, alice, _ = scene()
    alice.tell(place("buy", BTC, cancel_on_disconnect=True))
    alice.tell(CancelOrder(""))
    world.run(2 * ENDED_KEPT_MS)
    assert not alice.k.orders.rows
    assert not alice.k.desk.clients
    alice.handle(happened.ClientGone(b"cli"))
    assert alice.up


def test_a_bare_take_is_found_by_its_key_when_its_trade_has_left() -> None:
    """A repeat a week later takes nothing twice."""
    world, alice, bob = scene()
    order = alice.tell(place("buy", BTC))["order"]["order_id"]
    world.run(300)
    take = TakeOrder(order, 4 * BTC // 10, key="t")
    trade_id = bob.tell(take)["trades"][0]["trade_id"]
    quote_leg(world, alice, bob, trade_id)
    rest(world, SETTLED_KEPT_MS + ENDED_KEPT_MS)
    restart(world, bob)
    assert not in_memory(bob, trade_id)
    again = bob.tell(take)
    assert again["repeated"]
    assert [one["trade_id"] for one in again["trades"]] == [trade_id]
    assert len(bob.journal.trades) == 1
    other = bob.ask(TakeOrder(order, 1, key="t2"))
    assert not other.result.get("repeated")


@pytest.mark.parametrize("again", ["", "restart"])
def test_a_take_is_idempotent_for_ever(again: str) -> None:
    """The same bytes get the same accept, others a conflict, and its hash no second trade."""
    world, alice, bob = scene()
    alice.tell(place("sell", BTC))
    world.run(300)
    take = take_of(world, alice, bob, payment_hash=b"h" * 32)
    said = signed(bob, take)
    assert word(say_raw(world, bob, alice, "take", said)) == "accepted"
    wish = TradeCancel(
        take.trade_id, ZERO_DIGEST, world.wall_ms, take.take_id, bob.identity, "cancelled"
    )
    other = take_of(world, alice, bob, take_id=take.take_id, payment_hash=b"g" * 32)
    say_raw(world, bob, alice, "trade", signed(bob, wish))
    world.run(5 * MOMENT)
    rest(world, ENDED_KEPT_MS)
    if again:
        restart(world, alice)
    assert not in_memory(alice, take.trade_id.hex())
    assert available_lots(alice) == BTC
    same_hash = take_of(world, alice, bob, payment_hash=b"h" * 32)
    assert word(ask(world, alice, bob, same_hash)) == "wrong_payment_hash"
    assert word(say_raw(world, bob, alice, "take", said)) == "cancelled"
    world.run(RECALLED_KEPT_MS + ENDED_KEPT_MS + MOMENT)
    assert not in_memory(alice, take.trade_id.hex())
    assert word(ask(world, alice, bob, other)) == "take_conflict"
    assert available_lots(alice) == BTC


def available_lots(node: SimNode) -> int:
    """What can be taken of the one order of a node."""
    (key,) = [one for one, row in node.k.orders.rows.items() if row.state == "open"]
    return node.k.orders.available_lots(key)


@pytest.mark.parametrize("again", ["", "restart"])
def test_a_late_quote_claim_is_a_dispute_of_no_quantity_however_late(again: str) -> None:
    """It is loaded at each start from then on, until the operator ends it."""
    world, alice, bob, trade_id = cancelled()
    rest(world, 2 * DAY_MS)
    alice.tell(CancelOrder(""))
    world.run(2 * ENDED_KEPT_MS)
    assert not in_memory(alice, trade_id)
    assert not alice.k.orders.rows
    if again:
        restart(world, alice)
    claim = QuoteSent(bytes.fromhex(trade_id), ZERO_DIGEST, world.wall_ms, "wire 7")
    answer = say_raw(world, bob, alice, "trade", signed(bob, claim))
    assert decode(answer, TradeStatus).state == "disputed"  # type: ignore[arg-type]
    assert trade_of(alice, trade_id).late
    for _ in range(2):
        world.run(3 * ENDED_KEPT_MS)
        assert in_memory(alice, trade_id), "what is not over stays"
        assert trade_of(alice, trade_id).own_order_id in alice.k.orders.rows
        restart(world, alice)
    assert alice.tell(ListTrades())["trades"][0]["state"] == "disputed"
    assert alice.tell(ResolveTrade(trade_id, "cancelled"))["trade"]["state"] == "cancelled"
    world.run(2 * ENDED_KEPT_MS + MOMENT)
    assert not in_memory(alice, trade_id)


def test_a_status_is_told_to_the_parties_when_the_trade_has_left() -> None:
    """Two questions at once are one look; a third party hears nothing, nonsense costs nothing."""
    world, alice, bob, trade_id = settled()
    mallory = world.add("mallory")
    world.run(2 * MOMENT)
    rest(world, SETTLED_KEPT_MS + ENDED_KEPT_MS)
    looks: list[out.Recall] = []
    world.spy = lambda node, effect: (
        looks.append(effect) if node is alice and isinstance(effect, out.Recall) else None
    )
    question = TradeStatusRequest(bytes.fromhex(trade_id))
    answers: list[Any] = []
    for peer in (bob, bob, mallory):
        peer.k.core.begin(world.now())
        peer.k.sessions.request(alice.identity, "trade_status", question, answers.append)
        for effect in peer.k.core.finish():
            world.carry_out(peer, effect)
    world.run(MOMENT)
    assert [decode(one, TradeStatus).state for one in answers[:2]] == ["settled", "settled"]
    assert isinstance(answers[2], Refusal)
    assert answers[2].reason.value == "wrong_party"
    assert len(looks) == 1
    unknown = TradeStatusRequest(b"?" * 32)
    assert word(say_raw(world, bob, alice, "trade_status", unknown)) == "unknown_trade"
    assert len(looks) == 1, "what was never known costs no look"


def test_a_name_that_only_begins_alike_is_looked_for_once() -> None:
    """Eight bytes are remembered; the journal knows the rest."""
    world, alice, bob, trade_id = settled()
    rest(world, SETTLED_KEPT_MS + ENDED_KEPT_MS)
    twin = bytes.fromhex(trade_id)[:8] + b"?" * 24
    unknown = TradeStatusRequest(twin)
    assert word(say_raw(world, bob, alice, "trade_status", unknown)) == "unknown_trade"
    claim = QuoteSent(twin, ZERO_DIGEST, world.wall_ms, "wire 7")
    assert word(say_raw(world, bob, alice, "trade", signed(bob, claim))) == "unknown_trade"
    assert alice.ask(ShowTrade(twin.hex())).result["reason"] == "unknown_trade"


def test_lightnings_late_word_about_a_trade_that_has_left_changes_nothing() -> None:
    """Nor does one about a hash that nobody knows."""
    world, alice, _, trade_id = settled()
    before = trade_of(alice, trade_id)
    rest(world, SETTLED_KEPT_MS + ENDED_KEPT_MS)
    alice.handle(happened.InvoiceSeen(before.payment_hash, "canceled"))
    world.run(MOMENT)
    assert in_memory(alice, trade_id)
    assert trade_of(alice, trade_id) == before
    alice.handle(happened.InvoiceSeen(b"?" * 32, "canceled"))
    world.run(MOMENT)
    assert alice.k.core.counted["lightning_event_without_trade"] == 1


def test_who_has_settled_with_us_is_a_stranger_no_more_for_ever() -> None:
    """Also when the trade has left memory, and after a restart."""
    world, alice, bob, trade_id = settled()
    rest(world, SETTLED_KEPT_MS + ENDED_KEPT_MS)
    restart(world, alice)
    assert not in_memory(alice, trade_id)
    assert not alice.k.admission._caps._is_stranger(bob.identity)


def test_what_has_something_to_say_stays() -> None:
    """A message that the other party has not acknowledged yet keeps its trade here."""
    world, alice, bob = scene()
    trade_id = taken(world, alice, bob, "buy")
    world.run(MOMENT)
    alice.tell(SentTrade(trade_id))
    world.run(100)
    alice.pause()
    bob.tell(ReceivedTrade(trade_id))
    assert state_of(bob, trade_id) is State.SETTLED
    alice.crash()
    rest(world, SETTLED_KEPT_MS + 3 * ENDED_KEPT_MS)
    assert in_memory(bob, trade_id)
    revive(world)
    world.run(60 * MOMENT)
    assert state_of(alice, trade_id) is State.SETTLED
    rest(world, SETTLED_KEPT_MS + ENDED_KEPT_MS)
    assert not in_memory(bob, trade_id)


def test_a_clock_that_is_set_back_keeps_nothing_for_ever() -> None:
    """What ended in the future, by the clock of now, stays for no longer than anything else."""
    world, alice, _, trade_id = settled()
    world.wall_ms -= 30 * DAY_MS
    restart(world, alice)
    rest(world, SETTLED_KEPT_MS - 60 * MOMENT)
    assert in_memory(alice, trade_id)
    rest(world, 30 * DAY_MS + 90 * MOMENT)
    assert not in_memory(alice, trade_id)


@pytest.mark.parametrize("again", ["", "restart"])
def test_a_hash_of_an_invoice_that_was_replaced_begins_no_other_trade(again: str) -> None:
    """A hash belongs to one trade for ever, and Lightning's late word of it brings that trade."""
    world, alice, bob = scene()
    trade_id = taken(world, alice, bob, "sell")
    bob.tell(SentTrade(trade_id))
    world.run(100)
    alice.ledger.unreachable = True
    alice.tell(ReceivedTrade(trade_id))
    world.run(500)
    old = trade_of(bob, trade_id).payment_hash
    bob.ledger.invoices[old]["state"] = "canceled"
    alice.ledger.unreachable = False
    world.run(60 * MOMENT)
    assert state_of(alice, trade_id) is State.SETTLED
    rest(world, SETTLED_KEPT_MS + ENDED_KEPT_MS)
    if again:
        restart(world, alice)
    take = take_of(world, alice, bob, payment_hash=old)
    assert word(ask(world, alice, bob, take)) == "wrong_payment_hash"
    assert not in_memory(alice, trade_id)
    for _ in range(2):
        alice.handle(happened.PaymentSeen(bytes.fromhex(trade_id), old, "failed"))
        world.run(MOMENT)
        assert in_memory(alice, trade_id)
    assert "lightning_event_without_trade" not in alice.k.core.counted
    assert state_of(alice, trade_id) is State.SETTLED


@pytest.mark.parametrize("more", [-1, 0])
def test_the_newest_of_what_has_left_is_listed_and_that_there_is_more(more: int) -> None:
    """As many as may be told; what is in memory always is."""
    world, alice, _, trade_id = settled()
    rest(world, SETTLED_KEPT_MS + ENDED_KEPT_MS)
    world.run(ENDED_KEPT_MS)
    trade, journal = trade_of(alice, trade_id), alice.journal
    (row,) = journal.orders.values()
    for number in range(1, ARCHIVED_SHOWN_MAX + more):
        key, at = number.to_bytes(32), {"created_ms": trade.created_ms - number}
        journal.trades[key] = replace(trade, trade_id=key, **at)
        journal.orders[key] = replace(row, order_id=key, **at)
        journal.archived_trades.add(key)
        journal.archived_orders.add(key)
    alice.tell(place("buy", BTC))
    for what, command in (("trades", ListTrades(ended=True)), ("orders", ListOrders(closed=True))):
        told = alice.tell(command)
        assert told["older"] == (more == 0)
        assert len(told[what]) == ARCHIVED_SHOWN_MAX + more + (what == "orders")
        times = [one["created_ms"] for one in told[what]]
        assert times == sorted(times, reverse=True)


def test_names_are_found_by_how_they_begin() -> None:
    """Sorted, each once, and by four bytes or more."""
    names = Names()
    assert not names.may_have(b"abcdefgh")
    for name in (b"b" * 32, b"a" * 8, b"b" * 32, b"bbbbbbbb" + b"c" * 24, b"\xff" * 32):
        names.add(name)
    assert len(names) == 3
    for beginning in (b"aaaa", b"aaaaaaaa?", b"b" * 5, b"\xff" * 32, b"\xff" * 4):
        assert names.may_have(beginning)
    for beginning in (b"aaab", b"aaaaaaab", b"c" * 4, b"\0" * 8, b"bbbba"):
        assert not names.may_have(beginning)
    names.restore([b"z" * 8, b"y" * 8])
    assert [names.may_have(one) for one in (b"yyyy", b"zzzz", b"aaaa")] == [True, True, False]
