"""Takes of our orders come in: checked, held, written down - or refused with one word.

The order of work: everything that can be checked, then the reservation in memory, the hold in
Redis and, on a hash that only we know, the invoice; then the journal, and only then the answer.
Redis only turns the crowd away; the journal decides.  What happens to an admitted trade is the
maker's part (maker.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from zmqex.errors import RemoteProtocolError
from zmqex.kernel import terms
from zmqex.kernel.caps import Caps
from zmqex.kernel.core import Core
from zmqex.kernel.effects import (
    AskBeforeAccept,
    CancelInvoice,
    RebuildHolds,
    ReleaseHold,
    ReserveHold,
)
from zmqex.kernel.events import (
    AcceptDecided,
    HoldAnswered,
    HoldFailed,
    InvoiceCreated,
    LightningFailed,
)
from zmqex.kernel.invoices import first_invoice, is_made_first, log_failure
from zmqex.kernel.orders import OwnOrders
from zmqex.kernel.records import PutCounter, Trade
from zmqex.kernel.sessions import Incoming, Sessions
from zmqex.kernel.trades import Trades
from zmqex.limits import (
    CLOCK_SKEW_MAX_MS,
    SECOND_MS,
    TAKE_AGE_MAX_MS,
)
from zmqex.protocol.codec import decode, decode_envelope, decode_trade_message
from zmqex.protocol.identity import digest, short, to_text, trade_id, verify
from zmqex.protocol.messages import Accept, Take, TradeSaid
from zmqex.reasons import RejectReason
from zmqex.trading import swap
from zmqex.trading.settlement import PLAIN, SWAP, amounts, draws_preimage
from zmqex.trading.states import Claim, Input, State, TradeRole


class Reservation(msgspec.Struct):
    """A take that has passed every check and waits for the outside; not yet in the journal.

    Nobody was told anything of it, its invoice included, so all of it can be given back.
    """

    trade: Trade
    envelope: bytes
    answers: list[Incoming]
    doomed: RejectReason | None = None  # why nothing comes of it, whatever is answered
    held: bool = False  # the hold server is not waited for any more
    invoiced: bool = False  # nor is Lightning
    accept: bytes = b""  # signed while the hold server is asked


class Admission:
    """Decides on takes of our orders; `on_admitted` carries the trade on."""

    def __init__(self, core: Core, sessions: Sessions, trades: Trades, orders: OwnOrders) -> None:
        """Serve `take` requests from now on."""
        self._core = core
        self._sessions = sessions
        self._trades = trades
        self._orders = orders
        self._reserving: dict[bytes, Reservation] = {}
        self._waiting: dict[bytes, list[Incoming]] = {}
        self.recovering: set[bytes] = set()  # trades that must be looked up before any new take
        self.on_admitted: Callable[[Trade], None] = lambda _trade: None
        # What a take is answered with when it is written down; None: its invoice comes later.
        self.accept_of: Callable[[Trade], Accept | None] = lambda _trade: None
        self.may_hold: Callable[[], bool] = lambda: True
        self._caps = Caps(core, sessions, trades)
        orders.reserved_lots = self._reserved_lots
        sessions.serve("take", self._on_take)

    # --- answers to waiting takers -------------------------------------------------------------

    def answer(self, trade: Trade, accept: bytes) -> None:
        """Hand the signed accept to whoever asked for this take."""
        for incoming in self._waiting.pop(trade.trade_id, []):
            self._sessions.answer(incoming, TradeSaid(accept))

    def refuse(self, trade: Trade, reason: RejectReason) -> None:
        """Tell whoever still waits for this take that nothing comes of it."""
        for incoming in self._waiting.pop(trade.trade_id, []):
            self._sessions.refuse(incoming, reason)

    def doom(self, trade_id: bytes) -> None:
        """The taker has changed its mind before its take was written down."""
        reservation = self._reserving.get(trade_id)
        if reservation is not None:
            reservation.doomed = RejectReason.ORDER_CLOSED

    # --- a take --------------------------------------------------------------------------------

    def _on_take(self, incoming: Incoming) -> None:
        said = decode(incoming.body, TradeSaid)
        envelope = decode_envelope(said.envelope)
        take = decode_trade_message(envelope.body)
        if not isinstance(take, Take):
            msg = "a take request carries a take"
            raise RemoteProtocolError(msg)
        network = self._core.settings.network
        expected_id = trade_id(network, self._core.identity, incoming.peer, take.take_id)
        parties = (take.taker, take.maker, take.trade_id)
        if parties != (incoming.peer, self._core.identity, expected_id):
            self._sessions.refuse(incoming, RejectReason.WRONG_PARTY)
        elif not verify(incoming.peer, network, "take", envelope):
            self._sessions.refuse(incoming, RejectReason.BAD_SIGNATURE)
        elif self.recovering:
            self._sessions.refuse(incoming, RejectReason.STARTING, retry_after_ms=SECOND_MS)
        elif take.trade_id in self._reserving:
            self._repeat_of_reserving(incoming, said.envelope)
        elif take.trade_id in self._trades.by_id:
            self._repeat_of_trade(incoming, said.envelope)
        elif not self._trades.recall(
            "trade", take.trade_id, partial(self._sessions.again, incoming)
        ):
            self._new_take(incoming, said.envelope, take)

    def _repeat_of_reserving(self, incoming: Incoming, envelope: bytes) -> None:
        reservation = self._reserving[digest_id(envelope)]
        if reservation.envelope != envelope:
            self._sessions.refuse(incoming, RejectReason.TAKE_CONFLICT)
            return
        reservation.answers.append(incoming)

    def _repeat_of_trade(self, incoming: Incoming, envelope: bytes) -> None:
        """The same take again gets the same bytes; another one under its id is a conflict."""
        trade = self._trades.by_id[digest_id(envelope)]
        if trade.take_digest and trade.take_digest != digest(envelope):
            self._sessions.refuse(incoming, RejectReason.TAKE_CONFLICT)
        elif trade.state in {State.CANCELLED, State.CANCELLING} or not trade.take_digest:
            reason = RejectReason(trade.reason) if trade.reason else RejectReason.CANCELLED
            self._sessions.refuse(incoming, reason)
        elif (accept := self._accept_said(trade)) is not None:
            self._sessions.answer(incoming, TradeSaid(accept))
        else:
            self._waiting.setdefault(trade.trade_id, []).append(incoming)

    def _accept_said(self, trade: Trade) -> bytes | None:
        accepts = (
            line.envelope
            for line in self._trades.lines.get(trade.trade_id, {}).values()
            if line.sender == self._core.identity
            and isinstance(decode_trade_message(decode_envelope(line.envelope).body), Accept)
        )
        return next(accepts, None)

    def _new_take(self, incoming: Incoming, envelope: bytes, take: Take) -> None:
        self._orders.asked.get(take.order_id, set()).add(take.taker)
        refusal = self._why_not(take, incoming.route.address)
        if isinstance(refusal, RejectReason):
            self._refuse_take(incoming, take.trade_id, refusal)
            return
        order, now = self._orders.terms(take.order_id), self._core.now.wall_ms
        # One counter for all orders, so a fence never comes twice, whatever Redis forgets.
        self._core.counters["fence"] = self._core.counters.get("fence", 0) + 1
        legs = amounts(self._orders.instrument(order.market), refusal, take.price_ticks)
        drawn = draws_preimage(take.settlement, order.side, takes=False)
        preimage = self._core.random(32) if drawn else b""
        trade = Trade(
            trade_id=take.trade_id,
            role=TradeRole.MAKER,
            take_id=take.take_id,
            order_id=take.order_id,
            own_order_id=take.order_id,
            market=order.market,
            side=order.side,
            maker=take.maker,
            taker=take.taker,
            quantity_lots=refusal,
            price_ticks=take.price_ticks,
            settlement=take.settlement,
            state=State.RESERVED,
            revision=1,
            created_ms=now,
            updated_ms=now,
            base_msat=legs.base_msat,
            quote_units=legs.quote_units,
            fence=self._core.counters["fence"],
            hold_ttl_ms=self._core.settings.hold_ttl_ms,
            hold_expires_ms=now + self._core.settings.hold_ttl_ms,
            payment_hash=_payment_hash(take, preimage),
            preimage=preimage,
            pay_instructions=self._pay_instructions(take.settlement),
            take_digest=digest(envelope),
        )
        waiting = [reservation.trade for reservation in self._reserving.values()]
        too_much = _why_not_swap(trade) or self._trades.why_too_much(trade, waiting)
        if too_much is not None:
            self._refuse_take(incoming, take.trade_id, too_much)
            return
        reservation = Reservation(trade, envelope, [incoming])
        self._reserving[trade.trade_id] = reservation
        self._caps.note(trade, incoming.route.address)
        if self._core.settings.asks_before_accept:
            self._core.emit(AskBeforeAccept(trade.trade_id, _facts(trade)))
        else:
            self._reserve(reservation)

    def on_accept_decided(self, event: AcceptDecided) -> None:
        """The operator's own program has said yes or no; what it decides on is held meanwhile."""
        reservation = self._reserving.get(event.trade_id)
        if reservation is None:
            return
        if event.accepted:
            self._reserve(reservation)
        else:
            self._forget(reservation, RejectReason.DECLINED)

    def _reserve(self, reservation: Reservation) -> None:
        """Ask the hold server and, for an invoice on a hash of ours, Lightning at the same time."""
        trade, key = reservation.trade, reservation.trade.trade_id
        left_ms = max(trade.hold_expires_ms - self._core.now.wall_ms, SECOND_MS)
        # Whoever never answers holds nothing for longer than a hold lasts.
        self._core.call_after(("trade", key), left_ms, lambda: self._time_up(key))
        self._core.emit(
            ReserveHold(
                trade.order_id,
                trade.trade_id,
                trade.quantity_lots,
                self._orders.capacity(trade.order_id) - self._orders.filled_lots(trade.order_id),
                trade.fence,
                trade.hold_ttl_ms,
            )
        )
        if is_made_first(trade):
            self._core.emit(first_invoice(self._core, trade, left_ms // SECOND_MS))
        else:
            reservation.invoiced = True

    def _why_not(self, take: Take, address: str) -> RejectReason | int:  # noqa: PLR0911 - one row per rule
        """The first reason to refuse a take, or the quantity in lots that will be held."""
        now_ms = self._core.now.wall_ms
        if take.sent_at_ms > now_ms + CLOCK_SKEW_MAX_MS:
            return RejectReason.CLOCK_SKEW
        if take.sent_at_ms < now_ms - TAKE_AGE_MAX_MS:
            return RejectReason.TAKE_TOO_OLD
        if not self.may_hold():
            return RejectReason.HOLDS_UNAVAILABLE
        if self._core.identity == take.taker:
            return RejectReason.OWN_ORDER
        if (closed := self._orders.why_closed(take.order_id)) is not None:
            return closed
        order = self._orders.terms(take.order_id)
        if take.price_ticks != order.price_ticks:
            return RejectReason.PRICE_CHANGED
        if take.settlement not in order.settlements or terms.why_not_settle(
            self._core, take.settlement, TradeRole.MAKER, order.side, order.market
        ):
            return RejectReason.UNSUPPORTED_SETTLEMENT
        if not draws_preimage(take.settlement, order.side, takes=False) and (
            take.payment_hash is None or self._hash_is_known(take.payment_hash)
        ):
            return RejectReason.WRONG_PAYMENT_HASH
        if self._caps.wait_ms(take.taker):
            return RejectReason.RATE_LIMITED
        if self._has_lock(take):
            return RejectReason.TOO_MANY_HOLDS
        if self._caps.too_many(take.taker, take.order_id, address):
            return RejectReason.TOO_MANY_HOLDS
        room = self._caps.room_lots(take.taker, take.order_id, order)
        return self._orders.acceptable_lots(take.order_id, take.quantity_lots, room)

    def _has_lock(self, take: Take) -> bool:
        """Whether a take by lock is its taker's second one with us: each may last for hours."""
        if take.settlement == PLAIN:
            return False
        holding = [one for one in self._trades.running() if one.role is TradeRole.MAKER]
        holding += [reservation.trade for reservation in self._reserving.values()]
        return (take.settlement, take.taker) in {(one.settlement, one.taker) for one in holding}

    def _pay_instructions(self, settlement: str) -> str:
        """How the quote is paid, where people have to do it."""
        return "" if settlement == SWAP else self._core.settings.pay_instructions

    def _hash_is_known(self, payment_hash: bytes) -> bool:
        return self._trades.is_foreign_hash(payment_hash) or any(
            reservation.trade.payment_hash == payment_hash
            for reservation in self._reserving.values()
        )

    def _reserved_lots(self, order_id: bytes) -> int:
        return sum(
            reservation.trade.quantity_lots
            for reservation in self._reserving.values()
            if reservation.trade.order_id == order_id
        )

    def _refuse_take(self, incoming: Incoming, key: bytes, reason: RejectReason) -> None:
        self._core.count(f"take_refused_{reason.value}")
        self._core.log(
            "info",
            "take_refused",
            trade_id=key.hex(),
            peer=short(incoming.peer),
            reason=reason.value,
        )
        retry = SECOND_MS if reason in {RejectReason.HELD, RejectReason.HOLDS_UNAVAILABLE} else 0
        if reason is RejectReason.RATE_LIMITED:
            retry = self._caps.wait_ms(incoming.peer)
        self._sessions.refuse(incoming, reason, retry_after_ms=retry)

    # --- the hold and the invoice ----------------------------------------------------------------

    def on_hold_answered(self, event: HoldAnswered) -> None:
        """The hold server has said yes or no to a reservation."""
        reservation = self._reserving.get(event.trade_id)
        if reservation is None:
            return
        if event.outcome in {"full", "stale_fence"}:
            self._call_off(reservation, RejectReason.HELD)
            # Redis only turns the crowd away; if it remembers more than the journal, tell it.
            self.rebuild_holds()
        else:
            reservation.held = True
            self._decide(reservation)

    def on_hold_failed(self, event: HoldFailed) -> None:
        """The hold server is silent: strict nodes refuse, the others let the journal decide."""
        reservation = self._reserving.get(event.trade_id)
        if reservation is None:
            return
        self._core.count("hold_server_silent")
        if self._core.settings.holds_strict:
            reservation.doomed = RejectReason.HOLDS_UNAVAILABLE
        reservation.held = True
        self._decide(reservation)

    def on_lightning(self, event: InvoiceCreated | LightningFailed) -> bool:
        """Take Lightning's answer about the invoice of a reservation; False: it is of no such."""
        reservation = self._reserving.get(event.trade_id)
        if reservation is None or reservation.trade.payment_hash != event.payment_hash:
            return False
        reservation.invoiced = True
        if isinstance(event, InvoiceCreated):
            reservation.trade = self._trades.advanced(
                reservation.trade, Input.INVOICE_MADE, invoice=event.invoice
            )
            reservation.accept = self._sign_accept(reservation.trade)
        else:
            log_failure(self._core, event)
            reservation.doomed = RejectReason.LIGHTNING_UNAVAILABLE
        self._decide(reservation)
        return True

    def _decide(self, reservation: Reservation) -> None:
        """Write the trade down when all have answered; call it off as soon as it is clear.

        Not before the hold server has answered: what is given back earlier could be held after.
        """
        if not reservation.held:
            return
        refusal = self._why_not_now(reservation)
        if refusal is not None:
            self._give_back(reservation, refusal)
        elif reservation.invoiced:
            del self._reserving[reservation.trade.trade_id]
            self._commit(reservation)

    def _time_up(self, trade_id: bytes) -> None:
        self._give_back(self._reserving[trade_id], RejectReason.HOLD_ENDED)

    def _why_not_now(self, reservation: Reservation) -> RejectReason | None:
        """What has happened to a take while the outside was asked."""
        if not self.may_hold():
            return RejectReason.HOLDS_UNAVAILABLE
        trade = reservation.trade
        if trade.payment_hash and self._trades.is_foreign_hash(trade.payment_hash):
            # An accept has named it meanwhile, for a take of our own.
            return RejectReason.WRONG_PAYMENT_HASH
        closed = self._orders.why_closed(trade.order_id) is not None
        return reservation.doomed or (RejectReason.ORDER_CLOSED if closed else None)

    def _give_back(self, reservation: Reservation, reason: RejectReason) -> None:
        trade = reservation.trade
        self._core.emit(ReleaseHold(trade.order_id, trade.trade_id, trade.fence))
        self._call_off(reservation, reason)

    def _call_off(self, reservation: Reservation, reason: RejectReason) -> None:
        """Nothing comes of it.  Should its invoice outlive this, nobody can pay it all the same."""
        trade = reservation.trade
        if is_made_first(trade):
            self._core.emit(CancelInvoice(trade.trade_id, trade.payment_hash))
        self._core.cancel_timer(("trade", trade.trade_id))
        self._forget(reservation, reason)

    def _forget(self, reservation: Reservation, reason: RejectReason) -> None:
        key = reservation.trade.trade_id
        del self._reserving[key]
        self._caps.forget(key)
        for incoming in reservation.answers:
            self._refuse_take(incoming, key, reason)

    def _commit(self, reservation: Reservation) -> None:
        self._core.persist(PutCounter("fence", reservation.trade.fence))
        accept = reservation.accept or self._sign_accept(reservation.trade)
        trade = self._trades.add(reservation.trade, reservation.envelope, accept)
        self._waiting[trade.trade_id] = reservation.answers
        if accept:
            self.answer(trade, accept)
        self._orders.publish_update(trade.order_id)
        self.on_admitted(trade)

    def _sign_accept(self, trade: Trade) -> bytes:
        message = self.accept_of(trade)
        return b"" if message is None else self._trades.seal(message)

    def rebuild_holds(self) -> None:
        """Make the hold server agree with the journal, and with what is on its way there."""
        now_ms = self._core.now.wall_ms
        holding = [one for one in self._trades.running() if self._is_hold(one)]
        holding += [reservation.trade for reservation in self._reserving.values()]
        rows = tuple(
            (
                trade.order_id,
                trade.trade_id,
                trade.quantity_lots,
                trade.fence,
                max(trade.hold_expires_ms - now_ms, SECOND_MS),
            )
            for trade in holding
        )
        self._core.emit(RebuildHolds(self._core.random(16), rows))

    def _is_hold(self, trade: Trade) -> bool:
        return trade.role is TradeRole.MAKER and self._trades.claim_of(trade) is Claim.HELD


def digest_id(envelope: bytes) -> bytes:
    """The trade id inside the bytes of a take that was decoded before."""
    message = decode_trade_message(decode_envelope(envelope).body)
    return message.trade_id


def _facts(trade: Trade) -> dict[str, Any]:
    """What the operator's own program is told of a take; `side` is what we do with the base."""
    return {
        "trade_id": trade.trade_id.hex(),
        "order_id": trade.order_id.hex(),
        "taker": to_text(trade.taker),
        "market": trade.market,
        "side": trade.side,
        "settlement": trade.settlement,
        "quantity_lots": trade.quantity_lots,
        "price_ticks": trade.price_ticks,
        "base_msat": trade.base_msat,
        "quote_units": trade.quote_units,
    }


def _payment_hash(take: Take, preimage: bytes) -> bytes:
    return take.payment_hash or b"" if not preimage else hashlib.sha256(preimage).digest()


def _why_not_swap(trade: Trade) -> RejectReason | None:
    """Why a quantity cannot be swapped: what a chain would not enforce is no lock."""
    if trade.settlement != SWAP:
        return None
    return swap.why_not_amounts(
        *swap.legs(trade.side, trade.market, trade.base_msat, trade.quote_units)
    )
