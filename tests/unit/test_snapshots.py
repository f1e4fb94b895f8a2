"""Snapshots between nodes: when one is taken in place of the log, and what is believed of it."""

from __future__ import annotations

import msgspec
import pytest

from tests.unit.maker import Maker, counted, log_of, resting, scene
from tests.wire import MARKET, Host, Wire
from zmqex import limits
from zmqex.kernel.logs import MakerLog
from zmqex.protocol.codec import decode
from zmqex.protocol.identity import seal
from zmqex.protocol.log import Frozen
from zmqex.protocol.messages import (
    Close,
    LogPage,
    LogRequest,
    Rows,
    RowsRequest,
    Snapshot,
    SnapshotRequest,
    Update,
)
from zmqex.protocol.snapshot import serve

# --- two nodes ------------------------------------------------------------------------------------


@pytest.fixture
def compact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs that keep next to nothing but their open orders."""
    monkeypatch.setattr("zmqex.kernel.replicas.LOG_BYTES_KEPT_MIN", 2_000)


def churn(host: Host, number: int) -> None:
    """Place orders and close them again, one batch each."""
    for each in range(number):
        key = host.place(10_000 + each)
        host.do(lambda key=key: host.n.publisher.append(MARKET, Close(key, "cancelled")))  # type: ignore[misc]


def copy_of(host: Host, maker: Host) -> MakerLog:
    """Return a host's copy of another one's log."""
    log = host.n.replicas.log(maker.identity, MARKET)
    assert log is not None
    return log


@pytest.mark.usefixtures("compact")
def test_a_newcomer_gets_a_snapshot_of_a_log_whose_beginning_is_gone() -> None:
    """Of the maker or of anybody that has it; then the log goes on, and so do restarts."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    keys = {alice.place(number) for number in range(5)}
    churn(alice, 50)
    wire.run(6_000)
    assert len(alice.batches) < 20
    assert copy_of(bob, alice).tail.first > 50
    wire.cut.add(frozenset({"alice", "carol"}))
    (carol,) = wire.add("carol")
    wire.run(6_000)
    assert set(resting(carol)) == keys
    assert "snapshot at 105, " in copy_of(carol, alice).why
    wire.cut.clear()
    wire.run(20_000)
    keys.add(alice.place(6))
    alice.crash()
    alice.start()
    keys.add(alice.place(7))
    wire.run(6_000)
    for host in (alice, bob, carol):
        assert set(resting(host)) == keys
        assert host.head(alice) == alice.head(alice)


@pytest.mark.usefixtures("compact")
def test_a_restart_between_checkpoint_and_head_folds_the_batches_after_it() -> None:
    """The same head as before, and older batches are served still."""
    wire = Wire()
    (alice,) = wire.add("alice")
    alice.place(1)
    churn(alice, 20)
    alice.place(2)
    before = alice.head(alice)
    point = alice.checkpoints[MARKET]
    tail = list(alice.n.replicas.own_log(MARKET).tail)
    assert point.sequence < 42
    alice.crash()
    alice.start()
    assert alice.head(alice) == before
    assert list(alice.n.replicas.own_log(MARKET).tail) == tail
    assert len(alice.n.replicas.own_log(MARKET).fold.orders) == 2
    assert wire.monotonic_ms


@pytest.mark.usefixtures("compact")
def test_disk_and_memory_follow_what_is_open() -> None:
    """A thousand orders that came and went leave what a few batches weigh."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    churn(alice, 500)
    wire.run(1_000)
    for log in (alice.n.replicas.own_log(MARKET), copy_of(bob, alice)):
        assert log.fold.sequence == 1_000
        assert log.tail.size <= 2_000
    assert sum(len(one.envelope) for one in alice.batches.values()) <= 2_000


def test_whoever_is_far_behind_takes_the_snapshot_that_is_cheaper() -> None:
    """Many batches about few orders: one page of the log, then the few buckets that differ."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    keys = [alice.place(number) for number in range(20)]
    wire.run(6_000)
    wire.cut.add(frozenset({"alice", "bob"}))
    for number in range(40):
        for key in keys[:3]:
            # Each in a batch of its own, as quarters of seconds would have it.
            alice.n.publisher._updated_ms.clear()
            changed = Update(key, 900 - number, 0)
            alice.do(lambda changed=changed: alice.n.publisher.append(MARKET, changed))  # type: ignore[misc]
            wire.run(limits.PUBLISH_EVERY_MS)
    bob.n.core.counted.clear()
    wire.cut.clear()
    wire.run(20_000)
    assert bob.head(alice) == alice.head(alice)
    assert copy_of(bob, alice).why.startswith("120 batches by the log from ")
    # With ten times as many the first page says how much is left.
    wire.cut.add(frozenset({"alice", "bob"}))
    for number in range(400):
        alice.n.publisher._updated_ms.clear()
        changed = Update(keys[0], 900 - number, 0)
        alice.do(lambda changed=changed: alice.n.publisher.append(MARKET, changed))  # type: ignore[misc]
        wire.run(limits.PUBLISH_EVERY_MS)
    wire.cut.clear()
    wire.run(20_000)
    assert bob.head(alice) == alice.head(alice)
    assert "snapshot at " in copy_of(bob, alice).why
    assert " 1 of 256 buckets" in copy_of(bob, alice).why
    assert counted(bob, "snapshots_asked") == 1


# --- serving --------------------------------------------------------------------------------------


def asked_for(maker: Maker, sequence: int = 1) -> SnapshotRequest:
    """Return the question for a snapshot of a maker."""
    return SnapshotRequest(maker.identity, MARKET, maker.fold.epoch, sequence)


def test_a_head_stays_frozen_while_it_is_read() -> None:
    """Its rows are served for a minute after the last question, whatever is said since."""
    wire, host, maker = scene()
    (key, place), other = maker.new(1), maker.new(2)
    maker.say(host, maker.topic, maker.publish(place, other[1]))
    assert maker.refused(host, "snapshot", asked_for(maker)).reason == "sequence_gap"
    wrong = msgspec.structs.replace(maker.fold.head(), open_orders=3)
    maker.say(host, b"h", maker.beat(wrong, later_ms=-1))
    assert maker.refused(host, "snapshot", asked_for(maker)).reason == "sequence_gap"
    beat = maker.beat()
    maker.say(host, b"h", beat)
    given = decode(maker.ask(host, "snapshot", asked_for(maker)).body, Snapshot)
    assert given.heartbeat == beat
    head = maker.fold.head()
    assert maker.refused(host, "snapshot", asked_for(maker, 2)).reason == "sequence_gap"

    def rows() -> Rows:
        body = RowsRequest(maker.identity, MARKET, head.head_hash, bytes(range(256)), b"")
        return decode(maker.ask(host, "rows", body).body, Rows)

    maker.say(host, maker.topic, maker.publish(Update(key, 5, 0)))
    maker.say(host, b"h", maker.beat(later_ms=1))
    assert {one.remaining_lots for one in rows().rows} == {1_000}
    maker.say(host, b"h", maker.beat(later_ms=2))
    assert len(log_of(host, maker).anchors) == 2
    newest = decode(maker.ask(host, "snapshot", asked_for(maker, 2)).body, Snapshot)
    assert newest.heartbeat == maker.beat(later_ms=2)
    for number in range(3):
        wire.run(limits.FROZEN_MS - 1)
        assert rows().complete == 256
        maker.say(host, maker.topic, maker.publish(Update(key, 6 + number, 0)))
        maker.say(host, b"h", maker.beat())
    wire.run(limits.FROZEN_MS + 1)
    maker.say(host, maker.topic, maker.publish(Close(key, "filled")))
    maker.say(host, b"h", maker.beat())
    gone = RowsRequest(maker.identity, MARKET, head.head_hash, b"\0", b"")
    assert maker.refused(host, "rows", gone).reason == "log_too_old"
    assert len(log_of(host, maker).fold.frozen) == 1


def test_a_log_whose_orders_were_dropped_serves_none_of_its_heads() -> None:
    """Its rows would be of no root, and whoever asked would blame the honest node for them."""
    _, host, maker = scene()
    maker.say(host, maker.topic, maker.publish(maker.new(0)[1]))
    head = maker.fold.head()
    maker.say(host, b"h", maker.beat())
    assert maker.ask(host, "snapshot", asked_for(maker)).kind == "snapshot"
    for start in (1, 51):
        places = [maker.new(number)[1] for number in range(start, start + 50)]
        maker.say(host, maker.topic, maker.publish(*places))
    assert log_of(host, maker).state == "head_only"
    assert maker.refused(host, "snapshot", asked_for(maker)).reason == "sequence_gap"
    rows = RowsRequest(maker.identity, MARKET, head.head_hash, bytes(range(256)), b"")
    assert maker.refused(host, "rows", rows).reason == "log_too_old"


def test_so_many_heads_of_one_log_are_frozen() -> None:
    """The oldest goes, however lately it was read."""
    _, host, maker = scene()
    key, place = maker.new(1)
    maker.say(host, maker.topic, maker.publish(place))
    for number in range(limits.FROZEN_HEADS_MAX + 2):
        maker.say(host, maker.topic, maker.publish(Update(key, 100 + number, 0)))
        maker.say(host, b"h", maker.beat(later_ms=number))
        maker.ask(host, "snapshot", asked_for(maker))
    assert len(log_of(host, maker).anchors) == limits.FROZEN_HEADS_MAX
    assert len(log_of(host, maker).fold.frozen) == limits.FROZEN_HEADS_MAX


def test_what_cannot_be_served_is_refused_with_its_reason() -> None:
    """Unknown makers and heads, other epochs, forked logs, buckets out of order."""
    _, host, maker = scene()
    nobody = SnapshotRequest(b"n" * 32, MARKET, 1, 1)
    assert maker.refused(host, "snapshot", nobody).reason == "unknown_maker"
    rows = RowsRequest(b"n" * 32, MARKET, bytes(32), b"\0", b"")
    assert maker.refused(host, "rows", rows).reason == "unknown_maker"
    disorder = RowsRequest(maker.identity, MARKET, bytes(32), b"\1\0", b"")
    assert maker.refused(host, "rows", disorder).reason == "malformed"
    maker.say(host, maker.topic, maker.publish(maker.new(1)[1]))
    for epoch, reason in (
        (maker.fold.epoch - 1, "old_epoch"),
        (maker.fold.epoch + 1, "sequence_gap"),
    ):
        question = SnapshotRequest(maker.identity, MARKET, epoch, 1)
        assert maker.refused(host, "snapshot", question).reason == reason
    maker.say(host, maker.topic, maker.sign(maker.new(3)[1], sequence=1, previous_hash=bytes(32)))
    assert log_of(host, maker).state == "forked"
    assert maker.refused(host, "snapshot", asked_for(maker)).reason == "forked_log"
    pages = LogRequest(maker.identity, MARKET, maker.fold.epoch, 1)
    assert maker.refused(host, "log", pages).reason == "forked_log"


# --- fetching -------------------------------------------------------------------------------------


def behind() -> tuple[Wire, Host, Maker, list[Maker]]:
    """Return a host that asks a maker for a snapshot, and three others that could help."""
    wire, host, maker = scene()
    helpers = [Maker(wire, f"helper {number}", f"10.8.8.{number}") for number in range(3)]
    for one in helpers:
        one.befriend(host)
    maker.publish(*[maker.new(number)[1] for number in range(90)])
    maker.say(host, b"h", maker.beat())
    wire.run(limits.GAP_WAIT_MS)
    maker.reject(host, "log", "log_too_old")
    wire.run(0)
    return wire, host, maker, helpers


def test_a_lie_means_that_somebody_else_is_asked_and_what_was_right_is_kept() -> None:
    """Wrong signature, wrong digests, wrong rows: blame, the next peer, only what is missing."""
    wire, host, maker, helpers = behind()
    frozen = Frozen(maker.fold)
    forged = seal(helpers[0].key, "play", "heartbeat", msgspec.msgpack.decode(maker.beat())[0])
    maker.reply(host, "snapshot", Snapshot(forged, frozen.digests))
    helpers[0].reply(host, "snapshot", Snapshot(maker.beat(), bytes(8_192)))
    helpers[1].reply(host, "snapshot", Snapshot(maker.beat(), frozen.digests))
    asked = decode(helpers[1].asked(host, "rows")[-1].body, RowsRequest)
    half = serve(frozen, asked.buckets, asked.after, 40, 10**6)
    helpers[1].reply(host, "rows", half)
    helpers[1].reply(host, "rows", half)
    helpers[2].reply(host, "snapshot", Snapshot(maker.beat(), frozen.digests))
    rest = decode(helpers[2].asked(host, "rows")[-1].body, RowsRequest)
    assert rest.buckets == asked.buckets[half.complete :]
    assert resting(host) == []
    helpers[2].reply(host, "rows", serve(frozen, rest.buckets, rest.after, 10**3, 10**6))
    assert len(resting(host)) == 90
    assert log_of(host, maker).fold.head() == maker.fold.head()
    peers = host.n.sessions.peers
    assert [peers[one.identity].penalty for one in (maker, *helpers)] == [10, 10, 10, 0]
    assert wire.monotonic_ms


def test_nobody_who_can_help_is_said_and_asked_again_with_news() -> None:
    """Refusals that pass are waited for; the others end the repair until the next heartbeat."""
    wire, host, maker, helpers = behind()
    for one in (maker, *helpers):
        one.reject(host, "snapshot", "unknown_maker")
    log = log_of(host, maker)
    assert (log.state, log.lag) == ("behind", 1)
    assert log.why.startswith("4 peers could not help, the last: unknown_maker (")
    maker.say(host, b"h", maker.beat(later_ms=1))
    wire.run(limits.GAP_WAIT_MS)
    maker.reject(host, "log", "log_too_old")
    wire.run(0)
    for one in (maker, *helpers[:2]):
        one.reject(host, "snapshot", "timed_out")
    helpers[2].reject(host, "snapshot", "rate_limited", 700)
    wire.run(699)
    before = len(helpers[2].asked(host, "snapshot"))
    wire.run(1)
    assert len(helpers[2].asked(host, "snapshot")) == before + 1
    for _ in range(limits.SYNC_RETRIES_MAX + 1):
        helpers[2].reject(host, "snapshot", "rate_limited", 1)
        wire.run(1)
    assert len(helpers[2].asked(host, "snapshot")) == before + limits.SYNC_RETRIES_MAX - 1
    assert log.state == "behind"


def test_a_rate_limit_in_the_middle_of_the_rows_is_waited_for() -> None:
    """The same page is asked for again when it says, a few times."""
    wire, host, maker, _ = behind()
    frozen = Frozen(maker.fold)
    maker.reply(host, "snapshot", Snapshot(maker.beat(), frozen.digests))
    maker.reject(host, "rows", "rate_limited", 50)
    wire.run(49)
    assert len(maker.asked(host, "rows")) == 1
    wire.run(1)
    asked = decode(maker.asked(host, "rows")[-1].body, RowsRequest)
    maker.reply(host, "rows", serve(frozen, asked.buckets, b"", 1_000, 10**6))
    assert len(resting(host)) == 90


def test_rate_limits_without_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many in a row: the next peer."""
    monkeypatch.setattr("zmqex.kernel.snapshots.SYNC_RETRIES_MAX", 1)
    wire, host, maker, helpers = behind()
    maker.reply(host, "snapshot", Snapshot(maker.beat(), Frozen(maker.fold).digests))
    for _ in range(2):
        maker.reject(host, "rows", "rate_limited", 5)
        wire.run(5)
    assert len(helpers[0].asked(host, "snapshot")) == 1


def test_what_came_by_itself_meanwhile_is_not_replaced() -> None:
    """The log caught up, forked, or has a newer epoch: the snapshot comes too late."""
    wire, host, maker, _ = behind()
    late = maker.envelopes[0]
    frozen = Frozen(maker.fold)
    maker.reply(host, "snapshot", Snapshot(maker.beat(), frozen.digests))
    (asked,) = maker.asked(host, "rows")
    buckets = decode(asked.body, RowsRequest).buckets
    maker.say(host, maker.topic, late)
    maker.say(host, maker.topic, maker.publish(maker.new(200)[1]))
    maker.reply(host, "rows", serve(frozen, buckets, b"", 1_000, 10**6))
    assert log_of(host, maker).fold.sequence == 2
    assert len(resting(host)) == 91
    log, head = log_of(host, maker), maker.fold.head()
    maker.fold.begin(wire.wall_ms + 1)
    maker.say(host, b"h", maker.beat(later_ms=1))
    host.do(lambda: host.n.replicas.install(log, head, {}))
    assert log.at == (wire.wall_ms + 1, 0)


def test_a_snapshot_with_too_many_orders_leaves_the_log_head_only() -> None:
    """Nothing is fetched; the chain goes on from that head."""
    wire, host, maker = scene()
    maker.publish(*[maker.new(number)[1] for number in range(101)])
    maker.say(host, b"h", maker.beat())
    wire.run(limits.GAP_WAIT_MS)
    maker.reject(host, "log", "log_too_old")
    wire.run(0)
    maker.give_snapshot(host)
    assert maker.asked(host, "rows") == []
    log = log_of(host, maker)
    assert (log.state, log.at, resting(host)) == ("head_only", log.target, [])
    assert log.fold.head_hash == maker.fold.head_hash
    maker.say(host, maker.topic, maker.publish(maker.new(200)[1]))
    assert log.fold.sequence == 2
    head = msgspec.structs.replace(maker.fold.head(), sequence=9)
    host.do(lambda: host.n.replicas.install(log, head, None))
    assert (log.state, log.fold.sequence) == ("head_only", 9)


def test_a_log_page_that_says_how_much_is_left_is_weighed() -> None:
    """More to come than a snapshot weighs: the snapshot; less: the next page."""
    for left, kind in ((10**6, "snapshot"), (1_000, "log")):
        wire, host, maker = scene()
        for number in range(3):
            maker.publish(maker.new(number)[1])
        maker.say(host, b"h", maker.beat())
        wire.run(limits.GAP_WAIT_MS)
        maker.reply(host, "log", LogPage(maker.envelopes[:1], left))
        wire.run(0)
        assert len(maker.asked(host, kind)) == (1 if kind == "snapshot" else 2)
