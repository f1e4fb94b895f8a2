"""The places for connected peers: who may have one, and who is dialled for one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from zmqex.dht.address import Scope, is_believable, scope_of
from zmqex.kernel.addresses import Address
from zmqex.kernel.peers import CONNECTED, Peer, State
from zmqex.kernel.shares import Shares
from zmqex.limits import PEERS_MAX, TIMEOUTS_BEFORE_HELLO
from zmqex.protocol.messages import PeerRecord


def why_no_place(
    peers: Iterable[Peer], identity: bytes, host: str, source: str, *, pinned: bool = False
) -> str:
    """Why a peer is not connected beside `peers`; "" if it is.

    `source` named its `host`; who is connected already keeps its own place.
    """
    others = [one for one in peers if one.state in CONNECTED and one.identity != identity]
    places = Shares([(one.source, one.host) for one in others])
    return places.why_not(PEERS_MAX, source, host, pinned=pinned)


def has_places(peers: Iterable[Peer]) -> bool:
    """Whether anybody could be connected beside `peers`."""
    return sum(one.state in CONNECTED for one in peers) < PEERS_MAX


def needs_hello(address: Address, peers: Mapping[bytes, Peer]) -> bool:
    """Whether whoever is at an address is to be asked for its record.

    Nobody is asked for whom there is no place, or each node of a large network would dial all
    those that it has refused again and again.
    """
    peer = peers.get(address.proven)
    if peer is not None and peer.timeouts >= TIMEOUTS_BEFORE_HELLO:
        return True
    if peer is not None and (peer.state in CONNECTED or peer.state is State.BANNED):
        return False
    where = address.proven, address.host, address.source
    return address.pinned or not why_no_place(peers.values(), *where)


def is_reachable(record: PeerRecord) -> bool:
    """Whether a record names all three endpoints; without them its peer is leaving."""
    return None not in (record.hello, record.rpc, record.orders)


def in_reach(record: PeerRecord, host: str, *, proxied: bool) -> bool:
    """Whether a record that answered at `host` points us at places that it may speak of.

    Nobody from outside points us at our own machine or network; behind a proxy nobody at all
    points us at our own machine, where whoever comes in through an onion service seems to be.
    """
    ends = (record.hello, record.rpc, record.orders)
    hosts = {end.host or host for end in ends if end is not None}
    if proxied:
        return Scope.LOOPBACK not in {scope_of(one) for one in hosts}
    numeric = {one for one in hosts if scope_of(one) is not Scope.UNUSABLE}
    return all(is_believable(one, host) for one in numeric)
