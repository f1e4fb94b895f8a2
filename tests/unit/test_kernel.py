"""The kernel: the same events give the same effects, and a restart gives the same state."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.unit.floor import LOTS, place
from tests.world import SimNode, World, plain
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import (
    CheckReach,
    CommandBase,
    ListPeers,
    ReceivedTrade,
    SentTrade,
)
from zmqex.kernel.core import Settings
from zmqex.kernel.kernel import Kernel
from zmqex.kernel.records import Snapshot
from zmqex.market.instruments import Currencies
from zmqex.reasons import RejectReason


class Unheard(CommandBase, frozen=True, tag="unheard"):
    """A command of a version to come."""


def story(seed: int = 1) -> tuple[World, list[tuple[str, out.Effect]]]:
    """A whole trade between two nodes, and every effect of it."""
    world = World(seed)
    effects: list[tuple[str, out.Effect]] = []
    world.spy = lambda node, effect: effects.append((node.name, effect))
    alice, bob = world.meet("alice", "bob")
    place(alice, "buy", 2 * LOTS, 100)
    world.run(300)
    trade = place(bob, "sell", LOTS, 100)["trades"][0]["trade_id"]
    alice.tell(SentTrade(trade))
    world.run(100)
    bob.tell(ReceivedTrade(trade))
    world.run(500)
    return world, effects


def again(node: SimNode) -> Kernel:
    """A kernel restored from a node's journal."""
    settings = node.k.core.settings
    return Kernel(settings, node.signer, Currencies(), node.journal.snapshot())


def test_the_same_events_give_the_same_effects_and_states() -> None:
    """Twice the same world, byte for byte; another chance gives other ids."""
    (one, first), (two, second) = story(), story()
    assert first == second
    for name, node in one.nodes.items():
        assert node.k.state_hash() == two.nodes[name].k.state_hash()
    other, _ = story(seed=2)
    assert other.nodes["alice"].k.state_hash() != one.nodes["alice"].k.state_hash()


@pytest.mark.parametrize("name", ["alice", "bob"])
def test_a_restored_kernel_knows_all_orders_trades_and_counters(name: str) -> None:
    """What is on disk is what was in memory."""
    world, _ = story()
    node = world.nodes[name]
    fresh = again(node)
    assert plain(fresh.orders.rows) == plain(node.k.orders.rows)
    assert plain(fresh.trades.by_id) == plain(node.k.trades.by_id)
    assert fresh.trades.lines.keys() == node.k.trades.lines.keys()
    assert fresh.core.counters == node.k.core.counters


def test_a_started_kernel_puts_its_own_orders_into_its_book() -> None:
    """Before it has met anybody; they are in nobody's way twice."""
    world, _ = story()
    alice = world.nodes["alice"]
    fresh = again(alice)
    now = world.now()
    fresh.handle(happened.Started(), now)
    book = fresh.replicas.book("BTC/USD")
    assert book.state_hash() == alice.k.replicas.book("BTC/USD").state_hash()
    assert alice.k.peer_counts() == {"live": 1, "known": 1}


def test_revealing_effects_follow_the_commit_of_their_event() -> None:
    """`Persist` is the first effect of an event, and there is one at most."""
    world = World()
    (alice,) = world.meet("alice")
    handle, seen = alice.k.handle, []

    def watched(event: happened.Event, now: happened.Now) -> list[out.Effect]:
        effects = handle(event, now)
        seen.append([type(one) for one in effects])
        return effects

    alice.k.handle = watched  # type: ignore[method-assign]
    place(alice, "buy", LOTS, 100)
    world.run(1_000)
    with_writes = [kinds for kinds in seen if out.Persist in kinds]
    assert with_writes
    assert all(kinds.index(out.Persist) == 0 for kinds in with_writes)
    assert all(kinds.count(out.Persist) == 1 for kinds in with_writes)


def test_an_unheard_command_is_refused_in_one_sentence() -> None:
    """A newer command line meets an older node."""
    world = World()
    (alice,) = world.meet("alice")
    unheard: Any = Unheard()
    answer = alice.ask(unheard)
    assert (answer.ok, answer.result["reason"]) == (False, "unknown_kind")
    assert "older" in answer.result["message"]
    assert alice.ask(ListPeers()).ok
    assert alice.ask(CheckReach()).ok


@pytest.mark.parametrize(
    "event",
    [
        happened.InvoiceCreated(b"t" * 32, b"h" * 32, "lnbcrt1"),
        happened.InvoiceSeen(b"h" * 32, "settled"),
        happened.PaymentSeen(b"t" * 32, b"h" * 32, "succeeded", b"p" * 32),
        happened.LightningFailed(
            b"t" * 32, b"h" * 32, "pay", indeterminate=True, reason=RejectReason.HELD, why="x"
        ),
        happened.InvoiceSeen(b"h" * 32, "settled", asset="USD"),
    ],
)
def test_lightning_news_of_no_trade_of_ours_is_counted_only(event: happened.Event) -> None:
    """A wallet may be used by others as well."""
    world = World()
    (alice,) = world.meet("alice")
    before = alice.k.state_hash()
    effects = alice.k.handle(event, world.now())
    assert not [one for one in effects if isinstance(one, out.REVEALING | out.Persist)]
    assert alice.k.state_hash() == before
    assert alice.k.core.counted["lightning_event_without_trade"] == 1


def test_each_network_has_a_height_and_funds_of_its_own() -> None:
    """What is heard of a quote's network says nothing of the base's."""
    world = World()
    (alice,) = world.meet("alice")
    alice.handle(happened.HeightSeen(800))
    alice.handle(happened.HeightSeen(7, "USD"))
    assert alice.k.core.height == 800
    alice.handle(happened.FundsSeen(9_000))
    alice.handle(happened.FundsSeen(7, "USD"))
    assert alice.k.core.spendable_msat == 9_000


def test_a_stopping_node_says_goodbye() -> None:
    """Its peer knows at once, not after fifteen seconds."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    alice.handle(happened.Stopping())
    world.run(100)
    assert bob.k.peer_counts()["live"] == 0


def test_a_node_that_slept_hears_its_peers_anew() -> None:
    """A book of an hour ago is not traded on."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(alice, "buy", LOTS, 100)
    world.run(300)
    assert not bob.k.replicas.is_stale(alice.identity)
    world.drop = lambda *_: True
    bob.handle(happened.Woke(3_600_000))
    assert bob.k.replicas.is_stale(alice.identity)
    world.drop = lambda *_: False
    world.run(20_000)
    assert not bob.k.replicas.is_stale(alice.identity)


def test_a_kernel_without_a_past_starts() -> None:
    """An empty journal, and no timer before it has started."""
    world = World()
    node = SimNode(world, "alice", 1)
    kernel = Kernel(Settings(), node.signer, Currencies(), Snapshot())
    assert kernel.next_deadline_ms() is None
    effects = kernel.handle(happened.Started(), world.now())
    assert [one for one in effects if isinstance(one, out.PublishRecord)]
    assert kernel.next_deadline_ms() is not None
    assert msgspec.to_builtins(kernel.core.counters)


def test_the_height_of_the_chain_is_what_was_last_seen() -> None:
    """Every backend tells it; held payments are judged by it."""
    world = World()
    alice = world.add("alice")
    assert alice.k.core.height == 0
    world.mine(3)
    world.run(100)
    assert alice.k.core.height == world.height
