"""Endpoints as the DHT writes them, and which of them a stranger may make us believe.

Hosts are numeric text, IPv4 or IPv6; nothing here resolves names.
"""

from __future__ import annotations

import enum
import functools
import ipaddress
from typing import Final, Literal, TypeAlias

Address: TypeAlias = tuple[str, int]
"""Numeric host and port (1..65535)."""

Family: TypeAlias = Literal[4, 6]

_PORT_BYTES: Final = 2
_HOST_BYTES: Final[dict[Family, int]] = {4: 4, 6: 16}
_CACHED_HOSTS: Final = 4_096


class Scope(enum.IntEnum):
    """From how far away a host can be reached; `UNUSABLE` ones never are."""

    UNUSABLE = 0
    LOOPBACK = 1
    PRIVATE = 2
    PUBLIC = 3


@functools.lru_cache(_CACHED_HOSTS)
def pack_address(address: Address) -> bytes:
    """Return the compact form: host then port, 6 bytes (BEP 5) or 18 (BEP 32)."""
    host, port = address
    return ipaddress.ip_address(host).packed + port.to_bytes(_PORT_BYTES, "big")


@functools.lru_cache(_CACHED_HOSTS)
def unpack_address(raw: bytes, family: Family) -> Address | None:
    """Read a compact address; None if it is not one of `family` or its port is 0."""
    size = _HOST_BYTES[family]
    if len(raw) != size + _PORT_BYTES:
        return None
    port = int.from_bytes(raw[size:], "big")
    return (str(ipaddress.ip_address(raw[:size])), port) if port else None


def address_bytes(family: Family) -> int:
    """How long a compact address of `family` is."""
    return _HOST_BYTES[family] + _PORT_BYTES


@functools.lru_cache(_CACHED_HOSTS)
def scope_of(host: str) -> Scope:
    """Say how far `host` reaches; text that is no numeric host is `UNUSABLE`."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return Scope.UNUSABLE
    if ip.is_loopback:
        return Scope.LOOPBACK
    if ip.is_multicast or ip.is_unspecified or ip.is_reserved:
        return Scope.UNUSABLE
    if isinstance(ip, ipaddress.IPv6Address) and (ip.is_link_local or ip.ipv4_mapped):
        # Link-local needs an interface's name; a mapped one belongs to the IPv4 node.
        return Scope.UNUSABLE
    return Scope.PUBLIC if ip.is_global else Scope.PRIVATE


def family_of(host: str) -> Family:
    """Return 4 or 6.  Raises `ValueError` for text that is no numeric host."""
    return 4 if ipaddress.ip_address(host).version == 4 else 6  # noqa: PLR2004 - IPv4


def unspecified(family: Family) -> str:
    """Return the host that stands for "the address you reached me at"."""
    return "0.0.0.0" if family == 4 else "::"  # noqa: PLR2004, S104 - written, never bound


def is_believable(told: str, teller: str) -> bool:
    """Whether `teller` may speak of the host `told`.

    A host from afar may not point us at our own machine or at our private network.
    """
    reach = scope_of(told)
    return reach is not Scope.UNUSABLE and reach >= scope_of(teller)


def source_of(sender: Address) -> str:
    """Return what counts as one source: a public host, or one UDP socket where hosts are shared.

    Shared are this machine and a private network: there a host stands for many nodes.
    """
    host, port = sender
    return network_of(host) if scope_of(host) is Scope.PUBLIC else f"{host} {port}"


@functools.lru_cache(_CACHED_HOSTS)
def network_of(host: str) -> str:
    """Return what one party surely owns: an IPv4 host, the /64 of an IPv6 host."""
    ip = ipaddress.ip_address(host)
    if isinstance(ip, ipaddress.IPv4Address):
        return host
    return str(ipaddress.ip_network((ip, 64), strict=False))
