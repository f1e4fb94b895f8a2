"""The demo's claims are recomputed from the journals of its nodes; its faults make it fail."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from tests.end_to_end.nodes import BTC, Home
from zmqex.bolt11 import decode
from zmqex.kernel.records import OwnOrder, Trade

MSAT = 1_000
T = TypeVar("T")


@pytest.mark.alone
def test_every_claim_of_the_demo_is_in_the_journals(user: Home) -> None:
    """What it prints is what three journals and three ledgers say afterwards."""
    done = user.cli("demo", "--json", "--keep", str(user.path / "kept"))
    assert done.returncode == 0, done.stderr
    story = json.loads(done.stdout)
    assert story["ok"]
    claims = {name: value for step in story["steps"] for name, value in step["claims"].items()}
    nodes = user.path / "kept" / "zmqex" / "nodes"

    trades = {name: _records(nodes / name, "trade", Trade) for name in ("alice", "bob", "carol")}
    (order,) = _records(nodes / "alice", "own_order", OwnOrder)
    first, second = trades["alice"]
    assert claims["order"] == order.order_id.hex() == claims["crossing order"]
    assert claims["taken lots"] == claims["matched lots"] == first.quantity_lots == 4 * BTC // 10
    assert claims["settled trade"] == claims["trade"] == second.trade_id.hex()
    assert {one.state.value for rows in trades.values() for one in rows} == {"settled"}
    assert claims["quote units"] == first.quote_units
    assert claims["paid msat"] == first.base_msat == claims["invoice amount msat"]
    assert claims["payment hash"] == decode(claims["invoice"]).payment_hash.hex()
    assert first.payment_hash.hex() == claims["payment hash"]
    assert claims["remaining lots in the end"] == BTC - order.filled_lots
    balances = {name: _balance(nodes / name) for name in trades}
    assert claims["sum of balances msat"] == sum(balances.values()) == 30 * BTC * MSAT
    assert balances["alice"] - 10 * BTC * MSAT == first.base_msat + second.base_msat
    # Nobody who remembers a node of this machine at its usual ports finds the demo's.
    for name in trades:
        (log,) = (nodes / name / "logs").glob("*.log")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        ports = [line["hello_port"] for line in lines if line["event"] == "serving"]
        assert ports
        assert not set(ports) & set(range(7_100, 7_200))


def _records(node: Path, table: str, kind: type[T]) -> list[T]:
    rows = _query(node / "journal.sqlite3", f"SELECT record FROM {table} ORDER BY created_ms")  # noqa: S608
    return [msgspec.msgpack.decode(raw, type=kind) for (raw,) in rows]


def _balance(node: Path) -> int:
    return int(_query(node / "play.sqlite3", "SELECT msat FROM balance")[0][0])


def _query(path: Path, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("stop-maker", "timed_out"), ("wrong-invoice", "wrong_invoice_amount")],
)
def test_a_fault_makes_the_demo_fail_at_its_step(user: Home, fault: str, reason: str) -> None:
    """Exit code 1, the step is named, and why."""
    done = user.cli("demo", "--fault", fault)

    assert done.returncode == 1
    assert "Failed step: Bob sells 0.4 BTC at 1 USD" in done.stdout
    assert reason in done.stdout
