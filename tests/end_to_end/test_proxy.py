"""Behind a proxy: nodes meet, share orders and tell of peers, and nothing leaves past the proxy."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from tests.end_to_end.nodes import BTC, Home, Node
from tests.socks import Socks, socks
from zmqex.config import RunningNode, running_node
from zmqex.kernel.commands import ListCandidates, PlaceOrder

_EVERY_S = 0.005


class Watch:
    """Looks at a process's sockets again and again, and keeps what is not the proxy's business."""

    def __init__(self, node: Node, proxy: Socks) -> None:
        """Watch from now on; whatever listens, listens before a node is ready."""
        self.looks = 0
        self.strays: set[str] = set()
        self._process = psutil.Process(node.pid)
        self._proxy = proxy.port
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_EVERY_S):
            self.looks += 1
            try:
                seen = self._process.net_connections("inet")
            except psutil.NoSuchProcess:
                return
            listening = {one.laddr.port for one in seen if one.status == psutil.CONN_LISTEN}
            for one in seen:
                accepted = one.laddr.port in listening
                ours = bool(one.raddr) and one.raddr.port == self._proxy
                if not (accepted or ours):
                    self.strays.add(str(one))


@contextmanager
def watched(proxy: Socks, *nodes: Node) -> Iterator[list[Watch]]:
    """Watch several nodes."""
    watches = [Watch(node, proxy) for node in nodes]
    try:
        yield watches
    finally:
        for watch in watches:
            watch.close()


def where(node: Node) -> RunningNode:
    """Where a running node listens."""
    found = running_node(node.directory)
    assert found is not None
    return found


def start(node: Node, proxy: Socks, *flags: str) -> Node:
    """Start a node that is an onion service of its own name."""
    name = f"{node.name}.onion"
    return node.start("--proxy", proxy.url, "--announce-host", name, *flags)


def test_nodes_behind_a_proxy_meet_and_trade_orders_and_nothing_goes_past_it(user: Home) -> None:
    """One static peer; the third is found by peer exchange; no other socket, no UDP, no look-up."""
    with socks("alice.onion", "bob.onion", "carol.onion") as proxy:
        alice = start(user.node("alice"), proxy)
        assert "no DHT, behind the proxy" in alice.printed()
        assert "this node knows nobody, and behind a proxy it asks no DHT" in alice.printed()
        to_alice = f"alice.onion:{where(alice).hello_port}"
        bob = start(user.node("bob"), proxy, "--peer", to_alice)
        bob.wait_live(alice)
        carol = start(user.node("carol"), proxy, "--peer", to_alice)
        with watched(proxy, alice, bob, carol) as watches:
            carol.call(PlaceOrder("BTC/USD", "buy", BTC, 100))
            order_id = carol.orders()[0]["order_id"]
            carol.wait_live(bob)
            bob.wait_live(carol)
            bob.wait_book(order_id, BTC)
            candidates = carol.call(ListCandidates())["candidates"]
            sources = {one["host"]: one["sources"][0] for one in candidates}
            assert (sources["alice.onion"], sources["bob.onion"]) == ("static", "exchange")
            assert set(sources) <= {"alice.onion", "bob.onion", "carol.onion"}
            assert bob.stop() == 0
            start(bob, proxy)  # the address book is enough
            bob.wait_book(order_id, BTC)
            assert watches[0].looks > 20
            assert [watch.strays for watch in watches] == [set(), set(), set()]
        # Every name arrived at the proxy as a name: nobody else was asked for it.
        ports = [(f"{node.name}.onion", where(node)) for node in (alice, carol)]
        for host, node in ports:
            assert {(host, node.hello_port), (host, node.rpc_port), (host, node.orders_port)} <= {
                *proxy.seen
            }
