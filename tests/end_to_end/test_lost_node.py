"""A real node without its Lightning node, or its ledger: it refuses to start, and says why."""

from __future__ import annotations

from tests.end_to_end.nodes import BTC, READY_S, Home, Node
from zmqex.kernel.commands import PlaceOrder, ResolveTrade

HALF = BTC // 2


def refused(node: Node, *flags: str) -> str:
    """Start it where it must not; what it prints."""
    node.output.unlink(missing_ok=True)
    node.launch(*flags)
    assert node.process is not None
    code = node.process.wait(timeout=READY_S)
    assert code == 2, node.printed()
    return node.printed()


def test_a_lightning_node_that_is_not_there_at_the_start_is_named(user: Home) -> None:
    """In a sentence, and with the exit code of what the operator must mend."""
    nowhere = str(user.path / "lightning-rpc")
    flags = ("--network", "regtest", "--lightning", "cln", "--cln-rpc", nowhere)
    printed = refused(user.node("alice"), *flags)
    assert f"--lightning cln: lightningd cannot be reached at {nowhere}" in printed
    assert "Traceback" not in printed


def test_a_trade_waits_for_the_ledger_that_issued_its_invoice(user: Home) -> None:
    """Without it `serve` exits with 2; once it is declared lost, the trade ends as settled."""
    alice, bob = user.start("alice", "bob")
    alice.call(PlaceOrder("BTC/USD", "buy", BTC, 100))
    bob.wait_book(order_id := alice.orders()[0]["order_id"], BTC)
    answer = bob.call(PlaceOrder("BTC/USD", "sell", HALF, 100, pay_mode="manual"))
    trade_id = answer["trades"][0]["trade_id"]
    (ledger,) = alice.trades()[trade_id]["lightning_nodes"]
    alice.stop()
    kept = alice.directory.parent / "kept"
    kept.mkdir()
    for path in alice.directory.glob("play.sqlite3*"):
        path.rename(kept / path.name)

    printed = refused(alice)
    assert f"running trades hang on the Lightning node {ledger}" in printed
    assert trade_id[:12] in printed
    assert f"--lost-node {ledger}" in printed
    assert "Traceback" not in printed

    for path in alice.directory.glob("play.sqlite3*"):
        path.rename(alice.directory.parent / path.name)
    for path in kept.iterdir():
        path.rename(alice.directory / path.name)
    alice.start()
    assert alice.trades()[trade_id]["state"] == "invoiced"
    alice.stop()

    for path in alice.directory.glob("play.sqlite3*"):
        path.unlink()
    alice.start("--lost-node", ledger)
    assert alice.trades()[trade_id]["state"] == "disputed"
    assert alice.call(ResolveTrade(trade_id, "settled"))["trade"]["state"] == "settled"
    assert alice.stop() == 0
    alice.start()
    assert [(one["order_id"], one["remaining_lots"]) for one in alice.orders()] == [
        (order_id, BTC - HALF)
    ]
