"""Play money: real signed `lnbcrt` invoices, real preimages, and integer balances on disk.

To be paid, the payee credits itself and then reveals the preimage; the payer sets the amount aside
before it asks, and gives it up for good only for the right preimage.  Both write before they speak,
so the sum of all balances is the same after any crash, once every payment has ended.  A payment
whose answer was lost is in flight until asking again brings a final word.  It moves nothing of
value and works on the network `play` only.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from zmqex.adapters.clock import wall_ms
from zmqex.adapters.ports import InvoiceInfo, LightningInfo, PaymentInfo, PlayWire
from zmqex.adapters.storage.database import CommitHook, Database
from zmqex.adapters.storage.directory import create_private_file, read_private_file
from zmqex.bolt11 import Draft, InvoiceNetwork, decode, encode, expires_at_ms, public_key
from zmqex.errors import (
    InvalidInvoiceError,
    LocalProtocolError,
    PeerUnavailableError,
    RejectedError,
    StorageError,
)
from zmqex.limits import MIN_FINAL_CLTV_BLOCKS, PLAY_BALANCE_MSAT, SECOND_MS
from zmqex.reasons import RejectReason
from zmqex.trading.settlement import proves_payment

T = TypeVar("T")

_PAYMENT_SECRET_FEATURES: Final = (1 << 8) | (1 << 14)  # var_onion, payment_secret: compulsory

_FIRST_BALANCE: Final = f"INSERT INTO balance VALUES (1, {PLAY_BALANCE_MSAT});"  # noqa: S608
MIGRATIONS: Final = (
    """
    CREATE TABLE balance (
        only INTEGER PRIMARY KEY CHECK (only = 1), msat INTEGER NOT NULL CHECK (msat >= 0)
    );
    CREATE TABLE invoice (
        payment_hash BLOB PRIMARY KEY, preimage BLOB NOT NULL, amount_msat INTEGER NOT NULL,
        text TEXT NOT NULL, state TEXT NOT NULL CHECK (state IN ('open', 'settled', 'canceled')),
        expires_ms INTEGER NOT NULL, payer BLOB
    ) WITHOUT ROWID;
    CREATE TABLE payment (
        payment_hash BLOB PRIMARY KEY, payee BLOB NOT NULL, amount_msat INTEGER NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('in_flight', 'succeeded', 'failed')),
        preimage BLOB, reason TEXT NOT NULL DEFAULT ''
    ) WITHOUT ROWID;
    """
    + _FIRST_BALANCE,
)


class _Payment(msgspec.Struct, frozen=True):
    payment_hash: bytes
    payee: bytes
    amount_msat: int


class PlayLightning:
    """The play backend of one node; implements the Lightning port."""

    def __init__(
        self,
        directory: Path,
        *,
        clock_ms: Callable[[], int] = wall_ms,
        on_commit: CommitHook | None = None,
    ) -> None:
        """Open (or create, with 10 BTC) the ledger and the node key in a private directory."""
        self._secret = _node_secret(directory / "play-node.key")
        self._clock_ms = clock_ms
        self._database = Database(directory / "play.sqlite3", MIGRATIONS, on_commit=on_commit)
        self._wire: PlayWire | None = None
        self._on_settled: Callable[[bytes], None] = lambda _payment_hash: None
        self._asking: dict[bytes, asyncio.Future[PaymentInfo]] = {}
        self.node = public_key(self._secret)

    def connect(self, wire: PlayWire) -> None:
        """Payments travel over this wire; before that they stay in flight."""
        self._wire = wire

    async def info(self) -> LightningInfo:
        """Who and how rich this node is."""

        def work(connection: sqlite3.Connection) -> tuple[int, int]:
            (msat,) = connection.execute("SELECT msat FROM balance").fetchone()
            (flying,) = connection.execute(
                "SELECT coalesce(sum(amount_msat), 0) FROM payment WHERE state = 'in_flight'"
            ).fetchone()
            return msat, flying

        balance_msat, in_flight_msat = await self._read(work)
        height = self._clock_ms() // (600 * SECOND_MS)  # a simulated block every ten minutes
        return LightningInfo(
            "play",
            "bcrt",
            self.node,
            height,
            balance_msat=balance_msat,
            in_flight_msat=in_flight_msat,
            can_hold=False,
        )

    # --- being paid ------------------------------------------------------------------------------

    async def create_invoice(
        self, preimage: bytes, *, amount_msat: int, memo: str, expiry_s: int
    ) -> str:
        """Make an invoice for a preimage of ours; the same preimage again gives the same text."""
        payment_hash = hashlib.sha256(preimage).digest()
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
            min_final_cltv=MIN_FINAL_CLTV_BLOCKS,
            features=_PAYMENT_SECRET_FEATURES,
        )
        try:
            text = encode(draft, self._secret)
        except LocalProtocolError as error:
            raise RejectedError(RejectReason.INVALID_INVOICE, str(error)) from error

        def work(connection: sqlite3.Connection) -> str:
            connection.execute(
                "INSERT INTO invoice VALUES (?, ?, ?, ?, 'open', ?, NULL) ON CONFLICT DO NOTHING",
                (payment_hash, preimage, amount_msat, text, now_ms + expiry_s * SECOND_MS),
            )
            row = connection.execute(
                "SELECT text FROM invoice WHERE payment_hash = ?", (payment_hash,)
            ).fetchone()
            return str(row[0])

        return await self._write(work)

    async def invoice(self, payment_hash: bytes) -> InvoiceInfo:
        """Look one of our invoices up; one that has expired unpaid is cancelled for good."""

        def work(connection: sqlite3.Connection) -> InvoiceInfo:
            _expire(connection, payment_hash, self._clock_ms())
            row = connection.execute(
                "SELECT state, amount_msat FROM invoice WHERE payment_hash = ?", (payment_hash,)
            ).fetchone()
            if row is None:
                return InvoiceInfo("unknown")
            return InvoiceInfo(row[0], row[1] if row[0] == "settled" else 0)

        return await self._write(work)

    async def cancel(self, payment_hash: bytes) -> None:
        """Cancel an invoice; from then on no payment of it is taken.  Idempotent."""

        def work(connection: sqlite3.Connection) -> bool:
            connection.execute(
                "UPDATE invoice SET state = 'canceled' WHERE payment_hash = ? AND state = 'open'",
                (payment_hash,),
            )
            row = connection.execute(
                "SELECT state FROM invoice WHERE payment_hash = ?", (payment_hash,)
            ).fetchone()
            return row is not None and row[0] == "settled"

        if await self._write(work):
            raise RejectedError(RejectReason.ALREADY_PAID, "the invoice is settled")

    def watch(self, on_settled: Callable[[bytes], None]) -> None:
        """From now on call `on_settled(payment_hash)` whenever one of our invoices settles."""
        self._on_settled = on_settled

    async def receive(
        self, payment_hash: bytes, *, amount_msat: int, payer_node: bytes
    ) -> tuple[bytes | None, str]:
        """A payer asks to pay: credit ourselves, then reveal the preimage; or None and why not.

        The same payer gets the same answer again; a second payer and a late payment are refused.
        """

        def work(connection: sqlite3.Connection) -> tuple[bytes | None, str, bool]:
            _expire(connection, payment_hash, self._clock_ms())
            row = connection.execute(
                "SELECT preimage, amount_msat, state, payer FROM invoice WHERE payment_hash = ?",
                (payment_hash,),
            ).fetchone()
            if row is None:
                return None, RejectReason.WRONG_PAYMENT_HASH.value, False
            preimage, wanted_msat, state, payer = row
            if state == "settled":
                known = payer == payer_node and wanted_msat == amount_msat
                return (preimage if known else None), RejectReason.ALREADY_PAID.value, False
            if state == "canceled":
                return None, RejectReason.INVOICE_EXPIRED.value, False
            if wanted_msat != amount_msat:
                return None, RejectReason.WRONG_INVOICE_AMOUNT.value, False
            connection.execute(
                "UPDATE invoice SET state = 'settled', payer = ? WHERE payment_hash = ?",
                (payer_node, payment_hash),
            )
            connection.execute("UPDATE balance SET msat = msat + ?", (amount_msat,))
            return preimage, "", True

        preimage, reason, settled_now = await self._write(work)
        if settled_now:
            self._on_settled(payment_hash)
        return preimage, "" if preimage else reason

    # --- paying ----------------------------------------------------------------------------------

    async def pay(self, invoice: str, *, fee_limit_msat: int, cltv_limit: int) -> PaymentInfo:
        """Pay; comes back in flight when the payee gave no answer.  Never pays a hash twice.

        A direct payment has no fee and no route, so both limits hold by themselves; a limit below
        zero or an invoice that asks for a longer lock is refused all the same.
        """
        payment = self._check(invoice, fee_limit_msat, cltv_limit)

        def work(connection: sqlite3.Connection) -> RejectReason | None:
            row = connection.execute(
                "SELECT state FROM payment WHERE payment_hash = ?", (payment.payment_hash,)
            ).fetchone()
            if row is not None and row[0] != "failed":
                return None
            changed = connection.execute(
                "UPDATE balance SET msat = msat - ? WHERE msat >= ?",
                (payment.amount_msat, payment.amount_msat),
            )
            if changed.rowcount != 1:
                return RejectReason.INSUFFICIENT_BALANCE
            connection.execute(
                "INSERT INTO payment (payment_hash, payee, amount_msat, state) "
                "VALUES (?, ?, ?, 'in_flight') ON CONFLICT (payment_hash) DO UPDATE "
                "SET state = 'in_flight', payee = excluded.payee, reason = '', "
                "amount_msat = excluded.amount_msat",
                (payment.payment_hash, payment.payee, payment.amount_msat),
            )
            return None

        reason = await self._write(work)
        if reason is not None:
            raise RejectedError(reason, "the play balance does not cover the payment")
        return await self.payment(payment.payment_hash)

    def _check(self, text: str, fee_limit_msat: int, cltv_limit: int) -> _Payment:
        try:
            invoice = decode(text)
        except InvalidInvoiceError as error:
            raise RejectedError(RejectReason.INVALID_INVOICE, str(error)) from error
        if invoice.network is not InvoiceNetwork.REGTEST:
            message = "play money cannot pay an invoice of another network"
            raise RejectedError(RejectReason.WRONG_INVOICE_NETWORK, message)
        if invoice.amount_msat is None or fee_limit_msat < 0:
            raise RejectedError(RejectReason.WRONG_INVOICE_AMOUNT, "the invoice has no amount")
        if invoice.min_final_cltv > cltv_limit:
            raise RejectedError(RejectReason.CLTV_TOO_LONG, "the invoice locks for too long")
        if expires_at_ms(invoice) <= self._clock_ms():
            raise RejectedError(RejectReason.INVOICE_EXPIRED, "the invoice has expired")
        if invoice.payee == self.node:
            raise RejectedError(RejectReason.WRONG_PAYEE, "that is our own invoice")
        return _Payment(invoice.payment_hash, invoice.payee, invoice.amount_msat)

    async def payment(self, payment_hash: bytes) -> PaymentInfo:
        """Look one of our payments up; one in flight asks its payee again."""
        info, payment = await self._read(lambda one: _payment_row(one, payment_hash))
        if payment is None:
            return info
        asking = self._asking.get(payment_hash)
        if asking is not None:
            return await asyncio.shield(asking)
        future: asyncio.Future[PaymentInfo] = asyncio.get_running_loop().create_future()
        self._asking[payment_hash] = future
        try:
            info = await self._ask(payment)
        finally:
            del self._asking[payment_hash]
            future.set_result(info)
        return info

    async def _ask(self, payment: _Payment) -> PaymentInfo:
        if self._wire is None:
            return PaymentInfo("in_flight")
        try:
            preimage, reason = await self._wire.play_pay(
                payment.payee,
                payment_hash=payment.payment_hash,
                amount_msat=payment.amount_msat,
                payer_node=self.node,
            )
        except PeerUnavailableError:
            return PaymentInfo("in_flight")
        if preimage is not None and proves_payment(preimage, payment.payment_hash):
            return await self._end(payment, PaymentInfo("succeeded", preimage))
        if preimage is not None:
            # A wrong preimage proves nothing, and the payee may have credited itself: not failed.
            return PaymentInfo("in_flight")
        return await self._end(payment, PaymentInfo("failed", reason=reason))

    async def _end(self, payment: _Payment, info: PaymentInfo) -> PaymentInfo:
        def work(connection: sqlite3.Connection) -> None:
            changed = connection.execute(
                "UPDATE payment SET state = ?, preimage = ?, reason = ? "
                "WHERE payment_hash = ? AND state = 'in_flight'",
                (info.state, info.preimage, info.reason, payment.payment_hash),
            )
            if changed.rowcount == 1 and info.state == "failed":
                connection.execute("UPDATE balance SET msat = msat + ?", (payment.amount_msat,))

        await self._write(work)
        return info

    async def close(self) -> None:
        """Write what is queued and close the ledger."""
        await asyncio.to_thread(self._database.close)

    # --- the ledger's thread ---------------------------------------------------------------------

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | StorageError) -> None:
            if future.done():
                return
            if isinstance(result, StorageError):
                future.set_exception(result)
            else:
                future.set_result(result)

        self._database.submit(work, lambda result: _call_soon(loop, settle, result))
        return await future

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.wrap_future(self._database.read(work))


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[T], None], result: T) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, result)


def _expire(connection: sqlite3.Connection, payment_hash: bytes, now_ms: int) -> None:
    connection.execute(
        "UPDATE invoice SET state = 'canceled' "
        "WHERE payment_hash = ? AND state = 'open' AND expires_ms <= ?",
        (payment_hash, now_ms),
    )


def _payment_row(
    connection: sqlite3.Connection, payment_hash: bytes
) -> tuple[PaymentInfo, _Payment | None]:
    row = connection.execute(
        "SELECT payee, amount_msat, state, preimage, reason FROM payment WHERE payment_hash = ?",
        (payment_hash,),
    ).fetchone()
    if row is None:
        return PaymentInfo("none"), None
    payee, amount_msat, state, preimage, reason = row
    info = PaymentInfo(state, preimage, reason=reason)
    flying = _Payment(payment_hash, payee, amount_msat) if state == "in_flight" else None
    return info, flying


def _node_secret(path: Path) -> bytes:
    """The node key on disk; made at first start."""
    try:
        return read_private_file(path)
    except FileNotFoundError:
        secret = secrets.token_bytes(32)
        create_private_file(path, secret)
        return secret
