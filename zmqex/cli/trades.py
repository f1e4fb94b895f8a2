"""`zmqex trade` and `zmqex hold`: see trades, and say what only a person can know."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from zmqex.cli import tables
from zmqex.cli.context import INVOCATION, Json, new_app, say, show_json, show_list, usage
from zmqex.cli.orders import confirm
from zmqex.errors import EvidenceError
from zmqex.kernel.commands import (
    CancelTrade,
    Command,
    DisputeTrade,
    ExportTrade,
    ListHolds,
    ListTrades,
    PayTrade,
    ReceivedTrade,
    ResolveTrade,
    RolloverTrade,
    SendTrade,
    SentTrade,
    ShowTrade,
)
from zmqex.market.instruments import Currencies, Instrument
from zmqex.market.units import format_notional
from zmqex.protocol.identity import to_text
from zmqex.settings import read_currencies
from zmqex.trading.evidence import read_evidence
from zmqex.trading.settlement import HTLC, SWAP
from zmqex.trading.statements import statements

app = new_app("See trades, pay, and confirm the quote leg.")
hold_app = new_app("See what is held for takers.")

TradeId = Annotated[str, typer.Argument(help="A trade id, or its first 8 or more characters.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

# What is at stake in a dispute, by settlement, our role, and what we do with the base.
_LOST: Final = {
    (
        "plain",
        "maker",
        "buy",
    ): "You have got {base}; if {total} never reach the other side, it has lost them.",
    ("plain", "maker", "sell"): "{base} are still yours; if {total} have reached you, the other "
    "side has lost them unless you pay.",
    (
        "plain",
        "taker",
        "buy",
    ): "If you have sent {total} and {base} are never paid to you, you have lost what you sent.",
    ("plain", "taker", "sell"): "You have paid {base}; if {total} never reach you, you have lost "
    "what you paid.",
}
_LOST_BY: Final = {
    HTLC: {
        "buy": "{base} are not yours yet: if you have sent {total} and the seller does not release "
        "before the lock ends, you have lost what you sent.",
        "sell": "{base} come back to you when the lock ends, unless you release them; if {total} "
        "have reached you and you do not release, the other side has lost them.",
    },
    # One that is disputed: our leg is paid, and the other's lock has gone back.
    SWAP: {
        "buy": "You have paid {total}; if {base} never reach you, you have lost what you paid.",
        "sell": "You have paid {base}; if {total} never reach you, you have lost what you paid.",
    },
}
# What is said before a command is carried out, by settlement.
_BEFORE: Final = {
    ("sent", "plain"): "You say that you have sent {total}.  The other side will rely on it.",
    (
        "sent",
        "htlc",
    ): "You say that you have sent {total}.  The other side will rely on it.  {lost}",
    (
        "send",
        "htlc",
    ): "You are about to send {total}.  Wait for the answer; if you may, send it once, and at "
    "once.  From now on this trade counts as if you had: it ends with the seller's release or in "
    "a dispute.  {lost}",
    ("rollover", "htlc"): "You say that you have sent {total}, and that what was locked for you is "
    "lost.  The seller gets a fresh invoice over {base}.  Nothing can make it pay: if it does not, "
    "you have lost what you sent.  If you have sent nothing, do not ask: who is paid for nothing "
    "owes it.  Until it is paid, `trade cancel` takes the invoice back.",
    ("received", "plain"): "You say that {total} has arrived.  This cannot be taken back.",
    ("received", "htlc"): "You say that {total} has arrived, and give {base} away for good: if it "
    "has not arrived, you lose them.  This cannot be taken back.",
}
_COMMANDS: Final = frozenset(command for command, _ in _BEFORE)
_RESOLVED: Final = {
    "settled": "You say that nothing is owed any more: this node will not pay, ask or wait for "
    "anything.{back}  {lost}  This cannot be taken back.",
    "cancelled": "You say that this trade is off.  Lightning is asked first: a trade of which it "
    "has paid the base, or may still pay it, is not cancelled.  Then the quantity is free "
    "again.{back}  {lost}  This cannot be taken back.",
}
# A buyer by lock that resolves a dispute gives its lock up, whatever it says.
_BACK: Final = (
    "  What is still locked for you goes back to the seller now: a release that comes later is of "
    "no use to you any more."
)


@app.command("list")
def list_trades(
    *,
    running: Annotated[bool, typer.Option("--running", help="Only those that go on.")] = False,
    as_json: Json = False,
) -> None:
    """List trades, newest first, with whose turn it is."""
    answer = INVOCATION.call(ListTrades(not running))
    show_list(answer, "trades", tables.show_trades, as_json=as_json)


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


@app.command("send")
def send(trade_id: TradeId, *, yes: Yes = False, as_json: Json = False) -> None:
    """Ask, before you send the quote, whether the base is locked for long enough."""
    _check_locks(trade_id, "trade sent")
    if not yes:
        _confirm(trade_id, "send")
    _do(SendTrade(trade_id), as_json=as_json)


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
        _confirm(trade_id, "sent")
    _do(SentTrade(trade_id, reference), as_json=as_json)


@app.command("received")
def received(trade_id: TradeId, *, yes: Yes = False, as_json: Json = False) -> None:
    """Say that the quote has arrived with you: this cannot be taken back."""
    if not yes:
        _confirm(trade_id, "received")
    _do(ReceivedTrade(trade_id), as_json=as_json)


@app.command("release")
def release(trade_id: TradeId, *, yes: Yes = False, as_json: Json = False) -> None:
    """Say that the quote has arrived, and release the base: this cannot be taken back."""
    _check_locks(trade_id, "trade received")
    if not yes:
        _confirm(trade_id, "received")
    _do(ReceivedTrade(trade_id), as_json=as_json)


@app.command("rollover")
def rollover(trade_id: TradeId, *, yes: Yes = False, as_json: Json = False) -> None:
    """Ask to be paid anew: you have sent the quote, and your lock is lost."""
    _check_locks(trade_id, "trade dispute")
    if not yes:
        _confirm(trade_id, "rollover")
    _do(RolloverTrade(trade_id), as_json=as_json)


@app.command("cancel")
def cancel(trade_id: TradeId, *, as_json: Json = False) -> None:
    """End a trade in which nothing has moved yet, or take a rollover back."""
    _do(CancelTrade(trade_id), as_json=as_json)


@app.command("dispute")
def dispute(trade_id: TradeId, *, yes: Yes = False, as_json: Json = False) -> None:
    """Say that a trade has gone wrong: its quantity stays committed until you resolve it."""
    if not yes:
        _confirm(
            trade_id,
            "You say that this trade has gone wrong.  Nobody will judge it and nothing is paid or "
            "paid back: it stays as it is until you `trade resolve` it.  {lost}",
        )
    _do(DisputeTrade(trade_id), as_json=as_json)


@app.command("resolve")
def resolve(
    trade_id: TradeId,
    outcome: Annotated[str, typer.Argument(help="settled or cancelled.")],
    *,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """End a disputed trade: `settled` as if all was well, `cancelled` if no base was paid."""
    if outcome not in _RESOLVED:
        raise usage("a trade ends as `settled` or as `cancelled`")
    if not yes:
        _confirm(trade_id, _RESOLVED[outcome])
    _do(ResolveTrade(trade_id, outcome), as_json=as_json)


@app.command("evidence")
def evidence(trade_id: TradeId) -> None:
    """Print what both parties signed, for others to check: `trade evidence ID > FILE`."""
    show_json(INVOCATION.call(ExportTrade(trade_id))["evidence"])


@app.command("verify")
def verify(
    file: Annotated[Path, typer.Argument(help="A file made by `trade evidence`.")],
    *,
    maker: Annotated[str, typer.Option(help="Whose key the maker's must be.")] = "",
    taker: Annotated[str, typer.Option(help="Whose key the taker's must be.")] = "",
    currency: Annotated[
        list[str] | None, typer.Option(help="A quote's decimals, like XYZ=2; repeat it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a file of evidence and say what it proves; needs no node."""
    try:
        currencies = Currencies(read_currencies(currency or []))
    except ValueError as error:
        raise usage(f"--currency: {error}") from error
    found = read_evidence(file.read_bytes())
    for role, wanted, key in (("maker", maker, found.maker), ("taker", taker, found.taker)):
        if wanted and wanted != to_text(key):
            raise EvidenceError(f"the {role} is {to_text(key)}, not the key that you gave")
    words = statements(found, currencies)
    if as_json:
        parties = {"maker": to_text(found.maker), "taker": to_text(found.taker)}
        trade = {"trade_id": found.trade_id.hex(), "sealed_by": to_text(found.sealed_by)}
        show_json({"sound": True, **trade, **parties, "statements": words})
        return
    say(f"The file holds together.  Trade {found.trade_id.hex()} on {tables.plain(found.network)}")
    say(f"Maker:  {to_text(found.maker)}\nTaker:  {to_text(found.taker)}")
    say(f"Written by {to_text(found.sealed_by)[:8]} on {tables.when(found.sealed_at_ms)}.")
    tables.show_sentences("It proves:", words.proved)
    lines = [f"{tables.when(ms)}  {text}" for ms, text in words.said]
    tables.show_sentences("What was said, and signed:", lines)
    tables.show_sentences("It does not prove:", words.unproved)


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


def _check_locks(trade_id: str, instead: str) -> None:
    """Refuse what only a trade with a lock knows."""
    settlement = INVOCATION.call(ShowTrade(trade_id))["trade"]["settlement"]
    if settlement != HTLC:
        raise usage(f"this trade is settled by {settlement}: say `{instead}`")


def _confirm(trade_id: str, text: str) -> None:
    """Say what can be lost, and ask; `text` is a command, or what is said before it."""
    trade = INVOCATION.call(ShowTrade(trade_id))["trade"]
    words = warning(text, trade, INVOCATION.instrument(trade["market"]))
    if words:
        confirm(f"{words}  Go on?")


def warning(text: str, trade: dict[str, Any], instrument: Instrument) -> str:
    """What is said before a command, with what can be lost; "" where the node will refuse it."""
    settlement, side = trade["settlement"], trade["side"]
    text = _BEFORE.get((text, settlement), text)
    if text in _COMMANDS or (settlement == SWAP and text not in _RESOLVED.values()):
        return ""
    own = (settlement, trade["role"], side)
    lost = _LOST_BY[settlement][side] if settlement in _LOST_BY else _LOST[own]
    amounts = {
        "total": format_notional(trade["quote_units"], instrument),
        "base": tables.bitcoin(trade["base_msat"]),
    }
    back = _BACK if (settlement, side) == (HTLC, "buy") else ""
    return text.format(lost=lost.format(**amounts), back=back, **amounts)


def _do(command: Command, *, as_json: bool) -> None:
    answer = INVOCATION.call(command)
    if as_json:
        show_json(answer)
    else:
        tables.show_trades([answer["trade"]])
