"""What others claim was signed: cheap checks first, then the signature, then acceptance.

Three answers: accept, ignore (old, repeated, too far in the future: not wrong, not used), and
wrong (cannot be read, or a bad signature).  Signatures are checked outside (`Verify`), for
everything that one drain of the sockets brought at once.
Not for: what a true claim changes (`replicas`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from zmqex.errors import RemoteProtocolError
from zmqex.kernel.budgets import Budgets, TokenBucket
from zmqex.kernel.core import Core
from zmqex.kernel.effects import Verify
from zmqex.kernel.events import StreamReceived, Verified
from zmqex.kernel.logs import MakerLog, Waiting, kept
from zmqex.kernel.own_record import RECORD_TOPIC
from zmqex.kernel.sessions import Sessions
from zmqex.limits import (
    BATCH_BYTES_MAX,
    CLOCK_SKEW_MAX_MS,
    FORK_PROOFS_BURST,
    FORK_PROOFS_PER_SECOND,
    SEQUENCE_JUMP_MAX,
    VERIFIED_KEPT_MAX,
    VERIFYING_MAX,
)
from zmqex.protocol.codec import decode, decode_envelope
from zmqex.protocol.identity import digest
from zmqex.protocol.log import topic
from zmqex.protocol.messages import Batch, Envelope, ForkProof, Heartbeat
from zmqex.reasons import RejectReason

if TYPE_CHECKING:
    from zmqex.kernel.replicas import Replicas

HEARTBEAT_TOPIC: Final = b"h"
RELAYED_TOPIC: Final = b"r"  # heartbeats of others that have a log
PROOF_TOPIC: Final = b"e"
Item = tuple[bytes, str, Envelope]


class Claim(msgspec.Struct, frozen=True):
    """Something that was signed, allegedly: what to verify, and what to do if it is true."""

    items: tuple[Item, ...]
    accept: Callable[[], None]
    operations: int = 1
    key: bytes = b""  # of a streamed message: the digest of its body, and its signature


class Claims:
    """The way of everything signed into the replicas."""

    def __init__(self, core: Core, sessions: Sessions, replicas: Replicas) -> None:
        """Wait for the streams of the markets that this node follows."""
        self._core = core
        self._sessions = sessions
        self._replicas = replicas
        self._markets = {topic(market): market for market in core.settings.markets}
        self._tickets: dict[int, tuple[list[Claim], Callable[[int], None]]] = {}
        self._last_ticket = 0
        self._verifying = 0
        self._verified: dict[bytes, None] = {}  # keys of claims, the latest last
        self._under_way: dict[bytes, None] = {}
        self._budgets = Budgets()
        self._proofs = TokenBucket(FORK_PROOFS_PER_SECOND, FORK_PROOFS_BURST, 0)

    def on_stream(self, event: StreamReceived) -> None:
        """Check cheaply what one drain of the sockets brought; ask for the rest's signatures."""
        claims = []
        admit, now_ms = self._budgets.admit, self._core.now.monotonic_ms
        peers = event.peers or (b"",) * len(event.messages)
        for (about, raw), peer in zip(event.messages, peers, strict=True):
            if not admit(peer, now_ms, messages=1, size=len(raw)):
                self._core.count("over_budget")
                continue
            try:
                claim = self._claim(about, raw)
            except RemoteProtocolError:
                self._core.count("malformed")
                continue
            if claim is None:
                continue
            if admit(peer, now_ms, operations=claim.operations):
                claims.append(claim)
                self._under_way[claim.key] = None
            else:
                self._core.count("over_budget")
        self.verify(claims)

    def verify(
        self, claims: list[Claim], then: Callable[[int], None] = lambda _wrong: None
    ) -> None:
        """Have claims verified and accept the true ones in order.

        `then` is told, last of all, how many were wrong.  What is too much at once is dropped and
        counted: it will be found missing, and fetched.
        """
        items: list[Item] = []
        room = VERIFYING_MAX - self._verifying
        taken = []
        for claim in claims:
            if len(items) + len(claim.items) <= room:
                items.extend(claim.items)
                taken.append(claim)
            else:
                self._under_way.pop(claim.key, None)
        self._core.count("verifications_dropped", len(claims) - len(taken))
        if not items:
            then(0)
            return
        self._verifying += len(items)
        self._last_ticket += 1
        self._tickets[self._last_ticket] = taken, then
        self._core.emit(Verify(self._last_ticket, tuple(items)))

    def on_verified(self, event: Verified) -> None:
        """Accept what was truly signed, in order of arrival."""
        claims, then = self._tickets.pop(event.ticket)
        self._verifying -= len(event.valid)
        wrong = at = 0
        for claim in claims:
            end = at + len(claim.items)
            self._under_way.pop(claim.key, None)
            if all(event.valid[at:end]):
                self._note_verified(claim.key)
                claim.accept()
            else:
                wrong += 1
            at = end
        self._core.count("bad_signatures", wrong)
        then(wrong)

    def _note_verified(self, key: bytes) -> None:
        if key:
            if len(self._verified) >= VERIFIED_KEPT_MAX:
                del self._verified[next(iter(self._verified))]
            self._verified[key] = None

    # --- what may be claimed ---------------------------------------------------------------------

    def _is_repeat(self, key: bytes) -> bool:
        """Whether these very words are known to be true, or about to be judged: another relay's."""
        repeat = key in self._verified or key in self._under_way
        if repeat:
            self._core.count("repeats")
        return repeat

    def _claim(self, about: bytes, raw: bytes) -> Claim | None:
        """What a stream message claims, or None where it is not worth a signature check."""
        market = self._markets.get(about)
        if market is not None:
            return self.batch(raw, market, streamed=True)
        if about in {HEARTBEAT_TOPIC, RELAYED_TOPIC}:
            return self.heartbeat(raw, streamed=True)
        if about == PROOF_TOPIC:
            return self._fork(raw)
        if about == RECORD_TOPIC:
            self._sessions.on_record(raw)
        else:
            self._core.count("ignored_unknown_topic")
        return None

    def batch(
        self, raw: bytes, market: str, maker: bytes = b"", *, streamed: bool = False
    ) -> Claim | None:
        """A batch of this market (and maker, if given); RemoteProtocolError where it is not."""
        if len(raw) > BATCH_BYTES_MAX:
            raise RemoteProtocolError("a batch that fits no answer", penalty=5)
        envelope = decode_envelope(raw)
        body_digest = digest(envelope.body)
        key = body_digest + envelope.signature if streamed else b""
        if streamed and self._is_repeat(key):
            return None
        batch = decode(envelope.body, Batch)
        if batch.market != market or (maker and batch.maker != maker):
            raise RemoteProtocolError("a batch of another log", penalty=5)
        new = Waiting(batch, body_digest, raw, streamed)
        why = self._why_ignore_batch(new)
        if why is not None:
            self._core.count("ignored_" + why.value)
            return None
        items = ((batch.maker, "batch", envelope),)
        return Claim(items, partial(self._replicas.accept_batch, new), len(batch.operations), key)

    def _why_ignore_batch(self, new: Waiting) -> RejectReason | None:
        batch = new.batch
        log = self._replicas.log(batch.maker, batch.market)
        if batch.epoch > self._core.now.wall_ms + CLOCK_SKEW_MAX_MS:
            return RejectReason.FUTURE_EPOCH
        if log is None and self._is_full(batch.maker):
            return RejectReason.MAKER_FULL
        if _jumps(batch, log):
            return RejectReason.SEQUENCE_GAP
        if log is None:
            return None
        if batch.epoch != log.fold.epoch:
            return RejectReason.OLD_EPOCH if batch.epoch < log.fold.epoch else None
        if log.forked or log.refused:
            return RejectReason.FORKED_LOG
        known = kept(log, batch.sequence)
        if known is not None and known[0] != new.digest:
            return None  # another batch at the same place is no repeat: it may prove a fork
        old = known is not None or batch.sequence <= log.fold.sequence
        return RejectReason.DUPLICATE_BATCH if old else None

    def heartbeat(self, raw: bytes, hint: bytes = b"", *, streamed: bool = False) -> Claim | None:
        """A heartbeat; `hint` is the peer that told us when asked."""
        envelope = decode_envelope(raw)
        key = digest(envelope.body) + envelope.signature if streamed else b""
        if streamed and self._is_repeat(key):
            return None
        beat = decode(envelope.body, Heartbeat)
        why = self._why_ignore_heartbeat(beat)
        if why is not None:
            self._core.count("ignored_" + why)
            return None
        items = ((beat.maker, "heartbeat", envelope),)
        return Claim(items, partial(self._replicas.accept_heartbeat, beat, raw, hint), key=key)

    def _why_ignore_heartbeat(self, beat: Heartbeat) -> str | None:
        if beat.maker == self._core.identity:
            # Our own words: of interest only where somebody has more of our log than we have.
            return None if any(map(self._replicas.own_is_ahead, beat.heads)) else "own_heartbeat"
        maker = self._replicas.makers.get(beat.maker)
        if beat.sent_at_ms > self._core.now.wall_ms + CLOCK_SKEW_MAX_MS:
            return RejectReason.CLOCK_SKEW.value
        if maker is not None and maker.is_old(beat.sent_at_ms, self._core.now):
            return "old_heartbeat"
        return RejectReason.MAKER_FULL.value if self._is_full(beat.maker) else None

    def _fork(self, raw: bytes) -> Claim | None:
        """A proof that a maker said two things at once."""
        key = digest(raw)
        if self._is_repeat(key):
            return None
        proof = decode(raw, ForkProof)
        envelopes = [decode_envelope(one) for one in (proof.first, proof.second)]
        first, second = (decode(one.body, Batch) for one in envelopes)
        place = (first.maker, first.market, first.epoch, first.sequence)
        same = place == (second.maker, second.market, second.epoch, second.sequence)
        if not same or envelopes[0].body == envelopes[1].body:
            raise RemoteProtocolError("not a proof of a fork", penalty=5)
        log = self._replicas.log(first.maker, first.market)
        # Only of makers in our book, and only of what they say now.
        if log is None or log.forked or first.epoch != log.fold.epoch:
            self._core.count("ignored_fork_proof")
            return None
        if self._proofs.take(self._core.now.monotonic_ms):
            self._core.count("ignored_rate_limited")
            return None
        items = tuple((first.maker, "batch", one) for one in envelopes)
        return Claim(items, partial(self._replicas.forks.accept, log, first.epoch, proof), key=key)

    def _is_full(self, maker: bytes) -> bool:
        return maker not in self._replicas.makers and self._replicas.room.is_full()


def _jumps(batch: Batch, log: MakerLog | None) -> bool:
    """Whether a batch lies far beyond all that is known of its epoch."""
    known = (0, 0) if log is None else max(log.at, log.target)
    told = known[1] if known[0] == batch.epoch else 0
    return batch.sequence - told > SEQUENCE_JUMP_MAX
