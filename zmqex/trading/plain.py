"""Settlement `plain`: an ordinary invoice, the quote out of band, and the taker always goes first.

* A maker that buys base invoices at once; the taker pays (base first), then the maker sends the
  quote and the taker confirms it.
* A maker that sells base waits for the quote; once it has confirmed the quote, the taker sends an
  invoice and the maker pays it.

A missing row means that the input is illegal in that state: nothing changes.
"""

from __future__ import annotations

from typing import Final

from zmqex.trading.states import (
    RESOLVE_PAID,
    RESOLVE_UNPAID,
    TAKE,
    Filled,
    Input,
    State,
    Table,
)

_S, _I = State, Input

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
    **RESOLVE_PAID,
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
    **RESOLVE_UNPAID,
}

TAKER_SELLS: Final[Table] = {
    **TAKE,
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
    **RESOLVE_PAID,
}

TAKER_BUYS: Final[Table] = {
    **TAKE,
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
    **RESOLVE_UNPAID,
}

# Where the base goes first, it has moved in these states; where it goes last, in SETTLED only.
FILLED: Final[Filled] = {
    "buy": frozenset({_S.BASE_DONE, _S.QUOTE_SENT, _S.SETTLED, _S.DISPUTED}),
    "sell": frozenset({_S.SETTLED}),
}
