"""A Lightning backend that must stay the node that it was at the start.

Behind an address another node may answer one day.  It knows nothing of our payments, so its "never
heard of it" would have us pay again.  Who answers is asked before each call, so that nothing is
begun at another node, and again before its answer counts.  Not for the play backend, whose ledger
is open as long as we run.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from zmqex.adapters.lightning.watching import ENDED
from zmqex.adapters.ports import InvoiceInfo, Lightning, LightningInfo, PaymentInfo
from zmqex.errors import (
    IndeterminateError,
    LightningUnavailableError,
    OtherNodeError,
    RejectedError,
)
from zmqex.limits import REATTACH_WAIT_S

T = TypeVar("T")


class SameNode:
    """Another backend, as long as its node is the one with this key; implements its port."""

    def __init__(self, backend: Lightning, key: bytes, origin: str) -> None:
        """`origin` is the setting that names the backend."""
        self._backend = backend
        self._key = key
        self._origin = origin

    async def info(self) -> LightningInfo:
        """Who and how rich the backend is."""
        info = await self._backend.info()
        self._check(info.node)
        return info

    async def node_key(self) -> bytes:
        """Whose node answers; OtherNodeError where it is not ours."""
        key = await self._backend.node_key()
        self._check(key)
        return key

    def _check(self, key: bytes) -> None:
        if key != self._key:
            message = (
                f"{self._origin}: another Lightning node answers there now, {key.hex()} in place "
                f"of {self._key.hex()}; nothing is paid or believed before that one is back"
            )
            raise OtherNodeError(message, node=key)

    async def _asked(self, call: Callable[[], Awaitable[T]]) -> T:
        """The answer, if the same node answers before and after."""
        await self.node_key()
        try:
            answer = await call()
        except RejectedError:
            await self._confirm()
            raise
        await self._confirm()
        return answer

    async def _confirm(self) -> None:
        """Whoever has been asked may have begun something by now."""
        try:
            await self.node_key()
        except LightningUnavailableError as error:
            raise IndeterminateError(str(error)) from error

    # --- the port --------------------------------------------------------------------------------

    async def create_invoice(
        self, preimage: bytes, *, amount_msat: int, memo: str, expiry_s: int, first: bool = False
    ) -> str:
        """See the port."""
        return await self._asked(
            lambda: self._backend.create_invoice(
                preimage, amount_msat=amount_msat, memo=memo, expiry_s=expiry_s, first=first
            )
        )

    async def create_hold_invoice(
        self,
        payment_hash: bytes,
        *,
        amount_msat: int,
        memo: str,
        expiry_s: int,
        min_final_cltv: int,
    ) -> str:
        """See the port."""
        return await self._asked(
            lambda: self._backend.create_hold_invoice(
                payment_hash,
                amount_msat=amount_msat,
                memo=memo,
                expiry_s=expiry_s,
                min_final_cltv=min_final_cltv,
            )
        )

    async def invoice(self, payment_hash: bytes) -> InvoiceInfo:
        """See the port."""
        return await self._asked(lambda: self._backend.invoice(payment_hash))

    async def settle(self, preimage: bytes) -> None:
        """See the port."""
        await self._asked(lambda: self._backend.settle(preimage))

    async def cancel(self, payment_hash: bytes) -> None:
        """See the port."""
        await self._asked(lambda: self._backend.cancel(payment_hash))

    async def pay(self, invoice: str, *, fee_limit_msat: int, cltv_limit: int) -> PaymentInfo:
        """See the port."""
        return await self._asked(
            lambda: self._backend.pay(invoice, fee_limit_msat=fee_limit_msat, cltv_limit=cltv_limit)
        )

    async def payment(self, payment_hash: bytes) -> PaymentInfo:
        """See the port."""
        return await self._asked(lambda: self._backend.payment(payment_hash))

    async def watch(self, payment_hash: bytes) -> AsyncGenerator[InvoiceInfo, None]:
        """See the port; what another node tells is passed over, and the watch begins anew."""
        while True:
            async with contextlib.aclosing(self._backend.watch(payment_hash)) as changes:
                async for info in changes:
                    if not await self._is_same():
                        break
                    yield info
                    if info.state in ENDED:
                        return
            await asyncio.sleep(REATTACH_WAIT_S)

    async def _is_same(self) -> bool:
        with contextlib.suppress(LightningUnavailableError, IndeterminateError):
            await self.node_key()
            return True
        return False

    async def close(self) -> None:
        """Let go."""
        await self._backend.close()
