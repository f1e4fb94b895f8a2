"""`trade verify` reads a file without a node: 0 and plain words, or 1 and one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.evidence_files import changed, raw, settled
from zmqex.cli.main import main
from zmqex.protocol.identity import to_text

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def file(data_home: Path) -> Path:
    """Bob's file of a trade in which he sold."""
    path = data_home / "trade.evidence"
    path.write_bytes(raw(settled("buy").files["bob"]))
    return path


def test_sound_evidence_is_put_into_words(file: Path, capsys: Captured) -> None:
    """What it proves, what was said, what it does not prove."""
    assert main(["trade", "verify", str(file)]) == 0
    shown = capsys.readouterr().out
    for words in (
        "The file holds together.",
        "It proves:",
        "pays 0.4 BTC and",
        "What was said, and signed:",
        "says that it has all that it was promised",
        "It does not prove:",
        "moved: there is only what the two said of it",
    ):
        assert words in shown


def test_it_is_shown_as_json_too(file: Path, capsys: Captured) -> None:
    """For programs, with both keys."""
    assert main(["trade", "verify", str(file), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["sound"] is True
    assert shown["maker"] == to_text(settled("buy").keys["alice"].public_key)
    assert len(shown["statements"]["said"]) == 6


def test_the_keys_can_be_named(file: Path, capsys: Captured) -> None:
    """Those that are known from elsewhere: the right ones pass, others are refused."""
    keys = {name: to_text(key.public_key) for name, key in settled("buy").keys.items()}
    named = ["trade", "verify", str(file), "--maker", keys["alice"], "--taker", keys["bob"]]
    assert main(named) == 0
    assert main(["trade", "verify", str(file), "--taker", keys["alice"]]) == 1
    assert f"the taker is {keys['bob']}, not the key that you gave" in capsys.readouterr().err


def test_the_decimals_of_a_quote_can_be_given(file: Path, capsys: Captured) -> None:
    """For a currency of its own; nonsense is exit code 2 and one sentence."""
    assert main(["trade", "verify", str(file), "--currency", "XYZ=2"]) == 0
    for text, words in (("XYZ", "needs its number of decimals"), ("USD=3", "is built in")):
        assert main(["trade", "verify", str(file), "--currency", text]) == 2
        assert words in capsys.readouterr().err


def test_a_changed_file_is_exit_code_1_and_named(file: Path, capsys: Captured) -> None:
    """As is a file that is none, and one that is not there."""
    honest = settled("buy").files["bob"]
    file.write_bytes(changed(honest, messages=honest.messages[1:]))
    assert main(["trade", "verify", str(file)]) == 1
    assert "message 1 of 6 has been removed" in capsys.readouterr().err
    file.write_bytes(b"\x00")
    assert main(["trade", "verify", str(file)]) == 1
    assert main(["trade", "verify", str(file) + "x"]) == 1
    assert "No such file" in capsys.readouterr().err
