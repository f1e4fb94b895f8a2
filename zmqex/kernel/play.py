"""Play money between peers: the payer's request, the payee's answer, and who may ask.

The play backends decide and keep the balances; this carries their words over the authenticated
connection, and makes sure that a peer pays in its own name only.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from zmqex.errors import RemoteProtocolError
from zmqex.kernel.core import Core
from zmqex.kernel.effects import CreditPlay, PlayPayEnded
from zmqex.kernel.events import PlayCredited, PlayPayWanted
from zmqex.kernel.requests import Incoming, Refusal
from zmqex.kernel.sessions import Sessions
from zmqex.limits import PLAY_PAYMENTS_AT_ONCE_MAX
from zmqex.protocol.codec import decode
from zmqex.protocol.play_messages import PlayPaid, PlayPay
from zmqex.reasons import RejectReason


class PlayRelay:
    """Carries play payments in both directions."""

    def __init__(self, core: Core, sessions: Sessions) -> None:
        """Serve `play_pay` on the network `play`, and on no other."""
        self._core = core
        self._sessions = sessions
        self._asked: dict[int, Incoming] = {}
        self._tickets = 0
        if core.settings.network == "play":
            sessions.serve("play_pay", self._on_play_pay)

    def on_wanted(self, event: PlayPayWanted) -> None:
        """Our backend pays: ask the peer that owns the payee's key."""
        peer = self._sessions.peer_of_node(event.payee_node)
        if peer is None:
            self._core.emit(PlayPayEnded(event.ticket, None, ""))
            return
        body = PlayPay(event.payment_hash, event.amount_msat, event.payer_node, event.asset)
        self._sessions.request(
            peer, "play_pay", body, lambda answer: self._answered(event.ticket, answer)
        )

    def _answered(self, ticket: int, answer: msgspec.Raw | Refusal) -> None:
        if isinstance(answer, Refusal):
            # Only the payee's own word ends a payment; everything else is "no answer".
            self._core.emit(PlayPayEnded(ticket, None, ""))
            return
        paid = decode(answer, PlayPaid)
        refused = paid.state == "refused"
        reason = paid.reason if refused else ""
        self._core.emit(PlayPayEnded(ticket, None if refused else paid.preimage, reason))

    def _on_play_pay(self, incoming: Incoming) -> None:
        wanted = decode(incoming.body, PlayPay)
        payer = self._sessions.peers.get(incoming.peer)
        if payer is None:  # it has greeted and was not kept: it is leaving, or there was no room
            self._sessions.refuse(incoming, RejectReason.NOT_GREETED)
            return
        # By its own record: another peer that claims the same key must not stand in its way.
        if payer.record.lightning_node != wanted.payer_node:
            message = "a peer pays with its own key only"
            raise RemoteProtocolError(message)
        if self._core.settings.backend(wanted.asset) is None:
            self._sessions.refuse(incoming, RejectReason.UNAVAILABLE)  # not final: it may come back
            return
        if len(self._asked) >= PLAY_PAYMENTS_AT_ONCE_MAX:
            self._sessions.refuse(incoming, RejectReason.RATE_LIMITED, 1_000)
            return
        self._tickets += 1
        self._asked[self._tickets] = incoming
        self._core.emit(
            CreditPlay(
                self._tickets,
                wanted.payment_hash,
                wanted.amount_msat,
                wanted.payer_node,
                wanted.asset,
            )
        )

    def on_credited(self, event: PlayCredited) -> None:
        """Our backend has answered: tell the payer."""
        incoming = self._asked.pop(event.ticket)
        state: Literal["settled", "held", "refused"] = "settled"
        if not event.preimage:
            state = "refused" if event.reason else "held"
        self._sessions.answer(incoming, PlayPaid(state, event.preimage, event.reason or state))
