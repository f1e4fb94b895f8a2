"""Replicas: what others sign becomes our book, whatever order, gap, fork or lie it comes with."""

from __future__ import annotations

import msgspec
import pytest

from tests.unit.maker import Maker
from tests.unit.stranger import Stranger
from tests.wire import MARKET, Host, Wire
from zmqex import limits
from zmqex.kernel import effects as out
from zmqex.kernel.commands import GetBook, GetPeerBook, GetStatus
from zmqex.kernel.events import StreamReceived
from zmqex.kernel.logs import MakerLog, Waiting
from zmqex.kernel.replicas import FoundOrder
from zmqex.kernel.sessions import State
from zmqex.market.orders import Side
from zmqex.protocol.codec import decode, encode
from zmqex.protocol.identity import digest, seal, to_text
from zmqex.protocol.messages import (
    Batch,
    BookLevels,
    BookRequest,
    Close,
    ForkProof,
    Frame,
    Heads,
    Heartbeat,
    LogPage,
    LogRequest,
    Operation,
    Page,
    Reject,
    Update,
)
from zmqex.reasons import RejectReason


def scene() -> tuple[Wire, Host, Maker]:
    """Return a host, and a maker that is its live peer."""
    wire = Wire()
    (host,) = wire.add("alice")
    maker = Maker(wire)
    maker.befriend(host)
    return wire, host, maker


def log_of(host: Host, maker: Maker) -> MakerLog:
    """Return the host's copy of the maker's log."""
    log = host.n.replicas.log(maker.identity, MARKET)
    assert log is not None
    return log


def counted(host: Host, word: str) -> int:
    """Return how often something was counted."""
    return host.n.core.counted.get(word, 0)


def resting(host: Host, market: str = MARKET) -> list[bytes]:
    """Return the ids of a book, hidden and shown, bids first."""
    book = host.n.replicas.book(market)
    return [order.order_id for side in (Side.BUY, Side.SELL) for order in book.orders(side)]


# --- orders from batches -------------------------------------------------------------------------


def test_a_signed_batch_changes_the_book() -> None:
    """Placed, updated and closed as its maker says; found by id and by prefix until then."""
    wire, host, maker = scene()
    key, place = maker.new(1)
    maker.say(host, maker.topic, maker.publish(place))
    assert resting(host) == [key]
    found = host.n.replicas.find(key.hex()[:8].upper())
    assert isinstance(found, FoundOrder)
    assert (found.order_id, found.maker, found.available_lots) == (key, maker.identity, 1_000)
    maker.say(host, maker.topic, maker.publish(Update(key, 900, 200)))
    order = host.n.replicas.book(MARKET).get(key)
    assert order is not None
    assert order.available_lots == 700
    row = host.n.replicas.row(key)
    assert row is not None
    assert (row.remaining_lots, row.held_lots, row.available_lots) == (900, 200, 700)
    maker.say(host, maker.topic, maker.publish(Close(key, "filled")))
    assert resting(host) == []
    assert host.n.replicas.row(key) is None
    assert host.n.replicas.find(key.hex()) is None
    assert host.n.replicas.find("abc") is RejectReason.MALFORMED
    wire.run(1)


def test_one_batch_from_two_relays_is_applied_once() -> None:
    """Both copies may be verified before the first is applied; a very late one finds no place."""
    wire, host, maker = scene()
    raw = maker.publish(maker.new(1)[1])
    host.handle(StreamReceived(((maker.topic, raw), (maker.topic, raw))))
    wire.run(0)
    log = log_of(host, maker)
    assert log.at == (maker.fold.epoch, 1)
    log.tail._bytes_max = 1  # type: ignore[misc]
    maker.say(host, maker.topic, maker.publish(maker.new(2)[1]))
    before = log.fold.head()
    host.n.replicas.accept_batch(waiting_of(raw))
    assert (log.fold.head(), log.gap) == (before, {})


def test_an_ambiguous_prefix_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several orders with one prefix: the user must say more."""
    monkeypatch.setattr("zmqex.kernel.replicas.ID_PREFIX_CHARS_MIN", 0)
    _, host, maker = scene()
    maker.say(host, maker.topic, maker.publish(maker.new(1)[1], maker.new(2)[1]))
    assert host.n.replicas.find("") is RejectReason.AMBIGUOUS_ID


def test_expired_orders_are_hidden_and_stay_in_the_fold() -> None:
    """On arrival, with time, and when they claim to live too long by our clock."""
    wire, host, maker = scene()
    now_ms = wire.wall_ms
    late, soon = maker.new(1, expires_at_ms=now_ms - 1), maker.new(2, expires_at_ms=now_ms + 50)
    far_ms = now_ms + limits.ORDER_LIFE_MAX_MS + limits.CLOCK_SKEW_MAX_MS + 5_000
    far = maker.new(3, expires_at_ms=far_ms)
    ahead = maker.sign(late[1], soon[1], far[1], sent_at_ms=now_ms + 3_600_000)
    maker.say(host, maker.topic, ahead)
    assert resting(host) == [soon[0]]
    wire.run(60)
    host.do(lambda: None)
    assert resting(host) == []
    assert len(log_of(host, maker).fold.orders) == 3
    assert host.n.core.counted["hidden_expired"] == 1


def test_what_is_not_worth_a_signature_check_is_ignored() -> None:
    """Future and old epochs, repeats, other markets, unknown topics and nonsense: counted only."""
    wire, host, maker = scene()
    first = maker.publish(maker.new(1)[1])
    maker.say(host, maker.topic, first)
    host.effects.clear()
    future = wire.wall_ms + limits.CLOCK_SKEW_MAX_MS + 10
    place = maker.new(2)[1]
    maker.say(host, maker.topic, first)
    maker.say(host, maker.topic, maker.sign(place, epoch=future))
    maker.say(host, maker.topic, maker.sign(place, epoch=1))
    maker.say(host, maker.topic, maker.sign(place, market="BTC/EUR"))
    maker.say(host, maker.topic, b"\xc1")
    maker.say(host, b"x", first)
    assert [one for one in host.effects if isinstance(one, out.Verify)] == []
    for word in ("duplicate_batch", "future_epoch", "old_epoch", "unknown_topic"):
        assert counted(host, "ignored_" + word) == 1
    assert counted(host, "malformed") == 2


def test_a_wrong_signature_changes_nothing() -> None:
    """Signed by another key, for another network or as another kind: counted, not applied."""
    _, host, maker = scene()
    raw = maker.sign(maker.new(1)[1])
    body = msgspec.msgpack.decode(raw)[0]
    other = Stranger(maker.wire, "other")
    for forged in (
        seal(other.key, "play", "batch", body),
        seal(maker.key, "main", "batch", body),
        seal(maker.key, "play", "heartbeat", body),
    ):
        maker.say(host, maker.topic, forged)
    assert counted(host, "bad_signatures") == 3
    assert host.n.replicas.log(maker.identity, MARKET) is None


def test_too_many_signatures_at_once_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dropped is found missing later, and fetched."""
    monkeypatch.setattr("zmqex.kernel.claims.VERIFYING_MAX", 0)
    _, host, maker = scene()
    maker.say(host, maker.topic, maker.publish(maker.new(1)[1]))
    assert host.n.core.counted["verifications_dropped"] == 1
    assert host.n.replicas.log(maker.identity, MARKET) is None


def test_so_many_makers_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound a new maker is ignored, also when its signature was checked already."""
    wire, host, maker = scene()
    other = Maker(wire, "other", "10.9.9.8")
    for about, raw in (
        (maker.topic, maker.publish(maker.new(1)[1])),
        (b"h", maker.beat()),
        (other.topic, other.publish(other.new(1)[1])),
        (b"h", other.beat()),
    ):
        one = (about, raw)
        host.n.core.begin(wire.now())
        monkeypatch.setattr("zmqex.kernel.claims.MAKERS_MAX", 2)
        monkeypatch.setattr("zmqex.kernel.replicas.MAKERS_MAX", 2)
        maker.say(host, *one)
    assert len(host.n.replicas.makers) == 2
    assert counted(host, "ignored_maker_full") == 2
    monkeypatch.setattr("zmqex.kernel.claims.MAKERS_MAX", 3)
    other.say(host, other.topic, other.envelopes[0])
    other.say(host, b"h", other.beat(later_ms=1))
    assert len(host.n.replicas.makers) == 2
    assert host.n.replicas.is_stale(other.identity)


# --- gaps ----------------------------------------------------------------------------------------


def test_a_gap_is_closed_by_what_comes_late() -> None:
    """Batches out of order wait; nobody is asked if the missing one comes in time."""
    wire, host, maker = scene()
    raws = [maker.publish(maker.new(number)[1]) for number in range(3)]
    for index in (2, 0, 1):
        maker.say(host, maker.topic, raws[index])
    assert log_of(host, maker).fold.sequence == 3
    wire.run(limits.GAP_WAIT_MS + 1)
    assert maker.asked(host, "log") == []
    assert log_of(host, maker).state == "current"


def test_a_gap_is_fetched_from_the_maker() -> None:
    """The pages go on until the head is reached."""
    wire, host, maker = scene()
    for number in range(5):
        maker.publish(maker.new(number)[1])
    maker.say(host, maker.topic, maker.envelopes[4])
    assert log_of(host, maker).state == "behind"
    wire.run(limits.GAP_WAIT_MS + 1)
    asked = decode(maker.asked(host, "log")[-1].body, LogRequest)
    assert (asked.maker, asked.from_sequence) == (maker.identity, 1)
    maker.reply(host, "log", LogPage(maker.envelopes[:2]))
    wire.run(0)
    assert decode(maker.asked(host, "log")[-1].body, LogRequest).from_sequence == 3
    maker.reply(host, "log", LogPage(maker.envelopes[2:3]))
    wire.run(0)
    maker.reply(host, "log", LogPage(maker.envelopes[3:]))
    wire.run(0)
    assert log_of(host, maker).fold.head() == maker.fold.head()
    assert len(maker.asked(host, "log")) == 3


def test_a_failure_means_that_somebody_else_is_asked() -> None:
    """Refused, empty, unreadable, forged, another log: the next peer, and what we had stays."""
    wire, host, maker = scene()
    helpers = [Maker(wire, f"helper {number}", f"10.8.8.{number}") for number in range(6)]
    for one in helpers:
        one.befriend(host)
    maker.publish(maker.new(1)[1])
    maker.publish(maker.new(2)[1])
    maker.say(host, maker.topic, maker.envelopes[1])
    wire.run(limits.GAP_WAIT_MS + 1)
    maker.reject(host, "log", "starting")
    helpers[0].reply(host, "log", LogPage([]))
    helpers[1].reply(host, "log", Page(b"x"))
    forged = seal(helpers[2].key, "play", "batch", msgspec.msgpack.decode(maker.envelopes[0])[0])
    helpers[2].reply(host, "log", LogPage([forged]))
    wire.run(0)
    foreign = helpers[3].publish(helpers[3].new(1)[1])
    helpers[3].reply(host, "log", LogPage([foreign]))
    assert log_of(host, maker).fold.sequence == 0
    # One page with the truth and a lie: the truth counts, the liar is not asked again.
    extra = maker.sign(maker.new(3)[1])
    lie = seal(helpers[2].key, "play", "batch", msgspec.msgpack.decode(extra)[0])
    helpers[4].reply(host, "log", LogPage([maker.envelopes[0], lie]))
    wire.run(0)
    assert log_of(host, maker).fold.head() == maker.fold.head()
    peers = host.n.sessions.peers
    assert [peers[one.identity].penalty for one in helpers] == [0, 5, 10, 5, 10, 0]


def test_a_liar_is_not_asked_again_while_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a page with a wrong signature the next page comes from another peer."""
    monkeypatch.setattr("zmqex.kernel.replicas.GAP_BATCHES_MAX", 1)
    wire, host, maker = scene()
    helper = Maker(wire, "helper", "10.8.8.8")
    helper.befriend(host)
    for number in range(4):
        maker.publish(maker.new(number)[1])
    maker.say(host, maker.topic, maker.envelopes[3])
    wire.run(limits.GAP_WAIT_MS + 1)
    lie = seal(helper.key, "play", "batch", msgspec.msgpack.decode(maker.envelopes[1])[0])
    maker.reply(host, "log", LogPage([maker.envelopes[0], lie]))
    wire.run(0)
    assert decode(helper.asked(host, "log")[-1].body, LogRequest).from_sequence == 2


def test_a_repair_that_finds_nothing_ends_until_there_is_news() -> None:
    """All were asked once; the next heartbeat starts again."""
    wire, host, maker = scene()
    maker.publish(maker.new(1)[1])
    maker.say(host, b"h", maker.beat())
    wire.run(limits.GAP_WAIT_MS + 1)
    maker.reply(host, "log", LogPage([]))
    wire.run(1_000)
    assert len(maker.asked(host, "log")) == 1
    maker.say(host, b"h", maker.beat())
    wire.run(limits.GAP_WAIT_MS + 1)
    assert len(maker.asked(host, "log")) == 2


def test_a_batch_from_the_far_future_of_a_log_waits_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A jump of a billion is a gap like any other; the farthest of too many waiting is dropped."""
    monkeypatch.setattr("zmqex.kernel.replicas.GAP_BATCHES_MAX", 2)
    _, host, maker = scene()
    for sequence in (10**9, 5, 7, 6):
        maker.say(host, maker.topic, maker.sign(maker.new(sequence)[1], sequence=sequence))
    assert sorted(log_of(host, maker).gap) == [5, 6]
    assert counted(host, "gap_batches_dropped") == 2


def test_a_heartbeat_reveals_that_the_last_batch_was_lost() -> None:
    """Its head is ahead of ours: the log is fetched."""
    wire, host, maker = scene()
    maker.say(host, maker.topic, maker.publish(maker.new(1)[1]))
    maker.publish(maker.new(2)[1])
    maker.say(host, b"h", maker.beat())
    wire.run(limits.GAP_WAIT_MS + 1)
    maker.reply(host, "log", LogPage(maker.envelopes[1:]))
    wire.run(0)
    assert log_of(host, maker).fold.head() == maker.fold.head()


def test_a_newer_epoch_voids_the_older_at_once() -> None:
    """By a batch, or by a head without any batch: what was said before is gone."""
    wire, host, maker = scene()
    maker.say(host, maker.topic, maker.publish(maker.new(1)[1]))
    maker.fold.begin(wire.wall_ms + 5)
    maker.say(host, b"h", maker.beat())
    assert resting(host) == []
    assert log_of(host, maker).at == (wire.wall_ms + 5, 0)
    maker.fold.begin(wire.wall_ms + 6)
    key, place = maker.new(2)
    maker.say(host, maker.topic, maker.publish(place))
    assert resting(host) == [key]
    old = maker.sign(maker.new(3)[1], epoch=1, sequence=1)
    host.n.replicas.accept_batch(waiting_of(old))
    assert resting(host) == [key]
    maker.say(
        host, b"h", maker.beat(msgspec.structs.replace(maker.fold.head(), epoch=1), later_ms=1)
    )
    assert resting(host) == [key]


def waiting_of(raw: bytes) -> Waiting:
    """Return a batch as it is handed over after its signature was checked."""
    body = msgspec.msgpack.decode(raw)[0]
    return Waiting(decode(body, Batch), digest(body), raw)


# --- makers that break the rules -----------------------------------------------------------------


@pytest.mark.parametrize("operation", [Update(b"u" * 32, 1, 0), Close(b"u" * 32, "x")])
def test_operations_on_unknown_orders_stop_the_log(operation: Operation) -> None:
    """What no maker may sign is not applied, and nothing after it, until a new epoch."""
    wire, host, maker = scene()
    key, place = maker.new(1)
    maker.say(host, maker.topic, maker.publish(place))
    maker.say(host, maker.topic, maker.sign(operation))
    assert log_of(host, maker).state == "refused"
    assert resting(host) == [key]
    assert host.n.sessions.peers[maker.identity].penalty == 10
    maker.say(host, maker.topic, maker.sign(maker.new(2)[1]))
    maker.say(host, b"h", maker.beat())
    host.n.replicas.accept_batch(waiting_of(maker.sign(maker.new(2)[1])))
    assert log_of(host, maker).at == (maker.fold.epoch, 1)
    maker.fold.begin(wire.wall_ms + 1)
    maker.say(host, maker.topic, maker.publish(maker.new(3)[1]))
    assert log_of(host, maker).state == "current"


def test_two_batches_at_one_place_void_the_epoch() -> None:
    """A fork is proven by two signatures: hidden, logged, passed on; a new epoch ends it."""
    wire, host, maker = scene()
    key, place = maker.new(1)
    other = maker.sign(maker.new(2)[1])
    maker.say(host, maker.topic, maker.publish(place))
    maker.say(host, maker.topic, other)
    log = log_of(host, maker)
    assert log.state == "forked"
    assert resting(host) == []
    assert host.n.replicas.row(key) is None
    assert host.n.replicas.find(key.hex()) is None
    published = [one for one in host.effects if isinstance(one, out.Publish)]
    assert [one.envelope for one in published if one.topic == b"e"] == [log.proof]
    assert decode(log.proof, ForkProof) == ForkProof(maker.envelopes[0], other)
    maker.say(host, maker.topic, maker.sign(maker.new(3)[1]))
    maker.say(host, b"h", maker.beat())
    host.n.replicas.accept_batch(waiting_of(maker.sign(maker.new(3)[1])))
    assert resting(host) == []
    assert counted(host, "ignored_forked_log") == 1
    maker.fold.begin(wire.wall_ms + 1)
    maker.say(host, maker.topic, maker.publish(place))
    assert resting(host) == [key]
    assert log.state == "current"


def test_a_fork_among_waiting_batches_is_seen() -> None:
    """Two batches of one number that both wait prove it as well."""
    _, host, maker = scene()
    for number in (1, 2):
        maker.say(host, maker.topic, maker.sign(maker.new(number)[1], sequence=2))
    assert log_of(host, maker).state == "forked"


def test_a_proof_of_a_fork_is_believed_from_anybody() -> None:
    """On its topic, about a maker that we follow, with two good signatures, and only then."""
    _, host, maker = scene()
    first, second = maker.sign(maker.new(1)[1]), maker.sign(maker.new(2)[1])
    third = maker.sign(maker.new(2)[1], sequence=2)
    proof = encode(ForkProof(first, second))
    maker.say(host, b"e", proof)
    assert counted(host, "ignored_fork_proof") == 1  # of a maker that we do not know
    maker.say(host, b"h", maker.beat())
    maker.say(host, b"e", encode(ForkProof(first, first)))
    maker.say(host, b"e", encode(ForkProof(first, third)))
    assert counted(host, "malformed") == 2
    unsigned = seal(
        Stranger(maker.wire, "x").key, "play", "batch", msgspec.msgpack.decode(first)[0]
    )
    maker.say(host, b"e", encode(ForkProof(unsigned, second)))
    assert log_of(host, maker).state == "current"
    maker.say(host, b"e", proof)
    assert log_of(host, maker).state == "forked"
    maker.say(host, b"e", proof)
    assert counted(host, "ignored_fork_proof") == 2


def test_proofs_of_forks_cost_a_bounded_time() -> None:
    """A few at once, then one a second."""
    _, host, maker = scene()
    maker.say(host, b"h", maker.beat())
    key = Stranger(maker.wire, "x").key
    bodies = [msgspec.msgpack.decode(maker.sign(maker.new(number)[1]))[0] for number in (1, 2)]
    forged = [seal(key, "play", "batch", body) for body in bodies]
    for _ in range(limits.FORK_PROOFS_BURST + 2):
        maker.say(host, b"e", encode(ForkProof(*forged)))
    assert counted(host, "ignored_rate_limited") == 2
    assert counted(host, "bad_signatures") == limits.FORK_PROOFS_BURST


def test_a_proof_that_is_late_changes_nothing() -> None:
    """The epoch may have ended, or be void already, while its signatures were checked."""
    wire, host, maker = scene()
    maker.say(host, maker.topic, maker.publish(maker.new(1)[1]))
    log = log_of(host, maker)
    proof = ForkProof(b"", b"")
    host.n.replicas.accept_fork(log, 1, proof)
    assert log.state == "current"
    wire.run(0)


def test_a_proof_too_large_for_a_frame_is_kept_to_ourselves() -> None:
    """The epoch is void here all the same."""
    _, host, maker = scene()
    maker.say(host, maker.topic, maker.publish(maker.new(1)[1]))
    log = log_of(host, maker)
    huge = bytes(limits.FRAME_BYTES_MAX // 2 + 1)
    host.do(lambda: host.n.replicas.accept_fork(log, maker.fold.epoch, ForkProof(huge, huge)))
    assert (log.forked, log.proof) == (True, b"")


@pytest.mark.parametrize("how", ["batch", "heartbeat"])
def test_a_chain_that_differs_from_ours_is_looked_into(how: str) -> None:
    """A batch upon another head, or a heartbeat of one: the differing batch is fetched as proof."""
    wire, host, maker = scene()
    twin = Maker(wire)
    maker.say(host, maker.topic, maker.publish(maker.new(1)[1]))
    twin.publish(twin.new(2)[1])
    if how == "batch":
        maker.say(host, maker.topic, twin.publish(twin.new(3)[1]))
    else:
        maker.say(host, b"h", twin.beat())
    asked = decode(maker.asked(host, "log")[-1].body, LogRequest)
    assert asked.from_sequence == 1
    maker.reply(host, "log", LogPage(twin.envelopes[:1]))
    wire.run(0)
    assert log_of(host, maker).state == "forked"


def test_a_chain_that_nobody_can_prove_different_is_kept() -> None:
    """Everybody has the version that we have: we keep it, and ask again at the next heartbeat."""
    wire, host, maker = scene()
    twin = Maker(wire)
    maker.say(host, maker.topic, maker.publish(maker.new(1)[1]))
    twin.publish(twin.new(2)[1])
    for _ in range(2):
        wire.run(10)
        maker.say(host, b"h", twin.beat())
        maker.reply(host, "log", LogPage(maker.envelopes))
        wire.run(0)
    assert log_of(host, maker).state == "current"
    assert len(maker.asked(host, "log")) == 2


def test_a_differing_chain_does_not_start_a_second_repair() -> None:
    """While a log is being fetched, further news of it only wait."""
    wire, host, maker = scene()
    twin = Maker(wire)
    maker.say(host, maker.topic, maker.publish(maker.new(1)[1]))
    twin.publish(twin.new(2)[1])
    maker.say(host, b"h", twin.beat())
    maker.say(host, b"h", twin.beat(later_ms=1))
    maker.say(host, maker.topic, maker.sign(maker.new(9)[1], sequence=9))
    wire.run(100)
    assert len(maker.asked(host, "log")) == 1


def test_a_wrong_root_is_noticed_and_nothing_is_deleted() -> None:
    """Same head, other root: the maker's mistake; counted, and the orders stay."""
    _, host, maker = scene()
    key, place = maker.new(1)
    maker.say(host, maker.topic, maker.publish(place))
    head = msgspec.structs.replace(maker.fold.head(), book_root=b"r" * 32)
    maker.say(host, b"h", maker.beat(head))
    assert counted(host, "root_mismatch") == 1
    assert resting(host) == [key]


# --- heartbeats ----------------------------------------------------------------------------------


def test_a_heartbeat_counts_if_it_is_new_and_fresh() -> None:
    """Old, repeated, too far in the future: ignored; too old to be alive: its heads count."""
    wire, host, maker = scene()
    maker.say(host, b"h", maker.beat(later_ms=-limits.CLOCK_SKEW_MAX_MS - 1))
    assert host.n.replicas.is_stale(maker.identity)
    beat = maker.beat()
    maker.say(host, b"h", beat)
    assert not host.n.replicas.is_stale(maker.identity)
    maker.say(host, b"h", beat)
    maker.say(host, b"h", maker.beat(later_ms=-1))
    assert counted(host, "ignored_old_heartbeat") == 2
    maker.say(host, b"h", maker.beat(later_ms=limits.CLOCK_SKEW_MAX_MS + 1))
    assert counted(host, "ignored_clock_skew") == 1
    older = decode(msgspec.msgpack.decode(beat)[0], Heartbeat)
    host.n.replicas.accept_heartbeat(older, beat, b"")  # verified after a newer one
    wire.run(limits.SILENT_MS)
    host.do(lambda: None)
    assert host.n.replicas.is_stale(maker.identity)
    assert host.n.replicas.is_stale(b"nobody")
    assert not host.n.replicas.is_stale(host.identity)


def test_heads_of_other_markets_and_times_are_passed_over() -> None:
    """Only followed markets count, and no epoch from the future."""
    wire, host, maker = scene()
    head = maker.fold.head()
    strange = msgspec.structs.replace(head, market="BTC/EUR")
    future = msgspec.structs.replace(head, epoch=wire.wall_ms + 10**6)
    maker.say(host, b"h", maker.beat(strange, future))
    assert host.n.replicas.logs_of(maker.identity) == []
    assert host.n.replicas.logs_of(b"nobody") == []
    assert host.n.replicas.markets() == (MARKET,)


def test_a_heartbeat_of_a_peer_that_backs_off_makes_us_dial() -> None:
    """It lives after all, and its address is due."""
    wire, host, maker = scene()
    wire.run(5)
    maker.say(host, b"p", maker.record(leaving=True))
    assert host.n.sessions.peers[maker.identity].state is State.BACKING_OFF
    host.effects.clear()
    maker.say(host, b"h", maker.beat())
    wire.run(1_000)
    assert any(isinstance(one, out.DialHello) for one in host.effects)


# --- bounds --------------------------------------------------------------------------------------


def test_a_stranger_with_too_many_orders_is_followed_head_only() -> None:
    """No order of it rests rather than some of them; the chain goes on; trust brings all back."""
    _, host, maker = scene()
    for start in (0, 60):
        places = [maker.new(number)[1] for number in range(start, start + 60)]
        maker.say(host, maker.topic, maker.publish(*places))
    log = log_of(host, maker)
    assert (log.state, resting(host), log.fold.sequence) == ("head_only", [], 2)
    key = maker.new(0)[0]
    maker.say(host, maker.topic, maker.publish(Close(key, "x")))
    assert log.fold.sequence == 3
    maker.say(host, b"h", maker.beat())
    assert (log.state, counted(host, "root_mismatch")) == ("head_only", 0)
    host.do(lambda: host.n.replicas.trust(maker.identity))
    assert (log.state, len(resting(host))) == ("current", 119)
    assert log.fold.head() == maker.fold.head()
    host.do(lambda: host.n.replicas.trust(maker.identity))
    host.do(lambda: host.n.replicas.trust(b"nobody"))


def test_a_stranger_that_stays_is_no_stranger() -> None:
    """After an hour of connection, or pinned by the operator, the wider cap holds."""
    wire, host, maker = scene()
    places = [maker.new(number)[1] for number in range(101)]
    maker.say(host, maker.topic, maker.publish(*places))
    assert log_of(host, maker).state == "head_only"
    host.n.sessions.peers[maker.identity].live_since_ms -= limits.STRANGER_MS
    maker.say(host, b"h", maker.beat())
    assert log_of(host, maker).state == "current"
    assert len(resting(host)) == 101
    other = Maker(wire, "other", "10.9.9.8")
    other.befriend(host)
    host.n.sessions.peers[other.identity].pinned = True
    other.say(host, other.topic, other.publish(*[other.new(number)[1] for number in range(101)]))
    assert log_of(host, other).state == "current"


def test_a_head_only_log_whose_beginning_is_lost_stays_so() -> None:
    """Without all its batches it cannot be folded again."""
    _, host, maker = scene()
    maker.say(host, maker.topic, maker.publish(*[maker.new(number)[1] for number in range(101)]))
    log = log_of(host, maker)
    log.tail._bytes_max = 1  # type: ignore[misc]
    maker.say(host, maker.topic, maker.publish(maker.new(200)[1]))
    host.do(lambda: host.n.replicas.trust(maker.identity))
    assert log.state == "head_only"


def test_a_head_only_log_that_was_never_valid_is_refused_when_it_is_folded() -> None:
    """While head-only its operations were not checked; folding it again finds that out."""
    _, host, maker = scene()
    maker.say(host, maker.topic, maker.publish(*[maker.new(number)[1] for number in range(101)]))
    maker.fold.forget_orders()
    maker.say(host, maker.topic, maker.publish(Close(b"u" * 32, "x")))
    host.do(lambda: host.n.replicas.trust(maker.identity))
    assert log_of(host, maker).state == "refused"


def test_a_full_node_takes_no_more_orders_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The maker that would be too much goes head-only; our own orders always fit."""
    monkeypatch.setattr("zmqex.kernel.replicas.ORDERS_TOTAL_MAX", 2)
    _, host, maker = scene()
    (first, one), (second, two) = maker.new(1), maker.new(2)
    maker.say(host, maker.topic, maker.publish(one, two))
    assert sorted(resting(host)) == sorted([first, second])
    maker.say(host, maker.topic, maker.publish(Update(first, 5, 0)))
    assert log_of(host, maker).state == "current"
    own = host.place(1)
    assert own in resting(host)
    maker.say(host, maker.topic, maker.publish(maker.new(3)[1]))
    assert log_of(host, maker).state == "head_only"
    assert resting(host) == [own]


def test_an_order_that_the_book_refuses_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fold has it, the book says why not, and nothing breaks."""
    _, host, maker = scene()
    monkeypatch.setattr(host.n.replicas.book(MARKET), "_orders_max", 0)
    key, place = maker.new(1)
    maker.say(host, maker.topic, maker.publish(place))
    assert counted(host, "hidden_book_full") == 1
    assert key in log_of(host, maker).fold.orders
    maker.say(host, maker.topic, maker.publish(Update(key, 5, 0)))
    assert resting(host) == []


# --- serving -------------------------------------------------------------------------------------


def test_heads_are_served_a_page_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest heartbeat of each maker, ours too, in order of identity; then an empty page."""
    wire, host, maker = scene()
    other = Maker(wire, "other", "10.9.9.8")
    for one in (maker, other):
        one.say(host, b"h", one.beat())
    silent = Maker(wire, "silent", "10.9.9.7")
    silent.say(host, silent.topic, silent.publish(silent.new(1)[1]))
    for bound, value in (("PEERS_PAGE_MAX", 1), ("LOG_PAGE_BYTES_MAX", 1)):
        with monkeypatch.context() as patch:
            patch.setattr("zmqex.kernel.sync." + bound, value)
            makers, after = [], b""
            while page := decode(maker.ask(host, "heads", Page(after)).body, Heads).heartbeats:
                assert len(page) == 1
                after = decode(msgspec.msgpack.decode(page[0])[0], Heartbeat).maker
                makers.append(after)
        assert makers == sorted([host.identity, maker.identity, other.identity])


def test_logs_are_served_verbatim_own_and_others() -> None:
    """From any number on; unknown makers, other epochs and dropped batches have their reasons."""
    _, host, maker = scene()
    for number in range(3):
        maker.say(host, maker.topic, maker.publish(maker.new(number)[1]))
    epoch = maker.fold.epoch

    def asked(of: bytes, at: int, number: int) -> Frame:
        return maker.ask(host, "log", LogRequest(of, MARKET, at, number))

    page = decode(asked(maker.identity, epoch, 2).body, LogPage)
    assert page.batches == maker.envelopes[1:]
    host.place(1)
    own = decode(asked(host.identity, host.n.replicas.own_log(MARKET).fold.epoch, 1).body, LogPage)
    assert own.batches == [one.envelope for one in host.batches.values()]
    for of, at, reason in (
        (b"n" * 32, epoch, "unknown_maker"),
        (maker.identity, epoch - 1, "old_epoch"),
        (maker.identity, epoch + 1, "sequence_gap"),
    ):
        assert decode(asked(of, at, 1).body, Reject).reason == reason
    log_of(host, maker).tail._bytes_max = 1  # type: ignore[misc]
    maker.say(host, maker.topic, maker.publish(maker.new(9)[1]))
    assert decode(asked(maker.identity, epoch, 1).body, Reject).reason == "log_too_old"


def test_levels_are_served() -> None:
    """Aggregated, best first; a market that is not followed is refused."""
    _, host, maker = scene()
    host.place(1, price_ticks=100)
    host.place(2, price_ticks=101)
    host.place(3, price_ticks=101)
    host.place(4, side="sell", price_ticks=200)
    levels = decode(maker.ask(host, "book", BookRequest(MARKET, 1)).body, BookLevels)
    assert [(one.price_ticks, one.quantity_lots, one.orders) for one in levels.bids] == [
        (101, 2_000, 2)
    ]
    assert [one.price_ticks for one in levels.asks] == [200]
    assert maker.refused(host, "book", BookRequest("BTC/EUR", 1)).reason == "wrong_market"


# --- a new peer ----------------------------------------------------------------------------------


def answer_heads(maker: Maker, host: Host, *heartbeats: bytes) -> None:
    """Answer the newest question for heads, and have the signatures checked."""
    maker.reply(host, "heads", Heads(list(heartbeats)))
    maker.wire.run(0)


def test_a_new_peer_is_asked_for_all_heads_then_for_logs() -> None:
    """Also of makers that are not connected: any peer can serve any log."""
    wire, host, peer = scene()
    absent = Maker(wire, "absent", "10.7.7.7")
    key, place = absent.new(1)
    absent.publish(place)
    assert host.n.sessions.peers[peer.identity].state is State.SYNCING
    answer_heads(peer, host, absent.beat(later_ms=-60_000))
    answer_heads(peer, host)
    assert host.n.sessions.peers[peer.identity].state is State.SYNCING
    wire.run(limits.GAP_WAIT_MS + 1)
    peer.reply(host, "log", LogPage(absent.envelopes))
    wire.run(0)
    assert resting(host) == [key]
    assert host.n.replicas.is_stale(absent.identity)
    assert host.n.sessions.peers[peer.identity].state is State.LIVE


def test_a_log_that_nobody_could_be_asked_for_is_fetched_from_the_next_peer() -> None:
    """Heard of before anybody was live: the repair starts as soon as somebody is."""
    wire = Wire()
    (host,) = wire.add("alice")
    maker = Maker(wire)
    key, place = maker.new(1)
    maker.publish(place)
    maker.say(host, b"h", maker.beat())
    wire.run(limits.GAP_WAIT_MS + 1)
    assert log_of(host, maker).state == "behind"
    maker.befriend(host)
    answer_heads(maker, host, maker.beat(later_ms=-1))
    answer_heads(maker, host)
    wire.run(limits.GAP_WAIT_MS + 1)
    maker.reply(host, "log", LogPage(maker.envelopes))
    wire.run(0)
    assert resting(host) == [key]


def test_heads_that_cannot_be_believed_end_the_sync() -> None:
    """A wrong signature, a page that does not go on, a refusal: blame where due, and no loop."""
    wire, host, peer = scene()
    absent = Maker(wire, "absent", "10.7.7.7")
    forged = seal(peer.key, "play", "heartbeat", msgspec.msgpack.decode(absent.beat())[0])
    answer_heads(peer, host, forged)
    assert host.n.sessions.peers[peer.identity].penalty == 10
    assert host.n.sessions.peers[peer.identity].state is State.LIVE
    host.do(lambda: host.n.replicas.sync._ask_heads(peer.identity, b"\xff" * 32))
    answer_heads(peer, host, absent.beat())
    assert host.n.sessions.peers[peer.identity].penalty == 15
    host.do(lambda: host.n.replicas.sync._ask_heads(peer.identity, b""))
    asked = len(peer.asked(host, "heads"))
    peer.reject(host, "heads", "starting")
    assert len(peer.asked(host, "heads")) == asked


# --- the operator's views ------------------------------------------------------------------------


def test_the_book_shows_levels_owners_and_what_is_stale() -> None:
    """Cumulative depth, spread, own and stale lots; orders best first where asked for."""
    wire, host, maker = scene()
    maker.say(host, b"h", maker.beat())
    own = host.place(1, price_ticks=100, flags=1)
    cheap, dear = maker.new(1, price_ticks=101), maker.new(2, side="sell", price_ticks=110)
    maker.say(host, maker.topic, maker.publish(cheap[1], maker.new(3)[1], dear[1]))
    maker.say(host, maker.topic, maker.publish(Update(cheap[0], 800, 300)))
    host.command(GetBook(MARKET, 10, orders=True))
    book = host.answers()[-1].result
    assert (book["spread_ticks"], book["makers"], book["stale_makers"]) == (9, 2, 0)
    assert [one["price_ticks"] for one in book["bids"]] == [101, 100]
    assert book["bids"][1] == {
        "price_ticks": 100,
        "quantity_lots": 2_000,
        "cumulative_lots": 2_500,
        "orders": 2,
        "own_lots": 1_000,
        "stale_lots": 0,
    }
    orders = {bytes.fromhex(one["order_id"]): one for one in book["orders"]}
    assert (orders[own]["own"], orders[own]["all_or_none"]) == (True, True)
    first = book["orders"][0]
    assert (first["remaining_lots"], first["held_lots"], first["available_lots"]) == (800, 300, 500)
    wire.run(limits.SILENT_MS + 1)
    host.command(GetBook(MARKET, 1))
    book = host.answers()[-1].result
    assert (len(book["bids"]), book["orders"], book["stale_makers"]) == (1, [], 1)
    assert book["bids"][0]["stale_lots"] == 500
    host.command(GetBook(MARKET, 0))
    assert len(host.answers()[-1].result["bids"]) == 2


def test_an_empty_or_unknown_market_has_a_clear_answer() -> None:
    """No spread without two sides; a market that is not followed is refused by name."""
    _, host, _ = scene()
    host.command(GetBook(MARKET))
    assert host.answers()[-1].result["spread_ticks"] is None
    host.command(GetBook("BTC/XXX"))
    answer = host.answers()[-1]
    assert (answer.ok, answer.result["reason"]) == (False, "wrong_market")
    assert not host.n.replicas.on_command(b"", 1, GetStatus())


def test_a_peers_whole_book_is_fetched_and_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own orders and those of others that it follows, page by page."""
    monkeypatch.setattr("zmqex.kernel.sync.LOG_PAGE_BYTES_MAX", 400)
    wire = Wire()
    alice, bob, carol = wire.meet("alice", "bob", "carol")
    placed = {host.place(number) for number in range(3) for host in (alice, bob)}
    wire.run(5_500)
    carol.command(GetPeerBook(to_text(bob.identity)[:10], MARKET))
    wire.run(1_000)
    result = carol.answers()[-1].result
    assert result["peer"] == to_text(bob.identity)
    assert {bytes.fromhex(one["order_id"]) for one in result["orders"]} == placed
    assert (result["batches"], result["makers"]) == (6, 2)
    assert result["bids"][0]["quantity_lots"] == 6_000
    carol.command(GetPeerBook("nobody22", MARKET))
    assert carol.answers()[-1].result["reason"] == "unknown_peer"
    bob.crash()
    carol.command(GetPeerBook(to_text(bob.identity), MARKET))
    wire.run(limits.REQUEST_DEADLINE_MS + 10)
    assert carol.answers()[-1].result["reason"] == "timed_out"


def fetched(host: Host, peer: Maker) -> None:
    """Start to fetch a peer's book."""
    host.command(GetPeerBook(to_text(peer.identity), MARKET))


@pytest.mark.parametrize("fault", ["heads", "head signature", "batch signature", "chain", "size"])
def test_a_peers_book_that_lies_is_refused(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One wrong signature or broken chain, and nothing of it is shown."""
    if fault == "size":
        monkeypatch.setattr("zmqex.kernel.books.ORDERS_TOTAL_MAX", 0)
    _, host, peer = scene()
    peer.publish(peer.new(1)[1])
    key = Stranger(peer.wire, "x").key
    fetched(host, peer)
    beat = peer.beat()
    if fault == "heads":
        peer.reply(host, "heads", Heads([peer.beat()]))
        peer.reply(host, "heads", Heads([peer.beat()]))
    elif fault == "head signature":
        forged = seal(key, "play", "heartbeat", msgspec.msgpack.decode(beat)[0])
        peer.reply(host, "heads", Heads([forged]))
    else:
        peer.reply(host, "heads", Heads([beat]))
        peer.reply(host, "heads", Heads([]))
        raw = peer.envelopes[0]
        if fault == "batch signature":
            raw = seal(key, "play", "batch", msgspec.msgpack.decode(raw)[0])
        if fault == "chain":
            raw = peer.sign(peer.new(5)[1], sequence=7)
        peer.reply(host, "log", LogPage([raw]))
    answer = host.answers()[-1]
    assert (answer.ok, answer.result["reason"]) == (False, "malformed")
    assert "did not give its book" in answer.result["message"]


def test_a_peers_book_may_be_empty_or_end_early() -> None:
    """No heads: an empty book.  A log that ends before its head: what there is."""
    _, host, peer = scene()
    fetched(host, peer)
    peer.reply(host, "heads", Heads([]))
    assert host.answers()[-1].result["batches"] == 0
    peer.publish(peer.new(1)[1])
    peer.publish(peer.new(2)[1])
    fetched(host, peer)
    peer.reply(host, "heads", Heads([peer.beat()]))
    peer.reply(host, "heads", Heads([]))
    peer.reply(host, "log", LogPage(peer.envelopes[:1]))
    peer.reply(host, "log", LogPage([]))
    assert host.answers()[-1].result["batches"] == 1


def test_every_change_of_a_book_is_announced_once() -> None:
    """One line per event and market, for live views."""
    _, host, maker = scene()
    host.effects.clear()
    maker.say(host, maker.topic, maker.publish(maker.new(1)[1], maker.new(2)[1]))
    announced = [one for one in host.effects if isinstance(one, out.Announce)]
    assert [(one.topic, one.facts) for one in announced] == [("book", {"market": MARKET})]
