#!/usr/bin/env python3
"""Print the state tables of a trade as the Mermaid diagrams of docs/protocol.md.

    scripts/draw_states.py        prints them; a test compares the document with this

Not for deciding anything: the tables stand in zmqex/trading/tables.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from zmqex.trading.states import TERMINAL, State, Table, TradeRole
from zmqex.trading.tables import TABLES

TITLES = {"buy": "buys", "sell": "sells"}
FIRST = {TradeRole.MAKER: State.RESERVED, TradeRole.TAKER: State.TAKING}


def diagrams() -> str:
    """The diagrams, each under its heading, as Markdown."""
    parts = [
        f"#### {settlement}, the {role} {TITLES[side]}\n\n"
        f"```mermaid\n{diagram(FIRST[role], table)}\n```\n"
        for (settlement, role, side), table in TABLES.items()
    ]
    return "\n".join(parts)


def diagram(first: State, table: Table) -> str:
    """One table as a Mermaid state diagram."""
    return "\n".join(["stateDiagram-v2", f"    [*] --> {first}", *_arrows(table)])


def _arrows(table: Table) -> Iterator[str]:
    """One line per row, in the table's order, then the ends."""
    reached: dict[State, None] = {}
    for (state, happened), after in table.items():
        reached[after] = None
        yield f"    {state} --> {after} : {happened}"
    for state in reached:
        if state in TERMINAL:
            yield f"    {state} --> [*]"


if __name__ == "__main__":
    print(diagrams(), end="")
