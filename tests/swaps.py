"""A swap between alice, who has an order, and bob, who takes it: two kernels, two networks each.

Lightning nodes are apart from the zmqex nodes, as real ones are.  A liar's backend can hold leg 2
as long as its lock allows, which a sound one never does.  What nobody may lose is checked here.
"""

from __future__ import annotations

from typing import Any

from tests.outside import Ledger
from tests.stories import insist, place, revive
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel.records import Trade
from zmqex.limits import BLOCK_MS, PLAY_AUTO_CANCEL_BLOCKS
from zmqex.trading.states import TERMINAL

QUOTE = "USD"
PRICE = 5_000_000  # 50,000.00 USD
LOTS = 10_000_000
BASE_MSAT = LOTS * 1_000
QUOTE_MSAT = 500_000 * 1_000  # 5,000.00 USD, a smallest unit of it is 1,000 msat
DAY = 144

Fortune = tuple[int, int]


class Scene:
    """Alice's order to swap rests; `take` makes bob take it."""

    def __init__(self, side: str = "buy", *, pay_mode: str = "auto") -> None:
        """Alice buys or sells; both have the same of both."""
        self.world = World()
        self.world.lightning_apart = True
        self.side = side
        self.pay_mode = pay_mode
        self.alice, self.bob = (self.world.add(one, quotes=(QUOTE,)) for one in ("alice", "bob"))
        self.world.run(2_000)
        self.before = {one.name: fortune(one) for one in (self.alice, self.bob)}
        assert insist(self.world, self.alice, self._order(side)).ok
        self.world.run(1_000)
        revive(self.world)

    def _order(self, side: str) -> Any:  # noqa: ANN401 - a command
        return place(side, LOTS, PRICE, settlements=("swap",), pay_mode=self.pay_mode, key=side)

    def take(self) -> str:
        """Bob's order crosses; the id of the trade, or "" where there is none yet."""
        answer = insist(self.world, self.bob, self._order("sell" if self.side == "buy" else "buy"))
        assert answer.ok, answer.result
        found = answer.result.get("trades") or []
        return str(found[0]["trade_id"]) if found else ""

    @property
    def leg1(self) -> str:
        """The asset that alice receives."""
        return "BTC" if self.side == "buy" else QUOTE

    @property
    def leg2(self) -> str:
        """The asset that bob receives."""
        return QUOTE if self.side == "buy" else "BTC"

    def ledger(self, node: SimNode, asset: str) -> Ledger:
        """A node's ledger."""
        found = node.ledger_for(asset)
        assert found is not None
        return found

    def trade(self, node: SimNode) -> Trade:
        """The one trade in a node's journal."""
        (trade,) = node.journal.trades.values()
        return trade

    def states(self) -> tuple[str, str]:
        """Of alice's and of bob's trade."""
        return self.trade(self.alice).state.value, self.trade(self.bob).state.value

    def moved(self, node: SimNode) -> Fortune:
        """What a node has more, or less, of base and quote than at the beginning."""
        now, before = fortune(node), self.before[node.name]
        return now[0] - before[0], now[1] - before[1]

    def check_kept(self) -> None:
        """Nothing is made or lost, on either network."""
        for at in (0, 1):
            assert self.moved(self.alice)[at] + self.moved(self.bob)[at] == 0

    def has_swapped(self, node: SimNode) -> bool:
        """Whether both legs of a node have moved."""
        buys = (node is self.alice) == (self.side == "buy")
        whole = (BASE_MSAT, -QUOTE_MSAT) if buys else (-BASE_MSAT, QUOTE_MSAT)
        return self.moved(node) == whole

    def has_lost(self, node: SimNode) -> bool:
        """Whether a node has paid, and has not got what it paid for."""
        return not self.has_swapped(node) and min(self.moved(node)) < 0

    def check_fair(self, honest: SimNode) -> bool:
        """At the end the honest party has swapped, or has lost nothing; whether it has swapped."""
        assert not self.has_lost(honest), (honest.name, self.moved(honest))
        return self.has_swapped(honest)

    def mine(self, blocks: int) -> None:
        """Blocks pass on both chains, each in its usual time."""
        for _ in range(blocks):
            self.world.run(BLOCK_MS)

    def has_ended(self) -> bool:
        """Whether nothing can move any more: no trade goes on, no payment is on its way."""
        nodes = (self.alice, self.bob)
        trades = [one for node in nodes for one in node.journal.trades.values()]
        ledgers = [self.ledger(node, asset) for node in nodes for asset in ("BTC", QUOTE)]
        return all(one.state in TERMINAL for one in trades) and not any(map(_aside, ledgers))

    def finish(self) -> None:
        """Everything heals, and every lock has ended."""
        self.world.drop = lambda *_: False
        for node in (self.alice, self.bob):
            if node.paused is not None:
                node.resume()
            for asset in ("BTC", QUOTE):
                ledger = self.ledger(node, asset)
                ledger.fail_look, ledger.unreachable = False, False
                ledger.fail_create, ledger.fail_pay = "", ""
        revive(self.world)
        # Blocks come while both watch; nodes at rest need no more than a look now and then.
        self.world.run(5_000)
        for _ in range(2 * DAY // 12):
            if self.has_ended():
                return
            self.world.mined += 11
            self.world.run(60_000)
            revive(self.world)


def fortune(node: SimNode) -> Fortune:
    """What a node has of both, with what is set aside for payments on their way."""
    ledgers = (node.ledger, node.quotes[QUOTE])
    return tuple(one.balance_msat + _aside(one) for one in ledgers)  # type: ignore[return-value]


def _aside(ledger: Ledger) -> int:
    flying = [one for one in ledger.payments.values() if one["state"] == "in_flight"]
    return sum(int(one["amount_msat"]) for one in flying)


class Grasping(Ledger):
    """A taker's backend that holds what pays leg 2, and takes it when it likes.

    It is locked for as long as the payer allows, and goes back at the end of that.
    """

    limit = 0
    secret = b""

    def create(self, effect: Any) -> str:  # noqa: ANN401 - of either kind
        """Make an invoice whose payment is held."""
        text = super().create(effect)
        self.secret = getattr(effect, "preimage", b"")
        self.invoices[effect.payment_hash]["preimage"] = None
        return text

    def receive(
        self, payment_hash: bytes, amount_msat: int, payer: bytes
    ) -> tuple[str, bytes | None]:
        """Hold it; nothing goes back earlier than the payer's limit."""
        invoice = self.invoices.get(payment_hash, {})
        invoice["min_final_cltv"] = self.limit + PLAY_AUTO_CANCEL_BLOCKS
        return super().receive(payment_hash, amount_msat, payer)

    def grasp(self) -> bool:
        """Take what is held, if anything is; the payer learns the preimage when it asks."""
        return bool(self.secret) and self.settle(self.secret)


def grasping(scene: Scene) -> Grasping:
    """Bob's backend of leg 2 becomes such a one; it sees how long alice allows it to lock."""
    ledger = Grasping(scene.world, "bob", scene.leg2)
    if scene.leg2 == QUOTE:
        scene.bob.quotes[QUOTE] = ledger
    else:
        scene.bob.ledger = ledger

    def spy(node: SimNode, effect: out.Effect) -> None:
        if node is scene.alice and isinstance(effect, out.PayInvoice):
            ledger.limit = effect.cltv_limit

    scene.world.spy = spy
    return ledger
