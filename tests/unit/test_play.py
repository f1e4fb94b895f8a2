"""Play money between peers: carried for whom it belongs to, and never called failed by mistake."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.limits import PLAY_PAYMENTS_AT_ONCE_MAX
from zmqex.protocol.codec import decode, decode_frame, encode_frame
from zmqex.protocol.messages import Empty, Reject
from zmqex.protocol.play_messages import PlayPaid, PlayPay

HASH, PREIMAGE = b"h" * 32, b"p" * 32


def scene() -> tuple[World, SimNode, SimNode, list[tuple[SimNode, out.Effect]]]:
    """Two peers, and what their kernels ask of their play backends."""
    world = World()
    alice, bob = world.meet("alice", "bob")
    asked: list[tuple[SimNode, out.Effect]] = []

    def spy(node: SimNode, effect: out.Effect) -> None:
        if isinstance(effect, out.PlayPayEnded | out.CreditPlay):
            asked.append((node, effect))

    world.spy = spy
    return world, alice, bob, asked


def wanted(alice: SimNode, bob: SimNode, ticket: int = 1) -> happened.PlayPayWanted:
    """Bob's backend wants to pay alice."""
    return happened.PlayPayWanted(ticket, alice.ledger.node, HASH, 5_000, bob.ledger.node)


def test_a_payment_goes_to_the_owner_of_the_key_and_its_answer_comes_back() -> None:
    """The payee's backend is asked with the payer's own key; the preimage returns."""
    world, alice, bob, asked = scene()
    bob.handle(wanted(alice, bob))
    world.run(10)
    ((node, credit),) = asked
    assert node is alice
    assert isinstance(credit, out.CreditPlay)
    assert (credit.payment_hash, credit.amount_msat) == (HASH, 5_000)
    assert credit.payer_node == bob.ledger.node
    alice.handle(happened.PlayCredited(credit.ticket, PREIMAGE, ""))
    world.run(10)
    assert asked[1:] == [(bob, out.PlayPayEnded(1, PREIMAGE, ""))]


def test_a_payment_of_a_quote_goes_to_the_ledger_of_that_quote() -> None:
    """A payee that has none now ends nothing: it may have one again."""
    world = World()
    alice, bob = world.add("alice", quotes=("USD",)), world.add("bob")
    world.run(2_000)
    asked: list[out.Effect] = []
    world.spy = lambda _node, effect: asked.append(effect)
    bob.handle(msgspec.structs.replace(wanted(alice, bob), asset="USD"))
    alice.handle(msgspec.structs.replace(wanted(bob, alice), asset="USD"))
    world.run(10)
    (credit,) = [one for one in asked if isinstance(one, out.CreditPlay)]
    assert credit == out.CreditPlay(1, HASH, 5_000, bob.ledger.node, "USD")
    assert [one for one in asked if isinstance(one, out.PlayPayEnded)] == [
        out.PlayPayEnded(1, None, "")
    ]


def test_a_refusal_of_the_payee_ends_the_payment() -> None:
    """With the payee's word for it."""
    world, alice, bob, asked = scene()
    bob.handle(wanted(alice, bob))
    world.run(10)
    credit = asked[0][1]
    assert isinstance(credit, out.CreditPlay)
    alice.handle(happened.PlayCredited(credit.ticket, None, "invoice_expired"))
    world.run(10)
    assert asked[1:] == [(bob, out.PlayPayEnded(1, None, "invoice_expired"))]


def test_a_payee_that_holds_the_payment_says_so() -> None:
    """No preimage and no reason: the payer asks again later."""
    world, alice, bob, asked = scene()
    bob.handle(wanted(alice, bob))
    world.run(10)
    credit = asked[0][1]
    assert isinstance(credit, out.CreditPlay)
    alice.handle(happened.PlayCredited(credit.ticket, None, ""))
    world.run(10)
    assert asked[1:] == [(bob, out.PlayPayEnded(1, None, ""))]


def test_a_payee_that_is_not_known_gives_no_answer() -> None:
    """Nothing is known then: neither a preimage nor a reason."""
    _, alice, bob, asked = scene()
    stranger = happened.PlayPayWanted(1, b"\2" * 33, HASH, 5_000, bob.ledger.node)
    bob.handle(stranger)
    assert asked == [(bob, out.PlayPayEnded(1, None, ""))]
    assert alice.up


def test_a_payee_that_crashes_gives_no_answer() -> None:
    """The request runs out of time: the payment stays in flight."""
    world, alice, bob, asked = scene()
    alice.pause()
    bob.handle(wanted(alice, bob))
    world.run(4_000)
    assert asked == [(bob, out.PlayPayEnded(1, None, ""))]


@pytest.mark.parametrize(
    ("kind", "body", "ended"),
    [
        ("reject", Reject("insufficient_balance", 0, ""), (None, "")),
        ("play_pay", Empty(), (None, "")),
        ("play_pay", PlayPaid("settled", None, "settled"), (None, "")),
        ("play_pay", PlayPaid("held", None, "held"), (None, "")),
        ("play_pay", PlayPaid("settled", PREIMAGE, "settled"), (PREIMAGE, "")),
        # Who refuses keeps no preimage: what it says beside is not looked at.
        ("play_pay", PlayPaid("refused", PREIMAGE, "held"), (None, "held")),
    ],
)
def test_only_the_payees_own_refusal_fails_a_payment(kind: str, body: Any, ended: Any) -> None:  # noqa: ANN401
    """A refused request, an answer that cannot be read or says nothing: in flight."""
    world, alice, bob, asked = scene()

    def drop(sender: SimNode, _target: SimNode, effect: out.Effect) -> bool:
        if not isinstance(effect, out.SendRequest):
            return False
        frame = decode_frame(effect.frame)
        if frame.kind == "play_pay":
            reply = encode_frame(kind, frame.request_id, body)
            world.soon(sender, happened.ReplyReceived(alice.identity, reply))
        return frame.kind == "play_pay"

    world.drop = drop
    bob.handle(wanted(alice, bob))
    world.run(4_000)
    assert asked == [(bob, out.PlayPayEnded(1, *ended))]


def test_a_peer_pays_in_its_own_name_only() -> None:
    """Another's key in the request: refused, blamed, and no backend hears of it."""
    world, alice, bob, asked = scene()
    bob.k.sessions.request(
        alice.identity,
        "play_pay",
        PlayPay(HASH, 5_000, alice.ledger.node, "BTC"),
        lambda _answer: None,
    )
    before = alice.k.core.counted.get("malformed", 0)
    effects = bob.k.core.finish()
    for effect in effects:
        world.carry_out(bob, effect)
    world.run(10)
    assert asked == []
    assert alice.k.core.counted["malformed"] == before + 1


def test_too_many_payments_at_once_are_put_off() -> None:
    """The payer hears no final word, so it asks again later."""
    world, alice, bob, asked = scene()
    for ticket in range(PLAY_PAYMENTS_AT_ONCE_MAX + 1):
        bob.handle(wanted(alice, bob, ticket))
    world.run(10)
    credits_ = [one for _, one in asked if isinstance(one, out.CreditPlay)]
    assert len(credits_) == PLAY_PAYMENTS_AT_ONCE_MAX
    assert [one for node, one in asked if node is bob] == [
        out.PlayPayEnded(PLAY_PAYMENTS_AT_ONCE_MAX, None, "")
    ]


def test_no_play_money_moves_on_another_network() -> None:
    """The question is unknown there."""
    world = World()
    alice = world.add("alice", start=False, network="signet")
    alice.start()
    route = happened.Route(b"c" * 32, b"x", "10.0.0.9")
    frame = encode_frame("play_pay", 1, PlayPay(HASH, 5_000, b"\2" * 33, "BTC"))
    effects = alice.k.handle(happened.RequestReceived(route, frame), world.now())
    replies = [one for one in effects if isinstance(one, out.SendReply)]
    (reply,) = replies
    assert decode(decode_frame(reply.frame).body, Reject).reason == "unknown_kind"
