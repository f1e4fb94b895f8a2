"""Two hundred DHT nodes in virtual time: they come and go, packets are lost, sybils own a name.

What a DHT can promise then: whoever announces is found, names elsewhere do not suffer, an attack
costs bounded work, and the name is back minutes after the sybils have gone.
"""

from __future__ import annotations

from random import Random

from tests.unit.dht_wire import Wire
from zmqex.dht import krpc
from zmqex.dht.address import Address
from zmqex.dht.bencode import Value
from zmqex.dht.events import Event, LookupDone
from zmqex.dht.limits import DHT_ANNOUNCE_EVERY_MS, DHT_LOOKUP_LIFE_MAX_MS, DHT_LOOKUP_PEERS_MAX
from zmqex.dht.names import rendezvous_name
from zmqex.dht.node import DhtNode

NODES = 200
ANNOUNCERS = 20
STABLE = 10
SYBILS = 24
LOSS_PERCENT = 5
NAME = rendezvous_name("play", "BTC/USD")
# As far away as can be: names that begin alike have the same keepers.
OTHER = bytes(byte ^ 0xFF for byte in NAME)
INVENTED = [b"\x0a\x09\x09%c\x02\x9a" % number for number in range(100)]


class Sybil:
    """Sits next to a name, answers with invented peers, and keeps nothing that is announced."""

    def __init__(self, number: int, victims: list[Address]) -> None:
        """Its id shares all but the last bytes with the name; every victim hears of it."""
        self.node_id = NAME[:-2] + number.to_bytes(2, "big")
        self.asked = 0
        self._out = [
            (krpc.encode_query(b"tt", b"ping", self.node_id, {}), victim) for victim in victims
        ]

    def receive_datagram(self, raw: bytes, address: Address, now_ms: int) -> None:
        """Answer whatever is asked as if all were well."""
        del now_ms
        message = krpc.decode_message(raw)
        if isinstance(message, krpc.Query):
            self.asked += 1
            values: dict[bytes, Value] = {b"token": b"t"}
            if message.method == b"get_peers":
                values[b"values"] = list(INVENTED)
            reply = krpc.encode_reply(message.transaction, self.node_id, values, address)
            self._out.append((reply, address))

    def handle_timer(self, now_ms: int) -> None:
        """Nothing is ever due."""

    def next_timer_ms(self) -> int:
        """Late."""
        return 1 << 62

    def datagrams_to_send(self) -> list[tuple[bytes, Address]]:
        """What waits."""
        out, self._out = self._out, []
        return out

    def events(self) -> list[Event]:
        """None."""
        return []


class Network:
    """The wire and who is on it; the first few stay, and one of them is each other's bootstrap."""

    def __init__(self, seed: int) -> None:
        """Start all nodes within ten seconds."""
        self.random = Random(seed)
        self.wire = Wire(loss_percent=LOSS_PERCENT, seed=seed, keep_sent=False)
        self.alive: dict[Address, DhtNode] = {}
        self.ports: dict[bytes, dict[Address, int]] = {NAME: {}, OTHER: {}}
        self._number = 0
        for _ in range(NODES):
            self.join()
            self.wire.run(50)

    def join(self) -> tuple[DhtNode, Address]:
        """Start one more node, which knows one of those that stay."""
        node, address = self.wire.node(self._number)
        self._number += 1
        if self.alive:
            known = self.random.choice(list(self.alive)[:STABLE])
            node.add_bootstrap([known], self.wire.now_ms)
        self.alive[address] = node
        return node, address

    def announce(self, name: bytes, count: int) -> None:
        """Let so many announce under `name`, each with a port of its own."""
        for address in self.random.sample(list(self.alive), count):
            port = 1_000 + len(self.ports[NAME]) + len(self.ports[OTHER])
            self.ports[name][address] = port
            self.alive[address].announce(name, port, self.wire.now_ms)

    def leave(self) -> None:
        """One of those that announce nothing vanishes without a word."""
        busy = {*list(self.alive)[:STABLE], *self.ports[NAME], *self.ports[OTHER]}
        address = self.random.choice([one for one in self.alive if one not in busy])
        self.wire.remove(address)
        del self.alive[address]

    def found(self, name: bytes) -> tuple[set[int], LookupDone]:
        """The ports that a newcomer finds."""
        node, address = self.join()
        self.wire.run(2_000)
        node.lookup(name, self.wire.now_ms)
        self.wire.run(DHT_LOOKUP_LIFE_MAX_MS)
        (done,) = (one for one in self.wire.events[address] if isinstance(one, LookupDone))
        return {port for _, port in done.peers}, done


def test_through_churn_and_loss_whoever_announces_is_found() -> None:
    """A third of all nodes is replaced within two minutes, and 5 % of all packets are lost."""
    network = Network(seed=1)
    network.announce(NAME, ANNOUNCERS)
    for _ in range(NODES // 3):
        network.leave()
        network.join()
        network.wire.run(2_000)
    for _ in range(3):
        ports, _ = network.found(NAME)
        assert ports == set(network.ports[NAME].values())


def test_sybils_that_own_a_name_hide_it_and_nothing_else_and_not_for_long() -> None:
    """The attack is real: more of them than keepers.  Four minutes after them it is over."""
    network = Network(seed=2)
    network.announce(NAME, 5)
    network.announce(OTHER, 5)
    network.wire.run(5_000)
    sybils = [Sybil(number, list(network.alive)) for number in range(SYBILS)]
    places = [("127.0.0.1", 60_000 + number) for number in range(SYBILS)]
    for place, sybil in zip(places, sybils, strict=True):
        network.wire.add(place, sybil)
    network.wire.run(4 * DHT_ANNOUNCE_EVERY_MS)

    told, done = network.found(NAME)
    assert all(sybil.asked for sybil in sybils)
    assert len(told) <= DHT_LOOKUP_PEERS_MAX
    assert done.duration_ms <= DHT_LOOKUP_LIFE_MAX_MS
    # Whoever announces and happens to be asked on the way answers for itself.
    assert len(told & set(network.ports[NAME].values())) <= 1
    assert network.found(OTHER)[0] >= set(network.ports[OTHER].values())

    for place in places:
        network.wire.remove(place)
    network.wire.run(6 * DHT_ANNOUNCE_EVERY_MS)
    assert network.found(NAME)[0] >= set(network.ports[NAME].values())
