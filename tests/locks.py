"""What must be true of trades by `htlc` in a market, watched at every commit and every word."""

from __future__ import annotations

from collections.abc import Callable

from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel.records import PutTrade, Trade, Write
from zmqex.limits import (
    HTLC_CONFIRM_MS,
    MIN_FINAL_CLTV_BLOCKS_MAX,
    PLAY_AUTO_CANCEL_BLOCKS,
)
from zmqex.trading.blocks import blocks_in
from zmqex.trading.settlement import HTLC
from zmqex.trading.states import State, TradeRole

LONGEST_LOCK = MIN_FINAL_CLTV_BLOCKS_MAX
_NEEDED = blocks_in(HTLC_CONFIRM_MS) + PLAY_AUTO_CANCEL_BLOCKS + 6


class LockWatch:
    """Watches the journals and the words of a world."""

    def __init__(self, world: World) -> None:
        """From now on."""
        self._world = world
        self._secrets: dict[str, dict[bytes, bytes]] = {}  # node -> trade -> the preimage it drew
        self._released: set[tuple[str, bytes]] = set()
        for node in world.nodes.values():
            checked = self._checked(node, node.journal.commit)
            node.journal.commit = checked  # type: ignore[method-assign, assignment]

    def _checked(
        self, node: SimNode, commit: Callable[[tuple[Write, ...]], None]
    ) -> Callable[[tuple[Write, ...]], None]:
        def checked(writes: tuple[Write, ...]) -> None:
            for write in writes:
                if isinstance(write, PutTrade) and write.trade.settlement == HTLC:
                    self._put(node, node.journal.trades.get(write.trade.trade_id), write.trade)
            commit(writes)

        return checked

    def _put(self, node: SimNode, before: Trade | None, after: Trade) -> None:
        key = after.trade_id
        buys = (after.role is TradeRole.MAKER) == (after.side == "buy")
        if not buys and after.preimage:
            self._secrets.setdefault(node.name, {})[key] = after.preimage
        if after.state is State.RELEASED:
            self._released.add((node.name, key))
        if buys and before is not None and before.state is State.HTLC_ACCEPTED is not after.state:
            self._left_the_lock(node, after)

    def _left_the_lock(self, node: SimNode, after: Trade) -> None:
        """The quote is sent only while the base is locked, and for long enough."""
        if after.state is not State.QUOTE_INTENT:
            return
        invoice = node.ledger.invoices[after.payment_hash]
        assert invoice["state"] == "accepted", "a quote is sent, and nothing is locked"
        # Lightning's word was a millisecond on its way; a block may have come meanwhile.
        assert invoice["expiry_height"] - self._world.height >= _NEEDED - 1, "too short a lock"

    def listen(self, node: SimNode, effect: out.Effect) -> None:
        """No preimage leaves its seller before the release, and none ever stands in a log."""
        for key, secret in self._secrets.get(node.name, {}).items():
            match effect:
                case out.Log(facts=facts):
                    assert secret.hex() not in repr(facts), "a preimage in a log"
                    assert secret not in facts.values(), "a preimage in a log"
                case out.SendRequest(frame=said) | out.SendReply(frame=said):
                    early = (node.name, key) not in self._released
                    assert not early or secret not in said, "a preimage that nobody released"
                case _:
                    pass
