"""What the operator has set, and where the nodes of this user live on the disk.

Settings come in layers, the later wins: defaults, a TOML file, ZMQEX_* in the environment, flags.
An error names the setting as it was written there.  Not for creating or locking directories.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from zmqex import limits
from zmqex.backends import NEEDED, Backend, Kind, read_quote_lightning, why_not_quotes
from zmqex.errors import ConfigError, InputError
from zmqex.market.instruments import Currencies, shown
from zmqex.settings import (
    Address,
    StaticPeer,
    read_addresses,
    read_bitcoin_msat,
    read_currencies,
    read_flag,
    read_grapes,
    read_hold_ttl_ms,
    read_host,
    read_https,
    read_markets,
    read_node_keys,
    read_number,
    read_one_of,
    read_path,
    read_peers,
    read_port,
    read_proxy,
    read_redis,
    read_services,
    read_words,
)

DEFAULT_NODE: Final = "default"
SETTINGS_FILE: Final = "zmqex.toml"
NODE_VARIABLE: Final = "ZMQEX_NODE"
DATA_DIR_VARIABLE: Final = "ZMQEX_DATA_DIR"
CONFIG_VARIABLE: Final = "ZMQEX_CONFIG"
# Set by our own programs and tests, not by the operator: no settings.
_NOT_SETTINGS: Final = {
    NODE_VARIABLE,
    DATA_DIR_VARIABLE,
    CONFIG_VARIABLE,
    "ZMQEX_INVOKED_AS",
    "ZMQEX_SUPERVISED",
    "ZMQEX_CRASH_PLAN",
    "ZMQEX_RUN",
    "ZMQEX_FAULT",
}
_PREFIX: Final = "ZMQEX_"
# Settings that hold several have a flag for each.
_SINGULAR: Final = {
    "peers": "peer",
    "grapes": "grape",
    "lost_nodes": "lost_node",
    "services": "service",
    "markets": "market",
    "currencies": "currency",
}
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


Network = Literal["play", "regtest", "signet", "testnet", "mainnet"]


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `serve` can be told.

    A port of None is the usual one or the next free one (hello 7100, rpc 7101, orders 7102, DHT
    UDP as hello); 0 is any free one.  `peers` are (32-byte identity or b"", host, hello port).
    `proxy` is a SOCKS5 server through which everything is dialled.
    """

    data_dir: Path
    node: str = DEFAULT_NODE
    network: Network = "play"
    lightning: Kind = "play"
    quote_lightning: Mapping[str, Backend] = {}
    lost_nodes: tuple[bytes, ...] = ()
    lnd_url: str = ""
    lnd_macaroon: Path | None = None
    lnd_cert: Path | None = None
    cln_rpc: Path | None = None
    cln_url: str = ""
    cln_rune: Path | None = None
    cln_cert: Path | None = None
    accept_real_money: bool = False
    max_trade_msat: int = 0
    max_held_msat: int = 0
    max_day_msat: int = 0
    bind_host: str = "127.0.0.1"
    announce_host: str = ""
    hello_port: int | None = None
    rpc_port: int | None = None
    orders_port: int | None = None
    dht_port: int | None = None
    peers: tuple[StaticPeer, ...] = ()
    bootstrap: tuple[Address, ...] = ()
    grapes: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    proxy: Address | None = None
    redis: str | None = None
    holds: Literal["strict", "journal"] = "journal"
    hold_ttl_ms: int = limits.HOLD_TTL_MS
    accept_command: tuple[str, ...] = ()
    stranger_share: int | None = None
    pay: Literal["ask", "auto", "manual"] | None = None
    log_level: str = "info"
    log_format: Literal["human", "json"] = "human"
    currencies: Mapping[str, int] = {}
    markets: tuple[str, ...] = ("BTC/USD",)
    orders_per_stranger: int = limits.ORDERS_PER_STRANGER_MAX
    follow_all_max: int = limits.FOLLOW_ALL_MAX
    price_band: int = limits.PRICE_BAND_PERCENT
    supervised: bool = False

    @property
    def stranger_percent(self) -> int:
        """What strangers may hold of an order: play money needs no friends."""
        usual = 100 if self.network == "play" else limits.STRANGER_PERCENT
        return usual if self.stranger_share is None else self.stranger_share


class Choice(msgspec.Struct, frozen=True):
    """The node that a command is for; `options` are the words that name it again."""

    name: str
    data_dir: Path
    options: tuple[str, ...] = ()


class RunningNode(msgspec.Struct, frozen=True):
    """What a running node says of itself in its runtime file."""

    pid: int
    identity: str
    data_dir: Path
    control: Path
    host: str = "127.0.0.1"
    hello_port: int = 0
    rpc_port: int = 0
    orders_port: int = 0
    dht_port: int = 0
    settings: Mapping[str, Any] = {}  # those that commands need too, as in TOML

    @property
    def name(self) -> str:
        """The node's name: the last part of its data directory."""
        return self.data_dir.name


def shared_settings(config: Config) -> dict[str, Any]:
    """What commands must know of the node that they talk to, for its runtime file."""
    shared: dict[str, Any] = {
        "currencies": dict(config.currencies),
        "markets": list(config.markets),
    }
    shared |= {"pay": config.pay} if config.pay else {}
    if config.network != "play":
        # The command line asks before it pays with these, and says which money it is.
        names = ("network", "lightning", *_needed(config))
        shared |= {name: str(getattr(config, name)) for name in names}
        shared["accept_real_money"] = config.accept_real_money
    return shared


# --- settings ----------------------------------------------------------------------------------


def load_config(
    choice: Choice,
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
    running: RunningNode | None = None,
) -> Config:
    """Put the layers together.

    `flags` has a value per setting's name (`rpc_port`); None means "not given".  `file` replaces
    `zmqex.toml` in the data directory and must exist.  What a `running` node was told, by
    whatever means, stands above the file.  Raises ConfigError, which names the setting
    and where it stands.
    """
    given = os.environ if environment is None else environment
    if file is None and given.get(CONFIG_VARIABLE):
        file = Path(given[CONFIG_VARIABLE]).expanduser()
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    layers = (
        _from_file(choice.data_dir, file),
        [(name, name, value) for name, value in (running.settings if running else {}).items()],
        _from_environment(given),
        [(name, _flag(name), value) for name, value in (flags or {}).items() if value is not None],
    )
    for layer in layers:
        for name, origin, value in layer:
            field, read = _SETTINGS[name]
            try:
                values[field] = read(value)
            except (ValueError, InputError) as error:
                raise ConfigError(f"{origin}: {error}") from error
            origins[field] = origin
    if values.get("network") == "mainnet":
        values = limits.MAINNET_STAKES_MSAT | values
    if values.get("redis") and "holds" not in values:
        values["holds"] = "strict"
    config = Config(
        data_dir=choice.data_dir,
        node=choice.name,
        supervised=bool(given.get("ZMQEX_SUPERVISED")),
        **values,
    )
    _check(config, origins)
    return config


def _from_file(data_dir: Path, file: Path | None) -> list[tuple[str, str, object]]:
    path = file or data_dir / SETTINGS_FILE
    try:
        text = path.read_bytes().decode()
        table = tomllib.loads(text)
    except FileNotFoundError:
        if file is None:
            return []
        raise ConfigError(f"the settings file {path} does not exist") from None
    except OSError as error:
        raise ConfigError(f"cannot read the settings file {path}: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"the settings file {path} is not TOML: {error}") from error
    for name in table:
        if name not in _SETTINGS:
            known = ", ".join(sorted(_SETTINGS))
            raise ConfigError(f"{path}: {shown(name)} is not a setting; known are {known}")
    return [(name, f"{path}: {name}", value) for name, value in table.items()]


def _from_environment(given: Mapping[str, str]) -> list[tuple[str, str, object]]:
    found: list[tuple[str, str, object]] = []
    for variable in sorted(given):
        if not variable.startswith(_PREFIX) or variable in _NOT_SETTINGS:
            continue
        name = variable.removeprefix(_PREFIX).lower()
        if name not in _SETTINGS:
            known = ", ".join(_PREFIX + one.upper() for one in sorted(_SETTINGS))
            raise ConfigError(f"{variable} is not a setting; known are {known}")
        if given[variable]:
            found.append((name, variable, given[variable]))
    return found


def _flag(name: str) -> str:
    return "--" + _SINGULAR.get(name, name).replace("_", "-")


def _check(config: Config, origins: Mapping[str, str]) -> None:
    """What several settings say together."""
    if config.proxy:
        for name in ("bootstrap", "dht_port", "grapes", "services"):
            if name in origins and getattr(config, name):
                raise ConfigError(
                    f"{origins[name]}: the DHT and grapes would be asked past the proxy; name "
                    "peers with --peer HOST:PORT instead"
                )
    _check_lightning(config, origins)
    reason = why_not_quotes(config.quote_lightning, config.network, config.markets)
    if reason:
        raise ConfigError(f"{origins['quote_lightning']}: {reason}")
    try:
        currencies = Currencies(config.currencies)
    except ConfigError as error:
        raise ConfigError(f"{origins['currencies']}: {error}") from error
    for market in config.markets:
        try:
            currencies.instrument(market)
        except InputError as error:
            raise ConfigError(f"{origins.get('markets', '--market')}: {error}") from error


def _needed(config: Config) -> tuple[str, ...]:
    """Core Lightning is reached by its socket, or by HTTPS where an address is given."""
    rest = config.lightning == "cln" and config.cln_url
    return NEEDED["clnrest" if rest else config.lightning]


def _check_lightning(config: Config, origins: Mapping[str, str]) -> None:
    """Play money on the network "play" alone; real money only where all of it was asked for."""
    backend, network = config.lightning, config.network
    if network != "play" and backend == "play":
        raise ConfigError(
            f"{origins['network']}: {network} needs a Lightning backend, like --lightning lnd; "
            "only the network 'play' (play money) works without one"
        )
    if network == "play" and backend != "play":
        raise ConfigError(
            f"{origins['lightning']}: {backend} moves coins of a real chain; say which one with "
            "--network regtest, signet, testnet or mainnet"
        )
    for name in _needed(config):
        if name not in origins:
            raise ConfigError(f"{origins['lightning']}: {backend} needs {_flag(name)} as well")
    if network == "mainnet" and not config.accept_real_money:
        raise ConfigError(
            f"{origins['network']}: mainnet moves real bitcoin, with software that nobody has "
            "audited; if you mean it, add --accept-real-money"
        )


# The name in TOML, in lower case; ZMQEX_ and upper case in the environment; with dashes as a flag.
_SETTINGS: Final[Mapping[str, tuple[str, Callable[[object], object]]]] = {
    "network": ("network", read_one_of("play", "regtest", "signet", "testnet", "mainnet")),
    "lightning": ("lightning", read_one_of("play", "lnd", "cln")),
    "quote_lightning": ("quote_lightning", read_quote_lightning),
    "lost_nodes": ("lost_nodes", read_node_keys),
    "lnd_url": ("lnd_url", read_https),
    "lnd_macaroon": ("lnd_macaroon", read_path),
    "lnd_cert": ("lnd_cert", read_path),
    "cln_rpc": ("cln_rpc", read_path),
    "cln_url": ("cln_url", read_https),
    "cln_rune": ("cln_rune", read_path),
    "cln_cert": ("cln_cert", read_path),
    "max_trade": ("max_trade_msat", read_bitcoin_msat),
    "max_held": ("max_held_msat", read_bitcoin_msat),
    "max_day": ("max_day_msat", read_bitcoin_msat),
    "accept_real_money": ("accept_real_money", read_flag),
    "bind_host": ("bind_host", read_host),
    "announce_host": ("announce_host", read_host),
    "hello_port": ("hello_port", read_port),
    "rpc_port": ("rpc_port", read_port),
    "orders_port": ("orders_port", read_port),
    "dht_port": ("dht_port", read_port),
    "peers": ("peers", read_peers),
    "bootstrap": ("bootstrap", read_addresses),
    "grapes": ("grapes", read_grapes),
    "services": ("services", read_services),
    "proxy": ("proxy", read_proxy),
    "redis": ("redis", read_redis),
    "holds": ("holds", read_one_of("strict", "journal")),
    "hold_ttl": ("hold_ttl_ms", read_hold_ttl_ms),
    "accept_command": ("accept_command", read_words),
    "stranger_share": ("stranger_share", read_number(1, 100)),
    "pay": ("pay", read_one_of("ask", "auto", "manual")),
    "log_level": ("log_level", read_one_of("debug", "info", "warning", "error", "critical")),
    "log_format": ("log_format", read_one_of("human", "json")),
    "currencies": ("currencies", read_currencies),
    "markets": ("markets", read_markets),
    "orders_per_stranger": (
        "orders_per_stranger",
        read_number(0, limits.ORDERS_PER_MAKER_MAX),
    ),
    "follow_all_max": ("follow_all_max", read_number(0, limits.PEERS_MAX)),
    "price_band": ("price_band", read_number(0, limits.PRICE_BAND_PERCENT_MAX)),
}

# --- nodes on this machine -----------------------------------------------------------------------


def data_home() -> Path:
    """Where this user's nodes live: `$XDG_DATA_HOME/zmqex`, else `~/.local/share/zmqex`."""
    base = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification: a relative path is to be ignored.
    home = Path(base) if base.startswith("/") else Path.home() / ".local" / "share"
    return home / "zmqex"


def node_directory(name: str, origin: str = "--node") -> Path:
    """The data directory of the node with that name.  Raises ConfigError for an unusable name."""
    if _NAME.match(name) is None:
        message = "is not a node's name: letters, digits, '.', '_' and '-', at most 64"
        raise ConfigError(f"{origin}: {shown(name)} {message}")
    return data_home() / "nodes" / name


def runtime_path(data_dir: Path) -> Path:
    """The file in which a running node says where it can be reached."""
    return data_dir / "runtime.json"


def control_path(data_dir: Path) -> Path:
    """The control socket of the node that owns `data_dir`: the same, short path at every start.

    It lies in the node's runtime directory, which the storage adapter creates.  Raises ConfigError
    where the system's directory is too deep for a socket.
    """
    name = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:8]
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.access(base, os.W_OK):
        path = Path(base) / f"zmqex-{name}" / "control"
    else:
        path = Path(tempfile.gettempdir()) / f"zmqex-{os.getuid()}-{name}" / "control"
    if len(os.fsencode(path)) > limits.CONTROL_PATH_BYTES_MAX:
        message = f"{path} is too long for a socket; set XDG_RUNTIME_DIR to a shorter directory"
        raise ConfigError(message)
    return path


def running_node(data_dir: Path) -> RunningNode | None:
    """What runs on this data directory; None for a node that has ended, however it ended."""
    try:
        raw = runtime_path(data_dir).read_bytes()
        node = msgspec.json.decode(raw, type=RunningNode, dec_hook=_decode_path)
        os.kill(node.pid, 0)
    except (OSError, OverflowError, msgspec.MsgspecError):
        return None
    return node if _is_locked(data_dir) else None


def _decode_path(_kind: type, value: str) -> Path:
    """Read the one type of the runtime file that msgspec does not know."""
    return Path(value)


def running_nodes() -> list[RunningNode]:
    """Every running node under the user's data home, by name."""
    try:
        directories = sorted((data_home() / "nodes").iterdir())
    except OSError:
        return []
    found = [running_node(path) for path in directories if _NAME.match(path.name)]
    return [node for node in found if node is not None]


def _is_locked(data_dir: Path) -> bool:
    """Whether a process holds the directory.

    Only asked while the process in the runtime file lives, so that a node that is just starting
    never meets this short lock.
    """
    try:
        descriptor = os.open(data_dir / "lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def select_node(
    node: str | None = None,
    data_dir: str | None = None,
    environment: Mapping[str, str] | None = None,
    *,
    starting: bool = False,
) -> Choice:
    """Choose the node that a command is for: by flag, by environment, or the one that runs.

    `starting`: the command starts a node, so what else runs is no hint.  Raises ConfigError that
    lists the nodes where several run and none was named.
    """
    given = os.environ if environment is None else environment
    named = _named(node, data_dir, ("--node", "--data-dir"))
    if named is None:
        variables = (NODE_VARIABLE, DATA_DIR_VARIABLE)
        values = [given.get(variable) or None for variable in variables]
        named = _named(values[0], values[1], variables)
    if named is not None:
        return named
    running = [] if starting else running_nodes()
    if len(running) > 1:
        names = ", ".join(f"{one.name} (pid {one.pid})" for one in running)
        message = f"several nodes are running: {names}; say which one with --node NAME"
        raise ConfigError(message)
    if running:
        return Choice(running[0].name, running[0].data_dir)
    return Choice(DEFAULT_NODE, node_directory(DEFAULT_NODE))


def _named(node: str | None, data_dir: str | None, origins: tuple[str, str]) -> Choice | None:
    if node is not None and data_dir is not None:
        raise ConfigError(f"{origins[0]} and {origins[1]} both name a node; give only one of them")
    if node is not None:
        return Choice(node, node_directory(node, origins[0]), ("--node", node))
    if data_dir is None:
        return None
    if not data_dir:
        raise ConfigError(f"{origins[1]}: the directory has no name")
    path = Path(data_dir).expanduser().absolute()
    return Choice(path.name, path, ("--data-dir", data_dir))
