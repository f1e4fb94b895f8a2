"""What people see of the node's answers: exact numbers, marks, nothing that drives a terminal."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from zmqex.cli import book_tables, tables
from zmqex.cli.context import INVOCATION, asks, show_list

Captured = pytest.CaptureFixture[str]
EVIL = "\x1b[2J[red]x[/red]\n"
BTC = 100_000_000


@pytest.fixture(autouse=True)
def _plain(data_home: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A known name, no colours, and the node `alice` named by the user."""
    assert data_home
    monkeypatch.setenv("ZMQEX_INVOKED_AS", "scripts/zmqex")
    monkeypatch.setenv("NO_COLOR", "1")
    INVOCATION.reset()
    INVOCATION.choose("node", "--node", "alice")
    INVOCATION.choice()
    yield
    INVOCATION.reset()


def trade(**changes: object) -> dict[str, Any]:
    """A trade as the node shows it, in which it is our turn."""
    return {
        "trade_id": "ab" * 32,
        "money": "play money",
        "role": "maker",
        "side": "buy",
        "market": "BTC/USD",
        "order_id": "cd" * 32,
        "own_order_id": "cd" * 32,
        "counterparty": "x" * 52,
        "quantity_lots": 4 * BTC // 10,
        "price_ticks": 100,
        "base_msat": 40_000_000_001,
        "quote_units": 40,
        "settlement": "plain",
        "state": "base_done",
        "reason": "",
        "turn": "you",
        "next_command": "trade sent " + "ab" * 6,
        "next_text": "send the quote, then say so",
        "hold_expires_ms": 0,
        "hold_left_ms": 0,
        "payment_hash": "",
        "attempt": 1,
        "invoice": "lnbcrt1",
        "taker_invoice": "",
        "lightning_nodes": ["02ab"],
        "pay_mode": "auto",
        "pay_instructions": "by letter",
        "reference": "",
        "created_ms": 1_700_000_000_000,
        "updated_ms": 1_700_000_000_000,
        **changes,
    }


def order(**changes: object) -> dict[str, Any]:
    """An open order as the node shows it."""
    return {
        "order_id": "cd" * 32,
        "market": "BTC/USD",
        "side": "buy",
        "price_ticks": 100,
        "quantity_lots": BTC,
        "filled_lots": 4 * BTC // 10,
        "held_lots": 0,
        "remaining_lots": 6 * BTC // 10,
        "dropped_lots": 0,
        "state": "open",
        "close_reason": "",
        "expires_at_ms": 1_700_000_000_000,
        "renew": False,
        "settlements": ["plain"],
        **changes,
    }


def level(ticks: int, lots: int, cumulative: int, **marks: Any) -> dict[str, Any]:  # noqa: ANN401
    """A level of the book."""
    return {
        "price_ticks": ticks,
        "quantity_lots": lots,
        "cumulative_lots": cumulative,
        "orders": 1,
        "own_lots": 0,
        "stale_lots": 0,
        "settlement_lots": {"plain": lots},
        **marks,
    }


def book(**changes: object) -> dict[str, Any]:
    """A book with two levels on each side."""
    return {
        "market": "BTC/USD",
        "asks": [level(10_100, BTC, BTC, stale_lots=BTC), level(10_200, BTC, 2 * BTC)],
        "bids": [level(10_000, BTC, BTC, own_lots=BTC // 2), level(9_900, 3 * BTC, 4 * BTC)],
        "spread_ticks": 100,
        "makers": 3,
        "stale_makers": 1,
        "orders": [],
        **changes,
    }


def test_every_trade_view_says_whose_turn_it_is_and_the_exact_next_command(
    capsys: Captured,
) -> None:
    """In the list, in the single view: the invoked name, the named node, the command."""
    tables.show_trades([trade(hold_left_ms=61_000)])
    listed = capsys.readouterr().out
    tables.show_trade(trade(), [])
    shown = capsys.readouterr().out

    for text in (listed, shown):
        assert "your turn: send the quote, then say so" in text
        assert f"  next: scripts/zmqex --node alice trade sent {'ab' * 6}\n" in text
    assert "hold ends in 1:01" in listed
    assert "0.40000000001 BTC" in shown


def test_a_swap_shows_both_legs_and_an_order_how_it_is_settled(capsys: Captured) -> None:
    """Whoever takes it must say so; what is usual is not said."""
    tables.show_trade(trade(settlement="swap", taker_invoice="lnbcrt2"), [])
    shown = capsys.readouterr().out
    assert "0.40000000001 BTC against 0.40 USD (play money)" in shown
    assert "lnbcrt2" in shown
    tables.show_orders([order(), order(settlements=["swap", "htlc"])])
    assert "open, by swap or htlc" in " ".join(capsys.readouterr().out.split())


def test_a_trade_whose_lock_was_lost_says_so(capsys: Captured) -> None:
    """Which attempt it is; the first one is nothing special."""
    tables.show_trade(trade(attempt=2), [])
    assert "2, after a lost lock" in capsys.readouterr().out
    tables.show_trade(trade(), [])
    assert "Attempt" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("turn", "words"),
    [("you", "your turn: "), ("them", "their turn: "), ("lightning", "Lightning's turn: ")],
)
def test_a_turn_is_said_in_words(turn: str, words: str, capsys: Captured) -> None:
    """Each of the three who can be waited for."""
    tables.show_trades([trade(turn=turn, next_command="", next_text="wait")])
    text = capsys.readouterr().out

    assert f"{words}wait" in text
    assert "next:" not in text


def test_an_ended_trade_has_no_turn(capsys: Captured) -> None:
    """The list shows its end in capitals, the single view says what it means."""
    ended = trade(state="settled", turn="nobody", next_command="", next_text="settled: done")
    tables.show_trades([ended])
    listed = capsys.readouterr().out
    tables.show_trade(ended, [])

    assert "SETTLED" in listed
    assert "turn:" not in listed
    assert f"Trade {'ab' * 6}: settled: done" in capsys.readouterr().out


def test_text_of_peers_drives_no_terminal_and_is_no_markup(capsys: Captured) -> None:
    """Control characters are blanked, brackets are shown as they came."""
    tables.show_trade(
        trade(reference=EVIL, pay_instructions=EVIL, reason=EVIL, invoice=EVIL),
        [{"kind": EVIL, "sender": "y" * 52, "sent_at_ms": 0, "digest": ""}],
    )
    skipped = {"maker": EVIL, "order_id": "ef" * 32, "reason": EVIL, "detail": EVIL, "for_ms": 0}
    tables.show_placed({"trades": [], "skipped": [skipped]})
    text = capsys.readouterr().out

    assert "\x1b" not in text
    assert text.count("?[2J[red]x[/red]?") >= 5


def test_the_book_has_asks_above_bids_below_and_the_spread_between(capsys: Captured) -> None:
    """Best prices meet in the middle, sums grow outwards, own and stale lots are marked."""
    tables.console().print(book_tables.book_table(book()))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    rows = [line.split() for line in lines[2:-1]]

    assert lines[0] == "BTC/USD"
    assert [row[0] for row in rows] == ["102", "101", "spread", "100", "99"]
    assert [row[2] for row in rows if row[0] != "spread"] == ["2", "1", "1", "4"]
    assert rows[2] == ["spread", "1", "USD"]
    assert lines[3].endswith("stale 1")
    assert lines[5].endswith("own 0.5")
    assert lines[-1] == "3 makers, 1 stale"


@pytest.mark.parametrize(
    ("settlement_lots", "marks"),
    [
        ({"plain": BTC}, ""),
        ({"plain": BTC, "htlc": BTC}, ""),
        ({"htlc": BTC}, "htlc"),
        ({"htlc": BTC, "swap": BTC}, "htlc, swap"),
        ({"plain": BTC // 4, "htlc": 3 * BTC // 4}, "htlc 0.75"),
    ],
)
def test_the_book_marks_what_is_not_settled_as_usual(
    settlement_lots: dict[str, int], marks: str, capsys: Captured
) -> None:
    """How much of a level by what, unless all of it may be settled by `plain`."""
    ask = level(10_100, BTC, BTC, settlement_lots=settlement_lots)
    tables.console().print(book_tables.book_table(book(asks=[ask], bids=[])))
    row = _trimmed(capsys).splitlines()[2]
    assert row.endswith(marks or "\u2588")


def test_in_80_columns_the_marks_of_the_book_are_whole(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bars give way to them."""
    settled = {"plain": BTC // 4, "htlc": 3 * BTC // 4}
    ask = level(5_000_000, BTC, BTC, own_lots=BTC // 10, settlement_lots=settled)
    monkeypatch.setattr(tables, "console", lambda: Console(width=80, highlight=False))
    tables.console().print(book_tables.book_table(book(asks=[ask], bids=[])))
    row = _trimmed(capsys).splitlines()[2]
    assert row.endswith("own 0.1, htlc 0.75")
    assert len(row) <= 80
    assert row.split()[:3] == ["50000", "1", "1"]


def test_bars_grow_with_the_depth_and_none_is_invisible(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest sum fills the column; a lot still shows; an ASCII terminal gets ASCII."""
    tiny = book(asks=[level(10_100, 1, 1)], bids=[level(10_000, BTC, BTC)])
    tables.console().print(book_tables.book_table(tiny))
    assert capsys.readouterr().out.count("\u2588") == 1 + 20

    class Ascii:
        encoding = "ascii"

    monkeypatch.setattr(sys, "stdout", Ascii())
    table = book_tables.book_table(tiny)
    monkeypatch.undo()
    assert [str(cell) for cell in table.columns[4].cells] == ["#", "spread 1 USD", "#" * 20]


def test_an_empty_book_and_empty_lists_are_said(capsys: Captured) -> None:
    """Nothing is a sentence, not an empty table."""
    tables.console().print(book_tables.book_table(book(asks=[], bids=[], spread_ticks=None)))
    assert "no spread" in capsys.readouterr().out
    for show, sentence in (
        (tables.show_orders, "No orders."),
        (tables.show_trades, "No trades."),
        (tables.show_holds, "No holds."),
        (tables.show_peers, "No peers yet; `peers add HOST:PORT` names one."),
    ):
        show([])
        assert capsys.readouterr().out == f"{sentence}\n"


def test_candidates_say_who_named_them_and_why_they_are_not_connected(capsys: Captured) -> None:
    """One row each, with when it is tried again; text of strangers is escaped."""
    row = {
        "host": "10.1.1.1",
        "port": 7100,
        "sources": ["exchange", "dht"],
        "pinned": True,
        "peer": "p" * 52,
        "state": "waiting",
        "failures": 3,
        "retry_ms": 1_200,
        "why": EVIL,
    }
    mirror = {**row, "state": "self", "retry_ms": None, "failures": 0, "why": ""}
    tables.show_candidates([row, mirror])
    text = capsys.readouterr().out

    assert "\x1b" not in text
    assert "10.1.1.1:7100  exchange, dht pinned  pppppppppppp  waiting  3 in vain  in 2 s" in text
    assert "this node itself" in text
    tables.show_candidates([])
    assert "Nobody has named a peer." in capsys.readouterr().out


def test_a_peers_book_says_whose_it_is(capsys: Captured) -> None:
    """`book --from` names the peer and what was verified."""
    tables.console().print(book_tables.book_table(book(peer="z" * 52, snapshots=7, stale_makers=0)))

    assert "of peer zzzzzzzz, 7 signed snapshots verified; 3 makers\n" in _trimmed(capsys)


def test_each_log_of_a_maker_has_a_line(capsys: Captured) -> None:
    """How far it goes, what is missing, and how it caught up; nothing where nobody makes."""
    log = {
        "market": "BTC/USD",
        "epoch": 0,
        "sequence": 7,
        "lag": 2,
        "state": "behind",
        "why": "[x]",
    }
    maker = {"maker": "m" * 52, "stale": True, "heard_ms_ago": None, "open_orders": 3}
    tables.show_makers([{**maker, "logs": [log, {**log, "epoch": 1_800_000_000_000}]}])
    lines = _trimmed(capsys).splitlines()

    assert lines[2].split() == ["m" * 12, "BTC/USD", "3", "7", "2", "behind,", "stale", "[x]"]
    assert len(lines) == 4
    tables.show_makers([])
    assert capsys.readouterr().out == ""


def _trimmed(capsys: Captured) -> str:
    return "".join(f"{line.rstrip()}\n" for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("ms", [2**53, -(2**80)])
def test_a_time_that_no_calendar_has_is_shown_as_it_is(ms: int) -> None:
    """A stranger may sign any number."""
    assert tables.when(ms) == f"{ms} ms"


def test_a_placed_order_says_what_was_taken_skipped_and_rests(capsys: Captured) -> None:
    """Each maker that was skipped is named with its reason."""
    why = "it did not answer in time"
    skipped = {"maker": "m" * 52, "order_id": "ef" * 32, "reason": "timed_out", "detail": why}
    both = [{**skipped, "for_ms": 29_001}, {**skipped, "for_ms": 0}]
    tables.show_placed({"order": order(), "trades": [trade()], "skipped": both, "repeated": True})
    text = capsys.readouterr().out

    named = f"{why} (timed_out, order {'ef' * 6})"
    assert f"Skipped maker mmmmmmmm for 30 s, because {named}" in text
    assert f"Skipped maker mmmmmmmm: {named}" in text
    assert "nothing was done twice" in text
    assert "0.6 BTC rests in the book" in text
    assert "taken at once: 0.4 BTC" in text
    assert "Trades" in text


@pytest.mark.parametrize(
    ("left_ms", "said"),
    [
        (7 * 86_400_000, "7d"),
        (6 * 86_400_000 + 23 * 3_600_000, "6d 23h"),
        (3_600_000 + 60_000, "1h 1m"),
        (59_000, "59s"),
        (-1, "0s"),
    ],
)
def test_an_open_order_says_how_long_it_lives(
    left_ms: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two largest units; of a closed one nothing."""
    monkeypatch.setattr(tables, "wall_ms", lambda: 1_700_000_000_000)
    assert tables.lives({"expires_at_ms": 1_700_000_000_000 + left_ms}) == said
    assert tables.lives(order(state="closed")) == ""


def test_in_80_columns_nothing_of_a_table_is_cut(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that ends in dots is another number: lines are broken in its stead."""
    narrow = Console(width=80, highlight=False)
    monkeypatch.setattr(tables, "console", lambda: narrow)
    long = {"price_ticks": 5_012_345, "quote_units": 2_004_938_000}
    tables.show_orders([order(**long, settlements=["htlc", "plain"], renew=True)])
    tables.show_trades([trade(**long)])
    narrow.print(book_tables.book_orders_table(book(orders=[resting()])))
    text = capsys.readouterr().out
    assert "\u2026" not in text
    assert max(map(len, text.splitlines())) <= 80
    for whole in ("ab" * 6, "cd" * 6, "50123.45", "0.6 BTC", "by htlc", "base_done"):
        assert whole in text, whole


def resting() -> dict[str, Any]:
    """An order of the book by itself."""
    return {
        **order(settlements=["htlc"]),
        "maker": "m" * 52,
        "own": True,
        "stale": True,
        "all_or_none": True,
    }


def test_sentences_are_broken_between_words_on_a_terminal_only(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that no amount is cut in two; a program gets each in one line."""
    sentence = " ".join(["0.4 BTC"] * 30)
    tables.show_sentences("Said:", [sentence])
    assert f"  * {sentence}\n" in capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    tables.show_sentences("Said:", [sentence])
    lines = capsys.readouterr().out.splitlines()[2:]
    assert len(lines) > 2
    assert max(map(len, lines)) <= 80
    assert " ".join(" ".join(lines).split()) == f"* {sentence}"


def test_a_question_is_broken_between_words(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its answer is typed behind it."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n"))
    assert asks("You have paid 0.4 BTC; if 0.40 USD never reach you, you have lost it.  Go on?")
    text = capsys.readouterr().err
    assert text.endswith("[y/N]: ")
    assert max(map(len, text.splitlines())) <= 41
    assert "0.4 BTC" in text.replace("\n", " ")


def test_a_closed_order_says_why(capsys: Captured) -> None:
    """And what of it was not filled."""
    closed = order(state="closed", close_reason="cancelled", dropped_lots=6 * BTC // 10)
    tables.show_placed({"order": closed, "trades": [], "skipped": []})
    text = capsys.readouterr().out

    assert f"Order {'cd' * 6}: cancelled" in text
    assert "not filled: 0.6 BTC" in text


def test_a_hold_shows_the_journals_time_and_that_of_redis(capsys: Captured) -> None:
    """Where Redis has lost it, that is said."""
    hold = {
        "order_id": "cd" * 32,
        "trade_id": "ab" * 32,
        "money": "play money",
        "taker": "t" * 52,
        "quantity_lots": BTC,
        "market": "BTC/USD",
        "fence": 3,
        "state": "invoiced",
        "left_ms": 899_999,
    }
    tables.show_holds([{**hold, "redis_left_ms": 899_000}, {**hold, "redis_left_ms": None}])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]

    assert [row[-1] for row in rows] == ["14:59", "gone"]
    assert rows[0][3:5] == ["1", "BTC"]


@pytest.mark.parametrize(
    ("msat", "text"), [(0, "0 BTC"), (1, "0.00000000001 BTC"), (10**12, "10 BTC")]
)
def test_bitcoin_is_exact_to_the_millisatoshi(msat: int, text: str) -> None:
    """No rounding, no trailing zeros."""
    assert tables.bitcoin(msat) == text


@pytest.mark.parametrize("older", [True, False])
def test_a_list_that_is_not_whole_says_so(
    older: bool,  # noqa: FBT001 - a parameter of the test
    capsys: Captured,
) -> None:
    """Beside the result, so that it is no row of it."""
    answer = {"trades": [], "older": older}
    show_list(answer, "trades", tables.show_trades, as_json=False)
    told = capsys.readouterr()
    assert told.out == "No trades.\n"
    assert ("Older ones are not listed" in told.err) == older
    show_list(answer, "trades", tables.show_trades, as_json=True)
    assert json.loads(capsys.readouterr().out) == answer
