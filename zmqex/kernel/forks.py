"""Makers that said two things at once: their epochs are void, here and, by the proof, everywhere.

What is void stays so after a restart: else the maker could show this node the branch that suits it
while nobody who saw the other one is near.  So each proof is journaled, the newest of them.
Not for finding a fork (`replicas`, `sync`) or checking a proof's signatures (`claims`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zmqex.kernel.claims import PROOF_TOPIC
from zmqex.kernel.core import Core
from zmqex.kernel.effects import Publish
from zmqex.kernel.logs import MakerLog
from zmqex.kernel.records import DropFork, ForkedLog, PutFork
from zmqex.limits import FORKS_KEPT_MAX, FRAME_BYTES_MAX
from zmqex.protocol.codec import encode
from zmqex.protocol.identity import short
from zmqex.protocol.messages import ForkProof

if TYPE_CHECKING:
    from zmqex.kernel.replicas import Replicas


class Forks:
    """The void epochs, and their proofs."""

    def __init__(self, core: Core, replicas: Replicas) -> None:
        """Know of none; `restore` brings back what the journal has."""
        self._core = core
        self._replicas = replicas
        self._kept: dict[tuple[bytes, str], None] = {}  # in the journal, the oldest first

    def restore(self, forks: tuple[ForkedLog, ...]) -> None:
        """What was void before the restart, the oldest first, is void."""
        for fork in forks:
            self._kept[fork.maker, fork.market] = None
            if fork.market not in self._replicas.markets():
                continue
            log = self._replicas.log_for(fork.maker, fork.market)
            if log is not None:
                self._replicas.begin(log, fork.epoch)
                log.forked, log.proof = True, fork.proof

    def accept(self, log: MakerLog, epoch: int, proof: ForkProof) -> None:
        """A maker said two things at once: its epoch is void until it opens a new one."""
        fold = log.fold
        if fold.maker == self._core.identity:
            self._replicas.on_own_ahead(fold.market, epoch)
            return
        if log.forked or epoch != fold.epoch:
            return
        self._replicas.hide(log)
        log.forked, log.gap, log.probe = True, {}, 0
        self._core.count("forked_logs")
        self._core.log("error", "log_forked", maker=short(fold.maker), market=fold.market)
        raw = encode(proof)
        if len(raw) <= FRAME_BYTES_MAX:
            log.proof = raw
            self._say(log)
        self._keep(ForkedLog(fold.maker, fold.market, epoch, log.proof))

    def keeps(self, log: MakerLog) -> bool:
        """Whether the journal knows that this log is void."""
        return (log.fold.maker, log.fold.market) in self._kept

    def ended(self, log: MakerLog) -> None:
        """Its maker has opened a new epoch."""
        key = log.fold.maker, log.fold.market
        if key in self._kept:
            self._drop(key)

    def repeat(self, log: MakerLog, after_ms: int) -> None:
        """Say the proof again if that was not done for so long."""
        if log.proof and self._core.now.monotonic_ms - log.proof_said_ms >= after_ms:
            self._say(log)

    def _say(self, log: MakerLog) -> None:
        """Show everybody who listens that a maker said two things at once."""
        log.proof_said_ms = self._core.now.monotonic_ms
        self._core.emit(Publish(PROOF_TOPIC, log.proof))

    def _keep(self, fork: ForkedLog) -> None:
        if len(self._kept) >= FORKS_KEPT_MAX:
            self._drop(next(iter(self._kept)))
        self._kept[fork.maker, fork.market] = None
        self._core.persist(PutFork(fork))

    def _drop(self, key: tuple[bytes, str]) -> None:
        del self._kept[key]
        self._core.persist(DropFork(*key))
