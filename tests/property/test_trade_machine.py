"""Three nodes trade, fail and come back in any order; the money and the lots always add up."""

from __future__ import annotations

import hashlib

import msgspec
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.locks import LONGEST_LOCK, LockWatch
from tests.stories import (
    BTC,
    HOLD,
    MINUTE,
    check_always,
    check_quiet,
    place,
    revive,
    signed,
    sleep,
)
from tests.world import SimNode, World
from zmqex.kernel import effects as out
from zmqex.kernel.commands import (
    CancelOrder,
    CancelTrade,
    Command,
    DisputeTrade,
    ExportTrade,
    PayTrade,
    ReceivedTrade,
    ResolveTrade,
    RolloverTrade,
    SendTrade,
    SentTrade,
)
from zmqex.kernel.records import Trade
from zmqex.limits import HTLC_CONFIRM_MS, ROLLOVER_MS
from zmqex.protocol.codec import decode, decode_envelope, decode_frame, decode_trade_message
from zmqex.protocol.messages import TradeRollover, TradeSaid
from zmqex.trading.evidence import read_evidence
from zmqex.trading.states import TERMINAL, State, TradeRole

NAMES = ("alice", "bob", "carol")
who = st.sampled_from(NAMES)
sides = st.sampled_from(["buy", "sell"])
ways = st.sampled_from([("plain",), ("htlc",), ("htlc", "plain")])
# What may still become a dispute: a claim of "quote sent" that comes after the hold.
_LATE = (State.CANCELLED, State.DISPUTED)


def _is_bought(trade: Trade) -> bool:
    """Whether whoever has it in its journal buys the base."""
    return (trade.role is TradeRole.MAKER) == (trade.side == "buy")


class ThreeNodes(RuleBasedStateMachine):
    """Random histories of a small market; every rule is something that really happens."""

    @initialize(seed=st.integers(0, 2**16), silent=st.booleans())
    def begin(self, seed: int, silent: bool) -> None:  # noqa: FBT001
        """Three connected nodes; each lets the journal decide, or none does."""
        self.world = World(seed)
        for name in NAMES:
            self.world.add(name, holds_strict=silent)
        self.world.run(2_000)
        self.world.spy = self.listen
        self.locks = LockWatch(self.world)
        self.accepts: dict[bytes, bytes] = {}
        self.by_hand: set[bytes] = set()  # trades that somebody disputed
        self.remembered: dict[str, dict[bytes, tuple[bytes, int, int]]] = {}
        self.seen: dict[tuple[str, bytes], tuple[State, int]] = {}

    def listen(self, node: SimNode, effect: out.Effect) -> None:
        """The same take always gets the same bytes for an accept; no preimage leaves too early."""
        self.locks.listen(node, effect)
        if isinstance(effect, out.SendReply):
            frame = decode_frame(effect.frame)
            if frame.kind == "take":
                envelope = decode(frame.body, TradeSaid).envelope
                trade_id = decode_trade_message(decode_envelope(envelope).body).trade_id
                assert self.accepts.setdefault(trade_id, envelope) == envelope

    def node(self, name: str) -> SimNode:
        """The node of that name."""
        return self.world.nodes[name]

    def give(self, name: str, command: Command) -> None:
        """A command, after a start if that is needed; its answer is not waited for."""
        self.start(name)
        self.node(name).command(command)
        self.world.run(50)

    # --- what users do ---------------------------------------------------------------------------

    @rule(
        name=who,
        side=sides,
        lots=st.sampled_from([BTC // 10, BTC // 3, BTC, 12 * BTC]),
        price=st.sampled_from([99, 100, 101]),
        mode=st.sampled_from(["auto", "auto", "manual"]),
        force=st.sampled_from(["gtc", "gtc", "ioc", "fok"]),
        ways=ways,
    )
    def place(
        self,
        name: str,
        side: str,
        lots: int,
        price: int,
        mode: str,
        force: str,
        ways: tuple[str, ...],
    ) -> None:
        """Place an order that may take others."""
        order = place(side, lots, price, pay_mode=mode, time_in_force=force, settlements=ways)
        self.give(name, order)

    @rule(
        names=st.permutations(NAMES),
        side=sides,
        lots=st.lists(st.sampled_from([BTC // 10, BTC // 2, BTC]), min_size=2, max_size=2),
        mode=st.sampled_from(["auto", "manual"]),
        ways=ways,
    )
    def rest_and_take(
        self, names: list[str], side: str, lots: list[int], mode: str, ways: tuple[str, ...]
    ) -> None:
        """One node rests an order, the two others take of it at the same time."""
        self.give(names[0], place(side, BTC, settlements=ways))
        self.world.run(500)
        other = "sell" if side == "buy" else "buy"
        for name, wanted in zip(names[1:], lots, strict=True):
            self.start(name)
            self.node(name).command(place(other, wanted, pay_mode=mode, settlements=ways))
        self.world.run(50)

    @rule(
        name=who,
        what=st.sampled_from(
            [PayTrade, SendTrade, SentTrade, ReceivedTrade, CancelTrade, RolloverTrade]
        ),
        number=st.integers(0, 5),
    )
    def speak(self, name: str, what: type, number: int) -> None:
        """Say anything about any trade, whether it is our turn or not."""
        trades = [one for one in self.node(name).journal.trades.values() if one.quantity_lots]
        if trades:
            self.give(name, what(trades[-1 - number % len(trades)].trade_id.hex()))

    @rule(what=st.sampled_from([SentTrade, ReceivedTrade, PayTrade, RolloverTrade]))
    def be_diligent(self, what: type) -> None:
        """Everybody says the same of every trade that has not ended."""
        for name, node in self.world.nodes.items():
            for trade in list(node.journal.trades.values()):
                if trade.state not in TERMINAL and trade.quantity_lots:
                    self.give(name, what(trade.trade_id.hex()))

    @rule(
        name=who,
        number=st.integers(0, 5),
        outcome=st.sampled_from(["", "settled", "cancelled"]),
    )
    def dispute(self, name: str, number: int, outcome: str) -> None:
        """Say that a trade has gone wrong, or how it ended."""
        trades = [one for one in self.node(name).journal.trades.values() if one.quantity_lots]
        if trades:
            trade_id = trades[-1 - number % len(trades)].trade_id
            self.by_hand.add(trade_id)
            text = trade_id.hex()
            self.give(name, ResolveTrade(text, outcome) if outcome else DisputeTrade(text))

    @rule(
        maker=who,
        side=sides,
        released=st.booleans(),
        after=st.sampled_from([(), (RolloverTrade,), (RolloverTrade, ReceivedTrade)]),
    )
    def lose_a_lock(self, maker: str, side: str, released: bool, after: tuple[type, ...]) -> None:  # noqa: FBT001
        """A trade by lock up to the quote, or a release in vain; then the lock is lost."""
        other = NAMES[NAMES.index(maker) - 1]
        self.give(maker, place(side, BTC, settlements=("htlc",)))
        self.world.run(500)
        taking = "sell" if side == "buy" else "buy"
        self.give(other, place(taking, BTC, settlements=("htlc",), time_in_force="ioc"))
        self.world.run(500)
        buyer, seller = (maker, other) if side == "buy" else (other, maker)
        for trade in list(self.node(buyer).journal.trades.values()):
            if trade.state is State.HTLC_ACCEPTED:
                self.give(buyer, SendTrade(trade.trade_id.hex()))
                self.give(buyer, SentTrade(trade.trade_id.hex()))
                self.world.run(2_000)
                self.node(buyer).ledger.cancel(trade.payment_hash)
                if released:
                    self.give(seller, ReceivedTrade(trade.trade_id.hex()))
                self.world.run(MINUTE)
                for what in after:
                    name = buyer if what is RolloverTrade else seller
                    self.give(name, what(trade.trade_id.hex()))
                    self.world.run(5_000)

    @rule(name=who, number=st.integers(0, 5), attempt=st.integers(2, 4), old=st.booleans())
    def lie_about_a_rollover(self, name: str, number: int, attempt: int, old: bool) -> None:  # noqa: FBT001
        """A changed program asks to be paid anew, whatever is locked, by any invoice of its own."""
        self.start(name)
        node, trades = self.node(name), self.world.nodes[name].journal.trades
        mine = [one for one in trades.values() if one.quantity_lots and _is_bought(one)]
        if not mine or node.paused is not None:
            return
        trade = mine[-1 - number % len(mine)]
        if old and trade.invoice:
            text = trade.invoice
        else:
            preimage = self.world.random.randbytes(32)
            hash_ = hashlib.sha256(preimage).digest()
            call = (trade.trade_id, hash_, preimage, max(trade.base_msat, 1_000), "", 3_600)
            text = node.ledger.create(out.CreateInvoice(*call))
        self.by_hand.add(trade.trade_id)
        head = (trade.trade_id, trade.last_digest, self.world.wall_ms)
        said = TradeRollover(*head, attempt, text, node.ledger.node)
        peer = trade.taker if trade.role is TradeRole.MAKER else trade.maker
        node.k.core.begin(self.world.now())
        node.k.sessions.request(peer, "trade", signed(node, said), lambda _: None)
        for effect in node.k.core.finish():
            self.world.carry_out(node, effect)
        self.world.arm(node)
        self.world.run(50)

    @rule(name=who)
    def heal(self, name: str) -> None:
        """Everything around a node works again."""
        node = self.node(name)
        node.holds = "up"
        node.ledger.fail_create = node.ledger.fail_pay = ""
        node.ledger.fail_look = node.ledger.unreachable = False
        node.ledger.overcharge_msat = 0
        self.world.drop = lambda *_: False

    @rule(name=who)
    def cancel_all(self, name: str) -> None:
        """Cancel every order of a node."""
        self.give(name, CancelOrder(""))

    # --- what goes wrong -------------------------------------------------------------------------

    @rule(name=who, commits=st.integers(1, 4), when=st.sampled_from(["before", "after"]))
    def crash_soon(self, name: str, commits: int, when: str) -> None:
        """End a node around one of its next commits."""
        node = self.node(name)
        node.crash_at = (when, node.journal.commits + commits)

    @rule(name=who)
    def crash(self, name: str) -> None:
        """End a node now."""
        self.node(name).crash()

    @rule(name=who)
    def start(self, name: str) -> None:
        """Start a node that has ended."""
        node = self.node(name)
        if not node.up:
            node.start()
            self.world.introduce(node)
            self.world.run(3_500)

    @rule(name=who)
    def pause_or_resume(self, name: str) -> None:
        """Stop a node for a while, or let it go on."""
        node = self.node(name)
        if node.up and node.paused is None:
            node.pause()
        elif node.up:
            node.resume()
            self.world.arm(node)

    @rule(name=who, losses=st.sampled_from([0, 0, 30, 100]))
    def lose_frames(self, name: str, losses: int) -> None:
        """Lose a share of what a node sends."""
        lost = self.node(name)
        self.world.drop = lambda node, _target, _effect: (
            node is lost and self.world.random.randrange(100) < losses
        )

    @rule(name=who, how=st.sampled_from(["up", "silent", "full", "stale"]))
    def hold_server(self, name: str, how: str) -> None:
        """The hold server of a node changes its mood."""
        self.node(name).holds = how  # type: ignore[assignment]

    @rule(name=who, what=st.sampled_from(["flushall", "evict", "failover", "remember"]))
    def forget_holds(self, name: str, what: str) -> None:
        """The hold server loses all, one, or what was written since it was last remembered."""
        node = self.node(name)
        if what == "flushall":
            node.held = {}
        elif what == "evict" and node.held:
            del node.held[next(iter(node.held))]
        elif what == "failover":
            node.held = dict(self.remembered.get(name, {}))
        else:
            self.remembered[name] = dict(node.held)

    @rule(numbers=st.lists(st.integers(0, 63), min_size=1, max_size=3))
    def repeat_frames(self, numbers: list[int]) -> None:
        """Frames of the past arrive once more, in any order."""
        for number in numbers:
            if self.world.sent:
                target, event = self.world.sent[number % len(self.world.sent)]
                self.world.soon(target, event)
        self.world.run(50)

    @rule(ms=st.sampled_from([-20_000, -1_000, 1_000, 20_000]))
    def step_the_clock(self, ms: int) -> None:
        """The wall clock of all machines is set; what only passes goes on."""
        self.world.wall_ms += ms
        self.world.run(50)

    @rule(
        name=who,
        create=st.sampled_from(["", "", "rejected", "indeterminate"]),
        paying=st.sampled_from(["", "", "rejected", "indeterminate"]),
        look=st.booleans(),
        away=st.booleans(),
        more_msat=st.sampled_from([0, 0, 1, -1_000]),
    )
    def lightning(
        self,
        name: str,
        create: str,
        paying: str,
        look: bool,  # noqa: FBT001
        away: bool,  # noqa: FBT001
        more_msat: int,
    ) -> None:
        """The Lightning node of somebody fails in some way, or recovers."""
        ledger = self.node(name).ledger
        ledger.fail_create, ledger.fail_pay = create, paying  # type: ignore[assignment]
        ledger.fail_look, ledger.unreachable = look and away, away
        ledger.overcharge_msat = more_msat

    @rule(blocks=st.sampled_from([1, 17, 60, 90]))
    def mine(self, blocks: int) -> None:
        """The chain grows at once by a few or many blocks."""
        self.world.mine(blocks)
        self.world.run(50)

    @rule(hours=st.sampled_from([2, 7]))
    def suspend(self, hours: int) -> None:
        """All machines sleep for hours."""
        sleep(self.world, hours * 60 * MINUTE)

    @rule(ms=st.sampled_from([100, 2_000, 10_000, MINUTE, 14 * MINUTE]))
    def time_passes(self, ms: int) -> None:
        """Seconds or minutes pass."""
        self.world.run(ms)

    # --- what is always so -----------------------------------------------------------------------

    @invariant()
    def nothing_is_oversold_or_made(self) -> None:
        """Lots, hashes, amounts, balances, timers."""
        if hasattr(self, "world"):
            check_always(self.world)

    @invariant()
    def ends_absorb_and_revisions_grow(self) -> None:
        """A terminal state is left by one row only, and each change raises the revision."""
        for name, node in self.world.nodes.items() if hasattr(self, "world") else ():
            for trade_id, trade in node.journal.trades.items():
                before = self.seen.get((name, trade_id))
                if before is not None:
                    state, revision = before
                    assert trade.revision >= revision
                    assert trade.state is state or trade.revision > revision
                    absorbed = state not in TERMINAL or trade.state is state
                    assert absorbed or (state, trade.state) == _LATE
                self.seen[name, trade_id] = trade.state, trade.revision

    def teardown(self) -> None:
        """Let everything heal and end: then both sides of every trade agree."""
        if not hasattr(self, "world"):
            return
        self.world.drop = lambda *_: False
        for name, node in self.world.nodes.items():
            self.heal(name)
            node.crash_at = None
            if node.up and node.paused is not None:
                node.resume()
                self.world.arm(node)
        revive(self.world)
        self.world.run(HOLD + 3 * MINUTE)
        # Nothing begins any more, and every lock and every time for a quote ends.
        for node in self.world.nodes.values():
            node.tell(CancelOrder(""))
        self.world.mine(LONGEST_LOCK)
        sleep(self.world, HTLC_CONFIRM_MS)
        self.world.run(3 * MINUTE)
        sleep(self.world, ROLLOVER_MS)
        self.world.run(3 * MINUTE)
        for node in self.world.nodes.values():
            for trade in node.journal.trades.values():
                event(f"a trade ends {trade.role} {trade.state}")
                if trade.attempt > 1:
                    event(f"a rollover ends {trade.state}")
        self.ends_absorb_and_revisions_grow()
        check_quiet(self.world, frozenset(self.by_hand))
        self.check_evidence()

    def check_evidence(self) -> None:
        """Whatever happened, each side's evidence of each trade holds together."""
        for node in self.world.nodes.values():
            for trade in node.journal.trades.values():
                if trade.take_digest:
                    answer = node.tell(ExportTrade(trade.trade_id.hex()))
                    read_evidence(msgspec.json.encode(answer["evidence"]))


TestThreeNodes = ThreeNodes.TestCase
TestThreeNodes.settings = settings(
    max_examples=20,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
