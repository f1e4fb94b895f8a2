"""Two real nodes trade by lock over play money: to the good end, and given back."""

from __future__ import annotations

from pathlib import Path

from tests.end_to_end.nodes import BTC, Home, Node, wait_for
from zmqex.kernel.commands import CancelTrade, GetStatus

MSAT = 1_000


def take_by_lock(alice: Node, bob: Node) -> str:
    """Alice bids by lock, Bob sells her a part; the trade's id once it is locked."""
    if not alice.orders():
        alice.cli("order", "buy", "1BTC@1USD", "--settlement", "htlc")
    order_id = alice.orders()[0]["order_id"]
    bob.wait_book(order_id, BTC)
    before = bob.trades()
    bob.cli("order", "take", order_id[:12], "0.4BTC", "--settlement", "htlc")
    (trade_id,) = set(bob.trades()) - set(before)
    alice.wait_state(trade_id, "htlc_accepted")
    return trade_id


def in_flight_msat(node: Node) -> int:
    """What a node's payments have under way."""
    return int(node.call(GetStatus())["lightning"]["in_flight_msat"])


def asked(user: Home, node: str, word: str, trade_id: str) -> str:
    """What a command says beforehand; without a terminal it wants --yes."""
    done = user.cli("--node", node, "trade", word, trade_id[:12])
    assert done.returncode == 2
    return done.stderr


def test_a_trade_by_lock_is_given_back_and_another_one_settles(user: Home, tmp_path: Path) -> None:
    """What nobody paid for goes back; what was paid for is released, and the words are kept."""
    alice, bob = user.start("alice", "bob")
    given_back = take_by_lock(alice, bob)
    assert in_flight_msat(bob) == 4 * BTC // 10 * MSAT
    alice.call(CancelTrade(given_back))
    alice.wait_state(given_back, "cancelled")
    bob.wait_state(given_back, "cancelled")
    wait_for("the lock is back", lambda: in_flight_msat(bob) == 0)
    assert bob.balance_msat() == 10 * BTC * MSAT

    trade_id = take_by_lock(alice, bob)
    alice.cli("trade", "send", trade_id[:12], "--yes")
    alice.cli("trade", "sent", trade_id[:12], "--yes", "--reference", "rent")
    bob.wait_state(trade_id, "quote_sent")
    assert "give 0.4 BTC away for good" in asked(user, "bob", "release", trade_id)
    bob.cli("trade", "release", trade_id[:12], "--yes")

    for node in (alice, bob):
        node.wait_state(trade_id, "settled")
    assert alice.balance_msat() == 104 * BTC // 10 * MSAT
    assert bob.balance_msat() == 96 * BTC // 10 * MSAT
    file = tmp_path / "alice.evidence"
    file.write_text(alice.cli("trade", "evidence", trade_id[:12]))
    assert "gives the preimage away" in alice.cli("trade", "verify", str(file))
