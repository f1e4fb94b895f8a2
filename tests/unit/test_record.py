"""Peer records: which ones are believed, and the one word why another is not."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from zmqex.limits import CLOCK_SKEW_MAX_MS, RECORD_BYTES_MAX, RECORD_LIFE_MS
from zmqex.protocol.codec import encode
from zmqex.protocol.identity import IdentityKey, seal
from zmqex.protocol.messages import Endpoint, PeerRecord
from zmqex.protocol.record import check_record
from zmqex.reasons import RejectReason

NOW_MS = 1_700_000_000_000
KEY = IdentityKey(b"\x01" * 32)
RECORD = PeerRecord(
    network="play",
    identity=KEY.public_key,
    hello=Endpoint("", 7_100),
    rpc=Endpoint("", 7_101),
    orders=Endpoint("", 7_102),
    curve_key=bytes(32),
    lightning_node=bytes(33),
    capabilities=["plain"],
    not_before_ms=NOW_MS,
    not_after_ms=NOW_MS + RECORD_LIFE_MS,
    sequence=NOW_MS,
)


def said(record: PeerRecord = RECORD, kind: str = "record") -> bytes:
    """Envelope bytes of a record, signed by its identity."""
    return seal(KEY, "play", kind, encode(record))


def test_a_record_of_now_is_believed() -> None:
    """Signed, dated and of this network."""
    assert check_record(said(), "play", NOW_MS) == RECORD


def test_a_record_that_leaves_is_believed_too() -> None:
    """Without endpoints its peer is leaving; that is news as well."""
    leaving = replace(RECORD, hello=None, rpc=None, orders=None)
    assert check_record(said(leaving), "play", NOW_MS) == leaving


@pytest.mark.parametrize("skew_ms", [-CLOCK_SKEW_MAX_MS, CLOCK_SKEW_MAX_MS])
def test_clocks_may_differ_by_the_allowed_skew(skew_ms: int) -> None:
    """A record from 30 s ahead or one that ended 30 s ago is still believed."""
    now_ms = NOW_MS + skew_ms if skew_ms < 0 else RECORD.not_after_ms + skew_ms
    assert check_record(said(), "play", now_ms) == RECORD


@pytest.mark.parametrize(
    ("record", "now_ms", "reason"),
    [
        (RECORD, NOW_MS - CLOCK_SKEW_MAX_MS - 1, RejectReason.CLOCK_SKEW),
        (
            replace(RECORD, sequence=NOW_MS + RECORD_LIFE_MS + 1),
            NOW_MS,
            RejectReason.CLOCK_SKEW,
        ),
        (RECORD, RECORD.not_after_ms + CLOCK_SKEW_MAX_MS + 1, RejectReason.EXPIRED),
        (replace(RECORD, not_after_ms=RECORD.not_after_ms + 1), NOW_MS, RejectReason.EXPIRED),
        (replace(RECORD, network="regtest"), NOW_MS, RejectReason.WRONG_NETWORK),
        (replace(RECORD, identity=bytes(32)), NOW_MS, RejectReason.BAD_SIGNATURE),
    ],
    ids=["not yet", "numbered ahead", "over", "lives too long", "other network", "other signer"],
)
def test_a_record_is_refused_with_one_word(
    record: PeerRecord, now_ms: int, reason: RejectReason
) -> None:
    """Dates, life, network and signer each have theirs."""
    assert check_record(said(record), "play", now_ms) is reason


def test_a_record_signed_as_something_else_is_refused() -> None:
    """A signature over a heartbeat is none over a record."""
    assert check_record(said(kind="heartbeat"), "play", NOW_MS) is RejectReason.BAD_SIGNATURE


def test_a_record_over_900_bytes_is_refused_unread() -> None:
    """Its size is checked before anything is decoded."""
    raw = bytes(RECORD_BYTES_MAX + 1)
    assert check_record(raw, "play", NOW_MS) is RejectReason.FRAME_TOO_BIG
    assert check_record(raw[1:], "play", NOW_MS) is RejectReason.MALFORMED


def test_a_record_with_the_longest_endpoints_fits() -> None:
    """Two endpoints with host names of 255 characters leave room for everything else."""
    long = Endpoint("h" * 255, 65_535)
    record = replace(RECORD, hello=long, rpc=long)
    assert len(said(record)) <= RECORD_BYTES_MAX
    assert check_record(said(record), "play", NOW_MS) == record


def test_what_is_no_record_is_malformed() -> None:
    """Neither a wrong envelope nor a wrong body raises."""
    assert check_record(b"hello", "play", NOW_MS) is RejectReason.MALFORMED
    assert check_record(seal(KEY, "play", "record", b"\x90"), "play", NOW_MS) is (
        RejectReason.MALFORMED
    )
