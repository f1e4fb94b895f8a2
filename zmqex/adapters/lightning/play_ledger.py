"""The tables of play money, and what one transaction does to them.

A held invoice moves like a real HTLC: the payer's amount is locked when the payee accepts it, goes
to the payee when it settles with the preimage, and back when it is cancelled, at the latest some
blocks before the lock ends.  An invoice's own expiry only guards payments that come after it.
All functions run in the ledger's thread, on one connection, inside a transaction.
"""

from __future__ import annotations

import hashlib
import sqlite3
from typing import Final

import msgspec

from zmqex.adapters.ports import InvoiceInfo, PaymentInfo
from zmqex.limits import BLOCK_MS, PLAY_AUTO_CANCEL_BLOCKS, PLAY_BALANCE_MSAT
from zmqex.reasons import RejectReason

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
    """
    ALTER TABLE invoice RENAME TO invoice_without_holds;
    CREATE TABLE invoice (
        payment_hash BLOB PRIMARY KEY, preimage BLOB, amount_msat INTEGER NOT NULL,
        text TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('open', 'accepted', 'settled', 'canceled')),
        expires_ms INTEGER NOT NULL, payer BLOB, min_final_cltv INTEGER NOT NULL,
        htlc_expiry_height INTEGER,
        CHECK (state <> 'settled' OR preimage IS NOT NULL),
        CHECK (state <> 'accepted' OR htlc_expiry_height IS NOT NULL)
    ) WITHOUT ROWID;
    INSERT INTO invoice
        SELECT payment_hash, preimage, amount_msat, text, state, expires_ms, payer, 0, NULL
        FROM invoice_without_holds;
    DROP TABLE invoice_without_holds;
    ALTER TABLE payment ADD COLUMN htlc_expiry_height INTEGER;
    """,
    """
    -- A new file knows no payment of the old one, whatever key the node has.
    CREATE TABLE identity (only INTEGER PRIMARY KEY CHECK (only = 1), id BLOB NOT NULL);
    INSERT INTO identity VALUES (1, randomblob(33));
    """,
)


class NewInvoice(msgspec.Struct, frozen=True):
    """An invoice to be written; without a preimage it is held."""

    payment_hash: bytes
    preimage: bytes | None
    amount_msat: int
    text: str
    expires_ms: int
    min_final_cltv: int


class Payment(msgspec.Struct, frozen=True):
    """A payment of ours; its lock ends at `htlc_expiry_height` at the earliest."""

    payment_hash: bytes
    payee: bytes
    amount_msat: int
    htlc_expiry_height: int


def height_at(now_ms: int) -> int:
    """The simulated height: a block every ten minutes of Unix time."""
    return now_ms // BLOCK_MS


def identity(connection: sqlite3.Connection) -> bytes:
    """Which ledger this is: 33 bytes drawn when its file was made."""
    (drawn,) = connection.execute("SELECT id FROM identity").fetchone()
    return bytes(drawn)


def balances(connection: sqlite3.Connection) -> tuple[int, int]:
    """What can be spent, and what is set aside for payments in flight."""
    (msat,) = connection.execute("SELECT msat FROM balance").fetchone()
    (flying,) = connection.execute(
        "SELECT coalesce(sum(amount_msat), 0) FROM payment WHERE state = 'in_flight'"
    ).fetchone()
    return msat, flying


# --- being paid ----------------------------------------------------------------------------------


def add_invoice(connection: sqlite3.Connection, new: NewInvoice) -> tuple[str, bool]:
    """Write an invoice; the text of the one that stands under this hash, and whether it is new."""
    added = connection.execute(
        "INSERT INTO invoice (payment_hash, preimage, amount_msat, text, state, expires_ms, "
        "min_final_cltv) VALUES (?, ?, ?, ?, 'open', ?, ?) ON CONFLICT DO NOTHING",
        msgspec.structs.astuple(new),
    )
    row = connection.execute(
        "SELECT text FROM invoice WHERE payment_hash = ?", (new.payment_hash,)
    ).fetchone()
    return str(row[0]), added.rowcount == 1


def expire(connection: sqlite3.Connection, payment_hash: bytes, now_ms: int) -> None:
    """Cancel for good what waited too long: unpaid past its end, or held close to the lock's."""
    connection.execute(
        "UPDATE invoice SET state = 'canceled' WHERE payment_hash = ? AND "
        "(state = 'open' AND expires_ms <= ? OR state = 'accepted' AND htlc_expiry_height <= ?)",
        (payment_hash, now_ms, height_at(now_ms) + PLAY_AUTO_CANCEL_BLOCKS),
    )


def invoice_info(connection: sqlite3.Connection, payment_hash: bytes) -> InvoiceInfo:
    """How one of our invoices stands."""
    row = connection.execute(
        "SELECT state, amount_msat, htlc_expiry_height FROM invoice WHERE payment_hash = ?",
        (payment_hash,),
    ).fetchone()
    if row is None:
        return InvoiceInfo("unknown")
    state, amount_msat, height = row
    received_msat = amount_msat if state in {"accepted", "settled"} else 0
    return InvoiceInfo(state, received_msat, height if state == "accepted" else None)


def cancel(connection: sqlite3.Connection, payment_hash: bytes) -> RejectReason | None:
    """Cancel an open or held invoice; why not, where it is settled."""
    connection.execute(
        "UPDATE invoice SET state = 'canceled' "
        "WHERE payment_hash = ? AND state IN ('open', 'accepted')",
        (payment_hash,),
    )
    settled = invoice_info(connection, payment_hash).state == "settled"
    return RejectReason.ALREADY_PAID if settled else None


def settle(connection: sqlite3.Connection, preimage: bytes, now_ms: int) -> RejectReason | None:
    """Credit a held invoice for its preimage; why not, where nothing is held."""
    payment_hash = hashlib.sha256(preimage).digest()
    expire(connection, payment_hash, now_ms)
    info = invoice_info(connection, payment_hash)
    if info.state == "accepted":
        connection.execute(
            "UPDATE invoice SET state = 'settled', preimage = ? WHERE payment_hash = ?",
            (preimage, payment_hash),
        )
        connection.execute("UPDATE balance SET msat = msat + ?", (info.received_msat,))
    elif info.state == "unknown":
        return RejectReason.WRONG_PAYMENT_HASH
    elif info.state != "settled":
        return RejectReason.WRONG_STATE
    return None


def receive(
    connection: sqlite3.Connection,
    payment_hash: bytes,
    amount_msat: int,
    payer_node: bytes,
    now_ms: int,
) -> tuple[bytes | None, str, bool]:
    """Take a payment: `(preimage, "")`, `(None, why not)`, or `(None, "")` while it is held.

    The third value says whether anything has changed.  The same payer gets the same answer again;
    a second payer, another amount and a late payment are refused.
    """
    expire(connection, payment_hash, now_ms)
    row = connection.execute(
        "SELECT preimage, amount_msat, state, payer, min_final_cltv FROM invoice "
        "WHERE payment_hash = ?",
        (payment_hash,),
    ).fetchone()
    if row is None:
        return None, RejectReason.WRONG_PAYMENT_HASH.value, False
    preimage, wanted_msat, state, payer, min_final_cltv = row
    if state == "canceled":
        reason = RejectReason.INVOICE_EXPIRED if payer is None else RejectReason.PAYMENT_FAILED
        return None, reason.value, False
    if state != "open":
        known = payer == payer_node and wanted_msat == amount_msat
        if not known:
            return None, RejectReason.ALREADY_PAID.value, False
        return (preimage if state == "settled" else None), "", False
    if wanted_msat != amount_msat:
        return None, RejectReason.WRONG_INVOICE_AMOUNT.value, False
    if preimage is None:
        connection.execute(
            "UPDATE invoice SET state = 'accepted', payer = ?, htlc_expiry_height = ? "
            "WHERE payment_hash = ?",
            (payer_node, height_at(now_ms) + min_final_cltv, payment_hash),
        )
        return None, "", True
    connection.execute(
        "UPDATE invoice SET state = 'settled', payer = ? WHERE payment_hash = ?",
        (payer_node, payment_hash),
    )
    connection.execute("UPDATE balance SET msat = msat + ?", (amount_msat,))
    return preimage, "", True


# --- paying --------------------------------------------------------------------------------------


def begin_payment(connection: sqlite3.Connection, payment: Payment) -> RejectReason | None:
    """Set the amount aside, once for a hash that has not failed; why not, where it is too much."""
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
        "INSERT INTO payment (payment_hash, payee, amount_msat, htlc_expiry_height, state) "
        "VALUES (?, ?, ?, ?, 'in_flight') ON CONFLICT (payment_hash) DO UPDATE "
        "SET state = 'in_flight', payee = excluded.payee, reason = '', "
        "amount_msat = excluded.amount_msat, htlc_expiry_height = excluded.htlc_expiry_height",
        msgspec.structs.astuple(payment),
    )
    return None


def find_payment(
    connection: sqlite3.Connection, payment_hash: bytes
) -> tuple[PaymentInfo, Payment | None]:
    """How a payment stands; with its terms while it is in flight."""
    row = connection.execute(
        "SELECT payee, amount_msat, state, preimage, reason, htlc_expiry_height FROM payment "
        "WHERE payment_hash = ?",
        (payment_hash,),
    ).fetchone()
    if row is None:
        return PaymentInfo("none"), None
    payee, amount_msat, state, preimage, reason, height = row
    if state != "in_flight":
        return PaymentInfo(state, preimage, reason=reason), None
    info = PaymentInfo(state, htlc_expiry_height=height)
    return info, Payment(payment_hash, payee, amount_msat, height or 0)


def end_payment(connection: sqlite3.Connection, payment: Payment, info: PaymentInfo) -> None:
    """Give the amount up for a preimage, or take it back; once."""
    changed = connection.execute(
        "UPDATE payment SET state = ?, preimage = ?, reason = ? "
        "WHERE payment_hash = ? AND state = 'in_flight'",
        (info.state, info.preimage, info.reason, payment.payment_hash),
    )
    if changed.rowcount == 1 and info.state == "failed":
        connection.execute("UPDATE balance SET msat = msat + ?", (payment.amount_msat,))
