"""Play money on disk: nothing is paid twice, lost or made, whatever crashes or is not answered."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.ledgers import TOTAL_MSAT, Ledgers, Loss, Moment, pay, write_old_ledger
from zmqex.adapters.lightning.play import PlayLightning
from zmqex.bolt11 import Draft, InvoiceNetwork, decode, encode
from zmqex.errors import RejectedError, StorageError
from zmqex.limits import CLTV_LIMIT_BLOCKS, PLAY_BALANCE_MSAT

PREIMAGE = b"p" * 32
HASH = hashlib.sha256(PREIMAGE).digest()
AMOUNT = 5_000_000
Story = Callable[[Ledgers], Awaitable[None]]


def play(root: Path, story: Story) -> None:
    """Run a story with two ledgers, and check that no money was lost or made."""

    async def run() -> None:
        scene = Ledgers(root)
        try:
            await story(scene)
            assert sum((await scene.balances()).values()) + await scene.in_flight() == TOTAL_MSAT
        finally:
            await scene.close()

    asyncio.run(run())


async def invoice_of(scene: Ledgers, **terms: Any) -> str:  # noqa: ANN401
    """Alice's invoice."""
    fields = {"amount_msat": AMOUNT, "memo": "x", "expiry_s": 900, **terms}
    return await scene.ledgers["alice"].create_invoice(PREIMAGE, **fields)


def test_a_payment_moves_the_amount_and_reveals_the_preimage(tmp_path: Path) -> None:
    """Paying again pays nothing."""

    async def story(scene: Ledgers) -> None:
        text = await invoice_of(scene)
        bob = scene.ledgers["bob"]
        info = await bob.pay(text, fee_limit_msat=0, cltv_limit=CLTV_LIMIT_BLOCKS)
        assert (info.state, info.preimage) == ("succeeded", PREIMAGE)
        assert await scene.balances() == {
            "alice": PLAY_BALANCE_MSAT + AMOUNT,
            "bob": PLAY_BALANCE_MSAT - AMOUNT,
        }
        assert await pay(bob, text) == "succeeded"
        assert scene.wire.carried == 1
        seen = await scene.ledgers["alice"].invoice(HASH)
        assert (seen.state, seen.received_msat) == ("settled", AMOUNT)

    play(tmp_path, story)


def test_the_invoice_is_real_and_the_same_again(tmp_path: Path) -> None:
    """Signed by the node, for regtest, and unchanged after a restart and another second."""

    async def story(scene: Ledgers) -> None:
        text = await invoice_of(scene)
        invoice = decode(text)
        assert text.startswith("lnbcrt")
        assert (invoice.payee, invoice.payment_hash) == (scene.ledgers["alice"].node, HASH)
        assert invoice.amount_msat == AMOUNT
        node = scene.ledgers["alice"].node
        scene.now_ms += 5_000
        alice = await scene.reopen("alice")
        assert alice.node == node
        assert await invoice_of(scene) == text

    play(tmp_path, story)


def test_what_is_not_known_is_said_so(tmp_path: Path) -> None:
    """An invoice and a payment that never were."""

    async def story(scene: Ledgers) -> None:
        alice = scene.ledgers["alice"]
        assert (await alice.invoice(HASH)).state == "unknown"
        assert (await alice.payment(HASH)).state == "none"
        await alice.cancel(HASH)
        assert (await alice.receive(HASH, amount_msat=1, payer_node=b"")) == (
            None,
            "wrong_payment_hash",
        )
        with pytest.raises(RejectedError):
            await alice.create_invoice(PREIMAGE, amount_msat=0, memo="x", expiry_s=1)

    play(tmp_path, story)


@pytest.mark.parametrize("loss", ["question", "answer"])
@pytest.mark.parametrize("restarts", [False, True])
def test_a_lost_word_keeps_the_payment_in_flight(
    tmp_path: Path, loss: Loss, *, restarts: bool
) -> None:
    """Asking again ends it, also by a new process; the amount is set aside meanwhile."""

    async def story(scene: Ledgers) -> None:
        text = await invoice_of(scene)
        scene.wire.loss = loss
        assert await pay(scene.ledgers["bob"], text) == "in_flight"
        info = await scene.ledgers["bob"].info()
        assert (info.balance_msat, info.in_flight_msat) == (PLAY_BALANCE_MSAT - AMOUNT, AMOUNT)
        if restarts:
            await scene.reopen("bob")
            await scene.reopen("alice")
        assert (await scene.ledgers["bob"].payment(HASH)).state == "in_flight"
        scene.wire.loss = ""
        if loss == "answer":
            # Alice has credited herself already: only now is the sum right again.
            assert (await scene.ledgers["alice"].invoice(HASH)).state == "settled"
        assert (await scene.ledgers["bob"].payment(HASH)).state == "succeeded"
        assert await scene.in_flight() == 0
        assert (await scene.ledgers["alice"].info()).balance_msat == PLAY_BALANCE_MSAT + AMOUNT

    play(tmp_path, story)


def test_each_asset_has_a_ledger_of_its_own(tmp_path: Path) -> None:
    """The key is the same; an invoice of one is unknown to the other."""

    async def story(scene: Ledgers) -> None:
        alice = scene.ledgers["alice"]
        other = PlayLightning(tmp_path / "alice", asset="USD")
        try:
            await invoice_of(scene)
            assert other.node == alice.node
            assert (await other.invoice(HASH)).state == "unknown"
            assert (await other.info()).balance_msat == PLAY_BALANCE_MSAT
            assert (tmp_path / "alice" / "play-usd.sqlite3").exists()
        finally:
            await other.close()

    play(tmp_path, story)


def test_without_a_wire_a_payment_waits(tmp_path: Path) -> None:
    """Before the node is connected to its kernel."""

    async def story(scene: Ledgers) -> None:
        text = await invoice_of(scene)
        await scene.ledgers["bob"].close()
        lonely = PlayLightning(tmp_path / "bob", clock_ms=lambda: scene.now_ms)
        scene.ledgers["bob"] = lonely
        assert await pay(lonely, text) == "in_flight"
        lonely.connect(scene.wire)
        assert (await lonely.payment(HASH)).state == "succeeded"

    play(tmp_path, story)


def test_a_wrong_preimage_never_ends_a_payment(tmp_path: Path) -> None:
    """It proves nothing, and the payee may have credited itself."""

    async def story(scene: Ledgers) -> None:
        text = await invoice_of(scene)
        scene.wire.forged = b"x" * 32
        assert await pay(scene.ledgers["bob"], text) == "in_flight"
        scene.wire.forged = None
        assert (await scene.ledgers["bob"].payment(HASH)).state == "succeeded"

    play(tmp_path, story)


def test_an_invoice_is_paid_by_one_payer_only(tmp_path: Path) -> None:
    """A second payer, another amount and a late payment get no preimage and no money moves."""

    async def story(scene: Ledgers) -> None:
        await invoice_of(scene)
        alice, bob = scene.ledgers["alice"], scene.ledgers["bob"]
        wrong = await alice.receive(HASH, amount_msat=AMOUNT + 1, payer_node=bob.node)
        assert wrong == (None, "wrong_invoice_amount")
        first = await alice.receive(HASH, amount_msat=AMOUNT, payer_node=bob.node)
        assert first == (PREIMAGE, "")
        assert await alice.receive(HASH, amount_msat=AMOUNT, payer_node=bob.node) == first
        second = await alice.receive(HASH, amount_msat=AMOUNT, payer_node=b"x" * 33)
        assert second == (None, "already_paid")
        other = await alice.receive(HASH, amount_msat=AMOUNT - 1, payer_node=bob.node)
        assert other == (None, "already_paid")
        assert (await alice.info()).balance_msat == PLAY_BALANCE_MSAT + AMOUNT
        # Bob's own side of it, so that the sum is right at the end.
        assert await pay(bob, await invoice_of(scene)) == "succeeded"

    play(tmp_path, story)


@pytest.mark.parametrize("late_ms", [900_000, 10**9])
def test_a_late_payment_fails_and_is_given_back(tmp_path: Path, late_ms: int) -> None:
    """At the end of its life an invoice is cancelled for good; in flight becomes failed."""

    async def story(scene: Ledgers) -> None:
        text = await invoice_of(scene)
        scene.wire.loss = "question"
        assert await pay(scene.ledgers["bob"], text) == "in_flight"
        scene.wire.loss = ""
        scene.now_ms += late_ms
        info = await scene.ledgers["bob"].payment(HASH)
        assert (info.state, info.reason) == ("failed", "invoice_expired")
        assert (await scene.ledgers["alice"].invoice(HASH)).state == "canceled"
        assert set((await scene.balances()).values()) == {PLAY_BALANCE_MSAT}
        with pytest.raises(RejectedError) as error:
            await pay(scene.ledgers["bob"], text)
        assert error.value.reason == "invoice_expired"

    play(tmp_path, story)


def test_an_invoice_can_be_paid_until_its_last_millisecond(tmp_path: Path) -> None:
    """The payee's clock decides."""

    async def story(scene: Ledgers) -> None:
        text = await invoice_of(scene)
        scene.now_ms += 899_999
        assert await pay(scene.ledgers["bob"], text) == "succeeded"

    play(tmp_path, story)


def test_a_cancelled_invoice_is_not_paid_and_a_paid_one_not_cancelled(tmp_path: Path) -> None:
    """Whatever comes first; a cancel may be repeated."""

    async def story(scene: Ledgers) -> None:
        alice, bob = scene.ledgers["alice"], scene.ledgers["bob"]
        text = await invoice_of(scene)
        await alice.cancel(HASH)
        await alice.cancel(HASH)
        assert await pay(bob, text) == "failed"
        # A failed payment may be tried again; it fails again and gives everything back.
        assert await pay(bob, text) == "failed"
        other = await alice.create_invoice(b"q" * 32, amount_msat=7_000, memo="y", expiry_s=60)
        assert await pay(bob, other) == "succeeded"
        with pytest.raises(RejectedError) as error:
            await alice.cancel(hashlib.sha256(b"q" * 32).digest())
        assert error.value.reason == "already_paid"

    play(tmp_path, story)


def test_cancel_and_pay_at_the_same_time_end_in_one_of_both(tmp_path: Path) -> None:
    """Never paid and cancelled, never neither."""

    async def story(scene: Ledgers) -> None:
        alice, bob = scene.ledgers["alice"], scene.ledgers["bob"]
        for number in range(20):
            preimage = bytes([number]) * 32
            text = await alice.create_invoice(preimage, amount_msat=1_000, memo="", expiry_s=60)
            key = hashlib.sha256(preimage).digest()
            calls = [pay(bob, text), alice.cancel(key)]
            if number % 2:
                calls.reverse()
            ended = await asyncio.gather(*calls, return_exceptions=True)
            state = (await alice.invoice(key)).state
            paid = (await bob.payment(key)).state
            assert (state, paid) in {("settled", "succeeded"), ("canceled", "failed")}
            assert any(isinstance(one, RejectedError) for one in ended) == (state == "settled")

    play(tmp_path, story)


def test_the_same_invoice_paid_many_times_at_once_is_paid_once(tmp_path: Path) -> None:
    """All callers hear the same end."""

    async def story(scene: Ledgers) -> None:
        text = await invoice_of(scene)
        bob = scene.ledgers["bob"]
        assert set(await asyncio.gather(*(pay(bob, text) for _ in range(20)))) == {"succeeded"}
        assert (await bob.info()).balance_msat == PLAY_BALANCE_MSAT - AMOUNT

    play(tmp_path, story)


def test_nobody_spends_what_it_does_not_have(tmp_path: Path) -> None:
    """The whole balance can be paid, one thousandth of a satoshi more cannot."""

    async def story(scene: Ledgers) -> None:
        bob = scene.ledgers["bob"]
        text = await invoice_of(scene, amount_msat=PLAY_BALANCE_MSAT + 1)
        with pytest.raises(RejectedError) as error:
            await pay(bob, text)
        assert error.value.reason == "insufficient_balance"
        assert (await bob.payment(HASH)).state == "none"
        alice = scene.ledgers["alice"]
        all_of_it = await alice.create_invoice(
            b"q" * 32, amount_msat=PLAY_BALANCE_MSAT, memo="", expiry_s=60
        )
        assert await pay(bob, all_of_it) == "succeeded"
        assert (await bob.info()).balance_msat == 0

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("invalid_invoice", None),
        ("wrong_invoice_network", {"network": InvoiceNetwork.MAINNET}),
        ("wrong_invoice_amount", {"amount_msat": None}),
        ("cltv_too_long", {"min_final_cltv": CLTV_LIMIT_BLOCKS + 1}),
        ("invoice_expired", {"timestamp_s": 1_700_000_000}),
    ],
)
def test_an_invoice_that_must_not_be_paid_is_refused(
    tmp_path: Path, reason: str, changes: dict[str, Any] | None
) -> None:
    """Before anything is set aside."""

    async def story(scene: Ledgers) -> None:
        terms: dict[str, Any] = {
            "network": InvoiceNetwork.REGTEST,
            "timestamp_s": scene.now_ms // 1_000,
            "payment_hash": HASH,
            "payment_secret": bytes(32),
            "amount_msat": 1_000,
            "description": "",
            **(changes or {}),
        }
        text = "lnbcrt1nonsense" if changes is None else encode(Draft(**terms), b"k" * 32)
        with pytest.raises(RejectedError) as error:
            await pay(scene.ledgers["bob"], text)
        assert error.value.reason == reason
        assert await scene.in_flight() == 0

    play(tmp_path, story)


def test_a_node_does_not_pay_itself(tmp_path: Path) -> None:
    """And a fee limit below nothing is refused."""

    async def story(scene: Ledgers) -> None:
        text = await invoice_of(scene)
        with pytest.raises(RejectedError) as error:
            await pay(scene.ledgers["alice"], text)
        assert error.value.reason == "wrong_payee"
        with pytest.raises(RejectedError):
            await scene.ledgers["bob"].pay(text, fee_limit_msat=-1, cltv_limit=432)

    play(tmp_path, story)


@pytest.mark.parametrize("who", ["alice", "bob"])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("offset", [1, 2])
def test_money_is_conserved_over_a_crash_at_any_commit(
    tmp_path: Path, who: str, moment: Moment, offset: int
) -> None:
    """Payer or payee dies around a commit of a payment; asked again, it ends, once."""

    async def story(scene: Ledgers) -> None:
        text = await invoice_of(scene)
        scene.crash_at[who] = (moment, scene.commits[who] + offset)
        try:
            await pay(scene.ledgers["bob"], text)
        except StorageError:
            assert who == "bob"
        await scene.reopen("alice")
        bob = await scene.reopen("bob")
        if (await bob.payment(HASH)).state == "none":
            assert (who, moment, offset) == ("bob", "before", 1)
            assert set((await scene.balances()).values()) == {PLAY_BALANCE_MSAT}
        assert await pay(bob, text) == "succeeded"
        assert await scene.balances() == {
            "alice": PLAY_BALANCE_MSAT + AMOUNT,
            "bob": PLAY_BALANCE_MSAT - AMOUNT,
        }

    play(tmp_path, story)


def test_a_call_that_nobody_waits_for_any_more_is_carried_out(tmp_path: Path) -> None:
    """Its caller was cancelled; what it wrote stays, and later calls are answered."""

    async def story(scene: Ledgers) -> None:
        alice = scene.ledgers["alice"]
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(invoice_of(scene))
            await asyncio.sleep(0)
            task.cancel()
        assert task.cancelled()
        assert (await alice.invoice(HASH)).state == "open"

    play(tmp_path, story)


@pytest.mark.parametrize("first", [False, True])
def test_a_ledger_that_cannot_write_says_so(tmp_path: Path, *, first: bool) -> None:
    """Every later call gets the fault; an invoice that is not waited for cannot be paid."""

    async def story(scene: Ledgers) -> None:
        scene.crash_at["alice"] = ("before", scene.commits["alice"] + 1)
        with nullcontext() if first else pytest.raises(StorageError):
            await invoice_of(scene, first=first)
        with pytest.raises(StorageError):
            await scene.ledgers["alice"].invoice(HASH)
        alice = await scene.reopen("alice")
        assert (await alice.invoice(HASH)).state == "unknown"

    play(tmp_path, story)


def test_a_ledger_of_before_holds_is_carried_over(tmp_path: Path) -> None:
    """Its invoices can be paid as before, its payments are where they were."""
    old_place, place = tmp_path / "old", tmp_path / "alice"
    old_place.mkdir(mode=0o700)
    place.mkdir(mode=0o700)
    terms: dict[str, Any] = {"amount_msat": AMOUNT, "memo": "x", "expiry_s": 900}

    async def story() -> None:
        one = PlayLightning(old_place)
        text = await one.create_invoice(PREIMAGE, **terms)
        await one.close()
        write_old_ledger(place, PREIMAGE, AMOUNT, text)
        alice = PlayLightning(place, clock_ms=lambda: 1_800_000_000_000)
        assert (await alice.invoice(HASH)).state == "open"
        assert await alice.create_invoice(PREIMAGE, **terms) == text
        paid = await alice.receive(HASH, amount_msat=AMOUNT, payer_node=b"b" * 33)
        assert paid == (PREIMAGE, "")
        assert (await alice.info()).balance_msat == PLAY_BALANCE_MSAT + AMOUNT
        await alice.close()

    asyncio.run(story())


@pytest.mark.parametrize("who", ["alice", "bob"])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", ["pay", "settle", "cancel"])
def test_a_held_payment_is_conserved_over_a_crash_at_each_step(
    tmp_path: Path, who: str, moment: Moment, step: str
) -> None:
    """Accepting, settling and giving back happen whole or not at all; asked again, they end."""

    async def story(scene: Ledgers) -> None:
        terms: dict[str, Any] = {
            "amount_msat": AMOUNT,
            "memo": "x",
            "expiry_s": 900,
            "min_final_cltv": 60,
        }
        text = await scene.ledgers["alice"].create_hold_invoice(HASH, **terms)
        if step != "pay":
            assert await pay(scene.ledgers["bob"], text) == "in_flight"
        scene.crash_at[who] = (moment, scene.commits[who] + 1)
        with contextlib.suppress(StorageError):
            if step == "pay":
                await pay(scene.ledgers["bob"], text)
            elif step == "settle":
                await scene.ledgers["alice"].settle(PREIMAGE)
            else:
                await scene.ledgers["alice"].cancel(HASH)
            await scene.ledgers["bob"].payment(HASH)
        alice, bob = await scene.reopen("alice"), await scene.reopen("bob")
        if step == "pay":
            assert await pay(bob, text) == "in_flight"
        if step == "cancel":
            await alice.cancel(HASH)
        else:
            await alice.settle(PREIMAGE)
        ended = (await bob.payment(HASH)).state
        assert ended == ("failed" if step == "cancel" else "succeeded")

    play(tmp_path, story)


def test_a_held_payment_belongs_to_its_payer(tmp_path: Path) -> None:
    """A second payer, and the same one with another amount, are refused."""

    async def story(scene: Ledgers) -> None:
        alice, bob = scene.ledgers["alice"], scene.ledgers["bob"]
        terms: dict[str, Any] = {
            "amount_msat": AMOUNT,
            "memo": "x",
            "expiry_s": 900,
            "min_final_cltv": 60,
        }
        text = await alice.create_hold_invoice(HASH, **terms)
        assert await pay(bob, text) == "in_flight"
        for amount_msat, payer in [(AMOUNT, b"x" * 33), (AMOUNT + 1, bob.node)]:
            refused = await alice.receive(HASH, amount_msat=amount_msat, payer_node=payer)
            assert refused == (None, "already_paid")
        assert await alice.receive(HASH, amount_msat=AMOUNT, payer_node=bob.node) == (None, "")

    play(tmp_path, story)
