"""One maker's order log in one market: its hash chain, the orders that it leaves open, their root.

A log is a chain of signed batches; what the maker's orders are is the fold over it, the same on
every node whatever was lost, repeated or reordered on the way.  A fold reads no clock: expired
orders stay in it until the maker closes them, and readers hide them.
Not for: signatures, sockets, or deciding whom to ask for what is missing (`kernel.replicas`).
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable
from struct import Struct
from typing import Final

import msgspec

from zmqex.limits import CLOCK_SKEW_MAX_MS, ORDER_LIFE_MAX_MS
from zmqex.market.orders import OrderFlags
from zmqex.protocol.codec import UNREADABLE, decoder
from zmqex.protocol.identity import ZERO_DIGEST, order_hash
from zmqex.protocol.messages import Batch, Close, Fill, Head, Order, Place, Update
from zmqex.reasons import RejectReason

BUCKETS: Final = 256
_FLAGS_UNKNOWN: Final = ~int(OrderFlags.ALL_OR_NONE | OrderFlags.CANCEL_ON_DISCONNECT)
_TOPIC_BYTES: Final = 8
_decode_order: Final = decoder(Order).decode  # whoever brings one has looked at its size
_ROW: Final = Struct(">32sQQ")  # id, remaining and held lots, as bucket digests are made of them
_BEHIND: Final = bytes([255] * 16)  # after an id: behind its row, whose numbers are less
_pack_row: Final = _ROW.pack


def topic(market: str) -> bytes:
    """The topic of a market's batches: `o` and the 8-byte BLAKE2b of its symbol."""
    return b"o" + hashlib.blake2b(market.encode(), digest_size=_TOPIC_BYTES).digest()


class Row(msgspec.Struct, frozen=True, gc=False):
    """One open order as its maker last spoke of it; `remaining_lots` counts what is held.

    Of the terms it keeps the bytes alone, a quarter of what they weigh when they are decoded.
    """

    raw: bytes
    remaining_lots: int
    held_lots: int

    @property
    def order(self) -> Order:
        """The terms, decoded anew each time: bytes of a row have been read once."""
        return _decode_order(self.raw)

    @property
    def available_lots(self) -> int:
        """What can be taken."""
        return self.remaining_lots - self.held_lots


class Plan(msgspec.Struct, frozen=True):
    """What a checked batch will change: the new row of each order id, None where it is closed.

    `terms` are those of the orders that the fold does not have yet.
    """

    sequence: int
    digest: bytes
    rows: dict[bytes, Row | None]
    terms: dict[bytes, Order]


class Fold:
    """The open orders of one log, at one point of it."""

    def __init__(self, network: str, maker: bytes, market: str) -> None:
        """Know nothing: no epoch, no batch."""
        self.network: Final = network
        self.maker: Final = maker
        self.market: Final = market
        self._order_hash: Final = order_hash(network, maker)
        self.begin(0)

    def begin(self, epoch: int) -> None:
        """Start a newer epoch: everything that was said in older ones is void."""
        self.epoch = epoch
        self.sequence = 0
        self.head_hash = ZERO_DIGEST
        self.head_only = False
        self._clear()

    def restore(self, head: Head, rows: dict[bytes, Row]) -> None:
        """Stand at a head with these open orders, however they came about."""
        self.epoch, self.sequence, self.head_hash = head.epoch, head.sequence, head.head_hash
        self.head_only = False
        self._clear()
        self.orders.update(rows)
        self.order_bytes = sum(len(row.raw) for row in rows.values())
        for key, row in rows.items():
            self._buckets[key[0]] += _pack_row(key, row.remaining_lots, row.held_lots)
            self._digests[key[0]] = b""
        self._root = b""

    def forget_orders(self) -> None:
        """Go head-only: follow the chain, keep no orders (their maker has more than we store)."""
        self.head_only = True
        self._clear()

    def check(self, batch: Batch, digest: bytes) -> Plan | RejectReason:
        """What a batch with this body digest would change, or why it cannot come next.

        Its signature must have been checked.  Changes nothing.
        """
        if batch.maker != self.maker:
            return RejectReason.WRONG_PARTY
        if batch.market != self.market:
            return RejectReason.WRONG_MARKET
        if batch.epoch != self.epoch:
            older = batch.epoch < self.epoch
            return RejectReason.OLD_EPOCH if older else RejectReason.FUTURE_EPOCH
        if batch.sequence != self.sequence + 1:
            repeated = batch.sequence <= self.sequence
            return RejectReason.DUPLICATE_BATCH if repeated else RejectReason.SEQUENCE_GAP
        if batch.previous_hash != self.head_hash:
            return RejectReason.FORKED_LOG if self.sequence else RejectReason.MALFORMED
        plan = Plan(batch.sequence, digest, {}, {})
        refused = None if self.head_only else self._fill(plan, batch)
        return plan if refused is None else refused

    def apply(self, plan: Plan) -> None:
        """Carry out a plan made by `check` at this very point; cannot fail."""
        orders, buckets, digests, terms = self.orders, self._buckets, self._digests, plan.terms
        for frozen in self.frozen:
            frozen.remember(plan.rows)
        for key, row in plan.rows.items():
            number = key[0]
            digests[number] = b""
            if row is not None and key in terms:
                orders[key] = row
                self.order_bytes += len(row.raw)
                buckets[number] += _pack_row(key, row.remaining_lots, row.held_lots)
            elif key in orders:
                self._change(key, row)
        self.sequence = plan.sequence
        self.head_hash = plan.digest
        self._root = b""

    def root(self) -> bytes:
        """BLAKE2b over the 256 bucket digests; only changed buckets are hashed again."""
        if not self._root:
            for number, known in enumerate(self._digests):
                if not known:
                    self._digests[number] = _digest(self._packed(number))
            self._root = root_of(b"".join(self._digests))
        return self._root

    def digests(self) -> list[bytes]:
        """The digest of each bucket; treat it as read-only."""
        self.root()
        return self._digests

    def bucket(self, number: int) -> list[tuple[bytes, Row]]:
        """The open orders whose ids start with that byte, in order of id."""
        return [(key, self.orders[key]) for key, _, _ in map(_ROW.unpack, self._packed(number))]

    def read_order(self, raw: bytes) -> Order | RejectReason:
        """The terms of an order of this log, or why they cannot be."""
        try:
            order = _decode_order(raw)
        except UNREADABLE:
            return RejectReason.MALFORMED
        return self._why_not_terms(order) or order

    def order_id(self, raw: bytes) -> bytes:
        """The id of an order of this log's maker."""
        hashed = self._order_hash.copy()
        hashed.update(raw)
        return hashed.digest()

    def head(self) -> Head:
        """Where this log stands."""
        return Head(
            self.market, self.epoch, self.sequence, self.head_hash, len(self.orders), self.root()
        )

    def _clear(self) -> None:
        self.orders: dict[bytes, Row] = {}
        self.order_bytes = 0  # of the open orders' terms
        self.frozen: list[Frozen] = []
        self._buckets = [bytearray() for _ in range(BUCKETS)]  # packed rows, in any order
        self._changed: dict[int, list[bytes]] = {}  # by bucket, whose rows are not so any more
        self._digests = [EMPTY_BUCKET] * BUCKETS  # b"" where a bucket has changed since
        self._root = _EMPTY_ROOT  # b"" where any has

    def _change(self, key: bytes, row: Row | None) -> None:
        """Put another row, or none, in the place of an open order's.

        The row itself waits until the digest of its bucket is wanted, or half of them wait: so no
        change costs more because ids start alike, which their maker can bring about.
        """
        if row is None:
            self.order_bytes -= len(self.orders.pop(key).raw)
        else:
            self.orders[key] = row
        number = key[0]
        changed = self._changed.setdefault(number, [])
        changed.append(key)
        if 2 * len(changed) * _ROW.size > len(self._buckets[number]):
            self._packed(number)

    def _packed(self, number: int) -> list[bytes]:
        """The packed rows of a bucket as its orders are now, in order of id."""
        whole, size = bytes(self._buckets[number]), _ROW.size
        rows = sorted([whole[start : start + size] for start in range(0, len(whole), size)])
        if number in self._changed:
            for key in self._changed.pop(number):
                now = [(key, self.orders[key])] if key in self.orders else []
                # More than one where it was closed and came back.
                rows[bisect_left(rows, key) : bisect_left(rows, key + _BEHIND)] = _pack_rows(now)
            self._buckets[number] = bytearray(b"".join(rows))
        return rows

    def _fill(self, plan: Plan, batch: Batch) -> RejectReason | None:
        """Put into a plan what a batch makes of each order that it speaks of, or say why not."""
        rows, terms = plan.rows, plan.terms
        market, orders, begun = self.market, self.orders, self._order_hash.copy
        # Against the maker's own clock, so that every node decides alike; readers hide what is too
        # long by theirs.
        latest_ms = batch.sent_at_ms + ORDER_LIFE_MAX_MS + CLOCK_SKEW_MAX_MS
        for operation in batch.operations:
            if not isinstance(operation, Place):
                if (refused := self._stage(rows, operation)) is not None:
                    return refused
                continue
            raw = operation.order  # nearly all are placements: no call more than it takes
            try:
                order = _decode_order(raw)
            except UNREADABLE:
                return RejectReason.MALFORMED
            if (
                order.market != market
                or order.minimum_lots > order.quantity_lots
                or order.flags & _FLAGS_UNKNOWN
                or order.expires_at_ms > latest_ms
            ):
                return self._why_not_terms(order) or RejectReason.EXPIRY_TOO_FAR
            hashed = begun()  # `order_id`, here without a call
            hashed.update(raw)
            key = hashed.digest()
            if key not in orders:
                terms[key] = order
                before = rows.get(key)
            else:
                before = rows.get(key, orders[key])
            if before is not None:
                return RejectReason.DUPLICATE_ORDER
            rows[key] = Row(raw, order.quantity_lots, 0)
        return None

    def _why_not_terms(self, order: Order) -> RejectReason | None:
        """Why no order of this log can have these terms."""
        if order.market != self.market:
            return RejectReason.WRONG_MARKET
        if order.minimum_lots > order.quantity_lots:
            return RejectReason.MINIMUM_ABOVE_QUANTITY
        if order.flags & _FLAGS_UNKNOWN:
            return RejectReason.CONTRADICTORY_FLAGS
        return None

    def _stage(
        self, rows: dict[bytes, Row | None], operation: Update | Close | Fill
    ) -> RejectReason | None:
        """Add one operation on an open order to the rows of a plan, or say why it is refused."""
        key = operation.order_id
        row = rows[key] if key in rows else self.orders.get(key)
        if row is None:
            return RejectReason.UNKNOWN_ORDER
        if isinstance(operation, Update):
            remaining, held = operation.remaining_lots, operation.held_lots
            most = row.remaining_lots
            if remaining > most:  # hardly ever: else the terms need not be read
                most = row.order.quantity_lots
            if not held <= remaining <= most:
                return RejectReason.INVALID_QUANTITY
            rows[key] = Row(row.raw, remaining, held)
        elif isinstance(operation, Close):
            rows[key] = None
        else:
            return _why_not_print(row, operation)
        return None


def _why_not_print(row: Row, fill: Fill) -> RejectReason | None:
    """Why a print of a trade cannot be of this order; a good one changes nothing."""
    if fill.price_ticks != row.order.price_ticks:
        return RejectReason.INVALID_PRICE
    if fill.quantity_lots > row.order.quantity_lots:
        return RejectReason.INVALID_QUANTITY
    return None


class Frozen:
    """The open orders of a fold as they were at one head, while the fold goes on.

    Costs what changes from then on; the fold's `frozen` list is what keeps it in step.
    """

    def __init__(self, fold: Fold) -> None:
        """Freeze a fold as it stands now."""
        self.head: Final = fold.head()
        self.digests: Final = b"".join(fold.digests())
        self._fold = fold
        self._before: dict[int, dict[bytes, Row | None]] = {}  # by bucket
        fold.frozen.append(self)

    def remember(self, changes: Iterable[bytes]) -> None:
        """Keep the rows that are about to change."""
        orders = self._fold.orders
        for key in changes:
            before = self._before.setdefault(key[0], {})
            if key not in before:
                before[key] = orders.get(key)

    def bucket(self, number: int) -> list[tuple[bytes, Row]]:
        """The open orders of that bucket at the head, in order of id."""
        rows: dict[bytes, Row | None] = dict(self._fold.bucket(number))
        rows.update(self._before.get(number, {}))
        return [(key, row) for key, row in sorted(rows.items()) if row is not None]


def bucket_digest(rows: Iterable[tuple[bytes, Row]]) -> bytes:
    """The digest of a bucket's rows, which come in any order."""
    return _digest(sorted(_pack_rows(rows)))


def _pack_rows(rows: Iterable[tuple[bytes, Row]]) -> list[bytes]:
    return [_pack_row(key, row.remaining_lots, row.held_lots) for key, row in rows]


def _digest(packed: list[bytes]) -> bytes:
    return hashlib.blake2b(b"".join(packed), digest_size=32, person=b"zmqex bucket").digest()


def root_of(digests: bytes) -> bytes:
    """The book root of 256 bucket digests, joined in order."""
    return hashlib.blake2b(digests, digest_size=32, person=b"zmqex root").digest()


EMPTY_BUCKET: Final = bucket_digest(())
_EMPTY_ROOT: Final = root_of(EMPTY_BUCKET * BUCKETS)
