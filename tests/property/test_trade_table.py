"""One order and any number of trades on it: no history of inputs sells a lot twice."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from zmqex.trading.states import TERMINAL, Claim, Input, State, TradeRole
from zmqex.trading.tables import TABLES, claim, step

TOTAL_LOTS = 100


class OneOrder(RuleBasedStateMachine):
    """A maker's order, held and filled by trades that each move by the table only.

    The oracle is a ledger of lots that is moved by hand: it knows no states, only whether base
    has gone for good or never will.
    """

    trades = Bundle("trades")

    @initialize(way=st.sampled_from([way for way in TABLES if way[1] is TradeRole.MAKER]))
    def begin(self, way: tuple[str, TradeRole, str]) -> None:
        """Rest an order of 100 lots."""
        self.settlement, _, self.side = way
        self.lots: list[int] = []
        self.states: list[State] = []
        self.late: list[bool] = []
        self.filled = 0
        self.free = TOTAL_LOTS

    @precondition(lambda self: self.free > 0)
    @rule(target=trades, data=st.data())
    def take(self, data: st.DataObject) -> int:
        """Hold a part of what is free."""
        lots = data.draw(st.integers(1, self.free))
        self.free -= lots
        self.lots.append(lots)
        self.states.append(State.RESERVED)
        self.late.append(False)
        return len(self.lots) - 1

    @rule(number=trades, happened=st.sampled_from(list(Input)))
    def happen(self, number: int, happened: Input) -> None:
        """Anything at all happens to a trade; what is illegal changes nothing."""
        before = self.states[number]
        after = step(self.settlement, TradeRole.MAKER, self.side, before, happened)
        if after is None:
            claims = claim(self.settlement, self.side, before, hold_ended=self.late[number])
            assert self.claim_of(number) is claims
            return
        assert before not in TERMINAL or (before, happened) == (State.CANCELLED, Input.QUOTE_SAID)
        was = self.claim_of(number)
        self.states[number] = after
        self.late[number] |= before is State.CANCELLED
        if self.late[number]:
            # Its quantity has returned: whatever becomes of the claim, it has no part in it.
            assert was is self.claim_of(number) is Claim.FREE
            return
        sold = {Input.BASE_SETTLED, Input.PAY_SUCCEEDED, Input.RECEIVED}
        # In a swap what we pay is gone before what we receive is taken.
        again = (before, happened) == (State.RELEASED, Input.RECEIVED)
        # Where a dispute means that the base has moved, a lost node may have moved it.
        lost = happened is Input.NODE_LOST and self.claim_of(number) is Claim.FILLED
        if (
            (happened in sold and not again)
            or (happened is Input.RESOLVE_SETTLED and was is not Claim.FILLED)
            or (lost and was is Claim.HELD)
        ):
            self.filled += self.lots[number]
            assert was is Claim.HELD
        if after is State.CANCELLED:
            self.free += self.lots[number]
            assert was is Claim.HELD

    def claim_of(self, number: int) -> Claim:
        """What the code under test says of a trade."""
        state, late = self.states[number], self.late[number]
        return claim(self.settlement, self.side, state, hold_ended=late)

    def claimed(self, wanted: Claim) -> int:
        """The lots of all trades with that claim."""
        return sum(lots for number, lots in enumerate(self.lots) if self.claim_of(number) is wanted)

    @invariant()
    def no_lot_is_lost_or_made(self) -> None:
        """Free, held and filled are the order; each lot is in one of them."""
        if not hasattr(self, "lots"):
            return
        assert self.claimed(Claim.FILLED) == self.filled
        held = self.claimed(Claim.HELD)
        assert self.free + held + self.filled == TOTAL_LOTS
        assert min(self.free, held, self.filled) >= 0


TestOneOrder = OneOrder.TestCase


@pytest.mark.parametrize("way", TABLES)
def test_no_trade_is_filled_twice(way: tuple[str, TradeRole, str]) -> None:
    """Along every way through the table base moves at most once."""
    moves = {Input.BASE_SETTLED, Input.PAY_SUCCEEDED}
    first = State.RESERVED if way[1] is TradeRole.MAKER else State.TAKING
    todo, seen = [(first, 0)], set()
    while todo:
        state, moved = todo.pop()
        assert moved <= 1, (way, state)
        if (state, moved) in seen:
            continue
        seen.add((state, moved))
        for happened in Input:
            after = step(*way, state, happened)
            if after is not None:
                todo.append((after, moved + (happened in moves)))
    assert any(moved for _, moved in seen)
