"""The trade's state tables, walked whole: every state, every input, all tables."""

from __future__ import annotations

import pytest

from zmqex.trading.settlement import HTLC, PLAIN, SWAP
from zmqex.trading.states import TERMINAL, Claim, Input, State, Table, TradeRole
from zmqex.trading.tables import TABLES, Way, claim, hangs_on_lightning, step

MAKER, TAKER = TradeRole.MAKER, TradeRole.TAKER
FIRST = {MAKER: State.RESERVED, TAKER: State.TAKING}
# The rows that lead out of an end: a claim of "quote sent" after the hold, or the lock, has ended.
LATE = (State.CANCELLED, Input.QUOTE_SAID)
HEARS_LATE_CLAIMS = [(PLAIN, MAKER, "sell"), (HTLC, MAKER, "sell"), (HTLC, TAKER, "sell")]
# What the tables tell; the loss of a Lightning node is the same for all of them.
INPUTS = [one for one in Input if one is not Input.NODE_LOST]
CELLS = [(*way, state, happened) for way in TABLES for state in State for happened in INPUTS]


def reachable(way: Way, start: State | None = None) -> set[State]:
    """Every state that a trade can come to from its first one (or from `start`)."""
    found, todo = set(), [start or FIRST[way[1]]]
    while todo:
        state = todo.pop()
        if state not in found:
            found.add(state)
            after = [step(*way, state, happened) for happened in INPUTS]
            todo += [one for one in after if one is not None]
    return found


def walk(role: TradeRole, side: str, *inputs: Input) -> State | None:
    """Where a `plain` history ends, or None at its first illegal input."""
    state: State | None = FIRST[role]
    for happened in inputs:
        if state is None:
            return None
        state = step(PLAIN, role, side, state, happened)
    return state


def test_both_parties_trade_both_ways_by_every_settlement() -> None:
    """Each way that there is, and no other."""
    ways = [(role, side) for role in (MAKER, TAKER) for side in ("buy", "sell")]
    assert set(TABLES) == {(one, *way) for one in (PLAIN, HTLC, SWAP) for way in ways}


def test_each_cell_is_a_row_of_its_table_or_illegal() -> None:
    """`step` says what the table says, and nothing where the table is silent."""
    legal = 0
    for settlement, role, side, state, happened in CELLS:
        after = step(settlement, role, side, state, happened)
        row = TABLES[settlement, role, side].get((state, happened))
        assert after is row
        legal += after is not None
    assert legal == sum(map(len, TABLES.values()))
    assert len(CELLS) == len(TABLES) * len(State) * (len(Input) - 1)


@pytest.mark.parametrize("way", TABLES)
def test_what_waits_for_lightning_is_disputed_when_its_node_is_lost(way: Way) -> None:
    """And nothing else: what an operator or the other party can end needs no node."""
    disputed = {state for state in State if step(*way, state, Input.NODE_LOST)}
    assert disputed == {state for state in State if hangs_on_lightning(*way, state)}
    assert {step(*way, state, Input.NODE_LOST) for state in disputed} == {State.DISPUTED}
    moving = {State.PAYING, State.CANCELLING, State.HTLC_ACCEPTED, State.RELEASED}
    assert moving & reachable(way) <= disputed
    # Nobody waits for Lightning before there is an invoice, or after its last word.
    assert disputed.isdisjoint({State.TAKING, State.ABANDONING, State.BASE_DONE, *TERMINAL})


_LOCK = "released quote_sent rollover disputed"
HANGING = {
    (PLAIN, MAKER, "buy"): "reserved invoiced cancelling",
    (PLAIN, MAKER, "sell"): "paying disputed",
    (PLAIN, TAKER, "buy"): "invoiced confirmed disputed",
    (PLAIN, TAKER, "sell"): "paying",
    (HTLC, MAKER, "buy"): (f"reserved invoiced cancelling htlc_accepted quote_intent {_LOCK}"),
    (HTLC, MAKER, "sell"): f"paying rollover_paying {_LOCK}",
    (HTLC, TAKER, "buy"): (f"accepted invoiced cancelling htlc_accepted quote_intent {_LOCK}"),
    (HTLC, TAKER, "sell"): f"paying rollover_paying {_LOCK}",
    (SWAP, MAKER, "buy"): "reserved invoiced cancelling htlc_accepted released paying",
    (SWAP, MAKER, "sell"): "reserved invoiced cancelling htlc_accepted released paying",
    (SWAP, TAKER, "buy"): "accepted invoiced paying received paid",
    (SWAP, TAKER, "sell"): "accepted invoiced paying received paid",
}


@pytest.mark.parametrize("way", TABLES)
def test_these_states_and_no_others_hang_on_a_lightning_node(way: Way) -> None:
    """Written out, since a state that is forgotten here is one whose payment may be made twice."""
    hanging = {state.value for state in State if hangs_on_lightning(*way, state)}
    assert hanging == set(HANGING[way].split())


def test_an_end_absorbs_everything_but_a_late_claim() -> None:
    """Whatever comes after an end changes nothing; a late claim becomes a dispute."""
    ways_out = [cell for cell in CELLS if cell[3] in TERMINAL and step(*cell) is not None]
    assert ways_out == [(*way, *LATE) for way in HEARS_LATE_CLAIMS]
    assert {step(*cell) for cell in ways_out} == {State.DISPUTED}


@pytest.mark.parametrize("way", TABLES)
def test_every_row_can_be_reached(way: Way) -> None:
    """No table has a row for a state that no trade comes to."""
    assert {state for state, _ in TABLES[way]} <= reachable(way)


@pytest.mark.parametrize("way", TABLES)
def test_no_trade_is_stuck(way: Way) -> None:
    """From every state an end can be reached, or a dispute, which is for the operator."""
    for state in reachable(way) - TERMINAL - {State.DISPUTED}:
        ends = reachable(way, state) & (TERMINAL | {State.DISPUTED})
        assert ends, state


@pytest.mark.parametrize(("role", "side"), [way[1:] for way in TABLES if way[0] == PLAIN])
def test_what_ends_a_dispute(role: TradeRole, side: str) -> None:
    """The operator, or who is owed something and says it came; no clock, no other message.

    What was paid over Lightning never ends as cancelled.
    """
    ways = {
        happened: after
        for (state, happened), after in TABLES[PLAIN, role, side].items()
        if state is State.DISPUTED
    }
    paid_first = (role is MAKER) == (side == "buy")
    expected = {Input.RESOLVE_SETTLED: State.SETTLED}
    if not paid_first:
        expected[Input.RESOLVE_CANCELLED] = State.CANCELLED
    if (role, side) == (TAKER, "buy"):
        expected[Input.BASE_SETTLED] = State.SETTLED
    if (role, side) == (MAKER, "buy"):
        expected[Input.QUOTE_CONFIRMED] = State.SETTLED
    assert ways == expected


@pytest.mark.parametrize("way", TABLES)
def test_both_parties_can_settle(way: Way) -> None:
    """Each table has a way to its good end."""
    assert State.SETTLED in reachable(way)


def test_a_buying_maker_walks_to_the_end() -> None:
    """Invoice, payment, quote, confirmation."""
    assert walk(
        MAKER,
        "buy",
        Input.INVOICE_MADE,
        Input.BASE_SETTLED,
        Input.QUOTE_SAID,
        Input.QUOTE_CONFIRMED,
    ) is (State.SETTLED)


def test_a_selling_maker_walks_to_the_end() -> None:
    """Quote, confirmation, and the payment last of all."""
    assert walk(
        MAKER,
        "sell",
        Input.QUOTE_SAID,
        Input.QUOTE_CONFIRMED,
        Input.PAY_STARTED,
        Input.PAY_SUCCEEDED,
    ) is (State.SETTLED)


def test_a_selling_taker_pays_first() -> None:
    """Base goes out before any quote can be said to have come."""
    assert walk(TAKER, "sell", Input.ACCEPT, Input.QUOTE_SAID) is None
    assert walk(TAKER, "sell", Input.ACCEPT, Input.QUOTE_CONFIRMED) is None
    assert walk(
        TAKER,
        "sell",
        Input.ACCEPT,
        Input.PAY_STARTED,
        Input.PAY_SUCCEEDED,
        Input.QUOTE_SAID,
        Input.QUOTE_CONFIRMED,
    ) is (State.SETTLED)


def test_a_buying_taker_sends_the_quote_first() -> None:
    """Its invoice is made only after the maker has confirmed the quote."""
    assert walk(TAKER, "buy", Input.ACCEPT, Input.INVOICE_MADE) is None
    assert walk(
        TAKER,
        "buy",
        Input.ACCEPT,
        Input.QUOTE_SAID,
        Input.QUOTE_CONFIRMED,
        Input.INVOICE_MADE,
        Input.BASE_SETTLED,
    ) is (State.SETTLED)


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_an_abandoned_take_is_never_paid(side: str) -> None:
    """No way leads from abandoning to a payment, also when the accept comes after all."""
    after = reachable((PLAIN, TAKER, side), State.ABANDONING)
    assert after == {State.ABANDONING, State.CANCELLED}
    assert walk(TAKER, side, Input.ABANDON, Input.ACCEPT) is State.ABANDONING


def test_a_buying_makers_quantity_returns_only_by_lightning() -> None:
    """Every way to cancelled ends with Lightning's word that nothing was or will be paid."""
    ways = [
        happened
        for (_, happened), after in TABLES[PLAIN, MAKER, "buy"].items()
        if after is State.CANCELLED
    ]
    assert ways == [Input.BASE_NEGATIVE]


def test_a_payment_ends_only_by_lightning() -> None:
    """No timer, cancel or word of the other party leads out of a running payment."""
    for role in TradeRole:
        ways = {
            happened for state, happened in TABLES[PLAIN, role, "sell"] if state is State.PAYING
        }
        assert ways == {Input.PAY_SUCCEEDED, Input.PAY_FAILED}


# --- by lock -------------------------------------------------------------------------------------

LOCKS = [way for way in TABLES if way[0] == HTLC]
BUYS = [way for way in LOCKS if way[2] == "buy"]
SELLS = [way for way in LOCKS if way[2] == "sell"]


@pytest.mark.parametrize("way", BUYS)
def test_the_quote_is_sent_under_a_lock_only(way: Way) -> None:
    """The one way to an intent is from the lock; the one way to "sent" is from the intent."""
    rows = TABLES[way].items()
    intents = [state for (state, _), after in rows if after is State.QUOTE_INTENT]
    assert intents == [State.HTLC_ACCEPTED]
    assert [state for (state, _), after in rows if after is State.QUOTE_SENT] == [
        State.QUOTE_INTENT
    ]


@pytest.mark.parametrize("way", BUYS)
def test_after_the_intent_nothing_is_cancelled_by_itself(way: Way) -> None:
    """What may have been paid for ends by the seller's release, Lightning or the operator."""
    after = reachable(way, State.QUOTE_INTENT)
    assert State.CANCELLING not in after
    ways = [
        (state, happened)
        for (state, happened), end in TABLES[way].items()
        if end is State.CANCELLED and state in after
    ]
    assert ways == [(State.DISPUTED, Input.RESOLVE_CANCELLED)]


@pytest.mark.parametrize("way", LOCKS)
def test_a_release_is_the_sellers_and_is_final(way: Way) -> None:
    """One input leads to it, and Lightning alone leads out of it."""
    rows = TABLES[way].items()
    assert {happened for (_, happened), end in rows if end is State.RELEASED} == {Input.PREIMAGE}
    out = {happened for (state, happened), _ in rows if state is State.RELEASED}
    buys = {Input.BASE_SETTLED, Input.BASE_NEGATIVE}
    assert out == (buys if way[2] == "buy" else {Input.PAY_SUCCEEDED, Input.PAY_FAILED})


@pytest.mark.parametrize("way", LOCKS)
def test_what_lightning_has_settled_is_settled(way: Way) -> None:
    """Wherever a journal that is too old thinks it stands; the buyer's invoice must exist."""
    moved = Input.BASE_SETTLED if way[2] == "buy" else Input.PAY_SUCCEEDED
    before = {State.TAKING, State.ACCEPTED, State.ABANDONING, State.DISPUTED}
    if way[2] == "sell":
        before |= {State.RESERVED, State.PAYING}
    for state in reachable(way) - TERMINAL - before:
        assert step(*way, state, moved) is State.SETTLED, state
    assert step(*way, State.DISPUTED, moved) is State.SETTLED


@pytest.mark.parametrize("way", SELLS)
def test_a_locked_payment_ends_only_by_lightning(way: Way) -> None:
    """No timer and no word of the buyer leads to an end."""
    ways = {
        happened
        for (state, happened), after in TABLES[way].items()
        if state in {State.PAYING, State.QUOTE_SENT, State.RELEASED} and after in TERMINAL
    }
    assert ways <= {Input.PAY_SUCCEEDED, Input.PAY_FAILED}


# --- what a maker's trade claims of its order ----------------------------------------------------


def claims(settlement: str, side: str, table: Table) -> set[tuple[Claim, Claim]]:
    """From which claim to which each row of a maker's table goes, but for the late claim."""
    return {
        (claim(settlement, side, state), claim(settlement, side, after))
        for (state, happened), after in table.items()
        if (state, happened) != LATE
    }


@pytest.mark.parametrize("way", [way for way in TABLES if way[1] is MAKER])
def test_a_claim_ends_once(way: Way) -> None:
    """What is held becomes free or filled; neither becomes anything else again."""
    assert claims(way[0], way[2], TABLES[way]) <= {
        (Claim.HELD, Claim.HELD),
        (Claim.HELD, Claim.FREE),
        (Claim.HELD, Claim.FILLED),
        (Claim.FILLED, Claim.FILLED),
    }


@pytest.mark.parametrize(
    ("settlement", "side", "filled"),
    [
        (PLAIN, "buy", {State.BASE_DONE, State.QUOTE_SENT, State.SETTLED, State.DISPUTED}),
        (PLAIN, "sell", {State.SETTLED}),
        (HTLC, "buy", {State.SETTLED}),
        (HTLC, "sell", {State.SETTLED}),
    ],
)
def test_a_quantity_is_free_or_filled_exactly_where_base_says_so(
    settlement: str, side: str, filled: set[State]
) -> None:
    """Filled once base has moved, free once it never will; held in every other state."""
    for state in reachable((settlement, MAKER, side)):
        expected = Claim.FILLED if state in filled else Claim.HELD
        if state is State.CANCELLED:
            expected = Claim.FREE
        assert claim(settlement, side, state) is expected, state


def test_a_late_dispute_claims_nothing() -> None:
    """Its quantity had returned, and may belong to somebody else by now."""
    assert claim(PLAIN, "sell", State.DISPUTED, hold_ended=True) is Claim.FREE
    assert claim(PLAIN, "sell", State.DISPUTED) is Claim.HELD


@pytest.mark.parametrize("words", [State, Input, TradeRole, Claim])
def test_a_word_is_its_name(words: type[State | Input | TradeRole | Claim]) -> None:
    """They stand in journals, logs and answers: a new word would not be understood there."""
    assert [one.value for one in words] == [one.name.lower() for one in words]
