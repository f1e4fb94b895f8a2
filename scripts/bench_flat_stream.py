#!/usr/bin/env python3
"""The floors of the stream's figures, written flat: nothing here comes from the program.

    bench_flat_stream.py publish FOLDER              sends its envelopes to the first subscriber,
                                                     and heartbeats whenever it is told the time
    bench_flat_stream.py verify FOLDER               checks their signatures one by one
    bench_flat_stream.py ingest FOLDER PORT KEY      receives, decodes, verifies, applies, hashes

Each prints one JSON object.  The envelopes have the wire's format, made here by hand, so that
the program's own reader is measured against bytes that it did not write.
Not for: anything but `bench_stream`.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
from bisect import bisect_left, insort
from collections import deque
from heapq import heappush
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgpack
import msgspec
import nacl.bindings
import zmq
import zmq.utils.z85
from msgspec import Meta

NETWORK: Final = "play"
MARKET: Final = "BTC/USD"
BATCH: Final = f"zmqex/1/{NETWORK}/batch\0".encode()
HEARTBEAT: Final = f"zmqex/1/{NETWORK}/heartbeat\0".encode()
TOPIC: Final = b"o" + hashlib.blake2b(MARKET.encode(), digest_size=8).digest()
HOUR_MS: Final = 3_600_000
HWM: Final = 1_000_000

Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Amount = Annotated[int, Meta(ge=1, le=2**63 - 1)]


class Wire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An array on the wire."""


class Envelope(Wire, frozen=True):
    """Body and signature."""

    body: bytes
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


class Place(Wire, frozen=True, tag="place"):
    """The one operation of this stream."""

    order: bytes


class Batch(Wire, frozen=True):
    """A batch of placements."""

    maker: Bytes32
    market: Annotated[str, Meta(pattern=r"^[A-Z0-9]{2,12}/[A-Z0-9]{2,12}\Z")]
    epoch: int
    sequence: Amount
    previous_hash: Bytes32
    sent_at_ms: int
    operations: Annotated[list[Place], Meta(min_length=1, max_length=128)]


class Order(Wire, frozen=True, gc=False):
    """The terms of an order."""

    market: Annotated[str, Meta(min_length=1, max_length=40)]
    side: Literal["buy", "sell"]
    price: Amount
    lots: Amount
    minimum: Amount
    time_in_force: Literal["gtc", "gtd"]
    flags: Annotated[int, Meta(ge=0, le=1_000)]
    expires_at_ms: Amount
    settlements: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=40)]], Meta(min_length=1, max_length=4)
    ]
    payment_methods: Annotated[list[Annotated[str, Meta(max_length=200)]], Meta(max_length=8)]
    nonce: Annotated[bytes, Meta(min_length=16, max_length=16)]


# --- making the stream ---------------------------------------------------------------------------


def make_stream(folder: Path, makers: int, orders: int, size: int, now_ms: int) -> list[bytes]:
    """Write `orders` orders of each maker in signed batches of `size`; answer their identities."""
    rng = random.Random(1)  # noqa: S311 - a repeatable stream, not a secret
    keys = [nacl.bindings.crypto_sign_seed_keypair(rng.randbytes(32)) for _ in range(makers)]
    heads = [bytes(32)] * makers
    envelopes, logs, sequence = [], FlatLogs(), 0
    for sequence, start in enumerate(range(0, orders, size), 1):
        count = min(size, orders - start)
        for maker, (public, secret) in enumerate(keys):
            operations = [("place", draw_order(rng, now_ms)) for _ in range(count)]
            batch = (public, MARKET, now_ms, sequence, heads[maker], now_ms, operations)
            body = bytes(msgpack.packb(batch))
            heads[maker] = hashlib.blake2b(body, digest_size=32).digest()
            envelopes.append(sealed(BATCH, body, secret))
            logs.take(envelopes[-1], now_ms)
    ends = [
        (secret, public, (MARKET, now_ms, sequence, head, orders, root))
        for (public, secret), head, root in zip(keys, heads, logs.roots(), strict=True)
    ]
    (folder / "stream").write_bytes(msgpack.packb((now_ms, envelopes, ends)))
    return [public for public, _ in keys]


def sealed(context: bytes, body: bytes, secret: bytes) -> bytes:
    """An envelope."""
    signature = nacl.bindings.crypto_sign(context + body, secret)[:64]
    return bytes(msgpack.packb((body, signature)))


def draw_order(rng: random.Random, now_ms: int) -> bytes:
    """An order near the middle, as its maker writes it."""
    side = rng.choice(("buy", "sell"))
    away = 1 + int(rng.expovariate(1 / 25))
    lots = rng.randint(1_000, 100_000)
    return bytes(
        msgpack.packb(
            (
                MARKET,
                side,
                1_000_000 - away if side == "buy" else 1_000_000 + away,
                lots,
                1 + lots // 4,
                "gtc",
                0,
                now_ms + rng.randint(1, 168) * HOUR_MS,
                ("plain",),
                (),
                rng.randbytes(16),
            )
        )
    )


def read_stream(folder: Path) -> tuple[int, list[bytes], list[tuple[bytes, bytes, Any]]]:
    """When it was made (Unix milliseconds), its envelopes, and each maker's secret, id and head."""
    now_ms, envelopes, ends = msgpack.unpackb((folder / "stream").read_bytes())
    return now_ms, envelopes, ends


# --- the three programs --------------------------------------------------------------------------


def publish(folder: Path) -> dict[str, float]:
    """Serve one subscriber over CURVE, then send everything as fast as it goes."""
    _, envelopes, ends = read_stream(folder)
    public, secret = nacl.bindings.crypto_box_keypair()
    context = zmq.Context()
    socket = context.socket(zmq.XPUB)
    socket.setsockopt(zmq.SNDHWM, HWM)
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, zmq.utils.z85.encode(public))
    socket.setsockopt(zmq.CURVE_SECRETKEY, zmq.utils.z85.encode(secret))
    socket.bind("tcp://127.0.0.1:*")
    port = int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
    print(json.dumps({"port": port, "key": public.hex()}), flush=True)
    while TOPIC not in socket.recv():
        pass
    started = time.process_time()
    for envelope in envelopes:
        socket.send_multipart((TOPIC, envelope))
    cpu = time.process_time() - started
    while now_ms := int(sys.stdin.readline() or 0):
        for owner_secret, owner, head in ends:
            beat = bytes(msgpack.packb((owner, now_ms, (head,))))
            socket.send_multipart((b"h", sealed(HEARTBEAT, beat, owner_secret)))
    socket.close(0)
    context.term()
    return {"cpu_s": cpu}


def verify(folder: Path) -> dict[str, float]:
    """Check the signatures and nothing else, on one core."""
    signed = []
    for raw in read_stream(folder)[1]:
        body, signature = msgpack.unpackb(raw)
        maker = msgpack.unpackb(body)[0]
        signed.append((signature + BATCH + body, maker))
    check = nacl.bindings.crypto_sign_open
    cpu, wall = time.process_time(), time.perf_counter()
    for message, maker in signed:
        check(message, maker)
    return {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}


class FlatLogs:
    """Folds and a book without layers: what the program keeps, in plain dictionaries."""

    def __init__(self) -> None:
        self.heads: dict[bytes, tuple[int, bytes]] = {}
        self.rows: dict[bytes, dict[bytes, tuple[Order, bytes, int, int]]] = {}
        self.ids: dict[bytes, list[list[bytes]]] = {}
        self.dirty: dict[bytes, set[int]] = {}
        self.digests: dict[bytes, list[bytes]] = {}
        self.tail: list[tuple[bytes, bytes]] = []
        self.orders: dict[bytes, list[Any]] = {}
        self.keys: tuple[list[int], list[int]] = ([], [])
        self.levels: tuple[dict[int, list[Any]], dict[int, list[Any]]] = ({}, {})
        self.ends: list[tuple[int, bytes]] = []
        self._orders = msgspec.msgpack.Decoder(Order)
        self._batches = msgspec.msgpack.Decoder(Batch)
        self._envelopes = msgspec.msgpack.Decoder(Envelope)

    def take(self, raw: bytes, now_ms: int) -> int:
        """Decode, verify, apply: how many orders that brought."""
        envelope = self._envelopes.decode(raw)
        body = envelope.body
        batch = self._batches.decode(body)
        maker = batch.maker
        nacl.bindings.crypto_sign_open(envelope.signature + BATCH + body, maker)
        digest = hashlib.blake2b(body, digest_size=32).digest()
        head = self.heads.get(maker)
        if head is None:
            head = 0, bytes(32)
            self.rows[maker], self.dirty[maker] = {}, set()
            self.ids[maker] = [[] for _ in range(256)]
            self.digests[maker] = [bytes(32)] * 256
        if batch.sequence != head[0] + 1 or batch.previous_hash != head[1]:
            raise SystemExit("the stream lost a batch: no result")
        rows, ids, dirty = self.rows[maker], self.ids[maker], self.dirty[maker]
        prefix = NETWORK.encode() + b"\0" + maker
        for place in batch.operations:
            order = self._orders.decode(place.order)
            key = hashlib.blake2b(
                prefix + place.order, digest_size=32, person=b"zmqex order"
            ).digest()
            if key in rows or order.market != MARKET or order.minimum > order.lots:
                raise SystemExit("an order that cannot be: no result")
            rows[key] = order, place.order, order.lots, 0
            insort(ids[key[0]], key)
            dirty.add(key[0])
            self.rest(key, maker, order, now_ms)
        self.heads[maker] = batch.sequence, digest
        self.tail.append((digest, raw))
        return len(batch.operations)

    def rest(self, key: bytes, maker: bytes, order: Order, now_ms: int) -> None:
        """Insert in the book."""
        if order.expires_at_ms <= now_ms or key in self.orders:
            return
        side = order.side == "buy"
        price = order.price if side else -order.price
        entry = [key, maker, price, order.lots, order.minimum, order.flags, True]
        self.orders[key] = entry
        level = self.levels[side].get(price)
        if level is None:
            self.levels[side][price] = [order.lots, deque((entry,))]
            keys = self.keys[side]
            keys.insert(bisect_left(keys, price), price)
        else:
            level[0] += order.lots
            level[1].append(entry)
        heappush(self.ends, (order.expires_at_ms, key))

    def roots(self) -> list[bytes]:
        """The root over the 256 bucket digests of every maker, dirty buckets hashed again."""
        found = []
        for maker, dirty in self.dirty.items():
            rows, digests = self.rows[maker], self.digests[maker]
            for bucket in dirty:
                hashed = hashlib.blake2b(digest_size=32, person=b"zmqex bucket")
                for key in self.ids[maker][bucket]:
                    row = rows[key]
                    hashed.update(key)
                    hashed.update(row[2].to_bytes(8, "big"))
                    hashed.update(row[3].to_bytes(8, "big"))
                digests[bucket] = hashed.digest()
            dirty.clear()
            joined = b"".join(digests)
            found.append(hashlib.blake2b(joined, digest_size=32, person=b"zmqex root").digest())
        return found


def ingest(folder: Path, port: int, key: bytes) -> dict[str, float]:
    """Receive the whole stream over CURVE, and keep what it says."""
    now_ms, envelopes, _ = read_stream(folder)
    expected = len(envelopes)
    public, secret = nacl.bindings.crypto_box_keypair()
    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.RCVHWM, HWM)
    socket.setsockopt(zmq.CURVE_SERVERKEY, zmq.utils.z85.encode(key))
    socket.setsockopt(zmq.CURVE_PUBLICKEY, zmq.utils.z85.encode(public))
    socket.setsockopt(zmq.CURVE_SECRETKEY, zmq.utils.z85.encode(secret))
    socket.setsockopt(zmq.SUBSCRIBE, TOPIC)
    socket.connect(f"tcp://127.0.0.1:{port}")
    logs, taken, orders = FlatLogs(), 0, 0
    cpu = wall = 0.0
    while taken < expected:
        raw = socket.recv_multipart()[1]
        if not taken:
            cpu, wall = time.process_time(), time.perf_counter()
        orders += logs.take(raw, now_ms)
        taken += 1
    logs.roots()
    figures = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    socket.close(0)
    context.term()
    return {**figures, "orders": orders}


def main(arguments: list[str]) -> None:
    """Run one of the programs; its figures are the last line."""
    program, folder, *rest = arguments
    if program == "publish":
        figures = publish(Path(folder))
    elif program == "verify":
        figures = verify(Path(folder))
    else:
        figures = ingest(Path(folder), int(rest[0]), bytes.fromhex(rest[1]))
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
