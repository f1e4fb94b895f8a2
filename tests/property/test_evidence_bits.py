"""No bit of a file of evidence can be flipped unnoticed, and what is named is what was flipped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evidence_files import changed, raw, resealed, rewritten, seal_of, sealed, settled
from zmqex.errors import EvidenceError
from zmqex.market.instruments import Currencies
from zmqex.trading.evidence import SEAL_FIELDS, SEAL_KIND, EvidenceFile, read_evidence, seal_body
from zmqex.trading.statements import statements


def complaint(file: bytes) -> str:
    """What is wrong with a file."""
    with pytest.raises(EvidenceError) as error:
        read_evidence(file)
    return str(error.value)


def flips(text: str) -> Iterator[str]:
    """The hex text with each one of its bits flipped."""
    for at, digit in enumerate(text):
        for bit in (1, 2, 4, 8):
            yield text[:at] + f"{int(digit, 16) ^ bit:x}" + text[at + 1 :]


def test_every_flipped_bit_of_every_signed_byte_is_named() -> None:
    """All bits of all messages, of the order, the batch, the preimage and the seal."""
    file = settled("buy").files["bob"]
    for number, text in enumerate(file.messages, 1):
        for flipped in flips(text):
            texts = [*file.messages[: number - 1], flipped, *file.messages[number:]]
            said = complaint(changed(file, messages=texts))
            assert said == f"message {number} has been changed, or was added"
    for name in ("order", "batch", "preimage"):
        for flipped in flips(getattr(file, name)):
            assert complaint(changed(file, **{name: flipped})).startswith(f"the {name} is not")
    for flipped in flips(file.seal):
        assert complaint(changed(file, seal=flipped)).startswith("the seal")


@given(
    side=st.sampled_from(["buy", "sell"]), writer=st.sampled_from(["alice", "bob"]), data=st.data()
)
def test_a_party_cannot_flip_a_bit_of_the_others_words(
    side: str, writer: str, data: st.DataObject
) -> None:
    """Also under a new seal of its own, the other's signature or the chain tells."""
    told = settled(side)
    file = told.files[writer]
    number = data.draw(st.integers(0, len(file.messages) - 1))
    text = file.messages[number]
    flipped = bytearray.fromhex(text)
    bit = data.draw(st.integers(0, 8 * len(flipped) - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    texts = [*file.messages[:number], flipped.hex(), *file.messages[number + 1 :]]
    assert "message" in complaint(resealed(file, told.keys[writer], messages=texts))


@given(data=st.data())
def test_any_other_json_is_refused_in_one_sentence(data: st.DataObject) -> None:
    """A character of the file is replaced by any other: refused, or the very same evidence."""
    file = raw(settled("buy").files["bob"]).decode()
    at = data.draw(st.integers(0, len(file) - 1))
    odd = file[:at] + data.draw(st.characters(codec="utf-8")) + file[at + 1 :]
    with suppress(EvidenceError):
        assert read_evidence(odd.encode()) == read_evidence(file.encode())


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(max_size=3)
    | st.binary(max_size=33),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=5,
)


@given(part=st.sampled_from(["order", "batch", "message", "seal"]), value=values, data=st.data())
def test_whatever_a_party_signs_is_read_or_refused_in_one_sentence(
    part: str, value: object, data: st.DataObject
) -> None:
    """One value of what it may sign is any other, under a new seal: never another exception."""
    told = settled("buy")
    file, key = told.files["bob"], told.keys["bob"]
    if part == "order":
        terms = [*data.draw(st.sampled_from([[], ["BTC/USD", "buy"]])), value, *range(8)]
        odd = resealed(file, key, order=msgspec.msgpack.encode(terms).hex(), batch=None)
    elif part == "batch":
        body = msgspec.msgpack.encode(data.draw(st.sampled_from([value, [value], [[value]]])))
        odd = resealed(file, key, batch=sealed(told.keys["alice"], "batch", body))
    elif part == "message":
        at = data.draw(st.integers(0, 11))
        take = rewritten(file.messages[0], key, lambda one: [*one[:at], value, *one[at + 1 :]])
        odd = resealed(file, key, messages=[take])
    else:
        name = data.draw(st.sampled_from(SEAL_FIELDS))
        body = seal_body(seal_of(file) | {name: value})
        odd = changed(file, seal=sealed(key, SEAL_KIND, body))
    with suppress(EvidenceError):
        found = read_evidence(odd)
        assert len(statements(found, Currencies()).said) == len(found.said)


def test_the_file_is_read_back_as_it_was_written() -> None:
    """JSON in, JSON out."""
    file = settled("buy").files["alice"]
    assert msgspec.json.decode(raw(file), type=EvidenceFile) == file
