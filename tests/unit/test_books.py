"""The operator's view of our book, and of a peer's."""

from __future__ import annotations

import msgspec
import pytest

from tests.unit.maker import Maker, scene
from tests.unit.stranger import Stranger
from tests.wire import MARKET, Host, Wire
from zmqex import limits
from zmqex.kernel import effects as out
from zmqex.kernel.commands import GetBook, GetPeerBook, GetStatus
from zmqex.limits import PEERS_PAGE_MAX
from zmqex.protocol.identity import seal, to_text
from zmqex.protocol.log import Frozen
from zmqex.protocol.messages import Heads, Rows, Snapshot, Update


def test_the_book_shows_levels_owners_and_what_is_stale() -> None:
    """Cumulative depth, spread, own and stale lots; orders best first where asked for."""
    wire, host, maker = scene()
    maker.say(host, b"h", maker.beat())
    own = host.place(1, flags=1)
    cheap = maker.new(1, price_ticks=100_001)
    dear = maker.new(2, side="sell", price_ticks=100_010)
    maker.say(host, maker.topic, maker.publish(cheap[1], maker.new(3)[1], dear[1]))
    maker.say(host, maker.topic, maker.publish(Update(cheap[0], 800, 300)))
    host.command(GetBook(MARKET, 10, orders=True))
    book = host.answers()[-1].result
    assert (book["spread_ticks"], book["makers"], book["stale_makers"]) == (9, 2, 0)
    assert [one["price_ticks"] for one in book["bids"]] == [100_001, 100_000]
    assert book["bids"][1] == {
        "price_ticks": 100_000,
        "quantity_lots": 2_000,
        "cumulative_lots": 2_500,
        "orders": 2,
        "own_lots": 1_000,
        "stale_lots": 0,
        "settlement_lots": {"plain": 2_000},
    }
    orders = {bytes.fromhex(one["order_id"]): one for one in book["orders"]}
    assert (orders[own]["own"], orders[own]["all_or_none"]) == (True, True)
    first = book["orders"][0]
    assert (first["remaining_lots"], first["held_lots"], first["available_lots"]) == (800, 300, 500)
    wire.run(limits.SILENT_MS + 1)
    host.command(GetBook(MARKET, 1))
    book = host.answers()[-1].result
    assert (len(book["bids"]), book["orders"], book["stale_makers"]) == (1, [], 1)
    assert book["bids"][0]["stale_lots"] == 500
    host.command(GetBook(MARKET, 0))
    assert len(host.answers()[-1].result["bids"]) == 2


def test_the_book_says_how_much_may_be_settled_by_what() -> None:
    """In each level what may be settled in two ways counts for both; each order names its own."""
    _, host, maker = scene()
    maker.say(host, b"h", maker.beat())
    host.place(1)
    both, lock = maker.new(1, settlements=("htlc", "plain")), maker.new(2, settlements=("htlc",))
    maker.say(host, maker.topic, maker.publish(both[1], lock[1]))
    host.command(GetBook(MARKET, 10, orders=True))
    book = host.answers()[-1].result
    (level,) = book["bids"]
    assert level["settlement_lots"] == {"plain": 2_000, "htlc": 2_000}
    assert level["quantity_lots"] == 3_000
    named = {bytes.fromhex(one["order_id"]): one["settlements"] for one in book["orders"]}
    assert (named[both[0]], named[lock[0]]) == (["htlc", "plain"], ["htlc"])


def test_an_empty_or_unknown_market_has_a_clear_answer() -> None:
    """No spread without two sides; a market that is not followed is refused by name."""
    _, host, _ = scene()
    host.command(GetBook(MARKET))
    assert host.answers()[-1].result["spread_ticks"] is None
    host.command(GetBook("BTC/XXX"))
    answer = host.answers()[-1]
    assert (answer.ok, answer.result["reason"]) == (False, "wrong_market")
    assert not host.n.replicas.on_command(b"", 1, GetStatus())


def test_a_peers_whole_book_is_fetched_and_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own orders and those of others that it follows, page by page."""
    monkeypatch.setattr("zmqex.kernel.snapshots.LOG_PAGE_BYTES_MAX", 100)
    wire = Wire()
    alice, bob, carol = wire.meet("alice", "bob", "carol")
    placed = {host.place(number) for number in range(3) for host in (alice, bob)}
    wire.run(5_500)
    carol.command(GetPeerBook(to_text(bob.identity)[:10], MARKET))
    wire.run(1_000)
    result = carol.answers()[-1].result
    assert result["peer"] == to_text(bob.identity)
    assert {bytes.fromhex(one["order_id"]) for one in result["orders"]} == placed
    assert (result["snapshots"], result["makers"]) == (2, 2)
    assert result["bids"][0]["quantity_lots"] == 6_000
    carol.command(GetPeerBook("bob", MARKET))
    assert carol.answers()[-1].result["message"].startswith("'bob' is too short: give at least 8")
    carol.command(GetPeerBook("nobody22", MARKET))
    assert carol.answers()[-1].result["reason"] == "unknown_peer"
    bob.crash()
    carol.command(GetPeerBook(to_text(bob.identity), MARKET))
    wire.run(limits.REQUEST_DEADLINE_MS + 10)
    assert carol.answers()[-1].result["reason"] == "timed_out"


def fetched(host: Host, peer: Maker) -> None:
    """Start to fetch a peer's book."""
    host.command(GetPeerBook(to_text(peer.identity), MARKET))


FAULTS = ["heads", "head signature", "snapshot signature", "other head", "digests", "rows"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_peers_book_that_lies_is_refused(fault: str) -> None:
    """One wrong signature, digest or row, and nothing of it is shown."""
    _, host, peer = scene()
    peer.publish(peer.new(1)[1])
    key = Stranger(peer.wire, "x").key
    fetched(host, peer)
    beat, digests = peer.beat(), Frozen(peer.fold).digests
    forged = seal(key, "play", "heartbeat", msgspec.msgpack.decode(beat)[0])
    if fault == "heads":
        peer.reply(host, "heads", Heads([peer.beat()] * PEERS_PAGE_MAX))
        peer.reply(host, "heads", Heads([peer.beat()]))
    elif fault == "head signature":
        peer.reply(host, "heads", Heads([forged]))
    else:
        peer.reply(host, "heads", Heads([beat]))
        if fault == "snapshot signature":
            beat = forged
        elif fault == "other head":
            beat = peer.beat(msgspec.structs.replace(peer.fold.head(), epoch=1))
        elif fault == "digests":
            digests = bytes(len(digests))
        peer.reply(host, "snapshot", Snapshot(beat, digests))
        if fault == "rows":
            peer.reply(host, "rows", Rows(1, []))
    answer = host.answers()[-1]
    assert (answer.ok, answer.result["reason"]) == (False, "malformed")
    assert "did not give its book" in answer.result["message"]


def test_a_peers_book_may_be_empty_or_lack_a_maker() -> None:
    """No heads: an empty book.  Orders that it has not now: those of the others are shown."""
    wire, host, peer = scene()
    fetched(host, peer)
    peer.reply(host, "heads", Heads([]))
    assert host.answers()[-1].result["snapshots"] == 0
    peer.publish(peer.new(1)[1])
    other = Maker(wire, "other")
    other.publish(other.new(1)[1])
    for reason, shown in (("sequence_gap", True), ("shutting_down", False)):
        fetched(host, peer)
        peer.reply(host, "heads", Heads([peer.beat()]))
        peer.reject(host, "snapshot", reason)
        assert host.answers()[-1].ok is shown


def test_a_peers_book_with_too_many_orders_ends_with_what_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A maker whose orders are more than a node keeps is left out."""
    monkeypatch.setattr("zmqex.kernel.books.ORDERS_TOTAL_MAX", 1)
    _, host, peer = scene()
    peer.publish(peer.new(1)[1], peer.new(2)[1])
    fetched(host, peer)
    peer.reply(host, "heads", Heads([peer.beat()]))
    peer.give_snapshot(host)
    assert host.answers()[-1].result["snapshots"] == 0


def test_every_change_of_a_book_is_announced_once() -> None:
    """One line per event and market, for live views."""
    _, host, maker = scene()
    host.effects.clear()
    maker.say(host, maker.topic, maker.publish(maker.new(1)[1], maker.new(2)[1]))
    announced = [one for one in host.effects if isinstance(one, out.Announce)]
    assert [(one.topic, one.facts) for one in announced] == [("book", {"market": MARKET})]
