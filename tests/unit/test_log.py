"""One maker's log: its chain, what each operation may change, its root."""

from __future__ import annotations

import hashlib
import struct
import time
from typing import Any

import pytest

from tests.wire import MARKET, NETWORK, START_MS, order
from zmqex.limits import CLOCK_SKEW_MAX_MS, ORDER_LIFE_MAX_MS
from zmqex.protocol.codec import encode
from zmqex.protocol.identity import ZERO_DIGEST, digest, order_id
from zmqex.protocol.log import Fold, Plan, Row, topic
from zmqex.protocol.messages import Batch, Close, Fill, Head, Operation, Place, Update
from zmqex.reasons import RejectReason

MAKER = b"m" * 32
EPOCH = 7


def new_fold() -> Fold:
    """Return an empty log of an epoch."""
    fold = Fold(NETWORK, MAKER, MARKET)
    fold.begin(EPOCH)
    return fold


def place(number: int, **terms: object) -> tuple[bytes, Place]:
    """Return a placement and the id of its order."""
    raw = encode(order(number, START_MS, **terms))
    return order_id(NETWORK, MAKER, raw), Place(raw)


def batch(fold: Fold, *operations: Operation, **changes: object) -> Batch:
    """Return the batch that would come next, but for `changes`."""
    fields: dict[str, Any] = {
        "maker": MAKER,
        "market": MARKET,
        "epoch": fold.epoch,
        "sequence": fold.sequence + 1,
        "previous_hash": fold.head_hash,
        "sent_at_ms": START_MS,
        "operations": list(operations) or [place(99)[1]],
    }
    fields.update(changes)
    return Batch(**fields)


def say(fold: Fold, *operations: Operation) -> RejectReason | None:
    """Apply the next batch; the refusal, having checked that it changed nothing."""
    said = batch(fold, *operations)
    before = state(fold)
    plan = fold.check(said, digest(encode(said)))
    assert state(fold) == before
    if isinstance(plan, RejectReason):
        return plan
    fold.apply(plan)
    return None


def say_unseen(fold: Fold, *operations: Operation) -> RejectReason | None:
    """Apply the next batch, or tell the refusal, and look at nothing: that would cost more."""
    plan = fold.check(batch(fold, *operations), b"d" * 32)
    if isinstance(plan, RejectReason):
        return plan
    fold.apply(plan)
    return None


def state(fold: Fold) -> tuple[object, ...]:
    """Everything that a refused batch must leave alone."""
    return fold.epoch, fold.sequence, fold.head_hash, dict(fold.orders), fold.root()


def root_from_the_text(fold: Fold) -> bytes:
    """The book root as the protocol's text says it, computed in the most direct way."""
    buckets = []
    for bucket in range(256):
        rows = sorted((key, row) for key, row in fold.orders.items() if key[0] == bucket)
        hashed = hashlib.blake2b(digest_size=32, person=b"zmqex bucket")
        for key, row in rows:
            numbers = row.remaining_lots.to_bytes(8, "big") + row.held_lots.to_bytes(8, "big")
            hashed.update(key + numbers)
        buckets.append(hashed.digest())
    joined = b"".join(buckets)
    return hashlib.blake2b(joined, digest_size=32, person=b"zmqex root").digest()


def test_an_order_lives_from_its_placement_to_its_close() -> None:
    """Place, update and close move a row; a print leaves it; the head tells of all."""
    fold = new_fold()
    key, placed = place(1)
    assert say(fold, placed) is None
    assert fold.orders[key].available_lots == 1_000
    assert say(fold, Update(key, 900, 300), Fill(key, 100, 100_000, START_MS)) is None
    row = fold.orders[key]
    assert (row.remaining_lots, row.held_lots, row.available_lots) == (900, 300, 600)
    assert row.raw == placed.order
    head = fold.head()
    assert (head.epoch, head.sequence, head.open_orders) == (EPOCH, 2, 1)
    assert head.book_root == root_from_the_text(fold)
    assert say(fold, Close(key, "cancelled")) is None
    assert fold.orders == {}
    assert fold.root() == new_fold().root() == root_from_the_text(fold)


def test_operations_of_one_batch_see_each_other() -> None:
    """An order may be placed, changed and closed in one batch, and be placed again after it."""
    fold = new_fold()
    key, placed = place(1)
    assert say(fold, placed, Update(key, 5, 5), Close(key, "x")) is None
    assert key not in fold.orders
    assert say(fold, placed, Close(key, "x"), placed) is None
    assert fold.orders[key].remaining_lots == 1_000
    assert say(fold, Close(key, "x"), Update(key, 1, 0)) is RejectReason.UNKNOWN_ORDER
    assert fold.root() == root_from_the_text(fold)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"maker": b"x" * 32}, RejectReason.WRONG_PARTY),
        ({"market": "BTC/EUR"}, RejectReason.WRONG_MARKET),
        ({"epoch": EPOCH - 1}, RejectReason.OLD_EPOCH),
        ({"epoch": EPOCH + 1}, RejectReason.FUTURE_EPOCH),
        ({"sequence": 1}, RejectReason.DUPLICATE_BATCH),
        ({"sequence": 3}, RejectReason.SEQUENCE_GAP),
        ({"sequence": 10**9}, RejectReason.SEQUENCE_GAP),
        ({"previous_hash": ZERO_DIGEST}, RejectReason.FORKED_LOG),
    ],
)
def test_a_batch_must_continue_the_chain(changes: dict[str, Any], reason: RejectReason) -> None:
    """Each way of not being the next batch has its own reason and changes nothing."""
    fold = new_fold()
    assert say(fold, place(1)[1]) is None
    before = state(fold)
    assert fold.check(batch(fold, **changes), b"d" * 32) is reason
    assert state(fold) == before


def test_the_first_batch_of_an_epoch_follows_nothing() -> None:
    """A first batch that names a predecessor is malformed, not a fork."""
    fold = new_fold()
    said = batch(fold, previous_hash=b"x" * 32)
    assert fold.check(said, b"d" * 32) is RejectReason.MALFORMED


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (Place(b"\x00"), RejectReason.MALFORMED),
        (place(2, market="BTC/EUR")[1], RejectReason.WRONG_MARKET),
        (place(2, minimum_lots=1_001)[1], RejectReason.MINIMUM_ABOVE_QUANTITY),
        (place(2, flags=4)[1], RejectReason.CONTRADICTORY_FLAGS),
        (
            place(2, expires_at_ms=START_MS + ORDER_LIFE_MAX_MS + CLOCK_SKEW_MAX_MS + 1)[1],
            RejectReason.EXPIRY_TOO_FAR,
        ),
        (place(1)[1], RejectReason.DUPLICATE_ORDER),
        (Update(b"u" * 32, 1, 0), RejectReason.UNKNOWN_ORDER),
        (Close(b"u" * 32, "x"), RejectReason.UNKNOWN_ORDER),
        (Fill(b"u" * 32, 1, 100_000, 0), RejectReason.UNKNOWN_ORDER),
        (Update(place(1)[0], 1_001, 0), RejectReason.INVALID_QUANTITY),
        (Update(place(1)[0], 10, 11), RejectReason.INVALID_QUANTITY),
        (Fill(place(1)[0], 1_001, 100_000, 0), RejectReason.INVALID_QUANTITY),
        (Fill(place(1)[0], 1, 100_001, 0), RejectReason.INVALID_PRICE),
    ],
)
def test_a_bad_operation_refuses_its_whole_batch(
    operation: Operation, reason: RejectReason
) -> None:
    """One bad operation among good ones: the reason, and not even the good ones count."""
    fold = new_fold()
    assert say(fold, place(1)[1]) is None
    assert say(fold, place(3)[1], operation) is reason


def test_another_makers_order_has_another_id() -> None:
    """The same terms of two makers, or of two networks, are different orders."""
    raw = place(1)[1].order
    ids = {
        order_id(network, maker, raw)
        for network in ("play", "main")
        for maker in (MAKER, b"x" * 32)
    }
    assert len(ids) == 4


def test_an_expired_order_is_in_the_fold_all_the_same() -> None:
    """A fold reads no clock: what is expired on arrival is hidden by readers, not refused."""
    fold = new_fold()
    key, placed = place(1, expires_at_ms=1)
    assert say(fold, placed) is None
    assert key in fold.orders


def test_a_newer_epoch_starts_empty() -> None:
    """Whatever was said in an older epoch is void."""
    fold = new_fold()
    say(fold, place(1)[1])
    fold.begin(EPOCH + 1)
    assert state(fold) == (EPOCH + 1, 0, ZERO_DIGEST, {}, new_fold().root())


def test_a_head_only_log_follows_the_chain_without_orders() -> None:
    """Over its cap a log keeps its place, and no orders at all."""
    fold = new_fold()
    key, placed = place(1)
    say(fold, placed)
    fold.forget_orders()
    assert say(fold, Update(key, 1, 0), Close(b"u" * 32, "x")) is None
    assert (fold.sequence, fold.orders, fold.head_only) == (2, {}, True)


def crowded(remaining: dict[bytes, int]) -> Fold:
    """Return a log that stands at a head with open orders of these ids, equal but for that."""
    fold = new_fold()
    rows = {key: Row(place(1)[1].order, lots, 0) for key, lots in remaining.items()}
    fold.restore(Head(MARKET, EPOCH, 1, b"h" * 32, len(rows), ZERO_DIGEST), rows)
    return fold


def test_a_change_reaches_its_own_row_wherever_its_bytes_stand_as_well() -> None:
    """Two rows side by side read like another order's from the first one's middle on."""
    numbers, numbers_before = (7 << 56, 0), (1_000, 0)
    key = b"\x07" + b"k" * 15 + struct.pack(">QQ", *numbers_before)
    before, after = b"\x07" + b"b" * 15 + key[:16], struct.pack(">QQ", *numbers) + b"a" * 16
    for operation in (Close(key, "cancelled"), Update(key, 900, 1)):
        fold = crowded({before: numbers_before[0], after: 5, key: numbers[0]})
        assert say(fold, operation) is None
        assert fold.root() == root_from_the_text(fold)
        assert [one for one, _ in fold.bucket(7)] == sorted(fold.orders)


def test_a_change_costs_the_same_however_many_orders_share_its_bucket() -> None:
    """A maker can choose ids that all start alike, and change them as often as it may."""
    ids = [number.to_bytes(4, "big") * 8 for number in range(10_000)]
    took_s = []
    for bucket in (lambda key: key[-1:], lambda _key: b"\x07"):
        keys = [bucket(key) + key[1:] for key in ids]
        fold = crowded(dict.fromkeys(keys, 1_000))
        began_s = time.perf_counter()
        for start in range(7_424, 10_000, 128):
            changes = [Update(key, 900, 0) for key in keys[start : start + 128]]
            assert say_unseen(fold, *changes) is None
        took_s.append(time.perf_counter() - began_s)
        assert fold.root() == root_from_the_text(fold)
    assert took_s[1] < 10 * took_s[0]


def test_orders_that_come_and_go_leave_nothing_behind() -> None:
    """Nobody need ask for the root in between."""
    fold = new_fold()
    for number in range(1_000):
        key, placed = place(number % 7)
        assert say_unseen(fold, placed, Update(key, 5, 1)) is None
        assert say_unseen(fold, Close(key, "cancelled")) is None
        assert sum(map(len, fold._buckets)) <= 48 * 2
    assert fold.root() == root_from_the_text(fold)


def test_a_market_has_its_own_topic() -> None:
    """Topics are an `o` and eight bytes, different for each market."""
    assert topic("BTC/USD") != topic("BTC/EUR")
    assert topic("BTC/USD")[:1] == b"o"
    assert len(topic("BTC/USD")) == 9


def test_a_plan_names_what_changes() -> None:
    """A plan has the new row of each order, and None for a closed one."""
    fold = new_fold()
    key, placed = place(1)
    said = batch(fold, placed)
    plan = fold.check(said, b"d" * 32)
    assert isinstance(plan, Plan)
    assert list(plan.rows) == [key]
    assert plan.sequence == 1
