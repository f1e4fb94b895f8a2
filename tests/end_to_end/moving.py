"""A laptop that moves to another network, and sleeps on the way: run as a program by its test.

Started in a network namespace where it is root (`unshare`).  Two hosts with a node each; it prints
as JSON how many seconds after each move an order of either node stood in the other's book.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.end_to_end.nodes import BTC, Home, Node, wait_for
from tests.integration.namespaces import HOSTS, IP, build, ip
from zmqex.config import running_node
from zmqex.kernel.commands import ListPeers, PlaceOrder
from zmqex.limits import SECOND_MS, SLEPT_MS

ELSEWHERE: Final = "14.0.0.4"
_ASLEEP_S: Final = SLEPT_MS / SECOND_MS + 2


def _move(before: str, after: str) -> None:
    """The second host leaves one network for another."""
    ip("-n", "host1", "addr", "add", f"{after}/32", "dev", "eth0")
    ip("-n", "host1", "addr", "del", f"{before}/32", "dev", "eth0")


def _both_hear(alice: Node, bob: Node, price: int, bob_at: str) -> float:
    """Seconds until an order of each is in the other's book, and bob is known at his new place."""
    started = time.monotonic()
    for one, other, side, ticks in (
        (alice, bob, "buy", price),
        (bob, alice, "sell", 1_000 + price),
    ):
        order = PlaceOrder("BTC/USD", side, BTC // 100, ticks, any_price=True)
        order_id = one.call(order)["order"]["order_id"]
        other.wait_book(order_id, BTC // 100)

    def known() -> bool:
        (peer,) = alice.call(ListPeers())["peers"]
        return bool(peer["host"] == bob_at) and peer["state"] == "live"

    wait_for("bob is known where he is now", known)
    alice.wait_live(bob)
    bob.wait_live(alice)
    return time.monotonic() - started


def _story(alice: Node, bob: Node) -> dict[str, float]:
    alice.start("--bind-host", "0.0.0.0")  # noqa: S104 - in a namespace of our own
    where = running_node(alice.directory)
    assert where is not None
    bob.start("--bind-host", "0.0.0.0", "--peer", f"{HOSTS[0]}:{where.hello_port}")  # noqa: S104
    bob.wait_live(alice)
    took = {"at first": _both_hear(alice, bob, 100, HOSTS[1])}
    _move(HOSTS[1], ELSEWHERE)
    took["moved"] = _both_hear(alice, bob, 101, ELSEWHERE)

    asleep = bob.pid
    os.kill(asleep, signal.SIGSTOP)
    _move(ELSEWHERE, HOSTS[1])
    until = time.monotonic() + _ASLEEP_S
    wait_for("the machine has slept", lambda: time.monotonic() > until)
    os.kill(asleep, signal.SIGCONT)
    took["slept"] = _both_hear(alice, bob, 102, HOSTS[1])
    assert "network_changed" in bob.printed()
    assert "woke" in bob.printed()
    return took


def _main() -> None:
    build()
    homes = [Home(Path(tempfile.mkdtemp(prefix="zq-"))) for _ in range(2)]
    try:
        nodes = [home.node(name) for home, name in zip(homes, ("alice", "bob"), strict=True)]
        for number, node in enumerate(nodes):
            node.prefix = (IP, "netns", "exec", f"host{number}")
        sys.stdout.write(json.dumps(_story(*nodes)) + "\n")
    finally:
        for home in homes:
            home.close()
            shutil.rmtree(home.path, ignore_errors=True)


if __name__ == "__main__":
    _main()
