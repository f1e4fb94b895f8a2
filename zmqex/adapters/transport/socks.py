"""A way through a SOCKS5 proxy (RFC 1928) for ZeroMQ sockets: ours, because libzmq's own is deadly.

libzmq 4.3.5 ends the process when a socket is closed after its `ZMQ_SOCKS_PROXY` connection was
refused (`Bad file descriptor`, epoll.cpp): any dead address would do.  So a dialling socket is
connected to a private Unix socket of ours, and from there each connection is carried to the proxy.
The proxy gets names as they are, and looks them up.  A failed attempt is told at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from zmqex.limits import PROXY_WAIT_MS, RELAY_BYTES_A_TURN, SECOND_MS

OnFailed = Callable[[str], None]

_BACKLOG: Final = 8
# Version 5, one method: no authentication; then CONNECT.
_GREETING: Final = b"\x05\x01\x00"
_GREETED: Final = b"\x05\x00"
_CONNECT: Final = b"\x05\x01\x00"
_IPV4, _NAME, _IPV6 = b"\x01", b"\x03", b"\x04"
_BOUND_BYTES: Final = {1: 4, 4: 16}  # of the address in an answer, by its type
_HEAD_BYTES: Final = 4
_PORT_BYTES: Final = 2
# RFC 1928, section 6; the rest are Tor's own, for onion services.
_REFUSALS: Final = {
    1: "the proxy failed",
    2: "the proxy does not allow it",
    3: "no way to that network",
    4: "no way to that host",
    5: "nobody listens there",
    6: "it took too long",
}


class Proxy:
    """A SOCKS5 proxy at a numeric address; `directory` is private and takes our Unix sockets."""

    def __init__(self, address: tuple[str, int], directory: Path) -> None:
        self._address = address
        self._directory = directory
        self._ways = 0

    def way_to(self, host: str, port: int, on_failed: OnFailed = lambda _why: None) -> Way:
        """Open a way to `host:port`; to be closed after the socket that uses it.

        `on_failed` is called from the loop each time that a connection does not get through.
        Raises OSError where no socket can be made.
        """
        self._ways += 1
        path = self._directory / f"way-{self._ways}"
        return Way(self._address, (host, port), path, on_failed)


class Way:
    """One endpoint for libzmq, and the connections that were made to it."""

    def __init__(
        self,
        proxy: tuple[str, int],
        target: tuple[str, int],
        path: Path,
        on_failed: OnFailed,
    ) -> None:
        self.endpoint = f"ipc://{path}"
        self._proxy, self._target, self._path = proxy, target, path
        self._on_failed = on_failed
        self._loop = asyncio.get_running_loop()
        self._hops: set[_Hop] = set()
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.setblocking(False)  # noqa: FBT003 - the name of the standard library
            self._listener.bind(os.fspath(path))
            self._listener.listen(_BACKLOG)
        except OSError:
            self._listener.close()
            raise
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """End every connection."""
        self._loop.remove_reader(self._listener)
        self._listener.close()
        self._path.unlink(missing_ok=True)
        for hop in list(self._hops):
            hop.end("")

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            near, _ = self._listener.accept()
            near.setblocking(False)  # noqa: FBT003 - as above
            hop = _Hop(self._loop, near, self._target, self._ended)
            self._hops.add(hop)
            hop.start(self._proxy)

    def _ended(self, hop: _Hop, why: str) -> None:
        self._hops.discard(hop)
        if why:
            self._on_failed(why)


class _Hop:
    """One connection: from libzmq (near) to the proxy (far)."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        near: socket.socket,
        target: tuple[str, int],
        on_end: Callable[[_Hop, str], None],
    ) -> None:
        self._loop = loop
        self._near = near
        self._target = target
        self._on_end = on_end
        self._heard = b""
        self._far: socket.socket | None = None
        self._deadline = loop.call_later(
            PROXY_WAIT_MS / SECOND_MS, self.end, "the proxy did not get through in time"
        )

    def start(self, proxy: tuple[str, int]) -> None:
        """Connect to the proxy."""
        family = socket.AF_INET6 if ":" in proxy[0] else socket.AF_INET
        try:
            far = self._far = socket.socket(family, socket.SOCK_STREAM)
            far.setblocking(False)  # noqa: FBT003 - as above
            far.connect_ex(proxy)  # whatever comes of it is told when it can be written
        except OSError as error:
            self.end(f"the proxy cannot be dialled: {error.strerror}")
            return
        self._loop.add_writer(far, lambda: self._connected(far))

    def end(self, why: str) -> None:
        """Close both sides; `why` it never got through, or ""."""
        self._deadline.cancel()
        for one in (self._near, self._far):
            if one is not None and one.fileno() >= 0:
                self._loop.remove_reader(one)
                self._loop.remove_writer(one)
                one.close()
        on_end, self._on_end = self._on_end, lambda _hop, _why: None
        on_end(self, why)

    def _connected(self, far: socket.socket) -> None:
        self._loop.remove_writer(far)
        error = far.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self.end(f"the proxy does not answer: {os.strerror(error)}")
            return
        self._loop.add_reader(far, lambda: self._negotiate(far, self._greeted))
        self._say(far, _GREETING)

    def _negotiate(self, far: socket.socket, read: Callable[[socket.socket], None]) -> None:
        """Hear more of an answer, and look whether it is complete."""
        try:
            more = far.recv(RELAY_BYTES_A_TURN)
        except BlockingIOError:
            return
        except OSError:
            more = b""
        if not more:
            self.end("the proxy has hung up")
            return
        self._heard += more
        read(far)

    def _greeted(self, far: socket.socket) -> None:
        if len(self._heard) < len(_GREETED):
            return
        if self._heard != _GREETED:
            self.end("the proxy wants a password, or is no SOCKS5 proxy")
            return
        self._heard = b""
        self._loop.add_reader(far, lambda: self._negotiate(far, self._answered))
        host, port = self._target
        self._say(far, _CONNECT + _written(host) + port.to_bytes(_PORT_BYTES, "big"))

    def _answered(self, far: socket.socket) -> None:
        if len(self._heard) <= _HEAD_BYTES:
            return
        version, code, _, kind = self._heard[:_HEAD_BYTES]
        if version != _GREETED[0] or code:
            self.end(_REFUSALS.get(code, f"the proxy refuses it with code {code}"))
            return
        size = _BOUND_BYTES.get(kind, 1 + self._heard[_HEAD_BYTES]) + _HEAD_BYTES + _PORT_BYTES
        if len(self._heard) >= size:
            self._deadline.cancel()
            _Pipe(self._loop, self._near, far, self.end)
            _Pipe(self._loop, far, self._near, self.end, self._heard[size:])

    def _say(self, far: socket.socket, words: bytes) -> None:
        """A few bytes on a connection that is still empty: they fit, or it is broken."""
        try:
            sent = far.send(words)
        except OSError:
            sent = 0
        if sent != len(words):
            self.end("the proxy has hung up")


class _Pipe:
    """Carries bytes one way, and reads no more while the other side takes none."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        source: socket.socket,
        sink: socket.socket,
        end: Callable[[str], None],
        left: bytes = b"",
    ) -> None:
        self._loop, self._source, self._sink, self._end = loop, source, sink, end
        self._left = memoryview(left)
        self._waiting = False  # for the sink
        self._loop.add_reader(source, self._read)
        if left:
            self._write()

    def _read(self) -> None:
        try:
            raw = self._source.recv(RELAY_BYTES_A_TURN)
        except BlockingIOError:
            return
        except OSError:
            raw = b""
        if not raw:
            self._end("")
            return
        self._left = memoryview(raw)
        self._write()

    def _write(self) -> None:
        try:
            self._left = self._left[self._sink.send(self._left) :]
        except BlockingIOError:
            pass
        except OSError:
            self._end("")
            return
        if bool(self._left) is self._waiting:
            return
        self._waiting = not self._waiting
        if self._waiting:
            self._loop.remove_reader(self._source)
            self._loop.add_writer(self._sink, self._write)
        else:
            self._loop.remove_writer(self._sink)
            self._loop.add_reader(self._source, self._read)


def _written(host: str) -> bytes:
    """A host as SOCKS5 writes it; a name goes as it is."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        raw = host.encode()
        return _NAME + bytes([len(raw)]) + raw
    return (_IPV4 if ip.version == 4 else _IPV6) + ip.packed  # noqa: PLR2004 - IPv4
