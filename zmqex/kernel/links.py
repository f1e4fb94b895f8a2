"""The links to peers: who they are, whether they can be asked, and when to dial them again.

A candidate address says hello, proves an identity by its signed record, is connected over CURVE,
greeted, and is then live until it falls silent (`peers.TABLE`).
Not for: addresses without a proven peer (`addresses`); ids and deadlines of questions
(`requests`); what everybody may ask, and the operator's commands (`sessions`).
"""

from __future__ import annotations

from collections.abc import Callable

from zmqex.errors import RemoteProtocolError
from zmqex.kernel.address_book import AddressBook
from zmqex.kernel.addresses import Address, Addresses, Step
from zmqex.kernel.aside import Aside
from zmqex.kernel.core import Core
from zmqex.kernel.effects import ConnectPeer, DisconnectPeer
from zmqex.kernel.events import CandidatesFound, HelloAnswered, HelloFailed, Route, Woke
from zmqex.kernel.own_record import OwnRecord
from zmqex.kernel.peers import ASKABLE, CONNECTED, LOST, Input, Peer, State
from zmqex.kernel.places import in_reach, is_reachable, needs_hello, why_no_place
from zmqex.kernel.records import KnownPeer
from zmqex.kernel.requests import Answer, Incoming, Refusal, Requests
from zmqex.limits import (
    BAN_MS,
    PEER_NOTE_MS,
    PEERS_KNOWN_MAX,
    PENALTY_BAN,
    PENALTY_HALF_LIFE_MS,
    PROXY_WAIT_MS,
    REQUEST_DEADLINE_MS,
    SECOND_MS,
    SILENT_MS,
    TIMEOUTS_BEFORE_HELLO,
)
from zmqex.protocol.codec import decode
from zmqex.protocol.identity import short
from zmqex.protocol.messages import Endpoint, Envelope, Greet, PeerRecord
from zmqex.protocol.record import check_record
from zmqex.reasons import RejectReason


class Links:
    """All links of one node; `sessions.Sessions` adds the public services."""

    def __init__(self, core: Core) -> None:
        """Know nobody; `start` makes our record and dials."""
        self._core = core
        self._requests = requests = Requests(core)
        self.addresses = Addresses(core)
        self.address_book = AddressBook(core)
        self.peers: dict[bytes, Peer] = {}
        self._by_curve: dict[bytes, bytes] = {}
        self._removed: dict[bytes, None] = {}
        self._aside = Aside(core)
        self._own = OwnRecord(core)
        # Called at the start; with the identity whenever a peer becomes askable; after a sleep.
        self.on_start: list[Callable[[], None]] = []
        self.every_second: list[Callable[[], None]] = []
        self.topics_of: Callable[[bytes], tuple[bytes, ...]] = lambda _peer: ()
        self.on_live: list[Callable[[bytes], None]] = []
        self.after_sleep: list[Callable[[], None]] = []
        self.set_aside = self._aside.set_aside
        self.set_aside_until = self._aside.until
        self.request = requests.request
        self.serve = requests.serve
        self.again = requests.again
        self.answer = requests.answer
        self.refuse = requests.refuse
        self.on_request = requests.on_request
        self.on_reply = requests.on_reply
        self.addresses.wanted = self._needs_hello
        self.addresses.on_dead = self._forget_dead
        requests.can_ask = self.is_live
        requests.who = self.who
        requests.why_not = self._why_not
        requests.greet_again = self._greet_again
        requests.answered = self._answered
        requests.timed_out = self._timed_out
        requests.blame = self.blame
        self.serve("greet", self._on_greet, strangers=True)

    # --- life of the node ------------------------------------------------------------------------

    def start(self, known_peers: tuple[KnownPeer, ...] = ()) -> None:
        """Publish our record; dial the operator's peers and the address book."""
        self._own.publish()
        self._core.call_after("sessions", SECOND_MS, self._sweep)
        for identity, host, port in self._core.settings.static_peers:
            self.add(host, port, identity, "static")
        for known, hello in self.address_book.restore(known_peers):
            self._remember(known, hello)
        for call in self.on_start:
            call()

    def stop(self) -> None:
        """Tell everybody that we leave: a newer record without endpoints."""
        self._own.publish(leaving=True)

    def record(self) -> bytes:
        """Our own record as envelope bytes."""
        return self._own.raw

    def on_woke(self, _event: Woke) -> None:
        """Every peer must be heard anew; all are dialled at once."""
        for peer in list(self.peers.values()):
            if peer.state in CONNECTED:
                peer.step(Input.SILENT, "this machine slept or changed its network")
        self.addresses.dial_all()
        for call in self.after_sleep:
            call()

    # --- candidates ------------------------------------------------------------------------------

    def add(self, host: str, port: int, identity: bytes = b"", source: str = "operator") -> bool:
        """Pin an address that the operator named and dial it; False if it is nonsense."""
        self._removed.pop(identity, None)
        address = self.addresses.name(host, port, source, pinned=True, expected=identity)
        if address is None:
            return False
        if address.proven:
            self._removed.pop(address.proven, None)
        self.addresses.dial_now(address)
        return True

    def on_candidates(self, event: CandidatesFound) -> None:
        """Dial what discovery found, unless it is known, under way or backing off."""
        for host, port, source in event.candidates:
            address = self.addresses.name(host, port, source)
            if address is not None:
                self.addresses.dial_soon(address)

    def on_hello_failed(self, event: HelloFailed) -> None:
        """Nobody there, or nobody that speaks our language."""
        address = self.addresses.get(event.host, event.port)
        if address is not None and address.step is Step.DIALLING:
            self.addresses.failed(address, event.why)

    def on_hello_answered(self, event: HelloAnswered) -> None:
        """Check the record of whoever answered, and connect."""
        address = self.addresses.get(event.host, event.port)
        if address is None or address.step is not Step.DIALLING:
            return
        record = self._check_record(event.record)
        if isinstance(record, PeerRecord) and address.expected not in {b"", record.identity}:
            record = RejectReason.WRONG_PARTY
        if isinstance(record, RejectReason):
            self._core.count("hello_" + record.value)
            self._core.log(
                "info", "hello_refused", host=event.host, port=event.port, reason=record.value
            )
            self.addresses.failed(address, f"its record is refused: {record.value}")
            return
        self.addresses.answered(address)
        if record.identity == self._core.identity:
            address.own = True
            return
        address.proven = record.identity
        refused = self._prove(
            record, event.record, event.host, address.source, pinned=address.pinned
        )
        if refused:
            self.addresses.failed(address, refused)

    def on_record(self, raw: bytes) -> None:
        """A record from a stream: news of a peer that we know, or that it leaves."""
        try:
            claimed = decode(decode(raw, Envelope).body, PeerRecord)
        except RemoteProtocolError:
            self._core.count("malformed")
            return
        peer = self.peers.get(claimed.identity)
        same = peer is not None and claimed.sequence == peer.record.sequence
        if peer is None or same or self._is_outdated(claimed):
            return
        record = self._check_record(raw)
        if isinstance(record, RejectReason):
            self._core.count("record_" + record.value)
        elif is_reachable(record):
            if record.curve_key == peer.record.curve_key:
                peer.record, peer.raw = record, raw  # renewed at half-life
            else:
                self._prove(record, raw, peer.host, peer.source, pinned=peer.pinned)
        else:
            peer.record, peer.raw = record, raw
            if peer.state in CONNECTED or peer.state is State.STALE:
                self._close(peer, Input.LEFT, "it has left")

    # --- one peer --------------------------------------------------------------------------------

    def is_live(self, peer: bytes) -> bool:
        """Whether questions to this peer are sent."""
        known = self.peers.get(peer)
        return known is not None and known.state in ASKABLE

    def live_peers(self) -> list[bytes]:
        """Who can be asked."""
        return [peer.identity for peer in self.peers.values() if peer.state in ASKABLE]

    def heard(self, identity: bytes) -> None:
        """A sign of life that only this peer can give."""
        peer = self.peers.get(identity)
        if peer is None:
            return
        peer.heard_ms = self._core.now.monotonic_ms
        if peer.state is State.STALE:
            peer.step(Input.HEARD)
            self._became_live(peer)
        elif peer.state is State.BACKING_OFF:
            self.addresses.dial_peer(identity)

    def synced(self, identity: bytes) -> None:
        """Everything that this peer knew when it became askable has been fetched."""
        peer = self.peers.get(identity)
        if peer is not None and peer.state is State.SYNCING:
            peer.step(Input.SYNCED)

    def who(self, route: Route) -> bytes:
        """The identity that greeted over this connection, or b""."""
        return self._by_curve.get(route.curve_key, b"")

    def blame(self, identity: bytes, points: int, why: str) -> None:
        """A peer broke the rules; enough of it, and it is banned for a while."""
        peer = self.peers.get(identity)
        if peer is None or peer.state is State.BANNED:
            return
        peer.penalty, peer.blamed_ms = peer.penalty + points, self._core.now.monotonic_ms
        self._core.log("warning", "peer_blamed", peer=short(identity), points=points, why=why)
        if peer.penalty >= PENALTY_BAN:
            self._close(peer, Input.BAN, why)
            self._core.call_after(("ban", identity), BAN_MS, lambda: self._pardon(identity))

    def remove(self, identity: bytes) -> None:
        """Forget a peer, and have nothing to do with it until it is added again."""
        was = self.peers[identity].state.value
        if len(self._removed) >= PEERS_KNOWN_MAX:
            del self._removed[next(iter(self._removed))]
        self._removed[identity] = None
        self.addresses.forget_peer(identity)
        self._core.cancel_timer(("ban", identity))
        self._forget(identity)
        self.address_book.forget(identity)
        self._core.log("info", "peer_removed", peer=short(identity), was=was)

    # --- proof, connection, greeting -------------------------------------------------------------

    def _check_record(self, raw: bytes) -> PeerRecord | RejectReason:
        return check_record(raw, self._core.settings.network, self._core.now.wall_ms)

    def _prove(
        self, record: PeerRecord, raw: bytes, host: str, source: str, *, pinned: bool
    ) -> str:
        """Connect to the peer of a checked record, unless we are; or say why not."""
        identity = record.identity
        if identity in self._removed:
            return "the operator has removed this peer"
        if not is_reachable(record):
            return "it is leaving, or cannot be reached"
        peer = self.peers.get(identity)
        if peer is None:
            peer = Peer(identity, record, raw, host, source)
            if not self._make_room():
                return f"{PEERS_KNOWN_MAX} peers are known already"
            self.peers[identity] = peer
        if self._is_outdated(record):
            return "a newer record of this peer is known"
        if peer.state is State.BANNED:
            return "banned: " + peer.why
        peer.pinned = peer.pinned or pinned
        if peer.state in CONNECTED and record.curve_key == peer.record.curve_key:
            peer.record, peer.raw = record, raw  # the same, or renewed at half-life
            if source == "greet" and peer.is_elsewhere(host):
                self._look_for(peer, host)
            return ""
        peer.why = self._why_not_connect(peer, record, host, source)
        if peer.why:
            self.address_book.hear(identity, raw, host)
            return peer.why
        peer.record, peer.raw, peer.host, peer.source = record, raw, host, source
        self._connect(peer)
        return ""

    def _look_for(self, peer: Peer, host: str) -> None:
        """It greets from elsewhere: its sockets stay until its hello has answered there."""
        peer.step(Input.SILENT, f"it greets from {host} now")
        self.addresses.look_for(peer.identity, host, peer.at(peer.record.hello)[1])

    def _why_not_connect(self, peer: Peer, record: PeerRecord, host: str, source: str) -> str:
        proxied = self._core.settings.proxied
        if not (peer.pinned or in_reach(record, host, proxied=proxied)):
            return "its record names an address that it may not speak of"
        everybody = self.peers.values()
        return why_no_place(everybody, peer.identity, host, source, pinned=peer.pinned)

    def _connect(self, peer: Peer) -> None:
        """Open fresh sockets to a peer, and greet."""
        peer.step(Input.CONNECT)
        peer.timeouts = 0
        peer.greet_serial += 1  # an older greet that ends now says nothing about these sockets
        self._requests.drop(peer.identity, RejectReason.NOT_CONNECTED)
        record = peer.record
        self._note_address(peer)
        rpc, orders = peer.at(record.rpc), peer.at(record.orders)
        topics = self.topics_of(peer.identity)
        self._core.emit(ConnectPeer(peer.identity, record.curve_key, rpc, orders, topics))
        self._greet(peer, lambda: None)

    def _greet(self, peer: Peer, then: Callable[[], None]) -> None:
        peer.greet_serial += 1
        serial, sent = peer.greet_serial, self._core.now
        body = Greet(self._own.raw, sent.wall_ms)

        def on_answer(answer: Answer) -> None:
            if serial != peer.greet_serial or self.peers.get(peer.identity) is not peer:
                return
            if isinstance(answer, Refusal):
                self._not_greeted(peer, answer)
                return
            greet = decode(answer, Greet)
            self._greeted(peer, greet, sent.monotonic_ms)
            then()

        wait_ms = PROXY_WAIT_MS if self._core.settings.proxied else REQUEST_DEADLINE_MS
        self._requests.send(peer.identity, "greet", body, on_answer, wait_ms)

    def _greeted(self, peer: Peer, greet: Greet, sent_ms: int) -> None:
        now = self._core.now
        peer.round_trip_ms = now.monotonic_ms - sent_ms
        # The answerer's clock was read about half a round trip ago.
        peer.skew_ms = greet.wall_ms + peer.round_trip_ms // 2 - now.wall_ms
        peer.heard_ms, peer.timeouts = now.monotonic_ms, 0
        self.addresses.forget_peer(peer.identity, keep=self._note_address(peer))
        self._note(peer)
        if peer.state is State.GREETING:
            peer.step(Input.GREETED)
            peer.live_since_ms = now.monotonic_ms
            self._core.log("info", "peer_live", peer=short(peer.identity), host=peer.host)
            self._became_live(peer)

    def _not_greeted(self, peer: Peer, refusal: Refusal) -> None:
        if peer.state is State.GREETING:
            self._close(peer, Input.FAILED, refusal.reason.value)

    def _greet_again(self, identity: bytes, then: Callable[[], None]) -> None:
        """A peer has forgotten who we are."""
        peer = self.peers[identity]
        if peer.state in ASKABLE:
            self._greet(peer, then)

    def _became_live(self, peer: Peer) -> None:
        # Whatever it did not answer, it has just answered again.
        self._aside.take_back(peer.identity)
        for call in self.on_live:
            call(peer.identity)

    def _on_greet(self, incoming: Incoming) -> None:
        """Somebody connected to us: learn who it is, and connect back."""
        greet = decode(incoming.body, Greet)
        record = self._check_record(greet.record)
        if isinstance(record, PeerRecord):
            refused = self._why_not_greet(record, incoming.route)
            if refused is None:
                self._welcome(incoming, record, greet.record)
        else:
            refused = record
        if refused is not None:
            self._requests.refuse(incoming, refused)

    def _welcome(self, incoming: Incoming, record: PeerRecord, raw: bytes) -> None:
        route = incoming.route
        if self._by_curve.get(route.curve_key) != record.identity:
            self._forget_curve_keys(record.identity)
            while len(self._by_curve) >= PEERS_KNOWN_MAX:
                del self._by_curve[next(iter(self._by_curve))]
            self._by_curve[route.curve_key] = record.identity
        self._requests.answer(incoming, Greet(self._own.raw, self._core.now.wall_ms))
        self._prove(record, raw, route.address, "greet", pinned=False)

    def _why_not_greet(self, record: PeerRecord, route: Route) -> RejectReason | None:
        if record.curve_key != route.curve_key or record.identity == self._core.identity:
            return RejectReason.WRONG_PARTY
        if record.identity in self._removed:
            return RejectReason.DECLINED
        return RejectReason.WRONG_PARTY if self._is_outdated(record) else None

    # --- private ---------------------------------------------------------------------------------

    def _is_outdated(self, record: PeerRecord) -> bool:
        """Whether we have a newer record of that identity."""
        peer = self.peers.get(record.identity)
        return peer is not None and peer.outdates(record.sequence, self._core.now.wall_ms)

    def _note_address(self, peer: Peer) -> tuple[str, int]:
        """Remember where a proven peer can be asked for its record again."""
        host, port = peer.at(peer.record.hello)
        address = self.addresses.name(host, port, peer.source)
        if address is not None:
            address.proven = peer.identity
        return host, port

    def _note(self, peer: Peer) -> None:
        """Write down that this peer is there."""
        peer.noted_ms = self._core.now.wall_ms
        self.address_book.note(peer.identity, peer.raw, peer.host, pinned=peer.pinned)

    def _forget_dead(self, identity: bytes) -> None:
        """Nobody has answered at any address of this peer for very long."""
        peer = self.peers.get(identity)
        if peer is None or peer.state in LOST:
            self._forget(identity)
            self.address_book.forget(identity)

    def _forget(self, identity: bytes) -> None:
        self.peers.pop(identity, None)
        self._forget_curve_keys(identity)
        self._core.emit(DisconnectPeer(identity))
        self._requests.drop(identity, RejectReason.NOT_CONNECTED)

    def _close(self, peer: Peer, happened: Input, why: str) -> None:
        """Close a peer's sockets; dial it again later unless it is banned."""
        peer.step(happened, why)
        self._core.log("info", "peer_closed", peer=short(peer.identity), why=why)
        self._core.emit(DisconnectPeer(peer.identity))
        self._requests.drop(peer.identity, RejectReason.NOT_CONNECTED)
        self.addresses.dial_peer(peer.identity)

    def _pardon(self, identity: bytes) -> None:
        peer = self.peers[identity]
        peer.step(Input.PARDON)
        peer.penalty = 0
        self.addresses.dial_peer(identity, now=True)

    def _make_room(self) -> bool:
        """Whether one more peer can be remembered; forgets one that is of no use if need be."""
        if len(self.peers) < PEERS_KNOWN_MAX:
            return True
        for peer in self.peers.values():
            if peer.state in {State.CANDIDATE, State.BACKING_OFF} and not peer.pinned:
                self._forget(peer.identity)
                if not self.address_book.is_maker(peer.identity):
                    self.address_book.forget(peer.identity)
                return True
        return False

    def _remember(self, known: KnownPeer, hello: Endpoint) -> None:
        """Dial a peer of the address book."""
        host = known.host or hello.host
        address = self.addresses.name(host, hello.port, "book", pinned=known.pinned)
        if address is not None:
            address.proven = known.identity
            self.addresses.dial_soon(address)

    def _needs_hello(self, address: Address) -> bool:
        return address.proven not in self._removed and needs_hello(address, self.peers)

    def _answered(self, identity: bytes) -> None:
        self.peers[identity].timeouts = 0
        self.heard(identity)

    def _timed_out(self, identity: bytes) -> None:
        """Ask the hello socket of a peer that does not answer: it may be another process now."""
        peer = self.peers[identity]
        peer.timeouts += 1
        if peer.timeouts >= TIMEOUTS_BEFORE_HELLO and peer.state in ASKABLE:
            self.addresses.dial_peer(identity)

    def _why_not(self, identity: bytes) -> Refusal | None:
        """Why nothing of this peer is served."""
        peer = self.peers.get(identity)
        if peer is None or peer.state is not State.BANNED:
            return None
        return Refusal(RejectReason.RATE_LIMITED, BAN_MS, "banned: " + peer.why)

    def _forget_curve_keys(self, identity: bytes) -> None:
        for key in [key for key, whose in self._by_curve.items() if whose == identity]:
            del self._by_curve[key]

    def _sweep(self) -> None:
        """Once a second: who fell silent, whose blame fades, whether our record grows old."""
        now = self._core.now
        self._core.call_after("sessions", SECOND_MS, self._sweep)
        for peer in list(self.peers.values()):
            if peer.state in ASKABLE and now.monotonic_ms - peer.heard_ms >= SILENT_MS:
                peer.step(Input.SILENT, "silent")
                self._core.log("info", "peer_stale", peer=short(peer.identity))
            if peer.state is State.STALE:
                self.addresses.dial_peer(peer.identity)
            if peer.state in ASKABLE and now.wall_ms - peer.noted_ms >= PEER_NOTE_MS:
                self._note(peer)
            if peer.penalty and now.monotonic_ms - peer.blamed_ms >= PENALTY_HALF_LIFE_MS:
                peer.penalty //= 2
                peer.blamed_ms = now.monotonic_ms
        self._own.renew()
        for call in self.every_second:
            call()
