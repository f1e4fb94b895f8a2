"""The answering half of a node: ping, find_node, get_peers, announce_peer (BEP 5).

It trusts nothing that it is told beyond the sender's address, and that only with a token.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from zmqex.dht import krpc
from zmqex.dht.address import Address, Family, Scope, pack_address, scope_of, unspecified
from zmqex.dht.bencode import Value
from zmqex.dht.guard import Tokens
from zmqex.dht.krpc import NODE_ID_BYTES, Code, Query
from zmqex.dht.store import PeerStore
from zmqex.dht.table import RoutingTable, position_of
from zmqex.limits import DHT_NAME_BYTES_MAX, DHT_REPLY_BYTES_MAX, DHT_REPLY_PEERS_MAX

_PORT_MAX: Final = 65_535
_LIST_OVERHEAD: Final = len(b"6:valuesle")
_LOOPBACK: Final[dict[Family, str]] = {4: "127.0.0.1", 6: "::1"}


@dataclass(frozen=True, slots=True)
class Response:
    """What goes back, and the (name, peer) that a query newly announced, if it did."""

    datagram: bytes
    announced: tuple[bytes, Address] | None = None


class Responder:
    """Answers queries from `table`, `store` and our own announces.

    `own_ports` maps each name that we announce to its port; `own_names` are all names that
    we care about.  Both are read, never changed.
    """

    def __init__(
        self,
        own_id: bytes,
        family: Family,
        table: RoutingTable,
        store: PeerStore,
        tokens: Tokens,
        randomness: Callable[[int], bytes],
        own_host: str | None,
    ) -> None:
        self._own_id = own_id
        self._family: Family = family
        self._table = table
        self._store = store
        self._tokens = tokens
        self._randomness = randomness
        self._own_host = own_host

    def answer(
        self,
        query: Query,
        sender: Address,
        now_ms: int,
        own_ports: Mapping[bytes, int],
        own_names: Collection[bytes],
    ) -> Response:
        """Return the answer to `query`, which arrived from `sender`."""
        match query.method:
            case b"ping":
                return self._reply(query, {}, sender)
            case b"find_node":
                return self._find_node(query, sender)
            case b"get_peers":
                return self._get_peers(query, sender, now_ms, own_ports)
            case b"announce_peer":
                return self._announce_peer(query, sender, now_ms, own_names)
            case _:
                return _refuse(query, Code.UNKNOWN_METHOD, b"Method Unknown")

    def _find_node(self, query: Query, sender: Address) -> Response:
        target = query.arguments.get(b"target")
        if not isinstance(target, bytes) or len(target) != NODE_ID_BYTES:
            return _refuse(query, Code.PROTOCOL, b"invalid target")
        return self._reply(query, self._contacts(target), sender)

    def _get_peers(
        self, query: Query, sender: Address, now_ms: int, own_ports: Mapping[bytes, int]
    ) -> Response:
        name = _name_of(query)
        if name is None:
            return _refuse(query, Code.PROTOCOL, b"invalid info_hash")
        values = self._contacts(position_of(name))
        values[b"token"] = self._tokens.issue(sender[0], now_ms)
        bare = self._reply(query, values, sender)
        peers = self._store.peers(name, now_ms)
        if name in own_ports:
            own = self._own_address(own_ports[name], query, sender)
            peers = peers if own is None else [own, *peers]
        room = DHT_REPLY_BYTES_MAX - len(bare.datagram) - _LIST_OVERHEAD
        packed = [pack_address(peer) for peer in self._sample(peers)]
        packed = packed[: room // len(b"%d:%b" % (len(packed[0]), packed[0]))] if packed else []
        if not packed:
            return bare
        return self._reply(query, {**values, b"values": list(packed)}, sender)

    def _announce_peer(
        self, query: Query, sender: Address, now_ms: int, own_names: Collection[bytes]
    ) -> Response:
        name = _name_of(query)
        token = query.arguments.get(b"token")
        implied = query.arguments.get(b"implied_port")
        port = sender[1] if implied == 1 else query.arguments.get(b"port")
        if name is None or not isinstance(port, int) or not 1 <= port <= _PORT_MAX:
            return _refuse(query, Code.PROTOCOL, b"invalid announce")
        host = sender[0]
        if not isinstance(token, bytes) or not self._tokens.accepts(token, host, now_ms):
            return _refuse(query, Code.PROTOCOL, b"bad token")
        peer = (host, port)
        new = self._store.announce(name, peer, sender, now_ms, ours=name in own_names)
        reply = self._reply(query, {}, sender)
        return Response(reply.datagram, (name, peer) if new else None)

    def _own_address(self, port: int, query: Query, sender: Address) -> Address | None:
        """Return how `sender` reaches us: only we ourselves store our announce on our own.

        Who does not know our notation for "where you reached me" learns of us from the
        nodes that we announced to.
        """
        if self._own_host is not None:
            return (self._own_host, port)
        if scope_of(sender[0]) is Scope.LOOPBACK:
            return (_LOOPBACK[self._family], port)
        if query.version[:2] == krpc.VERSION[:2]:
            return (unspecified(self._family), port)
        return None

    def _sample(self, peers: list[Address]) -> list[Address]:
        """Return as many peers as one answer holds, others each time."""
        if len(peers) <= DHT_REPLY_PEERS_MAX:
            return peers
        start = int.from_bytes(self._randomness(4), "big") % len(peers)
        return (peers[start:] + peers[:start])[:DHT_REPLY_PEERS_MAX]

    def _contacts(self, target: bytes) -> dict[bytes, Value]:
        nearest = [(near.node_id, near.address) for near in self._table.closest(target)]
        return krpc.pack_contacts(nearest, self._family)

    def _reply(self, query: Query, values: dict[bytes, Value], sender: Address) -> Response:
        return Response(krpc.encode_reply(query.transaction, self._own_id, values, sender))


def _refuse(query: Query, code: Code, text: bytes) -> Response:
    return Response(krpc.encode_failure(query.transaction, code, text))


def _name_of(query: Query) -> bytes | None:
    name = query.arguments.get(b"info_hash")
    if isinstance(name, bytes) and 1 <= len(name) <= DHT_NAME_BYTES_MAX:
        return name
    return None
