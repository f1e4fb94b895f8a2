"""Who a peer is, what its signatures are bound to, and how orders and trades are named."""

from __future__ import annotations

import hashlib

import nacl.signing
import pytest

from zmqex.protocol.codec import decode_envelope
from zmqex.protocol.identity import (
    IdentityKey,
    digest,
    from_text,
    order_id,
    seal,
    short,
    signing_context,
    to_text,
    trade_id,
    verify,
)
from zmqex.protocol.messages import Envelope

SEED = b"\x01" * 32
KEY = IdentityKey(SEED)
BODY = b"\x91\x05"


def sealed() -> Envelope:
    """An envelope of ours: a play batch."""
    return decode_envelope(seal(KEY, "play", "batch", BODY))


def test_the_public_key_is_the_one_of_rfc_8032() -> None:
    """The identity of a seed is its Ed25519 public key, whoever computes it."""
    assert KEY.public_key == bytes(nacl.signing.SigningKey(SEED).verify_key)


def test_the_secret_is_never_shown() -> None:
    """Neither in a traceback nor in a log: only the public half has a text."""
    assert repr(KEY) == "IdentityKey(rkeohxlu)"
    assert SEED.hex() not in repr(KEY)


def test_a_signature_is_over_context_and_body() -> None:
    """The context names protocol, version, network and kind, and ends with a zero byte."""
    assert signing_context("play", "batch") == b"zmqex/1/play/batch\0"
    signed = nacl.signing.VerifyKey(KEY.public_key).verify(
        b"zmqex/1/play/batch\0" + BODY, sealed().signature
    )
    assert signed.endswith(BODY)


def test_a_true_signature_is_verified() -> None:
    """By the identity that made it, for the kind and network that it was made for."""
    assert verify(KEY.public_key, "play", "batch", sealed())


@pytest.mark.parametrize(
    ("identity", "network", "kind", "envelope"),
    [
        (IdentityKey(b"\x02" * 32).public_key, "play", "batch", sealed()),
        (KEY.public_key, "mainnet", "batch", sealed()),
        (KEY.public_key, "play", "heartbeat", sealed()),
        (KEY.public_key, "play", "batch", Envelope(BODY + b"\0", sealed().signature)),
        (KEY.public_key, "play", "batch", Envelope(BODY, bytes(64))),
        (bytes(32), "play", "batch", sealed()),
        (KEY.public_key[:31], "play", "batch", sealed()),
    ],
    ids=["identity", "network", "kind", "body", "signature", "null key", "short key"],
)
def test_a_signature_for_anything_else_is_not(
    identity: bytes, network: str, kind: str, envelope: Envelope
) -> None:
    """Change one thing that it is bound to, and it is no signature any more; nothing raises."""
    assert not verify(identity, network, kind, envelope)


def test_a_signature_does_not_reach_into_the_body() -> None:
    """Words inside of a signed body are not signed by themselves, whatever the signature is."""
    inner = signing_context("play", "heartbeat") + b"words"
    outer = decode_envelope(seal(KEY, "play", "batch", b"quoted: " + inner))
    prefix = outer.signature + signing_context("play", "batch") + b"quoted: "
    assert verify(KEY.public_key, "play", "batch", outer)
    assert not verify(KEY.public_key, "play", "heartbeat", Envelope(b"words", prefix))


def test_a_digest_is_blake2b_of_32_bytes() -> None:
    """Names messages, chains logs and transcripts."""
    assert digest(b"abc") == hashlib.blake2b(b"abc", digest_size=32).digest()


def test_an_order_id_is_bound_to_network_maker_and_terms() -> None:
    """Nobody can have the same id for another order, or for an order of another maker."""
    first = order_id("play", bytes(32), b"terms")
    others = {
        order_id("regtest", bytes(32), b"terms"),
        order_id("play", b"\1" * 32, b"terms"),
        order_id("play", bytes(32), b"Terms"),
    }
    assert len(others | {first}) == 4


def test_a_trade_id_is_bound_to_both_parties_and_the_take() -> None:
    """Both sides know it from the take on, and maker and taker are not interchangeable."""
    maker, taker, take_id = b"m" * 32, b"t" * 32, b"i" * 32
    first = trade_id("play", maker, taker, take_id)
    others = {
        trade_id("regtest", maker, taker, take_id),
        trade_id("play", taker, maker, take_id),
        trade_id("play", maker, taker, b"j" * 32),
        order_id("play", maker, taker + take_id),
    }
    assert len(others | {first}) == 5


def test_an_identity_reads_as_it_prints() -> None:
    """52 characters of lower-case base32 without padding; the first 8 for people."""
    text = to_text(KEY.public_key)
    assert text == "rkeohxlubhyzl7ks3mwtzos5olfgocn7dwkbeg7toseadnapn5oa"
    assert from_text(text) == KEY.public_key
    assert short(KEY.public_key) == text[:8]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rkeohxlu",
        to_text(KEY.public_key).upper(),
        to_text(KEY.public_key) + "====",
        to_text(KEY.public_key)[:-1] + "b",
        to_text(KEY.public_key)[:-1] + "1",
        to_text(KEY.public_key)[:-1] + "\u00df",
        to_text(KEY.public_key) + "aaaaaaaa",
    ],
    ids=["empty", "short", "capitals", "padded", "loose bits", "digit 1", "not ASCII", "long"],
)
def test_what_no_identity_prints_is_refused(text: str) -> None:
    """One text per identity: no other spelling is read as one."""
    with pytest.raises(ValueError, match="is not a peer id: 52 characters of a-z and 2-7"):
        from_text(text)
