"""Peer records in the DHT: ours put under our key, others' sought by theirs (BEP 44).

A peer whose address has changed is found again by whoever knows its identity.  A record found this
way says where to dial and no more: the peer proves itself there as everywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from zmqex.adapters.clock import wall_ms
from zmqex.adapters.discovery.candidate import Candidate
from zmqex.adapters.discovery.dht import SOURCE, DhtDiscovery
from zmqex.dht.items import Item, ItemKey, make_item
from zmqex.limits import ITEM_WAIT_MS, LOOKUP_WAIT_MS, SEEK_AT_ONCE_MAX, SEEK_EVERY_S
from zmqex.protocol.codec import decode, decode_envelope
from zmqex.protocol.identity import Signer
from zmqex.protocol.messages import PeerRecord
from zmqex.protocol.record import check_record

_SALT: Final = b"zmqex:"


class RecordItems:
    """Puts and seeks records of one network; `found` gets where a sought peer says that it is."""

    def __init__(
        self, dht: DhtDiscovery, network: str, found: Callable[[list[Candidate]], None]
    ) -> None:
        self._dht = dht
        self._network = network
        self._found = found
        self._own: Item | None = None

    def publish(self, record: bytes, signer: Signer) -> None:
        """Put our record (envelope bytes) in place of the one before."""
        sequence = decode(decode_envelope(record).body, PeerRecord).sequence
        where = self._where(signer.public_key)
        item = make_item(where, sequence, record, lambda signed: signer.sign(b"", signed))
        self._own = self._dht.publish(item)

    async def flushed(self) -> None:
        """Give the last record a moment to get around."""
        if self._own is not None:
            await self._dht.stored(self._own, ITEM_WAIT_MS)

    async def seek(self, identity: bytes) -> None:
        """Look one peer's record up."""
        item = await self._dht.get(self._where(identity), LOOKUP_WAIT_MS)
        if item is None or not isinstance(item.value, bytes):
            return
        record = check_record(item.value, self._network, wall_ms())
        if not isinstance(record, PeerRecord) or record.identity != identity:
            return
        if record.hello is not None and record.hello.host:
            self._found([Candidate(record.hello.host, record.hello.port, SOURCE)])

    async def seek_again_and_again(self, lost: Callable[[], Iterable[bytes]]) -> None:
        """Seek whoever is lost, a few at a time, those that wait longest first."""
        waiting: dict[bytes, None] = {}
        while True:
            await asyncio.sleep(SEEK_EVERY_S)
            now_lost = dict.fromkeys(lost())
            waiting = {one: None for one in waiting if one in now_lost} | now_lost
            for identity in list(waiting)[:SEEK_AT_ONCE_MAX]:
                del waiting[identity]
                await self.seek(identity)

    def _where(self, identity: bytes) -> ItemKey:
        return ItemKey(identity, _SALT + self._network.encode())
