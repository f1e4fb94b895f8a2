"""What the journal has and memory has not, by name: the first eight bytes of ids and hashes.

Eight bytes each, for they are kept for ever.  Two names may begin alike, so a hit is a reason to
ask the journal, and a miss is proof.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import Final

NAME_BYTES: Final = 8


class Names:
    """A sorted set of beginnings."""

    def __init__(self) -> None:
        """Nothing is there."""
        self._sorted = array("Q")

    def __len__(self) -> int:
        """How many there are; those that were added twice count twice."""
        return len(self._sorted)

    def restore(self, beginnings: Iterable[bytes]) -> None:
        """Take what the journal has."""
        self._sorted = array("Q", sorted(map(_number, beginnings)))

    def add(self, name: bytes) -> None:
        """One more, of eight bytes or longer."""
        if not self.may_have(name):
            insort(self._sorted, _number(name))

    def may_have(self, beginning: bytes) -> bool:
        """Whether a name may begin like this; what is behind the eighth byte is not looked at."""
        place = bisect_left(self._sorted, _number(beginning))
        last = _number(beginning[:NAME_BYTES] + b"\xff" * NAME_BYTES)
        return place < len(self._sorted) and self._sorted[place] <= last


def key_name(key: str) -> bytes:
    """Under which name a command's key is known: any text may be one."""
    return hashlib.blake2b(key.encode(), digest_size=NAME_BYTES).digest()


def _number(name: bytes) -> int:
    return int.from_bytes(name[:NAME_BYTES].ljust(NAME_BYTES, b"\0"), "big")
