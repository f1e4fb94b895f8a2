"""What the makers have truly signed: every batch, and the naive fold over each chain.

It shares no code with the product's fold: rows are copied at each batch, and the root is hashed
from nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from tests.simulation.liars import NETWORK, batch_of, placed_ids
from zmqex.errors import RemoteProtocolError
from zmqex.protocol.codec import decode, decode_envelope
from zmqex.protocol.identity import digest, order_id
from zmqex.protocol.messages import Batch, Close, Order, Place, Update

Rows = dict[bytes, tuple[int, int]]  # order id: (remaining, held)


@dataclass
class Signed:
    """One batch that its maker signed."""

    batch: Batch
    digest: bytes
    envelope: bytes
    rows: Rows | None = None  # after it; None: not folded yet, or not valid
    folded: bool = False
    root: bytes = b""


@dataclass
class Reference:
    """All batches of all makers, by what was hashed."""

    by_digest: dict[bytes, Signed] = field(default_factory=dict)
    by_envelope: dict[bytes, Signed] = field(default_factory=dict)
    placed: dict[bytes, bytes] = field(default_factory=dict)  # order id: maker

    def add(self, envelope: bytes) -> Signed:
        """A maker has signed this."""
        known = self.by_envelope.get(envelope)
        if known is not None:
            return known
        batch = batch_of(envelope)
        assert batch is not None
        signed = Signed(batch, digest(decode_envelope(envelope).body), envelope)
        self.by_digest[signed.digest] = self.by_envelope[envelope] = signed
        for key in placed_ids(batch.maker, batch):
            self.placed[key] = batch.maker
        return signed

    def fold(self, signed: Signed) -> Rows | None:
        """The open orders after a batch, or None where no chain of valid batches leads there."""
        chain = []
        one: Signed | None = signed
        while one is not None and not one.folded:
            chain.append(one)
            one = self.by_digest.get(one.batch.previous_hash)
        for one in reversed(chain):
            one.rows = self._after(one)
            one.folded = True
            if one.rows is not None:
                one.root = root_of(one.rows)
        return signed.rows

    def _after(self, signed: Signed) -> Rows | None:
        batch = signed.batch
        if batch.sequence == 1:
            before: Rows | None = {} if batch.previous_hash == bytes(32) else None
        else:
            earlier = self.by_digest.get(batch.previous_hash)
            follows = earlier is not None and _place(earlier.batch, 1) == _place(batch)
            before = earlier.rows if follows and earlier is not None else None
        if before is None:
            return None
        rows = dict(before)
        for operation in batch.operations:
            if not _apply(rows, batch, operation):
                return None
        return rows


def _place(batch: Batch, further: int = 0) -> tuple[bytes, str, int, int]:
    return batch.maker, batch.market, batch.epoch, batch.sequence + further


def _apply(rows: Rows, batch: Batch, operation: object) -> bool:
    if isinstance(operation, Place):
        try:
            terms = decode(operation.order, Order)
        except RemoteProtocolError:
            return False
        key = order_id(NETWORK, batch.maker, operation.order)
        rows[key] = (terms.quantity_lots, 0)
    elif isinstance(operation, Update):
        if operation.order_id not in rows:
            return False
        rows[operation.order_id] = (operation.remaining_lots, operation.held_lots)
    elif isinstance(operation, Close):
        return rows.pop(operation.order_id, None) is not None
    return True


def root_of(rows: Rows) -> bytes:
    """The book root as docs/protocol.md defines it."""
    buckets: list[list[bytes]] = [[] for _ in range(256)]
    for key in sorted(rows):
        remaining, held = rows[key]
        buckets[key[0]].append(key + remaining.to_bytes(8, "big") + held.to_bytes(8, "big"))
    digests = [
        hashlib.blake2b(b"".join(rows_of), digest_size=32, person=b"zmqex bucket").digest()
        if rows_of
        else _EMPTY
        for rows_of in buckets
    ]
    return hashlib.blake2b(b"".join(digests), digest_size=32, person=b"zmqex root").digest()


_EMPTY = hashlib.blake2b(digest_size=32, person=b"zmqex bucket").digest()
