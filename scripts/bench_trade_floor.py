#!/usr/bin/env python3
"""The floor of the trade's figures: what no maker can do without, and nothing else.

    bench_trade_floor.py FOLDER REDIS_SOCKET SECRET

A CURVE ROUTER that answers each request after one Lua script in Redis and one synced SQLite
transaction, with the libraries and settings that the program uses.  Prints its port.
Not for: anything but `bench_trade`.
"""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import redis
import zmq

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
    while True:
        who, frame = router.recv_multipart()
        script(keys=("bench:hold", "bench:sum"), args=(frame[:32],))
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO row (bytes) VALUES (?)", (frame,))
        connection.execute("COMMIT")
        router.send_multipart([who, frame])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
