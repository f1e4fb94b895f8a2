"""Hostile peers: what one says about itself harms neither our links to others nor our timers."""

from __future__ import annotations

import hashlib

import pytest

from tests.unit.floor import LOTS, place
from tests.unit.maker import Maker, counted, scene
from tests.unit.stranger import Stranger, reason_of
from tests.wire import MARKET, Host, Wire
from tests.world import SimNode, World
from zmqex import limits
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import GetBook, TakeOrder
from zmqex.kernel.records import Trade
from zmqex.protocol.codec import decode, decode_frame, encode, encode_frame
from zmqex.protocol.identity import ZERO_DIGEST, seal, trade_id
from zmqex.protocol.messages import (
    Accept,
    BookLevels,
    BookRequest,
    Greet,
    LogPage,
    LogRequest,
    Snapshot,
    Take,
    TradeCancel,
    TradeCancelled,
    TradeMessage,
    TradeSaid,
)
from zmqex.protocol.play_messages import PlayPay
from zmqex.reasons import RejectReason
from zmqex.trading.settlement import amounts
from zmqex.trading.states import State


def says(node: SimNode, to: SimNode, kind: str, message: TradeMessage) -> list[out.Effect]:
    """Send a signed trade message by hand; what its receiver does."""
    tag = str(message.__struct_config__.tag)
    envelope = seal(node.signer, "play", tag, encode(message))
    route = happened.Route(node.curve_key, b"by hand", node.host)
    frame = encode_frame(kind, 1, TradeSaid(envelope))
    return to.k.handle(happened.RequestReceived(route, frame), to.world.now())


def taking() -> tuple[World, SimNode, SimNode, Trade, list[int]]:
    """Mallory does not answer a bare take of her buy order; and the numbers of the requests."""
    world, asked = World(), []

    def spy(_node: SimNode, effect: out.Effect) -> None:
        if isinstance(effect, out.SendRequest):
            frame = decode_frame(effect.frame)
            asked.extend([frame.request_id] if frame.kind == "take" else [])

    world.spy = spy
    mallory, victim = world.meet("mallory", "victim")
    order_id = place(mallory, "buy", LOTS, 103)["order"]["order_id"]
    world.run(300)
    mallory.pause()
    victim.command(TakeOrder(order_id, LOTS, "manual", "key"))
    (trade,) = victim.k.trades.by_id.values()
    return world, mallory, victim, trade, asked


# --- logs -----------------------------------------------------------------------------------------


def test_a_batch_that_is_kept_fits_an_answer() -> None:
    """Or its maker could make everybody who serves its log look like somebody who breaks rules."""
    wire, host, maker = scene()
    reader = Stranger(wire, "reader", "10.9.9.8")
    reader.befriend(host)
    terms = {"payment_methods": ("x" * 199,) * 7}
    places = [maker.new(number, **terms)[1] for number in range(44)]
    too_big = maker.sign(*places)
    assert limits.BATCH_BYTES_MAX < len(too_big) <= limits.FRAME_BYTES_MAX
    maker.say(host, maker.topic, too_big)
    assert counted(host, "malformed") == 1
    raw = maker.publish(*places[:-1])
    maker.say(host, maker.topic, raw)
    question = LogRequest(maker.identity, MARKET, maker.fold.epoch, 1)
    answer = reader.ask(host, "log", question)
    assert decode(answer.body, LogPage).batches == [raw]
    around = len(encode(answer)) - len(raw)
    assert limits.BATCH_BYTES_MAX + around <= limits.FRAME_BYTES_MAX


def test_what_waits_for_a_batch_that_never_comes_is_bounded_in_bytes() -> None:
    """A thousand made-up makers with gaps would fill the memory otherwise."""
    _, host, maker = scene()
    terms = {"payment_methods": ("x" * 199,) * 7}
    places = [maker.new(number, **terms)[1] for number in range(40)]
    for sequence in range(2, 8):
        maker.say(host, maker.topic, maker.sign(*places, sequence=sequence))
    log = host.n.replicas.log(maker.identity, MARKET)
    assert log is not None
    assert sorted(log.gap) == [2, 3]
    assert counted(host, "gap_batches_dropped") == 4


def live_on(wire: Wire, host: Host, maker: Maker) -> None:
    """Time passes in which the maker is heard."""
    for _ in range(limits.RETRY_LAST_MS // limits.HEARTBEAT_EVERY_MS + 1):
        wire.run(limits.HEARTBEAT_EVERY_MS)
        maker.say(host, b"h", maker.beat())


@pytest.mark.parametrize("kind", ["log", "rows"])
def test_nobody_puts_off_the_repair_of_a_log_for_long(kind: str) -> None:
    """A peer that says "later, in a thousand years" is asked again in half a minute."""
    wire, host, maker = scene()
    maker.publish(maker.new(1)[1])
    maker.say(host, b"h", maker.beat())
    wire.run(limits.GAP_WAIT_MS + 1)
    if kind == "rows":
        maker.reject(host, "log", "log_too_old")
        wire.run(1)
        maker.reply(host, "snapshot", Snapshot(maker.beat(), b"".join(maker.fold.digests())))
    assert len(maker.asked(host, kind)) == 1
    maker.reject(host, kind, "rate_limited", 2**53)
    live_on(wire, host, maker)
    assert len(maker.asked(host, kind)) == 2


def test_orders_that_add_up_to_more_than_a_number_can_still_be_shown() -> None:
    """To the operator and to peers."""
    _, host, maker = scene()
    huge = [maker.new(number, quantity_lots=limits.INTEGER_MAX)[1] for number in range(3)]
    maker.say(host, maker.topic, maker.publish(*huge))
    levels = decode(maker.ask(host, "book", BookRequest(MARKET, 1)).body, BookLevels)
    assert [(one.quantity_lots, one.orders) for one in levels.bids] == [(limits.INTEGER_MAX, 3)]
    host.command(GetBook(MARKET))
    (answer,) = host.answers()
    (level,) = answer.result["bids"]
    assert level["cumulative_lots"] == level["quantity_lots"] == limits.INTEGER_MAX


# --- trades ---------------------------------------------------------------------------------------


def test_a_word_that_we_do_not_know_ends_a_take_all_the_same() -> None:
    """The taker's answer comes, and no timer is lost."""
    world, mallory, victim, trade, _ = taking()
    said = TradeCancelled(trade.trade_id, ZERO_DIGEST, world.wall_ms, "a_word_of_my_own")
    says(mallory, victim, "trade", said)
    assert victim.k.trades.by_id[trade.trade_id].state is State.CANCELLED
    world.run(1_000)
    (answer,) = victim.answers.values()
    assert answer.result["reason"] == "cancelled"


def test_one_hash_for_a_take_and_an_accept_at_the_same_time_is_refused() -> None:
    """It would contradict the journal, and a node whose journal does that stops."""
    world, mallory, victim, trade, asked = taking()
    sell = place(victim, "sell", LOTS, 200, any_price=True)["order"]["order_id"]
    preimage = b"p" * 32
    payment_hash = hashlib.sha256(preimage).digest()
    take_id = b"t" * 32
    key = trade_id("play", victim.identity, mallory.identity, take_id)
    take = Take(
        key,
        ZERO_DIGEST,
        world.wall_ms,
        take_id,
        victim.identity,
        mallory.identity,
        bytes.fromhex(sell),
        LOTS,
        200,
        "plain",
        payment_hash,
    )
    effects = says(mallory, victim, "take", take)
    assert any(isinstance(one, out.ReserveHold) for one in effects)
    legs = amounts(victim.k.core.currencies.instrument(MARKET), LOTS, 103)
    invoice = out.CreateInvoice(key, payment_hash, preimage, legs.base_msat, "", 900)
    accepted = Accept(
        trade.trade_id,
        trade.last_digest,
        world.wall_ms,
        trade.take_digest,
        LOTS,
        legs.base_msat,
        legs.quote_units,
        mallory.ledger.create(invoice),
        None,
        "",
        900_000,
        world.wall_ms + 900_000,
        1,
        mallory.ledger.node,
    )
    envelope = seal(mallory.signer, "play", "accept", encode(accepted))
    reply = encode_frame("take", asked[-1], TradeSaid(envelope))
    victim.handle(happened.ReplyReceived(mallory.identity, reply))
    assert victim.k.trades.by_id[trade.trade_id].state is State.ACCEPTED
    victim.handle(happened.HoldAnswered(key, "reserved"))
    assert key not in victim.k.trades.by_id
    assert victim.k.core.counted["take_refused_wrong_payment_hash"] == 1


def test_cancelling_again_in_other_words_fills_no_journal() -> None:
    """A take that never came and one that did: each wish is written down once."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    take_id = b"t" * 32
    key = trade_id("play", alice.identity, bob.identity, take_id)
    for number in range(5):
        wish = TradeCancel(key, ZERO_DIGEST, number, take_id, bob.identity, "cancelled")
        says(bob, alice, "trade", wish)
    assert alice.k.trades.by_id[key].state is State.CANCELLED
    assert len(alice.k.trades.lines[key]) <= 2


# --- play money -----------------------------------------------------------------------------------


def test_who_has_greeted_and_was_not_kept_pays_nothing() -> None:
    """A record without endpoints is greeted and not connected to."""
    world = World()
    (alice,) = world.meet("alice")
    wire = Wire()
    wire.wall_ms = world.wall_ms
    stranger = Stranger(wire)
    route = happened.Route(stranger.curve_key, b"by hand", "10.9.9.9")
    frames = []
    for kind, body in (
        ("greet", Greet(stranger.record(leaving=True), world.wall_ms)),
        ("play_pay", PlayPay(b"h" * 32, 5, b"\2" * 33, "BTC")),
    ):
        event = happened.RequestReceived(route, stranger.question(kind, body))
        effects = alice.k.handle(event, world.now())
        frames += [decode_frame(one.frame) for one in effects if isinstance(one, out.SendReply)]
    assert [frame.kind for frame in frames] == ["greet", "reject"]
    assert reason_of(frames[1]) is RejectReason.NOT_GREETED
