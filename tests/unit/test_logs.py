"""The log escapes everything, keeps no secret, and never ends the node."""

from __future__ import annotations

import enum
import json
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqex.limits import LOG_FILE_BYTES_MAX, LOG_FILES_MAX
from zmqex.logs import (
    REDACTED,
    clean_fields,
    close_logs,
    configure_logs,
    get_logger,
    human_line,
    log_files,
    wants_colours,
)

SECRET = b"\x5a" * 32


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Close the files after every test."""
    yield
    close_logs()


def records(directory: Path) -> list[dict[str, Any]]:
    """Everything in the files, the oldest first."""
    return [
        json.loads(line) for path in log_files(directory) for line in path.read_text().splitlines()
    ]


def test_a_record_reaches_stderr_and_a_private_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """People read one line on stderr; the file has the same as JSON, for this user only."""
    directory = tmp_path / "logs"
    configure_logs("info", "human", directory)
    get_logger().info("trade_moved", trade_id=b"\xaa" * 32, state="settled")
    shown = capsys.readouterr()
    (record,) = records(directory)

    assert shown.out == ""
    assert shown.err.endswith(f"trade_moved trade_id={'aa' * 32} state=settled\n")
    assert record["event"] == "trade_moved"
    assert record["level"] == "info"
    assert record["trade_id"] == "aa" * 32
    assert record["time"].endswith("Z")
    assert stat.S_IMODE((directory / "node.log").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_json_on_stderr_is_what_stands_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--log-format json` prints the file's lines."""
    configure_logs("debug", "json", tmp_path)
    get_logger().debug("beat", n=1)

    assert json.loads(capsys.readouterr().err) == records(tmp_path)[0]


def test_the_level_is_the_least_that_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Below the level nothing is written anywhere."""
    configure_logs("error", "human", tmp_path)
    log = get_logger()
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    log.critical("e")

    assert [record["event"] for record in records(tmp_path)] == ["d", "e"]
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize(
    "name",
    ["preimage", "payment_secret", "key", "curve_secret_key", "macaroon", "seed", "Password"],
)
def test_no_secret_reaches_a_log_whoever_logs_it(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Values are blanked by their names, at any depth, as bytes, hex or text."""
    configure_logs("info", "human", tmp_path)
    log = get_logger()
    log.info("raw", **{name: SECRET})
    log.info("hex", **{name: SECRET.hex()})
    log.info("deep", answer={"trade": [{name: SECRET}]})
    log.bind(**{name: SECRET}).info("bound")
    written = (tmp_path / "node.log").read_text() + capsys.readouterr().err

    assert SECRET.hex() not in written
    assert "ZZZZ" not in written
    assert written.count(REDACTED) == 8


def test_a_password_inside_a_url_is_blanked() -> None:
    """The hold server's address may be logged, its password not."""
    cleaned = clean_fields(None, "info", {"url": "rediss://me:hunter2@host:6379/0"})

    assert cleaned == {"url": f"rediss://{REDACTED}@host:6379/0"}


def test_values_of_every_type_become_plain_ones() -> None:
    """Bytes are hex, words are words, and what is unknown is its text."""

    class Word(enum.StrEnum):
        SETTLED = "settled"

    cleaned = clean_fields(
        None,
        "info",
        {
            "b": memoryview(b"\x01\xff"),
            "w": Word.SETTLED,
            "p": Path("/x"),
            "l": (1, None, True, b"\x00"),
            "m": {b"k": Word.SETTLED},
        },
    )

    assert cleaned == {
        "b": "01ff",
        "w": "settled",
        "p": "/x",
        "l": [1, None, True, "00"],
        "m": {"b'k'": "settled"},
    }
    assert json.loads(json.dumps(cleaned)) == cleaned


@given(
    st.dictionaries(
        st.text(max_size=10),
        st.one_of(st.text(max_size=30), st.integers(), st.none(), st.lists(st.text(max_size=5))),
        max_size=4,
    )
)
def test_no_text_of_a_stranger_can_forge_a_line_or_drive_a_terminal(facts: dict[str, Any]) -> None:
    """One record is one line of printable ASCII, whatever a peer has said."""
    record = {"time": "t", "level": "info", "event": "said", **facts}

    line = human_line({**record, "exception": ""})

    assert line.isascii()
    assert line.isprintable()


def test_a_forged_field_is_shown_as_text() -> None:
    """A value with `=` or quotes cannot look like another field."""
    line = human_line({"time": "t", "level": "info", "event": "e", "why": 'x" state="settled'})

    assert line == 't info     e why="x\\" state=\\"settled"'


def test_colours_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR and pipes get plain text."""
    record = {"time": "t", "level": "error", "event": "e"}
    primary, secondary = os.openpty()
    with open(secondary, "w", encoding="utf-8") as terminal, open(os.devnull, "w") as nothing:  # noqa: PTH123 - descriptors
        monkeypatch.delenv("NO_COLOR", raising=False)
        assert wants_colours(terminal)
        assert not wants_colours(nothing)
        monkeypatch.setenv("NO_COLOR", "1")
        assert not wants_colours(terminal)
    os.close(primary)

    assert "\x1b[31m" in human_line(record, colours=True)
    assert "\x1b" not in human_line(record)


def test_an_exception_is_logged_with_its_trace_and_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fault can be found, and its text drives no terminal."""
    configure_logs("info", "human", tmp_path)
    try:
        raise ValueError("\x1b[2J")  # noqa: TRY301 - to have a trace
    except ValueError:
        get_logger().exception("call_failed")
    shown = capsys.readouterr().err

    assert "ValueError" in records(tmp_path)[0]["exception"]
    assert "ValueError" in shown
    assert "\x1b" not in shown


def test_libraries_are_heard_from_warnings_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What asyncio and others complain about stands in the node's log."""
    configure_logs("info", "human", tmp_path)
    logging.getLogger("asyncio").warning("slow %s", "callback")
    logging.getLogger("asyncio").info("chatter")
    try:
        raise ValueError("x")  # noqa: TRY301 - to have a trace
    except ValueError:
        logging.getLogger("redis").exception("lost")
    first, second = records(tmp_path)
    close_logs()
    logging.getLogger("asyncio").debug("afterwards")

    assert (first["library"], first["said"], first["level"]) == (
        "asyncio",
        "slow callback",
        "warning",
    )
    assert second["level"] == "error"
    assert "ValueError" in second["exception"]
    assert len(capsys.readouterr().err.splitlines()) > 2


def test_files_rotate_by_size_and_the_oldest_is_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log takes at most five files of five megabytes, and every file is private."""
    configure_logs("info", "json", tmp_path)
    log = get_logger()
    text = "x" * (LOG_FILE_BYTES_MAX // 2 - 200)
    for number in range(2 * LOG_FILES_MAX + 2):
        log.info("big", number=number, text=text)
    capsys.readouterr()
    paths = log_files(tmp_path)
    kept = [record["number"] for record in records(tmp_path)]

    assert [path.name for path in paths] == [
        "node.log.4",
        "node.log.3",
        "node.log.2",
        "node.log.1",
        "node.log",
    ]
    assert kept == list(range(2, 2 * LOG_FILES_MAX + 2))
    assert all(path.stat().st_size <= LOG_FILE_BYTES_MAX for path in paths)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in paths)


def test_a_restart_goes_on_in_the_same_file(tmp_path: Path) -> None:
    """Nothing of the run before is lost."""
    for event in ("first", "second"):
        configure_logs("info", "json", tmp_path)
        get_logger().info(event)

    assert [record["event"] for record in records(tmp_path)] == ["first", "second"]


def test_a_log_that_cannot_be_written_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A disk that refuses costs lines of the log, not the node."""
    configure_logs("info", "human", tmp_path)
    log = get_logger()
    log.info("before")
    (tmp_path / "node.log").unlink()
    tmp_path.rmdir()
    log.info("big", text="x" * LOG_FILE_BYTES_MAX)
    log.info("after")

    assert "after" in capsys.readouterr().err
