"""The dialled sockets: a DEALER for requests and a SUB for the order stream of each peer.

Both prove the peer by its CURVE key and us by ours.  What all SUBs bring in one turn of the loop
becomes one event.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import zmq
import zmq.utils.z85

from zmqex.adapters.transport.drain import Drain
from zmqex.adapters.transport.options import (
    DIALLER,
    PROXIED,
    SUBSCRIBER,
    Options,
    configure,
    endpoint,
)
from zmqex.adapters.transport.socks import Proxy, Way
from zmqex.kernel.events import Event, ReplyReceived, StreamReceived
from zmqex.limits import (
    REQUEST_FRAMES_A_TURN,
    STREAM_BYTES_MAX,
    STREAM_FRAMES_A_TURN,
    STREAM_MESSAGES_MAX,
)

_REPLY_PARTS: Final = 1
_STREAM_PARTS: Final = 2  # topic, envelope


class PeerSockets:
    """The connections that we dialled, by peer."""

    def __init__(
        self,
        deliver: Callable[[Event], None],
        context_for: Callable[[str], zmq.Context[zmq.Socket[bytes]]],
        curve: tuple[bytes, bytes],
        counted: Counter[str],
        proxy: Proxy | None = None,
    ) -> None:
        """`curve`: our public and secret key as Z85."""
        self._proxy = proxy
        self._ways: dict[bytes, list[Way]] = {}
        self._deliver = deliver
        self._context_for = context_for
        self._public, self._secret = curve
        self._counted = counted
        self._loop = asyncio.get_running_loop()
        self._peers: dict[bytes, tuple[Drain, Drain]] = {}
        self._followed: dict[bytes, tuple[zmq.Socket[bytes], set[bytes]]] = {}
        self._stream: list[tuple[bytes, bytes]] = []
        self._streamed_by: list[bytes] = []
        self._stream_bytes = 0
        self._held = False
        self._unread: dict[Drain, None] = {}  # streams that wait to be read, the first first
        self._flush: asyncio.Handle | None = None

    def connect(
        self,
        peer: bytes,
        curve_key: bytes,
        rpc: tuple[str, int],
        orders: tuple[str, int],
        topics: Sequence[bytes],
    ) -> None:
        """Open (or replace) DEALER and SUB; one that cannot be opened is as one that is silent."""
        self.disconnect(peer)
        ways = self._ways[peer] = []
        try:
            dealer = self._dial(zmq.DEALER, DIALLER, curve_key, rpc, ways)
        except (OSError, ValueError):
            self._invalid(peer)
            return
        try:
            subscriber = self._dial(zmq.SUB, SUBSCRIBER, curve_key, orders, ways, topics)
        except (OSError, ValueError):
            dealer.close(0)
            self._invalid(peer)
            return
        self._followed[peer] = subscriber, set(topics)
        self._peers[peer] = (
            Drain(
                dealer,
                lambda _first, last: self._deliver(ReplyReceived(peer, last.bytes)),
                parts=_REPLY_PARTS,
                turn=REQUEST_FRAMES_A_TURN,
                on_malformed=lambda: self._malformed("reply_malformed"),
            ),
            Drain(
                subscriber,
                lambda first, last: self._on_stream(peer, first, last),
                parts=_STREAM_PARTS,
                turn=STREAM_FRAMES_A_TURN,
                may_read=self._may_read,
                on_malformed=lambda: self._malformed("stream_malformed"),
            ),
        )

    def follow(self, peer: bytes, topics: Sequence[bytes]) -> None:
        """From now on listen to these topics of a connected peer, and to no others."""
        if peer in self._followed:
            subscriber, before = self._followed[peer]
            wanted = set(topics)
            for topic in wanted - before:
                subscriber.setsockopt(zmq.SUBSCRIBE, topic)
            for topic in before - wanted:
                subscriber.setsockopt(zmq.UNSUBSCRIBE, topic)
            self._followed[peer] = subscriber, wanted

    def hold_streams(self, *, held: bool) -> None:
        """Read no more of any stream, or go on where something came meanwhile."""
        self._held = held
        if not held:
            unread, self._unread = self._unread, {}
            for drain in unread:
                drain.read_on()

    def disconnect(self, peer: bytes) -> None:
        """Close the sockets to a peer; unknown peers are fine."""
        self._followed.pop(peer, None)
        for drain in self._peers.pop(peer, ()):
            drain.close()
        for way in self._ways.pop(peer, ()):
            way.close()

    def send(self, peer: bytes, frame: bytes) -> bool:
        """Send a request frame; False where the peer is unknown or its queue is full."""
        sockets = self._peers.get(peer)
        return sockets is not None and sockets[0].send([frame])

    def close(self) -> None:
        """Close everything; what was read but not delivered is dropped."""
        for peer in list(self._peers):
            self.disconnect(peer)
        self._stream.clear()
        self._streamed_by.clear()
        if self._flush is not None:
            self._flush.cancel()

    def _dial(
        self,
        kind: int,
        options: Options,
        curve_key: bytes,
        where: tuple[str, int],
        ways: list[Way],
        topics: Sequence[bytes] = (),
    ) -> zmq.Socket[bytes]:
        address = endpoint(*where)
        if address is None:
            raise ValueError(where)
        if self._proxy is not None:
            ways.append(self._proxy.way_to(*where))
            address, options = ways[-1].endpoint, {**options, **PROXIED}
        socket: zmq.Socket[bytes] = self._context_for(where[0]).socket(kind)
        try:
            configure(socket, options)
            socket.setsockopt(zmq.CURVE_SERVERKEY, zmq.utils.z85.encode(curve_key))
            socket.setsockopt(zmq.CURVE_PUBLICKEY, self._public)
            socket.setsockopt(zmq.CURVE_SECRETKEY, self._secret)
            for topic in topics:
                socket.setsockopt(zmq.SUBSCRIBE, topic)
            socket.connect(address)
        except BaseException:
            socket.close(0)
            raise
        return socket

    def _invalid(self, peer: bytes) -> None:
        self._counted["endpoints_invalid"] += 1
        self.disconnect(peer)

    def _may_read(self, stream: Drain) -> bool:
        if self._held:
            self._unread[stream] = None
        return not self._held

    def _on_stream(self, peer: bytes, first: list[bytes], last: zmq.Frame) -> None:
        raw = last.bytes
        self._stream.append((first[0], raw))
        self._streamed_by.append(peer)
        self._stream_bytes += len(raw)
        if len(self._stream) >= STREAM_MESSAGES_MAX or self._stream_bytes >= STREAM_BYTES_MAX:
            self._deliver_stream()
        elif self._flush is None:
            # After the sockets that are readable in this turn have been read too.
            self._flush = self._loop.call_soon(self._flushed)

    def _flushed(self) -> None:
        self._flush = None
        if self._stream:
            self._deliver_stream()

    def _deliver_stream(self) -> None:
        messages, self._stream = tuple(self._stream), []
        peers, self._streamed_by = tuple(self._streamed_by), []
        self._stream_bytes = 0
        self._deliver(StreamReceived(messages, peers))

    def _malformed(self, word: str) -> None:
        self._counted[word] += 1
