"""Holds on a Redis or Valkey server: TCP, TLS, Unix socket, Sentinel, or in this process.

Not for deciding a sale (the journal does) and not for starting a server (see `embedded`).
"""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import unquote, urlsplit

from redis.asyncio import ConnectionPool, Redis, Sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from zmqex.adapters.holds import lua
from zmqex.adapters.holds.line import Line
from zmqex.adapters.holds.port import HoldAnswer, HoldOutcome, HoldRow, HoldView, ServerInfo
from zmqex.adapters.holds.resp import Word
from zmqex.errors import ConfigError, HoldsUnavailableError, LocalProtocolError
from zmqex.limits import (
    HOLD_SERVER_TIMEOUT_S,
    INTEGER_MAX,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    Ask = Callable[..., Awaitable[Any]]

_IN_MEMORY_URL: Final = "memory://"
_ROW_FIELDS: Final = 5
_SENTINEL_PORT: Final = 26_379


class RedisHolds:
    """The hold lock of one node.  Many nodes can share a server: keys carry the identity."""

    def __init__(
        self,
        client: Redis,
        *,
        identity: bytes,
        url: str,
        embedded: bool,
        guides: Sequence[Redis] = (),
    ) -> None:
        """Use `client` for the keys of `identity`; see `connect` and `in_memory`.

        `guides` are the Sentinels that `client` asks for its server; closed with it.
        """
        prefix = f"zmqex:{{{identity[:8].hex()}}}:"
        self._client = client
        self._guides = guides
        self._url = without_password(url)
        self._embedded = embedded
        self._line = None if url == _IN_MEMORY_URL else Line(client.connection_pool)
        self._ask: Ask = self._line.ask if self._line else client.execute_command
        self._hold = prefix + "hold:"
        self._order = prefix + "order:"
        self._live = prefix + "live"
        self._epoch = prefix + "epoch"
        self._leader = prefix + "leader"

    @classmethod
    def connect(cls, url: str, *, identity: bytes, embedded: bool = False) -> Self:
        """Prepare a client; nothing is sent before the first call.

        `redis://`, `rediss://`, `unix://` as redis-py reads them, and
        `redis+sentinel://[user:password@]host[:port],host.../name[/database]`.
        Raises `ConfigError` for any other text.
        """
        try:
            client, guides = (
                _sentinel(url) if url.startswith("redis+sentinel://") else (_direct(url), [])
            )
        except ValueError as error:
            raise ConfigError(
                f"--redis {without_password(url)!r} is not a Redis URL: {error}"
            ) from error
        return cls(client, identity=identity, url=url, embedded=embedded, guides=guides)

    @classmethod
    def in_memory(cls, *, identity: bytes) -> Self:
        """Hold in this process, for platforms without a server; the memory ends with it.

        Raises `ConfigError` if the `fakeredis` package is not installed.
        """
        try:
            fakeredis: Any = importlib.import_module("fakeredis")
        except ImportError as error:
            raise ConfigError(
                "no hold server here: give --redis URL, or install fakeredis[lua]"
            ) from error
        client: Redis = fakeredis.FakeAsyncRedis()
        return cls(client, identity=identity, url=_IN_MEMORY_URL, embedded=True)

    async def reserve(
        self,
        *,
        order_id: bytes,
        trade_id: bytes,
        quantity_lots: int,
        capacity_lots: int,
        fence: int,
        ttl_ms: int,
    ) -> HoldAnswer:
        """See `port.Holds`: one script purges, sums and reserves."""
        _check(quantity_lots=quantity_lots, fence=fence, ttl_ms=ttl_ms)
        trade, order = trade_id.hex(), order_id.hex()
        with self._translated():
            outcome, held = await self._run(
                lua.RESERVE,
                self._keys(order, trade),
                (self._hold, trade, order, quantity_lots, capacity_lots, fence, ttl_ms),
            )
        if outcome == b"conflict":
            raise LocalProtocolError(f"trade {trade} already holds something else of order {order}")
        return HoldAnswer(HoldOutcome(outcome.decode()), int(held))

    async def release(self, order_id: bytes, trade_id: bytes, fence: int) -> bool:
        """See `port.Holds`."""
        trade, order = trade_id.hex(), order_id.hex()
        with self._translated():
            keys = self._keys(order, trade)
            return bool(await self._run(lua.RELEASE, keys, (trade, order, fence)))

    async def extend(self, order_id: bytes, trade_id: bytes, fence: int, ttl_ms: int) -> bool:
        """See `port.Holds`."""
        _check(fence=fence, ttl_ms=ttl_ms)
        trade, order = trade_id.hex(), order_id.hex()
        with self._translated():
            keys = self._keys(order, trade)
            return bool(await self._run(lua.EXTEND, keys, (trade, order, fence, ttl_ms)))

    async def rebuild(self, epoch: bytes, rows: Sequence[HoldRow]) -> None:
        """See `port.Holds`."""
        arguments: list[bytes | str | int] = [epoch, self._hold, self._order]
        for row in rows:
            _check(quantity_lots=row.quantity_lots, fence=row.fence, ttl_ms=row.ttl_ms)
            ids = row.trade_id.hex(), row.order_id.hex()
            arguments += [*ids, row.quantity_lots, row.fence, row.ttl_ms]
        with self._translated():
            await self._run(lua.REBUILD, (self._epoch, self._live), arguments)

    async def epoch(self) -> bytes | None:
        """See `port.Holds`."""
        with self._translated():
            stored: bytes | None = await self._ask("GET", self._epoch)
        return stored

    async def list(self) -> list[HoldView]:
        """See `port.Holds`."""
        with self._translated():
            fields = await self._run(lua.LIST, (self._live,), (self._hold,))
        return [
            HoldView(
                order_id=bytes.fromhex(fields[first].decode()),
                trade_id=bytes.fromhex(fields[first + 1].decode()),
                quantity_lots=int(fields[first + 2]),
                fence=int(fields[first + 3]),
                remaining_ms=int(fields[first + 4]),
            )
            for first in range(0, len(fields), _ROW_FIELDS)
        ]

    async def lease(self, owner: bytes, ttl_ms: int) -> bool:
        """See `port.Holds`."""
        _check(ttl_ms=ttl_ms)
        with self._translated():
            return bool(await self._run(lua.LEASE, (self._leader,), (owner, ttl_ms)))

    async def end_lease(self, owner: bytes) -> bool:
        """See `port.Holds`."""
        with self._translated():
            return bool(await self._run(lua.END_LEASE, (self._leader,), (owner,)))

    async def info(self) -> ServerInfo:
        """See `port.Holds`."""
        if self._url == _IN_MEMORY_URL:
            version: str = importlib.import_module("fakeredis").__version__
            return ServerInfo("fakeredis", version, 0, embedded=True, url=self._url)
        with self._translated():
            fields: dict[str, Any] = await self._client.info("server")
        name = str(fields.get("server_name", "redis"))
        return ServerInfo(
            name=name,
            # Valkey says 7.2.4 for redis_version, for the sake of old clients.
            version=str(fields.get(f"{name}_version", fields["redis_version"])),
            pid=int(fields["process_id"]),
            embedded=self._embedded,
            url=self._url,
        )

    async def ping(self) -> None:
        """See `port.Holds`."""
        with self._translated():
            await self._ask("PING")

    async def close(self) -> None:
        """See `port.Holds`."""
        if self._line is not None:
            await self._line.close()
        for client in (self._client, *self._guides):
            await client.aclose()

    async def _run(self, script: lua.Script, keys: Sequence[str], arguments: Sequence[Word]) -> Any:  # noqa: ANN401 - the script's answer
        """Run a script; its text travels only to a server that does not have it."""
        rest = (len(keys), *keys, *arguments)
        try:
            return await self._ask("EVALSHA", script.sha, *rest)
        except NoScriptError:
            return await self._ask("EVAL", script.text, *rest)

    def _keys(self, order: str, trade: str) -> tuple[str, str, str]:
        return self._hold + trade, self._order + order, self._live

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, OSError) as error:
            why = str(error) or type(error).__name__
            raise HoldsUnavailableError(
                f"the hold server at {self._url} does not serve: {why}"
            ) from error


def without_password(url: str) -> str:
    """Return `url` as it may be shown and logged."""
    scheme, mark, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    hosts = authority.rpartition("@")[2]
    path = path.partition("?")[0]
    return scheme + mark + hosts + slash + path


def _direct(url: str) -> Redis:
    return Redis.from_pool(ConnectionPool.from_url(url, **_patience()))


def _sentinel(url: str) -> tuple[Redis, list[Redis]]:
    """Return a client of the master and those of the Sentinels that know it."""
    parts = urlsplit(url)
    authority = parts.netloc.rpartition("@")[2]
    name, _, database = parts.path.strip("/").partition("/")
    if not (authority and name):
        raise ValueError("redis+sentinel:// needs hosts and the name of the master")
    hosts = [_host(text) for text in authority.split(",")]
    account = {
        "username": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
    }
    untyped: Any = Sentinel
    sentinel = untyped(hosts, sentinel_kwargs=_patience(), **_patience(), **account)
    return sentinel.master_for(name, db=int(database or 0)), sentinel.sentinels


def _host(text: str) -> tuple[str, int]:
    host, _, port = text.partition(":")
    return host, int(port or _SENTINEL_PORT)


def _patience() -> dict[str, Any]:
    """One second and no second try: a take that waits for a lock is worse than a refused one."""
    return {
        "socket_timeout": HOLD_SERVER_TIMEOUT_S,
        "socket_connect_timeout": HOLD_SERVER_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
    }


def _check(**numbers: int) -> None:
    for name, value in numbers.items():
        if not 0 < value <= INTEGER_MAX:
            raise LocalProtocolError(f"{name} must be 1..{INTEGER_MAX}, not {value}")
