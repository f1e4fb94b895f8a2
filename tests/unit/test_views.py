"""What the operator sees: whose turn it is in every state, ids by their first characters."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.floor import LOTS, place
from tests.world import SimNode, World
from zmqex.kernel.commands import CancelTrade, ListTrades, ReceivedTrade, SentTrade
from zmqex.kernel.views import _NEXT, _NEXT_HTLC, _NEXT_SWAP, find_by_prefix, id_problem
from zmqex.reasons import RejectReason
from zmqex.trading.settlement import HTLC, SWAP
from zmqex.trading.states import TERMINAL, State, TradeRole
from zmqex.trading.tables import TABLES

# What these states wait for depends on the trade, or on people outside.
_SPECIAL = {State.DISPUTED}


@pytest.mark.parametrize(("settlement", "role", "side"), TABLES)
def test_every_state_in_which_something_can_happen_says_whose_turn_it_is(
    settlement: str, role: TradeRole, side: str
) -> None:
    """No trade that goes on leaves its operator without a word."""
    states = {state for state, _ in TABLES[settlement, role, side]} - TERMINAL - _SPECIAL
    if settlement == HTLC:
        states -= {state for its_side, state in _NEXT_HTLC if its_side == side}
    if settlement == SWAP:
        assert states == {state for its_role, state in _NEXT_SWAP if its_role is role}
        return
    assert {state for state in states if (role, side, state) not in _NEXT} == set()


def views(world: World, *nodes: SimNode) -> list[tuple[str, str, str]]:
    """Each node's newest trade: state, turn, next command without the id."""
    world.run(200)
    shown = [node.tell(ListTrades())["trades"][0] for node in nodes]
    return [(one["state"], one["turn"], one["next_command"].rpartition(" ")[0]) for one in shown]


def test_a_trade_says_at_every_step_whose_turn_it_is() -> None:
    """Exactly one side has a command to give until the end; then nobody has."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(alice, "buy", LOTS, 100)
    world.run(300)
    trade = place(bob, "sell", LOTS, 100)["trades"][0]["trade_id"]
    assert views(world, alice, bob) == [
        ("base_done", "you", "trade sent"),
        ("base_done", "them", ""),
    ]
    alice.tell(SentTrade(trade))
    assert views(world, alice, bob) == [
        ("quote_sent", "them", ""),
        ("quote_sent", "you", "trade received"),
    ]
    bob.tell(ReceivedTrade(trade))
    assert views(world, alice, bob) == [("settled", "nobody", ""), ("settled", "nobody", "")]
    text = alice.tell(ListTrades())["trades"][0]["next_text"]
    assert text.startswith("settled: both sides")


def test_the_time_left_is_shown_while_the_hold_runs_only() -> None:
    """Both clocks count down; a cancelled trade has no time left."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    place(alice, "sell", LOTS, 100)
    world.run(300)
    trade = place(bob, "buy", LOTS, 100)["trades"][0]["trade_id"]
    for node in (alice, bob):
        left = node.tell(ListTrades())["trades"][0]["hold_left_ms"]
        assert 890_000 < left <= 900_000
    bob.tell(CancelTrade(trade))
    world.run(500)
    for node in (alice, bob):
        assert node.tell(ListTrades())["trades"][0]["hold_left_ms"] == 0


@given(
    numbers=st.sets(st.integers(0, 500), max_size=12),
    wanted=st.integers(0, 500),
    size=st.integers(0, 64),
    upper=st.booleans(),
)
def test_a_prefix_names_one_id_or_says_why_not(
    *, numbers: set[int], wanted: int, size: int, upper: bool
) -> None:
    """Compared with a plain search, for every length; case and blanks do not matter."""
    ids = [hashlib.sha256(bytes([one % 7])).digest()[:4] + one.to_bytes(28) for one in numbers]
    whole = (hashlib.sha256(bytes([wanted % 7])).digest()[:4] + wanted.to_bytes(28)).hex()
    text = whole[:size]
    found = find_by_prefix(f" {text.upper() if upper else text} ", ids)
    fits = [one for one in ids if one.hex().startswith(text)]
    if size < 8:
        assert found is RejectReason.MALFORMED
    elif len(fits) == 1:
        assert found == fits[0]
    else:
        assert found is (RejectReason.AMBIGUOUS_ID if fits else None)


@pytest.mark.parametrize(
    ("found", "kind", "reason", "words"),
    [
        (RejectReason.MALFORMED, "order", "malformed", "too short"),
        (RejectReason.AMBIGUOUS_ID, "trade", "ambiguous_id", "more than one trade"),
        (None, "trade", "unknown_trade", "no trade starts"),
        (None, "order", "unknown_order", "no order starts"),
    ],
)
def test_an_id_that_names_nothing_has_its_sentence(
    found: RejectReason | None, kind: str, reason: str, words: str
) -> None:
    """The text is quoted, so that a stray blank can be seen."""
    told, message = id_problem("ab ", found, kind)
    assert told == reason
    assert words in message
    assert "'ab '" in message
