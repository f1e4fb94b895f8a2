"""A hold server in memory, with the moods of the real one."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from zmqex.kernel import effects as out
from zmqex.kernel import events as happened

HoldMood = Literal["up", "silent", "full", "stale"]


class HoldServer(Protocol):
    """Whoever keeps the holds of one node: `held` is trade: (order, lots, ends_ms)."""

    held: dict[bytes, tuple[bytes, int, int]]
    holds: HoldMood


def hold_answer(server: HoldServer, effect: out.Effect, now_ms: int) -> happened.Event | None:
    """Carry out an effect on holds; the event that answers it, if any."""
    match effect:
        case out.ReserveHold() if server.holds == "silent":
            return happened.HoldFailed(effect.trade_id, 1_000)
        case out.ReserveHold() if server.holds in {"full", "stale"}:
            outcome: Any = "full" if server.holds == "full" else "stale_fence"
            return happened.HoldAnswered(effect.trade_id, outcome)
        case out.ReserveHold():
            live = sum(
                lots
                for order_id, lots, ends in server.held.values()
                if order_id == effect.order_id and ends > now_ms
            )
            fits = live + effect.quantity_lots <= effect.capacity_lots
            if fits:
                ends = now_ms + effect.ttl_ms
                server.held[effect.trade_id] = (effect.order_id, effect.quantity_lots, ends)
            return happened.HoldAnswered(effect.trade_id, "reserved" if fits else "full")
        case out.ReleaseHold():
            server.held.pop(effect.trade_id, None)
        case out.ExtendHold() if effect.trade_id in server.held:
            order_id, lots, _ = server.held[effect.trade_id]
            server.held[effect.trade_id] = (order_id, lots, now_ms + effect.ttl_ms)
        case out.RebuildHolds(_, rows):
            server.held = {
                trade_id: (order_id, lots, now_ms + ttl_ms)
                for order_id, trade_id, lots, _, ttl_ms in rows
            }
        case _:
            pass  # a hold that is extended when it has lapsed
    return None
