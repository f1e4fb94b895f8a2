"""HTTPS to a Lightning node whose certificate we know: JSON answers and streams of JSON lines.

The node is recognised by its very certificate and by no authority, so that nobody in between sees
the secret in the header.  What went wrong is told apart by what it means for the caller: the node
said no (`NodeRefusal`), nothing was started (LightningUnavailableError), or it may have been
(IndeterminateError).
"""

from __future__ import annotations

import contextlib
import hashlib
import ssl
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from zmqex.errors import ConfigError, IndeterminateError, LightningUnavailableError
from zmqex.limits import (
    LIGHTNING_ANSWER_WAIT_S,
    LIGHTNING_CONNECT_WAIT_S,
    LIGHTNING_LINE_BYTES_MAX,
    LIGHTNING_STREAM_SILENT_S,
)

_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_END: Final = "-----END CERTIFICATE-----"
_OK: Final = range(200, 300)
_FORBIDDEN: Final = frozenset({401, 403})

Body = Mapping[str, object]


class NodeRefusal(Exception):  # noqa: N818 - an answer of the node, which its adapter reads
    """The node answered with an error: its code (of gRPC or JSON-RPC) and its words."""

    def __init__(self, code: int, message: str) -> None:
        """Keep both."""
        super().__init__(message)
        self.code = code
        self.message = message


def fingerprint(path: Path) -> bytes:
    """The SHA-256 of the first certificate in a PEM file; ConfigError where there is none."""
    try:
        pem = path.read_text(encoding="ascii")
        begin = pem.index(_BEGIN)
        end = pem.index(_END, begin) + len(_END)
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem[begin:end])).digest()
    except OSError as error:
        raise ConfigError(f"cannot read the certificate {path}: {error.strerror}") from error
    except ValueError:
        raise ConfigError(f"{path} holds no certificate in PEM form") from None


class Rest:
    """One node's HTTPS interface."""

    def __init__(self, url: str, headers: Mapping[str, str], certificate: Path) -> None:
        """`url` like https://host:8080; `headers` carry the secret.  Nothing is sent yet."""
        self.url = url.rstrip("/")
        self._headers = dict(headers)
        self._pin = aiohttp.Fingerprint(fingerprint(certificate))
        self._session: aiohttp.ClientSession | None = None

    async def get(self, path: str) -> dict[str, Any]:
        """Read; without an answer it is LightningUnavailableError, for reading again is safe."""
        try:
            return await self._ask("GET", path, None)
        except IndeterminateError as error:
            raise LightningUnavailableError(str(error)) from error

    async def post(self, path: str, body: Body) -> dict[str, Any]:
        """Change something; IndeterminateError where it may have happened."""
        return await self._ask("POST", path, body)

    async def stream(
        self, method: str, path: str, body: Body | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The results of a stream of JSON lines, until the node ends it.

        Raises like `post`; a stream that is silent for a minute counts as lost.
        """
        timeout = aiohttp.ClientTimeout(
            sock_connect=LIGHTNING_CONNECT_WAIT_S, sock_read=LIGHTNING_STREAM_SILENT_S
        )
        with self._translated():
            async with self._request(method, path, body, timeout) as response:
                if response.status not in _OK:
                    raise _refusal(response.status, await response.read())
                try:
                    async for line in response.content:
                        if not line.isspace():
                            message = _json(line)
                            if "error" in message:
                                raise _refusal(response.status, line)
                            yield message["result"]
                finally:
                    # A stream is left in the middle: saying goodbye would wait for the other side.
                    connection = response.connection
                    if connection is not None and connection.transport is not None:
                        connection.transport.abort()

    async def close(self) -> None:
        """Let go of the connections."""
        if self._session is not None:
            await self._session.close()

    async def _ask(self, method: str, path: str, body: Body | None) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(
            total=LIGHTNING_ANSWER_WAIT_S, sock_connect=LIGHTNING_CONNECT_WAIT_S
        )
        with self._translated():
            async with self._request(method, path, body, timeout) as response:
                content = await response.read()
                if response.status not in _OK:
                    raise _refusal(response.status, content)
                return _json(content)

    def _request(
        self, method: str, path: str, body: Body | None, timeout: aiohttp.ClientTimeout
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        if self._session is None:
            # Made late: a session belongs to the loop that runs then.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                headers=self._headers,
                read_bufsize=LIGHTNING_LINE_BYTES_MAX,
            )
        return self._session.request(
            method,
            self.url + path,
            json=body,
            ssl=self._pin,
            timeout=timeout,
            allow_redirects=False,
        )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the library's errors into ours; none of them repeats a header."""
        try:
            yield
        except aiohttp.ServerFingerprintMismatch as error:
            message = f"{self.url} shows another certificate than the configured one"
            raise LightningUnavailableError(message) from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise LightningUnavailableError(f"{self.url} cannot be reached") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            message = f"{self.url} gave no answer ({type(error).__name__})"
            raise IndeterminateError(message) from error
        except (msgspec.DecodeError, KeyError, ValueError) as error:
            raise IndeterminateError(f"{self.url} gave an answer that is none") from error


def _json(content: bytes) -> dict[str, Any]:
    return msgspec.json.decode(content, type=dict[str, Any])


class _Error(msgspec.Struct):
    """An answer that is an error; streams put it one level deeper."""

    code: int = 0
    message: str = ""
    error: _Error | None = None


def _refusal(status: int, content: bytes) -> Exception:
    """The exception for an answer that is an error."""
    try:
        error = msgspec.json.decode(content, type=_Error)
    except msgspec.MsgspecError:
        error = _Error(message=f"HTTP status {status}")
    error = error.error or error
    if status in _FORBIDDEN:
        return LightningUnavailableError(f"the node refuses our secret: {error.message}")
    return NodeRefusal(error.code, error.message)
