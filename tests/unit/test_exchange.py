"""Peer exchange: whom peers tell of, and what is believed of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.stranger import Stranger, alone, dials, state
from tests.wire import HELLO, Wire
from zmqex import limits
from zmqex.kernel import events as happened
from zmqex.kernel.peers import State
from zmqex.protocol.codec import decode
from zmqex.protocol.messages import Endpoint, Page, PeerRecord, Peers, ToldPeer
from zmqex.protocol.record import check_record


def test_live_peers_are_told_verbatim_with_where_they_were_reached() -> None:
    """In order of identity, from the one after which is asked."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    stranger = Stranger(wire)
    stranger.greet(alice)
    page = decode(stranger.ask(alice, "peers", Page(b"")).body, Peers)
    assert page.peers == [ToldPeer(bob.record, bob.address)]
    assert decode(stranger.ask(alice, "peers", Page(bob.identity)).body, Peers).peers == []


def test_who_asks_from_afar_hears_no_address_of_our_own_network() -> None:
    """It would point at a machine of the asker's."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    stranger = Stranger(wire, address="8.8.8.8")
    stranger.greet(alice)
    page = decode(stranger.ask(alice, "peers", Page(b"")).body, Peers)
    assert page.peers == [ToldPeer(bob.record, "")]


def test_a_page_of_peers_is_bounded_and_the_next_one_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One page has so many records; whoever asks goes on after the last of them, so many times."""
    monkeypatch.setattr("zmqex.kernel.exchange.PEERS_PAGE_MAX", 2)
    monkeypatch.setattr("zmqex.kernel.exchange.EXCHANGE_PAGES_MAX", 2)
    wire = Wire()
    alice, *_ = wire.meet("alice", "bob", "carol", "dave", "erin", "frank")
    stranger = Stranger(wire)
    stranger.greet(alice)
    first = decode(stranger.ask(alice, "peers", Page(b"")).body, Peers).peers
    last = check_record(first[-1].record, "play", wire.wall_ms)
    assert isinstance(last, PeerRecord)
    rest = decode(stranger.ask(alice, "peers", Page(last.identity)).body, Peers).peers
    assert (len(first), len(rest)) == (2, 2)
    assert rest[0] not in first
    stranger.befriend(alice)
    assert len(stranger.asked(alice, "peers")) == 1
    stranger.reply(alice, "peers", Peers(first))
    assert [decode(one.body, Page).after for one in stranger.asked(alice, "peers")][1:] == [
        last.identity
    ]
    stranger.reply(alice, "peers", Peers(rest))
    assert len(stranger.asked(alice, "peers")) == 2


def test_peers_tell_each_other_of_peers() -> None:
    """A node that knows one peer finds that peer's peers, although no record names its host."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    for host in (alice, bob):
        host.crash()
        host.start(host="")
    wire.run(3_000)
    (carol,) = wire.add("carol", start=False)
    carol.start(static_peers=((b"", bob.address, HELLO),))
    wire.run(3_000)
    assert state(carol, alice.identity) is State.LIVE
    assert carol.n.sessions.peers[alice.identity].source == "exchange"


def test_sybils_that_own_the_dht_hide_nobody_from_the_other_sources() -> None:
    """All that the DHT names is silent, again and again; the rest is connected within 5 s."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    (carol,) = wire.add("carol", start=False)
    carol.start(static_peers=((b"", bob.address, HELLO),))
    silent = tuple((f"11.{number}.1.1", 1, "dht") for number in range(200))
    for _ in range(20):
        carol.handle(happened.CandidatesFound(silent))
        wire.run(250)
    assert [state(carol, one.identity) for one in (alice, bob)] == [State.LIVE, State.LIVE]


def test_two_halves_of_a_network_find_each_other_by_asking_again() -> None:
    """A peer that somebody has met since is heard of within minutes, without discovery."""
    wire = Wire()
    alice, bob = wire.meet("alice", "bob")
    wire.cut.add(frozenset({"carol", "alice"}))
    (carol,) = wire.add("carol", start=False)
    carol.start(static_peers=((b"", bob.address, HELLO),))
    wire.run(10_000)
    assert carol.identity not in alice.n.sessions.peers
    wire.cut.clear()
    address = carol.n.sessions.addresses.get(alice.address, HELLO)
    assert address is not None
    carol.n.sessions.addresses._forget(address)
    wire.run(limits.EXCHANGE_EVERY_MS + 2_000)
    assert state(alice, carol.identity) is State.LIVE


def crowd(wire: Wire, number: int) -> list[Stranger]:
    """Strangers who have not greeted yet."""
    return [Stranger(wire, f"s{each}", f"10.9.1.{each}") for each in range(number)]


def test_few_are_asked_at_once_and_nobody_after_many_who_know_nobody_new(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a large network each of hundreds would tell the same; one who tells news asks for more."""
    monkeypatch.setattr("zmqex.kernel.exchange.EXCHANGES_AT_ONCE_MAX", 2)
    monkeypatch.setattr("zmqex.kernel.exchange.EXCHANGES_BARREN_MAX", 2)
    wire, host, _ = alone()
    peers = crowd(wire, 7)
    for one in peers:
        one.befriend(host)

    def asked() -> list[int]:
        return [number for number, one in enumerate(peers) if one.asked(host, "peers")]

    assert asked() == [0, 1]
    peers[0].reply(host, "peers", Peers([]))
    peers[1].reject(host, "peers", "unavailable")
    wire.run(1)
    assert asked() == [0, 1, 2, 3]
    news = Stranger(wire, "news", "10.4.4.4").record()
    peers[2].reply(host, "peers", told((news, "10.4.4.4")))
    peers[3].reply(host, "peers", told((news, "10.4.4.4")))
    wire.run(1)
    assert asked() == [0, 1, 2, 3, 4, 5]
    for one in peers[4:6]:
        one.reply(host, "peers", Peers([]))
    wire.run(1)
    assert asked() == [0, 1, 2, 3, 4, 5]  # two in a row: the last one need not be asked
    late = Stranger(wire, "late", "10.9.2.1")
    late.befriend(host)
    assert len(late.asked(host, "peers")) == 1  # who comes later is


def test_nobody_is_asked_whose_word_could_not_be_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """All places are taken, or all that peers may name."""
    monkeypatch.setattr("zmqex.kernel.places.PEERS_MAX", 1)
    wire, host, first = alone()
    first.befriend(host)
    assert first.asked(host, "peers") == []
    monkeypatch.setattr("zmqex.kernel.places.PEERS_MAX", 9)
    monkeypatch.setattr("zmqex.kernel.addresses.ADDRESSES_MAX", 2)
    second, third = crowd(wire, 2)
    second.befriend(host)
    news = Stranger(wire, "news", "10.4.4.4").record()
    second.reply(host, "peers", told((news, "10.4.4.4")))
    third.befriend(host)
    assert (len(second.asked(host, "peers")), third.asked(host, "peers")) == (1, [])


def test_a_node_without_live_peers_asks_nobody() -> None:
    """And asks again later."""
    wire, host, stranger = alone()
    wire.run(limits.EXCHANGE_EVERY_MS + 1_000)
    stranger.befriend(host)
    before = len(stranger.asked(host, "peers"))

    def still_there() -> None:
        host.do(lambda: host.n.sessions.heard(stranger.identity))

    for _ in range(limits.EXCHANGE_EVERY_MS // 10_000):
        wire.run(10_000)
        still_there()
    assert len(stranger.asked(host, "peers")) == before + 1


def told(*pairs: tuple[bytes, str]) -> Peers:
    """An answer."""
    return Peers([ToldPeer(record, host) for record, host in pairs])


Change = Callable[[Stranger], tuple[bytes, str]]


@pytest.mark.parametrize(
    ("teller", "change", "dialled"),
    [
        ("10.9.9.9", lambda _one: (b"\x01", "10.4.4.4"), []),
        ("10.9.9.9", lambda one: (one.record(), ""), []),
        ("10.9.9.9", lambda one: (one.record(leaving=True), "10.4.4.4"), []),
        ("10.9.9.9", lambda one: (one.record(), "10.4.4.4"), [("10.4.4.4", HELLO)]),
        ("10.9.9.9", lambda one: (one.record(), "127.0.0.1"), []),
        ("8.8.8.8", lambda one: (one.record(), "10.4.4.4"), []),
        ("8.8.8.8", lambda one: (one.record(), "9.9.9.9"), [("9.9.9.9", HELLO)]),
        (
            "8.8.8.8",
            lambda one: (one.record(hello=Endpoint("node.example", 5)), "9.9.9.9"),
            [("node.example", 5)],
        ),
    ],
)
def test_what_cannot_be_believed_brings_nothing(
    teller: str, change: Change, dialled: list[tuple[str, int]]
) -> None:
    """Bad records, no host, a peer that leaves, and hosts that the teller may not speak of."""
    wire, host, _ = alone()
    stranger = Stranger(wire, address=teller)
    stranger.befriend(host)
    host.effects.clear()
    other = Stranger(wire, "other")
    host.do(lambda: host.n.sessions._exchange.ask(stranger.identity))
    effects = stranger.reply(host, "peers", told(change(other)))
    assert dials(effects) == dialled


def test_an_exchange_that_is_refused_changes_nothing() -> None:
    """It is asked of the next one."""
    wire, host, stranger = alone()
    stranger.befriend(host)
    host.effects.clear()
    host.do(lambda: host.n.sessions._exchange.ask(stranger.identity))
    stranger.reject(host, "peers", "rate_limited")
    wire.run(100)
    assert dials(host.effects) == []
    assert host.n.core.counted.get("malformed", 0) == 0
