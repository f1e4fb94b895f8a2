"""Which hold server a node uses: the operator's, its own, or in the worst case its own memory.

Not for deciding what happens when it is silent; that is `--holds strict|journal`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from zmqex.adapters.holds.embedded import EmbeddedServer
from zmqex.adapters.holds.redis_holds import RedisHolds


@dataclass(frozen=True, slots=True)
class HoldServer:
    """The client, our own server behind it if there is one, and what the operator should know."""

    holds: RedisHolds
    embedded: EmbeddedServer | None
    notice: str
    shared: bool = False  # the operator's: other processes can reach it

    async def close(self) -> None:
        """Close the client, then stop our own server; another's goes on."""
        await self.holds.close()
        if self.embedded is not None:
            self.embedded.stop()


def open_hold_server(
    url: str | None, *, identity: bytes, data_dir: Path, runtime_dir: Path
) -> HoldServer:
    """Connect to `url`, or start a server; blocks for some 50 ms then.

    The caller owns both directories (`DirectoryLock`, `runtime_directory`).  A server at `url`
    is not asked anything yet.  Raises `ConfigError` naming what the operator can do.
    """
    if url is not None:
        return HoldServer(RedisHolds.connect(url, identity=identity), None, "", shared=True)
    if sys.platform == "win32":
        return HoldServer(RedisHolds.in_memory(identity=identity), None, _IN_MEMORY)
    server = EmbeddedServer.start(data_dir, runtime_dir)
    holds = RedisHolds.connect(server.url, identity=identity, embedded=True)
    return HoldServer(holds, server, _RECOVERED if server.recovered else "")


_IN_MEMORY = "holds live in memory; the journal on disk still protects every sale"
_RECOVERED = "the holds' file was damaged and is moved aside; they are rebuilt from the journal"
