"""A fake LND: the REST interface of two nodes with one channel, from LND's published messages.

Every body is read and written by protobuf's own JSON mapping of `tests/data/lnd.proto`, with LND's
settings: unknown names are errors, 64-bit numbers are texts, every field is written.  The states
of invoices and payments are a model; real HTLCs are moved by `tests.ldk`.  A fault can be laid in
the way of any call.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import secrets
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from google.protobuf import json_format

from tests.lnd_messages import MESSAGES
from zmqex.adapters.clock import wall_ms
from zmqex.bolt11 import Draft, InvoiceNetwork, decode, encode, expires_at_ms, public_key
from zmqex.limits import LND_AUTO_CANCEL_BLOCKS

STATUS = {2: 500, 3: 400, 5: 404, 6: 409, 7: 403, 13: 500, 14: 503, 16: 401}
CAPACITY_MSAT = 1_000_000_000
BLOCK_PADDING = 3  # LND's payers add so much to the final lock
Handler = Callable[[web.Request], Any]


class GrpcError(Exception):
    """An answer that is an error, with its gRPC code."""

    def __init__(self, code: int, message: str) -> None:
        """Both are what LND says."""
        super().__init__(message)
        self.code, self.message = code, message


class FakeChain:
    """What both nodes share: the height, the clock, and who is who."""

    def __init__(self) -> None:
        """A clock that can be moved on."""
        self.height = 100
        self.synced = True
        self.passed_ms = 0
        self.nodes: list[FakeLnd] = []
        self.changed = asyncio.Condition()
        self.version = 0

    def now_ms(self) -> int:
        """The time of all."""
        return wall_ms() + self.passed_ms

    async def tell(self) -> None:
        """Something has changed: every stream looks."""
        for node in self.nodes:
            node.expire()
        async with self.changed:
            self.version += 1
            self.changed.notify_all()


class FakeLnd:
    """One node."""

    def __init__(self, chain: FakeChain, name: str) -> None:
        """Half of the channel is ours."""
        self.chain = chain
        self.secret = hashlib.sha256(name.encode()).digest()
        self.macaroon = secrets.token_bytes(40)
        self.balance_msat = CAPACITY_MSAT // 2
        self.invoices: dict[bytes, Any] = {}
        self.preimages: dict[bytes, bytes] = {}
        self.payments: dict[bytes, Any] = {}
        self.faults: dict[str, Any] = {}
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.streams: list[web.Request] = []
        self.network = "regtest"
        chain.nodes.append(self)

    # --- the model -------------------------------------------------------------------------------

    def add_invoice(self, payment_hash: bytes, asked: Any, preimage: bytes | None) -> str:  # noqa: ANN401
        """Make an invoice; a hash is good for one."""
        if len(payment_hash) != 32:
            raise GrpcError(3, f"invalid hash length of {len(payment_hash)}, want 32")
        if payment_hash in self.invoices:
            raise GrpcError(2, "invoice with payment hash already exists")
        draft = Draft(
            network=InvoiceNetwork.REGTEST,
            timestamp_s=self.chain.now_ms() // 1_000,
            payment_hash=payment_hash,
            payment_secret=secrets.token_bytes(32),
            amount_msat=asked.value_msat,
            description=asked.memo,
            expiry_s=asked.expiry,
            min_final_cltv=asked.cltv_expiry,
        )
        invoice = MESSAGES["Invoice"]()
        invoice.payment_request = encode(draft, self.secret)
        invoice.r_hash, invoice.value_msat = payment_hash, asked.value_msat
        invoice.state = invoice.OPEN
        self.invoices[payment_hash] = invoice
        if preimage is not None:
            self.preimages[payment_hash] = preimage
        return str(invoice.payment_request)

    def expire(self) -> None:
        """Cancel what is over: unpaid invoices by time, held ones by height."""
        for invoice in self.invoices.values():
            if invoice.state == invoice.OPEN:
                if expires_at_ms(decode(invoice.payment_request)) <= self.chain.now_ms():
                    invoice.state = invoice.CANCELED
            elif invoice.state == invoice.ACCEPTED:
                lock = min(htlc.expiry_height for htlc in invoice.htlcs)
                if self.chain.height >= lock - LND_AUTO_CANCEL_BLOCKS:
                    self.give_back(invoice)

    def known(self, payment_hash: bytes) -> Any:  # noqa: ANN401
        """One of our invoices."""
        self.expire()
        if payment_hash not in self.invoices:
            raise GrpcError(5, "unable to locate invoice")
        return self.invoices[payment_hash]

    def accept(self, payer: FakeLnd, text: str) -> None:
        """Take an HTLC for an invoice of ours: hold it, settle it, or give it back."""
        wanted = decode(text)
        invoice = self.known(wanted.payment_hash)
        payment = payer.payments[wanted.payment_hash]
        if invoice.state != invoice.OPEN:
            payer.fail(payment, "FAILURE_REASON_INCORRECT_PAYMENT_DETAILS")
            return
        htlc = invoice.htlcs.add()
        htlc.amt_msat = payment.value_msat
        htlc.accept_height = self.chain.height
        htlc.expiry_height = payment.htlcs[0].route.hops[-1].expiry
        invoice.state = invoice.ACCEPTED
        preimage = self.preimages.get(wanted.payment_hash)
        if preimage is not None:
            self.take(invoice, preimage)

    def take(self, invoice: Any, preimage: bytes) -> None:  # noqa: ANN401
        """Settle what is held."""
        invoice.state = invoice.SETTLED
        invoice.r_preimage = preimage
        invoice.amt_paid_msat = sum(htlc.amt_msat for htlc in invoice.htlcs)
        self.balance_msat += invoice.amt_paid_msat
        for htlc in invoice.htlcs:
            htlc.state = 1
        for other in self.chain.nodes:
            payment = other.payments.get(invoice.r_hash)
            if payment is not None and other is not self:
                payment.status = payment.SUCCEEDED
                payment.payment_preimage = preimage.hex()
                payment.htlcs[0].status = 1

    def give_back(self, invoice: Any) -> None:  # noqa: ANN401
        """Cancel, and fail what is held."""
        held = invoice.state == invoice.ACCEPTED
        invoice.state = invoice.CANCELED
        for htlc in invoice.htlcs:
            htlc.state = 2
        for other in self.chain.nodes:
            payment = other.payments.get(invoice.r_hash)
            if held and payment is not None and other is not self:
                other.fail(payment, "FAILURE_REASON_INCORRECT_PAYMENT_DETAILS")

    def fail(self, payment: Any, reason: str) -> None:  # noqa: ANN401
        """A payment of ours comes back."""
        if payment.htlcs:
            self.balance_msat += payment.value_msat
            payment.htlcs[0].status = 2
        payment.status = payment.FAILED
        payment.failure_reason = MESSAGES["PaymentFailureReason"].values_by_name[reason].number

    def send(self, asked: Any) -> Any:  # noqa: ANN401
        """Begin a payment."""
        text = asked.payment_request
        wanted = decode(text)
        known = self.payments.get(wanted.payment_hash)
        if known is not None and known.status == known.SUCCEEDED:
            raise GrpcError(6, "invoice is already paid")
        if known is not None and known.status != known.FAILED:
            raise GrpcError(6, "payment is in transition")
        if expires_at_ms(wanted) <= self.chain.now_ms():
            raise GrpcError(2, "invoice expired")
        payment = self.payments[wanted.payment_hash] = MESSAGES["Payment"]()
        payment.payment_hash, payment.payment_request = wanted.payment_hash.hex(), text
        payment.value_msat, payment.payment_preimage = wanted.amount_msat or 0, "00" * 32
        payment.status = payment.IN_FLIGHT
        payee = [one for one in self.chain.nodes if public_key(one.secret) == wanted.payee]
        final = wanted.min_final_cltv + BLOCK_PADDING
        if payment.value_msat > self.balance_msat:
            self.fail(payment, "FAILURE_REASON_INSUFFICIENT_BALANCE")
        elif not payee or final > asked.cltv_limit:
            self.fail(payment, "FAILURE_REASON_NO_ROUTE")
        else:
            self.balance_msat -= payment.value_msat
            attempt = payment.htlcs.add()
            attempt.status = 0
            attempt.route.hops.add().expiry = self.chain.height + final
            payee[0].accept(self, text)
        return payment

    def cut(self) -> None:
        """Every stream breaks off."""
        for request in self.streams:
            if request.transport is not None:
                request.transport.abort()
        self.streams.clear()

    # --- REST ------------------------------------------------------------------------------------

    def application(self) -> web.Application:
        """All paths."""
        application = web.Application(middlewares=[self.guard])
        application.add_routes(
            [
                web.get("/v1/getinfo", self.on_info),
                web.get("/v1/balance/channels", self.on_balance),
                web.post("/v1/invoices", self.on_invoice),
                web.post("/v2/invoices/hodl", self.on_hold_invoice),
                web.post("/v2/invoices/settle", self.on_settle),
                web.post("/v2/invoices/cancel", self.on_cancel),
                web.get("/v2/invoices/lookup", self.on_lookup),
                web.get("/v2/invoices/subscribe/{hash}", self.on_subscribe),
                web.post("/v2/router/send", self.on_send),
                web.get("/v2/router/track/{hash}", self.on_track),
            ]
        )
        return application

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The macaroon, the errors, and the faults that a test has laid."""
        body = json.loads(await request.text()) if request.can_read_body else {}
        self.calls.append((request.method, request.path, body))
        fault = next((how for path, how in self.faults.items() if path in request.path), None)
        if isinstance(fault, list):
            fault = fault.pop() if fault else None
        answer: web.StreamResponse = web.Response()
        if request.headers.get("Grpc-Metadata-macaroon") != self.macaroon.hex():
            fault = GrpcError(16, "verification failed: signature mismatch")
        try:
            if isinstance(fault, bytes):
                answer = web.Response(body=fault, content_type="application/json")
            elif fault == "silence":
                await asyncio.Event().wait()
            elif fault != "before":
                answer = await self.answered(fault, request, handler)
            if fault in {"before", "after"}:
                assert request.transport
                request.transport.abort()
        except GrpcError as error:
            content: Any = {"code": error.code, "message": error.message, "details": []}
            if "subscribe" in request.path or "router" in request.path:
                content = {"error": content}
            answer = web.json_response(content, status=STATUS[error.code])
        return answer

    async def answered(
        self, fault: object, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        """What the node answers, unless it is told to refuse."""
        if isinstance(fault, GrpcError):
            raise fault
        answer: web.StreamResponse = await handler(request)
        return answer

    async def read(self, request: web.Request, kind: str) -> Any:  # noqa: ANN401
        """A body as protobuf reads it."""
        try:
            return json_format.ParseDict(await request.json(), MESSAGES[kind]())
        except json_format.ParseError as error:
            raise GrpcError(3, f"proto: {error}") from error

    def write(self, message: Any) -> web.Response:  # noqa: ANN401
        """An answer as LND writes it."""
        return web.json_response(plain(message))

    async def on_info(self, _request: web.Request) -> web.Response:
        """GET /v1/getinfo."""
        info = MESSAGES["GetInfoResponse"](
            identity_pubkey=public_key(self.secret).hex(),
            block_height=self.chain.height,
            synced_to_chain=self.chain.synced,
        )
        info.chains.add(chain="bitcoin", network=self.network)
        return self.write(info)

    async def on_balance(self, _request: web.Request) -> web.Response:
        """GET /v1/balance/channels."""
        balance = MESSAGES["ChannelBalanceResponse"]()
        balance.local_balance.msat = self.balance_msat
        flying = [one for one in self.payments.values() if one.status == one.IN_FLIGHT]
        balance.unsettled_remote_balance.msat = sum(one.value_msat for one in flying)
        for name in ("remote_balance", "unsettled_local_balance"):
            getattr(balance, name).msat = 0
        return self.write(balance)

    async def on_invoice(self, request: web.Request) -> web.Response:
        """POST /v1/invoices."""
        asked = await self.read(request, "Invoice")
        payment_hash = hashlib.sha256(asked.r_preimage).digest()
        text = self.add_invoice(payment_hash, asked, asked.r_preimage)
        answer = MESSAGES["AddInvoiceResponse"](r_hash=payment_hash, payment_request=text)
        return self.write(answer)

    async def on_hold_invoice(self, request: web.Request) -> web.Response:
        """POST /v2/invoices/hodl."""
        asked = await self.read(request, "AddHoldInvoiceRequest")
        text = self.add_invoice(asked.hash, asked, None)
        return self.write(MESSAGES["AddHoldInvoiceResp"](payment_request=text))

    async def on_settle(self, request: web.Request) -> web.Response:
        """POST /v2/invoices/settle."""
        asked = await self.read(request, "SettleInvoiceMsg")
        invoice = self.known(hashlib.sha256(asked.preimage).digest())
        if invoice.state == invoice.OPEN:
            raise GrpcError(2, "invoice still open")
        if invoice.state == invoice.CANCELED:
            raise GrpcError(2, "invoice already canceled")
        if invoice.state == invoice.ACCEPTED:
            self.take(invoice, asked.preimage)
        await self.chain.tell()
        return self.write(MESSAGES["SettleInvoiceResp"]())

    async def on_cancel(self, request: web.Request) -> web.Response:
        """POST /v2/invoices/cancel."""
        asked = await self.read(request, "CancelInvoiceMsg")
        invoice = self.known(asked.payment_hash)
        if invoice.state == invoice.SETTLED:
            raise GrpcError(2, "invoice already settled")
        self.give_back(invoice)
        await self.chain.tell()
        return self.write(MESSAGES["CancelInvoiceResp"]())

    async def on_lookup(self, request: web.Request) -> web.Response:
        """GET /v2/invoices/lookup."""
        return self.write(self.known(base64.urlsafe_b64decode(request.query["payment_hash"])))

    async def on_subscribe(self, request: web.Request) -> web.StreamResponse:
        """GET /v2/invoices/subscribe/{hash}."""
        payment_hash = base64.urlsafe_b64decode(request.match_info["hash"])
        self.known(payment_hash)
        return await self.follow(request, lambda: self.known(payment_hash), ended=())

    async def on_send(self, request: web.Request) -> web.StreamResponse:
        """POST /v2/router/send."""
        payment = self.send(await self.read(request, "SendPaymentRequest"))
        await self.chain.tell()
        return await self.follow(request, lambda: payment, ended=(2, 3))

    async def on_track(self, request: web.Request) -> web.StreamResponse:
        """GET /v2/router/track/{hash}."""
        payment_hash = base64.urlsafe_b64decode(request.match_info["hash"])
        if payment_hash not in self.payments:
            raise GrpcError(5, "payment isn't initiated")
        return await self.follow(request, lambda: self.payments[payment_hash], ended=(2, 3))

    async def follow(
        self, request: web.Request, look: Callable[[], Any], ended: tuple[int, ...]
    ) -> web.StreamResponse:
        """A stream: what is, and each change, until an end."""
        if "after" in self.faults.values():
            return web.Response()
        response = web.StreamResponse()
        response.content_type = "application/json"
        await response.prepare(request)
        told: dict[str, Any] = {}
        self.streams.append(request)
        # A client that has gone needs no more.
        with contextlib.suppress(ConnectionResetError):
            while True:
                version, message = self.chain.version, look()
                if plain(message) != told:
                    told = plain(message)
                    await response.write(json.dumps({"result": told}).encode() + b"\n")
                if getattr(message, "status", None) in ended:
                    break
                async with self.chain.changed:
                    await self.chain.changed.wait_for(lambda: self.chain.version != version)  # noqa: B023
        return response


def plain(message: Any) -> dict[str, Any]:  # noqa: ANN401
    """A message in LND's JSON."""
    written: dict[str, Any] = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return written


@asynccontextmanager
async def serving(node: FakeLnd, certificate: Path) -> AsyncGenerator[str, None]:
    """Serve a node over TLS; the URL.  `certificate` has its key beside it as key.pem."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    runner = web.AppRunner(node.application(), shutdown_timeout=0.01)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
