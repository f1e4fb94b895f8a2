"""What evidence says, proves and does not prove, to the word: people decide about money by it."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from zmqex.bolt11 import Draft, InvoiceNetwork, encode, public_key
from zmqex.market.instruments import Currencies
from zmqex.protocol.identity import short
from zmqex.trading.evidence import FIELDS, Evidence, Said
from zmqex.trading.statements import statements

MAKER, TAKER = b"\x01" * 32, b"\x02" * 32
M, T = f"maker {short(MAKER)}", f"taker {short(TAKER)}"
PREIMAGE, SECRET = b"\x08" * 32, b"\x07" * 32
NODE = public_key(SECRET)
LOTS, TICKS, MSAT, CENTS = 40_000_000, 100, 40_000_000_000, 40
AS_AGREED: dict[str, Any] = {"quantity_lots": LOTS, "base_msat": MSAT, "quote_units": CENTS}

SIGNED = "Each message below was signed by the key that is named, for this trade."
PUBLISHED = f"{M} published the order with these terms."
MOVED = "That the quote (USD) moved: there is only what the two said of it."
CLOCKS = "When anything was said: each date is its speaker's own clock."
PEOPLE = "Who the people behind the two keys are."
NO_PREIMAGE = "That anything was paid over Lightning: there is no preimage in the file."
NO_BATCH = "That the order was published: the maker's signed batch is not here."
NOT_AGREED = (
    f"That {T} agreed to the amounts in the accept: they are not those of the price that it signed."
)


def later(name: str) -> str:
    """Whoever wrote the file could have left the end away."""
    return f"That nothing was said later: {name} wrote this file."


def drawn(name: str) -> str:
    """Whoever drew the preimage needs no payment to know it."""
    return f"That the invoice was paid: the preimage in the file was drawn by {name}, who wrote it."


def paid(name: str) -> str:
    """A payer has the preimage for the payment only."""
    return (
        f"The invoice of {name} over that amount was paid: the file has its preimage, which the "
        "payer gets for the payment only."
    )


def agreed(seller: str, buyer: str) -> str:
    """Both legs."""
    return f"Both agreed: {seller} pays 0.4 BTC and {buyer} pays 0.40 USD."


def invoice(preimage: bytes = PREIMAGE, secret: bytes = SECRET, amount_msat: int = MSAT) -> str:
    """An invoice of the preimage's hash, signed by the node of that secret."""
    payment_hash = hashlib.sha256(preimage).digest()
    draft = Draft(
        network=InvoiceNetwork.REGTEST,
        timestamp_s=1_700_000_000,
        payment_hash=payment_hash,
        payment_secret=b"\x09" * 32,
        amount_msat=amount_msat,
        description="PLAY MONEY",
        expiry_s=600,
        min_final_cltv=40,
    )
    return encode(draft, secret)


def said(kind: str, by: bytes, **fields: Any) -> Said:  # noqa: ANN401 - as the message says
    """A message with these fields, said at second 7; what is left out is nothing."""
    return Said(kind, by, dict.fromkeys(FIELDS[kind]) | {"sent_at_ms": 7_000} | fields)


TAKE = said("take", TAKER, order_id=b"\xab" * 32, quantity_lots=LOTS, price_ticks=TICKS)
SETTLED = (said("trade_settled", MAKER), said("trade_settled", TAKER))


def accept(**fields: Any) -> Said:  # noqa: ANN401 - as the message says
    """The maker's, of all that was asked for."""
    return said("accept", MAKER, **({"lightning_node": NODE} | AS_AGREED | fields))


def evidence(side: str, *messages: Said, **fields: Any) -> Evidence:  # noqa: ANN401 - of the file
    """A sound file of a maker on that side of the market, sealed by the taker."""
    file = Evidence(
        network="play",
        maker=MAKER,
        taker=TAKER,
        sealed_by=TAKER,
        trade_id=bytes(32),
        sealed_at_ms=9_000,
        state="settled",
        market="BTC/USD",
        side=side,
        published=True,
        preimage=PREIMAGE,
        said=(TAKE, *messages),
    )
    return msgspec.structs.replace(file, **fields)


def proved(file: Evidence) -> list[str]:
    """What it proves."""
    return statements(file, Currencies()).proved


def unproved(file: Evidence) -> list[str]:
    """What it does not."""
    return statements(file, Currencies()).unproved


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (TAKE, f"{T} takes up to 0.4 BTC of order abababababab"),
        (accept(), f"{M} accepts: 0.4 BTC against 0.40 USD"),
        (
            said("quote_sent", MAKER, reference="\x1b[2J"),
            rf"{M} says that it has sent the quote (reference: '\x1b[2J')",
        ),
        (said("quote_confirmed", TAKER), f"{T} says that the quote has arrived"),
        (
            said("trade_released", TAKER),
            f"{T} says that the quote has arrived, and gives the preimage away",
        ),
        (said("trade_invoice", TAKER), f"{T} asks to be paid with an invoice"),
        (
            said("trade_rollover", MAKER, attempt=2),
            f"{M} says that the lock is lost, and asks to be paid anew (2)",
        ),
        (
            said("invoice_failed", MAKER, reason="no_route"),
            f"{M} says that it will never pay that invoice ('no_route')",
        ),
        (said("trade_cancel", TAKER, reason="user"), f"{T} wants to end the trade ('user')"),
        (
            said("trade_cancelled", MAKER, reason="timer"),
            f"{M} says that the trade is over and nothing was paid ('timer')",
        ),
        (said("trade_settled", TAKER), f"{T} says that it has all that it was promised"),
    ],
    ids=lambda one: one.kind if isinstance(one, Said) else None,
)
def test_each_message_is_one_sentence(message: Said, sentence: str) -> None:
    """Who says what, by its own clock; what a stranger wrote is shown escaped."""
    assert statements(evidence("buy", message), Currencies()).said[-1] == (7_000, sentence)


def test_a_payer_proves_all_that_can_be_proved() -> None:
    """The taker sold base and wrote the file: the preimage came to it for the payment."""
    file = evidence("buy", accept(invoice=invoice()), *SETTLED)
    receipts = f"{M} and {T} signed that nothing is owed to them any more."
    assert proved(file) == [SIGNED, PUBLISHED, agreed(T, M), paid(M), receipts]
    assert unproved(file) == [MOVED, CLOCKS, later(T), PEOPLE]


def test_a_payee_cannot_prove_its_payment() -> None:
    """It drew the preimage itself; the other side's file can."""
    asked = said("trade_invoice", TAKER, invoice=invoice(), lightning_node=NODE)
    file = evidence("sell", accept(), asked, SETTLED[0])
    receipt = f"{M} signed that nothing is owed to them any more."
    assert proved(file) == [SIGNED, PUBLISHED, agreed(M, T), receipt]
    assert unproved(file) == [MOVED, CLOCKS, later(T), PEOPLE, drawn(T)]
    other = msgspec.structs.replace(file, sealed_by=MAKER)
    assert proved(other) == [SIGNED, PUBLISHED, agreed(M, T), paid(T), receipt]
    assert unproved(other) == [MOVED, CLOCKS, later(M), PEOPLE]


def test_a_take_alone_proves_only_itself() -> None:
    """No accept, no batch, no preimage: four things more that nobody knows, and no receipt."""
    file = evidence("buy", preimage=None, published=False)
    assert proved(file) == [SIGNED]
    assert unproved(file) == [MOVED, CLOCKS, later(T), PEOPLE, NO_PREIMAGE, NO_BATCH]


@pytest.mark.parametrize(
    "changes", [{"base_msat": MSAT + 1}, {"quote_units": CENTS + 1}, {"quantity_lots": LOTS - 1}]
)
def test_amounts_that_only_the_maker_signed_are_nobodys_agreement(changes: dict[str, int]) -> None:
    """One millisatoshi, one cent or one lot off."""
    file = evidence("buy", accept(**changes), preimage=None)
    assert proved(file) == [SIGNED, PUBLISHED]
    assert unproved(file) == [MOVED, CLOCKS, later(T), PEOPLE, NO_PREIMAGE, NOT_AGREED]


def test_an_unknown_currency_is_counted_in_its_smallest_units() -> None:
    """A node may trade a currency of its own; a reader need not know its decimals."""
    file = evidence("buy", accept(), market="BTC/WAMPUM", preimage=None)
    words = statements(file, Currencies())
    assert [text for _, text in words.said] == [
        f"{T} takes up to {LOTS} lots of order abababababab",
        f"{M} accepts: 0.4 BTC against {CENTS} of the smallest units of WAMPUM",
    ]
    assert words.proved == [SIGNED, PUBLISHED]
    assert words.unproved[0] == MOVED.replace("USD", "WAMPUM")
    assert words.unproved[-1] == (
        f"That {T} agreed to the amounts in the accept: how many decimals WAMPUM has is not known "
        "here (--currency)."
    )


@pytest.mark.parametrize(
    "message",
    [
        accept(invoice=invoice(b"\x0b" * 32)),
        accept(invoice=invoice(amount_msat=MSAT + 1)),
        accept(invoice=invoice(secret=b"\x0c" * 32)),
        accept(invoice="lnbcrt1nonsense"),
        accept(invoice=""),
        said("trade_invoice", TAKER, invoice=invoice(), lightning_node=NODE),
    ],
    ids=["another hash", "another amount", "another node", "unreadable", "none", "of the seller"],
)
def test_what_is_no_invoice_of_this_trade_proves_no_payment(message: Said) -> None:
    """The maker buys: only its own invoice counts, over the amount and of the node it signed."""
    file = evidence("buy", accept(), message)
    assert paid(M) not in proved(file)
    assert NO_PREIMAGE in unproved(file)


def test_no_invoice_counts_without_an_accept() -> None:
    """Nothing says what amount would be right."""
    asked = said("trade_invoice", TAKER, invoice=invoice(), lightning_node=NODE)
    assert NO_PREIMAGE in unproved(evidence("sell", asked))


def test_the_last_invoice_that_fits_is_the_one_that_was_paid() -> None:
    """An earlier one failed; a later one that does not fit is passed over."""
    first = said("trade_invoice", TAKER, invoice=invoice(b"\x0b" * 32), lightning_node=NODE)
    second = said("trade_invoice", TAKER, invoice=invoice(), lightning_node=NODE)
    odd = said("trade_invoice", TAKER, invoice=invoice(amount_msat=1), lightning_node=NODE)
    bad = said("trade_invoice", TAKER, invoice="lnbcrt1nonsense", lightning_node=NODE)
    messages = (accept(), first, second, odd, bad, said("quote_sent", TAKER))
    file = evidence("sell", *messages, sealed_by=MAKER)
    assert paid(T) in proved(file)
    assert paid(T) not in proved(msgspec.structs.replace(file, preimage=b"\x0b" * 32))


# --- by lock --------------------------------------------------------------------------------------

BY_LOCK = said(
    "take", TAKER, order_id=b"\xab" * 32, quantity_lots=LOTS, price_ticks=TICKS, settlement="htlc"
)
RELEASED = (
    f"{T} signed that the quote has arrived, and gave {M} the preimage of its invoice over that "
    "amount."
)
LOCKED = (
    f"That the base was locked or moved over Lightning: the preimage was drawn by {T}, so having "
    "it proves no payment."
)


@pytest.mark.parametrize(
    ("preimage", "released"), [(PREIMAGE, True), (b"\x06" * 32, False), (None, False)]
)
def test_a_release_proves_what_was_signed_and_no_payment(
    preimage: bytes | None,
    released: bool,  # noqa: FBT001
) -> None:
    """Whoever drew the preimage, and whoever was given it, has it without any payment."""
    words = [] if preimage is None else [said("trade_released", TAKER, payment_preimage=preimage)]
    messages = (BY_LOCK, accept(invoice=invoice()), *words)
    for writer in (MAKER, TAKER):
        file = evidence("buy", sealed_by=writer, said=messages)
        assert (RELEASED in proved(file)) == released
        assert not any("was paid: the file" in one for one in proved(file))
        assert LOCKED in unproved(file)


def test_a_release_without_an_invoice_proves_no_more_than_its_words() -> None:
    """The preimage may be any."""
    words = said("trade_released", TAKER, payment_preimage=PREIMAGE)
    assert RELEASED not in proved(evidence("buy", said=(BY_LOCK, words)))
    assert LOCKED in unproved(evidence("buy", said=(BY_LOCK, words)))


def test_a_release_in_a_plain_trade_is_no_release() -> None:
    """There the payee draws the preimage: the payer proves its payment, whatever it says of it."""
    word = said("trade_released", TAKER, payment_preimage=PREIMAGE)
    file = evidence("buy", accept(invoice=invoice()), word)
    assert RELEASED not in proved(file)
    assert paid(M) in proved(file)


FRESH = b"\x0d" * 32
ROLLED = said("trade_rollover", MAKER, attempt=2, invoice=invoice(FRESH), lightning_node=NODE)


def test_the_payer_of_a_fresh_invoice_proves_its_payment() -> None:
    """There the buyer draws the preimage; what was said of the lock stays said."""
    word = said("trade_released", TAKER, payment_preimage=PREIMAGE)
    messages = (BY_LOCK, accept(invoice=invoice()), word, ROLLED)
    file = evidence("buy", said=messages, preimage=FRESH)
    assert proved(file) == [SIGNED, PUBLISHED, agreed(T, M), RELEASED, paid(M)]
    assert unproved(file) == [MOVED, CLOCKS, later(T), PEOPLE]
    other = msgspec.structs.replace(file, sealed_by=MAKER)
    assert proved(other) == [SIGNED, PUBLISHED, agreed(T, M), RELEASED]
    assert unproved(other) == [MOVED, CLOCKS, later(M), PEOPLE, drawn(M)]
    for preimage in (None, PREIMAGE):
        unpaid = msgspec.structs.replace(file, preimage=preimage)
        assert paid(M) not in proved(unpaid)
        assert NO_PREIMAGE in unproved(unpaid)


def test_a_fresh_invoice_in_a_plain_trade_is_none() -> None:
    """No lock was there to be lost."""
    file = evidence("buy", accept(invoice=invoice()), ROLLED)
    assert paid(M) in proved(file)
    assert paid(M) not in proved(msgspec.structs.replace(file, preimage=FRESH))


# --- by one hash ----------------------------------------------------------------------------------

SWAPPED = said(
    "take", TAKER, order_id=b"\xab" * 32, quantity_lots=LOTS, price_ticks=TICKS, settlement="swap"
)
PAID_FOR = (
    f"The invoice of {T} was paid: the file has its preimage, which the taker draws and the maker "
    "gets for that payment only."
)
TOOK = f"That {M} took what was locked for it: there is only its own word."


@pytest.mark.parametrize(("side", "leg_msat"), [("buy", CENTS * 1_000), ("sell", MSAT)])
def test_a_maker_proves_the_leg_that_it_paid_and_the_taker_proves_none(
    side: str, leg_msat: int
) -> None:
    """The invoice is the taker's, over what the maker sells; one's own preimage is no proof."""
    asked = said("trade_invoice", TAKER, invoice=invoice(amount_msat=leg_msat), lightning_node=NODE)
    seller, buyer = (T, M) if side == "buy" else (M, T)
    first = [SIGNED, PUBLISHED, agreed(seller, buyer)]
    file = evidence(side, said=(SWAPPED, accept(), asked), sealed_by=MAKER)
    assert proved(file) == [*first, PAID_FOR]
    assert unproved(file) == [TOOK, CLOCKS, later(M), PEOPLE]
    other = msgspec.structs.replace(file, sealed_by=TAKER)
    assert proved(other) == first
    assert unproved(other) == [TOOK, CLOCKS, later(T), PEOPLE, drawn(T)]
    unpaid = msgspec.structs.replace(file, preimage=None)
    assert proved(unpaid) == first
    assert unproved(unpaid) == [TOOK, CLOCKS, later(M), PEOPLE, NO_PREIMAGE]
