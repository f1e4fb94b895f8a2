"""Play money is conserved over any history of payments, losses, cancels, waits and crashes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.ledgers import NAMES, TOTAL_MSAT, Ledgers, Loss, Moment, pay
from zmqex.errors import RejectedError, StorageError
from zmqex.limits import BLOCK_MS, PLAY_BALANCE_MSAT

T = TypeVar("T")
SIDES = st.sampled_from(NAMES)
LOSSES = st.sampled_from(["", "", "question", "answer"])
CRASHES = st.none() | st.tuples(SIDES, st.sampled_from(["before", "after"]), st.integers(1, 2))
CrashPlan = tuple[str, Moment, int] | None


class PlayMoney(RuleBasedStateMachine):
    """Two ledgers, any history."""

    invoices = Bundle("invoices")

    def __init__(self) -> None:
        """Both have what every node starts with."""
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.scene = Ledgers(Path(self.folder.name))
        self.payments: dict[bytes, tuple[str, str]] = {}  # hash: payer, payee
        self.made = 0

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something on the loop."""
        return self.runner.run(work)

    @rule(target=invoices, payee=SIDES, share=st.integers(1, 12), expiry_s=st.integers(1, 60))
    def create(self, payee: str, share: int, expiry_s: int) -> tuple[str, bytes, str]:
        """An invoice for a part of a balance, or for more than that."""
        self.made += 1
        preimage = self.made.to_bytes(32)
        amount_msat = PLAY_BALANCE_MSAT * share // 10
        ledger = self.scene.ledgers[payee]
        texts = {
            self.do(
                ledger.create_invoice(
                    preimage, amount_msat=amount_msat, memo="x", expiry_s=expiry_s
                )
            )
            for _ in range(2)
        }
        (text,) = texts
        return payee, preimage, text

    @rule(target=invoices, payee=SIDES, share=st.integers(1, 12), blocks=st.integers(19, 40))
    def create_held(self, payee: str, share: int, blocks: int) -> tuple[str, bytes, str]:
        """The same, but its payment is held."""
        self.made += 1
        preimage = self.made.to_bytes(32)
        work = self.scene.ledgers[payee].create_hold_invoice(
            hashlib.sha256(preimage).digest(),
            amount_msat=PLAY_BALANCE_MSAT * share // 10,
            memo="x",
            expiry_s=60,
            min_final_cltv=blocks,
        )
        return payee, preimage, self.do(work)

    @rule(one=invoices, crash=CRASHES)
    def settle(self, one: tuple[str, bytes, str], crash: CrashPlan) -> None:
        """The payee has the preimage, and takes what it holds."""
        payee, preimage, _ = one
        self.attempt(self.scene.ledgers[payee].settle(preimage), "", crash)

    @rule(blocks=st.integers(1, 20))
    def mine(self, blocks: int) -> None:
        """Locks end."""
        self.scene.now_ms += blocks * BLOCK_MS

    @rule(one=invoices, loss=LOSSES, crash=CRASHES)
    def pay(self, one: tuple[str, bytes, str], loss: Loss, crash: CrashPlan) -> None:
        """The other side pays, once more or for the first time."""
        payee, preimage, text = one
        payer = next(name for name in NAMES if name != payee)
        self.payments[hashlib.sha256(preimage).digest()] = (payer, payee)
        self.attempt(pay(self.scene.ledgers[payer], text), loss, crash)

    @rule(loss=LOSSES, crash=CRASHES, choice=st.randoms(use_true_random=False))
    @precondition(lambda self: self.payments)
    def look(self, loss: Loss, crash: CrashPlan, choice: Any) -> None:  # noqa: ANN401
        """Look a payment up, which asks the payee again."""
        key = choice.choice(sorted(self.payments))
        payer, _ = self.payments[key]
        self.attempt(self.scene.ledgers[payer].payment(key), loss, crash)

    @rule(one=invoices, crash=CRASHES)
    def cancel(self, one: tuple[str, bytes, str], crash: CrashPlan) -> None:
        """The payee gives an invoice up."""
        payee, preimage, _ = one
        key = hashlib.sha256(preimage).digest()
        self.attempt(self.scene.ledgers[payee].cancel(key), "", crash)

    @rule(seconds=st.integers(1, 40))
    def wait(self, seconds: int) -> None:
        """Invoices end."""
        self.scene.now_ms += seconds * 1_000

    @rule(name=SIDES)
    def restart(self, name: str) -> None:
        """A clean end and a new start."""
        self.do(self.scene.reopen(name))

    def attempt(self, work: Coroutine[Any, Any, Any], loss: Loss, crash: CrashPlan) -> None:
        """Do something that may be refused or end a process; who is dead starts again."""
        scene = self.scene
        scene.wire.loss = loss
        if crash is not None:
            name, moment, offset = crash
            scene.crash_at[name] = (moment, scene.commits[name] + offset)
        with contextlib.suppress(RejectedError, StorageError):
            self.do(work)
        scene.wire.loss = ""
        if crash is not None:
            for name in NAMES:
                self.do(scene.reopen(name))

    @invariant()
    def no_money_is_made(self) -> None:
        """Balances and what is in flight and not credited yet: always the same sum."""
        total = sum(self.do(self.scene.balances()).values())
        assert total <= TOTAL_MSAT
        credited = 0
        for key, (_payer, payee) in self.payments.items():
            credited += self.do(self.uncounted(key, payee))
        assert total + self.do(self.scene.in_flight()) - credited == TOTAL_MSAT

    async def uncounted(self, key: bytes, payee: str) -> int:
        """What the payee has credited although the payer still counts it as in flight."""
        payer, _ = self.payments[key]
        info = await self.scene.ledgers[payee].invoice(key)
        if info.state == "accepted":
            return 0
        self.scene.wire.loss = "question"
        flying = (await self.scene.ledgers[payer].payment(key)).state == "in_flight"
        self.scene.wire.loss = ""
        return info.received_msat if flying else 0

    def teardown(self) -> None:
        """Every payment comes to an end, and then the balances alone are the sum."""
        try:
            self.scene.now_ms += 1_000 * BLOCK_MS
            for key, (payer, payee) in self.payments.items():
                paid = self.do(self.scene.ledgers[payer].payment(key)).state
                state = self.do(self.scene.ledgers[payee].invoice(key)).state
                assert paid != "in_flight"
                assert (paid == "succeeded") == (state == "settled")
            assert sum(self.do(self.scene.balances()).values()) == TOTAL_MSAT
        finally:
            self.do(self.scene.close())
            self.runner.close()
            self.folder.cleanup()


def test_play_money_is_conserved() -> None:
    """Any history; at its end each payment is either settled on both sides or on none."""
    run_state_machine_as_test(PlayMoney, settings=settings(max_examples=15, stateful_step_count=15))
