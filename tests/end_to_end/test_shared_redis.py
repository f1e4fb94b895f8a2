"""A node on the operator's Redis, strict as it is there: what its loss and its lease do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.contract.redis_servers import free_port, running
from tests.end_to_end.nodes import BTC, Home, Node, wait_for
from zmqex.errors import RefusedError
from zmqex.kernel.commands import GetStatus, ListHolds, PayTrade, PlaceOrder

PART = BTC // 10


def lease(node: Node) -> str:
    """What the node says of its lease."""
    return str(node.call(GetStatus())["redis"]["lease"])


def sell(bob: Node) -> dict[str, str]:
    """Bob sells a part to whoever bids and does not pay yet; the trade, or why there is none."""
    order = PlaceOrder("BTC/USD", "sell", PART, 100, time_in_force="ioc", pay_mode="manual")
    answer = bob.call(order)
    found: dict[str, str] = (answer["trades"] or answer["skipped"])[0]
    return found


def warned(node: Node) -> bool:
    """Whether the node has noticed that the server had forgotten its holds."""
    return bool(node.call(GetStatus())["counters"].get("holds_forgotten"))


def test_redis_goes_away_and_comes_back_empty(user: Home, tmp_path: Path) -> None:
    """New takes are refused, the running trade is paid, nothing is freed, and holds come back.

    Before that a copy of the directory is started by mistake: it gets no lease and says so.
    """
    port = free_port()
    url = f"redis://:secret@127.0.0.1:{port}"
    server = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--requirepass", "secret"]
    alice, bob, twin = (user.node(name) for name in ("alice", "bob", "twin"))
    with running(server, url, tmp_path):
        alice.start("--redis", url)
        wait_for("alice leads", lambda: lease(alice) == "held")
        alice.stop()
        shutil.copytree(alice.directory, twin.directory)
        alice.start("--redis", url)
        wait_for(
            "alice leads at once: she had given the lease back", lambda: lease(alice) == "held"
        )
        twin.start("--redis", url, "--log-level", "error")
        wait_for("the copy is told", lambda: lease(twin) == "taken")
        with pytest.raises(RefusedError, match="another copy"):
            twin.call(PlaceOrder("BTC/USD", "buy", BTC, 100))
        assert "lease" in twin.cli("status")
        found = twin.findings(1)["hold server"]
        assert (found["state"], found["text"]) == (
            "wrong",
            "another copy of this identity has its lease",
        )
        assert "stop the other copy" in found["fix"]
        twin.stop()

        bob.start()
        bob.wait_live(alice)
        alice.call(PlaceOrder("BTC/USD", "buy", BTC, 100))
        order_id = alice.orders()[0]["order_id"]
        bob.wait_book(order_id, BTC)
        trade_id = sell(bob)["trade_id"]

    found = alice.findings(1)["hold server"]
    assert (found["state"], found["text"]) == ("wrong", "it does not answer")
    assert "start that server" in found["fix"]
    assert len(alice.call(ListHolds())["holds"]) == 1
    bob.call(PayTrade(trade_id))
    for node in (alice, bob):
        node.wait_state(trade_id, "base_done")
    assert sell(bob)["reason"] == "holds_unavailable"
    bob.wait_book(order_id, BTC - PART)

    with running(server, url, tmp_path):
        wait_for("alice has told the new server her holds", lambda: warned(alice))
