"""Recoverable ECDSA on secp256k1: the one place that touches the binding (libwally-core).

Secret keys are 32 bytes, public keys 33 (compressed), digests 32, signatures 65: r, s and the
recovery id, as BOLT 11 writes them.  Nonces are deterministic (RFC 6979), so no randomness.
"""

from __future__ import annotations

import hashlib
from typing import Final

import wallycore

from zmqex.errors import LocalProtocolError

SECRET_KEY_BYTES: Final = 32
PUBLIC_KEY_BYTES: Final = 33
SIGNATURE_BYTES: Final = 65

_RECOVERY_ID_MAX: Final = 3
# Bitcoin's compact form leads with this plus the recovery id; the public key is compressed.
_COMPACT_HEADER: Final = 31
_ORDER: Final = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
_HALF_ORDER: Final = _ORDER // 2
_FLAGS: Final = wallycore.EC_FLAG_ECDSA | wallycore.EC_FLAG_RECOVERABLE


def is_secret_key(secret_key: bytes) -> bool:
    """Whether the bytes are a secret key: 32 of them, between 1 and the curve's order."""
    return len(secret_key) == SECRET_KEY_BYTES and 0 < int.from_bytes(secret_key, "big") < _ORDER


def is_public_key(public_key: bytes) -> bool:
    """Whether the bytes are a point of the curve in compressed form."""
    try:
        wallycore.ec_public_key_verify(public_key)
    except ValueError:
        return False
    return True


def public_key(secret_key: bytes) -> bytes:
    """Return the public key of a secret key.

    Raises `LocalProtocolError` if it is not a secret key.
    """
    _require(secret_key)
    return bytes(wallycore.ec_public_key_from_private_key(secret_key))


def digest_of(prefix: str, value: int, bits: int) -> bytes:
    """Return what is signed: the hash of the prefix and `bits` bits of content.

    Zeros fill the content up to a whole byte (BOLT 11, "Data Part").
    """
    padding = -bits % 8
    content = (value << padding).to_bytes((bits + padding) // 8, "big")
    return hashlib.sha256(prefix.encode() + content).digest()


def sign(secret_key: bytes, digest: bytes) -> bytes:
    """Return the signature of `digest`, with low S.

    Raises `LocalProtocolError` if `secret_key` is not one.
    """
    _require(secret_key)
    compact = wallycore.ec_sig_from_bytes(secret_key, digest, _FLAGS)
    return bytes(compact[1:]) + bytes((compact[0] - _COMPACT_HEADER,))


def recover(digest: bytes, signature: bytes) -> bytes | None:
    """Return the public key that made a signature, or None if none could have."""
    recovery_id = signature[-1]
    if recovery_id > _RECOVERY_ID_MAX:
        return None
    try:
        key = wallycore.ec_sig_to_public_key(
            digest, bytes((_COMPACT_HEADER + recovery_id,)) + signature[:-1]
        )
    except ValueError:
        return None
    return bytes(key)


def verify(key: bytes, digest: bytes, signature: bytes) -> bool:
    """Whether `key` made the signature; one with high S is not accepted (BOLT 11, field `n`)."""
    if signature[-1] > _RECOVERY_ID_MAX:
        return False
    if int.from_bytes(signature[32:64], "big") > _HALF_ORDER:
        return False
    try:
        wallycore.ec_sig_verify(key, digest, wallycore.EC_FLAG_ECDSA, signature[:-1])
    except ValueError:
        return False
    return True


def _require(secret_key: bytes) -> None:
    if not is_secret_key(secret_key):
        raise LocalProtocolError("a secret key is 32 bytes between 1 and the curve's order")
