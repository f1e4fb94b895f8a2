"""Trades know the Lightning node that they hang on: no other one is asked, paid by or believed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.outside import Ledger
from tests.stories import (
    BTC,
    MINUTE,
    available,
    check_orders,
    check_quiet,
    check_trades,
    place,
    sleep,
    state_of,
    taken,
    trade_of,
)
from tests.swaps import Scene
from tests.unit.lock_stories import locked, release, sent, sold_and_sent, states
from tests.unit.maker_stories import DAY, confirmed_without_funds, scene
from tests.unit.rollover_stories import paying, rolled
from tests.world import SimNode, World
from zmqex.config import Config
from zmqex.errors import ConfigError
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import (
    CancelTrade,
    ListTrades,
    PayTrade,
    ReceivedTrade,
    ResolveTrade,
    SentTrade,
    ShowOrder,
)
from zmqex.market.instruments import BASE
from zmqex.runtime.networks import check_networks
from zmqex.runtime.outside import LIGHTNING_EFFECTS
from zmqex.trading.states import State, TradeRole

CONFIG = Config(data_dir=Path())
Story = tuple[World, SimNode, str]
LOTS = 4 * BTC // 10


def paying_taker() -> Story:
    """Bob's payment is under way, and Alice's node is down."""
    world, (alice, bob) = scene()
    trade = taken(world, alice, bob, pay_mode="manual")
    alice.crash()
    bob.command(PayTrade(trade))
    world.run(100)
    assert state_of(bob, trade) is State.PAYING
    return world, bob, trade


def invoiced_maker() -> Story:
    """Alice's invoice is with Bob, who may pay it at any time."""
    world, (alice, bob) = scene()
    return world, alice, taken(world, alice, bob, pay_mode="manual")


def paying_maker() -> Story:
    """Alice sells, has the quote, and her payment is under way to a node that is down."""
    world, (alice, bob) = scene()
    trade = taken(world, alice, bob, "sell")
    bob.tell(SentTrade(trade))
    world.run(100)
    world.spy = lambda _node, effect: bob.crash() if isinstance(effect, out.PayInvoice) else None
    alice.tell(ReceivedTrade(trade))
    world.run(1_000)
    assert state_of(alice, trade) is State.PAYING
    return world, alice, trade


def invoiced_taker() -> Story:
    """Bob buys, has sent the quote, and waits for the payment of his invoice."""
    world, _, bob, trade = confirmed_without_funds()
    return world, bob, trade


def lock_buyer() -> Story:
    """Alice has sent the quote for what Bob has locked."""
    world, alice, _, trade = sent()
    return world, alice, trade


def lock_seller() -> Story:
    """Alice has locked what she sells, and Bob says that he has sent the quote."""
    world, alice, _, trade = sold_and_sent()
    return world, alice, trade


def rollover_buyer() -> Story:
    """Alice has lost her lock, and waits for the payment of a fresh invoice."""
    told = rolled("buy")
    return told.world, told.buyer, told.trade


def rollover_seller() -> Story:
    """Alice has the quote, and her payment in place of a lost lock is under way."""
    told = paying("sell")
    return told.world, told.seller, told.trade


def swapping(name: str, *, state: State) -> Callable[[], Story]:
    """A swap that stands still when a node has come to this state."""

    def story() -> Story:
        swap = Scene()
        node = {"alice": swap.alice, "bob": swap.bob}[name]
        other = swap.bob if name == "alice" else swap.alice

        def look(_node: SimNode, _effect: out.Effect) -> None:
            if any(one.state is state for one in node.journal.trades.values()):
                other.crash()
                swap.world.lightning_apart = False

        swap.world.spy = look
        swap.take()
        swap.world.spy = lambda *_: None
        trade = swap.trade(node)
        assert trade.state is state
        return swap.world, node, trade.trade_id.hex()

    return story


STORIES = {
    "a selling taker": paying_taker,
    "a buying maker": invoiced_maker,
    "a selling maker": paying_maker,
    "a buying taker": invoiced_taker,
    "a buyer by lock": lock_buyer,
    "a seller by lock": lock_seller,
    "a buyer with a rollover": rollover_buyer,
    "a seller of a rollover": rollover_seller,
    "a swapping maker": swapping("alice", state=State.PAYING),
    "a swapping taker": swapping("bob", state=State.PAYING),
}


def start_with(world: World, node: SimNode, ledger: Ledger) -> list[out.Effect]:
    """Start a node with this Lightning node for the base; what it asks of Lightning from then on.

    Before that, whatever was under way to its old one gets lost.
    """
    if node.up:
        node.crash()
    asked: list[out.Effect] = []

    def look(one: SimNode, effect: out.Effect) -> None:
        if one is node and isinstance(effect, LIGHTNING_EFFECTS):
            asked.append(effect)

    node.ledger = ledger
    world.spy = look
    node.start()
    return asked


def other(world: World, node: SimNode) -> Ledger:
    """Another Lightning node of the same operator."""
    return Ledger(world, f"another of {node.name}")


@pytest.fixture(params=STORIES.values(), ids=list(STORIES))
def story(request: pytest.FixtureRequest) -> Story:
    """One of the stories."""
    told: Story = request.param()
    return told


def test_another_node_is_never_asked_and_nothing_is_paid_by_it(story: Story) -> None:
    """However long it runs: it would say that it knows no payment, and be told to make it."""
    world, node, trade = story
    balance_msat = other(world, node).balance_msat
    asked = start_with(world, node, other(world, node))
    world.run(20 * MINUTE)
    sleep(world, DAY)
    assert asked == []
    assert node.ledger.balance_msat == balance_msat
    row = trade_of(node, trade)
    assert (row.state, row.reason) == (State.DISPUTED, "lightning_unavailable")
    start_with(world, node, node.ledger)
    world.run(MINUTE)
    assert trade_of(node, trade).revision == row.revision  # a second start changes nothing
    check_trades(world.nodes, node)
    check_orders(node)


def test_before_it_starts_a_node_says_which_trades_have_lost_theirs(story: Story) -> None:
    """By asset and identity, so that `serve` can refuse; with the old one there is nothing."""
    world, node, trade = story
    node.crash()
    assert node.restored().lost_nodes() == []
    old, node.ledger = node.ledger, other(world, node)
    (lost,) = node.restored().lost_nodes()
    assert (lost[0].trade_id.hex(), *lost[1:]) == (trade, BASE, old.node)


def test_it_ends_as_settled_which_frees_nothing(story: Story) -> None:
    """Nobody can say any more that nothing was paid, so it cannot end as cancelled."""
    world, node, trade = story
    asked = start_with(world, node, other(world, node))
    world.run(1_000)
    refused = node.ask(ResolveTrade(trade, "cancelled"))
    assert not refused.ok
    assert refused.result["reason"] in {"lightning_unavailable", "already_paid"}
    node.tell(ResolveTrade(trade, "settled"))
    assert state_of(node, trade) is State.SETTLED
    assert asked == []
    row = trade_of(node, trade)
    if row.role is TradeRole.MAKER:
        order = node.tell(ShowOrder(row.order_id.hex()))["order"]
        assert (order["filled_lots"], order["held_lots"]) == (row.quantity_lots, 0)
    check_orders(node)


@pytest.mark.parametrize("quote", [False, True])
def test_a_swap_hangs_on_a_node_of_each_network(quote: bool) -> None:  # noqa: FBT001
    """Either of them may be the one that is gone, or be configured no more."""
    world, node, _ = STORIES["a swapping maker"]()
    node.crash()
    if quote:
        old = node.quotes["USD"]
        node.quotes = {"USD": Ledger(world, "another", "USD")}
        assert [one[1:] for one in node.restored().lost_nodes()] == [("USD", old.node)]
        node.quotes = {}
    else:
        old = node.ledger
        node.ledger = other(world, node)
    assert [one[1:] for one in node.restored().lost_nodes()] == [
        ("USD" if quote else "BTC", old.node)
    ]


def test_the_operator_is_told_what_is_left_to_do() -> None:
    """Whose turn it is, on which node the trade hangs, and what the way on is."""
    world, node, trade = lock_seller()
    old = node.ledger
    start_with(world, node, other(world, node))
    (view,) = node.tell(ListTrades())["trades"]
    assert (view["turn"], view["lightning_nodes"]) == ("you", [old.node.hex()])
    assert "`trade resolve` it as settled, which frees nothing" in view["next_text"]
    refused = node.ask(ResolveTrade(trade, "cancelled"))
    assert "only its own Lightning node could say" in refused.result["message"]


def test_with_its_own_node_again_the_dispute_ends_as_any_other() -> None:
    """What was locked is still there: the seller has the quote, and releases."""
    world, node, trade = lock_seller()
    old = node.ledger
    start_with(world, node, other(world, node))
    assert not node.ask(ReceivedTrade(trade)).ok
    start_with(world, node, old)
    world.introduce(node)
    world.mine(0)
    world.run(5_000)
    assert node.k.lost_nodes() == []
    node.tell(ReceivedTrade(trade))
    world.run(5_000)
    assert state_of(node, trade) is State.SETTLED
    check_quiet(world)


def test_what_lightning_has_ended_hangs_on_no_node() -> None:
    """The base is paid and the quote is due: any node will do, and the trade goes on."""
    world, (alice, bob) = scene()
    trade = taken(world, alice, bob)
    world.run(500)
    for node in (alice, bob):
        assert start_with(world, node, other(world, node)) == []
        world.introduce(node)
    world.run(5_000)
    alice.tell(SentTrade(trade))
    world.run(100)
    bob.tell(ReceivedTrade(trade))
    world.run(1_000)
    assert state_of(alice, trade) is state_of(bob, trade) is State.SETTLED


def test_a_late_claim_hangs_on_no_node() -> None:
    """Its own node has said for good that nothing was paid, so any other may end it."""
    world, (alice, bob) = scene()
    trade = taken(world, alice, bob, "sell")
    alice.crash()
    bob.tell(SentTrade(trade))
    start_with(world, alice, other(world, alice))
    world.introduce(alice)
    alice.tell(CancelTrade(trade))
    world.run(40_000)
    assert state_of(alice, trade) is State.DISPUTED
    assert alice.tell(ResolveTrade(trade, "cancelled"))["trade"]["state"] == "cancelled"
    assert available(alice, "asks") == [BTC]


def test_what_has_never_reached_lightning_hangs_on_no_node() -> None:
    """A buying taker has not even said that it has sent the quote."""
    world, (alice, bob) = scene()
    trade = taken(world, alice, bob, "sell")
    for node in (alice, bob):
        start_with(world, node, other(world, node))
        world.introduce(node)
    world.run(5_000)
    bob.tell(SentTrade(trade))
    world.run(100)
    alice.tell(ReceivedTrade(trade))
    world.run(2_000)
    assert state_of(alice, trade) is state_of(bob, trade) is State.SETTLED
    row = trade_of(alice, trade)
    assert (row.paying_node, row.invoice_node) == (alice.ledger.node, b"")


def test_a_release_for_a_lost_lock_changes_nothing() -> None:
    """The buyer's node that holds the lock is gone, so the preimage is of no use here."""
    world, alice, bob, trade = locked()
    asked = start_with(world, alice, other(world, alice))
    world.introduce(alice)
    world.run(3_000)
    release(world, bob, alice, trade)
    assert states(alice, bob, trade)[0] == "disputed"
    assert asked == []
    assert available(alice) == [BTC - LOTS]


# --- while it runs -------------------------------------------------------------------------------


def test_while_another_node_answers_the_operator_is_told() -> None:
    """Of the trades that hang on it, until it is back; the log says it too."""
    world, node, trade = paying_taker()
    stranger = other(world, node).node
    node.handle(happened.OtherNodeSeen(stranger))
    (view,) = node.tell(ListTrades())["trades"]
    assert (view["turn"], view["next_command"]) == ("you", "")
    assert node.ledger.node.hex() in view["next_text"]
    assert [one.facts["node"] for one in node.logs if one.event == "other_lightning_node"] == [
        stranger.hex()
    ]
    node.handle(happened.OtherNodeSeen(b""))
    (view,) = node.tell(ListTrades())["trades"]
    assert view["turn"] == "lightning"
    assert node.logs[-1].event == "lightning_node_back"
    assert state_of(node, trade) is State.PAYING


def test_a_trade_that_hangs_on_no_node_waits_for_none() -> None:
    """The network of a quote has nothing to do with it either."""
    world, (alice, bob) = scene()
    taken(world, alice, bob, "sell")
    for asset in (BASE, "USD"):
        alice.handle(happened.OtherNodeSeen(other(world, alice).node, asset))
    (view,) = alice.tell(ListTrades())["trades"]
    assert view["turn"] == "them"


# --- before it starts ----------------------------------------------------------------------------


def test_serve_refuses_to_start_without_the_nodes_of_running_trades() -> None:
    """The sentence names the node, the trades and the way out; a declared loss lets it start."""
    world, node, trade = paying_taker()
    old = node.ledger.node
    check_networks(node.restored(), CONFIG)
    node.ledger = other(world, node)
    with pytest.raises(ConfigError) as told:
        check_networks(node.restored(), CONFIG)
    for word in (old.hex(), trade[:12], "could be paid twice", f"--lost-node {old.hex()}"):
        assert word in str(told.value)
    check_networks(node.restored(), msgspec.structs.replace(CONFIG, lost_nodes=(old,)))
    with pytest.raises(ConfigError):
        check_networks(node.restored(), msgspec.structs.replace(CONFIG, lost_nodes=(bytes(33),)))


def test_of_many_trades_only_some_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence stays one."""
    monkeypatch.setattr("zmqex.runtime.networks._NAMED_MAX", 1)
    world, (alice, bob, carol) = scene("alice", "bob", "carol")
    first = taken(world, alice, bob, pay_mode="manual")
    carol.tell(place("sell", LOTS, pay_mode="manual"))
    alice.ledger = other(world, alice)
    with pytest.raises(ConfigError, match=f"{first[:12]} and 1 more"):
        check_networks(alice.restored(), CONFIG)


def test_the_network_of_a_running_swap_must_be_configured() -> None:
    """Said before anything else, for it is the plainer thing to mend."""
    _, node, _ = STORIES["a swapping maker"]()
    node.quotes = {}
    with pytest.raises(ConfigError, match="start with the --quote-lightning USD="):
        check_networks(node.restored(), CONFIG)
