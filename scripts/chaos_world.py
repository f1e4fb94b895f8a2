"""The processes of a chaos round, and what can be done to them."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import redis
from chaos_takers import UNIT

from zmqex.adapters.holds.binary import find_server
from zmqex.client import Client
from zmqex.config import control_path
from zmqex.errors import NodeUnavailableError, RefusedError, ZmqexError
from zmqex.kernel.commands import Command, GetStatus, ListOrders, ListTrades, PlaceOrder

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
UNITS = 3
PRICE = 6_500_000
START_S = 40.0
CALL_S = 3.0
_HOLDING = ("reserved", "invoiced", "cancelling")

# `$$` stays the process id of the program, which replaces this shell.  A line on the pipe means
# that the program has ended already; the end of the pipe means that the chaos run has.
_GUARD = """
exec 3<&0 </dev/null
( read -r ended <&3 || kill -KILL $$ ) >/dev/null 2>&1 &
exec "$@" 3<&-
"""

Fault = Callable[[random.Random], None]


class WorldOfProcesses:
    """One maker, its Redis and groups of takers."""

    def __init__(self, folder: Path, scheme: str, holds: str, ttl_s: int) -> None:
        """Nothing runs yet."""
        self.folder = folder
        self.holds = holds
        self.maker_directory = folder / "maker"
        self._takers_directory = folder / "t"
        self._redis_directory = folder / "redis"
        self._scheme = scheme
        self._ttl_s = ttl_s
        self._prompt = 0
        self._ports = _free_ports("redis", "hello", "rpc", "orders")
        self._redis_url = f"redis://127.0.0.1:{self._ports['redis']}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._guards: dict[str, int] = {}  # pipes whose end ends their process
        self._groups: dict[str, tuple[int, int]] = {}
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("ZMQEX_")},
            "XDG_DATA_HOME": str(folder),
            # What a supervisor would say: a maker that is started again is no other copy.
            "ZMQEX_RUN": "chaos",
        }

    # --- the life of a round -----------------------------------------------------------------

    def start(self, takers: int, groups: int, prompt: int) -> None:
        """Start everything and wait until the takers are there."""
        self._prompt = prompt
        for directory in (self._takers_directory, self._redis_directory):
            directory.mkdir(mode=0o700)
        self._start_redis()
        self._start_maker()
        self._wait(lambda: self._status() is not None, "the maker answers")
        for group in range(groups):
            first = group * takers // groups
            self._groups[f"takers {group}"] = first, (group + 1) * takers // groups - first
        for name in self._groups:
            self._start_takers(name)
        self._wait(lambda: self._live() >= takers * 9 // 10, "the takers are connected")

    def place_order(self) -> None:
        """Bid for three units."""
        self._call(PlaceOrder("BTC/USD", "buy", UNITS * UNIT, PRICE))

    def wait_settled(self, within_s: float) -> float:
        """Wait until all is sold and nothing is held; how long that took, at most `within_s`."""
        return self._until(self._is_settled, within_s)

    def wait_quiet(self, within_s: float) -> float:
        """Let whoever pays late do so, and wait until nothing is held; how long that took."""
        begun = time.monotonic()
        time.sleep(2 * self._ttl_s + 1)
        self._until(self._is_settled, within_s)
        return time.monotonic() - begun

    def trades(self) -> dict[str, str]:
        """The maker's trades: state by id."""
        answer = self._call(ListTrades(ended=True))
        return {one["trade_id"]: one["state"] for one in answer["trades"]}

    def taker_directories(self) -> list[Path]:
        """Where the takers have their files."""
        return sorted(self._takers_directory.glob("taker-*"))

    def stop(self) -> None:
        """Let the takers find out how their payments ended, then stop the maker."""
        for name in self._groups:
            self._processes[name].send_signal(signal.SIGTERM)
        for name in self._groups:
            self._processes[name].wait(START_S)
        self._processes["maker"].send_signal(signal.SIGTERM)
        self._processes["maker"].wait(START_S)

    def kill(self) -> None:
        """End whatever still runs; who asks for it twice does not keep it from being done once."""
        asked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        for name, process in self._processes.items():
            process.kill()
            process.wait()
            self._dismiss(name)
        signal.pthread_sigmask(signal.SIG_SETMASK, asked)

    # --- faults ------------------------------------------------------------------------------

    def faults(self) -> dict[str, Fault]:
        """Every fault by name."""
        return {
            "maker killed": lambda _rng: self._again("maker", self._start_maker),
            "maker paused": lambda rng: self._pause("maker", rng.uniform(0.5, 1.5 * self._ttl_s)),
            "redis killed": lambda _rng: self._again("redis", self._start_redis),
            "redis killed without its file": lambda _rng: self._lose_redis(),
            "redis paused": lambda rng: self._pause("redis", rng.uniform(0.5, 1.5 * self._ttl_s)),
            "redis wiped": lambda _rng: self._wipe_redis(),
            "takers killed": self._kill_takers,
            "takers paused": lambda rng: self._pause(
                rng.choice(sorted(self._groups)), rng.uniform(0.5, 1.5 * self._ttl_s)
            ),
        }

    def mend(self) -> None:
        """The last fault is over: see that everything runs."""
        for name, start in (("redis", self._start_redis), ("maker", self._start_maker)):
            if self._processes[name].poll() is not None:
                start()

    def _again(self, name: str, start: Callable[[], None]) -> None:
        self._processes[name].kill()
        self._processes[name].wait()
        start()

    def _pause(self, name: str, seconds: float) -> None:
        with suppress(ProcessLookupError):
            self._processes[name].send_signal(signal.SIGSTOP)
            time.sleep(seconds)
            self._processes[name].send_signal(signal.SIGCONT)

    def _lose_redis(self) -> None:
        self._processes["redis"].kill()
        self._processes["redis"].wait()
        shutil.rmtree(self._redis_directory / "appendonlydir", ignore_errors=True)
        self._start_redis()

    def _wipe_redis(self) -> None:
        with (
            suppress(redis.RedisError),
            redis.Redis.from_url(self._redis_url, socket_timeout=CALL_S) as client,
        ):
            client.flushall()

    def _kill_takers(self, rng: random.Random) -> None:
        name = rng.choice(sorted(self._groups))
        self._again(name, lambda: self._start_takers(name))

    # --- starting ----------------------------------------------------------------------------

    def _start_redis(self) -> None:
        words = ["--port", str(self._ports["redis"]), "--bind", "127.0.0.1", "--save", ""]
        words += ["--appendonly", "yes", "--appendfsync", "everysec"]
        self._run("redis", [str(find_server().path), *words], self._redis_directory)

    def _start_maker(self) -> None:
        program = ["-m", "zmqex"]
        if self._scheme == "naive":
            program = [str(SCRIPTS / "chaos_naive.py")]
        words = ["--data-dir", str(self.maker_directory), "serve", "--no-restart"]
        words += ["--log-level", "error", "--redis", self._redis_url, "--holds", self.holds]
        words += ["--hold-ttl", f"{self._ttl_s}s", "--dht-port", "0"]
        for name in ("hello", "rpc", "orders"):
            words += [f"--{name}-port", str(self._ports[name])]
        self._run("maker", [sys.executable, *program, *words], ROOT)

    def _start_takers(self, name: str) -> None:
        first, number = self._groups[name]
        words = [str(self._takers_directory), str(first), str(number), str(self._ports["hello"])]
        words += [self._redis_url, str(self._ttl_s * 1_000), str(self._prompt)]
        self._run(name, [sys.executable, str(SCRIPTS / "chaos_takers.py"), *words], ROOT)

    def _run(self, name: str, command: list[str], directory: Path) -> None:
        """Start a process that ends with this one, however that ends."""
        self._dismiss(name)
        waiting, self._guards[name] = os.pipe()
        with (self.folder / f"{name}.out").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "chaos", *command],
                cwd=directory,
                env=self._environment,
                stdin=waiting,
                stdout=output,
                stderr=output,
            )
        os.close(waiting)

    def _dismiss(self, name: str) -> None:
        """Tell the guard of a process that has ended, so that it kills nobody."""
        guard = self._guards.pop(name, -1)
        if guard >= 0:
            with suppress(BrokenPipeError):
                os.write(guard, b"ended\n")
            os.close(guard)

    # --- asking the maker --------------------------------------------------------------------

    def _status(self) -> dict[str, Any] | None:
        with suppress(ZmqexError):
            return self._once(GetStatus())
        return None

    def _live(self) -> int:
        status = self._status()
        return int(status["peers"]["live"]) if status else 0

    def _is_settled(self) -> bool:
        try:
            orders = self._once(ListOrders(closed=True))["orders"]
            trades = self._once(ListTrades(ended=True))["trades"]
        except ZmqexError:
            return False
        held = any(one["state"] in _HOLDING for one in trades)
        return not held and any(one["filled_lots"] >= UNITS * UNIT for one in orders)

    def _call(self, command: Command) -> dict[str, Any]:
        """Give a command until it is answered."""
        answers: list[dict[str, Any]] = []

        def asked() -> bool:
            with suppress(NodeUnavailableError, RefusedError):
                answers.append(self._once(command))
            return bool(answers)

        self._wait(asked, f"{command} is answered")
        return answers[0]

    def _once(self, command: Command) -> dict[str, Any]:
        with Client(control_path(self.maker_directory)) as client:
            return client.call(command, timeout_s=CALL_S)

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        if self._until(condition, START_S) >= START_S:
            output = "".join(one.read_text()[-2_000:] for one in self.folder.glob("*.out"))
            raise RuntimeError(f"not within {START_S} s: {what}\n{output}")

    def _until(self, condition: Callable[[], bool], within_s: float) -> float:
        """Poll; how many seconds it took, `within_s` if it never was so."""
        begun = time.monotonic()
        while not condition():
            if time.monotonic() - begun > within_s:
                return within_s
            time.sleep(0.2)
        return time.monotonic() - begun


def _free_ports(*names: str) -> dict[str, int]:
    """A port for each name; all are taken before any is given back, or two could be the same."""
    with ExitStack() as probes:
        taken = {name: probes.enter_context(socket.socket()) for name in names}
        for probe in taken.values():
            probe.bind(("127.0.0.1", 0))
        return {name: probe.getsockname()[1] for name, probe in taken.items()}
