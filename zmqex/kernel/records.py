"""What a node writes down: rows of the journal, and the writes that change them.

A `Write` says what must be true before it (`revision`) as well as after it; the journal refuses
the whole transaction where the two disagree.
"""

from __future__ import annotations

import msgspec

from zmqex.trading.states import State, TradeRole


class Record(msgspec.Struct, frozen=True):
    """Base of all journal rows."""


class Trade(Record, frozen=True):
    """One trade as one party knows it.  Quantities in lots, `revision` grows by one per write."""

    trade_id: bytes
    role: TradeRole
    take_id: bytes
    order_id: bytes
    own_order_id: bytes  # maker: the order; taker: the own order that took, or b"" for a bare take
    market: str
    side: str  # of the maker's order: "buy" or "sell"
    maker: bytes
    taker: bytes
    quantity_lots: int
    price_ticks: int
    settlement: str
    state: State
    revision: int
    created_ms: int
    updated_ms: int
    first_sent_ms: int = 0
    base_msat: int = 0
    quote_units: int = 0
    fence: int = 0
    hold_ttl_ms: int = 0
    hold_expires_ms: int = 0
    payment_hash: bytes = b""
    preimage: bytes = b""
    invoice: str = ""
    counterparty_node: bytes = b""
    pay_instructions: str = ""
    reference: str = ""
    pay_mode: str = "auto"
    take_digest: bytes = b""
    last_digest: bytes = bytes(32)  # of the last message of this trade that we know
    counted: bool = False  # its quantity counts as taken in our own order
    rests: bool = False  # that order rests: it has back what comes of nothing
    paid: bool = False  # Lightning has said, for good, that the base was paid
    late: bool = False  # disputed after its quantity had returned: claims nothing
    reason: str = ""  # why it ended or waits, a RejectReason word
    # Settlement `htlc`: where the lock of the base ends (payer: at the earliest), 0: not known; and
    # Unix ms at which a buyer's state ends by itself.
    htlc_expiry_height: int = 0
    deadline_ms: int = 0
    attempt: int = 1  # at paying the base: the first, or the lock, and then a rollover each
    lock_hash: bytes = b""  # payer: of the lock that was lost, once another invoice took its place
    taker_invoice: str = ""  # swap: of leg 2; `invoice` is the maker's, of leg 1
    pay_begun_ms: int = 0  # swap: when the maker last decided to pay leg 2
    # Our own Lightning nodes (`Backend.identity`): what issued our invoice, what pays theirs.
    invoice_node: bytes = b""
    paying_node: bytes = b""

    @property
    def is_tombstone(self) -> bool:
        """Whether it stands for a take of our order that was cancelled before it came."""
        return self.role is TradeRole.MAKER and not self.take_digest


class OwnOrder(Record, frozen=True):
    """An order of our own.  `held` is not stored: it is the sum over the trades that hold it."""

    order_id: bytes
    market: str
    order: bytes  # the raw terms as signed
    state: str  # working | open | closed
    revision: int
    created_ms: int
    filled_lots: int = 0  # by takers of it, base moved
    taken_lots: int = 0  # by ourselves from other makers, accepted by them
    dropped_lots: int = 0  # cancelled, expired or lost without a fill
    close_reason: str = ""
    time_in_force: str = "gtd"
    post_only: bool = False
    renew: bool = False
    pay_mode: str = "auto"
    command_key: str = ""
    published: bool = False


class OwnBatch(Record, frozen=True):
    """A batch of our own log, verbatim."""

    market: str
    epoch: int
    sequence: int
    digest: bytes
    envelope: bytes


class OwnCheckpoint(Record, frozen=True):
    """What our own log of a market leaves open at one point: what went before is not needed."""

    market: str
    epoch: int
    sequence: int
    head_hash: bytes
    rows: tuple[tuple[bytes, int, int], ...]  # terms as placed, remaining and held lots


class TradeLine(Record, frozen=True):
    """A signed message of a trade, verbatim, in the order in which we learnt of it."""

    trade_id: bytes
    digest: bytes
    sender: bytes
    envelope: bytes


class OutboxLine(Record, frozen=True):
    """A message that the other party has not acknowledged yet."""

    trade_id: bytes
    digest: bytes
    peer: bytes
    kind: str  # the request kind that carries it
    envelope: bytes


class OrderTerms(Record, frozen=True):
    """An order of another maker that we took, as it was published: kept as evidence."""

    order_id: bytes
    order: bytes  # the raw terms
    batch: bytes  # the maker's signed batch that placed it, b"" where it was not kept


class ForkedLog(Record, frozen=True):
    """An epoch of another maker's log that is void, and the proof of it."""

    maker: bytes
    market: str
    epoch: int
    proof: bytes  # an encoded ForkProof; b"" where it is too long to be told


class KnownPeer(Record, frozen=True):
    """A peer that once verified, for the address book."""

    identity: bytes
    record: bytes
    host: str
    seen_ms: int
    pinned: bool = False


class Snapshot(Record, frozen=True):
    """Everything that a kernel is restored from."""

    orders: tuple[OwnOrder, ...] = ()
    trades: tuple[Trade, ...] = ()
    hashes: tuple[tuple[bytes, bytes], ...] = ()  # (payment hash, trade id), replaced ones too
    checkpoints: tuple[OwnCheckpoint, ...] = ()
    batches: tuple[OwnBatch, ...] = ()
    lines: tuple[TradeLine, ...] = ()
    outbox: tuple[OutboxLine, ...] = ()
    terms: tuple[OrderTerms, ...] = ()
    peers: tuple[KnownPeer, ...] = ()
    forks: tuple[ForkedLog, ...] = ()  # in the order in which they were proven
    counters: tuple[tuple[str, int], ...] = ()
    commands: tuple[tuple[str, bytes], ...] = ()  # (command key, own order or trade id)
    # Of what is archived: the beginnings of its ids and keys, and of all payment hashes that ever
    # were (see names.py); and who has settled a trade with us there.
    names: tuple[bytes, ...] = ()
    friends: tuple[bytes, ...] = ()


class Write(msgspec.Struct, frozen=True):
    """Base of all writes."""


class PutTrade(Write, frozen=True):
    """Insert (revision 1) or replace a trade whose stored revision is one less.

    `claimed_lots`: what a maker's trade holds or has filled of its order (0: nothing).
    `capacity_lots`: what the order can give to takers in all; the journal checks inside the
    transaction that the claims of all trades of that order fit into it.
    """

    trade: Trade
    claimed_lots: int
    capacity_lots: int


class DropTrade(Write, frozen=True):
    """Forget a trade that was never about any quantity, with its transcript.

    Nothing of it may be in the outbox any more.
    """

    trade_id: bytes


class ArchiveTrade(Write, frozen=True):
    """A trade that has ended is no longer loaded at a start; a `PutTrade` brings it back.

    `own_order_id`: under which it is found again.  `friend`: who has settled it with us, or b"".
    """

    trade_id: bytes
    own_order_id: bytes
    friend: bytes = b""


class ArchiveOrder(Write, frozen=True):
    """An own order that is closed is no longer loaded at a start, unless a trade of it is."""

    order_id: bytes


class PutOrder(Write, frozen=True):
    """Insert (revision 1) or replace an own order whose stored revision is one less."""

    order: OwnOrder


class PutBatch(Write, frozen=True):
    """Append a batch to the own log; (market, epoch, sequence) is unique."""

    batch: OwnBatch


class PutCheckpoint(Write, frozen=True):
    """Replace a market's checkpoint; batches of older epochs and those before `first` are gone."""

    checkpoint: OwnCheckpoint
    first: int


class PutLine(Write, frozen=True):
    """Append a message to a trade's transcript; a digest that is there already is kept."""

    line: TradeLine


class PutOutbox(Write, frozen=True):
    """Remember a message until it is acknowledged."""

    line: OutboxLine


class DropOutbox(Write, frozen=True):
    """The message was acknowledged, or its trade no longer needs it."""

    trade_id: bytes
    digest: bytes


class PutTerms(Write, frozen=True):
    """Keep the terms of an order that we take; those that are there already stay."""

    terms: OrderTerms


class PutPeer(Write, frozen=True):
    """Remember a peer."""

    peer: KnownPeer


class DropPeer(Write, frozen=True):
    """Forget a peer."""

    identity: bytes


class PutFork(Write, frozen=True):
    """A log's epoch is void; what stood there of that log is replaced."""

    fork: ForkedLog


class DropFork(Write, frozen=True):
    """The log goes on in a new epoch, or there are too many newer forks."""

    maker: bytes
    market: str


class PutCounter(Write, frozen=True):
    """Set a counter, which never falls (fence, epoch, record sequence)."""

    name: str
    value: int


class PutCommand(Write, frozen=True):
    """Remember that a command with this key made this order, so that a repeat finds it."""

    key: str
    order_id: bytes
