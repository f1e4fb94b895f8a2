"""A maker whose disk was replaced by an older copy, and who said the same numbers twice."""

from __future__ import annotations

import msgspec

from tests.unit.maker import Maker
from tests.unit.maker import scene as live_peer
from tests.wire import MARKET, Host, Wire
from zmqex import limits
from zmqex.protocol.codec import encode
from zmqex.protocol.identity import seal
from zmqex.protocol.messages import Batch, Close, Head, Heartbeat, LogPage, Snapshot


def scene(*, beats: bool = True) -> tuple[Wire, Host, Host]:
    """Alice's log as bob has it, and as alice has it after she has lost its end; they are apart.

    Without `beats` bob has heard of no heartbeat after the last batch.
    """
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    alice.place(1)
    wire.run(300)
    copy = dict(alice.batches)
    alice.place(2)
    wire.run(300 if beats else 10)
    wire.cut.add(frozenset({"alice", "bob"}))
    alice.crash()
    alice.batches = copy
    alice.start()
    return wire, alice, bob


def test_the_fork_is_proven_by_whoever_gave_what_does_not_fit() -> None:
    """The reader asks the maker again from where their logs part, and the maker learns of it."""
    wire, alice, bob = scene()
    epoch = alice.n.replicas.own_log(MARKET).fold.epoch
    for number in (3, 4):
        alice.place(number)
    wire.cut.clear()
    wire.run(20_000)
    assert alice.n.replicas.own_log(MARKET).fold.epoch > epoch
    alice.place(5)
    wire.run(1_000)
    assert alice.head(alice) == bob.head(alice)


def test_a_log_whose_proof_is_gone_is_replaced_by_a_newer_head() -> None:
    """Where the maker has trimmed what would prove the fork, its signed head counts."""
    wire, alice, bob = scene()
    for number in range(3, 6):
        alice.place(number)
    tail = alice.n.replicas.own_log(MARKET).tail
    tail.trim(tail.size // 2)
    assert [number for number in range(1, 5) if tail.get(number)] == [3, 4]
    wire.cut.clear()
    wire.run(20_000)
    assert alice.head(alice) == bob.head(alice)


def test_a_maker_learns_by_its_own_batches_too_that_others_have_more() -> None:
    """It asks each peer that it meets for what comes after its own end, and verifies it."""
    wire, alice, bob = scene(beats=False)
    epoch = alice.n.replicas.own_log(MARKET).fold.epoch
    wire.cut.clear()
    wire.run(20_000)
    assert alice.n.replicas.own_log(MARKET).fold.epoch > epoch
    alice.place(3)
    wire.run(1_000)
    assert alice.head(alice) == bob.head(alice)


def asked_again() -> tuple[Wire, Host, Maker]:
    """A host that has published one batch, and asks a peer again what comes after it."""
    wire, host, peer = live_peer()
    host.place(1)
    before = len(peer.asked(host, "log"))
    wire.run(limits.HEARTBEAT_EVERY_MS)
    assert len(peer.asked(host, "log")) > before
    return wire, host, peer


def own_end(host: Host) -> Head:
    """Where the host's own log stands."""
    return host.n.replicas.own_log(MARKET).fold.head()


def test_the_question_is_asked_again_and_again() -> None:
    """The first one may have been lost; what the answer has, we must have signed."""
    wire, host, peer = asked_again()
    head = own_end(host)
    batch = Batch(
        host.identity, MARKET, head.epoch, 2, head.head_hash, wire.wall_ms, [Close(bytes(32), "x")]
    )
    peer.reply(host, "log", LogPage([seal(peer.key, "play", "batch", encode(batch))], 0))
    wire.run(100)
    assert own_end(host).epoch == head.epoch
    wire.run(2 * limits.HEARTBEAT_EVERY_MS)
    peer.reply(host, "log", LogPage([seal(host.key, "play", "batch", encode(batch))], 0))
    wire.run(100)
    assert own_end(host).epoch > head.epoch


def test_a_peer_that_has_trimmed_our_log_shows_a_head_of_it() -> None:
    """That something is gone says that there is more; only our own signature proves it."""
    wire, host, peer = asked_again()
    head = own_end(host)
    peer.reject(host, "log", "log_too_old")
    peer.reject(host, "snapshot", "unavailable")
    for sequence in (1, 2):
        wire.run(2 * limits.HEARTBEAT_EVERY_MS)
        peer.reject(host, "log", "log_too_old")
        told = msgspec.structs.replace(head, sequence=sequence)
        beat = encode(Heartbeat(host.identity, wire.wall_ms, [told]))
        answer = Snapshot(seal(host.key, "play", "heartbeat", beat), bytes(256 * 32))
        peer.reply(host, "snapshot", answer)
        wire.run(100)
        assert (own_end(host).epoch > head.epoch) == (sequence == 2)


def test_a_peer_without_an_answer_changes_nothing() -> None:
    """Nothing more, or another refusal."""
    wire, host, peer = asked_again()
    peer.reply(host, "log", LogPage([], 0))
    wire.run(2 * limits.HEARTBEAT_EVERY_MS)
    peer.reject(host, "log", "unknown_maker")
    assert (own_end(host).sequence, peer.asked(host, "snapshot")) == (1, [])
