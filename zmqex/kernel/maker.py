"""The maker's side of a trade: takes come in, quantity is held, and returned or sold exactly once.

The order of work for a take: everything that can be checked, then the reservation in memory, the
hold in Redis, the journal, the invoice, the signed accept.  Quantity returns only when Lightning
has confirmed a negative end: at the end of a hold we look up, cancel, look up again, and only then
free it.  Not for takes of our own (see taker.py).
"""

from __future__ import annotations

import hashlib

import msgspec

from zmqex.bolt11 import InvalidInvoiceError, decode
from zmqex.errors import RemoteProtocolError
from zmqex.kernel.core import Core
from zmqex.kernel.effects import (
    CancelInvoice,
    CreateInvoice,
    ExtendHold,
    LookupInvoice,
    LookupPayment,
    PayInvoice,
    RebuildHolds,
    ReleaseHold,
    ReserveHold,
)
from zmqex.kernel.events import (
    HoldAnswered,
    HoldFailed,
    InvoiceCreated,
    InvoiceSeen,
    LightningFailed,
    PaymentSeen,
)
from zmqex.kernel.orders import OwnOrders
from zmqex.kernel.records import PutCounter, Trade
from zmqex.kernel.sessions import Incoming, Refusal, Sessions
from zmqex.kernel.trades import Trades
from zmqex.limits import (
    CLOCK_SKEW_MAX_MS,
    CLTV_LIMIT_BLOCKS,
    CONFIRM_MAX_MS,
    HOLDS_PER_ORDER_AND_TAKER_MAX,
    HOLDS_PER_TAKER_MAX,
    RETRY_LAST_MS,
    SECOND_MS,
    TAKE_AGE_MAX_MS,
)
from zmqex.protocol.codec import decode as decode_message
from zmqex.protocol.codec import decode_envelope, decode_trade_message
from zmqex.protocol.identity import digest, short, trade_id, verify
from zmqex.protocol.messages import (
    Accept,
    InvoiceFailed,
    QuoteConfirmed,
    QuoteSent,
    Take,
    TradeCancel,
    TradeCancelled,
    TradeInvoice,
    TradeSaid,
)
from zmqex.reasons import RejectReason
from zmqex.trading.settlement import (
    PLAIN,
    Expected,
    amounts,
    fee_limit_msat,
    proves_payment,
    why_not_pay,
)
from zmqex.trading.states import TERMINAL, Claim, Input, State, TradeRole


class Reservation(msgspec.Struct):
    """A take that has passed every check and waits for the hold server; not yet in the journal."""

    trade: Trade
    envelope: bytes
    answers: list[Incoming]
    doomed: bool = False


class Maker:
    """Answers takes of our orders and carries their trades to an end."""

    def __init__(self, core: Core, sessions: Sessions, trades: Trades, orders: OwnOrders) -> None:
        """Serve `take` requests from now on."""
        self._core = core
        self._sessions = sessions
        self._trades = trades
        self._orders = orders
        self._reserving: dict[bytes, Reservation] = {}
        self._waiting: dict[bytes, list[Incoming]] = {}  # for the accept of an invoiced take
        self._ending: dict[bytes, RejectReason] = {}
        self._retries: dict[bytes, int] = {}
        self.recovering: set[bytes] = set()
        orders.reserved_lots = self._reserved_lots
        sessions.serve("take", self._on_take)

    # --- a take ------------------------------------------------------------------------------------

    def _on_take(self, incoming: Incoming) -> None:
        said = decode_message(incoming.body, TradeSaid)
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
        else:
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
        elif (accept := self._accept_of(trade)) is not None:
            self._sessions.answer(incoming, TradeSaid(accept))
        else:
            self._waiting.setdefault(trade.trade_id, []).append(incoming)

    def _accept_of(self, trade: Trade) -> bytes | None:
        for line in self._trades.lines.get(trade.trade_id, {}).values():
            if line.sender == self._core.identity:
                message = decode_trade_message(decode_envelope(line.envelope).body)
                if isinstance(message, Accept):
                    return line.envelope
        return None

    def _new_take(self, incoming: Incoming, envelope: bytes, take: Take) -> None:
        refusal = self._why_not(take)
        if isinstance(refusal, RejectReason):
            self._refuse_take(incoming, take, refusal)
            return
        order, now = self._orders.terms(take.order_id), self._core.now.wall_ms
        # One counter for all orders, so a fence never comes twice, whatever Redis forgets.
        self._core.counters["fence"] = self._core.counters.get("fence", 0) + 1
        legs = amounts(self._orders.instrument(order.market), refusal, take.price_ticks)
        preimage = self._core.random(32) if order.side == "buy" else b""
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
            pay_instructions=self._core.settings.pay_instructions,
            take_digest=digest(envelope),
        )
        self._reserving[trade.trade_id] = Reservation(trade, envelope, [incoming])
        self._core.emit(
            ReserveHold(
                trade.order_id,
                trade.trade_id,
                trade.quantity_lots,
                self._orders.capacity(trade.order_id)
                - self._orders.filled_lots(trade.order_id),
                trade.fence,
                trade.hold_ttl_ms,
            )
        )

    def _why_not(self, take: Take) -> RejectReason | int:  # noqa: PLR0911 - one row per rule
        """The first reason to refuse a take, or the quantity in lots that will be held."""
        now_ms = self._core.now.wall_ms
        if take.sent_at_ms > now_ms + CLOCK_SKEW_MAX_MS:
            return RejectReason.CLOCK_SKEW
        if take.sent_at_ms < now_ms - TAKE_AGE_MAX_MS:
            return RejectReason.TAKE_TOO_OLD
        if take.settlement != PLAIN:
            return RejectReason.UNSUPPORTED_SETTLEMENT
        if self._core.identity == take.taker:
            return RejectReason.OWN_ORDER
        if (closed := self._orders.why_closed(take.order_id)) is not None:
            return closed
        order = self._orders.terms(take.order_id)
        if take.price_ticks != order.price_ticks:
            return RejectReason.PRICE_CHANGED
        if order.side == "sell" and (
            take.payment_hash is None or self._orders.hash_is_known(take.payment_hash)
        ):
            return RejectReason.WRONG_PAYMENT_HASH
        if self._too_many_holds(take):
            return RejectReason.TOO_MANY_HOLDS
        return self._orders.acceptable_lots(take.order_id, take.quantity_lots)

    def _too_many_holds(self, take: Take) -> bool:
        unpaid = [
            trade
            for trade in self._all_holding()
            if trade.taker == take.taker and _is_unpaid(trade)
        ]
        same = sum(trade.order_id == take.order_id for trade in unpaid)
        return len(unpaid) >= HOLDS_PER_TAKER_MAX or same >= HOLDS_PER_ORDER_AND_TAKER_MAX

    def _all_holding(self) -> list[Trade]:
        held = [trade for trade in self._trades.running() if trade.role is TradeRole.MAKER]
        return held + [reservation.trade for reservation in self._reserving.values()]

    def _reserved_lots(self, order_id: bytes) -> int:
        return sum(
            reservation.trade.quantity_lots
            for reservation in self._reserving.values()
            if reservation.trade.order_id == order_id
        )

    def _refuse_take(self, incoming: Incoming, take: Take, reason: RejectReason) -> None:
        self._core.count(f"take_refused_{reason.value}")
        self._core.log(
            "info",
            "take_refused",
            trade_id=take.trade_id.hex(),
            peer=short(incoming.peer),
            reason=reason.value,
        )
        retry = SECOND_MS if reason in {RejectReason.HELD, RejectReason.HOLDS_UNAVAILABLE} else 0
        self._sessions.refuse(incoming, reason, retry_after_ms=retry)

    # --- the hold ------------------------------------------------------------------------------------

    def on_hold_answered(self, event: HoldAnswered) -> None:
        """The hold server has said yes or no to a reservation."""
        reservation = self._reserving.pop(event.trade_id, None)
        if reservation is None:
            return
        if event.outcome == "full":
            # Redis only turns the crowd away; if it remembers more than the journal, tell it.
            self.rebuild_holds()
            self._refuse_reservation(reservation, RejectReason.HELD)
        elif reservation.doomed or self._orders.why_closed(reservation.trade.order_id) is not None:
            trade = reservation.trade
            self._core.emit(ReleaseHold(trade.order_id, trade.trade_id, trade.fence))
            self._refuse_reservation(reservation, RejectReason.ORDER_CLOSED)
        else:
            self._commit(reservation)

    def on_hold_failed(self, event: HoldFailed) -> None:
        """The hold server is silent: strict nodes refuse, the others let the journal decide."""
        reservation = self._reserving.pop(event.trade_id, None)
        if reservation is None:
            return
        self._core.count("hold_server_silent")
        if self._core.settings.holds_strict or reservation.doomed:
            self._refuse_reservation(reservation, RejectReason.HOLDS_UNAVAILABLE)
        else:
            self._commit(reservation)

    def _refuse_reservation(self, reservation: Reservation, reason: RejectReason) -> None:
        take = decode_trade_message(decode_envelope(reservation.envelope).body)
        assert isinstance(take, Take)
        for incoming in reservation.answers:
            self._refuse_take(incoming, take, reason)

    def _commit(self, reservation: Reservation) -> None:
        self._core.persist(PutCounter("fence", reservation.trade.fence))
        trade = self._trades.add(reservation.trade)
        trade = self._trades.heard(trade, reservation.envelope)
        self._waiting[trade.trade_id] = reservation.answers
        self._orders.publish_update(trade.order_id)
        self._arm(trade)
        if trade.side == "buy":
            self._create_invoice(trade)
        else:
            self._accept(trade)

    def _accept(self, trade: Trade) -> None:
        message = Accept(
            trade_id=trade.trade_id,
            previous=trade.last_digest,
            sent_at_ms=self._core.now.wall_ms,
            take_digest=trade.take_digest,
            quantity_lots=trade.quantity_lots,
            base_msat=trade.base_msat,
            quote_units=trade.quote_units,
            invoice=trade.invoice or None,
            pay_instructions=trade.pay_instructions,
            hold_ttl_ms=trade.hold_ttl_ms,
            hold_expires_at_ms=trade.hold_expires_ms,
            fence=trade.fence,
            lightning_node=self._core.settings.lightning_node,
        )
        trade, envelope = self._trades.sign(trade, message)
        for incoming in self._waiting.pop(trade.trade_id, []):
            self._sessions.answer(incoming, TradeSaid(envelope))

    def rebuild_holds(self) -> None:
        """Make the hold server agree with the journal."""
        now_ms = self._core.now.wall_ms
        rows = tuple(
            (
                trade.order_id,
                trade.trade_id,
                trade.quantity_lots,
                trade.fence,
                max(trade.hold_expires_ms - now_ms, SECOND_MS),
            )
            for trade in self._trades.running()
            if trade.role is TradeRole.MAKER and self._trades.claim_of(trade) is Claim.HELD
        )
        self._core.emit(RebuildHolds(self._core.identity[:16], rows))

    # --- invoices of a buying maker --------------------------------------------------------------------

    def _create_invoice(self, trade: Trade) -> None:
        left_ms = trade.hold_expires_ms - self._core.now.wall_ms
        if left_ms <= SECOND_MS:
            self._end(trade, RejectReason.HOLD_ENDED)
            return
        memo = f"zmqex trade {trade.trade_id.hex()[:16]}"
        if self._core.settings.network == "play":
            memo = f"PLAY MONEY: {memo}"
        self._core.emit(
            CreateInvoice(
                trade.trade_id, trade.preimage, trade.base_msat, memo, left_ms // SECOND_MS
            )
        )

    def on_invoice_created(self, trade: Trade, event: InvoiceCreated) -> None:
        """The invoice exists: hand it to the taker, unless the hold has ended meanwhile."""
        if not self._trades.can(trade, Input.INVOICE_MADE):
            return
        trade = self._trades.move(trade, Input.INVOICE_MADE, invoice=event.invoice)
        if trade.state is State.INVOICED:
            self._accept(trade)
        else:
            self._core.emit(CancelInvoice(trade.trade_id, trade.payment_hash))

    def on_invoice_seen(self, trade: Trade, event: InvoiceSeen) -> None:
        """Lightning has said how our invoice stands: the only thing that ends a hold for good."""
        self.recovering.discard(trade.trade_id)
        if event.state == "settled":
            self._base_settled(trade)
        elif trade.state is State.CANCELLING:
            self._cancelling(trade, event)
        elif trade.trade_id in self._ending and self._trades.can(trade, Input.END_ASKED):
            reason = self._ending.pop(trade.trade_id)
            trade = self._trades.move(trade, Input.END_ASKED, reason=reason.value)
            self._refuse_waiting(trade, reason)
            self._core.emit(CancelInvoice(trade.trade_id, trade.payment_hash))
            self._retry(trade)
        elif trade.state is State.RESERVED and event.state == "unknown":
            self._create_invoice(trade)
        elif trade.state is State.INVOICED and event.state == "canceled":
            self._end(trade, RejectReason.HOLD_ENDED)

    def _cancelling(self, trade: Trade, event: InvoiceSeen) -> None:
        # "unknown" is an end only when nothing that may still arrive could be paid any more.
        never_made = event.state == "unknown" and (
            self._core.now.wall_ms >= trade.hold_expires_ms
        )
        if event.state == "canceled" or never_made:
            trade = self._trades.move(trade, Input.BASE_NEGATIVE)
            self._returned(trade)
        else:
            self._retry(trade)

    def _base_settled(self, trade: Trade) -> None:
        if not self._trades.can(trade, Input.BASE_SETTLED):
            return
        self._ending.pop(trade.trade_id, None)
        if trade.state is State.RESERVED:
            return  # settled without an invoice of ours cannot be; the timer looks again
        trade = self._trades.move(trade, Input.BASE_SETTLED, reason="")
        self._sold(trade)

    def _refuse_waiting(self, trade: Trade, reason: RejectReason) -> None:
        for incoming in self._waiting.pop(trade.trade_id, []):
            self._sessions.refuse(incoming, reason)

    # --- the end of a hold -----------------------------------------------------------------------------

    def _arm(self, trade: Trade) -> None:
        """Set the timer of the state that a trade is in."""
        delays = {
            State.RESERVED: trade.hold_expires_ms - self._core.now.wall_ms,
            State.INVOICED: trade.hold_expires_ms - self._core.now.wall_ms,
            State.BASE_DONE: CONFIRM_MAX_MS,
            State.QUOTE_SENT: CONFIRM_MAX_MS,
            State.PAY_INTENT: CONFIRM_MAX_MS,
        }
        if trade.state in delays:
            name, key = ("trade", trade.trade_id), trade.trade_id
            self._core.call_after(name, max(delays[trade.state], 0), lambda: self._time_up(key))

    def _time_up(self, key: bytes) -> None:
        trade = self._trades.by_id[key]
        if trade.state in {State.RESERVED, State.INVOICED}:
            self._end(trade, RejectReason.HOLD_ENDED)
        else:
            late = Input.INVOICE_TIME if trade.state is State.PAY_INTENT else Input.CONFIRM_TIME
            if self._trades.can(trade, late):
                self._trades.move(trade, late, reason=RejectReason.TIMED_OUT.value)

    def _end(self, trade: Trade, reason: RejectReason) -> None:
        """End a hold on which nothing has moved: look up first, never the other way round."""
        if trade.side == "sell":
            if self._trades.can(trade, Input.END_ASKED):
                trade = self._trades.move(trade, Input.END_ASKED, reason=reason.value)
                self._returned(trade)
            return
        self._ending[trade.trade_id] = reason
        self._core.emit(LookupInvoice(trade.trade_id, trade.payment_hash))
        self._retry(trade)

    def _retry(self, trade: Trade) -> None:
        """Ask Lightning again, 1, 2, 4 ... 30 seconds from now, until it has given a final word."""
        tries = self._retries.get(trade.trade_id, 0)
        self._retries[trade.trade_id] = tries + 1
        delay_ms = min(SECOND_MS << min(tries, 8), RETRY_LAST_MS)
        key = trade.trade_id
        self._core.call_after(("trade", key), delay_ms, lambda: self._look_again(key))

    def _look_again(self, key: bytes) -> None:
        trade = self._trades.by_id[key]
        if trade.state is State.PAYING:
            self._core.emit(LookupPayment(key, trade.payment_hash))
        elif trade.state is State.CANCELLING:
            self._core.emit(CancelInvoice(key, trade.payment_hash))
        else:
            self._core.emit(LookupInvoice(key, trade.payment_hash))
        self._retry(trade)

    def _returned(self, trade: Trade) -> None:
        """The quantity is free again: tell Redis, the book and the taker."""
        self._retries.pop(trade.trade_id, None)
        self._core.emit(ReleaseHold(trade.order_id, trade.trade_id, trade.fence))
        self._orders.returned(trade.order_id, trade.quantity_lots)
        self._refuse_waiting(trade, RejectReason(trade.reason))
        self._trades.say(trade, TradeCancelled, reason=trade.reason)

    def _sold(self, trade: Trade) -> None:
        """Base has moved for good: the hold becomes a fill."""
        self._retries.pop(trade.trade_id, None)
        self._refuse_waiting(trade, RejectReason.FILLED)
        self._core.emit(ReleaseHold(trade.order_id, trade.trade_id, trade.fence))
        self._orders.filled(trade.order_id, trade.quantity_lots)
        self._arm(trade)

    def end_holds_of(self, order_id: bytes, reason: RejectReason) -> None:
        """The reservations that are not in the journal yet end with their order."""
        for reservation in self._reserving.values():
            if reservation.trade.order_id == order_id:
                reservation.doomed = True
        self._core.log("info", "order_closed", order_id=order_id.hex(), reason=reason.value)

    # --- what the taker says -----------------------------------------------------------------------------

    def on_cancel_asked(self, incoming: Incoming, message: TradeCancel, envelope: bytes) -> Trade:
        """The taker wants out; for a take that we never saw this forbids a later one."""
        reservation = self._reserving.get(message.trade_id)
        if reservation is not None:
            reservation.doomed = True
        trade = self._trades.by_id.get(message.trade_id)
        if trade is None:
            return self._tombstone(incoming, message)
        trade = self._trades.heard(trade, envelope)
        if self._trades.can(trade, Input.END_ASKED):
            self._end(trade, RejectReason.CANCELLED)
        return self._trades.by_id[trade.trade_id]

    def _tombstone(self, incoming: Incoming, message: TradeCancel) -> Trade:
        now_ms = self._core.now.wall_ms
        return self._trades.add(
            Trade(
                trade_id=message.trade_id,
                role=TradeRole.MAKER,
                take_id=message.take_id,
                order_id=bytes(32),
                own_order_id=bytes(32),
                market="",
                side="sell",
                maker=self._core.identity,
                taker=incoming.peer,
                quantity_lots=0,
                price_ticks=0,
                settlement=PLAIN,
                state=State.CANCELLED,
                revision=1,
                created_ms=now_ms,
                updated_ms=now_ms,
                reason=RejectReason.CANCELLED.value,
            )
        )

    def on_quote_sent(self, trade: Trade, message: QuoteSent) -> RejectReason | None:
        """The buying taker says that the quote is on its way."""
        if not self._trades.can(trade, Input.QUOTE_SAID):
            return None if trade.reference == message.reference else RejectReason.WRONG_STATE
        late = trade.state is State.CANCELLED
        trade = self._trades.move(
            trade, Input.QUOTE_SAID, reference=message.reference, late=late
        )
        self._extend(trade)
        self._arm(trade)
        return None

    def on_quote_confirmed(self, trade: Trade) -> RejectReason | None:
        """The selling taker says that our quote has arrived."""
        if self._trades.can(trade, Input.QUOTE_CONFIRMED) and trade.side == "buy":
            self._trades.move(trade, Input.QUOTE_CONFIRMED)
            return None
        return None if trade.state is State.SETTLED else RejectReason.WRONG_STATE

    def on_trade_invoice(self, trade: Trade, message: TradeInvoice) -> RejectReason | None:
        """The buying taker's invoice, after we have confirmed its quote: check, then pay."""
        if trade.invoice == message.invoice:
            return None
        if trade.state is not State.PAY_INTENT:
            return RejectReason.WRONG_STATE
        try:
            payment_hash = decode(message.invoice).payment_hash
        except InvalidInvoiceError:
            return RejectReason.INVALID_INVOICE
        if payment_hash != trade.payment_hash and self._orders.hash_is_known(payment_hash):
            return RejectReason.WRONG_PAYMENT_HASH
        first = not trade.invoice
        if first and payment_hash != trade.payment_hash:
            return RejectReason.WRONG_PAYMENT_HASH
        expected = Expected(
            self._core.settings.invoice_prefix,
            trade.base_msat,
            payment_hash,
            message.lightning_node,
        )
        reason = why_not_pay(message.invoice, expected, now_ms=self._core.now.wall_ms)
        if reason is not None:
            return reason
        trade = self._trades.amend(
            trade,
            invoice=message.invoice,
            payment_hash=payment_hash,
            counterparty_node=message.lightning_node,
        )
        self._orders.know_hash(payment_hash)
        self.pay(trade)
        return None

    # --- what our operator says ------------------------------------------------------------------------

    def say_sent(self, trade: Trade, reference: str) -> Trade:
        """We have sent the quote (a buying maker, after base has settled)."""
        trade = self._trades.move(trade, Input.QUOTE_SAID, reference=reference)
        self._arm(trade)
        return self._trades.say(trade, QuoteSent, reference=reference)

    def say_received(self, trade: Trade) -> Trade:
        """The quote has arrived with us (a selling maker): from now on we owe the base."""
        trade = self._trades.move(trade, Input.QUOTE_CONFIRMED)
        self._extend(trade)
        self._arm(trade)
        return self._trades.say(trade, QuoteConfirmed)

    def say_cancel(self, trade: Trade) -> None:
        """End a hold on which nothing has moved."""
        self._end(trade, RejectReason.CANCELLED)

    def pay(self, trade: Trade) -> Trade:
        """Pay the taker's invoice: intent first; only Lightning's word ends it."""
        trade = self._trades.move(trade, Input.PAY_STARTED, reason="")
        self._core.emit(
            PayInvoice(
                trade.trade_id,
                trade.payment_hash,
                trade.invoice,
                fee_limit_msat(trade.base_msat),
                CLTV_LIMIT_BLOCKS,
            )
        )
        self._retry(trade)
        return trade

    def on_payment_seen(self, trade: Trade, event: PaymentSeen) -> None:
        """Lightning has said how our payment stands."""
        self.recovering.discard(trade.trade_id)
        if trade.state is not State.PAYING or event.payment_hash != trade.payment_hash:
            return
        preimage = event.preimage or b""
        if event.state == "succeeded" and proves_payment(preimage, trade.payment_hash):
            trade = self._trades.move(trade, Input.PAY_SUCCEEDED, preimage=preimage)
            self._sold(trade)
        elif event.state == "failed" or (event.state == "none" and self._core.now.wall_ms):
            self._payment_failed(trade, event.reason or RejectReason.PAYMENT_FAILED)

    def _payment_failed(self, trade: Trade, reason: RejectReason) -> None:
        trade = self._trades.move(trade, Input.PAY_FAILED, reason=reason.value)
        self._retries.pop(trade.trade_id, None)
        self._arm(trade)
        if reason is not RejectReason.INSUFFICIENT_BALANCE:
            self._trades.say(
                trade, InvoiceFailed, payment_hash=trade.payment_hash, reason=reason.value
            )

    def on_lightning_failed(self, trade: Trade, event: LightningFailed) -> None:
        """A call failed: look up whatever may have happened, give up what surely has not."""
        self._core.log(
            "warning",
            "lightning_failed",
            trade_id=trade.trade_id.hex(),
            call=event.call,
            indeterminate=event.indeterminate,
            reason=event.reason.value,
        )
        if event.call == "pay" and not event.indeterminate and trade.state is State.PAYING:
            self._payment_failed(trade, event.reason)
        elif event.call == "create_invoice" and trade.state is State.RESERVED:
            if event.indeterminate:
                self._core.emit(LookupInvoice(trade.trade_id, trade.payment_hash))
            else:
                self._end(trade, RejectReason.LIGHTNING_UNAVAILABLE)
        # Look-ups and cancels have their retry timer.

    def _extend(self, trade: Trade) -> None:
        """Keep the Redis hold while the trade goes on after its 15 minutes."""
        if self._trades.claim_of(trade) is not Claim.HELD:
            return
        ttl_ms = trade.hold_ttl_ms
        self._core.emit(ExtendHold(trade.order_id, trade.trade_id, trade.fence, ttl_ms))
        key = trade.trade_id
        self._core.call_after(("extend", key), ttl_ms // 2, lambda: self._extend_again(key))

    def _extend_again(self, key: bytes) -> None:
        self._extend(self._trades.by_id[key])

    # --- after a restart -------------------------------------------------------------------------------

    def resume(self, trade: Trade) -> None:
        """Take a running trade up again: a look-up before every decision about money."""
        key, payment_hash = trade.trade_id, trade.payment_hash
        if trade.state is State.PAYING:
            self.recovering.add(key)
            self._core.emit(LookupPayment(key, payment_hash))
            self._retry(trade)
        elif trade.side == "buy" and trade.state in {State.RESERVED, State.INVOICED}:
            self.recovering.add(key)
            self._core.emit(LookupInvoice(key, payment_hash))
            self._arm(trade)
        elif trade.state is State.CANCELLING:
            self._core.emit(CancelInvoice(key, payment_hash))
            self._retry(trade)
        else:
            self._arm(trade)
            if trade.state is not State.RESERVED:
                self._extend(trade)


def digest_id(envelope: bytes) -> bytes:
    """The trade id inside the bytes of a take that was decoded before."""
    message = decode_trade_message(decode_envelope(envelope).body)
    return message.trade_id


def _payment_hash(take: Take, preimage: bytes) -> bytes:
    return take.payment_hash or b"" if not preimage else hashlib.sha256(preimage).digest()


def _is_unpaid(trade: Trade) -> bool:
    return trade.state in {State.RESERVED, State.INVOICED, State.CANCELLING}


__all__ = ["TERMINAL", "Maker", "Refusal"]
