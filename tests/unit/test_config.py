"""Settings in layers, and which node a command is for."""

from __future__ import annotations

import base64
import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqex.adapters.storage.directory import DirectoryLock, runtime_directory
from zmqex.config import (
    SETTINGS_FILE,
    Choice,
    Config,
    control_path,
    data_home,
    load_config,
    node_directory,
    running_node,
    running_nodes,
    runtime_path,
    select_node,
    shared_settings,
)
from zmqex.errors import ConfigError
from zmqex.limits import HOLD_TTL_MS, MINUTE_MS
from zmqex.protocol.identity import to_text
from zmqex.settings import parse_address, parse_peer, show_address

HERE = Choice("default", Path("/nonexistent"))
IDENTITY = bytes(range(32))
PEER = f"{to_text(IDENTITY)}@127.0.0.1:7100"


def load(
    toml: str = "",
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Settings of a node whose file says `toml`."""
    environment = environment or {}
    if not toml:
        return load_config(HERE, flags, environment)
    path = Path(os.environ["HOME"]) / "settings.toml"
    path.write_text(toml)
    return load_config(HERE, flags, environment, path)


def test_defaults_need_nothing() -> None:
    """Without any setting a node plays on loopback, with the usual ports and 15-minute holds."""
    config = load()

    assert config.network == "play"
    assert config.bind_host == "127.0.0.1"
    assert config.hello_port is None
    assert config.dht_port is None
    assert config.hold_ttl_ms == HOLD_TTL_MS == 15 * MINUTE_MS
    assert config.holds == "journal"
    assert config.markets == ("BTC/USD",)
    assert not config.supervised


def test_flags_beat_the_environment_and_that_beats_the_file() -> None:
    """Each layer replaces what the one below it says, setting by setting."""
    config = load(
        "rpc_port = 1\norders_port = 1\nhello_port = 1",
        {"rpc_port": 3, "orders_port": None},
        {"ZMQEX_RPC_PORT": "2", "ZMQEX_ORDERS_PORT": "2"},
    )

    assert (config.rpc_port, config.orders_port, config.hello_port) == (3, 2, 1)


def test_every_setting_can_stand_in_all_three_places() -> None:
    """A file, the environment and flags give the same settings for the same words."""
    said: dict[str, str] = {
        "network": "play",
        "bind_host": "0.0.0.0",  # noqa: S104 - what an operator may write
        "announce_host": "node.example",
        "hello_port": "7200",
        "rpc_port": "7201",
        "orders_port": "7202",
        "dht_port": "0",
        "peers": PEER,
        "bootstrap": "127.0.0.1:7100,[::1]:7101",
        "redis": "redis://127.0.0.1:6379/0",
        "holds": "journal",
        "hold_ttl": "20s",
        "pay": "manual",
        "log_level": "debug",
        "log_format": "json",
        "currencies": "XYZ=3",
        "markets": "BTC/USD,BTC/XYZ",
        "orders_per_stranger": "10000",
        "follow_all_max": "0",
        "price_band": "25",
    }
    by_flags = load(flags=dict(said))
    by_environment = load(
        environment={f"ZMQEX_{name.upper()}": text for name, text in said.items()}
    )
    by_file = load("\n".join(f'{name} = "{text}"' for name, text in said.items()))

    assert by_flags == by_environment == by_file
    assert by_flags.peers == ((IDENTITY, "127.0.0.1", 7100),)
    assert by_flags.bootstrap == (("127.0.0.1", 7100), ("::1", 7101))
    assert by_flags.hold_ttl_ms == 20_000
    assert by_flags.currencies == {"XYZ": 3}
    assert by_flags.markets == ("BTC/USD", "BTC/XYZ")


@pytest.mark.parametrize("text", ["socks5://127.0.0.1:9050", "socks5h://localhost:9050"])
def test_a_proxy_is_a_numeric_address(text: str) -> None:
    """Its name would have to be looked up, and that look-up would go past it."""
    assert load(flags={"proxy": text}).proxy == ("127.0.0.1", 9050)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("127.0.0.1:9050", "like socks5://127.0.0.1:9050"),
        ("http://127.0.0.1:9050", "like socks5://127.0.0.1:9050"),
        ("socks5://me:secret@127.0.0.1:9050", "a user name or a password"),
        ("socks5://proxy.example:9050", "use its address"),
        ("socks5://127.0.0.1", "is not an address"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused(text: str, said: str) -> None:
    """With what is wrong, and without repeating a password."""
    with pytest.raises(ConfigError, match=said) as refused:
        load(flags={"proxy": text})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("bootstrap", ["127.0.0.1:7100"]),
        ("dht_port", 7100),
        ("grapes", ["http://127.0.0.1:30001"]),
        ("services", ["exchange"]),
    ],
)
def test_behind_a_proxy_there_is_neither_a_dht_nor_a_grape(setting: str, value: object) -> None:
    """They would be asked past the proxy; who names one is told."""
    with pytest.raises(ConfigError, match=r"past the proxy.*--peer"):
        load(flags={"proxy": "socks5://127.0.0.1:9050", setting: value})
    assert load(flags={"proxy": "socks5://127.0.0.1:9050", "dht_port": 0}).proxy


def test_grapes_and_services_are_read_as_they_stand() -> None:
    """Each once; a slash at a URL's end does not matter."""
    urls = ["http://127.0.0.1:30001/", "https://grape.example", "http://[::1]:5/below"]
    config = load(
        flags={"grapes": [*urls, urls[0]], "services": ["exchange", "na\u00efve", "x" * 255]}
    )
    assert config.grapes == ("http://127.0.0.1:30001", *urls[1:])
    assert config.services == ("exchange", "na\u00efve", "x" * 255)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("grapes", "127.0.0.1:30001", "--grape: .* is not a grape's URL, like http"),
        ("grapes", "http://127.0.0.1:70000", "--grape: .* is not a port"),
        ("grapes", "http://127.0.0.1:0", "--grape: .* has port 0"),
        ("grapes", "http://me:secret@host:5", "is not a grape's URL"),
        ("grapes", "ftp://host:5", "is not a grape's URL"),
        ("grapes", "http://host:5/a b", "is not a grape's URL"),
        ("services", "x" * 256, "--service: .* 1 to 255 printable bytes"),
        ("services", "\u00ef" * 128, "1 to 255 printable bytes"),
        ("services", "a\tb", "1 to 255 printable bytes"),
    ],
)
def test_a_wrong_grape_or_service_is_named(setting: str, value: str, said: str) -> None:
    """By its flag, with what it should be like."""
    with pytest.raises(ConfigError, match=said):
        load(flags={setting: [value]})


def test_a_file_may_use_numbers_lists_and_tables() -> None:
    """TOML's own types are read as well."""
    config = load('rpc_port = 7101\nmarkets = ["BTC/EUR"]\n[currencies]\nXYZ = 4')

    assert config.rpc_port == 7101
    assert config.markets == ("BTC/EUR",)
    assert config.currencies == {"XYZ": 4}


def test_a_file_in_the_data_directory_is_read_by_itself(tmp_path: Path) -> None:
    """`zmqex.toml` in the data directory needs no flag."""
    (tmp_path / "zmqex.toml").write_text("rpc_port = 9")

    assert load_config(Choice("x", tmp_path), environment={}).rpc_port == 9


def test_an_operators_redis_makes_holds_strict_unless_said_otherwise() -> None:
    """With --redis a silent Redis refuses takes; the embedded one does not."""
    url = "redis://127.0.0.1:6379"

    assert load(flags={"redis": url}).holds == "strict"
    assert load(flags={"redis": url, "holds": "journal"}).holds == "journal"


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("rpc_port", "70000", "'70000' is not a port"),
        ("rpc_port", "-1", "'-1' is not a port"),
        ("rpc_port", "eighty", "'eighty' is not a port"),
        ("bind_host", "a b", "is not a host name"),
        ("peers", "nobody", "is not an address"),
        ("price_band", "-1", "is not a whole number from 0 to 1000"),
        ("orders_per_stranger", "10001", "from 0 to 10000"),
        ("peers", "abc@127.0.0.1:7100", "is not a peer id"),
        ("peers", PEER.upper(), "is not a peer id"),
        ("bootstrap", "127.0.0.1", "is not an address"),
        ("bootstrap", "127.0.0.1:0", "port 0"),
        ("redis", "http://u:hunter2@x", "must start with redis://"),
        ("holds", "maybe", "is not one of strict, journal"),
        ("hold_ttl", "16m", "is not between 1s and 15m"),
        ("hold_ttl", "soon", "is not a duration"),
        ("pay", "later", "is not one of ask, auto, manual"),
        ("log_level", "loud", "is not one of debug"),
        ("log_format", "xml", "is not one of human, json"),
        ("currencies", "XYZ", "needs its number of decimals"),
        ("currencies", "USD=3", "built in"),
        ("currencies", "XYZ=99", "allowed are 0 to 12"),
        ("markets", "USD/BTC", "reversed"),
        ("markets", "BTC/ZZZZ", "is not known"),
        ("markets", ",", "at least one market"),
        ("network", "mainnet", "needs a Lightning backend"),
    ],
)
def test_an_error_names_the_setting_and_where_it_stands(
    name: str, text: str, complaint: str
) -> None:
    """The same mistake is reported with the variable's, the flag's or the file's name."""
    with pytest.raises(ConfigError, match=f"^ZMQEX_{name.upper()}: ") as by_environment:
        load(environment={f"ZMQEX_{name.upper()}": text})
    with pytest.raises(ConfigError, match=r"^--[a-z-]+: ") as by_flag:
        load(flags={name: text})
    with pytest.raises(ConfigError, match=f"settings.toml: {name}: ") as by_file:
        load(f'{name} = "{text}"')

    for error in (by_environment, by_flag, by_file):
        assert complaint in str(error.value)
        assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("flag", ["peer", "market", "currency"])
def test_an_error_names_a_flag_that_can_be_repeated_as_it_is_typed(flag: str) -> None:
    """The list of peers is said with --peer."""
    name = {"peer": "peers", "market": "markets", "currency": "currencies"}[flag]
    with pytest.raises(ConfigError, match=f"^--{flag}: "):
        load(flags={name: ["?"]})


def test_unknown_settings_are_errors_wherever_they_stand() -> None:
    """A typing mistake is never silently a default."""
    with pytest.raises(ConfigError, match=r"settings\.toml: 'rpc_prot' is not a setting"):
        load("rpc_prot = 1")
    with pytest.raises(ConfigError, match=r"^ZMQEX_RPC_PROT is not a setting"):
        load(environment={"ZMQEX_RPC_PROT": "1"})
    with pytest.raises(ConfigError, match="'True' is not a port"):
        load("rpc_port = true")


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """Missing, a directory, no TOML, no text: each is said with the path."""
    (tmp_path / "bad.toml").write_text("= 1")
    (tmp_path / "raw.toml").write_bytes(b"\xff\xfe")

    for name, complaint in {
        "missing.toml": "does not exist",
        ".": "cannot read",
        "bad.toml": "is not TOML",
        "raw.toml": "is not TOML",
    }.items():
        path = tmp_path / name
        with pytest.raises(ConfigError, match=complaint) as error:
            load_config(HERE, environment={}, file=path)
        with pytest.raises(ConfigError, match=complaint):
            load_config(HERE, environment={"ZMQEX_CONFIG": str(path)})
        assert str(path) in str(error.value)


def test_empty_variables_and_programs_own_ones_are_no_settings() -> None:
    """`ZMQEX_REDIS=` means none; what the programs tell each other is left alone."""
    config = load(
        environment={
            "ZMQEX_REDIS": "",
            "ZMQEX_INVOKED_AS": "zx",
            "ZMQEX_SUPERVISED": "1",
            "PATH": "/bin",
        }
    )

    assert config.redis is None
    assert config.supervised


@given(st.binary(min_size=32, max_size=32), st.integers(1, 65_535))
def test_every_printed_peer_id_is_read_back(identity: bytes, port: int) -> None:
    """`--peer` takes what `serve` prints."""
    assert parse_peer(f"{to_text(identity)}@h:{port}") == (identity, "h", port)
    assert [parse_peer(show_address(h, port))[1] for h in ("h", "::1")] == ["h", "::1"]


@given(st.text(max_size=60))
def test_no_text_breaks_the_reader_of_addresses(text: str) -> None:
    """Whatever is typed is an address, or a complaint that is safe to print."""
    try:
        host, port = parse_address(text)
    except ValueError as error:
        host, port = str(error), 0

    assert host.isprintable()
    assert 0 <= port < 65_536


# --- nodes ---------------------------------------------------------------------------------------


def start(name: str, *, pid: int | None = None) -> DirectoryLock:
    """What a node does at its start: lock its directory, and say where it listens."""
    directory = node_directory(name)
    directory.mkdir(parents=True)
    lock = DirectoryLock(directory)
    info = {
        "pid": os.getpid() if pid is None else pid,
        "identity": to_text(IDENTITY),
        "data_dir": str(directory),
        "control": str(control_path(directory)),
        "dht_port": 7100,
        "unknown": "newer versions may say more",
    }
    runtime_path(directory).write_bytes(msgspec.json.encode(info))
    return lock


@pytest.mark.usefixtures("data_home")
def test_what_a_running_node_was_told_is_known_to_its_commands() -> None:
    """By whatever means it was told; the command's own environment is nearer, the file further."""
    lock = start("alice")
    choice = select_node("alice", environment={})
    (choice.data_dir / SETTINGS_FILE).write_text('pay = "auto"\nmarkets = ["BTC/EUR"]\n')
    flags = {"pay": "manual", "currencies": ["XYZ=2"], "markets": ["BTC/XYZ"]}
    told = load_config(choice, flags, environment={})
    raw = msgspec.json.decode(runtime_path(choice.data_dir).read_bytes())
    text = msgspec.json.encode({**raw, "settings": shared_settings(told)})
    runtime_path(choice.data_dir).write_bytes(text)
    running = running_node(choice.data_dir)
    known = load_config(choice, environment={}, running=running)
    nearer = load_config(choice, environment={"ZMQEX_PAY": "ask"}, running=running)
    lock.release()

    assert (known.pay, known.currencies, known.markets) == ("manual", {"XYZ": 2}, ("BTC/XYZ",))
    assert nearer.pay == "ask"
    assert "pay" not in shared_settings(load_config(choice, {"pay": None}, {}, Path("/dev/null")))


def test_nodes_live_under_the_users_data_home(
    data_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XDG_DATA_HOME is used where it is absolute, else ~/.local/share."""
    assert node_directory("alice") == data_home / "zmqex" / "nodes" / "alice"
    for useless in ("", "relative"):
        monkeypatch.setenv("XDG_DATA_HOME", useless)
        assert node_directory("a") == Path.home() / ".local/share/zmqex/nodes/a"


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "-x", "a\n", "x" * 65, "\u00e4"])
def test_a_name_that_is_no_directory_of_ours_is_refused(name: str) -> None:
    """A node's name never leads out of the data home."""
    with pytest.raises(ConfigError, match=r"^--node: "):
        select_node(node=name, environment={})


@pytest.mark.usefixtures("data_home")
def test_a_node_is_chosen_by_flag_then_environment_then_the_one_that_runs() -> None:
    """Flags win; hints name what was named, since another terminal has another environment."""
    lock = start("running")
    try:
        by_flag = select_node(node="a", environment={"ZMQEX_NODE": "b"})
        by_directory = select_node(data_dir="/x/y", environment={"ZMQEX_NODE": "b"})
        by_environment = select_node(environment={"ZMQEX_NODE": "b"})
        by_variable = select_node(environment={"ZMQEX_DATA_DIR": "/x/z"})
        by_running = select_node(environment={})
        starting = select_node(environment={}, starting=True)
    finally:
        lock.release()

    assert (by_flag.name, by_flag.options) == ("a", ("--node", "a"))
    assert by_directory == Choice("y", Path("/x/y"), ("--data-dir", "/x/y"))
    assert (by_environment.name, by_environment.options) == ("b", ("--node", "b"))
    assert by_variable == Choice("z", Path("/x/z"), ("--data-dir", "/x/z"))
    assert by_running == Choice("running", node_directory("running"))
    assert starting.name == "default"
    assert select_node(environment={}).name == "default"


@pytest.mark.usefixtures("data_home")
def test_several_running_nodes_are_listed_when_none_is_named() -> None:
    """The user is asked which one, with the names in front of them."""
    locks = [start("bob"), start("alice")]
    try:
        with pytest.raises(ConfigError, match=r"alice \(pid \d+\), bob \(pid \d+\).*--node NAME"):
            select_node(environment={})
        assert [node.name for node in running_nodes()] == ["alice", "bob"]
        assert select_node(environment={}, starting=True).name == "default"
    finally:
        for lock in locks:
            lock.release()


@pytest.mark.usefixtures("data_home")
@pytest.mark.parametrize(
    ("node", "data_dir", "environment"),
    [("a", "/b", {}), (None, None, {"ZMQEX_NODE": "a", "ZMQEX_DATA_DIR": "/b"}), (None, "", {})],
)
def test_a_contradictory_choice_is_refused(
    node: str | None, data_dir: str | None, environment: dict[str, str]
) -> None:
    """A name and a directory at the same level are one too many."""
    with pytest.raises(ConfigError, match=r"both name a node|has no name"):
        select_node(node, data_dir, environment)


@pytest.mark.usefixtures("data_home")
def test_a_node_runs_only_while_its_process_lives_and_holds_the_lock() -> None:
    """What a crash leaves behind is never taken for a running node."""
    lock = start("alice")
    path = node_directory("alice")
    found = running_node(path)
    raw = runtime_path(path).read_bytes()
    with_dead_pid = msgspec.json.encode({**msgspec.json.decode(raw), "pid": 2**22 + 1})

    assert found is not None
    assert (found.pid, found.dht_port, found.control) == (os.getpid(), 7100, control_path(path))
    for content in (b"", b"[]", b"{}", b"\xff", with_dead_pid):
        runtime_path(path).write_bytes(content)
        assert running_node(path) is None
    runtime_path(path).write_bytes(raw)
    assert running_node(path) is not None
    lock.release()
    assert running_node(path) is None
    (path / "lock").unlink()
    assert running_node(path) is None


@pytest.mark.usefixtures("data_home")
def test_looking_for_nodes_never_keeps_one_from_starting() -> None:
    """The look leaves no lock behind."""
    lock = start("alice")
    lock.release()
    running_nodes()
    with (node_directory("alice") / "lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert running_node(node_directory("alice")) is not None


@pytest.mark.usefixtures("data_home")
def test_the_control_socket_lies_where_the_node_makes_its_directory() -> None:
    """Client and node compute the same short path, also through links."""
    directory = node_directory("alice")
    directory.mkdir(parents=True)
    link = data_home() / "link"
    link.symlink_to(directory)

    assert control_path(directory).parent == runtime_directory(directory)
    assert control_path(link) == control_path(directory)


@pytest.mark.usefixtures("data_home")
def test_a_directory_too_deep_for_a_socket_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Unix sockets have short names; the way out is named."""
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))

    with pytest.raises(ConfigError, match="set XDG_RUNTIME_DIR to a shorter directory"):
        control_path(tmp_path)


def test_no_identity_is_half_a_one() -> None:
    """Base32 text with spare bits set is not what any node prints."""
    text = base64.b32encode(IDENTITY).decode().rstrip("=").lower()
    last = text[:-1] + chr(ord(text[-1]) + 1)

    with pytest.raises(ValueError, match="is not a peer id"):
        parse_peer(f"{last}@127.0.0.1:7100")
