"""Whose order streams we listen to: everybody's, or in a large network those of a few who relay.

With more live peers than `follow_all_max` a node listens to a random dozen of them, from as many
sources as there are, and passes on what it accepts, so that everything reaches everybody over a few
hops.  Of the others it hears their own heartbeats, so that what nobody relays of them is noticed,
and fetched.
Not for: what is passed on (`replicas`), or who can be asked questions: that is every peer.
"""

from __future__ import annotations

import hashlib
from typing import Final

from zmqex.kernel.claims import HEARTBEAT_TOPIC, PROOF_TOPIC, RELAYED_TOPIC
from zmqex.kernel.core import Core
from zmqex.kernel.effects import FollowPeer
from zmqex.kernel.own_record import RECORD_TOPIC
from zmqex.kernel.peers import Peer
from zmqex.kernel.replicas import Replicas
from zmqex.kernel.sessions import Sessions
from zmqex.limits import FOLLOWED
from zmqex.protocol.log import topic

_RANK_BYTES: Final = 8


class Following:
    """Decides once a second, and when a peer is connected."""

    def __init__(self, core: Core, sessions: Sessions, replicas: Replicas) -> None:
        """Listen to everybody until there are too many."""
        self._core = core
        self._sessions = sessions
        self._replicas = replicas
        self._own_words = (HEARTBEAT_TOPIC, RECORD_TOPIC)
        self._all = (
            *self._own_words,
            RELAYED_TOPIC,
            PROOF_TOPIC,
            *map(topic, core.settings.markets),
        )
        self.chosen: dict[bytes, None] = {}
        self._told: dict[bytes, tuple[bytes, ...]] = {}
        sessions.topics_of = self._topics_at_connect
        sessions.every_second.append(self.decide)

    def topics(self, peer: bytes) -> tuple[bytes, ...]:
        """What we listen to of a peer; its own heartbeats and records always."""
        everything = peer in self.chosen or not self._replicas.relaying
        return self._all if everything else self._own_words

    def decide(self) -> None:
        """Choose anew where need be, and say what has changed."""
        live = {one: self._sessions.peers[one] for one in self._sessions.live_peers()}
        most = self._core.settings.follow_all_max
        # Some fewer to go back: a peer that comes and goes at the border changes nothing.
        self._replicas.relaying = len(live) > (most * 3 // 4 if self._replicas.relaying else most)
        if self._replicas.relaying:
            self._choose(live)
        else:
            self.chosen = {}
        self._told = {one: topics for one, topics in self._told.items() if one in live}
        for peer in live:
            topics = self.topics(peer)
            if self._told.setdefault(peer, topics) != topics:
                self._told[peer] = topics
                self._core.emit(FollowPeer(peer, topics))

    def _topics_at_connect(self, peer: bytes) -> tuple[bytes, ...]:
        self._told[peer] = topics = self.topics(peer)
        return topics

    def _choose(self, live: dict[bytes, Peer]) -> None:
        self.chosen = {one: None for one in self.chosen if one in live}
        others = [peer for one, peer in live.items() if one not in self.chosen]
        self.chosen.update((one.identity, None) for one in others if one.pinned)
        room = FOLLOWED - len(self.chosen)
        if room > 0:
            others = [one for one in others if not one.pinned]
            self.chosen.update((one, None) for one in self._mixed(others)[:room])

    def _mixed(self, peers: list[Peer]) -> list[bytes]:
        """By chance, one of each source in turn: no source can choose whom we listen to."""
        key = self._core.random(32)
        by_source: dict[str, list[bytes]] = {}
        for peer in peers:
            by_source.setdefault(peer.source, []).append(peer.identity)

        def rank(name: bytes) -> bytes:
            return hashlib.blake2b(name, key=key, digest_size=_RANK_BYTES).digest()

        queues = [sorted(by_source[one], key=rank) for one in sorted(by_source)]
        queues.sort(key=lambda queue: rank(queue[0]))
        longest = max(map(len, queues), default=0)
        return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]
