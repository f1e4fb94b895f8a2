"""Nobody hears of our own state before it is on disk.

Effects that reveal our state wait for the commit of their event and of all earlier ones, first in
first out.  Events that write nothing wait only while something before them does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from zmqex.kernel.effects import REVEALING, Effect, Persist
from zmqex.kernel.records import Write

Commit = Callable[[tuple[Write, ...], Callable[[], None]], None]


class _Held:
    """The revealing effects of one event, and whether the event is on disk."""

    __slots__ = ("effects", "on_disk")

    def __init__(self, effects: deque[Effect], *, on_disk: bool) -> None:
        self.effects = effects
        self.on_disk = on_disk


class Gate:
    """Lets effects out in order; `carry_out` does one, `commit` writes and calls back when done."""

    def __init__(self, commit: Commit, carry_out: Callable[[Effect], None]) -> None:
        """Start with nothing held back."""
        self._commit = commit
        self._carry_out = carry_out
        self._held: deque[_Held] = deque()
        self._letting_out = False

    @property
    def waiting(self) -> int:
        """How many events have effects that wait for the disk."""
        return len(self._held)

    def pass_through(self, effects: Sequence[Effect]) -> None:
        """Commit what an event writes, carry out what may go at once, hold back the rest.

        The commit is begun last: its thread would only wait for the interpreter until then.
        """
        revealing: deque[Effect] = deque()
        at_once: list[Effect] = []
        persist: Persist | None = None
        for effect in effects:
            if isinstance(effect, Persist):
                persist = effect
            elif isinstance(effect, REVEALING):
                revealing.append(effect)
            else:
                at_once.append(effect)
        try:
            self._at_once(iter(at_once))
        finally:
            if persist is not None or revealing:
                held = _Held(revealing, on_disk=persist is None)
                self._held.append(held)
                if persist is not None:
                    self._commit(persist.writes, lambda: self._committed(held))
        self._let_out()

    def _at_once(self, effects: Iterator[Effect]) -> None:
        """One that fails keeps back none of the others: money may wait for them."""
        try:
            for effect in effects:
                self._carry_out(effect)
        except BaseException:
            self._at_once(effects)
            raise

    def _committed(self, held: _Held) -> None:
        held.on_disk = True
        self._let_out()

    def _let_out(self) -> None:
        if self._letting_out:
            return  # an effect has led to another event: whoever is at it goes on with that
        self._letting_out = True
        try:
            while self._held and self._held[0].on_disk:
                effects = self._held[0].effects
                while effects:
                    self._carry_out(effects.popleft())
                self._held.popleft()
        finally:
            self._letting_out = False
