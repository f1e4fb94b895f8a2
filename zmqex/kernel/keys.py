"""The keys of commands where money is at stake: a repeat finds what the first one made.

Not for showing it (`answers`).
"""

from __future__ import annotations

from collections.abc import Iterable

from zmqex.kernel.core import Core
from zmqex.kernel.records import PutCommand


class Keys:
    """Key -> the own order, or the trade of a bare take, that the command made."""

    def __init__(self, core: Core) -> None:
        """Nothing was commanded yet."""
        self._core = core
        self._made: dict[str, bytes] = {}
        self._keys: dict[bytes, str] = {}

    def __contains__(self, key: str) -> bool:
        """Whether a command with this key came before and what it made is in memory."""
        return key in self._made

    def __getitem__(self, key: str) -> bytes:
        """What the command made."""
        return self._made[key]

    def restore(self, commands: Iterable[tuple[str, bytes]]) -> None:
        """Bring back what the journal has."""
        for key, made in commands:
            self._made[key] = made
            self._keys[made] = key

    def add(self, key: str, made: bytes) -> None:
        """Remember a command; one without a key cannot be repeated."""
        if key:
            self.restore([(key, made)])
            self._core.persist(PutCommand(key, made))

    def forget(self, made: bytes) -> str | None:
        """Leave to the journal what made this; answers its key."""
        key = self._keys.pop(made, None)
        if key is not None:
            del self._made[key]
        return key
