"""The publisher: our own log on the wire and on the disk, and what happens when it is lost."""

from __future__ import annotations

import msgspec
import pytest

from tests.unit.maker import Maker
from tests.unit.stranger import Stranger
from tests.wire import MARKET, NETWORK, Host, Wire, order
from zmqex import limits
from zmqex.errors import LocalProtocolError, StorageError
from zmqex.kernel import effects as out
from zmqex.kernel.records import OwnBatch, OwnCheckpoint, PutBatch
from zmqex.market.orders import Side
from zmqex.protocol.codec import decode, encode
from zmqex.protocol.identity import ZERO_DIGEST, order_id
from zmqex.protocol.log import topic
from zmqex.protocol.messages import (
    Batch,
    Close,
    Heads,
    Heartbeat,
    Operation,
    Page,
    Place,
    Update,
)


def host_of(wire: Wire | None = None) -> tuple[Wire, Host]:
    """Return one running host."""
    wire = wire or Wire()
    (host,) = wire.add("alice")
    host.effects.clear()
    return wire, host


def say(host: Host, *operations: Operation) -> list[Batch]:
    """Append operations in one event, long after the last ones; the batches that went out."""
    host.n.publisher._sent_ms.clear()

    def append() -> None:
        for operation in operations:
            host.n.publisher.append(MARKET, operation)

    return batches(host.do(append))


def batches(effects: list[out.Effect]) -> list[Batch]:
    """Return the batches among published envelopes."""
    sent = [one for one in effects if isinstance(one, out.Publish) and one.topic == topic(MARKET)]
    return [decode(msgspec.msgpack.decode(one.envelope)[0], Batch) for one in sent]


def heartbeats(effects: list[out.Effect]) -> list[Heartbeat]:
    """Return the heartbeats among published envelopes."""
    sent = [one for one in effects if isinstance(one, out.Publish) and one.topic == b"h"]
    return [decode(msgspec.msgpack.decode(one.envelope)[0], Heartbeat) for one in sent]


def new(host: Host, number: int, **terms: object) -> tuple[bytes, Place]:
    """Return an own order's id and its placement."""
    raw = encode(order(number, host.wire.wall_ms, **terms))
    return order_id(NETWORK, host.identity, raw), Place(raw)


def test_what_one_event_says_leaves_as_one_signed_batch() -> None:
    """Journaled in the same event, applied to the own book without a signature check, sent."""
    wire, host = host_of()
    (first, one), (_, two) = new(host, 1), new(host, 2)
    (batch,) = say(host, one, two, Update(first, 900, 100))
    assert (batch.epoch, batch.sequence) == (wire.wall_ms, 1)
    assert batch.previous_hash == ZERO_DIGEST
    assert batch.operations == [one, two, Update(first, 900, 100)]
    persists = [one for one in host.effects if isinstance(one, out.Persist)]
    (write,) = [one for one in persists[-1].writes if isinstance(one, PutBatch)]
    assert write.batch.digest == host.n.replicas.own_log(MARKET).fold.head_hash
    assert [one for one in host.effects if isinstance(one, out.Verify)] == []
    resting = host.n.replicas.book(MARKET).get(first)
    assert resting is not None
    assert (resting.available_lots, resting.maker) == (800, host.identity)
    (second,) = say(host, Close(first, "cancelled"))
    assert (second.sequence, second.previous_hash) == (2, write.batch.digest)
    assert host.n.replicas.book(MARKET).get(first) is None


def test_large_news_is_cut_into_batches_that_fit() -> None:
    """At most 128 operations, at most what one frame carries, in order."""
    _, host = host_of()
    sent = say(host, *(new(host, number)[1] for number in range(300)))
    assert [len(one.operations) for one in sent] == [128, 128, 44]
    assert [one.sequence for one in sent] == [1, 2, 3]
    methods = ("x" * 200,) * 8
    sent = say(host, *(new(host, 1_000 + n, payment_methods=methods)[1] for n in range(60)))
    assert len(sent) > 1
    assert all(len(encode(one)) < limits.FRAME_BYTES_MAX for one in sent)
    assert len(host.n.replicas.own_log(MARKET).fold.orders) == 360


def test_updates_leave_a_moment_later_then_four_times_a_second() -> None:
    """The first after those that ask, the last always, those between not at all."""
    wire, host = host_of()
    key, place = new(host, 1)
    say(host, place)
    times: list[tuple[int, Operation]] = []
    for held in range(100):
        host.effects.clear()
        assert say(host, Update(key, 1_000, held)) == []
        wire.run(10)
        for batch in batches(host.effects):
            times.extend((wire.monotonic_ms, one) for one in batch.operations)
    host.effects.clear()
    wire.run(limits.UPDATE_EVERY_MS)
    times.extend((0, one) for batch in batches(host.effects) for one in batch.operations)
    assert times[-1][1] == Update(key, 1_000, 99)
    assert len(times) in {5, 6}
    assert times[0][1] == Update(key, 1_000, 0)
    row = host.n.replicas.row(key)
    assert row is not None
    assert row.held_lots == 99


def test_a_second_update_in_one_event_replaces_the_first() -> None:
    """Only the newest numbers of each order leave."""
    _, host = host_of()
    (first, one), (second, two) = new(host, 1), new(host, 2)
    (batch,) = say(host, one, two, Update(first, 9, 0), Update(second, 8, 0), Update(second, 7, 0))
    assert batch.operations[2:] == [Update(first, 9, 0), Update(second, 7, 0)]


def test_a_close_overtakes_an_update_that_waits() -> None:
    """Nothing is said of an order after it is gone."""
    wire, host = host_of()
    key, place = new(host, 1)
    say(host, place, Update(key, 900, 0))
    assert say(host, Update(key, 800, 0)) == []
    (batch,) = say(host, Close(key, "filled"))
    assert batch.operations == [Close(key, "filled")]
    host.effects.clear()
    wire.run(1_000)
    assert batches(host.effects) == []
    assert say(host, Update(key, 700, 0), Close(key, "filled")) == []
    assert host.n.core.counted["unpublished_operations"] == 2


def test_an_own_batch_that_breaks_the_rules_is_a_fault_of_ours() -> None:
    """It is neither journaled nor sent."""
    _, host = host_of()
    _, place = new(host, 1, minimum_lots=2_000)
    with pytest.raises(LocalProtocolError, match="minimum_above_quantity"):
        say(host, place)
    assert host.batches == {}


def test_a_market_that_nobody_follows_is_published_all_the_same() -> None:
    """An own order in a market that was configured away goes on without a book."""
    _, host = host_of()
    key = host.place(1, market="BTC/EUR")
    assert host.n.replicas.row(key) is not None
    host.do(lambda: host.n.publisher.append("BTC/EUR", Close(key, "cancelled")))
    assert host.n.replicas.row(key) is None
    host.place(2, market="BTC/EUR")
    log = host.n.replicas.own_log("BTC/EUR")
    host.do(lambda: host.n.replicas.begin(log, log.fold.epoch + 1))
    assert log.fold.orders == {}


# --- heartbeats ----------------------------------------------------------------------------------


def test_a_heartbeat_leaves_every_five_seconds() -> None:
    """Signed and newer each time, with the head of every own log that has begun."""
    wire, host = host_of()
    host.place(1)
    host.effects.clear()
    wire.run(3 * limits.HEARTBEAT_EVERY_MS + 100)
    sent = heartbeats(host.effects)
    assert len(sent) == 3
    assert sent[0].sent_at_ms < sent[1].sent_at_ms < sent[2].sent_at_ms
    assert sent[0].heads == [host.n.replicas.own_log(MARKET).fold.head()]


def test_a_heartbeat_that_is_asked_for_is_never_behind_the_log() -> None:
    """At most a second old; signed anew when the log has grown, with a growing time."""
    wire, host = host_of()
    stranger = Stranger(wire)
    stranger.greet(host)

    def beat() -> Heartbeat:
        (raw,) = decode(stranger.ask(host, "heads", Page(b"")).body, Heads).heartbeats
        return decode(msgspec.msgpack.decode(raw)[0], Heartbeat)

    first = beat()
    assert beat() == first
    host.place(1)
    second = beat()
    assert second.sent_at_ms > first.sent_at_ms
    assert second.heads[0].sequence == 1
    wire.run(1_001)
    assert beat().sent_at_ms > second.sent_at_ms


def test_a_clock_that_was_corrected_backwards_is_believed() -> None:
    """A little back: times still grow.  Far back: nobody believed the old ones, so start there."""
    wire, host = host_of()
    for back_ms, grows in ((10_000, True), (3_600_000, False)):
        host.effects.clear()
        wire.run(limits.HEARTBEAT_EVERY_MS)
        before = heartbeats(host.effects)[-1].sent_at_ms
        wire.wall_ms -= back_ms
        host.effects.clear()
        wire.run(limits.HEARTBEAT_EVERY_MS)
        after = heartbeats(host.effects)[-1].sent_at_ms
        assert (after > before) is grows
        assert after <= wire.wall_ms + limits.CLOCK_SKEW_MAX_MS


# --- restarts ------------------------------------------------------------------------------------


def test_the_log_goes_on_where_it_was_after_a_restart() -> None:
    """Same epoch, next number, same orders and root."""
    wire, host = host_of()
    key = host.place(1)
    host.place(2)
    head = host.n.replicas.own_log(MARKET).fold.head()
    host.crash()
    wire.run(1_000)
    host.start()
    assert host.n.replicas.own_log(MARKET).fold.head() == head
    assert host.n.replicas.book(MARKET).get(key) is not None
    (batch,) = say(host, Close(key, "cancelled"))
    assert (batch.epoch, batch.sequence, batch.previous_hash) == (head.epoch, 3, head.head_hash)


def test_a_journal_that_does_not_fit_together_stops_the_node() -> None:
    """A missing or unreadable batch is a StorageError: nothing is published upon it."""
    _, host = host_of()
    host.place(1)
    host.place(2)
    keys = sorted(host.batches)
    host.crash()
    saved = dict(host.batches)
    del host.batches[keys[0]]
    with pytest.raises(StorageError, match="sequence_gap"):
        host.start()
    host.batches = dict(saved)
    row = saved[keys[0]]
    host.batches[keys[0]] = OwnBatch(row.market, row.epoch, row.sequence, row.digest, b"\xc1")
    with pytest.raises(StorageError, match="cannot be read"):
        host.start()
    host.batches = saved
    head = host.n.replicas.own_log(MARKET).fold.head()
    rows = ((b"\xc1", 1, 0),)
    host.checkpoints[MARKET] = OwnCheckpoint(MARKET, head.epoch, 7, head.head_hash, rows)
    with pytest.raises(StorageError, match="an order of the own log cannot be read"):
        host.start()


def test_batches_of_an_older_epoch_are_passed_over() -> None:
    """As a journal from before checkpoints may have them."""
    _, host = host_of()
    key = host.place(1)
    (row,) = host.batches.values()
    host.batches[MARKET, 1, 9] = OwnBatch(MARKET, 1, 9, row.digest, row.envelope)
    host.crash()
    host.start()
    assert list(host.n.replicas.own_log(MARKET).fold.orders) == [key]


def test_a_lost_journal_starts_a_newer_epoch_and_receivers_follow() -> None:
    """Old orders end everywhere at once, and the next order is seen by all."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    alice.place(1)
    wire.run(6_000)
    alice.crash()
    alice.batches.clear()
    alice.counters.clear()
    alice.start()
    wire.introduce(alice)
    wire.run(7_000)
    assert alice.logged("own_log_lost") != []
    assert bob.n.replicas.book(MARKET).best_bid() is None
    key = alice.place(2)
    wire.run(100)
    assert bob.n.replicas.book(MARKET).get(key) is not None
    assert alice.head(alice) == bob.head(alice)


def test_a_restored_backup_starts_a_newer_epoch() -> None:
    """Peers have more of our log than we: their heads say so, and our users are told."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    first = alice.place(1)
    backup, counters = dict(alice.batches), dict(alice.counters)
    alice.place(2)
    wire.run(6_000)
    alice.crash()
    alice.batches, alice.counters = backup, counters
    alice.start()
    lost: list[str] = []
    alice.n.publisher.on_log_lost.append(lost.append)
    say(alice, Update(first, 900, 0))
    assert say(alice, Update(first, 800, 0)) == []  # waits, and is dropped with its order
    wire.introduce(alice)
    wire.run(7_000)
    assert lost[:1] == [MARKET]
    assert alice.n.replicas.own_log(MARKET).fold.orders == {}
    assert alice.head(alice) == bob.head(alice)
    epoch = alice.n.replicas.own_log(MARKET).fold.epoch
    alice.crash()
    alice.start()
    assert alice.n.replicas.own_log(MARKET).fold.epoch == epoch  # an empty epoch survives too


def test_an_own_batch_from_elsewhere_starts_a_newer_epoch() -> None:
    """Somebody relays a batch that we signed and do not have, or another at one of our places."""
    wire, host = host_of()
    host.place(1)
    twin = Maker(wire, "alice")
    twin.key, twin.identity = host.key, host.identity
    twin.fold.maker = host.identity  # type: ignore[misc]
    epoch = host.n.replicas.own_log(MARKET).fold.epoch
    twin.fold.begin(epoch)
    repeated = next(iter(host.batches.values())).envelope
    twin.say(host, topic(MARKET), repeated)
    assert host.n.replicas.own_log(MARKET).fold.epoch == epoch
    other = twin.sign(twin.new(9)[1], epoch=epoch)
    twin.say(host, topic(MARKET), other)
    newer = host.n.replicas.own_log(MARKET).fold.epoch
    assert newer > epoch
    assert host.n.core.counted["own_logs_lost"] == 1
    twin.say(host, b"h", twin.beat())
    assert host.n.replicas.own_log(MARKET).fold.epoch == newer


def test_a_proof_of_our_own_fork_starts_a_newer_epoch() -> None:
    """Whatever led to it, we do not go on in a void epoch."""
    _, host = host_of()
    host.place(1)
    log = host.n.replicas.own_log(MARKET)
    epoch = log.fold.epoch
    proof = decode(encode(Page(b"")), Page)
    host.do(lambda: host.n.replicas.forks.accept(log, epoch, proof))  # type: ignore[arg-type]
    assert log.fold.epoch > epoch
    assert list(host.n.replicas.book(MARKET).orders(Side.BUY)) == []


def test_own_heads_of_other_markets_or_older_ones_say_nothing() -> None:
    """Only a head beyond ours, or another at the same place, of a market that we follow."""
    wire, host = host_of()
    host.place(1)
    log = host.n.replicas.own_log(MARKET)
    head = log.fold.head()
    twin = Maker(wire, "alice")
    twin.key, twin.identity = host.key, host.identity
    behind = msgspec.structs.replace(head, sequence=0)
    foreign = msgspec.structs.replace(head, market="BTC/EUR", epoch=head.epoch + 1)
    twin.say(host, b"h", twin.beat(behind, foreign, head))
    assert log.fold.epoch == head.epoch
    assert host.n.core.counted["ignored_own_heartbeat"] == 1
    other = msgspec.structs.replace(head, head_hash=b"o" * 32)
    twin.say(host, b"h", twin.beat(behind, other))
    assert log.fold.epoch > head.epoch
