"""What peers may send by mistake or on purpose: each has its one word, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.unit.maker import Maker, counted, log_of, resting, scene
from tests.wire import MARKET, Host
from zmqex.kernel import effects as out
from zmqex.kernel.commands import GetPeerBook
from zmqex.limits import CLOCK_SKEW_MAX_MS, FRAME_BYTES_MAX, HEARTBEAT_EVERY_MS, SEQUENCE_JUMP_MAX
from zmqex.protocol.codec import encode
from zmqex.protocol.identity import order_id, seal, to_text
from zmqex.protocol.messages import (
    Batch,
    Close,
    Greet,
    LogRequest,
    Place,
    RowsRequest,
    SnapshotRequest,
    Update,
)

Send = Callable[[Host, Maker], object]


def picture(host: Host, maker: Maker) -> tuple[object, ...]:
    """All that a stranger's words could change of what this node believes."""
    log, stranger = log_of(host, maker), maker.identity
    return log.fold.head(), dict(log.fold.orders), resting(host), stranger in host.n.sessions.peers


def batch_of(maker: Maker, *operations: Any, **changes: object) -> bytes:  # noqa: ANN401
    """The next batch with wrong fields, signed all the same."""
    return maker.sign(*operations, **changes)


def priced(maker: Maker, **fields: object) -> Place:
    """An order with fields that no order may have."""
    _, place = maker.new(7)
    terms = msgspec.msgpack.decode(place.order)
    names = [
        "market", "side", "price_ticks", "quantity_lots", "minimum_lots", "time_in_force",
        "flags", "expires_at_ms", "settlements", "payment_methods", "nonce",
    ]  # fmt: skip
    for name, value in fields.items():
        terms[names.index(name)] = value
    return Place(msgspec.msgpack.encode(terms))


def other_network(host: Host, maker: Maker) -> None:
    """A batch that was signed for another network."""
    body = msgspec.msgpack.decode(maker.sign(maker.new(5)[1]))[0]
    maker.say(host, maker.topic, seal(maker.key, "main", "batch", body))


STREAMED: dict[str, tuple[Send, str]] = {
    "wrong network": (other_network, "bad_signatures"),
    "sequence jump of a billion": (
        lambda host, maker: maker.say(
            host, maker.topic, batch_of(maker, maker.new(5)[1], sequence=10**9)
        ),
        "ignored_sequence_gap",
    ),
    "epoch far in the future": (
        lambda host, maker: maker.say(
            host,
            maker.topic,
            batch_of(maker, maker.new(5)[1], epoch=maker.wire.wall_ms + CLOCK_SKEW_MAX_MS + 1),
        ),
        "ignored_future_epoch",
    ),
    "nested arrays": (
        lambda host, maker: maker.say(host, maker.topic, b"\x91" * FRAME_BYTES_MAX),
        "malformed",
    ),
    "longer than a frame": (
        lambda host, maker: maker.say(host, maker.topic, b"\x91" * (FRAME_BYTES_MAX + 1)),
        "malformed",
    ),
    "root mismatch": (
        lambda host, maker: maker.say(
            host,
            b"h",
            maker.beat(msgspec.structs.replace(maker.fold.head(), book_root=b"r" * 32)),
        ),
        "root_mismatch",
    ),
    "an old batch again": (
        lambda host, maker: maker.say(host, maker.topic, maker.envelopes[0]),
        "repeats",
    ),
}


@pytest.mark.parametrize("name", STREAMED)
def test_what_is_streamed_and_cannot_be_is_counted_and_forgotten(name: str) -> None:
    """The log, the book and the session stay as they are."""
    _, host, maker = scene()
    maker.say(host, maker.topic, maker.publish(maker.new(1)[1]))
    send, word = STREAMED[name]
    before = picture(host, maker)
    send(host, maker)
    host.wire.run(100)
    assert picture(host, maker) == before
    assert (log_of(host, maker).target, log_of(host, maker).gap) == (log_of(host, maker).at, {})
    assert counted(host, word) == 1


def test_a_jump_is_believed_as_far_as_its_maker_can_have_come() -> None:
    """Of whom nothing is known as well; what a heartbeat has told of is no jump."""
    _, host, maker = scene()

    def say(sequence: int, *, epoch: int = maker.fold.epoch) -> None:
        raw = batch_of(maker, maker.new(5)[1], sequence=sequence, epoch=epoch)
        maker.say(host, maker.topic, raw)

    say(SEQUENCE_JUMP_MAX + 1)
    assert host.n.replicas.log(maker.identity, MARKET) is None
    maker.say(host, maker.topic, maker.publish(maker.new(1)[1]))
    far = SEQUENCE_JUMP_MAX + 2
    say(far)
    say(SEQUENCE_JUMP_MAX + 1, epoch=maker.fold.epoch + 1)
    assert counted(host, "ignored_sequence_gap") == 3
    assert list(log_of(host, maker).gap) == []
    say(far - 1)
    assert list(log_of(host, maker).gap) == [far - 1]
    head = msgspec.structs.replace(maker.fold.head(), sequence=10**9, head_hash=b"h" * 32)
    maker.say(host, b"h", maker.beat(head))
    say(10**9 + 1)
    assert list(log_of(host, maker).gap) == [far - 1, 10**9 + 1]
    assert counted(host, "ignored_sequence_gap") == 3


SIGNED: dict[str, tuple[Callable[[Maker], list[Any]], str]] = {
    "somebody else's order closed": (
        lambda maker: [Close(order_id("play", b"v" * 32, maker.new(1)[1].order), "cancelled")],
        "unknown_order",
    ),
    "somebody else's order changed": (
        lambda maker: [Update(order_id("play", b"v" * 32, maker.new(1)[1].order), 1, 0)],
        "unknown_order",
    ),
    "price 0": (lambda maker: [priced(maker, price_ticks=0)], "malformed"),
    "quantity 0": (lambda maker: [priced(maker, quantity_lots=0)], "malformed"),
    "an amount that cannot be counted": (
        lambda maker: [priced(maker, quantity_lots=2**63)],
        "malformed",
    ),
    "no side": (lambda maker: [priced(maker, side="both")], "malformed"),
    "another market": (lambda maker: [priced(maker, market="BTC/EUR")], "wrong_market"),
    "more than a whole as least": (
        lambda maker: [priced(maker, minimum_lots=10**12)],
        "minimum_above_quantity",
    ),
    "unknown flags": (lambda maker: [priced(maker, flags=64)], "contradictory_flags"),
    "a life without end": (
        lambda maker: [priced(maker, expires_at_ms=2**53)],
        "expiry_too_far",
    ),
    "the same order twice": (lambda maker: [maker.new(1)[1]], "duplicate_order"),
    "more held than remains": (lambda maker: [Update(maker.new(1)[0], 5, 6)], "invalid_quantity"),
}


def test_others_dust_is_in_no_book_and_stops_no_log() -> None:
    """Worth less than a cent; whoever fetches a book whole does not see it either."""
    wire, host, maker = scene()
    (dust, small), (cent, worth) = maker.new(1, quantity_lots=999), maker.new(2)
    maker.say(host, maker.topic, maker.publish(small, worth))
    maker.say(host, maker.topic, maker.publish(Update(dust, 998, 0)))
    assert resting(host) == [cent]
    assert log_of(host, maker).fold.head() == maker.fold.head()
    wire.run(3 * HEARTBEAT_EVERY_MS)
    assert counted(host, "hidden_notional_too_small") == 1
    own = host.place(3, quantity_lots=999)
    assert resting(host) == [cent, own]
    maker.say(host, b"h", maker.beat())
    (reader,) = wire.add("reader")
    wire.run(2_000)
    reader.command(GetPeerBook(to_text(host.identity), MARKET))
    wire.run(1_000)
    shown = reader.answers()[-1].result
    assert [one["order_id"] for one in shown["orders"]] == [cent.hex()]
    maker.say(host, maker.topic, maker.publish(Close(dust, "cancelled")))
    assert log_of(host, maker).fold.head() == maker.fold.head()
    assert resting(host) == [cent, own]


@pytest.mark.parametrize("name", SIGNED)
def test_what_no_maker_may_sign_ends_its_log_with_its_word(name: str) -> None:
    """Nothing of that batch counts, not even what was right in it."""
    _, host, maker = scene()
    maker.say(host, maker.topic, maker.publish(maker.new(1)[1]))
    operations, reason = SIGNED[name]
    before = picture(host, maker)
    maker.say(host, maker.topic, maker.sign(maker.new(2)[1], *operations(maker)))
    assert picture(host, maker) == before
    (refused,) = host.logged("log_refused")
    assert refused["reason"] == reason
    assert log_of(host, maker).state == "refused"


def test_a_batch_that_does_not_build_on_ours_is_a_fork_and_adds_nothing() -> None:
    """Another batch at the same place: proven, and the epoch is void."""
    _, host, maker = scene()
    maker.say(host, maker.topic, maker.publish(maker.new(1)[1]))
    maker.say(host, maker.topic, maker.sign(maker.new(2)[1], sequence=1, previous_hash=bytes(32)))
    assert (log_of(host, maker).state, resting(host)) == ("forked", [])
    question = LogRequest(maker.identity, MARKET, maker.fold.epoch, 1)
    assert maker.refused(host, "log", question).reason == "forked_log"


def test_an_order_that_has_ended_is_not_shown() -> None:
    """The fold has it until its maker closes it; the book says why not."""
    _, host, maker = scene()
    ended = maker.new(1, expires_at_ms=maker.wire.wall_ms - 1)[1]
    maker.say(host, maker.topic, maker.publish(ended))
    assert (resting(host), counted(host, "hidden_expired")) == ([], 1)


def test_questions_that_make_no_sense_are_refused_each_with_its_word() -> None:
    """Unknown maker, another network's record, pages out of order, nonsense."""
    _, host, maker = scene()
    maker.say(host, maker.topic, maker.publish(maker.new(1)[1]))
    before = picture(host, maker)
    epoch, nobody = maker.fold.epoch, b"n" * 32
    head = maker.fold.head_hash
    for kind, body, reason in (
        ("log", LogRequest(nobody, MARKET, epoch, 1), "unknown_maker"),
        ("log", LogRequest(maker.identity, MARKET, epoch + 1, 1), "sequence_gap"),
        ("log", LogRequest(maker.identity, MARKET, 1, 1), "old_epoch"),
        ("snapshot", SnapshotRequest(maker.identity, MARKET, epoch, 10**9), "sequence_gap"),
        ("rows", RowsRequest(maker.identity, MARKET, head, b"\2\1", b""), "malformed"),
        ("rows", RowsRequest(maker.identity, MARKET, head, b"\0", b""), "log_too_old"),
        ("greet", Greet(maker.record(network="main"), maker.wire.wall_ms), "wrong_network"),
        ("steal", LogRequest(nobody, MARKET, 1, 1), "unknown_kind"),
    ):
        assert maker.refused(host, kind, body).reason == reason
    assert picture(host, maker) == before


def test_frames_that_are_no_frames_end_nothing() -> None:
    """Counted, blamed on whoever greeted over that connection, and not answered."""
    _, host, maker = scene()
    for frame in (b"", b"\xc1", b"\x91" * FRAME_BYTES_MAX, b"\0" * (FRAME_BYTES_MAX + 1)):
        effects = maker.send(host, frame)
        assert [one for one in effects if isinstance(one, out.SendReply)] == []
    assert counted(host, "malformed") == 4
    assert host.n.sessions.peers[maker.identity].penalty == 25
    assert encode(Batch(b"m" * 32, MARKET, 1, 1, bytes(32), 1, [Close(bytes(32), "x")]))
