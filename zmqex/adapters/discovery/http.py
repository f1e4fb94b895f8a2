"""One small HTTP/1.1 question to a server that nobody vouches for: bounded in bytes and time."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import h11

from zmqex.dht.limits import GRAPE_ANSWER_BYTES_MAX, GRAPE_TIMEOUT_MS
from zmqex.errors import DiscoveryUnavailableError
from zmqex.limits import SECOND_MS

_READ_BYTES: Final = 16 * 1024
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The body, and between which numeric addresses it travelled; the status says nothing here."""

    body: bytes
    own_host: str
    server_host: str


async def post_json(url: str, body: bytes) -> HttpAnswer:
    """POST `body` to an http(s) `url`; return whatever answers.

    Raises `DiscoveryUnavailableError` if nobody answers in `GRAPE_TIMEOUT_MS`, or not in HTTP, or
    with more than `GRAPE_ANSWER_BYTES_MAX`.
    """
    try:
        async with asyncio.timeout(GRAPE_TIMEOUT_MS / SECOND_MS):
            return await _post(url, body)
    except TimeoutError as error:
        seconds = GRAPE_TIMEOUT_MS // SECOND_MS
        raise DiscoveryUnavailableError(f"no answer within {seconds} s") from error
    except UnicodeError as error:
        raise DiscoveryUnavailableError("its name is none that the DNS can hold") from error
    except OSError as error:
        raise DiscoveryUnavailableError(error.strerror or str(error)) from error
    except h11.RemoteProtocolError as error:
        raise DiscoveryUnavailableError(f"its answer is no HTTP: {error}") from error


async def _post(url: str, body: bytes) -> HttpAnswer:
    parts = urlsplit(url)
    port = parts.port or _PORTS[parts.scheme]
    security = ssl.create_default_context() if parts.scheme == "https" else None
    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=security)
    try:
        own, server = writer.get_extra_info("sockname"), writer.get_extra_info("peername")
        connection = h11.Connection(h11.CLIENT)
        headers = {
            "Host": parts.netloc.rpartition("@")[2],
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        request = h11.Request(method="POST", target=parts.path, headers=list(headers.items()))
        for event in (request, h11.Data(body), h11.EndOfMessage()):
            writer.write(connection.send(event) or b"")
        await writer.drain()
        return HttpAnswer(await _read(connection, reader), own[0], server[0])
    finally:
        # At once: a server must not be able to draw out the end either.
        writer.transport.abort()


async def _read(connection: h11.Connection, reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_READ_BYTES))
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > GRAPE_ANSWER_BYTES_MAX:
                raise DiscoveryUnavailableError("its answer is too long")
        elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            return body
