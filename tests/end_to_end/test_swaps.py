"""Swaps between real nodes: both legs over Lightning-like networks, a maker killed in between."""

from __future__ import annotations

from functools import partial
from itertools import count

from tests.end_to_end.nodes import BTC, Home, Node, wait_for

PLAY = ("--quote-lightning", "USD=play")
LOTS = BTC // 10
MOVED_MSAT = (LOTS * 1_000, 500_000 * 1_000)
ORDER = ("0.1BTC@50000USD", "--settlement", "swap", "--yes")


def owns(node: Node) -> tuple[int, int]:
    """What a node has of base and quote, with what is in flight, in msat of each network."""
    status = wait_for(f"{node.name} answers", node.status)
    both = (status["lightning"], status["quote_lightning"]["USD"])
    base, quote = (one["balance_msat"] + one["in_flight_msat"] for one in both)
    return int(base), int(quote)


def start(user: Home, **plans: str) -> tuple[Node, Node]:
    """Alice and bob with two play networks."""
    alice = user.node("alice").start(*PLAY, "--no-restart", **plans)
    bob = user.node("bob").start(*PLAY)
    bob.wait_live(alice)
    alice.wait_live(bob)
    return alice, bob


def swap(alice: Node, bob: Node, side: str) -> str:
    """Alice's order is taken by bob's; the id of the trade."""
    known = set(bob.trades())
    alice.cli("order", side, *ORDER)
    order_id = alice.orders()[0]["order_id"]
    bob.wait_book(order_id, LOTS)
    bob.cli("order", "sell" if side == "buy" else "buy", *ORDER)
    (trade_id,) = set(bob.trades()) - known
    return trade_id


def gained(before: tuple[int, int], after: tuple[int, int]) -> tuple[int, int]:
    """What somebody has more than before, of base and quote."""
    return after[0] - before[0], after[1] - before[1]


def test_a_swap_moves_both_legs_by_itself_in_both_directions(user: Home) -> None:
    """Nobody says a word after the take; what the file of evidence says is checked."""
    alice, bob = start(user)
    trade_id = ""
    for side, sign in (("buy", 1), ("sell", -1)):
        before = owns(alice), owns(bob)
        trade_id = swap(alice, bob, side)
        for node in (alice, bob):
            node.wait_state(trade_id, "settled")
        base, quote = MOVED_MSAT
        assert gained(before[0], owns(alice)) == (sign * base, -sign * quote)
        assert gained(before[1], owns(bob)) == (-sign * base, sign * quote)
    shown = alice.cli("trade", "show", trade_id)
    assert "swap" in shown
    assert "How to pay" not in shown
    file = user.path / "evidence.json"
    file.write_text(alice.cli("trade", "evidence", trade_id))
    said = alice.cli("trade", "verify", str(file))
    assert "the maker gets for that payment only" in " ".join(said.split())
    assert "USD:" in alice.cli("status")
    assert alice.findings(0)["network USD"]["state"] == "ok"
    words = ("order", "buy", "0.1BTC@1USD", "--settlement", "swap", "--yes")
    refused = user.cli("--node", "alice", *words)
    assert refused.returncode == 1
    assert "a swap needs at least 1000 of the smallest units" in refused.stderr


def test_a_maker_killed_between_the_legs_has_both_in_the_end(user: Home) -> None:
    """It dies after its payment of leg 2 and before its journal knows of the preimage.

    At which commit that is, is found by trying; each earlier one costs nobody anything either.
    """
    plan = user.path / "plan"
    alice, bob = start(user, ZMQEX_CRASH_PLAN=str(plan))
    for number in count(5):
        before = owns(alice), owns(bob)
        plan.write_text(f"journal before {number} self")
        alice.cli("order", "buy", *ORDER)
        bob.wait_book(alice.orders()[0]["order_id"], LOTS)
        bob.cli("order", "sell", *ORDER, "--ioc")
        assert alice.process is not None
        alice.process.wait(20)
        paid = alice.rows("play-usd", "SELECT count(*) FROM payment WHERE state = 'succeeded'")
        between = paid != [(0,)] and ("paying",) in alice.rows("journal", "SELECT state FROM trade")
        alice.start(*PLAY, "--no-restart", ZMQEX_CRASH_PLAN=str(plan))
        for node in (alice, bob):
            wait_for(f"{node.name}'s trade ends", partial(has_ended, node), 60)
        moved = gained(before[0], owns(alice)), gained(before[1], owns(bob))
        base, quote = MOVED_MSAT
        if between:
            assert moved == ((base, -quote), (-base, quote))
            return
        assert moved in {((0, 0), (0, 0)), ((base, -quote), (-base, quote))}
        alice.cli("order", "cancel", "--all", "--yes")


ENDS = {"settled", "cancelled", "refused"}


def has_ended(node: Node) -> bool:
    """Whether no trade of a node goes on."""
    return all(one["state"] in ENDS for one in node.trades().values())
