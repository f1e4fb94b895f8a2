"""The DHT nodes that answered in the last run, on the disk: a restart needs no bootstrap node.

They are addresses to call and nothing more, so a file that cannot be read is only worth a warning.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from zmqex.adapters.storage.directory import create_private_file, read_private_file
from zmqex.dht.address import Address
from zmqex.errors import ConfigError, StorageError


def read_contacts(path: Path) -> list[Address]:
    """Return what the last run wrote; nothing at the first start.

    Raises `StorageError` if there is a file and it is not that.
    """
    try:
        return msgspec.json.decode(read_private_file(path), type=list[tuple[str, int]])
    except FileNotFoundError:
        return []
    except (ConfigError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} holds no contacts: {error}") from error


def write_contacts(path: Path, contacts: Iterable[Address]) -> None:
    """Replace the file, whole or not at all.  Raises `StorageError` if the disk refuses."""
    half = path.with_suffix(".new")
    try:
        half.unlink(missing_ok=True)
        create_private_file(half, msgspec.json.encode(list(contacts)))
        half.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
