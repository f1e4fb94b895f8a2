"""Calls to the hold server and to Lightning: each ends in exactly one event, whatever happens.

Library and backend errors arrive as the exceptions of `zmqex.errors`; here they become events.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from zmqex.adapters.clock import wall_ms
from zmqex.adapters.holds.port import HoldRow, Holds
from zmqex.adapters.lightning.watching import ENDED
from zmqex.adapters.ports import InvoiceInfo, Lightning, PaymentInfo
from zmqex.errors import (
    IndeterminateError,
    LightningUnavailableError,
    OtherNodeError,
    PeerUnavailableError,
    RejectedError,
    UnavailableError,
    ZmqexError,
)
from zmqex.kernel.effects import (
    CancelInvoice,
    CreateHoldInvoice,
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
    SettleInvoice,
)
from zmqex.kernel.events import (
    Event,
    FundsSeen,
    HeightSeen,
    HoldAnswered,
    HoldFailed,
    InvoiceCreated,
    InvoiceSeen,
    InvoiceState,
    LightningCall,
    LightningFailed,
    OtherNodeSeen,
    PaymentSeen,
    PlayPayWanted,
)
from zmqex.limits import HEIGHT_EVERY_S, SECOND_MS, WATCH_AFTER_S
from zmqex.market.instruments import BASE
from zmqex.reasons import RejectReason

Post = Callable[[Event], None]
Spawn = Callable[[Coroutine[Any, Any, None]], None]


HOLD_EFFECTS = (ReserveHold, ReleaseHold, ExtendHold, RebuildHolds)


class HoldCalls:
    """Carries out the effects on holds."""

    def __init__(self, holds: Holds, post: Post) -> None:
        """`post` takes the answers."""
        self._holds = holds
        self._post = post
        self._epoch: bytes | None = None
        self._rebuilding = 0

    @property
    def epoch(self) -> bytes | None:
        """What the server's memory must say; None while a rebuild is on its way, and before one."""
        return None if self._rebuilding else self._epoch

    async def carry_out(
        self, effect: ReserveHold | ReleaseHold | ExtendHold | RebuildHolds
    ) -> None:
        """Do it; only a reservation is answered, the others are corrected by the next rebuild."""
        try:
            await self._call(effect)
        except ZmqexError as error:
            self._failed(effect, error)
        except Exception as error:
            self._failed(effect, error)
            raise

    def _failed(self, effect: Effect, error: Exception) -> None:
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
                self._epoch = effect.epoch
                self._rebuilding += 1
                try:
                    await self._holds.rebuild(effect.epoch, rows)
                finally:
                    self._rebuilding -= 1


LightningEffect = (
    CreateInvoice
    | CreateHoldInvoice
    | LookupInvoice
    | SettleInvoice
    | CancelInvoice
    | PayInvoice
    | LookupPayment
)
_CALLS: dict[type[Effect], LightningCall] = {
    CreateInvoice: "create_invoice",
    CreateHoldInvoice: "create_hold_invoice",
    LookupInvoice: "invoice",
    SettleInvoice: "settle",
    CancelInvoice: "cancel",
    PayInvoice: "pay",
    LookupPayment: "payment",
}
LIGHTNING_EFFECTS = tuple(_CALLS)


class _Turn:
    """Whose turn it is among the calls about one payment hash."""

    __slots__ = ("lock", "wanted")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.wanted = 0


class LightningCalls:
    """Carries out the effects on the Lightning network of one asset."""

    def __init__(
        self, lightning: Lightning, post: Post, spawn: Spawn, *, asset: str = BASE
    ) -> None:
        """`post` takes the answers, `spawn` what goes on beside them."""
        self._lightning = lightning
        self._asset = asset
        self._post = post
        self._spawn = spawn
        self._watched: set[bytes] = set()
        self._turns: dict[bytes, _Turn] = {}

    async def carry_out(self, effect: LightningEffect) -> None:
        """Do it, and tell how it ended; an invoice that has not ended is watched from then on.

        Calls about one payment hash are made one after the other: a look-up that was overtaken by
        a payment would tell of a past in which nothing was paid.
        """
        turn = self._turns.setdefault(effect.payment_hash, _Turn())
        turn.wanted += 1
        try:
            async with turn.lock:
                await self._carry_out(effect)
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._turns[effect.payment_hash]

    async def _carry_out(self, effect: LightningEffect) -> None:
        try:
            event = await self._call(effect)
        except RejectedError as error:
            self._failed(effect, error, error.reason, indeterminate=False)
        except LightningUnavailableError as error:
            reason = RejectReason.LIGHTNING_UNAVAILABLE
            self._failed(effect, error, reason, indeterminate=False)
        except ZmqexError as error:
            reason = RejectReason.LIGHTNING_UNAVAILABLE
            self._failed(effect, error, reason, indeterminate=True)
        except Exception as error:
            # A fault of ours says nothing of what the node has done.
            reason = RejectReason.LIGHTNING_UNAVAILABLE
            self._failed(effect, error, reason, indeterminate=True)
            raise
        else:
            self._post(event)
            if isinstance(event, InvoiceCreated):
                self._watch(event.payment_hash, "open")
            elif isinstance(event, InvoiceSeen) and event.state != "unknown":
                self._watch(event.payment_hash, event.state)

    async def _call(self, effect: LightningEffect) -> Event:
        match effect:
            case CreateInvoice():
                text = await self._lightning.create_invoice(
                    effect.preimage,
                    amount_msat=effect.amount_msat,
                    memo=effect.memo,
                    expiry_s=effect.expiry_s,
                    first=effect.first,
                )
                return InvoiceCreated(effect.trade_id, effect.payment_hash, text, self._asset)
            case CreateHoldInvoice():
                text = await self._lightning.create_hold_invoice(
                    effect.payment_hash,
                    amount_msat=effect.amount_msat,
                    memo=effect.memo,
                    expiry_s=effect.expiry_s,
                    min_final_cltv=effect.min_final_cltv,
                )
                return InvoiceCreated(effect.trade_id, effect.payment_hash, text, self._asset)
            case PayInvoice():
                if 0 < effect.not_after_ms < wall_ms():
                    # The process stood still between the decision and here.
                    raise RejectedError(RejectReason.TOO_LATE_TO_PAY, "decided too long ago")
                info = await self._lightning.pay(
                    effect.invoice,
                    fee_limit_msat=effect.fee_limit_msat,
                    cltv_limit=effect.cltv_limit,
                )
                return await self._payment_seen(effect, info)
            case LookupPayment():
                info = await self._lightning.payment(effect.payment_hash)
                return await self._payment_seen(effect, info)
            case SettleInvoice():
                await self._lightning.settle(effect.preimage)
            case CancelInvoice():
                # One that is refused has settled meanwhile: the look-up says so.
                with contextlib.suppress(RejectedError):
                    await self._lightning.cancel(effect.payment_hash)
            case LookupInvoice():
                pass
        seen = await self._lightning.invoice(effect.payment_hash)
        return await self._invoice_seen(effect.payment_hash, seen)

    async def _invoice_seen(self, payment_hash: bytes, info: InvoiceInfo) -> InvoiceSeen:
        lock = await self._lock(info)
        return InvoiceSeen(payment_hash, info.state, info.received_msat, *lock, self._asset)

    async def _payment_seen(
        self, effect: PayInvoice | LookupPayment, info: PaymentInfo
    ) -> PaymentSeen:
        lock = await self._lock(info)
        return PaymentSeen(
            effect.trade_id,
            effect.payment_hash,
            info.state,
            info.preimage,
            RejectReason(info.reason) if info.reason in _WORDS else None,
            *lock,
            self._asset,
            "pay" if isinstance(effect, PayInvoice) else "payment",
        )

    async def _lock(self, info: InvoiceInfo | PaymentInfo) -> tuple[int | None, int]:
        """Where a lock ends, and the height of now; the end is not told without the height.

        The height is asked last, so that it is never too low; that of a node which is behind its
        chain is none.  That this failed says nothing of the call before it.
        """
        if info.htlc_expiry_height is not None:
            with contextlib.suppress(LightningUnavailableError, IndeterminateError):
                own = await self._lightning.info()
                if own.synced:
                    return info.htlc_expiry_height, own.height
        return None, 0

    def _watch(self, payment_hash: bytes, state: InvoiceState) -> None:
        if state not in ENDED and payment_hash not in self._watched:
            self._watched.add(payment_hash)
            self._spawn(self._follow(payment_hash, state))

    async def _follow(self, payment_hash: bytes, told: InvoiceState) -> None:
        """Tell each change of an invoice that the kernel has not heard of yet."""
        try:
            if told == "open":
                # Whoever pays it must be told of it first; that is more urgent than watching.
                await asyncio.sleep(WATCH_AFTER_S)
            async with contextlib.aclosing(self._lightning.watch(payment_hash)) as changes:
                async for info in changes:
                    if info.state != told:
                        told = info.state
                        self._post(await self._invoice_seen(payment_hash, info))
        finally:
            self._watched.discard(payment_hash)

    async def follow_backend(self) -> None:
        """Tell the height, what can be spent, and whose node says it, each when it changes."""
        told: dict[type[Event], Event] = {OtherNodeSeen: OtherNodeSeen(b"", self._asset)}
        while True:
            # A backend that is away says it when it is back.
            with contextlib.suppress(LightningUnavailableError, IndeterminateError):
                for news in await self._news():
                    if told.get(type(news)) != news:
                        told[type(news)] = news
                        self._post(news)
            await asyncio.sleep(HEIGHT_EVERY_S)

    async def _news(self) -> tuple[Event, ...]:
        try:
            own = await self._lightning.info()
        except OtherNodeError as error:
            return (OtherNodeSeen(error.node, self._asset),)
        return (
            OtherNodeSeen(b"", self._asset),
            HeightSeen(own.height, self._asset),
            FundsSeen(own.balance_msat, self._asset),
        )

    def _failed(
        self,
        effect: LightningEffect,
        error: Exception,
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
                self._asset,
            )
        )


def _retry_after_ms(error: Exception) -> int:
    return error.retry_after_ms if isinstance(error, UnavailableError) else SECOND_MS


_WORDS = frozenset(reason.value for reason in RejectReason)


class KernelWire:
    """Play money's wire: the kernel carries the request over the peers' connections."""

    def __init__(self, post: Post) -> None:
        """`post` takes what is to be sent."""
        self._post = post
        self._tickets = 0
        self._waiting: dict[int, asyncio.Future[tuple[bytes | None, str]]] = {}

    async def play_pay(
        self,
        payee_node: bytes,
        *,
        payment_hash: bytes,
        amount_msat: int,
        payer_node: bytes,
        asset: str = BASE,
    ) -> tuple[bytes | None, str]:
        """See `zmqex.adapters.ports.PlayWire`."""
        self._tickets += 1
        ticket = self._tickets
        answer: asyncio.Future[tuple[bytes | None, str]] = (
            asyncio.get_running_loop().create_future()
        )
        self._waiting[ticket] = answer
        self._post(PlayPayWanted(ticket, payee_node, payment_hash, amount_msat, payer_node, asset))
        preimage, reason = await answer
        if preimage is None and not reason:
            message = "the payee holds it, or did not answer"
            raise PeerUnavailableError(message)
        return preimage, reason

    def ended(self, effect: PlayPayEnded) -> None:
        """The kernel has the payee's answer."""
        answer = self._waiting.pop(effect.ticket)
        if not answer.done():
            answer.set_result((effect.preimage, effect.reason))
