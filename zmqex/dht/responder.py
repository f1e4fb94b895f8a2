"""The answering half of a node: ping, find_node, get_peers, announce_peer, get, put (BEP 5, 44).

It trusts nothing that it is told beyond the sender's address, and that only with a token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from zmqex.dht import krpc
from zmqex.dht.address import Address, Family, Scope, pack_address, scope_of, unspecified
from zmqex.dht.bencode import Value
from zmqex.dht.guard import Tokens
from zmqex.dht.item_store import ItemStore
from zmqex.dht.items import read_item
from zmqex.dht.krpc import NODE_ID_BYTES, Code, Query
from zmqex.dht.limits import DHT_K, DHT_NAME_BYTES_MAX, DHT_REPLY_BYTES_MAX, DHT_REPLY_PEERS_MAX
from zmqex.dht.store import PeerStore
from zmqex.dht.table import RoutingTable, position_of
from zmqex.dht.wants import Wants

_PORT_MAX: Final = 65_535
_LIST_OVERHEAD: Final = len(b"6:valuesle")
_LOOPBACK: Final[dict[Family, str]] = {4: "127.0.0.1", 6: "::1"}


@dataclass(frozen=True, slots=True)
class Response:
    """What goes back, and the (name, peer) that a query newly announced, if it did."""

    datagram: bytes
    announced: tuple[bytes, Address] | None = None


class Responder:
    """Answers queries from the tables, what others stored here, and our own announces."""

    def __init__(
        self,
        own_id: bytes,
        family: Family,
        table: RoutingTable,
        tokens: Tokens,
        randomness: Callable[[int], bytes],
        own_host: str | None,
    ) -> None:
        self.peers = PeerStore()
        self.items = ItemStore()
        # The table of the other family is here when a node of that family is paired with us.
        self.tables: dict[Family, RoutingTable] = {family: table}
        self._own_id = own_id
        self._family: Family = family
        self._tokens = tokens
        self._randomness = randomness
        self._own_host = own_host

    def answer(
        self,
        query: Query,
        sender: Address,
        now_ms: int,
        wants: Wants,
    ) -> Response:
        """Return the answer to `query`, which arrived from `sender`."""
        match query.method:
            case b"ping":
                return self._reply(query, {}, sender)
            case b"find_node":
                return self._find_node(query, sender)
            case b"get_peers":
                return self._get_peers(query, sender, now_ms, wants)
            case b"announce_peer":
                return self._announce_peer(query, sender, now_ms, wants)
            case b"get":
                return self._get(query, sender, now_ms)
            case b"put":
                return self._put(query, sender, now_ms)
            case _:
                return _refuse(query, Code.UNKNOWN_METHOD, b"Method Unknown")

    def _find_node(self, query: Query, sender: Address) -> Response:
        target = query.arguments.get(b"target")
        if not isinstance(target, bytes) or len(target) != NODE_ID_BYTES:
            return _refuse(query, Code.PROTOCOL, b"invalid target")
        return self._reply(query, self._contacts(target, query), sender)

    def _get_peers(self, query: Query, sender: Address, now_ms: int, wants: Wants) -> Response:
        name = _name_of(query)
        if name is None:
            return _refuse(query, Code.PROTOCOL, b"invalid info_hash")
        values = self._contacts(position_of(name), query)
        values[b"token"] = self._tokens.issue(sender[0], now_ms)
        bare = self._reply(query, values, sender)
        peers = self.peers.peers(name, now_ms)
        if name in wants.ports:
            own = self._own_address(wants.ports[name], query, sender)
            peers = peers if own is None else [own, *peers]
        room = DHT_REPLY_BYTES_MAX - len(bare.datagram) - _LIST_OVERHEAD
        packed = [pack_address(peer) for peer in self._sample(peers)]
        packed = packed[: room // len(b"%d:%b" % (len(packed[0]), packed[0]))] if packed else []
        if not packed:
            return bare
        return self._reply(query, {**values, b"values": list(packed)}, sender)

    def _announce_peer(self, query: Query, sender: Address, now_ms: int, wants: Wants) -> Response:
        name = _name_of(query)
        implied = query.arguments.get(b"implied_port")
        port = sender[1] if implied == 1 else query.arguments.get(b"port")
        if name is None or not isinstance(port, int) or not 1 <= port <= _PORT_MAX:
            return _refuse(query, Code.PROTOCOL, b"invalid announce")
        if not self._has_token(query, sender, now_ms):
            return _refuse(query, Code.PROTOCOL, b"bad token")
        peer = (sender[0], port)
        new = self.peers.announce(name, peer, sender, now_ms, ours=wants.cares_for(name))
        reply = self._reply(query, {}, sender)
        return Response(reply.datagram, (name, peer) if new else None)

    def _get(self, query: Query, sender: Address, now_ms: int) -> Response:
        target, newer_than = query.arguments.get(b"target"), query.arguments.get(b"seq")
        if not isinstance(target, bytes) or len(target) != NODE_ID_BYTES:
            return _refuse(query, Code.PROTOCOL, b"invalid target")
        contacts = self._contacts(target, query)
        values: dict[bytes, Value] = {b"token": self._tokens.issue(sender[0], now_ms)}
        item = self.items.get(target, now_ms)
        if item is not None and isinstance(newer_than, int) and item.sequence <= newer_than:
            values[b"seq"] = item.sequence
        elif item is not None:
            values |= item.arguments()
        whole = self._reply(query, {**values, **contacts}, sender)
        if len(whole.datagram) <= DHT_REPLY_BYTES_MAX:
            return whole
        # Who holds the item is near its place: the asker needs no other nodes.
        return self._reply(query, values, sender)

    def _put(self, query: Query, sender: Address, now_ms: int) -> Response:
        salt, cas = query.arguments.get(b"salt", b""), query.arguments.get(b"cas")
        item = read_item(query.arguments, salt) if isinstance(salt, bytes) else None
        if item is None or not (cas is None or isinstance(cas, int)):
            return _refuse(query, Code.PROTOCOL, b"only mutable items are kept here")
        if not self._has_token(query, sender, now_ms):
            return _refuse(query, Code.PROTOCOL, b"bad token")
        code = self.items.put(item, sender, now_ms, cas)
        if code is not None:
            return _refuse(query, code, code.name.lower().replace("_", " ").encode())
        return self._reply(query, {}, sender)

    def _has_token(self, query: Query, sender: Address, now_ms: int) -> bool:
        token = query.arguments.get(b"token")
        return isinstance(token, bytes) and self._tokens.accepts(token, sender[0], now_ms)

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

    def _contacts(self, target: bytes, query: Query) -> dict[bytes, Value]:
        """Return who is near `target`, of the families that the asker wants (BEP 32)."""
        wanted = [family for family in self.tables if family in query.families]
        families = wanted or [self._family]
        packed: dict[bytes, Value] = {}
        for family in families:
            nearest = self.tables[family].closest(target, DHT_K // len(families))
            contacts = [(near.node_id, near.address) for near in nearest]
            packed |= krpc.pack_contacts(contacts, family)
        return packed

    def _reply(self, query: Query, values: dict[bytes, Value], sender: Address) -> Response:
        return Response(krpc.encode_reply(query.transaction, self._own_id, values, sender))


def _refuse(query: Query, code: Code, text: bytes) -> Response:
    return Response(krpc.encode_failure(query.transaction, code, text))


def _name_of(query: Query) -> bytes | None:
    name = query.arguments.get(b"info_hash")
    if isinstance(name, bytes) and 1 <= len(name) <= DHT_NAME_BYTES_MAX:
        return name
    return None
