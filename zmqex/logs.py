"""Logs: one event name and its facts per line, to stderr for people and to private rotating files.

No preimage, key or secret ever stands in a log: fields of such names are replaced, whatever they
hold.  Text from peers is escaped, so that it cannot forge a line or drive a terminal.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

LOG_FILE: Final = "node.log"
_FILE_BYTES_MAX: Final = 5 * 1024 * 1024
_FILES: Final = 5
_SECRET_WORDS: Final = ("preimage", "secret", "macaroon", "seed", "password", "private", "_key")
_HIDDEN: Final = "(hidden)"


def get_logger() -> FilteringBoundLogger:
    """The node's logger; before `configure_logs` it prints to stderr."""
    logger: FilteringBoundLogger = structlog.get_logger("zmqex")
    return logger


def configure_logs(level: str, style: str, directory: Path) -> None:
    """Log to stderr in `style` (human or json) and as JSON lines to files in `directory`.

    `level`: debug, info, warning or error, for stderr; the files have info and above.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    shared = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        hide_secrets,
        escape_text,
    ]
    colours = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    renderer = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(colors=colours)
    )
    screen = logging.StreamHandler(sys.stderr)
    screen.setLevel(level.upper())
    screen.setFormatter(_formatter(renderer))
    file = _PrivateFile(directory / LOG_FILE, maxBytes=_FILE_BYTES_MAX, backupCount=_FILES)
    file.setLevel("INFO")
    file.setFormatter(_formatter(structlog.processors.JSONRenderer()))
    root = logging.getLogger("zmqex")
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.handlers = [screen, file]
    root.setLevel("DEBUG")
    root.propagate = False
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
    )


def hide_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace every fact whose name says that it is secret."""
    for name in event:
        if any(word in name.lower() for word in _SECRET_WORDS):
            event[name] = _HIDDEN
    return event


def escape_text(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Bytes become hex; control characters in text become visible."""
    for name, value in event.items():
        if isinstance(value, bytes):
            event[name] = value.hex()
        elif isinstance(value, str) and not value.isprintable():
            event[name] = escape(value)
    return event


def escape(text: str) -> str:
    """Text with every unprintable character as a backslash escape; line ends stay in tracebacks."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def read_log_lines(directory: Path, *, trade: str = "") -> Iterator[dict[str, Any]]:
    """The lines of all log files, oldest first; with `trade`, those of one trade id (a prefix)."""
    files = sorted(directory.glob(LOG_FILE + "*"), key=_age, reverse=True)
    for path in files:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue  # cut off by a crash
                if not trade or str(entry.get("trade_id", "")).startswith(trade):
                    yield entry


def _age(path: Path) -> int:
    suffix = path.name.removeprefix(LOG_FILE).lstrip(".")
    return int(suffix) if suffix.isdigit() else 0


def _formatter(renderer: Any) -> logging.Formatter:  # noqa: ANN401 - structlog's own looseness
    return structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
    )


class _PrivateFile(logging.handlers.RotatingFileHandler):
    """A rotating file that only this user can read."""

    def _open(self) -> IO[Any]:
        descriptor = os.open(
            self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600
        )
        return os.fdopen(descriptor, "a", encoding="utf-8")
