"""Sessions with peers: the links, what peers may ask of anybody, what the operator asks about them.

Serves `ping`, `limits` and `peers`; exchanges signed records with each new peer; answers the
operator's commands about peers.  Not for: how links are made and kept (`links`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from zmqex import limits
from zmqex.kernel.commands import AddPeer, Command, ListPeers, PingPeer, RemovePeer
from zmqex.kernel.core import Core
from zmqex.kernel.events import CandidatesFound
from zmqex.kernel.links import Links
from zmqex.kernel.peers import Peer, State
from zmqex.kernel.requests import Answer, Incoming, Refusal
from zmqex.limits import ID_PREFIX_CHARS_MIN, LOG_PAGE_BYTES_MAX, PEERS_PAGE_MAX
from zmqex.protocol.codec import decode
from zmqex.protocol.identity import from_text, to_text
from zmqex.protocol.messages import Empty, Limit, Limits, Page, PeerRecord, Peers, Pong
from zmqex.protocol.record import check_record
from zmqex.reasons import RejectReason

__all__ = ["Answer", "Incoming", "Refusal", "Sessions", "State"]

_PUBLISHED: Final = (
    ("frame_bytes", limits.FRAME_BYTES_MAX),
    ("batch_operations", limits.BATCH_OPERATIONS_MAX),
    ("orders_per_maker", limits.ORDERS_PER_MAKER_MAX),
    ("orders_per_stranger", limits.ORDERS_PER_STRANGER_MAX),
    ("orders_total", limits.ORDERS_TOTAL_MAX),
    ("order_life_ms", limits.ORDER_LIFE_MAX_MS),
    ("log_page_bytes", limits.LOG_PAGE_BYTES_MAX),
    ("log_page_batches", limits.LOG_PAGE_BATCHES_MAX),
    ("log_bytes_kept", limits.LOG_BYTES_KEPT_MAX),
    ("heads", limits.HEADS_MAX),
    ("peers", limits.PEERS_MAX),
    ("requests_per_second", limits.REQUESTS_PER_SECOND),
    ("requests_burst", limits.REQUESTS_BURST),
    ("holds_per_taker", limits.HOLDS_PER_TAKER_MAX),
)


class Sessions(Links):
    """All sessions of one node."""

    def __init__(self, core: Core) -> None:
        """Know nobody and serve at once; `start` makes our record and dials."""
        super().__init__(core)
        # Adds what the order logs know of a peer: `open_orders` and `logs`.
        self.order_view: Callable[[bytes], dict[str, Any]] = lambda _peer: {
            "open_orders": 0,
            "logs": [],
        }
        self.serve("ping", self._on_ping)
        self.serve("limits", self._on_limits)
        self.serve("peers", self._on_peers)
        self.on_live.append(self._ask_for_peers)

    # --- the operator ----------------------------------------------------------------------------

    def on_command(self, client: bytes, request_id: int, command: Command) -> bool:
        """Answer a command about peers; False where it is about something else."""
        if isinstance(command, ListPeers):
            self._core.answer(client, request_id, {"peers": self.peer_views()})
        elif isinstance(command, AddPeer):
            self._add(client, request_id, command)
        elif isinstance(command, PingPeer | RemovePeer):
            peer = self.find(command.peer)
            if isinstance(peer, RejectReason):
                self._core.refuse(client, request_id, peer, _unknown(command.peer, peer))
            elif isinstance(command, PingPeer):
                self._ping(client, request_id, peer)
            else:
                self.remove(peer)
                self._core.answer(client, request_id, {"removed": to_text(peer)})
        else:
            return False
        return True

    def find(self, text: str) -> bytes | RejectReason:
        """The peer whose id starts so; UNKNOWN_PEER, or AMBIGUOUS_ID where several do."""
        if len(text) < ID_PREFIX_CHARS_MIN:
            return RejectReason.AMBIGUOUS_ID
        wanted = text.lower()
        found = [peer for peer in self.peers if to_text(peer).startswith(wanted)]
        if len(found) == 1:
            return found[0]
        return RejectReason.AMBIGUOUS_ID if found else RejectReason.UNKNOWN_PEER

    def peer_views(self) -> list[dict[str, Any]]:
        """Every known peer as `ListPeers` shows it."""
        return [self._view(peer) for peer in self.peers.values()]

    def _view(self, peer: Peer) -> dict[str, Any]:
        now_ms, record = self._core.now.monotonic_ms, peer.record
        why = peer.why
        aside = self.set_aside_until(peer.identity)
        if aside is not None:
            why = f"skipped for {(aside[0] - now_ms) // 1_000} s: {aside[1].value}"
        ports = [
            None if end is None else end.port for end in (record.hello, record.rpc, record.orders)
        ]
        return {
            "peer": to_text(peer.identity),
            "state": peer.state.value,
            "why": why,
            "source": peer.source,
            "host": peer.host,
            "hello_port": ports[0],
            "rpc_port": ports[1],
            "orders_port": ports[2],
            "pinned": peer.pinned,
            "skew_ms": peer.skew_ms,
            "heard_ms_ago": now_ms - peer.heard_ms,
            **self.order_view(peer.identity),
        }

    def _add(self, client: bytes, request_id: int, command: AddPeer) -> None:
        try:
            identity = from_text(command.peer) if command.peer else b""
        except ValueError as error:
            self._core.refuse(client, request_id, RejectReason.MALFORMED, str(error))
            return
        where = f"{command.host}:{command.port}"
        if self.add(command.host, command.port, identity):
            self._core.answer(client, request_id, {"added": where})
        else:
            message = f"{where[:80]!r} is not an address: HOST:PORT with a port of 1 to 65535"
            self._core.refuse(client, request_id, RejectReason.MALFORMED, message)

    def _ping(self, client: bytes, request_id: int, peer: bytes) -> None:
        sent = self._core.now

        def on_answer(answer: Answer) -> None:
            if isinstance(answer, Refusal):
                message = f"{to_text(peer)[:8]} did not answer: {answer.detail or answer.reason}"
                self._core.refuse(client, request_id, answer.reason, message)
                return
            pong, now = decode(answer, Pong), self._core.now
            round_trip_ms = now.monotonic_ms - sent.monotonic_ms
            result = {
                "peer": to_text(peer),
                "round_trip_ms": round_trip_ms,
                "wall_ms": pong.wall_ms,
                "skew_ms": pong.wall_ms + round_trip_ms // 2 - now.wall_ms,
            }
            self._core.answer(client, request_id, result)

        self.request(peer, "ping", Empty(), on_answer)

    # --- peers -----------------------------------------------------------------------------------

    def _on_ping(self, incoming: Incoming) -> None:
        decode(incoming.body, Empty)
        self.answer(incoming, Pong(self._core.now.wall_ms))

    def _on_limits(self, incoming: Incoming) -> None:
        decode(incoming.body, Empty)
        self.answer(incoming, Limits([Limit(*pair) for pair in _PUBLISHED]))

    def _on_peers(self, incoming: Incoming) -> None:
        """Records of peers that are live now, a page at a time, in order of identity."""
        after = decode(incoming.body, Page).after
        records: list[bytes] = []
        size = 0
        for identity in sorted(one for one in self.live_peers() if one > after):
            raw = self.peers[identity].raw
            size += len(raw)
            if len(records) == PEERS_PAGE_MAX or size > LOG_PAGE_BYTES_MAX:
                break
            records.append(raw)
        self.answer(incoming, Peers(records))

    def _ask_for_peers(self, peer: bytes) -> None:
        self.request(peer, "peers", Page(b""), self._on_exchange)

    def _on_exchange(self, answer: Answer) -> None:
        """Dial whom a peer vouches for; whatever cannot be believed is passed over."""
        if isinstance(answer, Refusal):
            return
        network, now_ms = self._core.settings.network, self._core.now.wall_ms
        found = []
        for raw in decode(answer, Peers).records:
            record = check_record(raw, network, now_ms)
            if isinstance(record, PeerRecord) and record.hello is not None and record.hello.host:
                found.append((record.hello.host, record.hello.port, "exchange"))
        self.on_candidates(CandidatesFound(tuple(found)))


def _unknown(text: str, reason: RejectReason) -> str:
    if reason is RejectReason.UNKNOWN_PEER:
        return f"no peer is known whose id starts with {text[:60]!r}"
    if len(text) < ID_PREFIX_CHARS_MIN:
        return f"{text!r} is too short: give at least {ID_PREFIX_CHARS_MIN} characters of the id"
    return f"several peers' ids start with {text[:60]!r}: give more characters"
