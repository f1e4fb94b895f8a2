"""Files of evidence for tests: honest ones from real kernels, and ones that were tampered with."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import msgspec

from tests.stories import quote_leg, taken
from tests.world import SimNode, World
from zmqex.kernel.commands import ExportTrade
from zmqex.protocol.identity import IdentityKey, digest, seal
from zmqex.trading.evidence import SEAL_FIELDS, SEAL_KIND, EvidenceFile, seal_body

NETWORK = "play"


class Told(msgspec.Struct, frozen=True):
    """A settled trade of alice, the maker, and bob; `files` by who wrote them."""

    files: dict[str, EvidenceFile]
    keys: dict[str, IdentityKey]


@functools.cache
def settled(side: str) -> Told:
    """Alice rests 1 BTC on `side`, bob takes 0.4 of it, and it settles."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    trade = taken(world, alice, bob, side)
    buyer, seller = (alice, bob) if side == "buy" else (bob, alice)
    world.run(500)
    quote_leg(world, buyer, seller, trade)
    files = {node.name: exported(node, trade) for node in (alice, bob)}
    return Told(files, {node.name: node.signer for node in (alice, bob)})


def exported(node: SimNode, trade_id: str) -> EvidenceFile:
    """What the node writes about a trade now."""
    evidence = node.tell(ExportTrade(trade_id))["evidence"]
    return msgspec.convert(evidence, EvidenceFile)


def raw(file: EvidenceFile) -> bytes:
    """A file as bytes."""
    return msgspec.json.encode(file)


def changed(file: EvidenceFile, **fields: Any) -> bytes:  # noqa: ANN401 - fields of the file
    """The file with other contents under the old seal."""
    return raw(msgspec.structs.replace(file, **fields))


def seal_of(file: EvidenceFile) -> dict[str, Any]:
    """What the seal says."""
    body = msgspec.msgpack.decode(msgspec.msgpack.decode(bytes.fromhex(file.seal))[0])
    return dict(zip(SEAL_FIELDS, body, strict=True))


def resealed(file: EvidenceFile, key: IdentityKey, **fields: Any) -> bytes:  # noqa: ANN401 - as above
    """The file with other contents, sealed anew: what a dishonest party can make."""
    file = msgspec.structs.replace(file, **fields)
    said = seal_of(file) | {
        "order_digest": digest(bytes.fromhex(file.order)),
        "batch_digest": digest(bytes.fromhex(file.batch)) if file.batch else None,
        "preimage": bytes.fromhex(file.preimage) if file.preimage else None,
        "message_digests": [digest(bytes.fromhex(one)) for one in file.messages],
    }
    return raw(msgspec.structs.replace(file, seal=sealed(key, SEAL_KIND, seal_body(said))))


def sealed(key: IdentityKey, kind: str, body: bytes) -> str:
    """A body signed as some kind, in hex."""
    return seal(key, NETWORK, kind, body).hex()


def rewritten(text: str, key: IdentityKey, edit: Callable[[list[Any]], list[Any]]) -> str:
    """A message with another body, signed anew under its tag."""
    values = edit(msgspec.msgpack.decode(msgspec.msgpack.decode(bytes.fromhex(text))[0]))
    return sealed(key, str(values[0]), msgspec.msgpack.encode(values))
