"""Queries under way: each with a transaction that cannot be guessed, and a deadline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from zmqex.dht import krpc
from zmqex.dht.address import Address
from zmqex.dht.bencode import Value
from zmqex.dht.lookup import Lookup, Round
from zmqex.limits import DHT_QUERY_TIMEOUT_MS

_CHANCE_BYTES: Final = 4
_COUNT_BYTES: Final = 2


@dataclass(slots=True)
class Pending:
    """A query under way: a check (ping) if it belongs to neither a lookup nor a round."""

    address: Address
    deadline_ms: int
    lookup: Lookup | None = None
    round: Round | None = None


class Queries:
    """Sends what we ask, and knows what of it still waits for an answer."""

    def __init__(
        self,
        own_id: bytes,
        randomness: Callable[[int], bytes],
        send: Callable[[tuple[bytes, Address]], None],
    ) -> None:
        self._own_id = own_id
        self._randomness = randomness
        self._send = send
        self._asked = 0
        # Earliest deadline first: all wait equally long.
        self._pending: dict[bytes, Pending] = {}

    def ask(
        self,
        address: Address,
        method: bytes,
        arguments: dict[bytes, Value],
        now_ms: int,
        *,
        lookup: Lookup | None = None,
        round_: Round | None = None,
    ) -> None:
        """Ask `address`; its answer belongs to `lookup` or `round_`, or only proves its life."""
        # Chance, so that it cannot be guessed, and a count, so that it cannot come twice.
        self._asked = (self._asked + 1) % (1 << 8 * _COUNT_BYTES)
        transaction = self._randomness(_CHANCE_BYTES) + self._asked.to_bytes(_COUNT_BYTES, "big")
        deadline_ms = now_ms + DHT_QUERY_TIMEOUT_MS
        self._pending[transaction] = Pending(address, deadline_ms, lookup, round_)
        self._send((krpc.encode_query(transaction, method, self._own_id, arguments), address))

    def answered(self, transaction: bytes, sender: Address) -> Pending | None:
        """Return, once, the query that `sender` was asked under `transaction`."""
        pending = self._pending.get(transaction)
        if pending is None or pending.address != sender:
            return None
        return self._pending.pop(transaction)

    def expired(self, now_ms: int) -> Iterator[Pending]:
        """Yield, once, the queries that nobody answered in time."""
        while self._pending:
            transaction, pending = next(iter(self._pending.items()))
            if pending.deadline_ms > now_ms:
                return
            del self._pending[transaction]
            yield pending

    @property
    def next_deadline_ms(self) -> int | None:
        """When the next query expires; None if none is under way."""
        return next(iter(self._pending.values())).deadline_ms if self._pending else None
