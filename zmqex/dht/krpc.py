"""KRPC: the three kinds of messages of a DHT, to bytes and back (BEP 5; 32, 42, 43, 44).

Only the envelope and the compact lists are read here.  What a query's arguments mean is the
business of `responder`, what a reply's values mean of `node`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from zmqex.dht import bencode
from zmqex.dht.address import Address, Family, address_bytes, pack_address, unpack_address
from zmqex.dht.bencode import Value
from zmqex.dht.limits import (
    DHT_CONTACTS_PER_ANSWER_MAX,
    DHT_PEERS_PER_ANSWER_MAX,
    DHT_TOKEN_BYTES_MAX,
    DHT_TRANSACTION_BYTES_MAX,
)
from zmqex.errors import RemoteProtocolError

NODE_ID_BYTES: Final = 20
# Who we are in the `v` of every message (BEP 5: two letters, two bytes of version).
VERSION: Final = b"ZX\x00\x01"

_CONTACTS_KEY: Final[dict[Family, bytes]] = {4: b"nodes", 6: b"nodes6"}
_WANTED: Final[dict[bytes, Family]] = {b"n4": 4, b"n6": 6}
# The argument of a node that speaks both families.
WANT_BOTH: Final[Value] = [b"n4", b"n6"]


class Code(enum.IntEnum):
    """The error codes of BEP 5 and BEP 44 that we send."""

    SERVER = 202
    PROTOCOL = 203
    UNKNOWN_METHOD = 204
    VALUE_TOO_BIG = 205
    BAD_SIGNATURE = 206
    SALT_TOO_BIG = 207
    CAS_MISMATCH = 301
    OLD_SEQUENCE = 302


@dataclass(frozen=True, slots=True)
class Query:
    """A question; `sender` is the id that its sender claims."""

    transaction: bytes
    method: bytes
    sender: bytes
    arguments: Mapping[bytes, Value]
    read_only: bool = False
    version: bytes = b""

    @property
    def families(self) -> set[Family]:
        """Of which families the sender wants contacts (BEP 32); empty if it does not say."""
        want = self.arguments.get(b"want")
        told = want if isinstance(want, list) else []
        return {_WANTED[one] for one in told if isinstance(one, bytes) and one in _WANTED}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; `values` holds whatever the method returns."""

    transaction: bytes
    sender: bytes
    values: Mapping[bytes, Value]


@dataclass(frozen=True, slots=True)
class Failure:
    """An answer that says no."""

    transaction: bytes
    code: int


Message: TypeAlias = Query | Reply | Failure


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reply to `find_node` or `get_peers` tells, bounded and of the right family."""

    contacts: tuple[tuple[bytes, Address], ...]
    peers: tuple[Address, ...]
    token: bytes | None


def encode_query(
    transaction: bytes, method: bytes, sender: bytes, arguments: dict[bytes, Value]
) -> bytes:
    """Return the datagram that asks `method` in the name of `sender`."""
    return bencode.encode(
        {
            b"a": {b"id": sender, **arguments},
            b"q": method,
            b"t": transaction,
            b"v": VERSION,
            b"y": b"q",
        }
    )


def encode_reply(
    transaction: bytes, sender: bytes, values: dict[bytes, Value], to: Address
) -> bytes:
    """Return the answer for `to`, who also learns how we see its address (BEP 42)."""
    return bencode.encode(
        {
            b"ip": pack_address(to),
            b"r": {b"id": sender, **values},
            b"t": transaction,
            b"v": VERSION,
            b"y": b"r",
        }
    )


def encode_failure(transaction: bytes, code: Code, text: bytes) -> bytes:
    """Return the answer that refuses."""
    return bencode.encode({b"e": [int(code), text], b"t": transaction, b"v": VERSION, b"y": b"e"})


def decode_message(raw: bytes) -> Message:
    """Read one datagram.  Raises `RemoteProtocolError` if it is no KRPC message."""
    message = bencode.decode(raw)
    if not isinstance(message, dict):
        raise RemoteProtocolError("a KRPC message is a dictionary")
    transaction = message.get(b"t")
    if not isinstance(transaction, bytes) or len(transaction) > DHT_TRANSACTION_BYTES_MAX:
        raise RemoteProtocolError("a KRPC message needs a short transaction")
    kind = message.get(b"y")
    if kind == b"q":
        return _query(transaction, message)
    if kind == b"r":
        values = _dict(message.get(b"r"))
        return Reply(transaction, _node_id(values.get(b"id")), values)
    if kind == b"e":
        error = message.get(b"e")
        if isinstance(error, list) and error and isinstance(error[0], int):
            return Failure(transaction, error[0])
    raise RemoteProtocolError("a KRPC message of no known kind")


def read_answer(reply: Reply, family: Family) -> Answer:
    """Take from `reply` what a lookup needs; what is malformed in it is left out."""
    raw = reply.values.get(_CONTACTS_KEY[family])
    contacts = unpack_contacts(raw, family) if isinstance(raw, bytes) else []
    values = reply.values.get(b"values")
    told = values[:DHT_PEERS_PER_ANSWER_MAX] if isinstance(values, list) else []
    peers = [unpack_address(value, family) for value in told if isinstance(value, bytes)]
    token = reply.values.get(b"token")
    return Answer(
        tuple(contacts[:DHT_CONTACTS_PER_ANSWER_MAX]),
        tuple(peer for peer in peers if peer is not None),
        token if isinstance(token, bytes) and len(token) <= DHT_TOKEN_BYTES_MAX else None,
    )


def pack_contacts(contacts: Iterable[tuple[bytes, Address]], family: Family) -> dict[bytes, Value]:
    """Return the compact contacts under the key that their family has in a reply."""
    compact = b"".join(node_id + pack_address(address) for node_id, address in contacts)
    return {_CONTACTS_KEY[family]: compact}


def unpack_contacts(raw: bytes, family: Family) -> list[tuple[bytes, Address]]:
    """Read compact contacts; a list of the wrong length holds none, port 0 is left out."""
    size = NODE_ID_BYTES + address_bytes(family)
    if len(raw) % size:
        return []
    contacts = []
    for at in range(0, len(raw), size):
        address = unpack_address(raw[at + NODE_ID_BYTES : at + size], family)
        if address is not None:
            contacts.append((raw[at : at + NODE_ID_BYTES], address))
    return contacts


def _query(transaction: bytes, message: dict[bytes, Value]) -> Query:
    method = message.get(b"q")
    if not isinstance(method, bytes):
        raise RemoteProtocolError("a KRPC query needs a method")
    arguments = _dict(message.get(b"a"))
    version = message.get(b"v")
    return Query(
        transaction,
        method,
        _node_id(arguments.get(b"id")),
        arguments,
        read_only=message.get(b"ro") == 1,
        version=version if isinstance(version, bytes) else b"",
    )


def _dict(value: Value | None) -> dict[bytes, Value]:
    if not isinstance(value, dict):
        raise RemoteProtocolError("a KRPC message needs a dictionary here")
    return value


def _node_id(value: Value | None) -> bytes:
    if not isinstance(value, bytes) or len(value) != NODE_ID_BYTES:
        raise RemoteProtocolError("a node id has 20 bytes")
    return value
