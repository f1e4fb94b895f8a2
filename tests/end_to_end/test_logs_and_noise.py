"""One trade can be followed through both logs, without secrets; noise on the wire ends nothing."""

from __future__ import annotations

import os
import socket
import stat

from tests.end_to_end.nodes import BTC, Home, wait_for
from zmqex.kernel.commands import GetStatus, PingPeer, PlaceOrder, ReceivedTrade, SentTrade


def test_one_trade_id_is_followed_through_both_logs_without_secrets(user: Home) -> None:
    """`zmqex logs --trade ID` on both sides; no preimage and no key in any file, mode 0600."""
    alice, bob = user.start("alice", "bob")
    alice.call(PlaceOrder("BTC/USD", "buy", BTC, 100))
    bob.wait_book(alice.orders()[0]["order_id"], BTC)
    answer = bob.call(PlaceOrder("BTC/USD", "sell", BTC // 4, 100))
    trade_id = answer["trades"][0]["trade_id"]
    alice.wait_state(trade_id, "base_done")
    alice.call(SentTrade(trade_id))
    bob.wait_state(trade_id, "quote_sent")
    bob.call(ReceivedTrade(trade_id))
    alice.wait_state(trade_id, "settled")

    for node in (alice, bob):
        lines = node.cli("logs", "--trade", trade_id[:16])
        assert "settled" in lines
        assert all(trade_id in line for line in lines.splitlines())
    secrets = []
    for node in (alice, bob):
        node.stop()
        secrets += [row[0] for row in node.rows("play", "SELECT preimage FROM invoice")]
        secrets += [
            (node.directory / name).read_bytes() for name in ("identity.key", "play-node.key")
        ]
    assert len(secrets) == 5
    for node in (alice, bob):
        for path in (node.directory / "logs").iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            written = path.read_text() + node.printed()
            assert not [secret for secret in secrets if secret.hex() in written]


def test_noise_on_every_port_ends_nothing(user: Home) -> None:
    """Random bytes, HTTP, half a greeting, a huge frame: the node answers its peer as before."""
    alice, bob = user.start("alice", "bob")
    places = alice.call(GetStatus())["endpoints"]
    noises = [
        os.urandom(4_096),
        b"GET / HTTP/1.1\r\nHost: zmqex\r\n\r\n",
        b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00NULL" + bytes(44),
        b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(43) + b"\x02" + b"\xff" * 8,
        bytes(200_000),
    ]

    for name in ("hello", "rpc", "orders"):
        host, _, port = places[name].rpartition(":")
        for noise in noises:
            with socket.create_connection((host, int(port)), timeout=2) as connection:
                try:
                    connection.sendall(noise)
                except OSError:
                    continue  # cut off while it talked, as it should be
    host, _, port = places["dht"].rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        for noise in (b"", b"d", b"l" * 1_000, os.urandom(1_200), b"d1:q4:ping1:t999999999:e"):
            datagrams.sendto(noise, (host, int(port)))

    pong = bob.call(PingPeer(alice.identity))
    assert pong["peer"] == alice.identity
    alice.call(PlaceOrder("BTC/USD", "buy", BTC, 100))
    wait_for("the stream flows", lambda: len(bob.book()) == 1)
