"""Who fills how much of something that is scarce: addresses, dials under way, connected peers.

One rule for all three: no source fills more than half, no subnet more than a sixteenth.  So whoever
owns one source, like the names of a DHT, or one subnet, leaves room for everybody else.
"""

from __future__ import annotations

import functools
import ipaddress
from collections import Counter
from collections.abc import Collection
from typing import Final

from zmqex.dht.address import Scope, scope_of

SOURCE_SHARE: Final = 2
SUBNET_SHARE: Final = 16
_SUBNET_BITS: Final = {4: 16, 6: 32}  # what one customer of a provider may get at once
_CACHED_HOSTS: Final = 4_096


@functools.lru_cache(_CACHED_HOSTS)
def subnet_of(host: str) -> str:
    """What one party may own in bulk; "" on this machine and in private networks.

    A name stands for itself: names cost as little as sources allow.
    """
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host.lower()
    if scope_of(host) is not Scope.PUBLIC:
        return ""
    return str(ipaddress.ip_network((ip, _SUBNET_BITS[ip.version]), strict=False))


class Shares:
    """Counts what sources and subnets fill of `most` places."""

    def __init__(self, filled: Collection[tuple[str, str]] = ()) -> None:
        """Start with these sources and hosts."""
        self.total = len(filled)
        self._sources = Counter(source for source, _ in filled)
        self._subnets = Counter(filter(None, (subnet_of(host) for _, host in filled)))

    def add(self, source: str, host: str) -> None:
        """One more of this source and subnet."""
        self._count(source, host, 1)

    def remove(self, source: str, host: str) -> None:
        """One less; it was added with the same words."""
        self._count(source, host, -1)

    def load(self, source: str, host: str) -> tuple[int, int]:
        """How much this source, and this subnet, fills now."""
        subnet = subnet_of(host)
        return self._sources[source], self._subnets[subnet] if subnet else 0

    def why_not(self, most: int, source: str, host: str, *, pinned: bool = False) -> str:
        """Why one more does not fit into `most` places; "" if it does.

        What the operator named is bound by the number of places alone.
        """
        if self.total >= most:
            return f"all {most} places are taken"
        return "" if pinned else self.excess(most, source, host)

    def excess(self, most: int, source: str, host: str) -> str:
        """Whose share of `most` places one more would exceed; "" for nobody's."""
        by_source, by_subnet = self.load(source, host)
        if by_source >= max(most // SOURCE_SHARE, 1):
            return f"source {source} fills half of {most} places"
        if by_subnet >= max(most // SUBNET_SHARE, 1):
            return f"subnet {subnet_of(host)} fills a sixteenth of {most} places"
        return ""

    def _count(self, source: str, host: str, by: int) -> None:
        self.total += by
        self._sources[source] += by
        subnet = subnet_of(host)
        if subnet:
            self._subnets[subnet] += by
            if not self._subnets[subnet]:
                del self._subnets[subnet]
