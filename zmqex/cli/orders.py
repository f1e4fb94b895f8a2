"""`zmqex order`: place, take, list, show and cancel orders."""

from __future__ import annotations

import hashlib
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from zmqex.adapters.storage.directory import create_private_file
from zmqex.cli import tables
from zmqex.cli.context import INVOCATION, note, show_json, usage
from zmqex.errors import RefusedError
from zmqex.kernel.commands import (
    CancelOrder,
    Command,
    ListOrders,
    PayTrade,
    PlaceOrder,
    ShowOrder,
    TakeOrder,
)
from zmqex.limits import ORDER_LIFE_DEFAULT_MS, ORDER_LIFE_MAX_MS
from zmqex.market.units import (
    format_average_price,
    format_notional,
    format_price,
    format_quantity,
    notional_quote_units,
    parse_duration,
    parse_order_text,
    parse_quantity,
)

app = typer.Typer(no_args_is_help=True, help="Place, take, list, show and cancel orders.")

Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Words = Annotated[list[str], typer.Argument(help="Like 1BTC@1USD or 1 BTC @ 50,000 USD.")]
OrderId = Annotated[str, typer.Argument(help="An order id, or its first 8 or more characters.")]
Pay = Annotated[str, typer.Option(help="Pay invoices: ask, auto or manual.")]


def _place(  # noqa: PLR0913 - one parameter per flag of the command
    side: str,
    words: Words,
    *,
    expires: Annotated[str, typer.Option(help="How long it lives, at most 7d.")] = "",
    renew: Annotated[bool, typer.Option("--renew", help="Renew it when it expires.")] = False,
    ioc: Annotated[bool, typer.Option("--ioc", help="Take what there is, rest nothing.")] = False,
    fok: Annotated[bool, typer.Option("--fok", help="Fill all of it at once, or nothing.")] = False,
    post_only: Annotated[bool, typer.Option("--post-only", help="Rest, never take.")] = False,
    all_or_none: Annotated[
        bool, typer.Option("--all-or-none", help="Never fill a part of it.")
    ] = False,
    minimum: Annotated[str, typer.Option("--min", help="The smallest fill, like 0.1BTC.")] = "",
    time_in_force: Annotated[
        str, typer.Option("--time-in-force", "--tif", help="gtc, gtd, ioc or fok.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what it would do.")] = False,
    pay: Pay = "",
    as_json: Json = False,
) -> None:
    """Match against the book, take what crosses, rest what is left."""
    terms = parse_order_text(" ".join(words), INVOCATION.currencies())
    instrument = terms.instrument
    tif = _time_in_force(time_in_force, expires, ioc=ioc, fok=fok)
    life_ms = _life_ms(expires)
    minimum_lots = parse_quantity(minimum, instrument) if minimum else 0
    _check(tif, minimum_lots, terms.quantity_lots, post_only=post_only, renew=renew)
    mode = _pay_mode(pay)
    total = notional_quote_units(terms.quantity_lots, terms.price_ticks, instrument)
    echo = print if not as_json else note
    echo(
        tables.order_sentence(
            side,
            terms.quantity_lots,
            terms.price_ticks,
            instrument,
            format_notional(total, instrument),
        )
    )
    if tif in {"gtc", "gtd"}:
        note(f"It lives for {expires or '7d'}{' and renews itself' if renew else ''}.")
    command = PlaceOrder(
        market=instrument.symbol,
        side=side,
        quantity_lots=terms.quantity_lots,
        price_ticks=terms.price_ticks,
        minimum_lots=minimum_lots,
        expires_in_ms=life_ms,
        time_in_force=tif,
        post_only=post_only,
        all_or_none=all_or_none,
        renew=renew,
        dry_run=dry_run,
        pay_mode="manual" if mode == "ask" else mode,
    )
    if dry_run:
        _show_plan(INVOCATION.call(command), as_json=as_json)
        return
    answer = _once(command)
    _ask_to_pay(answer, mode)
    if as_json:
        show_json(answer)
    else:
        tables.show_placed(answer)


def _side_command(side: str) -> Any:  # noqa: ANN401 - typer reads the signature
    """The same flags for buy and sell."""
    import functools  # noqa: PLC0415 - only here
    import inspect  # noqa: PLC0415 - only here
    import typing  # noqa: PLC0415 - only here

    @functools.wraps(_place)
    def command(*args: Any, **flags: Any) -> None:  # noqa: ANN401
        _place(side, *args, **flags)

    signature = inspect.signature(_place)
    hints = typing.get_type_hints(_place, include_extras=True)
    parameters = [
        parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in signature.parameters.items()
        if name != "side"
    ]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    command.__doc__ = f"{side.capitalize()}: take what crosses, rest what is left."
    return command


app.command("buy")(_side_command("buy"))
app.command("sell")(_side_command("sell"))


def _time_in_force(given: str, expires: str, *, ioc: bool, fok: bool) -> str:
    chosen = {given.lower()} if given else set()
    chosen |= {word for word, flag in (("ioc", ioc), ("fok", fok)) if flag}
    if len(chosen) > 1:
        message = f"an order has one time in force, not {' and '.join(sorted(chosen))}"
        raise usage(message)
    tif = next(iter(chosen), "gtd" if expires else "gtc")
    if tif not in {"gtc", "gtd", "ioc", "fok"}:
        message = f"--time-in-force: {tif[:20]!r} is none of gtc, gtd, ioc, fok"
        raise usage(message)
    if expires and tif in {"ioc", "fok"}:
        message = f"--expires: an {tif.upper()} order never rests, so it has no expiry"
        raise usage(message)
    if tif == "gtd" and not expires:
        message = "--time-in-force gtd needs --expires"
        raise usage(message)
    return tif


def _life_ms(expires: str) -> int:
    if not expires:
        return ORDER_LIFE_DEFAULT_MS
    life_ms = parse_duration(expires)
    if life_ms > ORDER_LIFE_MAX_MS:
        message = f"--expires {expires}: an order lives for at most 7d; --renew keeps renewing it"
        raise usage(message)
    return life_ms


def _check(
    tif: str, minimum_lots: int, quantity_lots: int, *, post_only: bool, renew: bool
) -> None:
    never_rests = tif in {"ioc", "fok"}
    if post_only and never_rests:
        message = f"--post-only rests and {tif.upper()} never does: choose one"
        raise usage(message)
    if renew and never_rests:
        message = f"--renew is for orders that rest, and {tif.upper()} never does"
        raise usage(message)
    if minimum_lots > quantity_lots:
        message = "--min is above the quantity of the order"
        raise usage(message)


def _pay_mode(given: str) -> str:
    mode = given or INVOCATION.config().pay or ""
    if mode not in {"", "ask", "auto", "manual"}:
        message = f"--pay: {mode[:20]!r} is none of ask, auto, manual"
        raise usage(message)
    if not mode:
        mode = "auto" if INVOCATION.config().network == "play" else "ask"
    return "manual" if mode == "ask" and not sys.stdin.isatty() else mode


def _ask_to_pay(answer: dict[str, Any], mode: str) -> None:
    for index, trade in enumerate(answer["trades"]):
        due = mode == "ask" and trade["state"] == "accepted" and trade["side"] == "sell"
        if due and typer.confirm(f"Pay {trade['base_msat']} msat to {trade['counterparty'][:8]}?"):
            answer["trades"][index] = INVOCATION.call(PayTrade(trade["trade_id"]))["trade"]


def _once(command: PlaceOrder | TakeOrder) -> dict[str, Any]:
    """Give a command under a key that a repeat after a lost answer uses again."""
    directory = INVOCATION.choice().data_dir / "pending"
    name = hashlib.sha256(msgspec.msgpack.encode(command)).hexdigest()[:32]
    path = directory / name
    key = _pending_key(path)
    answered = False
    try:
        answer = INVOCATION.call(msgspec.structs.replace(command, key=key))
        answered = True
    except RefusedError:
        answered = True
        raise
    finally:
        if answered:
            path.unlink(missing_ok=True)
    return answer


def _pending_key(path: Path) -> str:
    """The key of this command: the one that never got its answer, or a new one on disk."""
    if not path.parent.parent.is_dir():
        return ""  # the node was never started; the call says so
    with suppress(FileNotFoundError):
        key = path.read_text(encoding="ascii")
        note("This command was given before and got no answer; it is repeated under the same key.")
        return key
    key = secrets.token_hex(16)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    create_private_file(path, key.encode())
    return key


def _show_plan(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(answer)
        return
    instrument = INVOCATION.instrument(answer["market"])
    for fill in answer["fills"]:
        quantity = format_quantity(fill["quantity_lots"], instrument)
        price = format_price(fill["price_ticks"], instrument)
        print(f"Would take {quantity} at {price} from {fill['maker'][:8]}")  # noqa: T201
    if answer["filled_lots"]:
        average = format_average_price(
            answer["average_price_ticks_numerator"], answer["filled_lots"], instrument
        )
        print(f"Average price {average}")  # noqa: T201
    for name, text in (("resting", "Would rest"), ("cancelled", "Would not be filled:")):
        if answer[f"{name}_lots"]:
            print(f"{text} {format_quantity(answer[f'{name}_lots'], instrument)}")  # noqa: T201


@app.command("take")
def take(order_id: OrderId, quantity: str, *, pay: Pay = "", as_json: Json = False) -> None:
    """Take a quantity of one order, like: order take 1a2b3c4d 0.4BTC."""
    instrument = INVOCATION.instrument()
    mode = _pay_mode(pay)
    lots = parse_quantity(quantity, instrument)
    answer = _once(TakeOrder(order_id, lots, "manual" if mode == "ask" else mode))
    _ask_to_pay(answer, mode)
    if as_json:
        show_json(answer)
    else:
        tables.show_placed(answer)


@app.command("list")
def list_orders(
    *,
    closed: Annotated[bool, typer.Option("--all", help="With the closed ones.")] = False,
    as_json: Json = False,
) -> None:
    """List own orders."""
    _show(ListOrders(closed), "orders", tables.show_orders, as_json=as_json)


@app.command("show")
def show(order_id: OrderId, *, as_json: Json = False) -> None:
    """Show one order and its trades."""
    answer = INVOCATION.call(ShowOrder(order_id))
    if as_json:
        show_json(answer)
        return
    tables.show_orders([answer["order"]])
    if answer["trades"]:
        tables.show_trades(answer["trades"])


@app.command("cancel")
def cancel(
    order_id: Annotated[str, typer.Argument(help="An order id, or its first characters.")] = "",
    *,
    everything: Annotated[bool, typer.Option("--all", help="Cancel all open orders.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Cancel an order; what is held stays held until its trade has ended."""
    if bool(order_id) == everything:
        message = "say which order to cancel, or --all for all of them"
        raise usage(message)
    if everything and not yes:
        confirm("Cancel all open orders?")
    answer = INVOCATION.call(CancelOrder(order_id))
    if as_json:
        show_json(answer)
        return
    for one in answer["cancelled"]:
        instrument = INVOCATION.instrument(one["market"])
        sums = [
            f"{name} {format_quantity(one[f'{name}_lots'], instrument)}"
            for name in ("removed", "held", "remaining")
        ]
        print(f"Order {one['order_id'][: tables.ID_CHARS]}: {', '.join(sums)}")  # noqa: T201
    if not answer["cancelled"]:
        print("No open orders.")  # noqa: T201


def confirm(question: str) -> None:
    """Ask on a terminal; without one, say that --yes is needed."""
    if not sys.stdin.isatty():
        message = f"{question} There is no terminal to ask on: give --yes"
        raise usage(message)
    if not typer.confirm(question):
        raise typer.Exit(1)


def _show(command: Command, key: str, render: Any, *, as_json: bool) -> None:  # noqa: ANN401
    answer = INVOCATION.call(command)
    if as_json:
        show_json(answer)
    else:
        render(answer[key])
