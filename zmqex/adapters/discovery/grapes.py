"""Discovery through grapes: one of them is used, the next one when that fails.

`run` is the one task; everything else only says what is wanted.  There is no withdrawing in a
grape: what is announced no more is forgotten after two to four minutes.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeAlias, TypeVar

from zmqex.adapters.clock import monotonic_ms
from zmqex.adapters.discovery.candidate import Candidate
from zmqex.adapters.discovery.grape import Grape, LonelyGrapeError
from zmqex.dht import schedule
from zmqex.dht.limits import GRAPE_ANNOUNCE_EVERY_MS
from zmqex.dht.schedule import Repeat
from zmqex.errors import DiscoveryUnavailableError
from zmqex.limits import SECOND_MS

_R = TypeVar("_R")
_AGAIN_FIRST_MS: Final = 1 * SECOND_MS
_DOUBLINGS_MAX: Final = 5

OnCandidates: TypeAlias = Callable[[list[Candidate]], None]


class GrapeDiscovery:
    """Announces and follows names through the first of `urls` that works.

    `on_candidates` gets what lookups find; `on_notice` each new sentence about what is wrong.
    """

    def __init__(
        self,
        urls: Iterable[str],
        on_candidates: OnCandidates,
        on_notice: Callable[[str], None],
    ) -> None:
        self._grapes = [Grape(url.rstrip("/")) for url in urls]
        self._on_candidates = on_candidates
        self._on_notice = on_notice
        self._ports: dict[str, int] = {}
        self._repeats: dict[tuple[str, bool], Repeat] = {}
        self._failures: dict[tuple[str, bool], int] = {}
        self._changed = asyncio.Event()
        self._used = 0
        self._announced_on: int | None = None
        # What is wrong with each kind of question to each grape; "": nothing.
        self._wrong: dict[tuple[str, str], str] = {}

    def announce(self, name: str, port: int) -> None:
        """Announce our hello `port` under `name`, now and at least every 30 s."""
        self._ports[name] = port
        self._want(name, announce=True)

    def withdraw(self, name: str) -> None:
        """Stop announcing `name`."""
        self._ports.pop(name, None)
        self._repeats.pop((name, True), None)

    def follow(self, name: str) -> None:
        """Look `name` up quickly at first, then every 30 s."""
        self._want(name, announce=False)

    def wake(self) -> None:
        """Do everything anew at once."""
        for repeat in self._repeats.values():
            repeat.restart(monotonic_ms())
        self._changed.set()

    async def run(self) -> None:
        """Do what is due, until cancelled."""
        while True:
            now_ms = monotonic_ms()
            due = [key for key, repeat in self._repeats.items() if repeat.next_ms <= now_ms]
            async with asyncio.TaskGroup() as group:
                for key in due:
                    self._repeats[key].ran(now_ms, secrets.token_bytes)
                    group.create_task(self._do(*key))
            await self._wait()

    async def lookup(self, name: str) -> list[Candidate]:
        """Look `name` up once; nothing if no grape answers."""
        try:
            return await self._first("lookup", lambda grape: grape.lookup(name))
        except DiscoveryUnavailableError:
            return []

    def warnings(self) -> list[str]:
        """Return what is wrong, each with what to do."""
        return [text for text in dict.fromkeys(self._wrong.values()) if text]

    def health(self) -> dict[str, Any]:
        """Return the grape in use, and how many nodes took the last announce (None: none yet)."""
        return {
            "grapes": [grape.url for grape in self._grapes],
            "used": self._grapes[self._used].url,
            "announced_on": self._announced_on,
        }

    # --- private ---------------------------------------------------------------------------------

    def _want(self, name: str, *, announce: bool) -> None:
        now_ms = monotonic_ms()
        repeat = schedule.follow(now_ms)
        if announce:
            repeat = Repeat(now_ms, schedule.ANNOUNCE_PAUSES_MS, GRAPE_ANNOUNCE_EVERY_MS)
        self._repeats[name, announce] = repeat
        self._changed.set()

    async def _wait(self) -> None:
        next_ms = min((repeat.next_ms for repeat in self._repeats.values()), default=None)
        delay_s = None if next_ms is None else max(0, next_ms - monotonic_ms()) / SECOND_MS
        try:
            async with asyncio.timeout(delay_s):
                await self._changed.wait()
        except TimeoutError:
            return
        self._changed.clear()

    async def _do(self, name: str, announce: bool) -> None:  # noqa: FBT001 - a part of its key
        key = (name, announce)
        port = self._ports.get(name, 0)
        try:
            if not announce:
                self._found(await self._first("lookup", lambda grape: grape.lookup(name)))
            elif port:
                self._announced_on = await self._first(
                    "announce", lambda grape: grape.announce(name, port)
                )
        except DiscoveryUnavailableError:
            self._soon_again(key)
        else:
            self._failures.pop(key, None)

    def _found(self, candidates: list[Candidate]) -> None:
        if candidates:
            self._on_candidates(candidates)

    def _soon_again(self, key: tuple[str, bool]) -> None:
        failures = self._failures.get(key, 0)
        self._failures[key] = min(failures + 1, _DOUBLINGS_MAX)
        repeat = self._repeats.get(key)
        if repeat is not None:
            repeat.next_ms = min(repeat.next_ms, monotonic_ms() + (_AGAIN_FIRST_MS << failures))

    async def _first(self, kind: str, call: Callable[[Grape], Awaitable[_R]]) -> _R:
        """Return what the first grape answers that can, the one in use before the others."""
        count = len(self._grapes)
        last = DiscoveryUnavailableError("no grape is named")
        for number in [(self._used + step) % count for step in range(count)]:
            grape = self._grapes[number]
            try:
                answer = await call(grape)
            except DiscoveryUnavailableError as error:
                last = error
                self._note(kind, grape, error)
                continue
            self._used = number
            self._note(kind, grape, None)
            return answer
        raise last

    def _note(self, kind: str, grape: Grape, error: DiscoveryUnavailableError | None) -> None:
        """Keep what is wrong with a grape, and say it when it is news."""
        text = _what_to_do(grape, error)
        if text and text not in self._wrong.values():
            self._on_notice(text)
        self._wrong[grape.url, kind] = text


def _what_to_do(grape: Grape, error: DiscoveryUnavailableError | None) -> str:
    """Return what is wrong and how to mend it; nothing if all is well."""
    if isinstance(error, LonelyGrapeError):
        return (
            f"grape {grape.url} knows no other grape, so it keeps nothing that is announced; "
            "start a second one and name each to the other with --bn"
        )
    if error is not None:
        return f"grape {grape.url} is of no use: {error}; see that it runs and is named rightly"
    if grape.elsewhere:
        return (
            f"grape {grape.url} is on another host and announces its own address, "
            f"{grape.elsewhere}, in place of this node's; run a grape here, or join its DHT with "
            f"--bootstrap {grape.elsewhere}:PORT (its --dp)"
        )
    return ""
