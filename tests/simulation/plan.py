"""What one seed decides before anything happens: how many nodes, how long, and what goes wrong."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from zmqex.kernel import following, replicas, sync
from zmqex.limits import FOLLOW_ALL_MAX


class Fault(enum.StrEnum):
    """Every kind of thing that can go wrong; a run counts how often each did."""

    # the network
    LOSS = "loss"
    REPEAT = "repeat"
    REORDER = "reorder"
    DELAY = "delay"
    PARTITION = "partition"
    SLOW_LINK = "slow_link"
    # the machine
    CRASH = "crash"
    UNSYNCED_LOST = "unsynced_lost"
    TORN_WRITE = "torn_write"
    RESTORED_BACKUP = "restored_backup"
    CLOCK_SKEW = "clock_skew"
    CLOCK_JUMP = "clock_jump"
    SUSPEND = "suspend"
    # what stands beside the node
    HOLDS_SILENT = "holds_silent"
    HOLDS_LOST = "holds_lost"
    HOLDS_FULL = "holds_full"
    LIGHTNING_REFUSES = "lightning_refuses"
    LIGHTNING_SILENT = "lightning_silent"
    PAYMENT_IN_FLIGHT = "payment_in_flight"
    # peers that lie
    WRONG_ROOT = "wrong_root"
    FORK = "fork"
    WITHHELD_PAGE = "withheld_page"
    REPLAY = "replay"
    GARBAGE = "garbage"
    FORGERY = "forgery"
    INVALID_ORDER = "invalid_order"


LIES = (
    Fault.WRONG_ROOT,
    Fault.FORK,
    Fault.WITHHELD_PAGE,
    Fault.REPLAY,
    Fault.GARBAGE,
    Fault.FORGERY,
    Fault.INVALID_ORDER,
)
# These come with a crash and are not chosen by themselves.
_OF_A_CRASH = (Fault.UNSYNCED_LOST, Fault.TORN_WRITE)
NODES = (3, 30)
SECONDS = 120
_ORDERS_LEAST = 50  # in as many seconds
_ORDERS_PER_SECOND = 0.6
_TIGHT = {(replicas, "LOG_BYTES_KEPT_MIN"): 1_500, (sync, "SNAPSHOT_BYTES"): 1_000}
# And a node listens to few of thirty peers, as it does of a thousand.
_FEW = {(following, "FOLLOWED"): 4}


@dataclass(frozen=True)
class Plan:
    """Everything that a run depends on."""

    seed: int
    nodes: int
    makers: int
    liars: int
    seconds: int  # of load and faults, at least; then everything heals
    faults: frozenset[Fault]
    orders_per_second: float
    latency_ms: tuple[int, int]
    fsync_ms: tuple[int, int]
    hold_ttl_ms: int
    markets: tuple[str, ...]
    block_ms: int
    tight_limits: bool  # logs are trimmed after a few batches, so that snapshots are needed
    patient: bool  # the run goes on until all holds are over
    follow_all_max: int  # with more peers a node follows a few, and those relay
    fast_signer: bool = False

    @property
    def orders_least(self) -> int:
        """A run with fewer orders than this by its end goes on until it has them."""
        return _ORDERS_LEAST * self.seconds // SECONDS

    @property
    def relays(self) -> bool:
        """Whether so small a network relays already."""
        return self.follow_all_max != FOLLOW_ALL_MAX

    def replay(self) -> str:
        """The command that runs this very plan again."""
        fast = " --fast-signer" if self.fast_signer else ""
        return (
            f"scripts/simulate.py --seed {self.seed} --nodes {self.nodes} --makers {self.makers} "
            f"--seconds {self.seconds}{fast}"
        )


@contextlib.contextmanager
def limits_of(plan: Plan) -> Iterator[None]:
    """While this is open, limits are as small as the plan wants them, so that they are reached."""
    wanted = (_TIGHT if plan.tight_limits else {}) | (_FEW if plan.relays else {})
    before = {(module, name): vars(module)[name] for module, name in wanted}
    for (module, name), value in wanted.items():
        vars(module)[name] = value
    try:
        yield
    finally:
        for (module, name), value in before.items():
            vars(module)[name] = value


def make_plan(
    seed: int,
    *,
    nodes: int | None = None,
    makers: int | None = None,
    seconds: int | None = None,
    faults: frozenset[Fault] | None = None,
    fast_signer: bool = False,
) -> Plan:
    """Draw a plan; what is given is taken as given, and the rest is drawn alike."""
    random = Random(f"plan {seed}")
    # Small networks are cheap and find as much; now and then a large one.
    drawn = min(NODES[0] + int(random.expovariate(0.16)), NODES[1])
    size = drawn if nodes is None else nodes
    share = random.uniform(0.4, 1.0)
    trading = max(2, round(size * share)) if makers is None else makers
    chosen = {fault for fault in Fault if random.random() < 0.45} - set(_OF_A_CRASH)
    if faults is not None:
        chosen = set(faults)
    if Fault.CRASH in chosen:
        chosen |= set(_OF_A_CRASH)
    wide = random.random() < 0.3
    liars = max(1, size // 8) if chosen & set(LIES) and size > 2 else 0
    return Plan(
        seed=seed,
        nodes=size,
        makers=min(trading, size - liars),
        liars=liars,
        seconds=SECONDS if seconds is None else seconds,
        faults=frozenset(chosen),
        orders_per_second=_ORDERS_PER_SECOND * random.uniform(1, 2),
        latency_ms=(20, 150) if wide else (1, 20),
        fsync_ms=random.choice([(1, 3), (2, 20), (10, 120)]),
        hold_ttl_ms=random.choice([10_000, 30_000, 900_000]),
        markets=("BTC/USD", "BTC/EUR") if random.random() < 0.3 else ("BTC/USD",),
        block_ms=random.choice([2_000, 20_000, 600_000]),
        tight_limits=random.random() < 0.5,
        patient=random.random() < 0.25,
        follow_all_max=random.choice([FOLLOW_ALL_MAX, FOLLOW_ALL_MAX, max(size // 2, 1)]),
        fast_signer=fast_signer,
    )
