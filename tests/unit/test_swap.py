"""Whole swaps between two kernels, each leg over a network of its own: both move, or none."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from tests.evidence_files import exported, raw
from tests.stories import HOLD, place
from tests.swaps import DAY, LOTS, PRICE, QUOTE, Scene, grasping
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import CancelTrade, PayTrade, ResolveTrade, SentTrade, TakeOrder
from zmqex.market.instruments import Currencies
from zmqex.protocol.messages import InvoiceFailed, TradeCancel, TradeInvoice
from zmqex.trading.evidence import read_evidence
from zmqex.trading.statements import statements
from zmqex.trading.states import State

SIDES = ["buy", "sell"]


@pytest.mark.parametrize("side", SIDES)
def test_both_legs_move_and_each_side_says_that_it_has_all(side: str) -> None:
    """The base over one network, the quote over the other, exactly."""
    scene = Scene(side)
    scene.take()
    scene.world.run(5_000)
    assert scene.states() == ("settled", "settled")
    scene.check_kept()
    assert scene.check_fair(scene.alice)
    assert scene.check_fair(scene.bob)
    alice, bob = scene.trade(scene.alice), scene.trade(scene.bob)
    assert alice.payment_hash == bob.payment_hash
    assert (alice.invoice, alice.taker_invoice) == (bob.invoice, bob.taker_invoice)
    assert alice.preimage == bob.preimage
    (order,) = scene.alice.journal.orders.values()
    assert (order.state, order.filled_lots) == ("closed", LOTS)


@pytest.mark.parametrize("side", SIDES)
def test_a_taker_that_never_pays_costs_a_hold(side: str) -> None:
    """Leg 2 is not touched, and the quantity is back after fifteen minutes."""
    scene = Scene(side, pay_mode="manual")
    scene.take()
    scene.world.run(1_000)
    assert scene.states() == ("invoiced", "invoiced")
    scene.world.run(HOLD + 120_000)
    assert scene.states() == ("cancelled", "cancelled")
    assert scene.moved(scene.alice) == scene.moved(scene.bob) == (0, 0)
    (order,) = scene.alice.journal.orders.values()
    assert (order.state, order.filled_lots) == ("open", 0)


@pytest.mark.parametrize("side", SIDES)
def test_the_operator_of_a_taker_pays_or_leaves(side: str) -> None:
    """`trade pay` and `trade cancel`; the words of the quote leg are none of a swap's."""
    scene = Scene(side, pay_mode="manual")
    trade_id = scene.take()
    scene.world.run(1_000)
    for node in (scene.alice, scene.bob):
        refused = node.ask(SentTrade(trade_id))
        assert refused.result["reason"] in {"wrong_state", "wrong_party"}
        by_itself = "a swap settles by itself" in refused.result["message"]
        assert by_itself == (refused.result["reason"] == "wrong_party")
    assert scene.alice.ask(PayTrade(trade_id)).result["reason"] == "wrong_state"
    answer = scene.bob.tell(PayTrade(trade_id))
    assert answer["trade"]["state"] in {"received", "paid", "settled"}
    scene.world.run(2_000)
    assert scene.bob.ask(PayTrade(trade_id)).result["reason"] == "already_paid"
    assert scene.bob.ask(CancelTrade(trade_id)).result["reason"] == "wrong_state"
    assert scene.check_fair(scene.bob)
    left = Scene(side, pay_mode="manual")
    trade_id = left.take()
    left.world.run(1_000)
    assert left.bob.tell(CancelTrade(trade_id))["trade"]["state"] == "abandoning"
    left.world.run(5_000)
    assert left.states() == ("cancelled", "cancelled")
    invoice = left.ledger(left.bob, left.leg2).invoices[left.trade(left.bob).payment_hash]
    assert invoice["state"] == "canceled"


@pytest.mark.parametrize("side", SIDES)
def test_the_maker_may_end_it_until_leg_2_is_on_its_way(side: str) -> None:
    """Before the taker has paid."""
    scene = Scene(side, pay_mode="manual")
    trade_id = scene.take()
    scene.world.run(1_000)
    scene.alice.tell(CancelTrade(trade_id))
    scene.world.run(5_000)
    assert scene.states() == ("cancelled", "cancelled")
    assert scene.bob.ask(PayTrade(trade_id)).result["reason"] == "wrong_state"


@pytest.mark.parametrize("side", SIDES)
def test_a_maker_that_cannot_pay_leg_2_gives_leg_1_back(side: str) -> None:
    """Its backend says for good that nothing was sent."""
    scene = Scene(side)
    scene.ledger(scene.alice, scene.leg2).balance_msat = 1
    scene.before["alice"] = (0, 0)
    base, quote = scene.alice.ledger.balance_msat, scene.alice.quotes[QUOTE].balance_msat
    scene.take()
    scene.world.run(20_000)
    assert scene.states() == ("cancelled", "cancelled")
    assert scene.moved(scene.bob) == (0, 0)
    assert (scene.alice.ledger.balance_msat, scene.alice.quotes[QUOTE].balance_msat) == (
        base,
        quote,
    )


# --- between the legs ----------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
def test_a_maker_that_was_killed_between_the_legs_learns_the_preimage_from_leg_2(side: str) -> None:
    """Its payment was in flight, and went through while it was down."""
    scene = Scene(side)
    ledger = grasping(scene)
    scene.take()
    scene.world.run(2_000)
    assert scene.states() == ("paying", "paying")
    scene.alice.crash()
    scene.world.mined += 5
    assert ledger.grasp()
    scene.world.run(5_000)
    scene.alice.start()
    scene.world.introduce(scene.alice)
    scene.world.run(20_000)
    assert scene.states() == ("settled", "settled")
    assert scene.check_fair(scene.alice)
    assert scene.check_fair(scene.bob)


@pytest.mark.parametrize("side", SIDES)
def test_leg_1_is_not_cancelled_while_leg_2_is_held(side: str) -> None:
    """Not after the hold, not by a restart, not by an operator, not when the taker wants out."""
    scene = Scene(side)
    grasping(scene)
    trade_id = scene.take()
    scene.world.run(2_000)
    seen: list[out.Effect] = []
    scene.world.spy = lambda _node, effect: seen.append(effect)
    assert scene.alice.ask(CancelTrade(trade_id)).result["reason"] == "wrong_state"
    assert scene.bob.ask(CancelTrade(trade_id)).result["reason"] == "wrong_state"
    trade = scene.bob.k.trades.by_id[scene.trade(scene.bob).trade_id]
    terms = {"take_id": trade.take_id, "taker": trade.taker, "reason": "cancelled"}
    scene.bob.k.trades.say(trade, TradeCancel, **terms)
    scene.world.run(2 * HOLD)
    scene.alice.crash()
    scene.alice.start()
    scene.world.introduce(scene.alice)
    scene.world.run(60_000)
    assert scene.states() == ("paying", "paying")
    assert not [one for one in seen if isinstance(one, out.CancelInvoice)]
    scene.finish()
    assert scene.states() == ("cancelled", "cancelled")
    scene.check_kept()
    assert scene.moved(scene.alice) == (0, 0)


@pytest.mark.parametrize("side", SIDES)
def test_a_payment_that_was_decided_on_too_long_ago_is_not_begun(side: str) -> None:
    """The process slept in between; leg 1 goes back, or leg 2 is decided on anew."""
    scene = Scene(side)
    late: list[out.PayInvoice] = []

    def sleepy(node: SimNode, effect: out.Effect) -> None:
        if node is scene.alice and isinstance(effect, out.PayInvoice):
            late.append(effect)
            scene.world.wall_ms = max(scene.world.wall_ms, effect.not_after_ms + 1)

    scene.world.spy = sleepy
    scene.take()
    scene.world.run(30_000)
    assert len(late) == 1
    assert scene.states() == ("cancelled", "cancelled")
    assert scene.moved(scene.alice) == scene.moved(scene.bob) == (0, 0)


@pytest.mark.parametrize(("blocks", "end"), [(5, "settled"), (120, "cancelled")])
def test_an_intent_that_never_reached_lightning_is_carried_out_while_there_is_time(
    blocks: int, end: str
) -> None:
    """The call was lost with the process; the lock of leg 1 is looked at again."""
    scene = Scene()
    lost: list[out.Effect] = []

    def lose(node: SimNode, effect: out.Effect) -> None:
        if node is scene.alice and isinstance(effect, out.PayInvoice) and not lost:
            lost.append(effect)
            scene.ledger(scene.alice, scene.leg2).fail_pay = "indeterminate"

    scene.world.spy = lose
    scene.take()
    scene.world.run(1_000)
    assert scene.states() == ("paying", "paying")
    scene.ledger(scene.alice, scene.leg2).fail_pay = ""
    scene.alice.crash()
    scene.world.mined += blocks
    scene.alice.start()
    scene.world.introduce(scene.alice)
    scene.world.run(120_000)
    assert scene.states() == (end, end)
    assert scene.check_fair(scene.alice) == (end == "settled")
    assert scene.check_fair(scene.bob) == (end == "settled")


def test_a_maker_that_was_away_for_longer_than_the_lock_has_a_dispute() -> None:
    """The one way to lose: leg 2 was paid, and leg 1 had gone back before it was there."""
    scene = Scene()
    ledger = grasping(scene)
    trade_id = scene.take()
    scene.world.run(2_000)
    scene.alice.crash()
    scene.world.mined += 100
    assert ledger.grasp()
    scene.world.mined += DAY
    scene.alice.start()
    scene.world.introduce(scene.alice)
    scene.world.run(60_000)
    assert scene.states() == ("disputed", "settled")
    refused = scene.alice.ask(ResolveTrade(trade_id, "cancelled"))
    assert "one leg of it was paid over Lightning" in refused.result["message"]
    assert scene.alice.tell(ResolveTrade(trade_id, "settled"))["trade"]["state"] == "settled"
    (order,) = scene.alice.journal.orders.values()
    assert order.filled_lots == LOTS


def test_a_journal_from_before_the_swap_believes_lightning() -> None:
    """Restored from an older copy: what has settled is settled, and nothing is cancelled."""
    for at in range(2, 9):
        scene = Scene()
        first = scene.alice.journal.commits
        copies: dict[int, object] = {}

        def keep(_node: SimNode, _effect: out.Effect, copies: dict[int, object] = copies) -> None:
            copies[scene.alice.journal.commits] = deepcopy(scene.alice.journal)  # noqa: B023

        scene.world.spy = keep
        scene.take()
        scene.world.run(5_000)
        scene.world.spy = lambda *_: None
        assert scene.states() == ("settled", "settled")
        copy = copies.get(first + at)
        if copy is None:
            continue
        scene.alice.crash()
        scene.alice.journal = copy  # type: ignore[assignment]
        scene.alice.start()
        scene.world.introduce(scene.alice)
        scene.world.run(HOLD + 120_000)
        scene.check_kept()
        assert scene.check_fair(scene.alice)
        for trade in scene.alice.journal.trades.values():
            assert trade.state is State.SETTLED


def test_a_node_says_which_network_its_running_swaps_need() -> None:
    """Without it nothing could be looked up: `serve` refuses to start."""
    scene = Scene(pay_mode="manual")
    scene.take()
    assert scene.alice.k.missing_networks() == []
    scene.alice.crash()
    scene.alice.quotes = {}
    scene.alice.start()
    assert scene.alice.k.missing_networks() == [QUOTE]


# --- calls that fail, words that are wrong -------------------------------------------------------


@pytest.mark.parametrize("how", ["rejected", "indeterminate"])
@pytest.mark.parametrize("name", ["alice", "bob"])
def test_an_invoice_that_cannot_be_made_ends_it(name: str, how: Any) -> None:  # noqa: ANN401
    """For good, or until Lightning answers again."""
    scene = Scene()
    node, asset = (scene.alice, scene.leg1) if name == "alice" else (scene.bob, scene.leg2)
    ledger = scene.ledger(node, asset)
    ledger.fail_create = how
    scene.world.at(scene.world.monotonic_ms + 700, lambda: setattr(ledger, "fail_create", ""))
    scene.take()
    scene.world.run(HOLD + 120_000)
    end = "settled" if how == "indeterminate" else "cancelled"
    states = {one.state.value for one in scene.alice.journal.trades.values()}
    assert states == {end}
    scene.check_fair(scene.alice)
    scene.check_fair(scene.bob)


@pytest.mark.parametrize("side", SIDES)
def test_only_the_agreed_invoice_of_leg_2_is_taken(side: str) -> None:
    """Another amount, another invoice later, one for a trade that has ended."""
    scene = Scene(side, pay_mode="manual")
    scene.ledger(scene.bob, scene.leg2).overcharge_msat = 1_000
    scene.take()
    scene.world.run(1_000)
    assert scene.trade(scene.alice).taker_invoice == ""
    good = Scene(side, pay_mode="manual")
    good.take()
    good.world.run(1_000)
    key = good.trade(good.alice).trade_id
    maker, node = good.alice.k.sides.maker(good.trade(good.alice)), good.bob.ledger.node
    trade = good.alice.k.trades.by_id[key]

    def said(text: str) -> object:
        message = TradeInvoice(key, bytes(32), 0, text, node)
        return maker.on_trade_invoice(good.alice.k.trades.by_id[key], message, b"")

    assert said(trade.taker_invoice) is None
    assert said("lnbcrt1other") == "wrong_state"
    good.world.run(HOLD + 60_000)
    assert said("lnbcrt1other") == "wrong_state"


def test_an_invoice_of_leg_1_that_is_not_the_agreed_one_is_not_paid() -> None:
    """The maker asks for more."""
    scene = Scene()
    scene.ledger(scene.alice, scene.leg1).overcharge_msat = 1_000
    scene.take()
    scene.world.run(5_000)
    assert scene.trade(scene.bob).reason == "wrong_invoice_amount"
    assert scene.states() == ("cancelled", "cancelled")


def test_words_and_news_that_fit_nothing_change_nothing() -> None:
    """Of the other network, late, twice, or of a quote leg that a swap does not have."""
    scene = Scene(pay_mode="manual")
    scene.take()
    scene.world.run(1_000)
    alice, bob = scene.trade(scene.alice), scene.trade(scene.bob)
    key, hashed = alice.trade_id, alice.payment_hash
    states = scene.states()
    swapped = {scene.alice: (scene.leg2, scene.leg1), scene.bob: (scene.leg1, scene.leg2)}
    for node, (other, own) in swapped.items():
        for event in (
            happened.InvoiceSeen(hashed, "settled", asset=other),
            happened.InvoiceSeen(hashed, "unknown", asset=own),
            happened.InvoiceCreated(key, hashed, "lnbcrt1", other),
            happened.PaymentSeen(key, hashed, "succeeded", bytes(32), asset=other),
            happened.PaymentSeen(key, hashed, "failed", asset=own),
            happened.PaymentSeen(key, hashed, "failed", asset=other),
            happened.PaymentSeen(key, hashed, "succeeded", bob.preimage, asset=own),
            happened.PaymentSeen(key, hashed, "none", asset=other),
            happened.InvoiceSeen(hashed, "settled", asset="EUR"),
        ):
            node.handle(event)
            assert scene.states() == states, event
    taker = scene.bob.k.sides.taker(bob)
    failed = InvoiceFailed(key, bytes(32), 0, hashed, "x")
    assert taker.on_invoice_failed(bob, failed, b"") == "wrong_state"


# --- what can be swapped -------------------------------------------------------------------------


def test_an_order_to_swap_needs_both_networks_and_amounts_that_a_chain_enforces() -> None:
    """Each is refused in a sentence, before anything is placed."""
    world = World()
    alone = world.add("alone")
    poor = world.add("poor", quotes=("USD",), can_hold=False)
    rich = world.add("rich", quotes=("USD",))
    refused = alone.ask(place("buy", LOTS, PRICE, settlements=("swap",)))
    assert "see `serve --quote-lightning`" in refused.result["message"]
    refused = poor.ask(place("buy", LOTS, PRICE, settlements=("swap",)))
    assert "for BTC cannot hold payments" in refused.result["message"]
    poor.tell(place("sell", LOTS, PRICE, settlements=("swap",)))
    for lots, price in ((999, 10**10), (LOTS, 999)):
        refused = rich.ask(place("buy", lots, price, settlements=("swap",)))
        assert "at least 1000 of the smallest units" in refused.result["message"]
    rich.tell(place("buy", LOTS, 1_000 * 10, settlements=("swap",)))


def test_a_part_that_is_too_small_to_be_enforced_is_refused() -> None:
    """By the maker, whatever the whole order is worth; and by a taker, if less was accepted."""
    scene = Scene()
    order_id = next(iter(scene.alice.journal.orders)).hex()
    refused = scene.bob.ask(TakeOrder(order_id, 900, settlement="swap"))
    assert refused.result["reason"] == "notional_too_small"
    assert scene.trade(scene.bob).state is State.REFUSED


# --- evidence ------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
def test_the_makers_file_proves_that_leg_2_was_paid(side: str) -> None:
    """The taker draws the preimage, so its own file proves no payment."""
    scene = Scene(side)
    trade_id = scene.take()
    scene.world.run(10_000)
    files = {one.name: raw(exported(one, trade_id)) for one in (scene.alice, scene.bob)}
    alice, bob = (statements(read_evidence(files[name]), Currencies()) for name in files)
    paid = "preimage, which the taker draws and the maker gets for that payment only"
    assert any(paid in one for one in alice.proved)
    assert not any(paid in one for one in bob.proved)
    for words in (alice, bob):
        own_word = "took what was locked for it: there is only its own word"
        assert any(own_word in one for one in words.unproved)
        assert not any("moved: there is only what the two said" in one for one in words.unproved)
    assert any("the preimage in the file was drawn by taker" in one for one in bob.unproved)
    assert not any("drawn by" in one for one in alice.unproved)


def test_evidence_of_a_swap_that_was_not_paid_proves_no_payment() -> None:
    """There is an invoice, and no preimage in the file."""
    scene = Scene(pay_mode="manual")
    trade_id = scene.take()
    scene.world.run(1_000)
    words = statements(read_evidence(raw(exported(scene.alice, trade_id))), Currencies())
    assert any("there is no preimage in the file" in one for one in words.unproved)


def test_one_swap_of_a_taker_at_a_time() -> None:
    """What is locked for its maker may bind that one's own for hours."""
    scene = Scene()
    ledger = grasping(scene)
    scene.take()
    scene.world.run(1_000)
    assert scene.states() == ("paying", "paying")
    scene.alice.tell(place("buy", LOTS, PRICE, settlements=("swap",)))
    scene.world.run(1_000)
    more = place("sell", LOTS, PRICE, settlements=("swap",), time_in_force="ioc")
    answer = scene.bob.ask(more, within_ms=60_000)
    assert [one["reason"] for one in answer.result["skipped"]] == ["too_many_holds"]
    assert ledger.grasp()
    scene.world.run(60_000)
    assert len(scene.bob.tell(more)["trades"]) == 1
