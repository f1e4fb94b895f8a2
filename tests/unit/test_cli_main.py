"""Every wrong word gets one clear sentence and its exit code, and a stopped node says how to start.

Nothing here runs a node: what needs one is tested end to end.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqex import __version__
from zmqex.adapters.storage.directory import DirectoryLock
from zmqex.cli.context import INVOCATION, note
from zmqex.cli.main import main
from zmqex.config import control_path, node_directory, runtime_path
from zmqex.errors import InputError
from zmqex.market.units import parse_order_text

Captured = pytest.CaptureFixture[str]
COMMANDS = [
    "serve",
    "order",
    "book",
    "match",
    "trade",
    "hold",
    "peers",
    "ping",
    "doctor",
    "status",
    "invoice",
    "logs",
    "demo",
    "version",
]
NEEDS_NODE = [
    "order buy 1BTC@1USD",
    "order sell 0.5 BTC @ 50,000 USD --fok",
    "order buy 1BTC@1USD --dry-run",
    "order list",
    "order show 12345678",
    "order cancel 12345678",
    "order cancel --all --yes",
    "order take 12345678 0.4BTC",
    "order replace 12345678 1BTC@2USD --yes",
    "book",
    "book BTC/USD --orders --depth 5",
    "book --from abcdefgh",
    "book --watch",
    "match 12345678",
    "match sell 0.4BTC@1USD --watch",
    "ping abcdefgh",
    "peers",
    "peers lookup",
    "peers add 127.0.0.1:7100",
    "peers remove abcdefgh",
    "status",
    "trade list",
    "trade show 12345678",
    "trade pay 12345678",
    "trade sent 12345678 --yes",
    "trade received 12345678 --yes",
    "trade send 12345678 --yes",
    "trade release 12345678 --yes",
    "trade cancel 12345678",
    "trade evidence 12345678",
    "trade dispute 12345678 --yes",
    "trade resolve 12345678 settled --yes",
    "hold list",
]


@pytest.fixture(autouse=True)
def _clean(data_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty home, a known name, and no choice left over."""
    assert not data_home.is_file()
    monkeypatch.setenv("ZMQEX_INVOKED_AS", "scripts/zmqex")
    yield
    INVOCATION.reset()


def files(root: Path) -> list[Path]:
    """Every file below."""
    return [path for path in root.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("order buy 0BTC@1USD", "the quantity must be more than 0"),
        ("order buy -1BTC@1USD", "the quantity '-1' is negative"),
        ("order sell -0.5 BTC @ 1USD", "the quantity '-0.5' is negative"),
        ("order buy NaNBTC@1USD", "not a finite number"),
        ("order buy infBTC@1USD", "not a finite number"),
        ("order buy 1e3BTC@1USD", "uses an exponent; write the number in full"),
        ("order buy 1,5BTC@1USD", "a comma only separates thousands"),
        ("order buy 0.000000001BTC@1USD", "is not a multiple of 0.00000001 BTC"),
        ("order buy 1BTC@0.001USD", "is not a multiple of 0.01 USD"),
        ("order buy 1BTC@0USD", "the price must be more than 0"),
        ("order buy 99999999999999999999BTC@1USD", "more than this exchange can count"),
        ("order buy 90000000BTC@90000000000000USD", "more than this exchange can count"),
        ("order buy 0.00000001BTC@0.01USD", "less than 0.01 USD, the smallest payment"),
        ("order buy 1BTC@1ZZZ", "the currency 'ZZZ' is not known"),
        ("order buy 1XAU@1USD", "'XAU' is not known"),
        ("order buy 1USD@1BTC", "is reversed: the market is BTC/USD"),
        ("order buy 1EUR@1USD", "is not traded"),
        ("order buy 1BTC", "is not an order; write it like 1BTC@50000USD"),
        ("order buy 1BTC@1USD@1USD", "is not an order"),
        ("order buy 1\u0662BTC@1USD", "plain letters, digits and points"),
        ("order buy " + "9" * 200 + "BTC@1USD", "are too many for an order"),
        ("order buy 1BTC@1USD --min 2BTC", "--min is above the quantity"),
        ("order buy 1BTC@1USD --min 0.1USD", "is written in BTC, not in USD"),
        ("order buy 1BTC@1USD --min 0BTC", "--min: the quantity must be more than 0"),
        ("order buy 1BTC@1USD --expires 8d", "an order lives for at most 7d"),
        ("order buy 1BTC@1USD --expires 169h", "at most 7d"),
        ("order buy 1BTC@1USD --expires 0h", "--expires: '0h' is not a duration; write it"),
        ("order buy 1BTC@1USD --expires -1h", "is not a duration"),
        ("order buy 1BTC@1USD --expires tomorrow", "is not a duration"),
        ("order buy 1BTC@1USD --ioc --fok", "one time in force, not fok and ioc"),
        ("order buy 1BTC@1USD --ioc --tif fok", "one time in force"),
        ("order buy 1BTC@1USD --settlement barter", "--settlement: 'barter' is none of"),
        ("order buy 1BTC@1USD --tif day", "'day' is none of gtc, gtd, ioc, fok"),
        ("order buy 1BTC@1USD --tif gtd", "gtd needs --expires"),
        ("order buy 1BTC@1USD --tif gtc --expires 1h", "--expires makes it gtd"),
        ("order buy 1BTC@1USD --ioc --post-only", "IOC never does; choose one"),
        ("order buy 1BTC@1USD --fok --post-only", "FOK never does; choose one"),
        ("order buy 1BTC@1USD --ioc --renew", "--renew is for orders that rest"),
        ("order buy 1BTC@1USD --ioc --cancel-on-disconnect", "an order that rests, not IOC"),
        ("order buy 1BTC@1USD --renew --cancel-on-disconnect", "that rests, not --renew"),
        ("order buy 1BTC@1USD --fok --expires 1h", "--expires: FOK never rests"),
        ("order buy 1BTC@1USD --fok --min 0.1BTC", "--min says nothing; choose one"),
        ("order buy 1BTC@1USD --all-or-none --min 0.1BTC", "--min says nothing; choose one"),
        ("order buy 1BTC@1USD --pay later", "'later' is none of ask, auto, manual"),
        ("order buy 1BTC@1USD --pay manual --yes", "choose one"),
        ("order buy 1BTC@1USD --frobnicate", "no such option: --frobnicate"),
        ("order buy 1BTC@1USD -x", "no such option: -x"),
        ("order buy", "Missing argument 'ORDER'; see scripts/zmqex order buy --help"),
        ("order take 12345678 0BTC", "must be more than 0"),
        ("order take 12345678 -1BTC", "is negative"),
        ("order take 12345678", "Missing argument"),
        ("order cancel", "say which order to cancel, or --all"),
        ("order cancel 12345678 --all", "say which order to cancel, or --all"),
        ("order cancel --all", "There is no terminal to ask on: give --yes"),
        ("order frobnicate", "No such command 'frobnicate'; see scripts/zmqex order --help"),
        ("frobnicate", "No such command 'frobnicate'; see scripts/zmqex --help"),
        ("book USD/BTC", "is reversed: the market is BTC/USD"),
        ("book bitcoin", "is not a market; write it like BTC/USD"),
        ("book --depth 0", "see scripts/zmqex book --help"),
        ("book --depth many", "Invalid value for '--depth'"),
        ("match hold 1BTC@1USD", "give an order id, or a side and an order"),
        ("match sell 1e3BTC@1USD", "uses an exponent"),
        ("peers add nowhere", "is not an address"),
        ("peers add 127.0.0.1:0", "port 0"),
        ("peers add abc@127.0.0.1:7100", "is not a peer id"),
        ("logs --trade 1234", "give 8 or more characters"),
        ("serve --network mainnet", "--network: mainnet needs a Lightning backend"),
        ("serve --rpc-port 65536", "--rpc-port: '65536' is not a port"),
        ("serve --peer x@y", "--peer: "),
        ("serve --hold-ttl 1h", "--hold-ttl: '1h' is not between 1s and 15m"),
        ("serve --config /nonexistent.toml", "does not exist"),
        ("demo --fault earthquake", "'earthquake' is none of stop-maker, wrong-invoice"),
        ("--node a/b status", "--node: 'a/b' is not a node's name"),
        ("--node alice status --data-dir /x", "--node and --data-dir both name a node"),
        ("--node alice status --node bob", "--node is given twice, and differently"),
        ("status --node", "--node needs a value"),
        ("status --node --json", "--node needs a value"),
        ("status --json=yes", "does not take a value"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    words: str, sentence: str, capsys: Captured, data_home: Path
) -> None:
    """Nothing is written, nothing is printed as a result, and the reason is said once."""
    code = main(words.split())
    shown = capsys.readouterr()

    assert code == 2, shown.err
    assert sentence in shown.err
    assert len(shown.err.splitlines()) == 1
    assert shown.err.startswith("zmqex: ")
    assert shown.out == ""
    assert files(data_home) == []


@pytest.mark.parametrize("words", NEEDS_NODE)
def test_a_stopped_node_is_exit_code_3_with_how_to_start_it(
    words: str, capsys: Captured, data_home: Path
) -> None:
    """The hint can be copied: it has the name that was typed and the node that was named."""
    code = main(["--node", "alice", *words.split()])
    shown = capsys.readouterr()

    assert code == 3
    start = "scripts/zmqex --node alice serve"
    last = f"zmqex: node alice is not running; start it with: {start}"
    assert shown.err.splitlines()[-1] == last
    assert files(data_home) == []


@pytest.mark.parametrize(
    "words",
    [
        ["--node", "al", "status"],
        ["status", "--node", "al"],
        ["status", "--node=al"],
        ["--node=al", "status", "--node", "al"],
        ["peers", "--node", "al", "lookup"],
        ["order", "buy", "1BTC@1USD", "--node", "al", "--ioc"],
    ],
)
def test_the_node_may_be_named_before_or_after_any_subcommand(
    words: list[str], capsys: Captured
) -> None:
    """Wherever --node stands, the same node is meant."""
    assert main(words) == 3
    assert "node al is not running" in capsys.readouterr().err


def test_the_environment_names_a_node_too(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Hints name it all the same: another terminal has another environment."""
    monkeypatch.setenv("ZMQEX_NODE", "carol")
    assert main(["status"]) == 3
    assert "node carol is not running; start it with: scripts/zmqex --node carol serve" in (
        capsys.readouterr().err
    )
    path = tmp_path / "my node"
    assert main(["status", "--data-dir", str(path)]) == 3
    assert f"scripts/zmqex --data-dir '{path}' serve" in capsys.readouterr().err


def test_a_hint_uses_the_name_of_the_program(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a script's word for it, the name is that of the program that runs."""
    monkeypatch.delenv("ZMQEX_INVOKED_AS")
    for path, name in {
        "/usr/local/bin/zmqex": "zmqex",
        "/x/zmqex/__main__.py": "python -m zmqex",
    }.items():
        monkeypatch.setattr(sys, "argv", [path])
        assert main(["status"]) == 3
        assert f"start it with: {name} serve" in capsys.readouterr().err


def test_several_running_nodes_are_listed(capsys: Captured) -> None:
    """Exit code 2, with every name."""
    locks = []
    for name in ("alice", "bob"):
        directory = node_directory(name)
        directory.mkdir(parents=True)
        locks.append(DirectoryLock(directory))
        info = {
            "pid": os.getpid(),
            "identity": "",
            "data_dir": str(directory),
            "control": str(control_path(directory)),
        }
        runtime_path(directory).write_bytes(msgspec.json.encode(info))
    code = main(["book"])
    for lock in locks:
        lock.release()
    shown = capsys.readouterr().err

    assert code == 2
    assert "alice (pid" in shown
    assert "bob (pid" in shown
    assert "--node NAME" in shown


def test_an_order_is_repeated_in_words_before_it_is_sent(capsys: Captured) -> None:
    """The echo stands on stdout, or on stderr where stdout is JSON; the life is printed."""
    for words in (["1BTC@1USD"], ["1", "BTC", "@", "1", "USD"], ["1 btc @ 1 usd"]):
        assert main(["order", "buy", *words]) == 3
        shown = capsys.readouterr()
        assert shown.out == "Buy 1 BTC at 1 USD per BTC, total 1.00 USD\n"
        assert "It lives for 7d." in shown.err
    assert main(["order", "sell", "0.5BTC@50,000USD", "--expires", "24h", "--renew", "--json"]) == 3
    shown = capsys.readouterr()

    assert shown.out == ""
    assert "Sell 0.5 BTC at 50000 USD per BTC, total 25000.00 USD" in shown.err
    assert "It lives for 24h and renews itself." in shown.err


def test_help_names_every_command_and_the_choice_of_node(capsys: Captured) -> None:
    """`--help`, `-h` and nothing at all show the list."""
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert main(["-h"]) == 0
    assert capsys.readouterr().out == text
    assert main([]) == 2
    bare = capsys.readouterr().err

    for name in COMMANDS:
        assert f"  {name} " in text
        assert f"  {name} " in bare
    assert "--node NAME" in text
    assert "--version" in text


@pytest.mark.parametrize(
    "words",
    [
        *COMMANDS,
        "order buy",
        "order sell",
        "order list",
        "order show",
        "order cancel",
        "order take",
        "trade list",
        "trade show",
        "trade pay",
        "trade sent",
        "trade received",
        "trade send",
        "trade release",
        "trade cancel",
        "hold list",
        "invoice decode",
        "peers lookup",
        "peers add",
        "peers remove",
    ],
)
def test_every_command_has_help_that_needs_no_node(words: str, capsys: Captured) -> None:
    """It says what it does, and how to name a node."""
    assert main([*words.split(), "--help"]) == 0
    text = capsys.readouterr().out

    assert text.startswith("Usage: scripts/zmqex ")
    assert "--node NAME" in text


def test_the_version_is_said_in_three_ways(capsys: Captured) -> None:
    """As an option, as a command, as JSON."""
    for words in (["--version"], ["version"]):
        assert main(words) == 0
        assert capsys.readouterr().out == f"zmqex {__version__}\n"
    assert main(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": __version__}


def test_an_invoice_is_decoded_without_a_node(capsys: Captured) -> None:
    """The facts of a specification's vector, as text and as JSON; a wrong one exits 1."""
    vectors = Path(__file__).parent.parent / "data" / "bolt11_vectors.json"
    text = next(one["invoice"] for one in _vectors(vectors) if one["invoice"].startswith("lnbc25m"))
    assert main(["invoice", "decode", "lightning:" + text, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert main(["invoice", "decode", text]) == 0
    shown = capsys.readouterr().out
    assert main(["invoice", "decode", text[:-1] + "q"]) == 1
    wrong = capsys.readouterr()

    assert facts["amount_msat"] == 2_500_000_000
    assert facts["description"] == "coffee beans"
    assert "coffee beans" in shown
    assert facts["payment_hash"] in shown
    assert wrong.out == ""
    assert len(wrong.err.splitlines()) == 1


def _vectors(path: Path) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []

    def look(value: object) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("invoice"), str):
                found.append(value)
            for inner in value.values():
                look(inner)
        elif isinstance(value, list):
            for inner in value:
                look(inner)

    look(json.loads(path.read_text()))
    return found


def test_logs_are_shown_for_one_trade_without_a_running_node(
    capsys: Captured, data_home: Path
) -> None:
    """Records of the trade, from rotated files too, in order; a torn line is skipped."""
    directory = data_home / "zmqex" / "nodes" / "alice" / "logs"
    directory.mkdir(parents=True)
    trade, other = "ab" * 32, "cd" * 32
    (directory / "node.log.1").write_text(_line("one", trade) + _line("two", other) + '{"torn\n')
    (directory / "node.log").write_text(_line("three", trade) + "[]\n" + '{"half": ')
    assert main(["logs", "--node", "alice", "--trade", trade[:8].upper(), "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert main(["logs", "--node", "alice"]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert [record["event"] for record in records] == ["one", "three"]
    assert [line.split()[2] for line in lines] == ["one", "two", "three"]
    assert "\\u001b" in lines[0]
    assert "\x1b" not in "".join(lines)


def _line(event: str, trade_id: str) -> str:
    record = {"time": "t", "level": "info", "event": event, "trade_id": trade_id, "x": "\x1b[2J"}
    return json.dumps(record) + "\n"


def test_settings_of_the_node_are_read_for_its_commands(capsys: Captured, data_home: Path) -> None:
    """A currency that the node's file knows can be typed; a broken file is exit code 2."""
    directory = data_home / "zmqex" / "nodes" / "alice"
    directory.mkdir(parents=True)
    settings = directory / "zmqex.toml"
    settings.write_text("[currencies]\nPTS = 0")
    assert main(["--node", "alice", "order", "buy", "1BTC@7PTS"]) == 3
    assert capsys.readouterr().out == "Buy 1 BTC at 7 PTS per BTC, total 7 PTS\n"
    settings.write_text("rpc_prot = 1")

    assert main(["--node", "alice", "order", "buy", "1BTC@7PTS"]) == 2
    assert "'rpc_prot' is not a setting" in capsys.readouterr().err


def test_an_order_that_cannot_be_sent_is_not_remembered_as_sent(
    capsys: Captured, data_home: Path
) -> None:
    """A node that does not run got nothing, so the next try is a first try."""
    (data_home / "zmqex" / "nodes" / "alice").mkdir(parents=True)
    for _ in range(2):
        assert main(["--node", "alice", "order", "buy", "1BTC@1USD"]) == 3
        assert "was given before" not in capsys.readouterr().err
    assert files(data_home) == []


@given(st.text(max_size=40))
def test_no_text_breaks_the_reader_of_orders(text: str) -> None:
    """Whatever is typed as an order is terms or a printable sentence."""
    try:
        sentence = str(parse_order_text(text))
    except InputError as error:
        sentence = str(error)

    assert sentence.isprintable()


def test_a_message_from_elsewhere_drives_no_terminal(capsys: Captured) -> None:
    """Control characters in a refusal are blanked before they are printed."""
    note("the maker said \x1b[2J\r\nyes")

    assert capsys.readouterr().err == "the maker said ?[2J??yes\n"
