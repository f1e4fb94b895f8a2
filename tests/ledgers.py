"""Two play ledgers on disk, joined by a wire in this process that can lose either direction.

A crash is an exception around a commit: what was committed is on disk, the object is dead, and a
new one is opened from the same directory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Literal

from zmqex.adapters.lightning.play import PlayLightning
from zmqex.adapters.lightning.play_ledger import MIGRATIONS
from zmqex.adapters.storage.database import Database
from zmqex.errors import PeerUnavailableError, StorageError
from zmqex.limits import CLTV_LIMIT_BLOCKS, PLAY_BALANCE_MSAT
from zmqex.market.instruments import BASE

NAMES = ("alice", "bob")
TOTAL_MSAT = len(NAMES) * PLAY_BALANCE_MSAT
Moment = Literal["before", "after"]
Loss = Literal["", "question", "answer"]


class Crash(Exception):  # noqa: N818 - it is no error of the program
    """The process has ended at a commit."""


class Wire:
    """Carries a payer's request to the payee, unless it is told to lose something."""

    def __init__(self, scene: Ledgers) -> None:
        """Lose nothing."""
        self._scene = scene
        self.loss: Loss = ""
        self.forged: bytes | None = None
        self.carried = 0

    async def play_pay(
        self,
        payee_node: bytes,
        *,
        payment_hash: bytes,
        amount_msat: int,
        payer_node: bytes,
        asset: str = BASE,
    ) -> tuple[bytes | None, str]:
        """See `zmqex.adapters.ports.PlayWire`."""
        self.carried += 1
        assert asset == BASE
        if self.loss == "question":
            raise PeerUnavailableError("the question was lost")
        payee = next(one for one in self._scene.ledgers.values() if one.node == payee_node)
        try:
            answer = await payee.receive(
                payment_hash, amount_msat=amount_msat, payer_node=payer_node
            )
        except StorageError as error:
            raise PeerUnavailableError("the payee has crashed") from error
        if self.loss == "answer":
            raise PeerUnavailableError("the answer was lost")
        return answer if self.forged is None else (self.forged, "")


class Ledgers:
    """Alice's and bob's ledgers."""

    def __init__(self, root: Path, now_ms: int = 1_800_000_000_000) -> None:
        """Both with what every play node starts with."""
        self._root = root
        self.now_ms = now_ms
        self.wire = Wire(self)
        self.ledgers: dict[str, PlayLightning] = {}
        self.crash_at: dict[str, tuple[Moment, int] | None] = dict.fromkeys(NAMES)
        self.commits = dict.fromkeys(NAMES, 0)
        for name in NAMES:
            (root / name).mkdir(mode=0o700)
            self.open(name)

    def open(self, name: str) -> PlayLightning:
        """A new process finds what is on disk."""
        self.crash_at[name] = None
        ledger = PlayLightning(
            self._root / name,
            clock_ms=lambda: self.now_ms,
            watch_every_s=0.01,
            on_commit=self._hook(name),
        )
        ledger.connect(self.wire)
        self.ledgers[name] = ledger
        return ledger

    async def reopen(self, name: str) -> PlayLightning:
        """End one process and start the next."""
        await self.ledgers[name].close()
        return self.open(name)

    async def balances(self) -> dict[str, int]:
        """What each can spend."""
        return {name: (await one.info()).balance_msat for name, one in self.ledgers.items()}

    async def in_flight(self) -> int:
        """What payers have set aside."""
        return sum([(await one.info()).in_flight_msat for one in self.ledgers.values()])

    async def close(self) -> None:
        """Let go of both."""
        for ledger in self.ledgers.values():
            await ledger.close()

    def _hook(self, name: str) -> Callable[[Moment, int], None]:
        def hook(moment: Moment, _number: int) -> None:
            if moment == "before":
                self.commits[name] += 1
            if self.crash_at[name] == (moment, self.commits[name]):
                raise Crash

        return hook


async def pay(ledger: PlayLightning, invoice: str) -> str:
    """Pay with ordinary limits; the state of the payment."""
    info = await ledger.pay(invoice, fee_limit_msat=0, cltv_limit=CLTV_LIMIT_BLOCKS)
    return info.state


def write_old_ledger(folder: Path, preimage: bytes, amount_msat: int, text: str) -> None:
    """A ledger of the first version, with one open invoice."""
    old, added = Database(folder / "play.sqlite3", MIGRATIONS[:1]), Future[None]()
    payment_hash = hashlib.sha256(preimage).digest()
    row = (payment_hash, preimage, amount_msat, text, "open", 1_900_000_000_000, None)
    old.submit(
        lambda one: one.execute("INSERT INTO invoice VALUES (?, ?, ?, ?, ?, ?, ?)", row),
        lambda _result: added.set_result(None),
    )
    added.result(5)
    old.close()
