"""The Lightning backends of a node: the base's, and those of quotes with a network of their own.

Opened, asked who they are, given their calls, and closed together.  Each is known by its asset.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from zmqex.adapters.lightning.choose import base_backend, checked, open_real
from zmqex.adapters.lightning.mark import marked
from zmqex.adapters.lightning.play import PlayLightning
from zmqex.adapters.lightning.same_node import SameNode
from zmqex.adapters.ports import Lightning, LightningInfo
from zmqex.adapters.storage.database import CommitHook
from zmqex.config import Config
from zmqex.errors import (
    ConfigError,
    IndeterminateError,
    LightningUnavailableError,
    OtherNodeError,
    ZmqexError,
)
from zmqex.kernel.core import Backend
from zmqex.kernel.kernel import Kernel
from zmqex.market.instruments import BASE
from zmqex.runtime.faults import open_play
from zmqex.runtime.node import Receive
from zmqex.runtime.outside import KernelWire, LightningCalls, Post, Spawn

# How a trade is named in a sentence, and how many are.
_ID_CHARS: Final = 12
_NAMED_MAX: Final = 8


class Networks:
    """All Lightning backends of one node, by asset; the base's is the first."""

    def __init__(self, config: Config, directory: Path) -> None:
        """Nothing is open yet."""
        self._config = config
        self._directory = directory
        self._backends: dict[str, Lightning] = {}

    def open(self, on_commit: CommitHook | None) -> None:
        """Open what the settings name; `on_commit` is told of the base's play ledger."""
        wanted = {BASE: base_backend(self._config), **self._config.quote_lightning}
        for asset, backend in wanted.items():
            if backend.kind == "play":
                hook = on_commit if asset == BASE else None
                self._backends[asset] = open_play(self._directory, hook, asset=asset)
            else:
                self._backends[asset] = open_real(backend)

    async def close(self) -> None:
        """Let go of all that were opened."""
        for backend in self._backends.values():
            await backend.close()

    async def checked(self) -> dict[str, LightningInfo]:
        """Ask each who it is, which it stays; ConfigError where one is silent or on another chain.

        Comes before `calls`.
        """
        infos = {}
        for asset, backend in self._backends.items():
            origin = self._origin(asset)
            infos[asset] = info = await checked(backend, self._config.network, origin)
            if not isinstance(backend, PlayLightning):
                self._backends[asset] = SameNode(backend, info.node, origin)
                ledger = await self._mark(asset, info.node, origin)
                infos[asset] = msgspec.structs.replace(info, ledger=ledger)
        return infos

    async def _mark(self, asset: str, node: bytes, origin: str) -> bytes:
        try:
            return await marked(self._backends[asset], node, self._directory)
        except ZmqexError as error:
            raise ConfigError(f"{origin}: {error}") from error

    def _origin(self, asset: str) -> str:
        if asset == BASE:
            return f"--lightning {self._config.lightning}"
        return f"--quote-lightning {asset}={self._config.quote_lightning[asset].kind}"

    def calls(self, post: Post, spawn: Spawn, wire: KernelWire) -> dict[str, LightningCalls]:
        """What carries the kernel's effects out; play money travels over `wire`."""
        for backend in self._backends.values():
            if isinstance(backend, PlayLightning):
                backend.connect(wire)
        return {
            asset: LightningCalls(backend, post, spawn, asset=asset)
            for asset, backend in self._backends.items()
        }

    def receivers(self) -> dict[str, Receive]:
        """What takes play money in."""
        return {
            asset: backend.receive
            for asset, backend in self._backends.items()
            if isinstance(backend, PlayLightning)
        }

    # --- how they are ----------------------------------------------------------------------------

    async def status(self, warnings: list[str]) -> dict[str, dict[str, Any]]:
        """How each is, by asset; who does not answer adds a warning."""
        return {asset: await self._status(asset, warnings) for asset in self._backends}

    async def _status(self, asset: str, warnings: list[str]) -> dict[str, Any]:
        backend = self._backends[asset]
        whose = "" if asset == BASE else f" of {asset}"
        try:
            info = await backend.info()
        except (LightningUnavailableError, IndeterminateError) as error:
            away = (
                "" if isinstance(error, OtherNodeError) else f"Lightning{whose} does not answer: "
            )
            warnings.append(f"{away}{error}")
            return {"ok": False, "why": str(error), "play": isinstance(backend, PlayLightning)}
        if not info.synced:
            warnings.append(
                f"Lightning{whose} is behind its chain: what hangs on a lock waits until it is not"
            )
        return {
            "ok": True,
            "backend": info.backend,
            "node": info.node.hex(),
            "balance_msat": info.balance_msat,
            "in_flight_msat": info.in_flight_msat,
            "play": info.backend == "play",
            "can_hold": info.can_hold,
        }


def check_networks(kernel: Kernel, config: Config) -> None:
    """Refuse to start with other Lightning nodes than those that running trades hang on.

    ConfigError names the trades; those of a node that was declared lost count no more.
    """
    missing = kernel.missing_networks()
    if missing:
        raise ConfigError(
            f"trades are running that settle over the Lightning network of {missing[0]}: start "
            f"with the --quote-lightning {missing[0]}=... that they began with"
        )
    lost = [(trade, key) for trade, _, key in kernel.lost_nodes() if key not in config.lost_nodes]
    if not lost:
        return
    key = lost[0][1]
    ids = [trade.trade_id.hex()[:_ID_CHARS] for trade, its in lost if its == key]
    which = ", ".join(ids[:_NAMED_MAX])
    more = f" and {len(ids) - _NAMED_MAX} more" if len(ids) > _NAMED_MAX else ""
    raise ConfigError(
        f"running trades hang on the Lightning node {key.hex()}, which is not the configured one: "
        f"{which}{more}.  Only that node knows how their payments end; with another they could be "
        "paid twice.  Start with that node; if it is gone for good, docs/operating.md says what "
        f"--lost-node {key.hex()} does"
    )


def quote_backends(infos: Mapping[str, LightningInfo]) -> dict[str, Backend]:
    """What the kernel knows of the quotes' backends."""
    return {
        asset: Backend(
            info.node, info.invoice_prefix, info.can_hold, info.auto_cancel_blocks, info.ledger
        )
        for asset, info in infos.items()
        if asset != BASE
    }
