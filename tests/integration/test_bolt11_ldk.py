"""Our BOLT 11 codec against rust-lightning's, in both directions and over broken invoices.

Where the two differ on purpose, the rule is named here; everything else is the same.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any
from unicodedata import category

import pytest

from tests.ldk import Asker, bolt11_of_ldk
from tests.unit.bolt11_raw import REQUIRED, SECRET_KEY, signed, text_of
from zmqex.bolt11 import (
    Draft,
    InvalidInvoiceError,
    Invoice,
    InvoiceNetwork,
    RouteHop,
    bech32,
    decode,
    encode,
    public_key,
)
from zmqex.bolt11.features import DEFAULT_FEATURES

NETWORKS = {
    InvoiceNetwork.MAINNET: "Bitcoin",
    InvoiceNetwork.TESTNET: "BitcoinTestnet",
    InvoiceNetwork.REGTEST: "Regtest",
    InvoiceNetwork.SIMNET: "Simnet",
    InvoiceNetwork.SIGNET: "Signet",
}
TRAMPOLINE_ROUTING = 56
OFFERED = (9, 15, 17, 49)  # var_onion, payment_secret, basic_mpp, payment_metadata


@pytest.fixture(scope="module")
def ldk() -> Iterator[Asker]:
    """One process for all."""
    with bolt11_of_ldk() as asker:
        yield asker


def any_draft(chance: random.Random) -> Draft:
    """Any invoice that both sides must read."""
    hop = RouteHop(
        public_key(chance.randbytes(32)),
        chance.getrandbits(64),
        chance.getrandbits(32),
        chance.getrandbits(32),
        chance.getrandbits(16),
    )
    features = 1 << 8 | 1 << 14
    for bit in chance.sample(OFFERED, chance.randrange(len(OFFERED))):
        features |= 1 << bit
    return Draft(
        network=chance.choice(list(NETWORKS)),
        timestamp_s=chance.randrange(2**35),
        payment_hash=chance.randbytes(32),
        payment_secret=chance.randbytes(32),
        amount_msat=chance.choice(
            # More than this many pico-bitcoin does not fit LDK's 64 bits.
            [None, chance.randrange(1, 2_000), chance.randrange(1, 2**64 // 10)]
        ),
        description="".join(chance.choices("abc \u00e9\u4e2d\n\0", k=chance.randrange(80))),
        expiry_s=chance.choice([0, 60, 3_600, 2**32 - 1]),
        min_final_cltv=chance.choice([0, 18, 144, 65_535]),
        features=features,
        metadata=chance.choice([None, chance.randbytes(chance.randrange(1, 40))]),
        route_hints=((hop,) * chance.randrange(1, 3),) * chance.randrange(3),
    )


def fields_of(invoice: Invoice) -> dict[str, Any]:
    """What we read, in the words of the other side."""
    size = -(-invoice.features.bit_length() // 8)
    amount = invoice.amount_msat
    return {
        "network": NETWORKS[invoice.network],
        "amount_msat": None if amount is None else str(amount),
        "timestamp_s": invoice.timestamp_s,
        "payment_hash": invoice.payment_hash.hex(),
        "payment_secret": invoice.payment_secret.hex(),
        "description": shown(invoice.description),
        "expiry_s": invoice.expiry_s,
        "min_final_cltv": invoice.min_final_cltv,
        "features": invoice.features.to_bytes(size, "little").hex(),
        "metadata": None if invoice.metadata is None else invoice.metadata.hex(),
        "payee": invoice.payee.hex(),
        "route_hints": [
            [
                [
                    hop.node_id.hex(),
                    str(hop.short_channel_id),
                    hop.fee_base_msat,
                    hop.fee_proportional_millionths,
                    hop.cltv_expiry_delta,
                ]
                for hop in route
            ]
            for route in invoice.route_hints
        ],
    }


def shown(description: str | None) -> str | None:
    """As LDK gives free text out: no control characters."""
    if description is None:
        return None
    return "".join("\ufffd" if category(one) == "Cc" else one for one in description)


def features_field(value: int) -> tuple[str, str]:
    """The field of these feature bits."""
    count = -(-value.bit_length() // 5)
    return "9", "".join(bech32.CHARSET[value >> 5 * place & 31] for place in reversed(range(count)))


def read(text: str) -> Invoice | None:
    """The invoice, or None where it is refused; anything else fails the test."""
    try:
        return decode(text)
    except InvalidInvoiceError:
        return None


def test_what_we_write_is_read_the_same(ldk: Asker) -> None:
    """Every field, over random invoices of every network."""
    chance = random.Random(11)
    texts = [encode(any_draft(chance), chance.randbytes(32)) for _ in range(150)]
    answers = ldk.ask([{"decode": text} for text in texts])
    for text, answer in zip(texts, answers, strict=True):
        assert answer == fields_of(decode(text)), text


def test_what_ldk_writes_is_read_the_same(ldk: Asker) -> None:
    """Amounts to the millisatoshi, any description, expiry and final lock."""
    chance = random.Random(12)
    wanted = [
        {
            "amount_msat": chance.choice(
                [None, chance.randrange(1, 10 ** chance.randrange(1, 15))]
            ),
            "description": "".join(chance.choices("ab \u00e9\u4e2d", k=chance.randrange(60))),
            "expiry_s": chance.randrange(1, 10**6),
            "cltv": chance.randrange(24, 1_000),
        }
        for _ in range(60)
    ]
    texts = [answer["text"] for answer in ldk.ask([{"make": one} for one in wanted])]
    for terms, text, answer in zip(
        wanted, texts, ldk.ask([{"decode": text} for text in texts]), strict=True
    ):
        invoice = decode(text)
        assert fields_of(invoice) == answer
        assert (invoice.amount_msat, invoice.description) == (
            terms["amount_msat"],
            terms["description"],
        )
        assert invoice.expiry_s == terms["expiry_s"]


def test_feature_bits_are_judged_the_same(ldk: Asker) -> None:
    """An unknown even bit forbids to pay, an odd one does not, whichever it is.

    LDK knows one more bit: trampoline routing, which is no part of BOLT 11 yet.
    """
    texts = []
    for bit in range(128):
        value = 1 << bit | 1 << 14 | 1 << 8
        texts.append(text_of(*REQUIRED, features_field(value)))
    answers = ldk.ask([{"decode": text} for text in texts])
    differ = []
    for bit, (text, answer) in enumerate(zip(texts, answers, strict=True)):
        ours = read(text)
        if (ours is None) != ("error" in answer):
            differ.append(bit)
        elif ours is not None:
            assert fields_of(ours) == answer
    assert differ == [TRAMPOLINE_ROUTING]


def test_broken_fields_are_judged_the_same(ldk: Asker) -> None:
    """Right checksums and signatures around changed content; who accepts reads the same values."""
    chance = random.Random(13)
    texts: list[str] = []
    while len(texts) < 400:
        prefix, digits = bech32.read(encode(any_draft(chance), SECRET_KEY))
        symbols = bech32.characters(digits)[:-104]
        start = chance.randrange(len(symbols))
        end = min(len(symbols), start + chance.randrange(3))
        other = "".join(chance.choices(bech32.CHARSET, k=chance.randrange(3)))
        texts.append(signed(prefix, symbols[:start] + other + symbols[end:]))
    answers = ldk.ask([{"decode": text} for text in texts])
    accepted = 0
    for text, answer in zip(texts, answers, strict=True):
        ours = read(text)
        assert (ours is None) == ("error" in answer), text
        if ours is not None:
            accepted += 1
            assert answer == fields_of(ours), text
    assert 50 < accepted < len(texts) // 2


def test_ten_thousand_changed_invoices_are_refused(ldk: Asker) -> None:
    """Whatever is changed, dropped, added or swapped; a hundred of them are put to LDK too."""
    chance = random.Random(14)
    originals = [encode(any_draft(chance), chance.randbytes(32)) for _ in range(50)]
    changed: list[str] = []
    while len(changed) < 10_000:
        text = chance.choice(originals)
        place = chance.randrange(len(text))
        kind = chance.randrange(4)
        other = chance.choice(bech32.CHARSET + "1bio-")
        if kind == 0:
            new = text[:place] + other + text[place + 1 :]
        elif kind == 1:
            new = text[:place] + text[place + 1 :]
        elif kind == 2:
            new = text[:place] + other + text[place:]
        else:
            new = text[:place] + text[place + 1 : place + 2] + text[place : place + 1]
            new += text[place + 2 :]
        if new != text:
            changed.append(new)
    assert [text for text in changed if read(text) is not None] == []
    answers = ldk.ask([{"decode": text} for text in changed[:100]])
    assert [answer for answer in answers if "error" not in answer] == []


def test_a_high_s_is_where_we_follow_the_specification(ldk: Asker) -> None:
    """Without a named payee its own example has one and is valid; LDK refuses it."""
    text = text_of(*REQUIRED, features_field(DEFAULT_FEATURES), high_s=True)
    assert read(text) is not None
    (answer,) = ldk.ask([{"decode": text}])
    assert "error" in answer
