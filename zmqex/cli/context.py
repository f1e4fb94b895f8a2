"""What every command shares: which node, how it was invoked, and how answers are shown."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from zmqex.config import (
    Choice,
    Config,
    control_path,
    load_config,
    running_node,
    select_node,
)
from zmqex.errors import InputError, NodeUnavailableError
from zmqex.kernel.commands import Command
from zmqex.market.instruments import Currencies, Instrument
from zmqex.reasons import RejectReason

if TYPE_CHECKING:
    from zmqex.client import Client

EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EPILOG: Final = "--node NAME or --data-dir DIR, anywhere, say which node a command is for."

Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


def new_app(text: str) -> typer.Typer:
    """A group of commands: plain help, no shell completion."""
    return typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=text)


class Invocation:
    """One run of the command line; filled before the command is parsed."""

    def __init__(self) -> None:
        """Start with nothing chosen."""
        self.reset()

    def reset(self) -> None:
        """Forget what the run before has chosen."""
        self._words: dict[str, str] = {}
        self._choice: Choice | None = None
        self._config: Config | None = None
        self._client: Client | None = None

    def choose(self, name: str, option: str, value: str) -> None:
        """Take `--node` or `--data-dir`; InputError where it says two things."""
        if self._words.setdefault(name, value) != value:
            raise usage(f"{option} is given twice, and differently")

    @property
    def program(self) -> str:
        """The name that the user typed, for hints."""
        name = Path(sys.argv[0]).name
        return os.environ.get("ZMQEX_INVOKED_AS") or (
            "python -m zmqex" if name == "__main__.py" else name
        )

    def choice(self, *, starting: bool = False) -> Choice:
        """The node that this command is for; ConfigError where that is not clear."""
        if self._choice is None:
            node, data_dir = self._words.get("node"), self._words.get("data_dir")
            self._choice = select_node(node, data_dir, starting=starting)
        return self._choice

    def hint(self, words: str) -> str:
        """A command that the user can copy: the invoked name and the node that was named."""
        options = shlex.join(self._choice.options) if self._choice else ""
        return " ".join(part for part in (self.program, options, words) if part)

    def config(self) -> Config:
        """The node's settings, as its files and the environment say."""
        if self._config is None:
            choice = self.choice()
            self._config = load_config(choice, running=running_node(choice.data_dir))
        return self._config

    def currencies(self) -> Currencies:
        """The currencies that the node knows."""
        return Currencies(self.config().currencies)

    def instrument(self, market: str = "") -> Instrument:
        """A market of the node; the first one where none is named."""
        return self.currencies().instrument(market.upper() or self.config().markets[0])

    def check_running(self) -> None:
        """NodeUnavailableError, with how to start it, where the node does not run."""
        choice = self.choice()
        if running_node(choice.data_dir) is None:
            start = self.hint("serve")
            message = f"node {choice.name} is not running; start it with: {start}"
            raise NodeUnavailableError(message)

    def call(self, command: Command, *, timeout_s: float = 30.0) -> dict[str, Any]:
        """Give the node a command; its answer."""
        if self._client is not None:
            return self._client.call(command, timeout_s=timeout_s)
        with self.connected() as client:
            return client.call(command, timeout_s=timeout_s)

    @contextmanager
    def connected(self) -> Iterator[Client]:
        """Keep one connection to the node: every `call` meanwhile goes through it."""
        from zmqex.client import Client  # noqa: PLC0415 - help and bad input need no sockets

        try:
            with Client(control_path(self.choice().data_dir)) as self._client:
                yield self._client
        except NodeUnavailableError:
            self.check_running()
            raise
        finally:
            self._client = None


INVOCATION: Final = Invocation()


def show_json(answer: object) -> None:
    """Print an answer as JSON on stdout."""
    say(json.dumps(msgspec.to_builtins(answer), indent=2, ensure_ascii=True))


def say(text: str) -> None:
    """Print a result on stdout."""
    print(text, flush=True)  # noqa: T201 - what the command line is for


def show_list(
    answer: dict[str, Any], what: str, render: Callable[[list[Any]], None], *, as_json: bool
) -> None:
    """Show own orders or trades, and say where the list is not whole."""
    if as_json:
        show_json(answer)
        return
    render(answer[what])
    if answer["older"]:
        note("Older ones are not listed; `show` finds each of them by its id.")


def note(text: str, *, raw: bool = False) -> None:
    """Tell the user something that is not the result, without control characters unless `raw`.

    `raw` is for text of our own that has several lines.
    """
    shown = text if raw else "".join(one if one.isprintable() else "?" for one in text)
    print(shown, file=sys.stderr)  # noqa: T201 - as above


def asks(question: str) -> bool:
    """Ask on the terminal; only y or yes is a yes.  The question stands on stderr."""
    # Broken between words: an amount that is cut in two is read wrongly.
    lines = textwrap.wrap(
        f"{question} [y/N]:", shutil.get_terminal_size().columns, break_on_hyphens=False
    )
    print("\n".join(lines), end=" ", file=sys.stderr, flush=True)  # noqa: T201 - as above
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def usage(message: str) -> InputError:
    """A usage error, to be raised: exit code 2."""
    return InputError(RejectReason.CONTRADICTORY_FLAGS, message)
