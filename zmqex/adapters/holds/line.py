"""The one connection over which a node asks its hold server.

redis-py makes it (address, Sentinel, TLS, password, database) and ends it.  In between the event
loop writes commands straight to its transport, one behind the other, and reads the answers as they
come: redis-py's own layers cost more time than the network, the server and the script together.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import InvalidResponse, NoScriptError, ResponseError
from redis.exceptions import TimeoutError as SilentError

from zmqex.adapters.holds.resp import Answers, Word, packed
from zmqex.limits import HOLD_SERVER_TIMEOUT_S

_SILENT: Final = f"no answer within {HOLD_SERVER_TIMEOUT_S} s"


class Line:
    """Asks over a connection that is made when it is needed, and made anew when it has ended."""

    def __init__(self, pool: ConnectionPool) -> None:
        """`pool` knows how to connect; its connections are not used."""
        self._pool: Any = pool  # no types there
        self._wire: _Wire | None = None
        self._opening = asyncio.Lock()

    async def ask(self, *words: Word) -> Any:  # noqa: ANN401 - whatever the server answers
        """What the server answers to a command; raises `RedisError`, and repeats nothing."""
        due_s = asyncio.get_running_loop().time() + HOLD_SERVER_TIMEOUT_S
        wire = self._wire
        if wire is None or not wire.usable:
            try:
                async with asyncio.timeout_at(due_s):
                    wire = await self._open()
            except TimeoutError as error:
                raise SilentError(_SILENT) from error
        return await wire.ask(words, due_s)

    async def close(self) -> None:
        """End the connection; the next question makes a new one."""
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()

    async def _open(self) -> _Wire:
        async with self._opening:
            if self._wire is None or not self._wire.usable:
                await self.close()
                connection = self._pool.make_connection()
                try:
                    await connection.connect()
                except BaseException:
                    await connection.disconnect(nowait=True)
                    raise
                self._wire = _Wire(connection)
            return self._wire


class _Wire(asyncio.Protocol):
    """A connection of redis-py, taken over from the library's streams."""

    def __init__(self, connection: AbstractConnection) -> None:
        writer = connection._writer  # noqa: SLF001 - the way to the transport
        if writer is None:
            raise LostError("the connection has ended already")
        self._connection = connection
        self._transport = writer.transport
        # Told of the end as well, or the library could not close.
        self._library = self._transport.get_protocol()
        self._transport.set_protocol(self)
        self._answers = Answers()
        self._refused = False
        self._loop = asyncio.get_running_loop()
        # Who waits, in order, and until when by the loop's clock.
        self._waiting: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._watch: asyncio.TimerHandle | None = None

    @property
    def usable(self) -> bool:
        """Whether it has not ended, and its server has refused nothing."""
        return not (self._refused or self._transport.is_closing())

    async def ask(self, words: tuple[Word, ...], due_s: float) -> Any:  # noqa: ANN401
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append((due_s, answer))
        if self._watch is None:
            self._watch = self._loop.call_at(due_s, self._look_at_the_clock)
        self._transport.write(packed(*words))
        return await answer

    async def close(self) -> None:
        self._end(LostError("the connection was closed"))
        if self._watch is not None:
            self._watch.cancel()
        await self._connection.disconnect()

    def _look_at_the_clock(self) -> None:
        """End a connection whose server is silent: a late answer must not meet a later question.

        One timer for all that wait, and not one each, which an answer would have to cancel.
        """
        self._watch = None
        if not self._waiting:
            return
        due_s, _ = self._waiting[0]
        if due_s > self._loop.time():
            self._watch = self._loop.call_at(due_s, self._look_at_the_clock)
        else:
            self._end(SilentError(_SILENT))

    def _end(self, error: Exception) -> None:
        while self._waiting:
            _, answer = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(error)
        self._transport.abort()

    # --- what the transport tells ----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        try:
            answers = self._answers.feed(data)
        except InvalidResponse as error:
            self._end(error)
            return
        for answer in answers:
            if not self._waiting:
                self._end(InvalidResponse("an answer to nothing"))
                return
            self._answer(self._waiting.popleft()[1], answer)

    def _answer(self, asked: asyncio.Future[Any], answer: Any) -> None:  # noqa: ANN401
        error = isinstance(answer, ResponseError)
        # It may be a replica by now, or still loading: the next question looks for the right one.
        self._refused |= error and not isinstance(answer, NoScriptError)
        if asked.done():
            return
        if error:
            asked.set_exception(answer)
        else:
            asked.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._library.connection_lost(exc)
        self._end(LostError("the connection was lost"))
