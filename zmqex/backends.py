"""Lightning backends as an operator names them: of which kind, and where they are.

Not for opening them (`adapters.lightning.choose`).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from zmqex.market.instruments import BASE, shown
from zmqex.settings import read_https, read_list, read_path

Kind = Literal["play", "lnd", "cln"]

# What each backend must be told.
NEEDED: Final = {
    "play": (),
    "lnd": ("lnd_url", "lnd_macaroon", "lnd_cert"),
    "cln": ("cln_rpc",),
    "clnrest": ("cln_url", "cln_rune", "cln_cert"),
}
_FORMS: Final = "CODE=play, CODE=lnd URL MACAROON CERT, CODE=cln SOCKET or CODE=cln URL RUNE CERT"
_HTTPS_WORDS: Final = 3


class Backend(msgspec.Struct, frozen=True):
    """Play money, or a node that is reached by HTTPS (`credential`, `cert`) or by its socket."""

    kind: Kind
    url: str = ""
    credential: Path | None = None  # a macaroon's or a rune's file
    cert: Path | None = None
    socket: Path | None = None


def read_quote_lightning(value: object) -> dict[str, Backend]:
    """Backends of quote currencies by code, from texts or a table of TOML; see `_FORMS`."""
    if isinstance(value, dict):
        pairs = [(str(code), str(words)) for code, words in value.items()]
    else:
        pairs = [(code, words) for code, _, words in (t.partition("=") for t in read_list(value))]
    return {code.strip().upper(): _backend(code, words) for code, words in pairs}


def _backend(code: str, text: str) -> Backend:
    try:
        kind, *words = shlex.split(text)
    except ValueError:
        kind, words = "", []
    match kind, words:
        case "play", []:
            return Backend("play")
        case "cln", [socket]:
            return Backend("cln", socket=read_path(socket))
        case ("lnd" | "cln") as known, [_, _, _]:
            url, credential, cert = words
            return Backend(known, read_https(url), read_path(credential), read_path(cert))
        case _:
            raise ValueError(f"{shown(f'{code}={text}')} is not one of {_FORMS}")


def why_not_quotes(
    backends: Mapping[str, Backend], network: str, markets: tuple[str, ...]
) -> str | None:
    """Why these quote currencies cannot have these backends on a network, in one sentence."""
    for code, backend in backends.items():
        if f"{BASE}/{code}" not in markets:
            return f"{shown(code)} is the quote of no market of this node; add --market BTC/{code}"
        if network == "mainnet":
            return "no quote moves over Lightning on mainnet: settlement swap is for trying only"
        if (backend.kind == "play") != (network == "play"):
            wanted = "play" if network == "play" else "lnd or cln"
            return f"on the network {network} it must be {wanted}, like the base's own"
    return None
