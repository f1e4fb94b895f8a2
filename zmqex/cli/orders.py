"""`zmqex order`: place, take, replace, list, show and cancel orders."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Final

import msgspec
import typer

from zmqex.cli import tables
from zmqex.cli.context import (
    INVOCATION,
    Json,
    asks,
    new_app,
    note,
    say,
    show_json,
    show_list,
    usage,
)
from zmqex.cli.pending import once
from zmqex.cli.staying import stay
from zmqex.errors import InputError, RefusedError
from zmqex.kernel.commands import (
    CancelOrder,
    ListOrders,
    PayTrade,
    PlaceOrder,
    ReplaceOrder,
    ShowOrder,
    TakeOrder,
)
from zmqex.limits import DAY_MS, ORDER_LIFE_DEFAULT_MS, ORDER_LIFE_MAX_MS
from zmqex.market.instruments import Instrument
from zmqex.market.units import (
    OrderTerms,
    format_average_price,
    format_notional,
    format_price,
    format_quantity,
    notional_quote_units,
    parse_duration,
    parse_order_text,
    parse_quantity,
)
from zmqex.reasons import RejectReason
from zmqex.trading.settlement import PLAIN, SWAP
from zmqex.trading.tables import TABLES

app = new_app("Place, take, replace, list, show and cancel orders.")

Words = Annotated[
    list[str], typer.Argument(metavar="ORDER", help="Like 1BTC@1USD or 1 BTC @ 50,000 USD.")
]
OrderId = Annotated[str, typer.Argument(help="An order id, or its first 8 or more characters.")]
Pay = Annotated[str, typer.Option(help="Pay invoices: ask, auto or manual.")]

_SETTLEMENTS: Final = tuple(dict.fromkeys(settlement for settlement, _role, _side in TABLES))
_PLAIN: Final = [PLAIN]
_LIFE_DEFAULT: Final = f"{ORDER_LIFE_DEFAULT_MS // DAY_MS}d"


# A negative number is a wrong quantity, not an option that nobody knows.
_WORDS: Final = {"ignore_unknown_options": True}


class Terms(msgspec.Struct, frozen=True):
    """What the flags of `order buy` and `order sell` say."""

    expires: str
    renew: bool
    ioc: bool
    fok: bool
    post_only: bool
    all_or_none: bool
    cancel_on_disconnect: bool
    minimum: str
    time_in_force: str
    dry_run: bool
    pay: str
    settlements: list[str]
    yes: bool
    as_json: bool


Expires = Annotated[str, typer.Option(help="How long it lives, like 24h; 7d is most and usual.")]
Renew = Annotated[bool, typer.Option("--renew", help="Renew it when it expires.")]
Ioc = Annotated[bool, typer.Option("--ioc", help="Take what there is, rest nothing.")]
Fok = Annotated[bool, typer.Option("--fok", help="Fill all of it at once, or nothing.")]
PostOnly = Annotated[bool, typer.Option("--post-only", help="Rest, never take.")]
AllOrNone = Annotated[bool, typer.Option("--all-or-none", help="Never fill a part of it.")]
Staying = Annotated[
    bool,
    typer.Option(
        "--cancel-on-disconnect", help="Stay, and close it when this command ends (Ctrl-C)."
    ),
]
Minimum = Annotated[str, typer.Option("--min", help="The smallest fill, like 0.1BTC.")]
TimeInForce = Annotated[str, typer.Option("--time-in-force", "--tif", help="gtc, gtd, ioc or fok.")]
Settlements = Annotated[
    list[str],
    typer.Option("--settlement", metavar="WORD", help="How it may be settled; can be repeated."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what it would do.")]
Yes = Annotated[bool, typer.Option("--yes", help="Ask nothing: pay, and at any price.")]


@app.command("buy", context_settings=_WORDS)
def buy(  # noqa: PLR0913 - one parameter per flag of the command
    words: Words,
    *,
    expires: Expires = "",
    renew: Renew = False,
    ioc: Ioc = False,
    fok: Fok = False,
    post_only: PostOnly = False,
    all_or_none: AllOrNone = False,
    cancel_on_disconnect: Staying = False,
    minimum: Minimum = "",
    time_in_force: TimeInForce = "",
    settlement: Settlements = _PLAIN,
    dry_run: DryRun = False,
    pay: Pay = "",
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Buy: take what crosses, best first, and rest what is left."""
    terms = Terms(
        expires,
        renew,
        ioc,
        fok,
        post_only,
        all_or_none,
        cancel_on_disconnect,
        minimum,
        time_in_force,
        dry_run,
        _pay_word(pay, yes=yes),
        settlement,
        yes,
        as_json,
    )
    _place("buy", words, terms)


@app.command("sell", context_settings=_WORDS)
def sell(  # noqa: PLR0913 - as for buy
    words: Words,
    *,
    expires: Expires = "",
    renew: Renew = False,
    ioc: Ioc = False,
    fok: Fok = False,
    post_only: PostOnly = False,
    all_or_none: AllOrNone = False,
    cancel_on_disconnect: Staying = False,
    minimum: Minimum = "",
    time_in_force: TimeInForce = "",
    settlement: Settlements = _PLAIN,
    dry_run: DryRun = False,
    pay: Pay = "",
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Sell: take what crosses, best first, and rest what is left."""
    terms = Terms(
        expires,
        renew,
        ioc,
        fok,
        post_only,
        all_or_none,
        cancel_on_disconnect,
        minimum,
        time_in_force,
        dry_run,
        _pay_word(pay, yes=yes),
        settlement,
        yes,
        as_json,
    )
    _place("sell", words, terms)


def _place(side: str, words: list[str], given: Terms) -> None:
    """Match against the book, take what crosses, rest what is left."""
    check_words(words)
    order = parse_order_text(" ".join(words), INVOCATION.currencies())
    instrument = order.instrument
    tif = _time_in_force(given)
    life_ms = _life_ms(given.expires)
    minimum_lots = _minimum_lots(given.minimum, instrument)
    _check(given, tif, minimum_lots, order.quantity_lots)
    mode = _pay_mode(given.pay)
    settlements = _settlements(given.settlements)
    _echo(side, order, as_json=given.as_json)
    if tif in {"gtc", "gtd"}:
        renews = " and renews itself" if given.renew else ""
        note(f"It lives for {given.expires or _LIFE_DEFAULT}{renews}.")
    command = PlaceOrder(
        market=instrument.symbol,
        side=side,
        quantity_lots=order.quantity_lots,
        price_ticks=order.price_ticks,
        minimum_lots=minimum_lots,
        expires_in_ms=life_ms,
        time_in_force=tif,
        post_only=given.post_only,
        all_or_none=given.all_or_none,
        renew=given.renew,
        cancel_on_disconnect=given.cancel_on_disconnect,
        dry_run=given.dry_run,
        pay_mode="manual" if mode == "ask" else mode,
        any_price=given.yes,
        settlements=settlements,
    )
    if given.dry_run:
        _show_plan(INVOCATION.call(command), as_json=given.as_json)
        return

    def place() -> dict[str, Any]:
        return _give(command, mode, as_json=given.as_json)

    if given.cancel_on_disconnect:
        stay(place)
    else:
        place()


def _give(command: PlaceOrder | ReplaceOrder, mode: str, *, as_json: bool) -> dict[str, Any]:
    """Give a command and show its answer; a price far from the best one needs the user's yes."""

    def show(answer: dict[str, Any]) -> None:
        _show_placed(answer, mode, as_json=as_json)

    try:
        return once(command, show)
    except RefusedError as error:
        if error.reason != RejectReason.OUTSIDE_PRICE_BAND:
            raise
        sentence = str(error)
        confirm(f"{sentence[:1].upper()}{sentence[1:]}. Place it all the same?")
    return once(msgspec.structs.replace(command, any_price=True), show)


def _show_placed(answer: dict[str, Any], mode: str, *, as_json: bool) -> None:
    _ask_to_pay(answer, mode)
    if as_json:
        show_json(answer)
    else:
        tables.show_placed(answer)


def check_words(words: list[str]) -> None:
    """Refuse an unknown option among the words of an order; a negative number passes."""
    for word in words:
        if (word.startswith("-") and word[1:2].isalpha()) or word.startswith("--"):
            raise usage(f"no such option: {word[:40]}")


def _echo(side: str, order: OrderTerms, *, as_json: bool) -> None:
    """Say what was understood; to stderr where stdout is JSON."""
    quantity_lots, instrument, price_ticks = order
    total = notional_quote_units(quantity_lots, price_ticks, instrument)
    sentence = (
        f"{side.capitalize()} {format_quantity(quantity_lots, instrument)} at "
        f"{format_price(price_ticks, instrument)} per {instrument.base}, "
        f"total {format_notional(total, instrument)}"
    )
    if as_json:
        note(sentence)
    else:
        say(sentence)


def _settlements(given: list[str]) -> tuple[str, ...]:
    for word in given:
        if word not in _SETTLEMENTS:
            raise usage(f"--settlement: {word[:20]!r} is none of {', '.join(_SETTLEMENTS)}")
    return tuple(dict.fromkeys(given))


def _time_in_force(given: Terms) -> str:
    chosen = {given.time_in_force.lower()} if given.time_in_force else set()
    chosen |= {word for word, flag in (("ioc", given.ioc), ("fok", given.fok)) if flag}
    if len(chosen) > 1:
        raise usage(f"an order has one time in force, not {' and '.join(sorted(chosen))}")
    tif = next(iter(chosen), "gtd" if given.expires else "gtc")
    if tif not in {"gtc", "gtd", "ioc", "fok"}:
        raise usage(f"--time-in-force: {tif[:20]!r} is none of gtc, gtd, ioc, fok")
    if tif == "gtd" and not given.expires:
        raise usage("--time-in-force gtd needs --expires")
    if tif == "gtc" and given.expires:
        raise usage("--time-in-force gtc lives as long as it may; --expires makes it gtd")
    return tif


def _minimum_lots(minimum: str, instrument: Instrument) -> int:
    try:
        return parse_quantity(minimum, instrument) if minimum else 0
    except InputError as error:
        raise InputError(error.reason, f"--min: {error}") from error


def _life_ms(expires: str) -> int:
    if not expires:
        return ORDER_LIFE_DEFAULT_MS
    try:
        life_ms = parse_duration(expires)
    except InputError as error:
        raise InputError(error.reason, f"--expires: {error}, more than 0") from error
    if life_ms > ORDER_LIFE_MAX_MS:
        raise usage(
            f"--expires {expires}: an order lives for at most 7d; --renew keeps renewing it"
        )
    return life_ms


def _check(given: Terms, tif: str, minimum_lots: int, quantity_lots: int) -> None:
    """Refuse flags that contradict each other, each with its own sentence."""
    word = tif.upper()
    if tif in {"ioc", "fok"}:
        if given.post_only:
            raise usage(f"--post-only only rests and {word} never does; choose one")
        if given.renew:
            raise usage(f"--renew is for orders that rest, and {word} never does")
        if given.expires:
            raise usage(f"--expires: {word} never rests, so it has no expiry")
    if given.cancel_on_disconnect and (given.renew or tif in {"ioc", "fok"}):
        other = "--renew" if given.renew else word
        raise usage(f"--cancel-on-disconnect stays with an order that rests, not {other}")
    if minimum_lots > quantity_lots:
        raise InputError(
            RejectReason.MINIMUM_ABOVE_QUANTITY, "--min is above the quantity of the order"
        )
    if minimum_lots and (given.all_or_none or tif == "fok"):
        whole = "--all-or-none" if given.all_or_none else word
        raise usage(f"{whole} fills all of the order, so --min says nothing; choose one")


def _pay_word(pay: str, *, yes: bool) -> str:
    """`--yes` is `--pay auto` in other words."""
    if yes and pay in {"ask", "manual"}:
        raise usage(f"--yes pays without asking, and --pay {pay} does not; choose one")
    return "auto" if yes else pay


def _pay_mode(given: str) -> str:
    mode = given or INVOCATION.config().pay or ""
    if mode not in {"", "ask", "auto", "manual"}:
        raise usage(f"--pay: {mode[:20]!r} is none of ask, auto, manual")
    if not mode:
        mode = "auto" if INVOCATION.config().network == "play" else "ask"
    return "manual" if mode == "ask" and not sys.stdin.isatty() else mode


def _ask_to_pay(answer: dict[str, Any], mode: str) -> None:
    """Pay what is due where the user says yes; the order stands, whatever comes of it."""
    for index, trade in enumerate(answer["trades"]):
        swaps, sells = trade["settlement"] == SWAP, trade["side"] == "sell"
        due = mode == "ask" and trade["state"] == "accepted" and (swaps or sells)
        amount, payee = tables.bitcoin(trade["base_msat"]), trade["counterparty"][:8]
        if not sells:
            instrument = INVOCATION.instrument(trade["market"])
            amount = format_notional(trade["quote_units"], instrument)
        if due and asks(f"Pay {amount} to {payee}?"):
            try:
                answer["trades"][index] = INVOCATION.call(PayTrade(trade["trade_id"]))["trade"]
            except RefusedError as error:
                note(f"zmqex: not paid: {error}")


def _show_plan(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(answer)
        return
    instrument = INVOCATION.instrument(answer["market"])
    total = 0
    for fill in answer["fills"]:
        lots, ticks = fill["quantity_lots"], fill["price_ticks"]
        total += notional_quote_units(lots, ticks, instrument)
        quantity, price = format_quantity(lots, instrument), format_price(ticks, instrument)
        maker, order = fill["maker"][:8], fill["order_id"][: tables.ID_CHARS]
        say(f"Would take {quantity} at {price} from maker {maker} (order {order})")
    if answer["filled_lots"]:
        average = format_average_price(
            answer["average_price_ticks_numerator"], answer["filled_lots"], instrument
        )
        say(f"Average price {average}, total {format_notional(total, instrument)}")
    for name, text in (("resting", "Would rest:"), ("cancelled", "Would not be filled:")):
        if answer[f"{name}_lots"]:
            say(f"{text} {format_quantity(answer[f'{name}_lots'], instrument)}")
    note("Nothing was placed: this was a dry run.")


@app.command("take", context_settings=_WORDS)
def take(
    order_id: OrderId,
    quantity: Annotated[list[str], typer.Argument(help="Like 0.4BTC.")],
    *,
    settlement: Annotated[str, typer.Option(metavar="WORD", help="How to settle.")] = PLAIN,
    pay: Pay = "",
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Take a quantity of one order, like: order take 1a2b3c4d 0.4BTC."""
    check_words(quantity)
    # Every market's base is BTC with the same lots, so the order's own market is not needed.
    lots = parse_quantity(" ".join(quantity), INVOCATION.instrument())
    mode = _pay_mode(_pay_word(pay, yes=yes))
    (settled,) = _settlements([settlement])
    command = TakeOrder(order_id, lots, "manual" if mode == "ask" else mode, settlement=settled)
    once(command, lambda answer: _show_placed(answer, mode, as_json=as_json))


@app.command("replace", context_settings=_WORDS)
def replace(
    order_id: OrderId, words: Words, *, pay: Pay = "", yes: Yes = False, as_json: Json = False
) -> None:
    """Replace an open order, like: order replace 1a2b3c4d 1BTC@2USD; what is held stays held."""
    check_words(words)
    quantity_lots, instrument, price_ticks = parse_order_text(
        " ".join(words), INVOCATION.currencies()
    )
    word = _pay_word(pay, yes=yes)
    mode = _pay_mode(word)
    said = "manual" if mode == "ask" else mode
    command = ReplaceOrder(
        order_id,
        instrument.symbol,
        quantity_lots,
        price_ticks,
        said if word else "",
        any_price=yes,
    )
    _give(command, mode, as_json=as_json)


@app.command("list")
def list_orders(
    *,
    closed: Annotated[bool, typer.Option("--all", help="With the closed ones.")] = False,
    as_json: Json = False,
) -> None:
    """List own orders."""
    answer = INVOCATION.call(ListOrders(closed))
    show_list(answer, "orders", tables.show_orders, as_json=as_json)


@app.command("show")
def show(order_id: OrderId, *, as_json: Json = False) -> None:
    """Show one order and its trades."""
    answer = INVOCATION.call(ShowOrder(order_id))
    if as_json:
        show_json(answer)
        return
    tables.show_orders([answer["order"]])
    if answer["order"]["state"] == "open":
        say(f"It lives until {tables.when(answer['order']['expires_at_ms'])}.")
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
        raise usage("say which order to cancel, or --all for all of them")
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
        say(f"Order {one['order_id'][: tables.ID_CHARS]}: {', '.join(sums)}")
    if not answer["cancelled"]:
        say("No open orders.")


def confirm(question: str) -> None:
    """Ask on a terminal; without one, say that --yes is needed."""
    if not sys.stdin.isatty():
        raise usage(f"{question} There is no terminal to ask on: give --yes")
    if not asks(question):
        raise typer.Exit(1)
