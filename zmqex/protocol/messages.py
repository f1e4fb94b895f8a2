"""Every message that peers exchange, as frozen array-like structs.

Unsigned requests and replies travel as `Frame`s over an authenticated connection.  What must hold
beyond one connection (records, batches, heartbeats, trade messages) travels as an `Envelope`: raw
body bytes and an Ed25519 signature over them.  Nothing is re-serialised before it is checked.
Not for: sockets, sessions or decisions.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from zmqex.limits import (
    BATCH_OPERATIONS_MAX,
    HEADS_MAX,
    LOG_PAGE_BATCHES_MAX,
    LOG_PAGE_BYTES_MAX,
    PEERS_PAGE_MAX,
    ROWS_PAGE_MAX,
)
from zmqex.market.orders import Side
from zmqex.protocol.fields import (
    Attempt,
    Blob,
    Count,
    Digest,
    Digests,
    Host,
    Label,
    Milliseconds,
    NetworkName,
    NodeKey,
    Nonce,
    Port,
    Positive,
    PublicKey,
    ShortText,
    Signature,
    SmallCount,
    Symbol,
    Word,
)


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages: immutable, positional, no unknown fields."""


class Envelope(Message, frozen=True, gc=False):
    """`[body, signature]`: the signature is over the context and the raw body bytes."""

    body: Blob
    signature: Signature


class Frame(Message, frozen=True):
    """A request, or the reply to one: `[version, kind, request_id, body]`, the body by its kind."""

    version: Annotated[int, Meta(ge=0, le=255)]
    kind: Word
    request_id: Count
    body: msgspec.Raw


class Reject(Message, frozen=True):
    """The reply to a request that was refused; kind `reject`."""

    reason: Word
    retry_after_ms: Milliseconds
    detail: ShortText


# --- who a peer is -------------------------------------------------------------------------------


class Endpoint(Message, frozen=True):
    """Where a socket listens; an empty host means "the address you reached me at"."""

    host: Host
    port: Port


class PeerRecord(Message, frozen=True):
    """Signed by the identity (kind `record`): where it listens now, and with which CURVE key."""

    network: NetworkName
    identity: PublicKey
    hello: Endpoint | None
    rpc: Endpoint | None
    orders: Endpoint | None
    curve_key: PublicKey
    lightning_node: NodeKey
    capabilities: Annotated[list[Word], Meta(max_length=16)]
    not_before_ms: Milliseconds
    not_after_ms: Milliseconds
    sequence: Count


class Greet(Message, frozen=True):
    """Both sides of a new connection: my record, and my clock."""

    record: Blob
    wall_ms: Milliseconds


class ToldPeer(Message, frozen=True):
    """The signed record of a peer, verbatim, and where the teller has reached it ("": nowhere)."""

    record: Blob
    host: Host


class Peers(Message, frozen=True):
    """Peers to which the teller is connected."""

    peers: Annotated[list[ToldPeer], Meta(max_length=PEERS_PAGE_MAX)]


class DialledBack(Message, frozen=True):
    """What came of dialling the asker's three sockets at `host`."""

    host: Host
    hello: Literal["open", "closed"]
    rpc: Literal["open", "closed"]
    orders: Literal["open", "closed"]


class Empty(Message, frozen=True):
    """A body without fields."""


class Pong(Message, frozen=True):
    """The answer to `ping`: the answerer's clock."""

    wall_ms: Milliseconds


class Page(Message, frozen=True):
    """Ask for the entries after this identity in byte order (empty: from the first)."""

    after: Annotated[bytes, Meta(max_length=32)]


class Limit(Message, frozen=True):
    """One published limit."""

    name: Word
    value: Count


class Limits(Message, frozen=True):
    """The limits that a node enforces."""

    limits: Annotated[list[Limit], Meta(max_length=64)]


# --- order logs ----------------------------------------------------------------------------------


class Order(Message, frozen=True, gc=False):
    """The terms of an order; they never change.  Quantities in lots, prices in ticks.

    The most frequent message by far: no field is matched against a pattern, which would cost more
    than all the rest of it, and the garbage collector need not walk a book of them.
    """

    market: Label
    side: Side
    price_ticks: Positive
    quantity_lots: Positive
    minimum_lots: Positive
    time_in_force: Literal["gtc", "gtd"]
    flags: SmallCount
    expires_at_ms: Milliseconds
    settlements: Annotated[tuple[Label, ...], Meta(min_length=1, max_length=4)]
    payment_methods: Annotated[tuple[ShortText, ...], Meta(max_length=8)]
    nonce: Nonce


class Place(Message, frozen=True, tag="place", gc=False):
    """A new order, as the raw bytes that its id is the hash of."""

    order: Annotated[bytes, Meta(max_length=2_048)]


class Update(Message, frozen=True, tag="update", gc=False):
    """What is left of an order and how much of that is held (absolute numbers)."""

    order_id: Digest
    remaining_lots: Count
    held_lots: Count


class Close(Message, frozen=True, tag="close", gc=False):
    """An order that is gone for good."""

    order_id: Digest
    reason: Word


class Fill(Message, frozen=True, tag="fill", gc=False):
    """A public print of a trade; only when both parties opted in."""

    order_id: Digest
    quantity_lots: Positive
    price_ticks: Positive
    at_ms: Milliseconds


Operation = Place | Update | Close | Fill


class Batch(Message, frozen=True, gc=False):
    """Signed by its maker (kind `batch`): the next piece of its log in one market."""

    maker: PublicKey
    market: Symbol
    epoch: Count
    sequence: Positive
    previous_hash: Digest
    sent_at_ms: Milliseconds
    operations: Annotated[list[Operation], Meta(min_length=1, max_length=BATCH_OPERATIONS_MAX)]


class Head(Message, frozen=True):
    """Where a maker's log in one market stands."""

    market: Symbol
    epoch: Count
    sequence: Count
    head_hash: Digest
    open_orders: Count
    book_root: Digest


class Heartbeat(Message, frozen=True):
    """Signed by the maker (kind `heartbeat`): I am alive, and my logs stand here."""

    maker: PublicKey
    sent_at_ms: Milliseconds
    heads: Annotated[list[Head], Meta(max_length=HEADS_MAX)]


class Heads(Message, frozen=True):
    """The newest heartbeat of every maker that a node knows, verbatim."""

    heartbeats: Annotated[list[Blob], Meta(max_length=PEERS_PAGE_MAX)]

    @property
    def is_last(self) -> bool:
        """Whether whoever told it surely had no more: pages are filled as far as they may be."""
        size = sum(map(len, self.heartbeats))
        return len(self.heartbeats) < PEERS_PAGE_MAX and 2 * size < LOG_PAGE_BYTES_MAX


class ForkProof(Message, frozen=True):
    """Two signed batches of one (maker, market, epoch, sequence) that differ; topic `e`."""

    first: Blob
    second: Blob


class LogRequest(Message, frozen=True):
    """Ask for batches of one log from a sequence number on."""

    maker: PublicKey
    market: Symbol
    epoch: Count
    from_sequence: Positive


class LogPage(Message, frozen=True):
    """Batches in order, verbatim; none if none is that new.  Later ones are `left_bytes` long."""

    batches: Annotated[list[Blob], Meta(max_length=LOG_PAGE_BATCHES_MAX)]
    left_bytes: Count


class SnapshotRequest(Message, frozen=True):
    """Ask for a signed head of a log, at this sequence or after it, and its bucket digests."""

    maker: PublicKey
    market: Symbol
    epoch: Count
    sequence: Count


class Snapshot(Message, frozen=True):
    """A heartbeat with the head, verbatim, and the 256 digests that its book root is made of."""

    heartbeat: Blob
    digests: Digests


class RowsRequest(Message, frozen=True):
    """Ask for the open orders of some buckets (a byte each) of a head that was just given.

    `after`: go on after this order id in the first of them; empty: from its beginning.
    """

    maker: PublicKey
    market: Symbol
    head_hash: Digest
    buckets: Annotated[bytes, Meta(max_length=256)]
    after: Annotated[bytes, Meta(max_length=32)]


class OpenOrder(Message, frozen=True, gc=False):
    """One open order of a snapshot: its terms as they were placed, and what is left of it."""

    order: Annotated[bytes, Meta(max_length=2_048)]
    remaining_lots: Count
    held_lots: Count


class Rows(Message, frozen=True):
    """Open orders in order of bucket and id; so many of the asked buckets end in this page."""

    complete: SmallCount
    rows: Annotated[list[OpenOrder], Meta(max_length=ROWS_PAGE_MAX)]


class MatchesRequest(Message, frozen=True):
    """Which orders of your book would cross this one?"""

    order: Order


class Match(Message, frozen=True):
    """One order that crosses, and how much of it would be filled."""

    order_id: Digest
    maker: PublicKey
    quantity_lots: Positive
    price_ticks: Positive


class Matches(Message, frozen=True):
    """Best first."""

    matches: Annotated[list[Match], Meta(max_length=100)]


class BookRequest(Message, frozen=True):
    """Aggregated levels of a market."""

    market: Symbol
    depth: SmallCount


class Level(Message, frozen=True):
    """One price level."""

    price_ticks: Positive
    quantity_lots: Positive
    orders: Positive


class BookLevels(Message, frozen=True):
    """Bids and asks, best first."""

    bids: Annotated[list[Level], Meta(max_length=1_000)]
    asks: Annotated[list[Level], Meta(max_length=1_000)]


# --- trades: each signed (kind = its tag) and chained by `previous` ------------------------------


class TradeMessage(Message, frozen=True):
    """Base of what two parties say in a trade; `previous` is the digest of the message before."""

    trade_id: Digest
    previous: Digest
    sent_at_ms: Milliseconds


class Take(TradeMessage, frozen=True, tag="take"):
    """Taker to maker: I take this much of your order; a buying taker names its payment hash."""

    take_id: Digest
    maker: PublicKey
    taker: PublicKey
    order_id: Digest
    quantity_lots: Positive
    price_ticks: Positive
    settlement: Word
    payment_hash: Digest | None


class Accept(TradeMessage, frozen=True, tag="accept"):
    """Maker to taker: held for you.  `quantity_lots` is what every amount derives from.

    `payment_hash` where the maker drew the preimage and the taker makes the invoice.
    """

    take_digest: Digest
    quantity_lots: Positive
    base_msat: Positive
    quote_units: Positive
    invoice: Annotated[str, Meta(max_length=2_000)] | None
    payment_hash: Digest | None
    pay_instructions: ShortText
    hold_ttl_ms: Milliseconds
    hold_expires_at_ms: Milliseconds
    fence: Positive
    lightning_node: NodeKey


class QuoteSent(TradeMessage, frozen=True, tag="quote_sent"):
    """The base buyer says: the quote is on its way; `reference` is what the other side will see."""

    reference: ShortText


class QuoteConfirmed(TradeMessage, frozen=True, tag="quote_confirmed"):
    """The base seller says: the quote has arrived."""


class TradeReleased(TradeMessage, frozen=True, tag="trade_released"):
    """The seller of a locked base says: the quote has arrived, take the base with this preimage."""

    payment_preimage: Digest


class TradeInvoice(TradeMessage, frozen=True, tag="trade_invoice"):
    """A buying taker's invoice for exactly the accepted base amount."""

    invoice: Annotated[str, Meta(max_length=2_000)]
    lightning_node: NodeKey


class TradeRollover(TradeMessage, frozen=True, tag="trade_rollover"):
    """The buyer of a base whose lock is lost says: pay this ordinary invoice in its place."""

    attempt: Attempt
    invoice: Annotated[str, Meta(max_length=2_000)]
    lightning_node: NodeKey


class InvoiceFailed(TradeMessage, frozen=True, tag="invoice_failed"):
    """The payer of the base says: this invoice will never be paid by me; send a fresh one."""

    payment_hash: Digest
    reason: Word


class TradeCancel(TradeMessage, frozen=True, tag="trade_cancel"):
    """Either side asks to end the trade; for an unknown take it forbids a later one."""

    take_id: Digest
    taker: PublicKey
    reason: Word


class TradeCancelled(TradeMessage, frozen=True, tag="trade_cancelled"):
    """The maker says: the hold has ended and nothing was or will be paid."""

    reason: Word


class TradeSettled(TradeMessage, frozen=True, tag="trade_settled"):
    """A receipt: the sender has everything that it was promised."""


AnyTradeMessage = (
    Take
    | Accept
    | QuoteSent
    | QuoteConfirmed
    | TradeReleased
    | TradeInvoice
    | TradeRollover
    | InvoiceFailed
    | TradeCancel
    | TradeCancelled
    | TradeSettled
)


class TradeSaid(Message, frozen=True):
    """A signed trade message, verbatim: what `take` and `trade` and their answers carry."""

    envelope: Blob


class TradeStatusRequest(Message, frozen=True):
    """How does this trade stand with you?"""

    trade_id: Digest


class TradeStatus(Message, frozen=True):
    """The answerer's state and its last signed message of the trade, verbatim."""

    state: Word
    last_message: Blob | None
