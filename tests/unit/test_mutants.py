"""The faults that `scripts/mutation.py` plants: each kind that it promises, and none in words."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutants import mutants
from mutation import TARGETS

KINDS = {
    "a < b": "a <= b",
    "a != b": "a == b",
    "a + b": "a - b",
    "a // b": "a * b",
    "a and b": "a or b|b|a",
    "not a": "+a",
    "-a": "+a",
    "~a": "+a",
    "a = min(b)": "a = max(b)",
    "a = 1": "a = 2",
    "a = True": "a = False",
    "a = 'x'": "a = 'x?'",
    "{1: 2, **a}": "{1: 3, **a}|{2: 2, **a}|{**a}|{1: 2}",
    "A.X, A.Y": "(A.Y, A.Y)|(A.X, A.X)",
}
STATEMENTS = {
    "if a < b:\n    f()": "if a <= b:\n    f()|if not a < b:\n    f()|if a < b:\n    pass",
    "if a:\n    raise b": "if not a:\n    raise b|if a:\n    pass",
    "a.b = c": "pass",
    "a += b": "a -= b|pass",
    "del a[b]": "pass",
    "rows = (a, b)": "rows = (b,)|rows = (a,)",
    "for a in b:\n    break": "for a in b:\n    pass",
    "def f():\n    return a": "def f():\n    return None",
    "def f():\n    if a:\n        return": (
        "def f():\n    if not a:\n        return|def f():\n    if a:\n        pass"
    ),
}
WORDS = (
    '"""What this is."""',
    "msg = f'{a} is too much'",
    "InputError('too much')",
    "a: Annotated[int, 5]",
)


@pytest.mark.parametrize(("source", "faults"), (KINDS | STATEMENTS).items())
def test_each_kind_of_fault_is_planted_by_itself(source: str, faults: str) -> None:
    """One change of one place, and the rest as it was."""
    assert sorted(one.source for one in mutants(source)) == sorted(faults.split("|"))


@pytest.mark.parametrize("source", WORDS)
def test_words_for_people_stay_as_they_are(source: str) -> None:
    """Documentation, errors' messages and annotations decide nothing."""
    if source.startswith("InputError"):
        assert [one.source for one in mutants(source)] == ["pass"]
    else:
        assert not list(mutants(source))


def test_no_two_mutants_of_a_module_are_the_same() -> None:
    """Neither by name, by which a run goes on, nor by text."""
    source = "\n".join([*KINDS, *STATEMENTS])
    found = list(mutants(source))
    assert len({one.name for one in found}) == len({one.source for one in found}) == len(found)


def test_no_module_of_the_market_or_of_trades_is_forgotten() -> None:
    """Each has a row in scripts/mutation.py that names the tests which should notice a fault."""
    root = Path(__file__).resolve().parents[2]
    paths = [one for folder in ("market", "trading") for one in root.glob(f"zmqex/{folder}/*.py")]
    names = {f"{one.parent.name}/{one.stem}" for one in paths if one.stem != "__init__"}
    assert names == set(TARGETS)
    tests = {test for row in TARGETS.values() for test in row}
    assert all((root / "tests" / test).exists() for test in tests)
