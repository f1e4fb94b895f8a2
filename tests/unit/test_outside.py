"""Calls to the outside: whatever happens there, exactly one event says how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

import msgspec
import pytest

from tests.unit.backend import HASH, Lightning
from zmqex.adapters.holds import port
from zmqex.adapters.holds.port import HoldAnswer, HoldOutcome, HoldRow
from zmqex.adapters.ports import InvoiceInfo, PaymentInfo
from zmqex.errors import (
    HoldsUnavailableError,
    IndeterminateError,
    LightningUnavailableError,
    LocalProtocolError,
    PeerUnavailableError,
    RejectedError,
    StorageError,
    ZmqexError,
)
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.market.instruments import BASE
from zmqex.reasons import RejectReason
from zmqex.runtime.outside import HoldCalls, KernelWire, LightningCalls

ORDER, TRADE = b"o" * 32, b"t" * 32
RESERVE = out.ReserveHold(ORDER, TRADE, 5, 9, 3, 900_000)


class Holds:
    """A hold server that does as it is told, and remembers what it was asked."""

    def __init__(self, error: Exception | None = None) -> None:
        """With an error, nothing else is ever heard of it."""
        self.asked: list[Any] = []
        self._error = error

    def _hear(self, *said: Any) -> None:  # noqa: ANN401
        self.asked.append(said)
        if self._error is not None:
            raise self._error

    async def reserve(self, **terms: Any) -> HoldAnswer:  # noqa: ANN401
        """Always free."""
        self._hear("reserve", terms)
        return HoldAnswer(HoldOutcome.ALREADY_YOURS, 5)

    async def release(self, order_id: bytes, trade_id: bytes, fence: int) -> None:
        """See the port."""
        self._hear("release", order_id, trade_id, fence)

    async def extend(self, order_id: bytes, trade_id: bytes, fence: int, ttl_ms: int) -> None:
        """See the port."""
        self._hear("extend", order_id, trade_id, fence, ttl_ms)

    async def rebuild(self, epoch: bytes, rows: Sequence[HoldRow]) -> None:
        """See the port."""
        self._hear("rebuild", epoch, list(rows))


def hold_calls(holds: Holds, post: Callable[[happened.Event], None]) -> HoldCalls:
    """The calls that effects lead to; the port has more, for the node's start and its end."""
    return HoldCalls(cast("port.Holds", holds), post)


LIGHTNING = [
    (out.CreateInvoice(TRADE, HASH, b"p" * 32, 1_000, "memo", 900), "create_invoice"),
    (out.CreateHoldInvoice(TRADE, HASH, 1_000, "memo", 900, 60), "create_hold_invoice"),
    (out.LookupInvoice(TRADE, HASH), "invoice"),
    (out.SettleInvoice(TRADE, HASH, b"p" * 32), "settle"),
    (out.CancelInvoice(TRADE, HASH), "cancel"),
    (out.PayInvoice(TRADE, HASH, "lnbcrt1", 10, 432), "pay"),
    (out.LookupPayment(TRADE, HASH), "payment"),
]


def lightning_events(
    backend: Lightning,
    effect: Any,  # noqa: ANN401
    asset: str = BASE,
) -> list[happened.Event]:
    """What one effect leads to, and everything that goes on beside it."""
    events: list[happened.Event] = []

    async def story() -> None:
        async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:

            def spawn(work: Coroutine[Any, Any, None]) -> None:
                tasks.create_task(work)

            calls = LightningCalls(backend, events.append, spawn, asset=asset)
            await calls.carry_out(effect)

    asyncio.run(story())
    return events


# --- holds ---------------------------------------------------------------------------------------


def test_a_reservation_is_answered_with_what_the_server_said() -> None:
    """And with nothing left out of the question."""
    holds, events = Holds(), list[happened.Event]()
    asyncio.run(hold_calls(holds, events.append).carry_out(RESERVE))
    assert events == [happened.HoldAnswered(TRADE, "already_yours")]
    terms = {
        "order_id": ORDER,
        "trade_id": TRADE,
        "quantity_lots": 5,
        "capacity_lots": 9,
        "fence": 3,
        "ttl_ms": 900_000,
    }
    assert holds.asked == [("reserve", terms)]


@pytest.mark.parametrize(
    ("effect", "asked"),
    [
        (out.ReleaseHold(ORDER, TRADE, 3), ("release", ORDER, TRADE, 3)),
        (out.ExtendHold(ORDER, TRADE, 3, 60_000), ("extend", ORDER, TRADE, 3, 60_000)),
        (
            out.RebuildHolds(b"e" * 16, ((ORDER, TRADE, 5, 3, 1_000),)),
            ("rebuild", b"e" * 16, [HoldRow(ORDER, TRADE, 5, 3, 1_000)]),
        ),
    ],
)
@pytest.mark.parametrize("error", [None, HoldsUnavailableError("silent")])
def test_the_other_calls_need_no_answer(effect: Any, asked: Any, error: Any) -> None:  # noqa: ANN401
    """Where they fail, the next rebuild makes it right."""
    holds, events = Holds(error), list[happened.Event]()
    asyncio.run(hold_calls(holds, events.append).carry_out(effect))
    assert holds.asked == [asked]
    assert events == []


@pytest.mark.parametrize(
    ("error", "retry_after_ms"),
    [
        (HoldsUnavailableError("silent", retry_after_ms=2_500), 2_500),
        (LocalProtocolError("not so"), 1_000),
    ],
)
def test_a_reservation_that_fails_is_answered_all_the_same(
    error: ZmqexError, retry_after_ms: int
) -> None:
    """Or its quantity would be reserved in memory for ever."""
    events: list[happened.Event] = []
    asyncio.run(hold_calls(Holds(error), events.append).carry_out(RESERVE))
    assert events == [happened.HoldFailed(TRADE, retry_after_ms)]


def test_a_reservation_that_fails_as_nobody_foresaw_is_answered_and_seen() -> None:
    """Else what it is about would be held in memory for as long as a hold lasts."""
    events: list[happened.Event] = []
    holds = Holds(ValueError("no answer of a script"))
    with pytest.raises(ValueError, match="of a script"):
        asyncio.run(hold_calls(holds, events.append).carry_out(RESERVE))
    assert events == [happened.HoldFailed(TRADE, 1_000)]


# --- Lightning -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("effect", "call"), LIGHTNING)
def test_each_call_that_works_is_one_event(effect: Any, call: str) -> None:  # noqa: ANN401
    """Of the right kind; a settle or cancel is followed by a look-up, a new invoice is watched."""
    backend = Lightning()
    (event,) = lightning_events(backend, effect)
    then = {"create_invoice": "watch", "create_hold_invoice": "watch"}
    then |= {"settle": "invoice", "cancel": "invoice"}
    assert backend.asked == ([call, then[call]] if call in then else [call])
    text, held = f"lnbcrt {'70' * 32} 1000 memo 900", f"lnbcrt {HASH.hex()} 1000 memo 900 60"
    expected: dict[str, Any] = {
        "create_invoice": happened.InvoiceCreated(TRADE, HASH, text),
        "create_hold_invoice": happened.InvoiceCreated(TRADE, HASH, held),
        "invoice": happened.InvoiceSeen(HASH, "settled", 7),
        "settle": happened.InvoiceSeen(HASH, "settled", 7),
        "cancel": happened.InvoiceSeen(HASH, "settled", 7),
        "pay": happened.PaymentSeen(TRADE, HASH, "succeeded", b"p" * 32, call="pay"),
        "payment": happened.PaymentSeen(TRADE, HASH, "succeeded", b"p" * 32),
    }
    assert event == expected[call]
    (event,) = lightning_events(Lightning(), effect, "USD")
    assert event == msgspec.structs.replace(expected[call], asset="USD")
    (event,) = lightning_events(Lightning(IndeterminateError("?"), only=call), effect, "USD")
    assert isinstance(event, happened.LightningFailed)
    assert event.asset == "USD"


@pytest.mark.parametrize(("effect", "call"), LIGHTNING)
@pytest.mark.parametrize(
    ("error", "indeterminate", "reason"),
    [
        (RejectedError(RejectReason.INSUFFICIENT_BALANCE, "poor"), False, "insufficient_balance"),
        (LightningUnavailableError("down"), False, "lightning_unavailable"),
        (IndeterminateError("who knows"), True, "lightning_unavailable"),
        (PeerUnavailableError("gone"), True, "lightning_unavailable"),
        (StorageError("full"), True, "lightning_unavailable"),
    ],
)
def test_each_call_that_fails_is_one_event(
    effect: Any,  # noqa: ANN401
    call: str,
    error: ZmqexError,
    indeterminate: bool,  # noqa: FBT001
    reason: str,
) -> None:
    """What surely has not happened, and what must be looked up, are told apart."""
    (event,) = lightning_events(Lightning(error, only=call), effect)
    if call == "cancel" and isinstance(error, RejectedError):
        # It has settled meanwhile: the look-up says so.
        assert event == happened.InvoiceSeen(HASH, "settled", 7)
        return
    assert isinstance(event, happened.LightningFailed)
    assert (event.trade_id, event.payment_hash, event.call) == (TRADE, HASH, call)
    assert (event.indeterminate, event.reason) == (indeterminate, reason)
    assert event.why == str(error)


@pytest.mark.parametrize(("effect", "call"), LIGHTNING)
def test_a_call_that_fails_as_nobody_foresaw_is_one_event_and_seen(effect: Any, call: str) -> None:  # noqa: ANN401
    """A payment of which nothing is heard would have each look-up taken for outdated."""
    events: list[happened.Event] = []
    backend = Lightning(ValueError("not hex"), only=call)
    calls = LightningCalls(backend, events.append, lambda _work: None)
    with pytest.raises(ValueError, match="not hex"):
        asyncio.run(calls.carry_out(effect))
    (event,) = events
    assert isinstance(event, happened.LightningFailed)
    assert (event.call, event.indeterminate) == (call, True)


def test_a_look_up_after_a_cancel_that_fails_is_one_event() -> None:
    """Not two, and none is lost."""
    backend = Lightning(LightningUnavailableError("down"), only="invoice")
    (event,) = lightning_events(backend, out.CancelInvoice(TRADE, HASH))
    assert isinstance(event, happened.LightningFailed)
    assert backend.asked == ["cancel", "invoice"]


@pytest.mark.parametrize(
    ("word", "reason"),
    [("invoice_expired", RejectReason.INVOICE_EXPIRED), ("", None), ("word of tomorrow", None)],
)
def test_the_reason_of_a_failed_payment_is_a_word_or_none(
    word: str, reason: RejectReason | None
) -> None:
    """A backend may say what this version does not know."""
    backend = Lightning()
    backend.payment_info = PaymentInfo("failed", reason=word)
    (event,) = lightning_events(backend, out.PayInvoice(TRADE, HASH, "lnbcrt1", 10, 432))
    assert event == happened.PaymentSeen(TRADE, HASH, "failed", None, reason, call="pay")


@pytest.mark.parametrize("effect", [LIGHTNING[0][0], LIGHTNING[1][0], LIGHTNING[2][0]])
def test_an_invoice_that_has_not_ended_is_watched(effect: Any) -> None:  # noqa: ANN401
    """Each change is told once, with the height of that moment; what is known is not told again."""
    backend = Lightning()
    backend.invoice_info = InvoiceInfo("open")
    backend.changes = [
        InvoiceInfo("open"),
        InvoiceInfo("accepted", 7, 160),
        InvoiceInfo("accepted", 7, 160),
        InvoiceInfo("settled", 7),
    ]
    assert lightning_events(backend, effect)[1:] == [
        happened.InvoiceSeen(HASH, "accepted", 7, 160, 100),
        happened.InvoiceSeen(HASH, "settled", 7),
    ]


@pytest.mark.parametrize("state", ["unknown", "settled", "canceled"])
def test_what_has_ended_or_never_was_is_not_watched(state: Any) -> None:  # noqa: ANN401
    """Nothing will ever be heard of it."""
    backend = Lightning()
    backend.invoice_info = InvoiceInfo(state)
    lightning_events(backend, out.LookupInvoice(TRADE, HASH))
    assert backend.asked == ["invoice"]


def test_an_invoice_is_watched_once_at_a_time_and_again_when_that_has_ended() -> None:
    """However often it is looked up."""
    backend = Lightning()
    backend.invoice_info = InvoiceInfo("open")

    async def story() -> None:
        events: list[happened.Event] = []
        spawned: list[Coroutine[Any, Any, None]] = []
        calls = LightningCalls(backend, events.append, spawned.append)
        look = out.LookupInvoice(TRADE, HASH)
        await calls.carry_out(look)
        await calls.carry_out(look)
        assert len(spawned) == 1
        await spawned[0]
        await calls.carry_out(look)
        assert len(spawned) == 2
        await spawned[1]

    asyncio.run(story())


def test_calls_about_one_hash_are_made_one_after_the_other() -> None:
    """A look-up that overtook a payment would tell of a past in which nothing was paid."""

    class Slow(Lightning):
        def __init__(self) -> None:
            super().__init__()
            self.paid = asyncio.Event()

        async def pay(self, invoice: str, **limits: int) -> PaymentInfo:
            await self.paid.wait()
            return await super().pay(invoice, **limits)

    async def story() -> None:
        backend, events = Slow(), list[happened.Event]()
        calls = LightningCalls(backend, events.append, lambda _work: None)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(calls.carry_out(out.PayInvoice(TRADE, HASH, "lnbcrt1", 10, 432)))
            for _ in range(3):
                tasks.create_task(calls.carry_out(out.LookupPayment(TRADE, HASH)))
            for _ in range(3):
                await asyncio.sleep(0)
            assert (backend.asked, calls._turns[HASH].wanted) == ([], 4)
            backend.paid.set()
        assert backend.asked == ["pay", "payment", "payment", "payment"]
        assert len(events) == 4
        assert calls._turns == {}

    asyncio.run(story())


def test_a_lock_is_not_told_without_the_height_to_compare_it_with() -> None:
    """And that the height is not known says nothing of the payment."""
    backend = Lightning(LightningUnavailableError("down"), only="info")
    backend.payment_info = PaymentInfo("in_flight", htlc_expiry_height=160)
    (event,) = lightning_events(backend, out.LookupPayment(TRADE, HASH))
    assert event == happened.PaymentSeen(TRADE, HASH, "in_flight")
    backend = Lightning()
    backend.payment_info = PaymentInfo("in_flight", htlc_expiry_height=160)
    (event,) = lightning_events(backend, out.LookupPayment(TRADE, HASH))
    assert event == happened.PaymentSeen(
        TRADE, HASH, "in_flight", htlc_expiry_height=160, height=100
    )
    # Behind its chain: less is left of the lock than it would seem.
    backend.synced = False
    (event,) = lightning_events(backend, out.LookupPayment(TRADE, HASH))
    assert event == happened.PaymentSeen(TRADE, HASH, "in_flight")


def test_height_and_funds_are_told_at_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after the backend was away."""
    monkeypatch.setattr("zmqex.runtime.outside.HEIGHT_EVERY_S", 0)
    backend, events = Lightning(), list[happened.Event]()

    async def story() -> None:
        async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
            calls = LightningCalls(backend, events.append, lambda _work: None)
            task = tasks.create_task(calls.follow_backend())
            for _ in range(10):
                await asyncio.sleep(0)
            assert len(backend.asked) > 3
            assert events == [happened.HeightSeen(100), happened.FundsSeen(1)]
            backend._error, backend.height = LightningUnavailableError("down"), 101
            for _ in range(10):
                await asyncio.sleep(0)
            backend._error = None
            for _ in range(10):
                await asyncio.sleep(0)
            assert events[2:] == [happened.HeightSeen(101)]
            backend.balance_msat = 7
            for _ in range(10):
                await asyncio.sleep(0)
            assert events[3:] == [happened.FundsSeen(7)]
            task.cancel()

    asyncio.run(story())


# --- play money's wire ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preimage", "reason"), [(b"p" * 32, ""), (None, "invoice_expired"), (None, "")]
)
def test_a_play_payment_is_one_question_and_one_answer(preimage: bytes | None, reason: str) -> None:
    """A preimage, a refusal, or nothing - which is no refusal."""

    async def story() -> None:
        events: list[happened.Event] = []
        wire = KernelWire(events.append)
        terms: dict[str, Any] = {"payment_hash": HASH, "amount_msat": 5}
        async with asyncio.TaskGroup() as tasks:
            asked = [
                tasks.create_task(
                    _quiet(wire.play_pay(b"n" * 33, payer_node=bytes([one]) * 33, **terms))
                )
                for one in range(2)
            ]
            await asyncio.sleep(0)
            assert [type(one) for one in events] == [happened.PlayPayWanted] * 2
            first, second = (one.ticket for one in events)  # type: ignore[attr-defined]
            wire.ended(out.PlayPayEnded(second, preimage, reason))
            wire.ended(out.PlayPayEnded(first, b"q" * 32, ""))
        said = [one.result() for one in asked]
        assert said[0] == (b"q" * 32, "")
        silent = preimage is None and not reason
        assert said[1] == ("no answer" if silent else (preimage, reason))

    asyncio.run(story())


def test_an_answer_for_a_payer_that_has_given_up_is_dropped() -> None:
    """The node is ending; nothing waits any more."""

    async def story() -> None:
        events: list[happened.PlayPayWanted] = []
        wire = KernelWire(events.append)  # type: ignore[arg-type]
        async with asyncio.TaskGroup() as tasks:
            terms: dict[str, Any] = {"payment_hash": HASH, "amount_msat": 5}
            call = wire.play_pay(b"n" * 33, payer_node=b"m" * 33, **terms)
            task = tasks.create_task(_quiet(call))
            await asyncio.sleep(0)
            task.cancel()
        assert task.cancelled()
        wire.ended(out.PlayPayEnded(events[0].ticket, b"p" * 32, ""))
        assert wire._waiting == {}

    asyncio.run(story())


async def _quiet(call: Any) -> Any:  # noqa: ANN401
    try:
        return await call
    except PeerUnavailableError:
        return "no answer"
