"""The story of one trade, told step by step in virtual time, and what must be true at its end.

A step is repeated, as a user would repeat it, until its command is answered; a node that has ended
is started again first.  Not for asserting single steps: that is what the tests do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from tests.outside import Ledger, MemoryJournal
from tests.world import DELAY_MS, SimNode, World
from zmqex.kernel.commands import (
    CancelTrade,
    Command,
    GetBook,
    ListHolds,
    PayTrade,
    PlaceOrder,
    ReceivedTrade,
    SentTrade,
)
from zmqex.kernel.effects import AnswerCommand
from zmqex.kernel.kernel import Kernel
from zmqex.kernel.records import Trade
from zmqex.kernel.requests import Answer
from zmqex.limits import PUBLISH_EVERY_MS
from zmqex.protocol.codec import decode, encode
from zmqex.protocol.messages import Message, Order, TradeMessage, TradeSaid
from zmqex.trading.states import TERMINAL, Claim, State, TradeRole
from zmqex.trading.tables import claim

MARKET = "BTC/USD"
BTC = 100_000_000
TEN_BTC_MSAT = 10**12
MINUTE = 60_000
HOLD = 15 * MINUTE


def place(side: str, lots: int, price: int = 100, **more: Any) -> PlaceOrder:  # noqa: ANN401
    """An order in the test market."""
    return PlaceOrder(MARKET, side, lots, price, **more)


def taken(world: World, maker: SimNode, taker: SimNode, side: str = "buy", **more: Any) -> str:  # noqa: ANN401
    """Rest 1 BTC of the maker on `side`, take 0.4 of it; the trade's id."""
    maker.tell(place(side, BTC))
    world.run(300)
    other = "sell" if side == "buy" else "buy"
    answer = taker.tell(place(other, 4 * BTC // 10, **more))
    assert len(answer["trades"]) == 1, answer
    return str(answer["trades"][0]["trade_id"])


def trade_of(node: SimNode, trade_id: str) -> Trade:
    """A trade as the node's journal has it."""
    return node.journal.trades[bytes.fromhex(trade_id)]


def state_of(node: SimNode, trade_id: str) -> State:
    """The state of a trade in the node's journal."""
    return trade_of(node, trade_id).state


def only_trade(node: SimNode) -> Trade:
    """The one trade in the node's journal that is about a quantity."""
    (trade,) = [one for one in node.journal.trades.values() if one.quantity_lots]
    return trade


def available(node: SimNode, side: str = "bids") -> list[int]:
    """What can be taken of each order on one side of a node's book, best first."""
    node.world.run(PUBLISH_EVERY_MS + DELAY_MS)  # what has just changed is published by then
    orders = node.tell(GetBook(MARKET, orders=True))["orders"]
    wanted = "buy" if side == "bids" else "sell"
    return [one["available_lots"] for one in orders if one["side"] == wanted]


def holds(node: SimNode) -> list[dict[str, Any]]:
    """What the node holds for others."""
    return list(node.tell(ListHolds())["holds"])


def quote_leg(world: World, buyer: SimNode, seller: SimNode, trade_id: str) -> None:
    """The base buyer sends the quote; the base seller confirms it."""
    buyer.tell(SentTrade(trade_id, "wire 7"))
    world.run(100)
    seller.tell(ReceivedTrade(trade_id))
    world.run(1_000)


def insist(world: World, node: SimNode, command: Command) -> AnswerCommand:
    """Give a command again until it is answered, starting the node again wherever it ended."""
    for _ in range(6):
        if not node.up:
            world.run(500)
            node.start()
            world.introduce(node)
            world.run(4_000)
            continue
        request = node.command(command)
        for _ in range(110):
            if request in node.answers or not node.up:
                break
            world.run(100)
        if request in node.answers:
            return node.answers[request]
    msg = f"{node.name} never answered {command}"
    raise AssertionError(msg)


def revive(world: World) -> None:
    """Start every node that has ended, and let them find each other."""
    for node in world.nodes.values():
        if not node.up:
            node.start()
            world.introduce(node)
    world.run(5_000)


def sleep(world: World, ms: int) -> None:
    """All machines are suspended for so long; then a few seconds pass."""
    world.monotonic_ms += ms
    world.wall_ms += ms
    world.run(5_000)


# --- what must be true whatever happened ---------------------------------------------------------


class Party(Protocol):
    """A node of any world: what is on its disk, what its Lightning node has, what runs there."""

    name: str
    identity: bytes
    journal: MemoryJournal
    ledger: Ledger
    kernel: Kernel | None


Parties = Mapping[str, Party]


def check_always(world: World) -> None:
    """The invariants that hold after every single step."""
    check_hashes(world.nodes)
    for node in world.nodes.values():
        check_trades(world.nodes, node)
        check_orders(node)
        check_running(node)
    assert total_msat(world.nodes) == TEN_BTC_MSAT * len(world.nodes)


def check_running(node: SimNode) -> None:
    """The kernel finds every trade that has not ended, and no other, without looking at all."""
    if node.kernel is not None:
        trades = node.kernel.trades
        wanted = {key for key, trade in trades.by_id.items() if trade.state not in TERMINAL}
        assert {trade.trade_id for trade in trades.running()} == wanted


def check_hashes(nodes: Parties) -> None:
    """No payment hash belongs to two trades."""
    hashes: dict[bytes, bytes] = {}
    for node in nodes.values():
        for trade in node.journal.trades.values():
            if trade.payment_hash:
                owner = hashes.setdefault(trade.payment_hash, trade.trade_id)
                assert owner == trade.trade_id, "a payment hash of two trades"


def check_trades(nodes: Parties, node: Party) -> None:
    """Amounts, ends and timers of every trade of a node whose decisions are all on disk."""
    for trade in node.journal.trades.values():
        _check_trade(nodes, node, trade)


def check_orders(node: Party) -> None:
    """Every order of a node gives no more than it has."""
    for order_id in node.journal.orders:
        check_order(node, order_id)


def _check_trade(nodes: Parties, node: Party, trade: Trade) -> None:
    if trade.base_msat and trade.quantity_lots:
        # All amounts derive from the one accepted quantity: a lot is a satoshi.
        assert trade.base_msat == trade.quantity_lots * 1_000
        assert trade.quote_units == -(-trade.quantity_lots * trade.price_ticks // BTC)
    owner = _payee(nodes, trade)
    if trade.state in {State.CANCELLED, State.REFUSED}:
        for payment_hash, of in node.journal.hashes.items():
            if of == trade.trade_id:
                invoice = owner.invoices.get(payment_hash)
                assert invoice is None or invoice["state"] != "settled", "cancelled, but paid"
    if node.kernel is not None and trade.state not in TERMINAL | {State.DISPUTED}:
        timers = {name for name, _ in node.kernel.core._timer_calls.values()}
        waits = {("trade", trade.trade_id), ("outbox", trade.trade_id)}
        assert waits & timers or trade.state is State.TAKING, f"nothing ends {trade.state}"


def _payee(nodes: Parties, trade: Trade) -> Ledger:
    buyer = trade.maker if trade.side == "buy" else trade.taker
    return next(one.ledger for one in nodes.values() if one.identity == buyer)


def check_order(node: Party, order_id: bytes) -> None:
    """What an order has held, filled, taken and dropped fits into it, and so does what was paid."""
    row = node.journal.orders[order_id]
    total = decode(row.order, Order).quantity_lots
    mine = [
        trade
        for trade in node.journal.trades.values()
        if trade.role is TradeRole.MAKER and trade.order_id == order_id
    ]
    sums = dict.fromkeys(Claim, 0)
    for trade in mine:
        of = claim(trade.settlement, trade.side, trade.state, hold_ended=trade.late)
        sums[of] += trade.quantity_lots
    assert sums[Claim.FILLED] == row.filled_lots
    assert min(row.filled_lots, row.taken_lots, row.dropped_lots) >= 0
    used = row.filled_lots + row.taken_lots + row.dropped_lots + sums[Claim.HELD]
    assert 0 <= used <= total, f"{used} of {total}"
    paid = sum(
        invoice["amount_msat"]
        for trade in mine
        for payment_hash, of in node.journal.hashes.items()
        if of == trade.trade_id and trade.side == "buy"
        for invoice in [node.ledger.invoices.get(payment_hash)]
        if invoice is not None and invoice["state"] == "settled"
    )
    assert paid <= total * 1_000, "more was paid than was for sale"


def total_msat(nodes: Parties) -> int:
    """All balances and what is on its way: a payee credits itself before the payer knows."""
    total = 0
    for node in nodes.values():
        total += node.ledger.balance_msat
        for payment_hash, payment in node.ledger.payments.items():
            if payment["state"] == "in_flight":
                payee = next(
                    one.ledger for one in nodes.values() if one.ledger.node == payment["payee"]
                )
                invoice = payee.invoices.get(payment_hash)
                arrived = invoice is not None and invoice["state"] == "settled"
                total += 0 if arrived else payment["amount_msat"]
    return total


def check_quiet(world: World, by_hand: frozenset[bytes] = frozenset()) -> None:
    """What holds besides when nothing is under way any more.

    Of trades that an operator disputed (`by_hand`) the two sides need not think the same.
    """
    check_always(world)
    check_paid_once(world.nodes)
    check_pairs(world.nodes, by_hand)
    for node in world.nodes.values():
        assert not node.journal.outbox, f"{node.name} still wants to say something"
        assert all(one["state"] != "in_flight" for one in node.ledger.payments.values())
        live = {
            trade_id
            for trade_id, (_, _, ends_ms) in node.held.items()
            if ends_ms > world.monotonic_ms and node.journal.claims.get(trade_id) == 0
        }
        assert not live, "the hold server holds what the journal does not"


def check_paid_once(nodes: Parties) -> None:
    """At most one payment of each trade has succeeded."""
    paid: dict[bytes, None] = {}
    for node in nodes.values():
        for payment_hash, payment in node.ledger.payments.items():
            if payment["state"] == "succeeded":
                trade_id = node.journal.hashes[payment_hash]
                assert trade_id not in paid, "paid twice"
                paid[trade_id] = None


def check_pairs(nodes: Parties, by_hand: frozenset[bytes] = frozenset()) -> None:
    """Both sides of every trade that has ended agree on how, but for those ended `by_hand`."""
    by_identity = {one.identity: one for one in nodes.values()}
    for node in nodes.values():
        for trade in node.journal.trades.values():
            other_id = trade.taker if trade.role is TradeRole.MAKER else trade.maker
            if other_id in by_identity and trade.trade_id not in by_hand:
                _check_pair(trade, by_identity[other_id].journal.trades.get(trade.trade_id))


_NOTHING = {State.CANCELLED, State.REFUSED}


def _check_pair(trade: Trade, other: Trade | None) -> None:
    if trade.state is State.SETTLED:
        assert other is not None, "settled here, unknown there"
        assert other.state is State.SETTLED, f"settled here, {other.state} there"
        assert other.base_msat == trade.base_msat
        assert other.quantity_lots == trade.quantity_lots
    elif trade.state in _NOTHING:
        ended = other is None or other.state in _NOTHING | {State.DISPUTED}
        assert ended, f"{trade.state} here, {other and other.state} there"


def pay(node: SimNode, trade_id: str) -> AnswerCommand:
    """`trade pay`."""
    return node.ask(PayTrade(trade_id), within_ms=15_000)


def cancel(node: SimNode, trade_id: str) -> AnswerCommand:
    """`trade cancel`."""
    return node.ask(CancelTrade(trade_id))


def say_raw(world: World, node: SimNode, peer: SimNode, kind: str, body: Message) -> Answer:
    """Send any request over the node's connection, as a changed program could; the answer."""
    answers: list[Answer] = []
    node.k.core.begin(world.now())
    node.k.sessions.request(peer.identity, kind, body, answers.append)
    for effect in node.k.core.finish():
        world.carry_out(node, effect)
    world.arm(node)
    world.run_until(lambda: bool(answers))
    return answers[0]


def signed(node: SimNode, message: TradeMessage, kind: str = "") -> TradeSaid:
    """A trade message signed by a node, under another kind than its own if given."""
    tag = kind or str(message.__struct_config__.tag)
    return TradeSaid(node.k.core.seal(tag, encode(message)))
