"""Play money: real signed `lnbcrt` invoices, real preimages, and integer balances on disk.

To be paid, the payee credits itself and then reveals the preimage; the payer sets the amount aside
before it asks, and gives it up for good only for the right preimage.  Both write before they speak,
so the sum of all balances is the same after any crash, once every payment has ended.  A payment
that is held, or whose answer was lost, is in flight until asking again brings a final word.  It
moves nothing of value and works on the network `play` only.  Each asset has a ledger of its own;
the node key is the same for all of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import sqlite3
from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from zmqex.adapters.clock import wall_ms
from zmqex.adapters.lightning import play_ledger as ledger
from zmqex.adapters.lightning.paying import payable
from zmqex.adapters.lightning.watching import Watches
from zmqex.adapters.ports import InvoiceInfo, LightningInfo, PaymentInfo, PlayWire
from zmqex.adapters.storage.database import CommitHook, Database
from zmqex.adapters.storage.directory import create_private_file, read_private_file
from zmqex.bolt11 import Draft, InvoiceNetwork, decode, encode, public_key
from zmqex.errors import (
    LocalProtocolError,
    PeerUnavailableError,
    RejectedError,
    StorageError,
)
from zmqex.limits import (
    MIN_FINAL_CLTV_BLOCKS,
    PLAY_AUTO_CANCEL_BLOCKS,
    SECOND_MS,
    WATCH_EVERY_S,
)
from zmqex.market.instruments import BASE
from zmqex.reasons import RejectReason
from zmqex.trading.settlement import proves_payment

T = TypeVar("T")

PREFIX: Final = InvoiceNetwork.REGTEST.value
# Longer than a take waits for its answer, and one transaction for a crowd of them.
_WRITTEN_AFTER_S: Final = 0.003


def ledger_name(asset: str) -> str:
    """The file, in a node's data directory, of the ledger of one asset."""
    return "play.sqlite3" if asset == BASE else f"play-{asset.lower()}.sqlite3"


class PlayLightning:
    """The play backend of one node and one asset; implements the Lightning port."""

    def __init__(
        self,
        directory: Path,
        *,
        asset: str = BASE,
        clock_ms: Callable[[], int] = wall_ms,
        watch_every_s: float = WATCH_EVERY_S,
        on_commit: CommitHook | None = None,
    ) -> None:
        """Open (or create, with 10^12 msat) the ledger and the node key in a private directory."""
        self._secret = _node_secret(directory / "play-node.key")
        self._asset = asset
        self._clock_ms = clock_ms
        path = directory / ledger_name(asset)
        self._database = Database(path, ledger.MIGRATIONS, on_commit=on_commit)
        self._wire: PlayWire | None = None
        self._watches = Watches(self.invoice, every_s=watch_every_s, nudged=True)
        self._asking: dict[bytes, asyncio.Future[PaymentInfo]] = {}
        self._unwritten: list[ledger.NewInvoice] = []
        self.node = public_key(self._secret)
        self._ledger = self._database.read(ledger.identity).result()

    def connect(self, wire: PlayWire) -> None:
        """Payments travel over this wire; before that they stay in flight."""
        self._wire = wire

    async def info(self) -> LightningInfo:
        """Who and how rich this node is."""
        balance_msat, in_flight_msat = await self._read(ledger.balances)
        return LightningInfo(
            "play",
            PREFIX,
            self.node,
            ledger.height_at(self._clock_ms()),
            balance_msat=balance_msat,
            in_flight_msat=in_flight_msat,
            can_hold=True,
            auto_cancel_blocks=PLAY_AUTO_CANCEL_BLOCKS,
            ledger=self._ledger,
        )

    async def node_key(self) -> bytes:
        """Whose node answers: always our own."""
        return self.node

    # --- being paid ------------------------------------------------------------------------------

    async def create_invoice(
        self, preimage: bytes, *, amount_msat: int, memo: str, expiry_s: int, first: bool = False
    ) -> str:
        """Make an invoice for a preimage of ours; the same preimage again gives the same text.

        The `first` is given before the ledger has it, whose thread would only keep back the answer
        that it is for; whatever is asked of the ledger comes after it.
        """
        payment_hash = hashlib.sha256(preimage).digest()
        new = self._new(payment_hash, preimage, amount_msat, memo, expiry_s, MIN_FINAL_CLTV_BLOCKS)
        if not first:
            return await self._add(new, memo)
        if self._database.fault is not None:
            raise self._database.fault
        if not self._unwritten:
            asyncio.get_running_loop().call_later(_WRITTEN_AFTER_S, self._write_down)
        self._unwritten.append(new)
        self._watches.made(payment_hash)
        return new.text

    def _write_down(self) -> None:
        """Have the ledger write what was given out; should it fail, each later caller is told."""
        new, self._unwritten = self._unwritten, []
        if new:
            self._database.submit(
                lambda one: [ledger.add_invoice(one, each) for each in new],
                lambda _done: None,
                synced=False,
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
        """Make an invoice whose payment is held; the same hash again gives the same text."""
        new = self._new(payment_hash, None, amount_msat, memo, expiry_s, min_final_cltv)
        return await self._add(new, memo)

    def _new(
        self,
        payment_hash: bytes,
        preimage: bytes | None,
        amount_msat: int,
        memo: str,
        expiry_s: int,
        min_final_cltv: int,
    ) -> ledger.NewInvoice:
        now_ms = self._clock_ms()
        draft = Draft(
            network=InvoiceNetwork.REGTEST,
            timestamp_s=now_ms // SECOND_MS,
            payment_hash=payment_hash,
            # Bound to this node and hash, so that a repeat after a crash gives the same invoice.
            payment_secret=hashlib.blake2b(payment_hash, key=self._secret, digest_size=32).digest(),
            amount_msat=amount_msat,
            description=memo,
            expiry_s=expiry_s,
            min_final_cltv=min_final_cltv,
        )
        try:
            text = encode(draft, self._secret)
        except LocalProtocolError as error:
            raise RejectedError(RejectReason.INVALID_INVOICE, str(error)) from error
        expires_ms = now_ms + expiry_s * SECOND_MS
        return ledger.NewInvoice(
            payment_hash, preimage, amount_msat, text, expires_ms, min_final_cltv
        )

    async def _add(self, new: ledger.NewInvoice, memo: str) -> str:
        """Write an invoice down, or give the text of the one that there is.

        Its preimage and hash are on disk before anybody hears of it: power that fails until then
        may take the invoice with it, unpaid, and the look-up by its hash says so.
        """
        text, is_new = await self._write(lambda one: ledger.add_invoice(one, new), synced=False)
        if is_new:
            self._watches.made(new.payment_hash)
            return text
        known = decode(text)
        if (known.amount_msat, known.description, known.min_final_cltv) != (
            new.amount_msat,
            memo,
            new.min_final_cltv,
        ):
            message = "there is another invoice for this payment hash"
            raise RejectedError(RejectReason.WRONG_PAYMENT_HASH, message)
        return text

    async def invoice(self, payment_hash: bytes) -> InvoiceInfo:
        """Look one of our invoices up; one that has expired unpaid is cancelled for good."""

        def work(connection: sqlite3.Connection) -> InvoiceInfo:
            ledger.expire(connection, payment_hash, self._clock_ms())
            return ledger.invoice_info(connection, payment_hash)

        return await self._write(work)

    async def settle(self, preimage: bytes) -> None:
        """Take what is held for this preimage; idempotent."""
        now_ms = self._clock_ms()
        reason = await self._write(lambda one: ledger.settle(one, preimage, now_ms))
        if reason is not None:
            raise RejectedError(reason, "nothing is held for this preimage")
        self._watches.nudge(hashlib.sha256(preimage).digest())

    async def cancel(self, payment_hash: bytes) -> None:
        """Cancel an invoice; what is held goes back, and no payment is taken any more."""
        reason = await self._write(lambda one: ledger.cancel(one, payment_hash))
        if reason is not None:
            raise RejectedError(reason, "the invoice is settled")
        self._watches.nudge(payment_hash)

    def watch(self, payment_hash: bytes) -> AsyncGenerator[InvoiceInfo, None]:
        """See the port."""
        return self._watches.watch(payment_hash)

    async def receive(
        self, payment_hash: bytes, *, amount_msat: int, payer_node: bytes
    ) -> tuple[bytes | None, str]:
        """A payer asks to pay: the preimage, or None and why not, or None while it is held.

        We credit ourselves before we reveal the preimage.
        """
        now_ms = self._clock_ms()
        preimage, reason, changed = await self._write(
            lambda one: ledger.receive(one, payment_hash, amount_msat, payer_node, now_ms)
        )
        if changed:
            self._watches.nudge(payment_hash)
        return preimage, reason

    # --- paying ----------------------------------------------------------------------------------

    async def pay(self, invoice: str, *, fee_limit_msat: int, cltv_limit: int) -> PaymentInfo:
        """Pay; comes back in flight when it is held or unanswered.  Never pays a hash twice.

        A direct payment has no fee and no route, so both limits hold by themselves; a limit below
        zero or an invoice that asks for a longer lock is refused all the same.
        """
        now_ms = self._clock_ms()
        wanted, amount_msat = payable(
            invoice,
            prefix=PREFIX,
            node=self.node,
            fee_limit_msat=fee_limit_msat,
            cltv_limit=cltv_limit,
            now_ms=now_ms,
        )
        height = ledger.height_at(now_ms) + wanted.min_final_cltv
        payment = ledger.Payment(wanted.payment_hash, wanted.payee, amount_msat, height)
        reason = await self._write(lambda one: ledger.begin_payment(one, payment))
        if reason is not None:
            raise RejectedError(reason, "the play balance does not cover the payment")
        return await self.payment(payment.payment_hash)

    async def payment(self, payment_hash: bytes) -> PaymentInfo:
        """Look one of our payments up; one in flight asks its payee again."""
        info, payment = await self._read(lambda one: ledger.find_payment(one, payment_hash))
        if payment is None:
            return info
        asking = self._asking.get(payment_hash)
        if asking is not None:
            return await asyncio.shield(asking)
        future: asyncio.Future[PaymentInfo] = asyncio.get_running_loop().create_future()
        self._asking[payment_hash] = future
        try:
            info = await self._ask(payment) or info
        finally:
            del self._asking[payment_hash]
            future.set_result(info)
        return info

    async def _ask(self, payment: ledger.Payment) -> PaymentInfo | None:
        """Ask the payee; None while that brings no final word."""
        if self._wire is None:
            return None
        try:
            preimage, reason = await self._wire.play_pay(
                payment.payee,
                payment_hash=payment.payment_hash,
                amount_msat=payment.amount_msat,
                payer_node=self.node,
                asset=self._asset,
            )
        except PeerUnavailableError:
            return None
        if preimage is not None and proves_payment(preimage, payment.payment_hash):
            info = PaymentInfo("succeeded", preimage)
        elif preimage is None and reason:
            info = PaymentInfo("failed", reason=reason)
        else:
            # Held; or a wrong preimage, which proves nothing: the payee may have credited itself.
            return None
        await self._write(lambda one: ledger.end_payment(one, payment, info))
        return info

    async def close(self) -> None:
        """Write what is queued and close the ledger."""
        self._write_down()
        await asyncio.to_thread(self._database.close)

    # --- the ledger's thread ---------------------------------------------------------------------

    async def _write(self, work: Callable[[sqlite3.Connection], T], *, synced: bool = True) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | StorageError) -> None:
            if future.done():
                return
            if isinstance(result, StorageError):
                future.set_exception(result)
            else:
                future.set_result(result)

        told = partial(_call_soon, loop, settle)
        self._write_down()
        self._database.submit(work, told, synced=synced)
        return await future

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._write_down()
        return await asyncio.wrap_future(self._database.read(work))


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[T], None], result: T) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, result)


def _node_secret(path: Path) -> bytes:
    """The node key on disk; made at first start."""
    try:
        return read_private_file(path)
    except FileNotFoundError:
        secret = secrets.token_bytes(32)
        create_private_file(path, secret)
        return secret
