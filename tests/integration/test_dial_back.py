"""Dialling back over real sockets: open is what finishes its handshake as the right peer."""

from __future__ import annotations

import pytest

from tests.integration.transport_sides import HOST, Side, open_descriptors, run, started
from zmqex.kernel.events import DialBackEnded

OPEN = {"hello", "rpc", "orders"}


async def ended(side: Side, ticket: int) -> set[str]:
    """Wait for a dial's end; which sockets were open."""
    await side.until(lambda: any(one.ticket == ticket for one in side.of(DialBackEnded)))
    (event,) = [one for one in side.of(DialBackEnded) if one.ticket == ticket]
    return {name for name in OPEN if getattr(event, name)}


def test_what_is_reached_is_told_and_nothing_stays_open() -> None:
    """All three; one port where nobody listens; somebody else's CURVE key; no address at all."""

    async def story() -> None:
        alice, bob = Side(), Side()
        async with started(alice, bob):
            ports = bob.transport
            hello, rpc = (HOST, ports.hello_port), (HOST, ports.rpc_port)
            orders = (HOST, ports.orders_port)
            alice.transport.dial_back(1, bob.public, hello, rpc, orders)
            assert await ended(alice, 1) == OPEN
            alice.transport._dial_backs._wait_s = 0.2
            alice.transport.dial_back(2, bob.public, hello, (HOST, 1), orders)
            alice.transport.dial_back(3, alice.public, hello, rpc, orders)
            alice.transport.dial_back(4, bob.public, ("no host", 1), rpc, ("[", 1))
            assert await ended(alice, 2) == {"hello", "orders"}
            assert await ended(alice, 3) == {"hello"}
            assert await ended(alice, 4) == {"rpc"}
            alice.transport.dial_back(5, bob.public, (HOST, 1), (HOST, 1), (HOST, 1))

    before = open_descriptors()
    run(story)
    assert open_descriptors() <= before


@pytest.mark.parametrize("late", [False, True])
def test_a_dial_back_ends_once(late: bool) -> None:  # noqa: FBT001 - a test's parameter
    """Also when the last handshake and the deadline come together."""

    async def story() -> None:
        alice, bob = Side(), Side()
        async with started(alice, bob):
            ports = bob.transport
            hello, rpc = (HOST, ports.hello_port), (HOST, ports.rpc_port)
            alice.transport.dial_back(1, bob.public, hello, rpc, (HOST, ports.orders_port))
            if late:
                alice.transport._dial_backs._end(1)
            await ended(alice, 1)
            alice.transport._dial_backs._end(1)
            assert len(alice.of(DialBackEnded)) == 1

    run(story)
