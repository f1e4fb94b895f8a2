"""What the answers of a running node say about its health."""

from __future__ import annotations

from typing import Any

import pytest

from zmqex.adapters.storage.checkup import look_through
from zmqex.cli import diagnosis
from zmqex.dht.limits import DHT_SILENT_MS
from zmqex.findings import Finding

STATUS: dict[str, Any] = {
    "peers": {"live": 2, "known": 3},
    "no_source": "",
    "endpoints": {"hello": "0.0.0.0:7100", "rpc": "0.0.0.0:7101", "orders": "0.0.0.0:7102"},
    "dht": {"udp_port": 7100, "contacts": 4, "last_reply_ms": 1_000, "bootstrap": 1},
    "redis": {"ok": True, "server": "valkey", "version": "9", "lease": "not_needed"},
    "lightning": {"ok": True, "backend": "play"},
    "quote_lightning": {},
}
DOWN = {"ok": False, "why": "refused"}


def peer(skew_ms: int, state: str = "live") -> dict[str, Any]:
    """A row of `peers`."""
    return {"skew_ms": skew_ms, "state": state}


def refused(count: int) -> list[dict[str, Any]]:
    """Candidates that are refused for their clocks, and one for something else."""
    row = {"why": "its record is refused: clock_skew"}
    return [row] * count + [{"why": "no answer within 1 s"}]


def dialled(hello: str = "open", rpc: str = "open", orders: str = "open") -> dict[str, Any]:
    """What a peer says that has dialled back."""
    ports = {"hello": hello, "rpc": rpc, "orders": orders}
    return {"host": "203.0.113.7", "ports": ports, "reason": "", "detail": ""}


NOBODY = {"host": "", "ports": {}, "reason": "rate_limited", "detail": "asked lately"}
NO_PEERS = {"live": 0, "known": 3}


@pytest.mark.parametrize(
    ("found", "state", "text", "fix"),
    [
        (diagnosis.judge_peers(STATUS), "ok", "connected to 2 of 3", ""),
        (
            diagnosis.judge_peers({**STATUS, "peers": NO_PEERS, "no_source": "x"}),
            "wrong",
            "nobody to ask for others",
            "peers add HOST:PORT",
        ),
        (
            diagnosis.judge_peers({**STATUS, "peers": {"live": 0, "known": 0}}),
            "wrong",
            "nobody has been found yet",
            "peers add HOST:PORT",
        ),
        (
            diagnosis.judge_peers({**STATUS, "peers": NO_PEERS}),
            "wrong",
            "of 3 peers that we know",
            "peers --why",
        ),
        (diagnosis.judge_clock([], refused(0)), "unknown", "no peer to compare", ""),
        (diagnosis.judge_clock([peer(90_000, "stale")], refused(0)), "unknown", "no peer", ""),
        (diagnosis.judge_clock([peer(10), peer(-900)], refused(0)), "ok", "within 2 s", ""),
        (
            diagnosis.judge_clock([peer(5_000)] * 2 + [peer(0)], refused(0)),
            "note",
            "5 s behind",
            "timedatectl",
        ),
        (
            diagnosis.judge_clock([peer(-60_000)] * 2 + [peer(0)], refused(0)),
            "wrong",
            "60 s ahead of that of 3 peers, the middle one",
            "timedatectl",
        ),
        (diagnosis.judge_clock([peer(0)], refused(1)), "ok", "within", ""),
        (diagnosis.judge_clock([peer(0)], refused(2)), "wrong", "2 peers", "timedatectl"),
        (diagnosis.judge_reach([], STATUS), "unknown", "no peer to ask", ""),
        (diagnosis.judge_reach([NOBODY], STATUS), "unknown", "asked lately", "ten seconds"),
        (
            diagnosis.judge_reach([dialled(), NOBODY], STATUS),
            "ok",
            "all three ports, by 1 peer, at",
            "",
        ),
        (
            diagnosis.judge_reach([dialled(rpc="closed"), dialled(rpc="closed")], STATUS),
            "wrong",
            "2 peers dialled 203.0.113.7 and did not get through to: rpc",
            "let peers reach rpc at 0.0.0.0:7101",
        ),
        (
            diagnosis.judge_reach([dialled(rpc="closed"), dialled()], STATUS),
            "note",
            "not every peer",
            "between",
        ),
        (diagnosis.judge_dht(STATUS), "ok", "4 nodes known", ""),
        (diagnosis.judge_dht({"dht": {}}), "ok", "behind the proxy", ""),
        (
            diagnosis.judge_dht({"dht": {**STATUS["dht"], "last_reply_ms": DHT_SILENT_MS}}),
            "wrong",
            "no DHT node answers",
            "UDP port 7100",
        ),
        (
            diagnosis.judge_dht({"dht": {**STATUS["dht"], "contacts": 0, "last_reply_ms": None}}),
            "wrong",
            "1 named, 0 known",
            "bootstrap",
        ),
        (
            diagnosis.judge_dht({"dht": {**STATUS["dht"], "contacts": 0, "bootstrap": 0}}),
            "note",
            "no other DHT node",
            "--bootstrap",
        ),
        (diagnosis.judge_hold_server(STATUS), "ok", "valkey 9 answers", ""),
        (
            diagnosis.judge_hold_server({"redis": {"ok": False}}),
            "wrong",
            "does not answer",
            "start that server",
        ),
        (
            diagnosis.judge_hold_server({"redis": {**STATUS["redis"], "lease": "taken"}}),
            "wrong",
            "another copy",
            "stop the other copy",
        ),
        (*diagnosis.judge_lightning(STATUS), "ok", "play answers", ""),
        (
            *diagnosis.judge_lightning({**STATUS, "lightning": DOWN}),
            "wrong",
            "it does not answer: refused",
            "start the Lightning node",
        ),
        (
            diagnosis.judge_lightning({**STATUS, "quote_lightning": {"USD": DOWN}})[1],
            "wrong",
            "it does not answer: refused",
            "start the Lightning node",
        ),
        (diagnosis.judge_journal([]), "ok", "whole", ""),
        (diagnosis.judge_journal(["page 7"]), "wrong", "page 7", "from a backup"),
    ],
)
def test_each_fact_is_judged_and_what_is_wrong_has_its_fix(
    found: Finding, state: str, text: str, fix: str
) -> None:
    """Healthy facts are ok; a majority decides about clocks, unanimity about ports."""
    assert found.state == state
    assert text in found.text
    assert fix in found.fix
    assert bool(found.fix) or state in {"ok", "unknown"}


def test_grapes_are_judged_where_there_are_any() -> None:
    """Each of their warnings is something wrong."""
    healthy = {"used": "http://127.0.0.1:30001", "warnings": []}
    assert diagnosis.judge_grapes({"grapes": None}) == []
    assert diagnosis.judge_grapes({"grapes": healthy})[0].state == "ok"
    (found,) = diagnosis.judge_grapes({"grapes": {**healthy, "warnings": ["a lonely grape"]}})
    assert (found.state, found.text) == ("wrong", "a lonely grape")
    assert "--grape" in found.fix


def test_problems_of_a_file_are_told_in_one_line_each() -> None:
    """A few of them; "ok" is none."""

    class Said:
        """A connection that has looked."""

        def __init__(self, *rows: str) -> None:
            self.rows = [(row,) for row in rows]

        def execute(self, pragma: str) -> Said:
            """Remember what was asked."""
            self.pragma = pragma
            return self

        def fetchall(self) -> list[tuple[str]]:
            """What it found."""
            return self.rows

    healthy: Any = Said("ok")
    sick: Any = Said("Tree 7:\npage 9", "index c")
    assert look_through(healthy, "quick_check") == []
    assert healthy.pragma == "PRAGMA quick_check(5)"
    assert look_through(sick, "integrity_check") == ["Tree 7: page 9", "index c"]
