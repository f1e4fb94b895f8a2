"""A table full of makers: who gives its place to a new one, and who never does."""

from __future__ import annotations

import pytest

from tests.unit.maker import Maker, counted, log_of, resting, scene
from tests.wire import Host, Wire
from zmqex import limits
from zmqex.kernel.logs import Repair
from zmqex.kernel.peers import State


@pytest.fixture(autouse=True)
def room_for_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """For ourselves, a live peer, and one more."""
    monkeypatch.setattr("zmqex.kernel.room.MAKERS_MAX", 3)


def full() -> tuple[Wire, Host, Maker, Maker]:
    """The host, the live peer, and the third maker with an order in the book."""
    wire, host, friend = scene()
    friend.say(host, b"h", friend.beat())
    third = made_up(wire, 1)
    third.say(host, third.topic, third.publish(third.new(1)[1]))
    third.say(host, b"h", third.beat())
    assert len(host.n.replicas.makers) == 3
    assert len(resting(host)) == 1
    return wire, host, friend, third


def made_up(wire: Wire, number: int) -> Maker:
    """A maker that is nobody's peer."""
    return Maker(wire, f"made up {number}", "10.9.9.8")


def beats(host: Host, maker: Maker) -> bool:
    """Whether a maker that says a heartbeat is known afterwards."""
    maker.say(host, b"h", maker.beat())
    return maker.identity in host.n.replicas.makers


def test_a_silent_maker_gives_its_place_and_its_orders_leave_the_book() -> None:
    """Made-up makers keep nobody out for longer than they go on being made up."""
    wire, host, friend, third = full()
    assert not beats(host, made_up(wire, 2))
    assert counted(host, "ignored_maker_full") == 1
    wire.run(limits.SILENT_MS)
    assert beats(host, made_up(wire, 3))
    assert set(host.n.replicas.makers) == {
        host.identity,
        friend.identity,
        made_up(wire, 3).identity,
    }
    assert resting(host) == []
    assert counted(host, "makers_evicted") == 1
    assert third.identity not in host.n.replicas.makers


def test_a_bad_signature_costs_nobody_its_place() -> None:
    """Only who has truly spoken gets one."""
    wire, host, _friend, third = full()
    wire.run(limits.SILENT_MS)
    forged = made_up(wire, 2).beat()[:-1] + b"\0"
    third.say(host, b"h", forged)
    assert third.identity in host.n.replicas.makers


def test_the_longest_silent_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """And before it whoever was never heard."""
    monkeypatch.setattr("zmqex.kernel.room.MAKERS_MAX", 5)
    wire, host, friend, third = full()
    wire.run(1_000)
    younger, unheard = made_up(wire, 2), made_up(wire, 3)
    assert beats(host, younger)
    unheard.say(host, unheard.topic, unheard.publish(unheard.new(1)[1]))
    wire.run(limits.SILENT_MS)
    friend.say(host, b"h", friend.beat())
    order: list[bytes] = []
    for number in (4, 5, 6):
        before = set(host.n.replicas.makers)
        assert beats(host, made_up(wire, number))
        order += before - set(host.n.replicas.makers)
    assert order == [unheard.identity, third.identity, younger.identity]
    assert friend.identity in host.n.replicas.makers


def test_who_came_back_since_the_search_stays() -> None:
    """All who may go are searched once a second; each is looked at again before it goes."""
    wire, host, friend, third = full()
    wire.run(limits.SILENT_MS)
    friend.say(host, b"h", friend.beat())
    assert not host.n.replicas.room.is_full()
    assert beats(host, third)
    assert host.n.replicas.room.is_full()
    third.say(host, b"h", third.beat())
    assert not beats(host, made_up(wire, 2))


def test_makers_are_searched_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many new ones ask for room."""
    wire, host, _friend, _third = full()
    searched: list[int] = []
    search = host.n.replicas.room._search

    def watched() -> list[bytes]:
        searched.append(wire.monotonic_ms)
        return search()

    monkeypatch.setattr(host.n.replicas.room, "_search", watched)
    for number in range(2, 22):
        beats(host, made_up(wire, number))
        wire.run(limits.MAKERS_EVICT_EVERY_MS // 10)
    assert 1 <= len(searched) <= 3


@pytest.mark.parametrize("why", ["trusted", "live", "pinned", "repairing", "dealing", "void"])
def test_who_is_of_use_stays(why: str) -> None:
    """A friend, a peer, one with whom a trade runs, or whose log is being fetched or is void."""
    wire, host, _friend, third = full()
    if why == "trusted":
        host.n.replicas.trust(third.identity)
    elif why == "repairing":
        log_of(host, third).repair = Repair.ASKING
    elif why == "void":
        third.say(
            host, third.topic, third.sign(third.new(2)[1], sequence=1, previous_hash=bytes(32))
        )
        assert log_of(host, third).forked
    elif why == "dealing":
        host.n.replicas.room.dealing = lambda: [third.identity]
    else:
        third.befriend(host)
        peer = host.n.sessions.peers[third.identity]
        peer.pinned = why == "pinned"
        peer.state = State.LIVE if why == "live" else State.BACKING_OFF
    host.n.replicas.makers[third.identity].heard_ms = None
    assert not beats(host, made_up(wire, 2))
    assert third.identity in host.n.replicas.makers
