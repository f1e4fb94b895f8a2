"""`zmqex logs`: what a node wrote, whether it runs or not."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer

from zmqex.cli.context import INVOCATION, Json, note, say, usage
from zmqex.limits import ID_PREFIX_CHARS_MIN
from zmqex.logs import FILE_NAME, human_line, log_files, wants_colours

_POLL_S: Final = 0.2


def logs(
    *,
    trade: Annotated[str, typer.Option(help="Only of this trade id (its first characters).")] = "",
    follow: Annotated[bool, typer.Option("--follow", help="Go on until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Show what the node wrote, oldest first; needs no running node."""
    if trade and len(trade) < ID_PREFIX_CHARS_MIN:
        raise usage(f"--trade: give {ID_PREFIX_CHARS_MIN} or more characters of the id")
    directory = INVOCATION.choice().data_dir / "logs"
    if not log_files(directory):
        note(f"Nothing is written in {directory} yet.")
    colours = wants_colours(sys.stdout)
    try:
        for line in _lines(directory, follow=follow):
            _show_line(line, trade.lower(), as_json=as_json, colours=colours)
    except KeyboardInterrupt:
        return


def _lines(directory: Path, *, follow: bool) -> Iterator[str]:
    """Every whole line, the oldest first; with `follow` for ever, through rotations."""
    for path in log_files(directory):
        if path.name != FILE_NAME:
            yield from path.read_text(encoding="utf-8", errors="replace").splitlines()
    newest, inode, offset = directory / FILE_NAME, 0, 0
    while True:
        if newest.exists():
            with newest.open("rb") as file:
                found = newest.stat().st_ino
                if found != inode:
                    inode, offset = found, 0
                file.seek(offset)
                whole, _, _ = file.read().rpartition(b"\n")
            if whole:
                offset += len(whole) + 1
                yield from whole.decode(errors="replace").splitlines()
        if not follow:
            return
        time.sleep(_POLL_S)


def _show_line(line: str, trade: str, *, as_json: bool, colours: bool) -> None:
    try:
        record = json.loads(line)
    except ValueError:
        return  # cut off by a crash
    if isinstance(record, dict) and str(record.get("trade_id", "")).startswith(trade):
        shown = json.dumps(record) if as_json else human_line(record, colours=colours)
        say(shown)
