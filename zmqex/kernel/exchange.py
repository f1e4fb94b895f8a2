"""Peer exchange: peers tell each other whom they are connected to, by those peers' signed records.

A record travels verbatim, so nobody can speak for another; beside it stands where the teller has
reached its peer, for the many records that say "where you reached me".  What is told is a candidate
like any other.
"""

from __future__ import annotations

from typing import Final

from zmqex.dht.address import Scope, is_believable, scope_of
from zmqex.kernel.core import Core
from zmqex.kernel.events import CandidatesFound
from zmqex.kernel.links import Links
from zmqex.kernel.peers import CONNECTED
from zmqex.kernel.places import has_places
from zmqex.kernel.requests import Answer, Incoming, Refusal
from zmqex.limits import (
    EXCHANGE_EVERY_MS,
    EXCHANGE_PAGES_MAX,
    EXCHANGES_AT_ONCE_MAX,
    EXCHANGES_BARREN_MAX,
    LOG_PAGE_BYTES_MAX,
    PEERS_PAGE_MAX,
)
from zmqex.protocol.codec import decode
from zmqex.protocol.messages import Page, PeerRecord, Peers, ToldPeer
from zmqex.protocol.record import check_record

SOURCE: Final = "exchange"


class Exchange:
    """Serves `peers`, and asks it of each peer that becomes live and of one now and then."""

    def __init__(self, core: Core, links: Links) -> None:
        """Serve at once; `start` begins to ask."""
        self._core = core
        self._links = links
        self._waiting: dict[bytes, None] = {}  # live peers that have not been asked yet
        self._under_way = 0
        self._barren = 0  # exchanges in a row that told of nobody new
        links.serve("peers", self._on_asked, reading=True)
        links.on_live.append(self.ask)

    def start(self) -> None:
        """Ask somebody every few minutes."""
        self._core.call_after("exchange", EXCHANGE_EVERY_MS, self._ask_somebody)

    def ask(self, peer: bytes) -> None:
        """Ask a peer for everybody whom it knows, as soon as it is its turn."""
        self._waiting[peer] = None
        self._ask_next()

    def _ask_next(self) -> None:
        """Ask some of those who wait, unless there is nothing to be learnt.

        In a large network each of hundreds would tell the same.
        """
        if self._barren >= EXCHANGES_BARREN_MAX or not self._is_of_use():
            self._waiting, self._barren = {}, 0
        while self._waiting and self._under_way < EXCHANGES_AT_ONCE_MAX:
            peer = next(iter(self._waiting))
            del self._waiting[peer]
            self._under_way += 1
            self._ask_after(peer, b"", EXCHANGE_PAGES_MAX, 0)

    def _is_of_use(self) -> bool:
        """Whether whom we hear of could be noted, and connected."""
        room = self._links.addresses.has_room(SOURCE)
        return room and has_places(self._links.peers.values())

    def _ask_after(self, peer: bytes, after: bytes, pages: int, new: int) -> None:
        def on_answer(answer: Answer) -> None:
            if isinstance(answer, Refusal):
                self._ended()
            else:
                self._on_told(peer, decode(answer, Peers).peers, after, pages, new)

        self._links.request(peer, "peers", Page(after), on_answer)

    def _ended(self) -> None:
        self._under_way -= 1
        # Not at once: a question that cannot be asked ends while the others are being asked.
        self._core.call_after("next exchange", 0, self._ask_next)

    def _ask_somebody(self) -> None:
        self.start()
        live = sorted(self._links.live_peers())
        if live:
            self.ask(live[int.from_bytes(self._core.random(4), "big") % len(live)])

    def _on_asked(self, incoming: Incoming) -> None:
        """Live peers, a page at a time, in order of identity."""
        after = decode(incoming.body, Page).after
        told: list[ToldPeer] = []
        size = 0
        for identity in sorted(one for one in self._links.live_peers() if one > after):
            peer = self._links.peers[identity]
            # Whoever asks from afar has no use for an address of our own network.
            is_of_use = is_believable(peer.host, incoming.route.address)
            size += len(peer.raw) + len(peer.host)
            if len(told) == PEERS_PAGE_MAX or size > LOG_PAGE_BYTES_MAX:
                break
            told.append(ToldPeer(peer.raw, peer.host if is_of_use else ""))
        self._links.answer(incoming, Peers(told))

    def _on_told(
        self, teller: bytes, told: list[ToldPeer], after: bytes, pages: int, new: int
    ) -> None:
        """Dial whom a peer vouches for; whatever cannot be believed is passed over."""
        network, now_ms = self._core.settings.network, self._core.now.wall_ms
        where = self._links.peers[teller].host
        # Most of what is told is known already: its signature need not be checked again.
        connected = {
            peer.raw: peer.identity
            for peer in self._links.peers.values()
            if peer.state in CONNECTED
        }
        found, last = [], after
        for one in told:
            if one.record in connected:
                last = max(last, connected[one.record])
                continue
            record = check_record(one.record, network, now_ms)
            if not isinstance(record, PeerRecord):
                continue
            last = max(last, record.identity)
            if record.hello is None:
                continue
            host = record.hello.host or one.host
            if _may_tell(host, where):
                self._links.address_book.hear(record.identity, one.record, host)
                found.append((host, record.hello.port, SOURCE))
        new += sum(self._links.addresses.get(host, port) is None for host, port, _ in found)
        self._links.on_candidates(CandidatesFound(tuple(found)))
        if len(told) == PEERS_PAGE_MAX and pages > 1 and last > after and self._is_of_use():
            self._ask_after(teller, last, pages - 1, new)
        else:
            self._barren = 0 if new else self._barren + 1
            self._ended()


def _may_tell(host: str, where: str) -> bool:
    """Whether a peer at `where` may send us to `host`; a name may be anywhere."""
    if scope_of(host) is Scope.UNUSABLE:
        return bool(host)
    return is_believable(host, where)
