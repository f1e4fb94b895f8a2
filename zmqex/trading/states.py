"""The states of a trade and the tables that move it, one per role and direction of the base leg.

Settlement `plain`: the base buyer issues a Lightning invoice, the base seller pays it, the quote
moves out of band, and **the taker always goes first**.

* A maker that buys base invoices at once; the taker pays (base first), then the maker sends the
  quote and the taker confirms it.
* A maker that sells base waits for the quote; once it has confirmed the quote, the taker sends an
  invoice and the maker pays it.

`ABANDONING` is the taker's way out: it asks the maker to forget the take, for as long as it takes,
and will never pay any more.  `DISPUTED` keeps what it holds until the operator decides.
A missing row means that the input is illegal in that state: nothing changes.
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
    BASE_DONE = "base_done"
    QUOTE_SENT = "quote_sent"
    CONFIRMED = "confirmed"  # a buying taker: the quote has arrived, our invoice is being made
    PAY_INTENT = "pay_intent"
    PAYING = "paying"
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
    BASE_SETTLED = "base_settled"
    QUOTE_SAID = "quote_said"
    QUOTE_CONFIRMED = "quote_confirmed"
    PAY_STARTED = "pay_started"
    PAY_SUCCEEDED = "pay_succeeded"
    PAY_FAILED = "pay_failed"
    CONFIRM_TIME = "confirm_time"
    INVOICE_TIME = "invoice_time"
    DISPUTE = "dispute"  # the operator says that it has gone wrong
    RESOLVE_SETTLED = "resolve_settled"  # the operator has decided
    RESOLVE_CANCELLED = "resolve_cancelled"  # the same; only after Lightning's negative word


Table = Mapping[tuple[State, Input], State]
_S, _I = State, Input

# Base that was paid over Lightning can only be settled; where it was not, it can end either way.
_RESOLVE_PAID: Final[Table] = {(_S.DISPUTED, _I.RESOLVE_SETTLED): _S.SETTLED}
_RESOLVE_UNPAID: Final[Table] = {
    **_RESOLVE_PAID,
    (_S.DISPUTED, _I.RESOLVE_CANCELLED): _S.CANCELLED,
}

MAKER_BUYS: Final[Table] = {
    (_S.RESERVED, _I.INVOICE_MADE): _S.INVOICED,
    (_S.RESERVED, _I.END_ASKED): _S.CANCELLING,
    (_S.RESERVED, _I.BASE_SETTLED): _S.BASE_DONE,
    (_S.INVOICED, _I.END_ASKED): _S.CANCELLING,
    (_S.INVOICED, _I.BASE_SETTLED): _S.BASE_DONE,
    # The invoice can turn up after we gave the hold up: it is cancelled like any other.
    (_S.CANCELLING, _I.INVOICE_MADE): _S.CANCELLING,
    (_S.CANCELLING, _I.BASE_NEGATIVE): _S.CANCELLED,
    (_S.CANCELLING, _I.BASE_SETTLED): _S.BASE_DONE,
    (_S.BASE_DONE, _I.QUOTE_SAID): _S.QUOTE_SENT,
    # The taker may confirm before our own operator has said "sent".
    (_S.BASE_DONE, _I.QUOTE_CONFIRMED): _S.SETTLED,
    (_S.BASE_DONE, _I.CONFIRM_TIME): _S.DISPUTED,
    (_S.BASE_DONE, _I.DISPUTE): _S.DISPUTED,
    (_S.QUOTE_SENT, _I.QUOTE_CONFIRMED): _S.SETTLED,
    (_S.QUOTE_SENT, _I.CONFIRM_TIME): _S.DISPUTED,
    (_S.QUOTE_SENT, _I.DISPUTE): _S.DISPUTED,
    # We have the base, and the taker says that it has the quote: nothing is left to dispute.
    (_S.DISPUTED, _I.QUOTE_CONFIRMED): _S.SETTLED,
    **_RESOLVE_PAID,
}

MAKER_SELLS: Final[Table] = {
    # Nothing of ours is on Lightning yet, so the end needs no look-up there.
    (_S.RESERVED, _I.END_ASKED): _S.CANCELLED,
    (_S.RESERVED, _I.QUOTE_SAID): _S.QUOTE_SENT,
    (_S.RESERVED, _I.QUOTE_CONFIRMED): _S.PAY_INTENT,
    (_S.QUOTE_SENT, _I.QUOTE_CONFIRMED): _S.PAY_INTENT,
    (_S.QUOTE_SENT, _I.CONFIRM_TIME): _S.DISPUTED,
    (_S.QUOTE_SENT, _I.DISPUTE): _S.DISPUTED,
    (_S.PAY_INTENT, _I.PAY_STARTED): _S.PAYING,
    (_S.PAY_INTENT, _I.INVOICE_TIME): _S.DISPUTED,
    (_S.PAY_INTENT, _I.DISPUTE): _S.DISPUTED,
    # Only Lightning ends a payment; there is no timer here.
    (_S.PAYING, _I.PAY_SUCCEEDED): _S.SETTLED,
    (_S.PAYING, _I.PAY_FAILED): _S.PAY_INTENT,
    # A claim after the hold has ended: a dispute of zero quantity.
    (_S.CANCELLED, _I.QUOTE_SAID): _S.DISPUTED,
    **_RESOLVE_UNPAID,
}

_TAKE: Final[Table] = {
    (_S.TAKING, _I.ACCEPT): _S.ACCEPTED,
    (_S.TAKING, _I.REFUSE): _S.REFUSED,
    (_S.TAKING, _I.ABANDON): _S.ABANDONING,
    (_S.TAKING, _I.GONE): _S.CANCELLED,
    (_S.ACCEPTED, _I.ABANDON): _S.ABANDONING,
    (_S.ACCEPTED, _I.GONE): _S.CANCELLED,
    (_S.ABANDONING, _I.ACCEPT): _S.ABANDONING,
    (_S.ABANDONING, _I.REFUSE): _S.CANCELLED,
    (_S.ABANDONING, _I.GONE): _S.CANCELLED,
}

TAKER_SELLS: Final[Table] = {
    **_TAKE,
    (_S.ACCEPTED, _I.PAY_STARTED): _S.PAYING,
    (_S.PAYING, _I.PAY_SUCCEEDED): _S.BASE_DONE,
    (_S.PAYING, _I.PAY_FAILED): _S.ACCEPTED,
    (_S.BASE_DONE, _I.QUOTE_SAID): _S.QUOTE_SENT,
    (_S.BASE_DONE, _I.QUOTE_CONFIRMED): _S.SETTLED,
    (_S.BASE_DONE, _I.CONFIRM_TIME): _S.DISPUTED,
    (_S.BASE_DONE, _I.DISPUTE): _S.DISPUTED,
    (_S.QUOTE_SENT, _I.QUOTE_CONFIRMED): _S.SETTLED,
    (_S.QUOTE_SENT, _I.CONFIRM_TIME): _S.DISPUTED,
    (_S.QUOTE_SENT, _I.DISPUTE): _S.DISPUTED,
    **_RESOLVE_PAID,
}

TAKER_BUYS: Final[Table] = {
    **_TAKE,
    (_S.ACCEPTED, _I.QUOTE_SAID): _S.QUOTE_SENT,
    # The maker may confirm before our own operator has said "sent".
    (_S.ACCEPTED, _I.QUOTE_CONFIRMED): _S.CONFIRMED,
    (_S.QUOTE_SENT, _I.QUOTE_CONFIRMED): _S.CONFIRMED,
    # The maker ended the hold although we say that the quote was sent.
    (_S.QUOTE_SENT, _I.GONE): _S.DISPUTED,
    (_S.QUOTE_SENT, _I.CONFIRM_TIME): _S.DISPUTED,
    (_S.QUOTE_SENT, _I.DISPUTE): _S.DISPUTED,
    (_S.CONFIRMED, _I.INVOICE_MADE): _S.INVOICED,
    (_S.INVOICED, _I.BASE_SETTLED): _S.SETTLED,
    (_S.INVOICED, _I.INVOICE_DEAD): _S.CONFIRMED,
    (_S.INVOICED, _I.INVOICE_TIME): _S.DISPUTED,
    (_S.INVOICED, _I.DISPUTE): _S.DISPUTED,
    # The maker pays after all.
    (_S.DISPUTED, _I.BASE_SETTLED): _S.SETTLED,
    **_RESOLVE_UNPAID,
}

TABLES: Final[Mapping[tuple[TradeRole, str], Table]] = {
    (TradeRole.MAKER, "buy"): MAKER_BUYS,
    (TradeRole.MAKER, "sell"): MAKER_SELLS,
    (TradeRole.TAKER, "buy"): TAKER_BUYS,
    (TradeRole.TAKER, "sell"): TAKER_SELLS,
}

TERMINAL: Final = frozenset({State.SETTLED, State.CANCELLED, State.REFUSED})


def step(role: TradeRole, our_side: str, state: State, happened: Input) -> State | None:
    """The next state, or None where the input is illegal and must change nothing.

    `our_side` is what we do with the base currency: "buy" or "sell".
    """
    return TABLES[role, our_side].get((state, happened))


class Claim(enum.StrEnum):
    """What a maker's trade means for the quantity of its order."""

    FREE = "free"
    HELD = "held"
    FILLED = "filled"


# Where the base goes first, it has moved in these states; where it goes last, in SETTLED only.
_BASE_FIRST: Final = frozenset({State.BASE_DONE, State.QUOTE_SENT, State.SETTLED, State.DISPUTED})


def claim(our_side: str, state: State, *, hold_ended: bool = False) -> Claim:
    """What a maker's trade in this state claims of its order.

    Base that has moved is filled for good; whatever else is not over still holds its quantity.
    `hold_ended`: a dispute that began after the quantity had returned claims nothing.
    """
    if state is State.CANCELLED or hold_ended:
        return Claim.FREE
    if state is State.SETTLED or (our_side == "buy" and state in _BASE_FIRST):
        return Claim.FILLED
    return Claim.HELD
