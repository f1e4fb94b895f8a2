"""DHT nodes of ours on real sockets, and what they find."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from zmqex.adapters.discovery.candidate import Candidate
from zmqex.adapters.discovery.dht import DhtDiscovery
from zmqex.dht.names import rendezvous_name

NAME = rendezvous_name("play", "BTC/USD")
PATIENCE_S = 5.0


class Found:
    """Collects candidates and wakes who waits for them."""

    def __init__(self) -> None:
        """Nothing is found yet."""
        self.ports: set[int] = set()
        self._more = asyncio.Event()

    def __call__(self, candidates: list[Candidate]) -> None:
        """Take what discovery calls with."""
        assert all(candidate.source == "dht" for candidate in candidates)
        self.ports.update(candidate.port for candidate in candidates)
        self._more.set()

    async def until(self, *ports: int) -> bool:
        """Wait until all of `ports` were found."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.ports.issuperset(ports):
                self._more.clear()
                await self._more.wait()
        return True


@asynccontextmanager
async def running(
    bootstrap: list[tuple[str, int]],
    on_candidates: Callable[[list[Candidate]], None] | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[DhtDiscovery]:
    """Yield a started node; close it afterwards."""
    discovery = DhtDiscovery(on_candidates)
    await discovery.start(host, 0, bootstrap)
    try:
        yield discovery
    finally:
        await discovery.close()


def has_ipv6() -> bool:
    """Whether this machine has an IPv6 loopback."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
