"""Lookup, hello, CURVE and subscription are real: packets are seen on the wire."""

from __future__ import annotations

import select
import socket
import threading

import pytest

from tests.end_to_end.nodes import BTC, Home, wait_for
from tests.integration.dht_nodes import has_ipv6
from zmqex.config import running_node
from zmqex.kernel.commands import (
    GetPeerBook,
    GetStatus,
    ListPeers,
    LookupPeers,
    PingPeer,
    PlaceOrder,
)


class Tap:
    """A UDP relay in front of a DHT node that keeps a copy of every packet."""

    def __init__(self, target: tuple[str, int]) -> None:
        """Listen on a free port and pass everything on to `target`."""
        self._front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._front.bind(("127.0.0.1", 0))
        self.port = self._front.getsockname()[1]
        self.packets: list[bytes] = []
        self._target = target
        self._backs: dict[tuple[str, int], socket.socket] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._relay)
        self._thread.start()

    def _relay(self) -> None:
        while not self._ended.is_set():
            sockets = [self._front, *self._backs.values()]
            for ready in select.select(sockets, [], [], 0.1)[0]:
                packet, sender = ready.recvfrom(65_535)
                self.packets.append(packet)
                if ready is self._front:
                    self._back(sender).sendto(packet, self._target)
                else:
                    client = next(key for key, back in self._backs.items() if back is ready)
                    self._front.sendto(packet, client)

    def _back(self, sender: tuple[str, int]) -> socket.socket:
        if sender not in self._backs:
            self._backs[sender] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        return self._backs[sender]

    def close(self) -> None:
        """Stop relaying."""
        self._ended.set()
        self._thread.join()
        for one in (self._front, *self._backs.values()):
            one.close()


def test_with_unrelated_homes_and_only_a_bootstrap_they_find_each_other(
    user: Home, stranger: Home
) -> None:
    """get_peers and announce_peer are seen on the wire, then the order stream flows."""
    alice = user.node("alice").start()
    where = running_node(alice.directory)
    assert where is not None
    tap = Tap(("127.0.0.1", where.dht_port))
    try:
        bob = stranger.node("bob").start("--bootstrap", f"127.0.0.1:{tap.port}")
        bob.wait_live(alice)
        alice.wait_live(bob)
        alice.call(PlaceOrder("BTC/USD", "buy", BTC, 100))
        bob.wait_book(alice.orders()[0]["order_id"], BTC)
        found = bob.call(LookupPeers())["candidates"]
        wait_for(
            "both kinds of packet",
            lambda: all(_seen(tap, one) for one in (b"get_peers", b"announce_peer")),
        )
    finally:
        tap.close()

    assert ("127.0.0.1", where.hello_port) in {(one["host"], one["port"]) for one in found}


def _seen(tap: Tap, query: bytes) -> bool:
    return any(b"1:q%d:%s" % (len(query), query) in packet for packet in tap.packets)


def test_nodes_on_every_address_find_each_other_over_ipv6(user: Home, stranger: Home) -> None:
    """`--bind-host ::` opens all sockets for IPv6, and for IPv4 too."""
    if not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    alice = user.node("alice").start("--bind-host", "::")
    where = running_node(alice.directory)
    assert where is not None
    bob = stranger.node("bob").start("--bind-host", "::", "--bootstrap", f"[::1]:{where.dht_port}")
    bob.wait_live(alice)
    alice.wait_live(bob)
    for node in (alice, bob):
        (peer,) = node.call(ListPeers())["peers"]
        assert peer["host"] == "::1"
    alice.call(PlaceOrder("BTC/USD", "buy", BTC, 100))
    bob.wait_book(alice.orders()[0]["order_id"], BTC)
    for port in (where.hello_port, where.rpc_port, where.orders_port):
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    assert all(place.startswith("[::]:") for place in alice.call(GetStatus())["endpoints"].values())


def test_a_late_node_fetches_a_whole_verified_book(user: Home) -> None:
    """What was published before it came is there, also asked of one peer alone."""
    alice, bob = user.start("alice", "bob")
    for price in (100, 101, 102):
        alice.call(PlaceOrder("BTC/USD", "buy", BTC, price))
    bob.call(PlaceOrder("BTC/USD", "sell", BTC, 300, any_price=True))

    carol = user.node("carol").start()
    carol.wait_live(bob)

    wait_for("carol has all four orders", lambda: len(carol.book()) == 4)
    wait_for("bob has all four orders", lambda: len(bob.book()) == 4)
    fetched = carol.call(GetPeerBook(bob.identity, "BTC/USD"))
    assert len(fetched["orders"]) == 4
    pong = carol.call(PingPeer(alice.identity[:12]))
    assert pong["peer"] == alice.identity
