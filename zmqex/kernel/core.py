"""What the parts of the kernel share: the moment, the effects so far, timers, and requests.

A part never keeps a clock or a random source; it asks here.  Everything is deterministic: the same
events and moments give the same effects.  Not for decisions about orders, trades or peers.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final

import msgspec

from zmqex.kernel.effects import Announce, AnswerCommand, Effect, Log, PayInvoice, Persist
from zmqex.kernel.events import Now
from zmqex.kernel.records import PutCounter, Write
from zmqex.limits import (
    FOLLOW_ALL_MAX,
    HOLDS_PER_ADDRESS_MAX,
    ORDERS_PER_STRANGER_MAX,
    PRICE_BAND_PERCENT,
)
from zmqex.market.instruments import BASE, Currencies
from zmqex.protocol.identity import Signer, seal
from zmqex.reasons import RejectReason

_BEGINNING: Final = Now(0, 0, bytes(32))


class Backend(msgspec.Struct, frozen=True):
    """One of our Lightning nodes, as far as decisions depend on it.

    `ledger`: what keeps its payments, where that is not known by `node`.
    `can_hold`: it can hold a payment, and does until `auto_cancel_blocks` before its lock ends.
    """

    node: bytes = bytes(33)
    invoice_prefix: str = "bcrt"
    can_hold: bool = False
    auto_cancel_blocks: int = 0
    ledger: bytes = b""

    @property
    def identity(self) -> bytes:
        """What must be the same for its word about an older payment to count."""
        return self.ledger or self.node


class Settings(msgspec.Struct, frozen=True):
    """What the operator has configured, as far as decisions depend on it."""

    network: str = "play"
    hold_ttl_ms: int = 900_000
    # Endpoints as announced in our record; host "" means "the address you reached me at".
    host: str = ""
    hello_port: int = 1
    rpc_port: int = 1
    orders_port: int = 1
    curve_key: bytes = bytes(32)
    lightning_node: bytes = bytes(33)
    lightning_ledger: bytes = b""
    invoice_prefix: str = "bcrt"
    markets: tuple[str, ...] = ("BTC/USD",)
    holds_strict: bool = False
    holds_per_address: int = HOLDS_PER_ADDRESS_MAX
    stranger_percent: int = 100  # of each order, for all strangers together
    asks_before_accept: bool = False  # the operator's own program decides on each take
    leased: bool = False  # others can reach the hold server: only the owner of its lease leads
    # What the Lightning backend can do: hold a payment, and until so long before its lock ends.
    can_hold: bool = False
    # The operator's limits on what is at stake, 0: none.
    max_trade_msat: int = 0
    max_held_msat: int = 0
    max_day_msat: int = 0
    # All takers by `htlc` together may have this share locked of what can be spent, 0: all of it.
    locked_percent: int = 0
    spendable_msat: int = 0  # when the node started; `FundsSeen` says it anew
    auto_cancel_blocks: int = 0
    pay_instructions: str = "agree on how the quote is sent; play money needs no real transfer"
    # (identity or b"", host, hello port) of peers that the operator named.
    static_peers: tuple[tuple[bytes, str, int], ...] = ()
    orders_per_stranger: int = ORDERS_PER_STRANGER_MAX
    follow_all_max: int = FOLLOW_ALL_MAX
    price_band_percent: int = PRICE_BAND_PERCENT  # 0: no band
    # Everything that is dialled goes through a proxy.
    proxied: bool = False
    # Quote currency -> our node on its own Lightning-like network.
    quote_backends: Mapping[str, Backend] = {}

    def backend(self, asset: str) -> Backend | None:
        """Our Lightning node for the base, or for a quote that has a network of its own."""
        if asset != BASE:
            return self.quote_backends.get(asset)
        return Backend(
            self.lightning_node,
            self.invoice_prefix,
            self.can_hold,
            self.auto_cancel_blocks,
            self.lightning_ledger,
        )


def money_word(network: str) -> str:
    """What is traded on a network, for every screen, invoice and log line of a trade."""
    return {"play": "play money", "mainnet": "real bitcoin"}.get(network, f"coins of {network}")


class Core:
    """The shared ground of one kernel."""

    def __init__(self, settings: Settings, signer: Signer, currencies: Currencies) -> None:
        """Start with nothing known; `counters` are restored by the kernel."""
        self.settings = settings
        self.money = money_word(settings.network)
        self.signer = signer
        self.currencies = currencies
        self.identity = signer.public_key
        self.now = _BEGINNING
        self.other_nodes: dict[str, bytes] = {}  # asset -> who answers in place of our node
        self.height = 0  # of the Lightning backend's chain; 0 before it was heard
        self.spendable_msat = settings.spendable_msat
        # (hash, asset) of each payment that Lightning was told to make and has not answered yet.
        self.paying: set[tuple[bytes, str]] = set()
        self.counters: dict[str, int] = {}
        self.counted: dict[str, int] = {}
        self._effects: list[Effect] = []
        self._announced: dict[tuple[str, str], Announce] = {}
        self._writes: list[Write] = []
        self._drawn = 0
        self._timers: list[tuple[int, int]] = []
        self._timer_calls: dict[int, tuple[Hashable, Callable[[], None]]] = {}
        self._timer_names: dict[Hashable, int] = {}
        self._timer_serial = 0

    # --- one event -----------------------------------------------------------------------------

    def begin(self, now: Now) -> None:
        """Open the moment of an event."""
        self.now = now
        self._drawn = 0

    def finish(self) -> list[Effect]:
        """Close the event: its effects in order, all its writes as one Persist in front."""
        effects, writes = self._effects, self._writes
        self._effects, self._writes = [], []
        effects += self._announced.values()
        self._announced = {}
        if writes:
            effects.insert(0, Persist(tuple(writes)))
        return effects

    def emit(self, effect: Effect) -> None:
        """Add an effect of this event."""
        if isinstance(effect, PayInvoice):
            self.paying.add((effect.payment_hash, effect.asset))
        self._effects.append(effect)

    def announce(self, topic: str, key: str, **facts: Any) -> None:  # noqa: ANN401
        """Tell live views what has changed; of one thing (`key`) only the last word of an event."""
        self._announced[topic, key] = Announce(topic, facts)

    def persist(self, write: Write) -> None:
        """Add a write of this event."""
        self._writes.append(write)

    def log(self, level: str, event: str, **facts: Any) -> None:  # noqa: ANN401
        """Add a log line; facts are plain values."""
        self._effects.append(Log(level, event, facts))

    def count(self, word: str, by: int = 1) -> None:
        """Count something for `status`."""
        self.counted[word] = self.counted.get(word, 0) + by

    def random(self, size: int) -> bytes:
        """Up to 64 fresh random bytes, drawn from the entropy of this event."""
        self._drawn += 1
        return hashlib.blake2b(
            self._drawn.to_bytes(4, "big"), key=self.now.entropy, digest_size=size
        ).digest()

    def next_counter(self, name: str) -> int:
        """Raise a persisted counter by one and return it; its value never repeats."""
        value = self.counters.get(name, 0) + 1
        self.set_counter(name, value)
        return value

    def set_counter(self, name: str, value: int) -> None:
        """Raise a persisted counter to a value."""
        self.counters[name] = value
        self.persist(PutCounter(name, value))

    def seal(self, kind: str, body: bytes) -> bytes:
        """Sign a body as this node: envelope bytes."""
        return seal(self.signer, self.settings.network, kind, body)

    # --- answers to the operator ---------------------------------------------------------------

    def answer(self, client: bytes, request_id: int, result: dict[str, Any]) -> None:
        """Answer a command."""
        self.emit(AnswerCommand(client, request_id, ok=True, result=result))

    def refuse(self, client: bytes, request_id: int, reason: RejectReason, message: str) -> None:
        """Refuse a command in one clear sentence."""
        result = {"reason": reason.value, "message": message}
        self.emit(AnswerCommand(client, request_id, ok=False, result=result))

    # --- timers: at most one per name ----------------------------------------------------------

    def call_at(self, name: Hashable, at_ms: int, call: Callable[[], None]) -> None:
        """Call at a monotonic time; an earlier timer of the same name is replaced."""
        self.cancel_timer(name)
        self._timer_serial += 1
        self._timer_names[name] = self._timer_serial
        self._timer_calls[self._timer_serial] = (name, call)
        heapq.heappush(self._timers, (at_ms, self._timer_serial))

    def call_after(self, name: Hashable, delay_ms: int, call: Callable[[], None]) -> None:
        """Call after a delay from the moment of this event."""
        self.call_at(name, self.now.monotonic_ms + delay_ms, call)

    def cancel_timer(self, name: Hashable) -> None:
        """Forget a timer; an unknown name is fine."""
        serial = self._timer_names.pop(name, None)
        if serial is not None:
            del self._timer_calls[serial]

    def run_timers(self) -> None:
        """Call everything that is due, in time order; what a call schedules for now waits."""
        due: list[int] = []
        while self._timers and self._timers[0][0] <= self.now.monotonic_ms:
            due.append(heapq.heappop(self._timers)[1])
        for serial in due:
            entry = self._timer_calls.pop(serial, None)
            if entry is not None:
                name, call = entry
                del self._timer_names[name]
                call()

    def next_deadline_ms(self) -> int | None:
        """The monotonic time of the next timer."""
        while self._timers and self._timers[0][1] not in self._timer_calls:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None
