"""Snapshots: a frozen head while its fold goes on, pages of rows, and what a reader believes."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest

from tests.unit.test_log import batch, new_fold, place, say
from zmqex.errors import RemoteProtocolError
from zmqex.protocol.codec import encode
from zmqex.protocol.identity import digest
from zmqex.protocol.log import EMPTY_BUCKET, Fold, Frozen, Plan
from zmqex.protocol.messages import Close, OpenOrder, Rows, Update
from zmqex.protocol.snapshot import Assembly, Bucket, serve


def folded(orders: int) -> tuple[Fold, list[bytes]]:
    """Return a fold with so many open orders, and their ids."""
    fold, keys = new_fold(), []
    for number in range(orders):
        key, placed = place(number)
        assert say(fold, placed) is None
        keys.append(key)
    return fold, sorted(keys)


def fetched(assembly: Assembly, frozen: Frozen, rows_max: int = 7) -> int:
    """Fetch all pages; how many there were."""
    pages = 0
    while assembly.wanted:
        assembly.add(serve(frozen, assembly.wanted, assembly.after, rows_max, 10**6))
        pages += 1
    return pages


def test_a_frozen_head_stays_while_its_fold_goes_on() -> None:
    """Placed, changed, closed and placed again since: the rows at the head are what is served."""
    fold, keys = folded(40)
    frozen = Frozen(fold)
    rows = {key: fold.orders[key] for key in keys}
    closed = [Close(key, "cancelled") for key in keys[:20]]
    assert say(fold, Update(keys[30], 900, 100), *closed) is None
    assert say(fold, place(100)[1], Update(keys[30], 800, 0)) is None
    assert fold.root() != frozen.head.book_root
    assembly = Assembly(new_fold(), frozen.head, frozen.digests, {})
    fetched(assembly, frozen)
    assert assembly.rows() == rows
    restored = new_fold()
    restored.restore(frozen.head, assembly.rows())
    assert restored.head() == frozen.head
    assert restored.order_bytes == sum(len(row.raw) for row in rows.values())


def test_a_restored_fold_goes_on_as_the_first_one() -> None:
    """The next batches change it in the same way."""
    fold, keys = folded(10)
    other = new_fold()
    other.restore(fold.head(), fold.orders)
    for operation in (Update(keys[3], 1, 1), Close(keys[4], "filled"), place(50)[1]):
        one = batch(fold, operation)
        for each in (fold, other):
            plan = each.check(one, digest(encode(one)))
            assert isinstance(plan, Plan)
            each.apply(plan)
    assert other.head() == fold.head()
    assert other.order_bytes == fold.order_bytes


def test_only_buckets_that_differ_are_wanted() -> None:
    """What a lagging reader has already, or fetched before, is not asked for again."""
    fold, keys = folded(300)
    lagging = new_fold()
    lagging.restore(fold.head(), fold.orders)
    assert say(fold, Update(keys[0], 900, 0)) is None
    first = Frozen(fold)
    known: dict[bytes, Bucket] = {}
    assembly = Assembly(lagging, first.head, first.digests, known)
    assert (list(assembly.wanted), assembly.differing) == ([keys[0][0]], 1)
    fetched(assembly, first)
    assert assembly.rows() == fold.orders
    # A newer head of the same log: the bucket that was fetched stays, the next one is wanted.
    other = next(key for key in keys if key[0] != keys[0][0])
    assert say(fold, Update(other, 900, 0)) is None
    second = Frozen(fold)
    again = Assembly(lagging, second.head, second.digests, known)
    assert list(again.wanted) == [other[0]]
    head_only = new_fold()
    head_only.restore(fold.head(), fold.orders)
    head_only.forget_orders()
    everything = Assembly(head_only, second.head, second.digests, {})
    assert everything.differing == sum(one != EMPTY_BUCKET for one in fold.digests())


def test_a_page_ends_anywhere_and_the_next_goes_on() -> None:
    """Also in the middle of a bucket; one row at least, within rows and bytes."""
    fold, _ = folded(60)
    frozen = Frozen(fold)
    one_by_one = Assembly(new_fold(), frozen.head, frozen.digests, {})
    assert fetched(one_by_one, frozen, rows_max=1) >= 60
    assert one_by_one.rows() == fold.orders
    assert len(serve(frozen, bytes(range(256)), b"", 9, 10**6).rows) == 9
    assert len(serve(frozen, bytes(range(256)), b"", 9, 1).rows) == 1
    assert serve(frozen, bytes(range(256)), b"", 100, 10**6).complete == 256


def bucket_of_two() -> tuple[Fold, int]:
    """Return a fold and a bucket that has two orders at least."""
    fold, keys = folded(60)
    first = next(one[0] for one, two in pairwise(keys) if one[0] == two[0])
    return fold, first


LIES = ["nothing", "too many", "order", "twice", "foreign", "numbers", "missing", "terms", "rows"]


@pytest.mark.parametrize("lie", LIES)
def test_a_page_that_is_not_of_the_head_is_refused(lie: str) -> None:
    """Whatever differs from the signed root by one byte: the peer is blamed, nothing is kept."""
    fold, bucket = bucket_of_two()
    frozen = Frozen(fold)
    assembly = Assembly(new_fold(), frozen.head, frozen.digests, {})
    before = assembly.wanted
    wanted = bytes([one for one in before if one <= bucket])
    page = serve(frozen, wanted, b"", 10**6, 10**6)
    rows, row = list(page.rows), page.rows[-1]
    complete = page.complete
    if lie == "nothing":
        rows, complete = [], 0
    elif lie == "too many":
        complete = 257
    elif lie == "order":
        rows[-2:] = reversed(rows[-2:])
    elif lie == "twice":
        rows.append(row)
    elif lie == "foreign":
        other = fold.orders[max(fold.orders)]
        rows.append(OpenOrder(other.raw, other.remaining_lots, 0))
    elif lie == "numbers":
        rows[-1] = msgspec.structs.replace(row, remaining_lots=row.remaining_lots - 1)
    elif lie == "missing":
        rows.pop()
    elif lie == "terms":
        rows[-1] = OpenOrder(b"\xc1", 1, 0)
    else:
        rows = [row] * 61
    with pytest.raises(RemoteProtocolError):
        assembly.add(Rows(complete, rows))
    assert assembly.wanted == before
    fetched(assembly, frozen)
    assert assembly.rows() == fold.orders


def test_rows_that_no_order_could_have_are_refused() -> None:
    """Terms of another market or that nobody can read, more held than remains."""
    fold, _ = folded(1)
    frozen = Frozen(fold)
    (raw,) = (row.raw for row in fold.orders.values())
    assembly = Assembly(new_fold(), frozen.head, frozen.digests, {})
    for row in (OpenOrder(raw, 5, 6), OpenOrder(raw, 10**9, 0)):
        with pytest.raises(RemoteProtocolError, match="impossible"):
            assembly.add(Rows(1, [row]))
    # An id of the right bucket, but of terms that this log cannot have.
    others = (place(number, market="BTC/EUR") for number in range(10_000))
    strange = next(placed for key, placed in others if key[0] == assembly.wanted[0])
    with pytest.raises(RemoteProtocolError, match="wrong_market"):
        assembly.add(Rows(1, [OpenOrder(strange.order, 1, 0)]))
    unreadable = (b"\xc1%d" % number for number in range(10_000))
    noise = next(raw for raw in unreadable if fold.order_id(raw)[0] == assembly.wanted[0])
    with pytest.raises(RemoteProtocolError, match="malformed"):
        assembly.add(Rows(1, [OpenOrder(noise, 1, 0)]))


def test_digests_must_be_those_of_the_root() -> None:
    """One byte more or less, and nothing is asked for."""
    fold, _ = folded(3)
    frozen = Frozen(fold)
    wrong = bytes([frozen.digests[0] ^ 1]) + frozen.digests[1:]
    with pytest.raises(RemoteProtocolError, match="not of that book root"):
        Assembly(new_fold(), frozen.head, wrong, {})
