"""What was acknowledged survives: kill -9, other ports, a dead hold server, a clean end."""

from __future__ import annotations

import os
import signal

import psutil

from tests.end_to_end.nodes import BTC, Home, wait_for
from zmqex.kernel.commands import (
    GetStatus,
    ListHolds,
    PayTrade,
    PlaceOrder,
    ReceivedTrade,
    SentTrade,
)

HALF = BTC // 2


def test_a_killed_maker_comes_back_with_its_order_and_its_hold(user: Home) -> None:
    """The supervisor starts it again; the held trade is paid afterwards and settles."""
    alice, bob = user.start("alice", "bob")
    alice.call(PlaceOrder("BTC/USD", "buy", BTC, 100))
    order_id = alice.orders()[0]["order_id"]
    bob.wait_book(order_id, BTC)
    answer = bob.call(PlaceOrder("BTC/USD", "sell", HALF, 100, pay_mode="manual"))
    trade_id = answer["trades"][0]["trade_id"]

    killed = alice.kill()
    wait_for("alice is back", lambda: (alice.status() or {"pid": killed})["pid"] != killed)
    bob.wait_live(alice)

    assert [one["order_id"] for one in alice.orders()] == [order_id]
    holds = alice.call(ListHolds())["holds"]
    assert [(one["trade_id"], one["quantity_lots"]) for one in holds] == [(trade_id, HALF)]
    bob.call(PayTrade(trade_id))
    alice.wait_state(trade_id, "base_done")
    alice.call(SentTrade(trade_id))
    bob.wait_state(trade_id, "quote_sent")
    bob.call(ReceivedTrade(trade_id))
    for node in (alice, bob):
        node.wait_state(trade_id, "settled")
        node.wait_book(order_id, HALF)
    assert alice.balance_msat() + bob.balance_msat() == 20 * BTC * 1_000


def test_on_other_ports_it_keeps_identity_orders_and_running_trades(user: Home) -> None:
    """A maker that moves is found again by its peers, with everything that it had promised."""
    alice, bob = user.start("alice", "bob")
    alice.call(PlaceOrder("BTC/USD", "buy", BTC, 100))
    order_id = alice.orders()[0]["order_id"]
    bob.wait_book(order_id, BTC)
    answer = bob.call(PlaceOrder("BTC/USD", "sell", HALF, 100, pay_mode="manual"))
    trade_id = answer["trades"][0]["trade_id"]
    identity, before = alice.identity, alice.call(GetStatus())["endpoints"]

    assert alice.stop() == 0
    alice.start("--hello-port", "0", "--rpc-port", "0", "--orders-port", "0")
    after = alice.call(GetStatus())["endpoints"]
    bob.wait_live(alice)

    assert alice.identity == identity
    assert not set(before.values()) & {after["hello"], after["rpc"], after["orders"]}
    bob.call(PayTrade(trade_id))
    alice.wait_state(trade_id, "base_done")
    bob.wait_book(order_id, HALF)


def test_the_hold_server_comes_back_with_the_holds(user: Home) -> None:
    """Kill -9 of the embedded server: it is started again and rebuilt from the journal."""
    alice, bob = user.start("alice", "bob")
    alice.call(PlaceOrder("BTC/USD", "buy", BTC, 100))
    order_id = alice.orders()[0]["order_id"]
    bob.wait_book(order_id, BTC)
    answer = bob.call(PlaceOrder("BTC/USD", "sell", HALF, 100, pay_mode="manual"))
    trade_id = answer["trades"][0]["trade_id"]
    redis = alice.call(GetStatus())["redis"]
    assert redis["server"] in {"valkey", "redis"}, "an emulation is not a hold server"

    os.kill(redis["pid"], signal.SIGKILL)

    def held_again() -> bool:
        status = alice.call(GetStatus())["redis"]
        holds = alice.call(ListHolds())["holds"]
        back = status["ok"] and status["pid"] != redis["pid"]
        return back and [one["trade_id"] for one in holds if one["redis_left_ms"]] == [trade_id]

    wait_for("the hold is in the new server", held_again)


def test_ctrl_c_ends_everything_and_loses_nothing(user: Home) -> None:
    """No orphan process and no lost row; a second serve on the directory is refused meanwhile."""
    (alice,) = user.start("alice")
    alice.call(PlaceOrder("BTC/USD", "buy", BTC, 100))
    order_id = alice.orders()[0]["order_id"]
    assert alice.process is not None
    family = [*psutil.Process(alice.process.pid).children(recursive=True)]
    assert len(family) >= 2

    second = user.cli("--node", "alice", "serve")
    assert second.returncode == 2
    assert str(alice.pid) in second.stderr
    assert alice.stop() == 0
    wait_for("no process is left", lambda: not any(one.is_running() for one in family))
    kept = alice.rows("journal", "SELECT hex(order_id) FROM own_order WHERE state = 'open'")
    assert kept == [(order_id.upper(),)]


def test_no_hold_server_is_left_a_second_after_kill_9_of_everything(user: Home) -> None:
    """Kill -9 of node and supervisor: the embedded server ends by itself."""
    (alice,) = user.start("alice")
    redis = psutil.Process(alice.call(GetStatus())["redis"]["pid"])
    assert alice.process is not None
    node = alice.pid

    alice.process.kill()
    os.kill(node, signal.SIGKILL)

    wait_for("the hold server has ended", lambda: not redis.is_running(), 3)
