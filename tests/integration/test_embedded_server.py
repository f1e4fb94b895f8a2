"""The server that the node brings along: real processes, real kill -9."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from zmqex.adapters.holds.binary import KNOWN_BUILDS, ServerBinary, check_build, find_server
from zmqex.adapters.holds.choose import open_hold_server
from zmqex.adapters.holds.embedded import EmbeddedServer
from zmqex.adapters.holds.port import HoldOutcome
from zmqex.adapters.holds.redis_holds import RedisHolds
from zmqex.errors import ConfigError, HoldsUnavailableError
from zmqex.limits import SOCKET_PATH_BYTES_MAX

NODE, ORDER, TRADE = b"n" * 32, b"o" * 32, b"t" * 16


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that is the socket's too, with a short name."""
    return tmp_path_factory.mktemp("e")


@contextmanager
def started(place: Path) -> Iterator[EmbeddedServer]:
    """A server that is stopped again."""
    server = EmbeddedServer.start(place, place)
    try:
        yield server
    finally:
        server.stop()


def reserve(url: str, trade_id: bytes = TRADE) -> HoldOutcome:
    """Hold one of ten lots through a fresh client."""

    async def once() -> HoldOutcome:
        holds = RedisHolds.connect(url, identity=NODE, embedded=True)
        try:
            answer = await holds.reserve(
                order_id=ORDER,
                trade_id=trade_id,
                quantity_lots=1,
                capacity_lots=10,
                fence=1,
                ttl_ms=900_000,
            )
            return answer.outcome
        finally:
            await holds.close()

    return asyncio.run(once())


def until(condition: Callable[[], bool]) -> float:
    """Poll a real condition; answer how many seconds it took."""
    begun, pause = time.monotonic(), threading.Event()
    while not condition():
        assert time.monotonic() - begun < 5, "not within the time"
        pause.wait(0.005)
    return time.monotonic() - begun


def gone(pid: int) -> bool:
    """True when the process has ended, also where its parent has not noticed yet."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def guards_of(place: Path) -> list[int]:
    """Processes that still carry this directory in their command line."""
    return [
        process.pid
        for process in psutil.process_iter()
        if not gone(process.pid) and any(str(place) in word for word in words(process))
    ]


def words(process: psutil.Process) -> list[str]:
    """A process' command line, if it still has one."""
    try:
        line: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return line


def append_only_files(place: Path) -> list[Path]:
    """The files in which the server keeps its writes."""
    return sorted((place / "holds" / "appendonlydir").glob("*.incr.aof"))


@pytest.mark.alone
def test_the_first_answer_comes_within_a_quarter_second(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Start to the first PING under 250 ms, as the median of five on a busy machine."""
    taken = []
    for _ in range(5):
        place = tmp_path_factory.mktemp("e")
        begun = time.monotonic()
        with started(place) as server:
            taken.append(time.monotonic() - begun)
            assert server.alive()
    assert sorted(taken)[2] < 0.250, taken


def test_there_is_no_tcp_port_and_everything_is_private(place: Path) -> None:
    """A Unix socket for this user only; so are the directory and its files."""
    with started(place) as server:
        process = psutil.Process(server.pid)
        assert process.net_connections("inet") == []
        socket_path = Path(server.url.removeprefix("unix://"))
        assert stat.S_IMODE(socket_path.stat().st_mode) == 0o600
        assert stat.S_IMODE((place / "holds").stat().st_mode) == 0o700
        assert reserve(server.url) is HoldOutcome.RESERVED
        for path in (place / "holds").rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_stop_leaves_no_process_and_no_socket(place: Path) -> None:
    """The guard goes with the server, and stopping twice is fine."""
    with started(place) as server:
        pid = server.pid
        assert guards_of(place)
    server.stop()
    assert gone(pid)
    until(lambda: guards_of(place) == [])
    assert not (place / "r.sock").exists()
    assert not server.alive()
    with pytest.raises(HoldsUnavailableError):
        server.ensure_running()


def test_holds_survive_a_stop_and_a_start(place: Path) -> None:
    """The append-only file brings them back."""
    with started(place) as server:
        assert reserve(server.url) is HoldOutcome.RESERVED
    with started(place) as server:
        assert reserve(server.url) is HoldOutcome.ALREADY_YOURS
        assert not server.recovered


@pytest.mark.alone
def test_admission_is_back_soon_after_the_server_was_killed(place: Path) -> None:
    """Kill -9, then a hold on the same client in under 500 ms; nothing held is lost."""

    async def story(server: EmbeddedServer) -> float:
        holds = RedisHolds.connect(server.url, identity=NODE, embedded=True)

        async def take(trade_id: bytes) -> HoldOutcome:
            answer = await holds.reserve(
                order_id=ORDER,
                trade_id=trade_id,
                quantity_lots=1,
                capacity_lots=10,
                fence=1,
                ttl_ms=900_000,
            )
            return answer.outcome

        assert await take(TRADE) is HoldOutcome.RESERVED
        os.kill(server.pid, signal.SIGKILL)
        begun = time.monotonic()
        await asyncio.to_thread(until, lambda: not server.alive())
        with pytest.raises(HoldsUnavailableError):
            await take(b"2" * 16)
        assert await asyncio.to_thread(server.ensure_running)
        assert await take(b"2" * 16) is HoldOutcome.RESERVED
        taken = time.monotonic() - begun
        assert await take(TRADE) is HoldOutcome.ALREADY_YOURS
        await holds.close()
        return taken

    with started(place) as server:
        assert not server.ensure_running()
        assert asyncio.run(story(server)) < 0.500


def test_a_server_started_again_by_a_thread_outlives_the_thread(place: Path) -> None:
    """The guard belongs to the process, whichever thread started the server."""
    with started(place) as server:
        os.kill(server.pid, signal.SIGKILL)
        until(lambda: not server.alive())
        thread = threading.Thread(target=server.ensure_running)
        thread.start()
        thread.join(5)
        assert reserve(server.url) is HoldOutcome.RESERVED
        assert server.alive()


_PARENT = """
import sys, time
from pathlib import Path
from zmqex.adapters.holds.choose import open_hold_server
from zmqex.adapters.holds.embedded import EmbeddedServer
place = Path(sys.argv[1])
server = EmbeddedServer.start(place, place)
print(server.pid, flush=True)
sys.stdin.read()
"""


@contextmanager
def parent(place: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process that has started a server, and the server's pid."""
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())


def test_a_killed_node_leaves_no_orphan(place: Path) -> None:
    """One second after kill -9 of the node neither server nor guard is left."""
    with parent(place) as (node, pid):
        node.kill()
        node.wait(5)
        assert until(lambda: gone(pid) and guards_of(place) == []) < 1


def test_a_server_that_was_paused_ends_with_its_node_too(place: Path) -> None:
    """A stopped process is woken up to end."""
    with parent(place) as (node, pid):
        os.kill(pid, signal.SIGSTOP)
        node.kill()
        node.wait(5)
        assert until(lambda: gone(pid)) < 2


def test_a_survivor_is_shut_down_once_it_proved_to_be_ours(place: Path) -> None:
    """Without its guard a server outlives a killed node; the next start ends it and goes on."""
    with parent(place) as (node, pid):
        for guard in psutil.Process(pid).children():
            guard.kill()
        node.kill()
        node.wait(5)
        assert not gone(pid)
        assert reserve(f"unix://{place}/r.sock") is HoldOutcome.RESERVED
        with started(place) as server:
            assert gone(pid)
            assert server.pid != pid
            assert reserve(server.url) is HoldOutcome.ALREADY_YOURS


def test_a_survivor_on_an_earlier_socket_is_found(
    place: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The directory remembers where its last server listened."""
    elsewhere = tmp_path_factory.mktemp("r")
    with parent(place) as (node, pid):
        for guard in psutil.Process(pid).children():
            guard.kill()
        node.kill()
        node.wait(5)
        server = EmbeddedServer.start(place, elsewhere)
        server_url = server.url
        server.stop()
    assert gone(pid)
    assert server_url == f"unix://{elsewhere}/r.sock"


def test_a_stranger_on_the_socket_is_left_alone(
    place: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A server with another directory is not ours to end."""
    with started(place) as stranger:
        other = tmp_path_factory.mktemp("e")
        with pytest.raises(ConfigError, match="belongs to another server"):
            EmbeddedServer.start(other, place)
        assert stranger.alive()
        assert reserve(stranger.url) is HoldOutcome.RESERVED


def test_a_process_that_does_not_answer_is_named_and_left_alone(place: Path) -> None:
    """Nothing is ended that did not prove to be ours."""
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(place / "r.sock"))
        silent.listen()
        with pytest.raises(ConfigError, match="does not answer"):
            EmbeddedServer.start(place, place)


def test_a_damaged_file_is_moved_aside(place: Path) -> None:
    """Damage in the middle: the server starts empty and says that it forgot."""
    with started(place) as server:
        for number in range(50):
            assert reserve(server.url, bytes([number]) * 16) in HoldOutcome
    (path,) = append_only_files(place)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = b"x" * 40
    path.write_bytes(content)
    with started(place) as server:
        assert server.recovered
        assert reserve(server.url) is HoldOutcome.RESERVED
        assert (place / "holds" / "appendonlydir.damaged" / path.name).read_bytes() == content
    with started(place) as server:
        assert not server.recovered
        assert reserve(server.url) is HoldOutcome.ALREADY_YOURS


def test_a_cut_tail_loses_the_last_write_only(place: Path) -> None:
    """What a power cut leaves is used as far as it is whole."""
    with started(place) as server:
        for number in range(10):
            assert reserve(server.url, bytes([number]) * 16) is HoldOutcome.RESERVED
    (path,) = append_only_files(place)
    os.truncate(path, path.stat().st_size - 7)
    with started(place) as server:
        assert not server.recovered
        assert reserve(server.url, bytes([0]) * 16) is HoldOutcome.ALREADY_YOURS
        assert reserve(server.url, bytes([9]) * 16) is HoldOutcome.RESERVED


def test_damage_is_survived_while_the_node_runs(place: Path) -> None:
    """A server killed with a damaged file comes back empty within the running node."""
    with started(place) as server:
        assert reserve(server.url) is HoldOutcome.RESERVED
        os.kill(server.pid, signal.SIGKILL)
        until(lambda: not server.alive())
        (path,) = append_only_files(place)
        path.write_bytes(b"*1\r\n$x" + path.read_bytes())
        assert server.ensure_running()
        assert server.recovered
        assert reserve(server.url) is HoldOutcome.RESERVED


def test_awkward_paths_work(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Spaces, quotes and other alphabets in a user's directory reach the server unharmed."""
    place = tmp_path_factory.mktemp("e") / "O\"Neil's \\ nœud 1"
    place.mkdir(mode=0o700)
    with started(place) as server:
        assert reserve(server.url) is HoldOutcome.RESERVED
        assert append_only_files(place)
    with started(place) as server:
        assert reserve(server.url) is HoldOutcome.ALREADY_YOURS


def test_a_socket_path_that_is_too_long_is_told(place: Path) -> None:
    """Before anything is started, with what to do."""
    runtime = place / ("x" * SOCKET_PATH_BYTES_MAX)
    with pytest.raises(ConfigError, match="XDG_RUNTIME_DIR"):
        EmbeddedServer.start(place, runtime)
    assert not (place / "holds").exists()


def test_a_server_that_does_not_start_is_told_with_a_way_out(place: Path) -> None:
    """A binary that ends at once, and a directory that cannot be used."""
    broken = place / "server"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o700)
    with pytest.raises(ConfigError, match="--redis"):
        EmbeddedServer.start(place, place, binary=ServerBinary(broken, bundled=False))
    (place / "holds" / "server.conf").unlink()
    shutil.rmtree(place / "holds")
    (place / "holds").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot use"):
        EmbeddedServer.start(place, place)


def test_the_bundled_binary_is_a_build_that_we_know(place: Path) -> None:
    """The one of this platform passes; one changed byte does not."""
    binary = find_server()
    assert binary.bundled
    changed = bytearray(binary.path.read_bytes())
    changed[len(changed) // 2] ^= 1
    (place / "valkey-server").write_bytes(changed)
    build = f"linux-{os.uname().machine}"
    check_build(binary.path, build)
    assert build in KNOWN_BUILDS
    with pytest.raises(ConfigError, match="not the Valkey build"):
        check_build(place / "valkey-server", build)


@pytest.mark.parametrize(
    ("said", "accepted"),
    [
        ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", True),
        ("Valkey server v=8.1.1 sha=00000000:0", True),
        ("Redis server v=6.2.14 sha=00000000:0", False),
        ("hello", False),
    ],
)
def test_without_a_bundle_a_recent_server_on_the_path_is_used(
    place: Path, monkeypatch: pytest.MonkeyPatch, said: str, *, accepted: bool
) -> None:
    """Version 7 or later; otherwise one sentence that names --redis."""
    program = place / "redis-server"
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(place))
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    if accepted:
        assert find_server() == ServerBinary(program, bundled=False)
    else:
        with pytest.raises(ConfigError, match="--redis"):
            find_server()


def test_an_installed_redis_server_can_be_the_embedded_one(place: Path) -> None:
    """The same settings start a Redis of the distribution."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed (Debian package redis-server)")
    binary = ServerBinary(Path(program), bundled=False)
    server = EmbeddedServer.start(place, place, binary=binary)
    try:
        assert reserve(server.url) is HoldOutcome.RESERVED
    finally:
        server.stop()


def test_without_a_url_a_node_brings_its_own_server(place: Path) -> None:
    """It answers as Valkey, says nothing unasked, and ends with the node."""

    async def story() -> int:
        server = open_hold_server(None, identity=NODE, data_dir=place, runtime_dir=place)
        assert server.embedded is not None
        assert server.notice == ""
        info = await server.holds.info()
        assert (info.name, info.pid, info.embedded) == ("valkey", server.embedded.pid, True)
        await server.close()
        return info.pid

    assert gone(asyncio.run(story()))


def test_with_a_url_the_operators_server_is_used_and_left_running(place: Path) -> None:
    """Closing ends the connections only."""
    with started(place) as running:

        async def story() -> None:
            server = open_hold_server(
                running.url, identity=NODE, data_dir=place / "unused", runtime_dir=place
            )
            assert server.embedded is None
            info = await server.holds.info()
            assert (info.pid, info.embedded) == (running.pid, False)
            await server.close()

        asyncio.run(story())
        assert running.alive()
        assert not (place / "unused").exists()


def test_the_operator_is_told_that_holds_were_rebuilt(place: Path) -> None:
    """A damaged file is worth a line."""
    with started(place) as server:
        assert reserve(server.url) is HoldOutcome.RESERVED
    (path,) = append_only_files(place)
    path.write_bytes(b"*1\r\n$x" + path.read_bytes())

    async def story() -> str:
        server = open_hold_server(None, identity=NODE, data_dir=place, runtime_dir=place)
        await server.close()
        return server.notice

    assert "damaged" in asyncio.run(story())
