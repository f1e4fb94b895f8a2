"""No crash, no delay and no lie costs an honest party of a swap anything.

A party loses only if its own node is away until the lock of what it is to receive has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from tests.stories import HOLD, revive
from tests.swaps import Scene, grasping
from zmqex.kernel import effects as out
from zmqex.limits import (
    LOCK_MARGIN_BLOCKS,
    MIN_FINAL_CLTV_BLOCKS_MAX,
    PLAY_AUTO_CANCEL_BLOCKS,
)
from zmqex.protocol.messages import TradeCancelled

SIDES: Final = ("buy", "sell")


def crashed(side: str, name: str, when: str, number: int) -> Scene:
    """The whole story, with one crash at one commit."""
    scene = Scene(side)
    node = scene.world.nodes[name]
    node.crash_at = (when, node.journal.commits + number)
    scene.take()
    scene.world.run(3_000)
    revive(scene.world)
    scene.world.run(3_000)
    return scene


@pytest.mark.parametrize("name", ["alice", "bob"])
@pytest.mark.parametrize("side", SIDES)
def test_a_crash_at_any_commit_costs_nobody_anything(side: str, name: str) -> None:
    """Also between the legs, while the Lightning nodes go on: the preimage is learnt from leg 2."""
    swapped = 0
    number = 0
    while True:
        number += 1
        scenes = [crashed(side, name, when, number) for when in ("before", "after")]
        for scene in scenes:
            scene.finish()
            scene.check_kept()
            swapped += scene.check_fair(scene.alice) and scene.check_fair(scene.bob)
            states = {one.state.value for one in scene.alice.journal.trades.values()}
            assert states <= {"settled", "cancelled"}, states
        if all(scene.world.nodes[name].starts == 1 for scene in scenes):
            break
    assert swapped > number


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("waited", [0, 1, 40, 100])
def test_whoever_holds_leg_2_until_its_last_block_gains_nothing(side: str, waited: int) -> None:
    """However late it was paid: leg 1 is locked for longer by what the maker needs to take it."""
    scene = Scene(side)
    ledger = grasping(scene)
    scene.world.drop = lambda node, _target, effect: (
        node is scene.bob
        and not isinstance(effect, out.SendReply)
        and bool(scene.bob.journal.trades)
        and scene.bob.journal.outbox != {}
    )
    scene.take()
    scene.world.run(2_000)
    assert scene.states()[0] == "htlc_accepted"
    scene.world.mined += waited
    scene.world.drop = lambda *_: False
    scene.world.run(40_000)
    if not ledger.limit:
        scene.finish()
        assert scene.states()[0] == "cancelled"
        assert not scene.check_fair(scene.alice)
        return
    assert scene.states() == ("paying", "paying")
    (invoice,) = ledger.invoices.values()
    scene.world.mined += invoice["expiry_height"] - PLAY_AUTO_CANCEL_BLOCKS - 1 - ledger.height
    assert ledger.grasp()
    # The last word of the taker's node comes as late as the chain allows.
    scene.world.mined += LOCK_MARGIN_BLOCKS
    scene.world.run(60_000)
    assert scene.states() == ("settled", "settled")
    assert scene.check_fair(scene.alice)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("lie", ["vanishes", "says that it is over", "pays less"])
def test_a_maker_that_does_not_pay_leg_2_gets_nothing(side: str, lie: str) -> None:
    """What the taker has locked comes back, at the latest when its lock ends."""
    scene = Scene(side)
    ours = scene.ledger(scene.alice, scene.leg2)
    ours.fail_pay = "indeterminate"  # whatever alice's node wants, nothing is paid
    scene.take()
    scene.world.run(2_000)
    assert scene.states() == ("paying", "paying")
    trade = scene.alice.k.trades.by_id[scene.trade(scene.alice).trade_id]
    if lie == "says that it is over":
        scene.alice.k.trades.say(trade, TradeCancelled, reason="cancelled")
        scene.world.run(10_000)
        assert scene.states()[1] == "paying"
    elif lie == "pays less":
        invoice = scene.ledger(scene.bob, scene.leg2)
        assert invoice.receive(trade.payment_hash, 1, ours.node) == ("failed", None)
        scene.world.run(10_000)
        assert scene.states()[1] == "paying"
    scene.alice.crash()
    scene.world.mined += MIN_FINAL_CLTV_BLOCKS_MAX
    scene.world.run(HOLD + 120_000)
    assert scene.states()[1] == "cancelled"
    scene.check_kept()
    assert scene.moved(scene.bob) == (0, 0)


STEPS: Final = (
    "crash alice",
    "crash bob",
    "pause alice",
    "resume alice",
    "start",
    "wait",
    "block",
    "deaf",
    "healed",
    "cut",
    "grasp",
    "take",
)


class Run:
    """One schedule of faults, of which the taker's backend may be a part."""

    def __init__(self, side: str, *, lies: bool) -> None:
        """Alice's order rests."""
        self.scene = Scene(side)
        self.ledger = grasping(self.scene) if lies else None
        self.lies = lies
        self.away = 0  # blocks that passed while alice could not act
        self.paid_leg2 = False
        spy = self.scene.world.spy

        def watch(node: object, effect: out.Effect) -> None:
            spy(node, effect)  # type: ignore[arg-type]
            if node is self.scene.alice:
                self._alice(effect)

        self.scene.world.spy = watch

    def _alice(self, effect: out.Effect) -> None:
        scene = self.scene
        if isinstance(effect, out.CancelInvoice) and effect.asset == scene.leg1:
            payment = scene.ledger(scene.alice, scene.leg2).payments.get(effect.payment_hash)
            state = None if payment is None else payment["state"]
            assert state in {None, "failed"}, "leg 1 is cancelled, and leg 2 may yet be paid"

    def step(self, word: str) -> None:
        """Do one thing, if it can be done."""
        alice = self.scene.alice
        steps: dict[str, Callable[[], object]] = {
            "crash alice": alice.crash,
            "crash bob": self.scene.bob.crash,
            "pause alice": alice.pause,
            "resume alice": alice.resume,
            "start": lambda: revive(self.scene.world),
            "wait": lambda: self.scene.world.run(2_500),
            "block": self._block,
            "deaf": lambda: self._hear(deaf=True),
            "healed": lambda: self._hear(deaf=False),
            "cut": self._cut,
            "grasp": lambda: self.ledger is not None and self.ledger.grasp(),
            "take": self._take,
        }
        possible = {"pause alice": alice.up and alice.paused is None}
        if possible.get(word, True):
            steps[word]()

    def _take(self) -> None:
        scene = self.scene
        ready = scene.alice.up and scene.alice.paused is None and scene.bob.up
        if ready and not scene.bob.journal.trades:
            scene.take()

    def _hear(self, *, deaf: bool) -> None:
        ours = self.scene.ledger(self.scene.alice, self.scene.leg2)
        ours.fail_look = ours.unreachable = deaf
        if not deaf:
            self.scene.world.drop = lambda *_: False

    def _cut(self) -> None:
        self.scene.world.drop = lambda *_: True

    def _block(self) -> None:
        """Blocks pass; a maker that cannot act has no more than the margin for that."""
        alice = self.scene.alice
        acts = alice.up and alice.paused is None
        if not acts or self.scene.ledger(alice, self.scene.leg2).fail_look:
            if self.away >= LOCK_MARGIN_BLOCKS - 2:
                return
            self.away += 1
        self.scene.world.mined += 1
        self.scene.world.run(1_000)

    def end(self, left: int) -> list[str]:
        """Everything heals; a liar takes leg 2 so many blocks before its lock ends.

        Who has lost something is named.
        """
        scene, world = self.scene, self.scene.world
        if scene.alice.paused is not None:
            scene.alice.resume()
        for word in ("healed", "start"):
            self.step(word)
        world.run(40_000)
        for _ in range(40):
            if scene.has_ended():
                break
            world.mined += min(self._next(left), 12)
            world.run(200)
            if self.ledger is not None and self._next(left) == 0:
                self.ledger.grasp()
            world.run(31_000)
            revive(world)
        scene.check_kept()
        honest = [scene.alice] if self.lies else [scene.alice, scene.bob]
        return [one.name for one in honest if scene.has_lost(one)]

    def _next(self, left: int) -> int:
        """How many blocks until the liar takes; many where there is nothing to take."""
        ledger = self.ledger
        locks = (
            [] if ledger is None else [one.get("expiry_height") for one in ledger.invoices.values()]
        )
        if ledger is None or not locks or locks[0] is None:
            return 12
        blocks = int(locks[0]) - PLAY_AUTO_CANCEL_BLOCKS - ledger.height - left
        return blocks if blocks >= 0 else 12


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    side=some.sampled_from(SIDES),
    lies=some.booleans(),
    steps=some.lists(some.sampled_from(STEPS), max_size=20),
    left=some.integers(1, 130),
)
def test_nobody_honest_loses(side: str, lies: bool, steps: list[str], left: int) -> None:  # noqa: FBT001
    """Whatever happens in between, and whoever holds leg 2 until its lock has nearly ended."""
    run = Run(side, lies=lies)
    run.step("take")
    for word in steps:
        run.step(word)
    assert run.end(left) == []
