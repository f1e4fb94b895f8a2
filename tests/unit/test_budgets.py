"""What one peer may stream: each budget reached, refilled, and nobody else charged."""

from __future__ import annotations

import pytest

from tests.unit.maker import Maker, counted, log_of, scene
from tests.wire import Host
from zmqex import limits
from zmqex.kernel import effects as out
from zmqex.kernel.budgets import Budgets
from zmqex.kernel.events import StreamReceived


def stream(host: Host, maker: Maker, *raws: bytes, by: bytes = b"") -> None:
    """Stream batches over one peer's socket, and have their signatures checked."""
    peers = (by or maker.identity,) * len(raws)
    host.handle(StreamReceived(tuple((maker.topic, raw) for raw in raws), peers))
    maker.wire.run(0)


@pytest.mark.parametrize(
    ("name", "burst", "rate"),
    [
        ("messages", limits.STREAM_MESSAGES_BURST, limits.STREAM_MESSAGES_PER_SECOND),
        ("operations", limits.STREAM_OPERATIONS_BURST, limits.STREAM_OPERATIONS_PER_SECOND),
        ("size", limits.STREAM_BYTES_BURST, limits.STREAM_BYTES_PER_SECOND),
    ],
)
def test_each_budget_is_what_is_published(name: str, burst: int, rate: int) -> None:
    """A burst at once, then the rate; one peer's budget is nobody else's."""
    budgets = Budgets()
    assert budgets.admit(b"a", 0, **{name: burst})
    assert not budgets.admit(b"a", 0, **{name: 1})
    assert budgets.admit(b"b", 0, **{name: burst})
    assert not budgets.admit(b"a", 999, **{name: rate})
    assert budgets.admit(b"a", 1_000, **{name: rate})
    assert all(budgets.admit(b"", 0, **{name: burst}) for _ in range(3))


def test_so_many_peers_have_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest makes room."""
    monkeypatch.setattr("zmqex.kernel.budgets.REQUEST_SOURCES_MAX", 2)
    budgets = Budgets()
    for peer in (b"a", b"b", b"c"):
        assert budgets.admit(peer, 0, messages=1)
    assert set(budgets._peers) == {b"b", b"c"}


@pytest.mark.parametrize("limit", ["MESSAGES", "OPERATIONS", "BYTES"])
def test_what_is_over_is_dropped_before_any_signature_check_and_fetched_later(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted, not punished; another peer's copy of the same batch is welcome."""
    most = {"MESSAGES": 2, "OPERATIONS": 2, "BYTES": 600}[limit]
    monkeypatch.setattr(f"zmqex.kernel.budgets.STREAM_{limit}_BURST", most)
    monkeypatch.setattr(f"zmqex.kernel.budgets.STREAM_{limit}_PER_SECOND", 1)
    _, host, maker = scene()
    raws = [maker.publish(maker.new(number)[1]) for number in range(4)]
    host.effects.clear()
    stream(host, maker, *raws)
    checked = [one for one in host.effects if isinstance(one, out.Verify)]
    assert sum(len(one.items) for one in checked) == 2
    assert (counted(host, "over_budget"), log_of(host, maker).fold.sequence) == (2, 2)
    assert host.n.sessions.peers[maker.identity].penalty == 0
    stream(host, maker, *raws[2:], by=b"relay")
    assert log_of(host, maker).fold.sequence == 4
