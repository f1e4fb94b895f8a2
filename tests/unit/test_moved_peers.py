"""A peer that greets from another host: asked there, and kept where it is until it has answered."""

from __future__ import annotations

import pytest

from tests.unit.stranger import Stranger, alone, dials, state
from tests.wire import HELLO, Host
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.kernel.peers import State
from zmqex.protocol.codec import encode_frame
from zmqex.protocol.messages import Endpoint, Greet

HOME, AWAY = "10.9.9.9", "10.8.8.8"


def greet(stranger: Stranger, host: Host, **changes: object) -> list[out.Effect]:
    """Greet from where it is now; what the host does."""
    body = Greet(stranger.record(**changes), stranger.wire.wall_ms)
    return stranger.send(host, encode_frame("greet", 99, body))


def connects(effects: list[out.Effect]) -> list[tuple[str, int]]:
    """Where the host connects to."""
    return [one.rpc for one in effects if isinstance(one, out.ConnectPeer)]


def test_a_peer_that_greets_from_elsewhere_is_connected_there_when_its_hello_answers() -> None:
    """Its old sockets may be dead without a word; until then they stay, and it is not asked."""
    wire, host, stranger = alone()
    stranger.befriend(host)
    stranger.address = AWAY
    effects = greet(stranger, host)
    assert dials(effects) == [(AWAY, HELLO)]
    assert not connects(effects)
    assert not [one for one in effects if isinstance(one, out.DisconnectPeer)]
    peer = host.n.sessions.peers[stranger.identity]
    assert (peer.state, peer.why) == (State.STALE, f"it greets from {AWAY} now")

    answered = happened.HelloAnswered(AWAY, HELLO, "greet", stranger.record())
    ((there, _port),) = connects(host.handle(answered))
    assert there == AWAY
    stranger.reply(host, "greet", Greet(stranger.record(), wire.wall_ms))
    assert host.n.sessions.is_live(stranger.identity)
    assert peer.host == AWAY
    # Where it was is not asked any more.
    assert host.n.sessions.addresses.get(HOME, HELLO) is None


def test_greeting_again_from_the_same_host_or_by_a_record_that_names_one_changes_nothing() -> None:
    """Whoever announces a host is there, from wherever it greets."""
    _, host, stranger = alone()
    stranger.befriend(host)
    assert dials(greet(stranger, host)) == []
    ends = {name: Endpoint(HOME, HELLO) for name in ("hello", "rpc", "orders")}
    named = Stranger(stranger.wire, "named")
    greet(named, host, **ends)
    named.reply(host, "greet", Greet(named.record(**ends), named.wire.wall_ms))
    named.address = AWAY
    assert dials(greet(named, host, **ends)) == []
    assert all(state(host, one.identity) is not State.STALE for one in (stranger, named))


def test_without_room_for_one_more_address_it_is_looked_for_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A crowd of addresses does not make it forgotten."""
    wire, host, stranger = alone()
    stranger.befriend(host)
    monkeypatch.setattr("zmqex.kernel.addresses.ADDRESSES_MAX", 1)
    stranger.address = AWAY
    assert dials(greet(stranger, host)) == []
    assert state(host, stranger.identity) is State.STALE
    wire.run(2_000)
    assert (HOME, HELLO) in dials(host.effects)
