"""The command line: parse, call, render.  Exit codes: 0 done, 1 refused, 2 usage, 3 no node.

`--node NAME` and `--data-dir DIR` may stand before or after any subcommand.  Results go to stdout,
everything else to stderr.  A command's module is loaded when it is used, so that each is quick.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from zmqex import __version__
from zmqex.cli.context import (
    EPILOG,
    EXIT_REFUSED,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    INVOCATION,
    note,
    say,
    usage,
)
from zmqex.errors import (
    ConfigError,
    InputError,
    NodeUnavailableError,
    ZmqexError,
)

# Name -> (module, the typer app or the function in it, what the list of commands says).
_COMMANDS: Final = {
    "serve": ("serve", "serve", "Start a node; it runs until Ctrl-C."),
    "order": ("orders", "app", "Place, take, replace, list, show and cancel orders."),
    "book": ("books", "book", "Show bids and asks with their depth."),
    "match": ("books", "match", "List what crosses an order."),
    "trade": ("trades", "app", "See trades, pay, and confirm the quote leg."),
    "hold": ("trades", "hold_app", "See what is held for takers."),
    "peers": ("network", "peers_app", "See, find, add and remove peers."),
    "ping": ("network", "ping", "Ask a peer whether it is there."),
    "doctor": ("doctor", "doctor", "Find out what is wrong with a node, and how to mend it."),
    "status": ("network", "status", "Show how the node is."),
    "invoice": ("invoices", "app", "Read Lightning invoices."),
    "logs": ("logs", "logs", "Show what the node wrote."),
    "demo": ("play", "demo", "Play the whole story with real nodes on this machine."),
    "version": ("play", "version", "Show the version."),
}
# In this order: the first class that fits decides; every other fault is EXIT_REFUSED.
_EXIT_CODES: Final[tuple[tuple[type[ZmqexError], int], ...]] = (
    (NodeUnavailableError, EXIT_UNREACHABLE),
    (ConfigError, EXIT_USAGE),
    (InputError, EXIT_USAGE),
)
_CHOICES: Final = {"--node": "node", "--data-dir": "data_dir"}
_INTERRUPTED: Final = 130
# typer's own copy of click has no public name for it.
_UsageError: Final[Any] = typer.BadParameter.__base__


class _Commands(TyperGroup):
    """The table above as a typer group."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401, ARG002 - typer's signature
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401, ARG002 - as above
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        target = getattr(importlib.import_module(f"zmqex.cli.{module}"), attribute)
        if isinstance(target, typer.Typer):
            group: Any = typer.main.get_group(target)
            group.name = cmd_name
            for command in (group, *group.commands.values()):
                command.epilog = EPILOG
            return group
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(cmd_name, epilog=EPILOG)(target)
        return typer.main.get_command(single)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401, ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A peer-to-peer exchange node on a ZeroMQ message bus.",
    epilog=EPILOG,
)


@app.callback(invoke_without_command=True)
def _top(
    *, show_version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False
) -> None:
    if show_version:
        say(f"zmqex {__version__}")
        raise typer.Exit


def run() -> None:
    """Run the command line and exit with its code."""
    if not __debug__:
        note("zmqex does not run under `python -O`: its checks of itself would be off")
        sys.exit(EXIT_USAGE)
    sys.exit(main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    """Run one command; every expected failure is one sentence on stderr and an exit code."""
    try:
        INVOCATION.reset()
        code = app(_take_choice(arguments), prog_name=INVOCATION.program, standalone_mode=False)
        sys.stdout.flush()
    except _UsageError as error:
        return _explain(error.format_message(), error.ctx)
    except typer.Exit as stop:
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read us has gone; the interpreter's own last flush must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_REFUSED
    except ZmqexError as error:
        note(f"zmqex: {error}")
        return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), EXIT_REFUSED)
    except OSError as error:
        note(f"zmqex: {error.strerror or error}: {error.filename or 'the operating system'}")
        return EXIT_REFUSED
    return code if isinstance(code, int) else 0


def _explain(message: str, context: Any) -> int:  # noqa: ANN401 - typer's click has no name
    """Say what is wrong with the words in one sentence; a bare group shows its help instead."""
    if message.startswith("Usage:"):
        note(message, raw=True)
    else:
        path = context.command_path if context else INVOCATION.program
        sentence = " ".join(message.split()).rstrip(".")
        note(f"zmqex: {sentence}; see {path} --help")
    return EXIT_USAGE


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
        if not chosen or (chosen.startswith("-") and not equals):
            raise usage(f"{name} needs a value")
        INVOCATION.choose(_CHOICES[name], name, chosen)
    return left
