"""A real program decides on takes; whatever it does, there is one decision, and soon."""

from __future__ import annotations

import asyncio
import shlex
import sys
from pathlib import Path

import pytest

from zmqex.kernel.effects import AskBeforeAccept
from zmqex.kernel.events import AcceptDecided, Event
from zmqex.limits import ACCEPT_COMMANDS_MAX
from zmqex.runtime.accepting import AcceptCommand
from zmqex.settings import read_words

TAKE = AskBeforeAccept(b"t" * 32, {"taker": "bob", "quantity_lots": 7})


def decisions(command: str, times: int = 1) -> list[bool]:
    """What the program decides when it is asked so many times at once."""
    events: list[Event] = []

    async def ask() -> None:
        program = AcceptCommand(read_words(command), events.append)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(times):
                tasks.create_task(program.carry_out(TAKE))

    asyncio.run(ask())
    assert all(isinstance(one, AcceptDecided) and one.trade_id == b"t" * 32 for one in events)
    return [one.accepted for one in events if isinstance(one, AcceptDecided)]


def python(program: str) -> str:
    """A command that runs a Python program."""
    return shlex.join([sys.executable, "-c", program])


def test_exit_code_0_accepts_and_the_take_is_on_stdin(tmp_path: Path) -> None:
    """One JSON object."""
    script = tmp_path / "desk"
    script.write_text('#!/bin/sh\ngrep -q \'"taker":"bob","quantity_lots":7\'\n')
    script.chmod(0o700)
    assert decisions(str(script)) == [True]


@pytest.mark.parametrize("command", ["false", "/nowhere/at/all", "sh -c 'kill -9 $$'"])
def test_anything_else_declines(command: str) -> None:
    """An exit code, a missing program, a crash."""
    assert decisions(command) == [False]


def test_a_program_that_reads_nothing_may_accept() -> None:
    """A closed pipe is no error."""
    assert decisions("true", 2 * ACCEPT_COMMANDS_MAX) == [True] * 2 * ACCEPT_COMMANDS_MAX


def test_silence_declines_and_leaves_no_process(tmp_path: Path) -> None:
    """It is ended after a second."""
    pid = tmp_path / "pid"
    hangs = python(
        f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(99)"
    )
    assert decisions(hangs) == [False]
    assert not Path(f"/proc/{pid.read_text()}").exists() or sys.platform != "linux"
