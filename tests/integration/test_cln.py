"""Our Core Lightning client: recorded replies of a real node, lost answers, and clnrest."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.cln_fake import FakeCln, FakeWorld, RpcError
from tests.contract.lightning_pairs import Pair, cln_fake_pair, hash_of, pay
from tests.contract.redis_servers import make_certificate
from zmqex.adapters.lightning.cln import ClnLightning
from zmqex.adapters.lightning.cln_rpc import ClnRest, UnixRpc
from zmqex.adapters.lightning.rest import NodeRefusal
from zmqex.errors import (
    ConfigError,
    IndeterminateError,
    LightningUnavailableError,
    RejectedError,
)

RECORDED = json.loads(Path("tests/data/cln_26.06.6_recorded.json").read_text())["recordings"]
# Against a node of your own: CLN_RPC_FOR_TESTS=.../lightning-rpc; it makes and cancels an invoice.
LIVE = os.environ.get("CLN_RPC_FOR_TESTS")
PREIMAGE = b"\7" * 32
HASH = hash_of(PREIMAGE)
TERMS: dict[str, Any] = {"amount_msat": 1_234_567, "memo": "a memo", "expiry_s": 900}
Story = Callable[[Pair, FakeCln, FakeCln], Awaitable[None]]


def play(story: Story) -> None:
    """Run a story with a payer and a payee, and their fake nodes."""

    async def run() -> None:
        async with asyncio.timeout(20), cln_fake_pair() as (pair, nodes):
            await story(pair, *nodes)

    asyncio.run(run())


class Recording:
    """Answers with recorded replies: by method, or by method and the words beside it."""

    def __init__(self, **chosen: str) -> None:
        """The note of the reply for each method; any other method is an error."""
        self._chosen = chosen

    async def call(self, method: str, _params: object) -> dict[str, Any]:
        """The recorded reply."""
        if method == "listholdinvoices":
            raise NodeRefusal(-32601, "Unknown command 'listholdinvoices'")
        if method == "listdatastore":
            return {"datastore": []}
        found = recorded(method, self._chosen.get(method))
        if "error" in found:
            raise NodeRefusal(found["error"]["code"], found["error"]["message"])
        result: dict[str, Any] = found["result"]
        return result

    async def close(self) -> None:
        """Nothing."""


def recorded(method: str, note: str | None = None) -> dict[str, Any]:
    """One recording."""
    fitting = [one for one in RECORDED if one["method"] == method and note in {None, one["note"]}]
    found: dict[str, Any] = fitting[0]
    return found


# --- recordings ----------------------------------------------------------------------------------


def test_a_real_node_is_read_as_it_answered() -> None:
    """Who it is, what its channels can send and have in flight, and that it cannot hold."""
    info = asyncio.run(ClnLightning(Recording()).info())
    assert (info.backend, info.invoice_prefix, info.height) == ("cln", "bcrt", 161)
    assert info.node.hex().startswith("03f7bcde")
    assert (info.balance_msat, info.in_flight_msat) == (931_262_000, 3_000_000)
    assert not info.can_hold


@pytest.mark.parametrize(("note", "state"), [("list unpaid", "open"), ("list expired", "canceled")])
def test_real_invoices_are_read_as_they_were(note: str, state: str) -> None:
    """The states that were recorded."""
    backend = ClnLightning(Recording(listinvoices=note))
    assert asyncio.run(backend.invoice(HASH)).state == state


@pytest.mark.parametrize(
    ("note", "state"),
    [
        ("listpays complete", "succeeded"),
        ("listpays pending", "in_flight"),
        ("listpays after", "succeeded"),
    ],
)
def test_real_payments_are_read_as_they_were(note: str, state: str) -> None:
    """With the preimage, where there is one."""
    info = asyncio.run(ClnLightning(Recording(listpays=note)).payment(HASH))
    assert info.state == state
    assert (info.preimage is not None) == (state == "succeeded")
    assert info.fee_msat == 0


@pytest.mark.parametrize(
    ("listed", "said", "outcome"),
    [
        ("listpays complete", "xpay again", "succeeded"),
        ("listpays pending", "second xpay while held", "in_flight"),
    ],
)
def test_a_payment_that_is_refused_for_what_it_is_at_is_looked_up(
    listed: str, said: str, outcome: str
) -> None:
    """The errors of a real node that mean neither failed nor paid."""

    async def story() -> None:
        backend = ClnLightning(Recording(listpays=listed))
        backend._begun[HASH] = 0
        refusal = recorded("xpay", said)["error"]
        info = await backend._refused(HASH, NodeRefusal(refusal["code"], refusal["message"]))
        assert info.state == outcome

    asyncio.run(story())


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("xpay expired", "invoice_expired"),
        ("xpay too large", "payment_failed"),
        ("xpay mainnet invoice on regtest", "invalid_invoice"),
    ],
)
def test_a_payment_that_a_real_node_refused_has_failed_for_that_reason(
    said: str, reason: str
) -> None:
    """Nothing is in flight then, as the look-up says."""

    async def story(pair: Pair, payer: FakeCln, _payee: FakeCln) -> None:
        text = await pair.payee.create_invoice(PREIMAGE, **TERMS)
        error = recorded("xpay", said)["error"]

        def refuse(**_params: object) -> dict[str, Any]:
            raise RpcError(error["code"], error["message"])

        payer.commands["xpay"] = refuse
        info = await pay(pair.payer, text)
        assert (info.state, info.reason) == ("failed", reason)
        assert (await pair.payer.payment(HASH)).state == "none"

    play(story)


def test_the_fake_speaks_as_the_recordings_do() -> None:
    """No reply of it has a name that the real node's reply had not; the codes are the same."""

    async def story(pair: Pair, payer: FakeCln, payee: FakeCln) -> None:
        text = await pair.payee.create_invoice(PREIMAGE, **TERMS)
        await pay(pair.payer, text)
        compared = {
            "getinfo": payer.do_getinfo(),
            "listpeerchannels": payer.do_listpeerchannels(),
            "listinvoices": payee.do_listinvoices(payment_hash=HASH.hex()),
            "listpays": payer.do_listpays(payment_hash=HASH.hex()),
            "holdinvoice": payee.do_holdinvoice(payment_hash=bytes(32).hex(), amount=1),
        }
        paid = recorded("waitinvoice")["result"]
        for method, reply in compared.items():
            real = recorded(method)["result"]
            (inner,) = [value for value in reply.values() if isinstance(value, list)] or [[]]
            assert reply.keys() <= real.keys(), method
            for row in inner:
                (rows,) = [value for key, value in real.items() if key in reply]
                names = rows[0].keys() | (paid.keys() if method == "listinvoices" else set())
                assert row.keys() - {"expiry"} <= names, method
        for words, code in [("dup label", 900), ("dup preimage", 901)]:
            assert recorded("invoice", words)["error"]["code"] == code
        assert recorded("xpay", "xpay again")["error"]["code"] == 219
        assert recorded("xpay", "second xpay while held")["error"]["code"] == -3

    play(story)


# --- what can go wrong ---------------------------------------------------------------------------


def test_without_the_plugin_nothing_is_held() -> None:
    """The node says so of itself, and everything else works."""

    async def story(pair: Pair, _payer: FakeCln, payee: FakeCln) -> None:
        for name in [one for one in payee.commands if "hold" in one]:
            del payee.commands[name]
        assert not (await pair.payee.info()).can_hold
        with pytest.raises(LightningUnavailableError, match="Unknown command"):
            await pair.payee.create_hold_invoice(HASH, **TERMS, min_final_cltv=60)
        text = await pair.payee.create_invoice(PREIMAGE, **TERMS)
        assert (await pay(pair.payer, text)).state == "succeeded"

    play(story)


@pytest.mark.parametrize("word", ["warning_bitcoind_sync", "warning_lightningd_sync"])
def test_a_node_that_is_behind_its_chain_says_so(word: str) -> None:
    """Its height is too low then."""

    async def story(pair: Pair, payer: FakeCln, _payee: FakeCln) -> None:
        assert (await pair.payer.info()).synced
        payer.warnings[word] = "still loading latest blocks"
        assert not (await pair.payer.info()).synced

    play(story)


def test_a_lock_that_is_too_short_is_refused() -> None:
    """The plugin decides on it; who needs a longer one does not trade that way."""

    async def story(pair: Pair, _payer: FakeCln, _payee: FakeCln) -> None:
        with pytest.raises(RejectedError, match="lock for 80 blocks, 81 needed"):
            await pair.payee.create_hold_invoice(HASH, **TERMS, min_final_cltv=81)

    play(story)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_lost_answers_are_looked_up(moment: str) -> None:
    """An invoice is made once, and a payment is sent once."""

    async def story(pair: Pair, payer: FakeCln, payee: FakeCln) -> None:
        payee.faults["invoice"] = moment
        with pytest.raises(IndeterminateError):
            await pair.payee.create_invoice(PREIMAGE, **TERMS)
        payee.faults.clear()
        text = await pair.payee.create_invoice(PREIMAGE, **TERMS)
        assert len(payee.invoices) == 1
        with pytest.raises(RejectedError):
            await pair.payee.create_invoice(PREIMAGE, **{**TERMS, "amount_msat": 5})
        await pair.payer.info()
        payer.faults["xpay"] = "after" if moment == "after" else b"nonsense\n\n"
        with pytest.raises(IndeterminateError):
            await pay(pair.payer, text)
        payer.faults.clear()
        before = payer.balance_msat
        for _ in range(2):
            info = await pay(pair.payer, text)
            assert info.state in {"succeeded", "in_flight"}
        assert payer.balance_msat in {before, before - TERMS["amount_msat"]}

    play(story)


def test_failed_parts_are_no_failed_payment_while_a_route_may_be_looked_for() -> None:
    """Not even to a zmqex that was started again meanwhile: `xpay` goes on without it."""

    async def story(pair: Pair, payer: FakeCln, _payee: FakeCln) -> None:
        text = await pair.payee.create_hold_invoice(HASH, **TERMS, min_final_cltv=60)
        assert (await pay(pair.payer, text)).state == "in_flight"
        await pair.reopen()
        payer.pays[HASH.hex()]["status"] = "failed"
        assert (await pair.payer.payment(HASH)).state == "in_flight"
        await pair.pass_s(2)
        assert (await pair.payer.payment(HASH)).state == "failed"

    play(story)


def test_a_payment_that_cannot_be_looked_up_may_be_on_its_way() -> None:
    """That lightningd falls silent after it was asked to pay says nothing of the payment."""

    async def story(pair: Pair, payer: FakeCln, _payee: FakeCln) -> None:
        text = await pair.payee.create_hold_invoice(HASH, **TERMS, min_final_cltv=60)
        listpays = payer.commands["listpays"]

        def once(**params: str) -> dict[str, Any]:
            payer.faults["listpays"] = b"nonsense\n\n"
            found: dict[str, Any] = listpays(**params)
            return found

        payer.commands["listpays"] = once
        with pytest.raises(IndeterminateError):
            await pay(pair.payer, text)
        assert payer.pays[HASH.hex()]["status"] == "pending"

    play(story)


def test_a_node_that_is_away_has_started_nothing(tmp_path: Path) -> None:
    """Nobody listens at the socket."""
    away = ClnLightning(UnixRpc(tmp_path / "nobody"))
    for call in (away.info(), away.invoice(HASH), away.create_invoice(PREIMAGE, **TERMS)):
        with pytest.raises(LightningUnavailableError, match="cannot be reached"):
            asyncio.run(call)


@pytest.mark.parametrize("answer", [b"{}\n\n", b"nonsense\n\n", b'{"result": {"id": 5}}\n\n'])
def test_an_answer_that_is_none_is_taken_for_none(answer: bytes) -> None:
    """Neither for an end nor for a payment."""

    async def story(pair: Pair, payer: FakeCln, _payee: FakeCln) -> None:
        payer.faults["listpays"] = payer.faults["getinfo"] = answer
        for call in (pair.payer.payment(HASH), pair.payer.info()):
            with pytest.raises(LightningUnavailableError):
                await call

    play(story)


# --- clnrest -------------------------------------------------------------------------------------


def rest_application(node: FakeCln, rune: str) -> web.Application:
    """Clnrest before a fake node."""

    async def answer(request: web.Request) -> web.Response:
        if request.headers.get("Rune") != rune:
            return web.json_response({"code": 1502, "message": "Invalid rune"}, status=401)
        try:
            params = await request.json()
            result = await node.command(request.match_info["method"], params)
        except RpcError as error:
            shown = {"code": error.code, "message": error.message}
            return web.json_response(shown, status=500)
        return web.json_response(result, status=201)

    application = web.Application()
    application.add_routes([web.post("/v1/{method}", answer)])
    return application


def test_the_same_works_over_clnrest_with_a_rune(tmp_path: Path) -> None:
    """Certificate pinned, rune from a private file; a refused rune is named and not shown."""
    make_certificate(tmp_path)
    rune = tmp_path / "rune"
    rune.write_text("a-rune=\n")
    rune.chmod(0o600)

    async def story() -> None:
        node = FakeCln(FakeWorld(), "payee")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        runner = web.AppRunner(rest_application(node, "a-rune="), shutdown_timeout=0.01)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        url = f"https://127.0.0.1:{runner.addresses[0][1]}"
        backend = ClnLightning(ClnRest(url, rune, tmp_path / "cert.pem"))
        assert (await backend.info()).can_hold
        text = await backend.create_invoice(PREIMAGE, **TERMS)
        assert text == await backend.create_invoice(PREIMAGE, **TERMS)
        await backend.cancel(HASH)
        assert (await backend.invoice(HASH)).state == "canceled"
        await backend.close()
        rune.write_text("other")
        stranger = ClnLightning(ClnRest(url, rune, tmp_path / "cert.pem"))
        with pytest.raises(LightningUnavailableError, match="refuses our secret") as error:
            await stranger.info()
        assert "other" not in str(error.value)
        await stranger.close()
        await runner.cleanup()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_text(" "), "holds no rune"),
        (lambda path: path.write_bytes(b"\xff"), "holds no rune"),
        (lambda path: path.chmod(0o644), "chmod 600"),
    ],
)
def test_an_unusable_rune_is_named(
    tmp_path: Path, spoil: Callable[[Path], Any], words: str
) -> None:
    """Before anything is sent."""
    make_certificate(tmp_path)
    rune = tmp_path / "rune"
    rune.write_text("a-rune=")
    rune.chmod(0o600)
    spoil(rune)
    with pytest.raises(ConfigError, match=words):
        ClnRest("https://127.0.0.1:1", rune, tmp_path / "cert.pem")


if LIVE is not None:

    def test_a_live_node_makes_and_cancels_an_invoice() -> None:
        """Nothing is paid."""

        async def story() -> None:
            backend = ClnLightning(UnixRpc(Path(str(LIVE))))
            assert (await backend.info()).backend == "cln"
            preimage = secrets.token_bytes(32)
            text = await backend.create_invoice(preimage, **TERMS)
            assert text == await backend.create_invoice(preimage, **TERMS)
            assert (await backend.invoice(hash_of(preimage))).state == "open"
            await backend.cancel(hash_of(preimage))
            assert (await backend.invoice(hash_of(preimage))).state == "canceled"

        asyncio.run(story())
