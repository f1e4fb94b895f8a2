"""kill -9 right before and right after every commit of a whole trade, of whatever can be killed.

Whatever was acknowledged is there afterwards, the trade settles, money is neither made nor lost,
and repeating a command that got no answer duplicates nothing.  The same two nodes live through one
trade per commit: each point is tried, until a trade ends without reaching it.
"""

from __future__ import annotations

from itertools import count

import pytest

from tests.end_to_end.nodes import Home
from tests.end_to_end.trade_story import Pair
from tests.end_to_end.typed import Typist


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("name", "database", "target"),
    [
        ("alice", "journal", "self"),
        ("bob", "journal", "self"),
        ("alice", "ledger", "self"),
        ("bob", "ledger", "self"),
        ("alice", "journal", "holds"),
    ],
)
def test_a_crash_around_any_commit_loses_nothing(
    user: Home, name: str, database: str, target: str, when: str
) -> None:
    """A node or its hold server dies at each commit in turn; every trade ends well."""
    pair = Pair(user)
    node = user.node(name)
    for number in count(1):
        pair.arm(node, f"{database} {when} {number} {target}")
        pair.tell()
        if not pair.disarm(node):
            break
    # A maker writes an order, a hold with its invoice, a payment, two words; a ledger two at least.
    assert number > (5 if database == "journal" else 2)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("whose", ["own", "other"])
def test_a_command_that_dies_around_any_commit_is_given_again(
    user: Home, whose: str, when: str
) -> None:
    """The command line dies at each commit of its own and of the other node; once is enough."""
    pair = Pair(user)
    pair.connect()
    typist = Typist(pair, whose, when)
    for number in count(1):
        typist.number, typist.killed = number, 0
        typist.trade()
        if not typist.killed:
            break
    typist.close()
    assert number > 1
