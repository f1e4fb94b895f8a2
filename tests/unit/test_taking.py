"""Takes of others' orders: answers that are no accept, and invoices that are none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec import Raw
from msgspec.structs import replace

from tests.stories import BTC, MINUTE, available, cancel, check_quiet, only_trade, pay, place, taken
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.protocol.codec import decode, decode_envelope, encode
from zmqex.protocol.messages import Empty, Frame, QuoteConfirmed, TradeSaid
from zmqex.trading.states import State

Lie = Callable[[SimNode, bytes], Raw]


def nothing(_maker: SimNode, _envelope: bytes) -> Raw:
    """An answer without an envelope."""
    return Raw(encode(Empty()))


def garbage(_maker: SimNode, _envelope: bytes) -> Raw:
    """Bytes that are no envelope."""
    return Raw(encode(TradeSaid(b"nonsense")))


def another_message(maker: SimNode, _envelope: bytes) -> Raw:
    """A signed message of another kind."""
    said = QuoteConfirmed(bytes(32), bytes(32), 1)
    return Raw(encode(TradeSaid(maker.k.core.seal("quote_confirmed", encode(said)))))


def another_signature(maker: SimNode, envelope: bytes) -> Raw:
    """An accept that is signed as something else."""
    body = decode_envelope(envelope).body
    return Raw(encode(TradeSaid(maker.k.core.seal("take", body))))


@pytest.mark.parametrize("lie", [nothing, garbage, another_message, another_signature])
def test_an_answer_that_is_no_accept_is_abandoned(lie: Lie) -> None:
    """The maker may hold it all the same, so it is told that the take is off."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    original = world.carry_out

    def carry_out(node: SimNode, effect: out.Effect) -> None:
        if node is alice and isinstance(effect, out.SendReply):
            frame = decode(effect.frame, Frame)
            if frame.kind == "take":
                said = decode(frame.body, TradeSaid)
                false = encode(replace(frame, body=lie(alice, said.envelope)))
                effect = out.SendReply(effect.route, false)
        original(node, effect)

    world.carry_out = carry_out  # type: ignore[method-assign]
    alice.tell(place("buy", BTC))
    world.run(300)
    answer = bob.tell(place("sell", BTC))
    assert [one["reason"] for one in answer["skipped"]] == ["malformed"]
    world.run(MINUTE)
    assert only_trade(alice).state is only_trade(bob).state is State.CANCELLED
    assert available(alice) == [BTC]
    assert bob.ledger.payments == {}
    check_quiet(world)


def test_an_accept_with_text_that_is_no_invoice_is_not_paid() -> None:
    """Refused with the word for it; the maker is told."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    alice.ledger.create = lambda effect: "lnbcrt1nonsense"  # type: ignore[method-assign]  # noqa: ARG005
    alice.tell(place("buy", BTC))
    world.run(300)
    answer = bob.tell(place("sell", BTC))
    assert [one["reason"] for one in answer["skipped"]] == ["invalid_invoice"]
    assert bob.ledger.payments == {}


def test_an_invoice_that_ends_before_the_hold_is_not_paid_late() -> None:
    """A maker whose invoice lives a minute gets no payment after that minute."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    create = alice.ledger.create
    alice.ledger.create = (  # type: ignore[method-assign]
        lambda effect: create(replace(effect, expiry_s=60))
    )
    trade_id = taken(world, alice, bob, pay_mode="manual")
    world.run(57_000)
    assert pay(bob, trade_id).result["reason"] == "invoice_expires_too_soon"
    assert bob.ledger.payments == {}


def test_an_accept_that_comes_after_the_user_gave_up_is_not_paid() -> None:
    """`trade cancel` while the maker still thinks: its accept changes nothing any more."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    alice.tell(place("buy", BTC))
    world.run(300)
    alice.pause()
    bob.command(place("sell", BTC))
    world.run(10)
    trade_id = only_trade(bob).trade_id.hex()
    world.drop = lambda node, _target, effect: (
        node is bob and isinstance(effect, out.SendRequest) and b"trade_cancel" in effect.frame
    )
    assert cancel(bob, trade_id).ok
    assert only_trade(bob).state is State.ABANDONING
    alice.resume()
    world.arm(alice)
    world.run(50)
    world.drop = lambda *_: False
    assert only_trade(alice).state is State.INVOICED
    world.run(MINUTE)
    assert only_trade(alice).state is only_trade(bob).state is State.CANCELLED
    assert bob.ledger.payments == {}
    check_quiet(world)
