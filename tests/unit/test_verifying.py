"""Signatures are checked off the loop where that pays, and answered in the order of asking."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import Counter
from collections.abc import Sequence

import pytest

from zmqex.kernel.effects import Verify
from zmqex.kernel.events import Verified
from zmqex.protocol.codec import decode_envelope
from zmqex.protocol.identity import IdentityKey, seal
from zmqex.protocol.messages import Envelope
from zmqex.runtime import verifying
from zmqex.runtime.verifying import Item, Verifier, check_all

KEY = IdentityKey(hashlib.sha256(b"verifying").digest())
NETWORK = "play"


def item(number: int, *, good: bool = True) -> Item:
    """A signed envelope, or one that says another kind than was signed."""
    raw = seal(KEY, NETWORK, "batch" if good else "heartbeat", number.to_bytes(4))
    return KEY.public_key, "batch", decode_envelope(raw)


def job(ticket: int, size: int) -> Verify:
    """Every third signature is wrong."""
    return Verify(ticket, tuple(item(one, good=one % 3 != 1) for one in range(size)))


def expected(effect: Verify) -> Verified:
    """What is right, checked one after the other."""
    return Verified(effect.ticket, tuple(number % 3 != 1 for number in range(len(effect.items))))


def _no_streams(*, held: bool) -> None:
    """Nobody streams."""


def test_a_signature_counts_for_its_identity_kind_and_network_only() -> None:
    """And a signature that is too short for one is wrong, not a fault."""
    identity, kind, envelope = item(1)
    other = IdentityKey(bytes(32)).public_key
    assert check_all(NETWORK, [(identity, kind, envelope)]) == [True]
    assert check_all("signet", [(identity, kind, envelope)]) == [False]
    short = Envelope(envelope.body, envelope.signature[:-1])
    wrong = [(identity, "heartbeat", envelope), (other, kind, envelope), (identity, kind, short)]
    assert check_all(NETWORK, wrong) == [False] * 3


def test_answers_come_in_the_order_of_asking() -> None:
    """A small job behind a large one waits for it; nothing is lost and nothing comes twice.

    No stream is read until the last one has been answered.
    """
    jobs = [job(number, size) for number, size in enumerate((200, 1, 0, 40, 5, 4, 30, 2))]
    answers: list[Verified] = []
    holding = False
    asked = 0

    def hold(*, held: bool) -> None:
        nonlocal holding
        holding = held
        assert held or len(answers) == asked

    async def run() -> None:
        nonlocal asked
        done = asyncio.Event()

        def post(answer: Verified) -> None:
            answers.append(answer)
            if len(answers) == len(jobs):
                done.set()

        verifier = Verifier(NETWORK, post, hold)
        for asked, effect in enumerate(jobs, start=1):
            verifier.submit(effect)
            assert holding or len(answers) == asked  # on a busy machine the threads may be first
        async with asyncio.timeout(10):
            await done.wait()
        verifier.close()

    asyncio.run(run())
    assert answers == [expected(effect) for effect in jobs]
    assert not holding


def test_a_small_job_is_answered_at_once() -> None:
    """Without a thread, where nothing waits before it."""
    answers: list[Verified] = []
    verifier = Verifier(NETWORK, answers.append, _no_streams)
    verifier.submit(job(7, 4))
    verifier.close()
    assert answers == [expected(job(7, 4))]


@pytest.mark.parametrize(("size", "here"), [(4, 4), (5, 3), (30, 16), (31, 16), (32, 0)])
def test_the_loop_checks_a_part_itself_where_that_is_soon_done(
    size: int, here: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of a small job and half of a middling one; none where it would keep others waiting."""
    by_thread: Counter[bool] = Counter()

    def counting(network: str, items: Sequence[Item]) -> list[bool]:
        by_thread[threading.current_thread() is threading.main_thread()] += len(items)
        return check_all(network, items)

    monkeypatch.setattr(verifying, "check_all", counting)

    async def run() -> Verified:
        answer: asyncio.Future[Verified] = asyncio.get_running_loop().create_future()
        verifier = Verifier(NETWORK, answer.set_result, _no_streams)
        verifier.submit(job(1, size))
        async with asyncio.timeout(10):
            await answer
        verifier.close()
        return answer.result()

    assert asyncio.run(run()) == expected(job(1, size))
    assert (by_thread[True], by_thread[False]) == (here, size - here)


def test_a_verifier_that_is_closed_amid_its_work_answers_no_more() -> None:
    """The loop ends without a fault."""

    async def run() -> list[Verified]:
        answers: list[Verified] = []
        verifier = Verifier(NETWORK, answers.append, _no_streams)
        for number in range(4):
            verifier.submit(job(number, 300))
        verifier.close()
        for _ in range(10):
            await asyncio.sleep(0)
        return answers

    answers = asyncio.run(run())
    assert [one.ticket for one in answers] == list(range(len(answers)))
