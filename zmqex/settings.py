"""One setting at a time: from what an operator wrote to what is meant.

Each reader takes a text or a value of TOML; a ValueError says what is wrong with it.
Not for: which settings there are, and which layer wins (`config`).
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Final

from zmqex.dht.limits import DHT_NAME_BYTES_MAX
from zmqex.limits import HOLD_TTL_MS, SECOND_MS
from zmqex.market.instruments import Currencies, shown
from zmqex.market.units import base_msat, parse_duration, parse_quantity

_PORT_MAX: Final = 65_535
_IDENTITY_BYTES: Final = 32
_HOST: Final = re.compile(r"[A-Za-z0-9_.:-]{1,255}\Z")
_HTTPS: Final = re.compile(r"https://[A-Za-z0-9_.:\[\]-]{1,255}/?\Z")
_NODE_KEY: Final = re.compile(r"[0-9a-f]{66}([0-9a-f]{8})?\Z")
_GRAPE: Final = re.compile(
    r"https?://([A-Za-z0-9_.-]{1,255}|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?(/[!-~]*)?"
)

Address = tuple[str, int]
StaticPeer = tuple[bytes, str, int]


def read_text(value: object) -> str:
    """Any text, without the blanks around it."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")  # noqa: TRY004 - one error for every setting
    return value.strip()


def read_one_of(*words: str) -> Callable[[object], str]:
    """A reader of one of these words."""

    def read(value: object) -> str:
        word = read_text(value).lower()
        if word not in words:
            raise ValueError(f"{shown(word)} is not one of {', '.join(words)}")
        return word

    return read


def read_port(value: object) -> int:
    """A port, or 0 for any free one."""
    text = str(value).strip()
    port = int(text) if text.isascii() and text.isdigit() else -1
    if isinstance(value, bool) or not 0 <= port <= _PORT_MAX:
        raise ValueError(f"{shown(text)} is not a port, a number from 0 to {_PORT_MAX}")
    return port


def read_host(value: object) -> str:
    """A host name or an address, with or without brackets."""
    host = read_text(value).removeprefix("[").removesuffix("]")
    if _HOST.match(host) is None:
        raise ValueError(f"{shown(host)} is not a host name or an address")
    return host


def read_list(value: object) -> list[str]:
    """A list of texts, or one text with commas."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple):
        raise ValueError(f"{value!r} is not a list")  # noqa: TRY004 - as above
    return [part for item in value for part in read_list(read_text(item))]


def parse_address(text: str) -> Address:
    """Read `host:port` or `[::1]:port`; ValueError says what is wrong."""
    host, separator, port = text.rpartition(":")
    if not separator:
        raise ValueError(f"{shown(text)} is not an address; write it like 127.0.0.1:7100")
    number = read_port(port)
    if number == 0:
        raise ValueError(f"{shown(text)} has port 0, where nobody listens")
    return read_host(host), number


def show_address(host: str, port: int) -> str:
    """Write an address as `parse_address` reads it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_peer(text: str) -> StaticPeer:
    """Read `ID@host:port`, or `host:port` for whoever answers there; ValueError says why not."""
    identity, separator, address = text.rpartition("@")
    return (read_identity(identity) if separator else b"", *parse_address(address))


def read_identity(text: str) -> bytes:
    """A peer's id: base32 in lower case without padding, as `zmqex.protocol.identity` prints it."""
    try:
        identity = base64.b32decode(text.upper() + "====")
    except (binascii.Error, ValueError):
        identity = b""
    canonical = base64.b32encode(identity).decode().rstrip("=").lower()
    if len(identity) != _IDENTITY_BYTES or canonical != text:
        raise ValueError(f"{shown(text)} is not a peer id: 52 characters of a-z and 2-7")
    return identity


def read_peers(value: object) -> tuple[StaticPeer, ...]:
    """Peers as `parse_peer` reads them."""
    return tuple(parse_peer(text) for text in read_list(value))


def read_addresses(value: object) -> tuple[Address, ...]:
    """Addresses as `parse_address` reads them."""
    return tuple(parse_address(text) for text in read_list(value))


def read_grapes(value: object) -> tuple[str, ...]:
    """Base URLs of grapes' HTTP sides, each once."""
    return tuple(dict.fromkeys(_read_grape(text) for text in read_list(value)))


def _read_grape(text: str) -> str:
    found = _GRAPE.fullmatch(text)
    if found is None:
        raise ValueError(f"{shown(text)} is not a grape's URL, like http://127.0.0.1:30001")
    if found["port"] and read_port(found["port"]) == 0:
        raise ValueError(f"{shown(text)} has port 0, where nobody listens")
    return text.rstrip("/")


def read_services(value: object) -> tuple[str, ...]:
    """Names to announce under, as they stand; each once."""
    names = tuple(dict.fromkeys(read_list(value)))
    for name in names:
        if not name.isprintable() or len(name.encode(errors="replace")) > DHT_NAME_BYTES_MAX:
            message = f"1 to {DHT_NAME_BYTES_MAX} printable bytes"
            raise ValueError(f"{shown(name)} is not a service's name: {message}")
    return names


def read_proxy(value: object) -> Address:
    """Read `socks5://host:port`; names behind it are looked up by the proxy, never here."""
    scheme, separator, address = read_text(value).partition("://")
    if not separator or scheme not in {"socks5", "socks5h"}:
        raise ValueError("it must be like socks5://127.0.0.1:9050")
    if "@" in address:
        # The text may hold a password: it is not repeated.
        raise ValueError("a proxy with a user name or a password is not supported")
    host, port = parse_address(address)
    host = "127.0.0.1" if host == "localhost" else host
    try:
        ipaddress.ip_address(host)
    except ValueError:
        message = f"{shown(host)} is a name, and looking it up would tell others; use its address"
        raise ValueError(message) from None
    return host, port


def read_markets(value: object) -> tuple[str, ...]:
    """Markets like BTC/USD, each once."""
    markets = tuple(dict.fromkeys(text.upper() for text in read_list(value)))
    if not markets:
        raise ValueError("at least one market is needed, like BTC/USD")
    return markets


def read_currencies(value: object) -> dict[str, int]:
    """A table of decimals by code, or texts like `XYZ=2`."""
    if isinstance(value, dict):
        pairs = [(str(code), str(decimals)) for code, decimals in value.items()]
    else:
        pairs = [
            (code, decimals) for code, _, decimals in (t.partition("=") for t in read_list(value))
        ]
    for code, decimals in pairs:
        if not (decimals.isascii() and decimals.isdigit()):
            raise ValueError(f"{shown(code)} needs its number of decimals, like XYZ=2")
    return {code.upper(): int(decimals) for code, decimals in pairs}


def read_hold_ttl_ms(value: object) -> int:
    """How long a hold lives, like 15m."""
    ttl_ms = parse_duration(read_text(value))
    if not SECOND_MS <= ttl_ms <= HOLD_TTL_MS:
        raise ValueError(f"{shown(str(value))} is not between 1s and 15m")
    return ttl_ms


def read_redis(value: object) -> str:
    """The URL of a hold server."""
    url = read_text(value)
    if not url.startswith(("redis://", "rediss://", "unix://", "redis+sentinel://")):
        # The text may hold a password: it is not repeated.
        raise ValueError("it must start with redis://, rediss://, unix:// or redis+sentinel://")
    return url


def read_words(value: object) -> tuple[str, ...]:
    """A program and its arguments, as a shell would split them; there is no shell."""
    try:
        words = tuple(shlex.split(read_text(value)))
    except ValueError as error:
        raise ValueError(f"{shown(str(value))} is not a command: {error}") from error
    if not words:
        raise ValueError("a command needs at least the name of a program")
    return words


def read_number(least: int, most: int) -> Callable[[object], int]:
    """A reader of whole numbers in these bounds."""

    def read(value: object) -> int:
        text = str(value).strip()
        if not (text.isascii() and text.isdigit() and least <= int(text[:20]) <= most):
            raise ValueError(f"{shown(text)} is not a whole number from {least} to {most}")
        return int(text)

    return read


def read_bitcoin_msat(value: object) -> int:
    """An amount like 0.01BTC, in millisatoshi."""
    market = Currencies().instrument("BTC/USD")
    return base_msat(parse_quantity(read_text(value), market), market)


def read_https(value: object) -> str:
    """The URL of a Lightning node's HTTPS interface, like https://127.0.0.1:8080."""
    url = read_text(value)
    if _HTTPS.match(url) is None:
        raise ValueError(f"{shown(url)} is not an address like https://127.0.0.1:8080")
    return url.rstrip("/")


def read_node_keys(value: object) -> tuple[bytes, ...]:
    """Lightning nodes as `serve` and `trade show` name them: by key, and by the mark behind it."""
    keys = tuple(dict.fromkeys(text.lower() for text in read_list(value)))
    for key in keys:
        if _NODE_KEY.match(key) is None:
            raise ValueError(f"{shown(key)} is not a Lightning node: 66 or 74 hex digits")
    return tuple(bytes.fromhex(key) for key in keys)


def read_path(value: object) -> Path:
    """A file of the operator, `~` allowed."""
    text = read_text(value)
    if not text:
        raise ValueError("it names no file")
    return Path(text).expanduser().absolute()


def read_flag(value: object) -> bool:
    """Yes or no."""
    if isinstance(value, bool):
        return value
    word = read_text(value).lower()
    if word not in {"true", "yes", "1", "false", "no", "0"}:
        raise ValueError(f"{shown(word)} is neither true nor false")
    return word in {"true", "yes", "1"}
