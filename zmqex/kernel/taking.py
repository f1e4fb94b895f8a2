"""Taking another maker's order: the take, its one deadline, and the checks of the accept.

What was not answered in time may still be held by the maker, so it is abandoned, never forgotten.
What happens to an accepted take is the taker's part (taker.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec

from zmqex.errors import RemoteProtocolError
from zmqex.kernel.core import Core
from zmqex.kernel.invoices import invoice_hash
from zmqex.kernel.orders import OwnOrders
from zmqex.kernel.records import Trade
from zmqex.kernel.replicas import FoundOrder
from zmqex.kernel.requests import Refusal
from zmqex.kernel.sessions import Sessions
from zmqex.kernel.trades import Trades, other_side
from zmqex.limits import HOLD_TTL_MS, SKIP_MAKER_MS, TAKE_DEADLINE_MS
from zmqex.protocol.codec import decode, decode_envelope, decode_trade_message
from zmqex.protocol.identity import ZERO_DIGEST, digest, short, trade_id, verify
from zmqex.protocol.messages import Accept, Take, TradeSaid
from zmqex.reasons import RejectReason
from zmqex.trading.settlement import PLAIN, SWAP, amounts, draws_preimage
from zmqex.trading.states import Input, State, TradeRole

# The take may have reached the maker: it must be told that we want out.
_MAY_HAVE_ARRIVED = frozenset(
    {RejectReason.TIMED_OUT, RejectReason.MALFORMED, RejectReason.NOT_CONNECTED}
)
# The maker is no use for now, whichever of its orders we ask for.
_SET_ASIDE = _MAY_HAVE_ARRIVED | {
    RejectReason.NOT_GREETED,
    RejectReason.HOLDS_UNAVAILABLE,
    RejectReason.LIGHTNING_UNAVAILABLE,
    RejectReason.STARTING,
    RejectReason.DECLINED,
}

Done = Callable[[Trade], None]


class Taking:
    """Sends takes; `on_accepted` and `on_abandoned` carry on what the maker may hold."""

    def __init__(self, core: Core, sessions: Sessions, trades: Trades, orders: OwnOrders) -> None:
        """Start with nothing asked."""
        self._core = core
        self._sessions = sessions
        self._trades = trades
        self._orders = orders
        self._done: dict[bytes, Done] = {}
        self._unsent = b""
        self.on_asked: Callable[[FoundOrder], None] = lambda _order: None
        self.on_accepted: Callable[[Trade], None] = lambda _trade: None
        self.on_abandoned: Callable[[Trade, RejectReason], None] = lambda _trade, _reason: None

    def take(
        self,
        order: FoundOrder,
        quantity_lots: int,
        *,
        own_order_id: bytes,
        pay_mode: str,
        done: Done,
        settlement: str = PLAIN,
        hold_own: bool = False,
    ) -> Trade:
        """Take a quantity of an order; `done` is called once, when the maker's answer is known.

        `hold_own`: our own order rests, so what it takes is held of it in the same transaction.
        """
        core, now_ms = self._core, self._core.now.wall_ms
        take_id = core.random(32)
        drawn = draws_preimage(settlement, other_side(order.order.side), takes=True)
        preimage = core.random(32) if drawn else b""
        payment_hash = hashlib.sha256(preimage).digest() if drawn else b""
        message = Take(
            trade_id=trade_id(core.settings.network, order.maker, core.identity, take_id),
            previous=ZERO_DIGEST,
            sent_at_ms=now_ms,
            take_id=take_id,
            maker=order.maker,
            taker=core.identity,
            order_id=order.order_id,
            quantity_lots=quantity_lots,
            price_ticks=order.order.price_ticks,
            settlement=settlement,
            payment_hash=payment_hash or None,
        )
        trade = self._trades.add(
            Trade(
                trade_id=message.trade_id,
                role=TradeRole.TAKER,
                take_id=take_id,
                order_id=order.order_id,
                own_order_id=own_order_id,
                market=order.order.market,
                side=order.order.side,
                maker=order.maker,
                taker=core.identity,
                quantity_lots=quantity_lots,
                price_ticks=order.order.price_ticks,
                settlement=settlement,
                state=State.TAKING,
                revision=1,
                created_ms=now_ms,
                updated_ms=now_ms,
                first_sent_ms=now_ms,
                payment_hash=payment_hash,
                preimage=preimage,
                pay_mode=pay_mode,
                counted=hold_own,
                rests=hold_own,
            )
        )
        if hold_own:
            self._orders.taken(own_order_id, quantity_lots)
        self.on_asked(order)
        trade, envelope = self._trades.sign(trade, message)
        trade = self._trades.amend(trade, take_digest=digest(envelope))
        self._done[trade.trade_id] = done
        self._ask(trade, envelope)
        return trade

    def _ask(self, trade: Trade, envelope: bytes) -> None:
        key = trade.trade_id
        # An answer from within the call means that nothing was sent.
        self._unsent = key
        too_much = self._trades.why_too_much(trade, ())
        if too_much is not None:
            self._answered(key, Refusal(too_much, 0, "above this node's own limit"))
            self._unsent = b""
            return
        self._sessions.request(
            trade.maker,
            "take",
            TradeSaid(envelope),
            lambda answer: self._answered(key, answer),
            TAKE_DEADLINE_MS,
        )
        self._unsent = b""

    def _answered(self, key: bytes, answer: msgspec.Raw | Refusal) -> None:
        trade = self._trades.by_id[key]
        if trade.state is not State.TAKING:
            return
        refused = answer if isinstance(answer, Refusal) else self._on_accept(trade, answer)
        if refused is None:
            return
        trade, reason = self._trades.by_id[key], refused.reason
        # Who says "in a while" means it, whatever the reason: a ban, for example.
        if reason in _SET_ASIDE or refused.retry_after_ms > SKIP_MAKER_MS:
            until_ms = max(refused.retry_after_ms, SKIP_MAKER_MS)
            self._sessions.set_aside(trade.maker, until_ms, reason)
        self._core.log(
            "warning",
            "maker_skipped",
            trade_id=key.hex(),
            maker=short(trade.maker),
            reason=reason.value,
        )
        if reason in _MAY_HAVE_ARRIVED and key != self._unsent:
            self.on_abandoned(trade, reason)
        else:
            self._trades.move(self.give_back(trade), Input.REFUSE, reason=reason.value)
        self.finish(key)

    def give_back(self, trade: Trade) -> Trade:
        """Nothing comes of it: what was held of our own resting order is free again."""
        if not (trade.counted and trade.rests):
            return trade
        self._orders.not_taken(trade.own_order_id, trade.quantity_lots)
        return self._trades.amend(trade, counted=False)

    def finish(self, key: bytes) -> None:
        """Tell whoever waits for this take how it stands; only the first call does."""
        done = self._done.pop(key, None)
        if done is not None:
            done(self._trades.by_id[key])

    def _on_accept(self, trade: Trade, answer: msgspec.Raw) -> Refusal | None:
        """Check an accept; what does not hold is abandoned with the reason."""
        try:
            said = decode(answer, TradeSaid)
            envelope = decode_envelope(said.envelope)
            accept = decode_trade_message(envelope.body)
        except RemoteProtocolError as error:
            return Refusal(RejectReason.MALFORMED, 0, str(error)[:200])
        network = self._core.settings.network
        if not isinstance(accept, Accept) or not verify(trade.maker, network, "accept", envelope):
            return Refusal(RejectReason.MALFORMED, 0, "not a signed accept")
        reason = self._why_not(trade, accept)
        trade = self._trades.heard(trade, said.envelope)
        if reason is RejectReason.MALFORMED:
            return Refusal(reason, 0, "the accept does not match the take")
        asked_lots = trade.quantity_lots
        own_clock_end = trade.first_sent_ms + min(accept.hold_ttl_ms, HOLD_TTL_MS)
        trade = self._trades.move(
            trade,
            Input.ACCEPT,
            quantity_lots=accept.quantity_lots,
            base_msat=accept.base_msat,
            quote_units=accept.quote_units,
            invoice=accept.invoice or "",
            payment_hash=self._hash_of(trade, accept),
            pay_instructions=accept.pay_instructions,
            hold_ttl_ms=accept.hold_ttl_ms,
            # By our own clock, from our own first send: a re-read accept never extends it.
            hold_expires_ms=own_clock_end,
            fence=accept.fence,
            counterparty_node=accept.lightning_node,
        )
        if trade.rests:
            self._orders.not_taken(trade.own_order_id, asked_lots - trade.quantity_lots)
        self.on_accepted(trade)
        self._count(self._trades.by_id[trade.trade_id])
        self.finish(trade.trade_id)
        return None

    def _count(self, trade: Trade) -> None:
        """A take that was not abandoned at once is a part of our order that need not be worked."""
        if trade.own_order_id and not trade.counted and trade.state is not State.ABANDONING:
            self._trades.amend(trade, counted=True)
            self._orders.taken(trade.own_order_id, trade.quantity_lots)

    def _hash_of(self, trade: Trade, accept: Accept) -> bytes:
        """The hash that is paid: drawn by us, else by the maker, in its invoice or by itself."""
        from_invoice = invoice_hash(accept.invoice) if accept.invoice else b""
        return trade.payment_hash or from_invoice or accept.payment_hash or b""

    def _why_not(self, trade: Trade, accept: Accept) -> RejectReason | None:
        instrument = self._core.currencies.instrument(trade.market)
        legs = amounts(instrument, accept.quantity_lots, trade.price_ticks)
        # A hash of another trade would contradict the journal, and pay two trades at once.
        sound = (
            not self._trades.is_foreign_hash(self._hash_of(trade, accept), trade)
            and accept.trade_id == trade.trade_id
            and accept.take_digest == trade.take_digest
            and 0 < accept.quantity_lots <= trade.quantity_lots
            and (accept.base_msat, accept.quote_units) == (legs.base_msat, legs.quote_units)
            and (accept.invoice is None) == (trade.side == "sell" and trade.settlement != SWAP)
            and (accept.payment_hash is None) == (trade.side == "buy" or bool(trade.payment_hash))
        )
        return None if sound else RejectReason.MALFORMED
