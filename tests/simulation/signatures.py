"""Signatures in a world of one thread: each distinct one is checked once, or all are imitated.

Whether a signature is valid depends on nothing but its bytes, so a network of 200 nodes that all
check the same heartbeat learns nothing from the second check.  The fast signer imitates Ed25519
with a keyed hash that every node of the run can recompute; it is for runs about speed and size.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator

import nacl.bindings
import nacl.exceptions

from zmqex.protocol.identity import IdentityKey, Signer

_REMEMBERED_MAX = 50_000
_SIGNATURE_BYTES = 64
_CHECK = "crypto_sign_open"
Open = Callable[[bytes, bytes], bytes]


class FastSigner:
    """Signs with a keyed hash; the identity is a hash of the seed."""

    def __init__(self, seed: bytes) -> None:
        """Make the identity of a seed."""
        self.public_key = hashlib.sha256(b"fast " + seed).digest()

    def sign(self, context: bytes, body: bytes) -> bytes:
        """See `zmqex.protocol.identity.Signer`."""
        return _imitation(self.public_key, context + body)


def signer(seed: bytes, *, fast: bool) -> Signer:
    """A signer of the kind that the run uses."""
    return FastSigner(seed) if fast else IdentityKey(seed)


@contextlib.contextmanager
def checking(*, fast: bool) -> Iterator[None]:
    """While this is open, signature checks are remembered, or imitated."""
    real: Open = nacl.bindings.crypto_sign_open
    known: dict[tuple[bytes, bytes], bool] = {}

    def remembered(signed: bytes, identity: bytes) -> bytes:
        key = (signed, identity)
        if key not in known:
            if len(known) >= _REMEMBERED_MAX:
                known.clear()
            try:
                (_open_fast if fast else real)(signed, identity)
                known[key] = True
            except (nacl.exceptions.BadSignatureError, nacl.exceptions.ValueError):
                known[key] = False
        if not known[key]:
            raise nacl.exceptions.BadSignatureError
        return signed[_SIGNATURE_BYTES:]

    setattr(nacl.bindings, _CHECK, remembered)
    try:
        yield
    finally:
        setattr(nacl.bindings, _CHECK, real)


def _open_fast(signed: bytes, identity: bytes) -> bytes:
    signature, message = signed[:_SIGNATURE_BYTES], signed[_SIGNATURE_BYTES:]
    if signature != _imitation(identity, message):
        raise nacl.exceptions.BadSignatureError
    return message


def _imitation(identity: bytes, message: bytes) -> bytes:
    return hashlib.blake2b(message, key=identity, digest_size=_SIGNATURE_BYTES).digest()
