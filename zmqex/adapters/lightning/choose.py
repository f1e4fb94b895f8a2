"""The Lightning backend that the operator has configured, checked before it is trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from zmqex.adapters.lightning.cln import ClnLightning
from zmqex.adapters.lightning.cln_rpc import ClnRest, UnixRpc
from zmqex.adapters.lightning.lnd import LndLightning
from zmqex.adapters.ports import Lightning, LightningInfo
from zmqex.config import Config
from zmqex.errors import ConfigError, ZmqexError

# The network as zmqex calls it -> the prefix of its invoices.
_PREFIXES: Final = {
    "play": "bcrt",
    "regtest": "bcrt",
    "signet": "tbs",
    "testnet": "tb",
    "mainnet": "bc",
}


def open_real(config: Config) -> Lightning:
    """The backend of a real chain; nothing is asked of it yet.

    ConfigError where a file that it needs is not usable.
    """
    match config:
        case Config(lightning="lnd", lnd_macaroon=Path() as macaroon, lnd_cert=Path() as cert):
            return LndLightning(config.lnd_url, macaroon, cert)
        case Config(lightning="cln", cln_rune=Path() as rune, cln_cert=Path() as cert):
            return ClnLightning(ClnRest(config.cln_url, rune, cert))
        case Config(lightning="cln", cln_rpc=Path() as socket):
            return ClnLightning(UnixRpc(socket))
        case _:
            raise ConfigError(f"--lightning {config.lightning}: its files are not named")


async def checked(lightning: Lightning, config: Config) -> LightningInfo:
    """Ask the backend who it is; ConfigError where it is silent or on another chain."""
    try:
        info = await lightning.info()
    except ZmqexError as error:
        raise ConfigError(f"--lightning {config.lightning}: {error}") from error
    wanted = _PREFIXES[config.network]
    if info.invoice_prefix != wanted:
        raise ConfigError(
            f"--network {config.network}: its invoices begin with ln{wanted}, those of the "
            f"configured {info.backend} node with ln{info.invoice_prefix}"
        )
    return info
