"""The kernel: one event in, effects out.  Same events and moments, same effects, same state hash.

It puts the parts together and sends each event to the one that decides.  It has no I/O, no clock,
no randomness of its own, no logging and no threads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

from zmqex.kernel.admission import Admission
from zmqex.kernel.archive import Archive
from zmqex.kernel.commands import (
    CancelOrder,
    Command,
    MatchOrder,
    PlaceOrder,
    ReplaceOrder,
    TakeOrder,
)
from zmqex.kernel.core import Core, Settings
from zmqex.kernel.desk import Desk
from zmqex.kernel.dialogue import Dialogue
from zmqex.kernel.disputes import Disputes
from zmqex.kernel.effects import Effect
from zmqex.kernel.endings import Endings
from zmqex.kernel.events import (
    AcceptDecided,
    CandidatesFound,
    ClientGone,
    CommandReceived,
    DialBackEnded,
    Event,
    FundsSeen,
    HeightSeen,
    HelloAnswered,
    HelloFailed,
    HoldAnswered,
    HoldFailed,
    HoldsForgotten,
    InvoiceCreated,
    InvoiceSeen,
    LeaseAnswered,
    LightningFailed,
    Now,
    OtherNodeSeen,
    PaymentSeen,
    PlayCredited,
    PlayPayWanted,
    Recalled,
    ReplyReceived,
    RequestReceived,
    Started,
    Stopping,
    StreamReceived,
    Tick,
    Verified,
    Woke,
)
from zmqex.kernel.evidence import Exports
from zmqex.kernel.exposure import Exposure
from zmqex.kernel.following import Following
from zmqex.kernel.lease import NOT_LEADING, Lease
from zmqex.kernel.matches import Matching
from zmqex.kernel.operator import Operator
from zmqex.kernel.orders import OwnOrders
from zmqex.kernel.play import PlayRelay
from zmqex.kernel.publisher import Publisher
from zmqex.kernel.reach import Reach
from zmqex.kernel.records import Snapshot, Trade
from zmqex.kernel.replicas import Replicas
from zmqex.kernel.sessions import Sessions
from zmqex.kernel.sides import Sides
from zmqex.kernel.taking import Taking
from zmqex.kernel.trades import Trades
from zmqex.market.instruments import BASE, Currencies
from zmqex.protocol.identity import Signer
from zmqex.reasons import RejectReason
from zmqex.trading.settlement import HTLC, SWAP
from zmqex.trading.states import State
from zmqex.trading.swap import quote_of

# Recovery takes the trades with money in flight first.
_FIRST = {State.RELEASED: 0, State.PAYING: 1, State.ROLLOVER_PAYING: 1, State.CANCELLING: 2}


class Kernel:
    """All of a node that decides."""

    def __init__(
        self, settings: Settings, signer: Signer, currencies: Currencies, restored: Snapshot
    ) -> None:
        """Put the parts together around what the journal has; nothing happens before Started."""
        self.core = core = Core(settings, signer, currencies)
        self.core.counters.update(restored.counters)
        self.sessions = Sessions(self.core)
        self.reach = Reach(self.core, self.sessions)
        self.replicas = Replicas(self.core, self.sessions)
        self.following = Following(self.core, self.sessions, self.replicas)
        self.publisher = Publisher(self.core, self.replicas, self.sessions)
        self.trades = Trades(self.core, self.sessions)
        self.orders = OwnOrders(self.core, self.trades, self.publisher)
        self.admission = Admission(self.core, self.sessions, self.trades, self.orders)
        self.taking = Taking(self.core, self.sessions, self.trades, self.orders)
        self.exports = Exports(self.core, self.replicas, self.trades, self.orders, self.taking)
        self.sides = Sides(core, self.trades, self.orders, self.admission, self.taking)
        self.maker, self.lock_buyer = self.sides.maker(None), self.sides.lock_buyer
        self.desk = Desk(
            core, self.sessions, self.replicas, self.trades, self.orders, self.taking, self.sides
        )
        self.endings = Endings(core, self.orders, self.desk)
        self.archive = Archive(core, self.trades, self.orders, self.desk, self.exports)
        self.dialogue = Dialogue(self.core, self.sessions, self.trades, self.sides)
        self.matching = Matching(self.core, self.sessions, self.replicas)
        self.operator = Operator(
            core, self.replicas, self.trades, self.orders, self.sides, self.archive
        )
        self.disputes = Disputes(self.core, self.trades, self.sides)
        self.play = PlayRelay(self.core, self.sessions)
        self.lease = Lease(self.core)
        self.admission.may_hold = self.lease.may_hold
        self.publisher.may_publish = self.lease.leads
        self.lease.on_gained += [self._rebuild_holds, self.publisher.resume]
        self.trades.why_too_much = Exposure(self.core, self.trades).why_not
        self.publisher.on_log_lost.append(self.orders.log_lost)
        self.replicas.room.dealing = lambda: [one.maker for one in self.trades.running()]
        self._restored = restored
        self._bring_back(restored)
        self._calls = self._calls_by_event()

    def _calls_by_event(self) -> dict[type[Event], Callable[[Any], None]]:
        return {
            Started: self._on_started,
            Stopping: self._on_stopping,
            Tick: lambda _event: None,
            Recalled: self.archive.on_recalled,
            Woke: self._on_woke,
            CandidatesFound: self.sessions.on_candidates,
            HelloAnswered: self.sessions.on_hello_answered,
            HelloFailed: self.sessions.on_hello_failed,
            DialBackEnded: self.reach.on_ended,
            RequestReceived: self.sessions.on_request,
            ReplyReceived: self.sessions.on_reply,
            StreamReceived: self.replicas.on_stream,
            Verified: self.replicas.on_verified,
            AcceptDecided: self.admission.on_accept_decided,
            HoldAnswered: self.admission.on_hold_answered,
            HoldFailed: self.admission.on_hold_failed,
            HoldsForgotten: self._on_holds_forgotten,
            LeaseAnswered: self.lease.on_answered,
            PlayPayWanted: self.play.on_wanted,
            PlayCredited: self.play.on_credited,
            InvoiceCreated: self._on_lightning,
            InvoiceSeen: self._on_lightning,
            PaymentSeen: self._on_lightning,
            LightningFailed: self._on_lightning,
            HeightSeen: self._on_height,
            FundsSeen: self._on_funds,
            OtherNodeSeen: self._on_other_node,
            CommandReceived: self._on_command,
            ClientGone: self.endings.on_client_gone,
        }

    def _bring_back(self, restored: Snapshot) -> None:
        self.trades.restore(restored)
        self.orders.restore(restored.orders)
        self.desk.keys.restore(restored.commands)
        self.archive.restore(restored)

    def missing_networks(self) -> list[str]:
        """The quotes over whose Lightning networks trades are running, and that we do not have."""
        wanted = {quote_of(one.market) for one in self.trades.running() if one.settlement == SWAP}
        return sorted(quote for quote in wanted if self.core.settings.backend(quote) is None)

    def lost_nodes(self) -> list[tuple[Trade, str, bytes]]:
        """Running trades that hang on a Lightning node that is not ours any more, and on which.

        The node is given by its asset and its identity.  `Started` makes disputes of these trades.
        """
        found = ((trade, self.trades.lost_node(trade)) for trade in self.trades.running())
        return [(trade, *lost) for trade, lost in found if lost]

    def handle(self, event: Event, now: Now) -> list[Effect]:
        """Everything that follows from an event at a moment, timers that were due included.

        The caller carries the effects out in order: `Persist` is first, and the REVEALING ones
        wait for its commit.  Then ask `next_deadline_ms` when to send a Tick.
        """
        self.core.begin(now)
        self.core.run_timers()
        self._calls[type(event)](event)
        self.publisher.flush()
        return self.core.finish()

    def next_deadline_ms(self) -> int | None:
        """The monotonic time at which a Tick is wanted, or None."""
        return self.core.next_deadline_ms()

    def peer_counts(self) -> dict[str, int]:
        """How many peers are connected, and how many are known."""
        return {
            "live": len(self.sessions.live_peers()),
            "known": len(self.sessions.peer_views()),
        }

    def state_hash(self) -> bytes:
        """A digest of everything durable: equal for equal histories."""
        hasher = hashlib.blake2b(digest_size=32)
        encoder = msgspec.msgpack.Encoder()
        for _key, row in sorted(self.orders.rows.items()):
            hasher.update(encoder.encode(row))
        for _key, trade in sorted(self.trades.by_id.items()):
            hasher.update(encoder.encode(trade))
        for market in self.replicas.markets():
            hasher.update(self.replicas.book(market).state_hash())
        hasher.update(encoder.encode(sorted(self.core.counters.items())))
        return hasher.digest()

    # --- the life of a node --------------------------------------------------------------------

    def _on_started(self, _event: Started) -> None:
        restored, self._restored = self._restored, Snapshot()
        self.replicas.forks.restore(restored.forks)
        self.publisher.restore(restored.batches, restored.checkpoints)
        self._rebuild_holds()
        self.desk.resume()
        running = sorted(self.trades.running(), key=lambda one: _FIRST.get(one.state, 3))
        lost = [trade for trade, _, _ in self.lost_nodes()]
        for trade in running:
            if trade not in lost:
                self.sides.of(trade).resume(trade)
        self.maker.tombstones.resume()
        self.orders.resume()
        for trade in lost:
            self.disputes.node_lost(trade)
        self.endings.resume()
        self.archive.resume()
        self.sessions.start(restored.peers)
        self.trades.resume()
        self.core.log(
            "info", "kernel_started", orders=len(self.orders.rows), running_trades=len(running)
        )

    def _on_stopping(self, _event: Stopping) -> None:
        self.sessions.stop()

    def _rebuild_holds(self) -> None:
        """Not while another copy may run: what the hold server has then is the other's."""
        if self.lease.leads():
            self.admission.rebuild_holds()

    def _on_holds_forgotten(self, _event: HoldsForgotten) -> None:
        if self.lease.leads():
            self.core.log("warning", "holds_forgotten")
            self.core.count("holds_forgotten")
        self._rebuild_holds()

    def _on_woke(self, event: Woke) -> None:
        self.lease.on_woke()
        self.sessions.on_woke(event)

    # --- Lightning -----------------------------------------------------------------------------

    def _on_lightning(
        self, event: InvoiceCreated | InvoiceSeen | PaymentSeen | LightningFailed
    ) -> None:
        if self._is_outdated(event):
            self.core.count("outdated_payment_word")
            return
        if isinstance(event, InvoiceCreated | LightningFailed) and self.admission.on_lightning(
            event
        ):
            return
        payment_hash = event.payment_hash
        trade = self.trades.by_hash(payment_hash)
        if trade is None and self.trades.recall(
            "hash", payment_hash, lambda: self._on_lightning(event)
        ):
            return
        if trade is None or not _concerns(trade, event.asset):
            self.core.count("lightning_event_without_trade")
            return
        asking = self.sides.lock_seller.is_asking(trade)
        if trade.state is State.DISPUTED and trade.settlement != SWAP and not asking:
            self.disputes.on_lightning(trade, event)
            trade = self.trades.by_id[trade.trade_id]
            if trade.state is State.DISPUTED and trade.settlement == HTLC:
                self.sides.rollover(trade).while_disputed(trade, event)
            return
        side = self.sides.of(trade)
        match event:
            case InvoiceCreated():
                side.on_invoice_created(trade, event)
            case InvoiceSeen():
                side.on_invoice_seen(trade, event)
            case PaymentSeen():
                side.on_payment_seen(trade, event)
            case _:
                side.on_lightning_failed(trade, event)

    def _is_outdated(
        self, event: InvoiceCreated | InvoiceSeen | PaymentSeen | LightningFailed
    ) -> bool:
        """Whether a look-up says of a payment that it is not, from before it was made.

        Calls about one hash are answered in their order, so what comes before the answer to the
        call to pay was asked before it.
        """
        key = event.payment_hash, event.asset
        match event:
            case PaymentSeen(call="pay") | LightningFailed(call="pay"):
                self.core.paying.discard(key)
                return False
            case PaymentSeen(state="none" | "failed"):
                return key in self.core.paying
            case _:
                return False

    def _on_height(self, event: HeightSeen) -> None:
        if event.asset == BASE:
            self.core.height = event.height
            self.lock_buyer.on_height()

    def _on_funds(self, event: FundsSeen) -> None:
        if event.asset == BASE:
            self.core.spendable_msat = event.spendable_msat

    def _on_other_node(self, event: OtherNodeSeen) -> None:
        """Nothing that hangs on our node goes on before it is back; its operator is told why."""
        if event.node:
            self.core.other_nodes[event.asset] = event.node
            facts = {"asset": event.asset, "node": event.node.hex()}
            self.core.log("error", "other_lightning_node", **facts)
        else:
            self.core.other_nodes.pop(event.asset, None)
            self.core.log("warning", "lightning_node_back", asset=event.asset)

    # --- the operator --------------------------------------------------------------------------

    def _on_command(self, event: CommandReceived) -> None:
        if not self.archive.fetch_for(event.command, lambda: self._command(event)):
            self._command(event)

    def _command(self, event: CommandReceived) -> None:
        client, request_id, command = event.client, event.request_id, event.command
        match command:
            case PlaceOrder() | ReplaceOrder() | TakeOrder() if not self.lease.leads():
                self.core.refuse(client, request_id, RejectReason.UNAVAILABLE, NOT_LEADING)
            case PlaceOrder():
                self.desk.place(client, request_id, command)
            case TakeOrder():
                self.desk.take(client, request_id, command)
            case ReplaceOrder():
                self.desk.replace(client, request_id, command)
            case CancelOrder():
                self.desk.cancel(client, request_id, command)
            case MatchOrder():
                self.matching.on_command(client, request_id, command)
            case _:
                self._offer(client, request_id, command)

    def _offer(self, client: bytes, request_id: int, command: Command) -> None:
        """Ask the parts one after the other whose command it is."""
        trade = (self.operator, self.disputes, self.exports)
        parts = (*trade, self.sessions, self.reach, self.replicas)
        if not any(part.on_command(client, request_id, command) for part in parts):
            message = "this node does not know that command; its version may be older"
            self.core.refuse(client, request_id, RejectReason.UNKNOWN_KIND, message)


def _concerns(trade: Trade, asset: str) -> bool:
    """Whether anything of a trade moves over the network of this asset."""
    return asset == BASE or (trade.settlement == SWAP and asset == quote_of(trade.market))
