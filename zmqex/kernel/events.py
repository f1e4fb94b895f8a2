"""Everything that can happen to a kernel: frozen values, made by the runtime from adapters' news.

Time and randomness come beside the event, in `Now`; see `zmqex.kernel.kernel.Kernel.handle`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from zmqex.kernel.commands import Command
from zmqex.kernel.records import Snapshot
from zmqex.market.instruments import BASE
from zmqex.reasons import RejectReason


class Now(msgspec.Struct, frozen=True):
    """The moment of an event.

    `wall_ms`: Unix time.  `monotonic_ms`: never steps back, stands for nothing across restarts.
    `entropy`: 32 fresh random bytes, from which the kernel derives every id, nonce and preimage.
    """

    wall_ms: int
    monotonic_ms: int
    entropy: bytes


class Event(msgspec.Struct, frozen=True):
    """Base of all events."""


class Started(Event, frozen=True):
    """State has been restored from the journal; recovery may begin."""


class Stopping(Event, frozen=True):
    """The operator asked the node to end."""


class Tick(Event, frozen=True):
    """The time given by `Kernel.next_deadline_ms` has come."""


class Recalled(Event, frozen=True):
    """The journal has answered a `Recall` with what it found."""

    ticket: int
    found: Snapshot


class Woke(Event, frozen=True):
    """The machine slept for `slept_ms`: every peer must be heard anew."""

    slept_ms: int


# --- peers -------------------------------------------------------------------------------------


class CandidatesFound(Event, frozen=True):
    """Discovery brought hints: `(host, hello port, source)`."""

    candidates: tuple[tuple[str, int, str], ...]


class HelloAnswered(Event, frozen=True):
    """A candidate's hello socket answered with record bytes (an envelope, unchecked)."""

    host: str
    port: int
    source: str
    record: bytes


class HelloFailed(Event, frozen=True):
    """A candidate did not answer within a second, or with something else."""

    host: str
    port: int
    source: str
    why: str


class DialBackEnded(Event, frozen=True):
    """Which sockets of a peer have finished their handshake; answers a `DialBack`."""

    ticket: int
    hello: bool
    rpc: bool
    orders: bool


class Route(msgspec.Struct, frozen=True):
    """Where a request came from: the CURVE key that ZAP authenticated, and the way back."""

    curve_key: bytes
    connection: bytes
    address: str


class RequestReceived(Event, frozen=True):
    """A frame on the rpc ROUTER, unchecked but for its size."""

    route: Route
    frame: bytes


class ReplyReceived(Event, frozen=True):
    """A frame on the DEALER to a peer, unchecked but for its size."""

    peer: bytes
    frame: bytes


class StreamReceived(Event, frozen=True):
    """What one drain of the SUB sockets brought, in arrival order: `(topic, envelope bytes)`.

    `peers`: whose socket each message came from; without them nobody's budget is charged.
    """

    messages: tuple[tuple[bytes, bytes], ...]
    peers: tuple[bytes, ...] = ()


class Verified(Event, frozen=True):
    """The answer to a `Verify` effect: one bool per item, in order."""

    ticket: int
    valid: tuple[bool, ...]


# --- holds -------------------------------------------------------------------------------------


class HoldAnswered(Event, frozen=True):
    """The hold server answered a `ReserveHold`."""

    trade_id: bytes
    outcome: Literal["reserved", "already_yours", "full", "stale_fence"]


class HoldsForgotten(Event, frozen=True):
    """The hold server was started anew or may have lost something."""


class LeaseAnswered(Event, frozen=True):
    """The shared hold server was asked, at this monotonic time, who runs this identity."""

    answer: Literal["held", "taken", "silent"]
    asked_ms: int


class HoldFailed(Event, frozen=True):
    """The hold server did not answer a `ReserveHold`; nothing is known about the hold."""

    trade_id: bytes
    retry_after_ms: int


class AcceptDecided(Event, frozen=True):
    """The operator's own program has decided about a take; no decision is a no."""

    trade_id: bytes
    accepted: bool


# --- Lightning: `asset` as in the effects ------------------------------------------------------

InvoiceState = Literal["unknown", "open", "accepted", "settled", "canceled"]
PaymentState = Literal["none", "in_flight", "succeeded", "failed"]
LightningCall = Literal[
    "create_invoice", "create_hold_invoice", "invoice", "settle", "cancel", "pay", "payment"
]


class OtherNodeSeen(Event, frozen=True):
    """Another Lightning node answers in place of ours: its key, b"" when ours is back."""

    node: bytes
    asset: str = BASE


class InvoiceCreated(Event, frozen=True):
    """The backend made the invoice that `CreateInvoice` asked for."""

    trade_id: bytes
    payment_hash: bytes
    invoice: str
    asset: str = BASE


class InvoiceSeen(Event, frozen=True):
    """The state of one of our invoices, looked up or watched.

    `accepted`: `received_msat` is locked for us until `htlc_expiry_height`, of which `height` is
    the present.
    """

    payment_hash: bytes
    state: InvoiceState
    received_msat: int = 0
    htlc_expiry_height: int | None = None
    height: int = 0
    asset: str = BASE


class PaymentSeen(Event, frozen=True):
    """The state of one of our payments: what came of the call to pay, or of a look-up.

    While in flight, `htlc_expiry_height` is where the payee's lock ends at the earliest (None: the
    backend does not say), and `height` is the present.
    """

    trade_id: bytes
    payment_hash: bytes
    state: PaymentState
    preimage: bytes | None = None
    reason: RejectReason | None = None
    htlc_expiry_height: int | None = None
    height: int = 0
    asset: str = BASE
    call: Literal["pay", "payment"] = "payment"


class HeightSeen(Event, frozen=True):
    """The block height that our backend has reached."""

    height: int
    asset: str = BASE


class FundsSeen(Event, frozen=True):
    """What our backend can spend now, in millisatoshi: what is locked is not in it."""

    spendable_msat: int
    asset: str = BASE


class LightningFailed(Event, frozen=True):
    """A call failed.  `indeterminate`: it may have happened, so look up before anything else."""

    trade_id: bytes
    payment_hash: bytes
    call: LightningCall
    indeterminate: bool
    reason: RejectReason
    why: str
    asset: str = BASE


# --- play money travels over the peers' connections -------------------------------------------


class PlayPayWanted(Event, frozen=True):
    """Our play backend wants to pay; ends in one `PlayPayEnded` with this ticket."""

    ticket: int
    payee_node: bytes
    payment_hash: bytes
    amount_msat: int
    payer_node: bytes
    asset: str = BASE


class PlayCredited(Event, frozen=True):
    """Our play backend has answered a `CreditPlay`: the preimage, or None and why not.

    Without a preimage and a reason it holds the payment.
    """

    ticket: int
    preimage: bytes | None
    reason: str


# --- the operator ------------------------------------------------------------------------------


class CommandReceived(Event, frozen=True):
    """A command on the control socket; answered by exactly one `AnswerCommand`."""

    client: bytes
    request_id: int
    command: Command


class ClientGone(Event, frozen=True):
    """The connection has ended for whose time a client's orders were placed."""

    client: bytes
