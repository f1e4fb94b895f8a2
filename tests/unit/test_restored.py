"""A maker whose disk was replaced by an older copy, and who said the same numbers twice."""

from __future__ import annotations

from tests.wire import MARKET, Host, Wire


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
