"""Our own peer record: made at start, renewed at half-life, withdrawn at the end.

Not for others' records (`protocol.record`).
"""

from __future__ import annotations

from typing import Final

from zmqex.kernel.core import Core
from zmqex.kernel.effects import Publish, PublishRecord
from zmqex.limits import RECORD_LIFE_MS, SECOND_MS
from zmqex.protocol.codec import encode
from zmqex.protocol.messages import Endpoint, PeerRecord

RECORD_TOPIC: Final = b"p"
_COUNTER: Final = "record_sequence"


class OwnRecord:
    """The newest record that we signed."""

    def __init__(self, core: Core) -> None:
        """Nothing is signed yet."""
        self._core = core
        self._signed = core.now
        self.raw = b""

    def publish(self, *, leaving: bool = False) -> None:
        """Sign and publish a record newer than all before, whatever the clock did meanwhile."""
        core = self._core
        settings, now_ms = core.settings, core.now.wall_ms
        newest = core.counters.get(_COUNTER, 0)
        if newest >= now_ms + RECORD_LIFE_MS:
            newest = 0  # our clock was far ahead, and nobody believes such a number
        # A lost journal does not make us start again below what others have seen.
        sequence = max(newest + 1, now_ms)
        core.set_counter(_COUNTER, sequence)
        # "Where you reached me" is an exit of the proxy, where nobody listens for us.
        nowhere = leaving or (settings.proxied and not settings.host)
        hello, rpc, orders = (
            None if nowhere else Endpoint(settings.host, port)
            for port in (settings.hello_port, settings.rpc_port, settings.orders_port)
        )
        record = PeerRecord(
            network=settings.network,
            identity=core.identity,
            hello=hello,
            rpc=rpc,
            orders=orders,
            curve_key=settings.curve_key,
            lightning_node=settings.lightning_node,
            capabilities=["plain"],
            not_before_ms=now_ms,
            not_after_ms=now_ms + RECORD_LIFE_MS,
            sequence=sequence,
        )
        self.raw = core.seal("record", encode(record))
        self._signed = core.now
        core.emit(PublishRecord(self.raw))
        core.emit(Publish(RECORD_TOPIC, self.raw))

    def renew(self) -> None:
        """Publish a new one when half of its life is over, or when the clock was set."""
        now, signed = self._core.now, self._signed
        age_ms = now.wall_ms - signed.wall_ms
        step_ms = age_ms - (now.monotonic_ms - signed.monotonic_ms)
        if age_ms >= RECORD_LIFE_MS // 2 or abs(step_ms) > SECOND_MS:
            self.publish()
