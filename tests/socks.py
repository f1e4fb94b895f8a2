"""A small SOCKS5 server (RFC 1928) that knows names of its own and writes down every connection."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_CONNECT: Final = 1
_IPV4, _NAME = 1, 3
_REFUSED: Final = 5
_QUESTION_BYTES_MAX: Final = 300


class Socks:
    """Listens on loopback; a name of `names` is this machine, every other one is unknown."""

    def __init__(self, *names: str, rude: tuple[bytes, ...] = ()) -> None:
        """Serve at once, a thread for each connection; a `rude` one says just that and hangs up."""
        self._rude = rude
        self.names = set(names)
        self.seen: list[tuple[str, int]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        """What `--proxy` gets."""
        return f"socks5://127.0.0.1:{self.port}"

    def close(self) -> None:
        """End every connection; none is closed while a thread still waits for it."""
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in self._open:
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                self._threads.append(threading.Thread(target=self._serve, args=(client,)))
                self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError):
            for answer in self._rude:
                client.recv(_QUESTION_BYTES_MAX)
                client.sendall(answer)
            if self._rude:
                raise EOFError
            _, methods = _exactly(client, 2)
            _exactly(client, methods)
            client.sendall(b"\x05\x00")
            _, command, _, kind = _exactly(client, 4)
            assert command == _CONNECT
            size = {_IPV4: 4}.get(kind) or _exactly(client, 1)[0]
            raw = _exactly(client, size)
            (port,) = struct.unpack("!H", _exactly(client, 2))
            host = raw.decode() if kind == _NAME else socket.inet_ntoa(raw)
            self.seen.append((host, port))
            self._connect(client, host, port)
        client.close()

    def _connect(self, client: socket.socket, host: str, port: int) -> None:
        answer = b"\x00\x01" + bytes(6)
        try:
            if host not in self.names:
                raise ConnectionRefusedError
            target = socket.create_connection(("127.0.0.1", port))
        except OSError:
            client.sendall(b"\x05" + bytes([_REFUSED]) + answer)
            return
        self._open.append(target)
        client.sendall(b"\x05\x00" + answer)
        with target:
            _relay(client, target)


def _exactly(source: socket.socket, size: int) -> bytes:
    raw = b""
    while len(raw) < size:
        more = source.recv(size - len(raw))
        if not more:
            raise EOFError
        raw += more
    return raw


def _relay(one: socket.socket, other: socket.socket) -> None:
    ways = {one: other, other: one}
    while True:
        for ready in select.select(list(ways), [], [])[0]:
            raw = ready.recv(65_536)
            if not raw:
                return
            ways[ready].sendall(raw)


@contextmanager
def socks(*names: str, rude: tuple[bytes, ...] = ()) -> Iterator[Socks]:
    """A server for as long as it is needed."""
    server = Socks(*names, rude=rude)
    try:
        yield server
    finally:
        server.close()
