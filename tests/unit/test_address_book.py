"""Where peers and makers were last: kept over a restart, bounded, and whose word counts."""

from __future__ import annotations

from functools import partial

import pytest

from tests.unit.maker import Maker, answer_heads, scene
from tests.unit.stranger import Stranger, dials
from tests.wire import HELLO, Host, Wire
from zmqex import limits
from zmqex.kernel import events as happened
from zmqex.protocol.messages import LogPage, Peers, ToldPeer

FAR = ("10.7.7.7", HELLO)


def relayed() -> tuple[Wire, Host, Maker, Maker]:
    """A host that knows a maker only by what a peer tells: its head, and its log."""
    wire, host, peer = scene()
    absent = Maker(wire, "absent", FAR[0])
    absent.publish(absent.new(1)[1])
    answer_heads(peer, host, absent.beat())
    wire.run(limits.GAP_WAIT_MS + 1)
    peer.reply(host, "log", LogPage(absent.envelopes, 0))
    wire.run(0)
    assert absent.identity in host.n.replicas.makers
    return wire, host, peer, absent


def tell(host: Host, peer: Maker, *told: tuple[Stranger, str]) -> None:
    """A peer tells where others are, however often it was asked."""
    host.do(lambda: host.n.sessions._exchange.ask(peer.identity))
    peer.reply(host, "peers", Peers([ToldPeer(one.record(), at) for one, at in told]))


def again(host: Host) -> list[tuple[str, int]]:
    """Start a host anew; whom it dials."""
    host.crash()
    host.effects.clear()
    host.start()
    return dials(host.effects)


def test_the_address_of_a_maker_that_is_only_relayed_survives_a_restart() -> None:
    """It never answered us, and there may never be a place for it; others are not written down."""
    wire, host, peer, absent = relayed()
    other = Stranger(wire, "other", "10.7.7.8")
    tell(host, peer, (absent, FAR[0]), (other, other.address))
    assert host.peers[absent.identity].host == FAR[0]
    assert other.identity not in host.peers
    assert FAR in again(host)
    assert ("10.7.7.8", HELLO) not in dials(host.effects)


def test_a_maker_that_finds_no_place_is_written_down_where_it_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its hello proved it, and all places are taken."""
    wire, host, _, absent = relayed()
    monkeypatch.setattr("zmqex.kernel.places.PEERS_MAX", 1)
    record = absent.record()
    host.do(
        lambda: host.n.sessions._prove(
            host.n.sessions._check_record(record),  # type: ignore[arg-type]
            record,
            FAR[0],
            "dht",
            pinned=False,
        )
    )
    assert host.peers[absent.identity].host == FAR[0]
    monkeypatch.setattr("zmqex.kernel.links.PEERS_KNOWN_MAX", 1)

    def make_room() -> None:
        assert host.n.sessions._make_room()

    host.do(make_room)
    assert absent.identity not in host.n.sessions.peers
    assert absent.identity in host.peers, "forgotten by name, not by address"
    wire.run(1_000)
    assert FAR in again(host)


def test_hearsay_does_not_move_who_was_seen_within_a_day() -> None:
    """The host beside a record is not signed: a liar could cut a maker off from us."""
    wire, host, peer, absent = relayed()
    tell(host, peer, (absent, FAR[0]))
    tell(host, peer, (absent, "10.66.6.6"))
    assert host.peers[absent.identity].host == FAR[0]
    wire.run(limits.DAY_MS + 1)
    peer.befriend(host)
    absent.say(host, b"r", absent.beat())
    tell(host, peer, (absent, "10.66.6.6"))
    assert host.peers[absent.identity].host == "10.66.6.6"


def test_the_book_has_so_many_lines_and_drops_who_was_seen_longest_ago(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pinned ones stay; the same after a restart."""
    monkeypatch.setattr("zmqex.kernel.address_book.ADDRESS_BOOK_MAX", 3)
    wire, host, _ = scene()
    book = host.n.sessions.address_book
    strangers = [Stranger(wire, str(number), f"10.3.3.{number}") for number in range(4)]

    def note(number: int, *, pinned: bool = False) -> None:
        one = strangers[number]
        wire.run(1_000)
        host.do(lambda: book.note(one.identity, one.record(), one.address, pinned=pinned))

    for one in list(host.peers):
        host.do(partial(book.forget, one))
    for number in (0, 1, 2):
        note(number, pinned=number == 0)
    assert len(host.peers) == 3
    note(1)
    note(3)
    kept = {strangers[number].identity for number in (0, 1, 3)}
    assert set(host.peers) == kept
    dialled = again(host)
    assert [place for place in dialled if place[0].startswith("10.3.3.")] == [
        (strangers[number].address, HELLO) for number in (3, 1, 0)
    ]
    book = host.n.sessions.address_book
    note(2)
    assert set(host.peers) == {strangers[number].identity for number in (0, 2, 3)}
    for number in range(4):
        note(number, pinned=True)
    assert len(host.peers) == 3, "whoever pins more than fit has the newest"


def test_who_was_not_seen_for_a_month_or_was_leaving_is_dropped_at_a_start() -> None:
    """But for the pinned."""
    wire, host, _ = scene()
    book = host.n.sessions.address_book
    old, pinned, leaver = (Stranger(wire, name) for name in ("old", "pinned", "leaver"))
    host.do(lambda: book.note(old.identity, old.record(), "10.3.3.1", pinned=False))
    host.do(lambda: book.note(pinned.identity, pinned.record(), "10.3.3.2", pinned=True))
    wire.wall_ms += limits.PEER_FORGET_MS + 1
    gone = leaver.record(leaving=True)
    host.do(lambda: book.note(leaver.identity, gone, "10.3.3.3", pinned=False))
    dialled = again(host)
    assert ("10.3.3.2", HELLO) in dialled
    assert not {("10.3.3.1", HELLO), ("10.3.3.3", HELLO)} & set(dialled)
    assert {old.identity, leaver.identity}.isdisjoint(host.peers)
    host.handle(happened.Tick())
    assert pinned.identity in host.peers
