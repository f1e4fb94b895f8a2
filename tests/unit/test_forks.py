"""Makers that break the rules or are too much: what is kept, hidden, proven and passed on."""

from __future__ import annotations

import msgspec
import pytest

from tests.unit.maker import Maker, counted, log_of, resting, scene, waiting_of
from tests.unit.stranger import Stranger
from tests.wire import MARKET
from zmqex import limits
from zmqex.kernel import effects as out
from zmqex.kernel.events import StreamReceived
from zmqex.protocol.codec import decode, encode
from zmqex.protocol.identity import seal
from zmqex.protocol.messages import (
    Close,
    ForkProof,
    LogPage,
    LogRequest,
    Operation,
    Update,
)
from zmqex.protocol.tail import Tail

# --- makers that break the rules ------------------------------------------------------------------


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
    assert counted(host, "repeats") == 1
    maker.say(host, b"e", encode(ForkProof(second, first)))
    assert counted(host, "ignored_fork_proof") == 2


def test_who_asks_for_a_forked_log_hears_the_proof() -> None:
    """It was not there when the proof was said first; once a second is enough."""
    wire, host, maker = scene()
    maker.say(host, maker.topic, maker.sign(maker.new(1)[1]))
    maker.say(host, maker.topic, maker.sign(maker.new(2)[1]))
    question = LogRequest(maker.identity, MARKET, maker.fold.epoch, 1)

    def proofs() -> int:
        said = [one for one in host.effects if isinstance(one, out.Publish)]
        return sum(one.topic == b"e" for one in said)

    for after_ms, said in ((0, 1), (999, 1), (1, 2), (0, 2)):
        wire.run(after_ms)
        assert maker.refused(host, "log", question).reason == "forked_log"
        assert proofs() == said


def test_the_maker_of_a_void_epoch_hears_the_proof_until_it_opens_a_new_one() -> None:
    """It may have missed it: its journal was restored, and it goes on as if nothing was."""
    wire, host, maker = scene()
    for number in (1, 2):
        maker.say(host, maker.topic, maker.sign(maker.new(number)[1]))
    host.effects.clear()
    maker.publish(maker.new(3)[1])
    for _ in range(4):
        wire.run(limits.HEARTBEAT_EVERY_MS)
        maker.say(host, b"h", maker.beat())
    said = [one for one in host.effects if isinstance(one, out.Publish) and one.topic == b"e"]
    assert len(said) == 2
    maker.fold.begin(wire.wall_ms + 1)
    maker.say(host, b"h", maker.beat(later_ms=1))
    assert log_of(host, maker).state == "current"


def test_a_maker_that_has_forgotten_part_of_its_log_is_shown_it() -> None:
    """Its journal was restored, and it missed the answer to its first question; seed 514 did."""
    wire, host, maker = scene()
    maker.say(host, maker.topic, maker.publish(maker.new(1)[1]))
    early = maker.fold.head()
    maker.say(host, maker.topic, maker.publish(maker.new(2)[1]))
    host.effects.clear()

    def shown() -> list[bytes]:
        maker.say(host, b"h", maker.beat(early))
        said = [one for one in host.effects if isinstance(one, out.Publish)]
        return [one.envelope for one in said if one.topic == maker.topic]

    assert shown() == [maker.envelopes[1]]
    wire.run(limits.PROOF_EVERY_MS // 2)
    assert len(shown()) == 1
    wire.run(limits.PROOF_EVERY_MS // 2)
    assert len(shown()) == 2
    log_of(host, maker).tail = Tail()
    wire.run(limits.PROOF_EVERY_MS)
    assert len(shown()) == 2  # nothing is left to be shown


def test_a_forged_proof_in_a_crowd_harms_nobody_else() -> None:
    """Each claim of one drain stands and falls with its own signatures."""
    wire, host, maker = scene()
    maker.say(host, b"h", maker.beat())
    other = Maker(wire, "other", "10.9.9.8")
    bodies = [msgspec.msgpack.decode(maker.sign(maker.new(number)[1]))[0] for number in (1, 2)]
    forged = seal(other.key, "play", "batch", bodies[0])
    true = seal(maker.key, "play", "batch", bodies[1])
    key, place = other.new(1)
    crowd = (
        (b"e", encode(ForkProof(forged, true))),
        (other.topic, other.publish(place)),
        (maker.topic, forged),
    )
    host.handle(StreamReceived(crowd))
    wire.run(0)
    assert resting(host) == [key]
    assert log_of(host, maker).state == "current"
    assert counted(host, "bad_signatures") == 2


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
    host.n.replicas.forks.accept(log, 1, proof)
    assert log.state == "current"
    wire.run(0)


def test_a_proof_too_large_for_a_frame_is_kept_to_ourselves() -> None:
    """The epoch is void here all the same."""
    _, host, maker = scene()
    maker.say(host, maker.topic, maker.publish(maker.new(1)[1]))
    log = log_of(host, maker)
    huge = bytes(limits.FRAME_BYTES_MAX // 2 + 1)
    host.do(lambda: host.n.replicas.forks.accept(log, maker.fold.epoch, ForkProof(huge, huge)))
    assert (log.forked, log.proof) == (True, b"")


def test_what_is_void_is_void_after_a_restart_and_proven_to_whoever_asks() -> None:
    """Until its maker opens a new epoch; then it is forgotten, on disk too."""
    wire, host, maker = scene()
    key, place = maker.new(1)
    maker.say(host, maker.topic, maker.publish(place))
    maker.say(host, maker.topic, maker.sign(maker.new(2)[1], sequence=1))
    proof = log_of(host, maker).proof
    host.crash()
    host.start()
    maker.befriend(host)
    log = log_of(host, maker)
    assert (log.state, log.proof) == ("forked", proof)
    maker.say(host, maker.topic, maker.envelopes[0])
    maker.say(host, b"h", maker.beat())
    assert resting(host) == []
    question = LogRequest(maker.identity, MARKET, maker.fold.epoch, 1)
    assert maker.refused(host, "log", question).reason == "forked_log"
    said = [one for one in host.effects if isinstance(one, out.Publish)]
    assert [one.envelope for one in said if one.topic == b"e"] == [proof, proof]
    maker.fold.begin(wire.wall_ms + 1)
    maker.say(host, maker.topic, maker.publish(place))
    assert (resting(host), log.state, host.forks) == ([key], "current", {})


def test_only_the_newest_forks_are_kept_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes for a new one, and its maker's next epoch finds nothing to forget."""
    monkeypatch.setattr("zmqex.kernel.forks.FORKS_KEPT_MAX", 2)
    wire, host, first = scene()
    makers = [first, *(Maker(wire, name, f"10.9.9.{name}") for name in "12")]
    for maker in makers:
        for number in (1, 2):
            maker.say(host, maker.topic, maker.sign(maker.new(number)[1]))
    assert list(host.forks) == [(one.identity, MARKET) for one in makers[1:]]
    first.fold.begin(wire.wall_ms + 1)
    first.say(host, first.topic, first.publish(first.new(3)[1]))
    assert log_of(host, first).state == "current"
    assert len(host.forks) == 2


@pytest.mark.parametrize(("room", "market"), [(1, MARKET), (9, "BTC/EUR")])
def test_a_fork_that_is_of_no_use_now_stays_on_disk(
    monkeypatch: pytest.MonkeyPatch, room: int, market: str
) -> None:
    """No room for its maker, or a market not followed: the next start may be another."""
    _, host, maker = scene()
    for number in (1, 2):
        maker.say(host, maker.topic, maker.sign(maker.new(number)[1]))
    host.crash()
    monkeypatch.setattr("zmqex.kernel.room.MAKERS_MAX", room)
    host.start(markets=(market,))
    assert host.n.replicas.log(maker.identity, MARKET) is None
    assert len(host.forks) == 1


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
    maker.reply(host, "log", LogPage(twin.envelopes[:1], 0))
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
        maker.reply(host, "log", LogPage(maker.envelopes, 0))
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


# --- bounds ---------------------------------------------------------------------------------------


def test_a_stranger_with_too_many_orders_is_followed_head_only() -> None:
    """No order of it rests rather than some of them; the chain goes on; trust brings all back."""
    wire, host, maker = scene()
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
    wire.run(limits.GAP_WAIT_MS)
    maker.give_snapshot(host)
    assert (log.state, len(resting(host))) == ("current", 119)
    assert log.fold.head() == maker.fold.head()
    host.do(lambda: host.n.replicas.trust(maker.identity))
    host.do(lambda: host.n.replicas.trust(b"nobody"))


def test_an_order_that_ends_in_the_batch_that_is_too_much_is_in_no_book() -> None:
    """What is closed amid too many placements leaves the book like all the rest."""
    _, host, maker = scene()
    key, place = maker.new(0)
    maker.say(host, maker.topic, maker.publish(place))
    places = [maker.new(number)[1] for number in range(1, 102)]
    maker.say(host, maker.topic, maker.publish(Close(key, "x"), *places))
    assert (log_of(host, maker).state, resting(host)) == ("head_only", [])


def test_a_stranger_at_its_cap_may_replace_an_order() -> None:
    """What a batch closes makes room for what it places."""
    _, host, maker = scene()
    key = maker.new(0)[0]
    most = range(limits.ORDERS_PER_STRANGER_MAX)
    maker.say(host, maker.topic, maker.publish(*[maker.new(number)[1] for number in most]))
    maker.say(host, maker.topic, maker.publish(Close(key, "x"), maker.new(len(most))[1]))
    assert (log_of(host, maker).state, len(resting(host))) == ("current", len(most))


def test_a_stranger_that_stays_is_no_stranger() -> None:
    """After an hour of connection, or pinned by the operator, the wider cap holds."""
    wire, host, maker = scene()
    places = [maker.new(number)[1] for number in range(101)]
    maker.say(host, maker.topic, maker.publish(*places))
    assert log_of(host, maker).state == "head_only"
    host.n.sessions.peers[maker.identity].live_since_ms -= limits.STRANGER_MS
    maker.say(host, b"h", maker.beat())
    wire.run(limits.GAP_WAIT_MS)
    maker.give_snapshot(host)
    assert log_of(host, maker).state == "current"
    assert len(resting(host)) == 101
    other = Maker(wire, "other", "10.9.9.8")
    other.befriend(host)
    host.n.sessions.peers[other.identity].pinned = True
    other.say(host, other.topic, other.publish(*[other.new(number)[1] for number in range(101)]))
    assert log_of(host, other).state == "current"


def test_a_head_only_log_that_nobody_can_give_stays_so() -> None:
    """Its orders are asked for once, and again when there is news."""
    wire, host, maker = scene()
    maker.say(host, maker.topic, maker.publish(*[maker.new(number)[1] for number in range(101)]))
    maker.say(host, b"h", maker.beat())
    host.do(lambda: host.n.replicas.trust(maker.identity))
    wire.run(limits.GAP_WAIT_MS)
    maker.reject(host, "snapshot", "unknown_maker")
    wire.run(limits.GAP_WAIT_MS)
    assert (log_of(host, maker).state, len(maker.asked(host, "snapshot"))) == ("head_only", 1)
    maker.say(host, b"h", maker.beat(later_ms=1))
    wire.run(limits.GAP_WAIT_MS)
    maker.give_snapshot(host)
    assert log_of(host, maker).state == "current"


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
