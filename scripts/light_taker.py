"""A taker without a node: the protocol's own messages over one CURVE socket.

It greets, signs takes and reads accepts; it has no journal, no book and no money.  Used where many
takers are wanted at once (bench_trade).  Blocking; not thread-safe.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

import msgspec
import nacl.bindings
import zmq
import zmq.utils.z85

from zmqex.adapters.clock import wall_ms
from zmqex.bolt11 import decode as decode_invoice
from zmqex.protocol.codec import (
    decode,
    decode_envelope,
    decode_frame,
    decode_trade_message,
    encode,
    encode_frame,
)
from zmqex.protocol.identity import ZERO_DIGEST, IdentityKey, seal, trade_id, verify
from zmqex.protocol.messages import (
    Accept,
    Endpoint,
    Frame,
    Greet,
    PeerRecord,
    Reject,
    Take,
    TradeSaid,
)

NETWORK = "play"
HOST = "127.0.0.1"
WAIT_MS = 10_000
HOUR_MS = 3_600_000

Context = zmq.Context[zmq.Socket[bytes]]


class Maker(NamedTuple):
    """Whom takes are sent to."""

    identity: bytes
    curve_key: bytes
    rpc_port: int


def find_maker(context: Context, hello_port: int) -> Maker:
    """Ask a node's hello socket who it is."""
    socket = context.socket(zmq.DEALER)
    try:
        socket.connect(f"tcp://{HOST}:{hello_port}")
        socket.send(b"hello")
        body = decode_envelope(_receive(socket)).body
    finally:
        socket.close(0)
    record = decode(body, PeerRecord)
    if record.rpc is None:
        raise RuntimeError("the maker is leaving")
    return Maker(record.identity, record.curve_key, record.rpc.port)


def dealer(context: Context, server_key: bytes, port: int) -> tuple[zmq.Socket[bytes], bytes]:
    """A CURVE connection with a fresh key; the socket and that key."""
    public, secret = nacl.bindings.crypto_box_keypair()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.CURVE_SERVERKEY, zmq.utils.z85.encode(server_key))
    socket.setsockopt(zmq.CURVE_PUBLICKEY, zmq.utils.z85.encode(public))
    socket.setsockopt(zmq.CURVE_SECRETKEY, zmq.utils.z85.encode(secret))
    socket.connect(f"tcp://{HOST}:{port}")
    return socket, public


class LightTaker:
    """One identity with one connection to one maker."""

    def __init__(self, context: Context, maker: Maker) -> None:
        """Connect and greet."""
        self._maker = maker
        self._key = IdentityKey(secrets.token_bytes(32))
        self.socket, self._curve_key = dealer(context, maker.curve_key, maker.rpc_port)
        self._request_id = 0
        self._greet()

    def take(self, order_id: bytes, lots: int, price_ticks: int) -> None:
        """Sign and send a take."""
        self.socket.send(self.signed_take(order_id, lots, price_ticks))

    def signed_take(self, order_id: bytes, lots: int, price_ticks: int) -> bytes:
        """A take as a frame to be sent."""
        take_id, me = secrets.token_bytes(32), self._key.public_key
        message = Take(
            trade_id=trade_id(NETWORK, self._maker.identity, me, take_id),
            previous=ZERO_DIGEST,
            sent_at_ms=wall_ms(),
            take_id=take_id,
            maker=self._maker.identity,
            taker=me,
            order_id=order_id,
            quantity_lots=lots,
            price_ticks=price_ticks,
            settlement="plain",
            payment_hash=None,
        )
        said = TradeSaid(seal(self._key, NETWORK, "take", encode(message)))
        return self._frame("take", said)

    def accepted(self) -> Accept:
        """Wait for the answer to a take: the accept, whose signature and invoice are good."""
        return self.checked(self.answer())

    def answer(self) -> bytes:
        """Wait for an answer, whatever it is."""
        return _receive(self.socket)

    def checked(self, answer: bytes) -> Accept:
        """The accept that answers a take; its signature and invoice are good."""
        frame = _frame_of("take", answer)
        envelope = decode_envelope(decode(frame.body, TradeSaid).envelope)
        message = decode_trade_message(envelope.body)
        if not isinstance(message, Accept) or message.invoice is None:
            raise RuntimeError(f"not an accept with an invoice: {message}")
        if not verify(self._maker.identity, NETWORK, "accept", envelope):
            raise RuntimeError("the accept is not signed by the maker")
        if decode_invoice(message.invoice).amount_msat != message.base_msat:
            raise RuntimeError("the invoice is for another amount")
        return message

    def close(self) -> None:
        """Close the connection."""
        self.socket.close(0)

    def _greet(self) -> None:
        now_ms = wall_ms()
        # Nobody listens there: a taker of this kind cannot be called back.
        closed = Endpoint("", 1)
        record = PeerRecord(
            network=NETWORK,
            identity=self._key.public_key,
            hello=closed,
            rpc=closed,
            orders=closed,
            curve_key=self._curve_key,
            lightning_node=b"\2" + self._curve_key,
            capabilities=["plain"],
            not_before_ms=now_ms,
            not_after_ms=now_ms + HOUR_MS,
            sequence=now_ms,
        )
        greet = Greet(seal(self._key, NETWORK, "record", encode(record)), now_ms)
        self.socket.send(self._frame("greet", greet))
        _frame_of("greet", self.answer())

    def _frame(self, kind: str, body: msgspec.Struct) -> bytes:
        self._request_id += 1
        return encode_frame(kind, self._request_id, body)  # type: ignore[arg-type]


def _frame_of(kind: str, answer: bytes) -> Frame:
    frame = decode_frame(answer)
    if frame.kind != kind:
        raise RuntimeError(f"{kind} was refused: {decode(frame.body, Reject)}")
    return frame


def _receive(socket: zmq.Socket[bytes]) -> bytes:
    if not socket.poll(WAIT_MS):
        raise RuntimeError(f"no answer within {WAIT_MS} ms")
    return socket.recv()
