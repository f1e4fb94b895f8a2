"""A peer played by a test: its own key and records, and whatever bytes it likes to send."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from tests.wire import HELLO, NETWORK, ORDERS, RPC, Host, Wire
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.peers import State
from zmqex.protocol.codec import decode, decode_frame, encode, encode_frame
from zmqex.protocol.fields import PROTOCOL_VERSION
from zmqex.protocol.identity import IdentityKey, seal
from zmqex.protocol.messages import Empty, Endpoint, Frame, Greet, Message, PeerRecord, Reject
from zmqex.reasons import RejectReason


class Stranger:
    """Somebody at an address who speaks by hand."""

    def __init__(self, wire: Wire, name: str = "mallory", address: str = "10.9.9.9") -> None:
        """Know the wire's time; be nobody's peer yet."""
        self.wire = wire
        self.address = address
        self.key = IdentityKey(hashlib.sha256(name.encode()).digest())
        self.identity = self.key.public_key
        self.curve_key = hashlib.sha256(b"curve" + name.encode()).digest()
        self.request_id = 0

    def record(self, **changes: object) -> bytes:
        """A good record but for `changes`; None for all endpoints with `leaving`."""
        now_ms = self.wire.wall_ms
        fields: dict[str, Any] = {
            "network": NETWORK,
            "identity": self.identity,
            "hello": Endpoint("", HELLO),
            "rpc": Endpoint("", RPC),
            "orders": Endpoint("", ORDERS),
            "curve_key": self.curve_key,
            "lightning_node": self.curve_key + b"\3",
            "capabilities": ["plain"],
            "not_before_ms": now_ms,
            "not_after_ms": now_ms + 3_600_000,
            "sequence": now_ms,
        }
        if changes.pop("leaving", False):
            changes |= {"hello": None, "rpc": None, "orders": None}
        fields.update(changes)
        body = encode(PeerRecord(**fields))
        return seal(self.key, NETWORK, "record", body)

    def ask(
        self, host: Host, kind: str, body: Message | None = None, version: int = PROTOCOL_VERSION
    ) -> Frame:
        """Send a request; the frame of its reply."""
        effects = self.send(host, self.question(kind, body, version))
        replies = [one.frame for one in effects if isinstance(one, out.SendReply)]
        assert len(replies) == 1
        return decode_frame(replies[0])

    def question(
        self, kind: str, body: Message | None = None, version: int = PROTOCOL_VERSION
    ) -> bytes:
        """A request as bytes."""
        raw = msgspec.Raw(encode(body or Empty()))
        return encode(Frame(version, kind, self._next_id(), raw))

    def send(self, host: Host, frame: bytes) -> list[out.Effect]:
        """Send bytes to the rpc ROUTER."""
        route = happened.Route(self.curve_key, b"stranger", self.address)
        return host.handle(happened.RequestReceived(route, frame))

    def refused(
        self, host: Host, kind: str, body: Message | None = None, version: int = PROTOCOL_VERSION
    ) -> Reject:
        """Send a request that is refused; the refusal."""
        reply = self.ask(host, kind, body, version)
        assert reply.kind == "reject"
        return decode(reply.body, Reject)

    def greet(self, host: Host, record: bytes | None = None) -> Frame:
        """Greet; the reply."""
        return self.ask(host, "greet", Greet(record or self.record(), self.wire.wall_ms))

    def befriend(self, host: Host) -> None:
        """Greet and be greeted back: live at the host."""
        self.greet(host)
        self.reply(host, "greet", Greet(self.record(), self.wire.wall_ms))

    def asked(self, host: Host, kind: str) -> list[Frame]:
        """The requests of a kind that the host sent us, oldest first."""
        sent = [one for one in host.effects if isinstance(one, out.SendRequest)]
        frames = [decode_frame(one.frame) for one in sent if one.peer == self.identity]
        return [frame for frame in frames if frame.kind == kind]

    def reply(self, host: Host, kind: str, body: Message) -> list[out.Effect]:
        """Answer the newest request of that kind."""
        return self.reply_raw(host, encode_frame(kind, self.asked(host, kind)[-1].request_id, body))

    def reject(self, host: Host, kind: str, reason: str, retry_after_ms: int = 0) -> None:
        """Refuse the newest request of that kind."""
        request_id = self.asked(host, kind)[-1].request_id
        self.reply_raw(host, encode_frame("reject", request_id, Reject(reason, retry_after_ms, "")))

    def reply_raw(self, host: Host, frame: bytes) -> list[out.Effect]:
        """Send bytes on the DEALER's way back."""
        return host.handle(happened.ReplyReceived(self.identity, frame))

    def say(self, host: Host, topic: bytes, raw: bytes) -> None:
        """Publish bytes that the host hears, and have their signatures checked."""
        host.handle(happened.StreamReceived(((topic, raw),)))
        self.wire.run(0)

    def _next_id(self) -> int:
        self.request_id += 1
        return self.request_id


def reason_of(frame: Frame) -> RejectReason:
    """Why a reply refuses."""
    return RejectReason(decode(frame.body, Reject).reason)


def state(host: Host, identity: bytes) -> State:
    """Return how a host stands with a peer."""
    return host.n.sessions.peers[identity].state


def dials(effects: list[out.Effect]) -> list[tuple[str, int]]:
    """Return the addresses that were dialled."""
    return [(one.host, one.port) for one in effects if isinstance(one, out.DialHello)]


def alone() -> tuple[Wire, Host, Stranger]:
    """Return a host, and somebody who is not its peer yet."""
    wire = Wire()
    (host,) = wire.add("alice")
    return wire, host, Stranger(wire)
