"""LND over its REST interface.  Source: lnrpc, invoicesrpc and routerrpc of LND 0.18 to 0.21.

LND keeps a payment hash for good: a second invoice or payment of it is refused there, whoever asks.
So what a lost answer has left behind is always found by the hash.  After an error we look up what
is, and do not read LND's words, which change.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from zmqex.adapters.clock import wall_ms
from zmqex.adapters.lightning.paying import payable
from zmqex.adapters.lightning.rest import NodeRefusal, Rest
from zmqex.adapters.lightning.watching import ENDED, Watches
from zmqex.adapters.ports import InvoiceInfo, LightningInfo, PaymentInfo
from zmqex.adapters.storage.directory import read_private_file
from zmqex.bolt11 import decode
from zmqex.errors import (
    ConfigError,
    IndeterminateError,
    InvalidInvoiceError,
    LightningUnavailableError,
    RejectedError,
)
from zmqex.kernel.events import InvoiceState
from zmqex.limits import (
    LIGHTNING_ANSWER_WAIT_S,
    LIGHTNING_PARTS_MAX,
    LIGHTNING_STREAMS_MAX,
    LND_AUTO_CANCEL_BLOCKS,
    MIN_FINAL_CLTV_BLOCKS,
    PAYMENT_REPORT_WAIT_S,
    PAYMENT_SEARCH_S,
    REATTACH_WAIT_S,
    WATCH_EVERY_S,
)
from zmqex.reasons import RejectReason

T = TypeVar("T")

# LND's name of a chain -> the prefix of its invoices.
_PREFIXES: Final = {
    "mainnet": "bc",
    "testnet": "tb",
    "testnet4": "tb",
    "signet": "tbs",
    "regtest": "bcrt",
    "simnet": "sb",
}
_STATES: Final[dict[str, InvoiceState]] = {
    "OPEN": "open",
    "ACCEPTED": "accepted",
    "SETTLED": "settled",
    "CANCELED": "canceled",
}
_NOT_FOUND: Final = 5  # of gRPC
_REASONS: Final = {
    "FAILURE_REASON_INSUFFICIENT_BALANCE": RejectReason.INSUFFICIENT_BALANCE,
    "FAILURE_REASON_TIMEOUT": RejectReason.TIMED_OUT,
}


class _Chain(msgspec.Struct):
    network: str


class _Info(msgspec.Struct):
    identity_pubkey: str
    block_height: int
    synced_to_chain: bool
    chains: list[_Chain]


class _Amount(msgspec.Struct):
    msat: int


class _Balance(msgspec.Struct):
    local_balance: _Amount
    unsettled_remote_balance: _Amount


class _InvoiceHtlc(msgspec.Struct):
    state: str
    amt_msat: int
    expiry_height: int


class _Invoice(msgspec.Struct):
    payment_request: str
    state: Literal["OPEN", "ACCEPTED", "SETTLED", "CANCELED"]
    amt_paid_msat: int
    htlcs: list[_InvoiceHtlc]


class _Hop(msgspec.Struct):
    expiry: int


class _Route(msgspec.Struct):
    hops: list[_Hop]


class _Attempt(msgspec.Struct):
    status: str
    route: _Route | None = None


class _Payment(msgspec.Struct):
    status: Literal["INITIATED", "IN_FLIGHT", "SUCCEEDED", "FAILED"]
    payment_preimage: str
    fee_msat: int
    failure_reason: str
    htlcs: list[_Attempt]


class LndLightning:
    """An LND node; implements the Lightning port."""

    def __init__(
        self,
        url: str,
        macaroon: Path,
        certificate: Path,
        *,
        clock_ms: Callable[[], int] = wall_ms,
        report_wait_s: float = PAYMENT_REPORT_WAIT_S,
    ) -> None:
        """Read the macaroon and the certificate; ConfigError says what is wrong with them."""
        try:
            secret = read_private_file(macaroon)
        except FileNotFoundError:
            raise ConfigError(f"the macaroon {macaroon} does not exist") from None
        if not secret:
            raise ConfigError(f"the macaroon {macaroon} is empty")
        self._rest = Rest(url, {"Grpc-Metadata-macaroon": secret.hex()}, certificate)
        self._clock_ms = clock_ms
        self._report_wait_s = report_wait_s
        self._watches = Watches(self.invoice, every_s=WATCH_EVERY_S)
        self._streams = 0
        self._own: LightningInfo | None = None

    async def info(self) -> LightningInfo:
        """Who and how rich the node is."""
        try:
            info = self._read(await self._rest.get("/v1/getinfo"), _Info)
            balance = self._read(await self._rest.get("/v1/balance/channels"), _Balance)
        except NodeRefusal as refusal:
            raise _unavailable(refusal) from refusal
        network = info.chains[0].network if info.chains else ""
        return LightningInfo(
            "lnd",
            _PREFIXES.get(network, network),
            bytes.fromhex(info.identity_pubkey),
            info.block_height,
            can_hold=True,
            balance_msat=balance.local_balance.msat,
            in_flight_msat=balance.unsettled_remote_balance.msat,
            auto_cancel_blocks=LND_AUTO_CANCEL_BLOCKS,
            synced=info.synced_to_chain,
        )

    async def node_key(self) -> bytes:
        """Whose node answers."""
        try:
            info = self._read(await self._rest.get("/v1/getinfo"), _Info)
        except NodeRefusal as refusal:
            raise _unavailable(refusal) from refusal
        return bytes.fromhex(info.identity_pubkey)

    # --- being paid ------------------------------------------------------------------------------

    async def create_invoice(
        self,
        preimage: bytes,
        *,
        amount_msat: int,
        memo: str,
        expiry_s: int,
        first: bool = False,  # noqa: ARG002 - LND looks in any case
    ) -> str:
        """Make an invoice for a preimage of ours, with hints of private channels."""
        body = {
            "r_preimage": _b64(preimage),
            "value_msat": str(amount_msat),
            "memo": memo,
            "expiry": str(expiry_s),
            "cltv_expiry": str(MIN_FINAL_CLTV_BLOCKS),
            "private": True,
        }
        payment_hash = hashlib.sha256(preimage).digest()
        return await self._create("/v1/invoices", body, payment_hash)

    async def create_hold_invoice(
        self,
        payment_hash: bytes,
        *,
        amount_msat: int,
        memo: str,
        expiry_s: int,
        min_final_cltv: int,
    ) -> str:
        """Make an invoice whose payment is held until `settle` or `cancel`."""
        body = {
            "hash": _b64(payment_hash),
            "value_msat": str(amount_msat),
            "memo": memo,
            "expiry": str(expiry_s),
            "cltv_expiry": str(min_final_cltv),
            "private": True,
        }
        return await self._create("/v2/invoices/hodl", body, payment_hash)

    async def _create(self, path: str, body: dict[str, object], payment_hash: bytes) -> str:
        """Make an invoice, or give the text of the one that exists, if that is the same."""
        if body["value_msat"] == "0":
            raise RejectedError(RejectReason.INVALID_INVOICE, "an invoice needs an amount")
        try:
            answer = await self._rest.post(path, body)
            text = str(answer["payment_request"])
        except NodeRefusal as refusal:
            known = await self._find(payment_hash)
            if known is None:
                raise _unavailable(refusal) from refusal
            text = known.payment_request
        except KeyError:
            raise IndeterminateError("LND made an invoice and did not show it") from None
        try:
            invoice = decode(text)
        except InvalidInvoiceError as error:
            raise RejectedError(RejectReason.INVALID_INVOICE, str(error)) from error
        found = (invoice.payment_hash, str(invoice.amount_msat), invoice.description)
        # A longer lock than was asked for is as good.
        short = invoice.min_final_cltv < int(str(body["cltv_expiry"]))
        if found != (payment_hash, body["value_msat"], body["memo"]) or short:
            message = "LND has another invoice for this payment hash"
            raise RejectedError(RejectReason.WRONG_PAYMENT_HASH, message)
        return text

    async def invoice(self, payment_hash: bytes) -> InvoiceInfo:
        """Look one of our invoices up."""
        found = await self._find(payment_hash)
        return InvoiceInfo("unknown") if found is None else _invoice_info(found)

    async def _find(self, payment_hash: bytes) -> _Invoice | None:
        path = f"/v2/invoices/lookup?payment_hash={_b64url(payment_hash)}"
        try:
            return self._read(await self._rest.get(path), _Invoice)
        except NodeRefusal as refusal:
            if refusal.code == _NOT_FOUND:
                return None
            raise _unavailable(refusal) from refusal

    async def watch(self, payment_hash: bytes) -> AsyncGenerator[InvoiceInfo, None]:
        """How an invoice stands, from LND's own stream, attached again whenever it breaks.

        Beyond some hundred streams at once the others are looked up now and then.
        """
        if self._streams >= LIGHTNING_STREAMS_MAX:
            async with contextlib.aclosing(self._watches.watch(payment_hash)) as changes:
                async for info in changes:
                    yield info
            return
        self._streams += 1
        told: InvoiceInfo | None = None
        try:
            while told is None or told.state not in ENDED:
                with contextlib.suppress(
                    NodeRefusal, LightningUnavailableError, IndeterminateError
                ):
                    async with contextlib.aclosing(self._changes(payment_hash)) as seen:
                        async for info in seen:
                            if info != told:
                                told = info
                                yield info
                            if info.state in ENDED:
                                return
                await asyncio.sleep(REATTACH_WAIT_S)
        finally:
            self._streams -= 1

    async def _changes(self, payment_hash: bytes) -> AsyncGenerator[InvoiceInfo, None]:
        path = f"/v2/invoices/subscribe/{_b64url(payment_hash)}"
        async with contextlib.aclosing(self._rest.stream("GET", path)) as messages:
            async for message in messages:
                yield _invoice_info(self._read(message, _Invoice))

    async def settle(self, preimage: bytes) -> None:
        """Take what is held for this preimage; idempotent."""
        try:
            await self._rest.post("/v2/invoices/settle", {"preimage": _b64(preimage)})
        except NodeRefusal as refusal:
            state = (await self.invoice(hashlib.sha256(preimage).digest())).state
            if state == "unknown":
                raise RejectedError(RejectReason.WRONG_PAYMENT_HASH, refusal.message) from refusal
            if state in {"open", "canceled"}:
                raise RejectedError(RejectReason.WRONG_STATE, refusal.message) from refusal
            if state != "settled":
                raise IndeterminateError(refusal.message) from refusal

    async def cancel(self, payment_hash: bytes) -> None:
        """Cancel an invoice; what is held goes back."""
        try:
            await self._rest.post("/v2/invoices/cancel", {"payment_hash": _b64(payment_hash)})
        except NodeRefusal as refusal:
            state = (await self.invoice(payment_hash)).state
            if state == "settled":
                raise RejectedError(RejectReason.ALREADY_PAID, refusal.message) from refusal
            if state in {"open", "accepted"}:
                raise IndeterminateError(refusal.message) from refusal

    # --- paying ----------------------------------------------------------------------------------

    async def pay(self, invoice: str, *, fee_limit_msat: int, cltv_limit: int) -> PaymentInfo:
        """Pay; comes back in flight where that takes longer than a moment.

        LND pays a hash once: what it has already, or is at, is looked up.
        """
        self._own = self._own or await self.info()
        wanted, _ = payable(
            invoice,
            prefix=self._own.invoice_prefix,
            node=self._own.node,
            fee_limit_msat=fee_limit_msat,
            cltv_limit=cltv_limit,
            now_ms=self._clock_ms(),
        )
        body = {
            "payment_request": invoice,
            "timeout_seconds": PAYMENT_SEARCH_S,
            "fee_limit_msat": str(fee_limit_msat),
            "cltv_limit": cltv_limit,
            "max_parts": LIGHTNING_PARTS_MAX,
        }
        try:
            return await self._outcome(self._rest.stream("POST", "/v2/router/send", body))
        except NodeRefusal as refusal:
            try:
                known = await self.payment(wanted.payment_hash)
            except LightningUnavailableError as error:
                # Only the look-up has surely not happened: LND may refuse because it is at it.
                raise IndeterminateError(str(error)) from error
            if known.state == "none":
                raise RejectedError(RejectReason.PAYMENT_FAILED, refusal.message) from refusal
            return known

    async def payment(self, payment_hash: bytes) -> PaymentInfo:
        """Look one of our payments up."""
        stream = self._rest.stream("GET", f"/v2/router/track/{_b64url(payment_hash)}")
        try:
            async with contextlib.aclosing(stream) as messages:
                async for message in messages:
                    return _payment_info(self._read(message, _Payment))
        except NodeRefusal as refusal:
            if refusal.code == _NOT_FOUND:
                return PaymentInfo("none")
            raise _unavailable(refusal) from refusal
        raise IndeterminateError("LND did not say how the payment stands")

    async def _outcome(self, stream: AsyncGenerator[dict[str, Any], None]) -> PaymentInfo:
        """The end of a payment, or in flight when it takes long; LND goes on with it then."""
        info: PaymentInfo | None = None
        report_at = asyncio.get_running_loop().time() + self._report_wait_s
        with contextlib.suppress(TimeoutError):
            async with (
                asyncio.timeout(LIGHTNING_ANSWER_WAIT_S) as limit,
                contextlib.aclosing(stream) as messages,
            ):
                async for message in messages:
                    info = _payment_info(self._read(message, _Payment))
                    if info.state != "in_flight":
                        break
                    limit.reschedule(report_at)
        if info is None:
            raise IndeterminateError("LND did not say how the payment stands")
        return info

    async def close(self) -> None:
        """Let go."""
        await self._rest.close()

    def _read(self, message: object, kind: type[T]) -> T:
        """Read an answer; LND writes 64-bit numbers as texts."""
        try:
            return msgspec.convert(message, kind, strict=False)
        except msgspec.ValidationError as error:
            why = f"{self._rest.url} does not answer as LND does: {error}"
            raise IndeterminateError(why) from error


def _unavailable(refusal: NodeRefusal) -> LightningUnavailableError:
    return LightningUnavailableError(f"LND says: {refusal.message}")


def _b64(raw: bytes) -> str:
    """Bytes in a body: standard base64."""
    return base64.b64encode(raw).decode()


def _b64url(raw: bytes) -> str:
    """Bytes in a path."""
    return base64.urlsafe_b64encode(raw).decode()


def _invoice_info(invoice: _Invoice) -> InvoiceInfo:
    state = _STATES[invoice.state]
    locked = [htlc for htlc in invoice.htlcs if htlc.state == "ACCEPTED"]
    if state == "accepted" and locked:
        received_msat = sum(htlc.amt_msat for htlc in locked)
        return InvoiceInfo(state, received_msat, min(htlc.expiry_height for htlc in locked))
    return InvoiceInfo(state, invoice.amt_paid_msat if state == "settled" else 0)


def _payment_info(payment: _Payment) -> PaymentInfo:
    if payment.status == "SUCCEEDED":
        return PaymentInfo("succeeded", bytes.fromhex(payment.payment_preimage), payment.fee_msat)
    if payment.status == "FAILED":
        reason = _REASONS.get(payment.failure_reason, RejectReason.PAYMENT_FAILED)
        return PaymentInfo("failed", reason=reason.value)
    locks = [
        attempt.route.hops[-1].expiry
        for attempt in payment.htlcs
        if attempt.status == "IN_FLIGHT" and attempt.route is not None and attempt.route.hops
    ]
    return PaymentInfo("in_flight", htlc_expiry_height=min(locks, default=None))
