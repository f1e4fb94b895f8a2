"""The Lightning backend that the operator has configured, checked before it is trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from zmqex.adapters.lightning.cln import ClnLightning
from zmqex.adapters.lightning.cln_rpc import ClnRest, UnixRpc
from zmqex.adapters.lightning.lnd import LndLightning
from zmqex.adapters.ports import Lightning, LightningInfo
from zmqex.backends import Backend
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


def base_backend(config: Config) -> Backend:
    """The backend of the base, out of the settings that name its parts one by one."""
    match config.lightning:
        case "lnd":
            return Backend("lnd", config.lnd_url, config.lnd_macaroon, config.lnd_cert)
        case "cln" if config.cln_url:
            return Backend("cln", config.cln_url, config.cln_rune, config.cln_cert)
        case kind:
            return Backend(kind, socket=config.cln_rpc)


def open_real(backend: Backend) -> Lightning:
    """The backend of a real chain; nothing is asked of it yet.

    ConfigError where a file that it needs is not usable.
    """
    match backend:
        case Backend(kind="lnd", url=url, credential=Path() as macaroon, cert=Path() as cert):
            return LndLightning(url, macaroon, cert)
        case Backend(kind="cln", url=url, credential=Path() as rune, cert=Path() as cert):
            return ClnLightning(ClnRest(url, rune, cert))
        case Backend(kind="cln", socket=Path() as socket):
            return ClnLightning(UnixRpc(socket))
        case _:
            raise ConfigError(f"Lightning backend {backend.kind}: its files are not named")


async def checked(lightning: Lightning, network: str, origin: str) -> LightningInfo:
    """Ask a backend who it is; ConfigError where it is silent or on another chain.

    `origin` is the setting that names it.
    """
    try:
        info = await lightning.info()
    except ZmqexError as error:
        raise ConfigError(f"{origin}: {error}") from error
    wanted = _PREFIXES[network]
    if info.invoice_prefix != wanted:
        raise ConfigError(
            f"--network {network}: its invoices begin with ln{wanted}, those of the "
            f"{info.backend} node of {origin} with ln{info.invoice_prefix}"
        )
    return info
