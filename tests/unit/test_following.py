"""Whom a node listens to in a large network, and what it passes on there."""

from __future__ import annotations

import pytest

from tests.unit.maker import Maker, counted, log_of, resting, scene
from tests.wire import MARKET, Host, Wire
from zmqex import limits
from zmqex.kernel import effects as out
from zmqex.kernel.events import StreamReceived
from zmqex.protocol.codec import encode
from zmqex.protocol.identity import seal
from zmqex.protocol.log import topic
from zmqex.protocol.messages import Close, Heartbeat, LogPage


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three are a dozen."""
    monkeypatch.setattr("zmqex.kernel.following.FOLLOWED", 3)


def heard(host: Host) -> list[bytes]:
    """Whose orders a host listens to."""
    return [peer for peer, topics in host.topics.items() if topic(MARKET) in topics]


def crowd(number: int, follow_all_max: int, seed: int = 0) -> tuple[Wire, list[Host]]:
    """Return so many hosts that are connected to each other."""
    wire = Wire(seed)
    hosts = wire.add(*[f"n{each}" for each in range(number)], follow_all_max=follow_all_max)
    wire.run(3_000)
    return wire, hosts


@pytest.mark.usefixtures("few")
def test_a_large_network_listens_to_a_few_and_relays() -> None:
    """Every order, heartbeat and closing reaches everybody, also of whom one does not listen to."""
    wire, hosts = crowd(13, 4, seed=1)  # one by which each is drawn by somebody
    assert {len(host.n.following.chosen) for host in hosts} == {3}
    wire.run(20_000)
    assert {len(heard(host)) for host in hosts} == {3}
    assert {peer for host in hosts for peer in heard(host)} == {one.identity for one in hosts}
    keys = [host.place(number) for number, host in enumerate(hosts)]
    wire.run(1_000)
    for host in hosts:
        assert set(resting(host)) == set(keys)
        assert host.head(hosts[0]) == hosts[0].head(hosts[0])
        assert not any(host.n.replicas.is_stale(one.identity) for one in hosts)
    maker = hosts[0]
    maker.do(lambda: maker.n.publisher.append(MARKET, Close(keys[0], "cancelled")))
    wire.run(1_000)
    assert {len(resting(host)) for host in hosts} == {len(keys) - 1}
    assert sum(counted(host, "repeats") for host in hosts) > 0
    assert sum(counted(host, "log_pages_asked") for host in hosts) == 0


@pytest.mark.usefixtures("few")
def test_what_nobody_relays_is_noticed_by_its_makers_heartbeat() -> None:
    """The others know few enough peers to relay nothing: nobody falls silent for that."""
    wire = Wire()
    hosts = wire.add(*[f"n{each}" for each in range(7)], follow_all_max=48)
    (late,) = wire.add("late", follow_all_max=2)
    wire.run(20_000)
    assert len(heard(late)) == 3
    assert not any(late.n.replicas.is_stale(one.identity) for one in hosts)
    keys = {host.place(number) for number, host in enumerate(hosts)}
    wire.run(1_000)
    assert set(resting(late)) == keys


@pytest.mark.usefixtures("few")
def test_the_choice_is_mixed_lasts_and_heals() -> None:
    """One of each source in turn, pinned ones first; who leaves is replaced, nobody else."""
    wire, host, _ = scene()
    peers = [Maker(wire, f"p{number}", f"10.8.0.{number}") for number in range(9)]
    for peer in peers:
        peer.befriend(host)
    known = host.n.sessions.peers
    for number, peer in enumerate(peers):
        known[peer.identity].source = "dht" if number < 8 else "static"
    host.n.core.settings = type(host.n.core.settings)(follow_all_max=8)

    def decide() -> list[bytes]:
        for one in known.values():
            one.heard_ms = wire.monotonic_ms
        host.do(host.n.following.decide)
        return list(host.n.following.chosen)

    first = decide()
    assert len(first) == 3
    assert peers[8].identity in first  # the only one of its source
    assert decide() == first
    known[peers[0].identity].pinned = True
    assert set(decide()) == {*first, peers[0].identity}
    gone = next(one for one in first if one != peers[0].identity)
    host.do(lambda: host.n.sessions.remove(gone))
    after = decide()
    assert gone not in after
    assert set(first) - {gone} <= set(after)
    # Back below the border, not merely to it: everybody is listened to again.
    assert not set(known) <= set(heard(host))
    for peer in peers[1:8]:
        if peer.identity in known and len(known) > 6:
            host.do(lambda peer=peer: host.n.sessions.remove(peer.identity))  # type: ignore[misc]
    assert decide() == []
    assert set(known) <= set(heard(host))


def test_a_repeat_is_dropped_only_if_those_very_bytes_have_verified(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bad copy of a good batch does not shut the good one out, and a forgotten one is judged."""
    monkeypatch.setattr("zmqex.kernel.claims.VERIFIED_KEPT_MAX", 1)
    wire, host, maker = scene()
    raw = maker.publish(maker.new(1)[1])
    broken = raw[:-1] + bytes([raw[-1] ^ 1])
    host.handle(StreamReceived(((maker.topic, broken), (maker.topic, broken), (maker.topic, raw))))
    wire.run(0)
    assert (counted(host, "repeats"), counted(host, "bad_signatures")) == (1, 1)
    assert log_of(host, maker).fold.sequence == 1
    maker.say(host, maker.topic, raw)
    assert counted(host, "repeats") == 2
    maker.say(host, maker.topic, broken)
    assert counted(host, "repeats") == 2
    maker.say(host, maker.topic, maker.publish(maker.new(2)[1]))
    maker.say(host, maker.topic, raw)
    assert (counted(host, "repeats"), counted(host, "ignored_duplicate_batch")) == (2, 2)


def test_only_what_came_by_itself_is_passed_on() -> None:
    """What was fetched is old news for the others."""
    wire, host, maker = scene()
    host.n.replicas.relaying = True
    first, second = maker.publish(maker.new(1)[1]), maker.publish(maker.new(2)[1])
    host.effects.clear()
    maker.say(host, maker.topic, second)
    wire.run(limits.GAP_WAIT_MS)
    maker.reply(host, "log", LogPage([first], 0))
    beat = maker.beat()
    maker.say(host, b"h", beat)
    maker.say(host, b"h", maker.beat(later_ms=-1))
    said = [(one.topic, one.envelope) for one in host.effects if isinstance(one, out.Publish)]
    assert said == [(maker.topic, second), (b"r", beat)]
    maker.say(host, b"r", maker.beat(later_ms=5))
    assert host.effects[-1] == out.Publish(b"r", maker.beat(later_ms=5))
    quiet = Maker(wire, "quiet", "10.9.9.8")
    quiet.befriend(host)
    nothing = encode(Heartbeat(quiet.identity, wire.wall_ms, []))
    host.effects.clear()
    quiet.say(host, b"h", seal(quiet.key, "play", "heartbeat", nothing))
    topics = [one.topic for one in host.effects if isinstance(one, out.Publish)]
    assert b"r" not in topics
