"""`zmqex trade` and `zmqex hold`: see trades, and say what only a person can know."""

from __future__ import annotations

from typing import Annotated

import typer

from zmqex.cli import tables
from zmqex.cli.context import INVOCATION, Json, new_app, show_json
from zmqex.cli.orders import confirm
from zmqex.kernel.commands import (
    CancelTrade,
    Command,
    ListHolds,
    ListTrades,
    PayTrade,
    ReceivedTrade,
    SentTrade,
    ShowTrade,
)
from zmqex.market.units import format_notional

app = new_app("See trades, pay, and confirm the quote leg.")
hold_app = new_app("See what is held for takers.")

TradeId = Annotated[str, typer.Argument(help="A trade id, or its first 8 or more characters.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command("list")
def list_trades(
    *,
    running: Annotated[bool, typer.Option("--running", help="Only those that go on.")] = False,
    as_json: Json = False,
) -> None:
    """List trades, newest first, with whose turn it is."""
    answer = INVOCATION.call(ListTrades(not running))
    if as_json:
        show_json(answer)
    else:
        tables.show_trades(answer["trades"])


@app.command("show")
def show(trade_id: TradeId, *, as_json: Json = False) -> None:
    """Show one trade and its signed messages."""
    answer = INVOCATION.call(ShowTrade(trade_id))
    if as_json:
        show_json(answer)
    else:
        tables.show_trade(answer["trade"], answer["messages"])


@app.command("pay")
def pay(trade_id: TradeId, *, as_json: Json = False) -> None:
    """Pay the invoice of a trade."""
    _do(PayTrade(trade_id), as_json=as_json)


@app.command("sent")
def sent(
    trade_id: TradeId,
    *,
    reference: Annotated[str, typer.Option(help="What the other side will see.")] = "",
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Say that you have sent the quote."""
    if not yes:
        _confirm(trade_id, "You say that you have sent {total}.  The other side will rely on it.")
    _do(SentTrade(trade_id, reference), as_json=as_json)


@app.command("received")
def received(trade_id: TradeId, *, yes: Yes = False, as_json: Json = False) -> None:
    """Say that the quote has arrived with you: this cannot be taken back."""
    if not yes:
        _confirm(trade_id, "You say that {total} has arrived.  This cannot be taken back.")
    _do(ReceivedTrade(trade_id), as_json=as_json)


@app.command("cancel")
def cancel(trade_id: TradeId, *, as_json: Json = False) -> None:
    """End a trade in which nothing has moved yet."""
    _do(CancelTrade(trade_id), as_json=as_json)


@hold_app.callback()
def _hold_group() -> None:
    """See what is held for takers."""


@hold_app.command("list")
def holds(*, as_json: Json = False) -> None:
    """List every hold with its seconds left, by the journal and by Redis."""
    answer = INVOCATION.call(ListHolds())
    if as_json:
        show_json(answer)
    else:
        tables.show_holds(answer["holds"])


def _confirm(trade_id: str, text: str) -> None:
    trade = INVOCATION.call(ShowTrade(trade_id))["trade"]
    total = format_notional(trade["quote_units"], INVOCATION.instrument(trade["market"]))
    confirm(f"{text.format(total=total)} Go on?")


def _do(command: Command, *, as_json: bool) -> None:
    answer = INVOCATION.call(command)
    if as_json:
        show_json(answer)
    else:
        tables.show_trades([answer["trade"]])
