"""Sessions with peers: the links, what peers may ask of anybody, what the operator asks about them.

Serves `ping` and `limits`; answers the operator's commands about peers and candidates.
Not for: how links are made and kept (`links`); whom peers tell of (`exchange`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from zmqex import limits
from zmqex.kernel.addresses import Address
from zmqex.kernel.commands import (
    AddPeer,
    Command,
    ListCandidates,
    ListPeers,
    PingPeer,
    RemovePeer,
)
from zmqex.kernel.core import Core
from zmqex.kernel.exchange import Exchange
from zmqex.kernel.links import Links
from zmqex.kernel.peers import ASKABLE, LOST, Peer, State
from zmqex.kernel.records import KnownPeer
from zmqex.kernel.requests import Answer, Incoming, Refusal
from zmqex.limits import ID_PREFIX_CHARS_MIN
from zmqex.protocol.codec import decode
from zmqex.protocol.identity import from_text, to_text
from zmqex.protocol.messages import Empty, Limit, Limits, Pong
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
    ("log_bytes_kept", limits.LOG_BYTES_KEPT_MIN),
    ("heads", limits.HEADS_MAX),
    ("peers", limits.PEERS_MAX),
    ("requests_per_second", limits.REQUESTS_PER_SECOND),
    ("requests_burst", limits.REQUESTS_BURST),
    ("answer_bytes_per_second", limits.ANSWER_BYTES_PER_SECOND),
    ("answer_bytes_burst", limits.ANSWER_BYTES_BURST),
    ("stream_messages_per_second", limits.STREAM_MESSAGES_PER_SECOND),
    ("stream_messages_burst", limits.STREAM_MESSAGES_BURST),
    ("stream_operations_per_second", limits.STREAM_OPERATIONS_PER_SECOND),
    ("stream_operations_burst", limits.STREAM_OPERATIONS_BURST),
    ("stream_bytes_per_second", limits.STREAM_BYTES_PER_SECOND),
    ("stream_bytes_burst", limits.STREAM_BYTES_BURST),
    ("holds_per_taker", limits.HOLDS_PER_TAKER_MAX),
    ("holds_per_address", limits.HOLDS_PER_ADDRESS_MAX),
)


class Sessions(Links):
    """All sessions of one node."""

    def __init__(self, core: Core) -> None:
        """Know nobody and serve at once; `start` makes our record and dials."""
        super().__init__(core)
        # What the order logs know of a peer (`open_orders` and `logs`), and of all makers.
        self.order_view: Callable[[bytes], dict[str, Any]] = lambda _peer: {
            "open_orders": 0,
            "logs": [],
        }
        self.maker_views: Callable[[], list[dict[str, Any]]] = list
        self.serve("ping", self._on_ping)
        self.serve("limits", self._on_limits)
        self._exchange = Exchange(core, self)

    def start(self, known_peers: tuple[KnownPeer, ...] = ()) -> None:
        """Publish our record; dial the operator's peers and the address book."""
        super().start(known_peers)
        self._exchange.start()

    def peer_of_node(self, node_key: bytes) -> bytes | None:
        """The peer that pays and is paid by this Lightning node, as its record says."""
        for peer in self.peers.values():
            if peer.record.lightning_node == node_key:
                return peer.identity
        return None

    def known_for_ms(self, identity: bytes) -> int:
        """For how long a peer has been connected without a break."""
        peer = self.peers.get(identity)
        live = peer is not None and peer.state in ASKABLE
        return self._core.now.monotonic_ms - peer.live_since_ms if peer and live else 0

    # --- the operator ----------------------------------------------------------------------------

    def on_command(self, client: bytes, request_id: int, command: Command) -> bool:
        """Answer a command about peers; False where it is about something else."""
        if isinstance(command, ListPeers):
            result = {"peers": self.peer_views(), "makers": self.maker_views()}
            self._core.answer(client, request_id, result)
        elif isinstance(command, ListCandidates):
            rows = [self._candidate_view(one) for one in self.addresses.all()]
            self._core.answer(client, request_id, {"candidates": rows})
        elif isinstance(command, AddPeer):
            self._add(client, request_id, command)
        elif isinstance(command, PingPeer | RemovePeer):
            peer = self.find(command.peer)
            if isinstance(peer, RejectReason):
                self._core.refuse(client, request_id, peer, unknown_peer(command.peer, peer))
            elif isinstance(command, PingPeer):
                self._ping(client, request_id, peer)
            else:
                self.remove(peer)
                self._core.answer(client, request_id, {"removed": to_text(peer)})
        else:
            return False
        return True

    def lost_peers(self) -> list[bytes]:
        """Peers that are wanted and cannot be asked now: their address may have changed."""
        named = [identity for identity, _, _ in self._core.settings.static_peers if identity]
        known = [peer.identity for peer in self.peers.values() if peer.state in LOST]
        return [one for one in dict.fromkeys([*named, *known]) if not self.is_live(one)]

    def knows_anybody(self) -> bool:
        """Whether there is any peer, or any address where one might be."""
        return bool(self.peers) or any(not one.own for one in self.addresses.all())

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

    def _candidate_view(self, address: Address) -> dict[str, Any]:
        """An address, and how we stand with the peer that it has proven."""
        view = self.addresses.view(address)
        peer = self.peers.get(address.proven)
        if peer is not None:
            view["state"] = peer.state.value
            view["why"] = peer.why or address.why
        return {**view, "peer": to_text(address.proven) if address.proven else ""}

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


def unknown_peer(text: str, reason: RejectReason) -> str:
    """The sentence for a peer that `Sessions.find` could not resolve."""
    if reason is RejectReason.UNKNOWN_PEER:
        return f"no peer is known whose id starts with {text[:60]!r}"
    if len(text) < ID_PREFIX_CHARS_MIN:
        return f"{text!r} is too short: give at least {ID_PREFIX_CHARS_MIN} characters of the id"
    return f"several peers' ids start with {text[:60]!r}: give more characters"
