"""`zmqex book` and `zmqex match`: what the market offers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Annotated, Final

import typer
from rich.console import RenderableType
from rich.live import Live

from zmqex.cli import book_tables, tables
from zmqex.cli.context import INVOCATION, Json, note, show_json, usage
from zmqex.errors import InputError
from zmqex.kernel.commands import GetBook, GetPeerBook, MatchOrder
from zmqex.market.units import parse_order_text

_REFRESH_S: Final = 0.5
_DEPTH: Final = 10

Watch = Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C.")]


def book(
    market: Annotated[str, typer.Argument(help="Like BTC/USD; the node's first one.")] = "",
    *,
    depth: Annotated[int, typer.Option(min=1, max=1_000, help="Levels on each side.")] = _DEPTH,
    orders: Annotated[bool, typer.Option("--orders", help="Every order by itself.")] = False,
    source: Annotated[str, typer.Option("--from", help="Fetch a peer's whole book.")] = "",
    watch: Watch = False,
    as_json: Json = False,
) -> None:
    """Show bids and asks with their depth, own orders and stale makers marked."""
    symbol = INVOCATION.instrument(market).symbol
    if source:
        command: GetBook | GetPeerBook = GetPeerBook(source, symbol, depth, orders)
    else:
        command = GetBook(symbol, depth, orders)
    if as_json:
        show_json(INVOCATION.call(command))
        return

    def look() -> RenderableType:
        shown = INVOCATION.call(command)
        return book_tables.book_orders_table(shown) if orders else book_tables.book_table(shown)

    _show(look, watch=watch)


def match(
    words: Annotated[
        list[str], typer.Argument(metavar="ORDER", help="An order id, or: sell 0.4BTC@1USD.")
    ],
    *,
    local: Annotated[bool, typer.Option("--local", help="Do not ask peers.")] = False,
    watch: Watch = False,
    as_json: Json = False,
) -> None:
    """List what crosses an order, in this node's book and asked from peers."""
    command = _match_command(words, ask_peers=not local)
    if as_json:
        show_json(INVOCATION.call(command))
        return

    def look() -> RenderableType:
        answer = INVOCATION.call(command)
        for silent in answer["unanswered"]:
            note(f"Peer {silent['peer'][:8]} did not answer: {silent['reason']}")
        matches = answer["matches"]
        instrument = INVOCATION.instrument(command.market)
        return book_tables.matches_table(matches, instrument) if matches else "Nothing crosses."

    _show(look, watch=watch)


def _match_command(words: list[str], *, ask_peers: bool) -> MatchOrder:
    if words[0].lower() in {"buy", "sell"} and len(words) > 1:
        terms = parse_order_text(" ".join(words[1:]), INVOCATION.currencies())
        return MatchOrder(
            market=terms.instrument.symbol,
            side=words[0].lower(),
            quantity_lots=terms.quantity_lots,
            price_ticks=terms.price_ticks,
            ask_peers=ask_peers,
        )
    if len(words) > 1:
        raise _unclear()
    return MatchOrder(order_id=words[0], ask_peers=ask_peers)


def _unclear() -> InputError:
    return usage("give an order id, or a side and an order, like: sell 0.4BTC@1USD")


def _show(look: Callable[[], RenderableType], *, watch: bool) -> None:
    out = tables.console()
    if not watch:
        out.print(look())
        return
    try:
        if sys.stdout.isatty():
            with Live(look(), console=out, auto_refresh=False, screen=False) as live:
                while True:
                    time.sleep(_REFRESH_S)
                    live.update(look(), refresh=True)
        while True:
            out.print(look())
            time.sleep(_REFRESH_S)
    except KeyboardInterrupt:
        return
