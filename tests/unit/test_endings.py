"""Orders that were placed for a client's time are closed when that client has gone."""

from __future__ import annotations

import pytest

from tests.unit.floor import LOTS, book, order, place, refused
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel.commands import CancelOrder, PlaceOrder, ReplaceOrder, ShowOrder
from zmqex.kernel.events import ClientGone
from zmqex.market.orders import OrderFlags

CLIENT = b"cli"  # as `SimNode.command` names it


def why(node: SimNode, order_id: str) -> str:
    """Why an order is closed; "" where it is not."""
    return str(node.tell(ShowOrder(order_id))["order"]["close_reason"])


def attended(node: SimNode, price: int = 100, **terms: bool) -> str:
    """A resting order that ends with its client; its id."""
    placed = place(node, "buy", LOTS, price, cancel_on_disconnect=True, **terms)["order"]
    assert placed["cancel_on_disconnect"]
    return str(placed["order_id"])


def test_what_a_client_placed_for_its_own_time_goes_with_it_and_nothing_else() -> None:
    """Peers see it go; what it placed for good stays, and so does what others attend."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    mine, cancelled = attended(alice), attended(alice)
    alice.tell(CancelOrder(cancelled))
    place(alice, "buy", LOTS, 99)
    world.run(1_000)
    assert book(bob)["bids"] == [(100, LOTS), (99, LOTS)]
    found = bob.k.replicas.row(bytes.fromhex(mine))
    assert found is not None
    assert found.order.flags == OrderFlags.CANCEL_ON_DISCONNECT
    alice.handle(ClientGone(b"another"))
    assert why(alice, mine) == ""
    for _ in range(2):
        alice.handle(ClientGone(CLIENT))
    assert [why(alice, one) for one in (mine, cancelled)] == ["client_gone", "cancelled"]
    world.run(1_000)
    assert book(bob)["bids"] == book(alice)["bids"] == [(99, LOTS)]


def test_a_replacement_ends_with_the_client_of_the_first_one() -> None:
    """Whoever moves its price does not take it over; the replaced one is closed only once."""
    world = World()
    (alice,) = world.meet("alice")
    old = attended(alice)
    new = alice.tell(ReplaceOrder(old, "BTC/USD", LOTS, 99))["order"]
    assert new["cancel_on_disconnect"]
    alice.k.desk.clients[bytes.fromhex(new["order_id"])] = b"first"
    newest = alice.tell(ReplaceOrder(new["order_id"], "BTC/USD", LOTS, 98))["order"]["order_id"]
    alice.handle(ClientGone(CLIENT))
    assert why(alice, newest) == ""
    alice.handle(ClientGone(b"first"))
    assert [why(alice, one) for one in (old, new["order_id"], newest)] == [
        "replaced",
        "replaced",
        "client_gone",
    ]


def test_a_client_that_goes_while_its_order_is_matched_takes_nothing_more() -> None:
    """What makers may be about to hold is given up, and nothing rests."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(bob, "sell", LOTS, 100)
    world.run(1_000)
    world.drop = lambda _from, _to, effect: isinstance(effect, out.SendReply)
    alice.command(order("buy", 2 * LOTS, 100, cancel_on_disconnect=True))
    world.run(10)
    (row,) = alice.k.orders.rows.values()
    assert row.state == "working"
    alice.handle(ClientGone(CLIENT))
    world.drop = lambda *_: False
    world.run(3_000)
    (row,) = alice.k.orders.rows.values()
    assert (row.state, row.close_reason) == ("closed", "client_gone")
    assert book(bob) == {"bids": [], "asks": [(100, LOTS)]}


def test_no_client_outlives_a_restart_of_its_node() -> None:
    """Resting or still being matched: closed as soon as the node is there again."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    gone = attended(alice)
    stays = place(alice, "buy", LOTS, 99)["order"]["order_id"]
    place(bob, "sell", LOTS, 101)
    world.run(1_000)
    world.drop = lambda _from, _to, effect: isinstance(effect, out.SendReply)
    alice.command(order("buy", 2 * LOTS, 101, cancel_on_disconnect=True))
    world.run(10)
    working = next(one for one, row in alice.k.orders.rows.items() if row.state == "working")
    alice.crash()
    alice.start()
    assert [why(alice, one) for one in (gone, stays)] == ["client_gone", ""]
    world.drop = lambda *_: False
    world.introduce(alice)
    world.run(3_000)
    assert why(alice, working.hex()) == "client_gone"
    assert book(bob)["bids"] == [(99, LOTS)]


@pytest.mark.parametrize(("left", "renewed"), [(LOTS // 2, 1), (LOTS // 4, 0)])
def test_what_is_left_of_an_order_is_renewed_unless_it_is_dust(left: int, renewed: int) -> None:
    """A cent is worth an order; less than that nobody would show."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(alice, "buy", LOTS, 100, expires_in_ms=60_000, renew=True)
    world.run(1_000)
    place(bob, "sell", LOTS - left, 100)
    world.run(60_000)
    assert [row.state for row in alice.k.orders.rows.values()] == ["closed", "open"][: 1 + renewed]
    assert book(bob)["bids"] == [(100, left)] * renewed


@pytest.mark.parametrize("tif", ["gtc", "ioc"])
def test_what_renews_itself_needs_nobody(tif: str) -> None:
    """So it cannot end with a client."""
    (alice,) = World().meet("alice")
    command = PlaceOrder(
        "BTC/USD", "buy", LOTS, 100, renew=True, cancel_on_disconnect=True, time_in_force=tif
    )
    assert refused(alice, command) == "contradictory_flags"
