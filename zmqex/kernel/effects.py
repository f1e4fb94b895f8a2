"""Everything that a kernel can ask of the outside: frozen values, carried out by the runtime.

`REVEALING` effects tell others about our own state; they wait, first in first out, for the commit
of their event and of all earlier ones.  The others need not wait.
"""

from __future__ import annotations

from typing import Any

import msgspec

from zmqex.kernel.events import Route
from zmqex.kernel.records import Write
from zmqex.market.instruments import BASE
from zmqex.protocol.messages import Envelope


class Effect(msgspec.Struct, frozen=True):
    """Base of all effects."""


class Persist(Effect, frozen=True):
    """Commit these writes in one transaction together with all others of this event."""

    writes: tuple[Write, ...]


class Recall(Effect, frozen=True):
    """Read what is archived: answered by one `Recalled` with this ticket.

    `lookups`: (what, name).  "trade" and "order" are beginnings of ids, an order with its trades;
    "hash" is a payment hash, "key" a command's key; "trades" and "orders" are the newest ones.
    """

    ticket: int
    lookups: tuple[tuple[str, bytes], ...]


class Log(Effect, frozen=True):
    """One log line: an event name and its facts.  Never a key, a preimage or raw peer text."""

    level: str
    event: str
    facts: dict[str, Any]


# --- peers -------------------------------------------------------------------------------------


class DialHello(Effect, frozen=True):
    """Ask a candidate for its record; ends in HelloAnswered or HelloFailed within a second."""

    host: str
    port: int
    source: str


class DialBack(Effect, frozen=True):
    """Find out which sockets of a peer can be reached; ends in one `DialBackEnded`."""

    ticket: int
    curve_key: bytes
    hello: tuple[str, int]
    rpc: tuple[str, int]
    orders: tuple[str, int]


class ConnectPeer(Effect, frozen=True):
    """Open DEALER and SUB to a verified peer (replacing older sockets to it)."""

    peer: bytes
    curve_key: bytes
    rpc: tuple[str, int]
    orders: tuple[str, int]
    topics: tuple[bytes, ...]


class FollowPeer(Effect, frozen=True):
    """From now on listen to these topics of a connected peer, and to no others."""

    peer: bytes
    topics: tuple[bytes, ...]


class DisconnectPeer(Effect, frozen=True):
    """Close DEALER and SUB of a peer."""

    peer: bytes


class PublishRecord(Effect, frozen=True):
    """Serve this, our newest record, on the hello socket."""

    record: bytes


class Verify(Effect, frozen=True):
    """Check signatures; answered by one `Verified` with the same ticket.

    Items are `(identity, kind, envelope)`.
    """

    ticket: int
    items: tuple[tuple[bytes, str, Envelope], ...]


class SendRequest(Effect, frozen=True):
    """Send a frame to a peer's rpc ROUTER.  Revealing."""

    peer: bytes
    frame: bytes


class SendReply(Effect, frozen=True):
    """Send a frame back along a route.  Revealing."""

    route: Route
    frame: bytes


class Publish(Effect, frozen=True):
    """Send an envelope out on the orders PUB.  Revealing."""

    topic: bytes
    envelope: bytes


# --- holds: keyed by (order, trade), owned by the fence ----------------------------------------


class ReserveHold(Effect, frozen=True):
    """Ask the hold server for a hold; answered by HoldAnswered or HoldFailed."""

    order_id: bytes
    trade_id: bytes
    quantity_lots: int
    capacity_lots: int
    fence: int
    ttl_ms: int


class ReleaseHold(Effect, frozen=True):
    """Give a hold back.  Revealing.  Failure is harmless: the hold lapses by itself."""

    order_id: bytes
    trade_id: bytes
    fence: int


class ExtendHold(Effect, frozen=True):
    """Renew a hold whose trade goes on.  Failure is harmless: the journal decides."""

    order_id: bytes
    trade_id: bytes
    fence: int
    ttl_ms: int


class RebuildHolds(Effect, frozen=True):
    """Make the hold server agree with the journal.

    Rows are `(order_id, trade_id, quantity_lots, fence, ttl_ms)`.
    """

    epoch: bytes
    rows: tuple[tuple[bytes, bytes, int, int, int], ...]


# --- the operator's own program ---------------------------------------------------------------


class AskBeforeAccept(Effect, frozen=True):
    """Ask whether a take may be accepted; ends in one `AcceptDecided`.  `take` is plain data."""

    trade_id: bytes
    take: dict[str, Any]


# --- Lightning: revealing, so the intent is on disk before the outside hears of it -------------
# `asset` says whose network: the base's, or that of a quote that has one of its own.


class CreateInvoice(Effect, frozen=True):
    """Make an invoice for our own preimage.  Not revealing: until it is given away, nobody has it.

    Whatever gives it away waits for the disk.  `first`: the preimage was drawn for this call, so
    there is no invoice of it.
    """

    trade_id: bytes
    payment_hash: bytes
    preimage: bytes
    amount_msat: int
    memo: str
    expiry_s: int
    asset: str = BASE
    first: bool = False


class CreateHoldInvoice(Effect, frozen=True):
    """Make an invoice whose payment is held; answered like CreateInvoice."""

    trade_id: bytes
    payment_hash: bytes
    amount_msat: int
    memo: str
    expiry_s: int
    min_final_cltv: int
    asset: str = BASE


class LookupInvoice(Effect, frozen=True):
    """Ask the state of one of our invoices; answered by InvoiceSeen or LightningFailed."""

    trade_id: bytes
    payment_hash: bytes
    asset: str = BASE


class SettleInvoice(Effect, frozen=True):
    """Take what one of our invoices holds, then look it up; answered like LookupInvoice."""

    trade_id: bytes
    payment_hash: bytes
    preimage: bytes
    asset: str = BASE


class CancelInvoice(Effect, frozen=True):
    """Cancel one of our invoices, then look it up; answered like LookupInvoice."""

    trade_id: bytes
    payment_hash: bytes
    asset: str = BASE


class PayInvoice(Effect, frozen=True):
    """Pay; ends in PaymentSeen or LightningFailed.  All of it again pays nothing twice."""

    trade_id: bytes
    payment_hash: bytes
    invoice: str
    fee_limit_msat: int
    cltv_limit: int
    asset: str = BASE
    not_after_ms: int = 0  # Unix time after which it must not be begun any more; 0: whenever


class LookupPayment(Effect, frozen=True):
    """Ask the state of one of our payments; answered by PaymentSeen or LightningFailed."""

    trade_id: bytes
    payment_hash: bytes
    asset: str = BASE


class PlayPayEnded(Effect, frozen=True):
    """The payee's answer to a play payment.

    `reason` alone: refused for good.  Neither: held, or no answer, so nothing has ended.
    """

    ticket: int
    preimage: bytes | None
    reason: str


class CreditPlay(Effect, frozen=True):
    """A peer pays a play invoice of ours; answered by `PlayCredited`."""

    ticket: int
    payment_hash: bytes
    amount_msat: int
    payer_node: bytes
    asset: str = BASE


# --- the operator ------------------------------------------------------------------------------


class AnswerCommand(Effect, frozen=True):
    """Answer a command: `result` is plain JSON-able data.  Revealing."""

    client: bytes
    request_id: int
    ok: bool
    result: dict[str, Any]


class Announce(Effect, frozen=True):
    """Tell the control socket's subscribers what changed (for live views).  Revealing."""

    topic: str
    facts: dict[str, Any]


REVEALING = (
    SendRequest,
    SendReply,
    Publish,
    ReleaseHold,
    CreateHoldInvoice,
    LookupInvoice,
    SettleInvoice,
    CancelInvoice,
    PayInvoice,
    LookupPayment,
    AnswerCommand,
    Announce,
    # What an earlier event archives is to be found by a later one.
    Recall,
)
