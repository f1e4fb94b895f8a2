"""Nobody hears of our own state before it is on disk, whatever the disk's pace."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqex.kernel.effects import (
    REVEALING,
    AnswerCommand,
    ConnectPeer,
    Effect,
    Log,
    Persist,
    Publish,
    SendRequest,
)
from zmqex.kernel.records import PutCounter, Write
from zmqex.runtime.gate import Gate


class Disk:
    """Commits when it is told to, in order."""

    def __init__(self) -> None:
        """Nothing is on disk."""
        self.waiting: list[Callable[[], None]] = []
        self.written: list[tuple[Write, ...]] = []

    def commit(self, writes: tuple[Write, ...], done: Callable[[], None]) -> None:
        """Remember what is to be written."""
        self.written.append(writes)
        self.waiting.append(done)

    def finish(self) -> None:
        """The oldest commit is on disk."""
        if self.waiting:
            self.waiting.pop(0)()


def say(number: int) -> Effect:
    """A revealing effect."""
    return SendRequest(b"peer", number.to_bytes(4))


def test_every_kind_that_tells_of_our_state_is_revealing() -> None:
    """A send, a publication, an answer; a log line and a dial are not."""
    assert {SendRequest, Publish, AnswerCommand} < set(REVEALING)
    assert not {Log, ConnectPeer, Persist} & set(REVEALING)


def test_an_event_that_writes_nothing_goes_at_once() -> None:
    """Unless something before it waits."""
    disk, out = Disk(), list[Effect]()
    gate = Gate(disk.commit, out.append)
    gate.pass_through([say(1)])
    assert out == [say(1)]
    gate.pass_through([Persist((PutCounter("a", 1),)), say(2)])
    gate.pass_through([say(3), Log("info", "x", {})])
    assert out == [say(1), Log("info", "x", {})]
    assert gate.waiting == 2
    disk.finish()
    assert out[2:] == [say(2), say(3)]
    assert gate.waiting == 0


def test_an_effect_that_leads_to_another_event_keeps_the_order() -> None:
    """What is carried out may come back as an event before this one has ended."""
    disk, out = Disk(), list[Effect]()

    def carry_out(effect: Effect) -> None:
        out.append(effect)
        if effect == say(1):
            gate.pass_through([say(3)])

    gate = Gate(disk.commit, carry_out)
    gate.pass_through([Persist(()), say(1), say(2)])
    disk.finish()
    assert out == [say(1), say(2), say(3)]


def test_what_fails_on_its_way_out_does_not_take_the_rest_with_it() -> None:
    """The fault is seen; what stood behind leaves with the next event."""
    disk, out = Disk(), list[Effect]()

    def carry_out(effect: Effect) -> None:
        if effect == say(1):
            raise OSError("no route")
        out.append(effect)

    gate = Gate(disk.commit, carry_out)
    with pytest.raises(OSError, match="no route"):
        gate.pass_through([say(1), say(2)])
    gate.pass_through([say(3)])
    assert out == [say(2), say(3)]


def test_what_fails_at_once_keeps_nothing_else_of_its_event_back() -> None:
    """A payment whose intent is written down leaves, whatever a dial beside it comes to."""
    disk, out = Disk(), list[Effect]()

    def carry_out(effect: Effect) -> None:
        if isinstance(effect, ConnectPeer):
            raise OSError("too many open files")
        out.append(effect)

    gate, dial = (
        Gate(disk.commit, carry_out),
        ConnectPeer(b"p" * 32, b"k" * 32, ("", 1), ("", 1), ()),
    )
    with pytest.raises(OSError, match="open files"):
        gate.pass_through([Persist(()), dial, say(1), dial, Log("info", "x", {})])
    assert out == [Log("info", "x", {})]
    disk.finish()
    assert out[1:] == [say(1)]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 2)),
            st.just("commit"),
        ),
        max_size=60,
    )
)
def test_nothing_leaves_before_its_commit_and_all_earlier_ones(
    steps: list[tuple[bool, int, int] | str],
) -> None:
    """Any mix of events and any pace of the disk: order kept, nothing lost, nothing early."""
    disk, out = Disk(), list[Effect]()
    gate = Gate(disk.commit, out.append)
    sent = 0
    commits_asked = commits_done = 0
    needs: dict[int, int] = {}  # number of a revealing effect: commits that must be done
    quiet: list[int] = []
    for step in [*steps, *["commit"] * len(steps)]:
        if isinstance(step, str):
            commits_done += bool(disk.waiting)
            disk.finish()
        else:
            writes, reveals, others = step
            commits_asked += writes
            effects: list[Effect] = [Persist(())] if writes else []
            for _ in range(reveals):
                needs[sent] = commits_asked
                effects.append(say(sent))
                sent += 1
            logs = [Log("info", str(len(quiet) + one), {}) for one in range(others)]
            quiet += range(len(quiet), len(quiet) + others)
            gate.pass_through([*effects, *logs])
            assert [one for one in out if isinstance(one, Log)][-others:] == logs or not others
        told = [int.from_bytes(one.frame) for one in out if isinstance(one, SendRequest)]
        assert told == list(range(len(told)))
        assert all(needs[one] <= commits_done for one in told)
        # And nothing is held back without need.
        assert all(needs[one] > commits_done for one in range(len(told), sent))
    assert len([one for one in out if isinstance(one, SendRequest)]) == sent
    assert gate.waiting == 0


def test_what_fails_at_once_does_not_keep_an_event_from_the_disk() -> None:
    """The kernel has decided it, and builds on it."""
    disk, out = Disk(), list[Effect]()

    def carry_out(effect: Effect) -> None:
        if isinstance(effect, Log):
            raise OSError("no room for a log line")
        out.append(effect)

    gate = Gate(disk.commit, carry_out)
    writes = (PutCounter("a", 1),)
    with pytest.raises(OSError, match="no room"):
        gate.pass_through([Persist(writes), Log("info", "x", {}), say(1)])
    assert disk.written == [writes]
    disk.finish()
    gate.pass_through([say(2)])
    assert out == [say(1), say(2)]
