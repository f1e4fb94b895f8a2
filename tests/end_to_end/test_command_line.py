"""The command line as a program: lost answers, Ctrl-C, pipes and terminals."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress

from tests.end_to_end.nodes import Home, pending, wait_for

_COMMAND = [sys.executable, "-m", "zmqex"]
_END_S = 20


def begin(home: Home, *words: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """Start a command and go on."""
    return subprocess.Popen(
        [*_COMMAND, *words],
        env=home.environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_command_whose_answer_was_lost_is_not_done_twice(user: Home) -> None:
    """Killed while it waits and given again, an order exists once; given anew, it is another."""
    alice = user.node("alice").start()
    words = ("--node", "alice", "order", "buy", "1BTC@1USD")
    pid = alice.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        lost = begin(user, *words)
        (key,) = wait_for("the key is on disk", lambda: pending(alice))
        mode = key.stat().st_mode & 0o777
        lost.kill()
        lost.communicate(timeout=_END_S)
    finally:
        os.kill(pid, signal.SIGCONT)
    again = user.cli(*words)
    orders_after_repeat = len(alice.orders())
    anew = user.cli(*words)

    assert mode == 0o600
    assert again.returncode == 0, again.stderr
    assert "was given before and got no answer" in again.stderr
    assert orders_after_repeat == 1
    assert anew.returncode == 0, anew.stderr
    assert "was given before" not in anew.stderr
    assert len(alice.orders()) == 2
    assert pending(alice) == []


def test_a_command_that_dies_before_its_answer_is_shown_is_not_done_twice(user: Home) -> None:
    """The answer has come, but what reads it takes no more; given again, there is one order."""
    alice = user.node("alice").start()
    words = ("--node", "alice", "order", "buy", "1BTC@1USD", "--json")
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    unseen = begin(user, *words, stdout=writer)
    wait_for("the order is placed", alice.orders)
    unseen.kill()
    unseen.communicate(timeout=_END_S)
    os.close(reader)
    os.close(writer)
    again = user.cli(*words)

    assert again.returncode == 0, again.stderr
    assert "was given before and got no answer" in again.stderr
    assert len(alice.orders()) == 1
    assert pending(alice) == []


def test_a_refused_order_is_not_remembered(user: Home) -> None:
    """A refusal is an answer: exit code 1, one sentence, and the next try is a first try."""
    alice = user.node("alice").start()
    alice.cli("order", "sell", "1BTC@1USD")
    for _ in range(2):
        refused = user.cli("--node", "alice", "order", "buy", "1BTC@1USD")
        assert refused.returncode == 1
        assert "your own order" in refused.stderr
        assert "was given before" not in refused.stderr
    assert pending(alice) == []


def test_ctrl_c_ends_what_goes_on_for_ever_without_a_complaint(user: Home) -> None:
    """`book --watch` and `logs --follow` print until they are told to stop, then exit 0."""
    user.node("alice").start()
    for words in (["book", "--watch"], ["logs", "--follow"]):
        watching = begin(user, *words)
        assert watching.stdout is not None
        assert watching.stdout.readline() != ""
        watching.send_signal(signal.SIGINT)
        _, complaint = watching.communicate(timeout=_END_S)

        assert watching.returncode == 0, complaint
        assert complaint == ""


def test_an_order_that_stays_with_its_command_is_closed_when_that_ends(user: Home) -> None:
    """By Ctrl-C, by kill -9; a command whose order somebody else has closed ends by itself."""
    alice = user.node("alice").start()

    def rests() -> str:
        return next((one["order_id"] for one in alice.orders() if one["state"] == "open"), "")

    def place() -> tuple[subprocess.Popen[str], str]:
        words = ("--node", "alice", "order", "buy", "1BTC@1USD", "--cancel-on-disconnect")
        staying = begin(user, *words)
        assert staying.stderr is not None
        assert any("press Ctrl-C" in line for line in iter(staying.stderr.readline, ""))
        return staying, rests()

    for number, code in ((signal.SIGINT, 0), (signal.SIGKILL, -signal.SIGKILL)):
        staying, order = place()
        assert order
        staying.send_signal(number)
        _, told = staying.communicate(timeout=_END_S)
        assert staying.returncode == code, told
        wait_for("the order is closed", lambda: not rests())
        assert "client_gone" in alice.cli("order", "show", order, "--json")
    staying, order = place()
    alice.cli("order", "cancel", order)
    _, told = staying.communicate(timeout=_END_S)
    assert (staying.returncode, told) == (0, "The order is closed.\n")


def test_a_reader_that_leaves_gets_no_traceback(user: Home) -> None:
    """`zmqex ... | head -1` ends quietly."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*_COMMAND, "--help"],
        env=user.environment,
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=_END_S,
        check=False,
        text=True,
    )
    os.close(write)

    assert done.returncode == 1
    assert done.stderr == ""


def test_a_question_is_asked_on_a_terminal_only(user: Home) -> None:
    """With a terminal `cancel --all` asks and takes no for an answer; --yes needs none."""
    alice = user.node("alice").start()
    alice.cli("order", "buy", "1BTC@1USD")
    primary, secondary = pty.openpty()
    os.write(primary, b"n\n")
    asked = subprocess.run(
        [*_COMMAND, "order", "cancel", "--all"],
        env=user.environment,
        stdin=secondary,
        capture_output=True,
        timeout=_END_S,
        check=False,
        text=True,
    )
    os.close(primary)
    os.close(secondary)

    assert asked.returncode == 1
    assert asked.stdout == ""
    assert "Cancel all open orders?" in asked.stderr
    assert len(alice.orders()) == 1
    assert "removed 1 BTC, held 0 BTC, remaining 0 BTC" in alice.cli(
        "order", "cancel", "--all", "--yes"
    )
    assert alice.orders() == []


def test_colours_are_only_for_terminals(user: Home) -> None:
    """A pipe gets plain text; so does a terminal with NO_COLOR."""
    user.node("alice").start().cli("order", "buy", "1BTC@1USD")
    piped = user.cli("book")

    assert piped.returncode == 0
    assert "own 1" in piped.stdout
    assert "\x1b" not in piped.stdout
    assert "\x1b[32m" in _on_terminal(user, NO_COLOR="", TERM="xterm-256color")
    assert "\x1b" not in _on_terminal(user, NO_COLOR="1", TERM="xterm-256color")


def _on_terminal(user: Home, **extra: str) -> str:
    primary, secondary = pty.openpty()
    done = subprocess.run(
        [*_COMMAND, "book"],
        env={**user.environment, **extra},
        stdin=subprocess.DEVNULL,
        stdout=secondary,
        timeout=_END_S,
        check=False,
    )
    shown = os.read(primary, 65_536).decode()
    os.close(primary)
    os.close(secondary)
    assert done.returncode == 0
    assert "BTC/USD" in shown
    return shown
