"""A command that stays: its order lives as long as the command's connection to the node.

Not for programs, which keep a `zmqex.client.Client` themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zmqex.cli.context import INVOCATION, note


def stay(place: Callable[[], dict[str, Any]]) -> None:
    """Place an order over a connection of its own, and keep that until the order has ended.

    Ctrl-C, or any other end of this process, closes the connection; the node closes the order.
    """
    with INVOCATION.connected() as client:
        changes = client.events(("order",))
        order = place()["order"]
        if order["state"] == "closed":
            return
        try:
            note("The order is closed when this command ends: press Ctrl-C for that.")
            for change in changes:
                if (change["order_id"], change["state"]) == (order["order_id"], "closed"):
                    note("The order is closed.")
                    return
        except KeyboardInterrupt:
            note("The node closes the order now.")
