"""Who a peer is: an Ed25519 key, its text form, and signatures bound to network and kind.

A signature is over "zmqex/1/", network, "/", kind, a zero byte and the raw body bytes, so that a
play-money batch never verifies elsewhere and a heartbeat never passes for a batch.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from typing import Final, Protocol

import nacl.bindings
import nacl.exceptions

from zmqex.protocol.codec import encode
from zmqex.protocol.messages import Envelope

ZERO_DIGEST: Final = bytes(32)
SHORT_CHARS: Final = 8


class Signer(Protocol):
    """Signs for one identity."""

    @property
    def public_key(self) -> bytes:
        """The 32-byte identity."""

    def sign(self, context: bytes, body: bytes) -> bytes:
        """Return the 64-byte signature over context and body."""


class IdentityKey:
    """An identity's secret; its text form never shows the secret."""

    def __init__(self, seed: bytes) -> None:
        """Make the key of a 32-byte seed."""
        self._public_key, self._secret_key = nacl.bindings.crypto_sign_seed_keypair(seed)

    @property
    def public_key(self) -> bytes:
        """The 32-byte identity."""
        return self._public_key

    def sign(self, context: bytes, body: bytes) -> bytes:
        """Return the Ed25519 signature (RFC 8032) over context and body."""
        signed = nacl.bindings.crypto_sign(context + body, self._secret_key)
        return signed[: nacl.bindings.crypto_sign_BYTES]

    def __repr__(self) -> str:
        """Show the public half only."""
        return f"IdentityKey({short(self._public_key)})"


@functools.lru_cache(maxsize=64)
def signing_context(network: str, kind: str) -> bytes:
    """The domain separation in front of every signed body."""
    return f"zmqex/1/{network}/{kind}\0".encode()


def seal(signer: Signer, network: str, kind: str, body: bytes) -> bytes:
    """Sign a body and wrap it as envelope bytes."""
    return encode(Envelope(body, signer.sign(signing_context(network, kind), body)))


def verify(identity: bytes, network: str, kind: str, envelope: Envelope) -> bool:
    """Whether the envelope was signed by `identity` as this kind on this network.

    The length is looked at, or the signature of another message could reach into the body.
    """
    if len(envelope.signature) != nacl.bindings.crypto_sign_BYTES:
        return False
    signed = envelope.signature + signing_context(network, kind) + envelope.body
    try:
        nacl.bindings.crypto_sign_open(signed, identity)
    except (nacl.exceptions.BadSignatureError, nacl.exceptions.ValueError):
        return False
    return True


def digest(raw: bytes) -> bytes:
    """The 32-byte BLAKE2b of raw bytes: names messages, chains logs and transcripts."""
    return hashlib.blake2b(raw, digest_size=32).digest()


def order_hash(network: str, maker: bytes) -> hashlib.blake2b:
    """The beginning of the hash that names an order: copy it, add the order's raw bytes.

    Who names many orders of one maker saves more than half of the work.
    """
    start = network.encode() + b"\0" + maker
    return hashlib.blake2b(start, digest_size=32, person=b"zmqex order")


def order_id(network: str, maker: bytes, order: bytes) -> bytes:
    """The id of an order: bound to its network, its owner and every byte of its terms."""
    hashed = order_hash(network, maker)
    hashed.update(order)
    return hashed.digest()


def trade_id(network: str, maker: bytes, taker: bytes, take_id: bytes) -> bytes:
    """The id of a trade: both sides know it from the take on, so either can always be asked."""
    return hashlib.blake2b(
        network.encode() + b"\0" + maker + taker + take_id, digest_size=32, person=b"zmqex trade"
    ).digest()


def to_text(identity: bytes) -> str:
    """An identity as 52 characters of lower-case base32 without padding."""
    return base64.b32encode(identity).decode().rstrip("=").lower()


def from_text(text: str) -> bytes:
    """Read an identity from its text form; ValueError where it is not one."""
    try:
        identity = base64.b32decode(text.upper() + "====")
    except ValueError:
        identity = b""
    if len(identity) != len(ZERO_DIGEST) or to_text(identity) != text:
        msg = f"{text[:60]!r} is not a peer id: 52 characters of a-z and 2-7"
        raise ValueError(msg)
    return identity


def short(identity: bytes) -> str:
    """The first 8 characters of the text form."""
    return to_text(identity)[:SHORT_CHARS]
