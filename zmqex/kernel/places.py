"""Whether a peer with a good record may have one of the places for connected peers."""

from __future__ import annotations

from collections.abc import Iterable

from zmqex.dht.address import Scope, is_believable, scope_of
from zmqex.kernel.peers import CONNECTED, Peer
from zmqex.kernel.shares import Shares
from zmqex.limits import PEERS_MAX
from zmqex.protocol.messages import PeerRecord


def why_no_place(
    peers: Iterable[Peer], record: PeerRecord, host: str, source: str, *, pinned: bool
) -> str:
    """Why the peer of `record` is not connected beside `peers`; "" if it is.

    It answered at `host`, which `source` named; who is connected already keeps its own place.
    """
    places = Shares()
    for one in peers:
        if one.state in CONNECTED and one.identity != record.identity:
            places.add(one.source, one.host)
    return places.why_not(PEERS_MAX, source, host, pinned=pinned)


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
