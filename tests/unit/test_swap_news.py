"""Each word of Lightning about a swap, in each state in which it may come, also late or twice."""

from __future__ import annotations

import pytest

from tests.stories import HOLD
from tests.swaps import Scene, grasping
from tests.unit.backend import HASH, Lightning
from tests.unit.test_outside import TRADE, lightning_events
from tests.world import SimNode
from zmqex.adapters.clock import wall_ms
from zmqex.cli import orders
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import CancelTrade, ListTrades, PayTrade
from zmqex.kernel.records import Trade
from zmqex.limits import NEVER_MADE_MS, SWAP_PAY_WITHIN_MS
from zmqex.protocol.messages import TradeSettled
from zmqex.reasons import RejectReason
from zmqex.runtime.outside import LIGHTNING_EFFECTS


def heard(scene: Scene, node: SimNode, event: happened.Event) -> list[out.Effect]:
    """What a node's kernel asks of Lightning when it hears this."""
    asked: list[out.Effect] = []
    before, scene.world.spy = scene.world.spy, lambda _node, effect: asked.append(effect)
    node.handle(event)
    scene.world.spy = before
    return [one for one in asked if isinstance(one, LIGHTNING_EFFECTS)]


def locked(scene: Scene, trade: Trade, height: int | None = 3_000_144) -> happened.InvoiceSeen:
    """Leg 1 is locked for alice."""
    ledger = scene.ledger(scene.alice, scene.leg1)
    amount = ledger.invoices[trade.payment_hash]["amount_msat"]
    now = 3_000_000 if height else 0
    return happened.InvoiceSeen(trade.payment_hash, "accepted", amount, height, now, scene.leg1)


def seen(trade: Trade, state: str, leg: str) -> happened.InvoiceSeen:
    """How an invoice of a leg stands."""
    return happened.InvoiceSeen(trade.payment_hash, state, asset=leg)  # type: ignore[arg-type]


def payment(scene: Scene, trade: Trade, state: str, leg: str) -> happened.PaymentSeen:
    """How the payment of a leg stands."""
    preimage = scene.trade(scene.bob).preimage if state == "succeeded" else None
    return happened.PaymentSeen(
        trade.trade_id,
        trade.payment_hash,
        state,  # type: ignore[arg-type]
        preimage,
        asset=leg,
    )


def reserved() -> tuple[Scene, Trade]:
    """Alice has held it, and does not know whether her invoice was made."""
    scene = Scene()
    scene.ledger(scene.alice, scene.leg1).fail_create = "indeterminate"
    scene.ledger(scene.alice, scene.leg1).fail_look = True
    scene.take()
    assert scene.states()[0] == "reserved"
    return scene, scene.trade(scene.alice)


def invoiced() -> tuple[Scene, Trade]:
    """Both have made their invoices, and nobody has paid."""
    scene = Scene(pay_mode="manual")
    scene.take()
    scene.world.run(1_000)
    assert scene.states() == ("invoiced", "invoiced")
    return scene, scene.trade(scene.alice)


def held() -> tuple[Scene, Trade]:
    """Leg 1 is locked, and leg 2 is held by bob's backend."""
    scene = Scene()
    grasping(scene)
    scene.take()
    scene.world.run(2_000)
    assert scene.states() == ("paying", "paying")
    return scene, scene.trade(scene.alice)


# --- the maker -----------------------------------------------------------------------------------


def test_no_invoice_is_made_for_the_last_second_of_a_hold() -> None:
    """Nobody could pay it."""
    scene, trade = reserved()
    scene.world.wall_ms = trade.hold_expires_ms - 500
    scene.alice.handle(seen(trade, "unknown", scene.leg1))
    assert scene.trade(scene.alice).state == "cancelling"
    assert scene.trade(scene.alice).reason == "hold_ended"


def test_an_invoice_that_turns_up_after_the_end_was_asked_for_is_cancelled() -> None:
    """After a look at leg 2, like any other."""
    scene, trade = reserved()
    scene.alice.tell(CancelTrade(trade.trade_id.hex()))
    made = happened.InvoiceCreated(trade.trade_id, trade.payment_hash, "lnbcrt1", scene.leg1)
    asked = heard(scene, scene.alice, made)
    assert asked == [out.LookupPayment(trade.trade_id, trade.payment_hash, scene.leg2)]
    asked = heard(scene, scene.alice, payment(scene, trade, "none", scene.leg2))
    assert asked == [out.CancelInvoice(trade.trade_id, trade.payment_hash, scene.leg1)]
    assert heard(scene, scene.alice, payment(scene, trade, "in_flight", scene.leg2)) == []


def test_an_invoice_that_was_never_made_ends_a_minute_after_the_hold() -> None:
    """Not earlier: the call that makes it may still be on its way."""
    scene, trade = reserved()
    scene.alice.tell(CancelTrade(trade.trade_id.hex()))
    scene.alice.handle(seen(trade, "unknown", scene.leg1))
    assert scene.trade(scene.alice).state == "cancelling"
    scene.world.wall_ms = trade.hold_expires_ms + 60_000
    scene.alice.handle(seen(trade, "unknown", scene.leg1))
    assert scene.trade(scene.alice).state == "cancelled"


def test_an_invoice_that_is_cancelled_by_itself_ends_the_swap() -> None:
    """It has expired, or somebody cancelled it by hand."""
    scene, trade = invoiced()
    scene.alice.handle(seen(trade, "canceled", scene.leg1))
    assert scene.trade(scene.alice).state == "cancelled"
    scene.world.run(2_000)
    assert scene.states() == ("cancelled", "cancelled")


def test_a_taker_that_has_gone_leaves_the_hold_to_its_end() -> None:
    """The maker's own timer."""
    scene, _ = invoiced()
    scene.bob.crash()
    scene.world.run(HOLD + 5_000)
    assert scene.states()[0] == "cancelled"


def test_leg_2_is_not_paid_without_a_height_or_with_an_invoice_that_has_run_out() -> None:
    """The one is asked for again, the other ends the swap."""
    scene, trade = invoiced()
    asked = heard(scene, scene.alice, locked(scene, trade, None))
    assert not [one for one in asked if isinstance(one, out.PayInvoice)]
    assert scene.states()[0] == "htlc_accepted"
    scene.world.wall_ms += 2 * 3_600_000
    scene.alice.handle(locked(scene, trade))
    assert scene.trade(scene.alice).reason == "invoice_expired"
    assert scene.states()[0] == "cancelling"


def test_a_height_that_is_never_told_ends_the_swap_with_the_hold() -> None:
    """Whatever is locked goes back."""
    scene, trade = invoiced()
    ledger = scene.ledger(scene.alice, scene.leg1)
    scene.bob.crash()
    scene.alice.handle(locked(scene, trade, None))
    ledger.fail_look = True
    scene.world.run(HOLD + 60_000)
    assert scene.states()[0] == "cancelling"
    ledger.fail_look = False
    scene.world.run(60_000)
    assert scene.states()[0] == "cancelled"


def test_a_lock_that_is_too_small_is_none() -> None:
    """Of a part of the amount nobody pays anything."""
    scene, trade = invoiced()
    less = happened.InvoiceSeen(trade.payment_hash, "accepted", 1, 3_000_144, 3_000_000, scene.leg1)
    scene.alice.handle(less)
    assert scene.states()[0] == "invoiced"


def test_news_of_leg_1_while_leg_2_is_on_its_way_changes_nothing() -> None:
    """Neither a lock that is seen again, nor one that has gone."""
    scene, trade = held()
    for event in (
        locked(scene, trade),
        locked(scene, trade, None),
        seen(trade, "canceled", scene.leg1),
        seen(trade, "open", scene.leg1),
        payment(scene, trade, "in_flight", scene.leg2),
        payment(scene, trade, "none", scene.leg2),
    ):
        assert heard(scene, scene.alice, event) == []
    assert scene.states() == ("paying", "paying")


def test_what_has_ended_hears_nothing_more() -> None:
    """On both sides, of both legs."""
    scene = Scene()
    scene.take()
    scene.world.run(5_000)
    trade = scene.trade(scene.alice)
    for node, other in ((scene.alice, scene.leg1), (scene.bob, scene.leg2)):
        pays = scene.leg2 if other == scene.leg1 else scene.leg1
        for state in ("settled", "canceled", "open", "accepted"):
            assert heard(scene, node, seen(trade, state, other)) == []
        for state in ("succeeded", "failed", "none"):
            assert heard(scene, node, payment(scene, trade, state, pays)) == []
    assert scene.states() == ("settled", "settled")


def test_a_settle_that_finds_nothing_looks_why() -> None:
    """It may have been settled before, or have gone back."""
    scene, trade = held()
    scene.alice.handle(payment(scene, trade, "succeeded", scene.leg2))
    reason = RejectReason.WRONG_STATE
    key, hashed = trade.trade_id, trade.payment_hash
    failed = happened.LightningFailed(key, hashed, "settle", False, reason, "", scene.leg1)  # noqa: FBT003
    assert heard(scene, scene.alice, failed) == [out.LookupInvoice(key, hashed, scene.leg1)]
    unsure = happened.LightningFailed(key, hashed, "settle", True, reason, "", scene.leg1)  # noqa: FBT003
    assert heard(scene, scene.alice, unsure) == []
    scene.alice.handle(locked(scene, trade))
    assert scene.trade(scene.alice).state == "released"
    scene.alice.handle(seen(trade, "canceled", scene.leg1))
    assert scene.trade(scene.alice).state == "disputed"
    scene.alice.crash()
    scene.alice.start()
    assert scene.trade(scene.alice).state == "disputed"


def test_a_payment_without_its_preimage_proves_nothing() -> None:
    """Leg 1 is neither taken nor given back for it."""
    scene, trade = held()
    key, hashed = trade.trade_id, trade.payment_hash
    odd = happened.PaymentSeen(key, hashed, "succeeded", b"x" * 32, asset=scene.leg2)
    assert heard(scene, scene.alice, odd) == []
    assert scene.alice.ask(PayTrade(key.hex())).result["reason"] == "already_paid"
    scene.alice.handle(payment(scene, trade, "failed", scene.leg2))
    assert heard(scene, scene.alice, odd) == []
    assert scene.states()[0] == "cancelling"


def test_a_payment_that_was_thought_never_made_and_has_been_is_no_loss() -> None:
    """Asked once more before leg 1 is cancelled, Lightning knows better than the journal."""
    scene, trade = held()
    scene.alice.handle(payment(scene, trade, "failed", scene.leg2))
    assert scene.trade(scene.alice).state == "cancelling"
    asked = heard(scene, scene.alice, payment(scene, trade, "succeeded", scene.leg2))
    assert [type(one) for one in asked] == [out.SettleInvoice]
    assert scene.trade(scene.alice).state == "released"


def test_a_receipt_never_stops_the_maker_from_taking_leg_1() -> None:
    """A taker that has leg 2 says that it has all, while the maker's Lightning is away."""
    scene = Scene("sell")
    ledger = grasping(scene)
    scene.take()
    scene.world.run(2_000)
    scene.ledger(scene.alice, scene.leg1).fail_look = True
    assert ledger.grasp()
    scene.world.run(40_000)
    assert scene.states()[0] == "released"
    trade = scene.bob.k.trades.by_id[scene.trade(scene.bob).trade_id]
    scene.bob.k.trades.say(trade, TradeSettled)
    scene.world.run(10_000)
    scene.ledger(scene.alice, scene.leg1).fail_look = False
    scene.world.run(40_000)
    assert scene.states()[0] == "settled"
    assert scene.check_fair(scene.alice)


@pytest.mark.parametrize("word", ["in_flight", "none"])
def test_leg_2_is_sent_again_only_where_lightning_has_said_that_it_never_was(word: str) -> None:
    """Late news of leg 1 are no news of leg 2."""
    scene, trade = held()
    scene.world.wall_ms += SWAP_PAY_WITHIN_MS + 1
    heard(scene, scene.alice, payment(scene, trade, word, scene.leg2))
    asked = heard(scene, scene.alice, locked(scene, trade))
    assert [type(one) for one in asked] == ([out.PayInvoice] if word == "none" else [])
    scene.world.wall_ms += 2 * SWAP_PAY_WITHIN_MS
    assert heard(scene, scene.alice, locked(scene, trade, 3_000_001)) == []
    assert scene.states()[0] == "paying"


def test_a_lock_that_lightning_does_not_know_of_becomes_its_operators_task() -> None:
    """A backend that has just started may not know of it yet; a minute after the hold it should.

    It is asked for all the same, and what it then knows is taken.
    """
    scene, trade = held()
    ledger = scene.ledger(scene.alice, scene.leg1)
    ledger.fail_look = True
    scene.alice.handle(payment(scene, trade, "succeeded", scene.leg2))

    def turn(state: str) -> str:
        scene.alice.handle(seen(trade, state, scene.leg1))
        assert scene.states()[0] == "released"
        (view,) = scene.alice.tell(ListTrades())["trades"]
        return str(view["turn"])

    assert turn("unknown") == "lightning"
    scene.world.wall_ms = trade.hold_expires_ms + NEVER_MADE_MS - 1
    assert turn("unknown") == "lightning"
    scene.world.wall_ms += 1
    assert turn("unknown") == "you"
    assert turn("open") == "lightning"
    assert turn("unknown") == "you"
    ledger.fail_look = False
    scene.world.run(60_000)
    assert scene.states()[0] == "settled"
    assert scene.trade(scene.alice).reason == ""


# --- the taker -----------------------------------------------------------------------------------


def test_a_taker_that_has_left_cancels_an_invoice_that_comes_late() -> None:
    """Nobody shall pay it."""
    scene, _ = invoiced()
    trade = scene.trade(scene.bob)
    made = happened.InvoiceCreated(trade.trade_id, trade.payment_hash, "lnbcrt1", scene.leg2)
    assert heard(scene, scene.bob, made) == []
    scene.bob.command(CancelTrade(trade.trade_id.hex()))
    assert heard(scene, scene.bob, made) == [
        out.CancelInvoice(trade.trade_id, trade.payment_hash, scene.leg2)
    ]


def test_leg_1_may_be_seen_paid_before_leg_2_is_seen_received() -> None:
    """The other leg follows; if it never does, the preimage has got out by another way."""
    for end in ("settled", "disputed"):
        scene, _ = held()
        trade = scene.trade(scene.bob)
        scene.bob.handle(payment(scene, trade, "succeeded", scene.leg1))
        assert scene.states()[1] == "paid"
        word = "settled" if end == "settled" else "canceled"
        scene.bob.handle(seen(trade, word, scene.leg2))
        assert scene.states()[1] == end


@pytest.mark.parametrize("word", ["failed", "none"])
def test_a_taker_that_was_paid_and_never_paid_has_settled(word: str) -> None:
    """The maker did not take leg 1 in time; that is its own business."""
    scene, _ = held()
    trade = scene.trade(scene.bob)
    scene.bob.handle(seen(trade, "settled", scene.leg2))
    assert scene.states()[1] == "received"
    scene.bob.handle(payment(scene, trade, word, scene.leg1))
    assert scene.states()[1] == "settled"


@pytest.mark.parametrize("late", [False, True])
def test_a_payment_of_leg_1_that_never_left_is_sent_once_more_in_time(late: bool) -> None:  # noqa: FBT001
    """After its time it has failed, and the taker leaves."""
    scene, _ = held()
    trade = scene.trade(scene.bob)
    if late:
        scene.world.wall_ms = trade.first_sent_ms + HOLD
    asked = heard(scene, scene.bob, payment(scene, trade, "none", scene.leg1))
    assert [one for one in asked if isinstance(one, out.PayInvoice)] != [] or late
    if late:
        assert scene.trade(scene.bob).reason == "too_late_to_pay"
        scene.bob.handle(happened.Tick())
        assert scene.states()[1] in {"invoiced", "abandoning"}


def test_a_taker_without_the_money_is_told_so_and_can_pay_later() -> None:
    """Nothing was sent; the invoice of leg 1 is still good."""
    scene, trade = invoiced()
    ledger = scene.ledger(scene.bob, scene.leg1)
    ledger.fail_pay = "rejected"
    refused = scene.bob.ask(PayTrade(trade.trade_id.hex()))
    assert refused.result["reason"] == "insufficient_balance"
    ledger.fail_pay = ""
    scene.bob.tell(PayTrade(trade.trade_id.hex()))
    scene.world.run(10_000)
    assert scene.states() == ("settled", "settled")


def test_a_taker_may_say_pay_before_its_own_invoice_exists() -> None:
    """It is paid as soon as it does: whoever was asked by `order buy` need not come again."""
    scene = Scene(pay_mode="manual")
    ledger = scene.ledger(scene.bob, scene.leg2)
    ledger.fail_create = "indeterminate"
    trade_id = scene.take()
    assert scene.states()[1] == "accepted"
    request = scene.bob.command(PayTrade(trade_id))
    ledger.fail_create = ""
    scene.world.run(15_000)
    assert scene.bob.answers[request].ok
    assert scene.states() == ("settled", "settled")


@pytest.mark.parametrize(
    ("side", "settlement", "question"),
    [
        ("buy", "swap", ["Pay 5000.00 USD to 22222222?"]),
        ("sell", "swap", ["Pay 0.1 BTC to 22222222?"]),
        ("sell", "plain", ["Pay 0.1 BTC to 22222222?"]),
        ("buy", "plain", []),
    ],
)
def test_whoever_wants_to_be_asked_is_asked_for_what_it_pays(
    side: str, settlement: str, question: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a swap a buyer pays too, in the quote."""
    asked: list[str] = []
    monkeypatch.setattr("zmqex.cli.orders.asks", asked.append)
    trade = {
        "settlement": settlement,
        "side": side,
        "state": "accepted",
        "market": "BTC/USD",
        "base_msat": 10**10,
        "quote_units": 500_000,
        "counterparty": "2" * 52,
    }
    orders._ask_to_pay({"trades": [trade]}, "ask")
    orders._ask_to_pay({"trades": [trade]}, "manual")
    assert asked == question


@pytest.mark.parametrize("pay_mode", ["auto", "manual"])
def test_a_taker_that_starts_again_goes_on(pay_mode: str) -> None:
    """With its invoice made, or not known to be."""
    for state in ("accepted", "invoiced"):
        scene = Scene(pay_mode=pay_mode)
        ledger = scene.ledger(scene.bob, scene.leg2)
        if state == "accepted":
            ledger.fail_create = "indeterminate"
        scene.bob.crash_at = None
        scene.take()
        if pay_mode == "manual":
            scene.world.run(500)
            assert scene.states()[1] == state
        ledger.fail_create = ""
        scene.bob.crash()
        scene.bob.start()
        scene.world.introduce(scene.bob)
        scene.world.run(10_000)
        assert scene.states()[1] == ("settled" if pay_mode == "auto" else "invoiced")


def test_a_taker_whose_lightning_stays_silent_leaves_in_time() -> None:
    """It can make no invoice for leg 2, so it never pays leg 1."""
    scene = Scene()
    ledger = scene.ledger(scene.bob, scene.leg2)
    ledger.fail_create, ledger.fail_look = "indeterminate", True
    scene.take()
    scene.world.run(HOLD)
    ledger.fail_create, ledger.fail_look = "", False
    scene.world.run(60_000)
    assert scene.trade(scene.bob).reason == "too_late_to_pay"
    assert scene.states() == ("cancelled", "cancelled")


# --- the runtime ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("late_ms", "begun"), [(-60_000, True), (1, False)])
def test_a_payment_that_was_decided_on_too_long_ago_is_never_begun(
    late_ms: int,
    begun: bool,  # noqa: FBT001
) -> None:
    """The process may have slept; nothing has reached Lightning, and the event says so."""
    backend = Lightning()
    effect = out.PayInvoice(TRADE, HASH, "lnbcrt1", 10, 432, "USD", wall_ms() - late_ms)
    (event,) = lightning_events(backend, effect, "USD")
    assert backend.asked == (["pay"] if begun else [])
    if not begun:
        assert isinstance(event, happened.LightningFailed)
        assert not event.indeterminate
        assert event.reason is RejectReason.TOO_LATE_TO_PAY
