"""Whole trades whose bitcoin leg is a real Lightning payment between two LDK nodes."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.end_to_end.nodes import Home, Node, wait_for
from tests.ldk import LdkNodes

LOTS = 100_000
MSAT = 1_000
QUOTE_MSAT = 5_000 * MSAT  # 50.00 USD
# Around the commits of a swap from the maker's decision to pay leg 2 on.
CRASHES = tuple(f"journal before {number} self" for number in (6, 7))


@pytest.fixture
def ldk() -> Iterator[LdkNodes]:
    """Two Lightning nodes with a channel."""
    with tempfile.TemporaryDirectory() as folder:
        nodes = LdkNodes(Path(folder))
        yield nodes
        nodes.stop()


def start(
    user: Home, ldk: LdkNodes, name: str, number: int, *flags: str, **environment: str
) -> Node:
    """A zmqex node with one of the Lightning nodes."""
    return user.node(name).start(
        *("--network", "regtest", "--lightning", "lnd", "--lnd-url", ldk.urls[number]),
        *("--lnd-macaroon", str(ldk.macaroons[number]), "--lnd-cert", str(ldk.certificate)),
        # These two know each other: a stranger holds a part of an order only.
        *("--stranger-share", "100", *flags),
        **environment,
    )


def test_plain_trades_over_real_lightning_both_ways(user: Home, ldk: LdkNodes) -> None:
    """The maker buys, and is killed before it is paid; then the maker sells; nothing is play money.

    The balances of the Lightning nodes themselves say what has moved.
    """
    bob = start(user, ldk, "bob", 0)
    alice = start(user, ldk, "alice", 1)
    bob.wait_live(alice)
    alice.wait_live(bob)
    before = bob.balance_msat(), alice.balance_msat()
    assert "coins of regtest" in alice.printed()
    assert "play" not in alice.cli("status").lower()

    alice.cli("order", "buy", "0.001BTC@50000USD")
    order_id = alice.orders()[0]["order_id"]
    bob.wait_book(order_id, LOTS)
    bob.cli("order", "sell", "0.001BTC@50000USD", "--pay", "manual")
    trade_id = next(iter(bob.trades()))
    assert bob.trades()[trade_id]["invoice"].startswith("lnbcrt1m1")
    alice.kill()
    alice.wait_ready()
    bob.wait_live(alice)
    bob.cli("trade", "pay", trade_id)
    alice.wait_state(trade_id, "base_done")
    alice.cli("trade", "sent", trade_id, "--yes")
    bob.wait_state(trade_id, "quote_sent")
    bob.cli("trade", "received", trade_id, "--yes")
    for node in (alice, bob):
        node.wait_state(trade_id, "settled")
        assert "coins of regtest" in node.cli("trade", "show", trade_id)

    bob.cli("order", "sell", "0.002BTC@50000USD")
    order_id = bob.orders()[0]["order_id"]
    alice.wait_book(order_id, 2 * LOTS)
    alice.cli("order", "take", order_id, "0.002BTC")
    (second,) = set(alice.trades()) - {trade_id}
    alice.cli("trade", "sent", second, "--yes")
    bob.wait_state(second, "quote_sent")
    bob.cli("trade", "received", second, "--yes")
    for node in (alice, bob):
        node.wait_state(second, "settled")
    assert bob.balance_msat() == before[0] - 3 * LOTS * MSAT
    # A channel keeps a reserve of what its owner has: the payee may see a little less.
    assert before[1] < alice.balance_msat() <= before[1] + 3 * LOTS * MSAT

    alice.cli("order", "buy", "0.001BTC@50000USD")
    (order,) = alice.orders()
    bob.wait_book(order["order_id"], LOTS)
    ldk.stop()
    answer = user.cli("--node", "bob", "order", "sell", "0.001BTC@50000USD", "--ioc")
    assert "lightning" in (answer.stdout + answer.stderr).lower()
    (third,) = set(bob.trades()) - {trade_id, second}
    assert bob.trades()[third]["state"] == "refused"
    status = wait_for("status answers", alice.status)
    assert any("does not answer" in one for one in status["warnings"])
    assert "does not answer" in alice.cli("status")
    found = alice.findings(1)["lightning"]
    assert (found["state"], found["text"][:18]) == ("wrong", "it does not answer")
    assert "start the Lightning node" in found["fix"]


def test_a_swap_moves_real_held_payments_on_two_networks(user: Home, ldk: LdkNodes) -> None:
    """Leg 1 is held by one pair of Lightning nodes until leg 2 is paid over another pair.

    Then the maker is killed after its payment of leg 2, and before its journal knows of that.
    """
    plan = user.path / "plan"
    order = ("0.001BTC@50000USD", "--settlement", "swap", "--yes")
    with tempfile.TemporaryDirectory() as folder:
        other = LdkNodes(Path(folder))
        try:
            bob = start(user, ldk, "bob", 0, *_quote(other, 1))
            again = partial(
                start,
                *(user, ldk, "alice", 1, *_quote(other, 0), "--no-restart"),
                ZMQEX_CRASH_PLAN=str(plan),
            )
            alice = again()
            bob.wait_live(alice)
            alice.wait_live(bob)
            before = [_both_msat(node) for node in (alice, bob)]
            killed_in: set[tuple[str, ...]] = set()
            for number, crash in enumerate(("", *CRASHES), 1):
                if crash:
                    plan.write_text(crash)
                known = set(bob.trades())
                alice.cli("order", "buy", *order)
                bob.wait_book(alice.orders()[0]["order_id"], LOTS)
                bob.cli("order", "sell", *order)
                (trade_id,) = set(bob.trades()) - known
                if crash:
                    assert alice.process is not None
                    alice.process.wait(20)
                    killed_in |= set(alice.rows("journal", "SELECT state FROM trade"))
                    again()
                    bob.wait_live(alice)
                for node in (alice, bob):
                    node.wait_state(trade_id, "settled", 30)
                assert [_both_msat(node) for node in (alice, bob)] == [
                    (before[0][0] + number * LOTS * MSAT, before[0][1] - number * QUOTE_MSAT),
                    (before[1][0] - number * LOTS * MSAT, before[1][1] + number * QUOTE_MSAT),
                ]
            assert ("paying",) in killed_in
        finally:
            other.stop()


def _quote(ldk: LdkNodes, number: int) -> tuple[str, str]:
    words = ("USD=lnd", ldk.urls[number], str(ldk.macaroons[number]), str(ldk.certificate))
    return "--quote-lightning", " ".join(words)


def _both_msat(node: Node) -> tuple[int, int]:
    status = wait_for(f"{node.name} answers", node.status)
    both = (status["lightning"], status["quote_lightning"]["USD"])
    base, quote = (one["balance_msat"] + one["in_flight_msat"] for one in both)
    return int(base), int(quote)


def test_a_real_lock_survives_the_makers_death_and_settles_or_goes_back(
    user: Home, ldk: LdkNodes
) -> None:
    """Settlement htlc: paid and held, the node killed while it is held, released, taken."""
    alice, bob, before = by_lock(user, ldk)
    settled = held(alice, bob)
    alice.kill()
    alice.wait_ready()
    alice.wait_state(settled, "htlc_accepted")
    bob.wait_live(alice)
    alice.cli("trade", "send", settled, "--yes")
    alice.cli("trade", "sent", settled, "--yes")
    bob.wait_state(settled, "quote_sent")
    bob.cli("trade", "release", settled, "--yes")
    alice.wait_state(settled, "settled")

    cancelled = held(alice, bob)
    alice.cli("trade", "cancel", cancelled)
    alice.wait_state(cancelled, "cancelled")
    # The payer looks now and then.
    bob.wait_state(settled, "settled", 32)
    bob.wait_state(cancelled, "cancelled", 32)
    assert bob.balance_msat() == before - LOTS * MSAT


def test_a_real_lock_that_ends_gives_the_bitcoin_back(user: Home, ldk: LdkNodes) -> None:
    """Settlement htlc: before anything was sent that is all, after it there is a dispute."""
    alice, bob, before = by_lock(user, ldk)
    expired = held(alice, bob)
    give_back(ldk, alice.trades()[expired]["payment_hash"])
    alice.wait_state(expired, "cancelled")

    lost = held(alice, bob)
    alice.cli("trade", "send", lost, "--yes")
    alice.cli("trade", "sent", lost, "--yes")
    bob.wait_state(lost, "quote_sent")
    give_back(ldk, alice.trades()[lost]["payment_hash"])
    alice.wait_state(lost, "disputed")
    # The payer looks now and then.
    bob.wait_state(lost, "disputed", 40)
    bob.wait_state(expired, "cancelled", 40)
    assert bob.balance_msat() == before


def by_lock(user: Home, ldk: LdkNodes) -> tuple[Node, Node, int]:
    """Alice's bid by lock, bob who takes it, and what he has."""
    bob = start(user, ldk, "bob", 0)
    alice = start(user, ldk, "alice", 1)
    bob.wait_live(alice)
    alice.wait_live(bob)
    alice.cli("order", "buy", "0.004BTC@50000USD", "--settlement", "htlc", "--yes")
    return alice, bob, bob.balance_msat()


def held(alice: Node, bob: Node) -> str:
    """Bob takes a part and pays; the trade's id once alice has seen it locked."""
    known = set(bob.trades())
    order_id = alice.orders()[0]["order_id"]
    wait_for("the order can be taken", lambda: bob.takeable_lots(order_id))
    bob.cli("order", "take", order_id, "0.001BTC", "--settlement", "htlc", "--yes")
    (trade_id,) = set(bob.trades()) - known
    alice.wait_state(trade_id, "htlc_accepted")
    return trade_id


def give_back(ldk: LdkNodes, payment_hash: str) -> None:
    """Blocks come until what the payee holds goes back by itself."""

    async def left() -> int:
        payee = ldk.client(1)
        held = await payee.invoice(bytes.fromhex(payment_hash))
        info = await payee.info()
        await payee.close()
        assert held.htlc_expiry_height is not None
        return held.htlc_expiry_height - info.auto_cancel_blocks - info.height

    ldk.mine(asyncio.run(left()))
