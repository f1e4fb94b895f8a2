"""The maker and the two takers of the small model: keys, ids, hashes and signed words."""

from __future__ import annotations

import functools
import hashlib

import msgspec

from zmqex.bolt11 import Draft, InvoiceNetwork, encode, public_key
from zmqex.kernel import events as happened
from zmqex.kernel.requests import Incoming
from zmqex.protocol.codec import encode as packed
from zmqex.protocol.identity import IdentityKey, seal, trade_id
from zmqex.protocol.messages import TradeMessage, TradeSaid

MAKER = IdentityKey(bytes([7]) * 32)
TAKERS = (IdentityKey(bytes([8]) * 32), IdentityKey(bytes([9]) * 32))
TAKE_IDS = (bytes([1]) * 32, bytes([2]) * 32)
IDS = tuple(
    trade_id("play", MAKER.public_key, key.public_key, take_id)
    for key, take_id in zip(TAKERS, TAKE_IDS, strict=True)
)
ROUTE = happened.Route(bytes(32), b"taker", "10.9.9.9")
TAKER_SECRET = bytes([6]) * 32
TAKER_NODE = public_key(TAKER_SECRET)
MAKER_SECRET = bytes([5]) * 32
MAKER_NODE = public_key(MAKER_SECRET)


def preimage_of(payment_hash: bytes) -> bytes:
    """The preimage of a hash that was drawn here."""
    return _PREIMAGES[payment_hash]


_PREIMAGES: dict[bytes, bytes] = {}


def _hash(preimage: bytes) -> bytes:
    payment_hash = hashlib.sha256(preimage).digest()
    _PREIMAGES[payment_hash] = preimage
    return payment_hash


def first_hash(at: int) -> bytes:
    """The hash that a taker draws for its take."""
    return _hash(bytes([at + 1]) * 32)


def next_hash(payment_hash: bytes) -> bytes:
    """Another one, for a fresh invoice."""
    return _hash(hashlib.sha256(b"next" + payment_hash).digest())


@functools.cache
def text_of(
    payment_hash: bytes,
    now_ms: int,
    amount_msat: int,
    cltv: int = 18,
    secret: bytes = TAKER_SECRET,
) -> str:
    """An invoice, a taker's if nothing else is said."""
    draft = Draft(
        network=InvoiceNetwork.REGTEST,
        timestamp_s=now_ms // 1_000,
        payment_hash=payment_hash,
        payment_secret=bytes(32),
        amount_msat=amount_msat,
        description="",
        expiry_s=3_600,
        min_final_cltv=cltv,
    )
    return encode(draft, secret)


def incoming(at: int, kind: str, message: TradeMessage) -> Incoming:
    """A signed message of a taker, as it arrives."""
    return heard_from(TAKERS[at], kind, message)


@functools.cache
def heard_from(key: IdentityKey, kind: str, message: TradeMessage) -> Incoming:
    """A signed message, as it arrives."""
    tag = str(message.__struct_config__.tag)
    said = TradeSaid(seal(key, "play", tag, packed(message)))
    return Incoming(ROUTE, 1, kind, msgspec.Raw(packed(said)), key.public_key)
