"""`zmqex peers`, `ping` and `status`: the node and its peers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from zmqex.cli import tables
from zmqex.cli.context import INVOCATION, Json, new_app, say, show_json, usage
from zmqex.kernel.commands import (
    AddPeer,
    GetStatus,
    ListCandidates,
    ListPeers,
    LookupPeers,
    PingPeer,
    RemovePeer,
)
from zmqex.settings import parse_peer, show_address

peers_app = new_app("See, find, add and remove peers; without a command, list them.")

PeerId = Annotated[str, typer.Argument(help="A peer id, or its first 8 or more characters.")]


@peers_app.callback(invoke_without_command=True, no_args_is_help=False)
def peers(
    context: typer.Context,
    *,
    why: Annotated[
        bool, typer.Option("--why", help="Where each came from, and why one is not connected.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List known peers."""
    if context.invoked_subcommand is not None:
        return
    answer = INVOCATION.call(ListCandidates() if why else ListPeers())
    if as_json:
        show_json(answer)
    elif why:
        tables.show_candidates(answer["candidates"])
    else:
        tables.show_peers(answer["peers"])
        tables.show_makers(answer["makers"])


@peers_app.command("lookup")
def lookup(*, as_json: Json = False) -> None:
    """Ask discovery now; these are hints, not peers."""
    answer = INVOCATION.call(LookupPeers())
    if as_json:
        show_json(answer)
        return
    for one in answer["candidates"]:
        say(f"{show_address(one['host'], one['port'])}  from {one['source']}")
    if not answer["candidates"]:
        say("Discovery finds nobody.")


@peers_app.command("add")
def add(
    place: Annotated[str, typer.Argument(help="ID@host:port, or host:port.")],
    *,
    as_json: Json = False,
) -> None:
    """Connect to a peer, and remember it."""
    try:
        _, host, port = parse_peer(place)
    except ValueError as error:
        raise usage(str(error)) from error
    answer = INVOCATION.call(AddPeer(place.rpartition("@")[0], host, port))
    _say(answer, f"Connecting to {show_address(host, port)}.", as_json=as_json)


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


def _say(answer: dict[str, Any], text: str, *, as_json: bool) -> None:
    if as_json:
        show_json(answer)
    else:
        say(text)
