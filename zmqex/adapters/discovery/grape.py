"""One grape: the HTTP side of a `grenache-grape` node, asked to announce and to look up.

Its every answer has the status 200; what it means is told by its JSON type alone (number, list
or text).  Nothing that it tells is trusted: a grape believes whoever speaks its DHT.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from typing import Final

from zmqex.adapters.discovery.candidate import Candidate
from zmqex.adapters.discovery.http import HttpAnswer, post_json
from zmqex.dht.address import Scope, is_believable, scope_of
from zmqex.dht.limits import DHT_PEERS_PER_ANSWER_MAX
from zmqex.errors import DiscoveryUnavailableError

SOURCE: Final = "grape"
_LONELY: Final = "No nodes to query"
_PORT_MAX: Final = 65_535
_ADDRESS: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3}){3}):([1-9][0-9]{0,4})")
_SHOWN_CHARS: Final = 80


class LonelyGrapeError(DiscoveryUnavailableError):
    """A grape that knows no other one keeps nothing that is announced to it."""


@dataclass(slots=True)
class Grape:
    """A grape at `url`, and what its last answer taught.

    `elsewhere` is its address if that is on another host: it announces that one in our place.
    """

    url: str
    elsewhere: str = ""

    async def announce(self, name: str, port: int) -> int:
        """Announce `port` under `name` once; return how many other nodes took it.

        Raises `LonelyGrapeError` where there is no other, else `DiscoveryUnavailableError`.
        """
        answer, _ = await self._ask("announce", [name, port])
        match answer:
            case bool():
                raise _not_a_grape(answer)
            case int():
                return answer
            case str():
                raise _refused(answer)
            case _:
                raise _not_a_grape(answer)

    async def lookup(self, name: str) -> list[Candidate]:
        """Return who announced `name`.  Raises `DiscoveryUnavailableError`."""
        answer, reached = await self._ask("lookup", name)
        match answer:
            case list():
                read = [_candidate(one, reached.server_host) for one in answer]
                return [one for one in read if one is not None][:DHT_PEERS_PER_ANSWER_MAX]
            case str():
                raise _refused(answer)
            case _:
                raise _not_a_grape(answer)

    async def _ask(self, call: str, data: object) -> tuple[object, HttpAnswer]:
        question = {"rid": secrets.token_hex(8), "data": data}
        answer = await post_json(f"{self.url}/{call}", json.dumps(question).encode())
        self.elsewhere = "" if answer.server_host == answer.own_host else answer.server_host
        if scope_of(answer.server_host) is Scope.LOOPBACK:
            self.elsewhere = ""
        try:
            return json.loads(answer.body), answer
        except (ValueError, RecursionError) as error:
            raise _not_a_grape(answer.body) from error


def _candidate(told: object, grape_host: str) -> Candidate | None:
    """Read `IPv4:port`; None for anything else, and for what that grape may not speak of."""
    found = _ADDRESS.fullmatch(told) if isinstance(told, str) else None
    if found is None or int(found[2]) > _PORT_MAX or not is_believable(found[1], grape_host):
        return None
    return Candidate(found[1], int(found[2]), SOURCE)


def _refused(text: str) -> DiscoveryUnavailableError:
    if text == _LONELY:
        return LonelyGrapeError("it knows no other grape")
    return DiscoveryUnavailableError(f"it refuses: {text[:_SHOWN_CHARS]!r}")


def _not_a_grape(answer: object) -> DiscoveryUnavailableError:
    return DiscoveryUnavailableError(f"it answers like no grape: {str(answer)[:_SHOWN_CHARS]!r}")
