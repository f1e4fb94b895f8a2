"""Whether there is a hold server for a node that does not run."""

from __future__ import annotations

import asyncio

from zmqex.adapters.holds.binary import find_server
from zmqex.adapters.holds.redis_holds import RedisHolds
from zmqex.errors import ConfigError, HoldsUnavailableError
from zmqex.findings import Finding, ok, wrong

HOLD_SERVER = "hold server"
FIX_OWN = "start that server, or mend the setting `redis`; without it the node starts one itself"


def check_hold_server(url: str | None) -> Finding:
    """Ask the operator's server; or look whether the node can start one."""
    if url is None:
        return _check_binary()
    try:
        return asyncio.run(_ask(url))
    except (ConfigError, HoldsUnavailableError) as error:
        return wrong(HOLD_SERVER, f"it does not answer: {error}", FIX_OWN)


def _check_binary() -> Finding:
    try:
        server = find_server()
    except ConfigError as error:
        fix = "reinstall zmqex, or install valkey-server 7 or later, or give --redis URL"
        return wrong(HOLD_SERVER, str(error), fix)
    return ok(HOLD_SERVER, f"the node starts its own: {server.path.name}")


async def _ask(url: str) -> Finding:
    holds = RedisHolds.connect(url, identity=bytes(32))
    try:
        info = await holds.info()
    finally:
        await holds.close()
    return ok(HOLD_SERVER, f"{info.name} {info.version} answers")
