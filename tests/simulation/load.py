"""The operators: they place, cancel and take orders, and say sent and received when it is time."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from tests.simulation.machine import Machine
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.commands import (
    CancelOrder,
    CancelTrade,
    Command,
    PayTrade,
    PlaceOrder,
    ReceivedTrade,
    ReplaceOrder,
    SentTrade,
    TakeOrder,
)
from zmqex.kernel.records import OwnOrder, Trade
from zmqex.trading.states import TERMINAL, State

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

BTC = 100_000_000
_DILIGENCE_MS = 2_000
_FORCES = ("gtc", "gtc", "gtc", "gtc", "ioc", "fok")


class Load:
    """What the operators do until the load ends."""

    def __init__(self, sim: Simulation) -> None:
        """Begin when the first nodes know each other."""
        self.sim = sim
        self.random = Random(f"{sim.plan.seed} load")
        self.orders = 0
        self.accepted = 0
        self.refused = 0
        self._requests = 0
        self._every_ms = max(1, int(1_000 / sim.plan.orders_per_second))

    def begin(self) -> None:
        """Start the operators' day."""
        self.sim.schedule.after(self._every_ms, self._trade)
        self.sim.schedule.after(_DILIGENCE_MS, self._diligence)

    def answered(self, _machine: Machine, effect: out.AnswerCommand) -> None:
        """Somebody got an answer."""
        if effect.ok:
            self.accepted += 1
        else:
            self.refused += 1

    def _trade(self) -> None:
        if not self.sim.loading:
            return
        self.sim.schedule.after(self.random.randint(1, 2 * self._every_ms), self._trade)
        machine = self.random.choice(self.sim.traders)
        if not machine.awake:
            return
        draw = self.random.random()
        if draw < 0.64:
            for _ in range(self.random.choice([1, 1, 1, 1, 5])):
                self._place(machine)
        elif draw < 0.76:
            self._cancel(machine)
        elif draw < 0.84:
            self._replace(machine)
        else:
            self._take(machine)

    def _place(self, machine: Machine) -> None:
        random = self.random
        side = random.choice(["buy", "sell"])
        # Most rest behind the other side's best; some cross it.
        away = random.randint(1, 20) if random.random() < 0.7 else -random.randint(0, 6)
        price = 100 - away if side == "buy" else 100 + away
        lots = random.choice([BTC // 10, BTC // 4, BTC // 2, BTC])
        self.orders += 1
        self.give(
            machine,
            PlaceOrder(
                random.choice(self.sim.plan.markets),
                side,
                lots,
                price,
                minimum_lots=random.choice([0, 0, lots // 10]),
                expires_in_ms=random.choice([0, 0, 5_000, 20_000, 60_000]),
                time_in_force=random.choice(_FORCES),
                pay_mode=random.choice(["auto", "auto", "auto", "manual"]),
                any_price=random.random() < 0.9,
                key=str(self.orders),
            ),
        )

    def _cancel(self, machine: Machine) -> None:
        open_ones = _open(machine)
        if open_ones:
            self.give(machine, CancelOrder(self.random.choice(open_ones).order_id.hex()))

    def _replace(self, machine: Machine) -> None:
        open_ones = _open(machine)
        if not open_ones:
            return
        row = self.random.choice(open_ones)
        self.orders += 1
        self.give(
            machine,
            ReplaceOrder(
                row.order_id.hex(),
                row.market,
                self.random.choice([BTC // 10, BTC // 4, BTC]),
                self.random.randint(85, 115),
                any_price=True,
                key=str(self.orders),
            ),
        )

    def _take(self, machine: Machine) -> None:
        market = self.random.choice(self.sim.plan.markets)
        replicas = machine.k.replicas
        found = [
            key
            for maker in replicas.makers
            if maker != machine.identity
            for log in replicas.logs_of(maker)
            if log.fold.market == market
            for key in log.fold.orders
        ]
        if found:
            lots = self.random.choice([BTC // 20, BTC // 10, BTC // 4])
            self.give(machine, TakeOrder(self.random.choice(found).hex(), lots))

    def _diligence(self) -> None:
        """Everybody looks at the trades that wait for a person, and acts on some."""
        if self.sim.ended:
            return
        self.sim.schedule.after(_DILIGENCE_MS, self._diligence)
        for machine in self.sim.machines:
            if not machine.awake:
                continue
            for trade in list(machine.k.trades.by_id.values()):
                waits = trade.state not in TERMINAL | {State.DISPUTED} and trade.quantity_lots
                if waits and self.random.random() < 0.3:
                    words = [SentTrade, PayTrade, SentTrade]
                    if self._was_sent(machine, trade):
                        words += [ReceivedTrade, ReceivedTrade]
                    if self.sim.loading:
                        words.append(CancelTrade)
                    word = self.random.choice(words)
                    self.give(machine, word(trade.trade_id.hex()))

    def _was_sent(self, machine: Machine, trade: Trade) -> bool:
        """Whether the quote is on its way in truth: nobody confirms what never left."""
        other = self.sim.by_identity[machine.k.trades.counterparty(trade)]
        theirs = other.journal.trades.get(trade.trade_id)
        sent = State.QUOTE_SENT
        return trade.state is sent or (theirs is not None and theirs.state is sent)

    def give(self, machine: Machine, command: Command) -> None:
        """Give a command."""
        self._requests += 1
        machine.post(happened.CommandReceived(b"cli", self._requests, command))


def _open(machine: Machine) -> list[OwnOrder]:
    return [row for row in machine.k.orders.rows.values() if row.state == "open"]
