"""Commands where money is at stake are given under a key, kept on disk till their answer is shown.

Not for the commands themselves.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from zmqex.adapters.storage.directory import create_private_file, read_private_file
from zmqex.cli.context import INVOCATION, note
from zmqex.errors import RefusedError
from zmqex.kernel.commands import PlaceOrder, ReplaceOrder, TakeOrder


def once(
    command: PlaceOrder | ReplaceOrder | TakeOrder, show: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Give a command under a key that a repeat after an answer that nobody saw uses again."""
    INVOCATION.check_running()
    path = _pending_path(command)
    try:
        answer = INVOCATION.call(msgspec.structs.replace(command, key=_pending_key(path)))
    except RefusedError:
        path.unlink(missing_ok=True)
        raise
    try:
        show(answer)
    finally:
        path.unlink(missing_ok=True)
    return answer


def _pending_path(command: PlaceOrder | ReplaceOrder | TakeOrder) -> Path:
    """Where the key of a command waits for its answer: named by the command's content."""
    name = hashlib.sha256(msgspec.msgpack.encode(command)).hexdigest()[:32]
    return INVOCATION.choice().data_dir / "pending" / name


def _pending_key(path: Path) -> str:
    """The key of this command: the one that never got its answer, or a new one on disk."""
    with suppress(FileNotFoundError):
        key = read_private_file(path).decode("ascii", errors="replace")
        note("This command was given before and got no answer; it is repeated under the same key.")
        return key
    key = secrets.token_hex(16)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    create_private_file(path, key.encode())
    return key
