"""An in-memory wire between DHT nodes: virtual time, a delay, and a seeded loss."""

from __future__ import annotations

import heapq
from random import Random
from typing import Protocol

from zmqex.dht.address import Address, family_of
from zmqex.dht.events import Event
from zmqex.dht.node import DhtNode

NAME = b"zmqex:v1:play:btcusd"
DELAY_MS = 2


def node_id(number: int) -> bytes:
    """Return an id that is spread like a random one and always the same."""
    return Random(number).randbytes(20)


class Member(Protocol):
    """Whatever is plugged into the wire: a node, or somebody who only plays one."""

    def receive_datagram(self, raw: bytes, address: Address, now_ms: int) -> None:
        """Take a datagram."""

    def handle_timer(self, now_ms: int) -> None:
        """Do what is due."""

    def next_timer_ms(self) -> int:
        """When `handle_timer` is wanted."""

    def datagrams_to_send(self) -> list[tuple[bytes, Address]]:
        """What leaves now, once."""

    def events(self) -> list[Event]:
        """What happened, once."""


class Wire:
    """Carries datagrams between nodes and calls their timers, in the order of virtual time."""

    def __init__(self, *, loss_percent: int = 0, seed: int = 0, keep_sent: bool = True) -> None:
        """`loss_percent` of all datagrams vanish, chosen by `seed`."""
        self.now_ms = 1_000
        self.nodes: dict[Address, Member] = {}
        self.events: dict[Address, list[Event]] = {}
        self.sent: list[tuple[Address, Address, bytes]] = []
        self.cut: set[Address] = set()
        self._keep_sent = keep_sent
        self._pairs: dict[Address, Address] = {}
        self._loss_percent = loss_percent
        self._random = Random(seed)
        # (time, number, target, source and datagram), or a timer of the target.
        self._due: list[tuple[int, int, Address, tuple[Address, bytes] | None]] = []
        self._count = 0
        self._armed: dict[Address, int] = {}

    def node(self, number: int, host: str = "127.0.0.1", port: int = 0) -> tuple[DhtNode, Address]:
        """Start a node at `host` and a port of its own."""
        address = (host, port or 10_000 + number)
        seed = number.to_bytes(16, "big")
        node = DhtNode(node_id(number), self.now_ms, seed, family=family_of(host))
        self.add(address, node)
        return node, address

    def add(self, address: Address, node: Member) -> None:
        """Plug a node in."""
        self.nodes[address] = node
        self.events[address] = []

    def pair(self, one: tuple[DhtNode, Address], other: tuple[DhtNode, Address]) -> None:
        """Make two nodes one node of both families."""
        for mine, its in ((one, other), (other, one)):
            mine[0].pair(its[0])
            self._pairs[mine[1]] = its[1]

    def remove(self, address: Address) -> Member:
        """Unplug a node without a word."""
        self._armed.pop(address, None)
        return self.nodes.pop(address)

    def run(self, for_ms: int) -> None:
        """Let `for_ms` of virtual time pass."""
        end_ms = self.now_ms + for_ms
        for address in self.nodes:
            self._drain(address)
        while self._due and self._due[0][0] <= end_ms:
            at_ms, _, target, flight = heapq.heappop(self._due)
            self.now_ms = max(self.now_ms, at_ms)
            node = self.nodes.get(target)
            if node is None:
                continue
            if flight is None:
                if self._armed.get(target) != at_ms:
                    continue  # set anew meanwhile
                del self._armed[target]
                node.handle_timer(self.now_ms)
            else:
                node.receive_datagram(flight[1], flight[0], self.now_ms)
            self._drain(target)
            if target in self._pairs:
                self._drain(self._pairs[target])
        self.now_ms = end_ms

    def _drain(self, address: Address) -> None:
        node = self.nodes[address]
        self.events[address] += node.events()
        for raw, target in node.datagrams_to_send():
            if self._keep_sent:
                self.sent.append((address, target, raw))
            lost = self._random.randrange(100) < self._loss_percent
            if not (lost or address in self.cut or target in self.cut):
                self._push(self.now_ms + DELAY_MS, target, (address, raw))
        timer_ms = max(self.now_ms, node.next_timer_ms())
        if self._armed.get(address) != timer_ms:
            self._armed[address] = timer_ms
            self._push(timer_ms, address, None)

    def _push(self, at_ms: int, target: Address, flight: tuple[Address, bytes] | None) -> None:
        self._count += 1
        heapq.heappush(self._due, (at_ms, self._count, target, flight))
