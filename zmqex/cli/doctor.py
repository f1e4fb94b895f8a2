"""`zmqex doctor`: look at everything that a node needs, and say what to do.

Works while the node is down: then what only a running node knows is "unknown".  Exit code 1 when
something is wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import typer

from zmqex.adapters.holds.checkup import check_hold_server
from zmqex.adapters.storage.checkup import (
    check_database,
    check_disk,
    check_identity,
    check_modes,
    check_sqlite,
)
from zmqex.adapters.storage.directory import DirectoryLock
from zmqex.cli import diagnosis, tables
from zmqex.cli.context import EXIT_REFUSED, INVOCATION, Json, show_json
from zmqex.config import control_path, running_node
from zmqex.errors import ConfigError, NodeUnavailableError, RefusedError
from zmqex.findings import Finding, note, unknown, wrong
from zmqex.kernel.commands import (
    CheckJournal,
    CheckReach,
    GetStatus,
    ListCandidates,
    ListPeers,
)

_ONLY_RUNNING: Final = (
    diagnosis.PEERS,
    diagnosis.CLOCK,
    diagnosis.REACHABLE,
    diagnosis.DHT,
)


def doctor(*, as_json: Json = False) -> None:
    """Find out what is wrong with a node, and how to mend it."""
    choice = INVOCATION.choice()
    running = running_node(choice.data_dir) is not None
    findings = _on_disk(choice.data_dir)
    findings += _of_running() if running else _of_stopped(choice.data_dir)
    sick = any(one.state == "wrong" for one in findings)
    if as_json:
        place = {"node": choice.name, "data_dir": str(choice.data_dir), "running": running}
        show_json({**place, "ok": not sick, "findings": findings})
    else:
        tables.show_findings(findings)
    if sick:
        raise typer.Exit(EXIT_REFUSED)


def _on_disk(data_dir: Path) -> list[Finding]:
    """What needs no node and disturbs none."""
    return [
        *check_modes(data_dir, control_path(data_dir).parent),
        check_identity(data_dir),
        check_disk(data_dir),
        check_sqlite(),
    ]


def _of_stopped(data_dir: Path) -> list[Finding]:
    start = INVOCATION.hint("serve")
    findings = [note("node", "it does not run", f"start it: {start}")]
    try:
        config = INVOCATION.config()
    except ConfigError as error:
        findings.append(wrong("settings", str(error), "mend that setting"))
    else:
        findings.append(check_hold_server(config.redis))
    findings += _databases(data_dir)
    text = "only a running node can tell"
    return [*findings, *(unknown(one, text, f"start it: {start}") for one in _ONLY_RUNNING)]


def _databases(data_dir: Path) -> list[Finding]:
    """The journal and the ledger of play money, which stands for Lightning here."""
    names = {diagnosis.JOURNAL: "journal.sqlite3", diagnosis.LIGHTNING: "play.sqlite3"}
    for ledger in sorted(data_dir.glob("play-*.sqlite3")):
        code = ledger.stem.removeprefix("play-").upper()
        names[f"network {code}"] = ledger.name
    if not data_dir.is_dir():
        return [note(check, f"there is no {name} yet") for check, name in names.items()]
    try:
        with DirectoryLock(data_dir):
            return [check_database(check, data_dir / name) for check, name in names.items()]
    except ConfigError as error:
        return [unknown(check, str(error)) for check in names]


def _of_running() -> list[Finding]:
    try:
        status = INVOCATION.call(GetStatus())
        peers = INVOCATION.call(ListPeers())["peers"]
        candidates = INVOCATION.call(ListCandidates())["candidates"]
        return [
            diagnosis.judge_peers(status),
            diagnosis.judge_clock(peers, candidates),
            diagnosis.judge_reach(INVOCATION.call(CheckReach())["peers"], status),
            diagnosis.judge_dht(status),
            *diagnosis.judge_grapes(status),
            diagnosis.judge_hold_server(status),
            *diagnosis.judge_lightning(status),
            diagnosis.judge_journal(INVOCATION.call(CheckJournal())["problems"]),
        ]
    except (NodeUnavailableError, RefusedError) as error:
        fix = f"look at its log: {INVOCATION.hint('logs')}; then start it again"
        return [wrong("node", f"it runs, and does not answer: {error}", fix)]
