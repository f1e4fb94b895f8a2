"""Calls to the hold server and to Lightning: each ends in exactly one event, whatever happens.

Library and backend errors arrive as the exceptions of `zmqex.errors`; here they become events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from zmqex.adapters.holds.port import HoldRow, Holds
from zmqex.adapters.ports import Lightning, PaymentInfo
from zmqex.errors import (
    LightningUnavailableError,
    PeerUnavailableError,
    RejectedError,
    UnavailableError,
    ZmqexError,
)
from zmqex.kernel.effects import (
    CancelInvoice,
    CreateInvoice,
    Effect,
    ExtendHold,
    LookupInvoice,
    LookupPayment,
    PayInvoice,
    PlayPayEnded,
    RebuildHolds,
    ReleaseHold,
    ReserveHold,
)
from zmqex.kernel.events import (
    Event,
    HoldAnswered,
    HoldFailed,
    InvoiceCreated,
    InvoiceSeen,
    LightningFailed,
    PaymentSeen,
    PlayPayWanted,
)
from zmqex.limits import SECOND_MS
from zmqex.reasons import RejectReason

Post = Callable[[Event], None]
Call = Literal["create_invoice", "invoice", "cancel", "pay", "payment"]


HOLD_EFFECTS = (ReserveHold, ReleaseHold, ExtendHold, RebuildHolds)


class HoldCalls:
    """Carries out the effects on holds."""

    def __init__(self, holds: Holds, post: Post) -> None:
        """`post` takes the answers."""
        self._holds = holds
        self._post = post

    async def carry_out(
        self, effect: ReserveHold | ReleaseHold | ExtendHold | RebuildHolds
    ) -> None:
        """Do it; only a reservation is answered, the others are corrected by the next rebuild."""
        try:
            await self._call(effect)
        except ZmqexError as error:
            if isinstance(effect, ReserveHold):
                self._post(HoldFailed(effect.trade_id, _retry_after_ms(error)))

    async def _call(self, effect: ReserveHold | ReleaseHold | ExtendHold | RebuildHolds) -> None:
        match effect:
            case ReserveHold():
                answer = await self._holds.reserve(
                    order_id=effect.order_id,
                    trade_id=effect.trade_id,
                    quantity_lots=effect.quantity_lots,
                    capacity_lots=effect.capacity_lots,
                    fence=effect.fence,
                    ttl_ms=effect.ttl_ms,
                )
                self._post(HoldAnswered(effect.trade_id, answer.outcome.value))
            case ReleaseHold():
                await self._holds.release(effect.order_id, effect.trade_id, effect.fence)
            case ExtendHold():
                await self._holds.extend(
                    effect.order_id, effect.trade_id, effect.fence, effect.ttl_ms
                )
            case RebuildHolds():
                rows = [HoldRow(*row) for row in effect.rows]
                await self._holds.rebuild(effect.epoch, rows)


LIGHTNING_EFFECTS = (CreateInvoice, LookupInvoice, CancelInvoice, PayInvoice, LookupPayment)
_CALLS: dict[type[Effect], Call] = {
    CreateInvoice: "create_invoice",
    LookupInvoice: "invoice",
    CancelInvoice: "cancel",
    PayInvoice: "pay",
    LookupPayment: "payment",
}


class LightningCalls:
    """Carries out the effects on Lightning."""

    def __init__(self, lightning: Lightning, post: Post) -> None:
        """`post` takes the answers; settled invoices are told as they happen."""
        self._lightning = lightning
        self._post = post
        lightning.watch(lambda payment_hash: post(InvoiceSeen(payment_hash, "settled")))

    async def carry_out(
        self, effect: CreateInvoice | LookupInvoice | CancelInvoice | PayInvoice | LookupPayment
    ) -> None:
        """Do it, and tell how it ended."""
        try:
            self._post(await self._call(effect))
        except RejectedError as error:
            self._failed(effect, error, error.reason, indeterminate=False)
        except LightningUnavailableError as error:
            reason = RejectReason.LIGHTNING_UNAVAILABLE
            self._failed(effect, error, reason, indeterminate=False)
        except ZmqexError as error:
            reason = RejectReason.LIGHTNING_UNAVAILABLE
            self._failed(effect, error, reason, indeterminate=True)

    async def _call(
        self, effect: CreateInvoice | LookupInvoice | CancelInvoice | PayInvoice | LookupPayment
    ) -> Event:
        match effect:
            case CreateInvoice():
                text = await self._lightning.create_invoice(
                    effect.preimage,
                    amount_msat=effect.amount_msat,
                    memo=effect.memo,
                    expiry_s=effect.expiry_s,
                )
                return InvoiceCreated(effect.trade_id, effect.payment_hash, text)
            case LookupInvoice():
                return await self._invoice_seen(effect.payment_hash)
            case CancelInvoice():
                try:
                    await self._lightning.cancel(effect.payment_hash)
                except RejectedError:
                    # It has settled meanwhile: the look-up says so.
                    return await self._invoice_seen(effect.payment_hash)
                return await self._invoice_seen(effect.payment_hash)
            case PayInvoice():
                info = await self._lightning.pay(
                    effect.invoice,
                    fee_limit_msat=effect.fee_limit_msat,
                    cltv_limit=effect.cltv_limit,
                )
                return _payment_seen(effect, info)
            case LookupPayment():
                return _payment_seen(effect, await self._lightning.payment(effect.payment_hash))

    async def _invoice_seen(self, payment_hash: bytes) -> Event:
        info = await self._lightning.invoice(payment_hash)
        return InvoiceSeen(payment_hash, info.state)

    def _failed(
        self,
        effect: CreateInvoice | LookupInvoice | CancelInvoice | PayInvoice | LookupPayment,
        error: ZmqexError,
        reason: RejectReason,
        *,
        indeterminate: bool,
    ) -> None:
        self._post(
            LightningFailed(
                effect.trade_id,
                effect.payment_hash,
                _CALLS[type(effect)],
                indeterminate,
                reason,
                str(error),
            )
        )


def _retry_after_ms(error: ZmqexError) -> int:
    return error.retry_after_ms if isinstance(error, UnavailableError) else SECOND_MS


_WORDS = frozenset(reason.value for reason in RejectReason)


def _payment_seen(effect: PayInvoice | LookupPayment, info: PaymentInfo) -> PaymentSeen:
    reason = RejectReason(info.reason) if info.reason in _WORDS else None
    return PaymentSeen(effect.trade_id, effect.payment_hash, info.state, info.preimage, reason)


class KernelWire:
    """Play money's wire: the kernel carries the request over the peers' connections."""

    def __init__(self, post: Post) -> None:
        """`post` takes what is to be sent."""
        self._post = post
        self._tickets = 0
        self._waiting: dict[int, asyncio.Future[tuple[bytes | None, str]]] = {}

    async def play_pay(
        self, payee_node: bytes, *, payment_hash: bytes, amount_msat: int, payer_node: bytes
    ) -> tuple[bytes | None, str]:
        """See `zmqex.adapters.ports.PlayWire`."""
        self._tickets += 1
        ticket = self._tickets
        answer: asyncio.Future[tuple[bytes | None, str]] = (
            asyncio.get_running_loop().create_future()
        )
        self._waiting[ticket] = answer
        self._post(PlayPayWanted(ticket, payee_node, payment_hash, amount_msat, payer_node))
        preimage, reason = await answer
        if preimage is None and not reason:
            message = "the payee did not answer"
            raise PeerUnavailableError(message)
        return preimage, reason

    def ended(self, effect: PlayPayEnded) -> None:
        """The kernel has the payee's answer."""
        answer = self._waiting.pop(effect.ticket)
        if not answer.done():
            answer.set_result((effect.preimage, effect.reason))
