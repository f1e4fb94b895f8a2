"""Where a node looks for others, besides its address book and what peers tell it.

The DHT, grapes, and the nodes of the same user on this machine.  Behind a proxy all are off: a UDP
packet or a direct connection would tell who we are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Final

from zmqex.adapters.discovery.candidate import Candidate
from zmqex.adapters.discovery.contacts import read_contacts, write_contacts
from zmqex.adapters.discovery.dht import DhtDiscovery
from zmqex.adapters.discovery.grapes import GrapeDiscovery
from zmqex.config import Config, RunningNode, running_nodes
from zmqex.dht.names import rendezvous_name
from zmqex.errors import ConfigError, StorageError
from zmqex.limits import CONTACTS_SAVED_EVERY_S, LOCAL_LOOKS_S, LOOKUP_WAIT_MS
from zmqex.logs import get_logger
from zmqex.protocol.identity import Signer
from zmqex.runtime.record_items import RecordItems

OnFound = Callable[[list[Candidate]], None]
Spawn = Callable[[Coroutine[Any, Any, None]], None]
_CONTACTS_FILE: Final = "dht-contacts.json"
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
        self._log = get_logger()
        self._dht = None if config.proxy else DhtDiscovery(found)
        self._grapes = GrapeDiscovery(config.grapes, found, self._notice) if config.grapes else None
        self._records = RecordItems(self._dht, config.network, found) if self._dht else None
        self._dht_neighbours: set[tuple[str, int]] = set()
        self._contacts_path = directory / _CONTACTS_FILE
        self._names = [
            *(rendezvous_name(config.network, market) for market in config.markets),
            *(service.encode() for service in config.services),
        ]

    async def open(self, hello_port: int) -> None:
        """Open the DHT node; raises ConfigError where its port is taken."""
        if self._dht is None:
            return
        config, wanted, known = self._config, self._config.dht_port, self._known()
        port = hello_port if wanted is None else wanted
        try:
            await self._dht.start(config.bind_host, port, config.bootstrap, known)
        except ConfigError:
            if wanted is not None:
                raise
            await self._dht.start(config.bind_host, 0, config.bootstrap, known)

    async def close(self) -> None:
        """Look for nobody any more."""
        if self._dht is not None:
            self._remember()
            await self._dht.close()

    @property
    def dht_port(self) -> int:
        """The UDP port of the DHT node; 0 where it is off."""
        return 0 if self._dht is None else self._dht.udp_port

    def begin(self, hello_port: int, lost: Callable[[], Iterable[bytes]], spawn: Spawn) -> None:
        """Announce us, and look for others from now on.

        `lost`: the peers that are wanted and cannot be reached just now.
        """
        self._look_around()
        for name in self._names:
            if self._dht is not None:
                self._dht.announce(name, hello_port)
                self._dht.follow(name)
            if self._grapes is not None:
                self._grapes.announce(name.decode(), hello_port)
                self._grapes.follow(name.decode())
        if self._grapes is not None:
            spawn(self._grapes.run())
        if self._records is not None:
            spawn(self._records.seek_again_and_again(lost))
            spawn(self._remember_now_and_then())
        spawn(self._watch())

    def publish(self, record: bytes, signer: Signer) -> None:
        """Put our newest record where whoever knows our identity looks for it."""
        if self._records is not None:
            self._records.publish(record, signer)

    async def _watch(self) -> None:
        """Look again for nodes of this user, soon after the start and then now and then.

        Two that start at the same moment do not see each other at first.
        """
        for delay_s in _repeating_the_last(LOCAL_LOOKS_S):
            await asyncio.sleep(delay_s)
            self._look_around()

    def withdraw(self) -> None:
        """Announce us no more."""
        for name in self._names:
            if self._dht is not None:
                self._dht.withdraw(name)
            if self._grapes is not None:
                self._grapes.withdraw(name.decode())

    async def flushed(self) -> None:
        """Give the last record, that we leave, a moment to get around."""
        if self._records is not None:
            await self._records.flushed()

    def wake(self) -> None:
        """Do everything anew: the machine slept, or its network changed."""
        self._look_around()
        for source in (self._dht, self._grapes):
            if source is not None:
                source.wake()

    async def lookup(self) -> list[Candidate]:
        """Ask everybody for every name now."""
        asked: list[Coroutine[Any, Any, list[Candidate]]] = []
        for name in self._names:
            if self._dht is not None:
                asked.append(self._dht.lookup(name, LOOKUP_WAIT_MS))
            if self._grapes is not None:
                asked.append(self._grapes.lookup(name.decode()))
        found = [Candidate(host, one.hello_port, _LOCAL) for host, one in self._neighbours()]
        for part in await asyncio.gather(*asked):
            found += part
        return list(dict.fromkeys(found))

    def health(self) -> dict[str, Any]:
        """The DHT's counters, and how many nodes the operator has named; empty where it is off."""
        if self._dht is None:
            return {}
        return {**self._dht.health(), "bootstrap": len(self._config.bootstrap)}

    def grapes(self) -> dict[str, Any] | None:
        """The state of the grapes, and what is wrong with them; None where none are used."""
        if self._grapes is None:
            return None
        return {**self._grapes.health(), "warnings": self._grapes.warnings()}

    def warnings(self) -> list[str]:
        """What is wrong, each with what to do."""
        return [] if self._grapes is None else self._grapes.warnings()

    def has_any(self) -> bool:
        """Whether there is anybody to ask."""
        config, contacts = self._config, self.health().get("contacts")
        named = config.bootstrap or config.grapes or config.peers
        return bool(named or contacts or self._neighbours())

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

    def _notice(self, text: str) -> None:
        self._log.warning("grape_notice", notice=text)

    def _neighbours(self) -> list[tuple[str, RunningNode]]:
        if self._config.proxy:
            return []
        others = [node for node in running_nodes() if node.data_dir != self._directory]
        return [(_LOOPBACK if one.host in _ANY_HOST else one.host, one) for one in others]

    # --- the DHT nodes of the last run -----------------------------------------------------------

    def _known(self) -> list[tuple[str, int]]:
        try:
            return read_contacts(self._contacts_path)
        except StorageError as error:
            self._log.warning("contacts_not_read", why=str(error))
            return []

    async def _remember_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(CONTACTS_SAVED_EVERY_S)
            self._remember()

    def _remember(self) -> None:
        contacts = self._dht.contacts() if self._dht is not None else []
        if not contacts:
            return  # a network that is down for now is no reason to forget it
        try:
            write_contacts(self._contacts_path, contacts)
        except StorageError as error:
            self._log.warning("contacts_not_written", why=str(error))


def _repeating_the_last(delays_s: Iterable[float]) -> Iterable[float]:
    delay_s = 0.0
    for delay_s in delays_s:
        yield delay_s
    while True:
        yield delay_s
