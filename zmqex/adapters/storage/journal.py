"""The journal: the truth about orders, trades and money, as SQL tables that verify what is written.

The kernel decides, the journal records, SQL verifies: a row is replaced only if its stored revision
is the one before, ids and payment hashes are unique, and what all trades of an order claim must fit
into it.  A disagreement is a StorageError: nothing of that transaction is kept and the node stops.
Each row keeps its facts as columns for the checks and the whole record as MessagePack.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from zmqex.adapters.storage.archive import find, names
from zmqex.adapters.storage.database import CommitHook, Database
from zmqex.errors import StorageError
from zmqex.kernel.records import (
    ArchiveOrder,
    ArchiveTrade,
    DropFork,
    DropOutbox,
    DropPeer,
    DropTrade,
    ForkedLog,
    KnownPeer,
    OutboxLine,
    OwnBatch,
    OwnCheckpoint,
    OwnOrder,
    PutBatch,
    PutCheckpoint,
    PutCommand,
    PutCounter,
    PutFork,
    PutLine,
    PutOrder,
    PutOutbox,
    PutPeer,
    PutTerms,
    PutTrade,
    Record,
    Snapshot,
    Trade,
    TradeLine,
    Write,
)

R = TypeVar("R", bound=Record)

SQLITE_VERSION: Final = sqlite3.sqlite_version
MIGRATIONS: Final = (
    """
    CREATE TABLE own_order (
        order_id BLOB PRIMARY KEY, state TEXT NOT NULL, revision INTEGER NOT NULL,
        created_ms INTEGER NOT NULL, record BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE trade (
        trade_id BLOB PRIMARY KEY, role TEXT NOT NULL, taker BLOB NOT NULL, take_id BLOB NOT NULL,
        order_id BLOB NOT NULL, state TEXT NOT NULL, revision INTEGER NOT NULL,
        quantity_lots INTEGER NOT NULL CHECK (quantity_lots >= 0),
        claimed_lots INTEGER NOT NULL CHECK (claimed_lots BETWEEN 0 AND quantity_lots),
        fence INTEGER NOT NULL, created_ms INTEGER NOT NULL, record BLOB NOT NULL,
        UNIQUE (taker, take_id)
    ) WITHOUT ROWID;
    CREATE INDEX trade_by_order ON trade (order_id) WHERE role = 'maker';
    -- A hash belongs to one trade for ever, also after a fresh invoice has replaced it.
    CREATE TABLE payment_hash (
        payment_hash BLOB PRIMARY KEY, trade_id BLOB NOT NULL REFERENCES trade
    ) WITHOUT ROWID;
    CREATE TABLE own_batch (
        market TEXT NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
        record BLOB NOT NULL, PRIMARY KEY (market, epoch, sequence)
    ) WITHOUT ROWID;
    CREATE TABLE trade_line (
        position INTEGER PRIMARY KEY AUTOINCREMENT, trade_id BLOB NOT NULL REFERENCES trade,
        digest BLOB NOT NULL UNIQUE, record BLOB NOT NULL
    );
    CREATE INDEX trade_line_by_trade ON trade_line (trade_id);
    CREATE TABLE outbox (
        position INTEGER PRIMARY KEY AUTOINCREMENT, trade_id BLOB NOT NULL REFERENCES trade,
        digest BLOB NOT NULL UNIQUE, record BLOB NOT NULL
    );
    CREATE TABLE peer (identity BLOB PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE command (key TEXT PRIMARY KEY, made BLOB NOT NULL) WITHOUT ROWID;
    """,
    "CREATE TABLE order_terms (order_id BLOB PRIMARY KEY, record BLOB NOT NULL);",
    "CREATE TABLE own_checkpoint (market TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;",
    """
    -- A fencing token is given once, to one take of an order of ours; 0 is a tombstone's.
    CREATE UNIQUE INDEX trade_by_fence ON trade (fence) WHERE role = 'maker' AND fence > 0;
    """,
    """
    CREATE TABLE fork (
        position INTEGER PRIMARY KEY AUTOINCREMENT, maker BLOB NOT NULL, market TEXT NOT NULL,
        record BLOB NOT NULL, UNIQUE (maker, market)
    );
    """,
    """
    -- Claims are summed at each change of a trade: from the index alone, not the trades' pages.
    DROP INDEX trade_by_order;
    CREATE INDEX trade_claims ON trade (order_id, role, claimed_lots) WHERE claimed_lots > 0;
    """,
    """
    -- What has ended and is not loaded at a start.  `own_order_id` is known of what once was.
    ALTER TABLE trade ADD COLUMN archived INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE trade ADD COLUMN own_order_id BLOB;
    ALTER TABLE own_order ADD COLUMN archived INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE command ADD COLUMN archived INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX trade_by_archived ON trade (archived, created_ms);
    CREATE INDEX trade_by_own_order ON trade (own_order_id, archived)
        WHERE own_order_id IS NOT NULL;
    CREATE INDEX own_order_by_archived ON own_order (archived, created_ms);
    CREATE INDEX command_by_made ON command (made);
    CREATE TABLE friend (identity BLOB PRIMARY KEY) WITHOUT ROWID;
    CREATE VIEW live_trade AS SELECT * FROM trade WHERE archived = 0;
    -- An order comes along with a trade of it that has begun to speak again.
    CREATE VIEW live_order AS SELECT * FROM own_order WHERE archived = 0 OR order_id IN
        (SELECT own_order_id FROM trade WHERE own_order_id IS NOT NULL AND archived = 0);
    """,
    """
    -- A commit costs by the page.  A trade is a kilobyte, of which a table that is its own index
    -- puts the end on a page of its own; a message is unique within its trade, so that one index
    -- does for both.
    DROP VIEW live_trade;
    DROP VIEW live_order;
    CREATE TABLE moved (
        trade_id BLOB NOT NULL PRIMARY KEY, role TEXT NOT NULL, taker BLOB NOT NULL,
        take_id BLOB NOT NULL, order_id BLOB NOT NULL, own_order_id BLOB, state TEXT NOT NULL,
        revision INTEGER NOT NULL, quantity_lots INTEGER NOT NULL CHECK (quantity_lots >= 0),
        claimed_lots INTEGER NOT NULL CHECK (claimed_lots BETWEEN 0 AND quantity_lots),
        fence INTEGER NOT NULL, created_ms INTEGER NOT NULL, archived INTEGER NOT NULL DEFAULT 0,
        record BLOB NOT NULL, UNIQUE (taker, take_id)
    );
    INSERT INTO moved SELECT
        trade_id, role, taker, take_id, order_id, own_order_id, state, revision, quantity_lots,
        claimed_lots, fence, created_ms, archived, record FROM trade ORDER BY created_ms, trade_id;
    DROP TABLE trade;
    ALTER TABLE moved RENAME TO trade;
    CREATE INDEX trade_claims ON trade (order_id, role, claimed_lots) WHERE claimed_lots > 0;
    CREATE UNIQUE INDEX trade_by_fence ON trade (fence) WHERE role = 'maker' AND fence > 0;
    CREATE INDEX trade_by_archived ON trade (archived, created_ms, trade_id);
    CREATE INDEX trade_by_own_order ON trade (own_order_id, archived)
        WHERE own_order_id IS NOT NULL;
    CREATE VIEW live_trade AS SELECT * FROM trade WHERE archived = 0;
    CREATE VIEW live_order AS SELECT * FROM own_order WHERE archived = 0 OR order_id IN
        (SELECT own_order_id FROM trade WHERE own_order_id IS NOT NULL AND archived = 0);
    CREATE TABLE moved (
        position INTEGER PRIMARY KEY, trade_id BLOB NOT NULL REFERENCES trade,
        digest BLOB NOT NULL, record BLOB NOT NULL, UNIQUE (trade_id, digest)
    );
    INSERT INTO moved SELECT position, trade_id, digest, record FROM trade_line;
    DROP TABLE trade_line;
    ALTER TABLE moved RENAME TO trade_line;
    """,
    """
    -- After a lock is lost each attempt at paying the base has one hash, and each hash one attempt.
    CREATE TABLE rollover (
        trade_id BLOB NOT NULL REFERENCES trade, attempt INTEGER NOT NULL CHECK (attempt > 1),
        payment_hash BLOB NOT NULL UNIQUE REFERENCES payment_hash,
        PRIMARY KEY (trade_id, attempt)
    ) WITHOUT ROWID;
    """,
    """
    -- A start reads the archived ids from an index alone; changes of a trade leave it as it is.
    DROP INDEX trade_by_archived;
    CREATE INDEX trade_archived ON trade (archived, created_ms, trade_id) WHERE archived = 1;
    CREATE INDEX trade_live ON trade (created_ms, trade_id) WHERE archived = 0;
    """,
)

_encode = msgspec.msgpack.Encoder().encode


class Journal:
    """One node's journal file."""

    def __init__(self, path: Path, *, on_commit: CommitHook | None = None) -> None:
        """Open or create it; raises ConfigError or StorageError as `Database` does."""
        self.path = path
        self._database = Database(path, MIGRATIONS, on_commit=on_commit)

    @property
    def commits(self) -> int:
        """How many transactions were committed since it was opened."""
        return self._database.commits

    def commit(
        self, writes: tuple[Write, ...], done: Callable[[StorageError | None], None]
    ) -> None:
        """Commit all writes or none; `done` is called in the writer thread when it is done."""

        def work(connection: sqlite3.Connection) -> None:
            for write in writes:
                _WRITERS[type(write)](connection, write)

        self._database.submit(work, done)

    def load(self) -> Snapshot:
        """Everything that a kernel is restored from; blocks."""
        return self._database.read(_load).result()

    def recall(self, lookups: tuple[tuple[str, bytes], ...]) -> Future[Snapshot]:
        """Look for what is archived: see `zmqex.kernel.effects.Recall`."""
        return self._database.read(lambda connection: find(connection, lookups))

    def read(self, work: Callable[[sqlite3.Connection], Any]) -> Future[Any]:
        """Run a query on what is committed."""
        return self._database.read(work)

    def close(self) -> None:
        """Commit what is queued and close."""
        self._database.close()


def _load(connection: sqlite3.Connection) -> Snapshot:
    def rows(query: str, kind: type[R]) -> tuple[R, ...]:
        decoder = msgspec.msgpack.Decoder(kind)
        return tuple(decoder.decode(raw) for (raw,) in connection.execute(query))

    return Snapshot(
        orders=rows("SELECT record FROM live_order ORDER BY created_ms, order_id", OwnOrder),
        trades=rows("SELECT record FROM live_trade ORDER BY created_ms, trade_id", Trade),
        hashes=tuple(
            connection.execute(
                "SELECT payment_hash, trade_id FROM payment_hash "
                "WHERE trade_id IN (SELECT trade_id FROM live_trade) ORDER BY 1"
            )
        ),
        checkpoints=rows("SELECT record FROM own_checkpoint ORDER BY market", OwnCheckpoint),
        batches=rows("SELECT record FROM own_batch ORDER BY market, epoch, sequence", OwnBatch),
        lines=rows(
            "SELECT record FROM trade_line "
            "WHERE trade_id IN (SELECT trade_id FROM live_trade) ORDER BY position",
            TradeLine,
        ),
        outbox=rows("SELECT record FROM outbox ORDER BY position", OutboxLine),
        peers=rows("SELECT record FROM peer", KnownPeer),
        forks=rows("SELECT record FROM fork ORDER BY position", ForkedLog),
        counters=tuple(connection.execute("SELECT name, value FROM counter ORDER BY name")),
        commands=tuple(
            connection.execute("SELECT key, made FROM command WHERE archived = 0 ORDER BY key")
        ),
        names=names(connection),
        friends=tuple(row[0] for row in connection.execute("SELECT identity FROM friend")),
    )


# --- one writer per kind of write ----------------------------------------------------------------


def _put_order(connection: sqlite3.Connection, write: PutOrder) -> None:
    order = write.order
    values = (order.state, order.revision, _encode(order), order.order_id)
    if order.revision == 1:
        _insert(
            connection,
            "INSERT INTO own_order (state, revision, record, order_id, created_ms) "
            "VALUES (?, ?, ?, ?, ?)",
            (*values, order.created_ms),
        )
        return
    changed = connection.execute(
        "UPDATE own_order SET state = ?, revision = ?, record = ?, archived = 0 "
        "WHERE order_id = ? AND revision = ?",
        (*values, order.revision - 1),
    )
    _one_row(changed, f"order {order.order_id.hex()} revision {order.revision}")


def _put_trade(connection: sqlite3.Connection, write: PutTrade) -> None:
    trade = write.trade
    values = (
        trade.state.value,
        trade.revision,
        trade.quantity_lots,
        write.claimed_lots,
        trade.fence,
        _encode(trade),
        trade.trade_id,
    )
    if trade.revision == 1:
        _insert(
            connection,
            "INSERT INTO trade (state, revision, quantity_lots, claimed_lots, fence, record, "
            "trade_id, role, taker, take_id, order_id, created_ms) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *values,
                trade.role.value,
                trade.taker,
                trade.take_id,
                trade.order_id,
                trade.created_ms,
            ),
        )
    else:
        changed = connection.execute(
            "UPDATE trade SET state = ?, revision = ?, quantity_lots = ?, claimed_lots = ?, "
            "fence = ?, record = ? WHERE trade_id = ? AND revision = ?",
            (*values, trade.revision - 1),
        )
        _one_row(changed, f"trade {trade.trade_id.hex()} revision {trade.revision}")
        connection.execute(
            "UPDATE trade SET archived = 0 WHERE trade_id = ? AND archived = 1", (trade.trade_id,)
        )
    if trade.payment_hash:
        _claim_hash(connection, trade)
    if write.claimed_lots:
        _check_claims(connection, write)


def _archive_trade(connection: sqlite3.Connection, write: ArchiveTrade) -> None:
    archived = connection.execute(
        "UPDATE trade SET archived = 1, own_order_id = ? WHERE trade_id = ?",
        (write.own_order_id or None, write.trade_id),
    )
    _one_row(archived, f"the archive's trade {write.trade_id.hex()}")
    connection.execute("UPDATE command SET archived = 1 WHERE made = ?", (write.trade_id,))
    if write.friend:
        connection.execute("INSERT INTO friend VALUES (?) ON CONFLICT DO NOTHING", (write.friend,))


def _archive_order(connection: sqlite3.Connection, write: ArchiveOrder) -> None:
    key = (write.order_id,)
    archived = connection.execute("UPDATE own_order SET archived = 1 WHERE order_id = ?", key)
    _one_row(archived, f"the archive's order {write.order_id.hex()}")
    connection.execute("UPDATE command SET archived = 1 WHERE made = ?", key)


def _drop_trade(connection: sqlite3.Connection, write: DropTrade) -> None:
    key = (write.trade_id,)
    connection.execute("DELETE FROM trade_line WHERE trade_id = ?", key)
    dropped = connection.execute("DELETE FROM trade WHERE trade_id = ? AND quantity_lots = 0", key)
    _one_row(dropped, f"trade {write.trade_id.hex()}, of no quantity")


def _claim_hash(connection: sqlite3.Connection, trade: Trade) -> None:
    added = connection.execute(
        "INSERT INTO payment_hash VALUES (?, ?) ON CONFLICT DO NOTHING",
        (trade.payment_hash, trade.trade_id),
    )
    row = (trade.trade_id, trade.attempt, trade.payment_hash)
    if added.rowcount == 1:
        if trade.attempt > 1:
            _insert(connection, "INSERT INTO rollover VALUES (?, ?, ?)", row)
        return
    (owner,) = connection.execute(
        "SELECT trade_id FROM payment_hash WHERE payment_hash = ?", (trade.payment_hash,)
    ).fetchone()
    same = "SELECT 1 FROM rollover WHERE (trade_id, attempt, payment_hash) = (?, ?, ?)"
    known = trade.attempt == 1 or connection.execute(same, row).fetchone() is not None
    if owner != trade.trade_id or not known:
        msg = f"payment hash {trade.payment_hash.hex()} belongs to another trade or attempt"
        raise StorageError(msg)


def _check_claims(connection: sqlite3.Connection, write: PutTrade) -> None:
    """No lot is sold twice: what all trades of the order hold or have filled fits into it."""
    (claimed,) = connection.execute(
        "SELECT sum(claimed_lots) FROM trade "
        "WHERE order_id = ? AND role = 'maker' AND claimed_lots > 0",
        (write.trade.order_id,),
    ).fetchone()
    if claimed > write.capacity_lots:
        msg = (
            f"order {write.trade.order_id.hex()} would be oversold: {claimed} lots are claimed, "
            f"it has {write.capacity_lots}"
        )
        raise StorageError(msg)


def _put_batch(connection: sqlite3.Connection, write: PutBatch) -> None:
    batch = write.batch
    _insert(
        connection,
        "INSERT INTO own_batch VALUES (?, ?, ?, ?)",
        (batch.market, batch.epoch, batch.sequence, _encode(batch)),
    )


def _put_checkpoint(connection: sqlite3.Connection, write: PutCheckpoint) -> None:
    point = write.checkpoint
    connection.execute(
        "INSERT INTO own_checkpoint VALUES (?, ?) "
        "ON CONFLICT (market) DO UPDATE SET record = excluded.record",
        (point.market, _encode(point)),
    )
    connection.execute(
        "DELETE FROM own_batch WHERE market = ? AND (epoch, sequence) < (?, ?)",
        (point.market, point.epoch, write.first),
    )


def _put_line(connection: sqlite3.Connection, write: PutLine) -> None:
    line = write.line
    connection.execute(
        "INSERT INTO trade_line (trade_id, digest, record) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        (line.trade_id, line.digest, _encode(line)),
    )


def _put_outbox(connection: sqlite3.Connection, write: PutOutbox) -> None:
    line = write.line
    _insert(
        connection,
        "INSERT INTO outbox (trade_id, digest, record) VALUES (?, ?, ?)",
        (line.trade_id, line.digest, _encode(line)),
    )


def _drop_outbox(connection: sqlite3.Connection, write: DropOutbox) -> None:
    connection.execute("DELETE FROM outbox WHERE digest = ?", (write.digest,))


def _put_terms(connection: sqlite3.Connection, write: PutTerms) -> None:
    connection.execute(
        "INSERT INTO order_terms VALUES (?, ?) ON CONFLICT DO NOTHING",
        (write.terms.order_id, _encode(write.terms)),
    )


def _put_peer(connection: sqlite3.Connection, write: PutPeer) -> None:
    connection.execute(
        "INSERT INTO peer VALUES (?, ?) "
        "ON CONFLICT (identity) DO UPDATE SET record = excluded.record",
        (write.peer.identity, _encode(write.peer)),
    )


def _drop_peer(connection: sqlite3.Connection, write: DropPeer) -> None:
    connection.execute("DELETE FROM peer WHERE identity = ?", (write.identity,))


def _put_fork(connection: sqlite3.Connection, write: PutFork) -> None:
    fork = write.fork
    connection.execute(
        "INSERT OR REPLACE INTO fork (maker, market, record) VALUES (?, ?, ?)",
        (fork.maker, fork.market, _encode(fork)),
    )


def _drop_fork(connection: sqlite3.Connection, write: DropFork) -> None:
    connection.execute(
        "DELETE FROM fork WHERE maker = ? AND market = ?", (write.maker, write.market)
    )


def _put_counter(connection: sqlite3.Connection, write: PutCounter) -> None:
    connection.execute(
        "INSERT INTO counter VALUES (?, ?) "
        "ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
        (write.name, write.value),
    )


def _put_command(connection: sqlite3.Connection, write: PutCommand) -> None:
    _insert(
        connection, "INSERT INTO command (key, made) VALUES (?, ?)", (write.key, write.order_id)
    )


_WRITERS: Final[dict[type[Write], Callable[[sqlite3.Connection, Any], None]]] = {
    PutOrder: _put_order,
    PutTrade: _put_trade,
    PutBatch: _put_batch,
    PutCheckpoint: _put_checkpoint,
    PutLine: _put_line,
    PutOutbox: _put_outbox,
    DropOutbox: _drop_outbox,
    PutTerms: _put_terms,
    PutPeer: _put_peer,
    DropPeer: _drop_peer,
    DropTrade: _drop_trade,
    ArchiveTrade: _archive_trade,
    ArchiveOrder: _archive_order,
    PutFork: _put_fork,
    DropFork: _drop_fork,
    PutCounter: _put_counter,
    PutCommand: _put_command,
}


def _insert(connection: sqlite3.Connection, query: str, values: tuple[object, ...]) -> None:
    try:
        connection.execute(query, values)
    except sqlite3.IntegrityError as error:
        msg = f"the journal contradicts the kernel: {error}"
        raise StorageError(msg) from error


def _one_row(cursor: sqlite3.Cursor, what: str) -> None:
    if cursor.rowcount != 1:
        msg = f"the journal contradicts the kernel: it does not have what comes before {what}"
        raise StorageError(msg)
