"""Peers that lie: a real kernel whose words are twisted on the way out.

A liar signs whatever it likes with its own key, repeats whatever it has heard, and cannot sign for
anybody else.
"""

from __future__ import annotations

from collections import deque
from random import Random
from typing import TYPE_CHECKING

import msgspec

from tests.simulation.machine import Machine
from tests.simulation.plan import LIES, Fault
from zmqex.errors import RemoteProtocolError
from zmqex.kernel import effects as out
from zmqex.kernel import events as happened
from zmqex.market.orders import Side
from zmqex.protocol.codec import decode, decode_envelope, decode_frame, encode, encode_frame
from zmqex.protocol.identity import order_id, seal
from zmqex.protocol.log import topic
from zmqex.protocol.messages import (
    Batch,
    Close,
    Heartbeat,
    LogPage,
    Operation,
    Order,
    Place,
    Reject,
    Rows,
    Update,
)

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

NETWORK = "play"
HEARTBEAT = b"h"
_HEARD_MAX = 400
_EVERY_MS = 1_500
_LYING = 0.5


class Liar:
    """One liar; which lies it knows comes from the plan."""

    def __init__(self, sim: Simulation, machine: Machine) -> None:
        """Tell the first lie soon."""
        self.sim = sim
        self.machine = machine
        self.random = Random(f"{sim.plan.seed} liar {machine.number}")
        self.lies = [lie for lie in LIES if lie in sim.plan.faults]
        self._heard: deque[tuple[bytes, bytes]] = deque(maxlen=_HEARD_MAX)
        self._forked = False
        sim.schedule.after(self.random.randint(1, _EVERY_MS), self._act)

    def overheard(self, about: bytes, envelope: bytes) -> None:
        """Keep what others say, to say it again."""
        self._heard.append((about, envelope))

    # --- twisting what the kernel says -----------------------------------------------------------

    def distort(self, effect: out.Effect) -> list[out.Effect]:
        """What leaves in place of an effect."""
        if isinstance(effect, out.Publish):
            if effect.topic == HEARTBEAT and self._chooses(Fault.WRONG_ROOT):
                return [out.Publish(HEARTBEAT, self._wrong_root(effect.envelope))]
            if effect.topic.startswith(b"o") and self._chooses(Fault.FORK):
                return self._fork(effect)
        if isinstance(effect, out.SendReply):
            return [self._twist_reply(effect)]
        return [effect]

    def _chooses(self, lie: Fault) -> bool:
        return lie in self.lies and self.random.random() < _LYING

    def _wrong_root(self, envelope: bytes) -> bytes:
        beat = decode(decode_envelope(envelope).body, Heartbeat)
        heads = [
            msgspec.structs.replace(
                head,
                book_root=self.random.randbytes(32),
                sequence=head.sequence + self.random.choice([0, 0, 1, 10**9]),
            )
            for head in beat.heads
        ]
        if heads:
            self.sim.fired(Fault.WRONG_ROOT)
        return self._seal("heartbeat", msgspec.structs.replace(beat, heads=heads))

    def _fork(self, effect: out.Publish) -> list[out.Effect]:
        """Tell half of the subscribers one thing and the others another."""
        batch = decode(decode_envelope(effect.envelope).body, Batch)
        place = Place(encode(self._order(batch.market)))
        other = msgspec.structs.replace(batch, operations=[place])
        twin = self._seal("batch", other)
        self.sim.fired(Fault.FORK)
        self.sim.invariants.signed(self.machine.identity, twin)
        targets = list(self.machine.subscribers.values())
        self.random.shuffle(targets)
        half = len(targets) // 2
        self.sim.outside.publish_to(
            self.machine, out.Publish(effect.topic, twin), targets[:half] or targets
        )
        self.sim.outside.publish_to(self.machine, effect, targets[half:])
        if self.random.random() < 0.3:
            return [effect]
        return []

    def _twist_reply(self, effect: out.SendReply) -> out.Effect:
        """Keep back pages of logs and snapshots, or change the rows in them."""
        frame = decode_frame(effect.frame)
        if frame.kind == "rows" and self._chooses(Fault.WRONG_ROOT):
            rows = decode(frame.body, Rows)
            changed = [msgspec.structs.replace(row, remaining_lots=7) for row in rows.rows]
            self.sim.fired(Fault.WRONG_ROOT)
            twisted = msgspec.structs.replace(rows, rows=changed)
            return out.SendReply(effect.route, encode_frame("rows", frame.request_id, twisted))
        if frame.kind not in {"log", "snapshot", "rows"} or not self._chooses(Fault.WITHHELD_PAGE):
            return effect
        self.sim.fired(Fault.WITHHELD_PAGE)
        if frame.kind == "log" and self.random.random() < 0.5:
            return out.SendReply(
                effect.route, encode_frame("log", frame.request_id, LogPage([], 0))
            )
        refusal = Reject("unavailable", 1_000, "not now")
        return out.SendReply(effect.route, encode_frame("reject", frame.request_id, refusal))

    # --- lies of its own -------------------------------------------------------------------------

    def _act(self) -> None:
        self.sim.schedule.after(self.random.randint(_EVERY_MS // 3, 2 * _EVERY_MS), self._act)
        if not (self.machine.awake and self.lies):
            return
        match self.random.choice(self.lies):
            case Fault.REPLAY if self._heard:
                self.sim.fired(Fault.REPLAY)
                for _ in range(self.random.randint(1, 5)):
                    about, envelope = self.random.choice(self._heard)
                    self._publish(about, envelope)
            case Fault.GARBAGE:
                self._garbage()
            case Fault.FORGERY:
                self._forge()
            case Fault.INVALID_ORDER if self.random.random() < 0.2:
                self._invalid()
            case _:
                pass

    def _garbage(self) -> None:
        self.sim.fired(Fault.GARBAGE)
        random = self.random
        junk = [
            random.randbytes(random.randint(0, 200)),
            b"\x91" * 60_000,
            b"\xdf\xff\xff\xff\xff",
            b"\xc4\xff" + bytes(10),
            b"\x92\xc4\x00\xc4\x40" + bytes(64),
        ]
        about = random.choice([HEARTBEAT, b"p", b"e", b"x", topic(self.sim.plan.markets[0])])
        whole = random.choice(self._heard)[1] if self._heard else junk[0]
        broken = bytearray(whole or b"\0")
        broken[random.randrange(len(broken))] ^= 1 << random.randrange(8)
        self._publish(about, random.choice([*junk, bytes(broken), bytes(broken)]))
        link = random.choice(list(self.machine.links.values()) or [None])
        if link is not None and link.machine.up and random.random() < 0.3:
            frame = random.choice([*junk, bytes(broken)])
            route = happened.Route(self.machine.curve_key, self.machine.host.encode(), "")
            event: happened.Event = happened.RequestReceived(route, frame)
            if random.random() < 0.5:
                event = happened.ReplyReceived(self.machine.identity, frame)
            self.sim.outside.send(self.machine, link.machine, len(frame), Machine.post, event)

    def _forge(self) -> None:
        """Speak for somebody else with the wrong key."""
        victim = self.random.choice(self.sim.honest)
        market = self.random.choice(self.sim.plan.markets)
        log = victim.kernel and victim.kernel.replicas.own_log(market)
        if not log or not log.fold.epoch:
            return
        self.sim.fired(Fault.FORGERY)
        fold, now_ms = log.fold, self.machine.wall_ms
        operations: list[Operation] = [Place(encode(self._order(market)))]
        if fold.orders and self.random.random() < 0.5:
            operations = [Close(min(fold.orders), "cancelled")]
        epoch = fold.epoch + self.random.choice([0, 0, 1])
        sequence, previous = (
            (fold.sequence + 1, fold.head_hash) if epoch == fold.epoch else (1, bytes(32))
        )
        batch = Batch(victim.identity, market, epoch, sequence, previous, now_ms, operations)
        beat = Heartbeat(victim.identity, now_ms + 5_000, [])
        if self.random.random() < 0.5:
            self._publish(topic(market), self._seal("batch", batch))
        else:
            self._publish(HEARTBEAT, self._seal("heartbeat", beat))

    def _invalid(self) -> None:
        """Sign with the own key what no maker may say."""
        market = self.random.choice(self.sim.plan.markets)
        fold = self.machine.k.replicas.own_log(market).fold
        if not fold.epoch:
            return
        self.sim.fired(Fault.INVALID_ORDER)
        terms = self._order(market)
        others = [
            key
            for one in self.sim.honest
            if one.kernel
            for key in one.k.replicas.own_log(market).fold.orders
        ]
        invalid: list[Operation] = [
            Place(encode(msgspec.structs.replace(terms, minimum_lots=terms.quantity_lots + 1))),
            Place(encode(msgspec.structs.replace(terms, price_ticks=0))),
            Place(encode(msgspec.structs.replace(terms, expires_at_ms=2**60))),
            Place(encode(msgspec.structs.replace(terms, market="BTC/XXX"))),
            Place(b"\x93"),
            Update(self.random.randbytes(32), 1, 0),
            Close(min(others, default=bytes(32)), "cancelled"),
        ]
        batch = Batch(
            self.machine.identity,
            market,
            fold.epoch,
            fold.sequence + 1,
            fold.head_hash,
            self.machine.wall_ms,
            [self.random.choice(invalid)],
        )
        envelope = self._seal("batch", batch)
        self.sim.invariants.signed(self.machine.identity, envelope)
        self._publish(topic(market), envelope)

    def _order(self, market: str) -> Order:
        return Order(
            market=market,
            side=Side.BUY,
            price_ticks=100_000,
            quantity_lots=1_000,
            minimum_lots=1,
            time_in_force="gtc",
            flags=0,
            expires_at_ms=self.machine.wall_ms + 600_000,
            settlements=("plain",),
            payment_methods=(),
            nonce=self.random.randbytes(16),
        )

    def _seal(self, kind: str, message: Batch | Heartbeat) -> bytes:
        return seal(self.machine.signer, NETWORK, kind, encode(message))

    def _publish(self, about: bytes, envelope: bytes) -> None:
        targets = list(self.machine.subscribers.values())
        self.sim.outside.publish_to(self.machine, out.Publish(about, envelope), targets)


def placed_ids(maker: bytes, batch: Batch) -> list[bytes]:
    """The ids of the orders that a batch places."""
    return [
        order_id(NETWORK, maker, one.order) for one in batch.operations if isinstance(one, Place)
    ]


def batch_of(envelope: bytes) -> Batch | None:
    """The batch in an envelope, or None where it is none."""
    try:
        return decode(decode_envelope(envelope).body, Batch)
    except RemoteProtocolError:
        return None
