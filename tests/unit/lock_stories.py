"""Words and short stories about trades by `htlc` that the tests of both sides share."""

from __future__ import annotations

from typing import Any

from tests.stories import BTC, place, state_of, trade_of
from tests.unit.test_hostile import says
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel.commands import SendTrade, SentTrade
from zmqex.kernel.effects import Persist
from zmqex.limits import HTLC_CONFIRM_MS, PLAY_AUTO_CANCEL_BLOCKS
from zmqex.protocol.messages import TradeReleased
from zmqex.trading.blocks import blocks_in
from zmqex.trading.states import State

LOTS = 4 * BTC // 10
NEEDED = blocks_in(HTLC_CONFIRM_MS) + PLAY_AUTO_CANCEL_BLOCKS + 6


def taken_by_lock(world: World, alice: SimNode, bob: SimNode, **more: Any) -> str:  # noqa: ANN401
    """Alice bids 1 BTC by `htlc`, Bob sells her 0.4 of it; the trade's id."""
    alice.tell(place("buy", BTC, settlements=("htlc",)))
    world.run(300)
    order = place("sell", LOTS, settlements=("htlc",), time_in_force="ioc", **more)
    (trade,) = bob.tell(order)["trades"]
    world.run(200)
    return str(trade["trade_id"])


def scene() -> tuple[World, SimNode, SimNode]:
    """Alice and Bob are connected, and have heard the height of the chain."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    world.mine(0)
    world.run(100)
    return world, alice, bob


def locked() -> tuple[World, SimNode, SimNode, str]:
    """Bob has locked 0.4 BTC for Alice; nothing else has happened."""
    world, alice, bob = scene()
    trade = taken_by_lock(world, alice, bob)
    assert states(alice, bob, trade) == ("htlc_accepted", "paying")
    return world, alice, bob, trade


def sent() -> tuple[World, SimNode, SimNode, str]:
    """Alice has sent the quote, and said so."""
    world, alice, bob, trade = locked()
    alice.tell(SendTrade(trade))
    alice.tell(SentTrade(trade, "wire 7"))
    world.run(200)
    assert states(alice, bob, trade) == ("quote_sent", "quote_sent")
    return world, alice, bob, trade


def states(alice: SimNode, bob: SimNode, trade: str) -> tuple[str, str]:
    """How the trade stands with the maker and with the taker."""
    return state_of(alice, trade).value, state_of(bob, trade).value


def left(world: World, alice: SimNode, trade: str) -> int:
    """How many blocks the lock still has."""
    return trade_of(alice, trade).htlc_expiry_height - world.height


def shorten(world: World, alice: SimNode, trade: str, to: int) -> None:
    """Blocks come until the lock has only so many left; nobody has time to act meanwhile."""
    world.mine(left(world, alice, trade) - to)


def is_disputed(node: SimNode, trade: str) -> bool:
    """Whether a node's operator has to decide."""
    return state_of(node, trade) is State.DISPUTED


def release(world: World, bob: SimNode, alice: SimNode, trade: str, preimage: bytes = b"") -> None:
    """Bob's changed program gives the preimage away, whatever his node thinks of it."""
    row = trade_of(bob, trade)
    said = TradeReleased(row.trade_id, row.last_digest, world.wall_ms, preimage or row.preimage)
    for effect in says(bob, alice, "trade", said):
        if isinstance(effect, Persist):
            alice.journal.commit(effect.writes)
        else:
            world.carry_out(alice, effect)
    world.arm(alice)
    world.run(1_000)


# --- a maker that sells ---------------------------------------------------------------------------


def offered(world: World, alice: SimNode) -> None:
    """Alice offers 1 BTC by lock."""
    alice.tell(place("sell", BTC, settlements=("htlc",)))
    world.run(300)


def bought(world: World, bob: SimNode) -> str:
    """Bob buys 0.4 of it; the trade's id."""
    (trade,) = bob.tell(place("buy", LOTS, settlements=("htlc",)))["trades"]
    world.run(300)
    return str(trade["trade_id"])


def sold() -> tuple[World, SimNode, SimNode, str]:
    """Alice has locked 0.4 BTC for Bob."""
    world, alice, bob = scene()
    offered(world, alice)
    trade = bought(world, bob)
    assert states(alice, bob, trade) == ("paying", "htlc_accepted")
    return world, alice, bob, trade


def sold_and_sent() -> tuple[World, SimNode, SimNode, str]:
    """Bob has sent the quote, and said so."""
    world, alice, bob, trade = sold()
    bob.tell(SendTrade(trade))
    bob.tell(SentTrade(trade, "wire 7"))
    world.run(4_000)
    assert states(alice, bob, trade) == ("quote_sent", "quote_sent")
    return world, alice, bob, trade


def unpaid(world: World, alice: SimNode, bob: SimNode) -> str:
    """Bob has made his invoice, and Alice hears nothing of it."""
    offered(world, alice)
    request = bob.command(place("buy", LOTS, settlements=("htlc",)))
    world.drop = lambda node, _target, effect: (
        node is bob and isinstance(effect, out.SendRequest) and b"trade_invoice" in effect.frame
    )
    world.run(500)
    (trade,) = bob.answers[request].result["trades"]
    assert states(alice, bob, trade["trade_id"]) == ("reserved", "invoiced")
    return str(trade["trade_id"])
