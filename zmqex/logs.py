"""What a node writes about itself: to stderr for people, and to private files as JSON lines.

Every value is escaped, bytes are hex, and fields that could hold a secret are blanked on the way
out, whoever logged them.  Not for results, which the command line prints.
"""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import os
import re
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import IO, Any, Final, TextIO

import structlog

from zmqex.limits import LOG_FILE_BYTES_MAX, LOG_FILES_MAX

FILE_NAME: Final = "node.log"
REDACTED: Final = "[redacted]"
_SECRET_WORDS: Final = frozenset({"preimage", "secret", "key", "macaroon", "seed", "password"})
_URL_SECRET: Final = re.compile(r"(://)[^/@\s]*@")
_PLAIN: Final = re.compile(r"[!#-<>-\[\]-~]+\Z")  # no quotes, spaces, = or backslashes
_COLOURS: Final = {"warning": "33", "error": "31", "critical": "1;31", "debug": "2"}
_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}

Fields = MutableMapping[str, Any]


def configure_logs(level: str, log_format: str, directory: Path | None) -> None:
    """Send everything from `level` up to stderr as `log_format` (human or json) and to files.

    The files, at most LOG_FILES_MAX of LOG_FILE_BYTES_MAX, lie in `directory` as JSON lines that
    only this user can read; None writes none.  Repeating replaces what was before.
    """
    close_logs()
    _OUTPUTS.stream = sys.stderr
    _OUTPUTS.human = log_format == "human"
    _OUTPUTS.colours = _OUTPUTS.human and wants_colours(sys.stderr)
    _OUTPUTS.file = _RotatingFile(directory) if directory is not None else None
    _set_up(level)
    logging.getLogger().addHandler(_FROM_LIBRARIES)


def _set_up(level: str) -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            clean_fields,
            _to_line,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=_OUTPUTS.logger,
        cache_logger_on_first_use=False,
    )


def close_logs() -> None:
    """Close the files.  What is logged afterwards still reaches stderr."""
    logging.getLogger().removeHandler(_FROM_LIBRARIES)
    if _OUTPUTS.file is not None:
        _OUTPUTS.file.close()
        _OUTPUTS.file = None


def get_logger() -> structlog.typing.FilteringBoundLogger:
    """The logger of this process: `log.info("event_name", trade_id=..., state=...)`."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger


def wants_colours(stream: TextIO) -> bool:
    """Whether the stream is a terminal and nobody asked for no colours (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and stream.isatty()


def clean_fields(_logger: object, _method: str, fields: Fields) -> Fields:
    """Blank what a name calls secret, and make every value a plain one (a structlog processor)."""
    return {str(name): _clean(str(name), value) for name, value in fields.items()}


def human_line(record: Mapping[str, Any], *, colours: bool = False) -> str:
    """One record for people: time, level, event, then `name=value`, nothing unescaped."""
    rest = {name: value for name, value in record.items() if name not in _HEAD}
    trace = str(rest.pop("exception", ""))
    level = _word(record.get("level", ""))
    colour = _COLOURS.get(level, "") if colours else ""
    shown = f"\033[{colour}m{level:<8}\033[0m" if colour else f"{level:<8}"
    parts = [_word(record.get("time", "")), shown, _word(record.get("event", ""))]
    parts += [f"{_word(name)}={_word(value)}" for name, value in rest.items() if value != ""]
    return "\n    ".join([" ".join(parts), *(_escape(line) for line in trace.splitlines())])


_HEAD: Final = ("time", "level", "event")


def log_files(directory: Path) -> list[Path]:
    """The log files that exist, the oldest first."""
    paths = [_numbered(directory, number) for number in range(LOG_FILES_MAX - 1, -1, -1)]
    return [path for path in paths if path.exists()]


def _numbered(directory: Path, number: int) -> Path:
    return directory / (f"{FILE_NAME}.{number}" if number else FILE_NAME)


def _clean(name: str, value: Any) -> Any:  # noqa: ANN401 - whatever somebody logs
    if _SECRET_WORDS & set(re.split(r"[^a-z0-9]+", name.lower())):
        return REDACTED
    match value:
        case enum.Enum():
            return _clean(name, value.value)
        case None | bool() | int() | float():
            return value
        case str():
            return _URL_SECRET.sub(r"\1" + REDACTED + "@", value)
        case bytes() | bytearray() | memoryview():
            return bytes(value).hex()
        case Mapping():
            return {str(key): _clean(str(key), inner) for key, inner in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_clean(name, inner) for inner in value]
        case _:
            return _clean(name, str(value))


def _to_line(
    _logger: object, _method: str, fields: Fields
) -> tuple[tuple[Mapping[str, Any]], dict[str, Any]]:
    """Hand the whole record to the output: a structlog renderer."""
    head = {name: fields[name] for name in _HEAD if name in fields}
    return ({**head, **fields},), {}


def _word(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if _PLAIN.match(text) or not isinstance(value, str) else json.dumps(text)


def _escape(text: str) -> str:
    """A line of a traceback: printable ASCII stays as it is."""
    return text.encode("unicode_escape").decode() if not text.isprintable() else text


class _RotatingFile:
    """`node.log`, and older ones as `node.log.1` (the youngest) and up."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: IO[bytes] | None = None
        self._bytes = 0
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._open()

    def write(self, line: bytes) -> None:
        """Append a line; OSError where the disk refuses."""
        if self._file is None or self._bytes + len(line) > LOG_FILE_BYTES_MAX:
            self._rotate()
        if self._file is not None:
            self._file.write(line)
            self._bytes += len(line)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(_numbered(self._directory, 0), flags, 0o600)
        os.fchmod(descriptor, 0o600)
        self._file = os.fdopen(descriptor, "ab", buffering=0)
        self._bytes = os.fstat(descriptor).st_size

    def _rotate(self) -> None:
        self.close()
        for number in range(LOG_FILES_MAX - 2, -1, -1):
            with contextlib.suppress(FileNotFoundError):
                older = _numbered(self._directory, number + 1)
                _numbered(self._directory, number).replace(older)
        self._open()


class _Outputs:
    """Where records go; a log that cannot be written never ends the node."""

    def __init__(self) -> None:
        self.stream: TextIO | None = None
        self.human = True
        self.colours = False
        self.file: _RotatingFile | None = None
        # The names that structlog's wrapper calls; one writer for every level.
        self.debug = self.info = self.warning = self.error = self.critical = self.write
        self.exception = self.write

    def logger(self, *_: object) -> _Outputs:
        return self

    def write(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record)
        if self.file is not None:
            with contextlib.suppress(OSError):
                self.file.write(line.encode() + b"\n")
        shown = human_line(record, colours=self.colours) if self.human else line
        with contextlib.suppress(OSError, ValueError):
            # ValueError: stderr was closed.
            print(shown, file=self.stream or sys.stderr, flush=True)


class _FromLibraries(logging.Handler):
    """What libraries say through the standard library's logging, from warnings up."""

    def emit(self, record: logging.LogRecord) -> None:
        facts: dict[str, object] = {"library": record.name}
        if record.exc_info:
            facts["exc_info"] = record.exc_info
        log = get_logger()
        say = log.error if record.levelno >= logging.ERROR else log.warning
        say("library", said=record.getMessage(), **facts)


_OUTPUTS: Final = _Outputs()
_FROM_LIBRARIES: Final = _FromLibraries(logging.WARNING)
# Before a node configures it, a logger speaks from warnings up, to stderr.
_set_up("warning")
