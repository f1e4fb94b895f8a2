"""Dead, silent and refusing makers are skipped, and waking them never fills twice."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.end_to_end.nodes import BTC, Home, wait_for
from zmqex.kernel.commands import GetStatus, PlaceOrder

LOTS = BTC // 10


@pytest.mark.alone
def test_a_stopped_and_a_refusing_maker_are_skipped_and_the_third_fills(user: Home) -> None:
    """Best price stopped, second best without its hold server, third fills: within 5 seconds."""
    stopped, refusing, filling, taker = (
        user.node(name) for name in ("stopped", "refusing", "filling", "taker")
    )
    for node in (stopped, filling, taker):
        node.start()
    refusing.start("--holds", "strict")
    makers = ((stopped, 300), (refusing, 200), (filling, 100))
    for maker, price in makers:
        taker.wait_live(maker)
        maker.call(PlaceOrder("BTC/USD", "buy", LOTS, price))
        order_id = maker.orders()[0]["order_id"]
        taker.wait_book(order_id, LOTS)
    hold_server = refusing.call(GetStatus())["redis"]["pid"]
    identities = {node.name: node.identity for node, _ in makers}
    asleep = stopped.pid
    os.kill(asleep, signal.SIGSTOP)
    os.kill(hold_server, signal.SIGSTOP)

    began = time.monotonic()
    answer = taker.call(PlaceOrder("BTC/USD", "sell", LOTS, 100))
    took = time.monotonic() - began

    os.kill(hold_server, signal.SIGCONT)
    os.kill(asleep, signal.SIGCONT)
    skipped = {one["maker"]: one["reason"] for one in answer["skipped"]}
    assert skipped == {
        identities["stopped"]: "timed_out",
        identities["refusing"]: "holds_unavailable",
    }
    assert [one["counterparty"] for one in answer["trades"]] == [identities["filling"]]
    assert took < 5
    wait_for("the abandoned take is cancelled on both sides", lambda: _is_off(taker, stopped))
    assert taker.balance_msat() == 10 * BTC * 1_000 - LOTS * 1_000
    assert stopped.balance_msat() == 10 * BTC * 1_000
    stopped_order = stopped.orders()[0]
    assert (stopped_order["remaining_lots"], stopped_order["held_lots"]) == (LOTS, 0)


def _is_off(taker: object, maker: object) -> bool:
    """Whether no trade between the two runs any more, and none has filled."""
    ended = {"cancelled", "refused"}
    mine = [one for one in taker.trades().values() if one["counterparty"] == maker.identity]  # type: ignore[attr-defined]
    theirs = maker.trades().values()  # type: ignore[attr-defined]
    return {one["state"] for one in mine} == {"cancelled"} and {
        one["state"] for one in theirs
    } <= ended
