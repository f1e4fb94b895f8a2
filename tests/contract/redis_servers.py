"""Separate hold servers for tests: the distribution's redis-server, run in the foreground.

Over TCP and TLS with a password, over a Unix socket, and behind a Sentinel; on free ports of the
loopback, ended with the test.  No server of the system is started or touched.
"""

from __future__ import annotations

import asyncio
import gc
import shutil
import socket
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from zmqex.adapters.holds.port import HoldAnswer, Holds
from zmqex.adapters.holds.redis_holds import RedisHolds
from zmqex.errors import HoldsUnavailableError
from zmqex.limits import HOLD_TTL_MS

PASSWORD = "a:secret/with?marks"  # noqa: S105 - of a server that lives for one test
ORDER = b"o" * 32


@contextmanager
def redis_server(kind: str, directory: Path) -> Iterator[str]:
    """Run the distribution's redis-server in the foreground, and end it."""
    port, path = free_port(), directory / "s"
    quoted = PASSWORD.replace("/", "%2F").replace("?", "%3F")
    password = ["--requirepass", PASSWORD]
    arguments, url = {
        "unix": (["--port", "0", "--unixsocket", str(path)], f"unix://{path}"),
        "tcp": (["--port", str(port), *password], f"redis://:{quoted}@127.0.0.1:{port}/0"),
        "tls": (
            ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no", *password],
            f"rediss://:{quoted}@127.0.0.1:{port}/0?ssl_ca_certs={directory}/cert.pem",
        ),
    }[kind]
    if kind == "tls":
        make_certificate(directory)
        arguments += ["--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem"]
        arguments += ["--tls-ca-cert-file", "cert.pem"]
    with running(["--bind", "127.0.0.1", "--save", "", *arguments], url, directory):
        yield url


@contextmanager
def running(arguments: list[str], url: str, directory: Path) -> Iterator[None]:
    """Run redis-server with `arguments` until the test is done."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed (Debian package redis-server)")
    with subprocess.Popen(
        [program, *arguments], cwd=directory, stdout=subprocess.DEVNULL
    ) as server:
        try:
            asyncio.run(answering(url))
            forget_half_made_connections()
            yield
        finally:
            server.terminate()


def forget_half_made_connections() -> None:
    """Collect what a TLS handshake left that was cut off: asyncio complains of it in `__del__`.

    The complaint would be raised in whatever test the garbage collector happens to run.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


async def answering(url: str) -> None:
    """Wait until the server takes commands."""
    holds = RedisHolds.connect(url, identity=b"i" * 32)
    deadline = time.monotonic() + 5
    while True:
        try:
            await holds.ping()
        except HoldsUnavailableError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        else:
            await holds.close()
            return


def make_certificate(directory: Path) -> None:
    """Make a certificate for 127.0.0.1 that is its own authority."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(
        [program, "req", "-x509", *key, "-days", "2", *files, *names],
        cwd=directory,
        check=True,
        capture_output=True,
    )


def free_port() -> int:
    """A TCP port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def sentinel_of(port: int, directory: Path) -> Iterator[int]:
    """Run a Sentinel that watches the server on `port`."""
    own = free_port()
    config = directory / "sentinel.conf"
    config.write_text(
        f"port {own}\nbind 127.0.0.1\ndir {directory}\nsentinel monitor zmqex 127.0.0.1 {port} 1\n"
        "sentinel down-after-milliseconds zmqex 300\nsentinel failover-timeout zmqex 2000\n"
    )
    with running([str(config), "--sentinel"], f"redis://127.0.0.1:{own}", directory):
        yield own


async def reserve(
    holds: Holds,
    trade_id: bytes,
    quantity: int,
    *,
    capacity: int = 10,
    fence: int = 1,
    ttl_ms: int = HOLD_TTL_MS,
    order_id: bytes = ORDER,
) -> HoldAnswer:
    """Reserve with a test's usual numbers."""
    return await holds.reserve(
        order_id=order_id,
        trade_id=trade_id,
        quantity_lots=quantity,
        capacity_lots=capacity,
        fence=fence,
        ttl_ms=ttl_ms,
    )
