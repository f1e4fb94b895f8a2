"""Whatever the wire does, all nodes end with the same orders; the root is what the text says."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_log import batch, new_fold, place, root_from_the_text, say, state
from tests.wire import MARKET, Host, Wire
from zmqex.protocol.codec import encode
from zmqex.protocol.identity import digest
from zmqex.protocol.log import Plan
from zmqex.protocol.messages import Close, Operation, Update
from zmqex.reasons import RejectReason

_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["place", "update", "close"]),
        st.integers(0, 15),
        st.integers(0, 1_200),
        st.integers(0, 1_200),
    ),
    min_size=1,
    max_size=40,
)


def operation(step: tuple[str, int, int, int]) -> Operation:
    """Return the operation of a drawn step; many of them are refused."""
    kind, number, remaining, held = step
    key, placed = place(number)
    if kind == "place":
        return placed
    return Update(key, remaining, held) if kind == "update" else Close(key, "cancelled")


@given(_STEPS)
def test_the_incremental_root_is_the_root_of_the_rows(
    steps: list[tuple[str, int, int, int]],
) -> None:
    """After any history, refused batches among it, the root equals one computed from scratch."""
    fold = new_fold()
    for index, step in enumerate(steps):
        say(fold, operation(step))
        if index % 3 == 0:
            assert fold.root() == root_from_the_text(fold)
    assert fold.root() == root_from_the_text(fold)
    assert fold.head().open_orders == len(fold.orders)


@given(_STEPS, st.randoms(use_true_random=False), st.integers(1, 3))
def test_the_order_of_delivery_cannot_change_a_fold(
    steps: list[tuple[str, int, int, int]], random: Random, copies: int
) -> None:
    """Batches of a log, repeated and shuffled, fold to the same state once all have come."""
    fold, said = new_fold(), []
    for step in steps:
        one = batch(fold, operation(step))
        plan = fold.check(one, digest(encode(one)))
        if isinstance(plan, Plan):
            fold.apply(plan)
            said.append(one)
    delivered = said * copies
    random.shuffle(delivered)
    other = new_fold()
    # Each round of deliveries brings at least the next batch.
    for _ in range(len(said)):
        for one in delivered:
            plan = other.check(one, digest(encode(one)))
            if isinstance(plan, Plan):
                other.apply(plan)
            else:
                assert plan in {RejectReason.DUPLICATE_BATCH, RejectReason.SEQUENCE_GAP}
    assert state(other) == state(fold)


def act(host: Host, placed: dict[str, list[bytes]], number: int, kind: int) -> None:
    """Make a host place, change or close an order."""
    own = placed[host.name]
    publisher = host.n.publisher
    if kind == 0 or not own:
        own.append(host.place(number))
    elif kind == 1:
        changed = Update(own[number % len(own)], 900 - number, number)
        host.do(lambda: publisher.append(MARKET, changed))
    else:
        closed = Close(own.pop(number % len(own)), "cancelled")
        host.do(lambda: publisher.append(MARKET, closed))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    lost=st.integers(0, 30),
    repeated=st.integers(0, 30),
    slowest_ms=st.integers(1, 400),
    kinds=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 120)), max_size=40
    ),
    crash=st.booleans(),
)
def test_all_nodes_converge_once_the_wire_is_whole(
    seed: int,
    lost: int,
    repeated: int,
    slowest_ms: int,
    kinds: list[tuple[int, int, int]],
    *,
    crash: bool,
) -> None:
    """Loss, repeats, reordering and a restart: 40 s after the last fault all heads are equal.

    Each node's copy of each log has the maker's (epoch, sequence, hash, root), and each book the
    same orders.
    """
    wire = Wire(seed, lost=lost, repeated=repeated, delay_ms=(1, slowest_ms))
    hosts = wire.add("alice", "bob", "carol")
    placed: dict[str, list[bytes]] = {host.name: [] for host in hosts}
    for number, (who, kind, pause_ms) in enumerate(kinds):
        act(hosts[who], placed, number, kind)
        wire.run(pause_ms)
    if crash:
        hosts[0].crash()
        hosts[0].start()
    wire.lost = wire.repeated = 0
    wire.run(40_000)
    (late,) = wire.add("dave")
    wire.run(5_000)
    for maker in hosts:
        if maker.n.replicas.logs_of(maker.identity):
            heads = {host.head(maker) for host in [*hosts, late]}
            assert len(heads) == 1, [host.head(maker) for host in [*hosts, late]]
    books = {
        frozenset(one for maker in hosts for one in maker_orders(host, maker))
        for host in [*hosts, late]
    }
    assert books == {frozenset(key for ids in placed.values() for key in ids)}


def maker_orders(host: Host, maker: Host) -> list[bytes]:
    """The open orders of a maker that rest in a host's book."""
    book = host.n.replicas.book(MARKET)
    log = host.n.replicas.log(maker.identity, MARKET)
    return [] if log is None else [key for key in log.fold.orders if book.get(key) is not None]
