"""Another node behind the old address: nothing is begun there, and nothing it says counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from tests.unit.backend import HASH, OWN, Lightning
from tests.unit.test_outside import TRADE
from zmqex.adapters.lightning.same_node import SameNode
from zmqex.adapters.ports import InvoiceInfo
from zmqex.errors import (
    IndeterminateError,
    LightningUnavailableError,
    OtherNodeError,
    RejectedError,
    ZmqexError,
)
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.events import InvoiceState
from zmqex.reasons import RejectReason
from zmqex.runtime.outside import LightningCalls

PREIMAGE = b"p" * 32
OTHER = b"x" * 33
Call = Callable[[Lightning | SameNode], Coroutine[Any, Any, Any]]
LOOKS: dict[str, Call] = {
    "invoice": lambda one: one.invoice(HASH),
    "payment": lambda one: one.payment(HASH),
}
CALLS: dict[str, Call] = {
    **LOOKS,
    "create_invoice": lambda one: one.create_invoice(PREIMAGE, amount_msat=1, memo="m", expiry_s=1),
    "create_hold_invoice": lambda one: one.create_hold_invoice(
        HASH, amount_msat=1, memo="m", expiry_s=1, min_final_cltv=9
    ),
    "settle": lambda one: one.settle(PREIMAGE),
    "cancel": lambda one: one.cancel(HASH),
    "pay": lambda one: one.pay("lnbcrt1", fee_limit_msat=10, cltv_limit=432),
}


class Changing(Lightning):
    """A backend whose node may be another one from a certain call on."""

    def __init__(self, error: ZmqexError | None = None, *, only: str = "") -> None:
        """Nothing has changed yet."""
        super().__init__(error, only=only)
        self.node = OWN.node
        self.changes_at = ""
        self.silent = False

    def _hear(self, call: str) -> None:
        if call == self.changes_at:
            self.node = OTHER
        super()._hear(call)

    async def node_key(self) -> bytes:
        """Whose node answers now."""
        if self.silent:
            raise LightningUnavailableError("down")
        return self.node

    async def info(self) -> Any:  # noqa: ANN401
        """With that key."""
        return msgspec.structs.replace(await super().info(), node=self.node)


def guarded(backend: Changing) -> SameNode:
    """The backend, which has to be the node that it is now."""
    return SameNode(backend, OWN.node, "--lightning lnd")


@pytest.mark.parametrize("name", CALLS)
def test_the_same_node_is_asked_as_if_nobody_stood_between(name: str) -> None:
    """Its answer is the answer."""
    backend = Changing()
    direct = asyncio.run(CALLS[name](Lightning()))
    assert asyncio.run(CALLS[name](guarded(backend))) == direct
    assert backend.asked == [name]


@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_begun_at_another_node(name: str) -> None:
    """It is not even asked; the sentence says which one answers, and which one should."""
    backend = Changing()
    backend.node = OTHER
    with pytest.raises(OtherNodeError) as told:
        asyncio.run(CALLS[name](guarded(backend)))
    assert backend.asked == []
    assert told.value.node == OTHER
    assert f"{OTHER.hex()} in place of {OWN.node.hex()}" in str(told.value)


@pytest.mark.parametrize("error", [None, RejectedError(RejectReason.PAYMENT_FAILED, "no")])
@pytest.mark.parametrize("name", CALLS)
def test_an_answer_during_which_the_node_has_changed_counts_for_nothing(
    name: str, error: RejectedError | None
) -> None:
    """Neither a yes nor a no: whatever it is, it has to be looked up at our own node."""
    backend = Changing(error)
    backend.changes_at = name
    with pytest.raises(IndeterminateError):
        asyncio.run(CALLS[name](guarded(backend)))


@pytest.mark.parametrize("name", CALLS)
def test_a_refusal_of_the_same_node_is_one(name: str) -> None:
    """It is passed on as it is."""
    backend = Changing(RejectedError(RejectReason.PAYMENT_FAILED, "no"))
    with pytest.raises(RejectedError, match="no"):
        asyncio.run(CALLS[name](guarded(backend)))


def test_who_a_backend_is_is_told_of_our_own_node_only() -> None:
    """The height of another one would be believed like its look-ups."""
    backend = Changing()
    one = guarded(backend)
    assert asyncio.run(one.info()).node == OWN.node
    backend.node = OTHER
    with pytest.raises(OtherNodeError):
        asyncio.run(one.info())


@pytest.mark.parametrize("trouble", ["other", "silent"])
def test_a_watch_tells_what_our_own_node_says(
    trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A word of another node, or of one that cannot be told from it, is asked for again."""
    monkeypatch.setattr("zmqex.adapters.lightning.same_node.REATTACH_WAIT_S", 0)
    backend = Changing()
    backend.changes = [InvoiceInfo("open"), InvoiceInfo("settled", 7)]

    def change(*, back: bool) -> None:
        backend.node = OWN.node if back or trouble != "other" else OTHER
        backend.silent = not back and trouble == "silent"

    async def story() -> list[InvoiceState]:
        told: list[InvoiceState] = []
        change(back=False)
        asyncio.get_running_loop().call_later(0.05, lambda: change(back=True))
        async with asyncio.timeout(5), aclosing(guarded(backend).watch(HASH)) as seen:
            async for info in seen:
                assert (backend.node, backend.silent) == (OWN.node, False)
                told.append(info.state)
        return told

    assert asyncio.run(story()) == ["open", "settled"]


def test_a_watch_that_ends_too_early_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only an end of the invoice ends it."""
    monkeypatch.setattr("zmqex.adapters.lightning.same_node.REATTACH_WAIT_S", 0)
    backend = Changing()
    turns = iter([[InvoiceInfo("open")], [InvoiceInfo("open"), InvoiceInfo("canceled")]])

    async def watch(_payment_hash: bytes) -> AsyncGenerator[InvoiceInfo, None]:
        for info in next(turns):
            yield info

    backend.watch = watch  # type: ignore[assignment,method-assign]

    async def story() -> list[InvoiceState]:
        async with asyncio.timeout(5), aclosing(guarded(backend).watch(HASH)) as seen:
            return [info.state async for info in seen]

    assert asyncio.run(story()) == ["open", "open", "canceled"]


def test_the_kernel_hears_that_another_node_answers_and_that_ours_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once each; of another one no height is told, and of silence nothing."""
    monkeypatch.setattr("zmqex.runtime.outside.HEIGHT_EVERY_S", 0)
    backend, events = Changing(), list[happened.Event]()

    async def turns() -> None:
        for _ in range(12):
            await asyncio.sleep(0)

    async def story() -> None:
        async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
            calls = LightningCalls(guarded(backend), events.append, lambda _work: None)
            task = tasks.create_task(calls.follow_backend())
            await turns()
            backend.node, backend.height = OTHER, 200
            await turns()
            backend.node, backend._error = OWN.node, LightningUnavailableError("down")
            await turns()
            backend._error, backend.height = None, 101
            await turns()
            task.cancel()

    asyncio.run(story())
    assert events == [
        happened.HeightSeen(100),
        happened.FundsSeen(1),
        happened.OtherNodeSeen(OTHER),
        happened.OtherNodeSeen(b""),
        happened.HeightSeen(101),
    ]


def test_a_call_to_another_node_fails_as_one_that_has_not_happened() -> None:
    """The kernel need not know more to wait."""
    backend, events = Changing(), list[happened.Event]()
    backend.node = OTHER
    calls = LightningCalls(guarded(backend), events.append, lambda _work: None)
    asyncio.run(calls.carry_out(out.LookupPayment(TRADE, HASH)))
    (event,) = events
    assert isinstance(event, happened.LightningFailed)
    assert (event.reason, event.indeterminate) == (RejectReason.LIGHTNING_UNAVAILABLE, False)
