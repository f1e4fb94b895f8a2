"""What an operator can say to a running node, and the shape of each answer.

Commands cross the control socket as tagged MessagePack maps.  An answer is `{"ok": bool, "result":
{...}}`; a refusal's result is `{"reason": RejectReason word, "message": one sentence}`.  Numbers in
answers are integers (lots, ticks, quote units, msat, ms) and ids are lower-case hex; identities are
base32 text.  The caller formats them.  An `..._id` argument may be a unique prefix of 8 or more
characters.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Text = Annotated[str, Meta(max_length=4_000)]
Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Settlements = Annotated[tuple[Text, ...], Meta(min_length=1, max_length=4)]


class CommandBase(msgspec.Struct, frozen=True, tag_field="command", forbid_unknown_fields=True):
    """Base of all commands."""


class PlaceOrder(CommandBase, frozen=True, tag="place_order"):
    """Match against the book, take what crosses from its makers, rest what is left.

    Answered when every take has ended one way or another:
    `{"order": ORDER, "trades": [TRADE], "skipped": [{"maker", "order_id", "reason", "for_ms": how
    long it is not asked again, "detail"}],
    "repeated": bool}`.  With `dry_run`: `{"fills": [{"order_id", "maker", "quantity_lots",
    "price_ticks"}], "filled_lots", "resting_lots", "cancelled_lots", "quote_units",
    "average_price_ticks_numerator", "reason"}` (average = numerator / filled_lots).

    ORDER: `{"order_id", "market", "side", "price_ticks", "quantity_lots", "minimum_lots",
    "filled_lots", "held_lots", "remaining_lots", "dropped_lots", "state": "working|open|closed",
    "close_reason", "created_ms", "expires_at_ms", "renew", "all_or_none",
    "cancel_on_disconnect", "time_in_force", "settlements"}`.
    `remaining_lots` counts what is held, as on the wire.
    """

    market: Text
    side: Text
    quantity_lots: Number
    price_ticks: Number
    minimum_lots: Number = 0
    expires_in_ms: Number = 0  # 0: the default life
    time_in_force: Text = "gtc"  # gtc | gtd | ioc | fok
    post_only: bool = False
    all_or_none: bool = False
    renew: bool = False
    # Closed when the client that placed it has gone; not with `renew`.  The client says first
    # that it is here (zmqex.adapters.transport.control); zmqex.client does so by itself.
    cancel_on_disconnect: bool = False
    dry_run: bool = False
    pay_mode: Text = "auto"  # auto | manual
    any_price: bool = False  # also far from the best price on the other side
    # How its trades may be settled, the best first; only orders that share one are taken.
    settlements: Settlements = ("plain",)
    key: Text = ""  # a repeat with the same key returns the order made by the first


class TakeOrder(CommandBase, frozen=True, tag="take_order"):
    """Take a quantity of one order, at its price.

    Answered like PlaceOrder, without "order"; a refusal names the maker's reason.
    """

    order_id: Text
    quantity_lots: Number
    pay_mode: Text = "auto"
    key: Text = ""
    settlement: Text = "plain"


class ReplaceOrder(CommandBase, frozen=True, tag="replace_order"):
    """Close an open order and place another in its stead, on the same side of the same market.

    All but quantity and price stays as it was; what is held of the old one stays held.  Peers see
    both at once unless the new one crosses: then the old one goes first.  Answered like PlaceOrder
    with "replaced": `{"order_id", "market", "removed_lots", "held_lots", "remaining_lots"}`.
    """

    order_id: Text
    market: Text
    quantity_lots: Number
    price_ticks: Number
    pay_mode: Text = ""  # auto | manual; "": as the old one
    any_price: bool = False
    key: Text = ""


class ListOrders(CommandBase, frozen=True, tag="list_orders"):
    """Own orders: `{"orders": [ORDER], "older": bool}`, newest first; `closed` adds closed ones.

    `older`: whether more than are told have left memory.
    """

    closed: bool = False


class ShowOrder(CommandBase, frozen=True, tag="show_order"):
    """`{"order": ORDER, "trades": [TRADE], "own": bool}`; another maker's order adds "maker"."""

    order_id: Text


class CancelOrder(CommandBase, frozen=True, tag="cancel_order"):
    """`{"cancelled": [{"order_id", "removed_lots", "held_lots", "remaining_lots"}]}`.

    `order_id` "" cancels all open ones.
    """

    order_id: Text


class GetBook(CommandBase, frozen=True, tag="get_book"):
    """The book of a market.

    `{"market", "bids": [LEVEL], "asks": [LEVEL], "spread_ticks": int | None, "makers",
    "orders": [BOOK_ORDER], "stale_makers"}`; LEVEL: `{"price_ticks", "quantity_lots", "orders",
    "cumulative_lots", "own_lots", "stale_lots", "settlement_lots": {"plain": ...}}` (the first two
    count stale lots too; lots that may be settled in two ways count for both); BOOK_ORDER (with
    `orders`): `{"order_id", "maker", "side", "price_ticks", "remaining_lots", "held_lots",
    "available_lots", "minimum_lots", "expires_at_ms", "own", "stale", "all_or_none",
    "settlements"}`, best first.
    """

    market: Text
    depth: Number = 10
    orders: bool = False


class GetPeerBook(CommandBase, frozen=True, tag="get_peer_book"):
    """Fetch and verify every maker's orders that a peer has.

    GetBook's answer plus "peer" and "snapshots", how many makers' signed heads were verified.
    """

    peer: Text
    market: Text
    depth: Number = 10
    orders: bool = True


class MatchOrder(CommandBase, frozen=True, tag="match_order"):
    """What crosses these terms.

    `{"matches": [{"order_id", "maker", "quantity_lots", "price_ticks", "source"}], "unanswered":
    [{"peer", "reason"}]}`; "source" is "book" or a peer id.

    `order_id` names an order of the book or an own one in place of terms.
    """

    order_id: Text = ""
    market: Text = ""
    side: Text = "buy"
    quantity_lots: Number = 0
    price_ticks: Number = 0
    ask_peers: bool = True


class ListTrades(CommandBase, frozen=True, tag="list_trades"):
    """`{"trades": [TRADE], "older": bool}`, newest first; `ended` adds the ended ones.

    `older`: whether more than are told have left memory.

    TRADE: `{"trade_id", "money": "play money" or what else,
    "role": "maker|taker", "side": "buy|sell" (what we do with the base),
    "market", "order_id", "own_order_id", "counterparty", "quantity_lots", "price_ticks",
    "base_msat", "quote_units", "settlement", "state", "reason",
    "turn": "you|them|lightning|nobody",
    "next_command": "trade sent ID" or "", "next_text", "hold_expires_ms", "hold_left_ms",
    "htlc_expiry_height", "deadline_ms": of an `htlc` trade's lock and of our state,
    "attempt": at paying the base, 1 or, after a rollover, more,
    "payment_hash", "invoice", "taker_invoice": of leg 2 of a swap, or "", "pay_mode",
    "lightning_nodes": [keys of ours that have issued its invoice or pay],
    "pay_instructions", "reference", "created_ms", "updated_ms"}`.
    """

    ended: bool = True


class ShowTrade(CommandBase, frozen=True, tag="show_trade"):
    """`{"trade": TRADE, "messages": [{"kind", "sender", "sent_at_ms", "digest"}]}`."""

    trade_id: Text


class ExportTrade(CommandBase, frozen=True, tag="export_trade"):
    """What the parties of a trade signed, sealed by us: `{"evidence": EvidenceFile}`.

    See `zmqex.trading.evidence`.  The preimage is in it only once Lightning has settled.
    """

    trade_id: Text


class PayTrade(CommandBase, frozen=True, tag="pay_trade"):
    """Pay the invoice of a trade now: `{"trade": TRADE}` once Lightning has answered."""

    trade_id: Text


class SendTrade(CommandBase, frozen=True, tag="send_trade"):
    """We are about to send the quote of an `htlc` trade: may we still?  `{"trade": TRADE}`.

    Answered once Lightning has said how long the base is locked; refused where that is too short.
    """

    trade_id: Text


class SentTrade(CommandBase, frozen=True, tag="sent_trade"):
    """The quote was sent by us: `{"trade": TRADE}`; in an `htlc` trade checked like SendTrade."""

    trade_id: Text
    reference: Annotated[str, Meta(max_length=200)] = ""


class ReceivedTrade(CommandBase, frozen=True, tag="received_trade"):
    """The quote has arrived with us: `{"trade": TRADE}`.

    An `htlc` trade is released with it, and after a rollover the fresh invoice is paid.
    """

    trade_id: Text


class RolloverTrade(CommandBase, frozen=True, tag="rollover_trade"):
    """We have sent the quote and our lock is lost: ask to be paid anew.  `{"trade": TRADE}`.

    Answered once a fresh invoice is on its way to the seller; refused unless Lightning says that
    the last one is cancelled for good.
    """

    trade_id: Text


class CancelTrade(CommandBase, frozen=True, tag="cancel_trade"):
    """End a trade in which nothing has moved, or take a rollover back: `{"trade": TRADE}`."""

    trade_id: Text


class DisputeTrade(CommandBase, frozen=True, tag="dispute_trade"):
    """A trade has gone wrong; its quantity stays committed: `{"trade": TRADE}`."""

    trade_id: Text


class ResolveTrade(CommandBase, frozen=True, tag="resolve_trade"):
    """End a disputed trade: `{"trade": TRADE}`.

    `cancelled` only once Lightning has said that its base was not and will not be paid.
    """

    trade_id: Text
    outcome: Text  # settled | cancelled


class ListHolds(CommandBase, frozen=True, tag="list_holds"):
    """Every hold on our orders.

    `{"holds": [{"order_id", "trade_id", "taker", "quantity_lots", "market", "fence", "state",
    "left_ms": by the journal, "redis_left_ms": int | None}]}`.
    """


class PingPeer(CommandBase, frozen=True, tag="ping_peer"):
    """`{"peer", "round_trip_ms", "wall_ms", "skew_ms"}`."""

    peer: Text


class ListPeers(CommandBase, frozen=True, tag="list_peers"):
    """Every known peer, and every maker whose logs are followed, directly or not.

    `{"makers": [{"maker", "stale", "heard_ms_ago": int | None, "open_orders", "logs": [LOG]}],
    "peers": [{"peer", "state", "why", "source", "host", "hello_port", "rpc_port",
    "orders_port", "pinned", "skew_ms", "heard_ms_ago", "open_orders", "logs": [LOG]}]}`.

    LOG: `{"market", "epoch", "sequence", "lag", "state", "why"}`; "lag" is the number of missing
    batches, "why" how the log caught up last, or why it does not.
    """


class ListCandidates(CommandBase, frozen=True, tag="list_candidates"):
    """Every address where a peer might be, who named it, and why there is no connection.

    `{"candidates": [{"host", "port", "sources": [text], "pinned", "peer": id or "", "state": a
    peer's, or "self|idle|queued|dialling|waiting", "failures", "retry_ms": int | None, "why"}]}`.
    """


class CheckReach(CommandBase, frozen=True, tag="check_reach"):
    """Ask some peers to dial back.

    `{"peers": [{"peer", "host", "ports": {"hello", "rpc", "orders": "open|closed"}, "reason",
    "detail"}]}`; a peer that refuses has a "reason" and no "ports".
    """


class CheckJournal(CommandBase, frozen=True, tag="check_journal"):
    """Look through the journal's pages: `{"problems": [text]}`; commits wait meanwhile."""


class LookupPeers(CommandBase, frozen=True, tag="lookup_peers"):
    """Ask discovery now: `{"candidates": [{"host", "port", "source"}], "dht": {...}}`."""


class AddPeer(CommandBase, frozen=True, tag="add_peer"):
    """Connect to `host:port` (hello); `peer` "" takes whoever answers: `{"added": "host:port"}`."""

    peer: Text
    host: Text
    port: Number


class RemovePeer(CommandBase, frozen=True, tag="remove_peer"):
    """Forget and disconnect: `{"removed": peer}`."""

    peer: Text


class GetStatus(CommandBase, frozen=True, tag="get_status"):
    """How the node is.

    `{"identity", "network", "version", "pid", "uptime_ms", "data_dir", "endpoints": {"hello",
    "rpc", "orders", "dht": "host:port"}, "redis": {"server", "version", "pid", "embedded", "url",
    "ok", "lease": "not_needed|unknown|held|taken"}, "lightning": {"ok", "backend", "node",
    "balance_msat", "in_flight_msat", "play"} or {"ok": false, "why"}, "journal": {"path",
    "commits", "sqlite"}, "peers": {"live", "known"}, "orders": {"open"}, "trades": {"running"},
    "counters": {word: int}, "dht": {word: int}, "no_source": text, "warnings": [text]}`.
    """


class StopNode(CommandBase, frozen=True, tag="stop_node"):
    """End the node cleanly: `{"stopping": true}`."""


Command = (
    PlaceOrder
    | TakeOrder
    | ReplaceOrder
    | ListOrders
    | ShowOrder
    | CancelOrder
    | GetBook
    | GetPeerBook
    | MatchOrder
    | ListTrades
    | ShowTrade
    | ExportTrade
    | PayTrade
    | SendTrade
    | SentTrade
    | ReceivedTrade
    | RolloverTrade
    | CancelTrade
    | DisputeTrade
    | ResolveTrade
    | ListHolds
    | PingPeer
    | ListPeers
    | ListCandidates
    | CheckReach
    | CheckJournal
    | LookupPeers
    | AddPeer
    | RemovePeer
    | GetStatus
    | StopNode
)


class ControlRequest(msgspec.Struct, frozen=True, array_like=True):
    """`[request_id, command]` on the control ROUTER."""

    request_id: Number
    command: Command


class ControlAnswer(msgspec.Struct, frozen=True, array_like=True):
    """`[request_id, ok, result]`."""

    request_id: Number
    ok: bool
    result: dict[str, object]
