"""Our own peer record: made at start, renewed at half-life, withdrawn at the end.

Not for others' records (`protocol.record`).
"""

from __future__ import annotations

from typing import Final

from zmqex.kernel.core import Core
from zmqex.kernel.effects import Publish, PublishRecord
from zmqex.limits import RECORD_LIFE_MS
from zmqex.protocol.codec import encode
from zmqex.protocol.messages import Endpoint, PeerRecord

RECORD_TOPIC: Final = b"p"
_COUNTER: Final = "record_sequence"


class OwnRecord:
    """The newest record that we signed."""

    def __init__(self, core: Core) -> None:
        """Nothing is signed yet."""
        self._core = core
        self._renew_at_ms = 0
        self.raw = b""

    def publish(self, *, leaving: bool = False) -> None:
        """Sign and publish a record newer than all before, whatever the clock did meanwhile."""
        core = self._core
        settings, now_ms = core.settings, core.now.wall_ms
        # A lost journal does not make us start again below what others have seen.
        sequence = max(core.counters.get(_COUNTER, 0) + 1, now_ms)
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
        self._renew_at_ms = now_ms + RECORD_LIFE_MS // 2
        core.emit(PublishRecord(self.raw))
        core.emit(Publish(RECORD_TOPIC, self.raw))

    def renew(self) -> None:
        """Publish a new one when half of the life of the last one is over."""
        if self._core.now.wall_ms >= self._renew_at_ms:
            self.publish()
