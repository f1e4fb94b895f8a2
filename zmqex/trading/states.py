"""The words of a trade: where it stands, what can happen to it, and what it claims of an order.

`ABANDONING` is the taker's way out: it asks the maker to forget the take, for as long as it takes,
and will never pay any more.  `DISPUTED` keeps what it holds until the operator decides.
Each settlement moves a trade by tables of its own (plain.py, ...; `tables` has them all).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final


class TradeRole(enum.StrEnum):
    """Which side of the order we are."""

    MAKER = "maker"
    TAKER = "taker"


class State(enum.StrEnum):
    """Where a trade stands, as one party knows it."""

    TAKING = "taking"  # the take is on its way; the maker may or may not hold it
    ACCEPTED = "accepted"  # the maker holds it for us; our move
    ABANDONING = "abandoning"  # we want out and will never pay; the maker has not said so yet
    REFUSED = "refused"
    RESERVED = "reserved"
    INVOICED = "invoiced"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    HTLC_ACCEPTED = "htlc_accepted"  # what we are to receive is locked for us; our move
    QUOTE_INTENT = "quote_intent"  # we may have sent the quote; never sent again by itself
    RELEASED = "released"  # the preimage is given away: what is locked follows
    BASE_DONE = "base_done"
    QUOTE_SENT = "quote_sent"
    CONFIRMED = "confirmed"  # a buying taker: the quote has arrived, our invoice is being made
    PAY_INTENT = "pay_intent"
    PAYING = "paying"
    RECEIVED = "received"  # we have our leg; the payment of the other one is on its way
    PAID = "paid"  # the other one is paid; ours must follow
    ROLLOVER = "rollover"  # the lock is lost; a fresh invoice in its place is not paid yet
    ROLLOVER_PAYING = "rollover_paying"  # and now it is being paid by us
    SETTLED = "settled"
    DISPUTED = "disputed"


class Input(enum.StrEnum):
    """What can happen to a trade."""

    ACCEPT = "accept"
    REFUSE = "refuse"
    ABANDON = "abandon"
    GONE = "gone"  # the maker says that it has no live trade of this id
    END_ASKED = "end_asked"  # timer, cancel or order cancelled; only after a look-up
    INVOICE_MADE = "invoice_made"
    INVOICE_DEAD = "invoice_dead"  # cancelled on our node after the payer gave it up
    BASE_NEGATIVE = "base_negative"
    BASE_LOCKED = "base_locked"
    BASE_SETTLED = "base_settled"
    QUOTE_INTENDED = "quote_intended"  # our operator is about to send it
    LOCKED = "locked"  # what we receive is locked for us
    RECEIVED = "received"  # it is ours for good
    GIVEN_BACK = "given_back"  # it never was and never will be
    QUOTE_SAID = "quote_said"
    QUOTE_CONFIRMED = "quote_confirmed"
    PREIMAGE = "preimage"  # given away by the seller, who has the quote
    PAY_STARTED = "pay_started"
    PAY_SUCCEEDED = "pay_succeeded"
    PAY_FAILED = "pay_failed"
    CONFIRM_TIME = "confirm_time"
    INVOICE_TIME = "invoice_time"
    ROLLED = "rolled"  # a fresh invoice takes the place of the lost lock
    PAY_AGAIN = "pay_again"  # our operator has the quote, so the fresh invoice is paid
    DISPUTE = "dispute"  # the operator says that it has gone wrong
    NODE_LOST = "node_lost"  # our Lightning node of it is gone; see `tables.step`
    RESOLVE_SETTLED = "resolve_settled"  # the operator has decided
    RESOLVE_CANCELLED = "resolve_cancelled"  # the same; only after Lightning's negative word


Table = Mapping[tuple[State, Input], State]

TERMINAL: Final = frozenset({State.SETTLED, State.CANCELLED, State.REFUSED})


class Claim(enum.StrEnum):
    """What a maker's trade means for the quantity of its order."""

    FREE = "free"
    HELD = "held"
    FILLED = "filled"


# A maker's states in which base has moved for good, by what it does with the base.
Filled = Mapping[str, frozenset[State]]

# Base that was paid over Lightning can only be settled; where it was not, it can end either way.
RESOLVE_PAID: Final[Table] = {(State.DISPUTED, Input.RESOLVE_SETTLED): State.SETTLED}
RESOLVE_UNPAID: Final[Table] = {
    **RESOLVE_PAID,
    (State.DISPUTED, Input.RESOLVE_CANCELLED): State.CANCELLED,
}

# How every take begins, and how a taker gets out of one in which it has not moved.
TAKE: Final[Table] = {
    (State.TAKING, Input.ACCEPT): State.ACCEPTED,
    (State.TAKING, Input.REFUSE): State.REFUSED,
    (State.TAKING, Input.ABANDON): State.ABANDONING,
    (State.TAKING, Input.GONE): State.CANCELLED,
    (State.ACCEPTED, Input.ABANDON): State.ABANDONING,
    (State.ACCEPTED, Input.GONE): State.CANCELLED,
    (State.ABANDONING, Input.ACCEPT): State.ABANDONING,
    (State.ABANDONING, Input.REFUSE): State.CANCELLED,
    (State.ABANDONING, Input.GONE): State.CANCELLED,
}
