"""Settlement `htlc`: the base is locked first, the quote moves out of band, then the lock opens.

The **seller** draws the preimage.  The buyer makes a hold invoice on its hash, the seller pays it:
the base is locked for the buyer and cannot be sold twice, but is not the buyer's yet.  The buyer
sends the quote; the seller confirms it by giving the preimage away, with which the buyer takes the
base.  Without that the lock runs out and the base is the seller's again.

A lock that is lost after the quote has gone makes a dispute.  From there the buyer may ask for a
**rollover**, an ordinary invoice in place of the lock, and the seller's operator may pay it.

Only our own release lets a buyer settle.  So where Lightning has settled before this table thinks
so (a journal that was restored from before the release), Lightning is right, from any state.
A missing row means that the input is illegal in that state: nothing changes.
"""

from __future__ import annotations

from typing import Final

from zmqex.trading.states import RESOLVE_UNPAID, TAKE, Filled, Input, State, Table

_S, _I = State, Input

# The buyer, from the lock on.
_LOCKED: Final[Table] = {
    (_S.HTLC_ACCEPTED, _I.END_ASKED): _S.CANCELLING,
    (_S.HTLC_ACCEPTED, _I.QUOTE_INTENDED): _S.QUOTE_INTENT,
    # The seller may have the quote before our operator has said a word about it.
    (_S.HTLC_ACCEPTED, _I.PREIMAGE): _S.RELEASED,
    (_S.HTLC_ACCEPTED, _I.DISPUTE): _S.DISPUTED,
    (_S.HTLC_ACCEPTED, _I.BASE_SETTLED): _S.SETTLED,
    (_S.QUOTE_INTENT, _I.QUOTE_SAID): _S.QUOTE_SENT,
    (_S.QUOTE_INTENT, _I.PREIMAGE): _S.RELEASED,
    (_S.QUOTE_INTENT, _I.BASE_NEGATIVE): _S.DISPUTED,
    (_S.QUOTE_INTENT, _I.CONFIRM_TIME): _S.DISPUTED,
    (_S.QUOTE_INTENT, _I.DISPUTE): _S.DISPUTED,
    (_S.QUOTE_INTENT, _I.BASE_SETTLED): _S.SETTLED,
    (_S.QUOTE_SENT, _I.PREIMAGE): _S.RELEASED,
    (_S.QUOTE_SENT, _I.BASE_NEGATIVE): _S.DISPUTED,
    (_S.QUOTE_SENT, _I.CONFIRM_TIME): _S.DISPUTED,
    (_S.QUOTE_SENT, _I.DISPUTE): _S.DISPUTED,
    (_S.QUOTE_SENT, _I.BASE_SETTLED): _S.SETTLED,
    (_S.RELEASED, _I.BASE_SETTLED): _S.SETTLED,
    (_S.RELEASED, _I.BASE_NEGATIVE): _S.DISPUTED,
    # Our operator has sent what it was about to send when the lock ended, or ran out of time.
    (_S.DISPUTED, _I.QUOTE_SAID): _S.DISPUTED,
    # The seller releases after all; if the lock is gone by then, it is disputed again.
    (_S.DISPUTED, _I.PREIMAGE): _S.RELEASED,
    (_S.DISPUTED, _I.BASE_SETTLED): _S.SETTLED,
    (_S.DISPUTED, _I.ROLLED): _S.ROLLOVER,
    (_S.ROLLOVER, _I.INVOICE_MADE): _S.ROLLOVER,
    (_S.ROLLOVER, _I.BASE_SETTLED): _S.SETTLED,
    (_S.ROLLOVER, _I.BASE_NEGATIVE): _S.DISPUTED,
    **RESOLVE_UNPAID,
}

# The seller, from its payment on.  It ends only by Lightning's word.
_PAYS: Final[Table] = {
    (_S.PAYING, _I.QUOTE_SAID): _S.QUOTE_SENT,
    # The quote may be here before the buyer has said that it is on its way.
    (_S.PAYING, _I.PREIMAGE): _S.RELEASED,
    (_S.PAYING, _I.PAY_SUCCEEDED): _S.SETTLED,
    (_S.QUOTE_SENT, _I.PREIMAGE): _S.RELEASED,
    (_S.QUOTE_SENT, _I.PAY_FAILED): _S.DISPUTED,
    (_S.QUOTE_SENT, _I.PAY_SUCCEEDED): _S.SETTLED,
    (_S.QUOTE_SENT, _I.DISPUTE): _S.DISPUTED,
    (_S.RELEASED, _I.PAY_SUCCEEDED): _S.SETTLED,
    (_S.RELEASED, _I.PAY_FAILED): _S.DISPUTED,
    # The quote has come after all.
    (_S.DISPUTED, _I.PREIMAGE): _S.RELEASED,
    (_S.DISPUTED, _I.PAY_SUCCEEDED): _S.SETTLED,
    # A claim after the lock has come back: a dispute of zero quantity.
    (_S.CANCELLED, _I.QUOTE_SAID): _S.DISPUTED,
    (_S.DISPUTED, _I.ROLLED): _S.ROLLOVER,
    # The buyer has taken that one back, and made another.
    (_S.ROLLOVER, _I.ROLLED): _S.ROLLOVER,
    (_S.ROLLOVER, _I.PAY_AGAIN): _S.ROLLOVER_PAYING,
    (_S.ROLLOVER, _I.PAY_SUCCEEDED): _S.SETTLED,
    (_S.ROLLOVER, _I.INVOICE_TIME): _S.DISPUTED,
    (_S.ROLLOVER, _I.DISPUTE): _S.DISPUTED,
    (_S.ROLLOVER_PAYING, _I.PAY_SUCCEEDED): _S.SETTLED,
    (_S.ROLLOVER_PAYING, _I.PAY_FAILED): _S.DISPUTED,
    **RESOLVE_UNPAID,
}

MAKER_BUYS: Final[Table] = {
    (_S.RESERVED, _I.INVOICE_MADE): _S.INVOICED,
    (_S.RESERVED, _I.END_ASKED): _S.CANCELLING,
    (_S.RESERVED, _I.BASE_LOCKED): _S.HTLC_ACCEPTED,
    (_S.RESERVED, _I.BASE_SETTLED): _S.SETTLED,
    (_S.INVOICED, _I.END_ASKED): _S.CANCELLING,
    (_S.INVOICED, _I.BASE_LOCKED): _S.HTLC_ACCEPTED,
    (_S.INVOICED, _I.BASE_SETTLED): _S.SETTLED,
    # The invoice can turn up after we gave the hold up: it is cancelled like any other.
    (_S.CANCELLING, _I.INVOICE_MADE): _S.CANCELLING,
    (_S.CANCELLING, _I.BASE_NEGATIVE): _S.CANCELLED,
    (_S.CANCELLING, _I.BASE_SETTLED): _S.SETTLED,
    # Nothing was sent for it.
    (_S.HTLC_ACCEPTED, _I.BASE_NEGATIVE): _S.CANCELLED,
    **_LOCKED,
}

MAKER_SELLS: Final[Table] = {
    # Nothing of ours is on Lightning yet, so the end needs no look-up there.
    (_S.RESERVED, _I.END_ASKED): _S.CANCELLED,
    (_S.RESERVED, _I.PAY_STARTED): _S.PAYING,
    # What was locked has come back before anybody said that a quote was sent for it.
    (_S.PAYING, _I.PAY_FAILED): _S.CANCELLED,
    **_PAYS,
}

TAKER_BUYS: Final[Table] = {
    **TAKE,
    (_S.ACCEPTED, _I.INVOICE_MADE): _S.INVOICED,
    # Once the maker has our invoice we cancel it first, and only then the take.
    (_S.INVOICED, _I.END_ASKED): _S.CANCELLING,
    (_S.INVOICED, _I.BASE_LOCKED): _S.HTLC_ACCEPTED,
    (_S.INVOICED, _I.BASE_SETTLED): _S.SETTLED,
    (_S.CANCELLING, _I.BASE_NEGATIVE): _S.ABANDONING,
    (_S.CANCELLING, _I.BASE_SETTLED): _S.SETTLED,
    (_S.HTLC_ACCEPTED, _I.BASE_NEGATIVE): _S.ABANDONING,
    **_LOCKED,
}

TAKER_SELLS: Final[Table] = {
    **TAKE,
    (_S.ACCEPTED, _I.PAY_STARTED): _S.PAYING,
    (_S.PAYING, _I.PAY_FAILED): _S.ACCEPTED,
    **_PAYS,
}

# A lock is nobody's yet: base has moved for good in SETTLED only.
FILLED: Final[Filled] = {"buy": frozenset({_S.SETTLED}), "sell": frozenset({_S.SETTLED})}
