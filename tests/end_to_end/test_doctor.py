"""`doctor` on running nodes: one with everything outside broken, and the ones that tell it so."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nacl.bindings

from tests.end_to_end.nodes import Home, Node, wait_for
from tests.integration.transport_sides import HOST, Side
from zmqex.config import running_node
from zmqex.kernel.commands import ListPeers
from zmqex.kernel.events import Event, RequestReceived
from zmqex.protocol.codec import decode_frame, encode, encode_frame
from zmqex.protocol.identity import IdentityKey, seal
from zmqex.protocol.messages import Endpoint, Greet, PeerRecord

_OFF_MS = 60_000
_PAGE_BYTES = 4_096


class LateClock:
    """A peer that greets like any other, and whose clock is a minute ahead of ours."""

    def __init__(self, name: str) -> None:
        """Run on a loop of its own until `close`."""
        self._key = IdentityKey(hashlib.sha256(name.encode()).digest())
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._ready.wait(10)

    def close(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    async def _run(self) -> None:
        keys = nacl.bindings.crypto_box_keypair()
        side = self._side = Side(keys)
        side.on_event = self._answer
        side.transport.start()
        self.port = side.transport.hello_port
        now_ms = time.time_ns() // 1_000_000  # noqa: TID251 - the real time, that the node reads too
        ends = [
            Endpoint("", port)
            for port in (self.port, side.transport.rpc_port, side.transport.orders_port)
        ]
        self._now_ms = now_ms
        self._record = seal(
            self._key,
            "play",
            "record",
            encode(
                PeerRecord(
                    network="play",
                    identity=self._key.public_key,
                    hello=ends[0],
                    rpc=ends[1],
                    orders=ends[2],
                    curve_key=keys[0],
                    lightning_node=bytes(33),
                    capabilities=["plain"],
                    not_before_ms=now_ms,
                    not_after_ms=now_ms + 3_600_000,
                    sequence=now_ms,
                )
            ),
        )
        side.transport.set_record(self._record)
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        await self._ended.wait()
        side.transport.close()

    def _answer(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            frame = decode_frame(event.frame)
            if frame.kind == "greet":
                body = Greet(self._record, self._now_ms + _OFF_MS)
                reply = encode_frame("greet", frame.request_id, body)
                self._side.transport.reply(event.route.connection, reply)


@contextmanager
def late_clocks(count: int) -> Iterator[list[LateClock]]:
    """Several of them."""
    peers = [LateClock(f"late {number}") for number in range(count)]
    try:
        yield peers
    finally:
        for one in peers:
            one.close()


def lose_a_page(database: Path) -> None:
    """Leave a page that belongs to nothing, as a disk may that forgot what was written."""
    content = bytearray(database.read_bytes())
    pages = len(content) // _PAGE_BYTES + 1
    content[28:32] = pages.to_bytes(4, "big")  # the file format's "size of the database file"
    database.write_bytes(content + bytes(_PAGE_BYTES))


def test_everything_that_is_broken_outside_is_found_with_its_fix(
    user: Home, stranger: Home
) -> None:
    """Hold server and DHT dead, ports closed to peers, a clock that peers do not share.

    And before that a node alone, whose journal has lost a page since it ran last.
    """
    bob = stranger.node("bob").start()
    bob.stop()
    lose_a_page(bob.directory / "journal.sqlite3")
    bob.start()
    where = running_node(bob.directory)
    assert where is not None
    alone = bob.findings(1)
    assert "nobody to ask for others" in alone["peers"]["text"]
    assert "serve --bootstrap HOST:PORT" in alone["peers"]["fix"]
    assert alone["journal"]["state"] == "wrong"
    assert "never used" in alone["journal"]["text"]
    assert "from a backup" in alone["journal"]["fix"]
    assert "Note: this node knows nobody" in bob.printed()
    with late_clocks(2) as late:
        peers = [where.hello_port, *(one.port for one in late)]
        flags = [word for port in peers for word in ("--peer", f"{HOST}:{port}")]
        # What alice announces is this machine too, but nobody listens there.
        dead = ("--redis", "redis://127.0.0.1:1", "--bootstrap", "127.0.0.1:1")
        alice = user.node("alice").start(*flags, *dead, "--announce-host", "127.0.0.2")
        wait_for(
            "alice is connected to all three",
            lambda: _live(alice) == 3,
        )
        sick = alice.findings(1)
    wrong = {check for check, one in sick.items() if one["state"] == "wrong"}
    assert wrong == {"hold server", "dht", "reachable", "clock"}
    assert "start that server" in sick["hold server"]["fix"]
    assert "no DHT node answers (1 named, 0 known)" in sick["dht"]["text"]
    assert "firewall" in sick["dht"]["fix"]
    assert (
        "dialled 127.0.0.2 and did not get through to: hello, rpc, orders"
        in (sick["reachable"]["text"])
    )
    assert "`announce_host`" in sick["reachable"]["fix"]
    assert "behind that of 3 peers, the middle one" in sick["clock"]["text"]
    assert "timedatectl" in sick["clock"]["fix"]
    assert sick["journal"]["state"] == "ok"


def test_a_healthy_pair_has_nothing_wrong(user: Home) -> None:
    """Each reaches all three ports of the other; the command says so in words."""
    alice, bob = user.start("alice", "bob")
    shown = alice.cli("doctor")
    assert "all three ports, by 1 peer, at 127.0.0.1" in shown
    assert shown.endswith("Nothing is wrong.\n")
    assert bob.findings(0)["clock"]["state"] == "ok"


def _live(node: Node) -> int:
    rows = node.call(ListPeers())["peers"]
    return sum(one["state"] in {"syncing", "live"} for one in rows)
