"""The trades of a node: moved by the table only, written down with every word that was said.

Shared by the maker's and the taker's side.  Each change raises the revision by one and is
persisted in the same event as the messages that tell the other party of it (the outbox), so a
crash at any point loses neither or both.  Not for deciding what to do next.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from zmqex.errors import LocalProtocolError
from zmqex.kernel import own_nodes
from zmqex.kernel.core import Core
from zmqex.kernel.names import Names
from zmqex.kernel.records import (
    ArchiveTrade,
    DropOutbox,
    DropTrade,
    OutboxLine,
    PutLine,
    PutOutbox,
    PutTrade,
    Snapshot,
    Trade,
    TradeLine,
)
from zmqex.kernel.sessions import Refusal, Sessions
from zmqex.limits import RETRY_FIRST_MS, RETRY_LAST_MS
from zmqex.protocol.codec import decode_envelope, decode_trade_message, encode
from zmqex.protocol.identity import digest
from zmqex.protocol.messages import AnyTradeMessage, TradeMessage, TradeSaid
from zmqex.reasons import RejectReason
from zmqex.trading.states import TERMINAL, Claim, Input, State, TradeRole
from zmqex.trading.tables import claim, step

# Refusals after which the same message may be accepted later.
_TRY_AGAIN = frozenset(
    {
        RejectReason.TIMED_OUT,
        RejectReason.NOT_CONNECTED,
        RejectReason.NOT_GREETED,
        RejectReason.RATE_LIMITED,
        RejectReason.STARTING,
        RejectReason.UNAVAILABLE,
    }
)

# What our operator alone decides.
_WITHOUT_NODE = frozenset({Input.NODE_LOST, Input.RESOLVE_SETTLED})

_PAID = frozenset({Input.BASE_SETTLED, Input.RECEIVED, Input.PAY_SUCCEEDED})


WhyTooMuch = Callable[[Trade, Sequence[Trade]], RejectReason | None]


class Trades:
    """All trades by id, their transcripts and the messages still to be delivered."""

    def __init__(self, core: Core, sessions: Sessions) -> None:
        """Start empty; `restore` brings back what the journal has."""
        self._core = core
        self._sessions = sessions
        self.by_id: dict[bytes, Trade] = {}
        self.lines: dict[bytes, dict[bytes, TradeLine]] = {}
        self._running: dict[bytes, None] = {}
        # Whose Lightning node was lost while we were down: ours stay the same as long as we run.
        self._lost: set[bytes] = set()
        self._held: dict[bytes, dict[bytes, int]] = {}  # order -> its trades that hold -> lots
        self._by_order: dict[bytes, dict[bytes, None]] = {}
        self._by_hash: dict[bytes, bytes] = {}
        self._hashes: dict[bytes, list[bytes]] = {}  # trade id -> its hashes, now and formerly
        self._times: list[tuple[int, bytes]] = []  # when each began, in order
        self._outbox: dict[bytes, dict[bytes, OutboxLine]] = {}
        self._sending: dict[bytes, int] = {}  # trade id -> repeats of its first outbox message
        # Why a trade is more than the operator allows, beside others that are not known yet.
        self.why_too_much: WhyTooMuch = lambda _trade, _waiting: None
        self.capacity: Callable[[bytes], int] = lambda _order_id: 0
        self.on_moved: list[Callable[[Trade, Trade], None]] = []
        # What has left memory, and who has settled with us there; `recall` has the journal bring
        # what may be there, calls back, and is False where nothing is (archive.py).
        self.archived = Names()
        self.friends: set[bytes] = set()
        self.recall: Callable[[str, bytes, Callable[[], None]], bool] = lambda *_: False
        # A message of ours was refused for good, or built on such a one.
        self.on_refused: list[Callable[[Trade, TradeMessage, RejectReason], None]] = []
        sessions.on_live.append(self._peer_is_live)

    @property
    def money(self) -> str:
        """What is traded here: "play money" or what else."""
        return self._core.money

    # --- looking -------------------------------------------------------------------------------

    def of_order(self, order_id: bytes) -> list[Trade]:
        """The trades in which an order is taken or takes, oldest first."""
        return [self.by_id[trade_id] for trade_id in self._by_order.get(order_id, ())]

    def our_side(self, trade: Trade) -> str:
        """What we do with the base currency in a trade: "buy" or "sell"."""
        return trade.side if trade.role is TradeRole.MAKER else other_side(trade.side)

    def counterparty(self, trade: Trade) -> bytes:
        """The other party's identity."""
        return trade.taker if trade.role is TradeRole.MAKER else trade.maker

    def claim_of(self, trade: Trade) -> Claim:
        """What a trade of ours as maker claims of its order."""
        return claim(trade.settlement, self.our_side(trade), trade.state, hold_ended=trade.late)

    def by_hash(self, payment_hash: bytes) -> Trade | None:
        """The trade in memory that a payment hash belongs to, now or formerly."""
        trade_id = self._by_hash.get(payment_hash)
        return None if trade_id is None else self.by_id[trade_id]

    def is_foreign_hash(self, payment_hash: bytes, trade: Trade | None = None) -> bool:
        """Whether a hash belongs, or ever did, to another trade than this one."""
        owner = self._by_hash.get(payment_hash)
        if owner is None:
            return self.archived.may_have(payment_hash)
        return trade is None or owner != trade.trade_id

    def held_lots(self, order_id: bytes) -> int:
        """How much of an own order is held by running trades."""
        return sum(self._held.get(order_id, {}).values())

    def can(self, trade: Trade, happened: Input) -> bool:
        """Whether the table has a row for this input."""
        return self._after(trade, happened) is not None

    def _after(self, trade: Trade, happened: Input) -> State | None:
        after = step(trade.settlement, trade.role, self.our_side(trade), trade.state, happened)
        # Without its Lightning node nothing can be known of a trade, nor done for it.
        stuck = after is not None and happened not in _WITHOUT_NODE and self.lost_node(trade)
        return None if stuck else after

    def lost_node(self, trade: Trade) -> tuple[str, bytes] | None:
        """Asset and identity of a Lightning node that it hangs on and that is not ours any more."""
        if trade.trade_id not in self._lost:
            return None
        return own_nodes.missing(self._core, trade, self.our_side(trade))

    def other_node(self, trade: Trade) -> tuple[str, bytes] | None:
        """Asset and identity of a node that it hangs on and in whose place another one answers."""
        others = self._core.other_nodes
        hangs_on = own_nodes.nodes(trade, self.our_side(trade)) if others else ()
        return next((one for one in hangs_on if one[0] in others), None)

    def running(self) -> list[Trade]:
        """All trades that have not ended, in the order of their creation."""
        return [self.by_id[trade_id] for trade_id in self._running]

    def since(self, wall_ms: int) -> list[Trade]:
        """All trades that began after this, by our clock of then, the oldest first."""
        first = bisect.bisect_left(self._times, (wall_ms + 1, b""))
        return [self.by_id[trade_id] for _, trade_id in self._times[first:]]

    # --- changing ------------------------------------------------------------------------------

    def add(self, trade: Trade, heard: bytes = b"", said: bytes = b"") -> Trade:
        """A new trade, revision 1; with the other party's message that has begun it, our answer."""
        key, parties = trade.trade_id, (self.counterparty(trade), self._core.identity)
        lines = [
            TradeLine(key, digest(envelope), sender, envelope)
            for sender, envelope in zip(parties, (heard, said), strict=True)
            if envelope
        ]
        if lines:
            trade = msgspec.structs.replace(trade, last_digest=lines[-1].digest)
        self._index(trade)
        self._write(trade)
        for line in lines:
            self._keep(line)
        self._log(trade, "trade_begun")
        return trade

    def move(self, trade: Trade, happened: Input, **changes: Any) -> Trade:  # noqa: ANN401
        """Move a trade along the table and change fields with it; persists it.

        Raises LocalProtocolError where the table has no such row: ask `can` first.
        """
        after = self._replace(trade, **self._along(trade, happened), **changes)
        self._log(after, "trade_moved", was=trade.state.value, because=happened.value)
        if after.state in TERMINAL or after.state is State.DISPUTED:
            self._core.cancel_timer(("trade", trade.trade_id))
        for call in self.on_moved:
            call(trade, after)
        return self.by_id[trade.trade_id]

    def advanced(self, trade: Trade, happened: Input, **changes: Any) -> Trade:  # noqa: ANN401
        """A trade that is not written down yet, moved along the table; see `add`."""
        return msgspec.structs.replace(trade, **self._along(trade, happened), **changes)

    def _along(self, trade: Trade, happened: Input) -> dict[str, Any]:
        """What an input does to a trade, by the table."""
        state = self._after(trade, happened)
        if state is None:
            msg = f"{happened} is illegal in {trade.settlement}/{trade.role}/{trade.state}"
            raise LocalProtocolError(msg)
        nodes = own_nodes.written_down(self._core, trade, self.our_side(trade), happened)
        return {"state": state, "paid": trade.paid or happened in _PAID, **nodes}

    def amend(self, trade: Trade, **changes: Any) -> Trade:  # noqa: ANN401
        """Change fields without a move; persists it."""
        return self._replace(trade, **changes)

    def heard(self, trade: Trade, envelope: bytes) -> Trade:
        """Write down a message of the other party that is not in the transcript yet."""
        line = TradeLine(trade.trade_id, digest(envelope), self.counterparty(trade), envelope)
        self._keep(line)
        return self.amend(trade, last_digest=line.digest)

    def sign(self, trade: Trade, message: TradeMessage) -> tuple[Trade, bytes]:
        """Sign a message of a trade and write it down; returns the trade and envelope bytes."""
        envelope = self.seal(message)
        line = TradeLine(trade.trade_id, digest(envelope), self._core.identity, envelope)
        self._keep(line)
        return self.amend(trade, last_digest=line.digest), envelope

    def seal(self, message: TradeMessage) -> bytes:
        """Sign a message of a trade, and do nothing else with it: envelope bytes."""
        return self._core.seal(str(message.__struct_config__.tag), encode(message))

    def say(self, trade: Trade, kind: type[TradeMessage], **fields: Any) -> Trade:  # noqa: ANN401
        """Sign a message and deliver it for sure: it stays in the outbox until acknowledged."""
        message = kind(
            trade_id=trade.trade_id,
            previous=trade.last_digest,
            sent_at_ms=self._core.now.wall_ms,
            **fields,
        )
        trade, envelope = self.sign(trade, message)
        line = OutboxLine(
            trade.trade_id, digest(envelope), self.counterparty(trade), "trade", envelope
        )
        self._core.persist(PutOutbox(line))
        waiting = self._outbox.setdefault(trade.trade_id, {})
        waiting[line.digest] = line
        if len(waiting) == 1:
            self._deliver(trade.trade_id)
        return trade

    def forget(self, trade_id: bytes) -> None:
        """Forget a trade that was never about any quantity, as if nobody had spoken of it."""
        self.forget_outbox(self.by_id[trade_id])
        self._leave(trade_id)
        self._core.persist(DropTrade(trade_id))

    def may_leave(self, trade: Trade) -> bool:
        """Whether an ended trade has nothing more to say."""
        ended = trade.state in TERMINAL and not trade.is_tombstone
        return ended and trade.trade_id not in self._outbox

    def archive(self, trade_id: bytes) -> None:
        """Leave an ended trade to the journal."""
        trade, hashes = self.by_id[trade_id], self._hashes.get(trade_id, ())
        for name in (trade_id, *hashes):
            self.archived.add(name)
        for name in ("trade", "extend"):
            self._core.cancel_timer((name, trade_id))
        self._leave(trade_id)
        friend = self.counterparty(trade) if trade.state is State.SETTLED else b""
        if friend:
            self.friends.add(friend)
        self._core.persist(ArchiveTrade(trade_id, trade.own_order_id, friend))

    def _leave(self, trade_id: bytes) -> None:
        trade = self.by_id.pop(trade_id)
        for rows in (self.lines, self._running):
            rows.pop(trade_id, None)
        for payment_hash in self._hashes.pop(trade_id, ()):
            del self._by_hash[payment_hash]
        held = self._held.get(trade.order_id)
        if held is not None and not held:
            del self._held[trade.order_id]
        siblings = self._by_order[trade.own_order_id]
        del siblings[trade_id]
        if not siblings:
            del self._by_order[trade.own_order_id]
        del self._times[bisect.bisect_left(self._times, (trade.created_ms, trade_id))]

    def words(self, trade: Trade, sender: bytes) -> Iterator[AnyTradeMessage]:
        """What a party has said in a trade, in the order in which we learnt of it."""
        for envelope in self._envelopes(trade, sender):
            yield decode_trade_message(decode_envelope(envelope).body)

    def _envelopes(self, trade: Trade, sender: bytes) -> Iterator[bytes]:
        lines = self.lines.get(trade.trade_id, {}).values()
        return (line.envelope for line in lines if line.sender == sender)

    def last_own_message(self, trade: Trade) -> bytes | None:
        """The last envelope that we signed in a trade."""
        own = list(self._envelopes(trade, self._core.identity))
        return own[-1] if own else None

    # --- after a restart -----------------------------------------------------------------------

    def restore(self, restored: Snapshot) -> None:
        """Bring back what the journal has; nothing is sent yet."""
        for payment_hash, trade_id in restored.hashes:
            self._claim_hash(payment_hash, trade_id)
        for trade in restored.trades:
            self._index(trade)
        for line in restored.lines:
            self.lines.setdefault(line.trade_id, {})[line.digest] = line
        for waiting in restored.outbox:
            self._outbox.setdefault(waiting.trade_id, {})[waiting.digest] = waiting
        self._lost = {
            one.trade_id
            for one in self.running()
            if own_nodes.missing(self._core, one, self.our_side(one))
        }

    def resume(self) -> None:
        """Go on delivering what was not acknowledged before the restart."""
        for trade_id in list(self._outbox):
            self._deliver(trade_id)

    # --- delivering: first in first out per trade ----------------------------------------------

    def forget_outbox(self, trade: Trade) -> None:
        """Stop delivering: the trade has ended on both sides, or the other one is gone."""
        for line in self._outbox.pop(trade.trade_id, {}).values():
            self._core.persist(DropOutbox(line.trade_id, line.digest))
        self._core.cancel_timer(("outbox", trade.trade_id))
        self._sending.pop(trade.trade_id, None)

    def _deliver(self, trade_id: bytes) -> None:
        waiting = self._outbox.get(trade_id)
        if not waiting:
            self._outbox.pop(trade_id, None)
            self._sending.pop(trade_id, None)
            return
        line = next(iter(waiting.values()))
        # The timer also covers an answer that never comes.
        tries = self._sending.get(trade_id, 0)
        self._sending[trade_id] = tries + 1
        delay_ms = min(RETRY_FIRST_MS << min(tries, 8), RETRY_LAST_MS)
        self._core.call_after(("outbox", trade_id), delay_ms, lambda: self._deliver(trade_id))
        self._sessions.request(
            line.peer,
            line.kind,
            TradeSaid(line.envelope),
            lambda answer: self._delivered(line, answer),
        )

    def _delivered(self, line: OutboxLine, answer: msgspec.Raw | Refusal) -> None:
        if line.digest not in self._outbox.get(line.trade_id, {}):
            return
        if isinstance(answer, Refusal) and answer.reason in _TRY_AGAIN:
            return  # the timer tries again
        del self._outbox[line.trade_id][line.digest]
        self._core.persist(DropOutbox(line.trade_id, line.digest))
        self._core.cancel_timer(("outbox", line.trade_id))
        self._sending.pop(line.trade_id, None)
        if isinstance(answer, Refusal):
            self._refused(line, answer)
        self._deliver(line.trade_id)

    def _refused(self, line: OutboxLine, answer: Refusal) -> None:
        """The other party will never have this message, so nothing may build on it.

        What waits behind it and builds on it already is not sent any more.
        """
        trade, gone = self.by_id[line.trade_id], {line.digest: line}
        self._log(trade, "message_refused", reason=answer.reason.value)
        waiting = self._outbox[line.trade_id]
        for later in list(waiting.values()):
            if _message(later).previous in gone:
                gone[later.digest] = later
                del waiting[later.digest]
                self._core.persist(DropOutbox(later.trade_id, later.digest))
        if trade.last_digest in gone:
            self.amend(trade, last_digest=_message(line).previous)
        for one in gone.values():
            for call in self.on_refused:
                call(self.by_id[line.trade_id], _message(one), answer.reason)

    def _peer_is_live(self, peer: bytes) -> None:
        for trade_id, waiting in list(self._outbox.items()):
            if any(line.peer == peer for line in waiting.values()):
                self._sending[trade_id] = 0
                self._deliver(trade_id)

    # --- writing down --------------------------------------------------------------------------

    def _replace(self, trade: Trade, **changes: Any) -> Trade:  # noqa: ANN401
        after = msgspec.structs.replace(
            trade, revision=trade.revision + 1, updated_ms=self._core.now.wall_ms, **changes
        )
        self._know(after)
        self._write(after)
        return after

    def _write(self, trade: Trade) -> None:
        claimed = capacity = 0
        if trade.role is TradeRole.MAKER:
            claimed = 0 if self.claim_of(trade) is Claim.FREE else trade.quantity_lots
            capacity = self.capacity(trade.order_id)
        self._core.persist(PutTrade(trade, claimed, capacity))
        key = trade.trade_id.hex()
        self._core.announce("trade", key, trade_id=key, state=trade.state.value)

    def _index(self, trade: Trade) -> None:
        self._know(trade)
        self._by_order.setdefault(trade.own_order_id, {})[trade.trade_id] = None
        bisect.insort(self._times, (trade.created_ms, trade.trade_id))

    def _know(self, trade: Trade) -> None:
        self.by_id[trade.trade_id] = trade
        if trade.state in TERMINAL:
            self._running.pop(trade.trade_id, None)
        else:
            self._running[trade.trade_id] = None
        if trade.payment_hash:
            self._claim_hash(trade.payment_hash, trade.trade_id)
        if trade.role is TradeRole.MAKER:
            held = self._held.setdefault(trade.order_id, {})
            if self.claim_of(trade) is Claim.HELD:
                held[trade.trade_id] = trade.quantity_lots
            else:
                held.pop(trade.trade_id, None)

    def _claim_hash(self, payment_hash: bytes, trade_id: bytes) -> None:
        if payment_hash not in self._by_hash:
            self._by_hash[payment_hash] = trade_id
            self._hashes.setdefault(trade_id, []).append(payment_hash)

    def _keep(self, line: TradeLine) -> None:
        self.lines.setdefault(line.trade_id, {})[line.digest] = line
        self._core.persist(PutLine(line))

    def _log(self, trade: Trade, event: str, **facts: Any) -> None:  # noqa: ANN401
        self._core.log(
            "info",
            event,
            trade_id=trade.trade_id.hex(),
            role=trade.role.value,
            state=trade.state.value,
            quantity_lots=trade.quantity_lots,
            money=self._core.money,
            **facts,
        )


def _message(line: OutboxLine) -> TradeMessage:
    """What we say with a line of the outbox."""
    return decode_trade_message(decode_envelope(line.envelope).body)


def other_side(side: str) -> str:
    """The side that trades against this one."""
    return "sell" if side == "buy" else "buy"
