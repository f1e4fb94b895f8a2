"""The command line: parse, call, render.  Exit codes: 0 done, 1 refused, 2 usage, 3 no node.

`--node NAME` and `--data-dir DIR` may stand before or after any subcommand.  Results go to stdout,
everything else to stderr.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

import click
import typer

from zmqex.cli import books, network, orders, trades
from zmqex.cli.context import (
    EXIT_REFUSED,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    INVOCATION,
    note,
    usage,
)
from zmqex.cli.orders import Json
from zmqex.cli.serve import serve
from zmqex.errors import (
    ConfigError,
    InputError,
    InvalidInvoiceError,
    NodeUnavailableError,
    RefusedError,
    StorageError,
    ZmqexError,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A peer-to-peer exchange node.  --node NAME or --data-dir DIR choose one of several.",
)
app.add_typer(orders.app, name="order")
app.add_typer(trades.app, name="trade")
app.add_typer(trades.hold_app, name="hold")
app.add_typer(network.peers_app, name="peers")
app.add_typer(network.invoice_app, name="invoice")
app.command()(serve)
app.command()(books.book)
app.command()(books.match)
app.command()(network.ping)
app.command()(network.status)
app.command()(network.logs)

# In this order: the first class that fits decides.
_EXIT_CODES: Final[tuple[tuple[type[ZmqexError], int], ...]] = (
    (NodeUnavailableError, EXIT_UNREACHABLE),
    (InvalidInvoiceError, EXIT_REFUSED),
    (RefusedError, EXIT_REFUSED),
    (ConfigError, EXIT_USAGE),
    (InputError, EXIT_USAGE),
    (StorageError, EXIT_REFUSED),
)
_CHOICES: Final = {"--node": "node", "--data-dir": "data_dir"}


@app.callback(invoke_without_command=True)
def _top(
    *, show_version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False
) -> None:
    if show_version:
        print(f"zmqex {version('zmqex')}")  # noqa: T201
        raise typer.Exit


@app.command()
def demo(
    *,
    fault: Annotated[str, typer.Option(help="stop-maker or wrong-invoice: make it fail.")] = "",
    keep: Annotated[Path | None, typer.Option(help="Keep the nodes' data here.")] = None,
    as_json: Json = False,
) -> None:
    """Play the whole story with real nodes on this machine."""
    from zmqex.cli import demo as story  # noqa: PLC0415 - only this command needs it

    if fault and fault not in story.FAULTS:
        message = f"--fault: {fault[:20]!r} is none of {', '.join(story.FAULTS)}"
        raise usage(message)
    raise typer.Exit(story.run(fault=fault or None, as_json=as_json, keep=keep))


def run() -> None:
    """Run the command line and exit with its code."""
    if not __debug__:
        note("zmqex does not run under `python -O`: its checks of itself would be off")
        sys.exit(EXIT_USAGE)
    sys.exit(main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    """Run one command; every expected failure is one sentence on stderr and an exit code."""
    try:
        left = _take_choice(arguments)
        code = app(left, standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        note(f"zmqex: {error.format_message()}")
        return EXIT_USAGE
    except (click.Abort, KeyboardInterrupt):
        return EXIT_REFUSED
    except BrokenPipeError:
        sys.stdout = None  # whoever read us has gone
        return EXIT_REFUSED
    except ZmqexError as error:
        note(f"zmqex: {error}")
        return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), EXIT_REFUSED)
    return code if isinstance(code, int) else 0


def _take_choice(arguments: list[str]) -> list[str]:
    """Take --node and --data-dir out of the arguments, wherever they stand."""
    left: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, value = argument.partition("=")
        if argument == "--":
            return [*left, argument, *waiting]
        if name not in _CHOICES:
            left.append(argument)
            continue
        chosen = value if equals else next(waiting, None)
        if chosen is None:
            message = f"{name} needs a value"
            raise usage(message)
        setattr(INVOCATION, _CHOICES[name], chosen)
    return left
