"""What every command shares: which node, how it was invoked, and how answers are shown."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

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

EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
_LOT_MARKET: Final = "BTC/USD"


class Invocation:
    """One run of the command line; filled before the command is parsed."""

    def __init__(self) -> None:
        """Start with nothing chosen."""
        self.node: str | None = None
        self.data_dir: str | None = None
        self._choice: Choice | None = None

    @property
    def program(self) -> str:
        """The name that the user typed, for hints."""
        return os.environ.get("ZMQEX_INVOKED_AS") or Path(sys.argv[0]).name.replace(
            "__main__.py", "python -m zmqex"
        )

    def choice(self, *, starting: bool = False) -> Choice:
        """The node that this command is for; ConfigError where that is not clear."""
        if self._choice is None:
            self._choice = select_node(self.node, self.data_dir, starting=starting)
        return self._choice

    def hint(self, words: str) -> str:
        """A command that the user can copy: the invoked name and the node that was named."""
        options = " ".join(self.choice().options) if self._choice else ""
        return " ".join(part for part in (self.program, options, words) if part)

    def config(self) -> Config:
        """The node's settings, as its files and the environment say."""
        return load_config(self.choice(), {})

    def currencies(self) -> Currencies:
        """The currencies that the node knows."""
        return Currencies(self.config().currencies)

    def instrument(self, market: str = "") -> Instrument:
        """A market of the node; the first one where none is named."""
        return self.currencies().instrument(market.upper() or self.config().markets[0])

    def call(self, command: Command, *, timeout_s: float = 30.0) -> dict[str, Any]:
        """Give the node a command; its answer."""
        from zmqex.client import Client  # noqa: PLC0415 - help and bad input need no sockets

        choice = self.choice()
        try:
            with Client(control_path(choice.data_dir), timeout_s=timeout_s) as client:
                return client.call(command)
        except NodeUnavailableError as error:
            if running_node(choice.data_dir) is not None:
                raise
            start = self.hint("serve")
            message = f"node {choice.name} is not running; start it with: {start}"
            raise NodeUnavailableError(message) from error


INVOCATION: Final = Invocation()


def show_json(answer: object) -> None:
    """Print an answer as JSON on stdout."""
    print(json.dumps(msgspec.to_builtins(answer), indent=2, ensure_ascii=True))  # noqa: T201


def note(text: str) -> None:
    """Tell the user something that is not the result."""
    print(text, file=sys.stderr)  # noqa: T201


def usage(message: str) -> InputError:
    """A usage error, to be raised: exit code 2."""
    from zmqex.reasons import RejectReason  # noqa: PLC0415 - only on this path

    return InputError(RejectReason.CONTRADICTORY_FLAGS, message)
