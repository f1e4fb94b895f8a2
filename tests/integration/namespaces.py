"""A network of hosts with addresses of their own, on one machine: run as a program by its test.

Started in a network namespace where it is root (`unshare`), it makes a switch and a namespace for
each host, runs a DHT node in each, cuts one off and heals it, and prints as JSON what each saw.
Everything is gone when it ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
from typing import Any, Final

from zmqex.adapters.discovery.dht import DhtDiscovery
from zmqex.dht.names import rendezvous_name

NAME: Final = rendezvous_name("play", "BTC/USD")
# Public ones, so that the rules for strangers from afar hold; nothing leaves the namespace.
HOSTS: Final = ("11.0.0.1", "12.0.0.2", "13.0.0.3")
PORT: Final = 7_100
IP, MOUNT = (shutil.which(name) or name for name in ("ip", "mount"))
WAIT_MS: Final = 3_000
ROUNDS: Final = 100
# Root of this machine, or of a user namespace where that may make networks.
UNSHARE: Final = [
    *("unshare", "--net", "--mount", "--propagation", "private"),
    *([] if os.geteuid() == 0 else ["--map-root-user"]),
]
_NEVER: Final = threading.Event()
_POLL_S: Final = 0.05


async def _host(number: int) -> None:
    """Be one host: a node that announces and follows, and answers lines on standard input."""
    node = DhtDiscovery()
    await node.start(HOSTS[number], PORT, [(HOSTS[0], PORT)] if number else [])
    node.announce(NAME, PORT)
    node.follow(NAME)
    while line := await asyncio.to_thread(sys.stdin.readline):
        if line.strip() == "wake":
            node.wake()
        found = await node.lookup(NAME, WAIT_MS)
        seen = {"found": sorted({one.host for one in found}), **node.health()}
        sys.stdout.write(json.dumps(seen) + "\n")
        sys.stdout.flush()
    await node.close()


class Host:
    """A host's process."""

    def __init__(self, number: int) -> None:
        """Start it in its namespace."""
        program = [sys.executable, "-m", "tests.integration.namespaces", str(number)]
        self.process = subprocess.Popen(
            [IP, "netns", "exec", f"host{number}", *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, line: str = "") -> dict[str, Any]:
        """Let it look around; what it saw."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        seen: dict[str, Any] = json.loads(self.process.stdout.readline())
        return seen

    def until(self, *found: str) -> dict[str, Any]:
        """Let it look until it finds these, or often enough; what it saw last."""
        seen = self.ask()
        for _ in range(ROUNDS):
            if set(found) <= set(seen["found"]):
                break
            _NEVER.wait(_POLL_S)
            seen = self.ask()
        return seen


def why_not() -> str:
    """Why no networks can be made on this machine; "" if they can."""
    if shutil.which("ip") is None:
        return "there is no program `ip`"
    probe = "ip link add one type veth peer name other && ip netns add probe"
    tried = subprocess.run(
        [*UNSHARE, "sh", "-c", f"mount -t tmpfs none /run && {probe}"],
        capture_output=True,
        text=True,
        check=False,
    )
    return tried.stderr.strip()[-200:] or "unshare failed" if tried.returncode else ""


def ip(*words: str) -> None:
    """Change the network."""
    subprocess.run([IP, *words], check=True)


def build() -> None:
    """One switch, one namespace a host, and a route to everybody."""
    subprocess.run([MOUNT, "-t", "tmpfs", "none", "/run"], check=True)
    ip("link", "set", "lo", "up")
    ip("link", "add", "switch0", "type", "bridge")
    ip("link", "set", "switch0", "up")
    for number, address in enumerate(HOSTS):
        inside = ("-n", f"host{number}")
        ip("netns", "add", f"host{number}")
        pair = ("peer", "name", "eth0", "netns", f"host{number}")
        ip("link", "add", f"port{number}", "type", "veth", *pair)
        ip("link", "set", f"port{number}", "master", "switch0", "up")
        ip(*inside, "addr", "add", f"{address}/32", "dev", "eth0")
        ip(*inside, "link", "set", "lo", "up")
        ip(*inside, "link", "set", "eth0", "up")
        ip(*inside, "route", "add", "default", "dev", "eth0")


def _meet(hosts: list[Host]) -> list[dict[str, Any]]:
    """Let each look until it finds all; those that call the first one before that."""
    return [host.until(*HOSTS) for host in reversed(hosts)]


def _story() -> dict[str, list[dict[str, Any]]]:
    build()
    hosts = [Host(number) for number in range(len(HOSTS))]
    together = _meet(hosts)
    ip("link", "set", "port2", "down")
    cut = [hosts[2].ask(), hosts[0].ask(), hosts[1].ask()]
    ip("link", "set", "port2", "up")
    hosts[2].ask("wake")
    healed = _meet(hosts)
    for host in hosts:
        assert host.process.stdin is not None
        host.process.stdin.close()
        host.process.wait(timeout=10)
    return {"together": together, "cut": cut, "healed": healed}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(_host(int(sys.argv[1])))
    else:
        assert os.geteuid() == 0
        sys.stdout.write(json.dumps(_story()) + "\n")
