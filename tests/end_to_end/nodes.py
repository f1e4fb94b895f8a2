"""Real nodes in processes of their own, and the ways to talk to them.

`Home` is one user's data home; `home.node("alice")` a node in it.  Commands go through the command
line (`cli`) or, where a test needs many, through the Python client (`call`).  Waiting is bounded
polling of a real condition.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil

from zmqex.client import Client
from zmqex.config import control_path, running_node
from zmqex.errors import NodeUnavailableError
from zmqex.kernel.commands import (
    Command,
    GetBook,
    GetStatus,
    ListOrders,
    ListPeers,
    ListTrades,
)

T = TypeVar("T")
BTC = 100_000_000
READY_S = 20.0
SEEN_S = 10.0
_POLL_S = 0.02
_NEVER = threading.Event()


def wait_for(what: str, look: Callable[[], T | None], seconds: float = SEEN_S) -> T:
    """Poll until `look` gives something true; fails with `what` when the time is over.

    A node that does not answer may be starting again: that is "not yet".
    """
    end = time.monotonic() + seconds
    while True:
        found = None
        with suppress(NodeUnavailableError):
            found = look()
        if found:
            return found
        if time.monotonic() > end:
            message = f"not within {seconds} s: {what}"
            raise AssertionError(message)
        pause()


def pause() -> None:
    """Let others run for a moment."""
    _NEVER.wait(_POLL_S)


class Node:
    """One node of a home."""

    def __init__(self, home: Home, name: str) -> None:
        """Name it; `start` makes it run."""
        self.home = home
        self.name = name
        self.directory = home.path / "zmqex" / "nodes" / name
        self.output = home.path / f"{name}.out"
        self.prefix: tuple[str, ...] = ()  # a program that runs it, like `ip netns exec`
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *flags: str, **environment: str) -> Node:
        """Start it and wait until it answers."""
        self.launch(*flags, **environment)
        return self.wait_ready()

    def launch(self, *flags: str, **environment: str) -> None:
        """Start it and go on."""
        program = [*self.prefix, sys.executable, "-m", "zmqex"]
        command = [*program, "--node", self.name, "serve", *flags]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                env={**self.home.environment, **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def keep(self, **environment: str) -> None:
        """Start it, and start it again as often as it ends: a supervisor without patience."""

        def launch() -> bool:
            with self.home.lock:
                if not self.home.closing:
                    self.launch("--no-restart", **environment)
                return not self.home.closing

        def tend() -> None:
            process = self.process
            while process is not None:
                process.wait()
                process = self.process if launch() else None

        launch()
        threading.Thread(target=tend, daemon=True).start()

    def wait_ready(self) -> Node:
        """Wait until it answers `status`."""
        wait_for(f"{self.name} answers\n{self.printed()}", self.status, READY_S)
        return self

    def printed(self) -> str:
        """What it has printed so far."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    # --- talking -----------------------------------------------------------------------------

    def call(self, command: Command, *, timeout_s: float = 15.0) -> dict[str, Any]:
        """Give a command through the Python client."""
        with Client(control_path(self.directory)) as client:
            return client.call(command, timeout_s=timeout_s)

    def status(self) -> dict[str, Any] | None:
        """Its status; None while it does not answer."""
        if running_node(self.directory) is None:
            return None
        try:
            return self.call(GetStatus(), timeout_s=2)
        except NodeUnavailableError:
            return None

    def cli(self, *words: str, code: int = 0) -> str:
        """Give a command through the command line; returns what it printed on stdout."""
        done = self.home.cli("--node", self.name, *words)
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def cli_json(self, *words: str) -> dict[str, Any]:
        """The same with --json."""
        answer: dict[str, Any] = json.loads(self.cli(*words, "--json"))
        return answer

    def findings(self, code: int) -> dict[str, dict[str, Any]]:
        """What its doctor finds while it runs, by what was checked, the worst of each."""
        answer = json.loads(self.cli("doctor", "--json", code=code))
        assert answer["running"]
        found = sorted(answer["findings"], key=lambda one: one["state"] == "wrong")
        return {one["check"]: one for one in found}

    # --- looking -----------------------------------------------------------------------------

    @property
    def identity(self) -> str:
        """Its id; it may be starting again."""
        return wait_for(f"{self.name} runs", lambda: running_node(self.directory)).identity

    @property
    def pid(self) -> int:
        """The node's process (not its supervisor)."""
        node = running_node(self.directory)
        assert node is not None
        return node.pid

    def trades(self) -> dict[str, dict[str, Any]]:
        """Its trades by id."""
        return {one["trade_id"]: one for one in self.call(ListTrades())["trades"]}

    def orders(self) -> list[dict[str, Any]]:
        """Its open orders."""
        orders: list[dict[str, Any]] = self.call(ListOrders())["orders"]
        return orders

    def book(self) -> dict[str, tuple[int, int]]:
        """Its book: remaining and held lots by order id."""
        shown = self.call(GetBook("BTC/USD", orders=True))
        return {
            one["order_id"]: (one["remaining_lots"], one["held_lots"]) for one in shown["orders"]
        }

    def takeable_lots(self, order_id: str) -> int:
        """What could be taken of an order now: 0 while its maker has not been heard."""
        for one in self.call(GetBook("BTC/USD", orders=True))["orders"]:
            if one["order_id"] == order_id and not one["stale"]:
                return int(one["available_lots"])
        return 0

    def balance_msat(self) -> int:
        """Its play balance, with what is in flight."""
        lightning = self.call(GetStatus())["lightning"]
        return int(lightning["balance_msat"] + lightning["in_flight_msat"])

    def wait_live(self, other: Node) -> None:
        """Wait until it is connected to another node."""
        identity = other.identity

        def live() -> bool:
            peers = self.call(ListPeers(), timeout_s=5)["peers"]
            return any(one["peer"] == identity and one["state"] == "live" for one in peers)

        wait_for(f"{self.name} is connected to {other.name}", live)

    def wait_book(
        self, order_id: str, remaining: int, held: int = 0, seconds: float = SEEN_S
    ) -> None:
        """Wait until its book shows this of an order."""
        expected = (remaining, held)
        wait_for(
            f"{self.name}'s book shows {expected}",
            lambda: self.book().get(order_id, (0, 0)) == expected,
            seconds,
        )

    def wait_state(self, trade_id: str, state: str, seconds: float = SEEN_S) -> None:
        """Wait until a trade is in a state."""
        wait_for(
            f"{self.name}'s trade is {state}",
            lambda: self.trades().get(trade_id, {}).get("state") == state,
            seconds,
        )

    def rows(self, database: str, query: str) -> list[tuple[Any, ...]]:
        """Read a database of a node that does not run."""
        path = self.directory / f"{database}.sqlite3"
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    # --- ending ------------------------------------------------------------------------------

    def kill(self) -> int:
        """Kill -9 the node's own process; returns its pid."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        return pid

    def stop(self) -> int:
        """Ask it to end as Ctrl-C does; returns its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=READY_S)


def pending(node: Node) -> list[Path]:
    """The commands of this node that still wait for their answer."""
    # A name that starts with a dot is a file that is still being written.
    return list((node.directory / "pending").glob("[!.]*"))


class Home:
    """One user's data home with its nodes."""

    def __init__(self, path: Path) -> None:
        """Everything lives below `path`."""
        self.path = path
        self.nodes: dict[str, Node] = {}
        self.lock = threading.Lock()
        self.closing = False
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("ZMQEX_")},
            "XDG_DATA_HOME": str(path),
            # Ports that no other home has used: a DHT remembers where its nodes were.
            **{f"ZMQEX_{name}_PORT": "0" for name in ("HELLO", "RPC", "ORDERS", "DHT")},
            "NO_COLOR": "1",
        }

    def node(self, name: str) -> Node:
        """The node with that name."""
        return self.nodes.setdefault(name, Node(self, name))

    def start(self, *names: str) -> list[Node]:
        """Start nodes side by side and wait until each is connected to all others."""
        nodes = [self.node(name) for name in names]
        for node in nodes:
            # One after the other, since each finds those that run before it.
            node.start()
        for node in nodes:
            for other in nodes:
                if other is not node:
                    node.wait_live(other)
        return nodes

    def cli(self, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        return subprocess.run(
            [sys.executable, "-m", "zmqex", *words],
            env={**self.environment, **extra},
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def close(self) -> None:
        """End every process that was started here, and everything that those started."""
        with self.lock:
            self.closing = True
        processes = []
        for node in self.nodes.values():
            if node.process is not None and node.process.poll() is None:
                family = psutil.Process(node.process.pid)
                processes += [family, *family.children(recursive=True)]
        for process in processes:
            _end(process)
        for node in self.nodes.values():
            if node.process is not None:
                node.process.wait(timeout=READY_S)


def _end(process: psutil.Process) -> None:
    try:
        process.send_signal(signal.SIGCONT)
        process.kill()
    except psutil.NoSuchProcess:
        return
