"""Words for tests of whole orders: place, be refused, who was taken from, who was skipped."""

from __future__ import annotations

from typing import Any

from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import Command, GetBook, PlaceOrder
from zmqex.protocol.codec import decode_frame, encode_frame
from zmqex.protocol.messages import Reject
from zmqex.reasons import RejectReason

Answer = dict[str, Any]

MARKET = "BTC/USD"
LOTS = 2_000_000  # worth 2 cents at 1 USD per BTC


def order(side: str, lots: int, price: int, **terms: Any) -> PlaceOrder:  # noqa: ANN401
    """An order of the one market."""
    return PlaceOrder(MARKET, side, lots, price, **terms)


def place(node: SimNode, side: str, lots: int, price: int, **terms: Any) -> Answer:  # noqa: ANN401
    """Place an order that is accepted; the answer."""
    return node.tell(order(side, lots, price, **terms))


def refused(node: SimNode, command: Command) -> str:
    """Give a command that is refused without a trace; why."""
    before = node.k.state_hash()
    answer = node.ask(command)
    assert not answer.ok
    assert answer.result["message"]
    assert node.k.state_hash() == before
    return str(answer.result["reason"])


def names(answer: Answer, nodes: list[SimNode]) -> list[tuple[str, int, int]]:
    """Who was taken from, how much, at which price."""
    by_text = {node.text: node.name for node in nodes}
    return [
        (by_text[one["counterparty"]], one["quantity_lots"], one["price_ticks"])
        for one in answer["trades"]
    ]


def skipped(answer: Answer, nodes: list[SimNode]) -> list[tuple[str, str]]:
    """Who was passed over, and why."""
    by_text = {node.text: node.name for node in nodes}
    return [(by_text[one["maker"]], one["reason"]) for one in answer["skipped"]]


def book(node: SimNode) -> dict[str, list[tuple[int, int]]]:
    """A node's levels: price and quantity."""
    shown = node.tell(GetBook(MARKET))
    return {
        side: [(one["price_ticks"], one["quantity_lots"]) for one in shown[side]]
        for side in ("bids", "asks")
    }


def money(world: World) -> int:
    """All play money, what is in flight too."""
    return sum(
        node.ledger.balance_msat
        + sum(
            one["amount_msat"]
            for one in node.ledger.payments.values()
            if one["state"] == "in_flight"
        )
        for node in world.nodes.values()
    )


def reject(world: World, maker: SimNode, reason: RejectReason, times: int = 10**9) -> list[int]:
    """Have a maker refuse takes for a reason; the returned list counts how often it was asked."""
    asked: list[int] = []

    def drop(sender: SimNode, _target: SimNode, effect: out.Effect) -> bool:
        if isinstance(effect, out.SendRequest) and effect.peer == maker.identity:
            frame = decode_frame(effect.frame)
            if frame.kind == "take" and len(asked) < times:
                asked.append(world.monotonic_ms)
                no = encode_frame("reject", frame.request_id, Reject(reason.value, 0, ""))
                world.soon(sender, happened.ReplyReceived(maker.identity, no))
                return True
        return False

    world.drop = drop
    return asked
