"""Requests in both directions: every question has one end, and nobody asks too much."""

from __future__ import annotations

import pytest

from tests.unit.stranger import Stranger, alone, dials
from tests.wire import HELLO
from zmqex import limits
from zmqex.kernel.budgets import TokenBucket
from zmqex.kernel.requests import Answer, Refusal
from zmqex.protocol.codec import decode, encode_frame
from zmqex.protocol.messages import (
    Empty,
    Heads,
    Limits,
    Pong,
    Reject,
)
from zmqex.reasons import RejectReason

# --- asking ---------------------------------------------------------------------------------------


def test_every_question_ends_in_exactly_one_answer() -> None:
    """An answer, a refusal, a time-out, no connection, a closed one, nonsense: one call each."""
    wire, host, stranger = alone()
    answers: list[Answer] = []

    def ask() -> None:
        host.do(
            lambda: host.n.sessions.request(
                stranger.identity, "ping", Empty(), answers.append, 1_000
            )
        )

    def reason() -> RejectReason:
        last = answers[-1]
        assert isinstance(last, Refusal)
        return last.reason

    ask()
    assert reason() is RejectReason.NOT_CONNECTED
    stranger.befriend(host)
    ask()
    stranger.reject(host, "ping", "held", 5)
    assert answers[-1] == Refusal(RejectReason.HELD, 5)
    ask()
    stranger.reject(host, "ping", "held", 2**53)
    assert answers[-1] == Refusal(RejectReason.HELD, limits.UNPAID_WAIT_LAST_MS)
    ask()
    stranger.reject(host, "ping", "a_word_of_tomorrow", 5)
    assert answers[-1] == Refusal(RejectReason.UNAVAILABLE, 5, "a_word_of_tomorrow")
    ask()
    stranger.reply_raw(
        host, encode_frame("reject", stranger.asked(host, "ping")[-1].request_id, Empty())
    )
    assert reason() is RejectReason.MALFORMED
    ask()
    wire.run(1_001)
    assert reason() is RejectReason.TIMED_OUT
    stranger.reply(host, "ping", Pong(1))  # too late
    ask()
    host.do(lambda: host.n.sessions.remove(stranger.identity))
    assert reason() is RejectReason.NOT_CONNECTED
    assert len(answers) == 7


def test_replies_must_fit_a_question() -> None:
    """Unreadable bytes, another kind or a wrong version are counted and blamed, never handed on."""
    _, host, stranger = alone()
    stranger.befriend(host)
    answers: list[Answer] = []
    host.do(lambda: host.n.sessions.request(stranger.identity, "ping", Empty(), answers.append))
    asked = stranger.asked(host, "ping")[-1]
    stranger.reply_raw(host, b"\xc1")
    stranger.reply_raw(host, encode_frame("book", asked.request_id, Empty()))
    assert answers == []
    assert host.n.sessions.peers[stranger.identity].penalty == 6
    assert host.n.core.counted["replies_unasked"] == 1


def test_nobody_answers_for_somebody_else() -> None:
    """A reply counts only on the connection that the question left by."""
    wire, host, stranger = alone()
    other = Stranger(wire, "other", "10.9.9.8")
    for one in (stranger, other):
        one.befriend(host)
    answers: list[Answer] = []
    host.do(lambda: host.n.sessions.request(stranger.identity, "ping", Empty(), answers.append))
    asked = stranger.asked(host, "ping")[-1]
    other.reply_raw(host, encode_frame("ping", asked.request_id, Pong(1)))
    assert answers == []
    stranger.reply(host, "ping", Pong(2))
    assert len(answers) == 1


def test_an_answer_that_cannot_be_read_is_a_refusal() -> None:
    """Where the asker cannot decode the body, it is told MALFORMED instead."""
    _, host, stranger = alone()
    stranger.befriend(host)
    answers: list[Answer] = []

    def on_answer(answer: Answer) -> None:
        if not isinstance(answer, Refusal):
            decode(answer, Pong)
        answers.append(answer)

    host.do(lambda: host.n.sessions.request(stranger.identity, "ping", Empty(), on_answer))
    stranger.reply(host, "ping", Empty())
    assert [one.reason for one in answers if isinstance(one, Refusal)] == [RejectReason.MALFORMED]


def test_questions_under_way_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound a question is refused at once."""
    _, host, stranger = alone()
    stranger.befriend(host)
    monkeypatch.setattr("zmqex.kernel.requests.REQUESTS_PENDING_MAX", 3)
    answers: list[Answer] = []
    for _ in range(4):
        host.do(lambda: host.n.sessions.request(stranger.identity, "ping", Empty(), answers.append))
    assert [one.reason for one in answers if isinstance(one, Refusal)][-1:] == [
        RejectReason.RATE_LIMITED
    ]


def test_a_peer_that_does_not_answer_is_asked_for_its_record() -> None:
    """Two time-outs in a row: it may be another process now, so its hello socket is asked."""
    wire, host, stranger = alone()
    stranger.befriend(host)
    wire.run(4_000)  # its silence about heads and peers is twice as well
    assert (stranger.address, HELLO) in dials(host.effects)
    assert host.n.sessions.is_live(stranger.identity)


# --- being asked ----------------------------------------------------------------------------------


def test_requests_are_checked_in_order_of_cost() -> None:
    """Unreadable, wrong version, unknown kind, not greeted, malformed body: each its reason."""
    _, host, stranger = alone()
    assert stranger.send(host, b"\xc1") == []
    assert stranger.refused(host, "ping", version=2).reason == "wrong_version"
    assert stranger.refused(host, "no_such_kind").reason == "unknown_kind"
    assert stranger.refused(host, "ping").reason == "not_greeted"
    stranger.greet(host)
    assert stranger.refused(host, "ping", Pong(1)).reason == "malformed"
    assert host.n.sessions.peers[stranger.identity].penalty == 5
    assert stranger.ask(host, "ping").kind == "ping"


def test_a_peer_may_ask_so_often_and_no_more() -> None:
    """A burst, then a steady rate; the refusal says when the next is welcome, and it is."""
    wire, host, stranger = alone()
    stranger.greet(host)
    for _ in range(limits.REQUESTS_BURST):
        assert stranger.ask(host, "ping").kind == "ping"
    refusal = stranger.refused(host, "ping")
    assert refusal.reason == "rate_limited"
    assert refusal.retry_after_ms == 1_000 // limits.REQUESTS_PER_SECOND
    wire.run(refusal.retry_after_ms)
    assert stranger.ask(host, "ping").kind == "ping"
    assert stranger.refused(host, "ping").reason == "rate_limited"


def test_a_peer_is_told_so_many_bytes_and_no_more() -> None:
    """The answer that goes beyond is given; then whoever reads waits, and nobody else does."""
    wire, host, stranger = alone()
    stranger.greet(host)
    other = Stranger(wire, "other", "10.9.9.8")
    other.greet(host)
    page = Heads([b"x" * (limits.FRAME_BYTES_MAX - 1_000)])
    host.n.sessions.serve(
        "heads", lambda incoming: host.n.sessions.answer(incoming, page), reading=True
    )
    told, begun_ms = 0, wire.monotonic_ms
    while (reply := stranger.ask(host, "heads")).kind == "heads":
        told += limits.FRAME_BYTES_MAX - 1_000
        wire.run(10)  # so that its questions are not too many
    allowed = limits.ANSWER_BYTES_BURST
    allowed += (wire.monotonic_ms - begun_ms) * limits.ANSWER_BYTES_PER_SECOND // 1_000
    assert abs(told - allowed) < limits.FRAME_BYTES_MAX
    refusal = decode(reply.body, Reject)
    assert refusal.reason == "rate_limited"
    assert 0 < refusal.retry_after_ms <= 1_000
    assert host.n.core.counted["over_answer_bytes"] == 1
    assert stranger.ask(host, "ping").kind == "ping"
    assert other.ask(host, "heads").kind == "heads"
    wire.run(refusal.retry_after_ms - 1)
    assert stranger.ask(host, "heads").kind == "reject"
    wire.run(1)
    assert stranger.ask(host, "heads").kind == "heads"


def test_rates_are_kept_for_so_many_askers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asked longest ago is forgotten first: its next question starts a fresh burst."""
    monkeypatch.setattr("zmqex.kernel.requests.REQUEST_SOURCES_MAX", 2)
    monkeypatch.setattr("zmqex.kernel.requests.REQUESTS_BURST", 1)
    wire, host, _ = alone()
    strangers = [Stranger(wire, str(number), f"10.9.9.{number}") for number in range(3)]
    for one in strangers:
        assert one.refused(host, "ping").reason == "not_greeted"
    assert strangers[2].refused(host, "ping").reason == "rate_limited"
    assert strangers[0].refused(host, "ping").reason == "not_greeted"


def test_a_token_bucket_is_never_more_than_full() -> None:
    """It refills to its burst and no further, and a refusal takes nothing."""
    bucket = TokenBucket(10, 2, 0)
    assert [bucket.take(0), bucket.take(0), bucket.take(0)] == [0, 0, 100]
    assert bucket.take(99) == 1
    assert bucket.take(100) == 0
    assert [bucket.take(10**6) for _ in range(3)] == [0, 0, 100]


def test_limits_are_told() -> None:
    """`limits` names the bounds."""
    _, alice, stranger = alone()
    stranger.greet(alice)
    told = {
        one.name: one.value for one in decode(stranger.ask(alice, "limits").body, Limits).limits
    }
    assert told["batch_operations"] == limits.BATCH_OPERATIONS_MAX
    assert told["requests_per_second"] == limits.REQUESTS_PER_SECOND
    assert told["answer_bytes_per_second"] == limits.ANSWER_BYTES_PER_SECOND
    assert told["answer_bytes_burst"] == limits.ANSWER_BYTES_BURST
