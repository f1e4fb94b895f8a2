"""Questions to peers and answers to theirs: ids, deadlines, rates, typed refusals.

Every question ends in exactly one call of its `on_answer`: the reply's body, or a `Refusal`.
Not for: who a peer is and whether it is connected (`sessions`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from zmqex.errors import RemoteProtocolError
from zmqex.kernel.budgets import TokenBucket
from zmqex.kernel.core import Core
from zmqex.kernel.effects import SendReply, SendRequest
from zmqex.kernel.events import ReplyReceived, RequestReceived, Route
from zmqex.limits import (
    ANSWER_BYTES_BURST,
    ANSWER_BYTES_PER_SECOND,
    REQUEST_DEADLINE_MS,
    REQUEST_SOURCES_MAX,
    REQUESTS_BURST,
    REQUESTS_PENDING_MAX,
    REQUESTS_PER_SECOND,
    SECOND_MS,
    UNPAID_WAIT_LAST_MS,
)
from zmqex.protocol.codec import decode, decode_frame, encode_frame
from zmqex.protocol.fields import PROTOCOL_VERSION
from zmqex.protocol.messages import Frame, Message, Reject
from zmqex.reasons import RejectReason

_REJECT: Final = "reject"
_DETAIL_CHARS_MAX: Final = 200
# Said by a newer version; all that is known is that it is a refusal.
_UNKNOWN_WORD: Final = RejectReason.UNAVAILABLE


class Refusal(msgspec.Struct, frozen=True):
    """A question that was not answered, and when asking again makes sense (0: not by itself)."""

    reason: RejectReason
    retry_after_ms: int = 0
    detail: str = ""


class Incoming(msgspec.Struct, frozen=True):
    """A peer's question; `peer` is b"" where the asker has not greeted yet."""

    route: Route
    request_id: int
    kind: str
    body: msgspec.Raw
    peer: bytes


Answer = msgspec.Raw | Refusal
OnAnswer = Callable[[Answer], None]
Handler = Callable[[Incoming], None]


class _Pending(msgspec.Struct):
    peer: bytes
    kind: str
    frame: bytes
    on_answer: OnAnswer
    greeted_again: bool = False


class Requests:
    """The questions under way in both directions.

    The hooks are set by `Sessions`: it knows who a route is and which peers can be asked.
    """

    def __init__(self, core: Core) -> None:
        """Start with nothing asked and nothing served."""
        self._core = core
        self._pending: dict[int, _Pending] = {}
        self._last_id = 0
        self._handlers: dict[str, tuple[Handler, bool]] = {}
        self._reading: set[str] = set()  # kinds whose answers are charged by their bytes
        self._buckets: dict[tuple[bytes, str], tuple[TokenBucket, TokenBucket]] = {}
        self.can_ask: Callable[[bytes], bool] = lambda _peer: False
        self.who: Callable[[Route], bytes] = lambda _route: b""
        self.why_not: Callable[[bytes], Refusal | None] = lambda _peer: None
        self.greet_again: Callable[[bytes, Callable[[], None]], None] = lambda _peer, _then: None
        self.answered: Callable[[bytes], None] = lambda _peer: None
        self.timed_out: Callable[[bytes], None] = lambda _peer: None
        self.blame: Callable[[bytes, int, str], None] = lambda _peer, _points, _why: None

    # --- asking ----------------------------------------------------------------------------------

    def request(
        self,
        peer: bytes,
        kind: str,
        body: Message,
        on_answer: OnAnswer,
        deadline_ms: int = REQUEST_DEADLINE_MS,
    ) -> None:
        """Ask a live peer; `on_answer` may be called before this returns (NOT_CONNECTED).

        `on_answer` decodes the body before it changes anything: where it raises
        RemoteProtocolError, the peer is blamed and it is called once more with MALFORMED.
        """
        if not self.can_ask(peer):
            on_answer(Refusal(RejectReason.NOT_CONNECTED, SECOND_MS, "no connection to this peer"))
        else:
            self.send(peer, kind, body, on_answer, deadline_ms)

    def send(
        self, peer: bytes, kind: str, body: Message, on_answer: OnAnswer, deadline_ms: int
    ) -> None:
        """Ask a peer whose sockets are open, live or not."""
        if len(self._pending) >= REQUESTS_PENDING_MAX:
            refusal = Refusal(RejectReason.RATE_LIMITED, SECOND_MS, "too many questions under way")
            on_answer(refusal)
            return
        self._last_id += 1
        request_id = self._last_id
        frame = encode_frame(kind, request_id, body)
        self._pending[request_id] = _Pending(peer, kind, frame, on_answer)
        self._core.call_after(
            ("request", request_id), deadline_ms, lambda: self._time_out(request_id)
        )
        self._core.emit(SendRequest(peer, frame))

    def drop(self, peer: bytes, reason: RejectReason) -> None:
        """End every question to a peer whose sockets are closed."""
        numbers = [number for number, one in self._pending.items() if one.peer == peer]
        # All are taken before the first is told: it may ask again.
        for pending in [self._take(number) for number in numbers]:
            pending.on_answer(Refusal(reason, SECOND_MS, "the connection was closed"))

    def on_reply(self, event: ReplyReceived) -> None:
        """Hand a reply to whoever asked; a late or unasked one is counted."""
        try:
            frame = decode_frame(event.frame)
        except RemoteProtocolError as error:
            self._malformed(event.peer, error)
            return
        pending = self._pending.get(frame.request_id)
        if pending is None or pending.peer != event.peer:
            self._core.count("replies_unasked")
            return
        if frame.kind not in {pending.kind, _REJECT}:
            self._core.count("replies_unasked")
            self.blame(event.peer, 1, "a reply of another kind")
            return
        self.answered(event.peer)
        if frame.kind == pending.kind:
            self._take(frame.request_id)
            self._hand_over(pending, frame.body)
            return
        refusal = self._refusal(event.peer, frame)
        if refusal.reason is RejectReason.NOT_GREETED and not pending.greeted_again:
            pending.greeted_again = True
            self.greet_again(event.peer, lambda: self._send_again(frame.request_id))
            return
        self._take(frame.request_id)
        pending.on_answer(refusal)

    # --- being asked -----------------------------------------------------------------------------

    def serve(
        self, kind: str, handler: Handler, *, strangers: bool = False, reading: bool = False
    ) -> None:
        """Answer this kind of question; with `strangers` also before the asker has greeted.

        What is `reading` gets long answers, and none while the asker has had too many bytes: what
        changes something is never late for that.

        The handler calls `answer` or `refuse` once, now or later; RemoteProtocolError from it
        refuses the question as MALFORMED and blames the asker.
        """
        self._handlers[kind] = handler, strangers
        if reading:
            self._reading.add(kind)

    def on_request(self, event: RequestReceived) -> None:
        """Check rate, form, kind and asker, in this order of cost; then hand over."""
        route = event.route
        peer = self.who(route)
        try:
            frame = decode(event.frame, Frame)
        except RemoteProtocolError as error:
            self._malformed(peer, error)
            return
        incoming = Incoming(route, frame.request_id, frame.kind, frame.body, peer)
        wait_ms = self._wait_ms(incoming)
        banned = self.why_not(peer)
        served = self._handlers.get(frame.kind)
        if wait_ms:
            self.refuse(incoming, RejectReason.RATE_LIMITED, retry_after_ms=wait_ms)
        elif banned is not None:
            self.refuse(incoming, banned.reason, banned.retry_after_ms, banned.detail)
        elif frame.version != PROTOCOL_VERSION:
            self.refuse(incoming, RejectReason.WRONG_VERSION, detail=f"this is {PROTOCOL_VERSION}")
        elif served is None:
            self.refuse(incoming, RejectReason.UNKNOWN_KIND)
        elif not peer and not served[1]:
            self.refuse(incoming, RejectReason.NOT_GREETED)
        else:
            self._handle(incoming, served[0])

    def again(self, incoming: Incoming) -> None:
        """Hand over a question once more whose handler has waited for something."""
        self._handle(incoming, self._handlers[incoming.kind][0])

    def answer(self, incoming: Incoming, body: Message) -> None:
        """Answer a question; the reply has its kind."""
        frame = encode_frame(incoming.kind, incoming.request_id, body)
        if incoming.kind in self._reading:
            _, told = self._buckets_of(incoming)
            told.owe(self._core.now.monotonic_ms, len(frame))
        self._core.emit(SendReply(incoming.route, frame))

    def refuse(
        self,
        incoming: Incoming,
        reason: RejectReason,
        retry_after_ms: int = 0,
        detail: str = "",
    ) -> None:
        """Refuse a question."""
        self._core.count("refused_" + reason.value)
        body = Reject(reason.value, retry_after_ms, detail[:_DETAIL_CHARS_MAX])
        frame = encode_frame(_REJECT, incoming.request_id, body)
        self._core.emit(SendReply(incoming.route, frame))

    # --- private ---------------------------------------------------------------------------------

    def _take(self, request_id: int) -> _Pending:
        self._core.cancel_timer(("request", request_id))
        return self._pending.pop(request_id)

    def _time_out(self, request_id: int) -> None:
        pending = self._pending.pop(request_id)
        self._core.count("requests_timed_out")
        self.timed_out(pending.peer)
        detail = f"no answer to {pending.kind} in time"
        pending.on_answer(Refusal(RejectReason.TIMED_OUT, SECOND_MS, detail))

    def _send_again(self, request_id: int) -> None:
        pending = self._pending.get(request_id)
        if pending is not None:
            self._core.emit(SendRequest(pending.peer, pending.frame))

    def _hand_over(self, pending: _Pending, body: msgspec.Raw) -> None:
        try:
            pending.on_answer(body)
        except RemoteProtocolError as error:
            self._malformed(pending.peer, error)
            pending.on_answer(Refusal(RejectReason.MALFORMED, 0, "the answer cannot be read"))

    def _refusal(self, peer: bytes, frame: Frame) -> Refusal:
        try:
            said = decode(frame.body, Reject)
        except RemoteProtocolError as error:
            self._malformed(peer, error)
            return Refusal(RejectReason.MALFORMED, 0, "the refusal cannot be read")
        # Nobody makes us wait longer than who has let us down for a long time would.
        wait_ms = min(said.retry_after_ms, UNPAID_WAIT_LAST_MS)
        try:
            reason = RejectReason(said.reason)
        except ValueError:
            return Refusal(_UNKNOWN_WORD, wait_ms, said.reason)
        return Refusal(reason, wait_ms, said.detail)

    def _handle(self, incoming: Incoming, handler: Handler) -> None:
        try:
            handler(incoming)
        except RemoteProtocolError as error:
            self._malformed(incoming.peer, error)
            self.refuse(incoming, RejectReason.MALFORMED, detail=str(error))

    def _malformed(self, peer: bytes, error: RemoteProtocolError) -> None:
        self._core.count("malformed")
        self.blame(peer, error.penalty, str(error))

    def _wait_ms(self, incoming: Incoming) -> int:
        """How long this asker must wait; strangers of one address share."""
        now_ms = self._core.now.monotonic_ms
        asked, told = self._buckets_of(incoming)
        wait_ms = asked.take(now_ms)
        if not wait_ms and incoming.kind in self._reading:
            wait_ms = told.take(now_ms, 0)
            if wait_ms:
                self._core.count("over_answer_bytes")
        return wait_ms

    def _buckets_of(self, incoming: Incoming) -> tuple[TokenBucket, TokenBucket]:
        """The questions of an asker, and the bytes that it was told."""
        now_ms = self._core.now.monotonic_ms
        key = (incoming.peer, "") if incoming.peer else (b"", incoming.route.address)
        buckets = self._buckets.pop(key, None)
        if buckets is None:
            buckets = (
                TokenBucket(REQUESTS_PER_SECOND, REQUESTS_BURST, now_ms),
                TokenBucket(ANSWER_BYTES_PER_SECOND, ANSWER_BYTES_BURST, now_ms),
            )
            if len(self._buckets) >= REQUEST_SOURCES_MAX:
                del self._buckets[next(iter(self._buckets))]  # the one that asked longest ago
        self._buckets[key] = buckets
        return buckets
