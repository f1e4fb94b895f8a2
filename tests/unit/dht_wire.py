"""An in-memory wire between DHT nodes: virtual time, a delay, and a seeded loss."""

from __future__ import annotations

import heapq
from random import Random

from zmqex.dht.address import Address, family_of
from zmqex.dht.events import Event
from zmqex.dht.node import DhtNode

NAME = b"zmqex:v1:play:btcusd"
DELAY_MS = 2


def node_id(number: int) -> bytes:
    """Return an id that is spread like a random one and always the same."""
    return Random(number).randbytes(20)


class Wire:
    """Carries datagrams between nodes and calls their timers, in the order of virtual time."""

    def __init__(self, *, loss_percent: int = 0, seed: int = 0) -> None:
        """`loss_percent` of all datagrams vanish, chosen by `seed`."""
        self.now_ms = 1_000
        self.nodes: dict[Address, DhtNode] = {}
        self.events: dict[Address, list[Event]] = {}
        self.sent: list[tuple[Address, Address, bytes]] = []
        self._loss_percent = loss_percent
        self._random = Random(seed)
        self._flying: list[tuple[int, int, Address, Address, bytes]] = []
        self._count = 0

    def node(self, number: int, host: str = "127.0.0.1", port: int = 0) -> tuple[DhtNode, Address]:
        """Start a node at `host` and a port of its own."""
        address = (host, port or 10_000 + number)
        seed = number.to_bytes(16, "big")
        node = DhtNode(node_id(number), self.now_ms, seed, family=family_of(host))
        self.nodes[address] = node
        self.events[address] = []
        return node, address

    def remove(self, address: Address) -> DhtNode:
        """Unplug a node without a word."""
        return self.nodes.pop(address)

    def run(self, for_ms: int) -> None:
        """Let `for_ms` of virtual time pass."""
        end_ms = self.now_ms + for_ms
        while True:
            for address in self.nodes:
                self._drain(address)
            timers = [max(self.now_ms, node.next_timer_ms()) for node in self.nodes.values()]
            flights = [self._flying[0][0]] if self._flying else []
            next_ms = min([*timers, *flights, end_ms + 1])
            if next_ms > end_ms:
                self.now_ms = end_ms
                return
            self.now_ms = next_ms
            while self._flying and self._flying[0][0] <= self.now_ms:
                _, _, source, target, raw = heapq.heappop(self._flying)
                if target in self.nodes:
                    self.nodes[target].receive_datagram(raw, source, self.now_ms)
                    self._drain(target)
            for node in self.nodes.values():
                if node.next_timer_ms() <= self.now_ms:
                    node.handle_timer(self.now_ms)

    def _drain(self, address: Address) -> None:
        node = self.nodes[address]
        self.events[address] += node.events()
        for raw, target in node.datagrams_to_send():
            self.sent.append((address, target, raw))
            if self._random.randrange(100) >= self._loss_percent:
                self._count += 1
                at_ms = self.now_ms + DELAY_MS
                heapq.heappush(self._flying, (at_ms, self._count, address, target, raw))
