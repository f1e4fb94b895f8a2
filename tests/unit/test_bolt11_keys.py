"""Keys and signatures on secp256k1."""

from __future__ import annotations

import hashlib
from typing import Final

import pytest

from zmqex.bolt11 import is_secret_key, keys, public_key
from zmqex.errors import LocalProtocolError

_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_SECRET_KEY: Final = (1).to_bytes(32, "big")
_DIGEST: Final = hashlib.sha256(b"a message").digest()


def test_the_public_key_of_one_is_the_generator() -> None:
    """SEC 2 names the point."""
    expected = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    assert public_key(_SECRET_KEY).hex() == expected
    assert keys.is_public_key(public_key(_SECRET_KEY))


@pytest.mark.parametrize(
    "secret_key",
    [b"", b"\x01" * 31, b"\x01" * 33, bytes(32), _ORDER.to_bytes(32, "big"), b"\xff" * 32],
)
def test_what_is_no_secret_key_neither_signs_nor_has_a_public_key(secret_key: bytes) -> None:
    """Wrong lengths, zero, and the order of the curve and above."""
    assert not is_secret_key(secret_key)
    with pytest.raises(LocalProtocolError, match="32 bytes between 1 and the curve's order"):
        public_key(secret_key)
    with pytest.raises(LocalProtocolError, match="32 bytes between 1 and the curve's order"):
        keys.sign(secret_key, _DIGEST)


def test_the_highest_secret_key_is_one() -> None:
    """The order less one is still a key."""
    assert is_secret_key((_ORDER - 1).to_bytes(32, "big"))
    assert public_key((_ORDER - 1).to_bytes(32, "big"))[1:] == public_key(_SECRET_KEY)[1:]


@pytest.mark.parametrize("number", range(1, 40))
def test_a_signature_tells_its_signer_and_has_low_s(number: int) -> None:
    """Whatever the recovery id; the signature is the same each time."""
    secret_key = number.to_bytes(32, "big")
    signature = keys.sign(secret_key, _DIGEST)
    assert len(signature) == 65
    assert int.from_bytes(signature[32:64], "big") <= _ORDER // 2
    assert keys.recover(_DIGEST, signature) == public_key(secret_key)
    assert keys.verify(public_key(secret_key), _DIGEST, signature)
    assert keys.sign(secret_key, _DIGEST) == signature


def test_both_recovery_ids_occur() -> None:
    """So the tests above cover odd and even points."""
    found = {keys.sign(number.to_bytes(32, "big"), _DIGEST)[-1] for number in range(1, 40)}
    assert found == {0, 1}


def test_what_nobody_can_have_signed_has_no_signer() -> None:
    """A recovery id over 3, and numbers that are no signature."""
    signature = keys.sign(_SECRET_KEY, _DIGEST)
    assert keys.recover(_DIGEST, signature[:-1] + b"\x04") is None
    assert keys.recover(_DIGEST, b"\xff" * 64 + b"\x00") is None
    assert keys.recover(_DIGEST, bytes(65)) is None


def test_only_the_signer_s_low_s_signature_of_this_digest_is_verified() -> None:
    """Another key, digest, recovery id, high S, or no key at all: not verified."""
    key = public_key(_SECRET_KEY)
    signature = keys.sign(_SECRET_KEY, _DIGEST)
    high_s = _ORDER - int.from_bytes(signature[32:64], "big")
    assert keys.verify(key, _DIGEST, signature)
    assert not keys.verify(public_key((2).to_bytes(32, "big")), _DIGEST, signature)
    assert not keys.verify(key, bytes(32), signature)
    assert not keys.verify(key, _DIGEST, signature[:-1] + b"\x04")
    assert not keys.verify(
        key, _DIGEST, signature[:32] + high_s.to_bytes(32, "big") + signature[64:]
    )
    assert not keys.verify(b"\x02" * 5, _DIGEST, signature)


def test_what_is_no_point_is_no_public_key() -> None:
    """Wrong lengths, wrong first bytes, and an x that is not on the curve."""
    for raw in (b"", b"\x02" * 32, b"\x04" + b"\x01" * 32, b"\x02" + b"\xff" * 32):
        assert not keys.is_public_key(raw)
