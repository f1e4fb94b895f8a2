"""Core Lightning over JSON-RPC; held invoices by the plugin `hold` of Boltz.

lightningd forgets an invoice that is deleted, and would make it anew for the same preimage.  So a
cancelled one leaves a mark in lightningd's own datastore, written before the invoice is deleted.
Source: the commands' manual pages of 26.06, and replies of a real node in tests/data.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, Literal, TypeVar

import msgspec
from msgspec.structs import replace

from zmqex.adapters.clock import monotonic_ms, wall_ms
from zmqex.adapters.lightning.cln_rpc import Params, Rpc
from zmqex.adapters.lightning.paying import payable
from zmqex.adapters.lightning.rest import NodeRefusal
from zmqex.adapters.lightning.watching import Watches
from zmqex.adapters.ports import InvoiceInfo, LightningInfo, PaymentInfo
from zmqex.bolt11 import decode
from zmqex.errors import (
    IndeterminateError,
    InvalidInvoiceError,
    LightningUnavailableError,
    RejectedError,
)
from zmqex.kernel.events import InvoiceState
from zmqex.limits import (
    CLN_AUTO_CANCEL_BLOCKS,
    MIN_FINAL_CLTV_BLOCKS,
    PAYMENT_REPORT_WAIT_S,
    PAYMENT_SEARCH_S,
    SECOND_MS,
    WATCH_POLL_S,
)
from zmqex.reasons import RejectReason

T = TypeVar("T")

# lightningd's name of a chain -> the prefix of its invoices.
_PREFIXES: Final = {
    "bitcoin": "bc",
    "testnet": "tb",
    "testnet4": "tb",
    "signet": "tbs",
    "regtest": "bcrt",
}
_INVOICES: Final[dict[str, InvoiceState]] = {
    "unpaid": "open",
    "paid": "settled",
    "expired": "canceled",
}
_HELD: Final[dict[str, InvoiceState]] = {
    "unpaid": "open",
    "accepted": "accepted",
    "paid": "settled",
    "cancelled": "canceled",
}
_UNKNOWN_COMMAND: Final = -32_601
_WRONG_PARAMETERS: Final = -32_602
_EXPIRED: Final = 207
_NORMAL: Final = "CHANNELD_NORMAL"


class _Info(msgspec.Struct):
    id: str
    blockheight: int
    network: str
    warning_bitcoind_sync: str = ""
    warning_lightningd_sync: str = ""


class _Htlc(msgspec.Struct):
    direction: str
    amount_msat: int
    payment_hash: str
    expiry: int


class _Channel(msgspec.Struct):
    state: str
    spendable_msat: int = 0
    htlcs: list[_Htlc] = []


class _Channels(msgspec.Struct):
    channels: list[_Channel]


class _Invoice(msgspec.Struct):
    bolt11: str
    status: Literal["unpaid", "paid", "expired"]
    amount_received_msat: int = 0


class _Invoices(msgspec.Struct):
    invoices: list[_Invoice]


class _HeldPart(msgspec.Struct):
    state: str
    msat: int
    cltv_expiry: int | None = None


class _HoldInvoice(msgspec.Struct):
    state: Literal["unpaid", "accepted", "paid", "cancelled"]
    htlcs: list[_HeldPart]
    # The plugin's older versions say "bolt11", the newer ones "invoice".
    bolt11: str = ""
    invoice: str = ""


class _HoldInvoices(msgspec.Struct):
    holdinvoices: list[_HoldInvoice]


class _Stored(msgspec.Struct):
    string: str = ""


class _Datastore(msgspec.Struct):
    datastore: list[_Stored]


class _Pay(msgspec.Struct):
    status: Literal["pending", "complete", "failed"]
    created_at: int  # Unix seconds
    preimage: str = ""
    amount_msat: int = 0
    amount_sent_msat: int = 0


class _Pays(msgspec.Struct):
    pays: list[_Pay]


class ClnLightning:
    """A Core Lightning node; implements the Lightning port."""

    def __init__(
        self,
        rpc: Rpc,
        *,
        clock_ms: Callable[[], int] = wall_ms,
        report_wait_s: float = PAYMENT_REPORT_WAIT_S,
        watch_every_s: float = WATCH_POLL_S,
        search_ms: int = PAYMENT_SEARCH_S * SECOND_MS,
    ) -> None:
        """Nothing is asked yet."""
        self._rpc = rpc
        self._clock_ms = clock_ms
        self._report_wait_s = report_wait_s
        self._search_ms = search_ms
        self._watches = Watches(self.invoice, every_s=watch_every_s)
        # Payment hash: until when `xpay` may look for a route, 0 once it has answered.
        self._begun: dict[bytes, int] = {}

    async def info(self) -> LightningInfo:
        """Who and how rich the node is, and whether it can hold."""
        info = await self._ask("getinfo", {}, _Info)
        channels = (await self._ask("listpeerchannels", {}, _Channels)).channels
        flying = [htlc for one in channels for htlc in one.htlcs if htlc.direction == "out"]
        return LightningInfo(
            "cln",
            _PREFIXES.get(info.network, info.network),
            bytes.fromhex(info.id),
            info.blockheight,
            can_hold=await self._held(bytes(32)) is not None,
            balance_msat=sum(one.spendable_msat for one in channels if one.state == _NORMAL),
            in_flight_msat=sum(htlc.amount_msat for htlc in flying),
            auto_cancel_blocks=CLN_AUTO_CANCEL_BLOCKS,
            synced=not (info.warning_bitcoind_sync or info.warning_lightningd_sync),
        )

    async def node_key(self) -> bytes:
        """Whose node answers."""
        return bytes.fromhex((await self._ask("getinfo", {}, _Info)).id)

    # --- being paid ------------------------------------------------------------------------------

    async def create_invoice(
        self, preimage: bytes, *, amount_msat: int, memo: str, expiry_s: int, first: bool = False
    ) -> str:
        """Make an invoice for a preimage of ours, or give the text of the one that exists."""
        payment_hash = hashlib.sha256(preimage).digest()
        if amount_msat < 1:
            raise RejectedError(RejectReason.INVALID_INVOICE, "an invoice needs an amount")
        if not first:
            await self._refuse_cancelled(payment_hash)
        try:
            terms = {
                "amount_msat": amount_msat,
                "label": _label(payment_hash),
                "description": memo,
                "expiry": expiry_s,
                "cltv": MIN_FINAL_CLTV_BLOCKS,
                "preimage": preimage.hex(),
            }
            answer = await self._rpc.call("invoice", terms)
            text = str(answer.get("bolt11", ""))
        except NodeRefusal as refusal:
            known = await self._plain(payment_hash)
            if known is None:
                raise _unavailable(refusal) from refusal
            text = known.bolt11
        return _same(text, payment_hash, amount_msat, MIN_FINAL_CLTV_BLOCKS)

    async def create_hold_invoice(
        self,
        payment_hash: bytes,
        *,
        amount_msat: int,
        memo: str,
        expiry_s: int,
        min_final_cltv: int,
    ) -> str:
        """Make an invoice whose payment is held.

        The plugin decides on memo, expiry and lock; a shorter lock than asked for is refused.
        `expiry_s` is kept by who cancels at the end, and whose an invoice is by the datastore.
        """
        del expiry_s
        await self._claim(payment_hash, memo)
        params = {"payment_hash": payment_hash.hex(), "amount": amount_msat}
        try:
            answer = await self._rpc.call("holdinvoice", params)
            text = str(answer.get("bolt11", ""))
        except NodeRefusal as refusal:
            known = await self._held(payment_hash)
            if not known:
                raise _unavailable(refusal) from refusal
            text = known[0].bolt11 or known[0].invoice
        return _same(text, payment_hash, amount_msat, min_final_cltv)

    async def _claim(self, payment_hash: bytes, memo: str) -> None:
        """Write down what a hash is held for; RejectedError where it is another's."""
        claimed = await self._stored(key := _key("held", payment_hash))
        known = await self._held(payment_hash) or await self._plain(payment_hash)
        if claimed is None and not known:
            with contextlib.suppress(NodeRefusal):
                mark = {"key": key, "string": memo, "mode": "must-create"}
                await self._rpc.call("datastore", mark)
            claimed = await self._stored(key)
        if claimed != memo:
            message = "lightningd has another invoice for this payment hash"
            raise RejectedError(RejectReason.WRONG_PAYMENT_HASH, message)

    async def invoice(self, payment_hash: bytes) -> InvoiceInfo:
        """Look one of our invoices up."""
        known = await self._plain(payment_hash)
        if known is not None and (known.status != "unpaid" or not await self._marked(payment_hash)):
            return InvoiceInfo(_INVOICES[known.status], known.amount_received_msat)
        held = await self._held(payment_hash)
        if held:
            return _held_info(held[0])
        # One that is marked is being deleted, or was: no payment of it is taken any more.
        gone = known is None and await self._marked(payment_hash)
        return InvoiceInfo("open" if known else "canceled" if gone else "unknown")

    def watch(self, payment_hash: bytes) -> AsyncGenerator[InvoiceInfo, None]:
        """See the port; looked up twice a second, for the plugin tells nothing by itself."""
        return self._watches.watch(payment_hash)

    async def settle(self, preimage: bytes) -> None:
        """Take what is held for this preimage; idempotent."""
        payment_hash = hashlib.sha256(preimage).digest()
        state = (await self.invoice(payment_hash)).state
        if state == "unknown":
            raise RejectedError(RejectReason.WRONG_PAYMENT_HASH, "no invoice has that hash")
        if state in {"open", "canceled"}:  # the plugin would take an open one's all the same
            raise RejectedError(RejectReason.WRONG_STATE, "nothing is held for this preimage")
        if state == "accepted":
            await self._do("settleholdinvoice", {"preimage": preimage.hex()})
            self._watches.nudge(payment_hash)

    async def cancel(self, payment_hash: bytes) -> None:
        """Cancel an invoice; what is held goes back."""
        if await self._held(payment_hash):
            await self._cancel_held(payment_hash)
        elif await self._plain(payment_hash) is not None:
            await self._cancel_plain(payment_hash)
        self._watches.nudge(payment_hash)

    async def _cancel_held(self, payment_hash: bytes) -> None:
        try:
            await self._rpc.call("cancelholdinvoice", {"payment_hash": payment_hash.hex()})
        except NodeRefusal as refusal:
            state = (await self.invoice(payment_hash)).state
            if state == "settled":
                raise RejectedError(RejectReason.ALREADY_PAID, refusal.message) from refusal
            if state != "canceled":
                raise IndeterminateError(refusal.message) from refusal

    async def _cancel_plain(self, payment_hash: bytes) -> None:
        key = _key("canceled", payment_hash)
        mark = {"key": key, "string": "canceled", "mode": "create-or-replace"}
        await self._do("datastore", mark)
        try:
            await self._rpc.call("delinvoice", {"label": _label(payment_hash), "status": "unpaid"})
        except NodeRefusal as refusal:
            state = (await self.invoice(payment_hash)).state
            if state == "settled":
                raise RejectedError(RejectReason.ALREADY_PAID, refusal.message) from refusal
            if state == "open":
                raise IndeterminateError(refusal.message) from refusal

    # --- paying ----------------------------------------------------------------------------------

    async def pay(self, invoice: str, *, fee_limit_msat: int, cltv_limit: int) -> PaymentInfo:
        """Pay; comes back in flight where that takes longer than a moment.

        lightningd goes on with it when the call is given up, and pays a hash once.
        """
        own = await self.info()
        wanted, amount_msat = payable(
            invoice,
            prefix=own.invoice_prefix,
            node=own.node,
            fee_limit_msat=fee_limit_msat,
            cltv_limit=cltv_limit,
            now_ms=self._clock_ms(),
        )
        known = await self.payment(wanted.payment_hash)
        if known.state in {"in_flight", "succeeded"}:
            return known
        if amount_msat > own.balance_msat:
            message = "the channels cannot send so much"
            raise RejectedError(RejectReason.INSUFFICIENT_BALANCE, message)
        params = {
            "invstring": invoice,
            "maxfee": fee_limit_msat,
            "maxdelay": cltv_limit,
            "retry_for": PAYMENT_SEARCH_S,
        }
        self._begun[wanted.payment_hash] = monotonic_ms() + self._search_ms
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._report_wait_s):
                    await self._rpc.call("xpay", params)
        except LightningUnavailableError:
            self._begun[wanted.payment_hash] = 0
            raise
        except NodeRefusal as refusal:
            return await self._refused(wanted.payment_hash, refusal)
        info = await self._sent(wanted.payment_hash)
        # Who pays counts from no lower a height; lightningd does not tell the lock's end.
        return replace(info, htlc_expiry_height=own.height + wanted.min_final_cltv)

    async def _sent(self, payment_hash: bytes) -> PaymentInfo:
        """How a payment stands after `xpay`; that it cannot be looked up says nothing of it."""
        try:
            return await self.payment(payment_hash)
        except LightningUnavailableError as error:
            raise IndeterminateError(str(error)) from error

    async def _refused(self, payment_hash: bytes, refusal: NodeRefusal) -> PaymentInfo:
        """What an error of `xpay` means: only the look-up says whether something is in flight."""
        self._begun[payment_hash] = 0
        known = await self._sent(payment_hash)
        if known.state in {"in_flight", "succeeded"}:
            return known
        reason = RejectReason.PAYMENT_FAILED
        if refusal.code == _EXPIRED:
            reason = RejectReason.INVOICE_EXPIRED
        elif refusal.code == _WRONG_PARAMETERS:
            reason = RejectReason.INVALID_INVOICE
        raise RejectedError(reason, refusal.message) from refusal

    async def payment(self, payment_hash: bytes) -> PaymentInfo:
        """Look one of our payments up.

        As long as `xpay` may look for another route, failed parts are no failed payment.
        """
        pays = (await self._ask("listpays", {"payment_hash": payment_hash.hex()}, _Pays)).pays
        for pay in pays:
            if pay.status == "complete":
                fee_msat = pay.amount_sent_msat - pay.amount_msat
                return PaymentInfo("succeeded", bytes.fromhex(pay.preimage), fee_msat)
        if self._is_searching(payment_hash, pays) or any(pay.status == "pending" for pay in pays):
            return PaymentInfo("in_flight")
        if pays:
            return PaymentInfo("failed", reason=RejectReason.PAYMENT_FAILED.value)
        return PaymentInfo("none")

    def _is_searching(self, payment_hash: bytes, pays: list[_Pay]) -> bool:
        if payment_hash in self._begun:
            return self._begun[payment_hash] > monotonic_ms()
        # We were started again.  It began before its last part did, whose second is rounded down.
        last_ms = max((pay.created_at + 1 for pay in pays), default=0) * SECOND_MS
        return last_ms + self._search_ms > self._clock_ms()

    async def close(self) -> None:
        """Let go."""
        await self._rpc.close()

    # --- calls -----------------------------------------------------------------------------------

    async def _plain(self, payment_hash: bytes) -> _Invoice | None:
        params = {"payment_hash": payment_hash.hex()}
        found = (await self._ask("listinvoices", params, _Invoices)).invoices
        return found[0] if found else None

    async def _held(self, payment_hash: bytes) -> list[_HoldInvoice] | None:
        """The held invoice of a hash, if any; None where the plugin is not there."""
        params = {"payment_hash": payment_hash.hex()}
        try:
            answer = await self._read("listholdinvoices", params)
        except NodeRefusal as refusal:
            if refusal.code == _UNKNOWN_COMMAND:
                return None
            raise _unavailable(refusal) from refusal
        return _converted("listholdinvoices", answer, _HoldInvoices).holdinvoices

    async def _marked(self, payment_hash: bytes) -> bool:
        return await self._stored(_key("canceled", payment_hash)) is not None

    async def _stored(self, key: list[str]) -> str | None:
        """What lightningd's datastore has under a key."""
        found = (await self._ask("listdatastore", {"key": key}, _Datastore)).datastore
        return found[0].string if found else None

    async def _refuse_cancelled(self, payment_hash: bytes) -> None:
        if await self._marked(payment_hash):
            message = "the invoice was cancelled and is not made again"
            raise RejectedError(RejectReason.INVOICE_EXPIRED, message)

    async def _ask(self, method: str, params: Params, kind: type[T]) -> T:
        """Read something; asking again is safe."""
        try:
            answer = await self._read(method, params)
        except NodeRefusal as refusal:
            raise _unavailable(refusal) from refusal
        return _converted(method, answer, kind)

    async def _read(self, method: str, params: Params) -> dict[str, Any]:
        try:
            return await self._rpc.call(method, params)
        except IndeterminateError as error:
            raise LightningUnavailableError(str(error)) from error

    async def _do(self, method: str, params: Params) -> None:
        """Change something; a refusal says nothing of what is, so it is looked up then."""
        try:
            await self._rpc.call(method, params)
        except NodeRefusal as refusal:
            raise IndeterminateError(refusal.message) from refusal


def _converted(method: str, answer: dict[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        message = f"lightningd does not answer {method} as it should: {error}"
        raise LightningUnavailableError(message) from error


def _unavailable(refusal: NodeRefusal) -> LightningUnavailableError:
    return LightningUnavailableError(f"lightningd says: {refusal.message}")


def _label(payment_hash: bytes) -> str:
    return f"zmqex-{payment_hash.hex()}"


def _key(what: str, payment_hash: bytes) -> list[str]:
    return ["zmqex", what, payment_hash.hex()]


def _same(text: str, payment_hash: bytes, amount_msat: int, min_final_cltv: int) -> str:
    """The text, if it is the invoice that was asked for."""
    try:
        invoice = decode(text)
    except InvalidInvoiceError as error:
        raise RejectedError(RejectReason.INVALID_INVOICE, str(error)) from error
    if (invoice.payment_hash, invoice.amount_msat) != (payment_hash, amount_msat):
        message = "lightningd has another invoice for this payment hash"
        raise RejectedError(RejectReason.WRONG_PAYMENT_HASH, message)
    if invoice.min_final_cltv < min_final_cltv:
        message = f"its invoices lock for {invoice.min_final_cltv} blocks, {min_final_cltv} needed"
        raise RejectedError(RejectReason.LIGHTNING_UNAVAILABLE, message)
    return text


def _held_info(held: _HoldInvoice) -> InvoiceInfo:
    parts = [part for part in held.htlcs if part.state in {"accepted", "paid"}]
    received_msat = sum(part.msat for part in parts)
    state = _HELD[held.state]
    if state != "accepted":
        return InvoiceInfo(state, received_msat if state == "settled" else 0)
    locks = [part.cltv_expiry for part in parts]
    known = [lock for lock in locks if lock is not None]
    # Without all of them the earliest is not known.
    return InvoiceInfo(state, received_msat, min(known) if len(known) == len(locks) > 0 else None)
