"""What crosses an order: in this node's book, and asked from peers.

Serves peers' `matches` requests and the operator's MatchOrder.  It only reads.
"""

from __future__ import annotations

from typing import Any

import msgspec

from zmqex.errors import RemoteProtocolError
from zmqex.kernel.commands import MatchOrder
from zmqex.kernel.core import Core
from zmqex.kernel.replicas import FoundOrder, Replicas
from zmqex.kernel.sessions import Incoming, Refusal, Sessions
from zmqex.kernel.views import id_problem
from zmqex.limits import DAY_MS, MATCH_DEADLINE_MS, MATCH_PEERS_MAX, MATCHES_MAX
from zmqex.market.matching import plan
from zmqex.market.orders import BookOrder, IncomingOrder, OrderFlags, Side
from zmqex.protocol.codec import decode
from zmqex.protocol.identity import to_text
from zmqex.protocol.messages import Match, Matches, MatchesRequest, Order
from zmqex.reasons import RejectReason
from zmqex.trading.settlement import PLAIN

_SIDES = tuple(Side)


class Question(msgspec.Struct):
    """One MatchOrder that waits for peers' answers."""

    client: bytes
    request_id: int
    waiting: set[bytes]
    found: dict[str, dict[str, Any]]
    unanswered: list[dict[str, str]]


class Matching:
    """Answers what would be filled."""

    def __init__(self, core: Core, sessions: Sessions, replicas: Replicas) -> None:
        """Serve `matches` from now on."""
        self._core = core
        self._sessions = sessions
        self._replicas = replicas
        sessions.serve("matches", self._on_matches, reading=True)

    def _on_matches(self, incoming: Incoming) -> None:
        order = decode(incoming.body, MatchesRequest).order
        if order.market not in self._core.settings.markets:
            self._sessions.refuse(incoming, RejectReason.WRONG_MARKET)
            return
        # A stranger may take our own orders as well, so only its own are left out.
        found = self._crossing(order, incoming.peer)
        self._sessions.answer(incoming, Matches(found))

    def _crossing(self, order: Order, owner: bytes) -> list[Match]:
        incoming = IncomingOrder(
            owner=bytes(32),
            side=order.side,
            price_ticks=order.price_ticks,
            quantity_lots=order.quantity_lots,
            minimum_lots=min(order.minimum_lots, order.quantity_lots),
            flags=order.flags & OrderFlags.ALL_OR_NONE,
            expires_at_ms=self._core.now.wall_ms + DAY_MS,
        )

        def usable(resting: BookOrder) -> bool:
            return resting.maker != owner and not self._replicas.is_stale(resting.maker)

        planned = plan(
            self._replicas.book(order.market), incoming, self._core.now.wall_ms, usable=usable
        )
        return [
            Match(fill.order_id, fill.maker, fill.quantity_lots, fill.price_ticks)
            for fill in planned.fills[:MATCHES_MAX]
        ]

    # --- the operator's question ---------------------------------------------------------------

    def on_command(self, client: bytes, request_id: int, command: MatchOrder) -> None:
        """List what crosses an order, best first; peers have a second to answer."""
        order = self._order_of(client, request_id, command)
        if order is None:
            return
        question = Question(client, request_id, set(), {}, [])
        self._add(question, "book", order, self._crossing(order, self._core.identity))
        peers = self._sessions.live_peers()[:MATCH_PEERS_MAX] if command.ask_peers else []
        question.waiting.update(peers)
        for peer in peers:
            self._ask(question, peer, order)
        if not peers:
            self._answer(question, order.side)

    def _order_of(self, client: bytes, request_id: int, command: MatchOrder) -> Order | None:
        if command.order_id:
            found = self._replicas.find(command.order_id)
            if isinstance(found, FoundOrder):
                return found.order
            problem = id_problem(command.order_id, found, "order in the book")
            self._core.refuse(client, request_id, *problem)
            return None
        sound = command.side in _SIDES and command.quantity_lots > 0 and command.price_ticks > 0
        if command.market not in self._core.settings.markets or not sound:
            message = "the order to match needs a market of this node, side, quantity and price"
            self._core.refuse(client, request_id, RejectReason.MALFORMED, message)
            return None
        return Order(
            market=command.market,
            side=Side(command.side),
            price_ticks=command.price_ticks,
            quantity_lots=command.quantity_lots,
            minimum_lots=1,
            time_in_force="gtc",
            flags=0,
            expires_at_ms=self._core.now.wall_ms + DAY_MS,
            settlements=(PLAIN,),
            payment_methods=(),
            nonce=bytes(16),
        )

    def _ask(self, question: Question, peer: bytes, order: Order) -> None:
        self._sessions.request(
            peer,
            "matches",
            MatchesRequest(order),
            lambda answer: self._answered(question, peer, order, answer),
            MATCH_DEADLINE_MS,
        )

    def _answered(
        self, question: Question, peer: bytes, order: Order, answer: msgspec.Raw | Refusal
    ) -> None:
        reason = None
        if isinstance(answer, Refusal):
            reason = answer.reason
        else:
            try:
                self._add(question, to_text(peer), order, decode(answer, Matches).matches)
            except RemoteProtocolError:
                reason = RejectReason.MALFORMED
        if reason is not None:
            question.unanswered.append({"peer": to_text(peer), "reason": reason.value})
        question.waiting.discard(peer)
        if not question.waiting:
            self._answer(question, order.side)

    def _add(self, question: Question, source: str, order: Order, matches: list[Match]) -> None:
        worst = order.price_ticks
        for match in matches:
            price = match.price_ticks
            crosses = price <= worst if order.side == Side.BUY else price >= worst
            if match.maker == self._core.identity or not crosses:
                continue  # nobody takes from himself, and a peer may say anything
            ours = self._replicas.row(match.order_id)
            question.found.setdefault(
                match.order_id.hex(),
                {
                    "order_id": match.order_id.hex(),
                    "maker": to_text(match.maker),
                    "quantity_lots": match.quantity_lots,
                    "price_ticks": match.price_ticks,
                    "source": source,
                    "settlements": list(ours.order.settlements) if ours else [],
                },
            )

    def _answer(self, question: Question, side: str) -> None:
        best_first = sorted(
            question.found.values(),
            key=lambda match: match["price_ticks"] * (1 if side == "buy" else -1),
        )
        result = {"matches": best_first, "unanswered": question.unanswered}
        self._core.answer(question.client, question.request_id, result)
