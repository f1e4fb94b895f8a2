"""The book of a market, and what crosses an order, as tables.  Text from peers is escaped."""

from __future__ import annotations

import sys
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from zmqex.cli.context import INVOCATION
from zmqex.cli.tables import ID_CHARS, by, lives, new_table, plain
from zmqex.market.instruments import Instrument
from zmqex.market.units import format_price, format_quantity
from zmqex.trading.settlement import PLAIN

_BAR: Final = 20
_BOOK_WIDTH: Final = 60


def book_table(book: dict[str, Any]) -> Table:
    """Asks above, the spread, bids below; bars show the cumulative depth."""
    instrument = INVOCATION.instrument(book["market"])
    base, quote = instrument.base, instrument.quote
    table = Table(
        title=book["market"],
        title_justify="left",
        caption=_caption(book),
        caption_justify="left",
        header_style="bold",
        box=None,
        pad_edge=False,
        min_width=_BOOK_WIDTH,
    )
    spread = book["spread_ticks"]
    middle = "no spread" if spread is None else f"spread {format_price(spread, instrument)}"
    for name in (f"Price {quote}", f"Quantity {base}", f"Sum {base}", "Orders"):
        table.add_column(name, justify="right", no_wrap=True)
    # The bars alone are cut where a line is too long for the terminal.
    table.add_column("Depth", min_width=len(middle))
    table.add_column("", no_wrap=True)
    sums = [one["cumulative_lots"] for one in (*book["asks"], *book["bids"])]
    largest = max(sums, default=1)
    for level in reversed(book["asks"]):
        table.add_row(*_level(level, instrument, largest), style="red")
    table.add_row("", "", "", "", middle, style="bold")
    for level in book["bids"]:
        table.add_row(*_level(level, instrument, largest), style="green")
    return table


def _caption(book: dict[str, Any]) -> str:
    """Whose orders these are."""
    stale = f", {book['stale_makers']} stale" if book["stale_makers"] else ""
    makers = book["makers"]
    text = f"{makers} maker{'' if makers == 1 else 's'}{stale}"
    if "peer" not in book:
        return text
    return (
        f"of peer {plain(book['peer'][:8])}, {book['snapshots']} signed snapshots verified; {text}"
    )


def _bar(lots: int, largest: int) -> str:
    """A bar of 1 to _BAR characters, rounded up so that nothing is invisible."""
    block = "\u2588" if (sys.stdout.encoding or "").lower().startswith("utf") else "#"
    return block * max(-(-lots * _BAR // max(largest, 1)), 1)


def _bare(lots: int, instrument: Instrument) -> str:
    """A quantity without its currency."""
    return format_quantity(lots, instrument).split()[0]


def _level(level: dict[str, Any], instrument: Instrument, largest: int) -> list[str | Text]:
    marks = [
        f"{name} {_bare(level[f'{name}_lots'], instrument)}"
        for name in ("own", "stale")
        if level[f"{name}_lots"]
    ]
    by, whole = level["settlement_lots"], level["quantity_lots"]
    if by.get(PLAIN, 0) < whole:
        marks += [
            plain(word) if lots == whole else f"{plain(word)} {_bare(lots, instrument)}"
            for word, lots in sorted(by.items())
            if word != PLAIN
        ]
    return [
        format_price(level["price_ticks"], instrument).split()[0],
        _bare(level["quantity_lots"], instrument),
        _bare(level["cumulative_lots"], instrument),
        str(level["orders"]),
        Text(_bar(level["cumulative_lots"], largest), no_wrap=True, overflow="crop"),
        ", ".join(marks),
    ]


def book_orders_table(book: dict[str, Any]) -> Table:
    """Every order of a book by itself, best first."""
    instrument = INVOCATION.instrument(book["market"])
    table = new_table("Orders", "Id", "Maker", "Side", "Price", "Left", "Held", "Ends in", "")
    for order in book["orders"]:
        marks = [name.replace("_", "-") for name in ("own", "stale", "all_or_none") if order[name]]
        marks += by(order["settlements"])
        table.add_row(
            order["order_id"][:ID_CHARS],
            order["maker"][:8],
            order["side"],
            format_price(order["price_ticks"], instrument),
            format_quantity(order["remaining_lots"], instrument),
            format_quantity(order["held_lots"], instrument),
            lives(order),
            ", ".join(marks),
        )
    return table


def matches_table(matches: list[dict[str, Any]], instrument: Instrument) -> Table:
    """What crosses, best first."""
    table = new_table("Matches", "Order", "Maker", "Quantity", "Price", "Found in", "")
    for match in matches:
        source = match["source"] if match["source"] == "book" else f"peer {match['source'][:8]}"
        table.add_row(
            match["order_id"][:ID_CHARS],
            match["maker"][:8],
            format_quantity(match["quantity_lots"], instrument),
            format_price(match["price_ticks"], instrument),
            plain(source),
            *by(match["settlements"]),
        )
    return table
