"""The journal keeps everything as it was written, and nothing that contradicts itself."""

from __future__ import annotations

import sqlite3
import tempfile
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.outside import MemoryJournal
from tests.recalling import recall
from tests.unit.journals import (
    IDS,
    ORDER,
    TEXT,
    TRADE,
    commit,
    histories,
    later,
    reopened,
    same,
    trade,
)
from zmqex.adapters.storage.journal import MIGRATIONS, Journal
from zmqex.errors import ConfigError, StorageError
from zmqex.kernel.effects import Recall
from zmqex.kernel.records import (
    ArchiveOrder,
    ArchiveTrade,
    DropTrade,
    OutboxLine,
    OwnBatch,
    PutBatch,
    PutCommand,
    PutCounter,
    PutLine,
    PutOrder,
    PutOutbox,
    PutTrade,
    TradeLine,
    Write,
)
from zmqex.limits import ARCHIVED_SHOWN_MAX
from zmqex.trading.states import TradeRole

LOOKUPS = st.lists(
    st.tuples(
        st.sampled_from(["trade", "order", "hash"]),
        st.tuples(IDS, st.integers(4, 32)).map(lambda one: one[0][: one[1]]),
    )
    | TEXT.map(lambda key: ("key", key.encode())),
    min_size=1,
    max_size=2,
) | st.sampled_from([[("trades", b"")], [("orders", b"")]])


@given(histories(), st.lists(LOOKUPS, max_size=4))
@settings(max_examples=100)
def test_a_reopened_journal_has_what_was_written(
    groups: list[tuple[Write, ...]], lookups: list[list[tuple[str, bytes]]]
) -> None:
    """Compared with the model that all tests of the kernel stand on."""
    model = MemoryJournal()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite3"
        journal = Journal(path)
        for group in groups:
            model.commit(group)
            assert commit(journal, *group) is None
        assert journal.commits == len(groups)
        assert same(journal.load(), model.snapshot())
        for wanted in map(tuple, lookups):
            found = journal.recall(wanted).result()
            assert same(found, recall(model, Recall(1, wanted)).found)
        journal.close()
        assert same(reopened(path), model.snapshot())


@given(histories(), st.integers(0, 12), st.integers(7, len(MIGRATIONS) - 1))
@settings(max_examples=50)
def test_a_journal_of_an_older_version_goes_on_with_all_that_it_has(
    groups: list[tuple[Write, ...]], cut: int, version: int
) -> None:
    """Brought up to date, it is as one that was always new; nothing refers to nothing."""
    model = MemoryJournal()
    with tempfile.TemporaryDirectory() as folder:
        old, new = Path(folder) / "old.sqlite3", Path(folder) / "new.sqlite3"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("zmqex.adapters.storage.journal.MIGRATIONS", MIGRATIONS[:version])
            journal = Journal(old)
        for group in groups[:cut]:
            model.commit(group)
            assert commit(journal, *group) is None
        journal.close()
        journal, fresh = Journal(old), Journal(new)
        assert same(journal.load(), model.snapshot())
        for group in groups[cut:]:
            model.commit(group)
            assert commit(journal, *group) is None
        assert same(journal.load(), model.snapshot())
        assert rows_of(journal, SCHEMA) == rows_of(fresh, SCHEMA)
        assert rows_of(journal, "PRAGMA foreign_key_check") == []
        assert rows_of(journal, "PRAGMA integrity_check") == [("ok",)]
        journal.close()
        fresh.close()


SCHEMA = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name"


def rows_of(journal: Journal, query: str) -> list[tuple[Any, ...]]:
    """What the file says to a query."""
    rows: list[tuple[Any, ...]] = journal.read(lambda one: one.execute(query).fetchall()).result()
    return rows


def test_rows_come_back_in_the_order_in_which_they_count() -> None:
    """Orders and trades by their time, batches by sequence, messages as they were learnt."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.sqlite3")
        late = msgspec.structs.replace(ORDER, order_id=b"a" * 32, created_ms=2_000)
        lines = [TradeLine(TRADE.trade_id, bytes([one]) * 32, b"s" * 32, b"x") for one in (9, 1, 5)]
        batches = [
            OwnBatch("BTC/USD", epoch, one, b"d" * 32, b"e") for epoch, one in ((1, 10), (2, 1))
        ]
        writes = [PutOrder(late), PutOrder(ORDER), PutTrade(TRADE, 10, 10)]
        more = [*map(PutLine, lines), *map(PutBatch, reversed(batches))]
        assert commit(journal, *writes, *more) is None
        found = journal.load()
        assert [one.created_ms for one in found.orders] == [1_000, 2_000]
        assert list(found.lines) == lines
        assert list(found.batches) == batches
        count = "SELECT count(*) FROM trade"
        assert journal.read(lambda one: one.execute(count).fetchone()).result() == (1,)
        journal.close()


def test_a_start_reads_no_archived_row(tmp_path: Path) -> None:
    """Their ids come from an index; a trade that is changed is sought by its id."""
    journal = Journal(tmp_path / "journal.sqlite3")

    def plan(query: str) -> str:
        return " ".join(row[-1] for row in rows_of(journal, "EXPLAIN QUERY PLAN " + query))

    archived = "SELECT substr(trade_id, 1, 8) FROM trade WHERE archived = 1"
    assert "USING COVERING INDEX trade_archived" in plan(archived)
    live = "SELECT record FROM live_trade ORDER BY created_ms, trade_id"
    assert plan(live) == "SCAN trade USING INDEX trade_live"
    back = "UPDATE trade SET archived = 0 WHERE trade_id = x'00' AND archived = 1"
    assert "(trade_id=?)" in plan(back)
    journal.close()


def test_no_more_of_the_archive_is_read_than_may_be_told(tmp_path: Path) -> None:
    """The newest trades of all and of one order; a start loads none of them."""
    journal = Journal(tmp_path / "journal.sqlite3")
    writes: list[Write] = [PutOrder(ORDER), ArchiveOrder(ORDER.order_id)]
    for number in range(ARCHIVED_SHOWN_MAX + 1):
        key = number.to_bytes(32)
        ids = {"trade_id": key, "take_id": key, "payment_hash": key, "fence": number + 1}
        writes.append(PutTrade(later(TRADE, created_ms=number, **ids), 0, 10))
        writes.append(ArchiveTrade(key, ORDER.order_id))
    assert commit(journal, *writes) is None
    loaded = journal.load()
    assert (loaded.trades, loaded.orders) == ((), ())
    assert len(loaded.names) == 2 * (ARCHIVED_SHOWN_MAX + 1) + 1
    for wanted in (("trades", b""), ("order", ORDER.order_id)):
        found = journal.recall((wanted,)).result()
        assert len(found.trades) == ARCHIVED_SHOWN_MAX
        assert min(one.created_ms for one in found.trades) == 1
    journal.close()


@pytest.mark.parametrize("why_not", ["", "a quantity", "something to say"])
def test_only_a_trade_of_no_quantity_is_forgotten(why_not: str) -> None:
    """With its transcript, and once nothing of it waits to be said."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite3"
        journal = Journal(path)
        empty = msgspec.structs.replace(
            TRADE, trade_id=b"e" * 32, take_id=b"e", quantity_lots=0, fence=0, payment_hash=b""
        )
        writes: list[Write] = [
            PutTrade(TRADE, 10, 10),
            PutTrade(empty, 0, 0),
            PutLine(TradeLine(empty.trade_id, b"d" * 32, b"s" * 32, b"x")),
        ]
        if why_not == "something to say":
            writes.append(
                PutOutbox(OutboxLine(empty.trade_id, b"d" * 32, b"p" * 32, "trade", b"x"))
            )
        assert commit(journal, *writes) is None
        one = TRADE if why_not == "a quantity" else empty
        refused = commit(journal, DropTrade(one.trade_id))
        journal.close()
        found = reopened(path)
        if why_not:
            assert isinstance(refused, StorageError)
            assert (len(found.trades), len(found.lines)) == (2, 1)
        else:
            assert refused is None
            assert (found.trades, found.lines) == ((TRADE,), ())


# --- what contradicts is not kept ------------------------------------------------------------

ROLLED = trade(3, attempt=2)
BEFORE: tuple[Write, ...] = (
    PutOrder(ORDER),
    PutTrade(TRADE, 10, 15),
    PutTrade(ROLLED, 0, 10),
    PutBatch(OwnBatch("BTC/USD", 1, 1, b"d" * 32, b"e")),
    PutOutbox(OutboxLine(TRADE.trade_id, b"d" * 32, b"p" * 32, "trade", b"e")),
    PutCommand("key", b"o" * 32),
    PutCounter("fence", 5),
)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (PutOrder(ORDER), "contradicts"),
        (PutOrder(later(ORDER, revision=3)), "what comes before order"),
        (PutOrder(later(ORDER, order_id=b"x" * 32, revision=2)), "what comes before order"),
        (PutTrade(TRADE, 10, 10), "contradicts"),
        (PutTrade(later(TRADE, revision=3), 10, 10), "what comes before trade"),
        (PutTrade(trade(1, revision=2), 0, 10), "what comes before trade"),
        (PutTrade(trade(1, take_id=TRADE.take_id), 0, 10), "contradicts"),
        (PutTrade(trade(1, payment_hash=TRADE.payment_hash), 0, 10), "belongs to another trade"),
        (PutTrade(later(TRADE, revision=2, attempt=2), 0, 10), "another trade or attempt"),
        (PutTrade(later(ROLLED, revision=2, payment_hash=b"z" * 32), 0, 10), "contradicts"),
        (PutTrade(trade(1, fence=TRADE.fence), 0, 10), "contradicts"),
        (PutTrade(trade(1, quantity_lots=6), 6, 15), "16 lots are claimed, it has 15"),
        (PutTrade(later(TRADE, revision=2), 10, 9), "10 lots are claimed, it has 9"),
        (PutTrade(trade(1), 11, 99), "contradicts"),
        (PutBatch(OwnBatch("BTC/USD", 1, 1, b"f" * 32, b"g")), "contradicts"),
        (PutLine(TradeLine(b"x" * 32, b"f" * 32, b"s" * 32, b"e")), "FOREIGN KEY"),
        (PutOutbox(OutboxLine(TRADE.trade_id, b"d" * 32, b"p" * 32, "trade", b"e")), "contradicts"),
        (PutCommand("key", b"x" * 32), "contradicts"),
    ],
)
def test_what_contradicts_the_journal_ends_it_and_leaves_nothing(
    tmp_path: Path, wrong: Write, words: str
) -> None:
    """Neither the write nor what stood beside it; nothing is taken afterwards either."""
    path = tmp_path / "journal.sqlite3"
    journal = Journal(path)
    assert commit(journal, *BEFORE) is None
    before = journal.load()
    error = commit(journal, PutCounter("fence", 9), wrong, PutCommand("more", b"x" * 32))
    assert isinstance(error, StorageError)
    assert words in str(error)
    assert commit(journal, PutCounter("fence", 99)) is error
    with pytest.raises(StorageError):
        journal.load()
    journal.close()
    assert same(reopened(path), before)


def test_a_group_is_kept_or_lost_as_a_whole(tmp_path: Path) -> None:
    """Several transactions that wait for the disk together fail together."""
    path = tmp_path / "journal.sqlite3"
    ready, go = threading.Event(), threading.Event()

    def hold(moment: str, number: int) -> None:
        if (moment, number) == ("before", 1):
            ready.set()
            go.wait(10)

    journal = Journal(path, on_commit=hold)
    answers: dict[str, StorageError | None] = {}
    journal.commit((PutCounter("a", 1),), lambda error: answers.update(first=error))
    assert ready.wait(10)
    journal.commit((PutCounter("b", 1),), lambda error: answers.update(second=error))
    wrong = PutOrder(msgspec.structs.replace(ORDER, revision=2))
    journal.commit((wrong,), lambda error: answers.update(third=error))
    go.set()
    journal.close()
    assert answers["first"] is None
    assert isinstance(answers["second"], StorageError)
    assert answers["second"] is answers["third"]
    assert reopened(path).counters == (("a", 1),)


def test_a_counter_never_falls_and_a_hash_stays_its_trades(tmp_path: Path) -> None:
    """Also when a trade has had a fresh invoice since."""
    path = tmp_path / "journal.sqlite3"
    journal = Journal(path)
    assert commit(journal, *BEFORE, PutCounter("fence", 2)) is None
    fresh = msgspec.structs.replace(TRADE, revision=2, payment_hash=b"n" * 32)
    assert commit(journal, PutTrade(fresh, 10, 15)) is None
    assert dict(journal.load().counters) == {"fence": 5}
    stolen = trade(1, payment_hash=TRADE.payment_hash)
    assert isinstance(commit(journal, PutTrade(stolen, 0, 15)), StorageError)
    journal.close()


def test_a_taker_claims_nothing_of_a_makers_order(tmp_path: Path) -> None:
    """Only what our takers claim of our orders counts against them."""
    journal = Journal(tmp_path / "journal.sqlite3")
    mine = trade(1, role=TradeRole.TAKER)
    assert commit(journal, *BEFORE, PutTrade(mine, 0, 0)) is None
    assert commit(journal, PutTrade(trade(2, quantity_lots=5), 5, 15)) is None
    journal.close()


# --- files that cannot be used ---------------------------------------------------------------


def test_a_journal_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    """And says so, with what to do."""
    path = tmp_path / "journal.sqlite3"
    Journal(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(ConfigError, match="newer zmqex"):
        Journal(path)


def test_a_journal_in_a_folder_that_is_not_there_names_it(tmp_path: Path) -> None:
    """The operator reads which path and why."""
    with pytest.raises((ConfigError, StorageError), match=r"gone|cannot"):
        Journal(tmp_path / "gone" / "journal.sqlite3")


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    """Damaged or something else: not overwritten."""
    path = tmp_path / "journal.sqlite3"
    path.write_bytes(b"not a database at all, but long enough to be read as one" * 40)
    path.chmod(0o600)
    with pytest.raises(StorageError, match="cannot open"):
        Journal(path)
    assert path.read_bytes().startswith(b"not a database")


def test_a_full_disk_ends_the_journal_and_keeps_what_was_there(tmp_path: Path) -> None:
    """SQLite's own limit on pages stands for the disk."""
    path = tmp_path / "journal.sqlite3"
    journal = Journal(path)
    assert commit(journal, *BEFORE) is None
    before = journal.load()
    full = threading.Event()

    def shrink(connection: sqlite3.Connection) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        full.set()

    journal.read(shrink).result()
    assert full.is_set()
    big = OwnBatch("BTC/USD", 1, 2, b"d" * 32, bytes(1_000_000))
    error = commit(journal, PutBatch(big))
    assert isinstance(error, StorageError)
    assert "full" in str(error)
    journal.close()
    assert same(reopened(path), before)
