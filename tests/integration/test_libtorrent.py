"""libtorrent, a DHT that we did not write: announces and items go both ways, over IPv4 and IPv6."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.integration.grape_processes import until
from tests.unit.dht_items import KEY, PUBLIC, WHERE, item
from zmqex.adapters.discovery.candidate import Candidate
from zmqex.adapters.discovery.dht import DhtDiscovery
from zmqex.dht.items import ItemKey
from zmqex.dht.names import rendezvous_name

libtorrent = pytest.importorskip("libtorrent", reason="no wheel of libtorrent for this Python")

NAME = rendezvous_name("play", "BTC/USD")
families = pytest.mark.parametrize("host", ["127.0.0.1", "::1"])


class Session:
    """A libtorrent session that knows one node of ours."""

    def __init__(self, host: str, port: int) -> None:
        """Listen on loopback; its limits per address would only see one address there."""
        listen = f"[{host}]:0" if ":" in host else f"{host}:0"
        self.dht = libtorrent.session(
            {
                "listen_interfaces": listen,
                "enable_dht": True,
                "enable_lsd": False,
                "enable_upnp": False,
                "enable_natpmp": False,
                "dht_bootstrap_nodes": "",
                "dht_restrict_routing_ips": False,
                "dht_restrict_search_ips": False,
                "dht_block_ratelimit": 1_000,
                "alert_mask": libtorrent.alert.category_t.all_categories,
            }
        )
        self.dht.add_dht_node((host, port))

    async def hear(
        self, kind: type, wanted: Callable[[Any], object], ask: Callable[[], object]
    ) -> Any:  # noqa: ANN401 - its alerts have no types
        """Ask again and again until an alert of this kind is as wanted."""
        heard: list[Any] = []

        async def answered() -> bool:
            ask()
            await asyncio.to_thread(self.dht.wait_for_alert, 200)
            alerts = self.dht.pop_alerts()
            heard.extend(one for one in alerts if isinstance(one, kind) and wanted(one))
            return bool(heard)

        await until(answered)
        return heard[0]


@asynccontextmanager
async def neighbours(host: str) -> AsyncIterator[tuple[DhtDiscovery, Session]]:
    """Yield a node of ours and a session that joins it."""
    node = DhtDiscovery()
    await node.start(host, 0)
    try:
        yield node, Session(host, node.udp_port)
    finally:
        await node.close()


@families
def test_announces_go_both_ways(host: str) -> None:
    """Under the default name of 20 bytes, which it needs."""

    async def story() -> None:
        async with neighbours(host) as (node, session):
            name = libtorrent.sha1_hash(NAME)
            node.announce(NAME, 501)
            found = await session.hear(
                libtorrent.dht_get_peers_reply_alert,
                lambda alert: alert.peers(),
                lambda: session.dht.dht_get_peers(name),
            )
            assert (host, 501) in found.peers()

            session.dht.dht_announce(name, 502, 0)

            async def is_found() -> bool:
                return Candidate(host, 502, "dht") in await node.lookup(NAME, 2_000)

            assert await until(is_found)

    asyncio.run(story())


@families
def test_items_go_both_ways(host: str) -> None:
    """Ours with its signature is read there, and what it signs with the same key is read here."""

    async def story() -> None:
        async with neighbours(host) as (node, session):

            async def is_joined() -> bool:
                return bool(node.contacts())

            assert await until(is_joined)
            assert await node.stored(node.publish(item(5)), 3_000) == 1
            read = await session.hear(
                libtorrent.dht_mutable_item_alert,
                lambda alert: alert.seq > 0,
                lambda: session.dht.dht_get_mutable_item(PUBLIC, WHERE.salt),
            )
            assert (read.key, read.seq, read.salt) == (PUBLIC, 5, WHERE.salt)
            assert (read.item, read.signature) == (b"here", item(5).signature)

            theirs = ItemKey(PUBLIC, b"theirs")
            session.dht.dht_put_mutable_item(_expanded(), PUBLIC, b"from there", theirs.salt)

            async def is_put() -> bool:
                found = await node.get(theirs, 2_000)
                return found is not None and found.value == b"from there"

            assert await until(is_put)

    asyncio.run(story())


def _expanded() -> bytes:
    """Return the key as libtorrent keeps it: hashed and clamped (RFC 8032, 5.1.5)."""
    raw = bytearray(hashlib.sha512(bytes(KEY)).digest())
    raw[0] &= 248
    raw[31] = raw[31] & 63 | 64
    return bytes(raw)
