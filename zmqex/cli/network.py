"""`zmqex peers`, `ping`, `status`, `invoice`, `logs`: the node, its peers and what it wrote."""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec
import typer

from zmqex.cli import tables
from zmqex.cli.context import INVOCATION, show_json, usage
from zmqex.cli.orders import Json
from zmqex.config import parse_peer
from zmqex.kernel.commands import (
    AddPeer,
    GetStatus,
    ListPeers,
    LookupPeers,
    PingPeer,
    RemovePeer,
)
from zmqex.logs import human_line, log_files
from zmqex.protocol.identity import to_text

peers_app = typer.Typer(invoke_without_command=True, help="See, find, add and remove peers.")
invoice_app = typer.Typer(no_args_is_help=True, help="Read Lightning invoices.")

PeerId = Annotated[str, typer.Argument(help="A peer id, or its first 8 or more characters.")]


@peers_app.callback()
def peers(context: typer.Context, *, as_json: Json = False) -> None:
    """List known peers."""
    if context.invoked_subcommand is None:
        answer = INVOCATION.call(ListPeers())
        if as_json:
            show_json(answer)
        else:
            tables.show_peers(answer["peers"])


@peers_app.command("lookup")
def lookup(*, as_json: Json = False) -> None:
    """Ask discovery now; these are hints, not peers."""
    answer = INVOCATION.call(LookupPeers())
    if as_json:
        show_json(answer)
        return
    for one in answer["candidates"]:
        print(f"{one['host']}:{one['port']}  from {one['source']}")  # noqa: T201
    if not answer["candidates"]:
        print("Discovery finds nobody.")  # noqa: T201


@peers_app.command("add")
def add(
    place: Annotated[str, typer.Argument(help="ID@host:port, or host:port.")],
    *,
    as_json: Json = False,
) -> None:
    """Connect to a peer, and remember it."""
    try:
        identity, host, port = parse_peer(place)
    except ValueError as error:
        raise usage(str(error)) from error
    answer = INVOCATION.call(AddPeer(to_text(identity) if identity else "", host, port))
    _say(answer, f"Connecting to {host}:{port}.", as_json=as_json)


@peers_app.command("remove")
def remove(peer: PeerId, *, as_json: Json = False) -> None:
    """Forget a peer and disconnect from it."""
    answer = INVOCATION.call(RemovePeer(peer))
    _say(answer, f"Forgotten: {answer['removed']}", as_json=as_json)


def ping(peer: PeerId, *, as_json: Json = False) -> None:
    """Ask a peer whether it is there."""
    answer = INVOCATION.call(PingPeer(peer))
    text = f"Pong from {answer['peer'][:8]} in {answer['round_trip_ms']} ms"
    _say(answer, text, as_json=as_json)


def status(*, as_json: Json = False) -> None:
    """Show how the node is."""
    answer = INVOCATION.call(GetStatus())
    if as_json:
        show_json(answer)
    else:
        tables.show_status(answer)


@invoice_app.command("decode")
def decode_invoice(text: str, *, as_json: Json = False) -> None:
    """Decode and verify a BOLT 11 invoice; needs no node."""
    from zmqex.bolt11 import decode, expires_at_ms  # noqa: PLC0415 - only this command needs it

    invoice = decode(text.strip().removeprefix("lightning:"))
    facts: dict[str, Any] = {
        "network": invoice.network.value,
        "amount_msat": invoice.amount_msat,
        "payment_hash": invoice.payment_hash.hex(),
        "payee": invoice.payee.hex(),
        "description": invoice.description,
        "description_hash": invoice.description_hash.hex() if invoice.description_hash else None,
        "timestamp_s": invoice.timestamp_s,
        "expiry_s": invoice.expiry_s,
        "expires_at_ms": expires_at_ms(invoice),
        "min_final_cltv": invoice.min_final_cltv,
        "features": invoice.features,
        "payment_secret": invoice.payment_secret.hex(),
        "route_hints": [
            [{**msgspec.to_builtins(hop), "node_id": hop.node_id.hex()} for hop in route]
            for route in invoice.route_hints
        ],
        "fallbacks": [[one.version, one.program.hex()] for one in invoice.fallbacks],
        "signature": invoice.signature.hex(),
    }
    if as_json:
        show_json(facts)
        return
    for name, value in facts.items():
        if value not in (None, []):
            tables.console().print(f"{name + ':':<18} {tables.plain(value)}", soft_wrap=True)
    tables.console().print(f"{'expires:':<18} {tables.when(facts['expires_at_ms'])}")


def logs(
    *,
    trade: Annotated[str, typer.Option(help="Only of this trade id (its first characters).")] = "",
    as_json: Json = False,
) -> None:
    """Show what the node wrote, oldest first; needs no running node."""
    directory = INVOCATION.choice().data_dir / "logs"
    for path in log_files(directory):
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                _show_line(line, trade, as_json=as_json)


def _show_line(line: str, trade: str, *, as_json: bool) -> None:
    try:
        record = json.loads(line)
    except ValueError:
        return  # cut off by a crash
    if trade and not str(record.get("trade_id", "")).startswith(trade.lower()):
        return
    print(line.strip() if as_json else human_line(record))  # noqa: T201


def _say(answer: dict[str, Any], text: str, *, as_json: bool) -> None:
    if as_json:
        show_json(answer)
    else:
        print(text)  # noqa: T201
