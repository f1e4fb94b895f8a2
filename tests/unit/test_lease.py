"""The lease of a shared hold server: who has it speaks for the identity, nobody else does."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stories import BTC, available, place, trade_of
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import CancelOrder, GetBook, PayTrade, PlaceOrder
from zmqex.kernel.own_record import RECORD_TOPIC
from zmqex.limits import LEASE_TTL_MS

PART = BTC // 10


def told(node: SimNode, answer: Any) -> None:  # noqa: ANN401
    """The hold server answers the question for the lease."""
    node.handle(happened.LeaseAnswered(answer, node.world.monotonic_ms))


def scene(**settings: Any) -> tuple[World, SimNode, SimNode]:  # noqa: ANN401
    """Alice shares a hold server, has its lease and rests 1 BTC; bob is connected to her."""
    world = World()
    alice = world.add("alice", leased=True, **settings)
    told(alice, "held")
    bob = world.add("bob")
    world.run(2_000)
    alice.tell(place("buy", BTC))
    world.run(300)
    return world, alice, bob


def take(bob: SimNode) -> str:
    """Bob sells a part to whoever bids: "taken", or the reason why not."""
    answer = bob.tell(place("sell", PART, time_in_force="ioc"))
    return "taken" if answer["trades"] else str(answer["skipped"][0]["reason"])


def published(world: World, node: SimNode) -> list[out.Publish]:
    """From now on, everything that the node publishes of its orders (its address it may)."""
    said: list[out.Publish] = []

    def spy(speaker: SimNode, effect: out.Effect) -> None:
        if speaker is node and isinstance(effect, out.Publish) and effect.topic != RECORD_TOPIC:
            said.append(effect)

    world.spy = spy
    return said


def test_the_owner_of_the_lease_trades() -> None:
    """Its own server needs no lease, and a shared one gives it to the first who asks."""
    world, alice, bob = scene()
    assert take(bob) == "taken"
    assert world.nodes["bob"].k.lease.standing == "not_needed"
    assert alice.k.lease.standing == "held"


def test_before_the_first_answer_nothing_is_published_or_placed() -> None:
    """Nobody knows yet whether another copy runs; what its hold server has is left alone."""
    world = World()
    alice = world.add("alice", start=False, leased=True)
    said = published(world, alice)
    alice.held[b"of another copy"] = (b"o" * 32, 1, 10**9)
    alice.start()
    world.run(10_000)
    assert said == []
    assert not alice.ask(place("buy", BTC)).ok
    assert b"of another copy" in alice.held
    told(alice, "held")
    assert said
    assert alice.held == {}
    assert alice.ask(place("buy", BTC)).ok


def test_a_lost_lease_stops_takes_orders_and_publishing() -> None:
    """Another copy has it: only running trades go on, and what it said waits."""
    world, alice, bob = scene()
    bob.tell(place("sell", PART, time_in_force="ioc", pay_mode="manual"))
    told(alice, "taken")
    told(alice, "taken")
    assert alice.k.core.counted["leases_lost"] == 1
    said = published(world, alice)
    assert take(bob) == "holds_unavailable"
    refused = alice.ask(place("buy", BTC))
    assert "another copy" in refused.result["message"]
    beat = alice.k.publisher.heartbeat()
    assert alice.tell(CancelOrder(""))["cancelled"]
    world.run(6_000)
    assert said == []
    assert alice.k.publisher.heartbeat() == beat  # whoever asks hears nothing new either
    (running,) = alice.journal.trades.values()
    assert running.fence
    told(alice, "held")
    assert said
    world.run(500)
    assert bob.tell(GetBook("BTC/USD", orders=True))["orders"] == []


def test_a_payment_under_way_is_finished_without_the_lease() -> None:
    """What is running was admitted while we led."""
    world, alice, bob = scene()
    trade_id = bob.tell(place("sell", PART, time_in_force="ioc", pay_mode="manual"))["trades"][0][
        "trade_id"
    ]
    told(alice, "taken")
    bob.tell(PayTrade(trade_id))
    world.run(2_000)
    assert trade_of(alice, trade_id).state == "base_done"


@pytest.mark.parametrize(("strict", "after"), [(True, "holds_unavailable"), (False, "taken")])
def test_silence_lets_the_lease_lapse_in_strict_mode_only(strict: bool, after: str) -> None:  # noqa: FBT001
    """Whoever lets the journal decide alone goes on; publishing goes on in both."""
    world, alice, bob = scene(holds_strict=strict)
    for _ in range(2 + LEASE_TTL_MS // 1_000):
        told(alice, "silent")
        world.run(1_000)
    said = published(world, alice)
    assert take(bob) == after
    world.run(6_000)
    assert said
    told(alice, "held")
    world.run(31_000)
    told(alice, "held")
    assert take(bob) == "taken"


def test_silence_does_not_give_back_what_another_copy_has() -> None:
    """Only the hold server's own word does."""
    _world, alice, bob = scene()
    told(alice, "taken")
    told(alice, "silent")
    assert alice.k.lease.standing == "taken"
    assert take(bob) == "holds_unavailable"


def test_silence_at_the_start_is_enough_for_a_node_that_trusts_its_journal() -> None:
    """A node whose shared server is down from the beginning still trades."""
    world = World()
    alice = world.add("alice", leased=True)
    strict = world.add("strict", leased=True, holds_strict=True)
    told(alice, "silent")
    told(strict, "silent")
    assert (alice.k.lease.standing, strict.k.lease.standing) == ("held", "unknown")


@pytest.mark.parametrize("how", ["paused", "slept"])
def test_a_process_that_was_paused_asks_before_it_goes_on(how: str) -> None:
    """A take that waited for the hold server meanwhile is refused: another copy may have led."""
    world, alice, bob = scene()
    request = bob.command(place("sell", PART, time_in_force="ioc"))
    world.run_until(lambda: bool(alice.k.admission._reserving))
    if how == "paused":
        world.monotonic_ms += LEASE_TTL_MS
    else:
        alice.handle(happened.Woke(60_000))
    world.run(3_000)
    assert bob.answers[request].result["trades"] == []
    assert not [one for one in alice.journal.trades.values() if one.quantity_lots]


def test_the_words_of_another_copy_are_heard_when_the_lease_comes_back() -> None:
    """While it leads it is right; afterwards our log is behind, and a new one begins."""
    world, alice, bob = scene()
    told(alice, "taken")
    epoch = alice.k.replicas.own_log("BTC/USD").fold.epoch
    alice.k.publisher._on_own_ahead("BTC/USD", epoch + 5)
    assert alice.k.replicas.own_log("BTC/USD").fold.epoch == epoch
    told(alice, "held")
    assert alice.k.replicas.own_log("BTC/USD").fold.epoch > epoch + 5
    world.run(1_000)
    assert available(bob) == []


@pytest.mark.parametrize("what", ["placed", "closed"])
def test_what_was_not_published_before_a_restart_is_published_after_it(what: str) -> None:
    """An order that was renewed or cancelled without the lease stands in the log in the end."""
    world, alice, bob = scene()
    told(alice, "taken")
    if what == "closed":
        alice.tell(CancelOrder(""))
    else:
        alice.k.core.begin(world.now())
        alice.k.desk.place(b"cli", 77, PlaceOrder("BTC/USD", "buy", BTC, 99))
        for effect in alice.k.core.finish():
            world.carry_out(alice, effect)
            if isinstance(effect, out.Persist):
                alice.journal.commit(effect.writes)
    alice.crash()
    alice.start()
    world.introduce(alice)
    told(alice, "held")
    world.run(5_000)
    assert available(bob) == ([BTC, BTC] if what == "placed" else [])


def test_a_forgetful_server_is_told_the_journals_holds() -> None:
    """Not by a node that does not lead."""
    _world, alice, bob = scene()
    bob.tell(place("sell", PART, time_in_force="ioc", pay_mode="manual"))
    (held,) = alice.held
    alice.held = {}
    told(alice, "taken")
    alice.handle(happened.HoldsForgotten())
    assert alice.held == {}
    told(alice, "held")
    assert set(alice.held) == {held}
    alice.held = {}
    alice.handle(happened.HoldsForgotten())
    assert set(alice.held) == {held}
    assert alice.k.core.counted["holds_forgotten"] == 1
