"""Every history of one order, two takers and a node that may end between any two steps.

A breadth-first search over the real kernel of the maker (`tests.small_model`).  A state that was
seen is not walked again, so nothing is bounded but the order and the takers: crashes, look-ups and
jumps of the clock happen in any number and order.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from tests.outside import MemoryJournal
from tests.small_locks import LockRun
from tests.small_model import MARKET, PRICE, START_MS, Action, Run
from tests.small_rollovers import RolloverRun, Rollovers
from tests.small_state import Lightning, Order, Saved
from tests.small_taking import TakerRun
from zmqex.errors import ZmqexError
from zmqex.kernel.commands import PlaceOrder


class ViolationError(AssertionError):
    """An invariant does not hold; `trace` leads there."""

    def __init__(self, what: str, trace: tuple[Action, ...]) -> None:
        """Say what is wrong, and how it came about."""
        super().__init__(f"{what}: {' > '.join(' '.join(map(str, one)) for one in trace)}")
        self.trace = trace


class Walk(msgspec.Struct):
    """What a search has seen."""

    states: int = 0
    steps: int = 0
    quiet: int = 0
    seen: set[str] = msgspec.field(default_factory=set)  # states of trades


def start(order: Order, saved: Saved) -> Run:
    """A node, from what is on disk."""
    if order.takes:
        return TakerRun(order, saved)
    if isinstance(order, Rollovers):
        return RolloverRun(order, saved)
    return LockRun(order, saved) if order.settlement == "htlc" else Run(order, saved)


def begin(order: Order) -> Saved:
    """The order rests in the book; what a rollover needs has happened before."""
    empty = Saved(MemoryJournal(), Lightning(), frozenset(), START_MS)
    run = start(order, empty)
    settlements = (order.settlement,)
    command = PlaceOrder(MARKET, order.side, order.lots, PRICE, settlements=settlements)
    run._poke(lambda: run.kernel.desk.place(b"cli", 1, command))
    return run.prepare() if isinstance(run, RolloverRun) else run.saved()


def walk(order: Order, states_max: int = 1_000_000) -> Walk:
    """Visit every state that can be reached; raises ViolationError where something is wrong.

    Each quiet state and each way to it is found: from every state one can be reached.
    """
    seen = Walk()
    first = begin(order)
    numbers: dict[tuple[Any, ...], int] = {}
    back: list[set[int]] = []
    traces: list[tuple[Action, ...]] = []
    good: list[int] = []
    todo: deque[tuple[Saved, list[Action], tuple[Action, ...], tuple[Action, ...]]] = deque()

    def visit(run: Run, came_from: int | None, since: Saved, path: Any, trace: Any) -> None:  # noqa: ANN401 - actions
        what = run.wrong()
        if what is not None and order.only in what:
            raise ViolationError(what, trace)
        key = run.key()
        number = numbers.get(key)
        if number is None:
            number = numbers[key] = len(numbers)
            back.append(set())
            traces.append(trace)
            todo.append((since, list(run.actions()), path, trace))
            seen.seen.update(f"{trade.state}" for trade in run.trades().values())
            if run.is_quiet():
                good.append(number)
        if came_from is not None:
            back[number].add(came_from)

    visit(start(order, first), None, first, (), ())
    at = 0
    while todo and len(numbers) <= states_max:
        since, actions, path, trace = todo.popleft()
        for action in actions:
            run = _replay(order, since, path, trace)
            seen.steps += 1
            if action == ("crash",):
                left = run.saved()
                visit(start(order, left), at, left, (), (*trace, action))
                continue
            _do(run, action, trace)
            visit(run, at, since, (*path, action), (*trace, action))
        at += 1
    seen.states, seen.quiet = len(numbers), len(good)
    if not todo:
        _check_ends(back, good, traces)
    return seen


def _replay(order: Order, since: Saved, path: tuple[Action, ...], trace: tuple[Action, ...]) -> Run:
    run = start(order, since)
    for action in path:
        _do(run, action, trace)
    return run


def _do(run: Run, action: Action, trace: tuple[Action, ...]) -> None:
    try:
        run.do(action)
    except (AssertionError, LookupError, RuntimeError, ZmqexError) as error:
        raise ViolationError(repr(error), (*trace, action)) from error


def _check_ends(back: list[set[int]], good: list[int], traces: list[tuple[Action, ...]]) -> None:
    """From every state a quiet one can be reached."""
    reached, todo = set(good), list(good)
    while todo:
        for before in back[todo.pop()] - reached:
            reached.add(before)
            todo.append(before)
    stuck = [number for number in range(len(back)) if number not in reached]
    if stuck:
        raise ViolationError(f"{len(stuck)} states never end", traces[stuck[0]])
