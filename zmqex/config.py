"""Settings of a node: defaults, then its TOML file, then ZMQEX_* variables, then flags.

Every source gives the same settings by the same names, and an error names the setting and where
its value came from.  Also: where nodes live on this machine, and which of them run.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from zmqex.errors import ConfigError, InputError
from zmqex.limits import CONTROL_PATH_BYTES_MAX, HOLD_TTL_MS
from zmqex.market.instruments import Currencies
from zmqex.market.units import parse_duration
from zmqex.protocol.identity import from_text

DEFAULT_NODE: Final = "default"
CONFIG_FILE: Final = "zmqex.toml"
_NODE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_HOLD_TTL_MIN_MS: Final = 2_000
_PORT_MAX: Final = 65_535


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set; `None` for a port: the default one or the next free one."""

    data_dir: Path
    network: str = "play"
    bind_host: str = "127.0.0.1"
    announce_host: str = ""
    hello_port: int | None = None
    rpc_port: int | None = None
    orders_port: int | None = None
    dht_port: int | None = None
    peers: tuple[tuple[bytes, str, int], ...] = ()
    bootstrap: tuple[tuple[str, int], ...] = ()
    redis: str | None = None
    holds: str = "journal"
    hold_ttl_ms: int = HOLD_TTL_MS
    log_level: str = "info"
    log_format: str = "human"
    markets: tuple[str, ...] = ("BTC/USD",)
    currencies: dict[str, int] = msgspec.field(default_factory=dict)
    supervised: bool = False


class RunningNode(msgspec.Struct, frozen=True):
    """A node of this user that runs on this machine."""

    name: str
    data_dir: Path
    pid: int
    control: Path
    dht_port: int
    identity: str


# --- reading settings ------------------------------------------------------------------------------


def load_config(data_dir: Path, flags: Mapping[str, Any], *, file: Path | None = None) -> Config:
    """Merge all sources into a Config; ConfigError names what is wrong and where it came from.

    `flags` has setting names (with underscores); None means "not given".
    """
    values: dict[str, Any] = {"data_dir": data_dir}
    for source, given in (
        *_from_file(file or data_dir / CONFIG_FILE, required=file is not None),
        *((f"ZMQEX_{name.upper()}", {name: text}) for name, text in _from_environment()),
        *((f"--{name.replace('_', '-')}", {name: value}) for name, value in flags.items()),
    ):
        for name, value in given.items():
            if value is not None:
                values[name] = _read(name, value, source)
    if "holds" not in values and values.get("redis") is not None:
        # Somebody else's server: its silence may mean that another machine holds our orders.
        values["holds"] = "strict"
    config = Config(**values, supervised="ZMQEX_SUPERVISED" in os.environ)
    _check_together(config)
    return config


def _from_file(path: Path, *, required: bool) -> list[tuple[str, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if required:
            msg = f"--config: there is no file {path}"
            raise ConfigError(msg) from error
        return []
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read: {error}"
        raise ConfigError(msg) from error
    try:
        return [(f"{path.name}: {name}", {name: value}) for name, value in _toml(text).items()]
    except tomllib.TOMLDecodeError as error:
        msg = f"{path} is not valid TOML: {error}"
        raise ConfigError(msg) from error


def _toml(text: str) -> dict[str, Any]:
    return {name.replace("-", "_"): value for name, value in tomllib.loads(text).items()}


def _from_environment() -> list[tuple[str, str]]:
    return [
        (name, os.environ[variable])
        for name in _READERS
        if (variable := f"ZMQEX_{name.upper()}") in os.environ
    ]


def _read(name: str, value: Any, source: str) -> Any:  # noqa: ANN401 - one value of any setting
    reader = _READERS.get(name)
    if reader is None:
        msg = f"{source}: there is no such setting; known are {', '.join(sorted(_READERS))}"
        raise ConfigError(msg)
    try:
        return reader(value)
    except (ValueError, InputError) as error:
        msg = f"{source}: {error}"
        raise ConfigError(msg) from error


def _network(value: Any) -> str:  # noqa: ANN401
    if value != "play":
        msg = (
            f"the network {str(value)[:20]!r} needs a real Lightning backend, and none is "
            "configured; use play"
        )
        raise ValueError(msg)
    return "play"


def _port(value: Any) -> int:  # noqa: ANN401
    text = str(value)
    if not text.isascii() or not text.isdigit() or int(text) > _PORT_MAX:
        msg = f"{text[:20]!r} is not a port: a number from 0 (any free one) to {_PORT_MAX}"
        raise ValueError(msg)
    return int(text)


def _word(*words: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:  # noqa: ANN401
        if value not in words:
            msg = f"{str(value)[:20]!r} is none of {', '.join(words)}"
            raise ValueError(msg)
        return str(value)

    return read


def _host(value: Any) -> str:  # noqa: ANN401
    text = str(value)
    if not re.fullmatch(r"[A-Za-z0-9.:_-]{1,255}", text):
        msg = f"{text[:40]!r} is not a host name or address"
        raise ValueError(msg)
    return text


def parse_place(text: str) -> tuple[str, int]:
    """Read `host:port` or `[v6]:port`; ValueError says what is wrong."""
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        msg = f"{text[:60]!r} is not host:port"
        raise ValueError(msg)
    return _host(host.strip("[]")), _port(port)


def parse_peer(text: str) -> tuple[bytes, str, int]:
    """Read `ID@host:port`, or `host:port` for whoever answers there (id b"")."""
    identity, at, place = text.rpartition("@")
    return (from_text(identity) if at else b"", *parse_place(place))


def _several(read: Callable[[str], Any]) -> Callable[[Any], tuple[Any, ...]]:
    """A list of a TOML file or of repeated flags, or a comma-separated variable."""

    def reader(value: Any) -> tuple[Any, ...]:  # noqa: ANN401
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            msg = "give a list"
            raise ValueError(msg)
        return tuple(read(str(item).strip()) for item in items)

    return reader


def _redis(value: Any) -> str:  # noqa: ANN401
    text = str(value)
    if not text.startswith(("redis://", "rediss://", "unix://", "redis+sentinel://")):
        msg = "a Redis URL starts with redis://, rediss://, unix:// or redis+sentinel://"
        raise ValueError(msg)
    return text


def _hold_ttl(value: Any) -> int:  # noqa: ANN401
    ttl_ms = parse_duration(str(value))
    if not _HOLD_TTL_MIN_MS <= ttl_ms <= HOLD_TTL_MS:
        msg = "a hold lasts from 2s to 15m"
        raise ValueError(msg)
    return ttl_ms


def _currencies(value: Any) -> dict[str, int]:  # noqa: ANN401
    if isinstance(value, str):
        pairs = [item.partition("=") for item in value.split(",")]
        value = {code.strip(): int(decimals) for code, _, decimals in pairs}
    if not isinstance(value, dict) or not all(type(one) is int for one in value.values()):
        msg = "give codes and their decimals, like GLD=3"
        raise ValueError(msg)
    return dict(value)


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "network": _network,
    "bind_host": _host,
    "announce_host": _host,
    "hello_port": _port,
    "rpc_port": _port,
    "orders_port": _port,
    "dht_port": _port,
    "peers": _several(parse_peer),
    "bootstrap": _several(parse_place),
    "redis": _redis,
    "holds": _word("strict", "journal"),
    "hold_ttl": _hold_ttl,
    "log_level": _word("debug", "info", "warning", "error"),
    "log_format": _word("human", "json"),
    "markets": _several(str.upper),
    "currencies": _currencies,
}


def _check_together(config: Config) -> None:
    """Settings that only make sense together."""
    try:
        known = Currencies(config.currencies)
        for market in config.markets:
            known.instrument(market)
    except InputError as error:
        msg = f"markets: {error}"
        raise ConfigError(msg) from error
    ports = [config.hello_port, config.rpc_port, config.orders_port]
    chosen = [port for port in ports if port]
    if len(chosen) != len(set(chosen)):
        msg = "hello_port, rpc_port and orders_port: each needs a port of its own"
        raise ConfigError(msg)


# --- nodes of this machine ---------------------------------------------------------------------------


def data_home() -> Path:
    """Where this user's nodes live."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "zmqex"


def node_directory(name: str) -> Path:
    """The data directory of a named node; ConfigError for a name that is no file name."""
    if not _NODE_NAME.match(name):
        msg = f"--node: {name[:40]!r} is not a name; use letters, digits, dots, dashes"
        raise ConfigError(msg)
    return data_home() / "nodes" / name


def runtime_path(data_dir: Path) -> Path:
    """The file in which a running node says where it listens."""
    return data_dir / "runtime.json"


def control_path(data_dir: Path) -> Path:
    """The control socket of a node: short, and the same at every start."""
    return _socket_directory(data_dir) / "c.sock"


def _socket_directory(data_dir: Path) -> Path:
    """The private directory that `adapters.storage.directory.runtime_directory` makes."""
    digest = hashlib.blake2b(str(data_dir.resolve()).encode(), digest_size=4).hexdigest()
    base = os.environ.get("XDG_RUNTIME_DIR")
    path = Path(base) / f"zmqex-{digest}" if base else None
    if path is None or len(str(path)) > CONTROL_PATH_BYTES_MAX // 2:
        path = Path(tempfile.gettempdir()) / f"zmqex-{os.getuid()}-{digest}"
    return path


def is_running(data_dir: Path) -> bool:
    """Whether a process holds the lock of a data directory."""
    try:
        with (data_dir / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def running_nodes() -> list[RunningNode]:
    """The named nodes of this user that run now, by name."""
    found = []
    for path in sorted((data_home() / "nodes").glob("*/runtime.json")):
        if not is_running(path.parent):
            continue
        try:
            info = json.loads(path.read_text(encoding="utf-8"))
            node = RunningNode(
                path.parent.name,
                path.parent,
                int(info["pid"]),
                Path(info["control"]),
                int(info["dht_port"]),
                str(info["identity"]),
            )
        except (OSError, ValueError, KeyError):
            continue  # being written, or just gone
        found.append(node)
    return found
