"""Short stories about trades by `htlc` whose lock is lost, both ways, that several tests share."""

from __future__ import annotations

import hashlib
from typing import Any

from tests.stories import BTC, say_raw, signed, trade_of
from tests.unit.lock_stories import locked, sent, sold, sold_and_sent
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel.commands import ReceivedTrade, RolloverTrade
from zmqex.kernel.requests import Refusal
from zmqex.limits import ROLLOVER_MS
from zmqex.protocol.messages import TradeMessage, TradeRollover
from zmqex.trading.states import State

MSAT = 4 * BTC // 10 * 1_000
MINUTE = 60_000


class Lost:
    """A trade in which the quote was sent: who buys the base, who sells it, what they have."""

    def __init__(self, maker: str, *, said: bool = True) -> None:
        """`maker` is what the maker does with the base; `said`: the buyer has said "sent"."""
        stories = (locked, sold), (sent, sold_and_sent)
        story = stories[said][maker == "sell"]
        self.world, alice, bob, self.trade = story()
        self.buyer, self.seller = (alice, bob) if maker == "buy" else (bob, alice)
        self.lock = trade_of(self.buyer, self.trade).payment_hash

    def lose(self) -> Lost:
        """The lock goes back to the seller; both sides see it."""
        self.buyer.ledger.cancel(self.lock)
        self.world.run(MINUTE)
        assert self.states() == ("disputed", "disputed")
        return self

    def roll(self) -> Lost:
        """The buyer asks to be paid anew; its seller has the invoice."""
        assert self.buyer.tell(RolloverTrade(self.trade))["trade"]["state"] == "rollover"
        self.world.run(10_000)
        assert self.states() == ("rollover", "rollover")
        return self

    def release(self) -> Any:  # noqa: ANN401
        """The seller says that the quote has come; its answer."""
        return self.seller.ask(ReceivedTrade(self.trade), within_ms=15_000)

    def states(self) -> tuple[str, str]:
        """Of the buyer and of the seller."""
        return self.of(self.buyer).state.value, self.of(self.seller).state.value

    def of(self, node: SimNode) -> Any:  # noqa: ANN401
        """The trade as a node's journal has it."""
        return trade_of(node, self.trade)

    def moved(self) -> tuple[int, int]:
        """What each has more than at the beginning."""
        start = 10**12
        return self.buyer.ledger.balance_msat - start, self.seller.ledger.balance_msat - start

    def restart(self, node: SimNode) -> None:
        """End a node and start it again; they find each other."""
        node.crash()
        node.start()
        self.world.introduce(node)
        self.world.run(5_000)

    def invoice(self, preimage: bytes = b"7" * 32, msat: int = MSAT, expiry_s: int = 3_600) -> str:
        """An ordinary invoice of the buyer's Lightning node, which its program knows nothing of."""
        payment_hash = hashlib.sha256(preimage).digest()
        key = bytes.fromhex(self.trade)
        made = out.CreateInvoice(key, payment_hash, preimage, msat, "", expiry_s)
        return self.buyer.ledger.create(made)

    def says(self, attempt: int, invoice: str, node: bytes = b"") -> TradeRollover:
        """What a changed program could say of it."""
        head = (bytes.fromhex(self.trade), self.of(self.buyer).last_digest, self.world.wall_ms)
        return TradeRollover(*head, attempt, invoice, node or self.buyer.ledger.node)

    def answer(self, said: TradeMessage, *, by_seller: bool = False) -> str:
        """Say it with a changed program; the word of the refusal, or "heard"."""
        speaker, hearer = self.buyer, self.seller
        if by_seller:
            speaker, hearer = hearer, speaker
        answer = say_raw(self.world, speaker, hearer, "trade", signed(speaker, said))
        return answer.reason.value if isinstance(answer, Refusal) else "heard"


def lost(maker: str) -> Lost:
    """The lock is gone, and both sides dispute."""
    return Lost(maker).lose()


def rolled(maker: str) -> Lost:
    """The fresh invoice is with the seller."""
    return lost(maker).roll()


def paying(maker: str) -> Lost:
    """The seller's payment of it is under way, and the buyer's Lightning node is not there."""
    story = rolled(maker)
    story.seller.ledger.unreachable = True
    assert story.release().result["trade"]["state"] == "rollover_paying"
    return story


def ended(world: World) -> None:
    """Every time that a rollover has runs out."""
    world.run(ROLLOVER_MS + 2 * MINUTE)


def is_settled(story: Lost) -> bool:
    """Both say so, and the base has moved once."""
    settled = {State.SETTLED.value}
    return set(story.states()) == settled and story.moved() == (MSAT, -MSAT)
