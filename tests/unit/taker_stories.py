"""Words and short stories that the tests of the taker's side share."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from tests.stories import (
    taken,
)
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.protocol.codec import decode, decode_envelope, decode_trade_message, encode
from zmqex.protocol.messages import Accept, Frame, TradeSaid


def scene(*names: str) -> tuple[World, list[SimNode]]:
    """Connected nodes: alice makes, the others take."""
    world = World()
    return world, world.meet(*(names or ("alice", "bob")))


def manual() -> tuple[World, SimNode, SimNode, str]:
    """A selling taker holds an invoice that it has not paid yet."""
    world, (alice, bob) = scene()
    return world, alice, bob, taken(world, alice, bob, pay_mode="manual")


def forge(world: World, maker: SimNode, **changes: Any) -> None:  # noqa: ANN401
    """From now on the maker signs accepts with other contents."""
    original = world.carry_out

    def carry_out(node: SimNode, effect: out.Effect) -> None:
        if node is maker and isinstance(effect, out.SendReply):
            frame = decode(effect.frame, Frame)
            if frame.kind == "take":
                envelope = decode_envelope(decode(frame.body, TradeSaid).envelope)
                said = decode_trade_message(envelope.body)
                assert isinstance(said, Accept)
                body = encode(replace(said, **changes))
                raw = maker.k.core.seal("accept", body)
                raw_body = encode(TradeSaid(raw))
                lie = encode(replace(frame, body=type(frame.body)(raw_body)))
                effect = out.SendReply(effect.route, lie)
        original(node, effect)

    world.carry_out = carry_out  # type: ignore[method-assign]
