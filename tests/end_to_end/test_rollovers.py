"""Two real nodes: a lock that ends while its buyer is away is rolled over, and paid once."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.end_to_end.nodes import BTC, Home, Node
from tests.end_to_end.test_locks import asked

MSAT = 1_000


def locked(alice: Node, bob: Node, maker: str) -> tuple[Node, Node, str]:
    """Alice bids or asks by lock and Bob takes a part; buyer, seller and the trade's id."""
    taker = "sell" if maker == "buy" else "buy"
    alice.cli("order", maker, "1BTC@1USD", "--settlement", "htlc")
    order_id = alice.orders()[0]["order_id"]
    bob.wait_book(order_id, BTC)
    bob.cli("order", taker, "0.4BTC@1USD", "--ioc", "--settlement", "htlc")
    (trade_id,) = bob.trades()
    buyer, seller = (alice, bob) if maker == "buy" else (bob, alice)
    buyer.wait_state(trade_id, "htlc_accepted")
    return buyer, seller, trade_id


def let_the_lock_end(buyer: Node) -> None:
    """The buyer's node is away while the chain grows beyond the end of what is locked for it."""
    assert buyer.stop() == 0
    with sqlite3.connect(buyer.directory / "play.sqlite3") as ledger:
        changed = ledger.execute(
            "UPDATE invoice SET htlc_expiry_height = 1 WHERE state = 'accepted'"
        )
        assert changed.rowcount == 1
    ledger.close()
    buyer.start()


@pytest.mark.parametrize("maker", ["buy", "sell"])
def test_a_lost_lock_is_rolled_over(user: Home, tmp_path: Path, maker: str) -> None:
    """The release came too late; the seller pays a fresh invoice, and proves that it has."""
    alice, bob = user.start("alice", "bob")
    buyer, seller, trade_id = locked(alice, bob, maker)
    short = trade_id[:12]
    buyer.cli("trade", "send", short, "--yes")
    buyer.cli("trade", "sent", short, "--yes", "--reference", "rent")
    seller.wait_state(trade_id, "quote_sent")
    let_the_lock_end(buyer)
    buyer.wait_live(seller)
    seller.wait_live(buyer)
    buyer.wait_state(trade_id, "disputed")
    seller.cli("trade", "release", short, "--yes", code=1)
    seller.wait_state(trade_id, "disputed")
    assert seller.balance_msat() == 10 * BTC * MSAT

    words = asked(user, buyer.name, "rollover", trade_id)
    assert "The seller gets a fresh invoice over 0.4 BTC" in words
    assert "Nothing can make it pay" in words
    buyer.cli("trade", "rollover", short, "--yes")
    seller.wait_state(trade_id, "rollover")
    listed = " ".join(seller.cli("trade", "list").split())
    assert "the buyer says that it paid, and its lock ran out" in listed
    assert f"trade release {short}" in listed
    assert "give 0.4 BTC away for good" in asked(user, seller.name, "release", trade_id)
    seller.cli("trade", "release", short, "--yes")

    for node in (buyer, seller):
        node.wait_state(trade_id, "settled")
    assert buyer.balance_msat() == 104 * BTC // 10 * MSAT
    assert seller.balance_msat() == 96 * BTC // 10 * MSAT
    file = tmp_path / "seller.evidence"
    file.write_text(seller.cli("trade", "evidence", short))
    proof = " ".join(seller.cli("trade", "verify", str(file)).split())
    assert "says that the lock is lost, and asks to be paid anew (2)" in proof
    assert "was paid: the file has its preimage" in proof
