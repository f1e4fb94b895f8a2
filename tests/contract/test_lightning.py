"""One suite for every Lightning backend, through the port alone.

A payer and a payee; nothing but what they say counts.  `lightning_pairs` opens them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.contract import lightning_pairs as pairs
from tests.contract.lightning_pairs import Pair, hash_of, pay, until_paid, until_seen
from tests.ldk import LdkNodes
from zmqex.bolt11 import Draft, InvoiceNetwork, decode, encode
from zmqex.errors import RejectedError
from zmqex.limits import CLTV_LIMIT_BLOCKS, MIN_FINAL_CLTV_BLOCKS_MAX

AMOUNT_MSAT = 1_234_567
CLTV_BLOCKS = 60
KINDS = ("play", "lnd_fake", "same_node", "ldk", "cln_fake")
Story = Callable[[Pair], Awaitable[None]]
Play = Callable[[Story], None]


@pytest.fixture(scope="module")
def ldk_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LdkNodes]:
    """Two real nodes for the whole file."""
    nodes = LdkNodes(tmp_path_factory.mktemp("ldk"))
    yield nodes
    nodes.stop()


@pytest.fixture(params=KINDS)
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    """Run a story with a pair of the backend."""
    if request.param == "ldk":
        nodes = request.getfixturevalue("ldk_nodes")

    def open_pair() -> AbstractAsyncContextManager[Pair]:
        match request.param:
            case "ldk":
                return pairs.ldk_pair(nodes)
            case "cln_fake":
                return pairs.cln_pair()
            case "lnd_fake":
                return pairs.lnd_pair(tmp_path)
            case "same_node":
                return pairs.same_node_pair(tmp_path)
            case _:
                return pairs.play_pair(tmp_path)

    def run(story: Story) -> None:
        async def within() -> None:
            async with asyncio.timeout(30), open_pair() as pair:
                await story(pair)

        asyncio.run(within())

    return run


async def invoice_of(
    pair: Pair, preimage: bytes, *, amount_msat: int = AMOUNT_MSAT, first: bool = False
) -> str:
    """The payee's invoice."""
    return await pair.payee.create_invoice(
        preimage, amount_msat=amount_msat, memo="a memo", expiry_s=900, first=first
    )


async def hold_invoice_of(pair: Pair, payment_hash: bytes, *, expiry_s: int = 900) -> str:
    """The payee's invoice whose payment is held."""
    return await pair.payee.create_hold_invoice(
        payment_hash,
        amount_msat=AMOUNT_MSAT,
        memo="a memo",
        expiry_s=expiry_s,
        min_final_cltv=CLTV_BLOCKS,
    )


async def held(pair: Pair) -> bytes:
    """Bring a payment to where the payee holds it; the preimage.

    Who pays learns where its lock ends at the earliest, from the answer or from a look-up.
    """
    preimage = secrets.token_bytes(32)
    text = await hold_invoice_of(pair, hash_of(preimage))
    height = (await pair.payer.info()).height
    info = await pay(pair.payer, text)
    assert info.state == "in_flight"
    seen = await until_seen(pair.payee, hash_of(preimage), "accepted")
    looked = await pair.payer.payment(hash_of(preimage))
    told = looked.htlc_expiry_height or info.htlc_expiry_height
    assert told is not None
    assert seen.htlc_expiry_height is not None
    assert height + CLTV_BLOCKS <= told <= seen.htlc_expiry_height
    return preimage


def test_a_backend_says_who_it_is(play: Play) -> None:
    """Node key, network, height and balances."""

    async def story(pair: Pair) -> None:
        one, other = await pair.payer.info(), await pair.payee.info()
        assert one.node != other.node
        assert [await who.node_key() for who in (pair.payer, pair.payee)] == [one.node, other.node]
        assert (len(one.node), one.invoice_prefix, one.can_hold) == (33, "bcrt", True)
        assert one.height == other.height > 0
        assert one.balance_msat > 100 * AMOUNT_MSAT
        assert one.in_flight_msat == 0
        assert 0 < one.auto_cancel_blocks < CLTV_BLOCKS

    play(story)


@pytest.mark.parametrize("hold", [False, True])
def test_an_invoice_says_what_was_asked_for(play: Play, *, hold: bool) -> None:
    """To the millisatoshi, signed by the node; asked for again it is the same."""

    async def story(pair: Pair) -> None:
        preimage = secrets.token_bytes(32)
        payment_hash = hash_of(preimage)
        texts = [
            await (
                hold_invoice_of(pair, payment_hash)
                if hold
                else invoice_of(pair, preimage, first=first)
            )
            for first in (True, False)
        ]
        assert texts[0] == texts[1]
        invoice = decode(texts[0])
        assert invoice.network is InvoiceNetwork.REGTEST
        assert (invoice.payment_hash, invoice.amount_msat) == (payment_hash, AMOUNT_MSAT)
        if pair.chooses_terms or not hold:
            assert (invoice.description, invoice.expiry_s) == ("a memo", 900)
        assert invoice.payee == (await pair.payee.info()).node
        if hold:
            # Some backends add blocks for safety.
            most = CLTV_BLOCKS + 3 if pair.chooses_terms else MIN_FINAL_CLTV_BLOCKS_MAX
            assert CLTV_BLOCKS <= invoice.min_final_cltv <= most
        seen = await pair.payee.invoice(payment_hash)
        assert (seen.state, seen.received_msat) == ("open", 0)
        await pair.payee.cancel(payment_hash)

    play(story)


def test_a_payment_moves_the_amount_and_reveals_the_preimage(play: Play) -> None:
    """Once, however often it is paid."""

    async def story(pair: Pair) -> None:
        before = await pair.payer.info(), await pair.payee.info()
        preimage = secrets.token_bytes(32)
        payment_hash = hash_of(preimage)
        text = await invoice_of(pair, preimage)
        assert (await pair.payer.payment(payment_hash)).state == "none"
        await asyncio.gather(*(pay(pair.payer, text) for _ in range(5)))
        info = await until_paid(pair.payer, payment_hash, "succeeded")
        assert (info.preimage, info.fee_msat) == (preimage, 0)
        assert await pay(pair.payer, text) == info
        seen = await until_seen(pair.payee, payment_hash, "settled")
        assert seen.received_msat == AMOUNT_MSAT
        after = await pair.payer.info(), await pair.payee.info()
        assert after[0].balance_msat <= before[0].balance_msat - AMOUNT_MSAT
        assert after[0].balance_msat > before[0].balance_msat - 2 * AMOUNT_MSAT
        assert after[1].balance_msat > before[1].balance_msat
        assert after[0].in_flight_msat == 0
        with pytest.raises(RejectedError) as refusal:
            await pair.payee.cancel(payment_hash)
        assert refusal.value.reason == "already_paid"

    play(story)


def test_what_never_was_is_said_so(play: Play) -> None:
    """Unknown is no end, and cancelling it is harmless."""

    async def story(pair: Pair) -> None:
        payment_hash = secrets.token_bytes(32)
        assert (await pair.payee.invoice(payment_hash)).state == "unknown"
        assert (await pair.payer.payment(payment_hash)).state == "none"
        await pair.payee.cancel(payment_hash)
        with pytest.raises(RejectedError):
            await pair.payee.settle(secrets.token_bytes(32))

    play(story)


@pytest.mark.parametrize("hold", [False, True])
def test_a_cancelled_invoice_is_never_paid(play: Play, *, hold: bool) -> None:
    """Not even when it is asked for again."""

    async def story(pair: Pair) -> None:
        preimage = secrets.token_bytes(32)
        payment_hash = hash_of(preimage)
        make = hold_invoice_of(pair, payment_hash) if hold else invoice_of(pair, preimage)
        text = await make
        await pair.payee.cancel(payment_hash)
        await pair.payee.cancel(payment_hash)
        assert (await pair.payee.invoice(payment_hash)).state == "canceled"
        again = hold_invoice_of(pair, payment_hash) if hold else invoice_of(pair, preimage)
        try:
            assert await again == text
        except RejectedError:
            assert (await pair.payee.invoice(payment_hash)).state == "canceled"
        await pay(pair.payer, text)
        await until_paid(pair.payer, payment_hash, "failed")
        with pytest.raises(RejectedError):
            await pair.payee.settle(preimage)

    play(story)


def test_a_held_payment_is_locked_until_it_is_settled(play: Play) -> None:
    """The payer cannot spend it, the payee does not have it yet; then it is the payee's."""

    async def story(pair: Pair) -> None:
        before = await pair.payer.info()
        preimage = await held(pair)
        payment_hash = hash_of(preimage)
        seen = await pair.payee.invoice(payment_hash)
        height = (await pair.payee.info()).height
        assert (seen.state, seen.received_msat) == ("accepted", AMOUNT_MSAT)
        assert seen.htlc_expiry_height is not None
        assert CLTV_BLOCKS <= seen.htlc_expiry_height - height <= CLTV_LIMIT_BLOCKS
        flying = await pair.payer.payment(payment_hash)
        assert (flying.state, flying.preimage) == ("in_flight", None)
        during = await pair.payer.info()
        assert during.in_flight_msat == AMOUNT_MSAT
        assert during.balance_msat <= before.balance_msat - AMOUNT_MSAT
        await pair.payee.settle(preimage)
        await pair.payee.settle(preimage)
        info = await until_paid(pair.payer, payment_hash, "succeeded")
        assert info.preimage == preimage
        assert (await until_seen(pair.payee, payment_hash, "settled")).received_msat == AMOUNT_MSAT
        with pytest.raises(RejectedError) as refusal:
            await pair.payee.cancel(payment_hash)
        assert refusal.value.reason == "already_paid"

    play(story)


def test_a_held_payment_that_is_cancelled_goes_back(play: Play) -> None:
    """All of it; it can be neither settled nor paid again."""

    async def story(pair: Pair) -> None:
        before = await pair.payer.info()
        preimage = await held(pair)
        await pair.payee.cancel(hash_of(preimage))
        await until_paid(pair.payer, hash_of(preimage), "failed")
        assert (await pair.payee.invoice(hash_of(preimage))).state == "canceled"
        with pytest.raises(RejectedError) as refusal:
            await pair.payee.settle(preimage)
        assert refusal.value.reason == "wrong_state"
        after = await pair.payer.info()
        assert (after.balance_msat, after.in_flight_msat) == (before.balance_msat, 0)

    play(story)


def test_what_is_not_held_is_not_settled(play: Play) -> None:
    """The preimage of an open invoice stays a secret."""

    async def story(pair: Pair) -> None:
        preimage = secrets.token_bytes(32)
        await hold_invoice_of(pair, hash_of(preimage))
        with pytest.raises(RejectedError) as refusal:
            await pair.payee.settle(preimage)
        assert refusal.value.reason == "wrong_state"
        assert (await pair.payee.invoice(hash_of(preimage))).state == "open"
        await pair.payee.cancel(hash_of(preimage))

    play(story)


@pytest.mark.parametrize("hold", [False, True])
def test_an_invoice_that_another_has_made_is_not_taken_for_ours(play: Play, *, hold: bool) -> None:
    """Strangers choose the hashes: one of an invoice for something else is refused, for good."""

    async def story(pair: Pair) -> None:
        preimage = secrets.token_bytes(32)
        payment_hash = hash_of(preimage)
        if hold:
            await pair.payee.create_hold_invoice(
                payment_hash,
                amount_msat=AMOUNT_MSAT,
                memo="a coffee",
                expiry_s=900,
                min_final_cltv=CLTV_BLOCKS,
            )
        else:
            await pair.payee.create_invoice(
                preimage, amount_msat=AMOUNT_MSAT, memo="a coffee", expiry_s=900
            )
        for _ in range(2):
            with pytest.raises(RejectedError) as refusal:
                await hold_invoice_of(pair, payment_hash)
            assert refusal.value.reason == "wrong_payment_hash"
        assert (await pair.payee.invoice(payment_hash)).state == "open"
        await pair.payee.cancel(payment_hash)

    play(story)


def test_a_watch_tells_every_change_and_ends(play: Play) -> None:
    """Open, accepted, settled; a second watch begins with what is."""

    async def story(pair: Pair) -> None:
        preimage = secrets.token_bytes(32)
        text = await hold_invoice_of(pair, hash_of(preimage))
        states = []
        async for info in pair.payee.watch(hash_of(preimage)):
            states.append(info.state)
            if info.state == "open":
                await pay(pair.payer, text)
            elif info.state == "accepted":
                await pair.payee.settle(preimage)
        assert states == ["open", "accepted", "settled"]
        assert [one.state async for one in pair.payee.watch(hash_of(preimage))] == ["settled"]

    play(story)


def test_a_held_payment_goes_back_before_its_lock_ends(play: Play) -> None:
    """By itself; until then it is there to be settled, after it is not."""

    async def story(pair: Pair) -> None:
        preimage = await held(pair)
        payment_hash = hash_of(preimage)
        seen, info = await pair.payee.invoice(payment_hash), await pair.payee.info()
        assert seen.htlc_expiry_height is not None
        left = seen.htlc_expiry_height - info.height - info.auto_cancel_blocks
        await pair.mine(left - 1)
        assert (await pair.payee.invoice(payment_hash)).state == "accepted"
        await pair.mine(1)
        await until_seen(pair.payee, payment_hash, "canceled")
        await until_paid(pair.payer, payment_hash, "failed")
        with pytest.raises(RejectedError):
            await pair.payee.settle(preimage)

    play(story)


def test_an_invoice_that_expires_while_its_payment_is_held_stays_held(play: Play) -> None:
    """Its life guards only payments that come later."""

    async def story(pair: Pair) -> None:
        preimage = secrets.token_bytes(32)
        # Long enough for a busy machine, where the expiry is ours to say.
        text = await hold_invoice_of(pair, hash_of(preimage), expiry_s=4)
        info = await pay(pair.payer, text)
        assert info.state == "in_flight", info
        await until_seen(pair.payee, hash_of(preimage), "accepted")
        await pair.pass_s(5 if pair.chooses_terms else 4_000)
        assert (await pair.payee.invoice(hash_of(preimage))).state == "accepted"
        await pair.payee.settle(preimage)
        await until_paid(pair.payer, hash_of(preimage), "succeeded")

    play(story)


def test_an_expired_invoice_is_not_paid(play: Play) -> None:
    """It is refused, and nothing is set aside."""

    async def story(pair: Pair) -> None:
        preimage = secrets.token_bytes(32)
        text = await pair.payee.create_invoice(
            preimage, amount_msat=AMOUNT_MSAT, memo="", expiry_s=1
        )
        await pair.pass_s(2)
        info = await pay(pair.payer, text)
        assert (info.state, info.reason) == ("failed", "invoice_expired")
        assert (await pair.payer.info()).in_flight_msat == 0
        assert (await pair.payer.payment(hash_of(preimage))).state in {"none", "failed"}

    play(story)


def test_a_held_payment_survives_that_our_processes_end(play: Play) -> None:
    """Both sides look it up again, watch it, and bring it to its end."""

    async def story(pair: Pair) -> None:
        preimage = await held(pair)
        await pair.reopen()
        assert (await pair.payer.payment(hash_of(preimage))).state == "in_flight"
        await until_seen(pair.payee, hash_of(preimage), "accepted")
        await pair.payee.settle(preimage)
        info = await until_paid(pair.payer, hash_of(preimage), "succeeded")
        assert info.preimage == preimage

    play(story)


def test_nobody_pays_more_than_it_has(play: Play) -> None:
    """It fails for good, for that reason, and everything is there as before."""

    async def story(pair: Pair) -> None:
        before = await pair.payer.info()
        preimage = secrets.token_bytes(32)
        text = await invoice_of(pair, preimage, amount_msat=before.balance_msat + 1_000_000)
        info = await pay(pair.payer, text)
        assert (info.state, info.reason) == ("failed", "insufficient_balance")
        after = await pair.payer.info()
        assert (after.balance_msat, after.in_flight_msat) == (before.balance_msat, 0)

    play(story)


@pytest.mark.parametrize(
    ("network", "amount_msat", "cltv_limit", "reason"),
    [
        (InvoiceNetwork.MAINNET, AMOUNT_MSAT, CLTV_LIMIT_BLOCKS, "wrong_invoice_network"),
        (InvoiceNetwork.REGTEST, None, CLTV_LIMIT_BLOCKS, "wrong_invoice_amount"),
        (InvoiceNetwork.REGTEST, AMOUNT_MSAT, 10, "cltv_too_long"),
        (None, AMOUNT_MSAT, CLTV_LIMIT_BLOCKS, "invalid_invoice"),
    ],
)
def test_what_must_not_be_paid_is_refused_before_anything_starts(
    play: Play,
    network: InvoiceNetwork | None,
    amount_msat: int | None,
    cltv_limit: int,
    reason: str,
) -> None:
    """Another network, no amount, a longer lock than allowed, and nonsense."""

    async def story(pair: Pair) -> None:
        payment_hash = secrets.token_bytes(32)
        text = "lnbcrt1nonsense"
        if network is not None:
            draft = Draft(
                network=network,
                timestamp_s=2_000_000_000,
                payment_hash=payment_hash,
                payment_secret=bytes(32),
                amount_msat=amount_msat,
                description="",
                min_final_cltv=CLTV_BLOCKS,
            )
            text = encode(draft, b"k" * 32)
        with pytest.raises(RejectedError) as refusal:
            await pair.payer.pay(text, fee_limit_msat=1_000, cltv_limit=cltv_limit)
        assert refusal.value.reason == reason
        assert (await pair.payer.payment(payment_hash)).state == "none"

    play(story)


def test_a_node_pays_neither_itself_nor_without_a_limit(play: Play) -> None:
    """Both are refused before anything starts."""

    async def story(pair: Pair) -> None:
        preimage = secrets.token_bytes(32)
        text = await invoice_of(pair, preimage)
        info = await pay(pair.payee, text)
        assert (info.state, info.reason) == ("failed", "wrong_payee")
        with pytest.raises(RejectedError):
            await pair.payer.pay(text, fee_limit_msat=-1, cltv_limit=CLTV_LIMIT_BLOCKS)
        assert (await pair.payee.invoice(hash_of(preimage))).state == "open"
        await pair.payee.cancel(hash_of(preimage))

    play(story)
