"""The ports: what the runtime needs of each outside thing, as small protocols.

Each has a real implementation and one that needs no set-up; both pass one contract suite.
Errors are those of `zmqex.errors`; an adapter lets no library's exception out.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal, Protocol

import msgspec

from zmqex.kernel.events import InvoiceState, PaymentState
from zmqex.market.instruments import BASE


class Transport(Protocol):
    """ZeroMQ sockets of a node: hello, rpc, orders, and the dialled sockets to each peer.

    All methods are called on the event loop and never block.  What arrives is handed to the
    `deliver` callback that the implementation was made with, as kernel events.
    """

    def dial_hello(self, host: str, port: int, source: str) -> None:
        """Ask a hello socket for its record; delivers HelloAnswered or HelloFailed within 1 s."""

    def dial_back(
        self,
        ticket: int,
        curve_key: bytes,
        hello: tuple[str, int],
        rpc: tuple[str, int],
        orders: tuple[str, int],
    ) -> None:
        """Try three sockets of a peer; delivers one DialBackEnded."""

    def connect(
        self,
        peer: bytes,
        curve_key: bytes,
        rpc: tuple[str, int],
        orders: tuple[str, int],
        topics: Sequence[bytes],
    ) -> None:
        """Open (or replace) DEALER and SUB to a peer."""

    def follow(self, peer: bytes, topics: Sequence[bytes]) -> None:
        """From now on listen to these topics of a connected peer, and to no others."""

    def hold_streams(self, *, held: bool) -> None:
        """Read no more of what peers stream, or go on; it waits in the sockets meanwhile."""

    def disconnect(self, peer: bytes) -> None:
        """Close the sockets to a peer; unknown peers are fine."""

    def set_record(self, record: bytes) -> None:
        """What the hello socket answers from now on."""

    def send(self, peer: bytes, frame: bytes) -> bool:
        """Send a request frame; False where the peer is unknown or its queue is full."""

    def reply(self, connection: bytes, frame: bytes) -> bool:
        """Send a reply frame on the rpc ROUTER; False where the connection is gone."""

    def publish(self, topic: bytes, envelope: bytes) -> None:
        """Send on the orders PUB."""


class InvoiceInfo(msgspec.Struct, frozen=True):
    """What the backend knows of one of our invoices.

    `accepted`: `received_msat` is locked for us, until `htlc_expiry_height` (of several parts, the
    earliest); the backend gives it back `auto_cancel_blocks` before that.
    """

    state: InvoiceState
    received_msat: int = 0
    htlc_expiry_height: int | None = None


class PaymentInfo(msgspec.Struct, frozen=True):
    """What the backend knows of one of our payments."""

    state: PaymentState
    preimage: bytes | None = None
    fee_msat: int = 0
    reason: str = ""  # of a failure, a RejectReason word
    # While in flight: a lower bound of where the payee's lock ends; None: the backend cannot say.
    htlc_expiry_height: int | None = None


class LightningInfo(msgspec.Struct, frozen=True):
    """The backend by itself."""

    backend: Literal["play", "lnd", "cln"]
    invoice_prefix: str  # "bcrt", "bc", ...
    node: bytes  # 33-byte node key
    height: int
    can_hold: bool
    balance_msat: int  # what can be spent now
    in_flight_msat: int
    auto_cancel_blocks: int = 0  # so long before a lock ends, a held payment is given back
    synced: bool = True  # False: its chain has gone on, so its height is too low
    ledger: bytes = b""  # what keeps its payments, where that may change under the same node key


class Lightning(Protocol):
    """A Lightning backend.

    Errors: LightningUnavailableError (nothing was started), RejectedError (final; `.reason`),
    IndeterminateError (look up by payment hash before anything else).
    """

    async def info(self) -> LightningInfo:
        """Who and how rich the backend is."""

    async def node_key(self) -> bytes:
        """Whose node answers, by its 33-byte key: asked anew each time."""

    async def create_invoice(
        self, preimage: bytes, *, amount_msat: int, memo: str, expiry_s: int, first: bool = False
    ) -> str:
        """Make an invoice for a preimage of ours; the same preimage and terms again: the same.

        `first`: there is none of this preimage, so the backend need not look.
        """

    async def create_hold_invoice(
        self,
        payment_hash: bytes,
        *,
        amount_msat: int,
        memo: str,
        expiry_s: int,
        min_final_cltv: int,
    ) -> str:
        """Make an invoice whose payment is held until `settle` or `cancel`.

        The same hash and terms again give the same text.  The hash is a stranger's choice:
        RejectedError with WRONG_PAYMENT_HASH where the backend has an invoice of it that was made
        for anything else, by whatever program; that one is left alone.
        """

    async def invoice(self, payment_hash: bytes) -> InvoiceInfo:
        """Look one of our invoices up."""

    def watch(self, payment_hash: bytes) -> AsyncGenerator[InvoiceInfo, None]:
        """How an invoice stands, now and after each change, until it has ended.

        Goes on by itself after the backend was away; of an unknown invoice it tells nothing.
        """

    async def settle(self, preimage: bytes) -> None:
        """Take what is held for this preimage; idempotent; RejectedError where nothing is held."""

    async def cancel(self, payment_hash: bytes) -> None:
        """Cancel an invoice; what is held goes back.  RejectedError where it is settled.

        Idempotent; from then on no payment of this hash is taken.
        """

    async def pay(self, invoice: str, *, fee_limit_msat: int, cltv_limit: int) -> PaymentInfo:
        """Pay; may come back while in flight.  The same hash again never pays twice."""

    async def payment(self, payment_hash: bytes) -> PaymentInfo:
        """Look one of our payments up."""

    async def close(self) -> None:
        """Let go."""


class PlayWire(Protocol):
    """How play money travels: a request to the node that owns a play Lightning key."""

    async def play_pay(
        self,
        payee_node: bytes,
        *,
        payment_hash: bytes,
        amount_msat: int,
        payer_node: bytes,
        asset: str = BASE,
    ) -> tuple[bytes | None, str]:
        """Ask the payee to credit itself: `(preimage, "")`, or `(None, reason)` when it refused.

        `(None, "")` or PeerUnavailableError while it holds the payment or no answer came: the
        payee may have credited itself.
        """


class ControlServer(Protocol):
    """The control socket: commands in, answers and announcements out."""

    def answer(self, client: bytes, request_id: int, *, ok: bool, result: dict[str, Any]) -> None:
        """Answer a command."""

    def announce(self, topic: str, facts: dict[str, Any]) -> None:
        """Tell subscribers what changed."""
