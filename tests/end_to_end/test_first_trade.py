"""Two nodes find each other, share orders, hold, invoice and settle, through the command line."""

from __future__ import annotations

from pathlib import Path

from tests.end_to_end.nodes import BTC, Home, wait_for

MSAT = 1_000


def test_a_sell_of_another_size_fills_a_buy_in_part_and_both_settle(
    user: Home, tmp_path: Path
) -> None:
    """The story that the README tells, typed by hand in two terminals."""
    alice, bob = user.start("alice", "bob")

    printed = alice.cli("order", "buy", "1BTC@1USD")
    assert "Buy 1 BTC at 1 USD per BTC, total 1.00 USD" in printed
    order_id = alice.orders()[0]["order_id"]
    bob.wait_book(order_id, BTC)
    bob.cli("order", "sell", "0.4BTC@1USD")
    trade_id = next(iter(bob.trades()))
    alice.wait_state(trade_id, "base_done")
    alice.cli("trade", "sent", trade_id[:12], "--yes")
    bob.wait_state(trade_id, "quote_sent")
    bob.cli("trade", "received", trade_id[:12], "--yes")

    for node in (alice, bob):
        node.wait_state(trade_id, "settled")
        assert "SETTLED" in node.cli("trade", "list").upper()
        node.wait_book(order_id, 6 * BTC // 10)
        assert node.cli_json("hold", "list")["holds"] == []
    file = tmp_path / "bob.evidence"
    file.write_text(bob.cli("trade", "evidence", trade_id[:12]))
    assert "The file holds together" in bob.cli("trade", "verify", str(file))
    assert alice.balance_msat() == 104 * BTC // 10 * MSAT
    assert bob.balance_msat() == 96 * BTC // 10 * MSAT


def test_when_the_maker_sells_the_taker_sends_the_quote_first(user: Home) -> None:
    """The taker goes first in this direction too, and the maker pays its invoice at the end."""
    alice, bob = user.start("alice", "bob")

    alice.cli("order", "sell", "0.1BTC@3USD")
    replaced = alice.cli("order", "replace", alice.orders()[0]["order_id"][:12], "0.1BTC@2USD")
    assert ": replaced\n" in replaced
    (order,) = alice.orders()
    order_id = order["order_id"]
    bob.wait_book(order_id, BTC // 10)
    far = user.cli("--node", "bob", "order", "buy", "0.1BTC@1USD")
    assert far.returncode == 2
    assert "50 % below the best ask of 2 USD: it would rest far from the market" in far.stderr
    for words in ([], ["--json"]):
        slip = user.cli("--node", "bob", "order", "buy", "0.1BTC@20USD", *words)
        assert slip.returncode == 2
        assert "20 USD is 900 % above the best ask of 2 USD" in slip.stderr
        assert "give --yes" in slip.stderr
    assert bob.orders() == []
    bob.cli("order", "buy", "0.1BTC@20USD", "--yes")
    trade_id = next(iter(bob.trades()))
    hold = alice.cli_json("hold", "list")["holds"][0]
    assert 895_000 < hold["redis_left_ms"] <= 900_000
    assert alice.balance_msat() == 10 * BTC * MSAT
    bob.cli("trade", "sent", trade_id, "--yes", "--reference", "rent")
    alice.wait_state(trade_id, "quote_sent")
    assert alice.trades()[trade_id]["reference"] == "rent"
    alice.cli("trade", "received", trade_id, "--yes")

    for node in (alice, bob):
        node.wait_state(trade_id, "settled")
        wait_for("the book is empty", lambda one=node: one.book() == {})  # type: ignore[misc]
    assert alice.balance_msat() == 99 * BTC // 10 * MSAT
    assert bob.balance_msat() == 101 * BTC // 10 * MSAT
