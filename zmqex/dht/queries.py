"""Queries under way: each with a transaction that cannot be guessed, and a deadline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from zmqex.dht import krpc
from zmqex.dht.address import Address
from zmqex.dht.bencode import Value
from zmqex.dht.limits import DHT_DEAD_LIFE_MS, DHT_DEAD_MAX, DHT_QUERY_TIMEOUT_MS
from zmqex.dht.lookup import Lookup, Round

_CHANCE_BYTES: Final = 4
_COUNT_BYTES: Final = 2


@dataclass(slots=True)
class Pending:
    """A query under way: a check (ping) if it belongs to neither a lookup nor a round."""

    address: Address
    deadline_ms: int
    lookup: Lookup | None = None
    round: Round | None = None


@dataclass(slots=True)
class _Silence:
    """How often an address was silent since it was last heard, and when last."""

    times: int
    at_ms: int


class Queries:
    """Sends what we ask, knows what of it still waits for an answer, and who gave none."""

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
        # The latest silence last.
        self._silent: dict[Address, _Silence] = {}

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
        self.heard(sender)
        return self._pending.pop(transaction)

    def expired(self, now_ms: int) -> Iterator[Pending]:
        """Yield, once, the queries that nobody answered in time."""
        while self._pending:
            transaction, pending = next(iter(self._pending.items()))
            if pending.deadline_ms > now_ms:
                return
            del self._pending[transaction]
            before = self._silent.pop(pending.address, None)
            times = 1 if before is None else before.times + 1
            self._silent[pending.address] = _Silence(times, now_ms)
            if len(self._silent) > DHT_DEAD_MAX:
                del self._silent[next(iter(self._silent))]
            yield pending

    def silences(self, address: Address) -> int:
        """How often `address` was silent since it was last heard, as far as is remembered."""
        silence = self._silent.get(address)
        return 0 if silence is None else silence.times

    def is_dead(self, address: Address, now_ms: int) -> bool:
        """Whether it was silent twice, and lately: one datagram may be lost.

        Others name who has gone for minutes, and each time it would cost a lookup a time-out.
        """
        silence = self._silent.get(address)
        return (
            silence is not None and silence.times > 1 and now_ms - silence.at_ms < DHT_DEAD_LIFE_MS
        )

    def heard(self, address: Address) -> None:
        """Something came from there: whatever was silent lives."""
        self._silent.pop(address, None)

    def forgive(self) -> None:
        """Nobody answers, so it is we who were cut off."""
        self._silent.clear()

    @property
    def next_deadline_ms(self) -> int | None:
        """When the next query expires; None if none is under way."""
        return next(iter(self._pending.values())).deadline_ms if self._pending else None
