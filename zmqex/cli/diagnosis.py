"""What the answers of a running node say about its health: facts in, findings out.

Not for asking (`doctor`), nor for what stands on the disk (`adapters.storage.checkup`).
"""

from __future__ import annotations

from typing import Any, Final

from zmqex.adapters.holds.checkup import FIX_OWN, HOLD_SERVER
from zmqex.adapters.storage.checkup import RESTORE
from zmqex.dht.limits import DHT_SILENT_MS
from zmqex.findings import Finding, note, ok, unknown, wrong
from zmqex.limits import CLOCK_SKEW_MAX_MS, CLOCK_SKEW_NOTED_MS, SECOND_MS
from zmqex.reasons import RejectReason

PEERS: Final = "peers"
CLOCK: Final = "clock"
REACHABLE: Final = "reachable"
DHT: Final = "dht"
GRAPES: Final = "grapes"
LIGHTNING: Final = "lightning"
JOURNAL: Final = "journal"

_PORTS: Final = ("hello", "rpc", "orders")
_LIVE: Final = {"syncing", "live"}
_SET_CLOCK: Final = "set this machine's clock, and keep it right: `timedatectl set-ntp true`"

Row = dict[str, Any]


def judge_peers(status: Row) -> Finding:
    """Whether anybody is connected, or could be found."""
    live, known = status["peers"]["live"], status["peers"]["known"]
    if live:
        return ok(PEERS, f"connected to {live} of {_peers(known)}")
    if status["no_source"]:
        fix = "name one: `peers add HOST:PORT`, or `serve --bootstrap HOST:PORT` or `--peer`"
        return wrong(PEERS, "nobody is connected, and there is nobody to ask for others", fix)
    if not known:
        fix = (
            "wait for others, look at `dht` and `grapes` below, or name one: `peers add HOST:PORT`"
        )
        return wrong(PEERS, "nobody has been found yet", fix)
    fix = "`peers --why` says of each address why it is not connected"
    return wrong(PEERS, f"nobody is connected, of {_peers(known)} that we know", fix)


def judge_clock(peers: list[Row], candidates: list[Row]) -> Finding:
    """How our clock compares with the peers', and who does not talk to us for it."""
    skews = sorted(one["skew_ms"] for one in peers if one["state"] in _LIVE)
    word = RejectReason.CLOCK_SKEW.value
    refused = sum(word in one["why"] for one in candidates)
    if not skews and not refused:
        return unknown(CLOCK, "there is no peer to compare clocks with")
    if refused > len(skews):
        text = f"{_peers(refused)} and this node do not talk, for a clock that is over 30 s off"
        return wrong(CLOCK, text, _SET_CLOCK)
    middle = skews[len(skews) // 2]
    said = f"{abs(middle) // SECOND_MS} s {'behind' if middle > 0 else 'ahead of'}"
    text = f"this clock is {said} that of {_peers(len(skews))}, the middle one"
    if abs(middle) > CLOCK_SKEW_MAX_MS:
        return wrong(CLOCK, text, _SET_CLOCK)
    if abs(middle) > CLOCK_SKEW_NOTED_MS:
        return note(CLOCK, text, _SET_CLOCK)
    return ok(CLOCK, f"within {CLOCK_SKEW_NOTED_MS // SECOND_MS} s of {_peers(len(skews))}")


def judge_reach(rows: list[Row], status: Row) -> Finding:
    """What the peers say that were asked to dial back."""
    answers = [one for one in rows if one["ports"]]
    if not rows:
        return unknown(REACHABLE, "there is no peer to ask to dial back")
    if not answers:
        why = "; ".join(one["detail"] or one["reason"] for one in rows)
        return unknown(REACHABLE, f"no peer has dialled back: {why}", "ask again in ten seconds")
    places = ", ".join(sorted({one["host"] for one in answers}))
    closed = [name for name in _PORTS if all(one["ports"][name] == "closed" for one in answers)]
    if closed:
        ends = status["endpoints"]
        listens = ", ".join(f"{name} at {ends[name]}" for name in closed)
        text = (
            f"{len(answers)} peers dialled {places} and did not get through to: {', '.join(closed)}"
        )
        fix = (
            f"let peers reach {listens}: listen on an address of theirs (`bind_host`), open the "
            "TCP ports in firewall and router, and let `announce_host` name where they lead here; "
            "until then others cannot take your orders"
        )
        return wrong(REACHABLE, text, fix)
    partly = [name for name in _PORTS if any(one["ports"][name] == "closed" for one in answers)]
    if partly:
        text = f"not every peer that dialled {places} got through to: {', '.join(partly)}"
        return note(REACHABLE, text, "look at what stands between you and them")
    return ok(REACHABLE, f"all three ports, by {_peers(len(answers))}, at {places}")


def judge_dht(status: Row) -> Finding:
    """Whether the DHT node has anybody to talk to."""
    dht = status["dht"]
    if not dht:
        return ok(DHT, "off, behind the proxy")
    port, contacts, last_ms = dht["udp_port"], dht["contacts"], dht["last_reply_ms"]
    if contacts and last_ms is not None and last_ms < DHT_SILENT_MS:
        return ok(DHT, f"{contacts} nodes known, the last answer {last_ms // SECOND_MS} s ago")
    if dht["bootstrap"] or contacts:
        text = f"no DHT node answers ({dht['bootstrap']} named, {contacts} known)"
        fix = (
            f"look at the addresses in `bootstrap`, and let UDP port {port} through the firewall "
            "both ways"
        )
        return wrong(DHT, text, fix)
    return note(DHT, "no other DHT node is known", "name one: `serve --bootstrap HOST:PORT`")


def judge_grapes(status: Row) -> list[Finding]:
    """What the grapes in use have shown; nothing where none are used."""
    grapes = status["grapes"]
    if grapes is None:
        return []
    fix = "docs/operating.md says how grapes are started; `--grape` may name several"
    found = [wrong(GRAPES, text, fix) for text in grapes["warnings"]]
    return found or [ok(GRAPES, f"{grapes['used']} answers")]


def judge_hold_server(status: Row) -> Finding:
    """Whether the server answers, and leaves the lease to this node."""
    redis = status["redis"]
    if not redis["ok"]:
        return wrong(HOLD_SERVER, "it does not answer", FIX_OWN)
    if redis["lease"] == "taken":
        fix = "stop the other copy of this identity; two of them must never trade"
        return wrong(HOLD_SERVER, "another copy of this identity has its lease", fix)
    return ok(HOLD_SERVER, f"{redis['server']} {redis['version']} answers")


def judge_lightning(status: Row) -> list[Finding]:
    """Whether each backend answers: the base's, and those of quotes with a network of their own."""
    quotes = status["quote_lightning"].items()
    return [
        _judge_backend(LIGHTNING, status["lightning"]),
        *(_judge_backend(f"network {code}", lightning) for code, lightning in quotes),
    ]


def _judge_backend(check: str, lightning: Row) -> Finding:
    if not lightning["ok"]:
        fix = "start the Lightning node, and look at its address and credentials in the settings"
        return wrong(check, f"it does not answer: {lightning['why']}", fix)
    return ok(check, f"{lightning['backend']} answers")


def judge_journal(problems: list[str]) -> Finding:
    """What the node has found in its own journal."""
    if problems:
        return wrong(JOURNAL, f"the journal is damaged: {'; '.join(problems)}", RESTORE)
    return ok(JOURNAL, "the journal is whole")


def _peers(count: int) -> str:
    return "1 peer" if count == 1 else f"{count} peers"
