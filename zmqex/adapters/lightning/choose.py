"""The Lightning backend that the operator has configured, checked before it is trusted."""

from __future__ import annotations

from typing import Final

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
    if config.lnd_macaroon is None or config.lnd_cert is None:
        raise ConfigError("--lightning lnd: --lnd-macaroon and --lnd-cert name its files")
    return LndLightning(config.lnd_url, config.lnd_macaroon, config.lnd_cert)


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
