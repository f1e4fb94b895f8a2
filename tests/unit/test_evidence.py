"""A file of evidence holds together or says what is wrong with it, in one clear sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import msgspec
import pytest

from tests.evidence_files import (
    Told,
    changed,
    exported,
    raw,
    resealed,
    rewritten,
    seal_of,
    sealed,
    settled,
)
from tests.stories import BTC, place, state_of, taken
from tests.unit.maker_stories import confirmed_without_funds
from tests.world import World
from zmqex.errors import EvidenceError
from zmqex.kernel.commands import CancelOrder, ExportTrade
from zmqex.market.instruments import Currencies
from zmqex.protocol.messages import AnyTradeMessage
from zmqex.trading.evidence import FIELDS, SEAL_KIND, read_evidence, seal_body
from zmqex.trading.statements import statements
from zmqex.trading.states import State

SIDES = ("buy", "sell")
WRITERS = ("alice", "bob")
HEX = "00"


def complaint(file: bytes) -> str:
    """What is wrong with a file."""
    with pytest.raises(EvidenceError) as error:
        read_evidence(file)
    return str(error.value)


def fits(expected: str, said: str) -> bool:
    """Whether it says this; three points stand for the rest of a sentence."""
    start = expected.removesuffix("...")
    return said == expected or (start != expected and said.startswith(start))


def test_the_fields_are_those_of_the_messages() -> None:
    """The reader's own table and the program's messages cannot drift apart."""
    known = {str(one.__struct_config__.tag): one for one in get_args(AnyTradeMessage)}
    assert {tag: one.__struct_fields__ for tag, one in known.items()} == dict(FIELDS)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_settled_trade_proves_itself_to_a_stranger(side: str, writer: str) -> None:
    """Order, signatures, receipts and payment; and it says what it cannot prove."""
    told = settled(side)
    found = read_evidence(raw(told.files[writer]))
    keys = {name: key.public_key for name, key in told.keys.items()}
    assert (found.maker, found.taker) == (keys["alice"], keys["bob"])
    assert (found.sealed_by, found.state, found.published) == (keys[writer], "settled", True)
    assert found.preimage is not None
    words = statements(found, Currencies())
    said = [text for _, text in words.said]
    assert "takes up to 0.4 BTC of order" in said[0]
    assert said[1].endswith("accepts: 0.4 BTC against 0.40 USD")
    assert sum("has all that it was promised" in one for one in said) == 2
    seller = "bob" if side == "buy" else "alice"
    paid = any("was paid: the file has its preimage" in one for one in words.proved)
    assert paid == (writer == seller)
    assert any("the preimage in the file was drawn by" in one for one in words.unproved) != paid
    (agreed,) = [one for one in words.proved if one.startswith("Both agreed: ")]
    payer, payee = ("taker", "maker") if side == "buy" else ("maker", "taker")
    assert agreed.startswith(f"Both agreed: {payer} ")
    assert f" pays 0.4 BTC and {payee} " in agreed
    assert agreed.endswith(" pays 0.40 USD.")
    assert any("published the order" in one for one in words.proved)
    assert any("signed that nothing is owed" in one for one in words.proved)
    assert any("That the quote (USD) moved" in one for one in words.unproved)


def test_a_running_trade_shows_no_preimage() -> None:
    """The payee has drawn it, but as long as nobody has paid it must not leave."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    trade = taken(world, alice, bob, "buy", pay_mode="manual")
    assert state_of(alice, trade) is State.INVOICED
    for node in (alice, bob):
        file = exported(node, trade)
        assert file.preimage is None
        words = statements(read_evidence(raw(file)), Currencies())
        assert any("there is no preimage" in one for one in words.unproved)
        assert not any("receipt" in one or "owed" in one for one in words.proved)


def test_a_cancelled_trade_has_evidence_too() -> None:
    """The accept never came: what the maker built on it is still sound."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    alice.tell(place("buy", BTC))
    world.run(300)
    world.drop = lambda node, _target, effect: (
        node is alice and type(effect).__name__ == "SendReply"
    )
    bob.command(place("sell", BTC // 2))
    world.run(2_000)
    world.drop = lambda *_: False
    world.run(20 * 60_000)
    (trade,) = bob.journal.trades.values()
    assert trade.state is State.CANCELLED
    for node in (alice, bob):
        words = statements(read_evidence(raw(exported(node, trade.trade_id.hex()))), Currencies())
        assert any("the trade is over and nothing was paid" in one for _, one in words.said)
        assert any("wants to end the trade" in one for _, one in words.said)


def test_what_was_never_taken_has_no_evidence() -> None:
    """An unknown id, and a take that was cancelled before it came."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    assert alice.ask(ExportTrade("00" * 32)).result["reason"] == "unknown_trade"
    alice.tell(place("buy", BTC))
    world.run(300)
    world.drop = lambda node, _target, _effect: node is bob
    bob.command(place("sell", BTC // 2))
    world.run(2_000)
    world.drop = lambda *_: False
    alice.tell(CancelOrder(""))
    world.run(5_000)
    (tombstone,) = alice.journal.trades.values()
    refused = alice.ask(ExportTrade(tombstone.trade_id.hex()))
    assert (refused.ok, refused.result["reason"]) == (False, "wrong_state")
    # A taker whose journal knows the trade, but not the order that was taken.
    (trade,) = bob.journal.trades.values()
    bob.journal.terms.clear()
    bob.crash()
    bob.start()
    assert bob.ask(ExportTrade(trade.trade_id.hex())).result["reason"] == "wrong_state"


def test_the_terms_of_a_taken_order_outlive_a_restart_and_its_maker() -> None:
    """The maker is gone, the log is not fetched again: the evidence is whole."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    trade = taken(world, alice, bob, "buy")
    world.run(500)
    alice.crash()
    bob.crash()
    bob.start()
    assert read_evidence(raw(exported(bob, trade))).published


def test_an_order_whose_batch_was_not_kept_is_still_bound_by_its_id() -> None:
    """Without the batch the file is sound, and says what it lacks."""
    told = settled("buy")
    file = resealed(told.files["bob"], told.keys["bob"], batch=None)
    words = statements(read_evidence(file), Currencies())
    assert any("the maker's signed batch is not here" in one for one in words.unproved)


# --- tampering under the old seal ----------------------------------------------------------------


def test_removed_reordered_repeated_added_and_changed_messages_are_named() -> None:
    """By their number in the file."""
    told = settled("buy")
    file = told.files["bob"]
    texts = file.messages
    count = len(texts)
    for at in range(count):
        without = [*texts[:at], *texts[at + 1 :]]
        assert complaint(changed(file, messages=without)) == (
            f"message {at + 1} of {count} has been removed"
        )
        twice = [*texts[: at + 1], *texts[at:]]
        assert complaint(changed(file, messages=twice)) == (
            f"message {at + 2} stands here twice: it repeats {at + 1}"
        )
    swapped = [texts[0], texts[2], texts[1], *texts[3:]]
    assert complaint(changed(file, messages=swapped)) == (
        "message 2 is out of order: it belongs at 3"
    )
    foreign = [*texts, settled("sell").files["bob"].messages[0]]
    assert complaint(changed(file, messages=foreign)) == (
        f"message {count + 1} has been changed, or was added"
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"order": HEX}, "the order is not the one that was sealed: it has been changed"),
        ({"batch": None}, "the batch is not the one that was sealed: it has been changed"),
        ({"preimage": HEX}, "the preimage is not the one that was sealed: it has been changed"),
        ({"preimage": "zz"}, "the preimage is not written in hex"),
        ({"order": "zz"}, "the order is not written in hex"),
        ({"batch": "zz"}, "the batch is not written in hex"),
        ({"seal": "zz"}, "the seal is not written in hex"),
        ({"messages": ["zz"]}, "message 1 is not written in hex"),
        ({"taker": "nobody"}, "the taker: 'nobody' is not a peer id..."),
        ({"seal": HEX}, "the seal is not a body and a signature"),
        ({"seal": "c1"}, "the seal cannot be read as MessagePack"),
        ({"network": "main"}, "the seal: neither the maker nor the taker has signed it"),
        ({"network": "play/batch\0"}, "'play/batch\\x00' is no network"),
        ({"maker": "nobody"}, "the maker: 'nobody' is not a peer id..."),
        (
            {"format": "zmqex evidence 2"},
            "the format is 'zmqex evidence 2'; this program reads 'zmqex evidence 1'",
        ),
    ],
)
def test_a_changed_part_is_named(fields: dict[str, Any], expected: str) -> None:
    """Whatever stands in the file but for the messages."""
    assert fits(expected, complaint(changed(settled("buy").files["bob"], **fields)))


def test_what_is_shown_of_a_strangers_text_is_short() -> None:
    """The first 40 characters of a format or a network that are none."""
    file = settled("buy").files["bob"]
    shown = "'" + "x" * 40 + "'"
    said = complaint(changed(file, format="x" * 41))
    assert said == f"the format is {shown}; this program reads 'zmqex evidence 1'"
    assert complaint(changed(file, network="x" * 41)) == f"{shown} is no network"


def test_the_seal_has_a_kind_of_its_own() -> None:
    """Signed as docs/protocol.md says, so that no other signature can pass for it."""
    told = settled("buy")
    body = seal_body(seal_of(told.files["bob"]))
    as_written = sealed(told.keys["bob"], "evidence", body)
    assert read_evidence(changed(told.files["bob"], seal=as_written)).sealed_by
    other = changed(told.files["bob"], seal=sealed(told.keys["bob"], "batch", body))
    assert complaint(other) == "the seal: neither the maker nor the taker has signed it"
    number = changed(told.files["bob"], seal=sealed(told.keys["bob"], "evidence", b"\x05"))
    assert complaint(number) == "the seal has not the 9 fields of its kind"


def test_other_parties_are_not_those_of_the_seal() -> None:
    """A third key in place of either party."""
    told = settled("buy")
    file = told.files["bob"]
    third = read_evidence(raw(file)).maker
    assert third
    stranger = "a" * 52
    assert "the maker is not the one" in complaint(changed(file, maker=stranger))
    other = told.files["alice"]
    assert "the taker is not the one" in complaint(changed(other, taker=stranger))


@pytest.mark.parametrize("file", [b"", b"{}", b"[1]", b"\xff", b"[" * 10_000, b'{"format":"\xff"}'])
def test_another_file_is_no_evidence(file: bytes) -> None:
    """Anything else gets one sentence."""
    assert complaint(file).startswith("this is not a file of")


# --- tampering by a party, who can seal anew -----------------------------------------------------

Edit = Callable[[Told], bytes]


def _drop(at: int) -> Edit:
    def edit(told: Told) -> bytes:
        texts = told.files["bob"].messages
        kept = [*texts[:at], *texts[at + 1 :]]
        return resealed(told.files["bob"], told.keys["bob"], messages=kept)

    return edit


def _replace(at: int, name: str, edit: Callable[[list[Any]], list[Any]]) -> Edit:
    def apply(told: Told) -> bytes:
        # What comes later builds on the honest one, so the forger leaves it out.
        texts = told.files["bob"].messages[: at + 1]
        texts[at] = rewritten(texts[at], told.keys[name], edit)
        return resealed(told.files["bob"], told.keys["bob"], messages=texts)

    return apply


def _with(at: int, value: object) -> Callable[[list[Any]], list[Any]]:
    return lambda values: [*values[:at], value, *values[at + 1 :]]


def _messages(*texts: str) -> Edit:
    return lambda told: resealed(told.files["bob"], told.keys["bob"], messages=list(texts))


def _order(value: object) -> Edit:
    return _raw_order(msgspec.msgpack.encode(value).hex())


def _raw_order(text: str) -> Edit:
    return lambda told: resealed(told.files["bob"], told.keys["bob"], order=text, batch=None)


def _raw_batch(text: str) -> Edit:
    return lambda told: resealed(told.files["bob"], told.keys["bob"], batch=text)


def _batch(name: str, body: object) -> Edit:
    def edit(told: Told) -> bytes:
        text = sealed(told.keys[name], "batch", msgspec.msgpack.encode(body))
        return resealed(told.files["bob"], told.keys["bob"], batch=text)

    return edit


def _seal_digests_twice(told: Told) -> bytes:
    digests = seal_of(told.files["bob"])["message_digests"]
    return _seal(message_digests=[*digests, digests[1]])(told)


def _seal(**fields: object) -> Edit:
    def edit(told: Told) -> bytes:
        file = told.files["bob"]
        body = seal_body(seal_of(file) | fields)
        return changed(file, seal=sealed(told.keys["bob"], SEAL_KIND, body))

    return edit


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (_drop(0), "message 1 (accept): a trade begins with its one take"),
        (_drop(1), "message 2 (quote_sent) builds on a message that does not stand before it..."),
        (_drop(2), "message 3 (quote_confirmed) builds on a message..."),
        (_replace(2, "bob", lambda one: one), "message 3 (quote_sent) is not this party's to say"),
        (_replace(1, "alice", _with(5, 10**12)), "message 2 (accept) answers another take"),
        (_replace(1, "alice", _with(4, bytes(32))), "message 2 (accept) answers another take"),
        (
            _replace(1, "alice", _with(5, "much")),
            "message 2 (accept): its quantity_lots is not of the right type",
        ),
        (
            _replace(1, "alice", lambda one: one[:-1]),
            "message 2 (accept) has not the 14 fields of its kind",
        ),
        (_replace(1, "alice", _with(0, "gift")), "message 2 is of no kind that is known here"),
        (_replace(2, "alice", _with(1, bytes(32))), "message 3 (quote_sent) is of another trade"),
        (_replace(0, "bob", _with(5, bytes(32))), "message 1 (take) names other parties"),
        (_replace(0, "bob", _with(7, bytes(32))), "message 1 (take) is of another order"),
        (_replace(0, "bob", _with(9, 1)), "message 1 (take) has not the order's price"),
        (_replace(0, "bob", _with(4, bytes(32))), "message 1 (take) is of another trade"),
        (_messages(), "there is no message in this file"),
        (_messages("92c0c0"), "message 1 is not a body and a signature"),
        (_messages("92c400c400"), "message 1 cannot be read as MessagePack"),
        (_messages("92c40190c400"), "message 1 is of no kind that is known here"),
        (_order([1]), "the order has not the form of an order"),
        (
            _order(["BTC/USD", "buy", "1", *range(8)]),
            "the order: its price_ticks is not of the right type",
        ),
        (_batch("bob", []), "the batch is not signed by the maker"),
        (_batch("alice", [["place", b"another"]]), "the batch does not place this order"),
        (_batch("alice", 5), "the batch does not place this order"),
        (_batch("alice", [5]), "the batch does not place this order"),
        (_seal(trade_id=bytes(32)), "the seal is of another trade"),
        (_messages("92c40105c400"), "message 1 is of no kind that is known here"),
        (_messages("92c403919101c400"), "message 1 is of no kind that is known here"),
        (_order(5), "the order has not the form of an order"),
        (_raw_order("c1"), "the order cannot be read as MessagePack"),
        (_raw_batch("c0"), "the batch is not a body and a signature"),
        (_raw_batch("c1"), "the batch cannot be read as MessagePack"),
        (_batch("alice", []), "the batch does not place this order"),
        (_batch("alice", msgspec.Raw(b"\xc1")), "the batch cannot be read as MessagePack"),
        (_seal_digests_twice, "the seal: it lists message 2 twice"),
        (_seal(message_digests=1), "the seal: its message_digests is not of the right type"),
    ],
)
def test_a_dishonest_party_cannot_make_it_fit(edit: Edit, expected: str) -> None:
    """With a new seal of its own, what is left is the other party's signatures and the chain."""
    assert fits(expected, complaint(edit(settled("buy"))))


def test_a_message_that_neither_has_signed_is_named() -> None:
    """One bit of its signature, under a new seal."""
    told = settled("buy")
    texts = list(told.files["bob"].messages)
    texts[1] = texts[1][:-1] + ("0" if texts[1][-1] != "0" else "1")
    file = resealed(told.files["bob"], told.keys["bob"], messages=texts)
    assert complaint(file) == "message 2 (accept): neither the maker nor the taker has signed it"


def test_a_failed_invoice_and_a_reference_are_said() -> None:
    """A maker that cannot pay says so, and its word is evidence."""
    world, _, bob, trade = confirmed_without_funds()
    world.run(3_600_000)
    said = [
        text for _, text in statements(read_evidence(raw(exported(bob, trade))), Currencies()).said
    ]
    assert any("(reference: '')" in one for one in said)
    assert any("asks to be paid with an invoice" in one for one in said)
