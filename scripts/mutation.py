#!/usr/bin/env python3
"""Would the tests notice?  Each small fault of `mutants`, one at a time, against the quick tests.

    scripts/mutation.py                      go on where the last run has stopped
    scripts/mutation.py --seconds 1800       stop after half an hour; the next run goes on
    scripts/mutation.py market/matching      some modules only
    scripts/mutation.py --report             what is known so far, and nothing else

A mutant is killed if a test fails with it, a survivor if all pass, and timed out if they do not end
in time, which is no kill.  What is known is kept in `.mutation.jsonl` by the text of the module and
its tests, so a change of either asks again; `docs/mutation-survivors.md` says why the survivors do.
Exits 0 if all mutants were tried and 90 % of them are killed.

The work is done on a copy; each mutant runs in a fork of a process that has loaded everything else.
"""

from __future__ import annotations

import argparse
import compileall
import gc
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from mutants import Mutant, mutants

ROOT = Path(__file__).resolve().parent.parent
KNOWN = ROOT / ".mutation.jsonl"
GOAL_PERCENT = 90
SLOWEST = 3  # times what the tests take without a fault
SPARE_S = 10.0
# Only the plugins that the tests need; a test that takes too long is no kill, as the parent looks
# at the clock; and plugins that are loaded already are no fault.
PLUGINS = ("pytest_timeout", "_hypothesis_pytestplugin")
NOT_NEEDED = ("cacheprovider", "unraisableexception", "threadexception")
PYTEST_WORDS = (
    *("-x", "-q", "--timeout=0", "-W", "ignore::pytest.PytestAssertRewriteWarning"),
    *(word for name in PLUGINS for word in ("-p", name)),
    *(word for name in NOT_NEEDED for word in ("-p", f"no:{name}")),
)
LOADED = (
    "pytest",
    *PLUGINS,
    "hypothesis.stateful",
    "msgspec",
    "msgpack",
    "iso4217",
    "nacl.bindings",
)

# The tables, walked, compared with the document's, and with a ledger that is moved by hand.
STATE_TESTS = (
    "unit/test_states.py",
    "unit/test_protocol_document.py",
    "property/test_trade_table.py",
)
# Module -> the tests that should notice, the quickest first.
TARGETS: Final[dict[str, tuple[str, ...]]] = {
    "market/units": ("unit/test_units.py", "property/test_units_exact.py"),
    "market/instruments": ("unit/test_instruments.py", "unit/test_units.py"),
    "market/orders": ("unit/test_orders.py", "unit/test_matching.py", "unit/test_book.py"),
    "market/expiry": ("unit/test_expiry.py", "unit/test_book.py", "property/test_book_machine.py"),
    "market/book": ("unit/test_book.py", "unit/test_matching.py", "property/test_book_machine.py"),
    "market/matching": ("unit/test_matching.py", "property/test_book_machine.py"),
    "trading/settlement": ("unit/test_settlement.py",),
    "trading/blocks": ("unit/test_blocks.py",),
    "trading/states": STATE_TESTS,
    "trading/plain": STATE_TESTS,
    "trading/htlc": STATE_TESTS,
    "trading/swap": ("unit/test_swap_terms.py", *STATE_TESTS, "unit/test_swap.py"),
    "trading/tables": STATE_TESTS,
    "trading/evidence": (
        "unit/test_evidence.py",
        "unit/test_evidence_words.py",
        "property/test_evidence_bits.py",
    ),
    "trading/statements": ("unit/test_statements.py", "unit/test_evidence.py"),
}


class Result(NamedTuple):
    """What became of one mutant of a module whose text and tests have this key."""

    key: str
    module: str
    name: str
    outcome: str  # killed, survived or timed_out
    seconds: float


def main(arguments: list[str]) -> int:
    """Try what is not known yet, and report."""
    parser = argparse.ArgumentParser(description="Plant small faults and see if tests notice.")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=24 * 3_600)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args(arguments)
    modules = options.modules or list(TARGETS)
    known = _known()
    if not options.report:
        with tempfile.TemporaryDirectory(prefix="zm-") as folder:
            copy = _copy(Path(folder))
            end = time.monotonic() + options.seconds
            for module in modules:
                for result in _try_module(copy, module, known, end):
                    known[result.key, result.module, result.name] = result
                    _keep(result)
    return _report(modules, known)


def _try_module(
    copy: Path, module: str, known: dict[tuple[str, str, str], Result], end: float
) -> Iterator[Result]:
    key = _key(module)
    todo = [one for one in mutants(_source(module)) if (key, module, one.name) not in known]
    if not todo or time.monotonic() > end:
        return
    limits = {}
    for test in TARGETS[module]:
        begun = time.monotonic()
        if _run(copy, module, _source(module), test, 600.0) != "survived":
            raise RuntimeError(f"{test} fails without any fault in {module}")
        limits[test] = SLOWEST * (time.monotonic() - begun) + SPARE_S
    for mutant in todo:
        if time.monotonic() > end:
            return
        begun = time.monotonic()
        outcome = _outcome(copy, module, mutant, limits)
        seconds = round(time.monotonic() - begun, 2)
        yield Result(key, module, mutant.name, outcome, seconds)


# --- one mutant ----------------------------------------------------------------------------------


def _outcome(copy: Path, module: str, mutant: Mutant, limits: dict[str, float]) -> str:
    """Ask one file of tests after the other, until one does not pass."""
    for test, limit_s in limits.items():
        outcome = _run(copy, module, mutant.source, test, limit_s)
        if outcome != "survived":
            return outcome
    return "survived"


def _run(copy: Path, module: str, source: str, test: str, limit_s: float) -> str:
    """Run a file of tests with this text as the module, which is put right again afterwards."""
    path = copy / "zmqex" / f"{module}.py"
    path.write_text(source)
    try:
        return _outcome_of_fork(copy, test, limit_s)
    finally:
        path.write_text(_source(module))


def _outcome_of_fork(copy: Path, test: str, limit_s: float) -> str:
    child = os.fork()
    if child == 0:
        os.setsid()
        _test(copy, test)
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return "survived" if status == 0 else "killed"
        time.sleep(0.01)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timed_out"


def _test(copy: Path, test: str) -> None:
    """In the fork: run the tests and end."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    sys.dont_write_bytecode = True
    # It says nothing of slowness: a busy machine kills no mutants.
    os.environ["HYPOTHESIS_PROFILE"] = "mutation"
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    code = 1
    try:
        import pytest  # noqa: PLC0415 - loaded before the fork

        code = int(pytest.main([*PYTEST_WORDS, f"tests/{test}"]))
    finally:
        os._exit(code)


def _copy(folder: Path) -> Path:
    """A copy of what the tests need, compiled but for the modules that change."""
    copy = folder / "copy"
    for name in ("zmqex", "tests", "scripts", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    compileall.compile_dir(copy / "zmqex", quiet=2)
    for module in TARGETS:
        path = copy / "zmqex" / f"{module}.py"
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
            compiled.unlink()
    _load()
    return copy


def _load() -> None:
    """Load what every test stands on, and nothing of ours; no fork looks for garbage in it."""
    for name in LOADED:
        __import__(name)
    gc.collect()
    gc.freeze()


# --- what is known -------------------------------------------------------------------------------


def _source(module: str) -> str:
    return (ROOT / "zmqex" / f"{module}.py").read_text()


def _key(module: str) -> str:
    """The text of a module and its tests, in short."""
    tests = [(ROOT / "tests" / one).read_bytes() for one in TARGETS[module]]
    return hashlib.sha256(b"\0".join([_source(module).encode(), *tests])).hexdigest()[:16]


def _known() -> dict[tuple[str, str, str], Result]:
    lines = KNOWN.read_text().splitlines() if KNOWN.exists() else []
    results = [Result(**json.loads(line)) for line in lines]
    return {(one.key, one.module, one.name): one for one in results}


def _keep(result: Result) -> None:
    with KNOWN.open("a") as file:
        file.write(json.dumps(result._asdict()) + "\n")


def _report(modules: list[str], known: dict[tuple[str, str, str], Result]) -> int:
    """Print a line a module and every mutant that was not killed; 0 if enough were, of all."""
    total: Counter[str] = Counter()
    seconds = 0.0
    figures: dict[str, object] = {}
    alive: list[str] = []
    for module in modules:
        key = _key(module)
        counted: Counter[str] = Counter()
        for mutant in mutants(_source(module)):
            result = known.get((key, module, mutant.name))
            outcome = result.outcome if result else "untried"
            seconds += result.seconds if result else 0.0
            counted[outcome] += 1
            if outcome in {"survived", "timed_out"}:
                alive.append(f"{outcome}: {module}:{mutant.name}")
                print(alive[-1])
        print(f"{module}: {dict(sorted(counted.items()))}", flush=True)
        figures[module] = dict(sorted(counted.items()))
        total += counted
    percent = round(100 * total["killed"] / max(1, total.total()), 1)
    print(json.dumps({**total, "killed_percent": percent}))
    if os.environ.get("ZMQEX_FIGURES"):
        # A run may have gone on from earlier ones: `seconds` is what all of its mutants took.
        figures |= {**total, "killed_percent": percent, "seconds": round(seconds), "alive": alive}
        Path(os.environ["ZMQEX_FIGURES"]).write_text(json.dumps(figures))
    return 0 if percent >= GOAL_PERCENT and not total["untried"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
