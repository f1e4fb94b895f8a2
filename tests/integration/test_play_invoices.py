"""Invoices of the play backend that are given out before its ledger has them."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_play_lightning import AMOUNT, play
from tests.ledgers import Ledgers, pay
from zmqex.errors import StorageError


def test_invoices_that_are_given_out_first_are_written_together(tmp_path: Path) -> None:
    """A moment later, or before whatever is asked meanwhile, or when it is closed."""
    terms: dict[str, Any] = {"amount_msat": AMOUNT, "memo": "x", "expiry_s": 900, "first": True}

    async def story(scene: Ledgers) -> None:
        alice = scene.ledgers["alice"]
        before = scene.commits["alice"]
        preimages = [bytes([number]) * 32 for number in range(4)]
        texts = [await alice.create_invoice(one, **terms) for one in preimages[:3]]
        assert scene.commits["alice"] == before
        async with asyncio.timeout(5):
            while scene.commits["alice"] == before:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.001)
        assert scene.commits["alice"] == before + 1
        assert [await pay(scene.ledgers["bob"], one) for one in texts] == ["succeeded"] * 3
        await alice.create_invoice(preimages[3], **terms)
        seen = hashlib.sha256(preimages[3]).digest()
        assert (await alice.invoice(seen)).state == "open"
        await alice.create_invoice(b"z" * 32, **terms)
        alice = await scene.reopen("alice")
        assert (await alice.invoice(hashlib.sha256(b"z" * 32).digest())).state == "open"

    play(tmp_path, story)


def test_no_invoice_is_given_out_that_the_ledger_cannot_write(tmp_path: Path) -> None:
    """Once a commit has failed, whoever takes is refused, and not told what nobody could pay."""
    terms: dict[str, Any] = {"amount_msat": AMOUNT, "memo": "x", "expiry_s": 900, "first": True}

    async def story(scene: Ledgers) -> None:
        alice = scene.ledgers["alice"]
        scene.crash_at["alice"] = ("before", scene.commits["alice"] + 1)
        await alice.create_invoice(b"a" * 32, **terms)
        with pytest.raises(StorageError):
            await alice.invoice(hashlib.sha256(b"a" * 32).digest())
        with pytest.raises(StorageError):
            await alice.create_invoice(b"b" * 32, **terms)
        await scene.reopen("alice")

    play(tmp_path, story)
