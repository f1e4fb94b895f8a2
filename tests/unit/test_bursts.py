"""Orders that are placed in a burst leave together; a lone one leaves at once."""

from __future__ import annotations

from tests.unit.floor import LOTS, MARKET, book, order, place
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel.commands import CancelOrder
from zmqex.limits import PUBLISH_EVERY_MS
from zmqex.protocol.codec import decode, decode_envelope
from zmqex.protocol.log import topic
from zmqex.protocol.messages import Batch


def listened(world: World, node: SimNode) -> list[tuple[int, Batch]]:
    """From now on, the batches that a node publishes, each with its time."""
    seen: list[tuple[int, Batch]] = []

    def spy(who: SimNode, effect: out.Effect) -> None:
        if who is node and isinstance(effect, out.Publish) and effect.topic == topic(MARKET):
            batch = decode(decode_envelope(effect.envelope).body, Batch)
            seen.append((world.monotonic_ms, batch))

    world.spy = spy
    return seen


def test_a_burst_leaves_in_two_batches_and_a_lone_order_at_once() -> None:
    """The first does not wait for what nobody knows will come; the rest waits a little."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    seen, began_ms = listened(world, alice), world.monotonic_ms
    for number in range(50):
        alice.command(order("buy", LOTS, 100 + number % 5))
    world.run(500)
    assert [(at_ms - began_ms, len(one.operations)) for at_ms, one in seen] == [
        (0, 1),
        (PUBLISH_EVERY_MS, 49),
    ]
    assert sum(lots for _, lots in book(bob)["bids"]) == 50 * LOTS
    place(alice, "buy", LOTS, 90)
    assert seen[-1][0] == world.monotonic_ms
    for _ in range(150):
        alice.command(order("buy", LOTS, 80))
    assert [len(one.operations) for _, one in seen[3:]] == [128]


def test_what_happens_to_an_order_takes_it_along() -> None:
    """A cancel waits for nothing: place and close leave together."""
    world = World()
    (alice,) = world.meet("alice")
    seen = listened(world, alice)
    place(alice, "buy", LOTS, 100)
    second = place(alice, "buy", LOTS, 101)["order"]["order_id"]
    assert len(seen) == 1
    alice.tell(CancelOrder(second))
    assert [len(one.operations) for _, one in seen] == [1, 2]


def test_an_own_order_that_waits_to_be_published_is_not_traded_with() -> None:
    """It is in no book yet, and still no second order may lie across it."""
    world = World()
    (alice,) = world.meet("alice")
    for ask, bid in ((200, 150), (160, 160)):
        place(alice, "sell", LOTS, 1_000)
        place(alice, "sell", LOTS, ask)
        answer = alice.ask(order("buy", LOTS, bid, any_price=True))
        assert answer.ok is (bid < ask)
    place(alice, "buy", LOTS, 50)
    place(alice, "buy", LOTS, 90)
    assert alice.ask(order("sell", LOTS, 90)).result["reason"] == "self_trade"


def test_a_crash_before_a_burst_was_published_loses_no_order() -> None:
    """The orders are on disk, so the restarted node publishes them."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    for _ in range(3):
        place(alice, "buy", LOTS, 100)
    alice.crash()
    alice.start()
    world.introduce(alice)
    world.run(5_000)
    assert book(bob)["bids"] == [(100, 3 * LOTS)]
