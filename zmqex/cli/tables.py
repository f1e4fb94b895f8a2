"""Answers as tables and lines that people like to look at.  Text from peers is escaped."""

from __future__ import annotations

import datetime as dt
import os
import sys
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from zmqex.adapters.clock import wall_ms
from zmqex.cli.context import INVOCATION
from zmqex.findings import Finding
from zmqex.limits import SECOND_MS
from zmqex.market.units import decimal_text, format_notional, format_price, format_quantity
from zmqex.settings import show_address
from zmqex.trading.settlement import PLAIN, QUOTE_UNIT_MSAT, SWAP

ID_CHARS: Final = 12
_MINUTE_MS: Final = 60_000
_MSAT_DECIMALS: Final = 11
# Never broken; the other columns take a second line where the terminal is narrow.
_WHOLE: Final = {"Id", "Order", "Trade", "Maker", "Taker", "With", "Side", "Quantity"}
_NO_PEERS: Final = "No peers yet; `peers add HOST:PORT` names one."
_TURNS: Final = {
    "you": "your turn: ",
    "them": "their turn: ",
    "lightning": "Lightning's turn: ",
    "nobody": "",
}


def console() -> Console:
    """Stdout; plain where it is no terminal or NO_COLOR is set."""
    width = None if sys.stdout.isatty() else 200
    if os.environ.get("NO_COLOR"):
        return Console(highlight=False, color_system=None, width=width)
    return Console(highlight=False, width=width)


def _print(line: str) -> None:
    """A sentence: broken between words on a terminal, whole for another program."""
    console().print(line, soft_wrap=not sys.stdout.isatty())


def plain(text: object) -> str:
    """Text of a stranger as it may be printed: no control characters, no markup."""
    shown = "".join(one if one.isprintable() else "?" for one in str(text))
    return escape(shown)


def new_table(title: str, *columns: str) -> Table:
    """An empty table; where the terminal is too narrow, lines are broken and nothing is cut."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        right = column in {"Quantity", "Total", "Price", "Left", "Held", "Filled", "Orders", "Sum"}
        table.add_column(
            column,
            justify="right" if right else "left",
            no_wrap=column in _WHOLE,
            overflow="fold",
        )
    return table


def when(ms: int) -> str:
    """A time for people, in their own zone."""
    try:
        moment = dt.datetime.fromtimestamp(ms // 1_000, tz=dt.UTC).astimezone()
    except (ValueError, OverflowError, OSError):  # a stranger's number
        return f"{ms} ms"
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def bitcoin(msat: int) -> str:
    """An amount of Lightning's: exact, down to the millisatoshi."""
    return f"{decimal_text(msat, _MSAT_DECIMALS, trim=True)} BTC"


def left(ms: int) -> str:
    """How long from now, in minutes and seconds."""
    return f"{ms // _MINUTE_MS}:{ms % _MINUTE_MS // 1_000:02}"


# --- orders ----------------------------------------------------------------------------------


def show_orders(orders: list[dict[str, Any]]) -> None:
    """A table of own orders."""
    table = new_table(
        "Orders", "Id", "Side", "Quantity", "Price", "Filled", "Held", "Left", "State", "Ends in"
    )
    for order in orders:
        instrument = INVOCATION.instrument(order["market"])
        lots = [order[f"{name}_lots"] for name in ("filled", "held", "remaining")]
        state = order["state"] + (f" ({order['close_reason']})" if order["close_reason"] else "")
        state = ", ".join([state, *by(order["settlements"])])
        table.add_row(
            order["order_id"][:ID_CHARS],
            order["side"],
            format_quantity(order["quantity_lots"], instrument),
            format_price(order["price_ticks"], instrument),
            *(format_quantity(one, instrument) for one in lots),
            state,
            lives(order) + (" renews" if order["renew"] else ""),
        )
    console().print(table if orders else "No orders.")


def show_placed(answer: dict[str, Any]) -> None:
    """What became of an order that was just placed."""
    out = console()
    for one in answer["skipped"]:
        maker, why = plain(one["maker"][:8]), plain(one["detail"])
        named = f"{plain(one['reason'])}, order {one['order_id'][:ID_CHARS]}"
        for_s = -(-one["for_ms"] // 1_000)
        times = f" for {for_s} s, because" if for_s else ":"
        out.print(f"Skipped maker {maker}{times} {why} ({named})")
    if answer.get("repeated"):
        out.print("This command was given before; nothing was done twice.")
    if "replaced" in answer:
        old = answer["replaced"]
        held = format_quantity(old["held_lots"], INVOCATION.instrument(old["market"]))
        stays = f", {held} of it stays held" if old["held_lots"] else ""
        out.print(f"Order {old['order_id'][:ID_CHARS]}: replaced{stays}")
    if "order" in answer:
        order = answer["order"]
        instrument = INVOCATION.instrument(order["market"])
        sums = {
            name: format_quantity(order[f"{name}_lots"], instrument)
            for name in ("filled", "remaining", "dropped")
        }
        ids = order["order_id"][:ID_CHARS]
        if order["state"] == "open":
            until = when(order["expires_at_ms"])
            out.print(f"Order {ids}: {sums['remaining']} rests in the book until {until}")
        else:
            out.print(f"Order {ids}: {order['close_reason']}")
        if order["filled_lots"]:
            out.print(f"  taken at once: {sums['filled']}")
        if order["dropped_lots"]:
            out.print(f"  not filled: {sums['dropped']}")
    if answer["trades"]:
        show_trades(answer["trades"])


def lives(order: dict[str, Any]) -> str:
    """How long an open order lives from now, like 6d 23h; `order show` has the exact end."""
    if order.get("state", "open") == "closed":
        return ""
    seconds = max(order["expires_at_ms"] - wall_ms(), 0) // SECOND_MS
    units = ((seconds // 86_400, "d"), (seconds // 3_600 % 24, "h"), (seconds // 60 % 60, "m"))
    told = [f"{number}{unit}" for number, unit in units if number]
    return " ".join(told[:2]) or f"{seconds}s"


def by(settlements: list[str]) -> list[str]:
    """How an order is settled, as a mark; usual is `plain`."""
    return [] if settlements in ([], [PLAIN]) else [f"by {plain(' or '.join(settlements))}"]


# --- trades ----------------------------------------------------------------------------------


def show_trades(trades: list[dict[str, Any]]) -> None:
    """A table of trades, and for each running one whose turn it is."""
    if not trades:
        console().print("No trades.")
        return
    table = new_table(
        f"Trades ({trades[0]['money']})",
        "Id",
        "We",
        "Quantity",
        "Price",
        "Total",
        "With",
        "State",
        "Turn",
    )
    table.columns[6].no_wrap = True  # one word
    for trade in trades:
        instrument = INVOCATION.instrument(trade["market"])
        state = trade["state"].upper() if trade["turn"] == "nobody" else trade["state"]
        table.add_row(
            trade["trade_id"][:ID_CHARS],
            f"{trade['side']} ({trade['role']})",
            format_quantity(trade["quantity_lots"], instrument),
            format_price(trade["price_ticks"], instrument),
            format_notional(trade["quote_units"], instrument),
            trade["counterparty"][:8],
            state,
            trade["turn"],
        )
    console().print(table)
    for trade in trades:
        if trade["turn"] != "nobody":
            show_turn(trade)


def show_turn(trade: dict[str, Any]) -> None:
    """Whose turn it is, and the exact next command."""
    line = f"Trade {trade['trade_id'][:ID_CHARS]}: {_TURNS[trade['turn']]}{trade['next_text']}"
    if trade["reason"]:
        line += f" ({plain(trade['reason'])})"
    if trade["hold_left_ms"]:
        line += f"; hold ends in {left(trade['hold_left_ms'])}"
    console().print(line)
    if trade["next_command"]:
        console().print(f"  next: {INVOCATION.hint(trade['next_command'])}")


def show_sentences(title: str, sentences: list[str]) -> None:
    """A list of sentences under a title."""
    console().print(f"\n{title}")
    for sentence in sentences:
        _print(f"  * {plain(sentence)}")


def show_trade(trade: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    """One trade with all that is known of it."""
    instrument = INVOCATION.instrument(trade["market"])
    total = format_notional(trade["quote_units"], instrument)
    swapped = f" against {total}" if trade["settlement"] == SWAP else ""
    rows = {
        "Trade": trade["trade_id"],
        "We": f"{trade['side']} {instrument.base} as {trade['role']}",
        "Quantity": format_quantity(trade["quantity_lots"], instrument),
        "Price": format_price(trade["price_ticks"], instrument),
        "Total": total,
        "Lightning": f"{bitcoin(trade['base_msat'])}{swapped} ({trade['money']})",
        "With": trade["counterparty"],
        "Order": trade["order_id"],
        "Settlement": trade["settlement"],
        "State": trade["state"].upper(),
        "Reason": plain(trade["reason"]),
        "Reference": plain(trade["reference"]),
        "How to pay": plain(trade["pay_instructions"]),
        "Attempt": f"{trade['attempt']}, after a lost lock" if trade["attempt"] > 1 else "",
        "Invoice": plain(trade["invoice"]),
        "Taker's": plain(trade["taker_invoice"]),
        "Our nodes": ", ".join(trade["lightning_nodes"]),
        "Begun": when(trade["created_ms"]),
    }
    out = console()
    for name, value in rows.items():
        if value:
            out.print(f"{name + ':':<12} {value}", soft_wrap=True)
    for message in messages:
        sent = when(message["sent_at_ms"])
        out.print(f"  {sent}  {plain(message['kind'])} from {message['sender'][:8]}")
    show_turn(trade)


def show_holds(holds: list[dict[str, Any]]) -> None:
    """Every hold on our orders."""
    table = new_table(
        "Holds", "Trade", "Order", "Taker", "Quantity", "State", "Left", "Fence", "Redis"
    )
    for hold in holds:
        instrument = INVOCATION.instrument(hold["market"])
        redis = "gone" if hold["redis_left_ms"] is None else left(hold["redis_left_ms"])
        table.add_row(
            hold["trade_id"][:ID_CHARS],
            hold["order_id"][:ID_CHARS],
            hold["taker"][:8],
            format_quantity(hold["quantity_lots"], instrument),
            hold["state"],
            left(hold["left_ms"]),
            str(hold["fence"]),
            redis,
        )
    console().print(table if holds else "No holds.")


# --- peers and the node --------------------------------------------------------------------------


def show_peers(peers: list[dict[str, Any]]) -> None:
    """Every known peer."""
    table = new_table("Peers", "Peer", "State", "Address", "From", "Heard", "Skew", "Orders", "Why")
    for peer in peers:
        heard = "" if peer["heard_ms_ago"] is None else f"{peer['heard_ms_ago'] // 1_000} s ago"
        skew = "" if peer["skew_ms"] is None else f"{peer['skew_ms']} ms"
        table.add_row(
            peer["peer"][:ID_CHARS],
            peer["state"],
            plain(show_address(peer["host"], peer["hello_port"])),
            plain(peer["source"]) + (" pinned" if peer["pinned"] else ""),
            heard,
            skew,
            str(peer["open_orders"]),
            plain(peer["why"]),
        )
    console().print(table if peers else _NO_PEERS)


def show_candidates(candidates: list[dict[str, Any]]) -> None:
    """Every address where a peer might be: who named it, and how it stands."""
    table = new_table("Candidates", "Address", "From", "Peer", "State", "Tried", "Next", "Why")
    for one in candidates:
        retry_ms = one["retry_ms"]
        table.add_row(
            plain(show_address(one["host"], one["port"])),
            plain(", ".join(one["sources"])) + (" pinned" if one["pinned"] else ""),
            one["peer"][:ID_CHARS],
            one["state"],
            f"{one['failures']} in vain" if one["failures"] else "",
            "" if retry_ms is None else f"in {-(-retry_ms // 1_000)} s",
            "this node itself" if one["state"] == "self" else plain(one["why"]),
        )
    console().print(table if candidates else f"Nobody has named a peer. {_NO_PEERS}")


def show_makers(makers: list[dict[str, Any]]) -> None:
    """The order log of every maker and market."""
    table = new_table(
        "Makers", "Maker", "Market", "Orders", "Epoch", "Sequence", "Lag", "State", "Why"
    )
    for maker in makers:
        for log in maker["logs"]:
            table.add_row(
                maker["maker"][:ID_CHARS],
                log["market"],
                str(maker["open_orders"]),
                when(log["epoch"]) if log["epoch"] else "",
                str(log["sequence"]),
                str(log["lag"]),
                log["state"] + (", stale" if maker["stale"] else ""),
                plain(log["why"]),
            )
    if table.row_count:
        console().print(table)


def show_findings(findings: list[Finding]) -> None:
    """What `doctor` has found, a line each, with what to do below it."""
    out = console()
    said = ""
    for one in findings:
        _print(f"{one.state:<8} {one.check:<12} {plain(one.text)}")
        if one.fix and one.fix != said:
            said = one.fix
            _print(f"{'':<8} {'':<12} {'do: ':<4}{plain(one.fix)}")
    sick = sum(one.state == "wrong" for one in findings)
    things = "thing is" if sick == 1 else "things are"
    out.print(f"{sick} {things} wrong." if sick else "Nothing is wrong.")


def _grapes(grapes: dict[str, Any]) -> str:
    named, announced_on = grapes["grapes"], grapes["announced_on"]
    one_of = f", one of {len(named)}" if len(named) > 1 else ""
    if announced_on is None:
        return f"{grapes['used']}{one_of}; it has taken no announce yet"
    places = "1 place" if announced_on == 1 else f"{announced_on} places"
    return f"{grapes['used']}{one_of}; announced in {places}"


def _lightning(lightning: dict[str, Any], money: str, quote: str = "") -> str:
    if not lightning["ok"]:
        return f"does not answer ({money})"
    backend = "" if lightning["play"] else f"{lightning['backend']}, "
    holds = "" if lightning["can_hold"] else "; it cannot hold payments"
    balance = bitcoin(lightning["balance_msat"])
    if quote:
        units = lightning["balance_msat"] // QUOTE_UNIT_MSAT
        balance = f"{decimal_text(units, lightning['decimals'])} {quote}"
    return f"{balance} ({backend}{money}), node {lightning['node'][:16]}{holds}"


def show_status(status: dict[str, Any]) -> None:
    """How the node is, a line each."""
    redis, journal = status["redis"], status["journal"]
    rows = {
        "Identity": status["identity"],
        "Network": status["network"],
        "Version": status["version"],
        "Process": f"{status['pid']}, up {left(status['uptime_ms'])}",
        "Data": status["data_dir"],
        "Listens": ", ".join(f"{name} {place}" for name, place in status["endpoints"].items()),
        "Redis": (
            f"{redis['server']} {redis['version']}, pid {redis['pid']}, {redis['url']}"
            if redis["ok"]
            else "does not answer"
        ),
        "Lightning": _lightning(status["lightning"], status["lightning"]["money"]),
        "Journal": f"{journal['commits']} commits since the start, SQLite {journal['sqlite']}",
        "Peers": f"{status['peers']['live']} live of {status['peers']['known']} known",
        "Orders": f"{status['orders']['open']} open",
        "Trades": f"{status['trades']['running']} running",
    }
    for code, lightning in status["quote_lightning"].items():
        rows[code] = _lightning(lightning, status["lightning"]["money"], code)
    if status["grapes"] is not None:
        rows["Grapes"] = _grapes(status["grapes"])
    out = console()
    for name, value in rows.items():
        out.print(f"{name + ':':<10} {plain(value)}", soft_wrap=True)
    for name, value in status["counters"].items():
        if value:
            out.print(f"  {plain(name)}: {value}")
    for warning in status["warnings"]:
        out.print(f"Warning: {plain(warning)}")
