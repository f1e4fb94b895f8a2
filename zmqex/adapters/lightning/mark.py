"""A mark in the database of a Lightning node: its key alone does not say that this is the old one.

A node that was restored from its seed has the same key and knows of none of its payments, so it
would be asked to make them again.  The mark is an invoice on a preimage that was drawn once and
that nobody is ever told: where the node does not know it any more, its database is another one.
"""

from __future__ import annotations

import hashlib
import itertools
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from zmqex.adapters.ports import Lightning
from zmqex.adapters.storage.directory import create_private_file, read_private_file

MEMO: Final = "zmqex: marks this node's database; nobody is to pay it"
_AMOUNT_MSAT: Final = 1_000
# A year, the longest that LND allows; what has expired is still known.
_EXPIRY_S: Final = 31_536_000
_KEY_CHARS: Final = 16
_MARK_BYTES: Final = 4


async def marked(lightning: Lightning, node: bytes, directory: Path) -> bytes:
    """What names a node and its database: the node's key and 4 bytes of its mark.

    Where none of the marks in the private `directory` is known to the node, a new one is made, of
    which the directory keeps the preimage.  The older ones stay: their database may come back, and
    with it what became of our payments.  Errors are those of the port.
    """
    for path in _paths(directory, node):
        try:
            preimage = read_private_file(path)
        except FileNotFoundError:
            break
        if (await lightning.invoice(_hash(preimage))).state != "unknown":
            return _name(node, preimage)
    preimage = secrets.token_bytes(32)
    await lightning.create_invoice(
        preimage, amount_msat=_AMOUNT_MSAT, memo=MEMO, expiry_s=_EXPIRY_S
    )
    create_private_file(path, preimage)
    return _name(node, preimage)


def _paths(directory: Path, node: bytes) -> Iterator[Path]:
    """Where the marks of the databases of one node are, from the first one on."""
    stem = f"lightning-{node.hex()[:_KEY_CHARS]}"
    yield directory / f"{stem}.mark"
    for number in itertools.count(2):
        yield directory / f"{stem}-{number}.mark"


def _name(node: bytes, preimage: bytes) -> bytes:
    return node + _hash(preimage)[:_MARK_BYTES]


def _hash(preimage: bytes) -> bytes:
    return hashlib.sha256(preimage).digest()
