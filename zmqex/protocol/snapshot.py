"""The open orders of one log at a signed head, put together from buckets, each checked by itself.

Only buckets that differ from what is already known are wanted, so a reader that has lagged, was
interrupted or asks somebody else goes on where it stood.
Not for: the head's signature, or whom to ask (`kernel.snapshots`).
"""

from __future__ import annotations

from zmqex.errors import RemoteProtocolError
from zmqex.protocol.log import BUCKETS, EMPTY_BUCKET, Fold, Frozen, Row, bucket_digest, root_of
from zmqex.protocol.messages import Head, OpenOrder, Rows
from zmqex.reasons import RejectReason

_DIGEST_BYTES = 32

Bucket = dict[bytes, Row]


def serve(frozen: Frozen, buckets: bytes, after: bytes, rows_max: int, bytes_max: int) -> Rows:
    """The rows of these buckets, from after that id on, as many as fit and one at least."""
    rows: list[OpenOrder] = []
    size = complete = 0
    for number in buckets:
        for key, row in frozen.bucket(number):
            if key <= after and number == buckets[0]:
                continue
            size += len(row.raw)
            if rows and (len(rows) == rows_max or size > bytes_max):
                return Rows(complete, rows)
            rows.append(OpenOrder(row.raw, row.remaining_lots, row.held_lots))
        complete += 1
    return Rows(complete, rows)


class Assembly:
    """One snapshot of a log on its way; `wanted` are the buckets that are still missing."""

    def __init__(self, fold: Fold, head: Head, digests: bytes, known: dict[bytes, Bucket]) -> None:
        """Start from what the fold has and from `known` buckets by digest, which are added to.

        RemoteProtocolError where the digests are not those of the head.
        """
        if root_of(digests) != head.book_root:
            raise RemoteProtocolError("digests that are not of that book root", penalty=10)
        self.head = head
        self._fold = fold
        self._known = known
        parts = range(0, BUCKETS * _DIGEST_BYTES, _DIGEST_BYTES)
        self._digests = [digests[at : at + _DIGEST_BYTES] for at in parts]
        for digest in known.keys() - set(self._digests):
            del known[digest]  # of a head that has passed
        known[EMPTY_BUCKET] = {}
        for number, digest in enumerate(fold.digests()):
            if digest == self._digests[number] and not fold.head_only:
                known.setdefault(digest, dict(fold.bucket(number)))
        self.wanted = bytes(n for n, digest in enumerate(self._digests) if digest not in known)
        self.differing = len(self.wanted)
        self.after = b""
        self._partial: Bucket = {}
        self._received = 0

    def add(self, page: Rows) -> None:
        """Take a page of the wanted buckets; RemoteProtocolError where it is not of that snapshot.

        Every row is one that the fold could have: whoever serves another is no honest reader, and
        what was complete before stays.
        """
        if page.complete > len(self.wanted) or not (page.complete or page.rows):
            raise RemoteProtocolError("a snapshot page that does not go on", penalty=10)
        if self._received + len(page.rows) > self.head.open_orders:
            raise RemoteProtocolError("more orders than the head has", penalty=10)
        ended = self.wanted[: page.complete]
        left = self.wanted[page.complete :]
        found: dict[int, Bucket] = {number: {} for number in ended + left[:1]}
        found[self.wanted[0]] = dict(self._partial)
        last = self.after
        for one in page.rows:
            key = self._fold.order_id(one.order)
            if key[0] not in found or key <= last:
                raise RemoteProtocolError("rows of a snapshot out of order", penalty=10)
            found[key[0]][key] = self._row(one)
            last = key
        for number in ended:
            if bucket_digest(found[number].items()) != self._digests[number]:
                raise RemoteProtocolError("a bucket that is not of that root", penalty=10)
            self._known[self._digests[number]] = found[number]
        self._received += len(page.rows)
        self.wanted = left
        self._partial = found[left[0]] if left else {}
        self.after = last if self._partial else b""

    def rows(self) -> dict[bytes, Row]:
        """All open orders at the head, once nothing is wanted any more."""
        rows: dict[bytes, Row] = {}
        for digest in self._digests:
            rows.update(self._known[digest])
        return rows

    def _row(self, one: OpenOrder) -> Row:
        order = self._fold.read_order(one.order)
        if isinstance(order, RejectReason):
            raise RemoteProtocolError(f"a snapshot with an order that is {order.value}", penalty=10)
        if not one.held_lots <= one.remaining_lots <= order.quantity_lots:
            raise RemoteProtocolError("a snapshot with impossible quantities", penalty=10)
        return Row(one.order, one.remaining_lots, one.held_lots)
