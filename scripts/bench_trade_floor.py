#!/usr/bin/env python3
"""The floor of the trade's figures: what no maker can do without, and nothing else.

    bench_trade_floor.py FOLDER REDIS_SOCKET SECRET

A CURVE ROUTER that answers each request after one Lua script in Redis and one synced SQLite
transaction, with the libraries and settings that the program uses.  A request that begins with
SAFE gets the signatures of a take, and a transaction before its invoice as well: the take's
signature is checked, then the script, a transaction for the preimage, the signature of the
invoice, a transaction for the accept, and its signature.  Prints its port.  Not for: anything but
`bench_trade`.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import sys
from pathlib import Path

import nacl.signing
import redis
import zmq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from zmqex.bolt11 import keys

SAFE = b"safe"
_SCRIPT = "redis.call('SET', KEYS[1], ARGV[1], 'PX', 900000) return redis.call('INCR', KEYS[2])"


def main(folder: Path, redis_socket: str, secret: str) -> None:
    """Serve for ever."""
    client = redis.Redis(unix_socket_path=redis_socket)
    script = client.register_script(_SCRIPT)
    connection = sqlite3.connect(folder / "floor.sqlite3", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS row (id INTEGER PRIMARY KEY, bytes BLOB)")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.CURVE_SERVER, 1)
    router.setsockopt(zmq.CURVE_SECRETKEY, secret.encode())
    port = router.bind_to_random_port("tcp://127.0.0.1")
    print(port, flush=True)
    key, invoice_key = nacl.signing.SigningKey.generate(), os.urandom(32)
    take = key.sign(os.urandom(512))

    def commit(frame: bytes) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO row (bytes) VALUES (?)", (frame,))
        connection.execute("COMMIT")

    while True:
        who, frame = router.recv_multipart()
        safe = frame.startswith(SAFE)
        if safe:
            key.verify_key.verify(take)
        script(keys=("bench:hold", "bench:sum"), args=(frame[:32],))
        commit(frame)
        if safe:
            keys.sign(invoice_key, hashlib.sha256(frame).digest())
            key.sign(frame)
            commit(frame)
        router.send_multipart([who, frame])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
