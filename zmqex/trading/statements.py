"""What a file of evidence says, proves and does not prove, in words for people.

For files that `evidence.read_evidence` has let pass.  Each sentence names its speaker by the first
characters of its key; dates are each speaker's own.  Not for checking anything that was signed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from zmqex.bolt11 import InvalidInvoiceError, Invoice, decode
from zmqex.errors import InputError
from zmqex.market.instruments import Currencies, Instrument
from zmqex.market.units import decimal_text, format_notional, format_quantity
from zmqex.protocol.identity import short
from zmqex.trading.evidence import Evidence, Said
from zmqex.trading.settlement import HTLC, SWAP, amounts, proves_payment
from zmqex.trading.swap import legs

_MSAT_DECIMALS: Final = 11
# What carries an invoice: at first, and in place of a lock that is lost.
_FIRST: Final = frozenset({"accept", "trade_invoice"})
_FRESH: Final = frozenset({"trade_rollover"})


_SENTENCES: Final[Mapping[str, str]] = {
    "take": "{who} takes up to {quantity} of order {order_id}",
    "accept": "{who} accepts: {base} against {quote}",
    "quote_sent": "{who} says that it has sent the quote (reference: {reference})",
    "quote_confirmed": "{who} says that the quote has arrived",
    "trade_released": "{who} says that the quote has arrived, and gives the preimage away",
    "trade_invoice": "{who} asks to be paid with an invoice",
    "trade_rollover": "{who} says that the lock is lost, and asks to be paid anew ({attempt})",
    "invoice_failed": "{who} says that it will never pay that invoice ({reason})",
    "trade_cancel": "{who} wants to end the trade ({reason})",
    "trade_cancelled": "{who} says that the trade is over and nothing was paid ({reason})",
    "trade_settled": "{who} says that it has all that it was promised",
}


class Statements(msgspec.Struct, frozen=True):
    """`said`: (Unix ms by the speaker's clock, sentence), in order of the file."""

    said: list[tuple[int, str]]
    proved: list[str]
    unproved: list[str]


def statements(evidence: Evidence, currencies: Currencies) -> Statements:
    """Put sound evidence into words."""
    words = _Words(evidence, currencies)
    said = [(one.fields["sent_at_ms"], words.sentence(one)) for one in evidence.said]
    return Statements(said, words.proved(), words.unproved())


class _Words:
    def __init__(self, evidence: Evidence, currencies: Currencies) -> None:
        self._evidence = evidence
        self._instrument = _instrument_of(evidence.market, currencies)
        self._settlement: str = evidence.said[0].fields["settlement"]
        self._is_swap = self._settlement == SWAP
        # Who does not draw the preimage, and so learns it by paying.
        self._pays_for_preimage = evidence.maker if self._is_swap else evidence.seller
        self._first_invoice = _invoice_of(evidence, _FIRST)
        fresh = _invoice_of(evidence, _FRESH) if self._settlement == HTLC else None
        self._is_rolled = fresh is not None
        self._invoice = fresh or self._first_invoice

    def sentence(self, said: Said) -> str:
        """Say what one message says."""
        fields = {name: _shown(value) for name, value in said.fields.items()}
        if said.kind == "take":
            fields["quantity"] = self._quantity(said.fields["quantity_lots"])
        elif said.kind == "accept":
            fields["base"] = _bitcoin(said.fields["base_msat"])
            fields["quote"] = self._quote(said.fields["quote_units"])
        return _SENTENCES[said.kind].format(who=self._name(said.by), **fields)

    def proved(self) -> list[str]:
        """Say what nobody can deny who accepts the two keys."""
        evidence = self._evidence
        lines = ["Each message below was signed by the key that is named, for this trade."]
        if evidence.published:
            lines.append(f"{self._name(evidence.maker)} published the order with these terms.")
        accept = evidence.first("accept")
        if accept is not None and self._fits(accept):
            base, quote = accept.fields["base_msat"], accept.fields["quote_units"]
            lines.append(
                f"Both agreed: {self._name(evidence.seller)} pays {_bitcoin(base)} and "
                f"{self._name(evidence.buyer)} pays {self._quote(quote)}."
            )
        if self._is_released():
            lines.append(
                f"{self._name(evidence.seller)} signed that the quote has arrived, and gave "
                f"{self._name(evidence.buyer)} the preimage of its invoice over that amount."
            )
        if self._is_swap and self._is_paid():
            if evidence.sealed_by == evidence.maker:
                lines.append(
                    f"The invoice of {self._name(evidence.taker)} was paid: the file has its "
                    "preimage, which the taker draws and the maker gets for that payment only."
                )
        elif self._is_paid() and evidence.sealed_by == evidence.seller and not self._is_locked():
            lines.append(
                f"The invoice of {self._name(evidence.buyer)} over that amount was paid: the file "
                "has its preimage, which the payer gets for the payment only."
            )
        receipts = [self._name(one.by) for one in evidence.said if one.kind == "trade_settled"]
        if receipts:
            lines.append(f"{' and '.join(receipts)} signed that nothing is owed to them any more.")
        return lines

    def unproved(self) -> list[str]:
        """Say what this file cannot show."""
        evidence = self._evidence
        moved = f"That the quote ({self._currency()}) moved: there is only what the two said of it."
        if self._is_swap:
            maker = self._name(evidence.maker)
            moved = f"That {maker} took what was locked for it: there is only its own word."
        lines = [
            moved,
            "When anything was said: each date is its speaker's own clock.",
            f"That nothing was said later: {self._name(evidence.sealed_by)} wrote this file.",
            "Who the people behind the two keys are.",
        ]
        if self._is_locked():
            lines.append(
                "That the base was locked or moved over Lightning: the preimage was drawn by "
                f"{self._name(evidence.seller)}, so having it proves no payment."
            )
        elif self._is_paid() and evidence.sealed_by != self._pays_for_preimage:
            lines.append(
                "That the invoice was paid: the preimage in the file was drawn by "
                f"{self._name(evidence.sealed_by)}, who wrote it."
            )
        elif not self._is_paid():
            lines.append("That anything was paid over Lightning: there is no preimage in the file.")
        accept = evidence.first("accept")
        if accept is not None and not self._fits(accept):
            why = "they are not those of the price that it signed."
            if self._instrument is None:
                why = f"how many decimals {self._currency()} has is not known here (--currency)."
            name = self._name(evidence.taker)
            lines.append(f"That {name} agreed to the amounts in the accept: {why}")
        if not evidence.published:
            lines.append("That the order was published: the maker's signed batch is not here.")
        return lines

    def _fits(self, accept: Said) -> bool:
        """Whether the accepted amounts are those of the quantity and price that the taker signed.

        Of a currency that is unknown here nobody can say it.
        """
        if self._instrument is None:
            return False
        take = self._evidence.said[0].fields
        legs = amounts(self._instrument, accept.fields["quantity_lots"], take["price_ticks"])
        return (legs.base_msat, legs.quote_units) == (
            accept.fields["base_msat"],
            accept.fields["quote_units"],
        )

    def _name(self, party: bytes) -> str:
        role = "maker" if party == self._evidence.maker else "taker"
        return f"{role} {short(party)}"

    def _is_paid(self) -> bool:
        preimage = self._evidence.preimage
        return (
            preimage is not None
            and self._invoice is not None
            and proves_payment(preimage, self._invoice.payment_hash)
        )

    def _is_locked(self) -> bool:
        """Whether the seller drew the preimage: a lock that no fresh invoice has replaced."""
        return self._settlement == HTLC and not self._is_rolled

    def _is_released(self) -> bool:
        """Whether the seller gave away the preimage of the very invoice that locked the base."""
        said, invoice = self._evidence.first("trade_released"), self._first_invoice
        preimage = None if said is None else said.fields["payment_preimage"]
        return (
            self._settlement == HTLC
            and preimage is not None
            and invoice is not None
            and proves_payment(preimage, invoice.payment_hash)
        )

    def _currency(self) -> str:
        return self._evidence.market.partition("/")[2]

    def _quantity(self, lots: int) -> str:
        return (
            f"{lots} lots" if self._instrument is None else format_quantity(lots, self._instrument)
        )

    def _quote(self, units: int) -> str:
        if self._instrument is None:
            return f"{units} of the smallest units of {self._currency()}"
        return format_notional(units, self._instrument)


def _shown(value: object) -> str:
    """A stranger's value as it may stand in a sentence."""
    return value.hex()[:12] if isinstance(value, bytes) else ascii(value)


def _instrument_of(market: str, currencies: Currencies) -> Instrument | None:
    try:
        return currencies.instrument(market)
    except InputError:
        return None


def _bitcoin(msat: int) -> str:
    return f"{decimal_text(msat, _MSAT_DECIMALS, trim=True)} BTC"


def _invoice_of(evidence: Evidence, kinds: frozenset[str]) -> Invoice | None:
    """The last invoice in such a message that is for this trade: its amount, its signed payee.

    The base buyer's; of a swap the taker's, whose preimage the maker gets.
    """
    accept = evidence.first("accept")
    if accept is None:
        return None
    payee, amount_msat = evidence.buyer, accept.fields["base_msat"]
    if evidence.said[0].fields["settlement"] == SWAP:
        terms = (amount_msat, accept.fields["quote_units"])
        payee = evidence.taker
        amount_msat = legs(evidence.side, evidence.market, *terms)[1].amount_msat
    for one in reversed(evidence.said):
        text = one.fields.get("invoice")
        if one.by != payee or one.kind not in kinds or not text:
            continue
        try:
            invoice = decode(text)
        except InvalidInvoiceError:
            continue
        if (invoice.amount_msat, invoice.payee) == (amount_msat, one.fields["lightning_node"]):
            return invoice
    return None
