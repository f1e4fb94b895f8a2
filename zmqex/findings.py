"""What a check of a node has found: how it is, in a sentence, and what to do about it."""

from __future__ import annotations

from typing import Literal

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """One finding.

    `state`: "ok"; "note", worth knowing and not wrong; "wrong"; "unknown", it could not be checked.
    """

    check: str
    state: Literal["ok", "note", "wrong", "unknown"]
    text: str
    fix: str = ""


def ok(check: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding(check, "ok", text)


def note(check: str, text: str, fix: str = "") -> Finding:
    """Worth knowing."""
    return Finding(check, "note", text, fix)


def wrong(check: str, text: str, fix: str) -> Finding:
    """Something to mend."""
    return Finding(check, "wrong", text, fix)


def unknown(check: str, text: str, fix: str = "") -> Finding:
    """It could not be checked."""
    return Finding(check, "unknown", text, fix)
