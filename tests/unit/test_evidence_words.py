"""Evidence, word by word: who may say which message, on what it builds, and each field's type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args, get_type_hints

import msgspec
import pytest

from tests.evidence_files import Told, exported, raw, resealed, sealed, settled
from tests.unit.rollover_stories import rolled
from zmqex.errors import EvidenceError
from zmqex.kernel.commands import CancelTrade
from zmqex.market.instruments import Currencies
from zmqex.protocol.identity import ZERO_DIGEST, digest
from zmqex.protocol.messages import AnyTradeMessage
from zmqex.trading.evidence import FIELDS, Evidence, read_evidence
from zmqex.trading.statements import statements

SIDES = ("buy", "sell")
PARTIES = ("alice", "bob")  # the maker and the taker
# What is sent by the taker after an accept; the first two messages of a trade have tests beside.
LATER_KINDS = tuple(kind for kind in FIELDS if kind not in {"take", "accept"})
NOTHING = type(None)
VALUES: dict[type, object] = {int: 1, str: "x", bytes: bytes(32)}


def types_of(kind: str) -> dict[str, tuple[type, ...]]:
    """The plain types of each field, as the program's own message has them."""
    (message,) = [one for one in get_args(AnyTradeMessage) if one.__struct_config__.tag == kind]
    hints = get_type_hints(message)
    return {name: get_args(hints[name]) or (hints[name],) for name in FIELDS[kind]}


def body(told: Told, kind: str, on: str | bytes, **fields: object) -> list[object]:
    """A message of this trade that builds on another one; what is left out has any value."""
    previous = on if isinstance(on, bytes) else digest(bytes.fromhex(on))
    values = {name: VALUES[types[0]] for name, types in types_of(kind).items()}
    values |= {"trade_id": honest(told).trade_id, "previous": previous}
    return [kind, *(values | fields).values()]


def honest(told: Told) -> Evidence:
    """What the taker's file says."""
    return read_evidence(raw(told.files["bob"]))


def plain(text: str) -> list[object]:
    """The body of a message."""
    values: list[object] = msgspec.msgpack.decode(msgspec.msgpack.decode(bytes.fromhex(text))[0])
    return values


def said_by(told: Told, name: str, values: list[object]) -> str:
    """A message that this party has signed."""
    return sealed(told.keys[name], str(values[0]), msgspec.msgpack.encode(values))


def verdict(told: Told, *messages: str) -> str | None:
    """What is wrong with these messages under the taker's own seal; None if they hold."""
    try:
        read_evidence(resealed(told.files["bob"], told.keys["bob"], messages=list(messages)))
    except EvidenceError as error:
        return str(error)
    return None


def speakers(kind: str, side: str) -> tuple[str, ...]:
    """Who may say a word of docs/protocol.md about an order of alice on that side."""
    buyer, seller = ("alice", "bob") if side == "buy" else ("bob", "alice")
    return {
        "quote_sent": (buyer,),
        "quote_confirmed": (seller,),
        "trade_released": (seller,),
        "trade_invoice": ("bob",),
        "trade_rollover": (buyer,),
        "invoice_failed": ("alice",),
        "trade_cancel": ("bob",),
        "trade_cancelled": ("alice",),
        "trade_settled": PARTIES,
    }[kind]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", LATER_KINDS)
@pytest.mark.parametrize("name", PARTIES)
def test_each_word_is_one_partys_to_say(side: str, kind: str, name: str) -> None:
    """After an honest take and accept; a receipt is both parties' own."""
    told = settled(side)
    take, accept = told.files["bob"].messages[:2]
    third = said_by(told, name, body(told, kind, accept))
    wrong = f"message 3 ({kind}) is not this party's to say"
    assert verdict(told, take, accept, third) == (None if name in speakers(kind, side) else wrong)


def test_a_take_is_the_takers_and_an_accept_the_makers() -> None:
    """The other one's signature under them is worth nothing."""
    told = settled("buy")
    take, accept = told.files["bob"].messages[:2]
    by_maker = said_by(told, "alice", plain(take))
    assert verdict(told, by_maker) == "message 1 (take) is not this party's to say"
    by_taker = said_by(told, "bob", plain(accept))
    assert verdict(told, take, by_taker) == "message 2 (accept) is not this party's to say"


def test_an_accept_may_be_of_less_but_never_of_more_than_was_asked_for() -> None:
    """To the lot."""
    told = settled("buy")
    take, accept = told.files["bob"].messages[:2]
    asked = honest(told).said[0].fields["quantity_lots"]
    wrong = "message 2 (accept) answers another take"
    for lots, expected in ((1, None), (asked, None), (asked + 1, wrong)):
        values = plain(accept)
        values[1 + FIELDS["accept"].index("quantity_lots")] = lots
        assert verdict(told, take, said_by(told, "alice", values)) == expected


@pytest.mark.parametrize("maker", SIDES)
def test_a_rollover_is_in_the_evidence_of_both(maker: str) -> None:
    """With the invoice that was paid, and the seller's word of the one that was not."""
    story = rolled(maker)
    story.buyer.tell(CancelTrade(story.trade))
    story.world.run(100)
    assert story.release().ok
    story.world.run(2_000)
    story.roll()
    assert story.release().ok
    story.world.run(2_000)
    for node in (story.buyer, story.seller):
        file = exported(node, story.trade)
        said = [one.kind for one in read_evidence(raw(file)).said]
        assert (said.count("trade_rollover"), said.count("trade_settled")) == (2, 2)
        assert file.preimage == story.of(node).preimage.hex()
    found = read_evidence(raw(exported(story.seller, story.trade)))
    assert [one.by for one in found.said if one.kind == "trade_rollover"] == [found.buyer] * 2
    assert any("was paid: the file has" in one for one in statements(found, Currencies()).proved)


# --- the chain -----------------------------------------------------------------------------------

ANOTHER = b"\x0d" * 32
GAP = "builds on a message that does not stand before it: one has been removed or moved"


def test_only_a_makers_end_may_build_on_an_accept_that_never_came() -> None:
    """Whoever never got the accept cannot have it; nothing else has that excuse."""
    told = settled("buy")
    take, accept = told.files["bob"].messages[:2]

    def after(*before: str, kind: str, name: str) -> str | None:
        return verdict(told, *before, said_by(told, name, body(told, kind, ANOTHER)))

    assert after(take, kind="trade_cancelled", name="alice") is None
    for kind, name in (("trade_cancelled", "bob"), ("trade_settled", "alice")):
        assert after(take, kind=kind, name=name) == f"message 2 ({kind}) {GAP}"
    missed = after(take, accept, kind="trade_cancelled", name="alice")
    assert missed == f"message 3 (trade_cancelled) {GAP}"


def test_nothing_but_the_take_builds_on_nothing() -> None:
    """And the take on nothing else; there is one."""
    told = settled("buy")
    take = told.files["bob"].messages[0]
    second = said_by(told, "alice", body(told, "trade_settled", ZERO_DIGEST))
    assert verdict(told, take, second) == f"message 2 (trade_settled) {GAP}"
    values = plain(take)
    values[1 + FIELDS["take"].index("previous")] = ANOTHER
    assert verdict(told, said_by(told, "bob", values)) == f"message 1 (take) {GAP}"
    again = body(told, "take", take)
    wrong = "message 2 (take): a trade begins with its one take"
    assert verdict(told, take, said_by(told, "bob", again)) == wrong


def test_messages_may_build_on_any_one_before_them() -> None:
    """Two that crossed on the wire build on the same one."""
    told = settled("buy")
    take, accept = told.files["bob"].messages[:2]
    crossed = [said_by(told, name, body(told, "trade_settled", accept)) for name in PARTIES]
    late = said_by(told, "bob", body(told, "trade_cancel", take))
    assert verdict(told, take, accept, *crossed, late) is None


# --- the types -----------------------------------------------------------------------------------


def typed() -> Iterator[tuple[str, str, object, bool]]:
    """Each field of each kind with a value of each type, and whether that is right."""
    rows = [(kind, name, types) for kind in FIELDS for name, types in types_of(kind).items()]
    # A name that may be nothing in one kind may be so in all: the reader's table is by name.
    optional = {name for _, name, types in rows if NOTHING in types}
    for kind, name, types in rows:
        for other, value in {**VALUES, bool: True, list: [], NOTHING: None}.items():
            yield kind, name, value, other in types or (other is NOTHING and name in optional)


def test_each_field_has_its_type_and_only_some_may_be_nothing() -> None:
    """The reader's table cannot drift apart from the program's own messages."""
    told = settled("buy")
    take, accept = told.files["bob"].messages[:2]
    for kind, name, value, right in typed():
        before = {"take": [], "accept": [take]}.get(kind, [take, accept])
        by = {"take": "bob", "accept": "alice"}.get(kind) or speakers(kind, "buy")[0]
        values = body(told, kind, before[-1] if before else ZERO_DIGEST, **{name: value})
        said = verdict(told, *before, said_by(told, by, values))
        wrong = f"message {len(before) + 1} ({kind}): its {name} is not of the right type"
        assert (said == wrong) != right, (kind, name, value, said)
