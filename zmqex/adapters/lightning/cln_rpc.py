"""Core Lightning's JSON-RPC: over its Unix socket, or over clnrest with a rune.

Both raise `NodeRefusal` with the node's code, LightningUnavailableError where nothing was started,
and IndeterminateError where no answer came to what was asked.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from zmqex.adapters.lightning.rest import NodeRefusal, Rest
from zmqex.adapters.storage.directory import read_private_file
from zmqex.errors import ConfigError, IndeterminateError, LightningUnavailableError
from zmqex.limits import LIGHTNING_ANSWER_BYTES_MAX, LIGHTNING_ANSWER_WAIT_S

# lightningd ends each answer with an empty line.
_END: Final = b"\n\n"
Params = Mapping[str, object]


class Rpc(Protocol):
    """A way to call a command of lightningd."""

    async def call(self, method: str, params: Params) -> dict[str, Any]:
        """The command's result."""

    async def close(self) -> None:
        """Let go."""


class _Error(msgspec.Struct):
    code: int
    message: str


class _Answer(msgspec.Struct):
    result: dict[str, Any] | None = None
    error: _Error | None = None


class UnixRpc:
    """The `lightning-rpc` socket; a connection for each call, so that a long one blocks nobody."""

    def __init__(self, path: Path) -> None:
        """Nothing is asked yet."""
        self._path = path

    async def call(self, method: str, params: Params) -> dict[str, Any]:
        """See `Rpc`."""
        try:
            reader, writer = await asyncio.open_unix_connection(
                self._path, limit=LIGHTNING_ANSWER_BYTES_MAX
            )
        except OSError as error:
            message = f"lightningd cannot be reached at {self._path}: {error.strerror}"
            raise LightningUnavailableError(message) from error
        question = {"jsonrpc": "2.0", "id": "zmqex", "method": method, "params": dict(params)}
        try:
            async with asyncio.timeout(LIGHTNING_ANSWER_WAIT_S):
                writer.write(msgspec.json.encode(question) + _END)
                content = await reader.readuntil(_END)
            answer = msgspec.json.decode(content, type=_Answer)
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError) as error:
            raise IndeterminateError(f"lightningd gave no answer to {method}") from error
        except msgspec.MsgspecError as error:
            raise IndeterminateError(f"lightningd's answer to {method} is none") from error
        finally:
            writer.transport.abort()
        if answer.error is not None:
            raise NodeRefusal(answer.error.code, answer.error.message)
        return answer.result or {}

    async def close(self) -> None:
        """Nothing is kept."""


class ClnRest:
    """clnrest, with a rune that allows no more than is needed."""

    def __init__(self, url: str, rune: Path, certificate: Path) -> None:
        """Read the rune; ConfigError says what is wrong with its file or the certificate."""
        try:
            secret = read_private_file(rune).decode("ascii").strip()
        except FileNotFoundError:
            raise ConfigError(f"the rune {rune} does not exist") from None
        except UnicodeDecodeError:
            secret = ""
        if not secret:
            raise ConfigError(f"the file {rune} holds no rune")
        self._rest = Rest(url, {"Rune": secret}, certificate)

    async def call(self, method: str, params: Params) -> dict[str, Any]:
        """See `Rpc`."""
        return await self._rest.post(f"/v1/{method}", params)

    async def close(self) -> None:
        """Let go of the connections."""
        with contextlib.suppress(IndeterminateError):
            await self._rest.close()
