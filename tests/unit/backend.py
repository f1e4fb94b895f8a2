"""A Lightning backend that does as it is told, and remembers what it was asked."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec

from zmqex.adapters.ports import InvoiceInfo, LightningInfo, PaymentInfo

HASH = b"h" * 32
OWN = LightningInfo("play", "bcrt", b"n" * 33, 0, can_hold=True, balance_msat=1, in_flight_msat=0)


class Lightning:
    """A backend that does as it is told."""

    def __init__(self, error: Exception | None = None, *, only: str = "") -> None:
        """With an error: every call ends so, or only the named one."""
        self.asked: list[str] = []
        self._error = error
        self._only = only
        self.payment_info = PaymentInfo("succeeded", b"p" * 32)
        self.invoice_info = InvoiceInfo("settled", 7)
        self.changes: list[InvoiceInfo] = []
        self.height = 100
        self.synced = True
        self.balance_msat = OWN.balance_msat

    def _hear(self, call: str) -> None:
        self.asked.append(call)
        if self._error is not None and self._only in {"", call}:
            raise self._error

    async def info(self) -> LightningInfo:
        """What changes of it is said anew."""
        self._hear("info")
        now = {"height": self.height, "synced": self.synced, "balance_msat": self.balance_msat}
        return msgspec.structs.replace(OWN, **now)

    async def node_key(self) -> bytes:
        """Always the same."""
        return OWN.node

    async def create_invoice(
        self, preimage: bytes, *, amount_msat: int, memo: str, expiry_s: int, first: bool = False
    ) -> str:
        """See the port."""
        self._hear("create_invoice")
        return f"lnbcrt {preimage.hex()} {amount_msat} {memo} {expiry_s}{' first' * first}"

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
        self._hear("create_hold_invoice")
        return f"lnbcrt {payment_hash.hex()} {amount_msat} {memo} {expiry_s} {min_final_cltv}"

    async def invoice(self, payment_hash: bytes) -> InvoiceInfo:
        """See the port."""
        assert payment_hash == HASH
        self._hear("invoice")
        return self.invoice_info

    async def settle(self, preimage: bytes) -> None:
        """See the port."""
        assert preimage == b"p" * 32
        self._hear("settle")

    async def cancel(self, payment_hash: bytes) -> None:
        """See the port."""
        assert payment_hash == HASH
        self._hear("cancel")

    async def pay(self, invoice: str, *, fee_limit_msat: int, cltv_limit: int) -> PaymentInfo:
        """See the port."""
        assert (invoice, fee_limit_msat, cltv_limit) == ("lnbcrt1", 10, 432)
        self._hear("pay")
        return self.payment_info

    async def payment(self, payment_hash: bytes) -> PaymentInfo:
        """See the port."""
        assert payment_hash == HASH
        self._hear("payment")
        return self.payment_info

    async def watch(self, payment_hash: bytes) -> AsyncGenerator[InvoiceInfo, None]:
        """See the port."""
        assert payment_hash == HASH
        self._hear("watch")
        for info in self.changes:
            yield info

    async def close(self) -> None:
        """Nothing to let go."""
