"""`zmqex demo` and `zmqex version`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zmqex import __version__
from zmqex.cli import demo as story
from zmqex.cli.context import Json, say, show_json, usage


def demo(
    *,
    fault: Annotated[str, typer.Option(help="stop-maker or wrong-invoice: make it fail.")] = "",
    keep: Annotated[Path | None, typer.Option(help="Keep the nodes' data here.")] = None,
    as_json: Json = False,
) -> None:
    """Play the whole story with real nodes on this machine."""
    if fault and fault not in story.FAULTS:
        raise usage(f"--fault: {fault[:20]!r} is none of {', '.join(story.FAULTS)}")
    raise typer.Exit(story.run(fault=fault or None, as_json=as_json, keep=keep))


def version(*, as_json: Json = False) -> None:
    """Show the version."""
    if as_json:
        show_json({"version": __version__})
    else:
        say(f"zmqex {__version__}")
