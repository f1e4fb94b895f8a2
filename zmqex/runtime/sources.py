"""Where a node looks for others, besides its address book and what peers tell it.

The DHT, and the nodes of the same user on this machine.  Behind a proxy both are off: a UDP packet
or a direct connection would tell who we are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from zmqex.adapters.discovery.candidate import Candidate
from zmqex.adapters.discovery.dht import DhtDiscovery
from zmqex.config import Config, RunningNode, running_nodes
from zmqex.dht.names import rendezvous_name
from zmqex.errors import ConfigError
from zmqex.limits import LOCAL_LOOKS_S, LOOKUP_WAIT_MS

OnFound = Callable[[list[Candidate]], None]
_LOCAL: Final = "local"
_LOOPBACK: Final = "127.0.0.1"
_ANY_HOST: Final = {"0.0.0.0", "::"}  # noqa: S104 - compared, never bound


class Sources:
    """All that finds candidates for one node; `found` gets them, on the loop."""

    def __init__(self, config: Config, directory: Path, found: OnFound) -> None:
        """Nothing is opened yet."""
        self._config = config
        self._directory = directory
        self._found = found
        self._dht = None if config.proxy else DhtDiscovery(found)
        self._dht_neighbours: set[tuple[str, int]] = set()
        self._names = [rendezvous_name(config.network, market) for market in config.markets]

    async def open(self, hello_port: int) -> None:
        """Open the DHT node; raises ConfigError where its port is taken."""
        if self._dht is None:
            return
        config, wanted = self._config, self._config.dht_port
        port = hello_port if wanted is None else wanted
        try:
            await self._dht.start(config.bind_host, port, config.bootstrap)
        except ConfigError:
            if wanted is not None:
                raise
            await self._dht.start(config.bind_host, 0, config.bootstrap)

    async def close(self) -> None:
        """Look for nobody any more."""
        if self._dht is not None:
            await self._dht.close()

    @property
    def dht_port(self) -> int:
        """The UDP port of the DHT node; 0 where it is off."""
        return 0 if self._dht is None else self._dht.udp_port

    def begin(self, hello_port: int) -> None:
        """Announce us, and look for others from now on; `watch` must run too."""
        self._look_around()
        if self._dht is not None:
            for name in self._names:
                self._dht.announce(name, hello_port)
                self._dht.follow(name)

    async def watch(self) -> None:
        """Look again for nodes of this user, soon after the start and then now and then.

        Two that start at the same moment do not see each other at first.
        """
        for delay_s in _repeating_the_last(LOCAL_LOOKS_S):
            await asyncio.sleep(delay_s)
            self._look_around()

    def withdraw(self) -> None:
        """Announce us no more."""
        if self._dht is not None:
            for name in self._names:
                self._dht.withdraw(name)

    def wake(self) -> None:
        """Do everything anew: the machine slept, or its network changed."""
        self._look_around()
        if self._dht is not None:
            self._dht.wake()

    async def lookup(self) -> list[Candidate]:
        """Ask now."""
        found = [Candidate(host, one.hello_port, _LOCAL) for host, one in self._neighbours()]
        if self._dht is not None:
            for name in self._names:
                found += await self._dht.lookup(name, LOOKUP_WAIT_MS)
        return list(dict.fromkeys(found))

    def health(self) -> dict[str, Any]:
        """The DHT's counters; empty where it is off."""
        return {} if self._dht is None else self._dht.health()

    def has_any(self) -> bool:
        """Whether there is anybody to ask."""
        config, contacts = self._config, self.health().get("contacts")
        return bool(config.bootstrap or config.peers or contacts or self._neighbours())

    def _look_around(self) -> None:
        """Nodes of the same user on this machine; each is a DHT node to ask as well."""
        neighbours = self._neighbours()
        if neighbours:
            self._found([Candidate(host, node.hello_port, _LOCAL) for host, node in neighbours])
        new = [(host, node.dht_port) for host, node in neighbours if node.dht_port]
        new = [address for address in new if address not in self._dht_neighbours]
        if new and self._dht is not None:
            self._dht_neighbours.update(new)
            self._dht.add_bootstrap(new)

    def _neighbours(self) -> list[tuple[str, RunningNode]]:
        if self._config.proxy:
            return []
        others = [node for node in running_nodes() if node.data_dir != self._directory]
        return [(_LOOPBACK if one.host in _ANY_HOST else one.host, one) for one in others]


def _repeating_the_last(delays_s: Iterable[float]) -> Iterable[float]:
    delay_s = 0.0
    for delay_s in delays_s:
        yield delay_s
    while True:
        yield delay_s
