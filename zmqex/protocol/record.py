"""Peer records: how one is made, and what makes another's worth believing.

Not for: which of two records of one peer counts (`kernel.sessions`).
"""

from __future__ import annotations

from zmqex.errors import RemoteProtocolError
from zmqex.limits import CLOCK_SKEW_MAX_MS, RECORD_BYTES_MAX, RECORD_LIFE_MS
from zmqex.protocol.codec import decode, decode_envelope
from zmqex.protocol.identity import verify
from zmqex.protocol.messages import PeerRecord
from zmqex.reasons import RejectReason


def check_record(raw: bytes, network: str, now_ms: int) -> PeerRecord | RejectReason:
    """The record in these envelope bytes, or why it is not believed.

    Checked, cheapest first: size and form, network, dates, signature.  A record that is dated more
    than the allowed skew into the future is not believed, nor one that is numbered more than the
    life of a record ahead: a clock that was ahead leaves a number behind that the next one tops.
    """
    if len(raw) > RECORD_BYTES_MAX:
        return RejectReason.FRAME_TOO_BIG
    try:
        envelope = decode_envelope(raw)
        record = decode(envelope.body, PeerRecord)
    except RemoteProtocolError:
        return RejectReason.MALFORMED
    if record.network != network:
        return RejectReason.WRONG_NETWORK
    dated_ahead = record.not_before_ms > now_ms + CLOCK_SKEW_MAX_MS
    if dated_ahead or record.sequence > now_ms + RECORD_LIFE_MS:
        return RejectReason.CLOCK_SKEW
    life_ms = record.not_after_ms - record.not_before_ms
    if record.not_after_ms + CLOCK_SKEW_MAX_MS < now_ms or life_ms > RECORD_LIFE_MS:
        return RejectReason.EXPIRED
    if not verify(record.identity, network, "record", envelope):
        return RejectReason.BAD_SIGNATURE
    return record
