"""Our LND client: what it sends, and what it makes of lost answers, broken streams and refusals."""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract.lightning_pairs import Pair, hash_of, lnd_fake_pair, pay, until_paid, until_seen
from tests.contract.redis_servers import make_certificate
from tests.lnd_fake import FakeChain, FakeLnd, GrpcError, serving
from zmqex.adapters.lightning.lnd import LndLightning
from zmqex.adapters.lightning.rest import fingerprint
from zmqex.errors import (
    ConfigError,
    IndeterminateError,
    LightningUnavailableError,
    RejectedError,
)

# Its base64 needs the characters in which the two alphabets differ.
PREIMAGE = bytes.fromhex("00000000000000000000000000000000000000000000000000000000000000e9")
HASH = hash_of(PREIMAGE)
AMOUNT_MSAT = 1_234_567
TERMS: dict[str, Any] = {"amount_msat": AMOUNT_MSAT, "memo": "a memo", "expiry_s": 900}
Story = Callable[[Pair, FakeLnd, FakeLnd], Awaitable[None]]


def play(root: Path, story: Story) -> None:
    """Run a story with a payer and a payee, and their fake nodes."""

    async def run() -> None:
        async with asyncio.timeout(20), lnd_fake_pair(root) as (pair, nodes):
            await story(pair, *nodes)

    asyncio.run(run())


async def held(pair: Pair) -> str:
    """Bring a payment to where it is held; the invoice."""
    text = await pair.payee.create_hold_invoice(HASH, **TERMS, min_final_cltv=60)
    assert (await pay(pair.payer, text)).state == "in_flight"
    await until_seen(pair.payee, HASH, "accepted")
    return text


# --- what it sends -------------------------------------------------------------------------------


def test_what_is_sent_is_written_as_lnd_reads_it(tmp_path: Path) -> None:
    """64-bit numbers as texts, bytes in standard base64 in bodies and in the other one in paths."""

    async def story(pair: Pair, payer: FakeLnd, payee: FakeLnd) -> None:
        await held(pair)
        await pair.payee.settle(PREIMAGE)
        await until_paid(pair.payer, HASH, "succeeded")
        bodies = {path: body for method, path, body in payee.calls if method == "POST"}
        assert bodies["/v2/invoices/hodl"] == {
            "hash": base64.b64encode(HASH).decode(),
            "value_msat": "1234567",
            "memo": "a memo",
            "expiry": "900",
            "cltv_expiry": "60",
            "private": True,
        }
        assert bodies["/v2/invoices/settle"] == {"preimage": base64.b64encode(PREIMAGE).decode()}
        (sent,) = [body for _, path, body in payer.calls if path == "/v2/router/send"]
        del sent["payment_request"]
        assert sent == {
            "timeout_seconds": 60,
            "fee_limit_msat": "10000",
            "cltv_limit": 432,
            "max_parts": 16,
        }
        in_path = base64.urlsafe_b64encode(HASH).decode()
        assert {"-", "_"} & set(in_path)
        assert any(path == f"/v2/router/track/{in_path}" for _, path, _ in payer.calls)
        assert any(path == f"/v2/invoices/subscribe/{in_path}" for _, path, _ in payee.calls)

    play(tmp_path, story)


# --- secrets and certificates --------------------------------------------------------------------


def test_another_certificate_gets_no_secret(tmp_path: Path) -> None:
    """Nothing is sent to a node that shows another certificate, even a valid one."""

    async def story(pair: Pair, _payer: FakeLnd, _payee: FakeLnd) -> None:
        other = tmp_path / "other"
        other.mkdir()
        make_certificate(other)
        stranger = FakeLnd(FakeChain(), "stranger")
        async with serving(stranger, other / "cert.pem") as url:
            client = LndLightning(url, tmp_path / "0.macaroon", tmp_path / "cert.pem")
            with pytest.raises(LightningUnavailableError, match="another certificate"):
                await client.info()
            with pytest.raises(LightningUnavailableError):
                await client.create_invoice(PREIMAGE, **TERMS)
            await client.close()
        assert stranger.calls == []
        assert pair.payer is not client

    play(tmp_path, story)


def test_a_refused_macaroon_is_named_and_not_shown(tmp_path: Path) -> None:
    """Nothing was started, and no message holds the secret."""

    async def story(pair: Pair, payer: FakeLnd, payee: FakeLnd) -> None:
        text = await pair.payee.create_invoice(PREIMAGE, **TERMS)
        secret = payer.macaroon.hex()
        payer.macaroon = payee.macaroon = b"new"
        for call in (pair.payer.info(), pair.payee.settle(PREIMAGE), pair.payer.payment(HASH)):
            with pytest.raises(LightningUnavailableError, match="refuses our secret") as error:
                await call
            assert secret not in f"{error.value!r} {error.value.__cause__!r}"
        with pytest.raises(LightningUnavailableError):
            await pay(pair.payer, text)

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("file", "spoil", "words"),
    [
        ("m", lambda path: path.chmod(0o640), "chmod 600"),
        ("m", lambda path: path.write_bytes(b""), "is empty"),
        ("m", lambda path: path.unlink(), "does not exist"),
        ("cert.pem", lambda path: path.unlink(), "cannot read the certificate"),
        ("cert.pem", lambda path: path.write_text("nonsense"), "no certificate in PEM form"),
        ("cert.pem", lambda path: path.write_bytes(b"\xff"), "no certificate in PEM form"),
    ],
)
def test_unusable_files_are_named(
    tmp_path: Path, file: str, spoil: Callable[[Path], Any], words: str
) -> None:
    """In one sentence, before anything is sent."""
    make_certificate(tmp_path)
    macaroon = tmp_path / "m"
    macaroon.write_bytes(b"secret")
    macaroon.chmod(0o600)
    assert len(fingerprint(tmp_path / "cert.pem")) == 32
    spoil(tmp_path / file)
    with pytest.raises(ConfigError, match=words):
        LndLightning("https://127.0.0.1:1", macaroon, tmp_path / "cert.pem")


# --- answers that do not come --------------------------------------------------------------------


def test_a_node_that_is_away_has_started_nothing(tmp_path: Path) -> None:
    """Every call says so; nothing needs to be looked up."""

    async def story(pair: Pair, _payer: FakeLnd, _payee: FakeLnd) -> None:
        text = await pair.payee.create_invoice(PREIMAGE, **TERMS)
        await pair.payer.info()
        away = LndLightning("https://127.0.0.1:1", tmp_path / "0.macaroon", tmp_path / "cert.pem")
        for call in (
            away.info(),
            away.create_invoice(PREIMAGE, **TERMS),
            away.invoice(HASH),
            away.settle(PREIMAGE),
            away.cancel(HASH),
            away.payment(HASH),
            pay(away, text),
        ):
            with pytest.raises(LightningUnavailableError, match="cannot be reached"):
                await call
        await away.close()

    play(tmp_path, story)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_invoice_whose_making_was_not_answered_is_found_by_its_hash(
    tmp_path: Path, moment: str
) -> None:
    """And making it again gives the same, once."""

    async def story(pair: Pair, _payer: FakeLnd, payee: FakeLnd) -> None:
        payee.faults["/v1/invoices"] = moment
        with pytest.raises(IndeterminateError):
            await pair.payee.create_invoice(PREIMAGE, **TERMS)
        payee.faults.clear()
        expected = "open" if moment == "after" else "unknown"
        assert (await pair.payee.invoice(HASH)).state == expected
        text = await pair.payee.create_invoice(PREIMAGE, **TERMS)
        assert text == await pair.payee.create_invoice(PREIMAGE, **TERMS)
        assert len(payee.invoices) == 1
        with pytest.raises(RejectedError) as error:
            await pair.payee.create_invoice(PREIMAGE, **{**TERMS, "amount_msat": 5})
        assert error.value.reason == "wrong_payment_hash"

    play(tmp_path, story)


@pytest.mark.parametrize("moment", ["before", "after", "silence"])
def test_a_payment_that_was_not_answered_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """It may have been sent: only the look-up says, and paying again pays nothing twice."""
    monkeypatch.setattr("zmqex.adapters.lightning.lnd.LIGHTNING_ANSWER_WAIT_S", 0.3)

    async def story(pair: Pair, payer: FakeLnd, _payee: FakeLnd) -> None:
        text = await pair.payee.create_invoice(PREIMAGE, **TERMS)
        await pair.payer.info()
        before = payer.balance_msat
        payer.faults["/v2/router/send"] = moment
        with pytest.raises(IndeterminateError):
            await pay(pair.payer, text)
        payer.faults.clear()
        info = await pair.payer.payment(HASH)
        assert info.state == ("succeeded" if moment == "after" else "none")
        assert (await pay(pair.payer, text)).state == "succeeded"
        assert payer.balance_msat == before - AMOUNT_MSAT

    play(tmp_path, story)


def test_a_look_up_that_fails_says_nothing_of_the_payment(tmp_path: Path) -> None:
    """Least of all that it has failed."""

    async def story(pair: Pair, payer: FakeLnd, payee: FakeLnd) -> None:
        text = await held(pair)
        for fault in ("before", GrpcError(14, "starting"), b"[]", b"nonsense", b'{"result": {}}'):
            payer.faults["/v2/router"] = payee.faults["/v2/invoices/lookup"] = fault
            with pytest.raises((IndeterminateError, LightningUnavailableError)):
                await pair.payer.payment(HASH)
            # It is held: "unavailable" would mean that it surely was not sent.
            with pytest.raises(IndeterminateError):
                await pay(pair.payer, text)
            with pytest.raises((IndeterminateError, LightningUnavailableError)):
                await pair.payee.invoice(HASH)
        payer.faults.clear()
        # LND says that it is at it, which is no refusal of ours.
        assert (await pay(pair.payer, text)).state == "in_flight"

    play(tmp_path, story)


def test_a_stream_that_ends_without_a_word_says_nothing(tmp_path: Path) -> None:
    """Neither of a payment nor of a look-up."""

    async def story(pair: Pair, payer: FakeLnd, _payee: FakeLnd) -> None:
        text = await pair.payee.create_invoice(PREIMAGE, **TERMS)
        payer.faults["/v2/router"] = b"\n"
        with pytest.raises(IndeterminateError):
            await pay(pair.payer, text)
        with pytest.raises(IndeterminateError):
            await pair.payer.payment(HASH)

    play(tmp_path, story)


def test_a_node_that_is_behind_its_chain_says_so(tmp_path: Path) -> None:
    """Its height is too low then."""

    async def story(pair: Pair, payer: FakeLnd, _payee: FakeLnd) -> None:
        assert (await pair.payer.info()).synced
        payer.chain.synced = False
        assert not (await pair.payer.info()).synced

    play(tmp_path, story)


# --- refusals ------------------------------------------------------------------------------------


def test_a_refusal_without_an_end_is_not_taken_for_one(tmp_path: Path) -> None:
    """A node that is starting refuses everything; what is held stays held."""

    async def story(pair: Pair, payer: FakeLnd, payee: FakeLnd) -> None:
        text = await held(pair)
        starting = GrpcError(14, "the RPC server is in the process of starting up")
        payee.faults["/v2/invoices/settle"] = payee.faults["/v2/invoices/cancel"] = starting
        for call in (pair.payee.settle(PREIMAGE), pair.payee.cancel(HASH)):
            with pytest.raises(IndeterminateError):
                await call
        payee.faults["/v2/invoices/hodl"] = payer.faults["/v2/router/send"] = starting
        with pytest.raises(LightningUnavailableError):
            await pair.payee.create_hold_invoice(
                secrets.token_bytes(32), **TERMS, min_final_cltv=60
            )
        assert (await pay(pair.payer, text)).state == "in_flight"
        payee.faults["/v1/getinfo"] = starting
        with pytest.raises(LightningUnavailableError, match="starting up"):
            await pair.payee.info()

    play(tmp_path, story)


def test_a_payment_that_lnd_refuses_to_begin_has_failed(tmp_path: Path) -> None:
    """LND knows nothing of it afterwards."""

    async def story(pair: Pair, payer: FakeLnd, _payee: FakeLnd) -> None:
        text = await pair.payee.create_invoice(PREIMAGE, **TERMS)
        payer.faults["/v2/router/send"] = GrpcError(3, "self-payments not allowed")
        info = await pay(pair.payer, text)
        assert (info.state, info.reason) == ("failed", "payment_failed")
        assert (await pair.payer.payment(HASH)).state == "none"

    play(tmp_path, story)


def test_an_invoice_that_shows_nothing_is_looked_for_again(tmp_path: Path) -> None:
    """An answer without a text, with a broken one, and an invoice without an amount."""

    async def story(pair: Pair, _payer: FakeLnd, payee: FakeLnd) -> None:
        payee.faults["/v1/invoices"] = b"{}"
        with pytest.raises(IndeterminateError):
            await pair.payee.create_invoice(PREIMAGE, **TERMS)
        payee.faults["/v1/invoices"] = b'{"payment_request": "lnbcrt1"}'
        with pytest.raises(RejectedError):
            await pair.payee.create_invoice(PREIMAGE, **TERMS)
        with pytest.raises(RejectedError):
            await pair.payee.create_invoice(PREIMAGE, **{**TERMS, "amount_msat": 0})

    play(tmp_path, story)


# --- streams -------------------------------------------------------------------------------------


def test_a_broken_stream_is_attached_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What happened meanwhile is told, and nothing twice; a node that is away is tried again."""
    monkeypatch.setattr("zmqex.adapters.lightning.lnd.REATTACH_WAIT_S", 0.01)

    async def story(pair: Pair, payer: FakeLnd, payee: FakeLnd) -> None:
        text = await pair.payee.create_hold_invoice(HASH, **TERMS, min_final_cltv=60)
        states = []
        async for info in pair.payee.watch(HASH):
            states.append(info.state)
            if info.state == "open":
                payee.faults["subscribe"] = ["before", GrpcError(14, "starting up"), b"{}"]
                payee.cut()
                await pay(pair.payer, text)
            elif info.state == "accepted":
                payee.cut()
                await pair.payee.settle(PREIMAGE)
        assert states == ["open", "accepted", "settled"]
        assert payee.faults["subscribe"] == []
        assert payer.payments

    play(tmp_path, story)


def test_beyond_so_many_streams_an_invoice_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a stream of its own it is told all the same."""
    monkeypatch.setattr("zmqex.adapters.lightning.lnd.LIGHTNING_STREAMS_MAX", 0)
    monkeypatch.setattr("zmqex.adapters.lightning.lnd.WATCH_EVERY_S", 0.01)

    async def story(pair: Pair, _payer: FakeLnd, payee: FakeLnd) -> None:
        await pair.reopen()
        text = await pair.payee.create_invoice(PREIMAGE, **TERMS)
        states = []
        async for info in pair.payee.watch(HASH):
            states.append(info.state)
            if info.state == "open":
                await pay(pair.payer, text)
        assert states == ["open", "settled"]
        assert not any("subscribe" in path for _, path, _ in payee.calls)

    play(tmp_path, story)
