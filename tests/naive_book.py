"""The stupid book: a list that is searched from end to end, with the rules spelt out once more.

It is the oracle of the property tests and shares no code with the real book or the matching: not
fast, no index, no levels, no cached sums.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

ALL_OR_NONE = 1
WEEK_MS = 7 * 24 * 60 * 60 * 1_000
GREATEST = 2**63 - 1


@dataclass(frozen=True)
class NaiveOrder:
    """A resting order."""

    order_id: bytes
    maker: bytes
    side: str
    price: int
    lots: int
    minimum: int
    flags: int
    expires_at_ms: int


@dataclass(frozen=True)
class NaiveAsk:
    """An order that wants to be matched."""

    owner: bytes
    side: str
    price: int
    lots: int
    minimum: int
    flags: int
    post_only: bool
    time_in_force: str
    expires_at_ms: int


@dataclass(frozen=True)
class NaivePlan:
    """What becomes of it: (order id, maker, lots, price) of each fill, and the rest."""

    fills: list[tuple[bytes, bytes, int, int]] = field(default_factory=list)
    resting: int = 0
    cancelled: int = 0
    reason: str | None = None
    blocker: bytes | None = None


class NaiveBook:
    """Orders in the order they came."""

    def __init__(self, orders_max: int) -> None:
        self.orders_max = orders_max
        self.rows: list[NaiveOrder] = []

    def find(self, order_id: bytes) -> NaiveOrder | None:
        """Look at every row."""
        return next((row for row in self.rows if row.order_id == order_id), None)

    def place(self, order: NaiveOrder, now_ms: int) -> str | None:
        """Append, unless there is a reason not to."""
        if order.price < 1 or order.price > GREATEST:
            return "invalid_price"
        if order.lots < 0 or order.lots > GREATEST:
            return "invalid_quantity"
        if order.expires_at_ms <= now_ms:
            return "expired"
        if self.find(order.order_id) is not None:
            return "duplicate_order"
        if len(self.rows) >= self.orders_max:
            return "book_full"
        self.rows.append(order)
        return None

    def cancel(self, order_id: bytes) -> NaiveOrder | None:
        """Drop the row."""
        found = self.find(order_id)
        self.rows = [row for row in self.rows if row.order_id != order_id]
        return found

    def update(self, order_id: bytes, lots: int) -> bool:
        """Change the row where it stands."""
        if self.find(order_id) is None or lots < 0 or lots > GREATEST:
            return False
        self.rows = [
            replace(row, lots=lots) if row.order_id == order_id else row for row in self.rows
        ]
        return True

    def fill(self, order_id: bytes, lots: int) -> bool:
        """Take lots away; an order without any is gone."""
        found = self.find(order_id)
        if found is None or lots < 1 or lots > found.lots:
            return False
        if lots == found.lots:
            self.cancel(order_id)
        else:
            self.update(order_id, found.lots - lots)
        return True

    def expire(self, now_ms: int) -> list[NaiveOrder]:
        """Drop what is over."""
        over = [row for row in self.rows if row.expires_at_ms <= now_ms]
        self.rows = [row for row in self.rows if row.expires_at_ms > now_ms]
        return sorted(over, key=lambda row: (row.expires_at_ms, row.order_id))

    def next_expiry_ms(self) -> int | None:
        """The earliest end."""
        return min((row.expires_at_ms for row in self.rows), default=None)

    def queue(self, side: str) -> list[NaiveOrder]:
        """Best price first; sorting is stable, so earlier rows of one price stay earlier."""
        mine = [row for row in self.rows if row.side == side]
        return sorted(mine, key=lambda row: -row.price if side == "buy" else row.price)

    def levels(self, side: str) -> list[tuple[int, int, int, int]]:
        """Price, lots, lots so far, orders; only where there is something to take."""
        found: list[tuple[int, int, int, int]] = []
        so_far = 0
        for price in dict.fromkeys(row.price for row in self.queue(side) if row.lots):
            here = [row.lots for row in self.rows if (row.side, row.price) == (side, price)]
            so_far += sum(here)
            found.append((price, sum(here), so_far, len([lots for lots in here if lots])))
        return found

    def state_hash(self) -> bytes:
        """Hash the queue of each side."""
        text = b""
        for side in ("buy", "sell"):
            for row in self.queue(side):
                numbers = f"{row.price} {row.lots} {row.minimum} {row.flags} {row.expires_at_ms}"
                text += row.order_id + row.maker + f"{side} {numbers}\n".encode()
        return hashlib.blake2b(text, digest_size=32).digest()

    def plan(self, ask: NaiveAsk, now_ms: int, passed_over: frozenset[bytes]) -> NaivePlan:
        """Try every order in turn, one quantity after the other, largest first."""
        refusal = why_not(ask, now_ms)
        if refusal is not None:
            return NaivePlan(cancelled=ask.lots, reason=refusal)
        fills: list[tuple[bytes, bytes, int, int]] = []
        left = ask.lots
        for row in self.queue("sell" if ask.side == "buy" else "buy"):
            meets = row.price <= ask.price if ask.side == "buy" else row.price >= ask.price
            known = {row.order_id, row.maker} & passed_over
            if left == 0 or not meets or known or row.lots == 0 or row.expires_at_ms <= now_ms:
                continue
            if row.maker == ask.owner:
                return NaivePlan([], 0, ask.lots, "self_trade", row.order_id)
            for lots in range(min(left, row.lots), 0, -1):
                if allows(row, lots) and (lots == left or lots >= ask.minimum):
                    fills.append((row.order_id, row.maker, lots, row.price))
                    left -= lots
                    break
        return instructed(ask, fills, left)


def allows(row: NaiveOrder, lots: int) -> bool:
    """Whether a resting order's terms allow this fill."""
    whole = lots == row.lots
    if row.flags & ALL_OR_NONE:
        return whole
    return whole or (lots >= row.minimum and row.lots - lots >= row.minimum)


def instructed(ask: NaiveAsk, fills: list[tuple[bytes, bytes, int, int]], left: int) -> NaivePlan:
    """What the order's instructions make of the fills that it could have."""
    rests = ask.time_in_force in {"gtc", "gtd"}
    if ask.post_only and fills:
        return NaivePlan([], 0, ask.lots, "would_cross", fills[0][0])
    if left and not rests and (ask.flags & ALL_OR_NONE or ask.time_in_force == "fok"):
        return NaivePlan([], 0, ask.lots, "not_fillable")
    if left and rests and ask.flags & ALL_OR_NONE:
        return NaivePlan([], ask.lots)
    return NaivePlan(fills, left, 0) if rests else NaivePlan(fills, 0, left)


def why_not(ask: NaiveAsk, now_ms: int) -> str | None:
    """What is wrong with the order by itself."""
    rests = ask.time_in_force in {"gtc", "gtd"}
    if ask.price < 1 or ask.price > GREATEST:
        return "invalid_price"
    if ask.lots < 1 or ask.lots > GREATEST or ask.minimum < 1:
        return "invalid_quantity"
    if ask.minimum > ask.lots:
        return "minimum_above_quantity"
    if (ask.post_only and not rests) or ask.flags not in {0, 1, 2, 3}:
        return "contradictory_flags"
    if rests and ask.expires_at_ms <= now_ms:
        return "expired"
    if rests and ask.expires_at_ms > now_ms + WEEK_MS:
        return "expiry_too_far"
    return None
