"""What is tried in the small model, and all of it that outlives a process.

For what can happen see `tests.small_model`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

import msgspec

from tests.outside import MemoryJournal
from zmqex.kernel.kernel import Kernel

Change = Callable[[Kernel], None]


class Order(msgspec.Struct, frozen=True):
    """What is tried: one order, and how much each taker asks for."""

    side: str
    lots: int
    asked: tuple[int, ...]
    people: bool = True  # takers may cancel, the maker may close the order
    change: Change = lambda _kernel: None  # what makes a naive variant of the node
    only: str = ""  # look for this violation alone
    settlement: str = "plain"
    takes: bool = False  # the node is the taker of another maker's order; `side` is its own
    repeats: int = 2  # how often a payer's same question may be on its way


class Lightning(msgspec.Struct):
    """Invoices and payments by hash: nothing expires here, so a payment may come late."""

    invoices: dict[bytes, str] = msgspec.field(default_factory=dict)
    payments: dict[bytes, str] = msgspec.field(default_factory=dict)
    locks: dict[bytes, int] = msgspec.field(default_factory=dict)  # hash -> where its lock ends
    owner: dict[bytes, int] = msgspec.field(default_factory=dict)

    def copy(self) -> Lightning:
        """An independent copy."""
        return Lightning(*map(dict, msgspec.structs.astuple(self)))


def copy_of(journal: MemoryJournal) -> MemoryJournal:
    """An independent copy."""
    other = MemoryJournal()
    for name, value in vars(journal).items():
        setattr(other, name, copy(value))  # rows are frozen
    return other


class Saved(msgspec.Struct, frozen=True):
    """All that outlives the process."""

    journal: MemoryJournal
    lightning: Lightning
    told: frozenset[bytes]  # the hashes of invoices that were given to somebody
    clock_ms: int
    height: int = 1_000


def silence(kernel: Kernel) -> None:
    """The network is not modelled, so nothing is published and nobody is looked for."""
    for name in ("restore", "append", "published", "flush"):
        setattr(kernel.publisher, name, _nothing)
    kernel.sessions.start = _nothing  # type: ignore[method-assign, assignment]


def _nothing(*_: object) -> None:
    """Say and do nothing."""


def timers(kernel: Kernel) -> Iterator[tuple[int, Any]]:
    """When each timer is due, and its name."""
    core = kernel.core
    for due, serial in core._timers:
        entry = core._timer_calls.get(serial)
        if entry is not None:
            yield due, entry[0]
