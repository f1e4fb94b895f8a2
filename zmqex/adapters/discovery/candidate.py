"""What discovery brings: an endpoint that might be a peer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """A hint, never a peer: anyone may have invented it.

    `host` is numeric, `port` is the hello port, `source` names who brought it (``dht``).
    Ask its hello socket for a signed record before anything else; it may be ourselves.
    """

    host: str
    port: int
    source: str
