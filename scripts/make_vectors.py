#!/usr/bin/env python3
"""Make tests/data/protocol_vectors.json: examples of the wire format, the same at every run.

    scripts/make_vectors.py             prints them
    scripts/make_vectors.py --write     replaces the file

Every byte follows from the fixed seeds and times below.  A test decodes and checks the file with
a second MessagePack reader and without our own codec.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import msgspec

from zmqex import bolt11
from zmqex.dht.names import rendezvous_name
from zmqex.limits import LOG_PAGE_BYTES_MAX, ROWS_PAGE_MAX
from zmqex.market.orders import Side
from zmqex.protocol.codec import encode, encode_frame
from zmqex.protocol.identity import (
    ZERO_DIGEST,
    IdentityKey,
    digest,
    order_id,
    seal,
    signing_context,
    to_text,
    trade_id,
)
from zmqex.protocol.log import BUCKETS, Fold, Frozen, Plan, topic
from zmqex.protocol.messages import (
    Accept,
    Batch,
    Close,
    Empty,
    Endpoint,
    Envelope,
    Heartbeat,
    Message,
    Order,
    PeerRecord,
    Place,
    Pong,
    Reject,
    RowsRequest,
    Snapshot,
    SnapshotRequest,
    Take,
    TradeInvoice,
    TradeSaid,
    Update,
)
from zmqex.protocol.snapshot import serve

ROOT: Final = Path(__file__).resolve().parent.parent
FILE: Final = ROOT / "tests" / "data" / "protocol_vectors.json"
NETWORK: Final = "play"
MARKET: Final = "BTC/USD"
AT_MS: Final = 1_700_000_000_000
EPOCH: Final = AT_MS
MAKER: Final = IdentityKey(b"\x01" * 32)
TAKER: Final = IdentityKey(b"\x02" * 32)
NODE_SECRET: Final = b"\x03" * 32
PAYMENT_HASH: Final = digest(b"a payment hash")


def vectors() -> dict[str, Any]:
    """Every vector, as JSON would hold it: bytes are hex."""
    sell, buy = _order(Side.SELL, 100_000, b"\x11"), _order(Side.BUY, 99_000, b"\x12")
    log = _log(encode(sell), encode(buy))
    take = _take(order_id(NETWORK, MAKER.public_key, encode(sell)))
    take_envelope = seal(TAKER, NETWORK, "take", encode(take))
    return {
        "about": "Wire format examples; made by scripts/make_vectors.py, explained in "
        "docs/protocol.md. Bytes are lower-case hex.",
        "network": NETWORK,
        "market": MARKET,
        "identities": {"maker": _identity(MAKER, 1), "taker": _identity(TAKER, 2)},
        "rendezvous_name": rendezvous_name(NETWORK, MARKET).decode(),
        "topic": topic(MARKET).hex(),
        "order": {
            "fields": _plain(sell),
            "encoded": encode(sell).hex(),
            "order_id": order_id(NETWORK, MAKER.public_key, encode(sell)).hex(),
        },
        "record": _sealed(MAKER, "record", _record()),
        **log,
        "trade_id": {
            "take_id": take.take_id.hex(),
            "trade_id": take.trade_id.hex(),
        },
        "take": _sealed(TAKER, "take", take),
        "accept": _sealed(MAKER, "accept", _accept(take, take_envelope)),
        "trade_invoice": _sealed(TAKER, "trade_invoice", _invoice(take)),
        "frames": {
            "ping": encode_frame("ping", 1, Empty()).hex(),
            "pong": encode_frame("ping", 1, Pong(AT_MS)).hex(),
            "take": encode_frame("take", 2, TradeSaid(take_envelope)).hex(),
            "reject": encode_frame("reject", 2, Reject("held", 1_000, "")).hex(),
        },
    }


def _identity(key: IdentityKey, seed: int) -> dict[str, str]:
    return {
        "seed": bytes([seed] * 32).hex(),
        "public_key": key.public_key.hex(),
        "text": to_text(key.public_key),
    }


def _order(side: Side, price_ticks: int, nonce: bytes) -> Order:
    return Order(
        market=MARKET,
        side=side,
        price_ticks=price_ticks,
        quantity_lots=100_000_000,
        minimum_lots=1,
        time_in_force="gtc",
        flags=0,
        expires_at_ms=AT_MS + 86_400_000,
        settlements=("plain",),
        payment_methods=(),
        nonce=nonce * 16,
    )


def _record() -> PeerRecord:
    return PeerRecord(
        network=NETWORK,
        identity=MAKER.public_key,
        hello=Endpoint("", 7_100),
        rpc=Endpoint("", 7_101),
        orders=Endpoint("", 7_102),
        curve_key=b"\x04" * 32,
        lightning_node=bolt11.public_key(NODE_SECRET),
        capabilities=["plain"],
        not_before_ms=AT_MS,
        not_after_ms=AT_MS + 86_400_000,
        sequence=AT_MS,
    )


def _log(sell: bytes, buy: bytes) -> dict[str, Any]:
    """Two batches of one log, and what they leave open."""
    fold = Fold(NETWORK, MAKER.public_key, MARKET)
    fold.begin(EPOCH)
    sell_id, buy_id = (order_id(NETWORK, MAKER.public_key, raw) for raw in (sell, buy))
    batches = [_append(fold, [Place(sell), Place(buy)])]
    batches.append(_append(fold, [Update(sell_id, 60_000_000, 0), Close(buy_id, "cancelled")]))
    beat = Heartbeat(MAKER.public_key, AT_MS + 1_000, [fold.head()])
    signed = _sealed(MAKER, "heartbeat", beat)
    return {
        "batches": batches,
        "heartbeat": signed,
        "snapshot": _snapshot(fold, bytes.fromhex(signed["envelope"])),
    }


def _snapshot(fold: Fold, heartbeat: bytes) -> dict[str, str]:
    """A reader that has nothing asks for the open orders at the heartbeat's head: whole frames."""
    frozen, head = Frozen(fold), fold.head()
    buckets = bytes(number for number in range(BUCKETS) if fold.bucket(number))
    asked = SnapshotRequest(fold.maker, MARKET, EPOCH, head.sequence)
    rows_asked = RowsRequest(fold.maker, MARKET, head.head_hash, buckets, b"")
    rows = serve(frozen, buckets, b"", ROWS_PAGE_MAX, LOG_PAGE_BYTES_MAX)
    return {
        "snapshot_asked": encode_frame("snapshot", 3, asked).hex(),
        "snapshot": encode_frame("snapshot", 3, Snapshot(heartbeat, frozen.digests)).hex(),
        "rows_asked": encode_frame("rows", 4, rows_asked).hex(),
        "rows": encode_frame("rows", 4, rows).hex(),
    }


def _append(fold: Fold, operations: list[Any]) -> dict[str, Any]:
    batch = Batch(fold.maker, MARKET, EPOCH, fold.sequence + 1, fold.head_hash, AT_MS, operations)
    raw = encode(batch)
    plan = fold.check(batch, digest(raw))
    if not isinstance(plan, Plan):
        raise SystemExit(f"a vector is refused: {plan}")
    fold.apply(plan)
    return {**_sealed(MAKER, "batch", batch), "book_root": fold.root().hex()}


def _take(target: bytes) -> Take:
    take_id = b"\x05" * 32
    return Take(
        trade_id=trade_id(NETWORK, MAKER.public_key, TAKER.public_key, take_id),
        previous=ZERO_DIGEST,
        sent_at_ms=AT_MS + 2_000,
        take_id=take_id,
        maker=MAKER.public_key,
        taker=TAKER.public_key,
        order_id=target,
        quantity_lots=40_000_000,
        price_ticks=100_000,
        settlement="plain",
        payment_hash=PAYMENT_HASH,
    )


def _accept(take: Take, envelope: bytes) -> Accept:
    return Accept(
        trade_id=take.trade_id,
        previous=digest(envelope),
        sent_at_ms=AT_MS + 2_050,
        take_digest=digest(envelope),
        quantity_lots=take.quantity_lots,
        base_msat=40_000_000_000,
        quote_units=40_000,
        invoice=None,
        payment_hash=None,
        pay_instructions="SEPA to the account that we agreed on",
        hold_ttl_ms=900_000,
        hold_expires_at_ms=AT_MS + 902_000,
        fence=1,
        lightning_node=bolt11.public_key(NODE_SECRET),
    )


def _invoice(take: Take) -> TradeInvoice:
    text = bolt11.encode(
        bolt11.Draft(
            network=bolt11.InvoiceNetwork.REGTEST,
            timestamp_s=AT_MS // 1_000,
            payment_hash=PAYMENT_HASH,
            payment_secret=b"\x06" * 32,
            amount_msat=40_000_000_000,
            description="PLAY MONEY: zmqex trade " + take.trade_id.hex()[:16],
        ),
        NODE_SECRET,
    )
    return TradeInvoice(
        trade_id=take.trade_id,
        previous=digest(b"the message before"),
        sent_at_ms=AT_MS + 60_000,
        invoice=text,
        lightning_node=bolt11.public_key(NODE_SECRET),
    )


def _sealed(key: IdentityKey, kind: str, message: Message) -> dict[str, Any]:
    body = encode(message)
    envelope = seal(key, NETWORK, kind, body)
    return {
        "kind": kind,
        "signer": key.public_key.hex(),
        "fields": _plain(message),
        "body": body.hex(),
        "context": signing_context(NETWORK, kind).hex(),
        "signature": msgspec.msgpack.decode(envelope, type=Envelope).signature.hex(),
        "envelope": envelope.hex(),
        "digest_of_body": digest(body).hex(),
        "digest_of_envelope": digest(envelope).hex(),
    }


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever a field may hold
    """A message as JSON: bytes as hex, structs as objects, a tag as `kind`."""
    if isinstance(value, msgspec.Struct):
        tag = value.__struct_config__.tag
        head = {} if tag is None else {"kind": tag}
        return head | {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, bytes):
        return value.hex()
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    text = json.dumps(vectors(), indent=2) + "\n"
    if "--write" in sys.argv[1:]:
        FILE.write_text(text)
    else:
        print(text, end="")
