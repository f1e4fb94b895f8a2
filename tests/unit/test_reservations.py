"""Between a take and its trade on disk: the hold server and Lightning are asked at the same time.

Until both have answered nothing is written and nobody is told anything, so whatever comes instead
(a refusal, silence, a crash) leaves the quantity whole and no invoice that anybody could pay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from tests.holding import hold_answer
from tests.outside import lightning_answer
from tests.stories import (
    BTC,
    HOLD,
    available,
    check_always,
    check_quiet,
    only_trade,
    place,
    say_raw,
    signed,
)
from tests.unit.test_admission import take_of, word
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import CancelOrder
from zmqex.kernel.records import PutBatch, PutCounter, PutLine, PutTrade, Write
from zmqex.kernel.requests import Answer, Refusal
from zmqex.protocol.codec import decode, decode_envelope, decode_trade_message
from zmqex.protocol.messages import Accept, Take, TradeSaid
from zmqex.reasons import RejectReason
from zmqex.trading.states import State

LOTS = 4 * BTC // 10
HOLDS = "holds"
LIGHTNING = "lightning"
ORDERS = [pytest.param((HOLDS, LIGHTNING), id="hold-first")]
ORDERS += [pytest.param((LIGHTNING, HOLDS), id="invoice-first")]
Step = tuple[str, str]


class Waiting:
    """Alice bids for 1 BTC; what she asks of the outside for bob's take waits for the test."""

    def __init__(self, **alice: Any) -> None:  # noqa: ANN401 - settings
        """Bob is connected to her."""
        self.world = World()
        self.alice = self.world.add("alice", **alice)
        self.bob = self.world.add("bob")
        self.world.run(2_000)
        self.alice.tell(place("buy", BTC))
        self.world.run(300)
        self.take = take_of(self.world, self.alice, self.bob)
        self.asked: dict[str, out.Effect] = {}
        self.after: list[out.Effect] = []  # what was asked when both questions had been
        self.answers: list[Answer] = []
        self._carry_out = self.world.carry_out
        object.__setattr__(self.world, "carry_out", self._keep)

    def _keep(self, node: SimNode, effect: out.Effect) -> None:
        first = {out.ReserveHold: HOLDS, out.CreateInvoice: LIGHTNING}.get(type(effect))
        if node is self.alice and first is not None:
            self.asked[first] = effect
            return
        if node is self.alice and isinstance(effect, out.CancelInvoice | out.ReleaseHold):
            self.after.append(effect)
        self._carry_out(node, effect)

    def ask(self, take: Take | None = None) -> None:
        """Bob's take arrives; as often as it is called."""
        said = signed(self.bob, take or self.take)
        self.bob.k.core.begin(self.world.now())
        self.bob.k.sessions.request(self.alice.identity, "take", said, self.answers.append)
        for effect in self.bob.k.core.finish():
            self.world.carry_out(self.bob, effect)
        self.world.run(20)

    def answer(self, who: str, event: happened.Event | None = None) -> None:
        """The hold server or Lightning does what it was asked, and says so or something else."""
        effect = self.asked[who]
        if who == HOLDS:
            true = hold_answer(self.alice, effect, self.world.monotonic_ms)
        else:
            true = lightning_answer(self.alice.ledger, effect)
        assert true is not None
        self.alice.handle(event or true)
        self.world.run(20)

    @property
    def words(self) -> list[str]:
        """What bob was answered."""
        return [word(one) for one in self.answers]

    @property
    def invoice(self) -> str:
        """The state of the invoice that was asked for."""
        effect = self.asked[LIGHTNING]
        assert isinstance(effect, out.CreateInvoice)
        return self.alice.ledger.state(effect.payment_hash)

    def check_whole(self) -> None:
        """Nothing is held, written down or open, and all of it can be taken."""
        assert self.alice.journal.trades == {}
        assert self.alice.held == {}
        assert not self.alice.k.admission._reserving
        assert self.invoice in {"unknown", "canceled"}
        assert available(self.alice) == [BTC]
        assert self.alice.journal.counters.get("fence", 0) == 0
        check_always(self.world)
        check_quiet(self.world)


@pytest.mark.parametrize("order", ORDERS)
def test_both_are_asked_at_once_and_one_commit_has_it_all(order: Step) -> None:
    """Trade, preimage, invoice, fence, both messages; not a word before it."""
    there = Waiting()
    there.ask()
    assert set(there.asked) == {HOLDS, LIGHTNING}
    commits = there.alice.journal.commits
    there.answer(order[0])
    assert there.alice.journal.commits == commits
    assert there.answers == []
    writes: list[tuple[Write, ...]] = []
    commit = there.alice.journal.commit

    def written(one: tuple[Write, ...]) -> None:
        writes.append(one)
        commit(one)

    object.__setattr__(there.alice.journal, "commit", written)
    there.answer(order[1])
    # What is left of the order is told after that, in a commit of its own.
    assert [[type(write) for write in one] for one in writes] == [
        [PutCounter, PutTrade, PutLine, PutLine],
        [PutBatch],
    ]
    trade = only_trade(there.alice)
    assert (trade.state, trade.revision) == (State.INVOICED, 1)
    assert (len(trade.preimage), trade.invoice[:6]) == (32, "lnbcrt")
    assert trade.invoice_node == there.alice.ledger.node
    assert there.words == ["accepted"]
    answer = there.answers[0]
    assert not isinstance(answer, Refusal)
    envelope = decode(answer, TradeSaid).envelope
    accept = decode_trade_message(decode_envelope(envelope).body)
    assert isinstance(accept, Accept)
    assert (accept.invoice, accept.previous) == (trade.invoice, trade.take_digest)
    assert trade.last_digest in there.alice.k.trades.lines[trade.trade_id]
    assert set(there.alice.held) == {trade.trade_id}
    check_always(there.world)


def test_repeats_wait_with_the_first_and_all_get_the_same_bytes() -> None:
    """Before either has answered, between, and after."""
    there = Waiting()
    there.ask()
    there.ask()
    there.answer(HOLDS)
    there.ask()
    there.ask(replace(there.take, quantity_lots=BTC // 2))
    assert there.words == ["take_conflict"]
    there.answer(LIGHTNING)
    there.ask()
    assert there.words == ["take_conflict", *["accepted"] * 4]
    assert len({bytes(one) for one in there.answers[1:] if not isinstance(one, Refusal)}) == 1
    assert len(there.alice.ledger.invoices) == 1


def test_what_waits_is_nobody_elses() -> None:
    """The quantity is held in memory from the first moment, whoever answers when."""
    there = Waiting()
    carol = there.world.add("carol")
    there.world.run(3_000)
    there.ask()
    for who in (HOLDS, LIGHTNING):
        take = take_of(there.world, there.alice, carol, quantity_lots=BTC)
        last = dict(there.asked)
        answers: list[Answer] = []
        carol.k.core.begin(there.world.now())
        said = signed(carol, take)
        carol.k.sessions.request(there.alice.identity, "take", said, answers.append)
        for effect in carol.k.core.finish():
            there.world.carry_out(carol, effect)
        there.world.run(20)
        reserve = there.asked[HOLDS]
        if who == HOLDS:
            assert isinstance(reserve, out.ReserveHold)
            assert reserve.quantity_lots == BTC - LOTS
        else:
            assert [word(one) for one in answers] == ["too_many_holds"]
        there.asked = last
        there.answer(who)
    assert only_trade(there.alice).quantity_lots == LOTS


@pytest.mark.parametrize("outcome", ["full", "stale_fence"])
@pytest.mark.parametrize("order", ORDERS)
def test_a_refused_hold_takes_its_invoice_along(order: Step, outcome: Any) -> None:  # noqa: ANN401
    """HELD at once; the invoice is cancelled whether it was there before or comes after."""
    there = Waiting()
    there.ask()
    no = happened.HoldAnswered(there.take.trade_id, outcome)
    for who in order:
        if who == HOLDS:
            there.alice.handle(no)
            there.world.run(20)
            assert there.words == ["held"]
        else:
            there.answer(LIGHTNING)
    cancel = [one for one in there.after if isinstance(one, out.CancelInvoice)]
    assert len(cancel) == 1
    # Calls about one hash are made in order: a cancel that was early waited for the invoice.
    there.alice.ledger.cancel(cancel[0].payment_hash)
    there.check_whole()


@pytest.mark.parametrize("indeterminate", [False, True])
@pytest.mark.parametrize("order", ORDERS)
def test_an_invoice_that_cannot_be_made_gives_the_hold_back(
    order: Step,
    indeterminate: bool,  # noqa: FBT001
) -> None:
    """Not before the hold server has answered, or it could hold it afterwards."""
    there = Waiting()
    there.ask()
    effect = there.asked[LIGHTNING]
    assert isinstance(effect, out.CreateInvoice)
    failed = happened.LightningFailed(
        effect.trade_id,
        effect.payment_hash,
        "create_invoice",
        indeterminate,
        RejectReason.LIGHTNING_UNAVAILABLE,
        "no answer",
    )
    if indeterminate:
        there.alice.ledger.create(effect)
    for who in order:
        assert there.answers == []
        if who == HOLDS:
            there.answer(HOLDS)
        else:
            there.alice.handle(failed)
            there.world.run(20)
    assert there.words == ["lightning_unavailable"]
    assert {type(one) for one in there.after} == {out.ReleaseHold, out.CancelInvoice}
    there.check_whole()
    # The same take again is as good as new: another preimage, another invoice.
    there.ask()
    again = there.asked[LIGHTNING]
    assert isinstance(again, out.CreateInvoice)
    assert again.payment_hash != effect.payment_hash
    late = happened.InvoiceCreated(effect.trade_id, effect.payment_hash, "lnbcrt1")
    there.alice.handle(late)
    there.alice.handle(failed)
    there.answer(HOLDS)
    assert there.words == ["lightning_unavailable"]
    there.answer(LIGHTNING)
    assert there.words == ["lightning_unavailable", "accepted"]
    assert only_trade(there.alice).payment_hash == again.payment_hash


@pytest.mark.parametrize("silent", [HOLDS, LIGHTNING])
def test_who_never_answers_holds_nothing_longer_than_a_hold_lasts(silent: str) -> None:
    """Whatever was lost outside: the taker hears of it, and late answers change nothing."""
    there = Waiting()
    there.ask()
    there.answer(LIGHTNING if silent == HOLDS else HOLDS)
    there.world.run(HOLD - 1_000)
    assert there.alice.k.admission._reserving
    assert there.alice.k.orders.available_lots(there.take.order_id) == BTC - LOTS
    there.world.run(1_000)
    assert "hold_ended" in _refused(there.alice)
    there.check_whole()
    there.answer(silent)
    assert there.alice.journal.trades == {}


def _refused(node: SimNode) -> set[str]:
    """Why takes were refused."""
    return {str(one.facts["reason"]) for one in node.logs if one.event == "take_refused"}


@pytest.mark.parametrize("order", ORDERS)
def test_an_order_that_is_closed_meanwhile_is_not_taken(order: Step) -> None:
    """Between the two answers; hold and invoice go back."""
    there = Waiting()
    there.ask()
    there.answer(order[0])
    there.alice.tell(CancelOrder(""))
    there.answer(order[1])
    assert there.words == ["order_closed"]
    assert there.alice.journal.trades == {}
    assert (there.alice.held, there.invoice) == ({}, "canceled")
    check_quiet(there.world)


def test_strict_nodes_refuse_in_silence_and_cancel_the_invoice() -> None:
    """The hold server does not answer; Lightning does."""
    there = Waiting(holds_strict=True)
    there.ask()
    there.answer(LIGHTNING)
    there.alice.handle(happened.HoldFailed(there.take.trade_id, 1_000))
    there.world.run(20)
    assert there.words == ["holds_unavailable"]
    there.check_whole()


def test_a_program_that_declines_leaves_nothing_to_be_cancelled() -> None:
    """Neither was asked."""
    there = Waiting(asks_before_accept=True)
    there.alice.accepts = False
    there.ask()
    assert there.words == ["declined"]
    assert (there.asked, there.after) == ({}, [])


Crash = Callable[[Waiting], None]


def _nothing(_there: Waiting) -> None:
    """Both were asked; neither has done anything."""


def _held(there: Waiting) -> None:
    there.answer(HOLDS)


def _invoiced(there: Waiting) -> None:
    there.answer(LIGHTNING)


def _made_and_held_unheard(there: Waiting) -> None:
    """Both have done it, and neither answer has arrived."""
    hold_answer(there.alice, there.asked[HOLDS], there.world.monotonic_ms)
    lightning_answer(there.alice.ledger, there.asked[LIGHTNING])


def _all_but_written(there: Waiting) -> None:
    """Both answers are there; the process dies before the commit."""
    there.answer(HOLDS)
    there.alice.crash_at = ("before", there.alice.journal.commits + 1)
    there.answer(LIGHTNING)
    assert not there.alice.up


CRASHES: list[Crash] = [_nothing, _held, _invoiced, _made_and_held_unheard, _all_but_written]


@pytest.mark.parametrize("until", CRASHES)
def test_a_node_that_dies_before_the_commit_has_sold_nothing(until: Crash) -> None:
    """Whole after the restart, the hold server too; the same take then gets an invoice of its own.

    An invoice of the first try may be open for the rest of its time: its hash was told to nobody.
    """
    there = Waiting()
    there.ask()
    first = there.asked[LIGHTNING]
    assert isinstance(first, out.CreateInvoice)
    assert first.first
    until(there)
    assert there.answers == []
    there.alice.crash()
    there.world.run(1_000)
    there.alice.start()
    there.world.introduce(there.alice)
    there.world.run(5_000)
    assert there.alice.journal.trades == {}
    assert there.alice.held == {}
    assert available(there.alice) == [BTC]
    told = [line.envelope for line in there.bob.journal.lines.values()]
    assert told == []
    object.__setattr__(there.world, "carry_out", there._carry_out)
    again = say_raw(there.world, there.bob, there.alice, "take", signed(there.bob, there.take))
    assert word(again) == "accepted"
    trade = only_trade(there.alice)
    assert trade.payment_hash != first.payment_hash
    assert there.alice.ledger.state(trade.payment_hash) == "open"
    assert there.alice.ledger.state(first.payment_hash) in {"unknown", "open"}
    check_always(there.world)
