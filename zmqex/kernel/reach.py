"""Whether others reach this node: a peer is asked to dial back, and dials back when it is asked.

Dialling back knocks only at the endpoints that the asker has signed, seldom, and few at a time, so
that nobody is made to knock at others'.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from zmqex.kernel.commands import CheckReach, Command
from zmqex.kernel.core import Core
from zmqex.kernel.effects import DialBack
from zmqex.kernel.events import DialBackEnded
from zmqex.kernel.links import Links
from zmqex.kernel.peers import Peer
from zmqex.kernel.places import in_reach
from zmqex.kernel.requests import Answer, Incoming, Refusal
from zmqex.kernel.shares import subnet_of
from zmqex.limits import (
    DIAL_BACK_EVERY_MS,
    DIAL_BACK_WAIT_MS,
    DIAL_BACKS_ASKED_MAX,
    DIAL_BACKS_MAX,
    PEERS_KNOWN_MAX,
    PROXY_WAIT_MS,
)
from zmqex.protocol.codec import decode
from zmqex.protocol.identity import to_text
from zmqex.protocol.messages import DialledBack, Empty
from zmqex.reasons import RejectReason


class _Check(msgspec.Struct):
    """A question of the operator's, and what the peers have said so far."""

    client: bytes
    request_id: int
    waiting: int
    rows: list[dict[str, Any]]


class Reach:
    """Serves `dial_back`, and asks it for the operator."""

    def __init__(self, core: Core, links: Links) -> None:
        """Serve at once."""
        self._core = core
        self._links = links
        self._last_ticket = 0
        self._under_way: dict[int, tuple[Incoming, str]] = {}
        self._asked_ms: dict[bytes, int] = {}  # when each peer last asked, the longest ago first
        links.serve("dial_back", self._on_asked)

    # --- dialling back ---------------------------------------------------------------------------

    def _on_asked(self, incoming: Incoming) -> None:
        decode(incoming.body, Empty)
        peer = self._links.peers.get(incoming.peer)
        now_ms = self._core.now.monotonic_ms
        since_ms = now_ms - self._asked_ms.get(incoming.peer, now_ms - DIAL_BACK_EVERY_MS)
        if since_ms < DIAL_BACK_EVERY_MS:
            wait_ms = DIAL_BACK_EVERY_MS - since_ms
            self._links.refuse(incoming, RejectReason.RATE_LIMITED, wait_ms, "asked lately")
        elif len(self._under_way) >= DIAL_BACKS_MAX:
            self._links.refuse(incoming, RejectReason.RATE_LIMITED, DIAL_BACK_WAIT_MS)
        elif peer is None or not self._may_dial(peer):
            detail = "your record names no endpoint that could be dialled from here"
            self._links.refuse(incoming, RejectReason.UNAVAILABLE, detail=detail)
        else:
            self._dial_back(incoming, peer)

    def _may_dial(self, peer: Peer) -> bool:
        if None in (peer.record.hello, peer.record.rpc, peer.record.orders):
            return False
        return in_reach(peer.record, peer.host, proxied=self._core.settings.proxied)

    def _dial_back(self, incoming: Incoming, peer: Peer) -> None:
        self._asked_ms.pop(incoming.peer, None)
        if len(self._asked_ms) >= PEERS_KNOWN_MAX:
            del self._asked_ms[next(iter(self._asked_ms))]
        self._asked_ms[incoming.peer] = self._core.now.monotonic_ms
        self._last_ticket += 1
        record = peer.record
        places = [peer.at(end) for end in (record.hello, record.rpc, record.orders)]
        self._under_way[self._last_ticket] = incoming, places[0][0]
        self._core.emit(DialBack(self._last_ticket, record.curve_key, *places))

    def on_ended(self, event: DialBackEnded) -> None:
        """Tell the asker which of its sockets have answered."""
        incoming, host = self._under_way.pop(event.ticket)
        ports = map(_word, (event.hello, event.rpc, event.orders))
        self._links.answer(incoming, DialledBack(host, *ports))

    # --- asking for it ---------------------------------------------------------------------------

    def on_command(self, client: bytes, request_id: int, command: Command) -> bool:
        """Ask some peers to dial back; False where the command is another one."""
        if not isinstance(command, CheckReach):
            return False
        peers = self._whom_to_ask()
        check = _Check(client, request_id, len(peers), [])
        if not peers:
            self._end(check)
        wait_ms = PROXY_WAIT_MS if self._core.settings.proxied else 0
        for peer in peers:
            self._ask(check, peer, DIAL_BACK_WAIT_MS + wait_ms)
        return True

    def _whom_to_ask(self) -> list[bytes]:
        """Live peers, of different subnets as far as there are any."""
        live = sorted(self._links.live_peers())
        by_subnet = {subnet_of(self._links.peers[one].host): one for one in live}
        first = list(by_subnet.values())
        return [*first, *(one for one in live if one not in first)][:DIAL_BACKS_ASKED_MAX]

    def _ask(self, check: _Check, peer: bytes, wait_ms: int) -> None:
        def on_answer(answer: Answer) -> None:
            row: dict[str, Any] = {"peer": to_text(peer), "reason": "", "host": ""}
            if isinstance(answer, Refusal):
                row |= {"reason": answer.reason.value, "detail": answer.detail, "ports": {}}
            else:
                said = decode(answer, DialledBack)
                ports = {"hello": said.hello, "rpc": said.rpc, "orders": said.orders}
                row |= {"host": said.host, "detail": "", "ports": ports}
            check.rows.append(row)
            check.waiting -= 1
            if not check.waiting:
                self._end(check)

        self._links.request(peer, "dial_back", Empty(), on_answer, wait_ms)

    def _end(self, check: _Check) -> None:
        self._core.answer(check.client, check.request_id, {"peers": check.rows})


def _word(reached: bool) -> Literal["open", "closed"]:  # noqa: FBT001 - a word for it
    return "open" if reached else "closed"
