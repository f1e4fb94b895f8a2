"""The shared ground of a kernel: the same moments give the same, one write per event, timers."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from zmqex.kernel.core import Core, Settings
from zmqex.kernel.effects import Announce, AnswerCommand, Log, Persist
from zmqex.kernel.events import Now
from zmqex.kernel.records import PutCounter
from zmqex.market.instruments import Currencies
from zmqex.protocol.codec import decode_envelope
from zmqex.protocol.identity import IdentityKey, verify
from zmqex.reasons import RejectReason

KEY = IdentityKey(hashlib.sha256(b"core").digest())


def core(at_ms: int = 0) -> Core:
    """A core at a moment."""
    made = Core(Settings(), KEY, Currencies())
    made.begin(Now(at_ms, at_ms, b"e" * 32))
    return made


def test_all_writes_of_an_event_are_one_commit_in_front() -> None:
    """Whatever the order in which parts write and speak."""
    one = core()
    one.log("info", "first", number=1)
    assert one.next_counter("fence") == 1
    one.answer(b"c", 1, {"a": 1})
    assert one.next_counter("fence") == 2
    effects = one.finish()
    assert effects == [
        Persist((PutCounter("fence", 1), PutCounter("fence", 2))),
        Log("info", "first", {"number": 1}),
        AnswerCommand(b"c", 1, ok=True, result={"a": 1}),
    ]
    assert one.finish() == []


def test_random_bytes_come_from_the_moment_alone() -> None:
    """Equal moments give equal bytes; two draws of one event differ, and so do two events."""
    one, two = core(), core()
    drawn = [one.random(32), one.random(32), one.random(16)]
    assert drawn == [two.random(32), two.random(32), two.random(16)]
    assert len(set(drawn)) == 3
    one.begin(Now(0, 0, b"f" * 32))
    assert one.random(32) not in drawn


def test_what_is_sealed_is_signed_for_this_network() -> None:
    """By this node, for this kind."""
    raw = core().seal("ping", b"body")
    envelope = decode_envelope(raw)
    assert verify(KEY.public_key, "play", "ping", envelope)
    assert not verify(KEY.public_key, "signet", "ping", envelope)


def test_a_refusal_is_a_word_and_a_sentence() -> None:
    """For programs and for people."""
    one = core()
    one.refuse(b"c", 2, RejectReason.HELD, "it is held")
    result = {"reason": "held", "message": "it is held"}
    assert one.finish() == [AnswerCommand(b"c", 2, ok=False, result=result)]


def test_what_is_counted_adds_up() -> None:
    """From nothing, by one or by more."""
    one = core()
    one.count("x")
    one.count("x", 4)
    assert one.counted == {"x": 5}


def test_a_timer_that_is_set_by_a_timer_for_now_waits_for_the_next_event() -> None:
    """So one event ends, whatever its timers do."""
    one, calls = core(10), []

    def again() -> None:
        calls.append("again")
        one.call_after("again", 0, again)

    one.call_after("again", 0, again)
    one.run_timers()
    assert calls == ["again"]
    assert one.next_deadline_ms() == 10
    one.run_timers()
    assert calls == ["again", "again"]


def test_a_timer_that_another_one_cancels_is_not_called() -> None:
    """Also where both are due at the same time."""
    one, calls = core(10), []
    one.call_at("first", 1, lambda: one.cancel_timer("second"))
    one.call_at("second", 2, lambda: calls.append("second"))
    one.run_timers()
    assert calls == []
    assert one.next_deadline_ms() is None


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("set"), st.integers(0, 4), st.integers(0, 50)),
            st.tuples(st.just("cancel"), st.integers(0, 4), st.just(0)),
            st.tuples(st.just("pass"), st.integers(0, 20), st.just(0)),
        ),
        max_size=40,
    )
)
def test_timers_fire_once_in_order_and_only_the_last_of_a_name(
    steps: list[tuple[str, int, int]],
) -> None:
    """Compared with a plain dictionary of names."""
    one = core()
    now = 0
    expected: dict[int, tuple[int, int]] = {}
    fired: list[int] = []
    for serial, (what, number, at_ms) in enumerate(steps):
        if what == "set":
            expected[number] = (at_ms, serial)
            one.call_at(number, at_ms, lambda number=number: fired.append(number))  # type: ignore[misc]
        elif what == "cancel":
            expected.pop(number, None)
            one.cancel_timer(number)
        else:
            now += number
            one.begin(Now(now, now, b"e" * 32))
            due = sorted((when, name) for name, when in expected.items() if when[0] <= now)
            for _, name in due:
                del expected[name]
            fired.clear()
            one.run_timers()
            assert fired == [name for _, name in due]
        assert one.next_deadline_ms() == min((when[0] for when in expected.values()), default=None)


def test_of_one_thing_only_the_last_word_of_an_event_is_announced() -> None:
    """A trade that moves three times in one event has one state after it; others have theirs."""
    core = Core(Settings(), KEY, Currencies())
    core.announce("trade", "one", state="reserved")
    core.announce("trade", "two", state="reserved")
    core.announce("trade", "one", state="invoiced")
    announced = [Announce("trade", {"state": word}) for word in ("invoiced", "reserved")]
    assert core.finish() == announced
    assert core.finish() == []
