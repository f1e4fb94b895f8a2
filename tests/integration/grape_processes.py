"""Real grapes as processes on free ports, started as their README does and ended with the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from tests.ldk import node_js
from zmqex.adapters.discovery.grape import Grape
from zmqex.adapters.discovery.http import post_json
from zmqex.errors import DiscoveryUnavailableError

HOST = "127.0.0.1"
# What the original system installs, and the newest.
VERSIONS = ("0.9.11", "1.0.0")
READY_S = 20.0
_POLL_S = 0.05


class GrapeProcess:
    """One grape: `dht_port` (UDP) and `url` (HTTP)."""

    def __init__(self, version: str, dht_port: int, api_port: int, others: list[int]) -> None:
        """Start it; it knows the DHT ports of the others."""
        self.version = version
        self.dht_port = dht_port
        self.url = f"http://{HOST}:{api_port}"
        known = ",".join(f"{HOST}:{port}" for port in others)
        node = node_js()
        start = node.folder / "node_modules" / f"grape-{version}" / "bin" / "grape.js"
        options = ["--dp", str(dht_port), "--aph", str(api_port), "--bn", known]
        self._process = subprocess.Popen(
            [node.program, start, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    async def ready(self) -> None:
        """Wait until it answers; fails if it has ended instead."""

        async def answers() -> bool:
            assert self._process.poll() is None, f"grape {self.version} has ended"
            with contextlib.suppress(DiscoveryUnavailableError):
                await Grape(self.url).lookup("is anybody there")
                return True
            return False

        await until(answers)

    async def call(self, name: str, data: object) -> object:
        """Ask its HTTP side for anything; None for an empty answer."""
        question = json.dumps({"rid": "r", "data": data}).encode()
        answer = await post_json(f"{self.url}/{name}", question)
        return json.loads(answer.body) if answer.body else None

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


async def until(look: Callable[[], Awaitable[bool]], seconds: float = READY_S) -> bool:
    """Ask again and again until the answer is yes; TimeoutError when the time is over."""
    async with asyncio.timeout(seconds):
        while True:
            if await look():
                return True
            await asyncio.sleep(_POLL_S)


def free_ports(count: int) -> list[int]:
    """Ports that neither UDP nor TCP uses at this moment."""
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            tcp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            udp.bind((HOST, 0))
            with contextlib.suppress(OSError):
                tcp.bind(udp.getsockname())
                found.append(udp.getsockname()[1])
        return found


def start_grapes(version: str, count: int = 2) -> list[GrapeProcess]:
    """Start grapes that know each other: all on this machine, as the README of grape does."""
    ports = free_ports(2 * count)
    dht_ports, api_ports = ports[:count], ports[count:]
    return [
        GrapeProcess(version, dht, api, [other for other in dht_ports if other != dht])
        for dht, api in zip(dht_ports, api_ports, strict=True)
    ]


@contextlib.asynccontextmanager
async def running_grapes(version: str, count: int = 2) -> AsyncIterator[list[GrapeProcess]]:
    """Yield ready grapes; end them afterwards."""
    with started(version, count) as found:
        for grape in found:
            await grape.ready()
        yield found


@contextlib.contextmanager
def started(version: str, count: int = 2) -> Iterator[list[GrapeProcess]]:
    """Yield started grapes; end them afterwards."""
    found = start_grapes(version, count)
    try:
        yield found
    finally:
        for grape in found:
            grape.end()
