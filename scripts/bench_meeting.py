"""The meeting's rows of bench.py discovery: real `zmqex serve` processes find and keep each other.

Times are read off the nodes' own logs.  Floor: how long the same process takes to be ready at all,
which no way of finding others can beat.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil

from zmqex.adapters.clock import wall_ms
from zmqex.config import RunningNode, running_node
from zmqex.dht import bencode
from zmqex.dht.address import pack_address
from zmqex.dht.names import rendezvous_name

T = TypeVar("T")
Row = Mapping[str, object]

HOST = "127.0.0.1"
JOINERS = 20
CROWD = 20
SYBILS = 8
IDLE_S = 20.0
SLEEP_S = 7.0
PATIENCE_S = 60.0
_PAUSE = threading.Event()


def rows() -> list[Row]:
    """Measure everything."""
    return [*_first_peer(), *_crowd(), *_with_sybils(), *_after_sleep()]


# --- nodes -------------------------------------------------------------------------------------


class Serving:
    """One node's process; its times are Unix seconds."""

    def __init__(self, home: Path, name: str, *flags: str) -> None:
        """Start it, and go on."""
        self.directory = home / "zmqex" / "nodes" / name
        environment = {key: one for key, one in os.environ.items() if not key.startswith("ZMQEX_")}
        environment |= {"XDG_DATA_HOME": str(home)}
        environment |= {f"ZMQEX_{port}_PORT": "0" for port in ("HELLO", "RPC", "ORDERS", "DHT")}
        command = [sys.executable, "-m", "zmqex", "--node", name, "serve", "--no-restart", *flags]
        self.began_s = wall_ms() / 1_000
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def ready(self) -> RunningNode:
        """Wait until it serves."""
        return until(lambda: running_node(self.directory))

    def times_s(self, event: str) -> list[float]:
        """When it logged an event."""
        with suppress(OSError):
            lines = (self.directory / "logs" / "node.log").read_text().splitlines()
            found = [json.loads(line) for line in lines if f'"{event}"' in line]
            return [_seconds(one) for one in found if one["event"] == event]
        return []

    def serving_s(self) -> float:
        """When it began to serve."""
        return until(lambda: self.times_s("serving"))[-1]

    def live_s(self, count: int) -> float:
        """When so many peers had become live."""
        return until(lambda: times if len(times := self.times_s("peer_live")) >= count else None)[
            count - 1
        ]

    def stop(self) -> None:
        """End it at once, and its hold server with it."""
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


@contextmanager
def home() -> Iterator[tuple[Path, list[Serving]]]:
    """A user's home, whose nodes end with it."""
    path = Path(tempfile.mkdtemp(prefix="zb-"))
    nodes: list[Serving] = []
    try:
        yield path, nodes
    finally:
        for one in nodes:
            one.stop()
        shutil.rmtree(path, ignore_errors=True)


def until(look: Callable[[], T | None]) -> T:
    """Look again and again until there is something."""
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        found = look()
        if found:
            return found
        _PAUSE.wait(0.01)
    raise TimeoutError


def _seconds(line: Mapping[str, str]) -> float:
    return dt.datetime.fromisoformat(line["time"]).timestamp()


def _ms(seconds: float) -> float:
    return round(seconds * 1_000, 1)


# --- a first peer ------------------------------------------------------------------------------


def _first_peer() -> list[Row]:
    """One node after the other joins one that runs: found on this machine, without a DHT's help."""
    first, start = [], []
    with home() as (path, nodes):
        nodes.append(Serving(path, "host"))
        nodes[0].ready()
        for number in range(JOINERS):
            joiner = Serving(path, f"joiner{number}")
            nodes.append(joiner)
            first.append(joiner.live_s(1) - joiner.serving_s())
            start.append(joiner.serving_s() - joiner.began_s)
            nodes.pop().stop()
    p95 = sorted(first)[-max(1, len(first) // 20) - 1]
    median, ready = _ms(statistics.median(first)), _ms(statistics.median(start))
    return [
        {
            "name": f"serving -> first verified peer, p95 of {JOINERS}",
            "value": _ms(p95),
            "unit": "ms (goal 300)",
            "best": _ms(min(first)),
            "floor": "median, and process start -> serving",
            "floor_value": f"{median} and {ready} ms",
        }
    ]


# --- a crowd -----------------------------------------------------------------------------------


def _crowd() -> list[Row]:
    """Nodes started together: the last is connected to all, all to it, and then nothing happens."""
    with home() as (path, nodes):
        nodes += [Serving(path, f"n{number}") for number in range(CROWD + 1)]
        served = [one.serving_s() for one in nodes]
        meshed = [one.live_s(CROWD) for one in nodes]
        _PAUSE.wait(10.0)  # the first exchange and the first look-ups are over
        processes = [psutil.Process(one.process.pid) for one in nodes]
        used, began_s = _used_s(processes), time.monotonic()
        _PAUSE.wait(IDLE_S)
        share = (_used_s(processes) - used) / (time.monotonic() - began_s) / len(nodes)
        store = [child for one in processes for child in one.children(recursive=True)]
        resident = statistics.median(one.memory_info().rss for one in processes)
    return [
        {
            "name": f"{CROWD + 1} nodes started together: last serving -> all meshed",
            "value": round(max(meshed) - max(served), 2),
            "unit": "s (goal 3)",
            "floor": "first process -> last serving",
            "floor_value": f"{max(served) - min(one.began_s for one in nodes):.2f} s",
        },
        {
            "name": f"idle node with {CROWD} peers",
            "value": round(share * 100, 2),
            "unit": "% of a core (goal 0.5)",
            "floor": f"resident memory; hold servers beside them: {len(store)}",
            "floor_value": f"{resident / 2**20:.0f} MiB",
        },
    ]


def _used_s(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in processes)


# --- sybils ------------------------------------------------------------------------------------


class Sybils:
    """DHT nodes whose ids are next to a name: they swallow every announce, and name only silence.

    Each names addresses that take a connection and never say a word.
    """

    def __init__(self, name: bytes, count: int) -> None:
        """Answer from now on."""
        self._ids = [name[:-1] + bytes([name[-1] ^ number]) for number in range(1, count + 1)]
        self._sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in self._ids]
        for one in self._sockets:
            one.bind((HOST, 0))
        self._silent = [socket.create_server((HOST, 0), backlog=128) for _ in range(50)]
        self.ports = [one.getsockname()[1] for one in self._sockets]
        self._threads = [
            threading.Thread(target=self._answer, args=pair, daemon=True)
            for pair in zip(self._ids, self._sockets, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Answer nobody any more."""
        for one in (*self._sockets, *self._silent):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _answer(self, own_id: bytes, sock: socket.socket) -> None:
        pairs = zip(self._ids, self.ports, strict=True)
        contacts = b"".join(node + pack_address((HOST, port)) for node, port in pairs)
        peers = [pack_address((HOST, one.getsockname()[1])) for one in self._silent]
        with suppress(OSError):
            while True:
                raw, sender = sock.recvfrom(8_192)
                if not raw:
                    return  # closed
                asked: Any = bencode.decode(raw)
                if asked.get(b"y") != b"q":
                    continue
                said: dict[bytes, Any] = {b"id": own_id, b"nodes": contacts}
                if asked[b"q"] == b"get_peers":
                    said |= {b"token": b"token", b"values": peers}
                reply = {b"t": asked[b"t"], b"y": b"r", b"r": said}
                sock.sendto(bencode.encode(reply), sender)


def _with_sybils() -> list[Row]:
    """A newcomer whose whole DHT is sybils knows one peer by name, and finds the third by it."""
    taken = []
    for count in (0, SYBILS):
        sybils = Sybils(rendezvous_name("play", "BTC/USD"), count)
        flags = [word for port in sybils.ports for word in ("--bootstrap", f"{HOST}:{port}")]
        # Each in a home of its own: they do not see each other on this machine.
        with home() as (one, nodes), home() as (two, others), home() as (three, newcomers):
            nodes.append(Serving(one, "alice", *flags))
            to_alice = f"{HOST}:{nodes[0].ready().hello_port}"
            others.append(Serving(two, "bob", *flags, "--peer", to_alice))
            others[0].live_s(1)
            to_bob = f"{HOST}:{others[0].ready().hello_port}"
            newcomers.append(Serving(three, "carol", *flags, "--peer", to_bob))
            taken.append(newcomers[0].live_s(2) - newcomers[0].serving_s())
        sybils.close()
    return [
        {
            "name": f"{SYBILS} sybils own the DHT's name: serving -> two peers by other sources",
            "value": _ms(taken[1]),
            "unit": "ms (goal 5000)",
            "floor": "without sybils",
            "floor_value": f"{_ms(taken[0])} ms",
        }
    ]


# --- sleep -------------------------------------------------------------------------------------


def _after_sleep() -> list[Row]:
    """A node is stopped for longer than its peers wait, and goes on."""
    with home() as (path, nodes):
        nodes += [Serving(path, name) for name in ("alice", "bob")]
        for one in nodes:
            one.live_s(1)
        nodes[1].process.send_signal(signal.SIGSTOP)
        _PAUSE.wait(SLEEP_S)
        nodes[1].process.send_signal(signal.SIGCONT)
        woke_s = wall_ms() / 1_000
        back_s = nodes[1].live_s(2)
    return [
        {
            "name": f"stopped for {SLEEP_S:.0f} s: going on -> connected anew",
            "value": _ms(back_s - woke_s),
            "unit": "ms (goal 5000)",
        }
    ]
