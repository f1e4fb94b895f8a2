"""The tail of a log: pages, what is left after them, and what is dropped."""

from __future__ import annotations

from zmqex.limits import LOG_PAGE_BATCHES_MAX
from zmqex.protocol.tail import Tail
from zmqex.reasons import RejectReason


def filled(batches: int, after: int = 0) -> Tail:
    """Return a tail of batches of 100 bytes each."""
    tail = Tail(after)
    for number in range(batches):
        tail.append(number.to_bytes(32, "big"), bytes([number]) * 100)
    return tail


def test_a_tail_serves_pages_within_its_bounds() -> None:
    """Cut by bytes and by number, but never empty while there is something to give."""
    tail = filled(200)
    assert tail.page(1, 1_000) == ([bytes([number]) * 100 for number in range(10)], 19_000)
    assert tail.page(1, 1) == ([bytes([0]) * 100], 19_900)
    page = tail.page(1, 10**9)
    assert isinstance(page, tuple)
    assert (len(page[0]), page[1]) == (LOG_PAGE_BATCHES_MAX, 7_200)
    assert tail.page(200, 1_000) == ([bytes([199]) * 100], 0)
    assert tail.page(201, 1_000) == ([], 0)
    assert tail.page(10**9, 1_000) == ([], 0)
    assert tail.get(200) == ((199).to_bytes(32, "big"), bytes([199]) * 100)
    assert tail.get(201) is None
    assert tail.get(0) is None
    assert (len(list(tail)), tail.size, tail.first) == (200, 20_000, 1)


def test_a_trimmed_tail_says_what_is_too_old() -> None:
    """The oldest go, the newest stays, and the numbers go on."""
    tail = filled(100)
    tail.trim(10_000)
    assert tail.first == 1
    tail.trim(1_050)
    assert (tail.size, tail.first) == (1_000, 91)
    assert tail.page(90, 1_000) is RejectReason.LOG_TOO_OLD
    assert tail.page(91, 300) == ([bytes([number]) * 100 for number in (90, 91, 92)], 700)
    assert tail.get(90) is None
    tail.trim(0)
    assert list(tail) == [bytes([99]) * 100]
    tail.append(b"d" * 32, b"x")
    assert tail.page(101, 1_000) == ([b"x"], 0)


def test_a_tail_may_begin_in_the_middle_of_a_log() -> None:
    """After a snapshot: the first batch to come has its own number."""
    tail = filled(1, after=7)
    assert tail.first == 8
    assert tail.page(8, 1_000) == ([bytes(100)], 0)
    assert tail.page(7, 1_000) is RejectReason.LOG_TOO_OLD
    assert (Tail(3).first, Tail(3).size) == (4, 0)
