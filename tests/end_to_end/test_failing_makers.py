"""Dead, silent and refusing makers are skipped, and waking them never fills twice."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest

from tests.end_to_end.nodes import BTC, Home, Node, wait_for
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
    printed = taker.cli("order", "sell", "0.1BTC@1USD", "--yes")
    took = time.monotonic() - began

    os.kill(hold_server, signal.SIGCONT)
    os.kill(asleep, signal.SIGCONT)
    skipped = [line for line in printed.splitlines() if line.startswith("Skipped maker")]
    words = [re.sub(r"for \d+ s", "for a time", line.partition(", order ")[0]) for line in skipped]
    assert sorted(words) == sorted(
        f"Skipped maker {identities[name][:8]} for a time, because {why}"
        for name, why in (
            ("stopped", "it did not answer in time (timed_out"),
            ("refusing", "its hold server does not answer (holds_unavailable"),
        )
    )
    assert "taken at once: 0.1 BTC" in printed
    assert took < 5
    wait_for("the abandoned take is cancelled on both sides", lambda: _is_off(taker, stopped))
    moving = [one for one in taker.trades().values() if one["state"] not in _ENDED]
    assert [one["counterparty"] for one in moving] == [identities["filling"]]
    assert taker.balance_msat() == 10 * BTC * 1_000 - LOTS * 1_000
    assert stopped.balance_msat() == 10 * BTC * 1_000
    stopped_order = stopped.orders()[0]
    assert (stopped_order["remaining_lots"], stopped_order["held_lots"]) == (LOTS, 0)


_ENDED = {"cancelled", "refused"}


def _is_off(taker: Node, maker: Node) -> bool:
    """Whether the maker has heard the take, and it is off for both without having filled.

    Which of take and cancel it hears first is chance: it gives up the take, or refuses it.
    """
    (mine,) = [one for one in taker.trades().values() if one["counterparty"] == maker.identity]
    theirs = maker.trades().get(mine["trade_id"], {"state": "unknown"})["state"]
    refused = "take_refused_order_closed" in maker.call(GetStatus())["counters"]
    return mine["state"] == "cancelled" and (theirs in _ENDED or (theirs == "unknown" and refused))
