"""The plain hello sockets: a stranger asks for our signed record, and we ask candidates for theirs.

Nothing here is secret or believed: the record is signed, and the kernel checks it.  What matters is
that strangers stay cheap: tiny frames, a rate, a second, and few at a time.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, NamedTuple

import zmq

from zmqex.adapters.clock import monotonic_ms
from zmqex.adapters.transport.drain import Drain, OnMessage
from zmqex.adapters.transport.options import (
    HELLO_DIALLER,
    PROXIED,
    configure,
    endpoint,
    plain_address,
)
from zmqex.adapters.transport.socks import Proxy, Way
from zmqex.dht.address import Scope, network_of, scope_of
from zmqex.kernel.budgets import TokenBucket
from zmqex.kernel.events import Event, HelloAnswered, HelloFailed
from zmqex.limits import (
    HELLO_DIALS_MAX,
    HELLO_DIALS_WAITING_MAX,
    HELLO_PER_SECOND,
    HELLO_SOURCE_BURST,
    HELLO_SOURCE_PER_SECOND,
    HELLO_SOURCES_MAX,
    HELLO_WAIT_MS,
    PROXY_WAIT_MS,
    REQUEST_FRAMES_A_TURN,
    SECOND_MS,
)

_PARTS: Final = 2  # routing id, question
_ANSWER_PARTS: Final = 1


class HelloServer:
    """Answers `hello` with the record and `ping` with `pong` on a ROUTER that it owns."""

    def __init__(self, socket: zmq.Socket[bytes], counted: Counter[str]) -> None:
        self.record = b""
        self._counted = counted
        self._limit = HelloLimit()
        self._drain = Drain(
            socket,
            self._on_question,
            parts=_PARTS,
            turn=REQUEST_FRAMES_A_TURN,
            on_malformed=self._malformed,
        )

    def close(self) -> None:
        """Answer nothing more."""
        self._drain.close()

    def _on_question(self, first: list[bytes], last: zmq.Frame) -> None:
        connection, asked = first[0], last.bytes
        if not self._limit.allows(address_of(last), connection, monotonic_ms()):
            self._counted["hello_rate_limited"] += 1
        elif asked == b"hello" and self.record:
            self._answer(connection, self.record)
        elif asked == b"ping":
            self._answer(connection, b"pong")
        else:
            self._malformed()

    def _answer(self, connection: bytes, answer: bytes) -> None:
        if not self._drain.send([connection, answer]):
            self._counted["hello_answer_dropped"] += 1

    def _malformed(self) -> None:
        self._counted["hello_malformed"] += 1


class HelloLimit:
    """A rate for each network of strangers and one for all.

    On loopback, where every node has the same address, each connection has its own.
    """

    def __init__(self) -> None:
        self._all: TokenBucket | None = None
        self._sources: dict[str | bytes, TokenBucket] = {}  # the longest unused first

    def allows(self, address: str, connection: bytes, now_ms: int) -> bool:
        """Count one question; False if its source, or all together, asked too much."""
        source = self._source(address, connection)
        bucket = self._sources.pop(source, None)
        if bucket is None:
            bucket = TokenBucket(HELLO_SOURCE_PER_SECOND, HELLO_SOURCE_BURST, now_ms)
        self._sources[source] = bucket
        if len(self._sources) > HELLO_SOURCES_MAX:
            del self._sources[next(iter(self._sources))]
        if bucket.take(now_ms):
            return False
        if self._all is None:
            self._all = TokenBucket(HELLO_PER_SECOND, HELLO_PER_SECOND, now_ms)
        return self._all.take(now_ms) == 0

    def __len__(self) -> int:
        return len(self._sources)

    @staticmethod
    def _source(address: str, connection: bytes) -> str | bytes:
        try:
            return connection if scope_of(address) is Scope.LOOPBACK else network_of(address)
        except ValueError:  # no address that we know how to read
            return connection


class _Dial(NamedTuple):
    drain: Drain
    deadline: asyncio.TimerHandle
    way: Way | None


class HelloDials:
    """Asks candidates for their records: some at a time, each for a second, the others in turn.

    Through a proxy each gets the time that a proxy needs.
    """

    def __init__(
        self,
        deliver: Callable[[Event], None],
        context_for: Callable[[str], zmq.Context[zmq.Socket[bytes]]],
        proxy: Proxy | None = None,
    ) -> None:
        self._proxy = proxy
        self._options = {**HELLO_DIALLER, **(PROXIED if proxy else {})}
        self._wait_s = (HELLO_WAIT_MS if proxy is None else PROXY_WAIT_MS) / SECOND_MS
        self._deliver = deliver
        self._context_for = context_for
        self._loop = asyncio.get_running_loop()
        self._dials: set[_Dial] = set()
        self._waiting: deque[tuple[str, int, str]] = deque()
        self._closed = False

    def dial(self, host: str, port: int, source: str) -> None:
        """Ask; delivers HelloAnswered or HelloFailed, never before this returns."""
        if self._closed:
            return
        if len(self._dials) < HELLO_DIALS_MAX:
            self._start(host, port, source)
        elif len(self._waiting) < HELLO_DIALS_WAITING_MAX:
            self._waiting.append((host, port, source))
        else:
            self._fail_soon(HelloFailed(host, port, source, "too many candidates at once"))

    def close(self) -> None:
        """Ask nobody any more; what is under way ends without an event."""
        self._closed = True
        self._waiting.clear()
        for dial in list(self._dials):
            self._end(dial)

    def _start(self, host: str, port: int, source: str) -> None:
        address = endpoint(host, port)
        if address is None:
            self._fail_soon(HelloFailed(host, port, source, "not an address"))
            return

        def answered(record: bytes) -> None:
            self._end(dial)
            self._deliver(HelloAnswered(host, port, source, record))

        def failed(why: str) -> None:
            self._end(dial)
            self._deliver(HelloFailed(host, port, source, why))

        try:
            way = self._proxy.way_to(host, port, failed) if self._proxy else None
            drain = self._open(
                host, way.endpoint if way else address, lambda _first, last: answered(last.bytes)
            )
        except (zmq.ZMQError, OSError) as error:  # no such address, or no descriptor left
            self._fail_soon(HelloFailed(host, port, source, error.strerror or "cannot connect"))
            return
        why = f"no answer within {self._wait_s:g} s"
        dial = _Dial(drain, self._loop.call_later(self._wait_s, failed, why), way)
        self._dials.add(dial)
        drain.send([b"hello"])

    def _open(self, host: str, address: str, on_message: OnMessage) -> Drain:
        socket: zmq.Socket[bytes] = self._context_for(host).socket(zmq.DEALER)
        try:
            configure(socket, self._options)
            socket.connect(address)
            return Drain(
                socket,
                on_message,
                parts=_ANSWER_PARTS,
                turn=REQUEST_FRAMES_A_TURN,
            )
        except zmq.ZMQError:
            socket.close(0)
            raise

    def _end(self, dial: _Dial) -> None:
        self._dials.discard(dial)
        dial.deadline.cancel()
        dial.drain.close()
        if dial.way is not None:
            dial.way.close()
        if self._waiting:
            self._start(*self._waiting.popleft())

    def _fail_soon(self, failed: HelloFailed) -> None:
        self._loop.call_soon(self._tell, failed)

    def _tell(self, failed: HelloFailed) -> None:
        if not self._closed:
            self._deliver(failed)


def address_of(frame: zmq.Frame) -> str:
    """Where a frame came from, as numeric text."""
    return plain_address(metadata(frame, "Peer-Address"))


def metadata(frame: zmq.Frame, name: str) -> str:
    """What libzmq knows of a frame's connection; "" where it knows nothing."""
    try:
        return str(frame.get(name))
    except (zmq.ZMQError, UnicodeDecodeError):
        return ""
